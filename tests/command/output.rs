//! What it does when nobody reads what it says, or when that cannot be written.

use std::io::{PipeWriter, pipe};

use super::*;

/// The end of a pipe whose reader has gone.
fn unread() -> PipeWriter {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer
}

/// As a closed pipe ends the other programs in it: the shell says nothing, and `pipefail` notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_nobody_reads_ends_it_without_a_word() {
    let authority = Authority::start().await.unwrap();
    let issuer = authority.base_url();
    for args in [
        &["token", "--issuer", issuer][..],
        &["token", "--issuer", issuer, "--format", "json"],
        &["exchange", "--issuer", issuer],
        &["check", "--issuer", issuer],
        &["completions", "bash"],
        &["authority"],
    ] {
        let output = run(as_client().args(args).stdout(unread()));
        assert_eq!((output.status.code(), &*stderr(&output)), (Some(141), ""), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_written_is_not_one_of_usage() {
    let authority = Authority::start().await.unwrap();
    let full = std::fs::File::create("/dev/full").unwrap();
    let mut token = at(&authority, "token");
    let text = problem(&run(token.args(["--format", "json"]).stdout(full)), 1);
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(error["kind"], "output");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("the result could not be written: No space left"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn help_that_cannot_be_written_is_a_failure() {
    for args in [&["--help"][..], &["--version"], &["token", "-h"], &["help", "check"]] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let text = problem(&run(command().args(args).stdout(full)), 1);
        let expected = "ccg-session: the result could not be written: No space left";
        assert!(text.starts_with(expected), "{args:?}: {text}");
        assert_eq!(run(command().args(args).stdout(unread())).status.code(), Some(141));
    }
}

/// It may be a log that is full, or has gone.
#[test]
fn an_error_that_cannot_be_told_still_has_its_exit_code() {
    for more in [&["-vvv"][..], &["--format", "json"], &[]] {
        let mut token = as_client();
        token.args(["token", "--token-url", "http://127.0.0.1:1/", "--attempts", "1"]).args(more);
        assert_eq!(run(token.stderr(unread())).status.code(), Some(4), "{more:?}");
    }
}
