//! `ccg-session check`: what it says, and that it says no secret.

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
    assert!(said.contains("59m") && said.contains("item_preview"), "{said}");
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

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_wrong_is_told_with_what_to_do() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/token", listener.local_addr().unwrap())
    };
    let elsewhere = format!("{base}/oauth2/other");
    let slash = format!("{base}/");
    for (secret, args, failed, sentences) in [
        ("hunter2", vec!["--issuer", base], "grant", ["invalid_client", "other methods of --auth"]),
        (
            include_str!("../keys/p256.pem"),
            vec!["--issuer", base, "--auth", "private-key-jwt"],
            "grant",
            ["invalid_client", "this machine's clock"],
        ),
        (
            SECRET,
            vec!["--issuer", base, "--scope", "root"],
            "grant",
            ["invalid_scope: the scope root is not allowed", "--scope"],
        ),
        (
            SECRET,
            vec!["--issuer", &slash],
            "discovery",
            ["its issuer is", "exactly as the server does"],
        ),
        (SECRET, vec!["--token-url", &elsewhere], "grant", ["404", "check the address"]),
        (SECRET, vec!["--token-url", &closed], "grant", ["refused", "HTTPS_PROXY"]),
        (
            SECRET,
            vec!["--issuer", base, "--exchange-scope", "root"],
            "exchange",
            ["the scope root is not allowed", "--skip exchange"],
        ),
    ] {
        let (said, code) = check(&authority, secret, &args);
        assert_eq!(code, Some(1), "{said}");
        assert!(verdicts(&said).contains(&format!("{failed} FAILED")), "{said}");
        for sentence in sentences {
            assert!(said.contains(sentence), "{sentence:?}: {said}");
        }
    }
    // What cannot be tried at all is a matter of usage, as with the other commands.
    assert_eq!(check(&authority, SECRET, &["--issuer", "nonsense"]).1, Some(2));
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
    for word in ["--skip", "introspection", "No secret is printed", "1 a figure"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
