//! What the command takes. Nothing here is checked beyond its form: what makes no sense is refused by
//! the library, in its own words.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::Settings;

/// OAuth 2.0 tokens by client credentials: get, exchange and revoke them, test against an authority
/// of your own, and see a session at work.
#[derive(Parser)]
#[command(name = "ccg-session", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log to stderr: once for warnings and news, twice for each request, three times for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show a session at work through a bad day: 256 tasks, real HTTP, outages, a revoke
    #[command(after_help = EXIT_CODES)]
    Demo(DemoArgs),
    /// Get an access token
    #[command(after_help = EXIT_CODES)]
    Token(TokenArgs),
    /// Get an access token, and exchange it for a narrower one (RFC 8693)
    #[command(after_help = EXIT_CODES)]
    Exchange(ExchangeArgs),
    /// Revoke the token that is read from stdin, or with --cache the one that is kept there (RFC 7009)
    ///
    /// With --cache, stdin is not read, and no process that shares the cache uses the token any longer: within a second
    /// in a directory. Where a file names the cache, the token is read from stdin as without it; if it is the one that is
    /// kept, the others are told as well.
    #[command(after_help = EXIT_CODES)]
    Revoke(RevokeArgs),
    /// Try a configuration step by step, and say what works, what does not, and what to do
    ///
    /// Gets a token, exchanges it, asks whether it is active, revokes it, and asks again. With --cache, looks at that
    /// as well; the token that is kept there stays as it is.
    ///
    /// No secret is printed.
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Run an authority for tests, in any language, until it is interrupted
    ///
    /// Prints one line of JSON with its URLs and credentials when it listens on 127.0.0.1.
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
  1  a figure of the demo does not hold, a step of check failed, or the result was not written
  2  usage or configuration: nothing was sent
  3  the server refused
  4  the server could not be reached, was busy or made no sense
  130  demo --replicas was interrupted, and has ended its processes
  141  nobody reads the result: the pipe was closed";

// In each of them what is flattened comes last: its headings hold for whatever follows.
#[derive(Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) grant: GrantArgs,
    /// How much life a token from the cache must have left, or another is asked for [default: as --expired-buffer]
    ///
    /// Counts as at most nine tenths of the token's whole life.
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
    /// A scope to exchange the token for, in place of all that it has; may be repeated
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
    /// Revoke the tokens; without it they live on until they expire
    Revocation,
}

#[derive(Args)]
pub(crate) struct ExchangeArgs {
    /// A scope of the new token; may be repeated
    #[arg(long = "scope", value_name = "S")]
    pub(crate) scopes: Vec<String>,
    /// A scope of the token that is exchanged, as --scope is to `token`; may be repeated
    #[arg(long, value_name = "S")]
    pub(crate) grant_scope: Vec<String>,
    /// A resource of the token that is exchanged, as --resource is to `token`; may be repeated
    #[arg(long, value_name = "URI")]
    pub(crate) grant_resource: Vec<String>,
    /// An audience of the token that is exchanged, as --audience is to `token`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) grant_audience: Vec<String>,
    /// A resource that the new token is for; may be repeated
    #[arg(long = "resource", value_name = "URI")]
    pub(crate) resources: Vec<String>,
    /// The audience that the new token is for; may be repeated
    #[arg(long = "audience", value_name = "NAME")]
    pub(crate) audiences: Vec<String>,
    /// On whose behalf the new token will be used (Box's annotator): an id that tells them apart
    #[arg(long, value_name = "ID", requires = "actor_name")]
    pub(crate) actor_id: Option<String>,
    /// The name of that person, which others see
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
        next_help_heading = "Which token of --cache; without that they have no effect, but `revoke` takes what `token` takes"
    )]
    pub(crate) grant: GrantArgs,
}

#[derive(Args)]
pub(crate) struct AuthorityArgs {
    /// The port on 127.0.0.1; 0 is any free one
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// A JSON file that says what goes wrong, and when
    ///
    /// {"rules": [{"on": "grant", "requests": [2, 3], "fault": {"answer": {"status": 503}}}]}. The
    /// documentation of `ccg_session::testing::Script` has all of its keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// How long tokens live [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// The id of its one client
    #[arg(long, value_name = "ID", default_value = "test-client")]
    pub(crate) client_id: String,
    /// A file with the client's secret; - reads it from stdin [default: the secret is test-secret]
    ///
    /// It is a secret for tests: it is printed.
    #[arg(long, value_name = "PATH")]
    pub(crate) client_secret_file: Option<PathBuf>,
    /// A file with the client's key (PEM or JWK), or its public half as a JWK, for assertions that it signs
    #[arg(long, value_name = "PATH")]
    pub(crate) client_key: Option<PathBuf>,
    /// A PEM file with its certificate, for 127.0.0.1: then it speaks TLS
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// A PEM file with that certificate's private key
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A PEM file with the CA of client certificates: who shows one needs no secret
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) client_ca: Option<PathBuf>,
    /// The audience that its assertions must have, in place of the issuer or an endpoint; may be repeated
    #[arg(long, value_name = "WHOM")]
    pub(crate) assertion_audience: Vec<String>,
    /// The enterprise that a grant may be for [default: 12345]
    #[arg(long, value_name = "ID")]
    pub(crate) enterprise: Option<String>,
    /// A user that a grant may be for, besides 67890; may be repeated
    #[arg(long = "user", value_name = "ID")]
    pub(crate) users: Vec<String>,
    /// A scope that may be granted, in place of Box's usual ones; may be repeated
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
    /// How long the day lasts; in a short one the tokens live shorter
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(8..=3600))]
    pub(crate) seconds: u16,
    /// From 2 on another demo: a pool of so many tenants starts, and as many more meet an outage
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=20_000),
        conflicts_with_all = ["tasks", "seconds", "plot", "sabotage"],
    )]
    pub(crate) tenants: u16,
    /// Another demo: so many processes share one token over a store; one is killed, one revokes
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(2..=16),
        conflicts_with_all = ["tasks", "tenants", "sabotage"],
    )]
    pub(crate) replicas: Option<u16>,
    /// Their store is this Redis, in place of a directory; - reads its address from stdin, as one with a
    /// password has to be
    #[arg(long, value_name = "URL", requires = "replicas")]
    pub(crate) redis: Option<String>,
    /// Write a timeline of the day to this file, as SVG
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
    /// The line of an HTTP request: `Authorization: Bearer …`, or `DPoP …` of a token that is bound to a key
    Header,
    /// An object: `access_token`, `token_type`, `expires_in`, scope, attempts; an error is one too
    Json,
    /// An object for kubectl and its like, which run this as a credential plugin
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
