//! What must be true of a run as it was seen from the outside: when each call began and ended and what
//! it gave, and when each attempt was sent, ended, and what came of it. Nothing here knows the order in
//! which the session did things, and nothing has to: a call that ended before another began came first.
//!
//! Each check is a function with a name of its own, and takes `n log n` for `n` calls.

mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::pace::{Pace, Policy};
use super::properties::{GRANT_GAP, INVALIDATE_GAP};
use super::{LONGEST_LIFE, Purpose, Verdict, named, refuses_subject};
use crate::config::SessionConfig;
use crate::error::TokenError;
use crate::instant::Instant;

/// A point of a run: the time, on one clock for all threads; and a count, which orders what happens in
/// one instant of paused time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    /// The time since the run began.
    pub(crate) at: Duration,
    /// Zero in real time.
    pub(crate) count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// `get_token`, `try_token` or `blocking_get_token`; or `exchange`.
    Token(Purpose),
    /// `invalidate`, of the token with this generation.
    Invalidate(u64),
}

/// A call that ended. One that was dropped has seen nothing, and is not recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// The task or thread, which does one thing after the other.
    pub(crate) task: usize,
    pub(crate) what: What,
    pub(crate) began: Point,
    pub(crate) ended: Point,
    /// The generation of the token that it gave.
    pub(crate) given: Option<u64>,
}

/// A revoke that the session took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Revoke {
    pub(crate) began: Point,
    /// By then somebody knew that the session had taken it.
    pub(crate) taken: Option<Point>,
    pub(crate) ended: Option<Point>,
    pub(crate) ok: bool,
}

/// An attempt at a grant or an exchange, seen where it is sent from.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) purpose: Purpose,
    /// The generation that was exchanged.
    pub(crate) subject: Option<u64>,
    pub(crate) sent: Point,
    pub(crate) ended: Point,
    pub(crate) outcome: Outcome,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// A token, and how long it lives.
    Token(String, Duration),
    Failed(TokenError),
    /// The session did not wait any longer, or the attempt panicked.
    Dropped,
}

/// A request to revoke a token.
#[derive(Clone, Debug)]
pub(crate) struct Revocation {
    pub(crate) text: String,
    pub(crate) sent: Point,
    pub(crate) ended: Point,
    /// The session was told that the token is gone.
    pub(crate) confirmed: bool,
}

/// A run. The calls of each task are in their order.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) policy: Policy,
    /// How much later than it was done something may have been recorded: nothing in paused time.
    pub(crate) late: Duration,
    /// The longest that a flight may take, where the time of an answer is known so well that it can be
    /// judged.
    pub(crate) longest_flight: Option<Duration>,
    pub(crate) calls: Vec<Call>,
    pub(crate) revokes: Vec<Revoke>,
    /// Grants and exchanges, in the order sent.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) revocations: Vec<Revocation>,
    /// The text of each token that was given.
    pub(crate) texts: BTreeMap<u64, String>,
    /// Since when the server holds these for revoked.
    pub(crate) revoked_at: BTreeMap<String, Point>,
}

/// What is known of a token that was given.
#[derive(Clone)]
struct Origin {
    purposes: BTreeSet<Purpose>,
    /// Of the first attempt that brought its text: each revoke that comes later knows of it.
    first_sent: Point,
    /// Of the last one.
    last_sent: Point,
    /// At the latest.
    expires_at: Duration,
    /// The session remembers the text until then: its life, counted from when it came.
    known_until: Duration,
}

type Check = fn(&History) -> Verdict;

/// Every check.
const ALL: &[(&str, Check)] = named![
    generations_never_go_back_in_any_task,
    generations_never_go_back_in_real_time,
    no_call_after_a_revoke_gives_a_token_from_before_it,
    no_task_gets_a_token_again_that_it_refused,
    no_token_is_given_at_or_after_its_expiry,
    each_token_is_given_only_for_what_it_was_asked_for,
    a_revoke_that_was_ok_left_nothing_alive,
    one_attempt_of_a_purpose_at_a_time,
    attempts_keep_to_the_policy,
    a_token_is_not_revoked_again_once_that_is_confirmed,
    nobody_waits_longer_than_the_flights_may_take,
];

impl History {
    pub(crate) fn new(config: &SessionConfig) -> Self {
        Self {
            policy: Policy::of(config),
            late: Duration::ZERO,
            longest_flight: None,
            calls: Vec::new(),
            revokes: Vec::new(),
            attempts: Vec::new(),
            revocations: Vec::new(),
            texts: BTreeMap::new(),
            revoked_at: BTreeMap::new(),
        }
    }

    pub(crate) fn judge(&self) -> Verdict {
        ALL.iter().try_for_each(|(name, check)| check(self).map_err(|why| format!("{name}: {why}")))
    }

    /// The calls that gave a token, what kind, and its generation.
    fn given(&self) -> impl Iterator<Item = (&Call, Purpose, u64)> {
        self.calls.iter().filter_map(|call| Some((call, call.purpose()?, call.given?)))
    }

    /// The attempts that brought its text.
    fn attempts_for(&self, generation: u64) -> Vec<&Attempt> {
        let text = self.texts.get(&generation);
        let brought = |attempt: &&Attempt| match &attempt.outcome {
            Outcome::Token(brought, _) => Some(brought) == text,
            _ => false,
        };
        self.attempts.iter().filter(brought).collect()
    }

    fn origins(&self) -> Result<BTreeMap<u64, Origin>, String> {
        let mut by_text: BTreeMap<&str, Origin> = BTreeMap::new();
        for attempt in &self.attempts {
            let Outcome::Token(text, life) = &attempt.outcome else { continue };
            let (life, sent) = ((*life).min(LONGEST_LIFE), attempt.sent);
            let origin = by_text.entry(text).or_insert_with(|| Origin {
                purposes: BTreeSet::new(),
                first_sent: sent,
                last_sent: sent,
                expires_at: Duration::ZERO,
                known_until: attempt.ended.at + life,
            });
            // A token's text that comes again after it was forgotten is a new token.
            if origin.known_until <= attempt.ended.at + self.late {
                origin.first_sent = sent;
            }
            origin.purposes.insert(attempt.purpose);
            origin.last_sent = sent;
            origin.expires_at = origin.expires_at.max(sent.at + life);
            origin.known_until = origin.known_until.max(attempt.ended.at + life);
        }
        let origin = |(generation, text): (&u64, &String)| {
            let origin = by_text.get(&**text).cloned();
            Ok((*generation, origin.ok_or(format!("generation {generation} never came"))?))
        };
        self.texts.iter().map(origin).collect()
    }
}

impl Call {
    fn purpose(&self) -> Option<Purpose> {
        match self.what {
            What::Token(purpose) => Some(purpose),
            What::Invalidate(_) => None,
        }
    }
}

impl Revoke {
    /// From then on nobody gets an earlier token.
    fn holds_from(&self) -> Option<Point> {
        self.taken.into_iter().chain(self.ended).min()
    }
}

/// In a task, each token is as new as the one before, or newer; so is each exchanged one.
fn generations_never_go_back_in_any_task(history: &History) -> Verdict {
    let mut last: BTreeMap<(usize, Purpose), u64> = BTreeMap::new();
    for (call, purpose, generation) in history.given() {
        let before = last.insert((call.task, purpose), generation).unwrap_or(0);
        if generation < before {
            return Err(format!("generation {generation} after {before} in one task: {call:?}"));
        }
    }
    Ok(())
}

/// A call that began after another had ended, whoever made them, gives no older token.
fn generations_never_go_back_in_real_time(history: &History) -> Verdict {
    let mut calls: BTreeMap<Purpose, Vec<(&Call, u64)>> = BTreeMap::new();
    for (call, purpose, generation) in history.given() {
        calls.entry(purpose).or_default().push((call, generation));
    }
    for calls in calls.values_mut() {
        let mut ended = calls.clone();
        ended.sort_by_key(|(call, _)| call.ended);
        calls.sort_by_key(|(call, _)| call.began);
        let mut ended = ended.into_iter().peekable();
        let mut newest = 0;
        for (call, generation) in &*calls {
            while let Some((_, before)) = ended.next_if(|(other, _)| other.ended < call.began) {
                newest = newest.max(before);
            }
            if *generation < newest {
                return Err(format!("generation {generation} after {newest} in time: {call:?}"));
            }
        }
    }
    Ok(())
}

/// A call that began when a revoke had been taken gives no token that had been asked for before that
/// revoke began, neither the session's own nor an exchanged one.
fn no_call_after_a_revoke_gives_a_token_from_before_it(history: &History) -> Verdict {
    let origins = history.origins()?;
    let mut revokes: Vec<_> = history
        .revokes
        .iter()
        .filter_map(|revoke| Some((revoke.holds_from()?, revoke.began)))
        .collect();
    revokes.sort_unstable();
    let mut calls: Vec<_> = history.given().collect();
    calls.sort_by_key(|(call, ..)| call.began);
    let mut revokes = revokes.into_iter().peekable();
    let mut revoked_to = Point::default();
    for (call, _, generation) in calls {
        while let Some((_, began)) = revokes.next_if(|(holds_from, _)| *holds_from < call.began) {
            revoked_to = revoked_to.max(began);
        }
        if origins.get(&generation).is_some_and(|origin| origin.first_sent < revoked_to) {
            return Err(format!(
                "generation {generation} is given, but a revoke began at {revoked_to:?}: {call:?}, {:?}",
                history.attempts_for(generation)
            ));
        }
    }
    Ok(())
}

/// A task that says that a token was refused does not get it again. The session's own may come back if
/// another one was refused in the last ten seconds, and an exchanged one if it is younger than that:
/// then the token is not what is wrong.
fn no_task_gets_a_token_again_that_it_refused(history: &History) -> Verdict {
    let origins = history.origins()?;
    let is_own = |generation: &u64| {
        origins.get(generation).is_some_and(|it| it.purposes.contains(&Purpose::Grant))
    };
    // Words against the session's own tokens: which, since when, and until when it may have arrived.
    let mut doubts: Vec<_> = history
        .calls
        .iter()
        .filter_map(|call| match call.what {
            What::Invalidate(generation) if is_own(&generation) => {
                Some((call.began, call.ended.at, generation))
            }
            _ => None,
        })
        .chain(history.attempts.iter().filter_map(|attempt| match &attempt.outcome {
            Outcome::Failed(error) if refuses_subject(error) => {
                Some((attempt.sent, attempt.ended.at, attempt.subject?))
            }
            _ => None,
        }))
        .collect();
    doubts.sort_unstable();
    // Up to each of them: the latest, and the latest of another generation than that.
    let mut latest: Vec<[Option<(Duration, u64)>; 2]> = Vec::new();
    for (_, at, generation) in &doubts {
        let [first, second] = latest.last().copied().unwrap_or_default();
        let this = Some((*at, *generation));
        latest.push(match first {
            Some((_, other)) if other == *generation => [first.max(this), second],
            Some(_) => [this, first],
            None => [this, None],
        });
    }
    let other_doubt_before = |point: Point, generation: u64| {
        let count = doubts.partition_point(|(began, ..)| *began < point);
        let [first, second] = latest[..count].last().copied().unwrap_or_default();
        first.filter(|(_, other)| *other != generation).or(second).map(|(at, _)| at)
    };

    let mut refused: BTreeMap<(usize, u64), Point> = BTreeMap::new();
    for call in &history.calls {
        if let What::Invalidate(generation) = call.what {
            refused.insert((call.task, generation), call.began);
        }
        let Some(generation) = call.given else { continue };
        let Some(since) = refused.get(&(call.task, generation)) else { continue };
        let excused = if call.what == What::Token(Purpose::Grant) {
            other_doubt_before(call.ended, generation)
                .is_some_and(|at| since.at < at + INVALIDATE_GAP + history.late)
        } else {
            origins
                .get(&generation)
                .is_some_and(|origin| since.at < origin.last_sent.at + INVALIDATE_GAP)
        };
        if !excused {
            return Err(format!(
                "generation {generation} was refused at {since:?} and is given again: {call:?}"
            ));
        }
    }
    Ok(())
}

/// No token is given to a call that began at or after its expiry, which is counted from when the token
/// was asked for.
fn no_token_is_given_at_or_after_its_expiry(history: &History) -> Verdict {
    let origins = history.origins()?;
    for (call, _, generation) in history.given() {
        if origins.get(&generation).is_some_and(|origin| origin.expires_at <= call.began.at) {
            return Err(format!("generation {generation} had expired: {call:?}"));
        }
    }
    Ok(())
}

/// The session's own token comes from a grant, and an exchanged one from an exchange of that request.
fn each_token_is_given_only_for_what_it_was_asked_for(history: &History) -> Verdict {
    let origins = history.origins()?;
    for (call, purpose, generation) in history.given() {
        if !origins.get(&generation).is_some_and(|origin| origin.purposes.contains(&purpose)) {
            return Err(format!("generation {generation} was not asked for as such: {call:?}"));
        }
    }
    Ok(())
}

/// A revoke that said Ok left no token alive at the server whose attempt had been sent before, and which
/// had arrived, or arrived while the revoke waited for it.
fn a_revoke_that_was_ok_left_nothing_alive(history: &History) -> Verdict {
    for revoke in history.revokes.iter().filter(|revoke| revoke.ok) {
        let Some(ended) = revoke.ended else { continue };
        for attempt in history.attempts.iter().filter(|attempt| attempt.sent < revoke.began) {
            let Outcome::Token(text, life) = &attempt.outcome else { continue };
            let is_revoked = history.revoked_at.get(text).is_some_and(|at| *at <= ended);
            if attempt.sent.at + *life > ended.at && !is_revoked {
                return Err(format!("{text} of {attempt:?} is alive after {revoke:?}"));
            }
        }
    }
    Ok(())
}

/// One grant on the wire, ever; and one exchange of each request.
fn one_attempt_of_a_purpose_at_a_time(history: &History) -> Verdict {
    let mut busy_until: BTreeMap<Purpose, Point> = BTreeMap::new();
    for attempt in &history.attempts {
        let before = busy_until.insert(attempt.purpose, attempt.ended).unwrap_or_default();
        if attempt.sent < before {
            return Err(format!("another is on the wire until {before:?}: {attempt:?}"));
        }
    }
    Ok(())
}

/// No attempt is sent before the pause, the cooling and the server's `Retry-After` that followed the one
/// before it are over, nor a grant within a second of the one that brought a token. So requests stay
/// within what the policy allows in any span of time.
fn attempts_keep_to_the_policy(history: &History) -> Verdict {
    let instant = |at: Duration| Instant::ZERO + at;
    let mut paces: BTreeMap<Purpose, Pace> = BTreeMap::new();
    let mut texts = BTreeSet::new();
    let mut grants_from = Duration::ZERO;
    for attempt in &history.attempts {
        let pace = paces.entry(attempt.purpose).or_default();
        let too_early = instant(attempt.sent.at) < pace.not_before
            || (attempt.purpose == Purpose::Grant && attempt.sent.at + history.late < grants_from);
        if too_early {
            return Err(format!("too early: {attempt:?}"));
        }
        let ended = instant(attempt.ended.at);
        let is_new = match &attempt.outcome {
            Outcome::Token(text, _) => texts.insert(text),
            _ => true,
        };
        match &attempt.outcome {
            // If its subject is replaced it may go again at once; if not, it has failed.
            Outcome::Failed(error) if refuses_subject(error) && attempt.subject.is_some() => {
                *pace = Pace::default();
            }
            Outcome::Failed(error) => pace.failed(error, ended, history.policy, None),
            Outcome::Dropped => pace.failed(&TokenError::Panicked, ended, history.policy, None),
            // One that was dead when it came is a failure, unless a revoke came first.
            Outcome::Token(_, life) if attempt.sent.at + *life <= attempt.ended.at => {
                let meanwhile = attempt.sent.at..=attempt.ended.at + history.late;
                if history.revokes.iter().any(|revoke| meanwhile.contains(&revoke.began.at)) {
                    *pace = Pace::default();
                    continue;
                }
                let dead = TokenError::expired("dead on arrival");
                pace.failed(&dead, ended, history.policy, None);
            }
            // One whose text is not new may have been revoked, and then this is a failure.
            Outcome::Token(..) if !is_new => *pace = Pace::default(),
            Outcome::Token(..) => {
                *pace = Pace::default();
                if attempt.purpose == Purpose::Grant {
                    grants_from = attempt.sent.at + GRANT_GAP;
                }
            }
        }
    }
    Ok(())
}

/// What the server has confirmed as revoked is not sent again.
fn a_token_is_not_revoked_again_once_that_is_confirmed(history: &History) -> Verdict {
    let mut confirmed: BTreeMap<&str, Point> = BTreeMap::new();
    for revocation in &history.revocations {
        if confirmed.get(&*revocation.text).is_some_and(|at| *at < revocation.sent) {
            return Err(format!("revoked again: {revocation:?}"));
        }
        if revocation.confirmed {
            confirmed.entry(&revocation.text).or_insert(revocation.ended);
        }
    }
    Ok(())
}

/// Who asks for a token is answered at the end of a flight. Who exchanges waits for a grant's and for its
/// own, and for another grant's before each attempt if tokens are short-lived; all of it once more if its
/// subject is refused. Each revoke meanwhile adds the attempt on the wire and its own flight.
fn nobody_waits_longer_than_the_flights_may_take(history: &History) -> Verdict {
    let Some(flight) = history.longest_flight else { return Ok(()) };
    for call in &history.calls {
        let flights = match call.what {
            What::Token(Purpose::Grant) => 1,
            What::Token(Purpose::Exchange(_)) => 2 * (1 + history.policy.attempts),
            What::Invalidate(_) => continue,
        };
        let is_meanwhile = |revoke: &&Revoke| {
            revoke.began < call.ended && revoke.ended.is_none_or(|ended| call.began < ended)
        };
        let waited = call.ended.at.saturating_sub(call.began.at);
        if waited > flight * flights {
            let revokes = history.revokes.iter().filter(is_meanwhile).count();
            if waited > flight * (flights + 3 * u32::try_from(revokes).unwrap_or(u32::MAX / 8)) {
                return Err(format!("{waited:?} is too long a wait: {call:?}"));
            }
        }
    }
    Ok(())
}
