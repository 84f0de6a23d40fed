//! A gated manager: each grant and each exchange waits for its permit.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccg_session::test_util::suspend;
use ccg_session::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, Permit, PermitRequest, Session,
    SessionError, SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const HOUR: Duration = Duration::from_secs(3600);

/// Gives leave when the test says so, and writes down what becomes of it.
#[derive(Clone)]
struct Gated(Arc<Inner>);

struct Inner {
    leave: Semaphore,
    waits: Mutex<usize>,
    /// Permits that are out.
    given: Mutex<usize>,
    /// There is a token already, so a grant sends nothing.
    has_token: AtomicBool,
    ended: Mutex<Vec<String>>,
    hangs: bool,
    panics: bool,
}

/// Counts those that wait, however they end.
struct Waits(Arc<Inner>);

impl Drop for Waits {
    fn drop(&mut self) {
        *self.0.waits.lock().unwrap() -= 1;
    }
}

/// Counts those that are out, however they end.
struct Given(Arc<Inner>);

impl Given {
    fn new(inner: &Arc<Inner>) -> Self {
        *inner.given.lock().unwrap() += 1;
        Self(Arc::clone(inner))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        *self.0.given.lock().unwrap() -= 1;
    }
}

impl TokenManager for Gated {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        if self.0.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Grant::bearer("token")?.expires_in(HOUR))
    }

    async fn exchange(&self, _: AccessToken, _: ExchangeRequest) -> Result<Grant, TokenError> {
        Err(TokenError::denied("invalid_target", ""))
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        Ok(())
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }

    fn is_gated(&self) -> bool {
        true
    }

    async fn needs_permit(&self, _: &GrantRequest) -> bool {
        !self.0.has_token.load(Relaxed)
    }

    async fn ready(&self, request: &PermitRequest) -> Result<Permit, TokenError> {
        assert!(!self.0.panics, "ready panics");
        *self.0.waits.lock().unwrap() += 1;
        let _waits = Waits(Arc::clone(&self.0));
        self.0.leave.acquire().await.map_err(TokenError::transport)?.forget();
        let given = Given::new(&self.0);
        let kind = match request {
            PermitRequest::Grant(_) => "grant",
            _ => "exchange",
        };
        Ok(Permit::new(move |ended| {
            let ended = ended.map_or_else(ToString::to_string, |()| "ok".into());
            given.0.ended.lock().unwrap().push(format!("{kind}: {ended}"));
        }))
    }
}

impl Gated {
    fn new(hangs: bool, panics: bool) -> Self {
        let leave = Semaphore::new(0);
        let (waits, given, has_token, ended) = Default::default();
        Self(Arc::new(Inner { leave, waits, given, has_token, ended, hangs, panics }))
    }

    fn let_go(&self, many: usize) {
        self.0.leave.add_permits(many);
    }

    fn waits(&self) -> usize {
        *self.0.waits.lock().unwrap()
    }

    fn given(&self) -> usize {
        *self.0.given.lock().unwrap()
    }

    fn ended(&self) -> Vec<String> {
        std::mem::take(&mut self.0.ended.lock().unwrap())
    }
}

fn gated() -> (Gated, SessionHandle) {
    let manager = Gated::new(false, false);
    (manager.clone(), Session::builder(manager).spawn().unwrap())
}

/// All tasks have done what there is to do.
async fn settled() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_permit_lasts_as_long_as_its_attempt() {
    let (manager, session) = gated();
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.get_token().await }
    });
    sleep(Duration::from_secs(50)).await;
    assert_eq!((manager.waits(), session.status().counters().grants_started), (1, 0));
    manager.let_go(1);
    let token = caller.await.unwrap().unwrap();
    assert!(token.remaining() > Duration::from_secs(3599), "the wait is not of its life");
    assert_eq!(manager.ended(), ["grant: ok"]);

    manager.let_go(1);
    session.exchange(ExchangeRequest::scopes(["a"])).await.unwrap_err();
    let ended = manager.ended();
    assert!(ended[0].starts_with("exchange: ") && ended[0].contains("invalid_target"), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_needs_no_permit_waits_for_none() {
    let (manager, session) = gated();
    manager.0.has_token.store(true, Relaxed);
    session.get_token().await.unwrap();
    assert_eq!((manager.waits(), manager.ended()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_ends_its_permit() {
    let manager = Gated::new(true, false);
    let session = Session::builder(manager.clone()).spawn().unwrap();
    manager.let_go(10);
    session.get_token().await.unwrap_err();
    let ended = manager.ended();
    assert!(ended.len() > 1 && ended.iter().all(|it| it.contains("10s")), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_comes_when_nothing_can_be_sent_is_given_back_at_once() {
    let (manager, session) = gated();
    manager.let_go(1);
    session.get_token().await.unwrap();
    let exchanging = tokio::spawn({
        let session = session.clone();
        async move { session.exchange(ExchangeRequest::scopes(["a"])).await }
    });
    settled().await;
    assert_eq!((manager.waits(), manager.given()), (1, 0));
    // The token to exchange is over, and a grant waits for leave of its own.
    suspend(2 * HOUR);
    manager.let_go(1);
    settled().await;
    assert_eq!((manager.waits(), manager.given()), (1, 0));
    manager.let_go(2);
    exchanging.await.unwrap().unwrap_err();
    let ended = manager.ended();
    assert_eq!(ended[..2], ["grant: ok", "grant: ok"], "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_minute_callers_are_told_to_come_again() {
    let (manager, session) = gated();
    let began = Instant::now();
    let error = session.get_token().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 60);
    assert!(error.retry_after().is_some_and(|after| after <= Duration::from_secs(1)));
    let SessionError::Failed { error, .. } = error else { panic!("{error:?}") };
    assert!(matches!(*error, TokenError::RateLimited { .. }), "{error:?}");
    let counters = session.status().counters();
    assert_eq!((counters.grants_started, counters.grants_failed), (0, 0));
    assert_eq!(manager.waits(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_and_a_revoke_give_up_the_wait() {
    let (manager, session) = gated();
    let call = tokio::spawn({
        let session = session.clone();
        async move { session.get_token().await }
    });
    settled().await;
    assert_eq!(manager.waits(), 1);
    manager.let_go(1);
    call.await.unwrap().unwrap();
    drop(tokio::spawn({
        let session = session.clone();
        async move { session.exchange(ExchangeRequest::scopes(["a"])).await }
    }));
    settled().await;
    assert_eq!(manager.waits(), 1, "the exchange waits");
    session.revoke().await.unwrap();
    settled().await;
    assert_eq!(manager.waits(), 0);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(manager.waits(), 1, "the grant that it needs now");
    session.shutdown().await;
    assert_eq!(manager.waits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_panics_at_the_gate_fails_the_flight_and_not_the_session() {
    let session = Session::builder(Gated::new(false, true)).spawn().unwrap();
    for _ in 0..2 {
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Panicked)), "{error:?}");
        sleep(Duration::from_secs(1)).await;
    }
}
