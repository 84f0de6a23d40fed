//! Drives a machine by hand, and says in words what it does. The clock stands still until
//! [`Session::pass`] moves it; then the timer is sent when the machine asked for it, and attempts end with
//! `TimedOut` when their time is over, as the actor does it. The judge hears of each event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::script::duration;
use crate::config::{RefreshMode, SessionConfig};
use crate::error::{SessionError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::judge::History;
use crate::machine::{
    Abilities, CallerId, Counters, Effects, Ended, Event, Machine, Moment, News, Purpose, Reply,
    Request, Start, Wait,
};
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::snapshot::Snapshot;
use crate::token::TokenId;

/// The clock's first instant: far enough from zero to look back.
pub(crate) const START: Instant = Instant::from_nanos(1_000_000_000_000_000);

/// What its manager says.
pub(super) const ASSUMED_LIFETIME: Duration = secs(300);

/// What its manager can do.
const ABILITIES: Abilities =
    Abilities { exchange: true, revoke: true, assumed_lifetime: ASSUMED_LIFETIME, gated: false };

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A request for an exchange: one key for each name.
pub(crate) fn scope(name: &str) -> ExchangeRequest {
    ExchangeRequest::scopes([name])
}

pub(crate) type Outcome = Result<Issue, TokenError>;

/// What the server gives.
#[derive(Clone, Default)]
pub(crate) struct Issue {
    /// It may not say.
    pub(super) life: Option<Duration>,
    /// Else the next number.
    pub(super) name: Option<String>,
    pub(super) refresh_in: Option<Duration>,
}

/// What an attempt is for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Grant,
    Exchange,
    Revocation,
}

pub(crate) fn kind(start: &Start) -> Kind {
    match start.request {
        Request::Grant(_) => Kind::Grant,
        Request::Exchange(..) => Kind::Exchange,
        Request::Revocation(..) => Kind::Revocation,
    }
}

#[derive(Clone)]
pub(crate) struct Session {
    machine: Machine<CallerId>,
    config: SessionConfig,
    pub(crate) history: History,
    pub(crate) now: Instant,
    /// What each event draws.
    pub(crate) random: f64,
    /// Every attempt ever started, and when.
    pub(crate) started: Vec<(Instant, Start)>,
    pub(crate) answers: BTreeMap<CallerId, Reply>,
    pub(crate) snapshot: Arc<Snapshot>,
    on_wire: Vec<(Instant, Start)>,
    callers: CallerId,
    /// How many tokens got a number for a name.
    issued: BTreeMap<&'static str, u32>,
    ids: BTreeMap<String, TokenId>,
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
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn of(mode: RefreshMode) -> Self {
        Self::with(|config| config.refresh_mode = mode)
    }

    pub(crate) fn with(change: impl FnOnce(&mut SessionConfig)) -> Self {
        let mut config = SessionConfig::default();
        change(&mut config);
        Self::numbered(7, config)
    }

    /// All are number 7, but where there are two.
    pub(crate) fn numbered(number: u64, config: SessionConfig) -> Self {
        config.check().expect("a configuration that makes sense");
        let abilities = ABILITIES;
        let machine = Machine::new(config.clone(), abilities, number);
        Self {
            history: History::new(machine.published(), &config, abilities),
            config,
            now: START,
            random: 0.5,
            started: Vec::new(),
            answers: BTreeMap::new(),
            snapshot: Arc::new(Snapshot::new(machine.published().clone())),
            machine,
            on_wire: Vec::new(),
            callers: 0,
            issued: BTreeMap::new(),
            ids: BTreeMap::new(),
            log: VecDeque::new(),
        }
    }

    pub(super) fn configure(&mut self, change: impl FnOnce(&mut SessionConfig)) -> String {
        assert!(self.log.is_empty(), "too late to change the configuration");
        let mut config = self.config.clone();
        change(&mut config);
        *self = Self::numbered(7, config);
        "nothing".into()
    }

    // Events

    pub(crate) fn ask_with(&mut self, options: TokenRequestOptions) -> String {
        let caller = self.next_caller();
        self.send(Event::GetToken(caller, caller, options))
    }

    pub(crate) fn exchange(&mut self, request: ExchangeRequest) -> String {
        let caller = self.next_caller();
        self.send(Event::Exchange(caller, caller, Box::new(request)))
    }

    pub(super) fn revoke(&mut self, options: TokenRequestOptions) -> String {
        let caller = self.next_caller();
        self.send(Event::Revoke(caller, caller, options))
    }

    /// A caller, as the handle has it: the snapshot's answer where there is one, else a message.
    pub(super) fn read(&mut self) -> String {
        let snapshot = Arc::clone(&self.snapshot);
        let Some(answer) = snapshot.read(self.now, &TokenRequestOptions::NONE) else {
            return self.ask_with(TokenRequestOptions::NONE);
        };
        let said = format!("fast: {}", self.word(&Reply::Token(answer.cloned())));
        joined([said, self.note_use()])
    }

    pub(super) fn try_token(&mut self) -> String {
        let snapshot = Arc::clone(&self.snapshot);
        assert!(snapshot.read(self.now, &TokenRequestOptions::NONE).is_none(), "there is a token");
        self.note_use()
    }

    fn note_use(&mut self) -> String {
        if self.snapshot.note_use(self.now) {
            self.send(Event::Asked(self.snapshot.number()))
        } else {
            "nothing".into()
        }
    }

    /// The token of this name was refused by an API.
    pub(super) fn invalidate(&mut self, name: &str) -> String {
        let id = self.ids[name];
        self.snapshot.doubt(id, || ());
        self.invalidate_id(id)
    }

    pub(crate) fn invalidate_id(&mut self, id: TokenId) -> String {
        self.send(Event::Invalidate(id))
    }

    /// Another session has revoked the token of this name.
    pub(super) fn hear(&mut self, name: &str, left: &str) -> String {
        let text = TokenText::new(name).expect("a token");
        self.send(Event::News(News::Revoked { text, left: duration(left) }))
    }

    /// The manager wants leave to be asked for, or no more.
    pub(super) fn gate(&mut self, gated: bool) -> String {
        let abilities = Abilities { gated, ..ABILITIES };
        self.send(Event::Abilities(abilities))
    }

    /// The grant has leave, or the exchange of this name.
    pub(super) fn permit(&mut self, key: Option<&str>, result: Result<(), TokenError>) -> String {
        let purpose =
            key.map_or(Purpose::Grant, |name| Purpose::Exchange(scope(name).key().into()));
        self.send(Event::Permitted(purpose, result))
    }

    /// What the manager has learnt of its server.
    pub(super) fn can(&mut self, exchange: bool, revoke: bool) -> String {
        self.send(Event::Abilities(Abilities { exchange, revoke, ..ABILITIES }))
    }

    // Attempts end

    pub(crate) fn grant_ends(&mut self, how: Outcome) -> String {
        let attempt = self.take(Kind::Grant);
        self.ends(attempt, how)
    }

    /// The revocations on the wire end, each as its token's name says.
    pub(crate) fn revocations_end(&mut self, how: impl Fn(&str) -> Outcome) -> String {
        let is_revocation = |(_, start): &mut (Instant, Start)| kind(start) == Kind::Revocation;
        let ended: Vec<_> = self.on_wire.extract_if(.., is_revocation).collect();
        assert!(!ended.is_empty(), "no revocation is on the wire");
        joined(ended.into_iter().map(|(_, start)| {
            let Request::Revocation(text, _) = &start.request else { unreachable!() };
            let how = how(text.expose());
            self.ends(start, how)
        }))
    }

    /// Whatever is on the wire, and whatever that leads to at once, ends as its kind does; or hangs.
    pub(super) fn all_end(&mut self, how: impl Fn(Kind) -> Option<Outcome>) -> String {
        let mut said = Vec::new();
        let ends = |(at, (_, start)): (usize, &(Instant, Start))| Some((at, how(kind(start))?));
        while let Some((at, how)) = self.on_wire.iter().enumerate().find_map(ends) {
            let (_, start) = self.on_wire.remove(at);
            said.push(self.ends(start, how));
        }
        joined(said)
    }

    /// The first of this kind that is on the wire.
    pub(super) fn take(&mut self, what: Kind) -> Start {
        let at = self.on_wire.iter().position(|(_, start)| kind(start) == what);
        self.on_wire.remove(at.expect("none is on the wire")).1
    }

    pub(super) fn ends(&mut self, start: Start, how: Outcome) -> String {
        let ended = match start.request {
            Request::Grant(_) => Ended::Grant(how.map(|issue| self.issue(issue, "t"))),
            Request::Exchange(key, ..) => {
                Ended::Exchange(key, how.map(|issue| self.issue(issue, "x")))
            }
            Request::Revocation(text, _) => Ended::Revocation(text, how.map(drop)),
        };
        self.send(Event::Ended(ended))
    }

    fn issue(&mut self, issue: Issue, kind: &'static str) -> Grant {
        let name = issue.name.unwrap_or_else(|| {
            let count = self.issued.entry(kind).or_default();
            *count += 1;
            format!("{kind}{count}")
        });
        let mut grant = Grant::bearer(name).expect("a token");
        if let Some(life) = issue.life {
            grant = grant.expires_in(life);
        }
        if let Some(wait) = issue.refresh_in {
            grant = grant.refresh_in(wait);
        }
        grant
    }

    /// Time passes: timers come when they were asked for, attempts time out when their time is over.
    pub(crate) fn pass(&mut self, time: Duration) -> String {
        let until = self.now + time;
        let mut said = Vec::new();
        loop {
            let end = |(at, start): &(Instant, Start)| *at + start.timeout;
            let over = self.on_wire.iter().map(end).min();
            let deadline = self.machine.next_deadline();
            let Some(next) = [over, deadline].into_iter().flatten().min().filter(|at| *at <= until)
            else {
                break;
            };
            self.now = next.max(self.now);
            said.push(match self.on_wire.iter().position(|attempt| end(attempt) <= next) {
                Some(at) => {
                    let (_, start) = self.on_wire.remove(at);
                    let error = TokenError::timed_out(start.timeout);
                    self.ends(start, Err(error))
                }
                None => self.send(Event::Timer),
            });
        }
        self.now = until;
        joined(said)
    }

    // What there is to see

    /// Since the session began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    pub(crate) fn is_on_wire(&self, what: Kind) -> bool {
        self.on_wire.iter().any(|(_, start)| kind(start) == what)
    }

    pub(crate) fn on_wire(&self) -> usize {
        self.on_wire.len()
    }

    pub(crate) fn waits(&self, caller: CallerId) -> bool {
        self.history.callers.contains_key(&caller)
    }

    pub(crate) fn error_of(&self, caller: CallerId) -> &SessionError {
        match &self.answers[&caller] {
            Reply::Token(Err(error))
            | Reply::Exchanged(Err(error))
            | Reply::Revoked(Err(error)) => error,
            answer => panic!("caller {caller} got {answer:?}"),
        }
    }

    /// When requests of this kind were sent, counted from the session's beginning.
    pub(crate) fn sent(&self, what: Kind) -> Vec<Duration> {
        let sent = self.started.iter().filter(|(_, start)| kind(start) == what);
        sent.map(|(at, _)| at.since(START)).collect()
    }

    pub(crate) fn last(&self) -> &Start {
        &self.started.last().expect("an attempt").1
    }

    pub(crate) fn id(&self, name: &str) -> TokenId {
        self.ids[name]
    }

    pub(super) fn held(&self) -> Option<String> {
        self.history.published.token.as_ref().map(|token| token.token.secret().to_owned())
    }

    /// How far ahead the end of the published token's use is.
    pub(crate) fn usable_for(&self) -> Duration {
        self.history.published.token.as_ref().expect("a token").usable_until.since(self.now)
    }

    /// How far ahead the timer is.
    pub(crate) fn counters(&self) -> Counters {
        self.machine.facts().counters
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.machine.next_deadline().map(|at| at.since(self.now))
    }

    /// How far ahead `ask_at` is; `None` if it does not come.
    pub(crate) fn ask_at(&self) -> Option<Duration> {
        let at = self.history.published.ask_at;
        (at != Instant::NEVER).then(|| at.since(self.now))
    }

    // The machinery

    fn next_caller(&mut self) -> CallerId {
        self.callers += 1;
        self.callers
    }

    pub(super) fn send(&mut self, event: Event<CallerId>) -> String {
        let at = format!("{:.3}s", self.elapsed().as_secs_f64());
        self.log.push_back(format!("{at:>10} {:.120}", format!("{event:?}")));
        if self.log.len() > 120 {
            self.log.drain(..2);
        }
        let moment = Moment { now: self.now, random: self.random, used: self.snapshot.is_used() };
        let fx = self.history.tell(&mut self.machine, moment, event);
        let said = self.carry_out(fx.unwrap_or_else(|why| panic!("{why}")));
        if !self.history.is_crowded {
            let moment = Moment { used: self.snapshot.is_used(), ..moment };
            self.history.judge(&self.machine, moment).unwrap_or_else(|why| panic!("{why}"));
        }
        self.log.push_back(format!("           -> {said}"));
        said
    }

    fn carry_out(&mut self, fx: Effects<CallerId>) -> String {
        let mut said = Vec::new();
        if let Some(published) = fx.publish {
            said.push(match &published.token {
                _ if published.closed => "publish closed".to_owned(),
                Some(token) => {
                    format!("publish {}", self.name(token.token.secret(), token.token.id()))
                }
                None => "publish nothing".to_owned(),
            });
            self.snapshot = Arc::new(self.snapshot.followed_by(published));
        }
        for wait in fx.waits {
            let name = |purpose: &Purpose| match purpose {
                Purpose::Grant => "the grant".to_owned(),
                Purpose::Exchange(key) => self.history.requests[key].scopes[0].clone(),
            };
            said.push(match &wait {
                Wait::Begin(purpose, ..) => format!("wait for {}", name(purpose)),
                Wait::GiveUp(purpose) => format!("no wait for {}", name(purpose)),
            });
        }
        for start in fx.start {
            said.push(match &start.request {
                Request::Grant(_) => format!("grant #{}", start.number),
                Request::Exchange(_, subject, _) => {
                    format!("exchange #{} of {}", start.number, subject.secret())
                }
                Request::Revocation(text, _) => format!("revoke {}", text.expose()),
            });
            self.started.push((self.now, start.clone()));
            self.on_wire.push((self.now, start));
        }
        for (caller, answer) in fx.replies {
            said.push(format!("{caller}: {}", self.word(&answer)));
            self.answers.insert(caller, answer);
        }
        said.extend(fx.warnings.iter().map(|warning| format!("warn: {warning}")));
        joined(said)
    }

    /// An answer in a word.
    fn word(&mut self, answer: &Reply) -> String {
        match answer {
            Reply::Token(Ok(token)) => self.name(token.secret(), token.id()),
            Reply::Exchanged(Ok(token)) => self.name(token.secret(), token.id()),
            Reply::Revoked(Ok(())) => "revoked".into(),
            Reply::Token(Err(error))
            | Reply::Exchanged(Err(error))
            | Reply::Revoked(Err(error)) => word(error).into(),
        }
    }

    /// A token's name; who refuses it later knows no more of it.
    fn name(&mut self, name: &str, id: TokenId) -> String {
        self.ids.insert(name.to_owned(), id);
        name.to_owned()
    }
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

pub(super) fn joined(said: impl IntoIterator<Item = String>) -> String {
    let said: Vec<_> = said.into_iter().filter(|said| said != "nothing").collect();
    if said.is_empty() { "nothing".into() } else { said.join("; ") }
}
