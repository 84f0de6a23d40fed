//! What many threads and tasks saw of one session, in real time and over real HTTP, judged afterwards as
//! intervals. `SEED=… cargo test` repeats what the tasks and the faults do, though not the order in which
//! threads run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use http::StatusCode;
use tokio::time::{Instant, sleep, timeout};

use super::recorder::{Clock, KEYS, Task, Watched, Wire, revoke};
use crate::judge::intervals::{History, Revoke};
use crate::testing::{Answer, Authority, Fault, Kind, Rule, Script};
use crate::{
    ExchangeRequest, RefreshMode, RetryPolicy, Session, SessionConfig, SessionError, SessionHandle,
    TokenRequestOptions,
};

/// How long everything that can fail does, and how many calls it takes at least.
const FAULTS_FOR: Duration = Duration::from_secs(4);
const CALLS: usize = 40_000;
/// After so many calls in a row a task pauses.
const IN_A_ROW: usize = 64;
const TASKS: usize = 24;
const THREADS: usize = 4;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Three sessions, each with an authority, tasks and threads of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_threads_saw_of_a_session_is_in_order() {
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let mut random = seed.map_or_else(Rng::new, Rng::with_seed);
    println!("to repeat: SEED={}", random.get_seed());
    let runs = [
        (RefreshMode::WhileUsed, millis(1_500)),
        (RefreshMode::OnRequest, millis(2_500)),
        // It expires before the next may be asked for.
        (RefreshMode::Always, millis(700)),
    ];
    let runs = runs.map(|(mode, ttl)| tokio::spawn(run(mode, ttl, random.fork())));
    let mut calls = 0;
    for run in runs {
        calls += run.await.unwrap();
    }
    println!("{calls} calls");
    assert!(calls >= 100_000, "{calls}");
}

#[derive(Default)]
struct Progress {
    /// Counted seldom, so that threads have little to do with each other but through the session.
    calls: AtomicUsize,
    healed: AtomicBool,
}

impl Progress {
    fn is_healed(&self) -> bool {
        self.healed.load(Ordering::SeqCst)
    }
}

/// A thread that sleeps again and again, and how much longer than it wanted at most.
struct Lateness {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Lateness {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut most = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let began = std::time::Instant::now();
                std::thread::sleep(millis(1));
                most = most.max(began.elapsed());
            }
            most
        });
        Self { is_over, thread }
    }

    fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// How many calls there were.
async fn run(mode: RefreshMode, ttl: Duration, mut random: Rng) -> usize {
    let authority = Arc::new(Authority::builder().ttl(ttl).start().await.unwrap());
    let clock = Clock::start();
    let wire = Wire::new(clock);
    let (attempt_timeout, cooling) = (millis(500), Duration::from_secs(1));
    let retry = RetryPolicy { attempt_timeout, cooling, ..RetryPolicy::default() };
    let config = SessionConfig { refresh_mode: mode, retry, ..SessionConfig::default() };
    let manager = Watched { manager: authority.manager().unwrap(), wire: Arc::clone(&wire) };
    let session = Session::builder(manager).config(config.clone()).spawn().unwrap();

    let progress = Arc::<Progress>::default();
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let task = Task::new(number, clock);
            tokio::spawn(anything(session.clone(), task, random.fork(), Arc::clone(&progress)))
        })
        .collect();
    let threads: Vec<_> = (TASKS..TASKS + THREADS)
        .map(|number| {
            let (session, progress) = (session.clone(), Arc::clone(&progress));
            std::thread::spawn(move || blocking(&session, Task::new(number, clock), &progress))
        })
        .collect();
    let revokes = {
        let (session, progress, random) = (session.clone(), Arc::clone(&progress), random.fork());
        tokio::spawn(revoking(session, clock, random, progress))
    };

    let lateness = Lateness::start();
    let start = Instant::now();
    while start.elapsed() < FAULTS_FOR || progress.calls.load(Ordering::Relaxed) < CALLS {
        authority.set_script(faults(&mut random));
        if (random.u64(..8) == 0)
            && let Some(token) = session.try_token()
        {
            authority.revoke_behind(token.secret());
        }
        sleep(millis(20 + random.u64(..150))).await;
    }
    authority.heal();
    progress.healed.store(true, Ordering::SeqCst);

    let get_through = timeout(Duration::from_secs(120), async {
        let mut done = vec![];
        for task in tasks {
            done.push(task.await.unwrap());
        }
        done
    });
    let done = get_through.await.expect("after the faults everybody gets a token");
    // What was done is written down when its thread comes to its turn again.
    let late = millis(250) + 4 * lateness.end();
    let mut history = History { late, ..History::new(&config) };
    for task in done {
        task.tell(&mut history);
    }
    for thread in threads {
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap().tell(&mut history);
    }
    history.revokes = revokes.await.unwrap();
    session.shutdown().await;
    wire.tell(&mut history, &authority);
    let counts = authority.counts();
    println!(
        "{mode:?}: {} calls, {} tokens given, {} attempts, {} revokes, {} of them Ok, {} revocations",
        history.calls.len(),
        history.texts.len(),
        history.attempts.len(),
        history.revokes.len(),
        history.revokes.iter().filter(|revoke| revoke.ok).count(),
        history.revocations.len(),
    );
    println!("{late:?} late at most");
    history.judge().unwrap();
    // Nothing else asked the authority, so what was judged is all that it had to bear.
    let (sent, asked) = (history.attempts.len() as u64, counts.grants + counts.exchanges);
    assert!(asked <= sent, "{asked} requests for tokens, but {sent} attempts");
    assert!(counts.revocations <= history.revocations.len() as u64);
    assert!(history.texts.len() > 2, "a run without tokens shows nothing");
    history.calls.len()
}

/// What goes wrong next. A revocation is never answered with 200 by mistake: that would be a success.
fn faults(random: &mut Rng) -> Script {
    let mut script = Script::new();
    for kind in [Kind::Grant, Kind::Exchange, Kind::Revoke] {
        let unavailable = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
        let fault = match random.u64(..if kind == Kind::Revoke { 12 } else { 20 }) {
            0 => Fault::Drop,
            1 => Fault::Hang,
            2 => Fault::Cut,
            3 => unavailable.into(),
            4 => Answer::new(StatusCode::TOO_MANY_REQUESTS).retry_after(millis(1_000)).into(),
            12 => Fault::Html,
            13 => Fault::ExpiresIn(1.into()),
            14 => Fault::ExpiresIn(0.into()),
            15 => Fault::SameToken,
            16 => Answer::new(StatusCode::BAD_REQUEST).error("invalid_client").into(),
            _ => {
                script = script.rule(Rule::new(kind).delay(millis(random.u64(..60))));
                continue;
            }
        };
        script = script.rule(Rule::new(kind).fault(fault));
    }
    script
}

/// A task that does one thing after the other, until everything has healed and it has a token.
async fn anything(
    session: SessionHandle,
    mut task: Task,
    mut random: Rng,
    progress: Arc<Progress>,
) -> Task {
    for round in 1_usize.. {
        let is_healed = progress.is_healed();
        let result = match random.u64(..100) {
            which @ 0..=1 => {
                task.invalidate(&session, which == 1);
                Ok(false)
            }
            2..=9 => {
                let request = ExchangeRequest::scopes([KEYS[random.usize(..KEYS.len())]]);
                task.exchange(&session, request).await
            }
            10..=14 => Ok(task.try_token(&session)),
            // It may leave before it is answered.
            15..=19 => {
                let hurry = Duration::from_micros(random.u64(..2_000));
                timeout(hurry, task.get_token(session.get_token())).await.unwrap_or(Ok(false))
            }
            20..=24 => {
                let wants = TokenRequestOptions::new().min_remaining(millis(random.u64(..2_000)));
                task.get_token(session.get_token_with(wants)).await
            }
            _ => task.get_token(session.get_token()).await,
        };
        match result {
            Ok(given) if given && is_healed => break,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => come_again(&error).await,
        }
        if round % IN_A_ROW == 0 {
            progress.calls.fetch_add(IN_A_ROW, Ordering::Relaxed);
            sleep(millis(1)).await;
        }
    }
    task
}

/// A thread outside any runtime.
fn blocking(session: &SessionHandle, mut task: Task, progress: &Progress) -> Task {
    for round in 1_usize.. {
        let is_healed = progress.is_healed();
        let given =
            if round % 4 == 0 { task.blocking_get_token(session) } else { task.try_token(session) };
        if given && is_healed {
            break;
        }
        if round % IN_A_ROW == 0 {
            progress.calls.fetch_add(IN_A_ROW, Ordering::Relaxed);
        }
        // The threads shall not keep the tasks from the processors.
        if round % 8 == 0 || !given {
            std::thread::sleep(millis(1));
        }
    }
    task
}

/// Revokes now and then: sometimes twice at once, sometimes without waiting for the end.
async fn revoking(
    session: SessionHandle,
    clock: Clock,
    mut random: Rng,
    progress: Arc<Progress>,
) -> Vec<Revoke> {
    let mut revokes = Vec::new();
    while !progress.is_healed() {
        sleep(millis(200 + random.u64(..600))).await;
        let count = 1 + random.u64(..2);
        let leaves = random.u64(..4) == 0;
        revokes.extend(revoke(&session, clock, count, leaves).await);
    }
    revokes
}

/// Soon, at any rate: this is no test of patience.
async fn come_again(error: &SessionError) {
    sleep(error.retry_after().unwrap_or_default().min(millis(5))).await;
}
