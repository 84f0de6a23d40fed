//! The tokens that a revoke must cover: every token that the session received and that may still be valid.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
use super::tests::cost::touched;
use crate::grant::TokenText;
use crate::instant::Instant;
use crate::token::TokenId;

/// The maximum number of entries. Beyond it, entries are evicted in this order: those never received here,
/// those of unknown lifetime, then the first to expire.
const CAPACITY: usize = 4_096;

/// How long a token of unknown lifetime may be valid after it was last seen. Also, how long a revoked token is
/// rejected if the server returns it again: without a limit, the session could be stuck forever.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Keyed by the token's text, since a server may send the same one again.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    entries: Entries,
    /// The eviction order for each origin. Outdated elements are skipped.
    leaving: [BinaryHeap<Reverse<Leaving>>; 3],
    /// Marked and not confirmed, least often sent first, so that a token that the server rejects does not block
    /// the rest.
    to_revoke: BTreeSet<(u32, Leaving)>,
    /// The texts of all that are marked, until that changes.
    marked: Option<Arc<[TokenText]>>,
}

/// Boxed, since a hash table has room for at least four entries and most sessions know a single token.
type Entries = HashMap<Box<TokenText>, Box<Entry>, BuildHasherDefault<DefaultHasher>>;

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Entry {
    id: TokenId,
    origin: Origin,
    leaves_at: Instant,
    mark: Option<Mark>,
}

/// Where the knowledge of a token comes from, least important first: these are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Origin {
    /// Another replica of this session has revoked it.
    Heard,
    /// It was received, without its life.
    Received,
    /// It was received, with its life.
    ReceivedWithLife,
}

impl Origin {
    const ALL: [Self; 3] = [Self::Heard, Self::Received, Self::ReceivedWithLife];

    fn is_life_known(self) -> bool {
        self != Self::Received
    }
}

/// A revoke came after this token.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Mark {
    /// The server has confirmed it: it is not sent again, but not taken back either.
    confirmed: bool,
    /// How often it was sent.
    sent: u32,
    /// From this time on, it is accepted again if the server returns it.
    until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(test, derive(Hash))]
struct Leaving {
    at: Instant,
    generation: u64,
    text: TokenText,
}

/// An evicted token: it stays valid and can no longer be revoked.
pub(crate) struct Evicted {
    pub(crate) id: TokenId,
    /// Should be logged for an operator.
    pub(crate) warns: bool,
}

impl Entry {
    /// A mark that has ended gives way to a new one.
    fn may_be_marked(&self, now: Instant) -> bool {
        self.mark.is_none_or(|mark| mark.until <= now)
    }

    fn leaving(&self, text: &TokenText) -> Leaving {
        Leaving { at: self.leaves_at, generation: self.id.generation, text: text.clone() }
    }
}

impl Ledger {
    /// Adds a token, with its lifetime if known. If it is already present, the later expiry applies. Returns
    /// the entry that was evicted for it, which is never `current`, the session's own token.
    pub(crate) fn join(
        &mut self,
        now: Instant,
        id: TokenId,
        text: &TokenText,
        life: Option<Duration>,
        current: Option<&TokenText>,
    ) -> Option<Evicted> {
        let origin = if life.is_some() { Origin::ReceivedWithLife } else { Origin::Received };
        let mut entry = Entry { id, origin, leaves_at: now + life.unwrap_or(DAY), mark: None };
        if let Some(known) = self.remove(text) {
            entry.mark = known.mark.filter(|mark| now < mark.until);
            // A server that repeats a revoked token says nothing of its life by that.
            let is_no_news = entry.mark.is_some() && !entry.origin.is_life_known();
            if is_no_news || entry.leaves_at < known.leaves_at {
                entry.leaves_at = known.leaves_at;
                entry.origin = match known.origin {
                    Origin::Heard => Origin::ReceivedWithLife,
                    origin => origin,
                };
            }
        }
        self.insert(text, entry);
        self.list(text);
        self.make_room(text, current)
    }

    /// Another replica has revoked this token, which has so much life left: it is marked here too, and the
    /// next revoke sends it.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        text: &TokenText,
        left: Duration,
        current: Option<&TokenText>,
    ) {
        if !self.holds(text) {
            let id = TokenId { session: 0, generation: 0 };
            let entry = Entry { id, origin: Origin::Heard, leaves_at: now + left, mark: None };
            self.insert(text, entry);
            self.list(text);
        }
        self.mark(text, now);
        self.make_room(text, current);
    }

    /// Whether it is known here already.
    pub(crate) fn holds(&self, text: &TokenText) -> bool {
        self.entries.contains_key(text)
    }

    fn insert(&mut self, text: &TokenText, entry: Entry) {
        if let Some(mark) = entry.mark.filter(|mark| !mark.confirmed) {
            self.to_revoke.insert((mark.sent, entry.leaving(text)));
        }
        self.marked.take_if(|_| entry.mark.is_some());
        self.entries.insert(Box::new(text.clone()), Box::new(entry));
    }

    /// Notes when an entry leaves, which is new.
    fn list(&mut self, text: &TokenText) {
        let Some(entry) = self.entries.get(text) else { return };
        let heap = &mut self.leaving[entry.origin as usize];
        if heap.is_empty() {
            // Most sessions know a single token at most times, and there may be many sessions.
            heap.reserve_exact(1);
        }
        heap.push(Reverse(entry.leaving(text)));
        // Skipped elements must not accumulate if the same text is added repeatedly.
        if self.leaving.iter().map(BinaryHeap::len).sum::<usize>() > 2 * self.entries.len() + 8 {
            let entries = &self.entries;
            for (heap, origin) in self.leaving.iter_mut().zip(Origin::ALL) {
                heap.retain(|Reverse(leaving)| is_so(entries, leaving, origin));
            }
        }
    }

    fn remove(&mut self, text: &TokenText) -> Option<Entry> {
        #[cfg(test)]
        touched(1);
        let entry = *self.entries.remove(text)?;
        if let Some(mark) = entry.mark {
            self.to_revoke.remove(&(mark.sent, entry.leaving(text)));
            self.marked = None;
        }
        Some(entry)
    }

    /// The only way to change an entry that stays.
    fn change(&mut self, text: &TokenText, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.remove(text) {
            let before = entry.leaves_at;
            change(&mut entry);
            // Listed twice for the same, it would count as two that are right.
            let is_new = entry.leaves_at != before;
            self.insert(text, entry);
            if is_new {
                self.list(text);
            }
        }
    }

    fn make_room(&mut self, new: &TokenText, current: Option<&TokenText>) -> Option<Evicted> {
        if self.entries.len() <= CAPACITY {
            return None;
        }
        let mut stay = Vec::new();
        let mut leaves = None;
        for origin in Origin::ALL {
            while leaves.is_none()
                && let Some(Reverse(leaving)) = self.leaving[origin as usize].pop()
            {
                if !is_so(&self.entries, &leaving, origin) {
                    continue;
                }
                let is_new = leaving.text == *new && origin != Origin::Heard;
                if is_new || Some(&leaving.text) == current {
                    stay.push((origin, leaving));
                } else {
                    leaves = Some(leaving.text);
                }
            }
        }
        for (origin, leaving) in stay {
            self.leaving[origin as usize].push(Reverse(leaving));
        }
        let Entry { id, origin, .. } = self.remove(&leaves?)?;
        Some(Evicted { id, warns: origin == Origin::ReceivedWithLife })
    }

    pub(crate) fn forget_expired(&mut self, now: Instant) {
        for origin in Origin::ALL {
            let index = origin as usize;
            while self.leaving[index].peek().is_some_and(|Reverse(leaving)| leaving.at <= now) {
                let Some(Reverse(leaving)) = self.leaving[index].pop() else { return };
                if is_so(&self.entries, &leaving, origin) {
                    self.remove(&leaving.text);
                }
            }
        }
    }

    pub(crate) fn mark_all(&mut self, now: Instant) {
        self.marked = None;
        #[cfg(test)]
        touched(self.entries.len());
        for (text, entry) in &mut self.entries {
            if entry.may_be_marked(now) {
                if let Some(mark) = entry.mark {
                    self.to_revoke.remove(&(mark.sent, entry.leaving(text)));
                }
                entry.mark = Some(Mark::new(now));
                self.to_revoke.insert((0, entry.leaving(text)));
            }
        }
    }

    pub(crate) fn mark(&mut self, text: &TokenText, now: Instant) {
        self.change(text, |entry| {
            if entry.may_be_marked(now) {
                entry.mark = Some(Mark::new(now));
            }
        });
    }

    pub(crate) fn is_marked(&self, text: &TokenText, now: Instant) -> bool {
        let mark = self.entries.get(text).and_then(|entry| entry.mark);
        mark.is_some_and(|mark| now < mark.until)
    }

    /// The texts of all that are marked, whether or not the server repeats them. `None` if none is.
    pub(crate) fn marked(&mut self) -> Option<Arc<[TokenText]>> {
        let marked = self.marked.get_or_insert_with(|| {
            let marked = self.entries.iter().filter(|(_, entry)| entry.mark.is_some());
            let mut marked: Vec<_> = marked.map(|(text, entry)| (entry.id, text)).collect();
            marked.sort_unstable();
            marked.into_iter().map(|(_, text)| (**text).clone()).collect()
        });
        Some(Arc::clone(marked)).filter(|marked| !marked.is_empty())
    }

    pub(crate) fn confirm(&mut self, text: &TokenText, now: Instant) {
        self.heard_of(text, now, |mark| mark.confirmed = true);
    }

    pub(crate) fn is_all_confirmed(&self) -> bool {
        self.to_revoke.is_empty()
    }

    /// At most `most` tokens to send.
    pub(crate) fn take_unconfirmed(&mut self, most: usize, now: Instant) -> Vec<TokenText> {
        let batch: Vec<_> =
            self.to_revoke.iter().take(most).map(|(_, leaving)| leaving.text.clone()).collect();
        for text in &batch {
            self.heard_of(text, now, |mark| mark.sent = mark.sent.saturating_add(1));
        }
        batch
    }

    fn heard_of(&mut self, text: &TokenText, now: Instant, change: impl FnOnce(&mut Mark)) {
        self.change(text, |entry| {
            if !entry.origin.is_life_known() {
                entry.leaves_at = now + DAY;
            }
            if let Some(mark) = &mut entry.mark {
                mark.until = now + DAY;
                change(mark);
            }
        });
    }
}

impl Mark {
    fn new(now: Instant) -> Self {
        Self { confirmed: false, sent: 0, until: now + DAY }
    }
}

fn is_so(entries: &Entries, leaving: &Leaving, origin: Origin) -> bool {
    #[cfg(test)]
    touched(1);
    entries.get(&leaving.text).is_some_and(|entry| {
        entry.origin == origin
            && entry.leaves_at == leaving.at
            && entry.id.generation == leaving.generation
    })
}

#[cfg(test)]
impl Ledger {
    /// No mark is older than this.
    pub(crate) fn age_marks(&mut self, now: Instant, oldest: Duration) {
        for entry in self.entries.values_mut() {
            entry.mark.take_if(|mark| mark.confirmed && mark.until + oldest <= now + DAY);
        }
    }
}

#[cfg(test)]
impl std::hash::Hash for Ledger {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.id);
        (entries, &self.to_revoke).hash(state);
    }
}

/// In the order in which they came, whatever the hashes are.
impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entries: Vec<_> = self.entries.values().collect();
        entries.sort_by_key(|entry| entry.id);
        f.debug_list().entries(entries).finish()
    }
}
