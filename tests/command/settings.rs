//! Where the command's settings come from: flags, and a file.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};

use super::*;

/// With the client's secret in a file, as a service has it.
fn configured(authority: &Authority, name: &str, more: &str) -> (TempFile, TempFile) {
    let secret = TempFile::new(&format!("{name}-secret"), &format!("{SECRET}\n"));
    let text = format!(
        "issuer = \"{}\"\nclient-id = \"{ID}\"\nclient-secret-file = \"{}\"\n{more}",
        authority.base_url(),
        secret.0.file_name().unwrap().to_str().unwrap(),
    );
    (TempFile::new(&format!("{name}.toml"), &text), secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_enough() {
    let authority = Authority::start().await.unwrap();
    let mut command = as_client();
    command.args(["token", "--issuer", authority.base_url(), "--auth", "basic"]);
    command.args(["--scope", "item_upload", "--resource", "urn:1", "--resource", "urn:2"]);
    command.args(["--audience", "x", "--audience", "y", "--param", "organization=o"]);
    let token = result(&run(&mut command));
    assert!(authority.is_active(token.trim_end()));
    let requests = authority.requests();
    let grant = requests.last().unwrap();
    assert_eq!(grant.params("resource").collect::<Vec<_>>(), ["urn:1", "urn:2"]);
    assert_eq!(grant.params("audience").collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(grant.param("organization"), Some("o"));

    let mut revoke = as_client();
    revoke.args(["revoke", "--issuer", authority.base_url()]);
    assert_eq!(result(&run_with_stdin(&mut revoke, &token)), "");
    assert!(!authority.is_active(token.trim_end()), "its address was discovered too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_them_all_and_a_flag_counts_more() {
    let authority = Authority::start().await.unwrap();
    let more = "auth = \"basic\"\nscope = [\"item_upload\", \"item_preview\"]\naudience = \"a\"\n\
                param = { organization = \"o\" }\n[session]\nattempts = 1\n";
    let (file, _secret) = configured(&authority, "all", more);
    let token = |more: &[&str]| {
        run(command().args(["token", "--format", "json", "--config"]).arg(&file.0).args(more))
    };
    let of_the_file: Value = serde_json::from_str(&result(&token(&[]))).unwrap();
    assert_eq!(of_the_file["scope"], "item_preview item_upload");
    let request = authority.requests().pop().unwrap();
    assert!(request.headers.contains_key("authorization"));
    assert_eq!((request.param("audience"), request.param("organization")), (Some("a"), Some("o")));

    let of_the_flag = result(&token(&["--scope", "item_delete", "--auth", "post"]));
    assert_eq!(serde_json::from_str::<Value>(&of_the_flag).unwrap()["scope"], "item_delete");
    let request = authority.requests().pop().unwrap();
    assert_eq!(request.param("client_secret"), Some(SECRET));

    authority.fail(Kind::Grant, Answer::new(StatusCode::BAD_GATEWAY));
    assert_eq!(json_problem(&token(&[]), 4)["attempts"], 1);
    assert_eq!(json_problem(&token(&["--attempts", "2"]), 4)["attempts"], 2);

    // Another server: then the file's issuer is not meant.
    authority.heal();
    result(&token(&["--token-url", &authority.token_url()]));
    let before = authority.counts().discoveries;
    result(&token(&["--box-enterprise", "12345", "--box-base-url", authority.base_url()]));
    assert_eq!(authority.counts().discoveries, before);
}

/// Else the secret of a Box that is somewhere else would go to `https://api.box.com`.
#[tokio::test(flavor = "multi_thread")]
async fn another_subject_is_not_another_server() {
    let authority = Authority::start().await.unwrap();
    let text = format!(
        "box-enterprise = \"12345\"\nbox-base-url = \"{}\"\nintrospection-url = \"{}\"\n",
        authority.base_url(),
        authority.introspection_url(),
    );
    let file = TempFile::new("subject.toml", &text);
    let mut token = as_client();
    result(&run(token.args(["check", "--box-user", "67890", "--config"]).arg(&file.0)));
    assert_eq!(authority.requests()[0].param("box_subject_id"), Some("67890"));
    assert_eq!(authority.counts().introspections, 3);
}

/// Else the id of the environment would go with the secret of the file, and that to the file's server.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_counts_less_than_the_file() {
    let authority = Authority::start().await.unwrap();
    let (file, _secret) = configured(&authority, "environment", "");
    let mut token = command();
    token.env("CCG_SESSION_CLIENT_ID", "another").env("CCG_SESSION_CLIENT_SECRET", "another");
    result(&run(token.args(["token", "--config"]).arg(&file.0)));
    let text = problem(&run(token.args(["--client-id", "a-third"])), 3);
    assert!(text.contains("invalid_client"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_has_its_own_scopes_beside_the_files() {
    let authority = Authority::start().await.unwrap();
    let more = "scope = [\"item_upload\", \"item_preview\"]\nresource = \"urn:grant\"\n";
    let (file, _secret) = configured(&authority, "exchange", more);
    let mut exchange = command();
    exchange.args(["exchange", "--scope", "item_preview", "--resource", "urn:exchange"]);
    result(&run(exchange.arg("--config").arg(&file.0)));
    let requests = authority.requests();
    let [.., grant, exchange] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(grant.param("scope"), Some("item_upload item_preview"));
    assert_eq!(grant.param("resource"), Some("urn:grant"));
    assert_eq!(exchange.param("scope"), Some("item_preview"));
    assert_eq!(exchange.param("resource"), Some("urn:exchange"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_the_file_is_told_and_nothing_is_sent() {
    let authority = Authority::start().await.unwrap();
    for (more, sentence) in [
        ("scopes = \"a\"\n", "line 4: there is no setting \"scopes\"; did you mean \"scope\"?"),
        (
            "[session]\nstale_buffer = \"1m\"\n",
            "line 5: there is no setting \"stale_buffer\"; did you mean \"stale-buffer\"?",
        ),
        // A command that asks once has no use for it.
        ("[session]\nrefresh-mode = \"always\"\n", "there is no setting \"refresh-mode\""),
        ("client-secret = \"hunter2\"\n", "client-secret-file"),
        ("[session]\nstale-buffer = \"25h\"\n", "--stale-buffer is 1day 1h"),
        ("token-url = \"https://x.example\"\n", "only one of issuer, token-url"),
        ("scope = [\n", "line 4"),
        ("param = \"password=hunter2\"\n", "line 4: param"),
        ("box-base-url = \"https://x.example\"\n", "box-base-url"),
        ("auth = \"none\"\n", "client-secret-file would not be used, since auth is none"),
    ] {
        let (file, _secret) = configured(&authority, "wrong", more);
        let text = problem(&run(command().args(["token", "--config"]).arg(&file.0)), 2);
        assert!(text.contains(sentence) && !text.contains("hunter2"), "{text}");
    }
    let (file, _secret) = configured(&authority, "no-secret", "");
    let mut none = command();
    none.args(["token", "--auth", "tls-client", "--config"]).arg(&file.0);
    let text = problem(&run(&mut none), 2);
    assert!(
        text.contains("client-secret-file would not be used, since auth is tls-client"),
        "{text}"
    );
    let missing = problem(&run(as_client().args(["token", "--config", "/nonexistent.toml"])), 2);
    assert!(
        missing.contains("the configuration cannot be read from /nonexistent.toml"),
        "{missing}"
    );
    let two = ["token", "--issuer", "https://x.example", "--token-url", "https://x.example"];
    assert!(problem(&run(as_client().args(two)), 2).contains("cannot be used with"));
    assert_eq!(authority.counts().of(Kind::Any), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_of_authentication_has_a_name() {
    let authority = Authority::start().await.unwrap();
    let token = |auth: &str| {
        run(as_client().args(["token", "--issuer", authority.base_url(), "--auth", auth]))
    };
    for auth in ["post", "basic", "basic-raw", "secret-jwt"] {
        result(&token(auth));
    }
    // The authority takes neither; what they send is the library's.
    for (auth, sent) in [
        ("assertion", vec!["client_assertion", "client_assertion_type", "client_id", "grant_type"]),
        ("none", vec!["client_id", "grant_type"]),
    ] {
        let text = problem(&token(auth), 3);
        assert!(text.contains("invalid_client"), "{text}");
        let request = authority.requests().pop().unwrap();
        let mut names: Vec<_> = request.form.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, sent, "{auth}");
    }
    let before = authority.counts().of(Kind::Any);
    let text = problem(&token("private-key-jwt"), 2);
    assert!(text.contains("key") && !text.contains(SECRET), "{text}");
    let text = problem(&token("tls-client"), 2);
    assert!(text.contains("--client-certificate PATH"), "{text}");
    let file = TempFile::new("no-key", "s3cr3t");
    let mut bound = as_client();
    bound.args(["token", "--issuer", authority.base_url(), "--dpop-key"]).arg(&file.0);
    let text = problem(&run(&mut bound), 2);
    assert!(text.contains("--dpop-key is no private key") && text.contains("no-key"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
    let mut half = as_client();
    half.args(["token", "--issuer", authority.base_url(), "--client-certificate", "/nonexistent"]);
    assert!(problem(&run(&mut half), 2).contains("give both"));
    assert_eq!(authority.counts().of(Kind::Any), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_says_what_flags_or_the_file_say() {
    let authority = Authority::start().await.unwrap();
    // The authority does not know the key, and expects others than these to be meant.
    let sent = |command: &mut Command| {
        let text = problem(&run(command), 3);
        assert!(text.contains("invalid_client"), "{text}");
        let request = authority.requests().pop().unwrap();
        let assertion = request.param("client_assertion").unwrap().to_owned();
        let mut parts = assertion.split('.');
        [(); 2].map(|()| {
            let part = BASE64_URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
            serde_json::from_slice::<Value>(&part).unwrap()
        })
    };
    let mut flags = as_client();
    flags.env("CCG_SESSION_CLIENT_SECRET", include_str!("../keys/rsa.pem"));
    flags.args(["token", "--issuer", authority.base_url(), "--auth", "private-key-jwt"]);
    let [header, claims] = sent(&mut flags);
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT" }));
    assert_eq!(claims["aud"], authority.token_url());
    flags.args(["--algorithm", "PS256", "--key-id", "mine", "--assertion-audience", "issuer"]);
    let [header, claims] = sent(&mut flags);
    assert_eq!(header, json!({ "alg": "PS256", "typ": "JWT", "kid": "mine" }));
    assert_eq!(claims["aud"], authority.base_url());

    let more = "auth = \"secret-jwt\"\nkey-id = \"mine\"\nassertion-audience = \"urn:server\"\n";
    let (file, _secret) = configured(&authority, "assertion", more);
    let [header, claims] = sent(command().args(["token", "--config"]).arg(&file.0));
    assert_eq!(header, json!({ "alg": "HS256", "typ": "JWT", "kid": "mine" }));
    assert_eq!(claims["aud"], "urn:server");

    let grants = authority.counts().grants;
    for (args, sentence) in [
        (["--auth", "basic", "--key-id", "mine"], "give --auth private-key-jwt or secret-jwt"),
        (
            ["--auth", "secret-jwt", "--algorithm", "RS256"],
            "--algorithm is RS256, but a secret signs",
        ),
        (
            ["--auth", "secret-jwt", "--algorithm", "none"],
            "--algorithm is \"none\", but must be one of",
        ),
    ] {
        let mut token = as_client();
        token.args(["token", "--issuer", authority.base_url()]).args(args);
        let text = problem(&run(&mut token), 2);
        assert!(text.contains(sentence), "{text}");
    }
    let mut token = as_client();
    token.args(["token", "--token-url", &authority.token_url(), "--auth", "secret-jwt"]);
    let text = problem(&run(token.args(["--assertion-audience", "issuer"])), 2);
    assert!(text.contains("which is known with --issuer only"), "{text}");
    assert_eq!(authority.counts().grants, grants);
}

/// A secret may be sent without TLS only where it stays on this machine, and a proxy may be elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_gets_what_is_sent_in_clear() {
    let authority = Authority::start().await.unwrap();
    // The authority takes no request that is for another.
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());
    let (issuer, url) = (authority.base_url(), authority.token_url());
    for server in [
        vec!["--token-url", &url],
        vec!["--issuer", issuer],
        // Not all of it is here.
        vec!["--token-url", &url, "--revocation-url", "https://as.example/revoke"],
        vec!["--issuer", issuer, "--revocation-url", "https://as.example/revoke"],
    ] {
        let mut token = as_client();
        token.env("HTTP_PROXY", &proxy_url).env("http_proxy", &proxy_url);
        result(&run(token.arg("token").args(&server)));
        assert!(proxy.accept().is_err(), "{server:?}");
    }
    // It would be asked.
    let mut token = as_client();
    token.env("HTTP_PROXY", &proxy_url).env("http_proxy", &proxy_url);
    token.args(["token", "--allow-insecure-http", "--token-url", "http://as.example/oauth2/token"]);
    token.args(["--attempts", "1", "--attempt-timeout", "2s"]);
    run(&mut token);
    assert!(proxy.accept().is_ok());
}
