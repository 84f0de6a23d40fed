//! A session among other tasks of a runtime with one thread: however much there is to do, they get their turn.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

use crate::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, Session, SessionConfig, SessionHandle,
    TokenError, TokenManager, TokenRequestOptions, TokenText,
};

/// Nobody else waits longer.
const LONGEST_TURN: Duration = Duration::from_millis(20);
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
    grant_takes: Duration,
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
        sleep(self.grant_takes).await;
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
        let task = tokio::spawn(async move {
            let (mut longest, mut last) = (Duration::ZERO, thread_time());
            while !stopped.load(SeqCst) {
                yield_now().await;
                let now = thread_time();
                longest = longest.max(now - last);
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
        let took = answered_at - revoked_at.lock().unwrap().unwrap();
        assert!(took < Duration::from_millis(200), "the revoke took {took:?} more");
        for exchanging in exchanging {
            assert!(exchanging.await.unwrap());
        }
        let waited = other.longest_wait().await;
        println!("the revoke took {took:?} more; another task waited for {waited:?} at most");
        assert!(waited < LONGEST_TURN, "another task waited for {waited:?}");
    });
}

/// A crowd that never stops sending: the mailbox is never empty.
#[test]
fn a_flood_of_messages_delays_nothing_else() {
    let grant_takes = Duration::from_millis(50);
    let manager = Manager { grant_takes, ..Manager::default() };
    runtime().block_on(async {
        let mut config = SessionConfig::default();
        config.retry.attempt_timeout = Duration::from_secs(5);
        let session = Session::builder(manager).config(config).spawn().unwrap();
        let flood = Flood::start(&session);
        // An attempt that ended is heard of, and so is a timer, and the end.
        let began = thread_time();
        session.get_token().await.unwrap();
        let other = Other::start();
        for _ in 0..20 {
            sleep(Duration::from_millis(5)).await;
        }
        let waited = other.longest_wait().await;
        assert!(waited < LONGEST_TURN, "another task waited for {waited:?}");
        session.shutdown().await;
        let took = thread_time() - began;
        assert!(flood.stop() > 10_000, "that is no flood");
        println!("another task waited for {waited:?} at most; all took {took:?}");
        assert!(took < Duration::from_secs(2), "it took {took:?}");
    });
}

/// A thread that sends as fast as it can; its messages change nothing.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Flood {
    fn start(session: &SessionHandle) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, session) = (Arc::clone(&stop), session.clone());
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(SeqCst) {
                // A call that is dropped at its first await: two messages.
                let call = std::pin::pin!(session.revoke());
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                drop(call.poll(&mut context));
                sent += 2;
            }
            sent
        });
        Self { stop, thread }
    }

    fn stop(self) -> usize {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap()
    }
}
