//! What can end the command other than success: how it is told, and with which exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use ccg_session::{ConfigError, SessionError, TokenError};
use serde::Serialize;

use crate::output;

/// Why the command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A figure of the demo does not hold.
    Figures(Vec<String>),
    /// So many steps of a check failed, of so many.
    Check { failed: usize, steps: usize },
    /// It was told to end before it had a result.
    Interrupted,
    /// The result is there, but stdout does not take it.
    Output(io::Error),
    /// Something that was asked for cannot be.
    Usage(String),
    /// The session gave an error instead of what was asked for, after so many attempts.
    Session { error: SessionError, attempts: u64 },
    /// The server's answer is fine, but not fit for what was asked for.
    Unfit { problem: String, attempts: u64 },
}

/// With `--format json`, an error.
#[derive(Serialize)]
struct Report<'a> {
    kind: &'a str,
    message: String,
    attempts: u64,
    retry_after_seconds: Option<f64>,
}

impl Failure {
    /// As [`EXIT_CODES`](crate::args::EXIT_CODES) promises.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            // What a shell says of a program that a closed pipe has ended (128 + SIGPIPE).
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 141,
            // As of one that SIGINT has ended (128 + SIGINT).
            Self::Interrupted => 130,
            Self::Figures(_) | Self::Check { .. } | Self::Output(_) => 1,
            Self::Usage(_) | Self::Session { error: SessionError::Unsupported(_), .. } => 2,
            Self::Session { error, .. } => match error.token_error() {
                // Nothing was sent, so no server has refused it.
                Some(TokenError::Denied { status: 0, .. } | TokenError::Credential { .. }) => 2,
                Some(TokenError::Denied { .. }) => 3,
                _ => 4,
            },
            Self::Unfit { .. } => 4,
        })
    }

    /// To stderr. That nobody reads the result is no news: in a pipe it is usual, as with `| head`.
    pub(crate) fn report(&self, as_json: bool) {
        if matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return;
        }
        if !as_json {
            output::note(&format!("ccg-session: {}", self.message()));
            return;
        }
        let report = Report {
            kind: self.kind(),
            message: self.message(),
            attempts: self.attempts(),
            retry_after_seconds: self.retry_after_seconds(),
        };
        match serde_json::to_string(&report) {
            Ok(json) => output::note(&json),
            Err(error) => {
                output::note(&format!("ccg-session: {} (not as JSON: {error})", report.message));
            }
        }
    }

    /// With the file that it is about.
    pub(crate) fn about(self, path: &Path) -> Self {
        match self {
            Self::Usage(problem) => Self::Usage(format!("{problem} (the file {})", path.display())),
            other => other,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Figures(broken) => {
                format!("the demo's figures do not hold: {}", broken.join("; "))
            }
            Self::Check { failed, steps } => format!("steps that failed: {failed} of {steps}"),
            Self::Interrupted => "interrupted".into(),
            Self::Output(error) => format!("the result could not be written: {error}"),
            Self::Usage(problem) | Self::Unfit { problem, .. } => problem.clone(),
            Self::Session { error: SessionError::Unsupported(what), .. } => {
                format!("the server has no {what} endpoint that is known: give --{what}-url URL")
            }
            Self::Session { error, .. } => match error.token_error() {
                Some(cause) if is_ours(cause) => in_our_words(&error.to_string()),
                _ => without_the_api(&error.to_string()),
            },
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Figures(_) => "figures",
            Self::Check { .. } => "check",
            Self::Interrupted => "interrupted",
            Self::Output(_) => "output",
            Self::Usage(_) => "config",
            Self::Unfit { .. } => "malformed",
            Self::Session { error, .. } => match error {
                SessionError::Overloaded => "overloaded",
                SessionError::Unsupported(_) => "unsupported",
                SessionError::WouldBlock => "would_block",
                SessionError::Closed => "closed",
                error => error.token_error().map_or("session", TokenError::as_str),
            },
        }
    }

    fn attempts(&self) -> u64 {
        match self {
            Self::Session { attempts, .. } | Self::Unfit { attempts, .. } => *attempts,
            Self::Figures(_)
            | Self::Check { .. }
            | Self::Interrupted
            | Self::Output(_)
            | Self::Usage(_) => 0,
        }
    }

    fn retry_after_seconds(&self) -> Option<f64> {
        let Self::Session { error, .. } = self else { return None };
        // Whole milliseconds: the rest is the time that it took to get here.
        let wait = error.retry_after()?.as_secs_f64();
        Some((wait * 1e3).round() / 1e3)
    }
}

/// In the words of the command.
pub(crate) fn message(error: &TokenError) -> String {
    let message = error.to_string();
    if is_ours(error) { in_our_words(&message) } else { without_the_api(&message) }
}

/// No word of it is the server's: those stay as they are.
fn is_ours(error: &TokenError) -> bool {
    matches!(error, TokenError::Denied { status: 0, .. } | TokenError::Credential { .. })
}

/// In the words of the command: the flag in place of the library's setting.
impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let (setting, message) = (error.setting(), error.to_string());
        let problem = message.strip_prefix(setting).unwrap_or(&message);
        Self::Usage(in_our_words(&format!("{}{problem}", flag(setting).unwrap_or(setting))))
    }
}

/// The library's own message, of which none was the server's, without its names for things. What is in quotes was
/// given.
pub(crate) fn in_our_words(message: &str) -> String {
    let setting = |(name, _): &&(&str, &str)| name.contains('_');
    let message = without_the_api(message);
    let parts = message.split('"').enumerate().map(|(nth, part)| {
        let settings = SETTINGS.iter().filter(setting).filter(|_| nth % 2 == 0);
        settings.fold(part.to_owned(), |part, (theirs, ours)| part.replace(theirs, ours))
    });
    parts.collect::<Vec<_>>().join("\"")
}

/// No server says anything of these, so it can have words of one too.
fn without_the_api(message: &str) -> String {
    WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours))
}

/// What the library calls things that are no settings, the longer ones first.
const WORDS: [(&str, &str); 17] = [
    ("retry.", ""),
    ("ClientAuth::PrivateKeyJwt", "--auth private-key-jwt"),
    ("ClientAuth::SecretJwt", "--auth secret-jwt"),
    ("ClientAuth::BasicRaw", "--auth basic-raw"),
    ("ClientAuth::Basic", "--auth basic"),
    ("ClientAuth::Post", "--auth post"),
    ("ClientAuth::Assertion", "--auth assertion"),
    ("ClientAuth::TlsClient", "--auth tls-client"),
    ("ClientAuth::None", "--auth none"),
    ("client_auth", "--auth"),
    ("allow_insecure_http", "--allow-insecure-http"),
    ("to the builder", "by --client-id and --client-secret-file"),
    (", or give a client of yours", ""),
    (": give a client of yours", ""),
    ("this provider has no revocation endpoint", "the server has no revocation endpoint"),
    ("this provider has no introspection endpoint", "the server has no introspection endpoint"),
    ("if there is one, set ", "if there is one, give "),
];

/// What the command calls a setting of the library.
fn flag(setting: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|(name, _)| *name == setting).map(|(_, flag)| *flag)
}

/// Each setting that a [`ConfigError`] of the library names, and what it is here: its flag, which is also
/// its name in the file, or else where it comes from.
const SETTINGS: [(&str, &str); 39] = [
    ("algorithm", "--algorithm"),
    ("assertion_audience", "--assertion-audience"),
    ("assumed_lifetime", "--assumed-lifetime"),
    ("attempt_timeout", "--attempt-timeout"),
    ("attempts", "--attempts"),
    ("audience", "--audience"),
    ("base_url", "--box-base-url"),
    ("client_certificate", "--client-certificate"),
    ("client_id", "--client-id"),
    ("client_secret", "the client's secret"),
    ("connect_timeout", "--connect-timeout"),
    ("cooling", "the session's cooling"),
    ("credential", "the client's credential"),
    ("dpop", "--dpop-key"),
    ("exchanges_at_once", "the session's number of exchanges at once"),
    ("expired_buffer", "--expired-buffer"),
    ("fleet key", "--cache-key-file"),
    ("http_client", "the HTTP client"),
    ("introspection_url", "--introspection-url"),
    ("ip", "the address of an end user"),
    ("issuer", "--issuer"),
    ("key_id", "--key-id"),
    ("max_held", "the session's number of callers"),
    ("param", "--param"),
    ("proxy", "--proxy"),
    ("resource", "--resource"),
    ("revocation_audience", "--revocation-audience"),
    ("revocation_url", "--revocation-url"),
    ("root_certificate", "--root-certificate"),
    ("runtime", "the runtime"),
    ("scope", "--scope"),
    ("spawn", "the session"),
    ("spawn_thread", "the session's thread"),
    ("stale_buffer", "--stale-buffer"),
    ("store address", "--cache"),
    ("store directory", "--cache"),
    ("subject", "--box-enterprise or --box-user"),
    ("token_url", "--token-url"),
    ("url", "the address of a request"),
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn each_flag_that_a_row_names_is_one() {
        let command = Cli::command();
        let token = command.find_subcommand("token").unwrap();
        let flags: Vec<_> = token.get_arguments().filter_map(clap::Arg::get_long).collect();
        for (_, here) in SETTINGS {
            for flag in here.split(' ').filter_map(|word| word.strip_prefix("--")) {
                assert!(flags.contains(&flag), "{flag}");
            }
        }
        let error: Failure = ConfigError::new("stale_buffer", "is 0s").into();
        assert_eq!(error.message(), "--stale-buffer is 0s");
        let error: Failure =
            ConfigError::new("param", "\"client_secret\" is the protocol's own").into();
        assert_eq!(error.message(), "--param \"client_secret\" is the protocol's own");
    }

    fn failed(error: TokenError) -> Failure {
        let retry_after = Duration::from_micros(1_500_400);
        Failure::Session {
            error: SessionError::Failed { error: Arc::new(error), retry_after },
            attempts: 3,
        }
    }

    #[test]
    fn each_kind_of_failure_has_its_exit_code_and_name() {
        let denied = |status| {
            TokenError::denied("invalid_client", "")
                .with_status(status)
                .with_credentials_changed(false)
        };
        let after = Duration::from_secs(10);
        let source = Arc::new(std::io::Error::other("unreachable"));
        let session = |error| Failure::Session { error, attempts: 0 };
        for (failure, code, kind) in [
            (Failure::Figures(vec![]), 1, "figures"),
            (Failure::Check { failed: 1, steps: 2 }, 1, "check"),
            (Failure::Interrupted, 130, "interrupted"),
            (Failure::Output(io::Error::other("full")), 1, "output"),
            (Failure::Output(io::ErrorKind::BrokenPipe.into()), 141, "output"),
            (Failure::Usage(String::new()), 2, "config"),
            (session(SessionError::Unsupported("revocation")), 2, "unsupported"),
            (failed(denied(0)), 2, "denied"),
            (failed(TokenError::credential(source.clone())), 2, "credential"),
            (failed(denied(401)), 3, "denied"),
            (failed(TokenError::rate_limited(None)), 4, "rate_limited"),
            (failed(TokenError::server(503, None)), 4, "server"),
            (failed(TokenError::malformed(String::new())), 4, "malformed"),
            (failed(TokenError::expired("")), 4, "expired"),
            (failed(TokenError::transport(source)), 4, "transport"),
            (failed(TokenError::timed_out(after)), 4, "timed_out"),
            (failed(TokenError::Panicked), 4, "panicked"),
            (session(SessionError::Overloaded), 4, "overloaded"),
            (session(SessionError::Closed), 4, "closed"),
            (Failure::Unfit { problem: String::new(), attempts: 1 }, 4, "malformed"),
        ] {
            assert_eq!(failure.exit_code(), ExitCode::from(code), "{failure:?}");
            assert_eq!(failure.kind(), kind, "{failure:?}");
        }
    }

    #[test]
    fn the_wait_is_told_in_whole_milliseconds() {
        let failure = failed(TokenError::server(503, None));
        assert_eq!(failure.retry_after_seconds(), Some(1.5));
    }
}
