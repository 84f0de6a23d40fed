//! What a session and a pool count and measure, by the facade [`metrics`](https://docs.rs/metrics): nothing
//! is seen before the program installs a recorder, such as an exporter for Prometheus.
//!
//! # Names
//! These are part of the interface. Each has the label `session`, which is the
//! [name](crate::SessionBuilder::name) of the session or pool, and no other label of free text: no tenant, no
//! client, no address.
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `ccg_session_attempts_started_total` | counter | `kind` | attempts that were sent; `kind` is `grant`, `exchange` or `revocation` |
//! | `ccg_session_attempts_total` | counter | `kind`, `outcome` | attempts that have ended: `ok`, `denied`, `credential`, `rate_limited`, `server`, `malformed`, `expired`, `transport`, `timed_out`, `panicked` |
//! | `ccg_session_attempt_duration_seconds` | histogram | `kind` | how long they took |
//! | `ccg_session_held_callers` | gauge | | callers that wait |
//! | `ccg_session_held_callers_max` | gauge | | the most that ever waited for one session at once |
//! | `ccg_session_phase` | gauge | `phase` | sessions in this [phase](crate::Phase) when they last did something |
//! | `ccg_session_token_expiry_timestamp_seconds` | gauge | | when the token expires that does so next, in Unix time; 0 if there is none |
//! | `ccg_session_revokes_total` | counter | | revokes that callers asked for |
//! | `ccg_session_invalidations_total` | counter | | invalidations that were honoured |
//! | `ccg_session_overloaded_total` | counter | | callers that were turned away |
//! | `ccg_session_ledger_evicted_total` | counter | | live tokens that a revoke can no longer reach |
//! | `ccg_session_pool_sessions` | gauge | | sessions in the pool |
//! | `ccg_session_pool_evicted_total` | counter | `why` | sessions that left it, since it was `full` or they were `idle` |
//!
//! Gauges of several sessions with one name are their sums, but for the two that say otherwise. Calls that are
//! answered at once by the token that is there are not counted: counting them would cost as much as they do.
//!
//! That time passes is no event: a token that becomes stale, or expires, while nobody asks changes no gauge.
//! Compare the expiry's time stamp with `time()` instead. Of several sessions it is that of the first token to
//! expire which has not yet, as of the last change.

//!
//! # An outage, as it is scraped
//! From `examples/metrics.rs`, a line for each series that changes. The token server fails, and the token that
//! there is outlives it for a while; then callers get errors, and the server is left alone in between.
//! ```text
//! ccg_session_…{session="box",…}                    before       in it        after
//! attempts_started_total{kind="grant"}                   1            4            5
//! attempts_total{kind="grant",outcome="ok"}              1            1            2
//! attempts_total{kind="grant",outcome="server"}                       3            3
//! attempt_duration_seconds_count{kind="grant"}           1            4            5
//! phase{phase="fresh"}                                   1            0            1
//! phase{phase="cooling"}                                              1            0
//! token_expiry_timestamp_seconds            1795881236.057 1795881236.057 1795881240.222
//! ```
//! In the middle the expiry lies in the past, and no attempt ends with `ok`: that is what `examples/alerts.yaml`
//! wakes people for. `examples/dashboard.json`, for Grafana, shows all that is in the table.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(feature = "pool")]
use metrics::Gauge;
use metrics::{counter, gauge, histogram};

use crate::clock;
use crate::error::TokenError;
use crate::foreign::guarded;
use crate::instant::Instant;
use crate::machine::{Counters, Ended, Facts, Phase};

/// The name of sessions and pools that were not given one.
pub(crate) const DEFAULT_NAME: &str = "default";

const ATTEMPTS: &str = "ccg_session_attempts_total";
const DURATION: &str = "ccg_session_attempt_duration_seconds";
#[cfg(feature = "pool")]
const EVICTED: &str = "ccg_session_pool_evicted_total";
const EXPIRY: &str = "ccg_session_token_expiry_timestamp_seconds";
const HELD: &str = "ccg_session_held_callers";
const HELD_MAX: &str = "ccg_session_held_callers_max";
const PHASE: &str = "ccg_session_phase";
#[cfg(feature = "pool")]
const SESSIONS: &str = "ccg_session_pool_sessions";
const STARTED: &str = "ccg_session_attempts_started_total";

/// A counter of the machine, shown by the difference to what it was.
type Counted = (&'static str, fn(&Counters) -> u64);

const COUNTED: [Counted; 4] = [
    ("ccg_session_revokes_total", |counters| counters.revokes),
    ("ccg_session_invalidations_total", |counters| counters.invalidations),
    ("ccg_session_overloaded_total", |counters| counters.overloaded),
    ("ccg_session_ledger_evicted_total", |counters| counters.ledger_evicted),
];

/// The same of attempts, by their kind.
const COUNTED_STARTS: [Counted; 3] = [
    ("grant", |counters| counters.grants_started),
    ("exchange", |counters| counters.exchanges_started),
    ("revocation", |counters| counters.revocations_started),
];

/// An attempt that has ended.
pub(crate) struct Measured {
    /// Its place in `COUNTED_STARTS`.
    kind: usize,
    outcome: &'static str,
    /// How many had failed before it.
    failed: u64,
    took: Duration,
}

impl Measured {
    /// Before the session hears of it.
    pub(crate) fn new(ended: &Ended, began: Instant, counters: &Counters) -> Self {
        let (kind, error) = match ended {
            Ended::Grant(result) => (0, result.as_ref().err()),
            Ended::Exchange(_, result) => (1, result.as_ref().err()),
            Ended::Revocation(_, result) => (2, result.as_ref().err()),
        };
        let took = clock::now().since(began);
        Self { kind, outcome: error.map_or("ok", outcome), failed: failed(counters, kind), took }
    }
}

fn failed(counters: &Counters, kind: usize) -> u64 {
    [counters.grants_failed, counters.exchanges_failed, counters.revocations_failed][kind]
}

/// What one session shows. A recorder is foreign code: that it panics ends nothing.
#[derive(Debug)]
pub(crate) struct Metrics {
    named: Arc<Named>,
    session: u64,
    phase: Cell<Option<Phase>>,
    expiry: Cell<Option<u64>>,
}

impl Metrics {
    pub(crate) fn new(name: &Arc<str>, session: u64) -> Self {
        let (phase, expiry) = (Cell::new(None), Cell::new(None));
        Self { named: Named::of(name), session, phase, expiry }
    }

    pub(crate) fn changed(&self, before: &Facts, after: &Facts) {
        guarded(|| {
            self.count(&before.counters, &after.counters);
            self.show_held(before.held, after.held, after.counters.held_max);
            self.show_phase(after);
            self.show_expiry(after);
        });
    }

    /// After the session has heard of an attempt. If it failed though it brought a token, that was dead.
    pub(crate) fn ended(&self, measured: &Measured, counters: &Counters) {
        let Measured { kind, mut outcome, failed: before, took } = *measured;
        if outcome == "ok" && failed(counters, kind) > before {
            outcome = "expired";
        }
        let (kind, _) = COUNTED_STARTS[kind];
        guarded(|| {
            counter!(ATTEMPTS, "session" => self.name(), "kind" => kind, "outcome" => outcome)
                .increment(1);
            histogram!(DURATION, "session" => self.name(), "kind" => kind)
                .record(took.as_secs_f64());
        });
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.named.name)
    }

    fn count(&self, before: &Counters, after: &Counters) {
        for (name, read) in COUNTED {
            let more = read(after) - read(before);
            if more > 0 {
                counter!(name, "session" => self.name()).increment(more);
            }
        }
        for (kind, read) in COUNTED_STARTS {
            let more = read(after) - read(before);
            if more > 0 {
                counter!(STARTED, "session" => self.name(), "kind" => kind).increment(more);
            }
        }
    }

    fn show_held(&self, before: usize, after: usize, max: usize) {
        let held = gauge!(HELD, "session" => self.name());
        match after.checked_sub(before) {
            Some(more) => held.increment(exactly(more)),
            None => held.decrement(exactly(before - after)),
        }
        let most = self.named.held_max.fetch_max(max, Relaxed).max(max);
        gauge!(HELD_MAX, "session" => self.name()).set(exactly(most));
    }

    fn show_phase(&self, facts: &Facts) {
        let phase = Some(facts.phase(clock::now())).filter(|phase| *phase != Phase::Closed);
        let before = self.phase.replace(phase);
        if before == phase {
            return;
        }
        let sessions =
            |phase: Phase| gauge!(PHASE, "session" => self.name(), "phase" => phase.as_str());
        if let Some(phase) = before {
            sessions(phase).decrement(1.0);
        }
        if let Some(phase) = phase {
            sessions(phase).increment(1.0);
        }
    }

    fn show_expiry(&self, facts: &Facts) {
        let expires_at = facts.token.map(|token| token.expires_at);
        let expiry = expires_at.filter(|at| *at != Instant::NEVER).map(unix_millis);
        let before = self.expiry.replace(expiry);
        if before.is_none() && expiry.is_none() {
            return;
        }
        let first = self.named.first_expiry(self.session, before, expiry);
        let seconds = Duration::from_millis(first.unwrap_or_default()).as_secs_f64();
        gauge!(EXPIRY, "session" => self.name()).set(seconds);
    }
}

/// What the sessions of one name have in common.
#[derive(Debug)]
struct Named {
    name: Arc<str>,
    /// When tokens expire, in milliseconds of Unix time, and whose.
    expiries: Mutex<BTreeSet<(u64, u64)>>,
    held_max: AtomicUsize,
}

impl Named {
    fn of(name: &Arc<str>) -> Arc<Self> {
        static ALL: Mutex<BTreeMap<Arc<str>, Weak<Named>>> = Mutex::new(BTreeMap::new());
        let mut all = locked(&ALL);
        if let Some(named) = all.get(name).and_then(Weak::upgrade) {
            return named;
        }
        let (expiries, held_max) = (Mutex::default(), AtomicUsize::new(0));
        let named = Arc::new(Self { name: Arc::clone(name), expiries, held_max });
        all.retain(|_, other| other.strong_count() > 0);
        all.insert(Arc::clone(name), Arc::downgrade(&named));
        named
    }

    /// The first of those to come; of those in the past the last, if there is no other.
    fn first_expiry(&self, session: u64, before: Option<u64>, now: Option<u64>) -> Option<u64> {
        let mut expiries = locked(&self.expiries);
        if let Some(before) = before {
            expiries.remove(&(before, session));
        }
        if let Some(now) = now {
            expiries.insert((now, session));
        }
        let today = unix_millis(clock::now());
        while expiries.len() > 1 && expiries.first().is_some_and(|(at, _)| *at <= today) {
            expiries.pop_first();
        }
        expiries.first().map(|(at, _)| *at)
    }
}

/// What a pool shows. Its end is that of the sessions in it.
#[cfg(feature = "pool")]
#[derive(Debug)]
pub(crate) struct PoolMetrics {
    name: Arc<str>,
    sessions: AtomicUsize,
}

#[cfg(feature = "pool")]
impl PoolMetrics {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self { name, sessions: AtomicUsize::new(0) }
    }

    pub(crate) fn joined(&self) {
        self.sessions.fetch_add(1, Relaxed);
        guarded(|| self.shown().increment(1.0));
    }

    pub(crate) fn left(&self) {
        self.sessions.fetch_sub(1, Relaxed);
        guarded(|| self.shown().decrement(1.0));
    }

    pub(crate) fn evicted(&self, why: &'static str) {
        let name = Arc::clone(&self.name);
        guarded(|| counter!(EVICTED, "session" => name, "why" => why).increment(1));
    }

    fn shown(&self) -> Gauge {
        gauge!(SESSIONS, "session" => Arc::clone(&self.name))
    }
}

#[cfg(feature = "pool")]
impl Default for PoolMetrics {
    fn default() -> Self {
        Self::new(DEFAULT_NAME.into())
    }
}

#[cfg(feature = "pool")]
impl Drop for PoolMetrics {
    fn drop(&mut self) {
        let sessions = exactly(*self.sessions.get_mut());
        guarded(|| self.shown().decrement(sessions));
    }
}

fn outcome(error: &TokenError) -> &'static str {
    match error {
        TokenError::Denied { .. } => "denied",
        TokenError::Credential { .. } => "credential",
        TokenError::RateLimited { .. } => "rate_limited",
        TokenError::Server { .. } => "server",
        TokenError::Malformed { .. } => "malformed",
        TokenError::Expired { .. } => "expired",
        TokenError::Transport { .. } => "transport",
        TokenError::TimedOut { .. } => "timed_out",
        TokenError::Panicked => "panicked",
    }
}

/// The wall clock's time, by which alone the outside can judge it.
fn unix_millis(at: Instant) -> u64 {
    let now = clock::now();
    let at = SystemTime::now() + at.since(now) - now.since(at);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "there are less than 2^52 callers")]
fn exactly(number: usize) -> f64 {
    number as f64
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
