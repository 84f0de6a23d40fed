//! Where the client's secret comes from. It may change while the program runs, so it is read at each
//! attempt.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, oneshot};

use super::as_text::as_text;
use super::limits::{MAX_FILE, MAX_READS};
use crate::asked;
use crate::error::TokenError;

/// The source of the client's secret: a password, a key, or an assertion, as [`ClientAuth`](crate::ClientAuth)
/// says.
///
/// It is read for each attempt, and again (for at most a second) after each refusal. If it has changed by then,
/// the next attempt follows immediately. So you can rotate a secret while the program runs. Trailing newlines
/// and a leading UTF-8 byte order mark are removed.
///
/// A string converts into a fixed credential:
///
/// ```no_run
/// use ccg_session::{Credential, HttpTokenManager, Provider};
///
/// # fn main() -> Result<(), ccg_session::ConfigError> {
/// # let provider = Provider::generic("https://login.example.com/token");
/// let fixed = HttpTokenManager::builder(provider.clone(), "client-id", "a secret").build()?;
/// let rotated = Credential::file("/run/secrets/client-secret");
/// let rotated = HttpTokenManager::builder(provider, "client-id", rotated).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Credential(Source);

#[derive(Clone)]
enum Source {
    None,
    Value(SecretString),
    Env(String),
    File {
        path: PathBuf,
        /// One permit for each read that may be under way.
        reads: Arc<Semaphore>,
    },
    Fn(Arc<dyn Fn() -> Reading + Send + Sync>),
}

type Reading = Pin<Box<dyn Future<Output = Result<SecretString, AnyError>> + Send>>;
type AnyError = Box<dyn Error + Send + Sync>;

/// What a closure met.
#[derive(Debug, thiserror::Error)]
#[error("could not be read: {0}")]
struct Unread(#[source] AnyError);

impl Credential {
    /// An environment variable. If it is not set or is empty, building the manager fails.
    pub fn env(name: impl Into<String>) -> Self {
        Self(Source::Env(name.into()))
    }

    /// A file of at most 1 MiB, such as a mounted secret or a token that a platform rotates. It need not exist
    /// when the manager is built: while it cannot be read, attempts fail with [`TokenError::Credential`].
    ///
    /// Each read runs on its own thread, at most four at a time. If the file's mount hangs, attempts time out
    /// with an error that names the file, and up to four threads hang until the mount is back. A runtime that
    /// shuts down does not wait for them.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File { path: path.into(), reads: Arc::new(Semaphore::new(MAX_READS)) })
    }

    /// The value that this closure returns, for example a secret from a vault. Its run time counts towards
    /// [`attempt_timeout`](crate::RetryPolicy::attempt_timeout).
    ///
    /// It should return the same string until the secret really changes: if the string is new each time, each
    /// refusal costs an extra attempt. An error fails the attempt, which may be retried. Its text is shown to
    /// callers, so it must not contain a secret.
    ///
    /// ```
    /// use ccg_session::Credential;
    ///
    /// # async fn read_from_vault(path: &str) -> std::io::Result<String> { Ok(path.into()) }
    /// let credential = Credential::from_fn(|| read_from_vault("kv/my-service"));
    /// ```
    pub fn from_fn<F, R, S, E>(read: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<S, E>> + Send + 'static,
        S: Into<SecretString>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self(Source::Fn(Arc::new(move || {
            let reading = read();
            Box::pin(async move { reading.await.map(Into::into).map_err(Into::into) })
        })))
    }

    /// No credential: for [`ClientAuth::TlsClient`](crate::ClientAuth::TlsClient) and
    /// [`ClientAuth::None`](crate::ClientAuth::None).
    pub fn none() -> Self {
        Self(Source::None)
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self.0, Source::None)
    }

    /// What is known of it without waiting, or what is wrong with it already.
    pub(crate) fn known(&self) -> Result<Option<SecretString>, String> {
        match &self.0 {
            Source::Value(secret) => checked(secret.clone()).map(Some).map_err(Into::into),
            Source::Env(name) => variable(name).map(Some),
            Source::None | Source::File { .. } | Source::Fn(_) => Ok(None),
        }
    }

    /// As it is now; `None` if there is none.
    pub(crate) async fn read(&self) -> Result<Option<SecretString>, TokenError> {
        let secret = match &self.0 {
            Source::None => return Ok(None),
            Source::Value(secret) => checked(secret.clone()).map_err(AnyError::from),
            Source::Env(name) => variable(name).map_err(AnyError::from),
            Source::File { path, reads } => read_apart(path, reads).await,
            Source::Fn(read) => match read().await {
                Ok(secret) => checked(secret).map_err(AnyError::from),
                Err(error) => Err(Unread(error).into()),
            },
        };
        secret.map(Some).map_err(TokenError::credential)
    }

    /// Whether it now is something else than what was used. One that cannot be read is not.
    pub(super) async fn has_changed_since(&self, used: Option<&SecretString>) -> bool {
        match self.0 {
            Source::None | Source::Value(_) => false,
            Source::Env(_) | Source::File { .. } | Source::Fn(_) => {
                let now = self.read().await.ok().flatten();
                now.is_some_and(|now| {
                    used.is_none_or(|used| used.expose_secret() != now.expose_secret())
                })
            }
        }
    }
}

impl From<SecretString> for Credential {
    fn from(secret: SecretString) -> Self {
        Self(Source::Value(secret))
    }
}

impl From<String> for Credential {
    fn from(secret: String) -> Self {
        Self(Source::Value(secret.into()))
    }
}

impl From<&str> for Credential {
    fn from(secret: &str) -> Self {
        Self(Source::Value(secret.into()))
    }
}

/// Says where it comes from, never what it is.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::None => f.write_str("none"),
            Source::Value(_) => f.write_str("[redacted]"),
            Source::Env(name) => write!(f, "env({name:?})"),
            Source::File { path, .. } => write!(f, "file({path:?})"),
            Source::Fn(_) => f.write_str("from_fn"),
        }
    }
}

/// What was read as the credential will not do.
pub(super) fn unusable(problem: String) -> TokenError {
    TokenError::credential(problem)
}

fn variable(name: &str) -> Result<SecretString, String> {
    match std::env::var(name) {
        Ok(secret) => {
            checked(secret.into()).map_err(|problem| format!("{problem} (the variable {name})"))
        }
        Err(std::env::VarError::NotPresent) => {
            Err(format!("comes from the environment variable {name}, which is not set"))
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("comes from the environment variable {name}, which is not UTF-8"))
        }
    }
}

/// On a thread of its own: a file may be far away, and the runtime's threads for what blocks are shared
/// with everybody else, and waited for when it ends.
async fn read_apart(path: &Path, reads: &Arc<Semaphore>) -> Result<SecretString, AnyError> {
    // An attempt that hangs here has not asked the server yet.
    asked::note(&format!("the file {}", path.display()));
    let permit = Arc::clone(reads).acquire_owned().await?;
    let (done, result) = oneshot::channel();
    let own = path.to_owned();
    let read = move || {
        // Nobody waits for it any more if the attempt has timed out.
        let _ = done.send(file(&own));
        drop(permit);
    };
    let thread = thread::Builder::new().name("ccg-credential".into()).spawn(read);
    thread.map_err(|error| unread(path, &error))?;
    Ok(result.await??)
}

fn file(path: &Path) -> Result<SecretString, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)? as u64;
        if length > MAX_FILE {
            return Err(io::Error::other("it is longer than 1 MiB"));
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|error| unread(path, &error))?;
    let text = as_text(bytes)
        .map_err(|problem| format!("cannot be read from the file {}: {problem}", path.display()))?;
    checked(text.into()).map_err(|problem| format!("{problem} (the file {})", path.display()))
}

fn unread(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    format!("cannot be read from the file {path} ({error}): check the path and who may read it")
}

/// Without newlines at its end, nor the mark by which editors say that a file is UTF-8. Empty it proves nothing:
/// somebody is just writing it, perhaps.
fn checked(secret: SecretString) -> Result<SecretString, &'static str> {
    let text = secret.expose_secret();
    let trimmed = text.trim_start_matches('\u{feff}').trim_end_matches(['\r', '\n']);
    match trimmed.len() {
        0 => Err("is empty"),
        length if length == text.len() => Ok(secret),
        _ => Ok(trimmed.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn read(credential: &Credential) -> Result<String, String> {
        match credential.read().await {
            Ok(secret) => Ok(secret.map_or("none".into(), |secret| secret.expose_secret().into())),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn each_source_is_read_without_the_newlines_at_its_end() {
        let path = std::env::temp_dir().join(format!("credential-{}", std::process::id()));
        for (written, expected) in
            [("s3cr3t", "s3cr3t"), ("\u{feff}s3cr3t\n", "s3cr3t"), (" a b \r\n\n", " a b ")]
        {
            std::fs::write(&path, written).unwrap();
            let text = written.to_owned();
            for credential in [
                Credential::from(written),
                Credential::from(written.to_owned()),
                Credential::from(SecretString::from(written)),
                Credential::file(&path),
                Credential::from_fn(move || {
                    let text = text.clone();
                    async move { io::Result::Ok(text) }
                }),
            ] {
                assert_eq!(read(&credential).await.as_deref(), Ok(expected), "{credential:?}");
            }
        }
        std::fs::write(&path, "\u{feff}s3cr3t\r\n").unwrap();
        assert_eq!(read(&Credential::file(&path)).await.as_deref(), Ok("s3cr3t"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&Credential::none()).await.as_deref(), Ok("none"));
        // What every process on Unix has, and cargo sets everywhere.
        let home = Credential::env("CARGO_MANIFEST_DIR");
        assert_eq!(read(&home).await.unwrap(), std::env::var("CARGO_MANIFEST_DIR").unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_read_says_where_it_should_have_been() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("credential-odd-{}", std::process::id()));
        let long = "x".repeat(usize::try_from(MAX_FILE).unwrap() + 1);
        for (bytes, expected) in
            [(&b"\n"[..], "is empty"), (b"s3cr3t \xff", "UTF-8"), (long.as_bytes(), "1 MiB")]
        {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&Credential::file(&path)).await.unwrap_err();
            assert!(error.contains(expected) && error.contains("credential-odd"), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = read(&Credential::file(directory.join("nowhere/secret"))).await.unwrap_err();
        assert!(error.contains("nowhere/secret (No such file"), "{error}");
        let error = read(&Credential::file(&directory)).await.unwrap_err();
        assert!(error.contains("directory"), "{error}");

        let error = read(&Credential::env("CCG_SESSION_NOT_SET")).await.unwrap_err();
        assert!(error.contains("variable CCG_SESSION_NOT_SET, which is not set"), "{error}");
        let sealed = Credential::from_fn(|| async { Err::<String, _>("the vault is sealed") });
        let error = read(&sealed).await.unwrap_err();
        assert_eq!(error, "the client's credential could not be read: the vault is sealed");
    }

    /// A pipe that nobody writes to hangs as a file of a dead mount does.
    #[cfg(unix)]
    #[test]
    fn a_file_that_hangs_keeps_a_few_threads_and_no_runtime() {
        let path = std::env::temp_dir().join(format!("credential-pipe-{}", std::process::id()));
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let credential = Credential::file(&path);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for _ in 0..3 * MAX_READS {
                let read = tokio::time::timeout(Duration::from_millis(10), credential.read());
                assert!(read.await.is_err());
            }
        });
        let Source::File { reads, .. } = &credential.0 else { panic!("{credential:?}") };
        assert_eq!(reads.available_permits(), 0);
        drop(runtime); // It ends, though they still hang.

        // Once it is there again, those end, and whoever asks is served.
        std::fs::write(&path, "s3cr3t").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "s3cr3t").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let secret = runtime.block_on(credential.read()).unwrap().unwrap();
        assert_eq!(secret.expose_secret(), "s3cr3t");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_change_is_one_that_can_be_read() {
        let path = std::env::temp_dir().join(format!("credential-new-{}", std::process::id()));
        let credential = Credential::file(&path);
        std::fs::write(&path, "one").unwrap();
        let used = credential.read().await.unwrap();
        assert!(!credential.has_changed_since(used.as_ref()).await);
        std::fs::write(&path, "one\n").unwrap();
        assert!(!credential.has_changed_since(used.as_ref()).await);
        std::fs::write(&path, "").unwrap();
        assert!(!credential.has_changed_since(used.as_ref()).await);
        std::fs::write(&path, "two").unwrap();
        assert!(credential.has_changed_since(used.as_ref()).await);
        std::fs::remove_file(&path).unwrap();
        assert!(!credential.has_changed_since(used.as_ref()).await);
        let value = Credential::from("one");
        assert!(!value.has_changed_since(Some(&"other".into())).await);
    }

    #[test]
    fn debug_says_where_it_comes_from_and_not_what_it_is() {
        let shown = format!(
            "{:?}",
            [
                Credential::from("s3cr3t"),
                Credential::env("NAME"),
                Credential::file("/run/secret"),
                Credential::from_fn(|| async { Ok::<_, io::Error>("s3cr3t") }),
                Credential::none(),
            ]
        );
        assert_eq!(shown, "[[redacted], env(\"NAME\"), file(\"/run/secret\"), from_fn, none]");
    }
}
