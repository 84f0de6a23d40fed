//! Many sessions in one process.

use std::hint::black_box;
use std::time::Duration;

use ccg_session::{SessionConfig, SessionHandle};

use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, cpu, figures, median, memory, now, runtime, thread_cpu};
use crate::subjects::ours::{self, InProcess};

pub const SESSIONS: Scenario = Scenario {
    name: "sessions",
    title: "Many sessions",
    told: "Each has a token, as long as Box's (32 bytes). *Memory*: growth of the resident set over \
           their number. *CPU*: that of the process, for a spawn and a first token. A hot call, by its \
           thread's processor time, on one of them again and again, and on each in turn.",
    case: "sessions",
    cases: &[1, 1_000, 100_000],
    columns: &[
        Column::plain("bytes", "memory, bytes each"),
        Column::plain("spawn_us", "spawn, µs each"),
        Column::plain("first_us", "first token, µs each"),
        Column::plain("cpu_us", "CPU µs each"),
        Column::plain("hot_ns", "hot call, ns"),
        Column::plain("turn_ns", "in turn, ns"),
    ],
    who: Who::Ours,
    rounds: None,
};

pub const IDLE: Scenario = Scenario {
    name: "idle",
    title: "Idle sessions",
    told: "Nobody asks; all have a token that was used, so all have a timer for its refresh. Watched \
           for 62 s.",
    case: "sessions",
    cases: &[100_000],
    columns: &[Column::plain("cpu_percent", "CPU, % of a core")],
    who: Who::Ours,
    rounds: Some(1),
};

pub fn play(count: usize) -> Figures {
    runtime().block_on(async {
        let (before, used) = (memory("VmRSS"), cpu());
        let (sessions, spawned) = spawn(count);
        let start = now();
        use_all(&sessions).await;
        let (first, used) = (now() - start, cpu() - used);
        let grown = memory("VmRSS").saturating_sub(before);
        let (mut hot, mut turn) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            hot.push(nanos_per_call(sessions.iter().take(1).cycle()).await);
            turn.push(nanos_per_call(sessions.iter().cycle()).await);
        }
        let each = |nanos: u64| nanos as f64 / 1e3 / count as f64;
        let mut known = figures([
            ("spawn_us", each(spawned)),
            ("first_us", each(first)),
            ("cpu_us", each(used)),
            ("hot_ns", median(&mut hot)),
            ("turn_ns", median(&mut turn)),
        ]);
        if count >= 1_000 {
            known.extend(figures([("bytes", grown as f64 / count as f64)]));
        }
        known
    })
}

pub fn idle(count: usize) -> Figures {
    runtime().block_on(async {
        let (sessions, _) = spawn(count);
        use_all(&sessions).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (start, used) = (now(), cpu());
        tokio::time::sleep(Duration::from_secs(62)).await;
        let share = (cpu() - used) as f64 / (now() - start) as f64;
        drop(sessions);
        figures([("cpu_percent", share * 100.0)])
    })
}

/// And how long that took.
fn spawn(count: usize) -> (Vec<SessionHandle>, u64) {
    let mut sessions = Vec::with_capacity(count);
    let start = now();
    for _ in 0..count {
        sessions.push(ours::spawn(InProcess { token_length: 32 }, SessionConfig::default()));
    }
    (sessions, now() - start)
}

/// The second call is on the fast path, so that the snapshot is used.
async fn use_all(sessions: &[SessionHandle]) {
    for session in sessions {
        session.get_token().await.expect("it is granted");
        session.get_token().await.expect("it is there");
    }
}

async fn nanos_per_call(sessions: impl Iterator<Item = &SessionHandle>) -> f64 {
    let (start, calls) = (thread_cpu(), 100_000);
    for session in sessions.take(calls) {
        let _ = black_box(session.get_token().await.expect("it is fresh"));
    }
    (thread_cpu() - start) as f64 / calls as f64
}
