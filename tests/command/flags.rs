//! What flags are called and messages say: the names of the RFCs, never those of the library.

use super::*;

/// The claims of the assertion that was sent last to an endpoint of this kind.
fn claims(authority: &Authority, kind: Kind) -> Value {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
    let requests = authority.requests();
    let request = requests.iter().rfind(|request| request.kind == kind).unwrap();
    let assertion = request.param("client_assertion").unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_has_an_audience_of_its_own() {
    let authority = Authority::start().await.unwrap();
    let mut revoke = as_client();
    revoke.args(["revoke", "--issuer", authority.base_url(), "--auth", "client_secret_jwt"]);
    revoke.args(["--assertion-audience", "urn:grants"]);
    run_with_stdin(&mut revoke, "a-token");
    assert_eq!(claims(&authority, Kind::Revoke)["aud"], "urn:grants");
    run_with_stdin(revoke.args(["--revocation-audience", "issuer"]), "a-token");
    assert_eq!(claims(&authority, Kind::Revoke)["aud"], authority.base_url());

    let file = TempFile::new("audience.toml", "revocation-audience = \"urn:revocations\"\n");
    let mut revoke = as_client();
    revoke.args(["revoke", "--issuer", authority.base_url(), "--auth", "secret-jwt", "--config"]);
    run_with_stdin(revoke.arg(&file.0), "a-token");
    assert_eq!(claims(&authority, Kind::Revoke)["aud"], "urn:revocations");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_token_that_has_none_can_be_set() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Grant, Fault::NoExpiresIn);
    let life = |command: &mut Command| {
        let token: Value = serde_json::from_str(&result(&run(command))).unwrap();
        token["expires_in"].as_u64().unwrap()
    };
    let json = ["--format", "json"];
    assert!((290..=300).contains(&life(at(&authority, "token").args(json))));
    let flag = ["--assumed-lifetime", "20m"];
    assert!((1190..=1200).contains(&life(at(&authority, "token").args(json).args(flag))));
    let file = TempFile::new("assumed.toml", "assumed-lifetime = \"20m\"\n");
    let mut token = at(&authority, "token");
    assert!((1190..=1200).contains(&life(token.args(json).arg("--config").arg(&file.0))));
}

/// RFC 7591 §2, RFC 8705 §2.1.1: servers' documentation and metadata have no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_has_its_registered_name_too() {
    let authority = Authority::start().await.unwrap();
    for (name, sent) in [
        ("client_secret_post", "client_secret"),
        ("client_secret_basic", "authorization"),
        ("client_secret_jwt", "client_assertion"),
    ] {
        let file = TempFile::new(&format!("{name}.toml"), &format!("auth = {name:?}\n"));
        for (flag, value) in
            [("--auth", name.into()), ("--config", file.0.clone().into_os_string())]
        {
            let mut token = as_client();
            token.args(["token", "--issuer", authority.base_url(), flag]);
            run(token.arg(value));
            let request = authority.requests().pop().unwrap();
            assert!(
                request.param(sent).is_some() || request.headers.contains_key(sent),
                "{name}: {request:?}"
            );
        }
    }
    for (name, sentence) in [
        ("private_key_jwt", "key"),
        ("tls_client_auth", "--client-certificate PATH"),
        ("self_signed_tls_client_auth", "--client-certificate PATH"),
    ] {
        let mut token = as_client();
        token.args(["token", "--issuer", authority.base_url(), "--auth", name]);
        let text = problem(&run(&mut token), 2);
        assert!(text.contains(sentence), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_vv_each_request_is_a_line() {
    let authority = Authority::start().await.unwrap();
    let (url, revocation) = (authority.token_url(), authority.revocation_url());
    let told = |command: &mut Command, stdin: &str| {
        let log = stderr(&run_with_stdin(command, stdin));
        let lines = log.lines().filter(|line| line.contains("http.request"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // A query may hold a key.
    let with_query = format!("{url}?key=hunter2");
    let mut token = as_client();
    let lines = told(token.args(["token", "-vv", "--token-url", &with_query]), "");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    for word in ["method=POST", &*format!("url=\"{url}\""), "status=200", "elapsed="] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert!(!line.contains("hunter2"), "{line}");

    let mut revoke = as_client();
    revoke.args(["revoke", "-vv", "--issuer", authority.base_url()]);
    let lines = told(&mut revoke, "a-token");
    let of = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
    assert!(of("method=GET") >= 1 && of("status=404") >= 1, "where it looks first: {lines:?}");
    assert!(of(&format!("url=\"{revocation}\"")) == 1, "{lines:?}");

    authority.fail(Kind::Grant, Fault::Drop);
    let lines = told(at(&authority, "token").args(["-vv", "--attempts", "2"]), "");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("error=")), "{lines:?}");
    // Nothing of it without.
    assert!(told(&mut at(&authority, "token"), "").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_asks_afterwards_where_it_can() {
    let authority = Authority::start().await.unwrap();
    let token = result(&run(&mut at(&authority, "token")));
    let revoke = |more: &[&str]| {
        let mut revoke = as_client();
        revoke.args(["revoke", "--issuer", authority.base_url()]).args(more);
        run_with_stdin(&mut revoke, &token)
    };
    // It confirms, and does nothing.
    authority.fail(Kind::Revoke, Answer::new(StatusCode::OK));
    let text = problem(&revoke(&[]), 4);
    assert!(text.contains("says that the token is still active"), "{text}");
    assert_eq!(authority.counts().introspections, 1);
    // It keeps to itself what it knows.
    authority.fail(Kind::Introspect, Answer::new(StatusCode::FORBIDDEN));
    result(&revoke(&[]));
    assert_eq!(authority.counts().introspections, 2);
    // What may be good for one request only is not sent again.
    authority.fail(Kind::Revoke, Answer::new(StatusCode::OK));
    result(&revoke(&["--auth", "assertion"]));
    assert_eq!(authority.counts().introspections, 2);
}

/// Sent as it is, it would be confirmed as any unknown token is, and the one in it would live on.
#[tokio::test(flavor = "multi_thread")]
async fn revoke_takes_no_json_for_a_token_and_repeats_nothing_of_it() {
    let authority = Authority::start().await.unwrap();
    let token = result(&run(&mut at(&authority, "token")));
    let token = token.trim_end();
    for (stdin, says) in [
        (format!("{{\"access_token\":\"{token}\"}}"), "stdin has JSON, not a token"),
        (format!("[\"{token}\"]"), "stdin has JSON, not a token"),
        (format!("\"{token}\""), "the token on stdin has quotes around it"),
        (format!("'{token}'\n"), "the token on stdin has quotes around it"),
        (format!("Bearer {token}"), "stdin has a header, not a token"),
        (format!("Authorization: Bearer {token}"), "stdin has a header, not a token"),
        (format!("{token} x"), "a blank or another odd character, after "),
    ] {
        let mut revoke = as_client();
        revoke.args(["revoke", "--issuer", authority.base_url()]);
        let text = problem(&run_with_stdin(&mut revoke, &stdin), 2);
        assert!(text.contains(says), "{text}");
        assert!(!text.contains(token), "{text}");
    }
    assert_eq!(authority.counts().revocations, 0);
    let mut revoke = at(&authority, "revoke");
    assert_eq!(result(&run_with_stdin(&mut revoke, &format!(" \t{token} \r\n"))), "");
    assert!(!authority.is_active(token));
}

/// The value may be a secret, but the flag is none, nor is what it takes.
#[test]
fn a_bad_choice_names_its_flag_and_what_it_takes_and_repeats_nothing() {
    for (args, says) in [
        (["token", "--auth", "Hunter2"], "--auth takes one of post, basic, basic-raw, secret-jwt,"),
        (
            ["token", "--format", "HUNTER2"],
            "--format takes one of raw, header, json, exec-credential.",
        ),
        (
            ["check", "--skip", "hunter2"],
            "--skip takes one of exchange, introspection, revocation.",
        ),
    ] {
        let text = problem(&run(command().args(args)), 2);
        assert!(text.contains(says) && !text.to_lowercase().contains("hunter2"), "{text}");
    }
    // What is written with the underscores of its registered name may be written with hyphens.
    for name in
        ["client-secret-post", "client-secret-basic", "client-secret-jwt", "tls-client-auth"]
    {
        let text = problem(&run(command().args(["token", "--auth", name])), 2);
        assert!(!text.contains("takes one of"), "{name}: {text}");
    }
    let mut param = as_client();
    param.args(["token", "--token-url", "http://127.0.0.1:1/", "--param", "client_secret=x"]);
    let text = problem(&run(&mut param), 2);
    assert!(text.contains("--param \"client_secret\" is the protocol's own"), "{text}");
    let mut blank = as_client();
    blank.args(["check", "--token-url", "http://127.0.0.1:1/", "--scope", " "]);
    assert!(problem(&run(&mut blank), 2).contains("--scope is empty: leave it out"));
}

/// Words that are a program's, not a shell's.
fn words_of_the_api(text: &str) -> Vec<String> {
    // What is quoted is what was given.
    let unquoted: String = text.split('"').step_by(2).collect();
    let is_word = |char: char| char.is_ascii_alphanumeric() || "_:".contains(char);
    let words = unquoted.split(|char| !is_word(char)).map(|word| word.trim_matches(':'));
    let snake = |word: &str| word.contains('_') && word == word.to_lowercase();
    words.filter(|word| word.contains("::") || snake(word)).map(str::to_owned).collect()
}

#[test]
fn no_message_has_a_word_of_the_librarys_api() {
    let url = "https://as.example/token";
    let at = ["token", "--token-url", url];
    let with = |more: &[&'static str]| [&at[..], more].concat();
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pem");
    for args in [
        vec!["token", "--token-url", "http://192.0.2.1/token"],
        vec!["token", "--issuer", "http://192.0.2.1"],
        vec!["token", "--token-url", "https://a:b@as.example"],
        vec!["token", "--token-url", "https://as.example/#a"],
        vec!["token", "--issuer", "https://as.example/?a"],
        vec!["token", "--box-user", ""],
        vec!["token", "--box-user", "1", "--box-base-url", "https://as.example/?a"],
        with(&["--revocation-url", "x"]),
        with(&["--introspection-url", "x"]),
        with(&["--client-id", ""]),
        with(&["--client-id", "a:b", "--auth", "basic-raw"]),
        with(&["--client-secret-file", "/dev/null"]),
        with(&["--auth", "private-key-jwt"]),
        with(&["--auth", "private-key-jwt", "--algorithm", "x"]),
        with(&["--auth", "secret-jwt", "--algorithm", "RS256"]),
        with(&["--auth", "secret-jwt", "--assertion-audience", "issuer"]),
        with(&["--auth", "secret-jwt", "--revocation-audience", "issuer"]),
        with(&["--auth", "tls-client"]),
        with(&["--auth", "none", "--client-secret-file", key]),
        with(&["--key-id", "x"]),
        with(&["--dpop-key", "/dev/null"]),
        with(&["--root-certificate", "/dev/null"]),
        with(&["--client-certificate", key, "--client-key", key]),
        with(&["--client-certificate", key]),
        with(&["--connect-timeout", "0s"]),
        with(&["--connect-timeout", "1h"]),
        with(&["--stale-buffer", "0s"]),
        with(&["--expired-buffer", "1h"]),
        with(&["--attempts", "0"]),
        with(&["--attempt-timeout", "25h"]),
        with(&["--assumed-lifetime", "0s"]),
        with(&["--cache", "/nonexistent/cache"]),
        with(&["--cache", "/proc/self/fd"]),
        with(&["--cache", "redis://"]),
        with(&["--cache", "redis://127.0.0.1:1/x", "--cache-key-file", key]),
        with(&["--cache-key-file", key]),
        with(&["--param", "scope=x"]),
        with(&["--param", "=x"]),
        vec!["revoke", "--token-url", url],
        vec!["exchange", "--token-url", url, "--shared-link", "x"],
    ] {
        let text = problem(&run(as_client().args(&args)), 2);
        let words = words_of_the_api(&text);
        assert!(words.is_empty(), "{args:?}: {words:?} in {text}");
    }
    let mut empty = as_client();
    let text = problem(&run(empty.env("CCG_SESSION_CLIENT_SECRET", "").args(at)), 2);
    assert!(words_of_the_api(&text).is_empty(), "{text}");
}

#[test]
fn the_authority_tells_of_each_request_with_vv() {
    let mut command = command();
    command.args(["authority", "-vv"]).stderr(Stdio::piped());
    let mut authority = Listening::start(&mut command);
    let mut token = as_client();
    result(&run(token.args(["token", "--token-url", authority.get("token_url")])));
    let mut token = as_client();
    token.env("CCG_SESSION_CLIENT_SECRET", "hunter2");
    problem(&run(token.args(["token", "--token-url", authority.get("token_url")])), 3);
    authority.process.kill().unwrap();
    let mut log = String::new();
    let mut stderr = authority.process.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut log).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("authority.request")).collect();
    let [first, second] = &lines[..] else { panic!("{log}") };
    for word in ["method=POST", "path=\"/oauth2/token\"", "status=200", "elapsed="] {
        assert!(first.contains(word), "{word}: {first}");
    }
    assert!(second.contains("status=401"), "{second}");
    assert!(!log.contains(SECRET) && !log.contains("hunter2"), "{log}");
}

#[test]
fn the_authority_refuses_a_life_that_no_clock_can_count_to() {
    let text = problem(&run(command().args(["authority", "--ttl", "200years"])), 2);
    assert!(text.contains("a hundred years") && !text.contains("port"), "{text}");
}

#[test]
fn the_authority_checks_assertions_against_the_clients_key() {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pem");
    let mut command = command();
    command.args(["authority", "--client-key", key, "--assertion-audience", "urn:server"]);
    let authority = Listening::start(&mut command);
    let token = |more: &[&str]| {
        let mut token = as_client();
        token.args(["token", "--issuer", authority.get("issuer"), "--auth", "private_key_jwt"]);
        run(token.args(["--client-secret-file", key]).args(more))
    };
    result(&token(&["--assertion-audience", "urn:server"]));
    let text = problem(&token(&[]), 3);
    assert!(text.contains("another audience"), "{text}");
}
