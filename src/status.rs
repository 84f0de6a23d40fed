//! What a session shows of itself.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::error::TokenError;
use crate::foreign::with_contained_waker;
use crate::instant::Instant;
use crate::machine::{Counters, Facts, Phase};

/// A snapshot of a session's state.
#[derive(Clone)]
pub struct Status {
    facts: Facts,
    now: Instant,
}

impl Status {
    pub(crate) fn new(facts: Facts, now: Instant) -> Self {
        Self { facts, now }
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.facts.phase(self.now)
    }

    /// The generation of the current token, which rises with each new token. `None` if there is no token. The
    /// token may have expired.
    pub fn generation(&self) -> Option<u64> {
        self.facts.token.map(|token| token.generation)
    }

    /// The remaining lifetime of the current token: zero if it has expired, [`Duration::MAX`] if it never does,
    /// `None` if there is no token.
    pub fn remaining(&self) -> Option<Duration> {
        self.facts.token.map(|token| match token.expires_at {
            Instant::NEVER => Duration::MAX,
            expires_at => expires_at.since(self.now),
        })
    }

    /// How long until the current token is due for a refresh: zero if it is due, `None` if there is no token.
    pub fn stale_in(&self) -> Option<Duration> {
        self.facts.token.map(|token| token.stale_at.since(self.now))
    }

    /// How long until the next attempt may start after a failure. `None` if the session is not backing off.
    pub fn retry_after(&self) -> Option<Duration> {
        let not_before = self.facts.not_before.filter(|at| self.now < *at)?;
        Some(not_before.since(self.now))
    }

    /// How many callers wait, for a token, an exchange or a revoke.
    pub fn held(&self) -> usize {
        self.facts.held
    }

    /// The error of the last failed series of grant attempts; `None` once a token has been received since.
    /// Callers do not see it while the previous token is still valid.
    pub fn last_error(&self) -> Option<&TokenError> {
        self.facts.last_error.as_ref().map(|last| &*last.0)
    }

    /// How long ago the last token was received; `None` if none has been yet.
    pub fn last_success(&self) -> Option<Duration> {
        self.facts.last_success.map(|at| self.now.since(at))
    }

    /// What the session has done since it started.
    pub fn counters(&self) -> Counters {
        self.facts.counters
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("phase", &self.phase())
            .field("generation", &self.generation())
            .field("remaining", &self.remaining())
            .field("stale_in", &self.stale_in())
            .field("retry_after", &self.retry_after())
            .field("held", &self.held())
            .field("last_error", &self.last_error())
            .field("last_success", &self.last_success())
            .field("counters", &self.counters())
            .finish()
    }
}

/// Follows a session's [`Status`]: see [`subscribe`](crate::SessionHandle::subscribe).
#[derive(Clone, Debug)]
pub struct StatusSubscription(watch::Receiver<Facts>);

impl StatusSubscription {
    /// What is shown from now on: `shown` may have been looked at long ago, or never.
    pub(crate) fn new(shown: &watch::Receiver<Facts>) -> Self {
        let mut shown = shown.clone();
        shown.mark_unchanged();
        Self(shown)
    }

    /// Waits for a change since the last call; returns `None` once the session has ended. Intermediate changes
    /// may be skipped, but never the last one. The passing of time alone (a token becoming stale) is not a
    /// change.
    ///
    /// # Cancel safety
    /// Cancel safe: no change is lost.
    pub async fn changed(&mut self) -> Option<Status> {
        with_contained_waker(self.0.changed()).await.ok()?;
        let facts = self.0.borrow_and_update().clone();
        Some(Status::new(facts, clock::now()))
    }
}
