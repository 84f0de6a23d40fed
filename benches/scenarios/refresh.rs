//! Two threads use the token while a refresh of 200 ms is on its way.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::harness::endpoint::{Endpoint, Plan, Seen};
use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, Setting, Subject, figures, now, percentile, runtime};

pub const PACED: Scenario = Scenario {
    name: "paced",
    title: "During a refresh: a call every 250 µs",
    told: "Two threads, each call timed from when it was due; a refresh of 200 ms about 2 s in. \
           Microseconds before it, and during it.",
    case: "threads",
    cases: &[2],
    columns: &[
        Column::plain("before_p50", "before: p50"),
        Column::plain("before_p99", "p99"),
        Column::plain("during_p50", "during: p50"),
        Column::plain("during_p99", "p99"),
        Column::plain("during_max", "max"),
        Column::plain("ratio_p99", "p99, during ÷ before"),
        Column::plain("requests", "requests"),
    ],
    who: Who::All,
    rounds: None,
};

pub const TIGHT: Scenario = Scenario {
    name: "tight",
    title: "During a refresh: calls without a pause",
    told: "Two threads, the same refresh.",
    case: "threads",
    cases: &[2],
    columns: &[
        Column::plain("kept", "calls per second, during ÷ before"),
        Column::plain("before_max_ms", "longest call before, ms"),
        Column::plain("during_max_ms", "during, ms"),
        Column::plain("requests", "requests"),
    ],
    who: Who::All,
    rounds: None,
};

const PERIOD: u64 = 250_000;
const SLICE: u64 = 10_000_000;

pub fn paced<S: Subject>() -> Figures {
    // When each call was due, and how long it took from then.
    let (calls, refresh, requests) = during_a_refresh::<S, (u64, u64)>(async |subject, stop| {
        let (mut calls, mut due) = (Vec::new(), now());
        while !stop.load(Relaxed) {
            let early = due.saturating_sub(now());
            if early > 0 {
                std::thread::sleep(Duration::from_nanos(early));
                // A sleep that takes too long is the system's fault, a call that does is the subject's.
                due = now();
            }
            subject.get().await.expect("it has a usable token");
            calls.push((due, now() - due));
            due += PERIOD;
        }
        calls
    });
    let micros = |from: u64, to: u64| -> Vec<f64> {
        let within = calls.iter().filter(|(start, _)| (from..to).contains(start));
        within.map(|(_, took)| *took as f64 / 1e3).collect()
    };
    let Some((began, ended)) = refresh else { return figures([("requests", requests)]) };
    let mut before = micros(began - 1_000_000_000, began - 50_000_000);
    let mut during = micros(began, ended);
    let (before_p99, during_p99) = (percentile(&mut before, 0.99), percentile(&mut during, 0.99));
    figures([
        ("before_p50", percentile(&mut before, 0.5)),
        ("before_p99", before_p99),
        ("during_p50", percentile(&mut during, 0.5)),
        ("during_p99", during_p99),
        ("during_max", percentile(&mut during, 1.0)),
        ("ratio_p99", during_p99 / before_p99),
        ("requests", requests),
    ])
}

/// What a thread did in about 10 ms.
struct Slice {
    start: u64,
    end: u64,
    calls: u64,
    longest: u64,
}

pub fn tight<S: Subject>() -> Figures {
    let (slices, refresh, requests) = during_a_refresh::<S, Slice>(async |subject, stop| {
        let (mut slices, mut before) = (Vec::new(), now());
        let mut slice = Slice { start: before, end: before, calls: 0, longest: 0 };
        while !stop.load(Relaxed) {
            subject.get().await.expect("it has a usable token");
            slice.end = now();
            slice.calls += 1;
            slice.longest = slice.longest.max(slice.end - before);
            before = slice.end;
            if slice.end - slice.start > SLICE {
                slices.push(slice);
                slice = Slice { start: before, end: before, calls: 0, longest: 0 };
            }
        }
        slices
    });
    let Some((began, ended)) = refresh else { return figures([("requests", requests)]) };
    // Of a slice that lies partly within, that part of its calls.
    let rate = |from: u64, to: u64| {
        let share = |slice: &Slice| {
            let within = slice.end.min(to).saturating_sub(slice.start.max(from));
            slice.calls as f64 * within as f64 / (slice.end - slice.start) as f64
        };
        slices.iter().map(share).sum::<f64>() / (to - from) as f64
    };
    let longest = |from: u64, to: u64| {
        let within = slices.iter().filter(|slice| from < slice.end && slice.start < to);
        within.map(|slice| slice.longest).max().unwrap_or(0) as f64 / 1e6
    };
    let (from, to) = (began - 600_000_000, began - 20_000_000);
    figures([
        ("kept", rate(began, ended) / rate(from, to)),
        ("before_max_ms", longest(from, to)),
        ("during_max_ms", longest(began, ended)),
        ("requests", requests),
    ])
}

/// Two threads do this until the refresh has ended. What they noted, when the refresh began and ended,
/// and all requests.
fn during_a_refresh<S: Subject, T: Send>(
    work: impl AsyncFn(&S, &AtomicBool) -> Vec<T> + Sync,
) -> (Vec<T>, Option<(u64, u64)>, f64) {
    let mut endpoint = Endpoint::start(Plan::Grant { after_ms: 0, life: S::REFRESHED_SOON });
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: true };
    let (runtime, stop) = (runtime(), AtomicBool::new(false));
    let subject = runtime.block_on(async {
        let subject = S::new(&setting).await;
        subject.get().await.expect("the endpoint answers");
        subject
    });
    endpoint.plan(Plan::Grant { after_ms: 200, life: 3_600 });
    let noted = std::thread::scope(|scope| {
        let run = || runtime.handle().block_on(work(&subject, &stop));
        let threads = [scope.spawn(run), scope.spawn(run)];
        // Asked seldom, so that asking does not disturb.
        let is_over = |seen: Vec<Seen>| seen.get(1).is_some_and(|request| request.ended.is_some());
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(500));
            if is_over(endpoint.seen()) {
                break;
            }
        }
        // What comes of it.
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seen = endpoint.seen();
    let refresh = seen.get(1).and_then(|request| Some((request.arrived, request.ended?)));
    (noted, refresh, seen.len() as f64)
}
