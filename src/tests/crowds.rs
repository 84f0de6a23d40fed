//! A session among other tasks of a runtime with one thread: however much there is to do, they get their turn.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, unconstrained, yield_now};
use tokio::time::sleep;

use crate::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, Session, SessionConfig, SessionError,
    SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};

/// Nobody else waits longer. (Without optimization the thousands of callers who are woken at once take so
/// long by themselves.)
const LONGEST_TURN: Duration = Duration::from_millis(if cfg!(debug_assertions) { 80 } else { 20 });
const HOUR: Duration = Duration::from_secs(3600);

/// How long this thread has run: what other processes do meanwhile does not count, so a debug build on a
/// machine that is busy keeps these bounds too.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Answers at once, but for revocations.
#[derive(Default)]
struct Manager {
    tokens: AtomicUsize,
    revocation_takes: Duration,
    revoked_at: Arc<std::sync::Mutex<Option<Duration>>>,
}

impl Manager {
    fn token(&self) -> Result<Grant, TokenError> {
        let number = self.tokens.fetch_add(1, SeqCst);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(HOUR))
    }
}

impl TokenManager for Manager {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        self.token()
    }

    async fn exchange(&self, _: AccessToken, _: ExchangeRequest) -> Result<Grant, TokenError> {
        self.token()
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        sleep(self.revocation_takes).await;
        *self.revoked_at.lock().unwrap() = Some(thread_time());
        Ok(())
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

/// Takes a turn whenever it gets one, and knows for how long others ran at most.
struct Other {
    task: JoinHandle<Duration>,
    stop: Arc<AtomicBool>,
}

impl Other {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut last = thread_time();
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !stopped.load(SeqCst) {
                yield_now().await;
                let now = thread_time();
                longest = longest.max(now.abs_diff(last));
                last = now;
            }
            longest
        });
        Self { task, stop }
    }

    async fn longest_wait(self) -> Duration {
        self.stop.store(true, SeqCst);
        self.task.await.unwrap()
    }
}

fn exchange(session: &SessionHandle, number: usize) -> JoinHandle<bool> {
    let session = session.clone();
    let request = ExchangeRequest::scopes([format!("scope-{number}")]);
    tokio::spawn(async move { session.exchange(request).await.is_ok() })
}

#[test]
fn eight_thousand_exchanges_behind_a_revocation_keep_no_other_task_waiting() {
    let revocation_takes = Duration::from_secs(2);
    let manager = Manager { revocation_takes, ..Manager::default() };
    let revoked_at = Arc::clone(&manager.revoked_at);
    runtime().block_on(async {
        let session = Session::builder(manager).spawn().unwrap();
        session.get_token().await.unwrap();
        let revoking = tokio::spawn({
            let session = session.clone();
            async move {
                session.revoke().await.unwrap();
                thread_time()
            }
        });
        yield_now().await;
        let other = Other::start();
        let mut exchanging = Vec::new();
        for number in 0..8_000 {
            exchanging.push(exchange(&session, number));
            yield_now().await;
        }
        let answered_at = revoking.await.unwrap();
        let took = answered_at.abs_diff(revoked_at.lock().unwrap().unwrap());
        assert!(took < Duration::from_millis(200), "the revoke took {took:?} more");
        for exchanging in exchanging {
            assert!(exchanging.await.unwrap());
        }
        let waited = other.longest_wait().await;
        println!("the revoke took {took:?} more; another task waited for {waited:?} at most");
        assert!(waited < LONGEST_TURN, "another task waited for {waited:?}");
    });
}

/// A session with one caller who waits, and room for no other: each that comes is counted.
fn crowded(manager: impl TokenManager) -> (SessionHandle, JoinHandle<bool>) {
    let config = SessionConfig { max_held: 1, ..SessionConfig::default() };
    let session = Session::builder(manager).config(config).spawn().unwrap();
    let held = tokio::spawn({
        let session = session.clone();
        async move { session.get_token().await.is_ok() }
    });
    (session, held)
}

/// So many messages, put into the mailbox at once. Who sent them still waits.
fn flood(session: &SessionHandle, messages: usize) -> Vec<crate::GetToken<'_>> {
    let mut context = Context::from_waker(Waker::noop());
    let send = |_| {
        let mut call = session.get_token();
        assert!(Pin::new(&mut call).poll(&mut context).is_pending());
        call
    };
    (0..messages).map(send).collect()
}

fn turned_away(session: &SessionHandle) -> u64 {
    session.status().counters().overloaded
}

const FLOOD: usize = 50_000;
/// A few turns' worth of messages.
const SOON: u64 = 2_000;

/// A grant that takes as long as the test wants.
struct Held(Arc<Notify>);

impl TokenManager for Held {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        self.0.notified().await;
        Ok(Grant::bearer("token")?.expires_in(HOUR))
    }
}

#[test]
fn a_flood_of_messages_keeps_no_other_task_waiting() {
    runtime().block_on(async {
        let (session, _held) = crowded(Held(Arc::default()));
        sleep(Duration::from_millis(1)).await;
        let waiting = flood(&session, FLOOD);
        let other = Other::start();
        while turned_away(&session) < FLOOD as u64 {
            yield_now().await;
        }
        let waited = other.longest_wait().await;
        println!("another task waited for {waited:?} at most");
        assert!(waited < LONGEST_TURN, "another task waited for {waited:?}");
        drop(waiting);
    });
}

#[test]
fn a_flood_of_messages_does_not_delay_the_end() {
    runtime().block_on(async {
        let (session, held) = crowded(Held(Arc::default()));
        sleep(Duration::from_millis(1)).await;
        let waiting = flood(&session, FLOOD);
        session.shutdown().await;
        assert!(!held.await.unwrap());
        assert!(turned_away(&session) < SOON, "{} came first", turned_away(&session));
        for call in waiting {
            assert!(matches!(call.await, Err(SessionError::Overloaded | SessionError::Closed)));
        }
    });
}

#[test]
fn a_flood_of_messages_does_not_delay_an_attempt_that_ended() {
    runtime().block_on(async {
        let release = Arc::new(Notify::new());
        let (session, held) = crowded(Held(Arc::clone(&release)));
        sleep(Duration::from_millis(1)).await;
        let waiting = flood(&session, FLOOD);
        release.notify_one();
        assert!(held.await.unwrap());
        assert!(turned_away(&session) < SOON, "{} came first", turned_away(&session));
        drop(waiting);
    });
}

/// The first attempt fails, and the second comes after a pause.
struct FailsOnce(AtomicBool);

impl TokenManager for FailsOnce {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        if self.0.swap(true, SeqCst) {
            return Ok(Grant::bearer("token")?.expires_in(HOUR));
        }
        Err(TokenError::server(503, Some(Duration::from_secs(1))))
    }
}

#[test]
fn a_flood_of_messages_delays_no_timer() {
    runtime().block_on(async {
        let (session, held) = crowded(FailsOnce(AtomicBool::new(false)));
        sleep(Duration::from_millis(1)).await;
        // The pause is a second. The mailbox is never empty.
        let began = Instant::now();
        let mut waiting = Vec::new();
        while !held.is_finished() {
            assert!(began.elapsed() < Duration::from_secs(20), "the timer is starved");
            let behind = waiting.len() as u64 - turned_away(&session);
            if behind < 1_000 && session.try_token().is_none() {
                waiting.extend(flood(&session, 1_000));
            }
            yield_now().await;
        }
        assert!(held.await.unwrap());
        assert!(turned_away(&session) > SOON, "that was no flood");
    });
}

#[test]
fn calls_that_are_given_up_at_once_fill_no_memory_and_keep_nobody_from_an_end() {
    runtime().block_on(async {
        let session = Session::builder(Manager::default()).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        tokio::time::pause();
        tokio::time::advance(HOUR / 3).await;
        let mut context = Context::from_waker(Waker::noop());
        // More than is left, so the session's task has to be asked.
        let more = TokenRequestOptions::new().min_remaining(Duration::MAX);
        let mut turned_away = 0;
        // The session's task does not run meanwhile.
        for _ in 0..200_000 {
            let call = unconstrained(session.get_token_with(more.clone()));
            if let Poll::Ready(answer) = std::pin::pin!(call).poll(&mut context) {
                assert_eq!(answer.unwrap(), token, "one that is good is given all the same");
                turned_away += 1;
            }
        }
        assert_eq!(turned_away, 200_000 - 131_072);
        let exchange = || session.exchange(ExchangeRequest::scopes(["a"]));
        assert!(matches!(exchange().await, Err(SessionError::Overloaded)));
        while let Err(error) = exchange().await {
            assert!(matches!(error, SessionError::Overloaded), "{error}");
            yield_now().await;
        }
        session.shutdown().await;
    });
}
