//! The metrics of sessions and pools, reported through the [`metrics`](https://docs.rs/metrics) facade. Nothing
//! is recorded until the program installs a recorder, such as a Prometheus exporter. One that is installed late
//! counts from then on, and shows a gauge as it is when that next changes.
//!
//! # Names
//! The names are part of the public API. Each metric has the label `session`, the
//! [name](crate::SessionBuilder::name) of the session or pool. No other label contains free text: no tenant,
//! client or address.
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `ccg_session_attempts_started_total` | counter | `kind` | attempts sent; `kind` is `grant`, `exchange` or `revocation` |
//! | `ccg_session_attempts_total` | counter | `kind`, `outcome` | attempts completed: `ok`, `denied`, `credential`, `rate_limited`, `server`, `malformed`, `expired`, `transport`, `timed_out`, `panicked` |
//! | `ccg_session_attempt_duration_seconds` | histogram | `kind` | duration of attempts |
//! | `ccg_session_held_callers` | gauge | | waiting callers |
//! | `ccg_session_held_callers_max` | gauge | | the highest number of callers that ever waited for one session |
//! | `ccg_session_phase` | gauge | `phase` | sessions by [phase](crate::Phase), as of their last event |
//! | `ccg_session_token_expiry_timestamp_seconds` | gauge | | expiry of the token that expires next, as a Unix time stamp; 0 if there is none |
//! | `ccg_session_revokes_total` | counter | | calls of `revoke` |
//! | `ccg_session_invalidations_total` | counter | | invalidations that were honoured |
//! | `ccg_session_overloaded_total` | counter | | calls rejected with `Overloaded` |
//! | `ccg_session_ledger_evicted_total` | counter | | live tokens that a revoke can no longer reach |
//! | `ccg_session_pool_sessions` | gauge | | sessions in the pool |
//! | `ccg_session_pool_made_total` | counter | | sessions that were made |
//! | `ccg_session_pool_evicted_total` | counter | `why` | sessions evicted, because the pool was `full` or they were `idle` |
//! | `ccg_session_pool_refused_total` | counter | | how often [`Full`](crate::PoolError::Full) was the answer |
//! | `ccg_session_pool_attempts` | gauge | `state` | attempts in its gate: `waiting`, or `out` on the wire |
//! | `ccg_session_pool_attempts_refused_total` | counter | | attempts that got another tenant's error in place of leave |
//! | `ccg_session_pool_resting` | gauge | | pools that rest some or all tenants, since the server fails one after the other |
//!
//! If several sessions share a name, their gauges are summed, except for the maximum and the expiry. Calls
//! answered immediately with the current token are not counted: counting would cost as much as the call.
//!
//! Gauges change only on events. A token that becomes stale or expires while nobody asks for it changes no
//! gauge: compare the expiry time stamp with `time()` instead. With several sessions, the time stamp is the
//! earliest expiry that had not passed at the last change.
//!
//! # Example: an outage
//! From `examples/metrics.rs`, one line per series that changes. The token server fails. The current token
//! lasts for a while; after that, callers get errors and the session waits between attempts.
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
//! During the outage the expiry is in the past and no attempt ends with `ok`: `examples/alerts.yaml` alerts on
//! that. `examples/dashboard.json`, for Grafana, shows every metric in the table.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Gauge, counter, gauge, histogram};

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
const AT_THE_GATE: &str = "ccg_session_pool_attempts";
#[cfg(feature = "pool")]
const EVICTED: &str = "ccg_session_pool_evicted_total";
const EXPIRY: &str = "ccg_session_token_expiry_timestamp_seconds";
const HELD: &str = "ccg_session_held_callers";
const HELD_MAX: &str = "ccg_session_held_callers_max";
#[cfg(feature = "pool")]
const MADE: &str = "ccg_session_pool_made_total";
const PHASE: &str = "ccg_session_phase";
#[cfg(feature = "pool")]
const REFUSED: &str = "ccg_session_pool_refused_total";
#[cfg(feature = "pool")]
const REFUSED_ATTEMPTS: &str = "ccg_session_pool_attempts_refused_total";
#[cfg(feature = "pool")]
const RESTING: &str = "ccg_session_pool_resting";
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
        Self {
            kind,
            outcome: error.map_or("ok", TokenError::as_str),
            failed: failed(counters, kind),
            took,
        }
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
        self.count(&before.counters, &after.counters);
        self.show_held(before.held, after.held, after.counters.held_max);
        self.show_phase(after);
        self.show_expiry(after);
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
        });
        guarded(|| {
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
                guarded(|| counter!(name, "session" => self.name()).increment(more));
            }
        }
        for (kind, read) in COUNTED_STARTS {
            let more = read(after) - read(before);
            if more > 0 {
                guarded(|| {
                    counter!(STARTED, "session" => self.name(), "kind" => kind).increment(more);
                });
            }
        }
    }

    fn show_held(&self, before: usize, after: usize, max: usize) {
        let named = &self.named;
        named.held.change(before, after);
        named.held_max.0.fetch_max(max, Relaxed);
        show(|| gauge!(HELD, "session" => self.name()), || named.held.get());
        show(|| gauge!(HELD_MAX, "session" => self.name()), || named.held_max.get());
    }

    fn show_phase(&self, facts: &Facts) {
        let phase = Some(facts.phase(clock::now())).filter(|phase| *phase != Phase::Closed);
        let before = self.phase.replace(phase);
        if before == phase {
            return;
        }
        let count = |phase: Phase| &self.named.phases[phase as usize];
        before.inspect(|phase| count(*phase).change(1, 0));
        phase.inspect(|phase| count(*phase).change(0, 1));
        for phase in before.into_iter().chain(phase) {
            let gauge = || gauge!(PHASE, "session" => self.name(), "phase" => phase.as_str());
            show(gauge, || count(phase).get());
        }
    }

    fn show_expiry(&self, facts: &Facts) {
        let expires_at = facts.token.map(|token| token.expires_at);
        let expiry = expires_at.filter(|at| *at != Instant::NEVER).map(unix_millis);
        let before = self.expiry.replace(expiry);
        if before.is_none() && expiry.is_none() {
            return;
        }
        self.named.expires(self.session, before, expiry);
        show(
            || gauge!(EXPIRY, "session" => self.name()),
            || {
                let first = self.named.first_expiry(unix_millis(clock::now()));
                Duration::from_millis(first.unwrap_or_default()).as_secs_f64()
            },
        );
    }
}

/// A sum of our own: a recorder's may begin late, and would then show a difference to nothing.
#[derive(Debug, Default)]
struct Sum(AtomicUsize);

impl Sum {
    fn change(&self, before: usize, after: usize) {
        // It wraps around where `after` is less, and back.
        self.0.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    fn get(&self) -> f64 {
        exactly(self.0.load(Relaxed))
    }
}

/// No lock is held, since a recorder is foreign code: whoever is overtaken by a change shows that as well. Nor
/// is one's panic in the way of what else is counted or shown.
fn show(gauge: impl FnOnce() -> Gauge, read: impl Fn() -> f64) {
    guarded(|| {
        let gauge = gauge();
        loop {
            fence(SeqCst);
            let shown = read();
            gauge.set(shown);
            fence(SeqCst);
            if read().to_bits() == shown.to_bits() {
                return;
            }
        }
    });
}

/// What the sessions and pools of one name have in common.
#[derive(Debug)]
struct Named {
    name: Arc<str>,
    /// When tokens expire, in milliseconds of Unix time, and whose.
    expiries: Mutex<BTreeSet<(u64, u64)>>,
    held: Sum,
    held_max: Sum,
    phases: [Sum; Phase::Closed as usize],
    #[cfg(feature = "pool")]
    pooled: Sum,
    /// Attempts that wait, those that are out, and pools that rest.
    #[cfg(feature = "pool")]
    gates: [Sum; 3],
}

/// Those that there are, and how many names it takes to look which of them are not used any more.
struct Names {
    all: BTreeMap<Arc<str>, Weak<Named>>,
    look_at: usize,
}

static NAMES: Mutex<Names> = Mutex::new(Names { all: BTreeMap::new(), look_at: 64 });

impl Named {
    fn of(name: &Arc<str>) -> Arc<Self> {
        let known = &mut *locked(&NAMES);
        if let Some(named) = known.all.get(name).and_then(Weak::upgrade) {
            return named;
        }
        let named = Arc::new(Self {
            name: Arc::clone(name),
            expiries: Mutex::default(),
            held: Sum::default(),
            held_max: Sum::default(),
            phases: Default::default(),
            #[cfg(feature = "pool")]
            pooled: Sum::default(),
            #[cfg(feature = "pool")]
            gates: Default::default(),
        });
        if known.all.len() >= known.look_at {
            known.all.retain(|_, other| other.strong_count() > 0);
            known.look_at = 64.max(known.all.len() * 2);
        }
        known.all.insert(Arc::clone(name), Arc::downgrade(&named));
        named
    }

    fn expires(&self, session: u64, before: Option<u64>, now: Option<u64>) {
        let mut expiries = locked(&self.expiries);
        if let Some(before) = before {
            expiries.remove(&(before, session));
        }
        if let Some(now) = now {
            expiries.insert((now, session));
        }
    }

    /// The first of those to come; of those in the past the last, if there is no other.
    fn first_expiry(&self, today: u64) -> Option<u64> {
        let mut expiries = locked(&self.expiries);
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
    named: Arc<Named>,
    sessions: AtomicUsize,
}

#[cfg(feature = "pool")]
impl PoolMetrics {
    pub(crate) fn new(name: &Arc<str>) -> Self {
        Self { named: Named::of(name), sessions: AtomicUsize::new(0) }
    }

    pub(crate) fn joined(&self) {
        self.sessions.fetch_add(1, Relaxed);
        self.named.pooled.change(0, 1);
        self.show();
        self.count(MADE);
    }

    pub(crate) fn left(&self) {
        self.sessions.fetch_sub(1, Relaxed);
        self.named.pooled.change(1, 0);
        self.show();
    }

    pub(crate) fn evicted(&self, why: &'static str) {
        let name = Arc::clone(&self.named.name);
        guarded(|| counter!(EVICTED, "session" => name, "why" => why).increment(1));
    }

    pub(crate) fn refused(&self) {
        self.count(REFUSED);
    }

    fn count(&self, what: &'static str) {
        let name = Arc::clone(&self.named.name);
        guarded(|| counter!(what, "session" => name).increment(1));
    }

    fn show(&self) {
        let name = Arc::clone(&self.named.name);
        show(|| gauge!(SESSIONS, "session" => name), || self.named.pooled.get());
    }
}

#[cfg(feature = "pool")]
impl Drop for PoolMetrics {
    fn drop(&mut self) {
        self.named.pooled.change(*self.sessions.get_mut(), 0);
        self.show();
    }
}

/// What a pool's gate shows.
#[cfg(feature = "pool")]
#[derive(Debug)]
pub(crate) struct GateMetrics(Arc<Named>);

/// Attempts that wait, those that are out, and 1 if the gate rests tenants.
#[cfg(feature = "pool")]
pub(crate) type GateCounts = [usize; 3];

#[cfg(feature = "pool")]
impl GateMetrics {
    pub(crate) fn new(name: &Arc<str>) -> Self {
        Self(Named::of(name))
    }

    /// Under the gate's lock: in the order in which it happens.
    pub(crate) fn change(&self, before: GateCounts, after: GateCounts) {
        for (sum, (before, after)) in self.0.gates.iter().zip(before.into_iter().zip(after)) {
            sum.change(before, after);
        }
    }

    /// Without it.
    pub(crate) fn show(&self, refused: usize) {
        let name = || Arc::clone(&self.0.name);
        let [waiting, out, resting] = &self.0.gates;
        for (state, sum) in [("waiting", waiting), ("out", out)] {
            let gauge = || gauge!(AT_THE_GATE, "session" => name(), "state" => state);
            show(gauge, || sum.get());
        }
        show(|| gauge!(RESTING, "session" => name()), || resting.get());
        if refused > 0 {
            guarded(|| {
                counter!(REFUSED_ATTEMPTS, "session" => name()).increment(refused as u64);
            });
        }
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
