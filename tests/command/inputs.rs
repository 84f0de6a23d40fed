//! What the command is given: no argument that may be secret is repeated, and no file that it reads makes
//! it hang or grow.

use std::fs::File;

use super::*;

#[test]
fn a_secret_on_the_command_line_is_refused_with_advice_and_not_repeated() {
    for args in [&["--client-secret", "hunter2"][..], &["--client-secret=hunter2"]] {
        let output = run(as_client().args(["token", "--box-user", "1"]).args(args));
        let text = problem(&output, 2);
        assert!(text.contains("CCG_SESSION_CLIENT_SECRET"), "{text}");
        assert!(text.contains("--client-secret-file"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn no_argument_that_may_be_secret_is_repeated() {
    const KEY: &str = include_str!("../keys/p256.pem");
    const KEY_FLAG: &str = concat!("--dpop-key=", include_str!("../keys/p256.pem"));
    let jwk = include_str!("../keys/ed25519.jwk");
    let at = ["token", "--token-url", "https://as.example/token"];
    let with = |more: &[&'static str]| [&at[..], more].concat();
    for (args, secrets, sentence) in [
        (vec!["revoke", "T0K3N"], vec!["T0K3N"], "`revoke` reads its token from stdin"),
        (vec!["revoke", "--", "T0K3N"], vec!["T0K3N"], "left over"),
        (vec!["revoke", "--T0K3N"], vec!["T0K3N"], "left over"),
        (vec!["revoke", "-T0K3N"], vec!["T0K3N", "0K3N"], "unexpected argument"),
        (with(&["hunter2"]), vec!["hunter2"], "left over"),
        (with(&["--param", "hunter2"]), vec!["hunter2"], "--param must be a name"),
        (with(&["--param=hunter2"]), vec!["hunter2"], "--param must be a name"),
        (with(&["--secret=hunter2"]), vec!["hunter2"], "unexpected argument '--secret'"),
        (with(&["--client_secret", "hunter2"]), vec!["hunter2"], "unexpected argument"),
        (vec!["hunter2"], vec!["hunter2"], "no such command"),
        (with(&["--auth", "id:hunter2"]), vec!["hunter2"], "--auth takes one of post, basic"),
        (with(&["--format", "T0K3N"]), vec!["T0K3N"], "--format takes one of raw, header"),
        (vec!["completions", "T0K3N"], vec!["T0K3N"], "<SHELL> takes one of bash"),
        (vec!["authority", "hunter2"], vec!["hunter2"], "left over"),
        (with(&["--verbose=hunter2"]), vec!["hunter2"], "a value that it does not take"),
        (with(&["--allow-insecure-http=T0K3N"]), vec!["T0K3N"], "a value that it does not take"),
        // What belongs in the file, in place of its path.
        (with(&["--client-secret-file", KEY]), vec![&KEY[30..50]], "left over"),
        (with(&[KEY_FLAG]), vec![&KEY[30..50]], "which is no path"),
        (with(&["--dpop-key", jwk]), vec!["kty"], "which is no path"),
    ] {
        let text = problem(&run(as_client().args(&args)), 2);
        assert!(text.contains(sentence), "{args:?}: {text}");
        for secret in secrets {
            assert!(!text.contains(secret), "{args:?}: {text}");
        }
    }
    // A slip of the pen is.
    for (args, sentence) in [
        (vec!["tokn"], "'token'"),
        (with(&["--scop", "a"]), "'--scope'"),
        (with(&["--frob-nicate"]), "'--frob-nicate'"),
        (with(&["--auth", "basi"]), "'basi'"),
    ] {
        let text = problem(&run(as_client().args(&args)), 2);
        assert!(text.contains(sentence), "{args:?}: {text}");
    }
}

/// As any other error with that format.
#[test]
fn arguments_that_are_not_understood_are_told_in_json_where_errors_are() {
    for (args, expected) in [
        (&["token", "--format", "json", "--frob"][..], "unexpected argument '--frob' found"),
        (&["token", "--format=json", "--attempts", "x"], "invalid value 'x' for '--attempts <N>'"),
        (
            &["exchange", "--format", "json", "--actor-id", "7"],
            "required arguments were not provided: --actor-name",
        ),
        (&["token", "--format", "json", "hunter2"], "an argument is left over"),
    ] {
        let problem = json_problem(&run(as_client().args(args)), 2);
        assert_eq!((&problem["kind"], &problem["attempts"]), (&json!("config"), &json!(0)));
        let message = problem["message"].as_str().unwrap();
        assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
        assert!(!message.contains("Usage"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn no_file_makes_it_grow() {
    let zero = "/dev/zero";
    let at = ["token", "--token-url", "https://as.example/token"];
    for args in [
        vec!["--config", zero],
        vec!["--client-secret-file", zero],
        vec!["--client-secret-file", "-"],
        vec!["--dpop-key", zero],
        vec!["--root-certificate", zero],
        vec!["--client-certificate", zero, "--client-key", zero],
    ] {
        let mut token = as_client();
        token.args(at).args(&args).stdin(File::open(zero).unwrap());
        let text = problem(&run(&mut token), 2);
        assert!(text.contains("it is longer than 1 MiB"), "{args:?}: {text}");
    }
    for args in [
        vec!["authority", "--script", zero],
        vec!["authority", "--client-secret-file", zero],
        vec!["revoke", "--box-user", "1"],
    ] {
        let text = problem(&run(as_client().args(&args).stdin(File::open(zero).unwrap())), 2);
        assert!(text.contains("it is longer than 1 MiB"), "{args:?}: {text}");
    }
}

/// As what a shell's `<(…)` names: it is read once, however often the server is asked.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_pipe_is_enough_for_all_attempts() {
    let authority = Authority::start().await.unwrap();
    authority.set_script(Script::new().rule(
        Rule::new(Kind::Grant).requests(1..=1).fault(Answer::new(StatusCode::SERVICE_UNAVAILABLE)),
    ));
    let pipe = TempFile::new("pipe", "");
    std::fs::remove_file(&pipe.0).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe.0).status().unwrap().success());
    let path = pipe.0.clone();
    let writer = std::thread::spawn(move || std::fs::write(path, SECRET).unwrap());
    let mut token = at(&authority, "token");
    token.env_remove("CCG_SESSION_CLIENT_SECRET").arg("--client-secret-file").arg(&pipe.0);
    result(&run(&mut token));
    writer.join().unwrap();
    assert_eq!(authority.counts().grants, 2);
}

/// Wherever they run out: in the event loop, for signals, for the port.
#[cfg(target_os = "linux")]
#[test]
fn too_few_files_are_an_error_and_no_panic() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let program = env!("CARGO_BIN_EXE_ccg-session");
    for files in 5..16 {
        for subcommand in [
            format!("authority --port {port}"),
            format!(
                "token --token-url http://127.0.0.1:{port}/ --attempts 1 --attempt-timeout 50ms"
            ),
        ] {
            let line = format!("ulimit -n {files}; exec '{program}' {subcommand}");
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &line])
                .env("CCG_SESSION_CLIENT_ID", ID)
                .env("CCG_SESSION_CLIENT_SECRET", SECRET);
            let output = run(&mut shell);
            let text = stderr(&output);
            assert!(matches!(output.status.code(), Some(2 | 4)), "{files}: {text}");
            assert!(!text.contains("panicked") && !text.is_empty(), "{files}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_break_or_a_blank_inside_is_refused_with_its_flag_before_anything_is_sent() {
    let authority = Authority::start().await.unwrap();
    let at = ["--issuer", authority.base_url()];
    for (subcommand, flag, value) in [
        ("token", "--scope", "a\nb"),
        ("token", "--audience", "a\nb"),
        ("token", "--resource", "urn:a\nb"),
        ("token", "--client-id", "a\nb"),
        ("token", "--client-id", "a b"),
        ("check", "--scope", "a\nb"),
        ("check", "--audience", "a\nb"),
        ("check", "--exchange-scope", "a\nb"),
        ("exchange", "--scope", "a\nb"),
        ("exchange", "--audience", "a\nb"),
        ("exchange", "--resource", "urn:a\nb"),
        ("exchange", "--grant-scope", "a\nb"),
        ("exchange", "--grant-audience", "a\nb"),
        ("exchange", "--grant-resource", "urn:a\nb"),
        ("exchange", "--resource", "urn:a b"),
        ("exchange", "--requested-token-type", "urn:a b"),
        ("exchange", "--shared-link", "https://box.example/s\nx"),
        ("token", "--proxy", "http://p:1\n2"),
        ("token", "--revocation-url", "https://as.example/a b"),
    ] {
        let output = run(as_client().arg(subcommand).args(at).args([flag, value]));
        let text = problem(&output, 2);
        assert!(text.starts_with(&format!("ccg-session: {flag} has a ")), "{subcommand}: {text}");
    }
    for flag in ["--assertion-audience", "--revocation-audience", "--key-id"] {
        let jwt = ["token", "--auth", "secret-jwt", flag, "a\nb"];
        let text = problem(&run(as_client().args(jwt).args(at)), 2);
        assert!(text.starts_with(&format!("ccg-session: {flag} has a ")), "{text}");
    }
    assert_eq!(authority.counts().of(Kind::Any), 0);
}
