//! Systems without a store of files: none can be opened there.

use std::path::Path;

use ccg_session::{Buried, ConfigError, Id, Record, Sealed, Slot, Store, StoreError, Taken, Want};

#[allow(dead_code, reason = "there is none")]
pub(crate) struct FileStore(());

impl FileStore {
    pub(super) fn open(_: &Path) -> Result<Self, ConfigError> {
        Err(ConfigError::new("store directory", "takes a directory on Linux only: leave it out"))
    }
}

fn none<T>() -> Result<T, StoreError> {
    Err(StoreError::refused("there is none on this system"))
}

impl Store for FileStore {
    async fn take(&self, _: &Slot, _: &Want<'_>) -> Result<Taken, StoreError> {
        none()
    }

    async fn put(&self, _: &Slot, _: &Id, _: &Sealed) -> Result<bool, StoreError> {
        none()
    }

    async fn renew(&self, _: &Slot, _: &Id) -> Result<bool, StoreError> {
        none()
    }

    async fn leave(&self, _: &Slot, _: &Id) -> Result<bool, StoreError> {
        none()
    }

    async fn bury(&self, _: &Slot, _: &Record) -> Result<Buried, StoreError> {
        none()
    }
}
