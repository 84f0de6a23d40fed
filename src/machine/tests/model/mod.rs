//! A second machine, written from `src/docs/design.md` and from nothing else: as plain as it can be, slow, and with
//! no code in common with the real one. Time is a number of nanoseconds, a token's text is a string, and
//! everything that waits lies in a vector.

pub(crate) mod bytes;
mod exchanges;
mod flight;
mod ledger;
pub(crate) mod operations;
mod revocation;
pub(crate) mod run;
#[cfg(test)]
mod tests;
mod words;

use std::time::Duration;

use exchanges::{Endpoint, Key, WaitsFor};
use flight::{Flight, Sent, Verdict};
use ledger::Ledger;
use operations::{ASSUMED_LIFETIME, Failure, Mode, Setup};
use revocation::Barrier;
use words::{Asked, Came, Found, Output, Seen, SeenToken, Start, Told, Wait, Wrong, found, span};

use crate::error::TokenError;
use crate::machine::{CallerId, Ended, Event, News, Purpose};
use crate::request::TokenRequestOptions;

/// An instant or a span, in nanoseconds.
type Nanos = u64;
/// Never.
const NEVER: Nanos = u64::MAX;
/// The session's number.
const SESSION: u64 = 1;
/// One second.
const SECOND: Nanos = 1_000_000_000;
/// Between two invalidations that are honoured.
const INVALIDATE_GAP: Nanos = 10 * SECOND;
/// No token counts as living longer.
const LONGEST_LIFE: Nanos = 30 * 24 * 60 * 60 * SECOND;

/// A token that is kept, with the instants that follow from how it was received: the session's own, or an
/// exchanged one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    generation: u64,
    text: String,
    acquired_at: Nanos,
    stale_at: Nanos,
    hold_at: Nanos,
    expires_at: Nanos,
    lifetime: Nanos,
    /// An attempt to replace it has failed since it came.
    failed_since: bool,
}

impl Kept {
    fn usable_until(&self) -> Nanos {
        if self.failed_since { self.expires_at } else { self.hold_at }
    }

    fn has_left(&self, min_remaining: Nanos, now: Nanos) -> bool {
        let wanted = min_remaining.min(self.lifetime / 10 * 9);
        wanted == 0 || self.expires_at == NEVER || self.expires_at.saturating_sub(now) >= wanted
    }

    fn told(&self) -> Told {
        Told::Token(Ok((self.generation, self.text.clone())))
    }
}

/// So many times as long.
fn times(nanos: Nanos, factor: f64) -> Nanos {
    let times = Duration::from_nanos(nanos).mul_f64(factor);
    Nanos::try_from(times.as_nanos()).expect("it is at most doubled")
}

/// Everything that decides.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    setup: Setup,
    now: Nanos,
    random: f64,
    /// Whether the published snapshot was used, by a reader or by a caller that came here.
    used: bool,
    used_here: bool,
    out: Output,
    seen: Seen,
    held: Option<Kept>,
    doubts_dismissed: u64,
    grant: Flight,
    earliest: Nanos,
    /// Of the grant; for the event that brought it.
    awaits_leave: bool,
    has_leave: bool,
    /// Callers of `GetToken` that wait, in the order in which they came.
    gets: Vec<u64>,
    keys: Vec<Key>,
    /// Flights of exchanges that were opened.
    turns: u64,
    endpoint: Endpoint,
    /// Grant attempts that have ended.
    grants_ended: u64,
    ledger: Ledger,
    barrier: Option<Barrier>,
    revocation: Flight,
    revokes: u64,
    generation: u64,
    /// The text of each generation that came.
    texts: Vec<(u64, String)>,
    refused: Option<String>,
    invalidated_at: Option<Nanos>,
    subject_refused_at: Option<Nanos>,
    /// The generations that an honoured `Invalidate` took away.
    invalidated: Vec<u64>,
    warm: bool,
    lifetime_assumed: bool,
    closed: bool,
}

impl Model {
    fn new(setup: &Setup) -> Self {
        Self {
            setup: setup.clone(),
            now: 0,
            random: 0.0,
            used: false,
            used_here: false,
            out: Output::default(),
            seen: Seen { number: 0, token: None, ask_at: 0, cooling: None, closed: false },
            held: None,
            doubts_dismissed: 0,
            grant: Flight::default(),
            earliest: 0,
            awaits_leave: false,
            has_leave: false,
            gets: Vec::new(),
            keys: Vec::new(),
            turns: 0,
            endpoint: Endpoint::default(),
            grants_ended: 0,
            ledger: Ledger::default(),
            barrier: None,
            revocation: Flight::default(),
            revokes: 0,
            generation: 0,
            texts: Vec::new(),
            refused: None,
            invalidated_at: None,
            subject_refused_at: None,
            invalidated: Vec::new(),
            warm: setup.mode == Mode::Always,
            lifetime_assumed: false,
            closed: false,
        }
    }

    /// What the machine has to do when this happens.
    fn handle(&mut self, now: Nanos, random: f64, used: bool, event: &Event<CallerId>) -> Output {
        (self.now, self.random, self.used) = (now, random, used);
        self.ledger.forget_expired(now);
        self.end_pauses();
        if self.closed {
            self.refuse(event);
            return std::mem::take(&mut self.out);
        }
        match event {
            Event::GetToken(id, _, options) => self.get(*id, options),
            Event::Exchange(id, _, request) => self.exchange(*id, &request.key(), &request.options),
            Event::Revoke(id, _, options) => self.revoke(*id, options),
            Event::Asked(snapshot) => self.asked(*snapshot),
            Event::Invalidate(id) if id.session == SESSION => self.invalidate(id.generation),
            Event::Left(id) => self.left(*id),
            Event::Ended(Ended::Grant(result)) => self.grant_ended(found(result)),
            Event::Ended(Ended::Exchange(key, result)) => self.exchange_ended(key, found(result)),
            Event::Ended(Ended::Revocation(text, result)) => {
                self.revocation_ended(text.expose(), result.as_ref().copied().map_err(Failure::of));
            }
            Event::Permitted(Purpose::Grant, result) => self.grant_permitted(result.as_ref().err()),
            Event::Permitted(Purpose::Exchange(key), result) => {
                self.exchange_permitted(key, result.as_ref().err());
            }
            Event::Abilities(abilities) => {
                (self.setup.can_exchange, self.setup.can_revoke) =
                    (abilities.exchange, abilities.revoke);
            }
            Event::News(News::Revoked { text, left }) => {
                self.revoked_elsewhere(text.expose(), span(*left));
            }
            Event::Invalidate(_) | Event::Timer => {}
            Event::Shutdown => return self.shutdown(),
        }
        self.advance();
        self.has_leave = false;
        if self.awaits_leave && !self.grant_may_go() {
            self.give_up_leave();
        }
        self.forget_beyond_capacity();
        self.publish();
        self.out.waits = words::in_order(std::mem::take(&mut self.out.waits));
        std::mem::take(&mut self.out)
    }

    /// The first instant at which a timer would do anything at all, found by trying. Behind the barrier
    /// that is the next revocation. (What a revoke has yet to reach may expire before, which ends the
    /// barrier; but nobody wakes up for it.)
    fn next_deadline(&self) -> Option<Nanos> {
        if self.barrier.is_some() {
            return Some(self.revocation.next_at).filter(|_| self.revocation.waits());
        }
        let mut instants = vec![self.earliest, self.grant.not_before];
        instants.extend(self.held.iter().flat_map(|t| [t.stale_at, t.hold_at, t.expires_at]));
        instants.extend(self.keys.iter().flat_map(|k| [k.flight.next_at, k.flight.not_before]));
        instants.extend([self.endpoint.probes.next_at, self.endpoint.probes.not_before]);
        instants.retain(|instant| *instant > self.now && *instant < NEVER);
        instants.sort_unstable();
        instants.dedup();
        instants.into_iter().find(|instant| {
            // From `ask_at` on, a reader that uses the token also sends word.
            let used = *instant == self.ask_at();
            self.clone().handle(*instant, 0.0, used, &Event::Timer) != Output::default()
        })
    }

    /// Instants at which it may wake up in vain: whether the token was used, or a subject is there, can
    /// be seen only then.
    fn may_wake_at(&self, instant: Nanos) -> bool {
        let probes = &self.endpoint.probes;
        let mut flights = self.keys.iter().map(|key| &key.flight).chain([probes]);
        instant == self.ask_at()
            || probes.not_before == instant
            || flights.any(|flight| flight.next_at == instant)
    }

    // ---- The facts that decide.

    fn usable(&self) -> Option<Kept> {
        self.held.clone().filter(|token| self.now < token.usable_until())
    }

    fn may_open(&self) -> bool {
        self.barrier.is_none() && self.grant.may_open(self.now)
    }

    fn ask_at(&self) -> Nanos {
        if self.grant.open || self.barrier.is_some() {
            return NEVER;
        }
        let stale_at = self.held.as_ref().map_or(0, |token| token.stale_at);
        stale_at.max(self.grant.not_before)
    }

    fn is_full(&self) -> bool {
        let exchanging: usize = self.keys.iter().map(|key| key.callers.len()).sum();
        let revoking = self.barrier.as_ref().map_or(0, |barrier| barrier.callers.len());
        self.gets.len() + exchanging + revoking >= self.setup.max_held
    }

    /// Somebody waits for a grant: to have its token, or to exchange it now or after a pause.
    fn grant_is_awaited(&self) -> bool {
        let exchange = |key: &Key| key.flight.waits() && !key.callers.is_empty();
        !self.gets.is_empty() || self.keys.iter().any(exchange)
    }

    // ---- A method per row of the table.

    fn get(&mut self, id: u64, options: &TokenRequestOptions) {
        self.note_caller(options);
        let full = self.is_full();
        if let Some(token) = self.usable() {
            let waits = !token.has_left(span(options.get_min_remaining()), self.now)
                && (self.grant.open || self.may_open());
            if !waits || full {
                return self.tell(id, token.told());
            }
        } else if let Some(wrong) = self.grant.cooling(self.now) {
            return self.tell(id, Told::Token(Err(wrong)));
        } else if full {
            let unexpired = self.held.clone().filter(|token| self.now < token.expires_at);
            let overloaded = Told::Token(Err(Wrong::Overloaded));
            return self.tell(id, unexpired.map_or(overloaded, |token| token.told()));
        }
        self.gets.push(id);
        self.open_grant(options);
    }

    /// A caller that came here counts as an `Asked` and as use.
    fn note_caller(&mut self, options: &TokenRequestOptions) {
        self.warm = true;
        self.used_here = true;
        let due = self.usable().is_none() || self.now >= self.ask_at();
        if due {
            self.open_grant(options);
        }
    }

    fn asked(&mut self, snapshot: u32) {
        if snapshot == self.seen.number {
            self.note_caller(&TokenRequestOptions::new());
        }
    }

    fn invalidate(&mut self, generation: u64) {
        let held = self.held.as_ref().is_some_and(|token| token.generation == generation);
        if held && self.invalidated_at.is_none_or(|at| self.now - at >= INVALIDATE_GAP) {
            let token = self.held.take().unwrap();
            self.invalidated_at = Some(self.now);
            self.give_up_exchanges_of(&token.text);
            self.refused = Some(token.text);
        } else if held {
            self.doubts_dismissed += 1;
        }
        self.invalidate_exchanged(generation);
    }

    fn revoked_elsewhere(&mut self, text: &str, left: Nanos) {
        if self.ledger.is_marked(text, self.now) {
            return;
        }
        self.warm &= !self.ledger.holds(text);
        self.ledger.hear(text, left.min(LONGEST_LIFE), self.now);
        self.give_up_exchanges_of(text);
        self.drop_exchanged(text);
        if let Some(token) = self.held.take_if(|token| token.text == text) {
            self.refused = Some(token.text);
        }
    }

    /// What was exchanged from this is dropped, and what is on the wire will not be kept.
    fn give_up_exchanges_of(&mut self, text: &str) {
        for (generation, _) in self.texts.clone().iter().filter(|(_, known)| known == text) {
            self.drop_exchanged_from(*generation);
        }
    }

    fn left(&mut self, id: u64) {
        self.gets.retain(|caller| *caller != id);
        self.leave_exchange(id);
        if let Some(barrier) = &mut self.barrier {
            barrier.callers.retain(|caller| *caller != id);
        }
    }

    fn grant_ended(&mut self, found: Found) {
        let sent = self.grant.wire.take().expect("a grant was on the wire");
        self.grants_ended += 1;
        self.back_to_turn(|what| what == WaitsFor::MoreLife);
        match found.and_then(|came| self.receive(came, &sent)) {
            Err(failure) => self.grant_failed(failure),
            Ok(token) => {
                self.grant.succeeded();
                self.earliest = sent.at + SECOND;
                if sent.revokes < self.revokes {
                    self.refused = Some(token.text);
                } else {
                    self.store(token);
                }
            }
        }
    }

    fn store(&mut self, token: Kept) {
        // Nobody has used this one yet.
        (self.used, self.used_here) = (false, false);
        // A success serves all who wait, even past its own `hold_at`.
        self.answer_gets(&token.told());
        self.held = Some(token);
        self.doubts_dismissed = 0;
        self.back_to_turn(|what| matches!(what, WaitsFor::NextSubject(_)));
    }

    fn grant_failed(&mut self, failure: Failure) {
        if let Some(token) = &mut self.held {
            token.failed_since = true;
        }
        let verdict = self.grant.failed(failure, &self.setup, self.now, self.random);
        self.earliest = match verdict {
            Verdict::Again => self.grant.next_at,
            Verdict::Over => self.grant.not_before,
        };
        let wrong = Wrong::Failed(failure, self.earliest - self.now);
        if let Some(token) = self.usable() {
            self.answer_gets(&token.told());
        } else if verdict == Verdict::Over {
            self.answer_gets(&Told::Token(Err(wrong.clone())));
        }
        if verdict == Verdict::Over {
            self.no_subject_comes(&wrong);
        }
    }

    /// There is leave to send the grant, or there is none and this is why. Nobody was asked for a token, so
    /// nothing is counted.
    fn grant_permitted(&mut self, refusal: Option<&TokenError>) {
        if !std::mem::take(&mut self.awaits_leave) {
            return;
        }
        let Some(failure) = refusal.map(Failure::no_leave) else {
            self.has_leave = true;
            return;
        };
        self.grants_ended += 1;
        self.back_to_turn(|what| what == WaitsFor::MoreLife);
        self.held.iter_mut().for_each(|token| token.failed_since = true);
        let wait = self.grant.turned_away(failure, self.now);
        self.earliest = self.grant.not_before;
        let wrong = Wrong::Failed(failure, wait);
        match self.usable() {
            Some(token) => self.answer_gets(&token.told()),
            None => self.answer_gets(&Told::Token(Err(wrong.clone()))),
        }
        self.no_subject_comes(&wrong);
    }

    fn give_up_leave(&mut self) {
        self.awaits_leave = false;
        self.out.waits.push((None, Wait::IsGivenUp));
    }

    fn answer_gets(&mut self, told: &Told) {
        for id in std::mem::take(&mut self.gets) {
            self.tell(id, told.clone());
        }
    }

    fn shutdown(&mut self) -> Output {
        self.closed = true;
        self.answer_gets(&Told::Token(Err(Wrong::Closed)));
        let keys = std::mem::take(&mut self.keys).into_iter();
        let mut exchanging: Vec<u64> = keys.flat_map(|key| key.callers).collect();
        exchanging.sort_unstable();
        for id in exchanging {
            self.tell(id, Told::Exchanged(Err(Wrong::Closed)));
        }
        for id in self.barrier.take().map(|barrier| barrier.callers).unwrap_or_default() {
            self.tell(id, Told::Revoked(Err(Wrong::Closed)));
        }
        let cooling = self.grant.last.map(|last| (self.grant.not_before, last));
        let number = self.seen.number + 1;
        let seen = Seen { number, token: None, ask_at: NEVER, cooling, closed: true };
        self.out.publish = Some(seen);
        std::mem::take(&mut self.out)
    }

    fn refuse(&mut self, event: &Event<CallerId>) {
        match event {
            Event::GetToken(id, ..) => self.tell(*id, Told::Token(Err(Wrong::Closed))),
            Event::Exchange(id, ..) => self.tell(*id, Told::Exchanged(Err(Wrong::Closed))),
            Event::Revoke(id, ..) => self.tell(*id, Told::Revoked(Err(Wrong::Closed))),
            _ => {}
        }
    }

    // ---- What is due, again and again until nothing more can start.

    fn advance(&mut self) {
        loop {
            let before = self.clone();
            self.ledger.forget_expired(self.now);
            self.end_pauses();
            self.end_what_is_unsupported();
            self.drop_unwanted_flights();
            self.leave_the_gate();
            self.advance_revocation();
            self.end_barrier();
            if !self.grant.open {
                // No attempt of it will end.
                self.back_to_turn(|what| {
                    matches!(what, WaitsFor::MoreLife | WaitsFor::NextSubject(_))
                });
            }
            if !self.gets.is_empty() && self.usable().is_none() {
                self.open_grant(&TokenRequestOptions::new());
            }
            self.advance_exchanges();
            self.open_for_timer();
            self.start_grant();
            if before == *self {
                return;
            }
        }
    }

    /// While the barrier is up, a flight that waits between attempts is for its callers only.
    fn drop_unwanted_flights(&mut self) {
        if self.barrier.is_none() {
            return;
        }
        if self.grant.waits() && !self.grant_is_awaited() {
            self.grant.abandon();
        }
        for key in &mut self.keys {
            if key.flight.waits() && key.callers.is_empty() {
                key.flight.abandon();
            }
        }
    }

    fn open_for_timer(&mut self) {
        let open = match (self.setup.mode, self.usable()) {
            (Mode::Always, Some(_)) => true,
            (Mode::Always, None) => self.warm,
            (Mode::WhileUsed, Some(_)) => self.used || self.used_here,
            (Mode::WhileUsed, None) | (Mode::OnRequest, _) => false,
        };
        if open && self.now >= self.ask_at() {
            self.open_grant(&TokenRequestOptions::new());
        }
    }

    fn open_grant(&mut self, options: &TokenRequestOptions) {
        if self.may_open() {
            self.grant.open(&self.setup, options);
        }
    }

    fn grant_may_go(&self) -> bool {
        let is_due = self.grant.waits() && self.grant.next_at <= self.now;
        self.barrier.is_none() && is_due && self.earliest <= self.now
    }

    fn start_grant(&mut self) {
        if !self.grant_may_go() {
            return;
        }
        let asked = Asked {
            options: self.grant.options.clone(),
            refused: self.refused.clone(),
            replaces: self.held.as_ref().map(|token| token.text.clone()),
            marked: self.ledger.marked(),
        };
        if self.setup.gated && !self.has_leave {
            if !self.awaits_leave {
                self.awaits_leave = true;
                self.out.waits.push((None, Wait::Begins(Some(asked))));
            }
            return;
        }
        self.has_leave = false;
        let number = self.grant.start(self.now, self.revokes);
        self.out.starts.push(Start::Grant { number, asked });
    }

    // ---- What all of them need.

    /// Takes in a token: into the ledger before anything else is decided. If a revoke came while it was
    /// on the wire, it is marked there, and whether it is alive does not matter.
    fn receive(&mut self, came: Came, sent: &Sent) -> Result<Kept, Failure> {
        let Came { text, life, refresh_in } = came;
        let lifetime = life.unwrap_or_else(|| {
            if !self.lifetime_assumed {
                self.lifetime_assumed = true;
                self.out.warnings.push("lifetime assumed".into());
            }
            ASSUMED_LIFETIME
        });
        let lifetime = lifetime.min(LONGEST_LIFE);
        self.generation += 1;
        self.texts.push((self.generation, text.clone()));
        if life.is_some() || self.setup.can_revoke || self.ledger.holds(&text) {
            self.ledger.join(&text, life, self.now);
        }
        let expires_at = sent.at.saturating_add(lifetime);
        if sent.revokes < self.revokes {
            self.ledger.mark(|other| other == text, self.now);
        } else if expires_at <= self.now || self.ledger.is_marked(&text, self.now) {
            return Err(Failure::Expired);
        }
        let stale = (self.setup.stale_buffer * SECOND).min(lifetime / 2);
        let stale = times(stale, 1.0 + self.random / 10.0);
        let hold_at = expires_at - (self.setup.expired_buffer * SECOND).min(lifetime / 10);
        let mut stale_at = expires_at.saturating_sub(stale).min(hold_at);
        let tenth = sent.at + lifetime / 10;
        if let Some(told) = refresh_in.map(|refresh_in| sent.at + refresh_in)
            && (tenth..=hold_at).contains(&told)
        {
            stale_at = (told - times(expires_at - told, self.random / 10.0)).max(tenth);
        }
        Ok(Kept {
            generation: self.generation,
            text,
            acquired_at: sent.at,
            stale_at,
            hold_at,
            expires_at,
            lifetime,
            failed_since: false,
        })
    }

    fn tell(&mut self, id: u64, told: Told) {
        self.out.replies.push((id, told));
    }

    fn publish(&mut self) {
        let token = self.held.as_ref().map(|token| SeenToken {
            generation: token.generation,
            text: token.text.clone(),
            usable_until: token.usable_until(),
            doubts_dismissed: self.doubts_dismissed,
            doubts_honoured_from: self.invalidated_at.map_or(0, |at| at + INVALIDATE_GAP),
        });
        let last = self.grant.last.filter(|_| !self.grant.open);
        let cooling = last.map(|last| (self.grant.not_before, last));
        let number = self.seen.number;
        let mut seen = Seen { number, token, ask_at: self.ask_at(), cooling, closed: false };
        if seen != self.seen {
            seen.number += 1;
            self.seen = seen.clone();
            self.used_here = false;
            self.out.publish = Some(seen);
        }
    }
}
