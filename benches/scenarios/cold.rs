//! Everybody asks at once, and there is no token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ccg_session::{SessionConfig, SessionError};
use tokio::sync::Notify;

use crate::harness::endpoint::{Endpoint, Plan};
use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, Setting, Subject, cpu, figures, memory, millis, now, runtime};
use crate::subjects::ours;

pub const FLOOR: &str = "floor-actor";

pub const STAMPEDE: Scenario = Scenario {
    name: "stampede",
    title: "Stampede",
    told: "Callers on an empty session; the endpoint answers once all of them wait. *After the grant*: from the endpoint's answer to the last caller's. Memory (growth \
           of the resident set, at most) and processor time are per caller, its task included; the \
           first case shows what a single request costs.",
    case: "callers",
    cases: &[1, 1_000, 10_000, 100_000],
    columns: &[
        Column::plain("requests", "requests"),
        Column::plain("unanswered", "unanswered"),
        Column::plain("after_ms", "after the grant, ms"),
        Column { over: Some(FLOOR), ..Column::plain("after_ms", "× floor-actor") },
        Column::plain("bytes", "bytes per caller"),
        Column::plain("cpu_us", "CPU µs per caller"),
        Column { over: Some(FLOOR), ..Column::plain("cpu_us", "× floor-actor") },
    ],
    who: Who::All,
    rounds: None,
};

pub const OVERLOAD: Scenario = Scenario {
    name: "overload",
    title: "One caller too many",
    told: "`max_held` callers wait; one more comes.",
    case: "callers that wait",
    cases: &[131_072],
    columns: &[
        Column::plain("refused_ms", "`Overloaded` after, ms"),
        Column::plain("lost", "callers without a token"),
    ],
    who: Who::Ours,
    rounds: None,
};

/// Callers who count themselves.
pub struct Crowd<S> {
    pub subject: S,
    size: usize,
    started: AtomicUsize,
    answered: AtomicUsize,
    /// By [`now`].
    last: AtomicU64,
    all: Notify,
}

impl<S: Subject> Crowd<S> {
    pub fn new(subject: S, size: usize) -> Arc<Self> {
        let [started, answered] = [0, 0].map(AtomicUsize::new);
        let last = AtomicU64::new(0);
        Arc::new(Self { subject, size, started, answered, last, all: Notify::new() })
    }

    pub async fn call(&self) {
        self.started.fetch_add(1, Relaxed);
        if self.subject.get().await.is_ok() {
            self.last.fetch_max(now(), Relaxed);
            if self.answered.fetch_add(1, Relaxed) + 1 == self.size {
                self.all.notify_one();
            }
        }
    }

    /// Until all have asked, and the subject has had the time to take that in.
    async fn wait_for_all_to_ask(&self) {
        while self.started.load(Relaxed) < self.size {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut used = cpu();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = cpu();
            // Less than a hundredth of a core: it only waits.
            if now - used < 500_000 {
                return;
            }
            used = now;
        }
    }

    /// How many have no token, at the latest after so many seconds, and when the last got its one.
    pub async fn wait(&self, seconds: u64) -> (usize, u64) {
        let _ = tokio::time::timeout(Duration::from_secs(seconds), self.all.notified()).await;
        (self.size - self.answered.load(Relaxed), self.last.load(Relaxed))
    }
}

pub fn stampede<S: Subject>(callers: usize) -> Figures {
    let mut endpoint = Endpoint::start(Plan::Hang);
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    runtime().block_on(async {
        let crowd = Crowd::new(S::new(&setting).await, callers);
        let (before, start) = (memory("VmRSS"), cpu());
        for _ in 0..callers {
            let crowd = Arc::clone(&crowd);
            tokio::spawn(async move { crowd.call().await });
        }
        crowd.wait_for_all_to_ask().await;
        endpoint.plan(Plan::Grant { after_ms: 0, life: 3_600 });
        let (unanswered, last) = crowd.wait(20).await;
        let (used, grown) = (cpu() - start, memory("VmHWM").saturating_sub(before));
        let seen = endpoint.seen();
        let granted = seen[0].ended.unwrap_or(seen[0].arrived);
        let mut known = figures([
            ("requests", seen.len() as f64),
            ("unanswered", unanswered as f64),
            ("cpu_us", used as f64 / 1e3 / callers as f64),
        ]);
        if callers >= 10_000 {
            known.extend(figures([("bytes", grown as f64 / callers as f64)]));
        }
        if unanswered == 0 {
            known.extend(figures([("after_ms", millis(last.saturating_sub(granted)))]));
        }
        known
    })
}

pub fn overload(most: usize) -> Figures {
    let mut endpoint = Endpoint::start(Plan::Hang);
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    runtime().block_on(async {
        let mut config = SessionConfig::default();
        config.max_held = most;
        let session = ours::spawn(ours::manager(&setting.token_url), config);
        let crowd = Crowd::new(ours::Session(session.clone()), most);
        for _ in 0..most {
            let crowd = Arc::clone(&crowd);
            tokio::spawn(async move { crowd.call().await });
        }
        crowd.wait_for_all_to_ask().await;
        assert_eq!(session.status().held(), most);
        let start = now();
        let answer = session.get_token().await;
        let took = now() - start;
        assert!(matches!(answer, Err(SessionError::Overloaded)), "{answer:?}");
        endpoint.plan(Plan::Grant { after_ms: 0, life: 3_600 });
        let (lost, _) = crowd.wait(20).await;
        figures([("refused_ms", millis(took)), ("lost", lost as f64)])
    })
}
