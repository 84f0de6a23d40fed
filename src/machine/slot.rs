//! A token that is kept, the flight that replaces it, and who waits for that: the session's own token and
//! each exchanged one are the same in this.

use std::collections::BTreeMap;

use super::event::{CallerId, Moment};
use super::flight::Flight;
use super::lifetime::Lifetime;
use crate::config::RetryPolicy;
use crate::error::TokenError;
use crate::instant::Instant;
use crate::token::Issued;

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Slot<R> {
    kept: Option<Kept>,
    pub(crate) flight: Flight,
    pub(crate) callers: BTreeMap<CallerId, R>,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Kept {
    pub(crate) issued: Issued,
    pub(crate) lifetime: Lifetime,
    /// An attempt to replace it has failed: then it is good until its end.
    attempt_failed: bool,
}

impl Kept {
    pub(crate) fn usable_until(&self) -> Instant {
        if self.attempt_failed { self.lifetime.expires_at } else { self.lifetime.hold_at }
    }
}

impl<R> Default for Slot<R> {
    fn default() -> Self {
        Self { kept: None, flight: Flight::default(), callers: BTreeMap::new() }
    }
}

impl<R> Slot<R> {
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.kept.as_mut()
    }

    /// What whoever asks is given at once.
    pub(crate) fn usable(&self, now: Instant) -> Option<&Kept> {
        self.kept.as_ref().filter(|kept| now < kept.usable_until())
    }

    /// For times of need: it may be near its end, but not past it.
    pub(crate) fn unexpired(&self, now: Instant) -> Option<&Kept> {
        self.kept.as_ref().filter(|kept| now < kept.lifetime.expires_at)
    }

    /// From here on somebody who asks is a reason to replace the token.
    pub(crate) fn ask_at(&self) -> Instant {
        if self.flight.is_open() {
            return Instant::NEVER;
        }
        let stale_at = self.kept.as_ref().map_or(Instant::ZERO, |kept| kept.lifetime.stale_at);
        stale_at.max(self.flight.not_before())
    }

    /// The flight has brought this.
    pub(crate) fn store(&mut self, issued: Issued, lifetime: Lifetime) {
        self.flight.succeed();
        self.kept = Some(Kept { issued, lifetime, attempt_failed: false });
    }

    /// An attempt of the flight failed. Returns the instant before which none may start.
    pub(crate) fn fail(
        &mut self,
        error: TokenError,
        policy: &RetryPolicy,
        moment: Moment,
    ) -> Instant {
        if let Some(kept) = &mut self.kept {
            kept.attempt_failed = true;
        }
        self.flight.fail(error, policy, moment)
    }

    /// No attempt of the flight may be sent. Returns the instant before which none may start.
    pub(crate) fn turn_away(&mut self, error: TokenError, now: Instant) -> Instant {
        if let Some(kept) = &mut self.kept {
            kept.attempt_failed = true;
        }
        self.flight.turn_away(error, now)
    }

    /// The token is given to nobody any more.
    pub(crate) fn take(&mut self) -> Option<Kept> {
        self.kept.take()
    }

    pub(crate) fn take_if(&mut self, is_it: impl FnOnce(&Kept) -> bool) -> Option<Kept> {
        self.kept.take_if(|kept| is_it(kept))
    }

    pub(crate) fn take_callers(&mut self) -> impl Iterator<Item = R> + use<R> {
        std::mem::take(&mut self.callers).into_values()
    }
}
