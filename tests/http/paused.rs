//! What somebody meets who pauses tokio's time without the feature `test-util`: an error that names it, from
//! the call, and neither a hang nor a loop.

use std::future::pending;

use ccg_session::testing::{Authority, Kind};
use ccg_session::{
    ExchangeRequest, Grant, GrantRequest, Phase, RefreshMode, SessionError, SessionHandle,
    TokenError, TokenManager,
};
use tokio::time::{Instant, sleep};

use super::{secs, session_of};

/// Answers at once, in the way that is named.
enum Manager {
    Token,
    Error,
    Nothing,
}

impl TokenManager for Manager {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        match self {
            Self::Token => Ok(Grant::bearer("one")?.expires_in(secs(3_600))),
            Self::Error => Err(TokenError::server(503, None)),
            Self::Nothing => pending().await,
        }
    }
}

fn assert_named<T>(result: Result<T, SessionError>) {
    let error = result.map(drop).unwrap_err();
    assert!(matches!(error, SessionError::TimePaused), "{error:?}");
    assert!(error.to_string().contains("`test-util`"), "{error}");
}

/// This call ends so, and every one after it.
async fn assert_over(session: &SessionHandle) {
    let (mut changes, asking) = (session.subscribe(), session.exchange(ExchangeRequest::default()));
    let (asked, exchanged) = tokio::join!(session.get_token(), asking);
    assert_named(asked);
    assert!(exchanged.is_err());
    while changes.changed().await.is_some() {}
    assert_named(session.get_token().await);
    assert_named(session.exchange(ExchangeRequest::default()).await);
    assert_named(session.revoke().await);
    assert_named(session.blocking_get_token());
    assert_eq!(session.try_token(), None);
    assert_eq!(session.status().phase(), Phase::Closed);
    session.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_time_would_pass_at_once() {
    let session = session_of(Manager::Nothing, |_| {});
    let began = Instant::now();
    assert_over(&session).await;
    // On tokio's clock: each sleep of the session's has passed once, or a few times, but not for ever.
    assert!(began.elapsed() < secs(120), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pause_between_attempts() {
    assert_over(&session_of(Manager::Error, |_| {})).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_does_not_come() {
    let session = session_of(Manager::Token, |config| config.refresh_mode = RefreshMode::Always);
    assert_eq!(session.get_token().await.unwrap().secret(), "one");
    sleep(secs(3_600)).await;
    assert_over(&session).await;
}

#[tokio::test]
async fn real_requests_on_the_wire() {
    let authority = Authority::start().await.unwrap();
    let session = session_of(authority.manager().unwrap(), |_| {});
    session.get_token().await.unwrap();
    session.invalidate(&session.get_token().await.unwrap());
    let _gate = authority.hold(Kind::Grant);
    tokio::time::pause();
    assert_over(&session).await;
}

/// As long as nobody sleeps, nothing is wrong: what is answered at once is answered.
#[tokio::test(start_paused = true)]
async fn calls_that_are_answered_at_once() {
    let session = session_of(Manager::Token, |_| {});
    assert_eq!(session.get_token().await.unwrap().secret(), "one");
    assert_eq!(session.status().phase(), Phase::Fresh);
    session.shutdown().await;
    assert!(matches!(session.get_token().await, Err(SessionError::Closed)));
}
