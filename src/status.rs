//! What a session shows of itself.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::error::TokenError;
use crate::instant::Instant;
use crate::machine::{Counters, Facts, Phase};

/// What a session was doing when it was asked.
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

    /// The generation of the token held: it rises with each new token. `None` if none is held; an expired
    /// one may be.
    pub fn generation(&self) -> Option<u64> {
        self.facts.token.map(|token| token.generation)
    }

    /// How much of the life of the token held is left; zero if it has expired, [`Duration::MAX`] if it
    /// never does. `None` if none is held.
    pub fn remaining(&self) -> Option<Duration> {
        self.facts.token.map(|token| match token.expires_at {
            Instant::NEVER => Duration::MAX,
            expires_at => expires_at.since(self.now),
        })
    }

    /// How long until the token held is due for a refresh; zero if it is, `None` if none is held.
    pub fn stale_in(&self) -> Option<Duration> {
        self.facts.token.map(|token| token.stale_at.since(self.now))
    }

    /// After a failure: how long the server is still left alone. `None` if it is not.
    pub fn retry_after(&self) -> Option<Duration> {
        let not_before = self.facts.not_before.filter(|at| self.now < *at)?;
        Some(not_before.since(self.now))
    }

    /// How many callers wait, for a token, an exchange or a revoke.
    pub fn held(&self) -> usize {
        self.facts.held
    }

    /// What the last series of attempts at a token met that failed; `None` once a token has come since. It
    /// is no caller's error while the token before it is good.
    pub fn last_error(&self) -> Option<&TokenError> {
        self.facts.last_error.as_ref().map(|last| &*last.0)
    }

    /// How long ago a token came last; `None` if none has yet.
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

    /// Waits until the session has done something since this was last asked; `None` once it has ended.
    /// Changes may be skipped, but never the last. It does not fire
    /// merely because time passes (a token becomes stale).
    ///
    /// # Cancel safety
    /// Cancel safe: no change is lost.
    pub async fn changed(&mut self) -> Option<Status> {
        self.0.changed().await.ok()?;
        let facts = self.0.borrow_and_update().clone();
        Some(Status::new(facts, clock::now()))
    }
}
