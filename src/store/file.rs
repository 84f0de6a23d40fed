//! A store in a directory, for the processes of one machine.
//!
//! Each slot is one file, so one rename changes it whole. A call locks the directory for the microseconds
//! that it takes, never across a request; a process that is killed inside gives the lock back. Nothing is
//! synced: after a power cut what is torn does not open, and a token is asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, fstatfs, openat, renameat,
    unlinkat,
};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::contract::{
    Buried, Heard, Id, MAX_ENTRY, Record, Sealed, Slot, Store, StoreError, Taken, Want,
};
use super::fleet::locked;
use super::round::{CALL, Wanted};
use super::script::{Content, Key};
use super::u64_at;
use crate::error::ConfigError;

/// Where what can be locked and renamed is: on a network it would be neither at once.
const FILE_SYSTEMS: &[(&str, i64)] = &[
    ("ext4", 0xEF53),
    ("xfs", 0x5846_5342),
    ("btrfs", 0x9123_683E),
    ("f2fs", 0xF2F5_2010),
    ("zfs", 0x2FC1_2FC1),
    ("tmpfs", 0x0102_1994),
    ("overlayfs", 0x794C_7630),
];
const LOCK: &str = "lock";
const NEWS: &str = "news";
const TEMPORARY: &str = "tmp-";
const FORMAT: u8 = 1;
const MAX_FILE: u64 = MAX_ENTRY as u64 + 2 * 1024;
const TRY_AGAIN: Duration = Duration::from_millis(2);
const LOOK_EACH: Duration = Duration::from_secs(1);
const SWEEP_EACH: Duration = Duration::from_secs(60 * 60);
/// A temporary file of a process that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// Keeps the tokens of a [`Fleet`](crate::Fleet) in a directory, for processes of one user on one machine: cron jobs,
/// scripts, workers. On Linux.
///
/// The directory is made if it is not there (its parent has to be), for its owner alone. What is in it is
/// sealed, and may be deleted at any time. It is best in memory, as below `/run`: where a disk is so busy that
/// to rename a file takes more than a second, replicas ask the server each by itself.
#[derive(Debug)]
pub struct FileStore {
    files: Arc<Files>,
    /// What each namespace's listener last saw.
    seen: Mutex<HashMap<String, Vec<u8>>>,
}

#[derive(Debug)]
struct Files {
    directory: OwnedFd,
    swept: Mutex<Instant>,
}

/// Each listens by itself.
impl Clone for FileStore {
    fn clone(&self) -> Self {
        Self { files: Arc::clone(&self.files), seen: Mutex::default() }
    }
}

impl FileStore {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If it cannot be made or opened, is a link, belongs to somebody else, can be read or written by others,
    /// or lies on a file system other than ext4, xfs, btrfs, f2fs, zfs, tmpfs and overlayfs.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let directory = checked(&path).map_err(|problem| {
            ConfigError::new("store directory", format!("{} {problem}", path.display()))
        })?;
        let files = Files { directory, swept: Mutex::new(Instant::now()) };
        match files.sweep() {
            // Somebody else holds the lock, and may be stopped: that fails no start.
            Ok(()) | Err(StoreError::TimedOut) => {}
            Err(error) => {
                let problem = format!("{} cannot be used: {error}", path.display());
                return Err(ConfigError::new("store directory", problem));
            }
        }
        Ok(Self { files: Arc::new(files), seen: Mutex::default() })
    }

    async fn call<T: Send + 'static>(
        &self,
        slot: &Slot,
        act: impl FnOnce(&mut Content, u64) -> T + Send + 'static,
        tell: bool,
    ) -> Result<T, StoreError> {
        let (files, name) = (Arc::clone(&self.files), slot.name());
        let (reply, answer) = oneshot::channel();
        spawn_blocking(move || {
            let done = files.call(&name, act, tell, || reply.is_closed());
            drop(reply.send(done));
        });
        answer.await.unwrap_or_else(|_| Err(StoreError::refused("the call's thread was lost")))
    }
}

fn checked(path: &Path) -> Result<OwnedFd, String> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(format!("cannot be made: {error}")),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => {
            "is a link, or no directory: name the directory itself".into()
        }
        error => format!("cannot be opened: {error}"),
    })?;
    let stat = fstat(&directory).map_err(|error| format!("cannot be read: {error}"))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(format!(
            "belongs to user {}, and this is user {me}: use one of your own",
            stat.st_uid
        ));
    }
    if stat.st_mode & 0o077 != 0 {
        let mode = stat.st_mode & 0o777;
        return Err(format!("has the mode {mode:03o}, so others can reach it: chmod 700 it"));
    }
    let kind = fstatfs(&directory).map_err(|error| format!("cannot be read: {error}"))?.f_type;
    #[allow(clippy::unnecessary_cast, reason = "its width is the platform's")]
    let is_known = FILE_SYSTEMS.iter().any(|(_, known)| *known == kind as i64 & 0xFFFF_FFFF);
    if !is_known {
        let names: Vec<_> = FILE_SYSTEMS.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        return Err(format!(
            "lies on a file system of type {kind:#x}, but must be on one of {names}"
        ));
    }
    Ok(directory)
}

/// The lock of the directory, held until this is dropped.
struct Lock(#[expect(dead_code, reason = "closing it is what unlocks")] OwnedFd);

impl Files {
    fn file(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    fn lock(&self, is_given_up: impl Fn() -> bool) -> Result<Lock, StoreError> {
        let file =
            self.file(LOCK, OFlags::CREATE | OFlags::RDWR).map_err(StoreError::unreachable)?;
        loop {
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            if is_given_up() {
                return Err(StoreError::TimedOut);
            }
            match locked {
                Ok(()) => return Ok(Lock(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(TRY_AGAIN),
                Err(error) => return Err(StoreError::unreachable(error)),
            }
        }
    }

    fn call<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Content, u64) -> T,
        tell: bool,
        is_given_up: impl Fn() -> bool,
    ) -> Result<T, StoreError> {
        // What nobody waits for any more is not done: a lease would be nobody's.
        let _lock = self.lock(is_given_up)?;
        let before = self.read(name, MAX_FILE).map_err(StoreError::refused)?;
        let mut content = decoded(&before).unwrap_or_default();
        let result = act(&mut content, now());
        let after = encoded(&content);
        if after != before {
            self.write(name, &after).map_err(StoreError::refused)?;
        }
        if tell {
            self.write(NEWS, &random().to_be_bytes()).map_err(StoreError::refused)?;
        }
        Ok(result)
    }

    /// Empty if it is not there.
    fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.file(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => {
                // What is larger is no content of ours, and will not parse.
                File::from(file).take(most).read_to_end(&mut bytes)?;
            }
            // A link, or what else is no file of ours, is replaced by the next write.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => {}
        }
        Ok(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{:032x}", random());
        let file = self.file(&temporary, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
        let written = File::from(file).write_all(bytes);
        let done = written
            .and_then(|()| Ok(renameat(&self.directory, &temporary, &self.directory, name)?));
        if done.is_err() {
            let _ = unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
        done
    }

    /// Removes what nobody will look at again, under one lock for each file: there may be many.
    fn sweep(&self) -> Result<(), StoreError> {
        let entries = Dir::read_from(self.directory.as_fd()).map_err(StoreError::refused)?;
        for entry in entries {
            let entry = entry.map_err(StoreError::refused)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let began = Instant::now();
            let _lock = self.lock(|| began.elapsed() > CALL)?;
            if self.is_over(name) {
                let _ = unlinkat(&self.directory, name, AtFlags::empty());
            }
        }
        Ok(())
    }

    fn is_over(&self, name: &str) -> bool {
        if name.starts_with(TEMPORARY) {
            let Ok(file) = self.file(name, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from)
            else {
                return false;
            };
            let changed = file.metadata().and_then(|metadata| metadata.modified());
            return changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_BEHIND));
        }
        let is_slot = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_slot
            && self.read(name, MAX_FILE).is_ok_and(|bytes| {
                let mut content = decoded(&bytes).unwrap_or_default();
                *content.at(now()) == Content::default()
            })
    }

    fn sweep_sometimes(&self) {
        let mut swept = locked(&self.swept);
        if swept.elapsed() >= SWEEP_EACH {
            *swept = Instant::now();
            drop(swept);
            // It is tried again in an hour.
            let _ = self.sweep();
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// For names that nobody else uses at the moment.
fn random() -> u128 {
    fastrand::u128(..)
}

fn encoded(content: &Content) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    for key in [&content.lease, &content.revoked, &content.entry] {
        let empty = Key::default();
        let Key { value, ends } = key.as_ref().unwrap_or(&empty);
        bytes.extend((value.len() as u64).to_be_bytes());
        bytes.extend(ends.unwrap_or(0).to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// `None` if it is anything else, or torn.
fn decoded(bytes: &[u8]) -> Option<Content> {
    if bytes.first() != Some(&FORMAT) {
        return None;
    }
    let mut at = 1;
    let mut key = || -> Option<Option<Key>> {
        let length = usize::try_from(u64_at(bytes, at)?).ok()?;
        let ends = u64_at(bytes, at + 8)?;
        let value = bytes.get(at + 16..(at + 16).checked_add(length)?)?;
        at += 16 + length;
        Some((length > 0).then(|| Key { value: value.to_vec(), ends: (ends > 0).then_some(ends) }))
    };
    let (lease, revoked, entry) = (key()?, key()?, key()?);
    (at == bytes.len()).then_some(Content { entry, lease, revoked })
}

impl Store for FileStore {
    async fn take(&self, slot: &Slot, want: &Want<'_>) -> Result<Taken, StoreError> {
        let wanted = Wanted::of(want);
        self.call(slot, move |content, now| content.take(now, &wanted.want()), false).await
    }

    async fn put(&self, slot: &Slot, id: &Id, entry: &Sealed) -> Result<bool, StoreError> {
        let (id, entry) = (*id, entry.clone());
        self.call(slot, move |content, now| content.put(now, &id, &entry), false).await
    }

    async fn renew(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        let id = *id;
        self.call(slot, move |content, now| content.renew(now, &id), false).await
    }

    async fn leave(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        let id = *id;
        self.call(slot, move |content, now| content.leave(now, &id), false).await
    }

    async fn bury(&self, slot: &Slot, record: &Record) -> Result<Buried, StoreError> {
        let record = *record;
        self.call(slot, move |content, now| content.bury(now, &record), true).await
    }

    /// Looks once a second whether something was told; what it was, the slots say.
    async fn heard(&self, namespace: &str) -> Heard {
        loop {
            let files = Arc::clone(&self.files);
            let news = spawn_blocking(move || {
                files.sweep_sometimes();
                files.read(NEWS, 16).unwrap_or_default()
            });
            let news = news.await.unwrap_or_default();
            let before = locked(&self.seen).insert(namespace.to_owned(), news.clone());
            if before.is_none_or(|before| before != news) {
                return Heard::Look;
            }
            sleep(LOOK_EACH).await;
        }
    }
}
