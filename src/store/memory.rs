//! What one replica remembers of a slot, from one attempt to the next.

use std::collections::VecDeque;
use std::time::Duration;

use super::contract::{Buried, Id, MAX_RECORDS, Tag};
use crate::grant::TokenText;
use crate::instant::Instant;

/// Of tokens that were handed over, and of revocations that the store must still be told of.
const MAX_HANDED: usize = 16;
/// Of revocations of which this replica knows: more than a slot keeps, so that a list read twice is no news.
const MAX_KNOWN: usize = 2 * MAX_RECORDS;
/// Of leases and entries that a revocation here removed.
const MAX_BURIED: usize = 32;

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Memory {
    /// Tokens that the session was given and that have not ended, the oldest first.
    handed: VecDeque<Handed>,
    /// Revocations of which the store has not been told yet. While there are any, nothing is taken from it.
    owed: VecDeque<Owed>,
    /// Revocations that have been heard of, with their ends at the store.
    known: VecDeque<(Tag, u64)>,
    buried: VecDeque<Id>,
    /// How many revocations have begun here: what was asked for before the last is not published.
    pub(super) burials: u64,
    /// The attempts under way, each with what was heard since it began.
    attempts: Vec<(u64, Vec<Tag>)>,
    attempts_begun: u64,
    /// Tokens of the session that others have revoked, with what is left of their lives: it is to be told.
    pub(super) news: Vec<(TokenText, Duration)>,
    /// How often the store has had to be told, or to be read, whatever else goes on.
    calls: u64,
    is_catching_up: bool,
}

/// A token that the session was given.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub(crate) tag: Tag,
    pub(crate) text: TokenText,
    /// Of its entry; `None` if it was asked for without a lease.
    pub(crate) id: Option<Id>,
    pub(crate) ends: Instant,
    /// The end of its entry by the store's clock, or zero.
    pub(crate) entry_ends: u64,
}

/// A token that is revoked here, and is to be buried at the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) tag: Tag,
    pub(crate) ends: Instant,
    pub(crate) entry_ends: u64,
}

impl Memory {
    pub(super) fn begin_attempt(&mut self) -> u64 {
        self.attempts_begun += 1;
        self.attempts.push((self.attempts_begun, Vec::new()));
        self.attempts_begun
    }

    pub(super) fn end_attempt(&mut self, number: u64) {
        self.attempts.retain(|(other, _)| *other != number);
    }

    pub(super) fn hand(&mut self, now: Instant, token: Handed) {
        self.handed
            .retain(|other| now < other.ends && other.id.is_none_or(|id| Some(id) != token.id));
        push(&mut self.handed, token, MAX_HANDED);
    }

    /// Of entries that will not do for this attempt: tags and ids.
    pub(super) fn not(&self, replaces: bool) -> Vec<[u8; 16]> {
        let known = self.known.iter().rev().take(MAX_RECORDS).map(|(tag, _)| tag.0);
        let mut not: Vec<_> = known.chain(self.buried.iter().map(|id| id.0)).collect();
        if replaces {
            // By id: of a server that repeats its token until it ends, the fleet asks once, not each of it.
            not.extend(self.handed.iter().map(|it| it.id.map_or(it.tag.0, |id| id.0)));
        }
        not
    }

    /// A token is revoked, says a record that a replica wrote.
    pub(super) fn learn(&mut self, now: Instant, tag: Tag, end: u64) {
        if self.known.iter().any(|(other, _)| *other == tag) {
            return;
        }
        push(&mut self.known, (tag, end), MAX_KNOWN);
        for (_, heard) in &mut self.attempts {
            heard.push(tag);
        }
        let handed = self.handed.iter().filter(|it| it.tag == tag && now < it.ends);
        self.news.extend(handed.map(|it| (it.text.clone(), it.ends.since(now))));
    }

    /// Whether it is known, or has been heard during this attempt, that this token is revoked.
    pub(super) fn is_revoked(&self, tag: Tag, attempt: u64, now: u64) -> bool {
        let heard = self.attempts.iter().filter(|(number, _)| *number == attempt);
        self.known.iter().any(|(other, end)| *other == tag && now < *end)
            || heard.flat_map(|(_, heard)| heard).any(|other| *other == tag)
    }

    /// The session revokes this token. `false` if it had it from nowhere that others share.
    pub(super) fn revoke(&mut self, text: &TokenText) -> bool {
        let Some(token) = self.handed.iter().find(|token| token.text == *text) else {
            return false;
        };
        let Handed { tag, ends, entry_ends, .. } = *token;
        self.burials += 1;
        self.owed.retain(|owed| owed.tag != tag);
        push(&mut self.owed, Owed { tag, ends, entry_ends }, MAX_HANDED);
        true
    }

    pub(super) fn owed(&self) -> impl Iterator<Item = Owed> {
        self.owed.iter().copied()
    }

    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether others may still use a token that is revoked here, since the store has not been told of it.
    pub(super) fn owes_at(&self, now: Instant) -> bool {
        self.owed.iter().any(|owed| now < owed.ends)
    }

    /// The store is to be told and read, time and again until it has answered. `false`: that is being done.
    pub(super) fn falls_behind(&mut self) -> bool {
        self.calls += 1;
        !std::mem::replace(&mut self.is_catching_up, true)
    }

    /// What was asked for until now: see [`has_caught_up`](Self::has_caught_up).
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// The store has answered to all that was asked for until then. `false`: there is more.
    pub(super) fn has_caught_up(&mut self, calls: u64) -> bool {
        self.is_catching_up = self.calls != calls;
        !self.is_catching_up
    }

    /// Nobody is at it any more, and it is not done.
    pub(super) fn stays_behind(&mut self) {
        self.is_catching_up = false;
    }

    /// The store has been told of it. Should what it removed come back, it will not do.
    pub(super) fn buried(&mut self, tag: Tag, end: u64, gone: Buried) {
        self.owed.retain(|owed| owed.tag != tag);
        for id in [gone.entry, gone.lease].into_iter().flatten() {
            push(&mut self.buried, id, MAX_BURIED);
        }
        if self.known.iter().all(|(other, _)| *other != tag) {
            push(&mut self.known, (tag, end), MAX_KNOWN);
        }
    }
}

/// For the exploration, which tells situations apart and takes rules out.
#[cfg(test)]
pub(super) struct Facts<'a> {
    pub(super) handed: &'a VecDeque<Handed>,
    pub(super) known: &'a VecDeque<(Tag, u64)>,
    pub(super) buried: &'a VecDeque<Id>,
    pub(super) attempts: &'a [(u64, Vec<Tag>)],
}

#[cfg(test)]
impl Memory {
    pub(super) fn facts(&self) -> Facts<'_> {
        let Self { handed, known, buried, attempts, .. } = self;
        Facts { handed, known, buried, attempts }
    }

    pub(super) fn forget_owed(&mut self) {
        self.owed.clear();
    }
}

fn push<T>(queue: &mut VecDeque<T>, new: T, most: usize) {
    while queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_catches_up_for_all_that_was_asked_meanwhile() {
        let mut memory = Memory::default();
        assert!(memory.falls_behind());
        let calls = memory.calls();
        assert!(!memory.falls_behind(), "somebody is at it");
        assert!(!memory.has_caught_up(calls), "the store was asked before that");
        assert!(!memory.falls_behind());
        assert!(memory.has_caught_up(memory.calls()));
        assert!(memory.falls_behind());
        memory.stays_behind();
        assert!(memory.falls_behind());
    }

    #[test]
    fn a_revocation_is_owed_until_its_token_ends() {
        let (start, life) = (Instant::from_nanos(1), Duration::from_secs(60));
        let (mut memory, text) = (Memory::default(), TokenText::new("T").unwrap());
        let tag = Tag([1; 16]);
        let (ends, entry_ends) = (start + life, 0);
        memory.hand(start, Handed { tag, text: text.clone(), id: None, ends, entry_ends });
        assert!(!memory.owes_at(start));
        assert!(memory.revoke(&text) && memory.owes_at(start) && !memory.owes_at(ends));
        memory.buried(tag, 0, Buried::default());
        assert!(!memory.owes_at(start));
    }
}
