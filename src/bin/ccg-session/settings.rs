//! Whom to ask, as whom, and how the session behaves: by flags, and under the same names by a file.

#![expect(clippy::doc_markdown, reason = "clap prints them as they are")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, de::Error};

use crate::args::GrantArgs;
use crate::failure::Failure;
use crate::input;

/// What is left out is the library's default.
#[derive(Clone, Args, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
#[command(next_help_heading = "Provider")]
pub(crate) struct Settings {
    /// A TOML file with any of these settings, under the names of the flags without the leading dashes
    ///
    /// A setting that may be repeated is a list; param is a table: param = { name = "value" }. Scopes,
    /// resources, audiences and params apply to the grant. The table [session] contains attempts,
    /// attempt-timeout, stale-buffer and expired-buffer. A flag takes precedence over the file. A path in the
    /// file is relative to the file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// The issuer of any server that publishes metadata, exactly as the server spells it
    #[arg(long, value_name = "URL", group = "provider")]
    pub(crate) issuer: Option<String>,
    /// Box, as the service account in this enterprise
    #[arg(long, value_name = "ID", group = "provider")]
    pub(crate) box_enterprise: Option<String>,
    /// Box, as this user
    #[arg(long, value_name = "ID", group = "provider")]
    pub(crate) box_user: Option<String>,
    /// The token endpoint of any server with the client credentials grant
    #[arg(long, value_name = "URL", group = "provider")]
    pub(crate) token_url: Option<String>,
    /// That server's revocation endpoint
    #[arg(long, value_name = "URL")]
    pub(crate) revocation_url: Option<String>,
    /// That server's introspection endpoint
    #[arg(long, value_name = "URL")]
    pub(crate) introspection_url: Option<String>,
    /// How to authenticate to the server [default: post]
    #[arg(long, value_enum)]
    pub(crate) auth: Option<Auth>,
    /// The base URL of Box, if it is not https://api.box.com
    #[arg(long, value_name = "URL", conflicts_with_all = ["token_url", "issuer"])]
    pub(crate) box_base_url: Option<String>,
    /// One more parameter of each grant; may be repeated
    ///
    /// Other users of this machine can read command-line arguments: put a secret value in the file.
    #[arg(long, value_name = "K=V", value_parser = param)]
    #[serde(deserialize_with = "pairs")]
    pub(crate) param: Vec<(String, String)>,
    /// The client's id [default: from the file, else from the environment variable CCG_SESSION_CLIENT_ID]
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// A file with the client's secret; - reads it from stdin
    ///
    /// Without it, here and in the configuration file, the secret is taken from the environment variable
    /// CCG_SESSION_CLIENT_SECRET. A newline at the end is left out. There is no flag for the secret
    /// itself, since other users of the machine can read a command's arguments.
    #[arg(long, value_name = "PATH")]
    pub(crate) client_secret_file: Option<PathBuf>,
    /// How an assertion is signed, such as PS256 [default: as the JWK says, else as is usual for the key]
    #[arg(long, value_name = "ALG")]
    pub(crate) algorithm: Option<String>,
    /// The id of the key that signs an assertion (the kid header) [default: the JWK's]
    #[arg(long, value_name = "ID")]
    pub(crate) key_id: Option<String>,
    /// The audience of an assertion: endpoint, issuer, or any other string [default: endpoint]
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) assertion_audience: Option<String>,
    /// The same, for revocations and introspections [default: as --assertion-audience]
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) revocation_audience: Option<String>,
    /// A file with a private key (PEM or JWK) to bind tokens to (DPoP, RFC 9449)
    ///
    /// A request with such a token needs a proof, which only the holder of the key can make.
    #[arg(long, value_name = "PATH")]
    pub(crate) dpop_key: Option<PathBuf>,
    /// A PEM file with additional CA certificates to trust
    #[arg(long, value_name = "PATH")]
    pub(crate) root_certificate: Option<PathBuf>,
    /// A PEM file with the client's certificate, for servers that ask for one
    #[arg(long, value_name = "PATH")]
    pub(crate) client_certificate: Option<PathBuf>,
    /// A PEM file with that certificate's private key
    #[arg(long, value_name = "PATH")]
    pub(crate) client_key: Option<PathBuf>,
    /// A proxy for all requests except to this machine [default: from HTTPS_PROXY and similar variables]
    ///
    /// http://proxy.example.com:3128. A password in it can be read here by other users of this machine: it
    /// belongs in the file.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// How long connecting may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) connect_timeout: Option<Duration>,
    /// The lifetime to assume for a token if the server does not say [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) assumed_lifetime: Option<Duration>,
    /// Allow sending the secret and tokens without TLS to a server other than this machine
    #[arg(long)]
    pub(crate) allow_insecure_http: bool,
    /// A directory to cache the token in: until it expires, all calls together send one request
    ///
    /// It is created if missing, with access for its owner only. It must be on a local file system, on Linux.
    /// Calls that would request the same token share it: there is one token per server, client, subject, set of
    /// scopes and so on. "revoke" with the same flags revokes it for all; deleting the directory only forgets
    /// it. With the feature "redis" it may also be an address, such as rediss://redis.example.com. Other
    /// users of this machine can read command-line arguments: put an address with a password in the file.
    #[arg(long, value_name = "DIR", help_heading = "Cache")]
    pub(crate) cache: Option<PathBuf>,
    /// A file with the key that seals the cache [default: DIR/key, which the first call makes]
    ///
    /// At least 32 bytes, the same for all calls, readable only by its owner; for example from openssl rand
    /// -hex 32. Anyone who can read DIR/key can read the tokens beside it. If the key is elsewhere, a copy of
    /// the directory reveals nothing.
    #[arg(long, value_name = "PATH", help_heading = "Cache")]
    pub(crate) cache_key_file: Option<PathBuf>,
    // Each subcommand has flags of its own for what its grant asks for.
    #[arg(skip)]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) scope: Vec<String>,
    #[arg(skip)]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) resource: Vec<String>,
    #[arg(skip)]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) audience: Vec<String>,
    #[command(flatten)]
    pub(crate) session: SessionSettings,
}

/// How the session behaves.
#[derive(Clone, Copy, Args, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields, expecting = "a table of settings")]
#[command(next_help_heading = "Session")]
pub(crate) struct SessionSettings {
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
    /// How long before its expiry a token is no longer handed out while a new one can be fetched [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) expired_buffer: Option<Duration>,
}

/// A method of client authentication, by its name here or its registered one (RFC 7591 §2, RFC 8705 §2).
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(try_from = "String")]
pub(crate) enum Auth {
    /// client_secret_post: in the form
    #[value(alias = "client_secret_post", alias = "client-secret-post")]
    Post,
    /// client_secret_basic: in a header
    #[value(alias = "client_secret_basic", alias = "client-secret-basic")]
    Basic,
    /// In a header, not encoded before base64
    BasicRaw,
    /// client_secret_jwt: the secret signs an assertion
    #[value(alias = "client_secret_jwt", alias = "client-secret-jwt")]
    SecretJwt,
    /// private_key_jwt: a private key (PEM or JWK, in place of the secret) signs an assertion
    #[value(alias = "private_key_jwt")]
    PrivateKeyJwt,
    /// An assertion that a platform writes, in place of the secret
    Assertion,
    /// tls_client_auth: a client certificate, and no secret
    #[value(aliases = ["tls_client_auth", "tls-client-auth", "self_signed_tls_client_auth", "self-signed-tls-client-auth"])]
    TlsClient,
    /// No secret at all
    None,
}

impl Auth {
    /// As metadata names it, if it does.
    pub(crate) fn registered(self) -> Option<&'static str> {
        Some(match self {
            Self::Post => "client_secret_post",
            Self::Basic | Self::BasicRaw => "client_secret_basic",
            Self::SecretJwt => "client_secret_jwt",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::None => "none",
            // The one may be of either kind of JWT, the other of a CA or its own.
            Self::Assertion | Self::TlsClient => return None,
        })
    }

    /// Whether this is a name that the flag takes.
    pub(crate) fn is_known(name: &str) -> bool {
        <Self as ValueEnum>::from_str(name, false).is_ok()
    }
}

/// In the file as in the flag.
impl TryFrom<String> for Auth {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let methods = Self::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let known: Vec<_> = methods.map(|method| method.get_name().to_owned()).collect();
        <Self as ValueEnum>::from_str(&name, false)
            // Somebody may have given a secret.
            .map_err(|_| format!("auth must be one of {}", known.join(", ")))
    }
}

impl Settings {
    /// With what the file says that they name, and with what the grant shall ask for.
    pub(crate) fn complete(self, grant: GrantArgs) -> Result<Self, Failure> {
        let GrantArgs { scope, resource, audience } = grant;
        let flags = Self { scope, resource, audience, ..self };
        let Some(path) = &flags.config else { return Ok(flags) };
        let mut file = read(path)?;
        file.forget_server(&flags);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(flags.over(file, &folder))
    }

    pub(crate) fn is_box(&self) -> bool {
        self.box_enterprise.is_some() || self.box_user.is_some()
    }

    /// If flags name another server than the file, then the file's addresses are not meant. Another
    /// subject of Box is on the same one.
    fn forget_server(&mut self, flags: &Self) {
        let was_of_box = self.is_box();
        if flags.is_box() || flags.issuer.is_some() || flags.token_url.is_some() {
            self.box_enterprise = None;
            self.box_user = None;
            if !(flags.is_box() && was_of_box) {
                self.issuer = None;
                self.box_base_url = None;
                self.token_url = None;
                self.revocation_url = None;
                self.introspection_url = None;
            }
        }
    }

    /// The one place where both meet: a flag counts more than the file. A path in the file is taken from
    /// its folder.
    fn over(self, file: Self, folder: &Path) -> Self {
        let is_path = |path: &Path| !is_stdin(path) && redis_address(path).is_none();
        let there = |path: PathBuf| if is_path(&path) { folder.join(path) } else { path };
        Self {
            config: self.config,
            issuer: self.issuer.or(file.issuer),
            box_enterprise: self.box_enterprise.or(file.box_enterprise),
            box_user: self.box_user.or(file.box_user),
            token_url: self.token_url.or(file.token_url),
            revocation_url: self.revocation_url.or(file.revocation_url),
            introspection_url: self.introspection_url.or(file.introspection_url),
            auth: self.auth.or(file.auth),
            box_base_url: self.box_base_url.or(file.box_base_url),
            param: or(self.param, file.param),
            client_id: self.client_id.or(file.client_id),
            client_secret_file: self.client_secret_file.or(file.client_secret_file.map(there)),
            algorithm: self.algorithm.or(file.algorithm),
            key_id: self.key_id.or(file.key_id),
            assertion_audience: self.assertion_audience.or(file.assertion_audience),
            revocation_audience: self.revocation_audience.or(file.revocation_audience),
            dpop_key: self.dpop_key.or(file.dpop_key.map(there)),
            root_certificate: self.root_certificate.or(file.root_certificate.map(there)),
            client_certificate: self.client_certificate.or(file.client_certificate.map(there)),
            client_key: self.client_key.or(file.client_key.map(there)),
            proxy: self.proxy.or(file.proxy),
            connect_timeout: self.connect_timeout.or(file.connect_timeout),
            assumed_lifetime: self.assumed_lifetime.or(file.assumed_lifetime),
            allow_insecure_http: self.allow_insecure_http || file.allow_insecure_http,
            cache: self.cache.or(file.cache.map(there)),
            cache_key_file: self.cache_key_file.or(file.cache_key_file.map(there)),
            scope: or(self.scope, file.scope),
            resource: or(self.resource, file.resource),
            audience: or(self.audience, file.audience),
            session: self.session.over(file.session),
        }
    }
}

impl SessionSettings {
    fn over(self, file: Self) -> Self {
        Self {
            attempts: self.attempts.or(file.attempts),
            attempt_timeout: self.attempt_timeout.or(file.attempt_timeout),
            stale_buffer: self.stale_buffer.or(file.stale_buffer),
            expired_buffer: self.expired_buffer.or(file.expired_buffer),
        }
    }
}

/// Flags that may be repeated replace the file's list.
fn or<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

/// As other programs have it.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// What `--cache` names if it is no directory.
pub(crate) fn redis_address(cache: &Path) -> Option<&str> {
    let text = cache.to_str()?;
    (text.starts_with("redis") && text.contains("://")).then_some(text)
}

fn param(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be a name, =, and a value")?;
    Ok((name.into(), value.into()))
}

fn read(path: &Path) -> Result<Settings, Failure> {
    let text = input::text("the configuration", path)?;
    toml::from_str(&text).map_err(|error| {
        let (path, problem) = (path.display(), problem(&error, &text));
        Failure::Usage(format!("the configuration {path} cannot be used: {problem}"))
    })
}

/// What is wrong, and in which line. The line itself is not shown: somebody may have written a secret
/// into it.
fn problem(error: &toml::de::Error, text: &str) -> String {
    let message = unknown_key(error.message()).unwrap_or_else(|| error.message().to_owned());
    match error.span() {
        Some(span) => {
            let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
            format!("line {line}: {message}")
        }
        None => message,
    }
}

/// serde lists all keys that would do; one is enough, if it is near.
fn unknown_key(message: &str) -> Option<String> {
    let (key, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    if key.replace('_', "-") == "client-secret" {
        return Some(
            "there is no client-secret, since files are copied and shared: put the secret into a file \
             of its own, named by client-secret-file, or into CCG_SESSION_CLIENT_SECRET"
                .into(),
        );
    }
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    Some(match nearest {
        Some((near, name)) if near > 0.7 => {
            format!("there is no setting {key:?}; did you mean {name:?}?")
        }
        _ => format!("there is no setting {key:?}; there are {}", known.join(", ")),
    })
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string, or a list of strings")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    })
}

fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    // In words of its own, since serde's would repeat what is there, and that may be a secret.
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "param is a table of texts, such as param = { name = \"value\" }"
    )]
    enum Pairs {
        Table(BTreeMap<String, String>),
    }
    let Pairs::Table(pairs) = Pairs::deserialize(deserializer)?;
    Ok(pairs.into_iter().collect())
}

/// Written as in a flag.
pub(crate) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(|error| {
        D::Error::custom(format!("{text:?} is not a duration such as \"10s\": {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        problem(&toml::from_str::<Settings>(text).err().unwrap(), text)
    }

    #[test]
    fn everything_can_be_set() {
        let settings: Settings = toml::from_str(
            r#"
            issuer = "https://as.example"
            auth = "basic"
            scope = ["a", "b"]
            audience = "https://api.example"
            param = { organization = "o", connection = "c" }
            client-id = "id"
            client-secret-file = "secret"
            connect-timeout = "2s"

            [session]
            stale-buffer = "5m"
            attempts = 7
            "#,
        )
        .unwrap();
        assert_eq!(settings.issuer.as_deref(), Some("https://as.example"));
        assert!(matches!(settings.auth, Some(Auth::Basic)));
        assert_eq!(settings.scope, ["a", "b"]);
        assert_eq!(settings.audience, ["https://api.example"]);
        let param = [("connection", "c"), ("organization", "o")];
        assert_eq!(settings.param, param.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(settings.connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(settings.session.stale_buffer, Some(Duration::from_secs(300)));
        assert_eq!(settings.session.attempts, Some(7));
        assert!(settings.resource.is_empty() && !settings.allow_insecure_http);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_the_nearest_key() {
        for (text, expected) in [
            ("\nscop = \"a\"", "line 2: there is no setting \"scop\"; did you mean \"scope\"?"),
            (
                "token_url = \"x\"",
                "line 1: there is no setting \"token_url\"; did you mean \"token-url\"?",
            ),
            (
                "[session]\nstale_buffer = \"1m\"",
                "line 2: there is no setting \"stale_buffer\"; did you mean \"stale-buffer\"?",
            ),
            ("[session]\nattempt = 1", "did you mean \"attempts\"?"),
            ("session = 7", "line 1: invalid type: integer `7`, expected a table of settings"),
            ("xyz = 1", "line 1: there is no setting \"xyz\"; there are issuer, box-enterprise"),
            ("connect-timeout = \"soon\"", "line 1: \"soon\" is not a duration such as \"10s\""),
            ("scope = 7", "line 1: expected a string, or a list of strings"),
            ("auth = \"digest\"", "line 1: auth must be one of post, basic, basic-raw"),
            ("scope = ", "line 1: "),
            ("param = \"a=b\"", "line 1: param is a table of texts"),
        ] {
            let problem = wrong(text);
            assert!(problem.contains(expected), "{text:?}: {problem}");
        }
    }

    #[test]
    fn a_secret_in_the_file_is_refused_with_advice_and_not_repeated() {
        for text in
            ["client-secret = \"hunter2\"", "client_secret = \"hunter2", "client-secret = hunter2"]
        {
            let problem = wrong(text);
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        assert!(wrong("client-secret = \"hunter2\"").contains("client-secret-file"));
    }
}
