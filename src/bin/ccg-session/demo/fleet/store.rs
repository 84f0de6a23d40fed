//! Where the replicas meet: a directory of the run's own, or a Redis that the user names.

use std::fs::DirBuilder;
use std::path::PathBuf;
use std::time::Duration;

use ccg_session::{ConfigError, Slot, Store, Want};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::line::Place;
use crate::failure::Failure;
use crate::input;

/// A fleet of the user's own has another one. So that a user of Redis can be given the right to it, it is
/// always the same; the key is another in each run, and so are the keys at the store.
pub(super) const NAMESPACE: &str = "ccg-session-demo";

/// A directory goes with it.
pub(super) struct Own(pub(super) Place);

impl Drop for Own {
    fn drop(&mut self) {
        if let Place::Directory(path) = &self.0 {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// What `--redis` names.
pub(super) fn address(flag: &str) -> Result<String, Failure> {
    if flag == "-" {
        let address = input::secret_from_stdin("the address of Redis")?;
        return Ok(address.expose_secret().into());
    }
    if has_password(flag) {
        return Err(Failure::Usage(PASSWORD.into()));
    }
    Ok(flag.into())
}

/// Looked at before the first process starts.
pub(super) async fn open(redis: Option<String>) -> Result<Own, Failure> {
    let own = Own(match redis {
        Some(address) => Place::Redis(address),
        None => Place::Directory(directory()?),
    });
    match &own.0 {
        #[cfg(target_os = "linux")]
        Place::Directory(path) => {
            let store = ccg_session::FileStore::open(path);
            look(store.map_err(|error| refused("the directory", &error))?, "the directory").await?;
        }
        #[cfg(feature = "redis")]
        Place::Redis(url) => {
            let store = ccg_session::RedisStore::connect(url.as_str()).build();
            look(store.map_err(|error| refused("--redis", &error))?, "--redis").await?;
        }
        #[allow(unreachable_patterns, reason = "with all features on Linux both are there")]
        place => return Err(is_missing(place)),
    }
    Ok(own)
}

/// In place of the library's name for it.
fn refused(what: &str, error: &ConfigError) -> Failure {
    let message = error.to_string();
    let problem = message.strip_prefix(error.setting()).unwrap_or(&message);
    Failure::Usage(format!("{what}{problem}"))
}

fn directory() -> Result<PathBuf, Failure> {
    let path = std::env::temp_dir().join(format!("ccg-session-demo-{:016x}", fastrand::u64(..)));
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&path).map_err(|error| {
        Failure::Usage(format!("the directory {} cannot be made: {error}", path.display()))
    })?;
    Ok(path)
}

async fn look(store: impl Store, what: &str) -> Result<(), Failure> {
    let slot = Slot::new(NAMESPACE, [0; 16]);
    match timeout(Duration::from_secs(5), store.take(&slot, &Want::look())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::Usage(format!("{what} is of no use: {error}"))),
        Err(_) => Err(Failure::Usage(format!("{what} is of no use: no answer within 5s"))),
    }
}

/// `user:password@` after the scheme.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

pub(super) fn is_missing(place: &Place) -> Failure {
    Failure::Usage(match place {
        Place::Directory(_) => {
            "on this system --replicas needs --redis: a directory is a store on Linux".into()
        }
        Place::Redis(_) => {
            "--redis needs a command that was built with it: cargo install --features cli,redis"
                .into()
        }
    })
}

const PASSWORD: &str = "--redis has an address with a password, and other users of this machine can read a \
    command's arguments: give the address on stdin, with --redis -. Treat that password as compromised";
