//! The command against it: what `check` says in plain words, and what the others do.

use std::io::Write as _;
use std::process::Output;

use ccg_session::JwtAuth;

use super::*;

/// The command as this client, which is known by its issuer alone.
fn command(server: &Server, subcommand: &str, id: &str, auth: &str, secret: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ccg-session"));
    command.args([subcommand, "--issuer", &server.issuer, "--client-id", id, "--auth", auth]);
    command.env("CCG_SESSION_CLIENT_SECRET", secret).stdin(Stdio::null());
    command
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

/// What a success prints, without the newline.
fn result(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

pub(crate) fn revoke(server: &Server, id: &str, auth: &str, secret: &str, token: &str) {
    let mut revoke = command(server, "revoke", id, auth, secret);
    let mut process = revoke.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    assert_eq!(result(&process.wait_with_output().unwrap()), "");
}

/// The private key in this file binds the tokens.
const DPOP: [&str; 2] = ["--dpop-key", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pem")];

/// What `check` says, its spaces made one, and its exit code. No secret is in it.
fn check(server: &Server, client: (&str, &str, &str), more: &[&str]) -> (String, Option<i32>) {
    let (id, auth, secret) = client;
    let output = command(server, "check", id, auth, secret).args(more).output().unwrap();
    let said = text(&output.stdout);
    assert!(!said.contains(secret) && !text(&output.stderr).contains(secret), "{said}");
    let lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    (lines.collect::<Vec<_>>().join("\n"), output.status.code())
}

#[test]
fn check_finds_that_everything_works() {
    let server = Server::start(&[]);
    let issuer = &server.issuer;
    let expected = format!(
        "discovery ok tokens {issuer}/token\n\
         revocation {issuer}/token/revocation\n\
         introspection {issuer}/token/introspection\n\
         grant ok a token with another 1m to live; the scopes granted are \"read write\"\n\
         exchange ok the token was exchanged; its scopes: \"read\"\n\
         introspection ok the server says that the token is active\n\
         revocation ok the server has confirmed it\n\
         introspection ok the revoked token is no longer active\n\
         introspection ok the exchanged token, which was revoked with it, is no longer active"
    );
    for client in [
        ("basic-client", "basic", SECRET),
        ("post-client", "post", SECRET),
        ("jwt-secret-client", "secret-jwt", LONG_SECRET),
        ("rs256-client", "private-key-jwt", &key("rsa.pem")),
        ("eddsa-client", "private-key-jwt", &key("ed25519.jwk")),
    ] {
        let scopes = ["--scope", "read", "--scope", "write", "--exchange-scope", "read"];
        let (said, code) = check(&server, client, &scopes);
        let life = said.split("another ").nth(1).and_then(|rest| rest.split(" to live").next());
        let life = life.expect(&said);
        // A minute, of which some seconds may have passed.
        assert!(life == "1m" || life.len() == 3 && life.starts_with('5'), "{said}");
        let said = said.replace(&format!("another {life} "), "another 1m ");
        assert_eq!(said, expected, "{}", client.0);
        assert_eq!(code, Some(0));
    }
    let client = ("rs256-client", "private-key-jwt", &*key("rsa.pem"));
    let (said, code) =
        check(&server, client, &[&DPOP[..], &["--assertion-audience", "issuer"]].concat());
    assert!(said.contains("grant ok a token, bound to the key, with another"), "{said}");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn check_says_what_is_wrong_and_what_to_do() {
    let server = Server::start(&[]);
    let basic = ("basic-client", "basic", SECRET);
    for (server, client, more, expected) in [
        (
            &server,
            ("basic-client", "basic", "not-the-secret"),
            &[][..],
            [
                "grant FAILED the server does not accept this id and secret",
                "the server refused (401): invalid_client",
            ],
        ),
        (
            &server,
            ("basic-client", "post", SECRET),
            &["--exchange-scope", "read"],
            ["exchange FAILED", "scope exceeds the subject token"],
        ),
        (
            &server,
            ("es256-client", "private-key-jwt", &key("p384.pem")),
            &[],
            [
                "grant FAILED the server does not accept what this key signs",
                "the key's public half",
            ],
        ),
        (
            &server,
            ("es256-client", "private-key-jwt", &key("p256.pem")),
            &["--assertion-audience", "https://elsewhere.example"],
            ["grant FAILED the server does not accept what this key signs", "--assertion-audience"],
        ),
        (
            &server,
            basic,
            &["--scope", "openid"],
            [
                "grant FAILED the server does not allow these scopes for this client",
                "check --scope",
            ],
        ),
        (
            &server,
            basic,
            &["--resource", "https://elsewhere.example/"],
            [
                "grant FAILED the server does not know the requested resource or audience",
                "check --resource",
            ],
        ),
        (
            &server,
            basic,
            &["--scope", "read", "--exchange-scope", "delete"],
            ["exchange FAILED the token cannot be exchanged for these scopes", "--exchange-scope"],
        ),
    ] {
        let (said, code) = check(server, client, more);
        assert_eq!(code, Some(1), "{said}");
        for sentence in expected {
            assert!(said.contains(sentence), "{sentence:?}: {said}");
        }
    }
}

/// What is signed is dated by the server's clock once it has refused it.
#[test]
fn check_gets_along_with_a_clock_that_differs() {
    let ahead = Server::start(&[("CLOCK", "310")]);
    let client = ("es256-client", "private-key-jwt", key("p256.pem"));
    let (said, code) = check(&ahead, (client.0, client.1, &client.2), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("grant ok"), "{said}");
}

#[test]
fn tokens_are_got_exchanged_and_revoked() {
    let server = Server::start(&[]);
    let secret = key("p384.jwk");
    let on = |subcommand| command(&server, subcommand, "es384-client", "private-key-jwt", &secret);
    let is_active = |token: &str| {
        let auth = ClientAuth::PrivateKeyJwt(JwtAuth::new());
        let server = server.client("es384-client", auth, key("p384.jwk")).build().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(server.is_active(token)).unwrap()
    };
    let token = result(&on("token").args(["--scope", "read"]).output().unwrap());
    let narrow = ["--grant-scope", "read", "--grant-scope", "write", "--scope", "write"];
    let narrow = result(&on("exchange").args(narrow).output().unwrap());
    for token in [&token, &narrow] {
        assert!(is_active(token));
        revoke(&server, "es384-client", "private-key-jwt", &secret, token);
        assert!(!is_active(token));
    }
}
