//! What the session's task does for one message, beside much that waits or is kept; and what others notice of it.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use ccg_session::{
    AccessToken, ExchangeRequest, ExchangedToken, Grant, GrantRequest, SessionConfig, SessionError,
    SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, cpu, figures, median, now};
use crate::subjects::ours::{self, InProcess};

pub const EVENTS: Scenario = Scenario {
    name: "events",
    title: "Cost of an event",
    told: "Of the whole process, on one thread. *Kept*: an exchange for one more key, beside so many that are \
           kept; the one that was there first goes. *Waiting*: a caller that comes for one more key and \
           leaves, beside so many that wait behind a revocation. *Ledger*: as *kept*, but nothing is \
           kept, and all tokens are known for the next revoke (4,096 at most).",
    case: "keys",
    cases: &[1_000, 4_000, 32_000],
    columns: &[
        Column::plain("kept_us", "kept, µs"),
        Column::plain("waiting_us", "waiting, µs"),
        Column::plain("ledger_us", "ledger, µs"),
    ],
    who: Who::Ours,
    rounds: None,
};

pub const CROWD: Scenario = Scenario {
    name: "crowd",
    title: "A crowd behind a revocation",
    told: "So many exchanges come, each for a key of its own, while the server takes 2 s for a revocation; all on \
           one thread. *Another's turn*: how long a task that never waits for anything but its turn waited for \
           that at most.",
    case: "exchanges",
    cases: &[1_000, 8_000],
    columns: &[
        Column::plain("turn_ms", "another's turn, ms"),
        Column::plain("revoke_ms", "revoke() takes, ms"),
    ],
    who: Who::Ours,
    rounds: None,
};

const EVENTS_EACH: usize = 2_000;

pub fn play(keys: usize) -> Figures {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        figures([
            ("kept_us", of_an_exchange(InProcess { token_length: 32 }, keys, keys).await),
            ("waiting_us", of_one_who_leaves(keys).await),
            ("ledger_us", of_an_exchange(Revoking(None), keys, 0).await),
        ])
    })
}

/// With so many keys seen, of which so many tokens are kept.
async fn of_an_exchange(manager: impl TokenManager, seen: usize, kept: usize) -> f64 {
    let mut config = SessionConfig::default();
    config.exchange_capacity = kept;
    let session = ours::spawn(manager, config);
    for key in 0..seen {
        session.exchange(request(key)).await.expect("it is granted");
    }
    let mut next = seen;
    let mut costs = [0.0; 5];
    for cost in &mut costs {
        let used = cpu();
        for _ in 0..EVENTS_EACH {
            session.exchange(request(next)).await.expect("it is granted");
            next += 1;
        }
        *cost = (cpu() - used) as f64 / 1e3 / EVENTS_EACH as f64;
    }
    median(&mut costs)
}

async fn of_one_who_leaves(waiting: usize) -> f64 {
    let mut config = SessionConfig::default();
    config.retry.attempt_timeout = Duration::from_secs(3_600);
    let session = ours::spawn(Revoking(None), config);
    session.get_token().await.expect("it is granted");
    let mut revoke = Box::pin(session.revoke());
    assert!(poll(&mut revoke).is_none(), "the server does not answer");
    let mut calls: VecDeque<_> = (0..waiting).map(|key| call(&session, key)).collect();
    held(&session, waiting).await;
    let mut costs = [0.0; 5];
    for cost in &mut costs {
        let used = cpu();
        for key in waiting..waiting + EVENTS_EACH {
            drop(call(&session, key));
        }
        // One that stays comes behind all of them in the mailbox.
        calls.push_back(call(&session, waiting + EVENTS_EACH));
        held(&session, calls.len()).await;
        *cost = (cpu() - used) as f64 / 1e3 / EVENTS_EACH as f64;
    }
    median(&mut costs)
}

pub fn crowd(exchanges: usize) -> Figures {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let config = SessionConfig::default();
        let session = ours::spawn(Revoking(Some(Duration::from_secs(2))), config);
        session.get_token().await.expect("it is granted");
        let is_over = Arc::new(AtomicBool::new(false));
        let other = tokio::spawn({
            let is_over = Arc::clone(&is_over);
            async move {
                let (mut longest, mut last) = (0, now());
                while !is_over.load(Relaxed) {
                    yield_now().await;
                    let turn = now();
                    longest = longest.max(turn - last);
                    last = turn;
                }
                longest
            }
        });
        let start = now();
        let revoking = tokio::spawn({
            let session = session.clone();
            async move {
                session.revoke().await.expect("the server answers");
                now() - start
            }
        });
        yield_now().await;
        let mut exchanging = Vec::new();
        for key in 0..exchanges {
            let session = session.clone();
            exchanging.push(tokio::spawn(async move { session.exchange(request(key)).await }));
            yield_now().await;
        }
        let revoke = revoking.await.expect("no panic");
        for exchange in exchanging {
            exchange.await.expect("no panic").expect("it is granted");
        }
        is_over.store(true, Relaxed);
        let longest = other.await.expect("no panic");
        figures([("turn_ms", longest as f64 / 1e6), ("revoke_ms", revoke as f64 / 1e6)])
    })
}

async fn held(session: &SessionHandle, callers: usize) {
    while session.status().held() < callers {
        yield_now().await;
    }
}

fn request(key: usize) -> ExchangeRequest {
    ExchangeRequest::scopes([format!("scope_{key}")])
}

type Call<'a> = Pin<Box<dyn Future<Output = Result<ExchangedToken, SessionError>> + 'a>>;

/// One that has been sent.
fn call(session: &SessionHandle, key: usize) -> Call<'_> {
    let mut call: Call<'_> = Box::pin(session.exchange(request(key)));
    assert!(poll(&mut call).is_none(), "it has to wait");
    call
}

fn poll<F: Future + ?Sized>(call: &mut Pin<Box<F>>) -> Option<F::Output> {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}

/// [`InProcess`], with revocations that take so long, or do not end.
struct Revoking(Option<Duration>);

impl TokenManager for Revoking {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // A token that was revoked is not to come back.
        let token = format!("token-{}", NEXT.fetch_add(1, Relaxed));
        Ok(Grant::bearer(token)?.expires_in(Duration::from_secs(3_600)))
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        InProcess { token_length: 32 }.exchange(subject, request).await
    }

    fn can_exchange(&self) -> bool {
        true
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        match self.0 {
            Some(time) => {
                sleep(time).await;
                Ok(())
            }
            None => pending().await,
        }
    }

    fn can_revoke(&self) -> bool {
        true
    }
}
