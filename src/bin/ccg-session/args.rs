//! The command-line arguments. Only their syntax is checked here; the library rejects invalid values, with its
//! own messages.

#![expect(clippy::doc_markdown, reason = "clap prints them as they are")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::Settings;

/// Get, exchange and revoke OAuth 2.0 tokens with client credentials, run a test authority, and see a session
/// at work.
#[derive(Parser)]
#[command(name = "ccg-session", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log to stderr: -v for warnings and events, -vv for each request, -vvv for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show a session at work during server failures: 256 tasks, real HTTP, outages, a revocation
    #[command(after_help = EXIT_CODES)]
    Demo(DemoArgs),
    /// Get an access token
    #[command(after_help = EXIT_CODES)]
    Token(TokenArgs),
    /// Get an access token, and exchange it for a narrower one (RFC 8693)
    #[command(after_help = EXIT_CODES)]
    Exchange(ExchangeArgs),
    /// Revoke the token read from stdin or, with --cache, the cached one (RFC 7009)
    ///
    /// With the flag --cache, stdin is not read. Every process that shares the cache stops using the token;
    /// with a directory, within a second. If only the configuration file names the cache, the token is read
    /// from stdin; if it is the cached one, the other processes are notified too.
    #[command(after_help = EXIT_CODES)]
    Revoke(RevokeArgs),
    /// Test a configuration step by step, and report what works, what does not, and how to fix it
    ///
    /// Gets a token, exchanges it, introspects it, revokes it, and introspects it again. With --cache, checks
    /// the cache too; the cached token is not changed.
    ///
    /// No secret is printed.
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Run an authority for tests, in any language, until it is interrupted
    ///
    /// Listens on 127.0.0.1. Prints one line of JSON with its URLs and credentials when it is ready.
    #[command(after_help = EXIT_CODES)]
    Authority(AuthorityArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    pub(crate) fn reports_errors_as_json(&self) -> bool {
        let format = match self {
            Self::Token(args) => args.format,
            Self::Exchange(args) => args.format,
            _ => return false,
        };
        format == Format::Json
    }
}

pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  a check of the demo failed, a step of check failed, or the result could not be written
  2  invalid usage or configuration: nothing was sent
  3  the server refused the request
  4  the server could not be reached, was busy, or sent an invalid response
  130  demo --replicas was interrupted; its processes have been stopped
  141  the output pipe was closed before the result was written";

// In each of them what is flattened comes last: its headings hold for whatever follows.
#[derive(Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) grant: GrantArgs,
    /// How much lifetime a cached token must have left; otherwise request a new one [default: as
    /// --expired-buffer]
    ///
    /// Capped at nine tenths of the token's lifetime.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) min_remaining: Option<Duration>,
    /// How to print the token
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What the session's own token is for.
#[derive(Args)]
pub(crate) struct GrantArgs {
    /// A scope to ask for; may be repeated
    #[arg(long, value_name = "S")]
    pub(crate) scope: Vec<String>,
    /// A resource that the token is for (RFC 8707); may be repeated
    #[arg(long, value_name = "URI")]
    pub(crate) resource: Vec<String>,
    /// The audience that the token is for; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) audience: Vec<String>,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) grant: GrantArgs,
    /// A scope for the exchanged token, instead of all scopes of the original; may be repeated
    #[arg(long, value_name = "S")]
    pub(crate) exchange_scope: Vec<String>,
    /// A step to leave out; may be repeated
    #[arg(long, value_enum, value_name = "STEP")]
    pub(crate) skip: Vec<Step>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What `check` can do without.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Exchange the token for another one
    Exchange,
    /// Ask whether the token is active
    Introspection,
    /// Revoke the tokens; if skipped, they stay valid until they expire
    Revocation,
}

#[derive(Args)]
pub(crate) struct ExchangeArgs {
    /// A scope of the new token; may be repeated
    #[arg(long = "scope", value_name = "S")]
    pub(crate) scopes: Vec<String>,
    /// A scope to request for the subject token, like --scope of "token"; may be repeated
    #[arg(long, value_name = "S")]
    pub(crate) grant_scope: Vec<String>,
    /// A resource for the subject token, like --resource of "token"; may be repeated
    #[arg(long, value_name = "URI")]
    pub(crate) grant_resource: Vec<String>,
    /// An audience for the subject token, like --audience of "token"; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) grant_audience: Vec<String>,
    /// A resource that the new token is for; may be repeated
    #[arg(long = "resource", value_name = "URI")]
    pub(crate) resources: Vec<String>,
    /// The audience that the new token is for; may be repeated
    #[arg(long = "audience", value_name = "NAME")]
    pub(crate) audiences: Vec<String>,
    /// A unique id of the person on whose behalf the new token will be used (Box's annotator)
    #[arg(long, value_name = "ID", requires = "actor_name")]
    pub(crate) actor_id: Option<String>,
    /// The display name of that person
    #[arg(long, value_name = "NAME", requires = "actor_id")]
    pub(crate) actor_name: Option<String>,
    /// Restrict the new token to what this shared link reaches (Box)
    #[arg(long, value_name = "URL")]
    pub(crate) shared_link: Option<String>,
    /// What kind of token to ask for (RFC 8693 §3)
    #[arg(long, value_name = "URI")]
    pub(crate) requested_token_type: Option<String>,
    /// How to print the token
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(
        flatten,
        next_help_heading = "Selects the cached token; without --cache these flags have no effect, and are \
            accepted so that revoke takes the same flags as token"
    )]
    pub(crate) grant: GrantArgs,
}

#[derive(Args)]
pub(crate) struct AuthorityArgs {
    /// The port on 127.0.0.1; 0 selects any free port
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// A JSON file that describes which failures to simulate, and when
    ///
    /// {"rules": [{"on": "grant", "requests": [2, 3], "fault": {"answer": {"status": 503}}}]}. All keys are
    /// documented at ccg_session::testing::Script.
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// How long tokens live [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// The id of its only client
    #[arg(long, value_name = "ID", default_value = "test-client")]
    pub(crate) client_id: String,
    /// A file with the client's secret; - reads it from stdin [default: the secret is test-secret]
    ///
    /// The secret is printed: use it only for tests.
    #[arg(long, value_name = "PATH")]
    pub(crate) client_secret_file: Option<PathBuf>,
    /// A file with the client's key (PEM or JWK), or its public key as a JWK, to verify assertions
    #[arg(long, value_name = "PATH")]
    pub(crate) client_key: Option<PathBuf>,
    /// A PEM file with a certificate for 127.0.0.1; enables TLS
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// A PEM file with that certificate's private key
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A PEM file with the CA for client certificates; a client with a certificate needs no secret
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) client_ca: Option<PathBuf>,
    /// The audience that assertions must have, instead of the issuer or an endpoint URL; may be repeated
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) assertion_audience: Vec<String>,
    /// The enterprise that tokens can be requested for [default: 12345]
    #[arg(long, value_name = "ID")]
    pub(crate) enterprise: Option<String>,
    /// A user that tokens can be requested for, in addition to 67890; may be repeated
    #[arg(long = "user", value_name = "ID")]
    pub(crate) users: Vec<String>,
    /// A scope that can be granted, instead of Box's usual ones; may be repeated
    #[arg(long = "scope", value_name = "S")]
    pub(crate) scopes: Vec<String>,
    /// Refuse a grant that names neither enterprise nor user, as Box does
    #[arg(long)]
    pub(crate) require_subject: bool,
}

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// How many tasks share the session
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) tasks: u16,
    /// How long the demo runs; shorter runs use shorter token lifetimes
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(8..=3600))]
    pub(crate) seconds: u16,
    /// With 2 or more, run the pool demo instead: N tenants start, and N more start during an outage
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=20_000),
        conflicts_with_all = ["tasks", "seconds", "plot", "sabotage"],
    )]
    pub(crate) tenants: u16,
    /// Run the fleet demo instead: N processes share one token through a store; one is killed, and one revokes
    /// the token
    ///
    /// Without --redis the store is a directory, ccg-session-demo-*, in the system's temporary directory. It is
    /// removed at the end, unless the demo itself is killed (SIGKILL).
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(2..=16),
        conflicts_with_all = ["tasks", "tenants", "sabotage"],
    )]
    pub(crate) replicas: Option<u16>,
    /// Use this Redis as the store, instead of a directory; - reads the address from stdin, which is required
    /// if it contains a password
    #[arg(long, value_name = "URL", requires = "replicas")]
    pub(crate) redis: Option<String>,
    /// Write a timeline of the run to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Print the figures as one JSON object in place of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Let the tasks keep their first token, which must not go well: a test of the demo's own checks
    #[arg(long, hide = true)]
    pub(crate) sabotage: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The token itself
    Raw,
    /// An HTTP header line: "Authorization: Bearer …", or "Authorization: DPoP …" for a token bound to a key
    Header,
    /// A JSON object: access_token, token_type, expires_in, scope, attempts; errors are printed as JSON too
    Json,
    /// A JSON object for kubectl and other programs that run this as a credential plugin
    ExecCredential,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_exit_codes_are_in_each_help() {
        let mut command = Cli::command();
        assert!(command.render_long_help().to_string().contains(EXIT_CODES));
        for name in ["demo", "token", "exchange", "revoke", "check", "authority"] {
            let subcommand = command.find_subcommand_mut(name).unwrap();
            assert!(subcommand.render_long_help().to_string().contains(EXIT_CODES), "{name}");
        }
    }
}
