//! How attempts of one purpose have to be spaced, counted as `src/docs/design.md` (Flights) tells it.

use std::time::Duration;

use crate::config::SessionConfig;
use crate::error::TokenError;
use crate::instant::Instant;

/// A `Retry-After` that is longer ends a flight.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// The part of the retry policy that spaces attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Attempts in a flight.
    pub(crate) attempts: u32,
    /// The longest time for which a server is left alone of the session's own accord.
    pub(crate) cooling: Duration,
}

impl Policy {
    pub(crate) fn of(config: &SessionConfig) -> Self {
        Self { attempts: config.retry.attempts, cooling: config.retry.cooling }
    }
}

/// What has become of the attempts of one purpose.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Pace {
    /// The next attempt may not start before this.
    pub(crate) not_before: Instant,
    pub(crate) attempts: u32,
    flights_failed: u32,
    forgiven: bool,
    /// Its subject was refused, and replaced.
    rerun: bool,
    /// Nobody waited for it any more: it may be over, and the next one have its rerun still.
    unsure: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            not_before: Instant::ZERO,
            attempts: 0,
            flights_failed: 0,
            forgiven: false,
            rerun: false,
            unsure: false,
        }
    }
}

impl Pace {
    /// All attempts of a flight, one in each that follows a failed one; then the server is left alone.
    /// Where the draw is not known, attempts are judged by the least that any asks for.
    pub(crate) fn failed(
        &mut self,
        error: &TokenError,
        now: Instant,
        policy: Policy,
        random: Option<f64>,
    ) {
        let changed = matches!(error, TokenError::Denied { credentials_changed: true, .. });
        if changed && !self.forgiven {
            self.forgiven = true;
            self.not_before = now;
            return;
        }
        self.attempts += 1;
        let retry_after = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let allowed = if self.flights_failed == 0 { policy.attempts } else { 1 };
        let doubled = |first: Duration, nth: u32| first * 2_u32.pow(nth.min(16) - 1);
        let goes_on =
            error.is_retryable() && self.attempts < allowed && retry_after <= LONGEST_PAUSE;
        let pause = if goes_on {
            let pause = doubled(Duration::from_millis(250), self.attempts).min(LONGEST_PAUSE);
            pause.mul_f64(random.unwrap_or(0.0))
        } else {
            *self = Self { flights_failed: self.flights_failed + 1, ..Self::default() };
            let alone = doubled(Duration::from_millis(750), self.flights_failed);
            if error.is_retryable() {
                alone.min(policy.cooling).mul_f64(1.0 - random.unwrap_or(1.0) / 2.0)
            } else {
                policy.cooling
            }
        };
        self.not_before = now + pause.max(retry_after);
    }

    /// All failures are forgotten, and the flight has all its attempts again, if it goes on.
    pub(crate) fn succeeded(&mut self, goes_on: bool) {
        *self = Self { forgiven: goes_on && self.forgiven, ..Self::default() };
    }

    /// There was no leave for an attempt: the flight is over, and has not failed.
    pub(crate) fn turned_away(&mut self, error: &TokenError, now: Instant) {
        let retry_after = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let not_before = now + retry_after.max(Duration::from_millis(750));
        *self = Self { flights_failed: self.flights_failed, not_before, ..Self::default() };
    }

    /// The subject was refused and replaced: that is worth all attempts once more, at once; and once only.
    pub(crate) fn subject_replaced(
        &mut self,
        error: &TokenError,
        now: Instant,
        policy: Policy,
        random: f64,
    ) {
        if self.rerun && !self.unsure {
            return self.failed(error, now, policy, Some(random));
        }
        let forgiven = self.forgiven && !self.unsure;
        let begun = Self { rerun: true, unsure: false, attempts: 0, ..*self };
        *self = Self { forgiven, not_before: now, ..begun };
    }

    pub(crate) fn is_rerun(&self) -> bool {
        self.rerun
    }

    /// Nobody waits for it, and nothing is on the wire.
    pub(crate) fn may_be_over(&mut self) {
        self.unsure = true;
    }
}
