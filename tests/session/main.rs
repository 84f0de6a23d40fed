//! The session on tokio's paused clock, with a manager whose answers the test decides. Time moves only
//! when every task is idle, so a wait for simulated time is a wait for everything that can happen.

mod attempts;
mod callers;
mod closing;
mod counting;
mod exchanging;
mod fixed;
mod gate;
mod invalidation;
mod news;
mod recording;
mod refresh;
mod revocation;
mod runtimes;
#[allow(dead_code, reason = "the crate's own tests use more of it")]
mod scripted;
mod shown;
mod storms;
mod suspended;

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ccg_session::test_util::suspend;
use ccg_session::{
    ConfigError, ExchangeRequest, ExchangedToken, Grant, GrantRequest, Phase, RefreshMode, Session,
    SessionBuilder, SessionConfig, SessionError, SessionHandle, TokenError, TokenManager,
    TokenRequestOptions,
};
use scripted::{Asked, Call, Endpoint, Scripted, scripted};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(change: impl FnOnce(&mut SessionConfig)) -> SessionConfig {
    let mut config = SessionConfig::default();
    change(&mut config);
    config
}

fn builder(change: impl FnOnce(&mut SessionConfig)) -> (SessionBuilder<Scripted>, Endpoint) {
    let (manager, endpoint) = scripted();
    (Session::builder(manager).config(config(change)).seed(1), endpoint)
}

fn session_with(change: impl FnOnce(&mut SessionConfig)) -> (SessionHandle, Endpoint) {
    let (builder, endpoint) = builder(change);
    (builder.spawn().unwrap(), endpoint)
}

fn session() -> (SessionHandle, Endpoint) {
    session_with(|_| {})
}

/// A session that holds this token.
async fn session_holding(text: &str, life: Duration) -> (SessionHandle, Endpoint) {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.token(text, life);
    assert_eq!(text_of(asking).await, text);
    (session, endpoint)
}

type Asking = JoinHandle<Result<String, SessionError>>;

/// A caller, in a task of its own.
fn ask(session: &SessionHandle) -> Asking {
    let session = session.clone();
    tokio::spawn(async move { Ok(session.get_token().await?.secret().to_owned()) })
}

async fn text_of(asking: Asking) -> String {
    asking.await.unwrap().unwrap()
}

fn revoke(session: &SessionHandle) -> JoinHandle<Result<(), SessionError>> {
    let session = session.clone();
    tokio::spawn(async move { session.revoke().await })
}

fn exchange(
    session: &SessionHandle,
    request: ExchangeRequest,
) -> JoinHandle<Result<ExchangedToken, SessionError>> {
    let session = session.clone();
    tokio::spawn(async move { session.exchange(request).await })
}

fn scope(name: &str) -> ExchangeRequest {
    ExchangeRequest::scopes([name])
}

/// Lets everything happen that can.
async fn settle() {
    sleep(millis(1)).await;
}

fn unavailable() -> TokenError {
    TokenError::server(503, None)
}

fn denied() -> TokenError {
    TokenError::denied("invalid_client", "no such client")
}

fn fast(session: &SessionHandle) -> Option<String> {
    session.try_token().map(|token| token.secret().to_owned())
}

/// What a call comes to before the session's task has its turn: it is answered there if a handle can tell.
fn at_once<T>(call: impl Future<Output = T>) -> Option<T> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// The same endpoint, asked from many threads: what is on the wire is still one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generations_never_go_back_in_any_task() {
    let (session, endpoint) = session_with(|config| config.refresh_mode = RefreshMode::WhileUsed);
    let mut number = 0;
    let served = endpoint.serve(move |call| {
        number += 1;
        match call.asked {
            Asked::Revocation(..) => call.revoked(),
            _ => call.token(&format!("token-{number}"), HOUR),
        }
    });
    let revoked_from = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (session, revoked_from) = (session.clone(), Arc::clone(&revoked_from));
            tokio::spawn(async move {
                let mut generation = 0;
                for _ in 0..10_000 {
                    let gone = revoked_from.load(Ordering::SeqCst);
                    let token = session.get_token().await.unwrap();
                    let next = token.id().generation();
                    assert!(next >= generation, "{next} after {generation}");
                    assert!(next > gone, "{next} was revoked before it was asked for");
                    generation = next;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..2 {
        let held = session.get_token().await.unwrap().id().generation();
        session.revoke().await.unwrap();
        revoked_from.store(held, Ordering::SeqCst);
    }
    for reader in readers {
        reader.await.unwrap();
    }
    drop(session);
    assert_eq!(served.await.unwrap().grants_on_wire_max, 1);
}
