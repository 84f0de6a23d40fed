//! A store in a directory, for the processes of one machine.
//!
//! Each slot is one file, so one rename changes it whole. A call locks the directory for a few microseconds,
//! never during a request. The lock is released if the process is killed. Nothing is synced: after a power
//! failure a torn entry fails to decrypt, and a new token is requested.
//!
//! Others may keep things in the directory too. Only what has a name and a content of this store's is
//! removed or replaced.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fstat,
    fstatfs, ftruncate, openat, renameat, renameat_with, statat, unlinkat,
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
/// Empty.
const LOCK: &str = "lock";
/// The format, and 16 bytes that are others after each revocation.
const NEWS: &str = "news";
const NEWS_LENGTH: usize = 17;
/// And 32 digits: a file that is being written.
const TEMPORARY: &str = "ccg-session-tmp-";
const FORMAT: u8 = 1;
const MAX_FILE: u64 = MAX_ENTRY as u64 + 2 * 1024;
const TRY_AGAIN: Duration = Duration::from_millis(2);
const LOOK_EACH: Duration = Duration::from_secs(1);
const SWEEP_EACH: Duration = Duration::from_secs(60 * 60);
/// A temporary file of a process that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// Keeps the tokens of a [`Fleet`](crate::Fleet) in a directory, for processes of one user on one machine: cron
/// jobs, scripts, workers. Linux only.
///
/// The directory is created if it is missing (its parent must exist), with access for its owner only. What the store
/// keeps in it is sealed, and may be deleted at any time, with the directory or without. Other files there are left
/// alone. Memory is best, as below `/run`: where a disk is so busy that renaming a file takes more than a second,
/// each replica asks the server on its own.
#[derive(Debug)]
pub struct FileStore {
    files: Arc<Files>,
    /// What each namespace's listener last saw.
    seen: Mutex<HashMap<String, Vec<u8>>>,
}

#[derive(Debug)]
struct Files {
    path: PathBuf,
    /// What the path named when it was last looked at.
    directory: Mutex<Arc<OwnedFd>>,
    /// Whether all that the store needs is there.
    has_begun: AtomicBool,
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
    /// has a `lock` or `news` that is not this store's, or lies on a file system other than ext4, xfs, btrfs,
    /// f2fs, zfs, tmpfs and overlayfs. That it is full is no error: while it is, each replica asks the server on
    /// its own.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let refused =
            |problem| ConfigError::new("store directory", format!("{} {problem}", path.display()));
        // It may be looked for again, from elsewhere. A slash at its end would follow a link.
        let path: PathBuf = std::path::absolute(&path)
            .map_err(|error| refused(format!("cannot be found: {error}")))?
            .components()
            .collect();
        let directory = checked(&path).map_err(refused)?;
        let directory = Mutex::new(Arc::new(directory));
        let (has_begun, swept) = (AtomicBool::new(false), Mutex::new(Instant::now()));
        let files = Files { path: path.clone(), directory, has_begun, swept };
        match files.begin() {
            Ok(()) => {}
            // Somebody else holds the lock, and may be stopped: that fails no start.
            Err(error) if error.kind() == ErrorKind::TimedOut || is_full(&error) => {}
            Err(error) => return Err(refused(format!("cannot be used: {error}"))),
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
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
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

/// The directory, locked until this is dropped.
struct Locked {
    directory: Arc<OwnedFd>,
    lock: OwnedFd,
}

impl Files {
    /// What the path names now: the directory may have been removed or replaced, and whoever comes later
    /// finds only the new one.
    fn directory(&self) -> io::Result<Arc<OwnedFd>> {
        let mut directory = locked(&self.directory);
        let named = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if !is_one(named, fstat(&*directory)) {
            let found = checked(&self.path).map_err(|problem| {
                io::Error::other(format!("{} {problem}", self.path.display()))
            })?;
            *directory = Arc::new(found);
            self.has_begun.store(false, Relaxed);
        }
        Ok(Arc::clone(&directory))
    }

    fn lock(&self, is_given_up: impl Fn() -> bool) -> io::Result<Locked> {
        loop {
            let directory = self.directory()?;
            let opened = file(&directory, LOCK, OFlags::CREATE | OFlags::RDWR);
            let lock = match opened {
                Ok(lock) => Locked { directory, lock },
                // The directory was removed just now.
                Err(error) if error.kind() == ErrorKind::NotFound && !is_given_up() => continue,
                Err(error) => return Err(error),
            };
            lock.wait(&is_given_up)?;
            // Whoever comes now locks what is there by that name.
            let named = statat(CWD, self.path.join(LOCK), AtFlags::SYMLINK_NOFOLLOW);
            if is_one(named, fstat(&lock.lock)) {
                return Ok(lock);
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
        let locked = self.lock(is_given_up).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => StoreError::TimedOut,
            _ => StoreError::unreachable(error),
        })?;
        let before = read(&locked.directory, name, MAX_FILE).map_err(StoreError::refused)?;
        let mut content = decoded(&before).unwrap_or_default();
        let result = act(&mut content, now());
        let after = encoded(&content);
        if tell {
            locked.revoke(name, &after).map_err(StoreError::refused)?;
        } else if after != before {
            self.begin_in(&locked).map_err(StoreError::refused)?;
            locked.write(name, &after).map_err(StoreError::refused)?;
        }
        Ok(result)
    }

    fn begin(&self) -> io::Result<()> {
        let began = Instant::now();
        self.begin_in(&self.lock(|| began.elapsed() > CALL)?)?;
        self.sweep()
    }

    /// What the store needs is there, and whose it is.
    fn begin_in(&self, locked: &Locked) -> io::Result<()> {
        if !self.has_begun.load(Relaxed) {
            locked.check()?;
            self.has_begun.store(true, Relaxed);
        }
        Ok(())
    }

    /// Removes what nobody will look at again, under one lock for each file: there may be many.
    fn sweep(&self) -> io::Result<()> {
        let directory = self.directory()?;
        for entry in Dir::read_from(directory.as_fd())? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !is_temporary(name) && !is_slot(name) {
                continue;
            }
            let began = Instant::now();
            self.lock(|| began.elapsed() > CALL)?.remove_if_over(name);
        }
        Ok(())
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

impl Locked {
    fn wait(&self, is_given_up: impl Fn() -> bool) -> io::Result<()> {
        loop {
            let locked = flock(&self.lock, FlockOperation::NonBlockingLockExclusive);
            if is_given_up() {
                return Err(ErrorKind::TimedOut.into());
            }
            match locked {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(TRY_AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if fstat(&self.lock)?.st_size > 0 {
            return Err(elses(LOCK));
        }
        match self.may_write_news() {
            Ok(true) => Ok(()),
            // Made while there is space for it, so that it can be changed when there is none.
            Err(error) if error.kind() == ErrorKind::NotFound => self.write(NEWS, &news()),
            _ => Err(elses(NEWS)),
        }
    }

    /// Whether the file is this store's. After a power cut it may be empty.
    fn may_write_news(&self) -> io::Result<bool> {
        let there = file(&self.directory, NEWS, OFlags::RDONLY)?;
        let mut news = Vec::new();
        File::from(there).take(MAX_FILE).read_to_end(&mut news)?;
        Ok(news.is_empty() || news.len() == NEWS_LENGTH && news[0] == FORMAT)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{:032x}", random());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let new = file(&self.directory, &temporary, flags)?;
        let written = File::from(new).write_all(bytes);
        let done = written.and_then(|()| Ok(self.replace(name, &temporary)?));
        // What failed, or what was there before.
        let _ = unlinkat(&self.directory, &temporary, AtFlags::empty());
        done
    }

    /// A file that is there changes places with the new one: to rename that over it would make ext4 write it to
    /// the disk first, and wait for as long as the disk is busy. It is missing at no time.
    fn replace(&self, name: &str, new: &str) -> rustix::io::Result<()> {
        let directory = &self.directory;
        let is_file = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        if is_file && renameat_with(directory, new, directory, name, RenameFlags::EXCHANGE).is_ok()
        {
            return Ok(());
        }
        renameat(directory, new, directory, name)
    }

    /// Also where there is no space left: what is written is no longer than what it replaces.
    fn revoke(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let told = self.write(name, bytes).or_else(|_| self.write_over(name, bytes));
        if told.is_err() {
            // At least nobody takes the token from here.
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
        self.check()?;
        let news = news();
        told.and(self.write(NEWS, &news).or_else(|_| self.write_over(NEWS, &news)))
    }

    /// Slots are read under the lock only, and of news it is enough that they differ.
    fn write_over(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut there = File::from(file(&self.directory, name, OFlags::WRONLY)?);
        there.write_all(bytes)?;
        Ok(ftruncate(&there, bytes.len() as u64)?)
    }

    fn remove_if_over(&self, name: &str) {
        let is_over = if is_temporary(name) {
            let Ok(found) = file(&self.directory, name, OFlags::RDONLY) else { return };
            let changed = File::from(found).metadata().and_then(|metadata| metadata.modified());
            changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_BEHIND))
        } else {
            let bytes = read(&self.directory, name, MAX_FILE).unwrap_or_default();
            // What is of another format, or is torn, is for others to judge.
            decoded(&bytes).is_some_and(|mut content| *content.at(now()) == Content::default())
        };
        if is_over {
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// Whether two looks saw one file.
fn is_one(one: rustix::io::Result<Stat>, other: rustix::io::Result<Stat>) -> bool {
    let id = |stat: Stat| (stat.st_dev, stat.st_ino);
    one.is_ok_and(|one| other.is_ok_and(|other| id(one) == id(other)))
}

fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY).is_some_and(is_slot)
}

fn is_slot(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn elses(name: &str) -> io::Error {
    io::Error::other(format!("its file {name:?} is somebody else's: use another directory"))
}

fn is_full(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn file(directory: &OwnedFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    // Whoever opens a FIFO would wait for its other end.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::RUSR | Mode::WUSR);
    let is_file = |file: &OwnedFd| {
        fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
    };
    match opened {
        Ok(file) if is_file(&file) => Ok(file),
        // A FIFO or a device, a link, a directory, a socket.
        Ok(_) | Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Err(elses(name)),
        Err(error) => Err(error.into()),
    }
}

/// Empty if it is not there.
fn read(directory: &OwnedFd, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match file(directory, name, OFlags::RDONLY) {
        Ok(file) => {
            // What is larger is no content of ours, and will not parse.
            File::from(file).take(most).read_to_end(&mut bytes)?;
        }
        // A link, or what else is no file of ours, is replaced by the next write.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error),
        Err(_) => {}
    }
    Ok(bytes)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// For names that nobody else uses at the moment.
fn random() -> u128 {
    fastrand::u128(..)
}

fn news() -> Vec<u8> {
    [&[FORMAT][..], &random().to_be_bytes()].concat()
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
                let directory = files.directory().ok()?;
                read(&directory, NEWS, NEWS_LENGTH as u64).ok()
            });
            let news = news.await.ok().flatten().unwrap_or_default();
            let before = locked(&self.seen).insert(namespace.to_owned(), news.clone());
            if before.is_none_or(|before| before != news) {
                return Heard::Look;
            }
            sleep(LOOK_EACH).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_replaced_without_a_gap_and_leaves_nothing_behind() {
        let path = std::env::temp_dir().join(format!("ccg-replaced-{:032x}", random()));
        let store = FileStore::open(&path).unwrap();
        let slot = Slot::new("replaced", [7; 16]).name();
        let write = |nth: u64| {
            let lease = Some(Key { value: nth.to_be_bytes().to_vec(), ends: Some(u64::MAX) });
            store.files.call(&slot, |content, _| content.lease = lease, false, || false).unwrap();
        };
        write(0);
        std::thread::scope(|side| {
            let writing = side.spawn(|| (1..=500).for_each(write));
            while !writing.is_finished() {
                let bytes = std::fs::read(path.join(&slot)).expect("it is missing at no time");
                assert!(decoded(&bytes).is_some(), "it is whole at any time");
            }
        });
        let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, [slot, LOCK.into(), NEWS.into()]);
        std::fs::remove_dir_all(path).unwrap();
    }
}
