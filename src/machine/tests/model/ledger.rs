//! Every token that the session received, while it may be alive.

use super::{Nanos, SECOND};

/// For so long a token of unknown life may be alive, and a marked text is not taken.
const DAY: Nanos = 24 * 60 * 60 * SECOND;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    text: String,
    life_known: bool,
    leaves_at: Nanos,
    mark: Option<Mark>,
    on_the_wire: bool,
    /// It was never received here.
    heard: bool,
}

/// A revoke has come since.
#[derive(Clone, Debug, PartialEq)]
struct Mark {
    until: Nanos,
    confirmed: bool,
    times_sent: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Entry {
    fn is_unconfirmed(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| !mark.confirmed)
    }

    /// It was sent, or confirmed.
    fn heard_of(&mut self, now: Nanos) {
        if !self.life_known {
            self.leaves_at = now + DAY;
        }
        if let Some(mark) = &mut self.mark {
            mark.until = now + DAY;
        }
    }
}

impl Ledger {
    pub fn forget_expired(&mut self, now: Nanos) {
        self.entries.retain(|entry| now < entry.leaves_at);
    }

    pub fn holds(&self, text: &str) -> bool {
        self.entries.iter().any(|entry| entry.text == text)
    }

    pub fn join(&mut self, text: &str, life: Option<Nanos>, now: Nanos) {
        let leaves_at = now.saturating_add(life.unwrap_or(DAY));
        let life_known = life.is_some();
        let Some(at) = self.entries.iter().position(|entry| entry.text == text) else {
            let (text, mark, on_the_wire, heard) = (text.into(), None, false, false);
            self.entries.push(Entry { text, life_known, leaves_at, mark, on_the_wire, heard });
            return;
        };
        let mut entry = self.entries.remove(at);
        entry.heard = false;
        entry.mark.take_if(|mark| mark.until <= now);
        let says_nothing_new = entry.mark.is_some() && !life_known;
        if !says_nothing_new && leaves_at >= entry.leaves_at {
            (entry.leaves_at, entry.life_known) = (leaves_at, life_known);
        }
        self.entries.push(entry);
    }

    pub fn hear(&mut self, text: &str, left: Nanos, now: Nanos) {
        if !self.holds(text) {
            self.join(text, Some(left), now);
            self.entries.last_mut().unwrap().heard = true;
        }
        self.mark(|other| other == text, now);
    }

    /// The texts of all that have a mark, sorted.
    pub fn marked(&self) -> Vec<String> {
        let marked = self.entries.iter().filter(|entry| entry.mark.is_some());
        let mut marked: Vec<_> = marked.map(|entry| entry.text.clone()).collect();
        marked.sort();
        marked
    }

    pub fn is_marked(&self, text: &str, now: Nanos) -> bool {
        let is_marked = |entry: &Entry| entry.mark.as_ref().is_some_and(|mark| now < mark.until);
        self.entries.iter().any(|entry| entry.text == text && is_marked(entry))
    }

    /// Marks those that are not, or no more.
    pub fn mark(&mut self, is_one: impl Fn(&str) -> bool, now: Nanos) {
        for entry in self.entries.iter_mut().filter(|entry| is_one(&entry.text)) {
            if entry.mark.as_ref().is_none_or(|mark| mark.until <= now) {
                let until = now + DAY;
                entry.mark = Some(Mark { until, confirmed: false, times_sent: 0 });
            }
        }
    }

    /// What a revoke has yet to reach.
    pub fn unconfirmed(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_unconfirmed()).count()
    }

    /// The next that go out: up to eight, those least often sent first, among these the first to leave, then
    /// those that never came here, by their texts, then the others as they came.
    pub fn take_batch(&mut self, now: Nanos) -> Vec<String> {
        let mut batch = Vec::new();
        while batch.len() < 8 {
            let next = self
                .entries
                .iter_mut()
                .filter(|entry| entry.is_unconfirmed() && !entry.on_the_wire)
                .min_by_key(|entry| {
                    let text = entry.heard.then(|| entry.text.clone());
                    let times_sent = entry.mark.as_ref().unwrap().times_sent;
                    (times_sent, entry.leaves_at, !entry.heard, text)
                });
            let Some(entry) = next else { break };
            entry.on_the_wire = true;
            batch.push(entry.text.clone());
        }
        for entry in self.entries.iter_mut().filter(|entry| batch.contains(&entry.text)) {
            entry.heard_of(now);
            entry.mark.as_mut().unwrap().times_sent += 1;
        }
        batch
    }

    pub fn came_back(&mut self, text: &str, confirmed: bool, now: Nanos) {
        for entry in self.entries.iter_mut().filter(|entry| entry.text == text) {
            entry.on_the_wire = false;
            if confirmed {
                entry.heard_of(now);
                entry.mark.iter_mut().for_each(|mark| mark.confirmed = true);
            }
        }
    }
}
