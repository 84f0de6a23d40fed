//! Tenants' names as the table has them: their own code, which may panic, ends nothing under the table's lock.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use quick_cache::Equivalent;

use crate::foreign::guarded;

/// A name in the table. Its hash was taken before, and its clone is no clone of the name.
pub(super) struct Key<K> {
    hash: u64,
    name: Arc<Name<K>>,
}

/// `None` only while it is dropped: that it panics then is caught for each by itself, since what leaves the table
/// may be a list of them.
struct Name<K>(Option<K>);

impl<K> Drop for Name<K> {
    fn drop(&mut self) {
        let name = self.0.take();
        guarded(|| drop(name));
    }
}

/// A name that is asked for.
pub(super) struct Asked<'a, K> {
    pub(super) hash: u64,
    pub(super) name: &'a K,
}

impl<K: Clone> Asked<'_, K> {
    pub(super) fn to_key(&self) -> Key<K> {
        Key { hash: self.hash, name: Arc::new(Name(Some(self.name.clone()))) }
    }
}

impl<K: Eq> Key<K> {
    fn is(&self, (hash, name): (u64, Option<&K>)) -> bool {
        // If it panics they are different: nobody gets another's session.
        self.hash == hash && guarded(|| self.name.0.as_ref() == name).unwrap_or_default()
    }
}

impl<K> Clone for Key<K> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, name: Arc::clone(&self.name) }
    }
}

impl<K: Eq> PartialEq for Key<K> {
    fn eq(&self, other: &Self) -> bool {
        self.is((other.hash, other.name.0.as_ref()))
    }
}

impl<K: Eq> Eq for Key<K> {}

impl<K: Eq> Equivalent<Key<K>> for Asked<'_, K> {
    fn equivalent(&self, key: &Key<K>) -> bool {
        key.is((self.hash, Some(self.name)))
    }
}

impl<K> Hash for Key<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<K> Hash for Asked<'_, K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Takes a hash for what it is.
#[derive(Default)]
pub(super) struct AsItIs(u64);

pub(super) type BuildAsItIs = BuildHasherDefault<AsItIs>;

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
