//! Exchanged tokens: one flight per key, and what is kept of those that are over.

use super::flight::{Flight, Verdict};
use super::operations::Failure;
use super::words::{Found, Start, Told, Wrong, span};
use super::{Held, INVALIDATE_GAP, Model, Nanos, Received};
use crate::request::{ExchangeKey, TokenRequestOptions};

/// So many keys are remembered because they failed.
const MOST_FAILURES: usize = 1_024;

/// A finished exchange's token.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchanged {
    generation: u64,
    text: String,
    parent: u64,
    acquired_at: Nanos,
    hold_at: Nanos,
    expires_at: Nanos,
}

impl Exchanged {
    fn told(&self) -> Told {
        Told::Exchanged(Ok((self.generation, self.text.clone())))
    }
}

/// All about one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    name: ExchangeKey,
    pub flight: Flight,
    pub callers: Vec<u64>,
    token: Option<Exchanged>,
    /// The subject of the attempt on the wire.
    parent: u64,
    /// A refused subject gives one more attempt, once.
    ran_again: bool,
}

impl Key {
    /// Only a subject is missing.
    pub fn needs_subject(&self, now: Nanos) -> bool {
        self.flight.waits() && now >= self.flight.next_at
    }

    fn likes(&self, subject: &Held, now: Nanos) -> bool {
        subject.has_left(span(self.flight.options.get_min_remaining()), now)
    }

    /// When a finished entry is of no more use.
    fn over_at(&self) -> Nanos {
        let expires_at = self.token.as_ref().map_or(0, |token| token.expires_at);
        expires_at.max(self.flight.not_before)
    }

    fn is_finished(&self) -> bool {
        !self.flight.open && (self.token.is_some() || self.flight.remembers())
    }
}

impl Model {
    /// When the first of the exchanged tokens is to be replaced.
    pub fn exchanged_hold_at(&self) -> Option<Nanos> {
        let tokens = self.keys.iter().filter_map(|key| key.token.as_ref());
        tokens.map(|token| token.hold_at).filter(|hold_at| *hold_at > self.now).min()
    }

    pub(super) fn exchange(&mut self, id: u64, name: ExchangeKey, options: &TokenRequestOptions) {
        if !self.setup.can_exchange {
            return self.tell(id, Told::Exchanged(Err(Wrong::Unsupported)));
        }
        self.note_caller(options);
        let full = self.is_full();
        let no_subject = self.usable().is_none();
        let at = self.entry(&name);
        let key = &self.keys[at];
        let cached = key.token.clone().filter(|token| self.now < token.hold_at);
        if let Some(token) = cached {
            return self.tell(id, token.told());
        }
        if !key.flight.open {
            let subject_cools = self.grant.cooling(self.now).filter(|_| no_subject);
            if let Some(wrong) = key.flight.cooling(self.now).or(subject_cools) {
                return self.tell(id, Told::Exchanged(Err(wrong)));
            }
        }
        if full {
            let unexpired = key.token.clone().filter(|token| self.now < token.expires_at);
            let overloaded = Told::Exchanged(Err(Wrong::Overloaded));
            return self.tell(id, unexpired.map_or(overloaded, |token| token.told()));
        }
        let key = &mut self.keys[at];
        key.callers.push(id);
        if !key.flight.open {
            key.flight.open(&self.setup, options);
            key.ran_again = false;
        }
    }

    /// The last caller of one that has sent nothing is its end.
    pub(super) fn leave_exchange(&mut self, id: u64) {
        let Some(key) = self.keys.iter_mut().find(|key| key.callers.contains(&id)) else { return };
        key.callers.retain(|caller| *caller != id);
        if key.callers.is_empty() && key.flight.counted == 0 {
            key.flight.abandon();
        }
    }

    /// Where the key is; keys lie in their order.
    fn entry(&mut self, name: &ExchangeKey) -> usize {
        if let Some(at) = self.keys.iter().position(|key| key.name == *name) {
            return at;
        }
        self.keys.push(Key {
            name: name.clone(),
            flight: Flight::default(),
            callers: Vec::new(),
            token: None,
            parent: 0,
            ran_again: false,
        });
        self.keys.sort_by(|one, other| one.name.cmp(&other.name));
        self.entry(name)
    }

    pub(super) fn exchange_ended(&mut self, name: &ExchangeKey, found: Found) {
        let at = self.entry(name);
        let sent = self.keys[at].flight.wire.take().expect("an exchange was on the wire");
        match found.and_then(|came| self.receive(came, &sent)) {
            Err(failure) => self.exchange_failed(at, failure),
            Ok(_) if sent.revokes < self.revokes => {
                let key = &mut self.keys[at];
                key.flight.succeeded();
                if !key.callers.is_empty() {
                    let options = key.flight.options.clone();
                    key.flight.open(&self.setup, &options);
                }
            }
            Ok(received) => self.exchanged(at, sent.at, received),
        }
    }

    fn exchanged(&mut self, at: usize, acquired_at: Nanos, received: Received) {
        let Received { generation, text, hold_at, expires_at, .. } = received;
        let key = &mut self.keys[at];
        key.flight.succeeded();
        let parent = key.parent;
        let token = Exchanged { generation, text, parent, acquired_at, hold_at, expires_at };
        let told = token.told();
        key.token = Some(token).filter(|_| !self.invalidated.contains(&parent));
        for id in std::mem::take(&mut key.callers) {
            self.tell(id, told.clone());
        }
    }

    fn exchange_failed(&mut self, at: usize, failure: Failure) {
        if failure.refuses_subject() {
            let parent = self.keys[at].parent;
            self.invalidate(parent);
            let gone = self.held.as_ref().is_none_or(|token| token.generation != parent);
            let key = &mut self.keys[at];
            if gone && !key.ran_again {
                key.ran_again = true;
                key.flight.renew(&self.setup);
                key.flight.next_at = self.now;
                return;
            }
        }
        let key = &mut self.keys[at];
        if key.flight.failed(failure, &self.setup, self.now, self.random) == Verdict::Over {
            let wrong = Wrong::Failed(failure, key.flight.not_before - self.now);
            for id in std::mem::take(&mut key.callers) {
                self.tell(id, Told::Exchanged(Err(wrong.clone())));
            }
        }
    }

    /// A grant attempt has ended, and this is the token there is: whoever waited takes it.
    pub(super) fn serve_subjects(&mut self, subject: u64) {
        for at in 0..self.keys.len() {
            if self.keys[at].needs_subject(self.now) {
                self.start_exchange(at, subject);
            }
        }
    }

    /// There will be no subject: the callers get the grant's error, and the key does not cool.
    pub(super) fn refuse_subjects(&mut self, wrong: &Wrong) {
        for at in 0..self.keys.len() {
            if self.keys[at].needs_subject(self.now) {
                self.keys[at].flight.abandon();
                for id in std::mem::take(&mut self.keys[at].callers) {
                    self.tell(id, Told::Exchanged(Err(wrong.clone())));
                }
            }
        }
    }

    pub(super) fn advance_exchanges(&mut self) {
        if self.barrier.is_some() {
            return;
        }
        for at in 0..self.keys.len() {
            let key = &self.keys[at];
            if !key.needs_subject(self.now) {
                continue;
            }
            match self.usable() {
                Some(subject) if key.likes(&subject, self.now) => {
                    self.start_exchange(at, subject.generation);
                }
                _ if self.grant.open => {}
                Some(_) if self.may_open() => self.open_for_exchange(at),
                Some(subject) => self.start_exchange(at, subject.generation),
                None => match self.grant.cooling(self.now) {
                    Some(wrong) => self.refuse_subjects(&wrong),
                    None => self.open_for_exchange(at),
                },
            }
        }
    }

    /// A grant that the exchange needs: if nobody waits for it any more, that is its end instead.
    fn open_for_exchange(&mut self, at: usize) {
        let key = &mut self.keys[at];
        if key.callers.is_empty() {
            key.flight.abandon();
        } else {
            let options = key.flight.options.clone();
            self.open_grant(&options);
        }
    }

    fn start_exchange(&mut self, at: usize, subject: u64) {
        let key = &mut self.keys[at];
        key.parent = subject;
        let number = key.flight.start(self.now, self.revokes);
        let (key, options) = (key.name.clone(), key.flight.options.clone());
        self.out.starts.push(Start::Exchange { number, key, subject, options });
    }

    pub(super) fn drop_exchanged_from(&mut self, parent: u64) {
        for key in &mut self.keys {
            key.token.take_if(|token| token.parent == parent);
        }
    }

    pub(super) fn drop_all_exchanged(&mut self) {
        for key in &mut self.keys {
            key.token = None;
        }
    }

    pub(super) fn invalidate_exchanged(&mut self, generation: u64) {
        for key in &mut self.keys {
            key.token.take_if(|token| {
                token.generation == generation && self.now - token.acquired_at >= INVALIDATE_GAP
            });
        }
    }

    pub(super) fn forget_beyond_capacity(&mut self) {
        for key in &mut self.keys {
            key.token.take_if(|token| token.expires_at <= self.now);
        }
        self.forget_beyond(self.setup.exchange_capacity, |key| !key.flight.remembers());
        self.forget_beyond(MOST_FAILURES, |key| key.flight.remembers());
    }

    fn forget_beyond(&mut self, most: usize, is_one: impl Fn(&Key) -> bool) {
        loop {
            let finished = self.keys.iter().filter(|key| key.is_finished() && is_one(key));
            if finished.clone().count() <= most {
                return;
            }
            let first = finished.min_by_key(|key| key.over_at()).unwrap().name.clone();
            self.keys.retain(|key| key.name != first);
        }
    }
}
