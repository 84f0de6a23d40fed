//! A store by its name, so that one test runs on both, and a process can be told which it is.

use ccg_session::{
    Buried, FileStore, Heard, Id, Record, RedisStore, Sealed, Slot, Store, StoreError, Taken, Want,
};

#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(FileStore),
    Redis(RedisStore),
}

impl Place {
    /// An address of Redis, or a directory.
    pub(crate) fn open(name: &str) -> Self {
        if name.starts_with("redis") {
            Self::Redis(RedisStore::connect(name).build().unwrap())
        } else {
            Self::File(FileStore::open(name).unwrap())
        }
    }
}

impl Store for Place {
    async fn take(&self, slot: &Slot, want: &Want<'_>) -> Result<Taken, StoreError> {
        match self {
            Self::File(store) => store.take(slot, want).await,
            Self::Redis(store) => store.take(slot, want).await,
        }
    }

    async fn put(&self, slot: &Slot, id: &Id, entry: &Sealed) -> Result<bool, StoreError> {
        match self {
            Self::File(store) => store.put(slot, id, entry).await,
            Self::Redis(store) => store.put(slot, id, entry).await,
        }
    }

    async fn renew(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        match self {
            Self::File(store) => store.renew(slot, id).await,
            Self::Redis(store) => store.renew(slot, id).await,
        }
    }

    async fn leave(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        match self {
            Self::File(store) => store.leave(slot, id).await,
            Self::Redis(store) => store.leave(slot, id).await,
        }
    }

    async fn bury(&self, slot: &Slot, record: &Record) -> Result<Buried, StoreError> {
        match self {
            Self::File(store) => store.bury(slot, record).await,
            Self::Redis(store) => store.bury(slot, record).await,
        }
    }

    async fn heard(&self, namespace: &str) -> Heard {
        match self {
            Self::File(store) => store.heard(namespace).await,
            Self::Redis(store) => store.heard(namespace).await,
        }
    }
}
