//! The tasks: each asks for a token and uses it, as fast as it can.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use ccg_session::testing::Authority;
use ccg_session::{AccessToken, SessionError, SessionHandle};
use hdrhistogram::Histogram;
use http::StatusCode;
use http::header::AUTHORIZATION;
use reqwest_middleware::{ClientWithMiddleware, Error};
use serde::Deserialize;

use super::record::{Grants, Record, Stage};
use crate::failure::Failure;

/// All that the tasks share.
pub(super) struct World {
    pub(super) authority: Authority,
    /// The authority's clock, and the day's: the same, read one after the other at the start.
    pub(super) authority_started: Clocks,
    pub(super) resource_url: String,
    pub(super) session: SessionHandle,
    /// It puts the session's token on what goes to the authority, and meets its refusals.
    pub(super) client: ClientWithMiddleware,
    pub(super) record: Arc<Record>,
    /// For each task, how many answers it has had.
    pub(super) answers: Vec<AtomicU64>,
    pub(super) stop: AtomicBool,
    /// The tasks keep their first token.
    pub(super) sabotage: bool,
}

/// One moment on two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    ours: Instant,
    authority: Duration,
}

impl Clocks {
    /// Ours is read first. So what is told in the authority's time is told too late rather than too
    /// early, and no refusal is excused that should not be.
    pub(super) fn read(authority: &Authority) -> Self {
        let ours = Instant::now();
        Self { ours, authority: authority.elapsed() }
    }

    fn in_authority_time(&self, at: Instant) -> Duration {
        self.authority + at.saturating_duration_since(self.ours)
    }
}

/// What one task, or all of them, met.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) get_token: u64,
    pub(super) used: u64,
    pub(super) refused: u64,
    /// Refused, but the authority's own times say that the token was revoked after the request began.
    pub(super) revoked_on_the_way: u64,
    /// Requests to the resource that got neither 200 nor 401.
    pub(super) unusable: u64,
    pub(super) errors: Errors,
    /// Of the answers that needed no grant.
    pub(super) latency: Histogram<u32>,
}

/// Errors of `get_token` and `exchange`, by the stage in which they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Errors {
    pub(super) stale_outage: u64,
    pub(super) expired_outage: u64,
    pub(super) other: u64,
}

impl Errors {
    /// A call belongs to an outage if it began or ended in it. The one across expiry is over when
    /// there is a token again.
    pub(super) fn count(&mut self, began: Stage, ended: Stage) {
        let across_expiry = |stage| matches!(stage, Stage::ExpiredOutage | Stage::Recovery);
        if across_expiry(began) || across_expiry(ended) {
            self.expired_outage += 1;
        } else if began == Stage::StaleOutage || ended == Stage::StaleOutage {
            self.stale_outage += 1;
        } else {
            self.other += 1;
        }
    }
}

impl Tally {
    pub(super) fn new() -> Result<Self, Failure> {
        // Three digits are kept, of any number of nanoseconds.
        let latency = Histogram::new(3)
            .map_err(|error| Failure::Usage(format!("no latency can be counted: {error}")))?;
        Ok(Self {
            get_token: 0,
            used: 0,
            refused: 0,
            revoked_on_the_way: 0,
            unusable: 0,
            errors: Errors::default(),
            latency,
        })
    }

    pub(super) fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.get_token += other.get_token;
        self.used += other.used;
        self.refused += other.refused;
        self.revoked_on_the_way += other.revoked_on_the_way;
        self.unusable += other.unusable;
        self.errors.stale_outage += other.errors.stale_outage;
        self.errors.expired_outage += other.errors.expired_outage;
        self.errors.other += other.errors.other;
        self.latency
            .add(&other.latency)
            .map_err(|error| Failure::Usage(format!("no latency can be counted: {error}")))
    }
}

/// One task's day.
pub(super) async fn call_all_day(world: Arc<World>, task: usize, mut tally: Tally) -> Tally {
    let mut first_token = None;
    while !world.stop.load(Relaxed) {
        let began = world.record.stage();
        let grants = world.record.grants();
        let asked = Instant::now();
        let (answer, at_once) = get_token(&world.session).await;
        let answered = Instant::now();
        tally.get_token += 1;
        world.answers[task].fetch_add(1, Relaxed);
        match answer {
            Ok(token) => {
                if at_once || no_grant_since(grants, world.record.grants()) {
                    let nanos = u64::try_from((answered - asked).as_nanos()).unwrap_or(u64::MAX);
                    // It grows with what it is given, so it takes anything.
                    let _ = tally.latency.record(nanos);
                }
                let kept = world.sabotage.then(|| &*first_token.get_or_insert(token));
                if let Err(error) = call_the_api(&world, kept, answered, &mut tally).await {
                    tally.errors.count(began, world.record.stage());
                    tokio::time::sleep(patience(&error)).await;
                }
            }
            Err(error) => {
                tally.errors.count(began, world.record.stage());
                tokio::time::sleep(patience(&error)).await;
            }
        }
    }
    tally
}

/// The answer, and whether it was there without waiting for anything.
async fn get_token(session: &SessionHandle) -> (Result<AccessToken, SessionError>, bool) {
    let mut call = pin!(session.get_token());
    match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
        Poll::Ready(answer) => (answer, true),
        Poll::Pending => (call.await, false),
    }
}

/// An answer that came by way of the session's task needed no grant either, if there was none.
fn no_grant_since(before: Grants, now: Grants) -> bool {
    before.in_flight == 0 && before == now
}

/// A caller that got an error asks again soon, but does not spin.
fn patience(error: &SessionError) -> Duration {
    error
        .retry_after()
        .unwrap_or_default()
        .clamp(Duration::from_millis(5), Duration::from_millis(50))
}

/// What the authority says of a token that it refuses.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    refused: String,
    revoked_at_ns: Option<u64>,
}

/// With the session's token, as the client puts it on; or with one that was kept, which it leaves alone. An
/// error is the session's.
async fn call_the_api(
    world: &World,
    kept: Option<&AccessToken>,
    sent: Instant,
    tally: &mut Tally,
) -> Result<(), SessionError> {
    let mut request = world.client.get(&world.resource_url);
    if let Some(token) = kept {
        request = request.header(AUTHORIZATION, token.header_value().clone());
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(Error::Middleware(error)) if error.is::<SessionError>() => {
            return Err(error.downcast().unwrap_or(SessionError::Closed));
        }
        Err(_) => {
            tally.unusable += 1;
            return Ok(());
        }
    };
    let status = response.status();
    // Read to its end, so that the connection can be used again.
    let body = response.bytes().await.unwrap_or_default();
    match status {
        StatusCode::OK => tally.used += 1,
        StatusCode::UNAUTHORIZED => {
            let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
            if was_on_its_way(&refusal, world.authority_started.in_authority_time(sent)) {
                tally.revoked_on_the_way += 1;
            } else {
                tally.refused += 1;
            }
        }
        _ => tally.unusable += 1,
    }
    Ok(())
}

/// Whether the request was sent before the token was revoked, both in the authority's time.
fn was_on_its_way(refusal: &Refusal, sent: Duration) -> bool {
    refusal.refused == "revoked"
        && refusal.revoked_at_ns.is_some_and(|at| sent < Duration::from_nanos(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_belongs_to_the_outage_in_which_its_call_began_or_ended() {
        let count = |began, ended| {
            let mut errors = Errors::default();
            errors.count(began, ended);
            (errors.stale_outage, errors.expired_outage, errors.other)
        };
        assert_eq!(count(Stage::StaleOutage, Stage::StaleOutage), (1, 0, 0));
        assert_eq!(count(Stage::StaleOutage, Stage::Exchange), (1, 0, 0));
        assert_eq!(count(Stage::ExpiredOutage, Stage::Recovery), (0, 1, 0));
        assert_eq!(count(Stage::Recovery, Stage::Steady), (0, 1, 0));
        assert_eq!(count(Stage::Refreshes, Stage::Refreshes), (0, 0, 1));
        assert_eq!(count(Stage::Revoke, Stage::Steady), (0, 0, 1));
    }

    #[test]
    fn only_a_request_sent_before_the_revocation_was_on_its_way() {
        let refusal =
            |refused: &str, revoked_at_ns| Refusal { refused: refused.into(), revoked_at_ns };
        let sent = Duration::from_nanos(100);
        assert!(was_on_its_way(&refusal("revoked", Some(101)), sent));
        assert!(!was_on_its_way(&refusal("revoked", Some(100)), sent));
        assert!(!was_on_its_way(&refusal("revoked", None), sent));
        assert!(!was_on_its_way(&refusal("expired", None), sent));
        assert!(!was_on_its_way(&refusal("unknown", Some(101)), sent));
    }

    #[test]
    fn an_answer_needed_no_grant_if_none_was_there_or_came() {
        let grants = |begun, in_flight| Grants { begun, in_flight };
        assert!(no_grant_since(grants(3, 0), grants(3, 0)));
        assert!(!no_grant_since(grants(3, 1), grants(3, 0)), "one ended meanwhile");
        assert!(!no_grant_since(grants(3, 0), grants(4, 1)), "one began");
        assert!(!no_grant_since(grants(3, 0), grants(4, 0)), "one began and ended");
        assert!(!no_grant_since(grants(3, 1), grants(3, 1)), "one is under way");
    }
}
