//! What the command takes. Nothing here is checked beyond its form: what makes no sense is refused by
//! the library, in its own words.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::settings::duration;

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
    /// Revoke the token that is read from stdin (RFC 7009)
    #[command(after_help = EXIT_CODES)]
    Revoke(RevokeArgs),
    /// Try a configuration step by step, and say what works, what does not, and what to do
    ///
    /// Gets a token, exchanges it, asks whether it is active, revokes it, and asks again.
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
  141  nobody reads the result: it ends as a closed pipe ends other programs";

// In each of them what is flattened comes last: its headings hold for whatever follows.
#[derive(Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) grant: GrantArgs,
    /// How to print the token
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

/// What the session's own token shall be.
#[derive(Args)]
pub(crate) struct GrantArgs {
    /// A scope to ask for; may be repeated
    #[arg(long, value_name = "S")]
    pub(crate) scope: Vec<String>,
    /// Where the token shall be of use (RFC 8707); may be repeated
    #[arg(long, value_name = "URI")]
    pub(crate) resource: Vec<String>,
    /// Whom the token shall be of use with; may be repeated
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
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
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
    /// A scope that the new token shall have; may be repeated
    #[arg(long = "scope", value_name = "S")]
    pub(crate) scopes: Vec<String>,
    /// A scope of the token that is exchanged, as --scope is to `token`; may be repeated
    #[arg(long, value_name = "S")]
    pub(crate) grant_scope: Vec<String>,
    /// Where the token that is exchanged shall be of use, as --resource is to `token`; may be repeated
    #[arg(long, value_name = "URI")]
    pub(crate) grant_resource: Vec<String>,
    /// Whom it shall be of use with, as --audience is to `token`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) grant_audience: Vec<String>,
    /// Where the new token shall be of use; may be repeated
    #[arg(long = "resource", value_name = "URI")]
    pub(crate) resources: Vec<String>,
    /// Whom the new token shall be of use with; may be repeated
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
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
    #[command(
        flatten,
        next_help_heading = "Of no effect, so that `revoke` takes what `token` takes"
    )]
    pub(crate) _grant: GrantArgs,
}

/// Whom to ask, and as whom.
#[derive(Args)]
#[command(next_help_heading = "Provider")]
pub(crate) struct ProviderArgs {
    /// A TOML file with any of these settings, under the same names (without the dashes before them)
    ///
    /// What may be repeated is a list there, and param is a table: `param = { name = "value" }`. They are
    /// those of the grant. A table `[session]` has those of the session: attempts, attempt-timeout,
    /// stale-buffer, expired-buffer. A flag counts more than the file. A path in it is taken from where the file is.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Any server that publishes its addresses: its issuer, exactly as the server writes it
    #[arg(long, value_name = "URL", group = "provider")]
    pub(crate) issuer: Option<String>,
    /// Box, as the service account in this enterprise
    #[arg(long, value_name = "ID", group = "provider")]
    pub(crate) box_enterprise: Option<String>,
    /// Box, as this user
    #[arg(long, value_name = "ID", group = "provider")]
    pub(crate) box_user: Option<String>,
    /// Any server with client credentials: its token endpoint
    #[arg(long, value_name = "URL", group = "provider")]
    pub(crate) token_url: Option<String>,
    /// Where that server revokes tokens
    #[arg(long, value_name = "URL")]
    pub(crate) revocation_url: Option<String>,
    /// Where one may ask that server whether a token is active
    #[arg(long, value_name = "URL")]
    pub(crate) introspection_url: Option<String>,
    /// How to authenticate there [default: post]
    #[arg(long, value_enum)]
    pub(crate) auth: Option<Auth>,
    /// A Box that is somewhere else than `https://api.box.com`
    #[arg(long, value_name = "URL", conflicts_with_all = ["token_url", "issuer"])]
    pub(crate) box_base_url: Option<String>,
    /// One more parameter of each grant; may be repeated
    ///
    /// Other users of this machine can read it here: one that is secret belongs into the file.
    #[arg(long, value_name = "K=V", value_parser = param)]
    pub(crate) param: Vec<(String, String)>,
    /// The client's id [default: the file's, else what the variable `CCG_SESSION_CLIENT_ID` holds]
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// A file with the client's secret; - reads it from stdin
    ///
    /// Without it, here and in the configuration file, the secret is taken from the environment variable
    /// `CCG_SESSION_CLIENT_SECRET`. A newline at the end is left out. There is no flag for the secret
    /// itself, since other users of the machine can read a command's arguments.
    #[arg(long, value_name = "PATH")]
    pub(crate) client_secret_file: Option<PathBuf>,
    /// How an assertion is signed, such as PS256 [default: as the JWK says, else as is usual for the key]
    #[arg(long, value_name = "ALG")]
    pub(crate) algorithm: Option<String>,
    /// Which of the client's keys signs an assertion: its header's kid [default: the JWK's]
    #[arg(long, value_name = "ID")]
    pub(crate) key_id: Option<String>,
    /// Whom an assertion is for: endpoint, issuer, or another text [default: endpoint]
    #[arg(long, value_name = "WHOM")]
    pub(crate) assertion_audience: Option<String>,
    /// A file with a private key (PEM or JWK) that tokens are to be bound to (RFC 9449)
    ///
    /// A request that uses such a token has a proof beside it, which only who holds the key can make.
    #[arg(long, value_name = "PATH")]
    pub(crate) dpop_key: Option<PathBuf>,
    /// A PEM file with certificates to trust besides those of this machine
    #[arg(long, value_name = "PATH")]
    pub(crate) root_certificate: Option<PathBuf>,
    /// A PEM file with the client's certificate, for servers that ask for one
    #[arg(long, value_name = "PATH")]
    pub(crate) client_certificate: Option<PathBuf>,
    /// A PEM file with that certificate's private key
    #[arg(long, value_name = "PATH")]
    pub(crate) client_key: Option<PathBuf>,
    /// How long connecting may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) connect_timeout: Option<Duration>,
    /// Let the secret and the tokens travel without TLS to a server that is not this machine
    #[arg(long)]
    pub(crate) allow_insecure_http: bool,
}

/// How the session behaves. What is left out is the library's default.
#[derive(Args, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields, expecting = "a table of settings")]
#[command(next_help_heading = "Session")]
pub(crate) struct SessionArgs {
    /// How often to try [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) attempts: Option<u32>,
    /// How long an attempt may take, such as 500ms, 10s, 10m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) attempt_timeout: Option<Duration>,
    /// How long before its expiry a token is refreshed [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) stale_buffer: Option<Duration>,
    /// How long before its expiry a token is held back for a new one [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) expired_buffer: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct AuthorityArgs {
    /// The port on 127.0.0.1; 0 is any free one
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// A JSON file that says what goes wrong, and when
    ///
    /// {"rules": [{"on": "grant", "requests": [2, 3], "fault": {"answer": {"status": 503}}}]}. All its
    /// keys are told in the documentation of `ccg_session::testing::Script`.
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
}

/// A method of client authentication by its name here.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Auth {
    /// `client_secret_post`: in the form
    Post,
    /// `client_secret_basic`: in a header
    Basic,
    /// In a header, not encoded before base64
    BasicRaw,
    /// `client_secret_jwt`: the secret signs an assertion
    SecretJwt,
    /// `private_key_jwt`: a private key (PEM or JWK, in place of the secret) signs an assertion
    PrivateKeyJwt,
    /// An assertion that a platform writes, in place of the secret
    Assertion,
    /// `tls_client_auth`: a client certificate, and no secret
    TlsClient,
    /// No secret at all
    None,
}

fn param(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be a name, =, and a value")?;
    Ok((name.into(), value.into()))
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
