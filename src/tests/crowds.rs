//! A session among other tasks of a runtime with one thread: however much there is to do, they get their turn.

use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, unconstrained, yield_now};
use tokio::time::sleep;

use crate::machine::tests::cost::touched_so_far;
use crate::test_util::suspend;
use crate::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, NewsSender, Session, SessionConfig,
    SessionError, SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};

const HOUR: Duration = Duration::from_secs(3600);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Answers at once, but for revocations.
#[derive(Default)]
struct Manager {
    tokens: AtomicUsize,
    revocation_takes: Duration,
    /// What the machine had looked at when the server had revoked.
    touched_when_revoked: Arc<AtomicUsize>,
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
        Ok(self.token()?.expires_in(HOUR / 2))
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        sleep(self.revocation_takes).await;
        self.touched_when_revoked.store(touched_so_far(), SeqCst);
        Ok(())
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

/// Takes a turn whenever it gets one, and knows how much the session did between two of them at most.
struct Other {
    task: JoinHandle<usize>,
    stop: Arc<AtomicBool>,
}

impl Other {
    fn start(done: impl Fn() -> usize + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut most, mut last) = (0, done());
            while !stopped.load(SeqCst) {
                yield_now().await;
                let now = done();
                most = most.max(now - last);
                last = now;
            }
            most
        });
        Self { task, stop }
    }

    async fn most_between_turns(self) -> usize {
        self.stop.store(true, SeqCst);
        self.task.await.unwrap()
    }
}

fn exchange(session: &SessionHandle, number: usize) -> JoinHandle<bool> {
    let session = session.clone();
    let request = ExchangeRequest::scopes([format!("scope-{number}")]);
    tokio::spawn(async move { session.exchange(request).await.is_ok() })
}

const EXCHANGES: usize = 8_000;

#[test]
fn eight_thousand_exchanges_behind_a_revocation_keep_no_other_task_waiting() {
    let revocation_takes = Duration::from_secs(2);
    let manager = Manager { revocation_takes, ..Manager::default() };
    let touched_when_revoked = Arc::clone(&manager.touched_when_revoked);
    runtime().block_on(async {
        let session = Session::builder(manager).spawn().unwrap();
        session.get_token().await.unwrap();
        let revoking = tokio::spawn({
            let session = session.clone();
            async move {
                session.revoke().await.unwrap();
                touched_so_far()
            }
        });
        yield_now().await;
        let other = Other::start(touched_so_far);
        let mut exchanging = Vec::new();
        for number in 0..EXCHANGES {
            exchanging.push(exchange(&session, number));
            yield_now().await;
        }
        let touched = revoking.await.unwrap() - touched_when_revoked.load(SeqCst);
        for exchanging in exchanging {
            assert!(exchanging.await.unwrap());
        }
        let most = other.most_between_turns().await;
        println!("{touched} keys were looked at before the answer, {most} between two turns");
        assert!(touched < EXCHANGES && most < EXCHANGES, "{touched} and {most}");
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
        let flooded = session.clone();
        let other = Other::start(move || usize::try_from(turned_away(&flooded)).unwrap());
        while turned_away(&session) < FLOOD as u64 {
            yield_now().await;
        }
        let most = other.most_between_turns().await;
        println!("{most} messages of {FLOOD} between two turns");
        assert!(most < FLOOD / 4, "{most} messages");
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
        let waiting = flood(&session, FLOOD);
        // Now the pause between the attempts is over.
        suspend(Duration::from_secs(5));
        assert!(held.await.unwrap());
        // Until its turn is over, the session's task goes on with the flood.
        assert!(turned_away(&session) < FLOOD as u64 / 2, "{} came first", turned_away(&session));
        drop(waiting);
    });
}

#[test]
fn calls_that_are_given_up_at_once_fill_no_memory_and_keep_nobody_from_an_end() {
    runtime().block_on(async {
        let session = Session::builder(Manager::default()).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        let kept = session.exchange(ExchangeRequest::scopes(["kept"])).await.unwrap();
        tokio::time::pause();
        // The exchanged token is stale, the session's own is not.
        tokio::time::advance(Duration::from_secs(1_300)).await;
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
        let stale = || session.exchange(ExchangeRequest::scopes(["kept"]));
        for _ in 0..3 {
            assert_eq!(stale().await.unwrap(), kept, "one that is good is given all the same");
        }
        while let Err(error) = exchange().await {
            assert!(matches!(error, SessionError::Overloaded), "{error}");
            yield_now().await;
        }
        for _ in 0..1_000 {
            if stale().await.unwrap() != kept {
                return session.shutdown().await;
            }
            yield_now().await;
        }
        panic!("nobody could ask for a refresh any more");
    });
}

/// Tells its session what the test wants it to hear.
struct Hears(Manager, Arc<OnceLock<NewsSender>>);

impl TokenManager for Hears {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        self.0.grant(request).await
    }

    fn attach(&self, news: NewsSender) {
        let _ = self.1.set(news);
    }
}

#[test]
fn news_does_not_wait_until_a_flood_is_over() {
    runtime().block_on(async {
        let news = Arc::default();
        let manager = Hears(Manager::default(), Arc::clone(&news));
        let session = Session::builder(manager).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        let mut told = session.subscribe();
        let mut context = Context::from_waker(Waker::noop());
        // Each is told that there is no exchange, once its turn comes.
        let request = ExchangeRequest::scopes(["a"]);
        let mut calls: Vec<_> =
            (0..FLOOD).map(|_| Box::pin(session.exchange(request.clone()))).collect();
        for call in &mut calls {
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
        news.get().unwrap().revoked(TokenText::new(token.secret()).unwrap(), HOUR);
        told.changed().await.unwrap();
        assert!(session.try_token().is_none());
        let last = calls.last_mut().unwrap().as_mut();
        assert!(last.poll(&mut context).is_pending(), "all others came first");
    });
}
