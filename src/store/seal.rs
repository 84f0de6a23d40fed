//! What replicas prove to each other, and hide from the store: slots, tags, entries and records, all by keys
//! that are derived from the fleet's.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::contract::{Id, MAX_ENTRY, Record, Sealed, Slot, Tag};
use super::round::Granted;
use super::script::{FORMAT, HEADER, Header, is_in_force};
use super::{micros, u64_at};
use crate::grant::{Grant, TokenText};
use crate::http::crypto::library::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use crate::http::crypto::library::hkdf::{HKDF_SHA256, KeyType, Salt};
use crate::http::crypto::library::hmac::{self, HMAC_SHA256};
use crate::http::crypto::library::rand::{SecureRandom, SystemRandom};
use crate::identity::Identity;

/// A shorter key could be guessed.
pub(crate) const LEAST_KEY: usize = 32;

/// The keys of a fleet.
pub(crate) struct Keys {
    slot: hmac::Key,
    tag: hmac::Key,
    record: hmac::Key,
    seal: [u8; 32],
    random: SystemRandom,
}

/// A key of 32 bytes.
#[derive(Clone, Copy)]
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// What an entry hides.
#[derive(Serialize, Deserialize)]
struct Inside<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_in_us: Option<u64>,
}

impl Keys {
    /// `None` if the key is too short.
    pub(crate) fn new(key: &SecretString) -> Option<Self> {
        let key = key.expose_secret().as_bytes();
        if key.len() < LEAST_KEY {
            return None;
        }
        let derive = |name: &str| derived(b"ccg-session store", key, &[&[FORMAT], name.as_bytes()]);
        let mac = |name| Some(hmac::Key::new(HMAC_SHA256, &derive(name)?));
        Some(Self {
            slot: mac("slot")?,
            tag: mac("tag")?,
            record: mac("record")?,
            seal: derive("seal")?,
            random: SystemRandom::new(),
        })
    }

    /// Never drawn before. `None` if the system has no chance to give.
    pub(crate) fn draw(&self) -> Option<Id> {
        let mut id = [0; 16];
        self.random.fill(&mut id).ok()?;
        Some(Id(id))
    }

    pub(crate) fn slot(
        &self,
        namespace: &Arc<str>,
        name: &str,
        identity: Option<&Identity>,
    ) -> Slot {
        let mut parts = vec![&[FORMAT][..], namespace.as_bytes(), name.as_bytes()];
        let pairs = identity.into_iter().flat_map(Identity::pairs);
        parts.extend(pairs.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        Slot::of(namespace, mac(&self.slot, &parts))
    }

    pub(crate) fn tag(&self, text: &TokenText) -> Tag {
        Tag(mac(&self.tag, &[text.expose().as_bytes()]))
    }

    /// `None` if it does not fit.
    pub(crate) fn seal(
        &self,
        slot: &Slot,
        id: Id,
        asked: u64,
        granted: &Granted,
    ) -> Option<Sealed> {
        let mut entry = Vec::with_capacity(HEADER + 64);
        entry.push(FORMAT);
        entry.extend(asked.to_be_bytes());
        entry.extend(micros(granted.life).to_be_bytes());
        entry.extend(granted.tag.0);
        entry.extend(id.0);
        let grant = &granted.grant;
        let inside = Inside {
            text: grant.text().expose().into(),
            scope: grant.get_scope().map(Into::into),
            refresh_in_us: grant.get_refresh_in().map(micros),
        };
        let mut sealed = serde_json::to_vec(&inside).ok()?;
        let key = self.entry_key(slot, &entry)?;
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).ok()?;
        entry.append(&mut sealed);
        (entry.len() <= MAX_ENTRY).then_some(Sealed(entry))
    }

    /// `None` if no replica has written it for this slot, just so.
    pub(crate) fn open(&self, slot: &Slot, entry: &Sealed) -> Option<(Header, Grant)> {
        let header = Header::of(&entry.0)?;
        let (head, body) = entry.0.split_at_checked(HEADER)?;
        let mut body = body.to_vec();
        let key = self.entry_key(slot, head)?;
        let inside = key.open_in_place(nonce(), Aad::empty(), &mut body).ok()?;
        let Inside { text, scope, refresh_in_us } = serde_json::from_slice(inside).ok()?;
        let mut grant = Grant::bearer(&*text).ok()?;
        if let Some(scope) = scope {
            grant = grant.scope(scope);
        }
        if let Some(wait) = refresh_in_us {
            grant = grant.refresh_in(Duration::from_micros(wait));
        }
        Some((header, grant))
    }

    /// One for each entry, since an id is: so its nonce may be zero. The whole header is in it.
    fn entry_key(&self, slot: &Slot, header: &[u8]) -> Option<LessSafeKey> {
        let id = header.get(33..HEADER)?;
        let info = [&[FORMAT][..], slot.namespace().as_bytes(), slot.id(), header];
        let key = derived(id, &self.seal, &info)?;
        Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?))
    }

    pub(crate) fn record(&self, slot: &Slot, tag: Tag, end: u64) -> Record {
        let mut record = [0; 40];
        record[..16].copy_from_slice(&tag.0);
        record[16..24].copy_from_slice(&end.to_be_bytes());
        record[24..].copy_from_slice(&mac(&self.record, &[slot.id(), &tag.0, &end.to_be_bytes()]));
        Record(record)
    }

    /// The token and the end that a record names, if a replica of this slot wrote it. Without the store's
    /// time nothing is said of whether that lies ahead.
    pub(crate) fn read(&self, slot: &Slot, record: &Record) -> Option<(Tag, u64)> {
        let tag = Tag(record.0[..16].try_into().ok()?);
        let end = u64_at(&record.0, 16)?;
        // Who can read the store can see what is compared here, so its time tells nothing.
        (self.record(slot, tag, end) == *record).then_some((tag, end))
    }

    /// Those of a slot's list that are in force.
    pub(crate) fn read_list(&self, slot: &Slot, list: &[u8], now: u64) -> Vec<(Tag, u64)> {
        let records = list.chunks_exact(40).filter(|record| is_in_force(record, now));
        let records = records.filter_map(|record| record.try_into().ok().map(Record));
        records.filter_map(|record| self.read(slot, &record)).collect()
    }
}

/// Shows nothing.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Whether a token can be put into an entry: one that is bound to a key is of no use without that.
pub(crate) fn can_share(grant: &Grant) -> bool {
    grant.is_access_token() && !grant.is_bound() && grant.get_issued_token_type().is_none()
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// HKDF (RFC 5869).
fn derived(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> Option<[u8; 32]> {
    let info = joined(info);
    let key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let mut out = [0; 32];
    key.expand(&[&info], Bytes32).ok()?.fill(&mut out).ok()?;
    Some(out)
}

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hmac::sign(key, &joined(parts)).as_ref()[..16]);
    half
}

/// Each with its length before it, so that no two lists of parts are joined to the same.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        joined.extend((part.len() as u64).to_be_bytes());
        joined.extend(*part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;

    fn keys(key: &str) -> Keys {
        Keys::new(&key.into()).expect("it is long enough")
    }

    fn slot(keys: &Keys, name: &str) -> Slot {
        keys.slot(&"ns".into(), name, None)
    }

    fn granted(keys: &Keys) -> Granted {
        let grant = Grant::bearer("a-token").unwrap().scope("read write");
        let grant = grant.refresh_in(Duration::from_secs(30));
        let tag = keys.tag(grant.text());
        Granted { grant, tag, life: Duration::from_secs(60), can_share: true }
    }

    #[test]
    fn what_is_sealed_opens_again_with_all_that_it_says() {
        let keys = keys("k".repeat(32).as_str());
        let (slot, granted, id) = (slot(&keys, "one"), granted(&keys), keys.draw().unwrap());
        let sealed = keys.seal(&slot, id, NOW, &granted).unwrap();
        let (header, grant) = keys.open(&slot, &sealed).unwrap();
        assert_eq!((header.asked, header.life, Id(header.id)), (NOW, 60_000_000, id));
        assert_eq!(header.tag, granted.tag.0);
        assert_eq!(grant.text().expose(), "a-token");
        assert_eq!(grant.get_scope(), Some("read write"));
        assert_eq!(grant.get_refresh_in(), Some(Duration::from_secs(30)));
        let shown = format!("{keys:?} {slot:?} {sealed:?} {granted:?}");
        assert!(!shown.contains("a-token") && !shown.contains("kkk"), "{shown}");
    }

    #[test]
    fn a_token_of_any_characters_opens_again() {
        let keys = keys("k".repeat(32).as_str());
        let (slot, mut granted, id) = (slot(&keys, "one"), granted(&keys), keys.draw().unwrap());
        let text: String = ('!'..='~').collect();
        granted.grant = Grant::bearer(&*text).unwrap();
        let sealed = keys.seal(&slot, id, NOW, &granted).unwrap();
        assert_eq!(keys.open(&slot, &sealed).unwrap().1.text().expose(), text);
        granted.grant = Grant::bearer("x".repeat(MAX_ENTRY)).unwrap();
        assert!(keys.seal(&slot, id, NOW, &granted).is_none());
    }

    #[test]
    fn no_byte_of_an_entry_or_of_a_record_can_be_another() {
        let keys = keys("k".repeat(32).as_str());
        let (slot, id) = (slot(&keys, "one"), keys.draw().unwrap());
        let sealed = keys.seal(&slot, id, NOW, &granted(&keys)).unwrap();
        for at in 0..sealed.0.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed.0[at] ^= 1 << bit;
                assert!(keys.open(&slot, &changed).is_none(), "bit {bit} of byte {at}");
            }
        }
        for length in 0..sealed.0.len() {
            assert!(keys.open(&slot, &Sealed(sealed.0[..length].to_vec())).is_none(), "{length}");
        }
        let record = keys.record(&slot, Tag([7; 16]), NOW);
        assert_eq!(keys.read(&slot, &record), Some((Tag([7; 16]), NOW)));
        for at in 0..record.0.len() {
            let mut changed = record;
            changed.0[at] ^= 1;
            assert_eq!(keys.read(&slot, &changed), None, "byte {at}");
        }
    }

    #[test]
    fn an_entry_and_a_record_are_of_one_slot_and_one_key() {
        let ours = keys("k".repeat(32).as_str());
        let (here, id) = (slot(&ours, "one"), ours.draw().unwrap());
        let sealed = ours.seal(&here, id, NOW, &granted(&ours)).unwrap();
        let record = ours.record(&here, Tag([7; 16]), NOW);
        assert!(ours.open(&slot(&ours, "two"), &sealed).is_none());
        assert!(ours.read(&slot(&ours, "two"), &record).is_none());
        let elsewhere = Slot::new("other", *here.id());
        assert!(ours.open(&elsewhere, &sealed).is_none());
        let theirs = keys("x".repeat(32).as_str());
        assert!(theirs.open(&here, &sealed).is_none());
        assert!(theirs.read(&here, &record).is_none());
        assert_ne!(slot(&theirs, "one"), here);
        assert_ne!(
            theirs.tag(&TokenText::new("a").unwrap()),
            ours.tag(&TokenText::new("a").unwrap())
        );
    }

    #[test]
    fn what_differs_in_any_part_is_another_slot() {
        let keys = keys("k".repeat(32).as_str());
        let identity = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .fold(Identity::new(), |identity, (name, value)| identity.with(*name, *value))
        };
        let slots = [
            keys.slot(&"ns".into(), "", None),
            keys.slot(&"ns".into(), "a", None),
            keys.slot(&"nsa".into(), "", None),
            keys.slot(&"n".into(), "s", None),
            keys.slot(&"ns".into(), "", Some(&identity(&[("a", "bc")]))),
            keys.slot(&"ns".into(), "", Some(&identity(&[("ab", "c")]))),
            keys.slot(&"ns".into(), "", Some(&identity(&[("abc", "")]))),
            keys.slot(&"ns".into(), "", Some(&identity(&[("a", "b"), ("c", "d")]))),
            keys.slot(&"ns".into(), "", Some(&identity(&[("a", "b"), ("c", "e")]))),
            keys.slot(&"ns".into(), "a", Some(&identity(&[("b", "c")]))),
        ];
        for (nth, one) in slots.iter().enumerate() {
            assert!(slots[..nth].iter().all(|other| other.id() != one.id()), "{nth}");
        }
        let sorted = identity(&[("c", "d"), ("a", "b")]);
        assert_eq!(keys.slot(&"ns".into(), "", Some(&sorted)), slots[7]);
    }

    #[test]
    fn a_key_that_could_be_guessed_is_none() {
        assert!(Keys::new(&"k".repeat(31).into()).is_none());
        assert!(Keys::new(&"k".repeat(32).into()).is_some());
    }
}
