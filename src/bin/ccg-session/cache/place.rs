//! Where the tokens lie, and what has become of the calls there.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[cfg(target_os = "linux")]
use ccg_session::FileStore;
#[cfg(feature = "redis")]
use ccg_session::RedisStore;
use ccg_session::{Buried, Heard, Id, Record, Sealed, Slot, Store, StoreError, Taken, Want};

#[cfg(not(target_os = "linux"))]
use super::elsewhere::FileStore;
use crate::failure::Failure;
#[cfg(feature = "redis")]
use crate::input;
use crate::settings::{Settings, redis_address};

/// What `--cache` names.
pub(crate) enum Place {
    Directory(FileStore, PathBuf),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
}

impl Place {
    pub(super) fn open(settings: &Settings, name: &Path) -> Result<Self, Failure> {
        match redis_address(name) {
            Some(address) => Self::redis(settings, address),
            None => Self::directory(name),
        }
    }

    fn directory(name: &Path) -> Result<Self, Failure> {
        Ok(Self::Directory(FileStore::open(name)?, name.to_owned()))
    }

    #[cfg(feature = "redis")]
    fn redis(settings: &Settings, address: &str) -> Result<Self, Failure> {
        let mut store = RedisStore::connect(address);
        if let Some(path) = &settings.root_certificate {
            store = store.root_certificate(input::text("the certificates to trust", path)?);
        }
        Ok(Self::Redis(store.build()?))
    }

    #[cfg(not(feature = "redis"))]
    fn redis(_: &Settings, _: &str) -> Result<Self, Failure> {
        let problem = "--cache is an address of Redis, and this command was built without the feature \
                       redis: give a directory, or build it with that";
        Err(Failure::Usage(problem.into()))
    }
}

/// What is behind a directory that does not answer in time.
pub(super) fn is_locked(path: &Path) -> String {
    let path = path.display();
    format!(
        "another process holds the lock of {path}, perhaps one that was stopped: end it (`fuser {path}/lock` \
         names it)"
    )
}

/// A place that knows what has become of the calls to it.
pub(crate) struct Kept {
    pub(super) place: Place,
    answered: AtomicBool,
    buried: AtomicBool,
}

impl Kept {
    pub(super) fn new(place: Place) -> Self {
        Self { place, answered: AtomicBool::new(false), buried: AtomicBool::new(false) }
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    pub(super) fn has_buried(&self) -> bool {
        self.buried.load(Relaxed)
    }
}

macro_rules! call {
    ($place:expr, $store:ident => $call:expr) => {
        match &$place {
            Place::Directory($store, _) => $call.await,
            #[cfg(feature = "redis")]
            Place::Redis($store) => $call.await,
        }
    };
}

impl Store for Kept {
    async fn take(&self, slot: &Slot, want: &Want<'_>) -> Result<Taken, StoreError> {
        let taken = call!(self.place, store => store.take(slot, want))?;
        self.answered.store(true, Relaxed);
        Ok(taken)
    }

    async fn put(&self, slot: &Slot, id: &Id, entry: &Sealed) -> Result<bool, StoreError> {
        call!(self.place, store => store.put(slot, id, entry))
    }

    async fn renew(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        call!(self.place, store => store.renew(slot, id))
    }

    async fn leave(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        call!(self.place, store => store.leave(slot, id))
    }

    async fn bury(&self, slot: &Slot, record: &Record) -> Result<Buried, StoreError> {
        let buried = call!(self.place, store => store.bury(slot, record))?;
        self.buried.store(true, Relaxed);
        Ok(buried)
    }

    async fn heard(&self, namespace: &str) -> Heard {
        call!(self.place, store => store.heard(namespace))
    }
}
