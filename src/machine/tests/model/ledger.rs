//! Every token that the session received, until it expires.

use super::Nanos;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub text: String,
    pub expires_at: Nanos,
    pub marked: bool,
    pub confirmed: bool,
    pub on_the_wire: bool,
    pub times_sent: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    pub entries: Vec<Entry>,
}

impl Ledger {
    pub fn forget_expired(&mut self, now: Nanos) {
        self.entries.retain(|entry| now < entry.expires_at);
    }

    pub fn join(&mut self, text: &str, expires_at: Nanos, now: Nanos) {
        match self.entries.iter().position(|entry| entry.text == text) {
            Some(at) => {
                let mut entry = self.entries.remove(at);
                entry.expires_at = entry.expires_at.max(expires_at);
                self.entries.push(entry);
            }
            None if now < expires_at => self.entries.push(Entry {
                text: text.into(),
                expires_at,
                marked: false,
                confirmed: false,
                on_the_wire: false,
                times_sent: 0,
            }),
            None => {}
        }
    }

    pub fn is_marked(&self, text: &str) -> bool {
        self.entries.iter().any(|entry| entry.text == text && entry.marked)
    }

    pub fn mark(&mut self, text: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.text == text) {
            entry.marked = true;
        }
    }

    /// What a revoke has yet to reach.
    pub fn unconfirmed(&self) -> usize {
        self.entries.iter().filter(|entry| entry.marked && !entry.confirmed).count()
    }

    /// The next that go out: up to eight, those least often sent first, among these the first to
    /// expire.
    pub fn take_batch(&mut self) -> Vec<String> {
        let mut batch = Vec::new();
        while batch.len() < 8 {
            let next = self
                .entries
                .iter_mut()
                .filter(|entry| entry.marked && !entry.confirmed && !entry.on_the_wire)
                .min_by_key(|entry| (entry.times_sent, entry.expires_at));
            let Some(entry) = next else { break };
            entry.on_the_wire = true;
            batch.push(entry.text.clone());
        }
        for entry in self.entries.iter_mut().filter(|entry| batch.contains(&entry.text)) {
            entry.times_sent += 1;
        }
        batch
    }

    pub fn came_back(&mut self, text: &str, confirmed: bool) {
        for entry in self.entries.iter_mut().filter(|entry| entry.text == text) {
            entry.on_the_wire = false;
            entry.confirmed |= confirmed;
        }
    }
}
