//! A caller that is answered at once costs no allocation. The allocator counts for each thread by itself, so the
//! other tests of this binary do not disturb it.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use ccg_session::{Grant, GrantRequest, Session, SessionHandle, TokenError, TokenManager};

struct Manager;

impl TokenManager for Manager {
    async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("x".repeat(1_024))?.expires_in(Duration::from_secs(3_600)))
    }
}

/// With a fresh token that this thread has used.
fn session() -> SessionHandle {
    let session = Session::builder(Manager).spawn_thread().unwrap();
    session.blocking_get_token().unwrap();
    session.try_token().unwrap();
    session
}

fn assert_no_allocation(what: &str, call: impl Fn()) {
    call();
    let counted = measure(|| (0..1_000).for_each(|_| call()));
    assert_eq!(counted.count_total, 0, "{what}, 1,000 times: {counted:?}");
}

#[test]
fn this_test_can_fail() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1);
}

#[test]
fn get_token() {
    let session = session();
    assert_no_allocation("get_token", || {
        let call = std::pin::pin!(session.get_token());
        let answer = call.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(answer, Poll::Ready(Ok(_))));
    });
}

#[test]
fn try_token() {
    let session = session();
    assert_no_allocation("try_token", || assert!(session.try_token().is_some()));
}

#[test]
fn header_value() {
    let session = session();
    assert_no_allocation("header_value", || {
        let token = session.try_token().unwrap();
        assert!(token.header_value().clone().is_sensitive());
    });
}
