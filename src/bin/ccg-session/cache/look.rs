//! What `check` says of a cache.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ccg_session::{HttpTokenManager, Id, SessionConfig, Slot, Store, StoreError, Want};
use humantime::format_duration;
use tokio::time::timeout;

use super::place::{Kept, Place, is_locked};
use super::{CALL, Cache, Unasked};
use crate::output;
use crate::settings::Settings;

/// What is there for these settings, or else what is wrong and what to do. `None` if no cache is named.
pub(crate) async fn look(
    settings: &Settings,
    server: HttpTokenManager,
    config: SessionConfig,
) -> Option<Result<String, String>> {
    let name = settings.cache.as_ref()?;
    // Opening it may write to it.
    let behind = behind(name);
    let cache = match Cache::open(settings) {
        Ok(cache) => cache?,
        Err(failure) => return Some(Err(failure.message())),
    };
    Some(match behind {
        Some(by) => Err(format!(
            "this machine's clock is {} behind what was written to {}: set it, else what is there is not \
             used until then",
            format_duration(by),
            name.display()
        )),
        None => found(&cache, server, config).await,
    })
}

/// By how much the last write to a directory lies ahead.
fn behind(name: &Path) -> Option<Duration> {
    let written = fs::metadata(name).ok()?.modified().ok()?;
    let by = Duration::from_secs(written.duration_since(SystemTime::now()).ok()?.as_secs());
    (!by.is_zero()).then_some(by)
}

async fn found(
    cache: &Cache,
    server: HttpTokenManager,
    config: SessionConfig,
) -> Result<String, String> {
    let place = &cache.store.place;
    let others = others(place);
    try_writing(&cache.store).await.map_err(|error| remedy(place, &error))?;
    let session = cache.session(Unasked(server), config).map_err(|failure| failure.message())?;
    let token = session.get_token().await.ok();
    session.shutdown().await;
    cache.settle().await;
    if cache.fleet.counts().bad_entries > 0 {
        return Err("the token there does not open: it was damaged, or written without the key. The next one \
                    replaces it; if this comes again, see who else writes there"
            .into());
    }
    let Some(token) = token else {
        return Ok(match others {
            0 => "it can be used; there is no token yet".into(),
            _ => format!(
                "it can be used; there is no token for these settings and this key yet, but others: {others}"
            ),
        });
    };
    let left = match token.remaining() {
        Duration::MAX => "that does not end".into(),
        left => format!("with another {} to live", output::life(left)),
    };
    Ok(format!("there is a token for these settings {left}"))
}

/// In a slot of nobody's.
async fn try_writing(store: &Kept) -> Result<(), StoreError> {
    let slot = Slot::new("ccg-session", fastrand::u128(..).to_be_bytes());
    let id = Id(fastrand::u128(..).to_be_bytes());
    let mut want = Want::look();
    want.lease = Some(&id);
    let late = |_| StoreError::TimedOut;
    timeout(CALL, store.take(&slot, &want)).await.map_err(late)??;
    timeout(CALL, store.leave(&slot, &id)).await.map_err(late)??;
    Ok(())
}

fn remedy(place: &Place, error: &StoreError) -> String {
    match place {
        Place::Directory(_, path) => {
            if matches!(error, StoreError::TimedOut) {
                return is_locked(path);
            }
            let (path, said) = (path.display(), error.to_string());
            if said.contains("No space left") || said.contains("quota") {
                return format!(
                    "there is no space left in {path}: free some, or give another --cache ({said})"
                );
            }
            format!("{path} cannot be written: see to it, or give another --cache ({said})")
        }
        #[cfg(feature = "redis")]
        Place::Redis(_) => {
            let said = error.to_string();
            let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
            if has(&["NOPERM"]) {
                return format!(
                    "the user in --cache may not do what is needed: give it the rights that the \
                     documentation of RedisStore lists ({said})"
                );
            }
            if has(&["authentication failed", "WRONGPASS", "NOAUTH"]) {
                return format!(
                    "Redis does not take the user and password: check those in --cache ({said})"
                );
            }
            format!("Redis cannot be used: check --cache, and that server ({said})")
        }
    }
}

/// How many slots are used, by whatever key: what is over has been removed when it was opened.
fn others(place: &Place) -> usize {
    match place {
        Place::Directory(_, path) => {
            let files = fs::read_dir(path).into_iter().flatten().flatten();
            files.filter(|file| file.file_name().len() == 32).count()
        }
        #[cfg(feature = "redis")]
        Place::Redis(_) => 0,
    }
}
