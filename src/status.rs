//! What a session shows of itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::coop;

use crate::instant::Instant;
use crate::machine::{Counters, Facts, Phase};

/// What a session was doing when it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    facts: Facts,
    now: Instant,
}

impl Status {
    pub(crate) fn new(facts: Facts, now: Instant) -> Self {
        Self { facts, now }
    }

    /// Where it stands.
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

    /// What the session has done since it started.
    pub fn counters(&self) -> Counters {
        self.facts.counters
    }
}

/// Follows a session's [`Status`]: see [`subscribe`](crate::SessionHandle::subscribe).
#[derive(Clone, Debug)]
pub struct StatusSubscription {
    board: Arc<Board>,
    seen: u64,
}

impl StatusSubscription {
    /// Waits until the session has done something since this was last asked; `None` once it has ended.
    /// Changes may be skipped, but never the last. That time passes (a token becomes stale) is not
    /// told.
    ///
    /// # Cancel safety
    /// Cancel safe: no change is lost.
    pub async fn changed(&mut self) -> Option<Status> {
        let facts = self.board.changed(&mut self.seen).await?;
        Some(Status::new(facts, crate::clock::now()))
    }
}

/// Where the session shows its facts.
///
/// Not tokio's watch channel, which is a good twice as large: a process may have a hundred thousand
/// sessions.
#[derive(Debug)]
pub(crate) struct Board {
    shown: Mutex<Shown>,
    bell: Notify,
}

#[derive(Debug)]
struct Shown {
    facts: Facts,
    changes: u64,
    ended: bool,
}

impl Board {
    pub(crate) fn new(facts: Facts) -> Self {
        let shown = Shown { facts, changes: 0, ended: false };
        Self { shown: Mutex::new(shown), bell: Notify::new() }
    }

    pub(crate) fn facts(&self) -> Facts {
        self.lock().facts
    }

    /// Shows these, and returns those that were shown before.
    pub(crate) fn show(&self, facts: Facts) -> Facts {
        let mut shown = self.lock();
        let before = std::mem::replace(&mut shown.facts, facts);
        if facts != before {
            shown.changes += 1;
            drop(shown);
            self.bell.notify_waiters();
        }
        before
    }

    /// Nothing will be shown any more.
    pub(crate) fn end(&self) {
        let counters = self.facts().counters;
        self.show(Facts { closed: true, counters, ..Facts::default() });
        self.lock().ended = true;
        self.bell.notify_waiters();
    }

    /// Follows what is shown from now on.
    pub(crate) fn subscribe(self: &Arc<Self>) -> StatusSubscription {
        StatusSubscription { board: Arc::clone(self), seen: self.lock().changes }
    }

    /// Waits for a change after the one `seen`; `None` once there will be no other.
    async fn changed(&self, seen: &mut u64) -> Option<Facts> {
        // Or who follows a busy session would keep other tasks from running.
        coop::consume_budget().await;
        loop {
            // Made before looking: it hears what is rung from here on.
            let rung = self.bell.notified();
            {
                let shown = self.lock();
                if shown.changes != *seen {
                    *seen = shown.changes;
                    return Some(shown.facts);
                }
                if shown.ended {
                    return None;
                }
            }
            rung.await;
        }
    }

    /// Nothing in here panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
