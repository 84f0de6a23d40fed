//! `ccg-session check`: what it says, and that it says no secret.

use base64::Engine as _;
use ccg_session::testing::{AuthorityBuilder, Counts};
use http::HeaderValue;
use http::header::{DATE, LOCATION};

use super::*;

/// What it prints, and its exit code. No secret is in it.
fn check(authority: &Authority, secret: &str, args: &[&str]) -> (String, Option<i32>) {
    let mut command = as_client();
    command.env("CCG_SESSION_CLIENT_SECRET", secret).arg("check").args(args);
    let output = run(&mut command);
    let said = stdout(&output);
    for text in [&said, &stderr(&output)] {
        assert!(!text.contains(secret), "{text}");
        for request in authority.requests() {
            for name in ["token", "subject_token"] {
                assert!(request.param(name).is_none_or(|token| !text.contains(token)), "{text}");
            }
        }
    }
    (said, output.status.code())
}

/// The steps, without what is said about them.
fn verdicts(said: &str) -> Vec<String> {
    let steps = said.lines().filter(|line| !line.starts_with(' '));
    steps.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works() {
    let authority = Authority::start().await.unwrap();
    let (said, code) = check(&authority, SECRET, &["--issuer", authority.base_url()]);
    let expected = [
        "discovery ok",
        "grant ok",
        "exchange ok",
        "introspection ok",
        "revocation ok",
        "introspection ok",
        "introspection ok",
    ];
    assert_eq!(verdicts(&said), expected, "{said}");
    assert_eq!(code, Some(0));
    assert!(said.contains(&authority.revocation_url()), "{said}");
    assert!(said.contains("with another 1h to live") && said.contains("item_preview"), "{said}");
    let counts = authority.counts();
    assert_eq!((counts.tokens_issued, counts.revocations, counts.introspections), (2, 2, 3));
}

/// Whoever tries a server does not trust it yet: its words must not command the terminal.
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_words_are_only_words() {
    let authority = Authority::start().await.unwrap();
    let token = json!({ "access_token": "a-token", "token_type": "bearer", "scope": "\u{1b}[2J" });
    authority.fail(Kind::Exchange, Answer::new(StatusCode::OK).body(token.to_string()));
    let args =
        ["--issuer", authority.base_url(), "--skip", "introspection", "--skip", "revocation"];
    let (said, code) = check(&authority, SECRET, &args);
    assert_eq!((verdicts(&said)[2].as_str(), code), ("exchange ok", Some(0)), "{said}");
    assert!(said.contains("[2J") && !said.contains('\u{1b}'), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_have_is_no_failure() {
    let authority = Authority::start().await.unwrap();
    let url = authority.token_url();
    let unsupported = Answer::new(StatusCode::BAD_REQUEST).error("unsupported_grant_type");
    authority.fail(Kind::Exchange, unsupported);
    let (said, code) = check(&authority, SECRET, &["--token-url", &url]);
    let expected =
        ["addresses ok", "grant ok", "exchange none", "introspection none", "revocation none"];
    assert_eq!(verdicts(&said), expected, "{said}");
    assert_eq!(code, Some(0));

    let skip = [
        "--token-url",
        &url,
        "--skip",
        "exchange",
        "--skip",
        "revocation",
        "--skip",
        "introspection",
    ];
    let (said, code) = check(&authority, SECRET, &skip);
    let expected = [
        "addresses ok",
        "grant ok",
        "exchange skipped",
        "introspection skipped",
        "revocation skipped",
    ];
    assert_eq!(verdicts(&said), expected, "{said}");
    assert_eq!(code, Some(0));
}

/// The first words about the step that failed.
fn cause(said: &str) -> &str {
    let mut failed = said.lines().filter_map(|line| line.split_once(" FAILED  "));
    failed.next().unwrap_or_else(|| panic!("nothing failed: {said}")).1
}

/// What is wrong, what to do to a server for it, with which secret and flags it is met, and what `check`
/// says first.
struct Wrong {
    what: &'static str,
    server: fn(AuthorityBuilder) -> AuthorityBuilder,
    fault: Option<(Kind, Fault)>,
    secret: &'static str,
    /// `ISSUER`, `TOKEN` and so on in them are the server's.
    args: &'static [&'static str],
    says: &'static str,
}

const P256: &str = include_str!("../keys/p256.pem");
const KEY_OF_THE_TOKENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pem");

impl Wrong {
    /// Nothing yet.
    fn new(what: &'static str, args: &'static [&'static str], says: &'static str) -> Self {
        Self { what, server: |server| server, fault: None, secret: SECRET, args, says }
    }

    fn secret(self, secret: &'static str) -> Self {
        Self { secret, ..self }
    }

    fn server(self, server: fn(AuthorityBuilder) -> AuthorityBuilder) -> Self {
        Self { server, ..self }
    }

    fn fault(self, kind: Kind, fault: impl Into<Fault>) -> Self {
        Self { fault: Some((kind, fault.into())), ..self }
    }

    fn refusal(self, kind: Kind, code: &str) -> Self {
        self.fault(kind, Answer::new(StatusCode::BAD_REQUEST).error(code))
    }
}

/// One wrong thing at a time.
#[expect(clippy::too_many_lines, reason = "a table")]
fn wrongs() -> Vec<Wrong> {
    let unauthorized = || Answer::new(StatusCode::UNAUTHORIZED).error("invalid_client");
    let moved_to = |there| {
        let there = HeaderValue::from_static(there);
        Answer::new(StatusCode::MOVED_PERMANENTLY).header(LOCATION, there)
    };
    let moved = || moved_to("https://as.example/token");
    let says = |status, error, description| {
        Answer::new(status)
            .body(json!({ "error": error, "error_description": description }).to_string())
    };
    let token = |more: Value| {
        let mut token =
            json!({ "access_token": "a-token", "token_type": "bearer", "expires_in": 60 });
        token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Answer::new(StatusCode::OK).body(token.to_string())
    };
    let issuer = &["--issuer", "ISSUER"];
    let url = &["--token-url", "TOKEN"];
    vec![
        // The address.
        Wrong::new(
            "an issuer with a slash too many",
            &["--issuer", "ISSUER/"],
            "the server writes its issuer without a slash at the end: give --issuer ISSUER",
        ),
        Wrong::new(
            "TLS where there is none",
            &["--issuer", "https://HOST"],
            "this port does not use TLS: use http: in --issuer",
        ),
        Wrong::new(
            "the same of a token endpoint",
            &["--token-url", "https://HOST/oauth2/token"],
            "this port does not use TLS: use http: in --token-url",
        ),
        Wrong::new(
            "a port where nobody is",
            &["--token-url", "http://CLOSED/token"],
            "nothing listens at this address: check --token-url",
        ),
        Wrong::new(
            "a path where nothing is",
            &["--token-url", "ISSUER/oauth2/other"],
            "the server has nothing at this address: check --token-url (a slash",
        ),
        Wrong::new(
            "a base that is not Box's",
            &["--box-user", "67890", "--box-base-url", "ISSUER/other"],
            "the server has nothing at this address: check --box-base-url",
        ),
        Wrong::new(
            "an issuer in place of a token endpoint",
            &["--token-url", "ISSUER"],
            "this is an issuer, not a token endpoint: give --issuer ISSUER",
        ),
        Wrong::new(
            "the same with a slash too many",
            &["--token-url", "ISSUER/"],
            "this is an issuer, not a token endpoint: give --issuer ISSUER",
        ),
        Wrong::new(
            "a page to log in, by a redirect",
            url,
            "the server redirects to a page for people to log in, so it is not this endpoint: check --token-url",
        )
        .fault(Kind::Grant, moved_to("/login?x=1")),
        Wrong::new(
            "a server of logins, which gives no access token",
            url,
            "the response has no access token: check --token-url, and what the server grants this client",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::OK).body(r#"{ "id_token": "e.y.J" }"#)),
        Wrong::new(
            "a server without metadata",
            &["--issuer", "ISSUER/tenant"],
            "the server publishes no metadata for this --issuer: check it, or give --token-url",
        ),
        Wrong::new(
            "a token endpoint that has moved",
            url,
            "the server redirects, which no request follows: give --token-url https://as.example/token",
        )
        .fault(Kind::Grant, moved()),
        Wrong::new(
            "metadata that has moved",
            issuer,
            "the server redirects, which no request follows: give --issuer https://as.example/token",
        )
        .fault(Kind::Discovery, moved()),
        Wrong::new(
            "metadata that has moved to another issuer",
            issuer,
            "the server redirects, which no request follows: give --issuer https://as.example/tenant",
        )
        .fault(Kind::Discovery, moved_to("https://as.example/tenant/.well-known/openid-configuration")),
        Wrong::new(
            "a slash that is missing",
            url,
            "the server redirects, which no request follows: give --token-url TOKEN/",
        )
        .fault(Kind::Grant, moved_to("/oauth2/token/")),
        Wrong::new(
            "metadata that names nobody",
            issuer,
            "the server's metadata names no issuer: have it fixed, or give --token-url in place of --issuer",
        )
        .fault(Kind::Discovery, Answer::new(StatusCode::OK).body("{}")),
        Wrong::new(
            "another issuer's metadata",
            issuer,
            "the metadata belongs to another issuer: if that is who is meant, give --issuer https://as.example",
        )
        .fault(
            Kind::Discovery,
            Answer::new(StatusCode::OK).body(r#"{ "issuer": "https://as.example" }"#),
        ),
        Wrong::new(
            "a page to log in",
            url,
            "the response is a web page: check --token-url",
        )
        .fault(Kind::Grant, Fault::Html),
        Wrong::new(
            "the page of a firewall",
            url,
            "the response is a web page: check --token-url",
        )
        .fault(
            Kind::Grant,
            Answer::new(StatusCode::FORBIDDEN).body("<!DOCTYPE html><title>Blocked</title>"),
        ),
        Wrong::new(
            "an address that takes no POST",
            url,
            "this address does not accept POST, so it is not this endpoint: check --token-url",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::METHOD_NOT_ALLOWED).body("<html>")),
        Wrong::new(
            "the same with a code",
            url,
            "this address does not accept POST, so it is not this endpoint: check --token-url",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::METHOD_NOT_ALLOWED).error("method_not_allowed")),
        Wrong::new(
            "an address where nothing is any more",
            url,
            "the server has nothing at this address: check --token-url",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::GONE)),
        Wrong::new("a proxy that wants a password", url, "the proxy wants a user name and password")
            .fault(Kind::Grant, Answer::new(StatusCode::PROXY_AUTHENTICATION_REQUIRED)),
        Wrong::new("the same before the metadata", issuer, "the proxy wants a user name and password")
            .fault(Kind::Discovery, Answer::new(StatusCode::PROXY_AUTHENTICATION_REQUIRED)),
        Wrong::new("no answer", &["--issuer", "ISSUER", "--attempt-timeout", "3s"], "the server does not answer in time: check --issuer")
            .fault(Kind::Grant, Fault::Hang),
        Wrong::new("a server that is down", issuer, "the server itself has failed: try again later")
            .fault(Kind::Grant, Answer::new(StatusCode::SERVICE_UNAVAILABLE)),
        Wrong::new("too many requests", issuer, "the server limits requests: wait")
            .fault(Kind::Grant, Answer::new(StatusCode::TOO_MANY_REQUESTS)),
        // The client.
        Wrong::new(
            "a wrong secret",
            issuer,
            "the server does not accept this id and secret: check --client-id and \
             CCG_SESSION_CLIENT_SECRET (or --client-secret-file), or try --auth basic",
        )
        .secret("hunter2"),
        Wrong::new(
            "a wrong secret, in a header",
            &["--issuer", "ISSUER", "--auth", "basic"],
            "the server does not accept this id and secret: check --client-id and \
             CCG_SESSION_CLIENT_SECRET (or --client-secret-file), or try --auth post",
        )
        .secret("hunter2"),
        Wrong::new(
            "a secret that servers decode in two ways",
            &["--issuer", "ISSUER", "--auth", "basic"],
            "the server does not accept this id and secret, which have characters that not all servers \
             decode: try --auth basic-raw",
        )
        .secret("hunter+2"),
        Wrong::new(
            "the same the other way round",
            &["--issuer", "ISSUER", "--auth", "basic-raw"],
            "the server does not accept this id and secret, which have characters that most servers \
             decode: try --auth basic,",
        )
        .server(|server| server.client(ID, "hunter+2"))
        .secret("hunter+2"),
        Wrong::new(
            "a method that the metadata does not name",
            &["--issuer", "ISSUER", "--auth", "none"],
            "the server's metadata names no client without a secret: try --auth client_secret_basic or client_secret_post",
        ),
        Wrong::new(
            "no proof of who it is",
            &["--token-url", "TOKEN", "--auth", "none"],
            "the server requires client authentication: set another --auth",
        ),
        Wrong::new(
            "a key that the server does not know",
            &["--issuer", "ISSUER", "--auth", "private-key-jwt"],
            "the server does not accept what this key signs: it must know the key's public half (--key-id",
        )
        .server(|server| server.client_key(include_str!("../keys/rsa.pem")))
        .secret(P256),
        Wrong::new(
            "an assertion for somebody else",
            &["--issuer", "ISSUER", "--auth", "private-key-jwt", "--assertion-audience", "urn:x"],
            "the server does not accept what this key signs: it must know the key's public half (--key-id, \
             --algorithm) and be the assertion's audience (--assertion-audience)",
        )
        .server(|server| server.client_key(P256))
        .secret(P256),
        Wrong::new(
            "a secret that signs and is wrong",
            &["--issuer", "ISSUER", "--auth", "client_secret_jwt"],
            "the server does not accept what this secret signs: check --client-id and CCG_SESSION",
        )
        .secret("hunter2"),
        Wrong::new(
            "another clock",
            &["--issuer", "ISSUER", "--auth", "private-key-jwt"],
            "this machine's clock is wrong: set it",
        )
        .secret(P256)
        .fault(
            Kind::Grant,
            unauthorized().header(DATE, HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT")),
        ),
        Wrong::new(
            "an assertion that the server does not accept",
            &["--issuer", "ISSUER", "--auth", "assertion"],
            "the server does not accept this assertion: check --client-id, its audience",
        )
        .secret("an.assertion.x"),
        Wrong::new(
            "a client that may not",
            issuer,
            "the server does not allow client credentials for this client (--client-id): allow it on the \
                server",
        )
        .refusal(Kind::Grant, "unauthorized_client"),
        Wrong::new(
            "nobody whom Box knows",
            &["--box-enterprise", "1", "--box-base-url", "ISSUER"],
            "Box does not let this application act like that: check --box-enterprise or --box-user",
        ),
        Wrong::new(
            "a server that knows of no keys",
            &["--issuer", "ISSUER", "--dpop-key", KEY_OF_THE_TOKENS],
            "the server does not support DPoP: remove --dpop-key",
        )
        .fault(Kind::Grant, token(json!({}))),
        Wrong::new(
            "a key of which it wants another kind",
            &["--issuer", "ISSUER", "--dpop-key", KEY_OF_THE_TOKENS],
            "the server does not accept the proof of --dpop-key: check this machine's clock",
        )
        .refusal(Kind::Grant, "invalid_dpop_proof"),
        Wrong::new(
            "a server that wants its tokens bound",
            issuer,
            "the server requires DPoP: set --dpop-key",
        )
        .refusal(Kind::Grant, "invalid_dpop_proof"),
        Wrong::new(
            "one that wants a nonce in the proof",
            issuer,
            "the server requires DPoP: set --dpop-key",
        )
        .refusal(Kind::Grant, "use_dpop_nonce"),
        Wrong::new(
            "one that says so in words",
            issuer,
            "the server requires DPoP: set --dpop-key",
        )
        .fault(
            Kind::Grant,
            says(StatusCode::BAD_REQUEST, "invalid_request", "DPoP proof is missing"),
        ),
        Wrong::new(
            "the same with a code of another kind",
            issuer,
            "the server requires DPoP: set --dpop-key",
        )
        .fault(Kind::Grant, says(StatusCode::UNAUTHORIZED, "invalid_client", "missing DPoP header")),
        Wrong::new("tokens that are bound unasked", issuer, "the server requires DPoP: set --dpop-key")
            .fault(Kind::Grant, token(json!({ "token_type": "DPoP" }))),
        Wrong::new(
            "one that wants a certificate and says so in words",
            issuer,
            "the server requires a client certificate: set --client-certificate and --client-key",
        )
        .fault(Kind::Grant, says(StatusCode::UNAUTHORIZED, "invalid_client", "no mTLS certificate")),
        Wrong::new(
            "a certificate that an assertion should be signed with",
            &["--issuer", "ISSUER", "--auth", "private-key-jwt"],
            "the server does not accept what this key signs",
        )
        .secret(P256)
        .fault(Kind::Grant, says(StatusCode::UNAUTHORIZED, "invalid_client", "unknown certificate")),
        Wrong::new(
            "a client that may not, by its status",
            issuer,
            "the server does not let this client (--client-id) have a token: allow it on the server",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::FORBIDDEN)),
        Wrong::new(
            "a wrong secret, in Keycloak's words",
            issuer,
            "the server does not accept this id and secret",
        )
        .fault(
            Kind::Grant,
            says(StatusCode::UNAUTHORIZED, "unauthorized_client", "Invalid client credentials"),
        ),
        Wrong::new(
            "an assertion that is refused as a grant",
            &["--issuer", "ISSUER", "--auth", "private-key-jwt"],
            "the server does not accept what this key signs",
        )
        .secret(P256)
        .refusal(Kind::Grant, "invalid_grant"),
        Wrong::new(
            "no audience, in Auth0's words",
            issuer,
            "the server wants to be told another audience: check --audience",
        )
        .fault(
            Kind::Grant,
            says(StatusCode::FORBIDDEN, "access_denied", "No audience parameter was provided"),
        ),
        Wrong::new(
            "the page of a port for TLS",
            url,
            "the response is a web page: check --token-url and the proxy; perhaps this port does not use plain \
             HTTP: then use https: in --token-url",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::BAD_REQUEST).body("<html>")),
        Wrong::new(
            "a refusal without a reason",
            url,
            "the server refuses the request (its own words follow): check --token-url, and whether it wants \
             --scope",
        )
        .fault(Kind::Grant, Answer::new(StatusCode::BAD_REQUEST)),
        // What is asked for.
        Wrong::new(
            "no scope",
            issuer,
            "no scope was asked for, and the server wants one: try --scope",
        )
        .refusal(Kind::Grant, "invalid_scope"),
        Wrong::new(
            "a scope that is not allowed",
            &["--issuer", "ISSUER", "--scope", "root"],
            "the server does not allow these scopes for this client: check --scope",
        ),
        Wrong::new(
            "no target",
            issuer,
            "no resource or audience was asked for, and the server wants one: try --audience or --resource",
        )
        .refusal(Kind::Grant, "invalid_target"),
        Wrong::new(
            "a parameter that is missing and that the server names",
            issuer,
            "the server wants a parameter that was not given: try --audience",
        )
        .fault(Kind::Grant, says(StatusCode::BAD_REQUEST, "invalid_request", "audience is required")),
        Wrong::new(
            "a target that it does not know",
            &["--issuer", "ISSUER", "--resource", "urn:x"],
            "the server does not know the requested resource or audience: check --resource and --audience",
        )
        .refusal(Kind::Grant, "invalid_target"),
        Wrong::new(
            "a parameter that is missing",
            &["--issuer", "ISSUER", "--audience", "urn:x"],
            "a parameter is missing or wrong: some servers want --scope or --resource or --param",
        )
        .refusal(Kind::Grant, "invalid_request"),
        Wrong::new(
            "an address that grants nothing",
            url,
            "this address does not support the client credentials grant: check --token-url",
        )
        .refusal(Kind::Grant, "unsupported_grant_type"),
        Wrong::new("a token that is dead", issuer, "the server issues tokens that have already expired")
            .fault(Kind::Grant, Fault::ExpiresIn(json!(0))),
        // What comes after the grant.
        Wrong::new(
            "an exchange for what the token does not have",
            &["--issuer", "ISSUER", "--exchange-scope", "root"],
            "the token cannot be exchanged for these scopes: use --exchange-scope with a subset of its scopes",
        ),
        Wrong::new(
            "an exchange that is refused without a reason",
            url,
            "the server refuses the request (its own words follow): --skip exchange if it has none",
        )
        .refusal(Kind::Exchange, "invalid_request"),
        Wrong::new(
            "an introspection that does not answer",
            &["--issuer", "ISSUER", "--attempt-timeout", "300ms"],
            "the server does not answer in time: check --issuer",
        )
        .fault(Kind::Introspect, Fault::Hang),
        Wrong::new(
            "introspection for others only",
            issuer,
            "the server keeps introspection for others, perhaps for APIs: --skip introspection",
        )
        .fault(Kind::Introspect, Answer::new(StatusCode::FORBIDDEN)),
        Wrong::new(
            "a token that is active nowhere",
            issuer,
            "the server says that the token which it has just granted is not active: some tell only the \
             API that a token is for, then --skip introspection",
        )
        .fault(Kind::Introspect, Answer::new(StatusCode::OK).body(r#"{ "active": false }"#)),
        Wrong::new(
            "an address of introspection where nothing is",
            &["--issuer", "ISSUER", "--introspection-url", "ISSUER/other"],
            "the server has nothing at this address: check --introspection-url",
        ),
        Wrong::new(
            "an address of revocation where nothing is",
            &["--issuer", "ISSUER", "--revocation-url", "ISSUER/other"],
            "the server has nothing at this address: check --revocation-url",
        ),
        Wrong::new(
            "an address of introspection that only metadata knows",
            issuer,
            "the server has nothing at the address that its metadata names: give --introspection-url, or --skip \
             introspection",
        )
        .fault(Kind::Introspect, Answer::new(StatusCode::NOT_FOUND)),
        Wrong::new(
            "an address of revocation that only metadata knows",
            issuer,
            "the address that the metadata names does not accept POST: give --revocation-url, or --skip revocation",
        )
        .fault(Kind::Revoke, Answer::new(StatusCode::METHOD_NOT_ALLOWED)),
        Wrong::new(
            "an introspection that is none",
            issuer,
            "the address that the metadata names does not respond like this endpoint: give --introspection-url",
        )
        .fault(Kind::Introspect, Answer::new(StatusCode::OK).body(r#"{ "active": "true" }"#)),
        Wrong::new(
            "an address of introspection that has moved",
            issuer,
            "the address that the metadata names has moved to https://as.example/token: give --introspection-url",
        )
        .fault(Kind::Introspect, moved()),
        Wrong::new(
            "a revocation that wants this client no more",
            issuer,
            "the server refuses this client at this endpoint, though it accepts it for a grant: allow it on \
                the server",
        )
        .fault(Kind::Revoke, unauthorized()),
        Wrong::new(
            "access tokens that cannot be revoked",
            issuer,
            "the server does not revoke access tokens: use --skip revocation",
        )
        .refusal(Kind::Revoke, "unsupported_token_type"),
        Wrong::new(
            "a revocation that does nothing",
            issuer,
            "the revoked token is still active, though the server has confirmed that it is revoked: do \
             not rely on it, then --skip revocation",
        )
        .fault(Kind::Revoke, Answer::new(StatusCode::OK)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_thing_is_named_first_with_its_flag() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for Wrong { what, server, fault, secret, args, says } in wrongs() {
        let authority = server(Authority::builder()).start().await.unwrap();
        if let Some((kind, fault)) = fault {
            authority.fail(kind, fault);
        }
        let (issuer, token) = (authority.base_url(), authority.token_url());
        let filled = |text: &str| {
            let text = text.replace("HOST", issuer.strip_prefix("http://").unwrap());
            text.replace("ISSUER", issuer).replace("TOKEN", &token).replace("CLOSED", &closed)
        };
        let args: Vec<_> = args.iter().map(|arg| filled(arg)).collect();
        let args: Vec<_> = args.iter().map(String::as_str).chain(["--attempts", "1"]).collect();
        let (said, code) = check(&authority, secret, &args);
        assert_eq!(code, Some(1), "{what}: {said}");
        let cause = cause(&said);
        assert!(cause.starts_with(&filled(says)), "{what}: {cause:?}, not {says:?}");
    }
}

/// A port where this is done with each connection, given what it sent first.
fn port(first: &'static [u8], answer: fn(&[u8]) -> Option<&'static [u8]>) -> String {
    use std::io::Read as _;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let _ = stream.write_all(first);
                let mut sent = Vec::new();
                let mut part = [0; 4_096];
                while let Ok(length @ 1..) = stream.read(&mut part) {
                    sent.extend_from_slice(&part[..length]);
                    match answer(&sent) {
                        Some(b"") => continue,
                        Some(answer) => drop(stream.write_all(answer)),
                        None => {}
                    }
                    break;
                }
            });
        }
    });
    address
}

const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
/// A fatal `handshake_failure` (RFC 8446 §6).
const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 0x28];

fn is_tls(sent: &[u8]) -> bool {
    sent[0] == 0x16
}

/// However the port takes what it does not understand.
#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_scheme_is_named_whatever_the_port_does_with_it() {
    let waits = port(b"", |sent| Some(if sent.ends_with(b"\r\n\r\n") { NOT_FOUND } else { b"" }));
    let closes = port(b"", |sent| (!is_tls(sent)).then_some(NOT_FOUND));
    let only_tls = port(b"", |sent| is_tls(sent).then_some(ALERT));
    let ssh = port(b"SSH-2.0-OpenSSH\r\n", |_| None);
    for (scheme, port, says) in [
        ("https", &waits, "this port does not use TLS: use http: in "),
        ("https", &closes, "this port does not use TLS: use http: in "),
        ("http", &only_tls, "this port does not use plain HTTP: use https: in "),
        ("https", &ssh, "this port uses neither HTTP nor TLS: check the port in "),
        ("http", &ssh, "this port uses neither HTTP nor TLS: check the port in "),
    ] {
        for (flag, path) in [("--issuer", ""), ("--token-url", "/token")] {
            let url = format!("{scheme}://{port}{path}");
            let mut check = as_client();
            check.args(["check", flag, &url, "--attempts", "1", "--attempt-timeout", "2s"]);
            let said = stdout(&run(check.args(["--connect-timeout", "1s"])));
            assert!(cause(&said).starts_with(&format!("{says}{flag}")), "{url}: {said}");
        }
    }
}

/// A file is read when the client has to prove itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_wrong_kind_is_named_with_what_it_is() {
    let authority = Authority::start().await.unwrap();
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    for (file, auth, says) in [
        ("p256.pem", "post", "is a private key: use --auth private-key-jwt"),
        ("p256-encrypted.pem", "private-key-jwt", "is encrypted: decrypt it"),
        ("p256-public.pem", "private-key-jwt", "is a public key or a certificate"),
        ("../README.md", "private-key-jwt", "is no private key"),
    ] {
        let path = format!("{keys}/{file}");
        let mut command = as_client();
        command.args(["check", "--issuer", authority.base_url(), "--auth", auth]);
        command.args(["--client-secret-file", &path, "--attempts", "1"]);
        let said = stdout(&run(&mut command));
        let expected = format!("what --client-secret-file names {says}");
        assert!(cause(&said).starts_with(&expected), "{file}: {said}");
    }
    assert_eq!(authority.counts().grants, 0);
}

/// By `openssl pkey -outform DER`, and what is no text at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_text_is_read_or_named() {
    let authority = Authority::builder().client_key(P256).start().await.unwrap();
    let body: String = P256.lines().filter(|line| !line.starts_with("--")).collect();
    let der = base64::prelude::BASE64_STANDARD.decode(body).unwrap();
    let file = TempFile::new("key-in-der", "");
    for (bytes, auth, says) in [
        (&*der, "private-key-jwt", None),
        (
            &der,
            "post",
            Some("what --client-secret-file names is a private key: use --auth private-key-jwt"),
        ),
        (
            b"s3cr3t\xff",
            "post",
            Some("what --client-secret-file names cannot be read from the file "),
        ),
        (
            b"s3cr3t\xff",
            "private-key-jwt",
            Some("what --client-secret-file names cannot be read from "),
        ),
    ] {
        std::fs::write(&file.0, bytes).unwrap();
        let mut command = as_client();
        command.args([
            "check",
            "--issuer",
            authority.base_url(),
            "--auth",
            auth,
            "--attempts",
            "1",
        ]);
        let output = run(command.arg("--client-secret-file").arg(&file.0));
        let said = stdout(&output);
        match says {
            None => assert_eq!(output.status.code(), Some(0), "{said}"),
            Some(says) => assert!(cause(&said).starts_with(says), "{said}"),
        }
        if bytes[0] == b's' {
            assert!(said.contains("it is not text (UTF-8)") && !said.contains("s3cr3t"), "{said}");
        }
    }
    std::fs::write(&file.0, &der).unwrap();
    let mut command = as_client();
    command.args(["token", "--issuer", authority.base_url(), "--format", "header", "--dpop-key"]);
    let header = result(&run(command.arg(&file.0).env("CCG_SESSION_CLIENT_SECRET", SECRET)));
    assert!(header.starts_with("Authorization: DPoP "), "{header}");
}

/// Before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_the_address_of_its_metadata_is_told_apart() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    for (path, issuer) in [
        ("/.well-known/oauth-authorization-server", ""),
        ("/.well-known/openid-configuration", ""),
        ("/tenant/.well-known/openid-configuration", "/tenant"),
        ("/.well-known/oauth-authorization-server/tenant/", "/tenant"),
    ] {
        let mut command = as_client();
        let output = run(command.args(["check", "--issuer", &format!("{base}{path}")]));
        let text = problem(&output, 2);
        let expected = format!(
            "ccg-session: --issuer is the address of metadata: give --issuer {base}{issuer}\n"
        );
        assert_eq!(text, expected, "{path}");
        let mut command = as_client();
        let output = run(command.args(["check", "--token-url", &format!("{base}{path}")]));
        assert_eq!(problem(&output, 2), expected.replace("--issuer is", "--token-url is"));
    }
    assert_eq!(authority.counts().of(Kind::Any), 0);
    // What cannot be tried at all is a matter of usage, as with the other commands.
    assert_eq!(check(&authority, SECRET, &["--issuer", "nonsense"]).1, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audience_that_a_revocation_wants_is_found_and_named() {
    for (refused, audience) in [(1, "issuer"), (2, "TOKEN")] {
        for (kind, step) in [(Kind::Introspect, "introspection"), (Kind::Revoke, "revocation")] {
            let authority = Authority::builder().client_key(P256).start().await.unwrap();
            let unauthorized = Answer::new(StatusCode::UNAUTHORIZED).error("invalid_client");
            authority.set_script(
                Script::new().rule(Rule::new(kind).requests(1..=refused).fault(unauthorized)),
            );
            let args = ["--issuer", authority.base_url(), "--auth", "private-key-jwt"];
            let args = [&args[..], &["--skip", "exchange"]].concat();
            let (said, code) = check(&authority, P256, &args);
            assert_eq!(code, Some(1), "{said}");
            let flag = audience.replace("TOKEN", &authority.token_url());
            let expected = format!(
                "here the server wants assertions to be for another audience than for a grant: give \
                 --revocation-audience {flag}, which it takes"
            );
            assert_eq!(cause(&said), expected, "{said}");
            assert!(verdicts(&said).contains(&format!("{step} FAILED")), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_the_metadata_does_not_name_is_none() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let metadata = json!({
        "issuer": base,
        "token_endpoint": authority.token_url(),
        "grant_types_supported": ["client_credentials"],
    });
    let metadata = Answer::new(StatusCode::OK).body(metadata.to_string());
    for refusal in [
        Answer::new(StatusCode::BAD_REQUEST).error("invalid_request"),
        Answer::new(StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        authority.set_script(
            Script::new()
                .rule(Rule::new(Kind::Discovery).fault(metadata.clone()))
                .rule(Rule::new(Kind::Exchange).fault(refusal)),
        );
        let (said, code) = check(&authority, SECRET, &["--issuer", base, "--attempts", "1"]);
        assert_eq!(verdicts(&said)[2], "exchange none", "{said}");
        assert_eq!(code, Some(0), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_leads_where_there_is_no_tls_is_named_with_the_flags() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let metadata = json!({ "issuer": base, "token_endpoint": "http://as.example/token" });
    authority.fail(Kind::Discovery, Answer::new(StatusCode::OK).body(metadata.to_string()));
    let (said, _) = check(&authority, SECRET, &["--issuer", base, "--attempts", "1"]);
    let expected = "the server's metadata names an address without TLS: give --token-url in place";
    assert!(cause(&said).starts_with(expected), "{said}");
    assert!(!said.contains("allow_insecure_http"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_cannot_be_used_is_not_said_to_be_missing() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let long = "x".repeat(900_000);
    for (metadata, says) in [
        (
            json!({ "issuer": base, "token_endpoint": "https://me:hunter2@as.example/token" }),
            "the server's metadata has no token_endpoint that can be used: have it fixed, or give --token-url",
        ),
        (json!({ "issuer": base }), "the server's metadata has no token_endpoint that can be used"),
        (
            json!({ "issuer": base, "token_endpoint": authority.token_url(), "revocation_endpoint": "/revoke" }),
            "the server's metadata has no revocation_endpoint that can be used",
        ),
        (
            json!({ "issuer": base, "token_endpoint": format!("{base}/{long}") }),
            "the server's metadata has no token_endpoint that can be used",
        ),
        (
            json!({ "issuer": base, "x": [&*long, &*long] }),
            "what answers there is too long for metadata",
        ),
    ] {
        authority.fail(Kind::Discovery, Answer::new(StatusCode::OK).body(metadata.to_string()));
        let (said, code) = check(&authority, SECRET, &["--issuer", base, "--attempts", "1"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(cause(&said).starts_with(says), "{says:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let large = json!({ "issuer": base, "token_endpoint": authority.token_url(), "x": long });
    authority.fail(Kind::Discovery, Answer::new(StatusCode::OK).body(large.to_string()));
    let (said, code) = check(&authority, SECRET, &["--issuer", base]);
    assert_eq!(code, Some(0), "{said}");
}

/// A proxy that answers whatever is asked of it with this status, and its address.
fn proxy(status: u16) -> String {
    use std::io::Read as _;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n");
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    proxy
}

#[test]
fn a_proxy_that_is_of_no_use_is_named_with_the_flag() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let forbids = proxy(403);
    for (proxy, says) in [
        (&closed, format!("nobody is there at the proxy {closed}: check ")),
        (&forbids, format!("the proxy {forbids} does not connect to the server: check ")),
    ] {
        for by_flag in [true, false] {
            let mut check = as_client();
            check.args(["check", "--token-url", "https://as.example/token", "--attempts", "1"]);
            let flag = if by_flag { "--proxy" } else { "HTTPS_PROXY (or --proxy)" };
            if by_flag {
                check.args(["--proxy", proxy]);
            } else {
                check.env("HTTPS_PROXY", proxy);
            }
            let said = stdout(&run(&mut check));
            assert!(cause(&said).starts_with(&format!("{says}{flag}")), "{said}");
        }
    }
}

#[test]
fn a_proxy_that_wants_a_password_is_named_with_the_flag() {
    let proxy = proxy(407);
    for args in [
        &["--token-url", "https://as.example/token"][..],
        &["--token-url", "http://as.example/token", "--allow-insecure-http"],
        &["--issuer", "https://as.example"],
        &["--issuer", "http://as.example", "--allow-insecure-http"],
    ] {
        for by_flag in [true, false] {
            let mut check = as_client();
            check.arg("check").args(args).args(["--attempts", "1"]);
            if by_flag {
                check.args(["--proxy", &proxy]);
            } else {
                check.env("ALL_PROXY", &proxy);
            }
            let said = stdout(&run(&mut check));
            let says = "the proxy wants a user name and password: write them into its address";
            assert!(cause(&said).starts_with(says), "{args:?}: {said}");
        }
    }
}

/// As an attempt of a session does.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_answer_in_time_is_named_with_its_address() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    for (kind, address) in
        [(Kind::Discovery, base.to_owned()), (Kind::Introspect, authority.introspection_url())]
    {
        authority.fail(kind, Fault::Hang);
        let (said, _) =
            check(&authority, SECRET, &["--issuer", base, "--attempt-timeout", "300ms"]);
        let expected = format!("no answer within 300ms from {address}\n");
        assert!(said.contains(&expected), "{expected}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_that_is_assumed_is_said_to_be() {
    let authority = Authority::start().await.unwrap();
    let args = ["--issuer", authority.base_url()];
    assert!(!check(&authority, SECRET, &args).0.contains("assumed"));
    authority.fail(Kind::Grant, Fault::NoExpiresIn);
    let (said, code) = check(&authority, SECRET, &args);
    let lives = ["5m", "4m 5"].map(|life| format!("assumed to live for another {life}"));
    assert!(lives.iter().any(|life| said.contains(life)), "{said}");
    assert!(said.contains("(--assumed-lifetime)") && code == Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_are_split_and_compared_with_what_introspection_says() {
    let authority = Authority::start().await.unwrap();
    let args = ["--issuer", authority.base_url(), "--scope", "item_upload item_delete"];
    let (said, code) = check(&authority, SECRET, &args);
    assert!(code == Some(0) && !said.contains("and not"), "{said}");

    let told = json!({ "active": true, "scope": "item_upload" });
    authority.fail(Kind::Introspect, Answer::new(StatusCode::OK).body(told.to_string()));
    let (said, _) = check(&authority, SECRET, &args);
    let expected = "active, but with other scopes than it has granted: \"item_upload\"";
    assert!(said.contains(expected), "{said}");

    let nameless = json!({ "access_token": "a-token", "token_type": "bearer", "expires_in": 60 });
    authority.set_script(
        Script::new()
            .rule(
                Rule::new(Kind::Grant)
                    .fault(Answer::new(StatusCode::OK).body(nameless.to_string())),
            )
            .rule(
                Rule::new(Kind::Introspect)
                    .fault(Answer::new(StatusCode::OK).body(told.to_string())),
            ),
    );
    let (said, _) = check(&authority, SECRET, &args);
    let expected = "its scopes are \"item_upload\", and not item_delete, which was asked for";
    assert!(said.contains(expected), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_may_be_good_once_is_sent_once() {
    let authority = Authority::start().await.unwrap();
    let granted = json!({ "access_token": "a-token", "token_type": "bearer", "expires_in": 60 });
    for (answer, code) in [
        (Answer::new(StatusCode::OK).body(granted.to_string()), 0),
        (Answer::new(StatusCode::SERVICE_UNAVAILABLE), 1),
    ] {
        let before = authority.counts();
        authority.fail(Kind::Grant, answer);
        let args = ["--issuer", authority.base_url(), "--auth", "assertion"];
        let (said, exit_code) = check(&authority, "an.assertion.x", &args);
        assert_eq!(exit_code, Some(code), "{said}");
        assert_eq!(authority.counts().grants, before.grants + 1, "{said}");
        let others = |counts: Counts| counts.exchanges + counts.introspections + counts.revocations;
        assert_eq!(others(authority.counts()), others(before), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_revokes_nothing_is_found_out() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Revoke, Answer::new(StatusCode::OK).body(""));
    let (said, code) =
        check(&authority, SECRET, &["--issuer", authority.base_url(), "--skip", "exchange"]);
    assert!(said.contains("the revoked token is still active"), "{said}");
    assert_eq!(code, Some(1));

    let less = json!({ "access_token": "T0K3N", "expires_in": 60, "scope": "item_upload" });
    authority.fail(Kind::Grant, Answer::new(StatusCode::OK).body(less.to_string()));
    let args =
        ["--token-url", &authority.token_url(), "--scope", "item_upload", "--scope", "item_delete"];
    let (said, _) = check(&authority, SECRET, &args);
    assert!(said.contains("and not item_delete, which was asked for"), "{said}");
    assert!(!said.contains("T0K3N"), "{said}");
}

#[test]
fn help_names_its_steps_and_how_to_leave_them_out() {
    let help = result(&run(command().args(["check", "--help"])));
    // However it is wrapped.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in ["--skip", "introspection", "No secret is printed", "1 a check"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
