//! What a builder refuses, and with which words.

use super::super::assertion::{AssertionAudience, JwtAuth};
use super::super::provider::Subject;
use super::*;
use crate::config::SessionConfig;
use crate::manager::TokenManager;

fn builder(provider: Provider) -> HttpTokenManagerBuilder {
    HttpTokenManager::builder(provider, "id", "s3cr3t")
}

fn boxed() -> Provider {
    Provider::box_ccg(Subject::enterprise("12345"))
}

/// Needs no TLS, and so no CA certificates on the machine that runs this.
fn local() -> Provider {
    boxed().base_url("http://127.0.0.1:1")
}

fn error(builder: HttpTokenManagerBuilder) -> String {
    let error = builder.build().unwrap_err().to_string();
    assert!(!error.contains("s3cr3t"), "{error}");
    error
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_sent() {
    let generic = |url: &str| builder(Provider::generic(url));
    let param = |name: &str| builder(boxed().param(name, "x"));
    for (builder, expected) in vec![
        (HttpTokenManager::builder(boxed(), "", "s3cr3t"), "client_id is empty"),
        (
            HttpTokenManager::builder(boxed(), "id", ""),
            "client_secret is empty, but ClientAuth::Post",
        ),
        (builder(Provider::box_ccg(Subject::enterprise(""))), "subject has an empty id"),
        (builder(Provider::box_ccg(Subject::user(""))), "subject has an empty id"),
        (
            generic("login.example.com/token"),
            "token_url is \"login.example.com/token\", which is not a URL",
        ),
        (generic(""), "token_url is \"\", which is not a URL"),
        (generic("https://"), "token_url is \"https://\", which is not a URL (empty host)"),
        (
            generic("ftp://x.example/"),
            "token_url is \"ftp://x.example/\", but must begin with https://",
        ),
        (
            generic("https://x.example/t#f"),
            "token_url has a fragment after \"https://x.example/t\"",
        ),
        (
            generic("https://u:s3cr3t@x.example/t?k=s3cr3t"),
            "token_url has a user name or password in it, before \"x.example/t\"",
        ),
        // A password with a ? in it, which nobody has encoded.
        (generic("https://u:s3cr3t?@x.example/t"), "token_url is \"https://\", which is not a URL"),
        (generic("https://u:s3cr3t@:99999/"), "token_url is \":99999/\", which is not a URL"),
        (generic("http://x.example/t"), "token_url is \"http://x.example/t\": without TLS"),
        (generic("http://128.0.0.1/t"), "token_url is \"http://128.0.0.1/t\": without TLS"),
        (generic("http://localhost.x.example/t"), "without TLS"),
        (
            builder(boxed().revocation_url("/revoke")),
            "revocation_url is \"/revoke\", which is not a URL",
        ),
        (builder(boxed().assumed_lifetime(Duration::ZERO)), "assumed_lifetime is 0s"),
        (builder(boxed()).connect_timeout(Duration::ZERO), "connect_timeout is 0s"),
        (
            builder(boxed()).http_client(any_client()).connect_timeout(Duration::from_secs(1)),
            "connect_timeout has no effect on a client of yours",
        ),
        (builder(boxed()).proxy("ftp://p:21"), "proxy is \"ftp://p:21\", but a proxy's address"),
        (
            builder(boxed()).http_client(any_client()).proxy("http://p:1"),
            "proxy has no effect on a client of yours",
        ),
        (param("grant_type"), "param \"grant_type\" is the protocol's own"),
        (param("client_secret"), "param \"client_secret\" is the protocol's own"),
        (param("subject_token"), "param \"subject_token\" is the protocol's own"),
        (param("scope"), "param \"scope\" is the protocol's own"),
        (param("box_subject_id"), "param \"box_subject_id\" is there already"),
        (param(""), "param has an empty name"),
        (param("a\n"), "param \"a\\n\" has a blank, a line break"),
        (builder(boxed().param("a", "1").param("a", "2")), "param \"a\" is there already"),
    ] {
        let error = error(builder);
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
        assert!(!error.contains("s3cr3t"), "{error:?}");
    }
}

fn any_client() -> Client {
    let tls = Tls::default().config(false).unwrap();
    client(Duration::from_secs(1), tls, Proxies::default()).unwrap()
}

#[test]
fn loopback_needs_no_tls_and_others_only_on_demand() {
    for base in ["http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]:1/", "http://LOCALHOST:1"]
    {
        assert!(builder(boxed().base_url(base)).build().is_ok(), "{base}");
    }
    let insecure = builder(Provider::generic("http://x.example/t")).allow_insecure_http(true);
    assert!(insecure.build().is_ok());
}

#[test]
fn what_can_be_used_is_taken() {
    let manager = builder(boxed()).http_client(any_client()).build().unwrap();
    let known = manager.shared.addresses.known().unwrap();
    assert_eq!(known.token.url.as_str(), "https://api.box.com/oauth2/token");
    assert_eq!(
        known.revocation.as_ref().unwrap().url.as_str(),
        "https://api.box.com/oauth2/revoke"
    );
    assert!(manager.can_exchange() && manager.can_revoke());
    assert_eq!(manager.assumed_lifetime(), Duration::from_secs(300));

    let generic = Provider::generic("https://x.example/t?tenant=1")
        .param("audience", "a")
        .param("audience", "b")
        .assumed_lifetime(Duration::from_secs(60));
    let manager = builder(generic).http_client(any_client()).build().unwrap();
    assert_eq!(
        manager.shared.addresses.known().unwrap().token.url.as_str(),
        "https://x.example/t?tenant=1"
    );
    assert!(!manager.can_revoke());
    assert_eq!(manager.assumed_lifetime(), Duration::from_secs(60));
}

#[test]
fn blanks_and_line_breaks_are_left_out_around_and_refused_inside() {
    let sent = |provider: &Provider| {
        let scope = provider.scope_text();
        let form = provider.grant_form(provider.subject(), &scope).unwrap();
        form[1..]
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let provider = Provider::generic(" http://127.0.0.1:1/t\r\n")
        .revocation_url("http://127.0.0.1:1/r\n")
        .scope(" read\n")
        .scope("write  delete")
        .audience("\tapi ")
        .resource(" urn:x\n");
    assert_eq!(sent(&provider), "scope=read write delete resource=urn:x audience=api");
    let known = builder(provider).build().unwrap().shared.addresses.known().unwrap();
    assert_eq!(known.token_url(), "http://127.0.0.1:1/t");
    assert_eq!(known.revocation_url(), Some("http://127.0.0.1:1/r"));
    let subject = Provider::box_ccg(Subject::user(" 7\n")).base_url("\nhttp://127.0.0.1:1/ ");
    assert_eq!(sent(&subject), "box_subject_type=user box_subject_id=7");
    let known = builder(subject).build().unwrap().shared.addresses.known().unwrap();
    assert_eq!(known.token_url(), "http://127.0.0.1:1/oauth2/token");
    let entra = Provider::entra_id("T\n", "https://graph.microsoft.com\n");
    assert_eq!(sent(&entra), "scope=https://graph.microsoft.com/.default");

    let generic = || Provider::generic("http://127.0.0.1:1/t");
    let jwt = |audience: &str| {
        ClientAuth::SecretJwt(JwtAuth::new().audience(AssertionAudience::value(audience)))
    };
    for (builder, setting) in [
        (HttpTokenManager::builder(generic(), "my\nid", "s3cr3t"), "client_id"),
        (HttpTokenManager::builder(generic(), "my id", "s3cr3t"), "client_id"),
        (builder(Provider::generic("http://127.0.0.1:1/a\nb")), "token_url"),
        (builder(Provider::generic("http://127.0.0.1:1/a b")), "token_url"),
        (builder(generic().revocation_url("http://127.0.0.1:1/a\tb")), "revocation_url"),
        (builder(Provider::discover("http://127.0.0.1:1/a\nb")), "issuer"),
        (builder(local().base_url("http://127.0.0.1:1/a\nb")), "base_url"),
        (builder(generic().audience("a\nb")), "audience"),
        (builder(generic().resource("urn:a\nb")), "resource"),
        (builder(generic().scope("a\nb")), "scope"),
        (builder(generic().client_auth(jwt("a\nb"))), "assertion_audience"),
        (
            builder(generic().client_auth(ClientAuth::SecretJwt(
                JwtAuth::new().revocation_audience(AssertionAudience::value("a\nb")),
            ))),
            "revocation_audience",
        ),
        (
            builder(generic().client_auth(ClientAuth::SecretJwt(JwtAuth::new().key_id("a\nb")))),
            "key_id",
        ),
        (builder(Provider::generic("https://as.example/t")).proxy("http://p:1/\nx"), "proxy"),
        (builder(Provider::box_ccg(Subject::user("1\n2"))), "subject"),
        (
            HttpTokenManager::builder(
                generic().client_auth(ClientAuth::Assertion),
                "id",
                "a.\nb.c",
            ),
            "credential",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.setting(), setting, "{error}");
        assert!(error.to_string().contains("has a blank, a line break or what"), "{error}");
    }
    // One that was given and says nothing.
    let key_id = ClientAuth::SecretJwt(JwtAuth::new().key_id(""));
    let revocation = JwtAuth::new().revocation_audience(AssertionAudience::value("\n"));
    for (provider, setting) in [
        (generic().scope(""), "scope"),
        (generic().scopes(["a", " "]), "scope"),
        (generic().audience("  "), "audience"),
        (generic().client_auth(jwt("")), "assertion_audience"),
        (generic().client_auth(jwt(" \n")), "assertion_audience"),
        (generic().client_auth(ClientAuth::SecretJwt(revocation)), "revocation_audience"),
        (generic().client_auth(key_id), "key_id"),
    ] {
        let error = builder(provider).build().unwrap_err().to_string();
        assert_eq!(error, format!("{setting} is empty: leave it out, or give one"));
    }
    let quoted = generic().client_auth(ClientAuth::Assertion);
    let quoted = HttpTokenManager::builder(quoted, "id", "\"a.b.c\"\n").build().unwrap_err();
    assert_eq!(quoted.to_string(), "credential has quotes around it: leave them out");
    // Around those that are only used later.
    let jwt = ClientAuth::SecretJwt(JwtAuth::new().audience(AssertionAudience::value(" a\n")));
    assert!(builder(generic().client_auth(jwt)).build().is_ok());
    let assertion = generic().client_auth(ClientAuth::Assertion);
    assert!(HttpTokenManager::builder(assertion, " id\n", "\n a.b.c \n").build().is_ok());
}

#[test]
fn a_base_is_a_presets_and_only_paths_follow_it() {
    let generic = Provider::generic("https://x.example/t");
    let discovered = Provider::discover("https://x.example");
    for (provider, expected) in [
        (generic.base_url("https://y.example"), "\"https://y.example\", but this provider is no"),
        (discovered.base_url("https://y.example?k=s3cr3t"), "\"https://y.example\", but this"),
        (boxed().base_url("http://box.example"), "\"http://box.example/oauth2/token\": without"),
        (boxed().base_url("box.example"), "\"box.example/oauth2/token\", which is not a URL"),
    ] {
        let error = error(builder(provider));
        assert!(error.starts_with(&format!("base_url is {expected}")), "{error}");
    }
    let error = error(builder(boxed().base_url("https://y.example/?k=s3cr3t")));
    assert!(error.starts_with("base_url has a query or a fragment after"), "{error}");
}

#[test]
fn an_address_that_was_set_stays_under_another_base() {
    let own = "https://x.example/own";
    for provider in [
        Provider::okta("https://o.example").revocation_url(own).base_url("https://p.example/"),
        Provider::okta("https://o.example").base_url("https://p.example/").revocation_url(own),
    ] {
        let known = provider.check(false, false).unwrap().known().unwrap();
        assert_eq!(known.token_url(), "https://p.example/v1/token");
        assert_eq!(known.revocation_url(), Some(own));
        assert_eq!(known.introspection_url(), Some("https://p.example/v1/introspect"));
    }
}

#[test]
fn a_grant_asks_for_scopes_resources_and_audiences_in_their_order() {
    let provider = Provider::generic("https://x.example/t")
        .param("organization", "o")
        .audience("y")
        .resource("urn:2")
        .scopes(["b", "a"])
        .resource("urn:1")
        .audience("x")
        .param("resource", "urn:3");
    let scope = provider.scope_text();
    let form = provider.grant_form(provider.subject(), &scope).unwrap();
    let form: Vec<_> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = "grant_type=client_credentials scope=b,a resource=urn:2 resource=urn:1 audience=y \
                    audience=x organization=o resource=urn:3";
    assert_eq!(form.join(" ").replace("b a", "b,a"), expected);
}

#[test]
fn a_connect_timeout_that_was_set_must_fit_into_an_attempt() {
    let mut config = SessionConfig::default();
    config.retry.attempt_timeout = Duration::from_secs(3);
    let check = |builder: HttpTokenManagerBuilder| builder.build().unwrap().check(&config);
    assert!(check(builder(local())).is_ok(), "the default never errors");
    assert!(check(builder(local()).connect_timeout(Duration::from_secs(3))).is_ok());
    let error = check(builder(local()).connect_timeout(Duration::from_secs(4))).unwrap_err();
    assert_eq!(error.setting(), "connect_timeout");
    assert!(error.to_string().contains("is 4s, but an attempt may take only 3s"), "{error}");
}

#[test]
fn debug_shows_no_secret() {
    let provider = local().client_auth(ClientAuth::Basic).param("api_key", "k3y");
    let builder = builder(provider);
    let manager = builder.clone().build().unwrap();
    for shown in [format!("{builder:?}"), format!("{manager:?}")] {
        assert!(!shown.contains("s3cr3t") && !shown.contains("k3y"), "{shown}");
        assert!(!shown.contains("aWQ6czNjcjN0"), "base64 of id:s3cr3t: {shown}");
    }
}
