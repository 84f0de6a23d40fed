//! The command as shells and other programs meet it: the built binary, real processes, real HTTP.

mod cache;
#[path = "../http/certificates.rs"]
mod certificates;
mod check;
mod flags;
#[cfg(target_os = "linux")]
mod fleet;
mod inputs;
mod languages;
mod output;
#[cfg(feature = "redis")]
#[path = "../store/server.rs"]
#[allow(dead_code, reason = "the tests of the store use the rest")]
mod server;
mod settings;
mod tls;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ccg_session::testing::{Answer, Authority, Fault, Kind, Rule, Script};
use http::StatusCode;
use serde_json::{Value, json};

const ID: &str = "test-client";
const SECRET: &str = "test-secret";

/// The command without anything of this process's environment that could change what it does.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ccg-session"));
    for name in ["CCG_SESSION_CLIENT_ID", "CCG_SESSION_CLIENT_SECRET"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.stdin(Stdio::null());
    command
}

/// With the client of an authority, its secret in the environment.
fn as_client() -> Command {
    let mut command = command();
    command.env("CCG_SESSION_CLIENT_ID", ID).env("CCG_SESSION_CLIENT_SECRET", SECRET);
    command
}

/// A subcommand against this authority, as if it were Box.
fn at(authority: &Authority, subcommand: &str) -> Command {
    let mut command = as_client();
    command.args([subcommand, "--box-enterprise", "12345", "--box-base-url", authority.base_url()]);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn run_with_stdin(command: &mut Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses before it reads has closed its end already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a success prints; a success says nothing on stderr.
fn result(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert_eq!(stderr(output), "");
    stdout(output)
}

/// What a failure with this exit code says; a failure prints nothing on stdout.
fn problem(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert_eq!(stdout(output), "");
    stderr(output)
}

/// The one object that it says with `--format json`.
fn json_problem(output: &Output, code: i32) -> Value {
    let text = problem(output, code);
    assert_eq!(text.lines().count(), 1, "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(keys(&problem), ["attempts", "kind", "message", "retry_after_seconds"]);
    problem
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// A file of this test process alone, which goes with its owner.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ccg-session-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_prints_the_token_in_each_format() {
    let authority = Authority::start().await.unwrap();
    let raw = result(&run(&mut at(&authority, "token")));
    assert!(authority.is_active(raw.strip_suffix('\n').unwrap()));

    let header = result(&run(at(&authority, "token").args(["--format", "header"])));
    let token = header.strip_prefix("Authorization: Bearer ").unwrap();
    assert!(authority.is_active(token.strip_suffix('\n').unwrap()));

    let json = result(&run(at(&authority, "token").args(["--format", "json"])));
    let token: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(keys(&token), ["access_token", "attempts", "expires_in", "scope", "token_type"]);
    assert!(authority.is_active(token["access_token"].as_str().unwrap()));
    assert_eq!(token["token_type"], "bearer");
    assert!((3500..=3600).contains(&token["expires_in"].as_u64().unwrap()));
    assert!(token["scope"].as_str().unwrap().contains("root_readwrite"));
    assert_eq!(token["attempts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_provider_is_asked_as_its_flags_say() {
    let authority = Authority::start().await.unwrap();
    let mut command = as_client();
    command.args(["token", "--token-url", &authority.token_url(), "--auth", "basic"]);
    command.args(["--scope", "item_upload", "--scope", "item_preview"]);
    command.args(["--param", "audience=https://api.example.com/?a=b", "--format", "json"]);
    let token: Value = serde_json::from_str(&result(&run(&mut command))).unwrap();
    assert_eq!(token["scope"], "item_preview item_upload");
    let requests = authority.requests();
    assert!(requests[0].headers.contains_key("authorization"));
    assert_eq!(requests[0].param("client_secret"), None);
    assert_eq!(requests[0].param("audience"), Some("https://api.example.com/?a=b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_told_and_limited_by_the_flag() {
    let authority = Authority::start().await.unwrap();
    authority.set_script(Script::new().rule(
        Rule::new(Kind::Grant).requests(1..=1).fault(Answer::new(StatusCode::SERVICE_UNAVAILABLE)),
    ));
    let json = result(&run(at(&authority, "token").args(["--format", "json"])));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["attempts"], 2);

    authority.fail(Kind::Grant, Answer::new(StatusCode::BAD_GATEWAY));
    let before = authority.counts().grants;
    let output = run(at(&authority, "token").args(["--attempts", "1", "--format", "json"]));
    let problem = json_problem(&output, 4);
    assert_eq!((&problem["kind"], &problem["attempts"]), (&json!("server"), &json!(1)));
    assert_eq!(authority.counts().grants, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_exit_code_3_and_one_object_on_stderr() {
    let authority = Authority::start().await.unwrap();
    let mut wrong = at(&authority, "token");
    wrong.env("CCG_SESSION_CLIENT_SECRET", "another-secret").args(["--format", "json"]);
    let problem = json_problem(&run(&mut wrong), 3);
    assert_eq!(problem["kind"], "denied");
    assert_eq!(problem["attempts"], 1);
    assert_eq!(problem["retry_after_seconds"], 30.0);
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("invalid_client"), "{message}");
    assert!(!message.contains("another-secret"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_help_is_exit_code_4() {
    let authority = Authority::start().await.unwrap();
    let busy = Answer::new(StatusCode::TOO_MANY_REQUESTS).retry_after(Duration::from_secs(7));
    for (fault, kind) in [
        (Fault::from(busy), "rate_limited"),
        (Fault::from(Answer::new(StatusCode::INTERNAL_SERVER_ERROR)), "server"),
        (Fault::Html, "malformed"),
        (Fault::Drop, "transport"),
        (Fault::ExpiresIn(json!(0)), "expired"),
        (Fault::Hang, "timed_out"),
    ] {
        authority.fail(Kind::Grant, fault);
        let mut command = at(&authority, "token");
        command.args(["--format", "json", "--attempts", "1"]);
        if kind == "timed_out" {
            command.args(["--attempt-timeout", "200ms"]);
        }
        let problem = json_problem(&run(&mut command), 4);
        assert_eq!(problem["kind"], kind);
        let wait = problem["retry_after_seconds"].as_f64().unwrap();
        let expected = if kind == "rate_limited" { 3.0..=7.0 } else { 0.0..=1.0 };
        assert!(expected.contains(&wait), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_input_has_its_own_error_before_anything_is_sent() {
    let authority = Authority::start().await.unwrap();
    let url = authority.token_url();
    let good = ["token", "--token-url", &url];
    let with = |more: &'static [&'static str]| [&good[..], more].concat();
    for (args, sentence) in [
        (with(&["--client-id", ""]), "--client-id is empty"),
        (
            vec!["token", "--token-url", "nonsense"],
            "--token-url is \"nonsense\", which is not a URL",
        ),
        (vec!["token", "--token-url", "http://192.0.2.1/token"], "without TLS"),
        (with(&["--revocation-url", "nonsense"]), "--revocation-url is \"nonsense\""),
        (with(&["--stale-buffer", "0s"]), "--stale-buffer is 0s, but must be more than 0s"),
        (with(&["--stale-buffer", "25h"]), "--stale-buffer is 1day 1h, but must be more than 0s"),
        (
            with(&["--stale-buffer", "10s", "--expired-buffer", "10s"]),
            "--expired-buffer is 10s, but must be shorter than the --stale-buffer",
        ),
        (
            with(&["--connect-timeout", "2s", "--attempt-timeout", "1s"]),
            "--connect-timeout is 2s, but an attempt may take only 1s",
        ),
        (with(&["--attempts", "0"]), "--attempts is 0, but without an attempt"),
        (vec!["token", "--box-enterprise", ""], "--box-enterprise or --box-user has an empty id"),
        (
            vec!["token"],
            "no provider: give --box-enterprise ID or --box-user ID for Box, or --issuer",
        ),
        (with(&["--param", "novalue"]), "must be a name, =, and a value"),
        (with(&["--param", "grant_type=x"]), "the protocol's own"),
        (with(&["--attempt-timeout", "soon"]), "invalid value 'soon' for '--attempt-timeout"),
        (with(&["--box-user", "1"]), "cannot be used with"),
        (with(&["--box-base-url", "https://box.example"]), "cannot be used with"),
        (with(&["--client-secret-file", "/nonexistent/x"]), "cannot be read from /nonexistent/x"),
    ] {
        let text = problem(&run(as_client().args(&args)), 2);
        assert!(text.contains(sentence), "{args:?}: {text}");
    }
    let no_id = problem(&run(command().env("CCG_SESSION_CLIENT_SECRET", SECRET).args(good)), 2);
    assert!(no_id.contains("--client-id ID, or set CCG_SESSION_CLIENT_ID"), "{no_id}");
    let no_secret = problem(&run(command().env("CCG_SESSION_CLIENT_ID", ID).args(good)), 2);
    assert!(no_secret.contains("no client secret: set CCG_SESSION_CLIENT_SECRET"), "{no_secret}");
    let empty = problem(&run(as_client().env("CCG_SESSION_CLIENT_SECRET", "").args(good)), 2);
    assert!(
        empty.contains("the client's secret is empty (the variable CCG_SESSION_CLIENT_SECRET)"),
        "{empty}"
    );
    for (content, sentence) in [
        ("\r\n".to_owned(), "the client's credential is empty (the file "),
        ("x".repeat(1024 * 1024 + 1), "it is longer than 1 MiB"),
    ] {
        let file = TempFile::new("unfit-secret", &content);
        let mut token = as_client();
        let text = problem(&run(token.args(good).arg("--client-secret-file").arg(&file.0)), 2);
        assert!(text.contains(sentence) && text.contains("unfit-secret"), "{text}");
    }
    assert_eq!(authority.counts().of(Kind::Any), 0);

    let as_json =
        json_problem(&run(as_client().args(with(&["--attempts", "0", "--format", "json"]))), 2);
    assert_eq!((&as_json["kind"], &as_json["attempts"]), (&json!("config"), &json!(0)));
    assert_eq!(as_json["retry_after_seconds"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_comes_from_a_file_or_from_stdin_without_its_newline_or_mark() {
    let authority = Authority::start().await.unwrap();
    for (mark, newline) in [("", ""), ("", "\n"), ("\u{feff}", "\r\n")] {
        let secret = format!("{mark}{SECRET}{newline}");
        let file = TempFile::new("secret", &secret);
        let mut from_file = at(&authority, "token");
        // The flag counts more than the environment.
        from_file
            .env("CCG_SESSION_CLIENT_SECRET", "wrong")
            .arg("--client-secret-file")
            .arg(&file.0);
        result(&run(&mut from_file));

        let mut from_stdin = at(&authority, "token");
        from_stdin.env_remove("CCG_SESSION_CLIENT_SECRET").args(["--client-secret-file", "-"]);
        result(&run_with_stdin(&mut from_stdin, &secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_from_outside() {
    let authority = Authority::start().await.unwrap();
    let gate = authority.hold(Kind::Grant);
    let child = at(&authority, "token")
        .arg("-vvv")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    authority.wait_for(|counts| counts.held == 1).await;
    if cfg!(target_os = "linux") {
        let args = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        let args = String::from_utf8(args).unwrap();
        assert!(args.contains("--box-enterprise") && !args.contains(SECRET), "{args}");
    }
    gate.release();
    let output = child.wait_with_output().unwrap();
    let (token, log) = (stdout(&output), stderr(&output));
    assert!(authority.is_active(token.trim_end()));
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    assert!(!log.contains(SECRET) && !log.contains(token.trim_end()), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_revokes_the_token_on_stdin() {
    let authority = Authority::start().await.unwrap();
    let token = result(&run(&mut at(&authority, "token")));
    let other = result(&run(&mut at(&authority, "token")));
    // It is tried again when the server fails, as the session's own would be.
    authority.set_script(Script::new().rule(
        Rule::new(Kind::Revoke).requests(1..=1).fault(Answer::new(StatusCode::SERVICE_UNAVAILABLE)),
    ));
    assert_eq!(result(&run_with_stdin(&mut at(&authority, "revoke"), &token)), "");
    assert!(!authority.is_active(token.trim_end()));
    assert!(authority.is_active(other.trim_end()));
    let counts = authority.counts();
    assert_eq!((counts.grants, counts.revocations), (2, 2));

    let mut generic = as_client();
    generic.args(["revoke", "--token-url", &authority.token_url(), "--auth", "basic"]);
    generic.args(["--revocation-url", &authority.revocation_url()]);
    assert_eq!(result(&run_with_stdin(&mut generic, other.trim_end())), "");
    assert!(!authority.is_active(other.trim_end()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_fails_says_so() {
    let authority = Authority::start().await.unwrap();
    let mut wrong = at(&authority, "revoke");
    wrong.env("CCG_SESSION_CLIENT_SECRET", "wrong");
    let text = problem(&run_with_stdin(&mut wrong, "a-token"), 3);
    assert!(text.contains("invalid_client") && !text.contains("a-token"), "{text}");

    authority.fail(Kind::Revoke, Fault::Drop);
    let mut once = at(&authority, "revoke");
    problem(&run_with_stdin(once.args(["--attempts", "1"]), "a-token"), 4);
    let sent = authority.counts().revocations;

    for (stdin, sentence) in
        [("", "the token to revoke is empty (stdin)"), ("two words", "not a token")]
    {
        let text = problem(&run_with_stdin(&mut at(&authority, "revoke"), stdin), 2);
        assert!(text.contains(sentence), "{text}");
    }
    let mut both = at(&authority, "revoke");
    let text = problem(&run_with_stdin(both.args(["--client-secret-file", "-"]), "a-token"), 2);
    assert!(text.contains("read from stdin"), "{text}");
    let mut nowhere = as_client();
    nowhere.args(["revoke", "--token-url", &authority.token_url()]);
    let text = problem(&run_with_stdin(&mut nowhere, "a-token"), 2);
    assert!(text.contains("--revocation-url"), "{text}");
    assert_eq!(authority.counts().revocations, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn exchange_gives_a_narrower_token() {
    let authority = Authority::start().await.unwrap();
    let mut command = at(&authority, "exchange");
    command.args(["--scope", "item_preview", "--grant-scope", "item_preview"]);
    command.args(["--grant-scope", "item_upload", "--format", "json"]);
    command.args(["--resource", "https://api.box.com/2.0/files/123", "--audience", "somebody"]);
    command.args(["--actor-id", "annotator-7", "--actor-name", "Ada"]);
    command.args(["--shared-link", "https://app.box.com/s/1"]);
    command.args(["--requested-token-type", "urn:ietf:params:oauth:token-type:access_token"]);
    let token: Value = serde_json::from_str(&result(&run(&mut command))).unwrap();
    assert_eq!(keys(&token), ["access_token", "attempts", "expires_in", "scope", "token_type"]);
    assert_eq!(token["scope"], "item_preview");
    assert_eq!(token["attempts"], 2);
    assert!(authority.is_active(token["access_token"].as_str().unwrap()));

    let requests = authority.requests();
    assert_eq!(requests[0].param("scope"), Some("item_preview item_upload"));
    let exchange = &requests[1];
    assert_eq!(exchange.param("scope"), Some("item_preview"));
    assert_eq!(exchange.param("resource"), Some("https://api.box.com/2.0/files/123"));
    assert_eq!(exchange.param("audience"), Some("somebody"));
    assert_eq!(exchange.param("box_shared_link"), Some("https://app.box.com/s/1"));
    assert!(exchange.param("actor_token").is_some());
    assert!(exchange.param("requested_token_type").is_some());

    let header = result(&run(at(&authority, "exchange").args(["--format", "header"])));
    assert!(header.starts_with("Authorization: Bearer "), "{header}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_fails_says_so() {
    let authority = Authority::start().await.unwrap();
    let mut wide = at(&authority, "exchange");
    wide.args(["--grant-scope", "item_preview", "--scope", "item_upload", "--format", "json"]);
    let refused = json_problem(&run(&mut wide), 3);
    assert_eq!((&refused["kind"], &refused["attempts"]), (&json!("denied"), &json!(2)));
    assert!(refused["message"].as_str().unwrap().contains("invalid_scope"), "{refused}");

    // The actor is Box's own, which is known before anything is sent.
    let before = authority.counts().of(Kind::Any);
    let mut generic = as_client();
    generic.args(["exchange", "--token-url", &authority.token_url(), "--format", "json"]);
    generic.args(["--actor-id", "a", "--actor-name", "b"]);
    assert_eq!(json_problem(&run(&mut generic), 2)["kind"], "config");
    assert_eq!(authority.counts().of(Kind::Any), before);

    let half = problem(&run(at(&authority, "exchange").args(["--actor-id", "a"])), 2);
    assert!(half.contains("--actor-name"), "{half}");
}

#[test]
fn completions_are_there_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = result(&run(command().args(["completions", shell])));
        assert!(script.contains("client-secret-file"), "{shell}");
    }
}

#[test]
fn help_tells_the_exit_codes() {
    for args in [&["--help"][..], &["token", "--help"], &["demo", "--help"]] {
        let help = result(&run(command().args(args)));
        let codes = [
            "0  done",
            "1  a check",
            "2  invalid usage",
            "3  the server",
            "4  the server",
            "141  ",
        ];
        for code in codes {
            assert!(help.contains(code), "{args:?}: {help}");
        }
    }
}

/// Clap shows it as it is.
#[test]
fn help_is_plain_text() {
    for name in ["token", "exchange", "revoke", "check", "authority", "demo", "completions"] {
        let help = result(&run(command().args([name, "--help"])));
        assert!(!help.contains('`'), "{name}: {help}");
    }
}

/// A running `ccg-session authority`, and what it said when it listened.
struct Listening {
    process: Child,
    said: Value,
}

impl Listening {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, said: serde_json::from_str(&line).unwrap() }
    }

    fn get(&self, key: &str) -> &str {
        self.said[key].as_str().unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Only its own child, which may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_authority_serves_other_processes_and_follows_its_script() {
    let script = TempFile::new(
        "script",
        r#"{ "rules": [{ "on": "grant", "requests": [1, 1], "fault": { "answer": { "status": 503 } } }] }"#,
    );
    let secret = TempFile::new("authority-secret", "authority-secret\n");
    let mut command = command();
    command.args(["authority", "--ttl", "90s", "--client-id", "app", "--enterprise", "77"]);
    command.arg("--script").arg(&script.0).arg("--client-secret-file").arg(&secret.0);
    let authority = Listening::start(&mut command);
    assert_eq!(
        keys(&authority.said),
        [
            "base_url",
            "client_id",
            "client_secret",
            "enterprise",
            "introspection_url",
            "issuer",
            "resource_url",
            "revocation_url",
            "token_url"
        ]
    );
    assert_eq!(authority.get("client_secret"), "authority-secret");

    let mut token = self::command();
    token.env("CCG_SESSION_CLIENT_ID", authority.get("client_id"));
    token.env("CCG_SESSION_CLIENT_SECRET", authority.get("client_secret"));
    token.args(["token", "--box-enterprise", authority.get("enterprise")]);
    token.args(["--box-base-url", authority.get("base_url"), "--format", "json"]);
    let token: Value = serde_json::from_str(&result(&run(&mut token))).unwrap();
    assert_eq!(token["attempts"], 2, "the script failed the first");
    assert!((60..=90).contains(&token["expires_in"].as_u64().unwrap()));
}

#[cfg(unix)]
#[test]
fn the_authority_ends_well_when_it_is_told_to() {
    for signal in ["-INT", "-TERM"] {
        let mut authority = Listening::start(command().arg("authority"));
        let pid = authority.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert_eq!(authority.process.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn the_authority_refuses_what_it_cannot_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let text = problem(&run(command().args(["authority", "--port", &port])), 2);
    assert!(text.contains(&port), "{text}");

    let script = TempFile::new("bad-script", r#"{ "rules": [{ "on": "lunch" }] }"#);
    let text = problem(&run(command().args(["authority", "--script"]).arg(&script.0)), 2);
    assert!(text.contains("bad-script") && text.contains("lunch"), "{text}");
    let text = problem(&run(command().args(["authority", "--script", "/nonexistent"])), 2);
    assert!(text.contains("/nonexistent"), "{text}");
}

#[test]
fn the_demo_keeps_its_promises_and_draws_its_day() {
    let plot = TempFile::new("plot.svg", "");
    let mut demo = command();
    demo.args(["demo", "--seconds", "8", "--tasks", "32", "--json", "--plot"]).arg(&plot.0);
    let output = run(&mut demo);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let figures: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let expected = [
        "callers",
        "errors_expired_outage",
        "errors_other",
        "errors_stale_outage",
        "exchanges",
        "get_token",
        "grants",
        "grants_in_flight_max",
        "held_max",
        "latency_ns",
        "refused",
        "revocations",
        "seconds",
        "used",
    ];
    assert_eq!(keys(&figures), expected);
    assert_eq!(keys(&figures["latency_ns"]), ["max", "p50", "p99", "p999"]);
    for (key, value) in [
        ("callers", 32),
        ("refused", 0),
        ("grants_in_flight_max", 1),
        ("errors_stale_outage", 0),
        ("errors_other", 0),
    ] {
        assert_eq!(figures[key], value, "{figures}");
    }
    assert!(figures["seconds"].as_f64().unwrap() >= 8.0, "{figures}");
    assert!(figures["grants"].as_u64().unwrap() >= 6, "{figures}");
    assert!(figures["held_max"].as_u64().unwrap() >= 32, "{figures}");
    let svg = std::fs::read_to_string(&plot.0).unwrap();
    check_xml(&svg);
    for word in ["background refreshes", "outage across expiry", "revocation", "callers held"] {
        assert!(svg.contains(word), "{word}");
    }
    // Not a terminal, so each stage is a line.
    for stage in ["cold start", "outage while stale", "exchange", "recovery", "revoke", "steady"] {
        assert!(stderr(&output).lines().any(|line| line.ends_with(stage)), "{stage}");
    }
}

#[test]
fn the_demo_of_a_pool_keeps_its_promises() {
    // More than may ask at once.
    let output = run(command().args(["demo", "--tenants", "80", "--json"]));
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let figures: Value = serde_json::from_str(&stdout(&output)).unwrap();
    for (key, value) in [("tenants", 80), ("grants", 80), ("unanswered", 0)] {
        assert_eq!(figures[key], value, "{figures}");
    }
    // The demo itself judges what they may be at most.
    assert!(figures["grants_in_flight_max"].as_u64().unwrap() > 1, "{figures}");
    assert!(figures["grants_in_outage"].as_u64().unwrap() > 0, "{figures}");
    let both = run(command().args(["demo", "--tenants", "2", "--tasks", "2"]));
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
}

#[test]
fn the_demo_fails_when_a_figure_does_not_hold() {
    let output = run(command().args(["demo", "--seconds", "8", "--tasks", "8", "--sabotage"]));
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let text = stderr(&output);
    assert!(text.contains("the demo's figures do not hold: refused is"), "{text}");
    assert!(stdout(&output).contains("BROKEN"), "{}", stdout(&output));
}

#[test]
fn the_demo_refuses_what_cannot_be_before_the_day_begins() {
    problem(&run(command().args(["demo", "--seconds", "1"])), 2);
    problem(&run(command().args(["demo", "--tasks", "0"])), 2);
    // Before the day, not after it.
    let text = problem(&run(command().args(["demo", "--plot", "/nonexistent/day.svg"])), 2);
    assert!(text.contains("cannot be written to /nonexistent/day.svg"), "{text}");
}

/// Each tag that opens closes, in order, and there is one outermost.
fn check_xml(text: &str) {
    let mut open = Vec::new();
    let mut outermost = 0;
    for (index, _) in text.match_indices('<') {
        let tag = &text[index + 1..index + text[index..].find('>').unwrap()];
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            outermost += usize::from(open.is_empty());
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(outermost, 1);
}
