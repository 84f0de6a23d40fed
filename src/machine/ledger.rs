//! The tokens that a revoke has to reach: every one that the session received, until it expires.

use crate::grant::TokenText;
use crate::instant::Instant;
use crate::token::TokenId;

/// The most that are kept. Beyond it the first to expire leaves.
const CAPACITY: usize = 4_096;

/// Keyed by the token's text, since a server may send the same one again. In the order of expiry; the
/// look-ups are linear, for each of them stands beside a request to a server.
#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Entry {
    id: TokenId,
    text: TokenText,
    expires_at: Instant,
    mark: Option<Mark>,
}

/// A revoke has come since this token did.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Mark {
    /// The server has confirmed it: it is not sent again, but never taken back either.
    confirmed: bool,
    /// How often it was sent.
    sent: u32,
}

impl Ledger {
    /// Adds a token; of one that is there already, the later expiry counts. Returns the one that had
    /// to leave for it: never `current`, the session's own.
    pub(crate) fn join(
        &mut self,
        id: TokenId,
        text: &TokenText,
        expires_at: Instant,
        current: Option<&TokenText>,
    ) -> Option<TokenId> {
        let mut entry = Entry { id, text: text.clone(), expires_at, mark: None };
        if let Some(at) = self.entries.iter().position(|known| known.text == *text) {
            let known = self.entries.remove(at);
            entry.expires_at = expires_at.max(known.expires_at);
            entry.mark = known.mark;
        }
        if self.entries.is_empty() {
            // Most sessions know a single token at most times, and there may be many sessions.
            self.entries.reserve_exact(1);
        }
        let at = self.entries.partition_point(|other| other.expires_at <= entry.expires_at);
        self.entries.insert(at, entry);
        if self.entries.len() <= CAPACITY {
            return None;
        }
        let first = self
            .entries
            .iter()
            .position(|entry| entry.text != *text && Some(&entry.text) != current)?;
        Some(self.entries.remove(first).id)
    }

    pub(crate) fn forget_expired(&mut self, now: Instant) {
        let alive_from = self.entries.partition_point(|entry| entry.expires_at <= now);
        self.entries.drain(..alive_from);
    }

    pub(crate) fn mark_all(&mut self) {
        for entry in &mut self.entries {
            entry.mark.get_or_insert(Mark { confirmed: false, sent: 0 });
        }
    }

    pub(crate) fn mark(&mut self, text: &TokenText) {
        if let Some(entry) = self.find(text) {
            entry.mark.get_or_insert(Mark { confirmed: false, sent: 0 });
        }
    }

    pub(crate) fn is_marked(&self, text: &TokenText) -> bool {
        self.entries.iter().any(|entry| entry.text == *text && entry.mark.is_some())
    }

    pub(crate) fn confirm(&mut self, text: &TokenText) {
        if let Some(mark) = self.find(text).and_then(|entry| entry.mark.as_mut()) {
            mark.confirmed = true;
        }
    }

    pub(crate) fn is_all_confirmed(&self) -> bool {
        self.entries.iter().filter_map(|entry| entry.mark).all(|mark| mark.confirmed)
    }

    /// Up to `most` tokens to send, those least often sent first: one that the server will not take
    /// does not keep the rest from it.
    pub(crate) fn take_unconfirmed(&mut self, most: usize) -> Vec<TokenText> {
        let mut left: Vec<_> = self
            .entries
            .iter_mut()
            .filter_map(|entry| {
                Some((entry.mark.as_mut().filter(|mark| !mark.confirmed)?, &entry.text))
            })
            .collect();
        left.sort_by_key(|(mark, _)| mark.sent);
        let batch = left.into_iter().take(most);
        batch
            .map(|(mark, text)| {
                mark.sent = mark.sent.saturating_add(1);
                text.clone()
            })
            .collect()
    }

    fn find(&mut self, text: &TokenText) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.text == *text)
    }
}
