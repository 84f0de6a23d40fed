//! A session in a world so small that every turn of events in it can be tried: a few callers, a server
//! that answers in a few ways, and a clock that moves only to the instants at which something changes.
//!
//! A [`World`] is one situation, [`World::steps`] says what can happen next in it, and [`World::take`]
//! lets it happen and has it judged.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{RefreshMode, RetryPolicy, SessionConfig};
use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::judge::{History, Purpose, Session, Verdict};
use crate::machine::{
    self, Abilities, CallerId, Effects, Ended, Event, Machine, Moment, News, Published, Reply,
};
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::token::TokenId;

/// The first instant: not zero, so that something can lie before it.
pub(super) const START: Instant = Instant::from_nanos(1_000_000_000_000);
const NANO: Duration = Duration::from_nanos(1);
const SUSPEND: Duration = Duration::from_secs(2 * 60 * 60);

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A new token for a minute; or the revocation is confirmed.
    Ok,
    /// The text of the last token once more, for a minute.
    Again,
    /// A new token for a second and a half.
    Short,
    Transient,
    /// The same, and wants to be left alone for twelve seconds.
    RetryAfter,
    Denied,
    /// The server refused, but the credentials have changed.
    Changed,
    /// The server refused the subject of an exchange.
    SubjectRefused,
    /// No answer. Time passes until then.
    TimedOut,
}

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Caller 1 wants a token, or caller 2 one with 45 s left.
    Ask(CallerId),
    /// Somebody wants the exchanged token of this key.
    Exchange(u8),
    Revoke,
    /// This caller does not wait any longer.
    Leave(CallerId),
    /// A reader reads what is published, and sets the bits.
    Read,
    /// The message of a reader of this snapshot arrives.
    AskedArrives(u32),
    /// A caller doubts the token that it read: sets the bit.
    Doubt,
    /// Its message arrives.
    InvalidateArrives,
    /// The last exchanged token was refused; the message arrives.
    RefuseExchanged,
    /// Another session has revoked the last token of this one's own, which would live for a minute.
    Hear,
    Grant(Outcome),
    Exchanged(u8, Outcome),
    /// The first revocation on the wire ends.
    Revocation(Outcome),
    /// A wait for leave is over, the grant's or this key's: with leave, or without.
    Permit(Option<u8>, bool),
    /// Time passes until the next deadline, and the timer is delivered.
    Wake,
    /// The timer is delivered, late.
    Timer,
    /// So much time passes.
    Pass(Duration),
    /// The machine sleeps for two hours.
    Suspend,
}

/// How often each thing may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) asks: [u8; 2],
    pub(super) exchanges: [u8; 2],
    pub(super) revokes: u8,
    pub(super) leaves: u8,
    /// Tokens that are doubted.
    pub(super) doubts: u8,
    /// Tokens that another session revokes.
    pub(super) news: u8,
    /// Whether the session is read without a call.
    pub(super) reads: bool,
    /// How often time runs past a timer that was not delivered.
    pub(super) late: u8,
    pub(super) suspends: u8,
    pub(super) outcomes: &'static [Outcome],
}

/// What a run explores.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) name: &'static str,
    pub(super) mode: RefreshMode,
    /// Every draw of the run.
    pub(super) random: f64,
    /// Attempts wait for leave.
    pub(super) gated: bool,
    pub(super) budget: Budget,
}

/// One situation.
#[derive(Clone)]
pub(super) struct World<S> {
    pub(super) session: S,
    /// What has been seen of it.
    pub(super) history: History,
    pub(super) left: Budget,
    random: f64,
    purposes: [Purpose; 2],
    pub(super) used: bool,
    pub(super) asked: bool,
    doubted: Option<(TokenId, u64)>,
    pub(super) asked_messages: Vec<u32>,
    pub(super) invalidate_messages: Vec<TokenId>,
    pub(super) last_exchanged: Option<TokenId>,
    /// Callers that asked for a token and were given an error.
    errors: usize,
}

fn config(scope: &Scope) -> SessionConfig {
    let retry = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    SessionConfig { refresh_mode: scope.mode, retry, ..SessionConfig::default() }
}

fn abilities(scope: &Scope) -> Abilities {
    Abilities { gated: scope.gated, ..ABILITIES }
}

const ABILITIES: Abilities = Abilities {
    exchange: true,
    revoke: true,
    assumed_lifetime: Duration::from_secs(300),
    gated: false,
};

/// The machine that a scope explores.
pub(super) fn machine(scope: &Scope) -> Machine<CallerId> {
    Machine::new(config(scope), abilities(scope), 7)
}

fn request(key: u8) -> Box<ExchangeRequest> {
    Box::new(ExchangeRequest::scopes([if key == 0 { "first" } else { "second" }]))
}

/// Who waits for the exchange of a key, and who revokes, are callers as well.
fn exchanger(key: u8, nth: u8) -> CallerId {
    10 + u64::from(key) * 10 + u64::from(nth)
}

fn revoker(nth: u8) -> CallerId {
    30 + u64::from(nth)
}

fn options(caller: CallerId) -> TokenRequestOptions {
    match caller {
        2 => TokenRequestOptions::new().min_remaining(Duration::from_secs(45)),
        _ => TokenRequestOptions::new(),
    }
}

impl<S: Session + Clone> World<S> {
    pub(super) fn new(session: S, scope: &Scope) -> Self {
        let mut history = History::new(session.published(), &config(scope), abilities(scope));
        history.pass(START);
        Self {
            session,
            history,
            left: scope.budget,
            random: scope.random,
            purposes: [0, 1].map(|key| Purpose::of(&request(key).key())),
            used: false,
            asked: false,
            doubted: None,
            asked_messages: Vec::new(),
            invalidate_messages: Vec::new(),
            last_exchanged: None,
            errors: 0,
        }
    }

    /// The clock, the draw and the bit, as the actor would hand them in.
    fn moment(&self) -> Moment {
        Moment { now: self.history.now, random: self.random, used: self.used }
    }

    // What can happen

    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.attempts_end(&mut steps);
        self.waits_end(&mut steps);
        self.callers_act(&mut steps);
        self.messages_arrive(&mut steps);
        self.time_passes(&mut steps);
        steps
    }

    fn attempts_end(&self, steps: &mut Vec<Step>) {
        for outcome in self.left.outcomes {
            let of_revocation = matches!(
                outcome,
                Outcome::Ok | Outcome::Transient | Outcome::Denied | Outcome::TimedOut
            );
            if *outcome == Outcome::TimedOut && !self.may_time_out() {
                continue;
            }
            if *outcome != Outcome::SubjectRefused && self.is_on_wire(Purpose::Grant) {
                steps.push(Step::Grant(*outcome));
            }
            let exchanges = [0, 1].into_iter().filter(|key| self.is_on_wire(self.purpose(*key)));
            steps.extend(exchanges.map(|key| Step::Exchanged(key, *outcome)));
            if of_revocation && !self.history.revocations.is_empty() {
                steps.push(Step::Revocation(*outcome));
            }
        }
    }

    fn waits_end(&self, steps: &mut Vec<Step>) {
        for key in [None, Some(0), Some(1)] {
            if self.history.waits.contains(&self.purpose_of(key)) {
                steps.extend([Step::Permit(key, true), Step::Permit(key, false)]);
            }
        }
    }

    fn purpose_of(&self, key: Option<u8>) -> Purpose {
        key.map_or(Purpose::Grant, |key| self.purpose(key))
    }

    fn purpose(&self, key: u8) -> Purpose {
        self.purposes[usize::from(key)]
    }

    fn is_on_wire(&self, purpose: Purpose) -> bool {
        self.history.wire.contains_key(&purpose)
    }

    /// Time passes to the end of the first of the attempts: that must not be past a timer.
    fn may_time_out(&self) -> bool {
        self.history.wire_ends_by().is_some_and(|at| self.may_pass_to(at))
    }

    fn may_pass_to(&self, at: Instant) -> bool {
        let in_time = self.session.next_deadline().is_none_or(|deadline| at <= deadline);
        in_time || self.left.late > 0
    }

    fn callers_act(&self, steps: &mut Vec<Step>) {
        for caller in [1, 2] {
            let waits = self.history.callers.contains_key(&caller);
            if self.left.asks[usize::from(caller == 2)] > 0 && !waits {
                steps.push(Step::Ask(caller));
            }
        }
        for key in [0, 1] {
            if self.left.exchanges[usize::from(key)] > 0 {
                steps.push(Step::Exchange(key));
            }
        }
        if self.left.revokes > 0 {
            steps.push(Step::Revoke);
        }
        if self.left.leaves > 0 {
            steps.extend(self.history.callers.keys().map(|caller| Step::Leave(*caller)));
        }
        if self.left.reads && (!self.used || (!self.asked && self.is_to_be_asked())) {
            steps.push(Step::Read);
        }
    }

    fn is_to_be_asked(&self) -> bool {
        self.history.published.ask_at <= self.history.now
    }

    fn messages_arrive(&self, steps: &mut Vec<Step>) {
        steps.extend(self.asked_messages.iter().map(|number| Step::AskedArrives(*number)));
        if !self.invalidate_messages.is_empty() {
            steps.push(Step::InvalidateArrives);
        }
        if self.left.news > 0 && self.last_text().is_some() {
            steps.push(Step::Hear);
        }
        if self.left.doubts > 0 {
            if self.history.published.token.is_some() && !self.is_doubted() {
                steps.push(Step::Doubt);
            }
            if self.last_exchanged.is_some() {
                steps.push(Step::RefuseExchanged);
            }
        }
    }

    fn last_text(&self) -> Option<String> {
        let last = self.history.tokens.iter().rfind(|token| token.purpose == Purpose::Grant);
        last.map(|token| token.text.clone())
    }

    pub(super) fn is_doubted(&self) -> bool {
        let published = self.history.published.token.as_ref();
        let named = published.map(|it| (it.token.id(), it.doubts_dismissed));
        self.doubted.is_some() && self.doubted == named
    }

    fn time_passes(&self, steps: &mut Vec<Step>) {
        let now = self.history.now;
        let wire_ends_by = self.history.wire_ends_by();
        let deadline = self.session.next_deadline();
        match deadline {
            Some(at) if at <= now => steps.push(Step::Timer),
            Some(at) if wire_ends_by.is_none_or(|end| at <= end) => steps.push(Step::Wake),
            _ => {}
        }
        let mut instants: Vec<Instant> = deadline.into_iter().chain(wire_ends_by).collect();
        if let Some(published) = &self.history.published.token {
            instants.extend([published.usable_until, published.usable_until - NANO]);
        }
        instants.push(self.history.published.ask_at);
        for token in &self.history.tokens {
            let hold_at = token.expires_at - token.life / 10;
            instants.extend([hold_at, token.expires_at - NANO, token.expires_at]);
        }
        instants.extend(self.history.invalidated_at.map(|at| at + Duration::from_secs(10)));
        instants.retain(|at| {
            now < *at
                && *at < Instant::NEVER
                && wire_ends_by.is_none_or(|end| *at <= end)
                && self.may_pass_to(*at)
        });
        instants.sort_unstable();
        instants.dedup();
        steps.extend(instants.into_iter().map(|at| Step::Pass(at.since(now))));
        if self.left.suspends > 0 {
            steps.push(Step::Suspend);
        }
    }

    // What happens

    pub(super) fn take(&mut self, step: Step) -> Verdict {
        let now = self.history.now;
        match step {
            Step::Ask(caller) => {
                spend(&mut self.left.asks[usize::from(caller == 2)]);
                self.tell(Event::GetToken(caller, caller, options(caller)))
            }
            Step::Exchange(key) => {
                let left = spend(&mut self.left.exchanges[usize::from(key)]);
                let caller = exchanger(key, left);
                self.tell(Event::Exchange(caller, caller, request(key)))
            }
            Step::Revoke => {
                let caller = revoker(spend(&mut self.left.revokes));
                self.last_exchanged = None;
                self.tell(Event::Revoke(caller, caller, TokenRequestOptions::new()))
            }
            Step::Leave(caller) => {
                spend(&mut self.left.leaves);
                self.tell(Event::Left(caller))
            }
            Step::AskedArrives(number) => {
                self.asked_messages.retain(|other| *other != number);
                self.tell(Event::Asked(number))
            }
            Step::InvalidateArrives if !self.invalidate_messages.is_empty() => {
                let id = self.invalidate_messages.remove(0);
                self.tell(Event::Invalidate(id))
            }
            Step::RefuseExchanged => {
                spend(&mut self.left.doubts);
                let id = self.last_exchanged.take();
                id.map_or(Ok(()), |id| self.tell(Event::Invalidate(id)))
            }
            Step::Hear => {
                spend(&mut self.left.news);
                let text = self.last_text().and_then(|text| TokenText::new(&text));
                let left = Duration::from_secs(60);
                let heard = |text| self.tell(Event::News(News::Revoked { text, left }));
                text.map_or(Ok(()), heard)
            }
            Step::Grant(outcome) => self.attempt_ends(None, outcome),
            Step::Exchanged(key, outcome) => self.attempt_ends(Some(key), outcome),
            Step::Revocation(outcome) => self.revocation_ends(outcome),
            Step::Permit(key, is_given) => {
                let purpose = key.map_or(machine::Purpose::Grant, |key| {
                    machine::Purpose::Exchange(Arc::new(request(key).key()))
                });
                let refusal = || TokenError::timed_out(Duration::from_secs(60));
                let result = if is_given { Ok(()) } else { Err(refusal()) };
                self.tell(Event::Permitted(purpose, result))
            }
            Step::Wake => {
                self.pass_to(self.session.next_deadline().unwrap_or(now).max(now));
                self.tell(Event::Timer)
            }
            Step::Timer => self.tell(Event::Timer),
            Step::Read | Step::Doubt | Step::InvalidateArrives => {
                self.read(step);
                Ok(())
            }
            Step::Pass(by) => {
                self.pass_to(now + by);
                Ok(())
            }
            Step::Suspend => {
                spend(&mut self.left.suspends);
                self.left.late += 1;
                self.pass_to(now + SUSPEND);
                Ok(())
            }
        }
    }

    /// What every situation has to meet, beside what judged the events that led to it.
    pub(super) fn judge(&self) -> Verdict {
        self.history.judge(&self.session, self.moment())
    }

    fn pass_to(&mut self, at: Instant) {
        if self.session.next_deadline().is_some_and(|deadline| deadline < at) {
            spend(&mut self.left.late);
        }
        self.history.pass(at);
    }

    /// A reader that sets bits, and what it sends.
    fn read(&mut self, step: Step) {
        let Published { number, token, .. } = &self.history.published;
        match (step, token) {
            (Step::Read, _) => {
                self.used = true;
                if !self.asked && self.is_to_be_asked() {
                    self.asked_messages.push(*number);
                    self.asked = true;
                }
            }
            (Step::Doubt, Some(published)) => {
                let id = published.token.id();
                self.doubted = Some((id, published.doubts_dismissed));
                self.invalidate_messages.push(id);
                spend(&mut self.left.doubts);
            }
            _ => {}
        }
    }

    fn attempt_ends(&mut self, key: Option<u8>, outcome: Outcome) -> Verdict {
        let purpose = self.purpose_of(key);
        let Some(attempt) = self.history.wire.get(&purpose).copied() else { return Ok(()) };
        if outcome == Outcome::TimedOut {
            self.pass_to(attempt.ends_by.max(self.history.now));
        }
        let result = self.result(purpose, outcome);
        self.tell(Event::Ended(match key {
            None => Ended::Grant(result),
            Some(key) => Ended::Exchange(Arc::new(request(key).key()), result),
        }))
    }

    /// The text and the life of what the server issues now.
    fn issued(&self, purpose: Purpose, outcome: Outcome) -> (String, Duration) {
        let new = || format!("t{}", self.history.generation + 1);
        let last = self.history.tokens.iter().rfind(|token| token.purpose == purpose);
        match outcome {
            Outcome::Again => {
                (last.map_or_else(new, |token| token.text.clone()), Duration::from_secs(60))
            }
            Outcome::Short => (new(), Duration::from_millis(1_500)),
            _ => (new(), Duration::from_secs(60)),
        }
    }

    fn result(&self, purpose: Purpose, outcome: Outcome) -> Result<Grant, TokenError> {
        if let Some(error) = failure(outcome) {
            return Err(error);
        }
        let (text, life) = self.issued(purpose, outcome);
        Ok(Grant::bearer(text)?.expires_in(life))
    }

    fn revocation_ends(&mut self, outcome: Outcome) -> Verdict {
        let Some((text, attempt)) = self.history.revocations.first_key_value() else {
            return Ok(());
        };
        let text = TokenText::new(text).ok_or("not a token")?;
        if outcome == Outcome::TimedOut {
            self.pass_to(attempt.ends_by.max(self.history.now));
        }
        let result = failure(outcome).map_or(Ok(()), Err);
        self.tell(Event::Ended(Ended::Revocation(text, result)))
    }

    fn tell(&mut self, event: Event<CallerId>) -> Verdict {
        let moment = self.moment();
        let Effects { publish, replies, .. } =
            self.history.tell(&mut self.session, moment, event)?;
        if publish.is_some() {
            (self.used, self.asked) = (false, false);
        }
        for (_, answer) in replies {
            match answer {
                Reply::Exchanged(Ok(token)) => self.last_exchanged = Some(token.id()),
                Reply::Token(Err(_)) => self.errors += 1,
                _ => {}
            }
        }
        Ok(())
    }

    // To the end

    /// From here on every attempt ends like this, and nobody new comes: whoever waits is answered after
    /// a few more events, within the time that the flights need; with a token, if all goes well.
    pub(super) fn runs_to_its_end(mut self, outcome: Outcome) -> Verdict {
        const EVENTS: usize = 60;
        const LONGEST: Duration = Duration::from_secs(150);
        let began = self.history.now;
        let errors = self.errors;
        // What was on the wire while the machine slept may be dead when it arrives.
        let slept = self.history.wire.values().any(|it| it.ends_by < began);
        let heals = outcome == Outcome::Ok && !slept;
        for _ in 0..EVENTS {
            if self.history.callers.is_empty() {
                let took = self.history.now.since(began);
                return if took <= LONGEST { Ok(()) } else { Err(format!("it took {took:?}")) };
            }
            let step = self.step_to_the_end(outcome).ok_or("they wait for ever")?;
            self.take(step).map_err(|why| format!("then {step:?}: {why}"))?;
            if heals && self.errors > errors {
                return Err(format!("all goes well, and {step:?} gave an error to somebody"));
            }
        }
        Err(format!(
            "after {EVENTS} events, all {outcome:?}, {:?} still wait",
            self.history.callers.keys()
        ))
    }

    fn step_to_the_end(&self, outcome: Outcome) -> Option<Step> {
        if let Some(number) = self.asked_messages.first() {
            return Some(Step::AskedArrives(*number));
        }
        if !self.invalidate_messages.is_empty() {
            return Some(Step::InvalidateArrives);
        }
        for key in [None, Some(0), Some(1)] {
            if self.history.waits.contains(&self.purpose_of(key)) {
                return Some(Step::Permit(key, true));
            }
        }
        if let Some((on_wire, _)) = self.history.wire.iter().min_by_key(|(_, it)| it.ends_by) {
            let key = [0, 1].into_iter().find(|key| self.purpose(*key) == *on_wire);
            return Some(match key {
                None => Step::Grant(outcome),
                Some(key) => Step::Exchanged(key, outcome),
            });
        }
        if !self.history.revocations.is_empty() {
            return Some(Step::Revocation(outcome));
        }
        self.session.next_deadline().map(|_| Step::Wake)
    }
}

/// What is left after one more, if there was one.
fn spend(left: &mut u8) -> u8 {
    *left = left.saturating_sub(1);
    *left
}

fn failure(outcome: Outcome) -> Option<TokenError> {
    let denied = |error: &str, credentials_changed| {
        TokenError::denied(error, "").with_status(400).with_credentials_changed(credentials_changed)
    };
    let server = |retry_after| TokenError::server(503, retry_after);
    match outcome {
        Outcome::Ok | Outcome::Again | Outcome::Short => None,
        Outcome::Transient => Some(server(None)),
        Outcome::RetryAfter => Some(server(Some(Duration::from_secs(12)))),
        Outcome::Denied => Some(denied("invalid_client", false)),
        Outcome::Changed => Some(denied("invalid_client", true)),
        Outcome::SubjectRefused => Some(denied("invalid_grant", false)),
        Outcome::TimedOut => Some(TokenError::timed_out(Duration::from_secs(10))),
    }
}
