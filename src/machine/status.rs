//! What the session is doing, for people and dashboards: nothing here decides anything.

use std::fmt;
use std::sync::Arc;

use crate::error::TokenError;
use crate::instant::Instant;

/// The phase of a session, derived from its state on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// No usable token, and none is being fetched: the next caller starts a grant.
    Empty,
    /// A token that is not yet stale.
    Fresh,
    /// A usable token that is due for a refresh.
    Stale,
    /// A usable token, while a new one is being fetched.
    Refreshing,
    /// No usable token, and one is being fetched: callers wait for it.
    Holding,
    /// No usable token, and the session is backing off after a failure: callers get that error.
    Cooling,
    /// A revoke is under way, and callers wait for its end.
    Revoking,
    /// The session has ended.
    Closed,
}

impl Phase {
    /// Its name as used in metric labels, for example `"fresh"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Refreshing => "refreshing",
            Self::Holding => "holding",
            Self::Cooling => "cooling",
            Self::Revoking => "revoking",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The facts that a phase is derived from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) closed: bool,
    pub(crate) barrier_up: bool,
    pub(crate) flight_open: bool,
    pub(crate) not_before: Option<Instant>,
    pub(crate) token: Option<TokenFacts>,
    pub(crate) held: usize,
    pub(crate) last_error: Option<LastError>,
    pub(crate) last_success: Option<Instant>,
    pub(crate) counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    pub(crate) stale_at: Instant,
    pub(crate) usable_until: Instant,
    pub(crate) expires_at: Instant,
    pub(crate) generation: u64,
}

/// What the last flight of the grant that failed met.
#[derive(Clone, Debug)]
pub(crate) struct LastError(pub(crate) Arc<TokenError>);

/// The same one, not one like it.
impl PartialEq for LastError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for LastError {}

impl Facts {
    pub(crate) fn of_fixed_token() -> Self {
        let never = Instant::NEVER;
        let token =
            TokenFacts { stale_at: never, usable_until: never, expires_at: never, generation: 1 };
        Self { token: Some(token), ..Self::default() }
    }

    /// Nothing will change any more.
    pub(crate) fn of_the_end(counters: Counters) -> Self {
        Self { closed: true, counters, ..Self::default() }
    }

    pub(crate) fn phase(&self, now: Instant) -> Phase {
        let usable = self.token.filter(|token| now < token.usable_until);
        match usable {
            _ if self.closed => Phase::Closed,
            _ if self.barrier_up => Phase::Revoking,
            Some(_) if self.flight_open => Phase::Refreshing,
            Some(token) if now < token.stale_at => Phase::Fresh,
            Some(_) => Phase::Stale,
            None if self.flight_open => Phase::Holding,
            None if self.not_before.is_some_and(|at| now < at) => Phase::Cooling,
            None => Phase::Empty,
        }
    }
}

/// Counters since the session started. Calls served by the fast path are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Grant attempts that were started.
    pub grants_started: u64,
    /// Grant attempts that failed.
    pub grants_failed: u64,
    /// Exchange attempts that were started.
    pub exchanges_started: u64,
    /// Exchange attempts that failed.
    pub exchanges_failed: u64,
    /// Requests to revoke a token that were sent.
    pub revocations_started: u64,
    /// Requests to revoke a token that failed.
    pub revocations_failed: u64,
    /// Calls of `revoke`.
    pub revokes: u64,
    /// Invalidations that were honoured, of the session's own token and of exchanged ones.
    pub invalidations: u64,
    /// Calls rejected with [`Overloaded`](crate::SessionError::Overloaded).
    pub overloaded: u64,
    /// Live tokens that a revoke can no longer reach, because there were more than 4,096.
    pub ledger_evicted: u64,
    /// The highest number of callers that ever waited at the same time.
    pub held_max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_lasts_until_the_instant_at_which_the_next_begins() {
        let at = Instant::from_nanos;
        let token = TokenFacts {
            stale_at: at(10),
            usable_until: at(20),
            expires_at: at(30),
            generation: 1,
        };
        let nothing = Facts::default();
        let held = Facts { token: Some(token), ..Facts::default() };
        let fetching = Facts { flight_open: true, ..held.clone() };
        let failed = Facts { not_before: Some(at(40)), ..held.clone() };
        let revoking = Facts { barrier_up: true, ..fetching.clone() };
        let closed = Facts { closed: true, ..revoking.clone() };
        for (facts, now, phase) in [
            (&nothing, 0, Phase::Empty),
            (&held, 9, Phase::Fresh),
            (&held, 10, Phase::Stale),
            (&held, 19, Phase::Stale),
            (&held, 20, Phase::Empty),
            (&fetching, 9, Phase::Refreshing),
            (&fetching, 19, Phase::Refreshing),
            (&fetching, 20, Phase::Holding),
            (&failed, 19, Phase::Stale),
            (&failed, 20, Phase::Cooling),
            (&failed, 39, Phase::Cooling),
            (&failed, 40, Phase::Empty),
            (&revoking, 9, Phase::Revoking),
            (&revoking, 20, Phase::Revoking),
            (&closed, 9, Phase::Closed),
        ] {
            assert_eq!(facts.phase(at(now)), phase, "{now}: {facts:?}");
        }
    }

    #[test]
    fn what_ended_has_done_what_it_did() {
        let counters = Counters { revokes: 1, ..Counters::default() };
        let ended = Facts::of_the_end(counters);
        assert_eq!((ended.closed, ended.counters), (true, counters));
    }

    #[test]
    fn an_error_that_comes_again_is_another_one() {
        let error = || LastError(Arc::new(TokenError::Panicked));
        let first = error();
        assert_eq!(first, first.clone());
        assert_ne!(first, error());
    }
}
