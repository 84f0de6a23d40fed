//! What flags and the configuration file say together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

use crate::args::{Auth, GrantArgs, ProviderArgs, SessionArgs};
use crate::failure::Failure;

/// Under the names of the flags.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) issuer: Option<String>,
    pub(crate) box_enterprise: Option<String>,
    pub(crate) box_user: Option<String>,
    pub(crate) box_base_url: Option<String>,
    pub(crate) token_url: Option<String>,
    pub(crate) revocation_url: Option<String>,
    pub(crate) introspection_url: Option<String>,
    pub(crate) auth: Option<Auth>,
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) scope: Vec<String>,
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) resource: Vec<String>,
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) audience: Vec<String>,
    #[serde(deserialize_with = "pairs")]
    pub(crate) param: Vec<(String, String)>,
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret_file: Option<PathBuf>,
    pub(crate) algorithm: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) assertion_audience: Option<String>,
    pub(crate) dpop_key: Option<PathBuf>,
    pub(crate) root_certificate: Option<PathBuf>,
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    #[serde(deserialize_with = "duration")]
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) allow_insecure_http: bool,
    pub(crate) session: SessionArgs,
}

impl Settings {
    /// A flag counts more than the file.
    pub(crate) fn new(flags: &ProviderArgs, session: &SessionArgs) -> Result<Self, Failure> {
        let mut settings = match &flags.config {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        settings.forget_server(flags);
        over(&mut settings.issuer, flags.issuer.as_ref());
        over(&mut settings.box_enterprise, flags.box_enterprise.as_ref());
        over(&mut settings.box_user, flags.box_user.as_ref());
        over(&mut settings.box_base_url, flags.box_base_url.as_ref());
        over(&mut settings.token_url, flags.token_url.as_ref());
        over(&mut settings.revocation_url, flags.revocation_url.as_ref());
        over(&mut settings.introspection_url, flags.introspection_url.as_ref());
        over(&mut settings.auth, flags.auth.as_ref());
        over(&mut settings.client_id, flags.client_id.as_ref());
        over(&mut settings.client_secret_file, flags.client_secret_file.as_ref());
        over(&mut settings.algorithm, flags.algorithm.as_ref());
        over(&mut settings.key_id, flags.key_id.as_ref());
        over(&mut settings.assertion_audience, flags.assertion_audience.as_ref());
        over(&mut settings.dpop_key, flags.dpop_key.as_ref());
        over(&mut settings.root_certificate, flags.root_certificate.as_ref());
        over(&mut settings.client_certificate, flags.client_certificate.as_ref());
        over(&mut settings.client_key, flags.client_key.as_ref());
        over(&mut settings.connect_timeout, flags.connect_timeout.as_ref());
        settings.allow_insecure_http |= flags.allow_insecure_http;
        over_all(&mut settings.param, &flags.param);

        let own = &mut settings.session;
        over(&mut own.attempts, session.attempts.as_ref());
        over(&mut own.attempt_timeout, session.attempt_timeout.as_ref());
        over(&mut own.stale_buffer, session.stale_buffer.as_ref());
        over(&mut own.expired_buffer, session.expired_buffer.as_ref());
        Ok(settings)
    }

    /// With what the session's own token shall be.
    pub(crate) fn asking_for(mut self, grant: &GrantArgs) -> Self {
        over_all(&mut self.scope, &grant.scope);
        over_all(&mut self.resource, &grant.resource);
        over_all(&mut self.audience, &grant.audience);
        self
    }

    pub(crate) fn is_box(&self) -> bool {
        self.box_enterprise.is_some() || self.box_user.is_some()
    }

    /// If flags name another server than the file, then the file's addresses are not meant. Another
    /// subject of Box is on the same one.
    fn forget_server(&mut self, flags: &ProviderArgs) {
        let of_box = flags.box_enterprise.is_some() || flags.box_user.is_some();
        let was_of_box = self.is_box();
        if of_box || flags.issuer.is_some() || flags.token_url.is_some() {
            self.box_enterprise = None;
            self.box_user = None;
            if !(of_box && was_of_box) {
                self.issuer = None;
                self.box_base_url = None;
                self.token_url = None;
                self.revocation_url = None;
                self.introspection_url = None;
            }
        }
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let unusable = |problem: &dyn std::fmt::Display| {
            let path = path.display();
            Failure::Usage(format!("the configuration {path} cannot be used: {problem}"))
        };
        let text = fs::read_to_string(path).map_err(|error| unusable(&error))?;
        let mut settings =
            toml::from_str::<Self>(&text).map_err(|error| unusable(&problem(&error, &text)))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [
            &mut settings.client_secret_file,
            &mut settings.dpop_key,
            &mut settings.root_certificate,
            &mut settings.client_certificate,
            &mut settings.client_key,
        ] {
            if let Some(file) = file.as_mut().filter(|file| **file != *Path::new("-")) {
                *file = folder.join(&file);
            }
        }
        Ok(settings)
    }
}

fn over<T: Clone>(setting: &mut Option<T>, flag: Option<&T>) {
    if flag.is_some() {
        *setting = flag.cloned();
    }
}

fn over_all<T: Clone>(setting: &mut Vec<T>, flags: &[T]) {
    if !flags.is_empty() {
        *setting = flags.to_vec();
    }
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
    #[serde(untagged, expecting = "expected a text, or a list of texts")]
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
            ("scope = 7", "line 1: expected a text, or a list of texts"),
            (
                "auth = \"digest\"",
                "line 1: unknown variant `digest`, expected one of `post`, `basic`",
            ),
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
