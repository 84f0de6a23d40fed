//! A session in a world so small that every turn of events in it can be tried: a few callers, a server
//! that answers in a few ways, and a clock that moves only to the instants at which something changes.
//!
//! A [`World`] is one situation, [`World::steps`] says what can happen next in it, and [`World::take`]
//! lets it happen and has every invariant judge it.

#![allow(dead_code, reason = "each test that includes this module uses its own part of it")]

pub mod stories;

use std::sync::Arc;
use std::time::Duration;

use ccg_session::testing::internals::{
    Abilities, CallerId, Effects, Ended, Event, ExchangeKey, Instant, Machine, Moment, Published,
    Reply, Request, Start, TokenText,
};
use ccg_session::{
    ExchangeRequest, Grant, RefreshMode, RetryPolicy, SessionConfig, TokenError, TokenId,
    TokenRequestOptions,
};

use crate::invariants::{History, Policy, Purpose, Seen, Session, Verdict, Want, holds};

/// The first instant: not zero, so that something can lie before it.
const START: Instant = Instant::from_nanos(1_000_000_000_000);
const NANO: Duration = Duration::from_nanos(1);
const SUSPEND: Duration = Duration::from_secs(2 * 60 * 60);

impl Session for Machine<CallerId> {
    fn handle(&mut self, moment: Moment, event: Event<CallerId>, fx: &mut Effects<CallerId>) {
        self.handle(moment, event, fx);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }
    fn published(&self) -> Published {
        self.published().clone()
    }
    fn held_callers(&self) -> usize {
        self.held_callers()
    }
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new token for a minute; or the revocation is confirmed.
    Ok,
    /// The text of the last token once more, for a minute.
    Again,
    /// A new token for a second and a half.
    Short,
    /// The server failed.
    Transient,
    /// The same, and wants to be left alone for twelve seconds.
    RetryAfter,
    /// The server refused.
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
pub enum Step {
    /// Caller 1 wants a token, or caller 2 one with 45 s left.
    Ask(CallerId),
    /// Somebody wants the exchanged token of this key.
    Exchange(u8),
    /// Somebody wants all tokens gone.
    Revoke,
    /// This caller does not wait any longer.
    Leave(CallerId),
    /// A reader reads what is published, and sets the bits.
    Read,
    /// The message of a reader of this snapshot arrives.
    AskedArrives(u64),
    /// A caller doubts the token that it read: sets the bit.
    Doubt,
    /// Its message arrives.
    InvalidateArrives,
    /// The last exchanged token was refused; the message arrives.
    RefuseExchanged,
    /// The grant on the wire ends.
    Grant(Outcome),
    /// The exchange of this key ends.
    Exchanged(u8, Outcome),
    /// The first revocation on the wire ends.
    Revocation(Outcome),
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
pub struct Budget {
    /// Calls of caller 1 and caller 2.
    pub asks: [u8; 2],
    /// Exchanges of each key.
    pub exchanges: [u8; 2],
    /// Revokes.
    pub revokes: u8,
    /// Callers that leave.
    pub leaves: u8,
    /// Tokens that are doubted.
    pub doubts: u8,
    /// Whether the session is read without a call.
    pub reads: bool,
    /// How often time runs past a timer that was not delivered.
    pub late: u8,
    /// Suspends.
    pub suspends: u8,
    /// How attempts end.
    pub outcomes: &'static [Outcome],
}

/// What a run explores.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Shown in the table.
    pub name: &'static str,
    /// The mode of the session.
    pub mode: RefreshMode,
    /// Every draw of the run.
    pub random: f64,
    /// What can happen.
    pub budget: Budget,
}

/// One situation.
#[derive(Clone)]
pub struct World<S> {
    /// The session.
    pub session: S,
    /// What has been seen of it.
    pub history: History,
    left: Budget,
    published: Published,
    used: bool,
    asked: bool,
    doubted: Option<(u64, u64)>,
    asked_messages: Vec<u64>,
    invalidate_messages: Vec<TokenId>,
    last_exchanged: Option<TokenId>,
    keys: [Option<(Arc<ExchangeKey>, u64)>; 2],
    revocations: Vec<TokenText>,
    /// Callers that asked for a token and were given an error.
    errors: u32,
}

/// The machine that a scope explores.
pub fn machine(scope: &Scope) -> Machine<CallerId> {
    let mut config = SessionConfig::default();
    config.refresh_mode = scope.mode;
    let mut retry = RetryPolicy::default();
    retry.attempts = 2;
    config.retry = retry;
    let assumed_lifetime = Duration::from_secs(300);
    Machine::new(config, Abilities { exchange: true, revoke: true, assumed_lifetime }, 7)
}

fn request(key: u8) -> Box<ExchangeRequest> {
    Box::new(ExchangeRequest::scopes([if key == 0 { "first" } else { "second" }]))
}

fn number_of(key: &ExchangeKey) -> u8 {
    u8::from(format!("{key:?}").contains("second"))
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

impl<S: Session> World<S> {
    /// Nothing has happened yet.
    pub fn new(session: S, scope: &Scope) -> Self {
        let cooling = RetryPolicy::default().cooling;
        let policy = Policy { attempts: 2, cooling, random: Some(scope.random) };
        Self {
            published: session.published(),
            session,
            history: History::new(START, policy),
            left: scope.budget,
            used: false,
            asked: false,
            doubted: None,
            asked_messages: Vec::new(),
            invalidate_messages: Vec::new(),
            last_exchanged: None,
            keys: [None, None],
            revocations: Vec::new(),
            errors: 0,
        }
    }

    /// The clock, the draw and the bit, as the actor would hand them in.
    pub fn moment(&self) -> Moment {
        Moment {
            now: self.history.now,
            random: self.history.policy.random.unwrap_or(0.0),
            used: self.used,
        }
    }

    // What can happen

    /// Everything that can happen next.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.attempts_end(&mut steps);
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
            for purpose in self.history.wire.keys() {
                match purpose {
                    Purpose::Grant if *outcome == Outcome::SubjectRefused => {}
                    Purpose::Grant => steps.push(Step::Grant(*outcome)),
                    Purpose::Exchange(key) => steps.push(Step::Exchanged(*key, *outcome)),
                }
            }
            if of_revocation && !self.revocations.is_empty() {
                steps.push(Step::Revocation(*outcome));
            }
        }
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
        self.published.ask_at <= self.history.now
    }

    fn messages_arrive(&self, steps: &mut Vec<Step>) {
        steps.extend(self.asked_messages.iter().map(|number| Step::AskedArrives(*number)));
        if !self.invalidate_messages.is_empty() {
            steps.push(Step::InvalidateArrives);
        }
        if self.left.doubts > 0 {
            if self.published.token.is_some() && !self.is_doubted() {
                steps.push(Step::Doubt);
            }
            if self.last_exchanged.is_some() {
                steps.push(Step::RefuseExchanged);
            }
        }
    }

    fn is_doubted(&self) -> bool {
        let named = |it: &Published| {
            it.token.as_ref().map(|it| (it.token.id().generation(), it.doubts_dismissed))
        };
        self.doubted.is_some() && self.doubted == named(&self.published)
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
        if let Some(published) = &self.published.token {
            instants.extend([published.usable_until, published.usable_until - NANO]);
        }
        instants.push(self.published.ask_at);
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

    /// Lets it happen.
    pub fn take(&mut self, step: Step) -> Verdict {
        match step {
            Step::Ask(caller) => self.ask(caller)?,
            Step::Exchange(key) => self.exchange(key)?,
            Step::Revoke => self.revoke()?,
            Step::Leave(caller) => {
                self.left.leaves = self.left.leaves.saturating_sub(1);
                self.history.observe(&Seen::Left(caller))?;
                self.handle(Event::Left(caller))?;
            }
            Step::Read => self.read(),
            Step::AskedArrives(number) => {
                self.asked_messages.retain(|other| *other != number);
                self.handle(Event::Asked(number))?;
            }
            Step::Doubt => self.doubt(),
            Step::InvalidateArrives => {
                if !self.invalidate_messages.is_empty() {
                    let id = self.invalidate_messages.remove(0);
                    self.invalidate(id)?;
                }
            }
            Step::RefuseExchanged => {
                self.left.doubts = self.left.doubts.saturating_sub(1);
                if let Some(id) = self.last_exchanged.take() {
                    self.invalidate(id)?;
                }
            }
            Step::Grant(outcome) => self.attempt_ends(Purpose::Grant, outcome)?,
            Step::Exchanged(key, outcome) => self.attempt_ends(Purpose::Exchange(key), outcome)?,
            Step::Revocation(outcome) => self.revocation_ends(outcome)?,
            Step::Wake => {
                if let Some(at) = self.session.next_deadline() {
                    self.pass_to(at.max(self.history.now));
                }
                self.handle(Event::Timer)?;
            }
            Step::Timer => {
                self.handle(Event::Timer)?;
            }
            Step::Pass(by) => self.pass_to(self.history.now + by),
            Step::Suspend => {
                self.left.suspends = self.left.suspends.saturating_sub(1);
                self.left.late += 1;
                self.pass_to(self.history.now + SUSPEND);
            }
        }
        holds!(whoever_waits_is_known_and_waits_for_something(&self.session, &self.history))
    }

    /// The invariants that every situation has to meet, beside those that judged what led to it.
    pub fn judge(&self) -> Verdict {
        let (session, moment) = (&self.session, self.moment());
        holds!(a_read_gives_what_the_session_would_give(session, &self.published, moment))?;
        holds!(shutdown_answers_everybody(session, &self.history, moment))
    }

    fn pass_to(&mut self, at: Instant) {
        if self.session.next_deadline().is_some_and(|deadline| deadline < at) {
            self.left.late = self.left.late.saturating_sub(1);
        }
        self.history.pass(at);
    }

    fn ask(&mut self, caller: CallerId) -> Verdict {
        let left = &mut self.left.asks[usize::from(caller == 2)];
        *left = left.saturating_sub(1);
        self.history.observe(&Seen::Began(caller, Want::Token))?;
        let (before, options) = (self.published.clone(), options(caller));
        let answers = self.handle(Event::GetToken(caller, caller, options.clone()))?;
        let now = self.history.now;
        holds!(a_usable_token_is_an_answer_at_once(&before, now, &options, &answers, caller))
    }

    fn exchange(&mut self, key: u8) -> Verdict {
        let left = &mut self.left.exchanges[usize::from(key)];
        *left = left.saturating_sub(1);
        let caller = exchanger(key, *left);
        self.history.observe(&Seen::Began(caller, Want::Exchanged(key)))?;
        self.handle(Event::Exchange(caller, caller, request(key))).map(drop)
    }

    fn revoke(&mut self) -> Verdict {
        self.left.revokes = self.left.revokes.saturating_sub(1);
        let caller = revoker(self.left.revokes);
        self.history.observe(&Seen::Began(caller, Want::Revoked))?;
        self.history.observe(&Seen::RevokeTaken(caller))?;
        self.last_exchanged = None;
        self.handle(Event::Revoke(caller, caller, TokenRequestOptions::new()))?;
        holds!(a_revoke_takes_the_token_from_readers(&self.published))
    }

    fn read(&mut self) {
        self.used = true;
        if !self.asked && self.is_to_be_asked() {
            self.asked = true;
            self.asked_messages.push(self.published.number);
        }
    }

    fn doubt(&mut self) {
        self.left.doubts = self.left.doubts.saturating_sub(1);
        if let Some(published) = &self.published.token {
            let id = &published.token.id();
            self.doubted = Some((id.generation(), published.doubts_dismissed));
            self.invalidate_messages.push(*id);
        }
    }

    fn invalidate(&mut self, id: TokenId) -> Verdict {
        let before = self.published.clone();
        let generation = id.generation();
        self.handle(Event::Invalidate(id))?;
        holds!(a_doubt_is_settled(&self.history, &before, &self.published, generation))?;
        self.note_dropped(&before, id)
    }

    /// The token was the session's, and is not any more.
    fn note_dropped(&mut self, before: &Published, id: TokenId) -> Verdict {
        let holds = |it: &Published| it.token.as_ref().is_some_and(|token| token.token.id() == id);
        if holds(before) && !holds(&self.published) {
            return self.history.observe(&Seen::InvalidateHonoured(id.generation()));
        }
        Ok(())
    }

    fn attempt_ends(&mut self, purpose: Purpose, outcome: Outcome) -> Verdict {
        let Some(attempt) = self.history.wire.get(&purpose).copied() else { return Ok(()) };
        if outcome == Outcome::TimedOut {
            self.pass_to(attempt.ends_by.max(self.history.now));
        }
        let result = self.result(purpose, outcome);
        let before = self.published.clone();
        let ended = match purpose {
            Purpose::Grant => Ended::Grant(result.clone()),
            Purpose::Exchange(key) => {
                let Some((key, _)) = self.keys[usize::from(key)].clone() else { return Ok(()) };
                Ended::Exchange(key, result.clone())
            }
        };
        let mut fx = Effects::default();
        let moment = self.moment();
        self.session.handle(moment, Event::Ended(ended), &mut fx);
        match (&result, purpose) {
            (Ok(_), _) => {
                let (text, life) = self.issued(purpose, outcome);
                self.history.observe(&Seen::Arrived(purpose, &text, life))?;
            }
            (Err(error), Purpose::Exchange(key)) if outcome == Outcome::SubjectRefused => {
                let now_held = fx.publish.as_ref().unwrap_or(&self.published).token.as_ref();
                let subject = self.keys[usize::from(key)].as_ref().map(|(_, subject)| *subject);
                let replaced = now_held.map(|it| it.token.id().generation()) != subject;
                self.history.observe(&if replaced {
                    Seen::SubjectRefused(purpose, error)
                } else {
                    Seen::Failed(purpose, error)
                })?;
            }
            (Err(error), _) => self.history.observe(&Seen::Failed(purpose, error))?,
        }
        self.carry_out(moment, fx)?;
        if let Some(dropped) = before.token.as_ref().filter(|_| outcome == Outcome::SubjectRefused)
        {
            self.note_dropped(&before, dropped.token.id())?;
        }
        if purpose == Purpose::Grant {
            holds!(nobody_waits_after_an_attempt_beside_a_usable_token(
                &self.history,
                &self.published
            ))?;
        }
        Ok(())
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
        if self.revocations.is_empty() {
            return Ok(());
        }
        let text = self.revocations.remove(0);
        if outcome == Outcome::TimedOut
            && let Some(attempt) = self.history.revocations.get(text.expose()).copied()
        {
            self.pass_to(attempt.ends_by.max(self.history.now));
        }
        let result = failure(outcome).map_or(Ok(()), Err);
        let seen = Seen::RevocationEnded(text.expose(), result.as_ref().copied());
        self.history.observe(&seen)?;
        self.handle(Event::Ended(Ended::Revocation(text, result))).map(drop)
    }

    // The actor's part

    fn handle(&mut self, event: Event<CallerId>) -> Result<Vec<(CallerId, Reply)>, String> {
        let mut fx = Effects::default();
        let moment = self.moment();
        self.session.handle(moment, event, &mut fx);
        self.carry_out(moment, fx)
    }

    /// In the order of the contract: publish, start attempts, reply.
    fn carry_out(
        &mut self,
        moment: Moment,
        fx: Effects<CallerId>,
    ) -> Result<Vec<(CallerId, Reply)>, String> {
        if let Some(published) = fx.publish {
            holds!(snapshots_are_numbered_in_their_order(&self.published, &published))?;
            self.history.observe(&Seen::Published(&published))?;
            self.published = published;
            (self.used, self.asked) = (false, false);
        }
        let mut started = Vec::new();
        for start in fx.start {
            started.extend(self.start(start)?);
        }
        for (caller, answer) in &fx.replies {
            self.history.observe(&Seen::Answered(*caller, answer))?;
            match answer {
                Reply::Exchanged(Ok(token)) => self.last_exchanged = Some(token.id()),
                Reply::Token(Err(_)) => self.errors += 1,
                _ => {}
            }
        }
        holds!(nothing_but_revocations_starts_while_a_revoke_waits(&self.history, &started))?;
        holds!(the_next_deadline_is_ahead(&self.session, moment.now))?;
        let (session, history) = (&self.session, &self.history);
        holds!(a_timer_that_is_not_due_does_nothing(session, history, self.moment()))?;
        Ok(fx.replies)
    }

    /// What started, unless it is a revocation.
    fn start(&mut self, start: Start) -> Result<Option<Purpose>, String> {
        let purpose = match start.request {
            Request::Grant(_) => Purpose::Grant,
            Request::Exchange(key, subject, _) => {
                let number = number_of(&key);
                self.keys[usize::from(number)] = Some((key, subject.id().generation()));
                Purpose::Exchange(number)
            }
            Request::Revocation(text, _) => {
                self.history.observe(&Seen::RevocationStarted(text.expose(), start.timeout))?;
                self.revocations.push(text);
                return Ok(None);
            }
        };
        self.history.observe(&Seen::Started(purpose, start.timeout))?;
        Ok(Some(purpose))
    }

    // To the end

    /// From here on every attempt ends like this, and nobody new comes: whoever waits is answered after
    /// a few more events, within the time that the flights need; with a token, if all goes well.
    pub fn runs_to_its_end(mut self, outcome: Outcome) -> Verdict {
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
        if let Some((purpose, _)) = self.history.wire.iter().min_by_key(|(_, it)| it.ends_by) {
            return Some(match purpose {
                Purpose::Grant => Step::Grant(outcome),
                Purpose::Exchange(key) => Step::Exchanged(*key, outcome),
            });
        }
        if !self.revocations.is_empty() {
            return Some(Step::Revocation(outcome));
        }
        self.session.next_deadline().map(|_| Step::Wake)
    }

    /// All that matters of this situation but the session's own part, as text.
    pub fn describe(&self, out: &mut String) {
        use std::fmt::Write as _;
        let current: Vec<_> =
            self.asked_messages.iter().map(|number| *number == self.published.number).collect();
        let subjects =
            [0, 1].map(|key: usize| self.keys[key].as_ref().map(|(_, subject)| *subject));
        let left = &self.left;
        write!(
            out,
            "{:?} {:?} {:?} {} {} {} {} {} {current:?} {:?} {} {} {} {:?} {:?} {subjects:?}",
            self.history,
            left.asks,
            left.exchanges,
            left.revokes,
            left.leaves,
            left.doubts,
            left.late,
            left.suspends,
            self.invalidate_messages,
            self.used,
            self.asked,
            self.is_doubted(),
            self.last_exchanged,
            self.revocations.iter().map(TokenText::expose).collect::<Vec<_>>(),
        )
        .unwrap_or_default();
    }
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
