//! What must be true of a session, whatever happens: each invariant is a function with a name of its
//! own, so that the exploration, the random tests and the tests of the real actor judge alike.
//!
//! A harness tells [`History::observe`] what it sees, in the order in which it happens. `observe` asks
//! every invariant that concerns such an observation, and then remembers as much of it as a later
//! judgement needs: what is on the wire, what the server holds, and what each caller may rely on. The
//! history is told by the outside alone, so it cannot be wrong in the same way as the machine.

#![allow(dead_code, reason = "each test that includes this module uses its own part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use ccg_session::testing::internals::{
    CallerId, Effects, Event, Instant, Moment, Published, Reply, Snapshot,
};
use ccg_session::{SessionError, TokenError, TokenRequestOptions};

/// Why a history is not one that a session may have.
pub type Verdict = Result<(), String>;

/// Asks an invariant. What it says against a session begins with its name.
macro_rules! holds {
    ($invariant:ident($($argument:expr),*)) => {
        $crate::invariants::$invariant($($argument),*)
            .map_err(|why| format!(concat!(stringify!($invariant), ": {}"), why))
    };
}
#[allow(unused_imports, reason = "not every test that shares these asks one by itself")]
pub(crate) use holds;

/// The names of all invariants: of every function in this file that gives a verdict.
pub fn names() -> impl Iterator<Item = &'static str> {
    let functions = include_str!("mod.rs").split("\npub fn ").skip(1);
    functions.filter_map(|function| {
        let (signature, _) = function.split_once('{')?;
        let name = signature.split(['(', '<']).next()?;
        signature.contains("-> Verdict").then_some(name)
    })
}

/// How long the server is left alone after the request for a token that came.
pub const GRANT_GAP: Duration = Duration::from_secs(1);
/// A `Retry-After` that is longer ends a flight.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Something that behaves like the machine: the machine, or a broken one.
pub trait Session: Clone {
    /// Handles one event.
    fn handle(&mut self, moment: Moment, event: Event<CallerId>, fx: &mut Effects<CallerId>);
    /// When it wants to be woken.
    fn next_deadline(&self) -> Option<Instant>;
    /// What readers shall see.
    fn published(&self) -> Published;
    /// How many callers it knows.
    fn held_callers(&self) -> usize;
}

/// What a flight is for: its attempts are spaced by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// The session's own token.
    Grant,
    /// The exchanged token of the key with this number.
    Exchange(u8),
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A token.
    Token,
    /// The exchanged token of the key with this number.
    Exchanged(u8),
    /// That every token is gone.
    Revoked,
}

/// An attempt on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// When it started.
    pub sent_at: Instant,
    /// When it ends at the latest.
    pub ends_by: Instant,
    /// How many revokes had been taken by then.
    pub revokes: u64,
}

/// Somebody who waits, and what may be told to them.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// What for.
    pub want: Want,
    /// How many revokes had been published when the call began; a revoke counts itself.
    pub revokes: u64,
}

/// A token that the session received.
#[derive(Clone, Debug)]
pub struct Token {
    /// Counted by the history, with every token that arrives.
    pub generation: u64,
    /// The token itself.
    pub text: String,
    /// What it is.
    pub purpose: Purpose,
    /// How many revokes had been taken when it was asked for.
    pub revokes: u64,
    /// Counted from when it was asked for.
    pub expires_at: Instant,
    /// How long it lives.
    pub life: Duration,
}

/// A token as the server knows it: by its text.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token itself.
    pub text: String,
    /// The longest that the server can have meant.
    pub expires_at: Instant,
    /// The first revoke that came since.
    pub marked_by: Option<u64>,
    /// The server has confirmed that it is gone.
    pub revoked: bool,
}

/// How attempts of one purpose have to be spaced, counted as the design tells it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    not_before: Instant,
    attempts: u32,
    flights_failed: u32,
    forgiven: bool,
    rerun: bool,
    /// Nobody waited for it any more: it may be over, and the next one have its rerun still.
    unsure: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            not_before: Instant::ZERO,
            attempts: 0,
            flights_failed: 0,
            forgiven: false,
            rerun: false,
            unsure: false,
        }
    }
}

/// The part of the retry policy that spaces attempts.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Attempts in a flight.
    pub attempts: u32,
    /// The longest time for which a server is left alone of the session's own accord.
    pub cooling: Duration,
    /// The draw that is used for everything in this run. Where it is not known, attempts are judged by
    /// the least that any draw asks for.
    pub random: Option<f64>,
}

/// Something that happened, as the outside sees it.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    /// A call began.
    Began(CallerId, Want),
    /// A caller does not wait any more.
    Left(CallerId),
    /// The session has taken this caller's revoke, and will publish it now.
    RevokeTaken(CallerId),
    /// The session has dropped the token with this generation, because it was refused.
    InvalidateHonoured(u64),
    /// Readers see something else.
    Published(&'a Published),
    /// An attempt of a grant or an exchange started, with this time-out.
    Started(Purpose, Duration),
    /// A revocation of this token started, with this time-out.
    RevocationStarted(&'a str, Duration),
    /// A token arrived: its text, and its life.
    Arrived(Purpose, &'a str, Duration),
    /// An attempt failed.
    Failed(Purpose, &'a TokenError),
    /// An exchange failed for its subject, which is no longer the session's own token.
    SubjectRefused(Purpose, &'a TokenError),
    /// A revocation ended.
    RevocationEnded(&'a str, Result<(), &'a TokenError>),
    /// A caller was answered.
    Answered(CallerId, &'a Reply),
}

/// What has been seen, as far as it still matters.
#[derive(Clone, Debug)]
pub struct History {
    /// The clock.
    pub now: Instant,
    /// What the session was told to keep to.
    pub policy: Policy,
    /// Revokes taken.
    pub revokes: u64,
    /// Tokens that arrived.
    pub generation: u64,
    /// The highest generation that readers could see.
    pub highest: u64,
    /// The highest generation whose invalidation was honoured.
    pub invalidated: u64,
    /// When that was.
    pub invalidated_at: Option<Instant>,
    /// Who waits.
    pub callers: BTreeMap<CallerId, Caller>,
    /// Grants and exchanges on the wire.
    pub wire: BTreeMap<Purpose, Attempt>,
    /// Revocations on the wire, by the token's text.
    pub revocations: BTreeMap<String, Attempt>,
    /// Tokens that can still be alive.
    pub tokens: Vec<Token>,
    /// The same, as the server knows them.
    pub texts: Vec<Issued>,
    paces: BTreeMap<Purpose, Pace>,
    revocation_pace: Pace,
    batch_confirmed: bool,
    batch_failure: Option<TokenError>,
    last_sent: Option<Instant>,
    barrier_may_be_up: bool,
}

impl History {
    /// Nothing has happened yet.
    pub fn new(now: Instant, policy: Policy) -> Self {
        Self {
            now,
            policy,
            revokes: 0,
            generation: 0,
            highest: 0,
            invalidated: 0,
            invalidated_at: None,
            callers: BTreeMap::new(),
            wire: BTreeMap::new(),
            revocations: BTreeMap::new(),
            tokens: Vec::new(),
            texts: Vec::new(),
            paces: BTreeMap::new(),
            revocation_pace: Pace::default(),
            batch_confirmed: false,
            batch_failure: None,
            last_sent: None,
            barrier_may_be_up: false,
        }
    }

    /// Time passes. What the server no longer knows is forgotten, so that equal situations look equal.
    pub fn pass(&mut self, now: Instant) {
        self.now = now;
        self.texts.retain(|text| now < text.expires_at);
        let texts = &self.texts;
        self.tokens.retain(|token| texts.iter().any(|text| text.text == token.text));
    }

    /// Judges what is seen, and remembers it.
    pub fn observe(&mut self, seen: &Seen<'_>) -> Verdict {
        holds!(one_attempt_of_a_purpose_on_the_wire(self, seen))?;
        holds!(nothing_but_revocations_starts_behind_the_barrier(self, seen))?;
        holds!(grants_keep_their_distance(self, seen))?;
        holds!(attempts_keep_to_the_flight_policy(self, seen))?;
        holds!(only_marked_tokens_are_revoked_and_once_confirmed_no_more(self, seen))?;
        holds!(exactly_one_answer_to_each_caller(self, seen))?;
        holds!(no_earlier_token_after_a_revoke(self, seen))?;
        holds!(no_earlier_token_after_an_honoured_invalidate(self, seen))?;
        holds!(no_token_at_or_after_its_expiry(self, seen))?;
        holds!(generations_never_go_back(self, seen))?;
        holds!(a_token_is_given_only_to_those_who_asked_for_it(self, seen))?;
        holds!(a_revoke_that_is_ok_left_nothing_alive(self, seen))?;
        self.remember(seen);
        Ok(())
    }

    /// When the first of the attempts on the wire is over at the latest.
    pub fn wire_ends_by(&self) -> Option<Instant> {
        self.wire.values().chain(self.revocations.values()).map(|attempt| attempt.ends_by).min()
    }

    /// Who waits for a token.
    pub fn waiting_for_a_token(&self) -> impl Iterator<Item = CallerId> + '_ {
        self.callers.iter().filter(|(_, it)| it.want == Want::Token).map(|(id, _)| *id)
    }

    /// The token with this generation.
    pub fn token(&self, generation: u64) -> Option<&Token> {
        self.tokens.iter().find(|token| token.generation == generation)
    }

    /// The text, if the server can still hold it for alive.
    pub fn text(&self, text: &str) -> Option<&Issued> {
        self.texts.iter().find(|known| known.text == text)
    }

    /// Whether a revoke is under way, as far as the outside can know whether or not anybody waits for it:
    /// a revocation is on the wire, or something that was sent before it.
    fn barrier_must_be_up(&self) -> bool {
        !self.revocations.is_empty()
            || self.wire.values().any(|attempt| attempt.revokes < self.revokes)
    }

    fn remember(&mut self, seen: &Seen<'_>) {
        let attempt = |timeout| Attempt {
            sent_at: self.now,
            ends_by: self.now + timeout,
            revokes: self.revokes,
        };
        match *seen {
            Seen::Began(caller, want) => {
                self.doubt_reruns();
                self.callers.insert(caller, Caller { want, revokes: self.revokes });
            }
            Seen::Left(caller) => drop(self.callers.remove(&caller)),
            Seen::RevokeTaken(caller) => self.revoke_taken(caller),
            Seen::InvalidateHonoured(generation) => {
                self.invalidated = self.invalidated.max(generation);
                self.invalidated_at = Some(self.now);
            }
            Seen::Published(published) => {
                if let Some(token) = &published.token {
                    self.highest = self.highest.max(token.token.id().generation());
                }
            }
            Seen::Started(purpose, timeout) => {
                self.barrier_may_be_up = false;
                self.wire.insert(purpose, attempt(timeout));
            }
            Seen::RevocationStarted(text, timeout) => {
                self.revocations.insert(text.into(), attempt(timeout));
            }
            Seen::Arrived(purpose, text, life) => self.arrived(purpose, text, life),
            Seen::Failed(purpose, error) => {
                self.wire.remove(&purpose);
                let (now, policy) = (self.now, self.policy);
                self.paces.entry(purpose).or_default().failed(error, now, policy);
            }
            Seen::SubjectRefused(purpose, error) => {
                self.wire.remove(&purpose);
                let (now, policy) = (self.now, self.policy);
                let pace = self.paces.entry(purpose).or_default();
                if pace.rerun && !pace.unsure {
                    pace.failed(error, now, policy);
                } else {
                    let forgiven = pace.forgiven && !pace.unsure;
                    let begun = Pace { rerun: true, unsure: false, attempts: 0, ..*pace };
                    *pace = Pace { forgiven, not_before: now, ..begun };
                }
            }
            Seen::RevocationEnded(text, result) => self.revocation_ended(text, result),
            Seen::Answered(caller, answer) => {
                self.barrier_may_be_up &= !matches!(answer, Reply::Revoked(_));
                self.callers.remove(&caller);
            }
        }
    }

    /// An exchange that nobody waits for may be over.
    fn doubt_reruns(&mut self) {
        for (purpose, pace) in &mut self.paces {
            let is_wanted = self.callers.values().any(|it| it.wants(*purpose));
            pace.unsure |= pace.rerun && !is_wanted && !self.wire.contains_key(purpose);
        }
    }

    fn revoke_taken(&mut self, caller: CallerId) {
        self.revokes += 1;
        self.barrier_may_be_up = true;
        for text in &mut self.texts {
            text.marked_by.get_or_insert(self.revokes);
        }
        if let Some(caller) = self.callers.get_mut(&caller) {
            caller.revokes = self.revokes;
        }
    }

    fn arrived(&mut self, purpose: Purpose, text: &str, life: Duration) {
        self.generation += 1;
        let Some(attempt) = self.wire.remove(&purpose) else { return };
        let came_too_late = attempt.revokes < self.revokes;
        let at = self.texts.iter().position(|known| known.text == *text).unwrap_or_else(|| {
            let expires_at = Instant::ZERO;
            self.texts.push(Issued {
                text: text.into(),
                expires_at,
                marked_by: None,
                revoked: false,
            });
            self.texts.len() - 1
        });
        let was_marked = self.texts[at].marked_by.is_some();
        self.texts[at].expires_at = self.texts[at].expires_at.max(self.now + life);
        if came_too_late {
            self.texts[at].marked_by.get_or_insert(attempt.revokes + 1);
        }
        self.tokens.push(Token {
            generation: self.generation,
            text: text.into(),
            purpose,
            revokes: attempt.revokes,
            expires_at: attempt.sent_at + life,
            life,
        });
        let dead = attempt.sent_at + life <= self.now || (was_marked && !came_too_late);
        let (now, policy) = (self.now, self.policy);
        let pace = self.paces.entry(purpose).or_default();
        if dead && !came_too_late {
            pace.failed(&TokenError::expired("dead on arrival"), now, policy);
        } else {
            *pace = Pace::default();
            if purpose == Purpose::Grant {
                self.last_sent = Some(attempt.sent_at);
            }
        }
    }

    fn revocation_ended(&mut self, text: &str, result: Result<(), &TokenError>) {
        self.revocations.remove(text);
        match result {
            Ok(()) => {
                self.batch_confirmed = true;
                for known in self.texts.iter_mut().filter(|known| known.text == text) {
                    known.revoked = true;
                }
            }
            Err(error) => drop(self.batch_failure.get_or_insert(error.clone())),
        }
        if !self.revocations.is_empty() {
            return;
        }
        // Each success renews the attempts: one that failed in part is not counted.
        if self.batch_confirmed {
            self.revocation_pace = Pace::default();
        }
        if let Some(error) = self.batch_failure.take()
            && (error.is_retryable() || !self.batch_confirmed)
        {
            self.revocation_pace.failed(&error, self.now, self.policy);
            if self.batch_confirmed {
                self.revocation_pace.attempts = 0;
            }
        }
        self.batch_confirmed = false;
    }
}

impl Caller {
    fn wants(&self, purpose: Purpose) -> bool {
        matches!((self.want, purpose), (Want::Exchanged(one), Purpose::Exchange(other)) if one == other)
    }
}

impl Pace {
    /// The instant before which the next attempt may not start.
    pub fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Two attempts in a flight, one in each that follows a failed one; then the server is left alone.
    pub fn failed(&mut self, error: &TokenError, now: Instant, policy: Policy) {
        let changed = matches!(error, TokenError::Denied { credentials_changed: true, .. });
        if changed && !self.forgiven {
            self.forgiven = true;
            self.not_before = now;
            return;
        }
        self.attempts += 1;
        let retry_after = error.retry_after().unwrap_or_default().min(Duration::from_secs(600));
        let allowed = if self.flights_failed == 0 { policy.attempts } else { 1 };
        let doubled = |first: Duration, nth: u32| first * 2_u32.pow(nth.min(16) - 1);
        let pause =
            if error.is_retryable() && self.attempts < allowed && retry_after <= LONGEST_PAUSE {
                doubled(Duration::from_millis(250), self.attempts)
                    .min(LONGEST_PAUSE)
                    .mul_f64(policy.random.unwrap_or(0.0))
            } else {
                self.attempts = 0;
                self.forgiven = false;
                self.rerun = false;
                self.unsure = false;
                self.flights_failed += 1;
                let alone = doubled(Duration::from_millis(750), self.flights_failed);
                if error.is_retryable() {
                    alone.min(policy.cooling).mul_f64(1.0 - policy.random.unwrap_or(1.0) / 2.0)
                } else {
                    policy.cooling
                }
            };
        self.not_before = now + pause.max(retry_after);
    }
}

// The invariants that judge one observation by what was seen before.

/// One grant attempt on the wire, ever; and one exchange of each key.
pub fn one_attempt_of_a_purpose_on_the_wire(history: &History, seen: &Seen<'_>) -> Verdict {
    match seen {
        Seen::Started(purpose, _) if history.wire.contains_key(purpose) => {
            Err(format!("a second attempt on the wire: {purpose:?}"))
        }
        Seen::RevocationStarted(text, _) if history.revocations.contains_key(*text) => {
            Err(format!("a second revocation of {text} on the wire"))
        }
        _ => Ok(()),
    }
}

/// Nothing but revocations starts while the barrier is up.
pub fn nothing_but_revocations_starts_behind_the_barrier(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    match seen {
        Seen::Started(purpose, _) if history.barrier_must_be_up() => {
            Err(format!("{purpose:?} started while a revoke is under way"))
        }
        _ => Ok(()),
    }
}

/// The same, told by those who wait for a revoke: that the barrier ends and what starts because of it
/// come as one, with the replies last, so this is asked when all of it has been seen.
pub fn nothing_but_revocations_starts_while_a_revoke_waits(
    history: &History,
    started: &[Purpose],
) -> Verdict {
    match started.first() {
        Some(purpose) if history.callers.values().any(|it| it.want == Want::Revoked) => {
            Err(format!("{purpose:?} started while somebody waits for a revoke"))
        }
        _ => Ok(()),
    }
}

/// No grant is asked for within a second of the request for the last token that came.
pub fn grants_keep_their_distance(history: &History, seen: &Seen<'_>) -> Verdict {
    match (seen, history.last_sent) {
        (Seen::Started(Purpose::Grant, _), Some(sent)) if history.now < sent + GRANT_GAP => {
            Err(format!("a grant {:?} after the last that succeeded", history.now.since(sent)))
        }
        _ => Ok(()),
    }
}

/// After a failure no attempt comes before the pause, the cooling and the server's `Retry-After` are
/// over, whatever else happened in between.
pub fn attempts_keep_to_the_flight_policy(history: &History, seen: &Seen<'_>) -> Verdict {
    let pace = match seen {
        Seen::Started(purpose, _) => history.paces.get(purpose),
        Seen::RevocationStarted(..) => Some(&history.revocation_pace),
        _ => None,
    };
    match pace {
        Some(pace) if history.now < pace.not_before => {
            Err(format!("an attempt {:?} too early: {seen:?}", pace.not_before.since(history.now)))
        }
        _ => Ok(()),
    }
}

/// A revoke takes what was there, and nothing that the server has confirmed already.
pub fn only_marked_tokens_are_revoked_and_once_confirmed_no_more(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Seen::RevocationStarted(text, _) = seen else { return Ok(()) };
    match history.text(text) {
        None => Err(format!("{text} is revoked, but nobody knows it any more")),
        Some(known) if known.marked_by.is_none() => {
            Err(format!("{text} is revoked, but came after the last revoke"))
        }
        Some(known) if known.revoked => Err(format!("{text} is revoked again")),
        Some(_) => Ok(()),
    }
}

/// Whoever waits gets one answer, and of the kind that was asked for; whoever left gets none.
pub fn exactly_one_answer_to_each_caller(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Answered(caller, answer) = seen else { return Ok(()) };
    let fits = match history.callers.get(caller).map(|caller| caller.want) {
        None => return Err(format!("caller {caller} does not wait, and is told {answer:?}")),
        Some(Want::Token) => matches!(answer, Reply::Token(_)),
        Some(Want::Exchanged(_)) => matches!(answer, Reply::Exchanged(_)),
        Some(Want::Revoked) => matches!(answer, Reply::Revoked(_)),
    };
    if fits { Ok(()) } else { Err(format!("caller {caller} is told {answer:?}")) }
}

/// The generation and the text that an answer gives away.
fn given<'a>(seen: &Seen<'a>) -> Option<(CallerId, u64, &'a str)> {
    match *seen {
        Seen::Answered(caller, Reply::Token(Ok(token))) => {
            Some((caller, token.id().generation(), token.secret()))
        }
        Seen::Answered(caller, Reply::Exchanged(Ok(token))) => {
            Some((caller, token.id().generation(), token.secret()))
        }
        _ => None,
    }
}

/// A call that began after a revoke was published gives no token from before it, exchanged or not;
/// and a token that a revoke has reached is given to nobody any more.
pub fn no_earlier_token_after_a_revoke(history: &History, seen: &Seen<'_>) -> Verdict {
    if let Seen::Published(Published { token: Some(published), .. }) = seen
        && history.text(published.token.secret()).is_some_and(|text| text.marked_by.is_some())
    {
        return Err(format!("a revoked token is published: {:?}", published.token));
    }
    let Some((caller, generation, text)) = given(seen) else { return Ok(()) };
    if history.text(text).is_some_and(|text| text.marked_by.is_some()) {
        return Err(format!("generation {generation} ({text}) was revoked, and is given"));
    }
    match (history.callers.get(&caller), history.token(generation)) {
        (Some(caller), Some(token)) if token.revokes < caller.revokes => Err(format!(
            "generation {generation} was asked for before a revoke, and is given after"
        )),
        _ => Ok(()),
    }
}

/// Once an invalidate has been honoured nobody gets that token, nor an earlier one, whenever they asked.
pub fn no_earlier_token_after_an_honoured_invalidate(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Seen::Answered(_, Reply::Token(Ok(token))) = seen else { return Ok(()) };
    let generation = token.id().generation();
    if generation <= history.invalidated {
        return Err(format!("generation {generation} was invalidated, and is given"));
    }
    Ok(())
}

/// No token is handed out at or after its expiry, and none is published as usable beyond it.
pub fn no_token_at_or_after_its_expiry(history: &History, seen: &Seen<'_>) -> Verdict {
    if let Seen::Published(Published { token: Some(published), .. }) = seen {
        let known = history.token(published.token.id().generation());
        if known.is_some_and(|known| known.expires_at < published.usable_until) {
            return Err("readers would be given an expired token".into());
        }
    }
    let Some((_, generation, _)) = given(seen) else { return Ok(()) };
    match history.token(generation) {
        Some(token) if history.now < token.expires_at => Ok(()),
        _ => Err(format!("generation {generation} is given at or after its expiry")),
    }
}

/// Generations never go back: neither what readers see, nor, beside that, what those get who ask.
pub fn generations_never_go_back(history: &History, seen: &Seen<'_>) -> Verdict {
    let token = match seen {
        Seen::Published(Published { token: Some(published), .. }) => &published.token,
        Seen::Answered(_, Reply::Token(Ok(token))) => token,
        _ => return Ok(()),
    };
    let (generation, highest) = (token.id().generation(), history.highest);
    if generation < highest {
        return Err(format!("generation {generation} after {highest}"));
    }
    Ok(())
}

/// The session's own token for those who want a token, and each exchanged one for its own request.
pub fn a_token_is_given_only_to_those_who_asked_for_it(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Some((caller, generation, text)) = given(seen) else { return Ok(()) };
    let Some(token) = history.token(generation) else {
        return Err(format!("generation {generation} never came, or is long gone"));
    };
    if token.text != text {
        return Err(format!("generation {generation} is {}, not {text}", token.text));
    }
    let wanted = match history.callers.get(&caller).map(|caller| caller.want) {
        Some(Want::Token) => Purpose::Grant,
        Some(Want::Exchanged(key)) => Purpose::Exchange(key),
        _ => return Ok(()),
    };
    if token.purpose != wanted {
        return Err(format!("a token for {:?} is given for {wanted:?}", token.purpose));
    }
    Ok(())
}

/// A revoke that returned Ok left no token alive at the server that the session had received, or that
/// arrived from an attempt on the wire, when the revoke was taken; and no such attempt is still out.
pub fn a_revoke_that_is_ok_left_nothing_alive(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Answered(caller, Reply::Revoked(Ok(()))) = seen else { return Ok(()) };
    let Some(caller) = history.callers.get(caller) else { return Ok(()) };
    if history.wire.values().any(|attempt| attempt.revokes < caller.revokes) {
        return Err("revoked, but an attempt from before is still on the wire".into());
    }
    let alive = history.texts.iter().find(|text| {
        !text.revoked
            && history.now < text.expires_at
            && text.marked_by.is_some_and(|revoke| revoke <= caller.revokes)
    });
    alive.map_or(Ok(()), |text| Err(format!("revoked, but {} is alive at the server", text.text)))
}

// The invariants that look at a step as a whole.

/// What is published later has a higher number.
pub fn snapshots_are_numbered_in_their_order(before: &Published, after: &Published) -> Verdict {
    if after.number <= before.number {
        return Err(format!("snapshot {} after {}", after.number, before.number));
    }
    Ok(())
}

/// From the revoke on, readers are shown no token.
pub fn a_revoke_takes_the_token_from_readers(after: &Published) -> Verdict {
    match &after.token {
        Some(published) => Err(format!("{:?} is published after the revoke", published.token)),
        None => Ok(()),
    }
}

/// A usable token means an answer without waiting, unless more life is asked for than is left; the
/// answer is the token.
pub fn a_usable_token_is_an_answer_at_once(
    before: &Published,
    now: Instant,
    options: &TokenRequestOptions,
    answers: &[(CallerId, Reply)],
    caller: CallerId,
) -> Verdict {
    let usable = before.token.as_ref().is_some_and(|token| now < token.usable_until);
    if !usable || *options != TokenRequestOptions::new() {
        return Ok(());
    }
    let answered = answers
        .iter()
        .any(|(whom, answer)| *whom == caller && matches!(answer, Reply::Token(Ok(_))));
    if answered { Ok(()) } else { Err(format!("a usable token, and caller {caller} has it not")) }
}

/// Once an attempt has ended nobody waits beside a usable token.
pub fn nobody_waits_after_an_attempt_beside_a_usable_token(
    history: &History,
    published: &Published,
) -> Verdict {
    let usable = published.token.as_ref().is_some_and(|token| history.now < token.usable_until);
    let mut waiting = history.waiting_for_a_token();
    match waiting.next() {
        Some(caller) if usable => Err(format!("caller {caller} still waits beside a usable token")),
        _ => Ok(()),
    }
}

/// An invalidation of the token held is settled: the token is dropped if none was dropped within the
/// last ten seconds, else the doubt is dismissed. Any other leaves the session's own token alone.
pub fn a_doubt_is_settled(
    history: &History,
    before: &Published,
    after: &Published,
    generation: u64,
) -> Verdict {
    let generation_of =
        |it: &Published| it.token.as_ref().map(|token| token.token.id().generation());
    let dismissed = |it: &Published| it.token.as_ref().map(|token| token.doubts_dismissed);
    let kept = generation_of(before) == generation_of(after);
    if generation_of(before) != Some(generation) {
        return if kept { Ok(()) } else { Err("an old doubt dropped a newer token".into()) };
    }
    let gap_over =
        history.invalidated_at.is_none_or(|at| history.now.since(at) >= Duration::from_secs(10));
    match (gap_over, kept) {
        (true, true) => Err(format!("the doubt of generation {generation} was not honoured")),
        (false, false) => Err(format!("a second doubt within 10 s dropped {generation}")),
        (false, true) if dismissed(before) == dismissed(after) => {
            Err(format!("the doubt of generation {generation} stays"))
        }
        _ => Ok(()),
    }
}

// The invariants of a state.

/// Callers that left leave nothing behind, nobody is forgotten, and for whoever waits something is on
/// its way: an attempt, or an instant.
pub fn whoever_waits_is_known_and_waits_for_something<S: Session>(
    session: &S,
    history: &History,
) -> Verdict {
    let (knows, wait) = (session.held_callers(), history.callers.len());
    if knows != wait {
        return Err(format!("it knows {knows} callers, and {wait} wait"));
    }
    if wait > 0 && history.wire_ends_by().is_none() && session.next_deadline().is_none() {
        return Err(format!("{:?} wait for ever", history.callers.keys()));
    }
    Ok(())
}

/// After anything was handled at `now`, the next deadline is later than `now`.
pub fn the_next_deadline_is_ahead<S: Session>(session: &S, now: Instant) -> Verdict {
    match session.next_deadline() {
        Some(at) if at <= now => Err(format!("the next deadline is {:?} ago", now.since(at))),
        _ => Ok(()),
    }
}

/// Handling a timer once more at the same instant, or before the next deadline, does nothing: whatever
/// could start has started. (A barrier may end early: when the last token that it waits for expires.)
pub fn a_timer_that_is_not_due_does_nothing<S: Session>(
    session: &S,
    history: &History,
    moment: Moment,
) -> Verdict {
    let mut moments = vec![moment];
    if let Some(at) = session.next_deadline().filter(|_| !history.barrier_may_be_up) {
        let now = at - Duration::from_nanos(1);
        moments.push(Moment { now: now.max(moment.now), ..moment });
    }
    for moment in moments {
        let mut fx = Effects::default();
        session.clone().handle(moment, Event::Timer, &mut fx);
        if fx.publish.is_some() || !fx.start.is_empty() || !fx.replies.is_empty() {
            return Err(format!("a timer that is not due, at {:?}, does {fx:?}", moment.now));
        }
    }
    Ok(())
}

/// A read of what was published gives only what the session would have given at that instant: now, and at
/// each later instant at which the answer changes.
pub fn a_read_gives_what_the_session_would_give<S: Session>(
    session: &S,
    published: &Published,
    moment: Moment,
) -> Verdict {
    const NOBODY: CallerId = CallerId::MAX;
    let snapshot = Snapshot::new(published.clone());
    let token = published.token.as_ref().map(|token| token.usable_until);
    let cooling = published.cooling.as_ref().map(|cooling| cooling.until);
    let later = [token, cooling].into_iter().flatten().filter(|at| moment.now < *at);
    let instants = later.flat_map(|at| [at - Duration::from_nanos(1), at]).chain([moment.now]);
    let plain = TokenRequestOptions::new();
    let with_more = plain.clone().min_remaining(Duration::from_secs(45));
    for (now, options) in instants.flat_map(|now| [(now, &plain), (now, &with_more)]) {
        let Some(read) = snapshot.read(now, options) else { continue };
        let mut fx = Effects::default();
        let event = Event::GetToken(NOBODY, NOBODY, options.clone());
        session.clone().handle(Moment { now, ..moment }, event, &mut fx);
        let asked = fx.replies.iter().find(|(caller, _)| *caller == NOBODY);
        let (read, asked) = (Reply::Token(read.cloned()), asked.map(|(_, answer)| answer));
        if format!("{asked:?}") != format!("Some({read:?})") {
            return Err(format!("at {now:?} a read gives {read:?}, and the session {asked:?}"));
        }
    }
    Ok(())
}

/// Shutdown at any time answers everybody with `Closed`, publishes it, and starts nothing; whoever asks
/// later is told the same.
pub fn shutdown_answers_everybody<S: Session>(
    session: &S,
    history: &History,
    moment: Moment,
) -> Verdict {
    const LATER: CallerId = CallerId::MAX;
    let mut session = session.clone();
    let mut fx = Effects::default();
    session.handle(moment, Event::Shutdown, &mut fx);
    let is_closed = |answer: &Reply| {
        matches!(
            answer,
            Reply::Token(Err(SessionError::Closed))
                | Reply::Exchanged(Err(SessionError::Closed))
                | Reply::Revoked(Err(SessionError::Closed))
        )
    };
    let mut told: Vec<_> = fx
        .replies
        .iter()
        .filter(|(_, answer)| is_closed(answer))
        .map(|(caller, _)| *caller)
        .collect();
    told.sort_unstable();
    if !told.iter().eq(history.callers.keys()) || fx.replies.len() != told.len() {
        return Err(format!(
            "{:?} wait, and at the end are told {:?}",
            history.callers.keys(),
            fx.replies
        ));
    }
    let published =
        fx.publish.is_some_and(|published| published.closed && published.token.is_none());
    if !published || !fx.start.is_empty() || session.next_deadline().is_some() {
        return Err("the end is not the end".into());
    }
    let mut fx = Effects::default();
    session.handle(moment, Event::GetToken(LATER, LATER, TokenRequestOptions::new()), &mut fx);
    match fx.replies.as_slice() {
        [(LATER, answer)] if is_closed(answer) => Ok(()),
        other => Err(format!("after the end a caller is told {other:?}")),
    }
}
