//! Drives a machine by hand. Every method that is an event says what the machine did about it, in
//! words: `assert_eq!(session.ask(), "publish nothing; grant #1")`. Callers are numbered from 1 in the
//! order in which they come, tokens are called t1, t2, …, exchanged ones x1, x2, …
//!
//! The clock stands still until [`Session::pass`] moves it; then the timer is sent when the machine
//! asked for it, and attempts end with `TimedOut` when their time is over, as the actor does it.
//! After each event the driver checks what must hold after any: see [`Session::check`].

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ccg_session::testing::internals::{
    Abilities, Effects, Ended, Event, ExchangeKey, Instant, Machine, Moment, Published, Reply,
    Request, Start, Warning,
};
use ccg_session::{
    ExchangeRequest, Grant, RefreshMode, SessionConfig, SessionError, TokenError, TokenId,
    TokenRequestOptions,
};

/// The clock's first instant: far enough from zero to look back.
pub const START: Instant = Instant::from_nanos(1_000_000_000_000_000);

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A failure that may pass.
pub fn transient() -> TokenError {
    TokenError::server(503, None)
}

pub fn retry_after(after: Duration) -> TokenError {
    TokenError::rate_limited(Some(after))
}

/// A failure that asking again does not mend.
pub fn denied() -> TokenError {
    TokenError::denied("invalid_client", "")
}

pub fn credentials_changed() -> TokenError {
    TokenError::denied("invalid_client", "").with_status(401).with_credentials_changed(true)
}

pub fn at_least(life: Duration) -> TokenRequestOptions {
    TokenRequestOptions::new().min_remaining(life)
}

pub fn from_ip(last: u8) -> TokenRequestOptions {
    TokenRequestOptions::new().ip(&format!("192.0.2.{last}")).expect("an address")
}

/// A request for an exchange: one key for each name.
pub fn scope(name: &str) -> ExchangeRequest {
    ExchangeRequest::scopes([name])
}

fn abilities(able: bool) -> Abilities {
    Abilities { exchange: able, revoke: able, assumed_lifetime: secs(300) }
}

/// An attempt on the wire.
struct Attempt {
    start: Start,
    at: Instant,
    /// A revoke came since: its token must never be handed out.
    doomed: bool,
}

pub struct Session {
    pub machine: Machine<u32>,
    pub now: Instant,
    /// What each event draws.
    pub random: f64,
    /// Off, the checks leave out the one that copies the machine.
    pub check_idle: bool,
    /// Every attempt ever started, and when.
    pub started: Vec<(Instant, Start)>,
    /// The revocations on the wire at once, at most.
    pub most_at_once: usize,
    pub answers: BTreeMap<u32, Reply>,
    pub warnings: Vec<Warning>,
    pub published: Published,
    on_wire: Vec<Attempt>,
    callers: u32,
    waiting: BTreeSet<u32>,
    revoking: BTreeSet<u32>,
    tokens: u32,
    exchanged_tokens: u32,
    /// When each token that was received ends, and the name that the session gave it last.
    expiries: BTreeMap<String, Instant>,
    revoked: BTreeSet<String>,
    ids: BTreeMap<String, TokenId>,
    used: bool,
    asked: bool,
    doubted: Option<(TokenId, u64)>,
    log: VecDeque<String>,
}

/// Shows what happened before an assertion failed.
impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in &self.log {
                eprintln!("{line}");
            }
        }
    }
}

impl Session {
    pub fn with(change: impl FnOnce(&mut SessionConfig)) -> Self {
        let mut config = SessionConfig::default();
        change(&mut config);
        config.check().expect("a configuration that makes sense");
        Self::new(config, true, 7)
    }

    /// Another session than the others here, which are all number 7.
    pub fn numbered(number: u64) -> Self {
        Self::new(SessionConfig::default(), true, number)
    }

    pub fn of(mode: RefreshMode) -> Self {
        Self::with(|config| config.refresh_mode = mode)
    }

    /// Its manager neither revokes nor exchanges.
    pub fn bare() -> Self {
        Self::new(SessionConfig::default(), false, 7)
    }

    fn new(config: SessionConfig, able: bool, number: u64) -> Self {
        let machine = Machine::new(config, abilities(able), number);
        Self {
            now: START,
            random: 0.5,
            check_idle: true,
            started: Vec::new(),
            most_at_once: 0,
            answers: BTreeMap::new(),
            warnings: Vec::new(),
            published: machine.published().clone(),
            machine,
            on_wire: Vec::new(),
            callers: 0,
            waiting: BTreeSet::new(),
            revoking: BTreeSet::new(),
            tokens: 0,
            exchanged_tokens: 0,
            expiries: BTreeMap::new(),
            revoked: BTreeSet::new(),
            ids: BTreeMap::new(),
            used: false,
            asked: false,
            doubted: None,
            log: VecDeque::new(),
        }
    }

    // Events

    pub fn ask(&mut self) -> String {
        self.ask_with(TokenRequestOptions::new())
    }

    pub fn ask_with(&mut self, options: TokenRequestOptions) -> String {
        let caller = self.next_caller();
        self.send(Event::GetToken(caller.into(), caller, options))
    }

    pub fn exchange(&mut self, request: ExchangeRequest) -> String {
        let caller = self.next_caller();
        self.send(Event::Exchange(caller.into(), caller, Box::new(request)))
    }

    pub fn revoke(&mut self) -> String {
        self.revoke_with(TokenRequestOptions::new())
    }

    pub fn revoke_with(&mut self, options: TokenRequestOptions) -> String {
        let caller = self.next_caller();
        self.revoking.insert(caller);
        let said = self.send(Event::Revoke(caller.into(), caller, options));
        let refused = said.contains("unsupported") || said.contains("overloaded");
        if !refused {
            self.revoked.extend(self.expiries.keys().cloned());
            self.on_wire.iter_mut().for_each(|attempt| attempt.doomed = true);
        }
        said
    }

    /// A reader of the published snapshot lets the actor know.
    pub fn asked(&mut self) -> String {
        self.asked_of(self.published.number)
    }

    pub fn asked_of(&mut self, snapshot: u64) -> String {
        self.send(Event::Asked(snapshot))
    }

    /// A caller, as the handle has it: the snapshot's token where that will do, else a message.
    pub fn read(&mut self) -> String {
        let fresh = self.published.token.as_ref().filter(|token| {
            let doubt = Some((token.token.id(), token.doubts_dismissed));
            self.now < token.usable_until && self.doubted != doubt
        });
        let Some(token) = fresh.map(|token| token.token.secret().to_owned()) else {
            return self.ask();
        };
        self.used = true;
        if self.asked || self.now < self.published.ask_at {
            return format!("fast: {token}");
        }
        self.asked = true;
        format!("fast: {token}; {}", self.asked())
    }

    /// A caller that does not wait, at a snapshot that cannot serve it.
    pub fn try_token(&mut self) -> String {
        if std::mem::replace(&mut self.asked, true) { "nothing".into() } else { self.asked() }
    }

    /// The token of this name was refused by an API.
    pub fn invalidate(&mut self, name: &str) -> String {
        let id = self.ids[name];
        self.doubted = self
            .published
            .token
            .as_ref()
            .filter(|token| token.token.id() == id)
            .map(|token| (id, token.doubts_dismissed))
            .or(self.doubted);
        self.invalidate_id(id)
    }

    pub fn invalidate_id(&mut self, id: TokenId) -> String {
        self.send(Event::Invalidate(id))
    }

    pub fn leave(&mut self, caller: u32) -> String {
        self.waiting.remove(&caller);
        self.revoking.remove(&caller);
        self.send(Event::Left(caller.into()))
    }

    /// Everybody who waits gives up.
    pub fn leave_all(&mut self) {
        let waiting: Vec<_> = self.waiting.iter().copied().collect();
        for caller in waiting {
            self.leave(caller);
        }
    }

    pub fn shutdown(&mut self) -> String {
        self.revoking.clear();
        self.send(Event::Shutdown)
    }

    /// The manager has learnt whether its server revokes.
    pub fn can_revoke(&mut self, revoke: bool) -> String {
        self.send(Event::Abilities(Abilities { revoke, ..abilities(true) }))
    }

    pub fn timer(&mut self) -> String {
        self.send(Event::Timer)
    }

    // Attempts end

    pub fn granted(&mut self, life: Duration) -> String {
        self.tokens += 1;
        self.granted_as(&format!("t{}", self.tokens), life)
    }

    pub fn granted_as(&mut self, name: &str, life: Duration) -> String {
        let grant = self.grant_on_wire();
        let token = Grant::bearer(name.to_owned()).expect("a token").expires_in(life);
        self.arrives(&grant, name, life);
        self.send(Event::Ended(Ended::Grant(Ok(token))))
    }

    /// The server says when it wants the token refreshed.
    pub fn granted_to_refresh(&mut self, life: Duration, refresh_in: Duration) -> String {
        self.tokens += 1;
        let (name, grant) = (format!("t{}", self.tokens), self.grant_on_wire());
        let token = Grant::bearer(name.clone()).expect("a token");
        let token = token.expires_in(life).refresh_in(refresh_in);
        self.arrives(&grant, &name, life);
        self.send(Event::Ended(Ended::Grant(Ok(token))))
    }

    /// The server does not say how long it lives.
    pub fn granted_for_unknown_time(&mut self) -> String {
        self.tokens += 1;
        let (name, grant) = (format!("t{}", self.tokens), self.grant_on_wire());
        let token = Grant::bearer(name.clone()).expect("a token");
        self.arrives(&grant, &name, secs(300));
        self.send(Event::Ended(Ended::Grant(Ok(token))))
    }

    pub fn grant_fails(&mut self, error: TokenError) -> String {
        self.grant_on_wire();
        self.send(Event::Ended(Ended::Grant(Err(error))))
    }

    /// Of the exchanges on the wire, the one that was sent first succeeds.
    pub fn exchanged(&mut self, life: Duration) -> String {
        self.exchanged_tokens += 1;
        self.exchanged_as(&format!("x{}", self.exchanged_tokens), life)
    }

    pub fn exchanged_as(&mut self, name: &str, life: Duration) -> String {
        let (key, attempt) = self.exchange_on_wire();
        let token = Grant::bearer(name.to_owned()).expect("a token").expires_in(life);
        self.arrives(&attempt, name, life);
        self.send(Event::Ended(Ended::Exchange(key, Ok(token))))
    }

    pub fn exchange_fails(&mut self, error: TokenError) -> String {
        let (key, _) = self.exchange_on_wire();
        self.send(Event::Ended(Ended::Exchange(key, Err(error))))
    }

    /// All revocations on the wire end well.
    pub fn confirmed(&mut self) -> String {
        self.revocations_end(|_| Ok(()))
    }

    /// All revocations on the wire fail.
    pub fn revocations_fail(&mut self, error: &TokenError) -> String {
        self.revocations_end(|_| Err(error.clone()))
    }

    pub fn revocations_end(
        &mut self,
        mut how: impl FnMut(&str) -> Result<(), TokenError>,
    ) -> String {
        let ended: Vec<_> =
            self.on_wire.extract_if(.., |attempt| is_revocation(&attempt.start.request)).collect();
        assert!(!ended.is_empty(), "no revocation is on the wire");
        let said = ended.into_iter().map(|attempt| {
            let Request::Revocation(text, _) = attempt.start.request else { unreachable!() };
            let result = how(text.expose());
            self.send(Event::Ended(Ended::Revocation(text, result)))
        });
        joined(said)
    }

    /// Whatever is on the wire, and whatever that leads to at once, fails with this.
    pub fn all_fail(&mut self, error: &TokenError) -> String {
        let mut said = Vec::new();
        while !self.on_wire.is_empty() {
            let attempt = self.on_wire.remove(0);
            said.push(self.ends(attempt.start.request, error.clone()));
        }
        joined(said)
    }

    /// Whatever is on the wire, and whatever that leads to at once, succeeds.
    pub fn all_succeed(&mut self, life: Duration) -> String {
        self.each_ends(|session, what| match what {
            "grant" => session.granted(life),
            "exchange" => session.exchanged(life),
            _ => session.confirmed(),
        })
    }

    /// Whatever is on the wire, and whatever that leads to at once, ends as it is told.
    pub fn each_ends(&mut self, mut how: impl FnMut(&mut Self, &str) -> String) -> String {
        let mut said = Vec::new();
        while let Some(attempt) = self.on_wire.first() {
            let what = match attempt.start.request {
                Request::Grant(_) => "grant",
                Request::Exchange(..) => "exchange",
                Request::Revocation(..) => "revocations",
            };
            said.push(how(self, what));
        }
        joined(said)
    }

    fn ends(&mut self, request: Request, error: TokenError) -> String {
        self.send(Event::Ended(match request {
            Request::Grant(_) => Ended::Grant(Err(error)),
            Request::Exchange(key, ..) => Ended::Exchange(key, Err(error)),
            Request::Revocation(text, _) => Ended::Revocation(text, Err(error)),
        }))
    }

    fn grant_on_wire(&mut self) -> Attempt {
        self.take(is_grant, "grant")
    }

    fn exchange_on_wire(&mut self) -> (Arc<ExchangeKey>, Attempt) {
        let attempt = self.take(|request| matches!(request, Request::Exchange(..)), "exchange");
        let Request::Exchange(key, ..) = &attempt.start.request else { unreachable!() };
        (key.clone(), attempt)
    }

    fn take(&mut self, is_it: impl Fn(&Request) -> bool, what: &str) -> Attempt {
        let at = self.on_wire.iter().position(|attempt| is_it(&attempt.start.request));
        self.on_wire.remove(at.unwrap_or_else(|| panic!("no {what} is on the wire")))
    }

    /// What the driver remembers of a token, to judge later answers by.
    fn arrives(&mut self, attempt: &Attempt, name: &str, life: Duration) {
        let ends = attempt.at + life;
        let known = self.expiries.entry(name.to_owned()).or_insert(ends);
        *known = ends.max(*known);
        if attempt.doomed {
            self.revoked.insert(name.to_owned());
        }
    }

    // Time

    /// Time passes: timers come when they were asked for, attempts time out when their time is over.
    pub fn pass(&mut self, time: Duration) -> String {
        let until = self.now + time;
        let mut said = Vec::new();
        loop {
            let over = self.on_wire.iter().map(|attempt| attempt.at + attempt.start.timeout).min();
            let deadline = self.machine.next_deadline();
            let Some(next) = [over, deadline].into_iter().flatten().min().filter(|at| *at <= until)
            else {
                break;
            };
            self.now = next.max(self.now);
            let is_over = |attempt: &Attempt| attempt.at + attempt.start.timeout <= next;
            said.push(match self.on_wire.iter().position(is_over) {
                Some(at) => {
                    let start = self.on_wire.remove(at).start;
                    self.ends(start.request, TokenError::timed_out(start.timeout))
                }
                None => self.timer(),
            });
        }
        self.now = until;
        joined(said)
    }

    /// Time passes unnoticed: no timer comes.
    pub fn suspend(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Since the session began.
    pub fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    // What there is to see

    pub fn on_wire(&self) -> Vec<&Start> {
        self.on_wire.iter().map(|attempt| &attempt.start).collect()
    }

    pub fn waits(&self, caller: u32) -> bool {
        self.waiting.contains(&caller)
    }

    pub fn error_of(&self, caller: u32) -> &SessionError {
        match &self.answers[&caller] {
            Reply::Token(Err(error))
            | Reply::Exchanged(Err(error))
            | Reply::Revoked(Err(error)) => error,
            answer => panic!("caller {caller} got {answer:?}"),
        }
    }

    /// When grant attempts were started, counted from the session's beginning.
    pub fn grants(&self) -> Vec<Duration> {
        self.sent(is_grant)
    }

    pub fn exchanges(&self) -> Vec<Duration> {
        self.sent(|request| matches!(request, Request::Exchange(..)))
    }

    pub fn revocations(&self) -> Vec<Duration> {
        self.sent(is_revocation)
    }

    fn sent(&self, is_it: impl Fn(&Request) -> bool) -> Vec<Duration> {
        let sent = self.started.iter().filter(|(_, start)| is_it(&start.request));
        sent.map(|(at, _)| at.since(START)).collect()
    }

    /// The tokens whose revocation was ever sent.
    pub fn revoked_names(&self) -> BTreeSet<&str> {
        let sent = self.started.iter().filter_map(|(_, start)| match &start.request {
            Request::Revocation(text, _) => Some(text.expose()),
            _ => None,
        });
        sent.collect()
    }

    /// The options that went with the attempt started last.
    pub fn last_options(&self) -> TokenRequestOptions {
        match &self.started.last().expect("an attempt").1.request {
            Request::Grant(grant) => grant.options.clone(),
            Request::Revocation(_, options) => options.clone(),
            Request::Exchange(..) => panic!("an exchange's options are its request's"),
        }
    }

    /// The token that the grant attempt started last said was refused.
    pub fn last_refused(&self) -> Option<String> {
        let grants = self.started.iter().rev().filter_map(|(_, start)| match &start.request {
            Request::Grant(grant) => Some(grant),
            _ => None,
        });
        let refused = grants.into_iter().next().expect("a grant").refused.as_ref();
        refused.map(|text| text.expose().to_owned())
    }

    pub fn id(&self, name: &str) -> TokenId {
        self.ids[name]
    }

    pub fn published_token(&self) -> Option<&str> {
        self.published.token.as_ref().map(|token| token.token.secret())
    }

    /// How far ahead the timer is.
    pub fn deadline(&self) -> Option<Duration> {
        self.machine.next_deadline().map(|at| at.since(self.now))
    }

    /// How far ahead `ask_at` is; `None` if it does not come.
    pub fn ask_at(&self) -> Option<Duration> {
        let at = self.published.ask_at;
        (at != Instant::NEVER).then(|| at.since(self.now))
    }

    // The machinery

    fn next_caller(&mut self) -> u32 {
        self.callers += 1;
        self.waiting.insert(self.callers);
        self.callers
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, random: self.random, used: self.used }
    }

    fn send(&mut self, event: Event<u32>) -> String {
        let told = format!("{event:?}");
        let mut fx = Effects::default();
        self.machine.handle(self.moment(), event, &mut fx);
        let said = self.carry_out(fx);
        let at = format!("{:.3}s", self.elapsed().as_secs_f64());
        self.log.push_back(format!("{at:>10} {told:.120}\n           -> {said}"));
        if self.log.len() > 60 {
            self.log.pop_front();
        }
        self.check();
        said
    }

    fn carry_out(&mut self, fx: Effects<u32>) -> String {
        let mut said = Vec::new();
        if let Some(published) = fx.publish {
            said.push(match &published.token {
                _ if published.closed => "publish closed".to_owned(),
                Some(token) => format!("publish {}", token.token.secret()),
                None => "publish nothing".to_owned(),
            });
            assert_eq!(published.number, self.published.number + 1, "a number is left out");
            if let Some(token) = &published.token {
                self.ids.insert(token.token.secret().to_owned(), token.token.id());
            }
            self.published = published;
            (self.used, self.asked) = (false, false);
        }
        let only_revocations = fx.start.iter().all(|start| is_revocation(&start.request));
        for start in fx.start {
            said.push(match &start.request {
                Request::Grant(_) => format!("grant #{}", start.number),
                Request::Exchange(_, subject, _) => {
                    format!("exchange #{} of {}", start.number, subject.secret())
                }
                Request::Revocation(text, _) => format!("revoke {}", text.expose()),
            });
            self.started.push((self.now, start.clone()));
            self.on_wire.push(Attempt { start, at: self.now, doomed: false });
        }
        for (caller, answer) in fx.replies {
            said.push(format!("{caller}: {}", self.judged(&answer)));
            let waited = self.waiting.remove(&caller);
            assert!(waited, "caller {caller} no longer waits, and gets {answer:?}");
            self.answers.insert(caller, answer);
            self.revoking.remove(&caller);
        }
        assert!(
            only_revocations || self.revoking.is_empty(),
            "something else than a revocation is sent while the barrier is up: {said:?}"
        );
        for warning in fx.warnings {
            said.push(format!("warn: {warning}"));
            self.warnings.push(warning);
        }
        let revocations =
            self.on_wire.iter().filter(|attempt| is_revocation(&attempt.start.request)).count();
        self.most_at_once = self.most_at_once.max(revocations);
        joined(said)
    }

    /// An answer in a word. What it gives out must be alive, and must not have been revoked.
    fn judged(&mut self, answer: &Reply) -> String {
        let (name, id) = match answer {
            Reply::Token(Ok(token)) => (token.secret().to_owned(), token.id()),
            Reply::Exchanged(Ok(token)) => (token.secret().to_owned(), token.id()),
            Reply::Revoked(Ok(())) => return "revoked".into(),
            Reply::Token(Err(error))
            | Reply::Exchanged(Err(error))
            | Reply::Revoked(Err(error)) => return word(error).into(),
        };
        assert!(self.now < self.expiries[&name], "{name} is given out, and has expired");
        assert!(!self.revoked.contains(&name), "{name} is given out, and has been revoked");
        self.ids.insert(name.clone(), id);
        name
    }

    /// What holds after any event.
    fn check(&self) {
        assert_eq!(
            self.machine.held_callers(),
            self.waiting.len(),
            "who waits: {:?}",
            self.waiting
        );
        if let Some(at) = self.machine.next_deadline() {
            assert!(at > self.now, "the timer is due at once, again");
            assert!(at < Instant::NEVER, "a timer is asked for that never comes");
        }
        let grants = self.on_wire.iter().filter(|attempt| is_grant(&attempt.start.request));
        assert!(grants.count() <= 1, "two grants on the wire");
        if self.check_idle {
            let mut fx = Effects::default();
            self.machine.clone().handle(self.moment(), Event::Timer, &mut fx);
            let still = fx.publish.is_none() && fx.start.is_empty() && fx.replies.is_empty();
            assert!(still, "something could still start, or be said: {fx:?}");
        }
    }
}

fn is_grant(request: &Request) -> bool {
    matches!(request, Request::Grant(_))
}

fn is_revocation(request: &Request) -> bool {
    matches!(request, Request::Revocation(..))
}

fn word(error: &SessionError) -> &'static str {
    match error {
        SessionError::Failed { .. } => "failed",
        SessionError::Cooling { .. } => "cooling",
        SessionError::Overloaded => "overloaded",
        SessionError::Unsupported(_) => "unsupported",
        SessionError::Closed => "closed",
        _ => "another error",
    }
}

fn joined(said: impl IntoIterator<Item = String>) -> String {
    let said: Vec<_> = said.into_iter().filter(|said| said != "nothing").collect();
    if said.is_empty() { "nothing".into() } else { said.join("; ") }
}
