//! Whoever is told something finds it so, whichever threads they run on.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, Session, SessionError, SessionHandle,
    TokenError, TokenManager,
};

const HOUR: Duration = Duration::from_secs(3600);
const RUNS: usize = 3_000;

/// Grants at once.
struct Quick;

impl TokenManager for Quick {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("token")?.expires_in(HOUR))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_status_shows_the_token_that_a_caller_was_given() {
    for run in 0..RUNS {
        let session = Session::builder(Quick).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        let shown = session.status().generation();
        assert!(shown >= Some(token.id().generation()), "run {run}: the status shows {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_subscriber_who_is_told_of_a_token_finds_it() {
    for run in 0..RUNS {
        let session = Session::builder(Quick).spawn().unwrap();
        let mut changes = session.subscribe();
        assert!(session.try_token().is_none());
        loop {
            let status = changes.changed().await.expect("the session goes on");
            if status.generation().is_some() {
                let token = session.try_token();
                assert!(token.is_some(), "run {run}: told of generation {:?}", status.generation());
                break;
            }
        }
    }
}

/// Threads that send while it ends.
fn senders(session: &SessionHandle, over: &Arc<AtomicBool>) -> Vec<thread::JoinHandle<usize>> {
    let send = |nth: usize| {
        let (session, over) = (session.clone(), Arc::clone(over));
        move || {
            let mut calls = 0;
            while !over.load(SeqCst) {
                calls += 1;
                let answer = match nth % 3 {
                    0 => session.blocking_get_token().map(drop),
                    1 => block_on(session.exchange(ExchangeRequest::scopes(["a"]))).map(drop),
                    _ => block_on(session.revoke()),
                };
                if matches!(answer, Err(SessionError::Closed)) {
                    break;
                }
            }
            calls
        }
    };
    (0..6).map(|nth| thread::spawn(send(nth))).collect()
}

/// Without a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        thread::park();
    }
}

/// Never grants, so that all who ask wait.
struct Hangs;

impl TokenManager for Hangs {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        std::future::pending().await
    }
}

#[test]
fn the_end_answers_everybody_whatever_is_being_sent() {
    for run in 0..200_u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let session = {
            let _inside = runtime.enter();
            if run % 2 == 0 {
                Session::builder(Quick).spawn().unwrap()
            } else {
                Session::builder(Hangs).spawn().unwrap()
            }
        };
        let over = Arc::default();
        let senders = senders(&session, &over);
        thread::sleep(Duration::from_micros(run * 13 % 500));
        match run % 3 {
            0 => runtime.block_on(session.shutdown()),
            _ => drop(runtime),
        }
        // Nobody waits for ever; if one did, this would not end.
        for sender in senders {
            assert!(sender.join().unwrap() > 0, "run {run}");
        }
        over.store(true, SeqCst);
    }
}

/// Each grant has another text.
struct Counting(std::sync::atomic::AtomicUsize);

impl TokenManager for Counting {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let number = self.0.fetch_add(1, SeqCst);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(HOUR))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_is_told_that_an_invalidation_counts_does_not_get_that_token_again() {
    let session = Session::builder(Counting(0.into())).spawn().unwrap();
    let first = session.get_token().await.unwrap();
    let tell = |token: crate::AccessToken| {
        let session = session.clone();
        tokio::spawn(async move {
            let counts = session.invalidate(&token);
            let next = session.get_token().await.unwrap();
            (counts, next)
        })
    };
    let telling: Vec<_> = (0..64).map(|_| tell(first.clone())).collect();
    for told in telling {
        let (counts, next) = told.await.unwrap();
        assert!(counts, "nothing has been invalidated before");
        assert_ne!(next, first);
    }
    // Within ten seconds the next one stays.
    let second = session.get_token().await.unwrap();
    let telling: Vec<_> = (0..64).map(|_| tell(second.clone())).collect();
    for told in telling {
        let (counts, next) = told.await.unwrap();
        assert!(!counts, "it is not the token that is wrong");
        assert_eq!(next, second);
    }
    assert!(session.invalidate(&first), "that one is long gone");
    assert_eq!(session.status().counters().invalidations, 1);
}

/// Its poll takes until it is let go.
struct Blocks {
    came: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
    is_over: Arc<AtomicBool>,
}

impl TokenManager for Blocks {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        self.came.send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        self.is_over.store(true, SeqCst);
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_is_told_of_the_end_finds_no_attempt_running() {
    let ((came, comes), (go, goes)) = (mpsc::channel(), mpsc::channel());
    let is_over = Arc::new(AtomicBool::new(false));
    let manager = Blocks { came, go: Mutex::new(goes), is_over: Arc::clone(&is_over) };
    let session = Session::builder(manager).spawn().unwrap();
    assert!(session.try_token().is_none());
    tokio::task::spawn_blocking(move || comes.recv().unwrap()).await.unwrap();
    let mut shutdown = std::pin::pin!(session.shutdown());
    let early = tokio::time::timeout(Duration::from_millis(100), &mut shutdown).await;
    assert!(early.is_err(), "it runs still");
    go.send(()).unwrap();
    shutdown.await;
    assert!(is_over.load(SeqCst));
}

/// Each token has another text.
#[derive(Default)]
struct Exchanges(std::sync::atomic::AtomicUsize);

impl Exchanges {
    fn token(&self) -> Result<Grant, TokenError> {
        let number = self.0.fetch_add(1, SeqCst);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(HOUR))
    }
}

impl TokenManager for Exchanges {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        self.token()
    }

    async fn exchange(&self, _: AccessToken, _: ExchangeRequest) -> Result<Grant, TokenError> {
        // As if it had lived a while: one that is younger is not doubted.
        Ok(self.token()?.age(Duration::from_secs(60)))
    }

    fn can_exchange(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_refuses_an_exchanged_token_does_not_get_it_again() {
    let session = Session::builder(Exchanges::default()).spawn().unwrap();
    let calls = (0..3).map(|_| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut honoured = 0;
            for run in 0..RUNS {
                let ask = || session.exchange(ExchangeRequest::scopes(["a"]));
                let refused = ask().await.unwrap();
                if session.invalidate(&refused) {
                    honoured += 1;
                    let next = ask().await.unwrap();
                    assert_ne!(next.id(), refused.id(), "run {run}");
                }
            }
            honoured
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.unwrap() > RUNS / 2);
    }
}
