//! What the figures should be, and whether they are.

use super::results::Results;
use super::run::OURS;
use crate::scenarios::{cold, hot};

pub struct Goal {
    pub what: &'static str,
    pub bound: Bound,
    /// None if it was not measured, or did not happen.
    pub measured: fn(&Results) -> Option<f64>,
}

#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};

impl Bound {
    pub fn holds(self, figure: f64) -> bool {
        match self {
            AtMost(bound) => figure <= bound,
            AtLeast(bound) => figure >= bound,
        }
    }

    pub fn shown(self) -> (&'static str, f64) {
        match self {
            AtMost(bound) => ("≤", bound),
            AtLeast(bound) => ("≥", bound),
        }
    }
}

const fn goal(what: &'static str, bound: Bound, measured: fn(&Results) -> Option<f64>) -> Goal {
    Goal { what, bound, measured }
}

pub const GOALS: &[Goal] = &[
    goal("hot path, 1 thread: × floor", AtMost(1.3), |r| over_floor(r, 1)),
    goal("hot path, 2 threads: × floor", AtMost(1.3), |r| over_floor(r, 2)),
    goal("hot path, 8 threads: × floor", AtMost(1.3), |r| over_floor(r, 8)),
    goal("hot path, 2 threads: × 1 thread", AtMost(1.15), |r| over_one_thread(r, OURS, 2)),
    goal("hot path, 8 threads: × 1 thread", AtMost(1.15), |r| over_one_thread(r, OURS, 8)),
    goal("`try_token`, 1 thread: × `get_token`", AtMost(1.05), |r| {
        ratio(r, ("hot", 1, TRY, "cpu_ns"), ("hot", 1, OURS, "cpu_ns"))
    }),
    goal("`try_token`, 2 threads: × 1 thread", AtMost(1.15), |r| over_one_thread(r, TRY, 2)),
    goal("header value cloned, 1 thread: × floor", AtMost(1.8), |r| {
        ratio(r, ("hot", 1, HEADER, "cpu_ns"), ("hot", 1, hot::FLOOR, "cpu_ns"))
    }),
    goal("header value cloned, 1 thread: × floor that clones one", AtMost(1.2), |r| {
        ratio(r, ("hot", 1, HEADER, "cpu_ns"), ("hot", 1, hot::FLOOR_HEADER, "cpu_ns"))
    }),
    goal("header value cloned, 2 threads: × 1 thread", AtMost(1.15), |r| {
        over_one_thread(r, HEADER, 2)
    }),
    goal("stampede of 100,000: requests", AtMost(1.0), |r| cold(r, 100_000, "requests")),
    goal("stampede of 100,000: last answer, × floor-actor", AtMost(1.5), |r| {
        over_actor(r, "after_ms")
    }),
    goal("stampede of 100,000: bytes per caller", AtMost(700.0), |r| cold(r, 100_000, "bytes")),
    goal("stampede of 100,000: CPU, × floor-actor", AtMost(2.0), |r| over_actor(r, "cpu_us")),
    goal("stampede: CPU per caller of 100,000, × that of 1,000", AtMost(1.5), |r| {
        // Without what one request costs.
        let alone = cold(r, 1, "cpu_us")?;
        let each = |callers: usize| Some(cold(r, callers, "cpu_us")? - alone / callers as f64);
        Some(each(100_000)? / each(1_000)?)
    }),
    goal("one caller too many: refused after, ms", AtMost(1.0), |r| {
        r.median(("overload", 131_072, OURS, "refused_ms"))
    }),
    goal("one caller too many: callers lost", AtMost(0.0), |r| {
        r.median(("overload", 131_072, OURS, "lost"))
    }),
    goal("the first caller leaves: requests", AtMost(1.0), |r| left(r, 1, "requests")),
    goal("the first caller leaves: last answer, × nobody leaves", AtMost(1.03), |r| {
        over_nobody(r, 1)
    }),
    goal("999 of 1,000 leave: last answer, × nobody leaves", AtMost(1.03), |r| {
        over_nobody(r, 999)
    }),
    goal("storm, 1,000 callers: requests in 5 s", AtMost(6.0), |r| storm(r, 1_000, "requests")),
    goal("storm: requests of 1,000 callers less those of 1", AtMost(1.0), |r| {
        Some((storm(r, 1_000, "requests")? - storm(r, 1, "requests")?).abs())
    }),
    goal("storm: p99 of 1,000 callers, × that of 1", AtMost(1.2), |r| {
        ratio(r, ("storm", 1_000, OURS, "p99_ms"), ("storm", 1, OURS, "p99_ms"))
    }),
    goal("storm, 1,000 callers: heard of a request's end after, p99, ms", AtMost(20.0), |r| {
        storm(r, 1_000, "late_ms")
    }),
    goal("an error while cooling: × a fresh token", AtMost(2.0), |r| {
        r.median(("cooling", 1, OURS, "ratio"))
    }),
    goal("recovery: first token, ms", AtMost(3_000.0), |r| recovery(r, "first_ms")),
    goal("recovery: last token after the first, ms", AtMost(20.0), |r| recovery(r, "spread_ms")),
    goal("recovery: requests", AtMost(1.0), |r| recovery(r, "requests")),
    goal("hang: requests", AtMost(3.0), |r| hang(r, "requests")),
    goal("hang: unanswered", AtMost(0.0), |r| hang(r, "unanswered")),
    goal("hang: last answer after the last attempt's end, ms", AtMost(100.0), |r| {
        hang(r, "late_ms")
    }),
    goal("refresh: p99 during, × before", AtMost(1.5), |r| {
        r.median(("paced", 2, OURS, "ratio_p99"))
    }),
    goal("refresh: calls per second during, × before", AtLeast(0.97), |r| {
        r.median(("tight", 2, OURS, "kept"))
    }),
    goal("refresh: requests, the first grant's included", AtMost(2.0), |r| {
        r.median(("tight", 2, OURS, "requests"))
    }),
    goal("exchange hits per second, 1 key", AtLeast(500_000.0), |r| exchange(r, 1)),
    goal("exchange hits per second, 1,024 keys", AtLeast(500_000.0), |r| exchange(r, 1_024)),
    goal("exchange hits: 1 key × 1,024 keys", AtMost(1.2), |r| {
        Some(exchange(r, 1)? / exchange(r, 1_024)?)
    }),
    goal("an event beside 32,000 keys that are kept: × 1,000", AtMost(2.0), |r| {
        over_few(r, 32_000, "kept_us")
    }),
    goal("an event beside 32,000 keys that wait: × 1,000", AtMost(2.0), |r| {
        over_few(r, 32_000, "waiting_us")
    }),
    goal("an event beside a ledger that is full: × 1,000", AtMost(2.0), |r| {
        over_few(r, 4_000, "ledger_us")
    }),
    goal("8,000 exchanges behind a revocation: another's turn, ms", AtMost(20.0), |r| {
        crowd(r, "turn_ms")
    }),
    goal("8,000 exchanges behind a revocation of 2 s: revoke(), ms", AtMost(2_200.0), |r| {
        crowd(r, "revoke_ms")
    }),
    goal("100,000 sessions: bytes each", AtMost(4_352.0), |r| sessions(r, 100_000, "bytes")),
    goal("100,000 sessions: spawn, µs each", AtMost(10.0), |r| sessions(r, 100_000, "spawn_us")),
    goal("100,000 sessions: hot call × one session's", AtMost(1.2), |r| {
        Some(sessions(r, 100_000, "hot_ns")? / sessions(r, 1, "hot_ns")?)
    }),
    goal("100,000 idle sessions: CPU, % of a core", AtMost(1.0), |r| {
        r.median(("idle", 100_000, OURS, "cpu_percent"))
    }),
];

const TRY: &str = "ccg-session, try_token";
const HEADER: &str = "ccg-session, header value cloned";

type Place = super::results::Place;

fn ratio(results: &Results, place: Place, over: Place) -> Option<f64> {
    results.ratio(place, over).map(|spread| spread.median)
}

/// By processor time, which other work on the machine disturbs least; ours never parks a thread.
fn over_floor(results: &Results, threads: usize) -> Option<f64> {
    ratio(results, ("hot", threads, OURS, "cpu_ns"), ("hot", threads, hot::FLOOR, "cpu_ns"))
}

fn over_one_thread(results: &Results, subject: &'static str, threads: usize) -> Option<f64> {
    ratio(results, ("hot", threads, subject, "cpu_ns"), ("hot", 1, subject, "cpu_ns"))
}

fn cold(results: &Results, callers: usize, figure: &'static str) -> Option<f64> {
    results.median(("stampede", callers, OURS, figure))
}

fn over_actor(results: &Results, figure: &'static str) -> Option<f64> {
    let of = |subject| ("stampede", 100_000, subject, figure);
    ratio(results, of(OURS), of(cold::FLOOR))
}

fn left(results: &Results, leaving: usize, figure: &'static str) -> Option<f64> {
    results.median(("leave", leaving, OURS, figure))
}

fn over_nobody(results: &Results, leaving: usize) -> Option<f64> {
    let last = |leaving| ("leave", leaving, OURS, "last_ms");
    ratio(results, last(leaving), last(0))
}

fn storm(results: &Results, callers: usize, figure: &'static str) -> Option<f64> {
    results.median(("storm", callers, OURS, figure))
}

fn recovery(results: &Results, figure: &'static str) -> Option<f64> {
    results.median(("recovery", 1_000, OURS, figure))
}

fn hang(results: &Results, figure: &'static str) -> Option<f64> {
    results.median(("hang", 1_000, OURS, figure))
}

fn exchange(results: &Results, keys: usize) -> Option<f64> {
    results.median(("exchange", keys, OURS, "per_s"))
}

fn over_few(results: &Results, keys: usize, figure: &'static str) -> Option<f64> {
    let event = |keys| ("events", keys, OURS, figure);
    ratio(results, event(keys), event(1_000))
}

fn crowd(results: &Results, figure: &'static str) -> Option<f64> {
    results.median(("crowd", 8_000, OURS, figure))
}

fn sessions(results: &Results, count: usize, figure: &'static str) -> Option<f64> {
    results.median(("sessions", count, OURS, figure))
}
