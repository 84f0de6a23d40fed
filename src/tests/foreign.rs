//! Code that is not the session's own panics wherever the session runs it, and the session goes on: each
//! attempt ends exactly once, and whoever waits is told.

use std::error::Error;
use std::fmt::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::recording::record;
use crate::foreign::guarded;
use crate::{
    Grant, GrantRequest, Session, SessionError, SessionHandle, TokenError, TokenManager,
    TokenRequestOptions, TokenText,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Fails so many times, with what `fail` makes, and then grants.
struct Fails<F> {
    times: AtomicUsize,
    fail: F,
    attempts: Arc<AtomicUsize>,
}

impl<F: Fn() -> TokenError + Send + Sync + 'static> TokenManager for Fails<F> {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        self.attempts.fetch_add(1, SeqCst);
        let left = self.times.fetch_update(SeqCst, SeqCst, |times| times.checked_sub(1));
        match left {
            Ok(_) => Err((self.fail)()),
            Err(_) => Ok(Grant::bearer("token")?.expires_in(HOUR)),
        }
    }
}

/// After one failure the session has its token by the second attempt.
async fn the_second_attempt_succeeds(fail: impl Fn() -> TokenError + Send + Sync + 'static) {
    let attempts = Arc::new(AtomicUsize::new(0));
    let manager = Fails { times: AtomicUsize::new(1), fail, attempts: Arc::clone(&attempts) };
    let session = Session::builder(manager).spawn().unwrap();
    let token = session.get_token().await.expect("the session goes on");
    assert_eq!(token.secret(), "token");
    assert_eq!(attempts.load(SeqCst), 2);
    let counters = session.status().counters();
    assert_eq!((counters.grants_started, counters.grants_failed), (2, 1));
}

/// Where an error panics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Display,
    Debug,
    Source,
    Drop,
}

struct Hostile(At);

impl Hostile {
    fn panic_at(&self, at: At) {
        assert!(self.0 != at, "{at:?} panics");
    }
}

impl fmt::Display for Hostile {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.panic_at(At::Display);
        Ok(())
    }
}

impl fmt::Debug for Hostile {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.panic_at(At::Debug);
        Ok(())
    }
}

impl Error for Hostile {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.panic_at(At::Source);
        None
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // One that panics while another panic goes on would end the process.
        if !std::thread::panicking() {
            self.panic_at(At::Drop);
        }
    }
}

/// Writes down all that it is told, as text; panics where it is told to.
#[derive(Default)]
struct Recording {
    panics_in: Option<&'static str>,
    seen: Arc<AtomicUsize>,
}

impl Recording {
    fn called(&self, what: &'static str) {
        self.seen.fetch_add(1, SeqCst);
        assert!(self.panics_in != Some(what) || std::thread::panicking(), "{what} panics");
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{value:?}");
    }

    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        let mut next = Some(value);
        while let Some(error) = next {
            self.0 += &error.to_string();
            next = error.source();
        }
    }
}

impl Subscriber for Recording {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        self.called("new_span");
        attributes.record(&mut Text(String::new()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        self.called("record");
        values.record(&mut Text(String::new()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.called("event");
        event.record(&mut Text(String::new()));
    }

    fn enter(&self, _: &Id) {
        self.called("enter");
    }

    fn exit(&self, _: &Id) {
        self.called("exit");
    }

    fn try_close(&self, _: Id) -> bool {
        self.called("try_close");
        false
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_panics_when_it_is_shown_or_dropped_is_one_of_its_attempt() {
    let recording = Recording::default();
    let seen = Arc::clone(&recording.seen);
    let _guard = record(recording);
    for at in [At::Display, At::Debug, At::Source, At::Drop] {
        the_second_attempt_succeeds(move || TokenError::Transport {
            source: Arc::new(Hostile(at)),
            address: None,
            retry_after: None,
        })
        .await;
        the_second_attempt_succeeds(move || TokenError::Credential {
            source: Arc::new(Hostile(at)),
        })
        .await;
    }
    assert!(seen.load(SeqCst) > 0, "nothing was recorded");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_ends_no_session_and_no_attempt_is_lost() {
    for what in ["new_span", "record", "event", "enter", "exit", "try_close"] {
        let recording = Recording { panics_in: Some(what), ..Recording::default() };
        let _guard = record(recording);
        let attempts = Arc::new(AtomicUsize::new(0));
        let fail = || TokenError::server(503, None);
        let manager = Fails { times: AtomicUsize::new(1), fail, attempts };
        let session = Session::builder(manager).spawn().unwrap();
        // Its attempts may all be lost to it, but each of them ends.
        let answer = session.get_token().await;
        let counters = session.status().counters();
        assert!(!matches!(answer, Err(SessionError::Closed)), "{what} ends the session");
        assert!((1..=3).contains(&counters.grants_started), "{what}: {counters:?}");
        match answer {
            Ok(_) => assert_eq!(counters.grants_failed + 1, counters.grants_started, "{what}"),
            Err(_) => assert_eq!(counters.grants_failed, counters.grants_started, "{what}"),
        }
        session.shutdown().await;
    }
}

/// A manager that panics when it is asked again what it can do.
struct Asked {
    panics: &'static str,
    /// How many tokens it has granted.
    grants: AtomicUsize,
}

impl Asked {
    fn panic_at(&self, what: &str) {
        assert!(self.panics != what || self.grants.load(SeqCst) == 0, "{what} panics");
    }
}

impl TokenManager for Asked {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let number = self.grants.fetch_add(1, SeqCst);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(HOUR))
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        Ok(())
    }

    fn can_exchange(&self) -> bool {
        self.panic_at("can_exchange");
        false
    }

    fn can_revoke(&self) -> bool {
        self.panic_at("can_revoke");
        true
    }

    fn assumed_lifetime(&self) -> Duration {
        self.panic_at("assumed_lifetime");
        HOUR
    }
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_panics_when_asked_again_what_it_can_do_ends_no_session() {
    for panics in ["can_exchange", "can_revoke", "assumed_lifetime"] {
        let manager = Asked { panics, grants: AtomicUsize::new(0) };
        let session = Session::builder(manager).spawn().unwrap();
        assert_eq!(session.get_token().await.expect(panics).secret(), "token-0");
        session.revoke().await.expect(panics);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(session.get_token().await.expect(panics).secret(), "token-1");
    }
}

/// A caller's waker that panics when it is woken, or else when it is dropped.
struct HostileWaker {
    in_wake: bool,
}

impl Wake for HostileWaker {
    fn wake(self: Arc<Self>) {
        assert!(!self.in_wake, "a waker panics");
    }
}

impl Drop for HostileWaker {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a waker panics when it is dropped");
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[tokio::test(start_paused = true)]
async fn a_callers_waker_that_panics_ends_nobody_elses_call() {
    for in_wake in [true, false] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let fail = || TokenError::Panicked;
        let manager = Fails { times: AtomicUsize::new(0), fail, attempts };
        let session: SessionHandle = Session::builder(manager).spawn().unwrap();
        let mut hostile = Box::pin(session.get_token());
        let mut leaves = Box::pin(session.get_token());
        for call in [&mut hostile, &mut leaves] {
            // Whoever lets go of the call last drops its waker.
            let waker = Waker::from(Arc::new(HostileWaker { in_wake }));
            assert!(poll_once(call.as_mut(), &waker).is_pending());
        }
        guarded(|| drop(leaves));
        session.get_token().await.expect("the session goes on");
        for _ in 0..10 {
            yield_now().await;
        }
        // Here it is the caller who drops it.
        guarded(|| poll_once(hostile.as_mut(), Waker::noop()));
        guarded(|| drop(hostile));
        assert_eq!(session.status().counters().grants_started, 1);
        session.shutdown().await;
        assert!(matches!(session.get_token().await, Err(SessionError::Closed)));
    }
}

struct Grants;

impl TokenManager for Grants {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("token")?.expires_in(HOUR))
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_leaves_nobody_asleep_who_waits_for_the_same() {
    for hostile in [1, 2, 8, 40] {
        let session = Session::builder(Grants).spawn().unwrap();
        let wakers: Vec<Waker> =
            (0..hostile).map(|_| Arc::new(HostileWaker { in_wake: true }).into()).collect();
        let mut changes: Vec<_> = wakers.iter().map(|_| session.subscribe()).collect();
        let mut awaited: Vec<_> = changes.iter_mut().map(|it| Box::pin(it.changed())).collect();
        let mut ended: Vec<_> = wakers.iter().map(|_| Box::pin(session.shutdown())).collect();
        let mut others = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let mut changes = session.subscribe();
            others.spawn(async move { while changes.changed().await.is_some() {} });
        }
        for (awaited, waker) in awaited.iter_mut().zip(&wakers) {
            assert!(poll_once(awaited.as_mut(), waker).is_pending());
        }
        yield_now().await;
        session.get_token().await.unwrap();
        // A shutdown begins when it is polled.
        for _ in 0..5 {
            let session = session.clone();
            others.spawn(async move { session.shutdown().await });
        }
        for (ended, waker) in ended.iter_mut().zip(&wakers) {
            assert!(poll_once(ended.as_mut(), waker).is_pending());
        }
        let all = tokio::time::timeout(HOUR, others.join_all()).await;
        let all = all.unwrap_or_else(|_| panic!("{hostile} hostile wakers: somebody sleeps"));
        assert_eq!(all.len(), 64 + 5);
        guarded(|| drop(awaited));
        guarded(|| drop(ended));
        for waker in wakers {
            guarded(|| drop(waker));
        }
    }
}
