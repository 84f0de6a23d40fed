//! The endpoint fails, hangs, and comes back; callers do not give up.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccg_session::{Grant, GrantRequest, SessionConfig, TokenError, TokenManager};
use tokio::task::JoinSet;

use crate::harness::endpoint::{Endpoint, Plan, Seen};
use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{
    Figures, Setting, Subject, figures, median, millis, now, percentile, runtime, sleep_until,
    thread_cpu,
};
use crate::subjects::ours::{self, InProcess};

pub const STORM: Scenario = Scenario {
    name: "storm",
    title: "Storm: the endpoint always fails",
    told: "For 5 s, callers that ask again 10 ms after each error. *Unanswered*: still waiting for \
           their first or next answer at the end. *Late*: how long after the end of a request those \
           heard who had waited for it.",
    case: "callers",
    cases: &[1, 1_000],
    columns: &[
        Column::plain("requests", "requests"),
        Column::plain("answers", "answers"),
        Column::plain("unanswered", "unanswered"),
        Column::plain("p50_ms", "wait p50, ms"),
        Column::plain("p99_ms", "p99, ms"),
        Column::plain("max_ms", "max, ms"),
        Column::plain("late_ms", "late p99, ms"),
    ],
    who: Who::All,
    rounds: None,
};

pub const COOLING: Scenario = Scenario {
    name: "cooling",
    title: "An error while cooling",
    told: "One thread, its processor time: `get_token` on a session whose server is left alone after a failure, and on \
           one with a fresh token.",
    case: "threads",
    cases: &[1],
    columns: &[
        Column::plain("error_ns", "error, ns"),
        Column::plain("token_ns", "token, ns"),
        Column::plain("ratio", "error ÷ token"),
    ],
    who: Who::Ours,
    rounds: None,
};

pub const RECOVERY: Scenario = Scenario {
    name: "recovery",
    title: "Recovery",
    told: "The same callers; the endpoint fails for 3 s, then it is well. Each stops at its first \
           token. Times are since the healing; watched for 20 s.",
    case: "callers",
    cases: &[1_000],
    columns: &[
        Column::plain("first_ms", "first token, ms"),
        Column::plain("spread_ms", "last after first, ms"),
        Column::plain("requests", "requests since"),
        Column::plain("without", "without a token"),
    ],
    who: Who::All,
    rounds: None,
};

pub const HANG: Scenario = Scenario {
    name: "hang",
    title: "The endpoint hangs",
    told: "It takes requests and never answers; each caller asks once, and is watched for 40 s. \
           *Late*: the last answer, from the end of the last request. All subjects at once.",
    case: "callers",
    cases: &[1_000],
    columns: &[
        Column::plain("requests", "requests"),
        Column::plain("unanswered", "unanswered"),
        Column::plain("first_s", "first answer, s"),
        Column::plain("last_s", "last answer, s"),
        Column::plain("late_ms", "late, ms"),
    ],
    who: Who::All,
    rounds: Some(1),
};

const PAUSE: Duration = Duration::from_millis(10);

pub fn storm<S: Subject>(callers: usize) -> Figures {
    let mut endpoint = Endpoint::start(Plan::Fail);
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    runtime().block_on(async {
        let subject = Arc::new(S::new(&setting).await);
        let end = tokio::time::Instant::now() + Duration::from_secs(5);
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let subject = Arc::clone(&subject);
            tasks.spawn(async move {
                let mut waits = Vec::new();
                while tokio::time::Instant::now() < end {
                    let start = now();
                    let Ok(answer) = tokio::time::timeout_at(end, subject.get()).await else {
                        return (waits, true);
                    };
                    assert!(answer.is_err(), "the endpoint gives no token");
                    waits.push((start, now()));
                    tokio::time::sleep(PAUSE).await;
                }
                (waits, false)
            });
        }
        let (mut waits, mut unanswered) = (Vec::new(), 0);
        for (waited, is_waiting) in tasks.join_all().await {
            waits.extend(waited);
            unanswered += usize::from(is_waiting);
        }
        let seen = endpoint.seen();
        let mut known = figures([
            ("requests", seen.len() as f64),
            ("answers", waits.len() as f64),
            ("unanswered", unanswered as f64),
        ]);
        let mut late = late(&waits, &seen);
        if !late.is_empty() {
            known.extend(figures([("late_ms", percentile(&mut late, 0.99))]));
        }
        let mut waits: Vec<f64> = waits.iter().map(|(start, end)| millis(end - start)).collect();
        if !waits.is_empty() {
            known.extend(figures([
                ("p50_ms", percentile(&mut waits, 0.5)),
                ("p99_ms", percentile(&mut waits, 0.99)),
                ("max_ms", percentile(&mut waits, 1.0)),
            ]));
        }
        known
    })
}

/// For each wait during which a request ended: how much later, in milliseconds, the answer came.
fn late(waits: &[(u64, u64)], seen: &[Seen]) -> Vec<f64> {
    let mut ends: Vec<u64> = seen.iter().filter_map(|request| request.ended).collect();
    ends.sort_unstable();
    let last_before = |at: u64| ends[..ends.partition_point(|end| *end <= at)].last().copied();
    let waits = waits.iter().filter_map(|(start, end)| Some((start, end, last_before(*end)?)));
    waits.filter(|(start, _, last)| last > start).map(|(_, end, last)| millis(end - last)).collect()
}

/// Refuses: then the server is left alone for the whole of `cooling`.
struct Refusing;

impl TokenManager for Refusing {
    async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
        Err(TokenError::denied("invalid_client", "no such client"))
    }
}

pub fn cooling() -> Figures {
    runtime().block_on(async {
        let cooling = ours::spawn(Refusing, SessionConfig::default());
        let fresh = ours::spawn(InProcess { token_length: 1_024 }, SessionConfig::default());
        assert!(cooling.get_token().await.is_err());
        assert!(fresh.get_token().await.is_ok());
        let (mut errors, mut tokens) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            for (session, nanos) in [(&cooling, &mut errors), (&fresh, &mut tokens)] {
                let start = thread_cpu();
                for _ in 0..100_000 {
                    match session.get_token().await {
                        Ok(token) => drop(black_box(token)),
                        Err(error) => drop(black_box(error)),
                    }
                }
                nanos.push((thread_cpu() - start) as f64 / 1e5);
            }
        }
        assert!(cooling.get_token().await.is_err());
        let (error, token) = (median(&mut errors), median(&mut tokens));
        figures([("error_ns", error), ("token_ns", token), ("ratio", error / token)])
    })
}

pub fn recovery<S: Subject>(callers: usize) -> Figures {
    let mut endpoint = Endpoint::start(Plan::Fail);
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    runtime().block_on(async {
        let subject = Arc::new(S::new(&setting).await);
        let (start, end) = (now(), tokio::time::Instant::now() + Duration::from_secs(23));
        let got = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (subject, got) = (Arc::clone(&subject), Arc::clone(&got));
            tasks.spawn(async move {
                while let Ok(answer) = tokio::time::timeout_at(end, subject.get()).await {
                    if answer.is_ok() {
                        got.lock().unwrap().push(now());
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        sleep_until(start, 3_000).await;
        endpoint.plan(Plan::Grant { after_ms: 5, life: 3_600 });
        let healed = now();
        tasks.join_all().await;
        let got = got.lock().unwrap();
        let since = endpoint.seen().iter().filter(|request| request.arrived >= healed).count();
        let mut known =
            figures([("requests", since as f64), ("without", (callers - got.len()) as f64)]);
        if let (Some(first), Some(last)) = (got.iter().min(), got.iter().max()) {
            known.extend(figures([("first_ms", millis(first.saturating_sub(healed)))]));
            if got.len() == callers {
                known.extend(figures([
                    ("spread_ms", millis(last - first)),
                    ("all_ms", millis(last.saturating_sub(healed))),
                ]));
            }
        }
        known
    })
}

pub fn hang<S: Subject>(callers: usize) -> Figures {
    let mut endpoint = Endpoint::start(Plan::Hang);
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    runtime().block_on(async {
        let subject = Arc::new(S::new(&setting).await);
        let start = now();
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let subject = Arc::clone(&subject);
            tasks.spawn(async move {
                let answer = tokio::time::timeout(Duration::from_secs(40), subject.get()).await;
                answer.is_ok().then(now)
            });
        }
        let answered: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
        let seen = endpoint.seen();
        let mut known = figures([
            ("requests", seen.len() as f64),
            ("unanswered", (callers - answered.len()) as f64),
        ]);
        if let (Some(first), Some(last)) = (answered.iter().min(), answered.iter().max()) {
            known.extend(figures([
                ("first_s", millis(first - start) / 1e3),
                ("last_s", millis(last - start) / 1e3),
            ]));
            if let Some(ended) = seen.iter().filter_map(|request| request.ended).max() {
                known.extend(figures([("late_ms", millis(last.saturating_sub(ended)))]));
            }
        }
        known
    })
}
