//! The key that seals a cache: in a file that is named, or made by the first call, in the directory itself.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use secrecy::{ExposeSecret, SecretString};

use super::place::Place;
use crate::failure::Failure;
use crate::input;
use crate::settings::Settings;

pub(super) struct Key {
    pub(super) secret: SecretString,
    pub(super) path: PathBuf,
}

pub(super) fn read(settings: &Settings, place: &Place) -> Result<Key, Failure> {
    let (name, path) = match (&settings.cache_key_file, place) {
        (Some(path), _) => ("--cache-key-file", path.clone()),
        (None, Place::Directory(_, directory)) => {
            let path = directory.join(NAME);
            if !path.exists()
                && let Err(error) = make(directory, &path)
            {
                // Nothing can be kept there yet, so there is nothing that others would have to open.
                let alone = drawn().ok().filter(|_| is_full(&error));
                let secret = alone.ok_or_else(|| unmade(&path, &error))?;
                return Ok(Key { secret: secret.into(), path });
            }
            (MADE, path)
        }
        #[cfg(feature = "redis")]
        (None, Place::Redis(_)) => return Err(Failure::Usage(NO_KEY.into())),
    };
    check_mode(&path).map_err(|problem| {
        Failure::Usage(format!("{name} {problem} (the file {})", path.display()))
    })?;
    let secret = input::secret(name, &path)?;
    if name == MADE && secret.expose_secret().len() < LENGTH {
        return Err(Failure::Usage(format!(
            "{MADE} is not whole: delete it, and the next call makes another ({})",
            path.display()
        )));
    }
    Ok(Key { secret, path })
}

/// Beside what it seals, where each call finds it whatever its environment. No file of the store has this name.
const NAME: &str = "key";

/// As errors call it.
const MADE: &str = "the key of the cache";

/// 32 bytes, in base64.
const LENGTH: usize = 43;

#[cfg(feature = "redis")]
const NO_KEY: &str =
    "--cache in Redis needs a key that all who use it have: give --cache-key-file PATH";

/// Whole under another name first, then linked to its own: of two calls at once the first one's stays, and
/// nobody reads half of it.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    let secret = drawn()?;
    // The store removes what is left behind under such a name.
    let temporary = directory.join(format!("ccg-session-tmp-{:032x}", fastrand::u128(..)));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    let made = file
        .write_all(format!("{secret}\n").as_bytes())
        // Half a key after a power cut would be in the way until somebody deletes it.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn drawn() -> io::Result<String> {
    let mut random = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(random))
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn unmade(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{MADE} cannot be made: {error} (the file {})", path.display()))
}

/// Nobody but its owner may read it; where root mounts it, as platforms do, its group may too.
#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    let others = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.mode() & others == 0 {
        return Ok(());
    }
    let mode = metadata.mode() & 0o777;
    Err(format!("has the mode {mode:03o}, so others can reach it: chmod 600 it"))
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), String> {
    Ok(())
}
