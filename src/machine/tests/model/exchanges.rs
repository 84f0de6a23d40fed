//! Exchanged tokens: a flight for each key, whose turn it is, and what is kept of those that are over.

use super::flight::{Flight, Verdict};
use super::operations::Failure;
use super::words::{Found, SeenExchanged, Start, Told, Wait, Wrong, span};
use super::{INVALIDATE_GAP, Kept, Model, NEVER, Nanos, SECOND};
use crate::error::TokenError;
use crate::request::{ExchangeKey, TokenRequestOptions};

/// So many keys are remembered because they failed.
const MOST_FAILURES: usize = 1_024;
/// Between two refreshes of the session's token that refused subjects open.
const SUBJECT_GAP: Nanos = INVALIDATE_GAP;
/// How long keys that failed wait for others after a rest.
const YIELD: Nanos = 5 * SECOND;

/// All about one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub name: ExchangeKey,
    pub flight: Flight,
    pub callers: Vec<u64>,
    pub token: Option<Kept>,
    /// What that was exchanged from.
    parent: u64,
    /// A reader asked while the endpoint cooled: none asks again before this.
    asked_again_at: Nanos,

    // While the flight is open.
    /// Who opened first is served first.
    turn: u64,
    pub waits_for: WaitsFor,
    /// How many grant attempts had ended when it became ready.
    grants_ended: u64,
    /// A refused subject gives one more attempt, once.
    ran_again: bool,
    /// The subject of the attempt on the wire.
    subject: u64,
    /// Who waited when that was given up.
    asked_in_time: Vec<u64>,
    /// Of the endpoint, when that was sent: how many failures had been counted, and how many had succeeded.
    known: (u64, u64),
}

/// What an open flight waits for that has nothing on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WaitsFor {
    /// The end of a pause.
    Pause,
    Turn,
    /// Leave to be sent.
    Leave,
    /// A subject with more life.
    MoreLife,
    /// A subject that is not the one refused with this.
    NextSubject(Failure),
}

/// The endpoint, which all keys share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    pub probes: Flight,
    failures: u64,
    successes: u64,
    /// Keys that have not failed were turned away since the last probe: those that have wait longer.
    others_first: bool,
}

impl Endpoint {
    /// What those of a key are told while nothing is sent for it.
    fn cooling(&self, key: &Flight, now: Nanos) -> Option<Wrong> {
        if self.probes.open || key.last.is_none() || !self.others_first {
            return self.probes.cooling(now);
        }
        let until = self.probes.not_before + YIELD;
        Some(Wrong::Cooling(self.probes.last.filter(|_| now < until)?, until - now))
    }

    fn turned_away(&mut self, key: &Flight) {
        self.others_first |= key.last.is_none();
    }

    fn is_failing(&self) -> bool {
        self.probes.open || self.probes.last.is_some()
    }

    /// What was sent since the last counted failure has shown that it works.
    fn works(&mut self, known: (u64, u64)) {
        if known.0 == self.failures {
            self.probes.succeeded();
            self.probes.wire = None;
        }
    }
}

impl Key {
    fn waits(&self, what: WaitsFor) -> bool {
        self.flight.waits() && self.waits_for == what
    }

    /// When a finished entry is of no more use.
    fn over_at(&self) -> Nanos {
        let expires_at = self.token.as_ref().map_or(0, |token| token.expires_at);
        expires_at.max(self.flight.not_before)
    }

    fn is_finished(&self) -> bool {
        !self.flight.open && (self.token.is_some() || self.flight.remembers())
    }

    pub fn ask_at(&self) -> Nanos {
        if self.flight.open {
            return NEVER;
        }
        let stale_at = self.token.as_ref().map_or(0, |token| token.stale_at);
        stale_at.max(self.flight.not_before).max(self.asked_again_at)
    }
}

fn exchanged(token: &Kept) -> Told {
    Told::Exchanged(Ok((token.generation, token.text.clone())))
}

impl Model {
    /// When the first of the exchanged tokens becomes stale, and when one is to be replaced.
    pub fn exchanged_at(&self, instant: fn(&Kept) -> Nanos) -> Option<Nanos> {
        let tokens = self.keys.iter().filter_map(|key| key.token.as_ref());
        tokens.map(instant).filter(|at| *at > self.now).min()
    }

    fn unexpired(&self, at: usize) -> Option<Told> {
        let token = self.keys[at].token.as_ref();
        token.filter(|token| self.now < token.expires_at).map(exchanged)
    }

    pub(super) fn exchange(&mut self, id: u64, name: &ExchangeKey, options: &TokenRequestOptions) {
        let at = self.entry(name);
        if !self.setup.can_exchange {
            let unsupported = Told::Exchanged(Err(Wrong::Unsupported));
            return self.tell(id, self.unexpired(at).unwrap_or(unsupported));
        }
        self.note_caller(options);
        let usable = self.keys[at].token.as_ref().filter(|token| self.now < token.usable_until());
        if let Some(told) = usable.map(exchanged) {
            if self.keys[at].ask_at() <= self.now {
                let cooling = self.endpoint.cooling(&self.keys[at].flight, self.now);
                if let Some(Wrong::Cooling(_, wait)) = cooling {
                    self.keys[at].asked_again_at = self.now + wait;
                } else {
                    self.open_exchange(at, options);
                }
            }
            return self.tell(id, told);
        }
        let no_subject = self.usable().is_none();
        let wrong = if self.keys[at].flight.open {
            None
        } else {
            let flight = &self.keys[at].flight;
            let of_key = flight.cooling(self.now);
            let of_all = self.endpoint.cooling(flight, self.now);
            if of_key.is_none() && of_all.is_some() {
                self.endpoint.turned_away(flight);
            }
            of_key.or(of_all).or(self.grant.cooling(self.now).filter(|_| no_subject))
        };
        let wrong = wrong.or(self.is_full().then_some(Wrong::Overloaded));
        if let Some(wrong) = wrong {
            let told = self.unexpired(at).unwrap_or(Told::Exchanged(Err(wrong)));
            return self.tell(id, told);
        }
        self.keys[at].callers.push(id);
        if !self.keys[at].flight.open {
            self.open_exchange(at, options);
        }
    }

    fn open_exchange(&mut self, at: usize, options: &TokenRequestOptions) {
        self.turns += 1;
        let key = &mut self.keys[at];
        key.flight.open(&self.setup, options);
        (key.turn, key.waits_for, key.ran_again) = (self.turns, WaitsFor::Pause, false);
        self.end_pauses();
    }

    /// Whose pause is over waits for its turn from now on.
    pub(super) fn end_pauses(&mut self) {
        for key in &mut self.keys {
            if key.waits(WaitsFor::Pause) && key.flight.next_at <= self.now {
                (key.waits_for, key.grants_ended) = (WaitsFor::Turn, self.grants_ended);
            }
        }
    }

    /// Who waits for this waits for its turn again.
    pub(super) fn back_to_turn(&mut self, is_it: impl Fn(WaitsFor) -> bool) {
        for key in self.keys.iter_mut().filter(|key| is_it(key.waits_for)) {
            key.waits_for = WaitsFor::Turn;
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
            asked_again_at: 0,
            turn: 0,
            waits_for: WaitsFor::Turn,
            grants_ended: 0,
            ran_again: false,
            subject: 0,
            asked_in_time: Vec::new(),
            known: (0, 0),
        });
        self.keys.sort_by(|one, other| one.name.cmp(&other.name));
        self.entry(name)
    }

    /// The open flights that have nothing on the wire, first come first.
    fn waiting(&self) -> Vec<usize> {
        let mut waiting: Vec<usize> =
            (0..self.keys.len()).filter(|at| self.keys[*at].flight.waits()).collect();
        waiting.sort_by_key(|at| self.keys[*at].turn);
        waiting
    }

    /// What readers may take now.
    pub fn shown_exchanged(&self) -> Vec<SeenExchanged> {
        let shown = |key: &Key| {
            let token = key.token.as_ref().filter(|token| self.now < token.usable_until())?;
            Some(SeenExchanged {
                key: key.name.clone(),
                generation: token.generation,
                text: token.text.clone(),
                usable_until: token.usable_until(),
                ask_at: key.ask_at(),
            })
        };
        self.keys.iter().filter_map(shown).collect()
    }

    // ---- An attempt has ended.

    pub(super) fn exchange_ended(&mut self, name: &ExchangeKey, found: Found) {
        let at = self.entry(name);
        let sent = self.keys[at].flight.wire.take().expect("an exchange was on the wire");
        let known = self.keys[at].known;
        match found.and_then(|came| self.receive(came, &sent)) {
            Ok(token) => {
                self.endpoint.works(known);
                self.endpoint.successes += 1;
                let key = &mut self.keys[at];
                key.flight.succeeded();
                if sent.revokes < self.revokes {
                    // From the beginning.
                    let options = key.flight.options.clone();
                    key.flight.open(&self.setup, &options);
                    (key.waits_for, key.grants_ended) = (WaitsFor::Turn, self.grants_ended);
                } else {
                    self.exchanged(at, token);
                }
            }
            Err(failure) if failure.is_retryable() => {
                let probes_over = self.endpoint_failed(known, failure);
                self.exchange_failed(at, failure);
                let wrong = self.endpoint_error().filter(|_| probes_over);
                for at in self.waiting().into_iter().filter(|_| wrong.is_some()) {
                    self.endpoint.turned_away(&self.keys[at].flight);
                    self.close_exchange(at, wrong.as_ref().unwrap());
                }
            }
            Err(failure) => {
                self.endpoint.works(known);
                if !failure.refuses_subject() || !self.run_again(at, failure) {
                    self.exchange_failed(at, failure);
                }
            }
        }
    }

    fn exchanged(&mut self, at: usize, token: Kept) {
        let key = &mut self.keys[at];
        let told = exchanged(&token);
        let mut callers = std::mem::take(&mut key.callers);
        if self.invalidated.contains(&key.subject) {
            // For those who asked when its subject was still good.
            key.callers = callers.extract_if(.., |id| !key.asked_in_time.contains(id)).collect();
            if !key.callers.is_empty() {
                let options = key.flight.options.clone();
                key.flight.open(&self.setup, &options);
                (key.waits_for, key.grants_ended) = (WaitsFor::Turn, self.grants_ended);
            }
        } else {
            (key.token, key.parent, key.asked_again_at) = (Some(token), key.subject, 0);
        }
        for id in callers {
            self.tell(id, told.clone());
        }
    }

    /// Whether this was the end of the probes.
    fn endpoint_failed(&mut self, known: (u64, u64), failure: Failure) -> bool {
        let of_an_earlier_outage = known.0 < self.endpoint.failures;
        let is_about_all = matches!(failure, Failure::RateLimited(_) | Failure::Transport);
        let others_succeed = known.1 < self.endpoint.successes;
        let counts = is_about_all || self.endpoint.is_failing() || !others_succeed;
        if of_an_earlier_outage || !counts {
            return false;
        }
        self.endpoint.failures += 1;
        let probes = &mut self.endpoint.probes;
        if probes.wire.take().is_none() {
            probes.open(&self.setup, &TokenRequestOptions::new());
            probes.start(self.now, 0);
            probes.wire = None;
            self.endpoint.others_first = false;
        }
        probes.failed(failure, &self.setup, self.now, self.random) == Verdict::Over
    }

    /// What those get who waited for it.
    fn endpoint_error(&self) -> Option<Wrong> {
        match self.endpoint.probes.cooling(self.now)? {
            Wrong::Cooling(last, wait) => Some(Wrong::Failed(last, wait)),
            other => Some(other),
        }
    }

    fn exchange_failed(&mut self, at: usize, failure: Failure) {
        let key = &mut self.keys[at];
        key.token.iter_mut().for_each(|token| token.failed_since = true);
        key.waits_for = WaitsFor::Pause;
        let verdict = key.flight.failed(failure, &self.setup, self.now, self.random);
        let wrong = match verdict {
            Verdict::Over => Some(Wrong::Failed(failure, key.flight.not_before - self.now)),
            Verdict::Again => self.endpoint_error(),
        };
        if let Some(wrong) = wrong {
            self.close_exchange(at, &wrong);
        } else if let Some(told) = self.unexpired(at) {
            self.answer_exchange(at, &told);
        }
    }

    fn close_exchange(&mut self, at: usize, wrong: &Wrong) {
        self.keys[at].flight.abandon();
        let told = self.unexpired(at).unwrap_or(Told::Exchanged(Err(wrong.clone())));
        self.answer_exchange(at, &told);
    }

    fn answer_exchange(&mut self, at: usize, told: &Told) {
        for id in std::mem::take(&mut self.keys[at].callers) {
            self.tell(id, told.clone());
        }
    }

    /// Its subject was refused; whether there is, or will be, another.
    fn run_again(&mut self, at: usize, failure: Failure) -> bool {
        let key = &self.keys[at];
        if key.ran_again {
            return false;
        }
        let same = self.held.as_ref().filter(|token| token.generation == key.subject);
        let mut waits_for = WaitsFor::Turn;
        if let Some(text) = same.map(|token| token.text.clone()) {
            if key.callers.is_empty() {
                return false;
            }
            if !self.grant.open {
                let too_soon =
                    self.subject_refused_at.is_some_and(|last| self.now - last < SUBJECT_GAP);
                if too_soon || !self.may_open() {
                    return false;
                }
                self.subject_refused_at = Some(self.now);
                self.refused = Some(text);
                let options = key.flight.options.clone();
                self.open_grant(&options);
            }
            waits_for = WaitsFor::NextSubject(failure);
        }
        let key = &mut self.keys[at];
        (key.ran_again, key.waits_for) = (true, waits_for);
        key.flight.renew(&self.setup);
        key.flight.next_at = self.now;
        true
    }

    /// A grant's flight has failed. Those that it was opened for are left with the answer they had; and
    /// without a token, those whose turn it is get the grant's error, and their keys do not cool.
    pub(super) fn no_subject_comes(&mut self, wrong: &Wrong) {
        for at in self.waiting() {
            if let WaitsFor::NextSubject(failure) = self.keys[at].waits_for {
                self.exchange_failed(at, failure);
            }
        }
        if self.usable().is_none() {
            for at in self.waiting() {
                if matches!(self.keys[at].waits_for, WaitsFor::Turn | WaitsFor::Leave) {
                    self.close_exchange(at, wrong);
                }
            }
        }
    }

    // ---- Leave.

    fn at_gate(&self) -> usize {
        self.keys.iter().filter(|key| key.waits(WaitsFor::Leave)).count()
    }

    pub(super) fn exchange_permitted(&mut self, name: &ExchangeKey, refusal: Option<&TokenError>) {
        let at = self.entry(name);
        if !self.keys[at].waits(WaitsFor::Leave) {
            return;
        }
        let key = &mut self.keys[at];
        key.waits_for = WaitsFor::Turn;
        if let Some(failure) = refusal.map(Failure::no_leave) {
            key.token.iter_mut().for_each(|token| token.failed_since = true);
            let wait = key.flight.turned_away(failure, self.now);
            self.close_exchange(at, &Wrong::Failed(failure, wait));
        } else if self.may_send(0) {
            self.serve(at, true);
        }
    }

    /// Behind the barrier nobody waits for leave; nor does anybody whose flight is over.
    pub(super) fn leave_the_gate(&mut self) {
        for key in self.keys.iter_mut().filter(|key| key.waits_for == WaitsFor::Leave) {
            if self.barrier.is_some() || !key.flight.open {
                key.waits_for = WaitsFor::Turn;
                self.out.waits.push((Some(key.name.clone()), Wait::IsGivenUp));
            }
        }
    }

    // ---- What is due.

    pub(super) fn end_what_is_unsupported(&mut self) {
        if !self.setup.can_exchange {
            for at in self.waiting() {
                self.close_exchange(at, &Wrong::Unsupported);
            }
        }
    }

    pub(super) fn advance_exchanges(&mut self) {
        if self.barrier.is_some() {
            return;
        }
        for at in self.waiting() {
            if self.keys[at].waits_for != WaitsFor::Turn {
                continue;
            }
            if !self.may_send(self.at_gate()) || !self.serve(at, false) {
                return;
            }
        }
    }

    /// All is well and there is a place, or it is time for a probe.
    fn may_send(&self, at_gate: usize) -> bool {
        let on_wire = self.keys.iter().filter(|key| key.flight.wire.is_some()).count();
        let probes = &self.endpoint.probes;
        if self.endpoint.is_failing() {
            let due = probes.waits() && probes.next_at <= self.now;
            at_gate == 0 && (due || probes.may_open(self.now))
        } else {
            on_wire + at_gate < self.setup.exchanges_at_once
        }
    }

    /// Whether it went, or steps aside; if not, those behind it wait too.
    fn serve(&mut self, at: usize, has_leave: bool) -> bool {
        let key = &self.keys[at];
        let options = key.flight.options.clone();
        let has_waited = key.grants_ended < self.grants_ended;
        let is_wanted = !key.callers.is_empty();
        let unexpired = self.held.clone().filter(|token| self.now < token.expires_at);
        if let Some(subject) = unexpired.filter(|_| has_waited || !is_wanted) {
            self.start_exchange(at, subject.generation, has_leave);
            return true;
        }
        let usable = self.usable();
        if usable.is_none()
            && let Some(wrong) = self.grant.cooling(self.now)
        {
            self.close_exchange(at, &wrong);
            return true;
        }
        if let Some(subject) = &usable {
            let likes = subject.has_left(span(options.get_min_remaining()), self.now);
            if likes || !(self.grant.open || self.may_open()) {
                self.start_exchange(at, subject.generation, has_leave);
                return true;
            }
        }
        if !self.grant.open {
            if !is_wanted {
                self.keys[at].flight.abandon();
                return true;
            }
            self.open_grant(&options);
        }
        if usable.is_some() {
            self.keys[at].waits_for = WaitsFor::MoreLife;
        }
        usable.is_some()
    }

    fn start_exchange(&mut self, at: usize, subject: u64, has_leave: bool) {
        if self.setup.gated && !has_leave {
            self.keys[at].waits_for = WaitsFor::Leave;
            self.out.waits.push((Some(self.keys[at].name.clone()), Wait::Begins(None)));
            return;
        }
        if self.endpoint.is_failing() {
            let probes = &mut self.endpoint.probes;
            if !probes.open {
                probes.open(&self.setup, &TokenRequestOptions::new());
            }
            probes.start(self.now, 0);
            self.endpoint.others_first = false;
        }
        let key = &mut self.keys[at];
        key.subject = subject;
        key.known = (self.endpoint.failures, self.endpoint.successes);
        let number = key.flight.start(self.now, self.revokes);
        let (key, options) = (key.name.clone(), key.flight.options.clone());
        self.out.starts.push(Start::Exchange { number, key, subject, options });
    }

    // ---- Tokens that go.

    /// This was given up as a subject.
    pub(super) fn drop_exchanged_from(&mut self, parent: u64) {
        let is_new = !self.invalidated.contains(&parent);
        self.invalidated.push(parent);
        for key in &mut self.keys {
            if key.parent == parent {
                key.token = None;
            }
            if key.subject == parent && is_new {
                key.asked_in_time.clone_from(&key.callers);
            }
        }
    }

    pub(super) fn drop_exchanged(&mut self, text: &str) {
        for key in &mut self.keys {
            key.token.take_if(|token| token.text == text);
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
