//! What the five calls do to a slot's content at an instant. The file store runs this, the scripts of
//! `lua/` are its translation, and a test compares the two.

use super::contract::{
    Buried, Found, Id, LEASE, LONGEST, MAX_ENTRY, MAX_RECORDS, Record, Sealed, StoreTime, Taken,
    Want,
};
use super::{micros, u64_at};

/// Format, when it was asked for, its life, tag and id.
pub(crate) const HEADER: usize = 1 + 8 + 8 + 16 + 16;
pub(crate) const FORMAT: u8 = 1;
const RECORD: usize = 40;

/// One key: its value, and when that ends, if it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) value: Vec<u8>,
    pub(crate) ends: Option<u64>,
}

/// One slot, byte for byte, whoever wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    pub(crate) entry: Option<Key>,
    pub(crate) lease: Option<Key>,
    pub(crate) revoked: Option<Key>,
}

/// The header of an entry. Nobody has vouched for it.
pub(crate) struct Header {
    pub(crate) asked: u64,
    pub(crate) life: u64,
    pub(crate) tag: [u8; 16],
    pub(crate) id: [u8; 16],
}

impl Header {
    /// `None` if it is of another format, too short or too long.
    pub(crate) fn of(entry: &[u8]) -> Option<Self> {
        if entry.len() > MAX_ENTRY || entry.first() != Some(&FORMAT) {
            return None;
        }
        Some(Self {
            asked: u64_at(entry, 1)?,
            life: u64_at(entry, 9)?,
            tag: sixteen(entry.get(17..33)?)?,
            id: sixteen(entry.get(33..HEADER)?)?,
        })
    }

    /// What is left of its life; `None` if that is not believed, or over.
    pub(crate) fn left(&self, now: u64) -> Option<u64> {
        if self.life > micros(LONGEST) || self.asked > now {
            return None;
        }
        (self.asked + self.life).checked_sub(now).filter(|left| *left > 0)
    }
}

impl Content {
    /// What has ended is gone, also if the clock then steps back.
    pub(super) fn at(&mut self, now: u64) -> &mut Self {
        for key in [&mut self.entry, &mut self.lease, &mut self.revoked] {
            key.take_if(|key| key.ends.is_some_and(|ends| ends <= now));
        }
        self
    }

    pub(crate) fn take(&mut self, now: u64, want: &Want<'_>) -> Taken {
        self.at(now);
        let found = self.find(now, want);
        let revoked = value(self.revoked.as_ref(), MAX_RECORDS * RECORD).unwrap_or_default();
        Taken { now: StoreTime(now), revoked: revoked.to_vec(), found }
    }

    fn find(&mut self, now: u64, want: &Want<'_>) -> Found {
        if let Some(entry) =
            value(self.entry.as_ref(), MAX_ENTRY).filter(|it| will_do(it, now, want))
        {
            return Found::Entry(Sealed(entry.to_vec()));
        }
        let Some(id) = want.lease else { return Found::None };
        if let Some(holder) = self.holder(now).filter(|holder| want.seen != Some(holder)) {
            return Found::Busy(holder);
        }
        self.lease = Some(Key { value: id.0.to_vec(), ends: Some(now + micros(LEASE)) });
        Found::Leased
    }

    /// Not of a lease without an end, or with one further off than any that is given: it is forged, or a
    /// clock has stepped back.
    fn holder(&self, now: u64) -> Option<Id> {
        let lease = self.lease.as_ref()?;
        let left = lease.ends?.checked_sub(now)?;
        // The server counts milliseconds.
        let is_believed = left / 1_000 <= micros(LEASE) / 1_000;
        value(Some(lease), 16).and_then(sixteen).map(Id).filter(|_| is_believed)
    }

    pub(crate) fn put(&mut self, now: u64, id: &Id, entry: &Sealed) -> bool {
        if !self.leave(now, id) {
            return false;
        }
        let Some(header) = Header::of(&entry.0).filter(|header| header.id == id.0) else {
            return false;
        };
        let Some(left) = header.left(now).filter(|left| *left >= 1_000) else { return false };
        let ends = Some(now + left / 1_000 * 1_000);
        self.entry = Some(Key { value: entry.0.clone(), ends });
        true
    }

    pub(crate) fn renew(&mut self, now: u64, id: &Id) -> bool {
        let is_mine = self.at(now).is_lease_of(id);
        if let Some(lease) = self.lease.as_mut().filter(|_| is_mine) {
            lease.ends = Some(now + micros(LEASE));
        }
        is_mine
    }

    pub(crate) fn leave(&mut self, now: u64, id: &Id) -> bool {
        let is_mine = self.at(now).is_lease_of(id);
        if is_mine {
            self.lease = None;
        }
        is_mine
    }

    fn is_lease_of(&self, id: &Id) -> bool {
        value(self.lease.as_ref(), 16) == Some(&id.0[..])
    }

    pub(crate) fn bury(&mut self, now: u64, record: &Record) -> Buried {
        self.at(now);
        let (entry, lease) = (self.entry.take(), self.lease.take());
        let old = value(self.revoked.as_ref(), MAX_RECORDS * RECORD).unwrap_or_default();
        let others = old.chunks_exact(RECORD).filter(|other| other[..16] != record.0[..16]);
        let mut kept: Vec<&[u8]> =
            others.chain([&record.0[..]]).filter(|record| is_in_force(record, now)).collect();
        kept.drain(..kept.len().saturating_sub(MAX_RECORDS));
        if let Some(last) = kept.iter().filter_map(|record| u64_at(record, 16)).max() {
            let ends = Some(now + (last - now).div_ceil(1_000) * 1_000);
            self.revoked = Some(Key { value: kept.concat(), ends });
        }
        let entry = value(entry.as_ref(), MAX_ENTRY).and_then(|entry| entry.get(33..HEADER));
        let lease = value(lease.as_ref(), 16);
        Buried { entry: entry.and_then(sixteen).map(Id), lease: lease.and_then(sixteen).map(Id) }
    }
}

fn will_do(entry: &[u8], now: u64, want: &Want<'_>) -> bool {
    let Some(header) = Header::of(entry) else { return false };
    let Some(left) = header.left(now) else { return false };
    let least = (10 * micros(want.least_life)).min(9 * header.life);
    let buffer = (10 * micros(want.buffer)).min(header.life);
    10 * left >= least.max(buffer)
        && !want.not.iter().any(|not| [header.tag, header.id].contains(not))
}

/// Whether a record says of a token that may be alive that it is revoked.
pub(crate) fn is_in_force(record: &[u8], now: u64) -> bool {
    u64_at(record, 16).is_some_and(|ends| now < ends && ends - now <= micros(LONGEST))
}

/// What is empty, or longer than anything that is written, counts as not there.
fn value(key: Option<&Key>, most: usize) -> Option<&[u8]> {
    let key = key?;
    (!key.value.is_empty() && key.value.len() <= most).then_some(&key.value)
}

fn sixteen(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}
