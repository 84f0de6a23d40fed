//! A series of attempts with one purpose.

use super::operations::{Failure, Setup};
use super::words::Wrong;
use super::{Nanos, SECOND, times};
use crate::request::TokenRequestOptions;

const MILLISECOND: Nanos = 1_000_000;
/// How long the server is left alone after the first failed flight.
const FIRST_COOLING: Nanos = 750 * MILLISECOND;
/// The longest pause between two attempts of one flight.
const LONGEST_PAUSE: Nanos = 5 * SECOND;
/// No `Retry-After` counts for more.
const LONGEST_RETRY_AFTER: Nanos = 600 * SECOND;

/// An attempt on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// When it was sent.
    pub at: Nanos,
    /// How many revokes there had been.
    pub revokes: u64,
}

/// What becomes of a flight whose attempt failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Again,
    Over,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flight {
    pub open: bool,
    pub wire: Option<Sent>,
    pub options: TokenRequestOptions,
    /// How many attempts were sent in this flight, without those that do not count.
    pub counted: u32,
    /// How many may.
    pub limit: u32,
    pub next_at: Nanos,
    pub credentials_retried: bool,
    /// It was abandoned between its attempts: the next one goes on where it was.
    pub left_off: bool,
    /// Failed flights in a row.
    pub failures: u32,
    pub not_before: Nanos,
    pub last: Option<Failure>,
}

impl Flight {
    pub fn may_open(&self, now: Nanos) -> bool {
        !self.open && now >= self.not_before
    }

    /// Open, with nothing on the wire.
    pub fn waits(&self) -> bool {
        self.open && self.wire.is_none()
    }

    /// The last error, if no flight may open yet.
    pub fn cooling(&self, now: Nanos) -> Option<Wrong> {
        let last = self.last.filter(|_| now < self.not_before)?;
        Some(Wrong::Cooling(last, self.not_before - now))
    }

    pub fn open(&mut self, setup: &Setup, options: &TokenRequestOptions) {
        self.open = true;
        self.options = options.clone();
        if !self.left_off {
            self.next_at = 0;
            self.credentials_retried = false;
            self.renew(setup);
        }
        self.left_off = false;
    }

    /// It ends without having failed or succeeded. Its attempts were made all the same.
    pub fn abandon(&mut self) {
        self.left_off |= self.open;
        self.open = false;
    }

    /// What came before means something to the next flight.
    pub fn remembers(&self) -> bool {
        self.failures > 0 || (self.left_off && (self.counted > 0 || self.credentials_retried))
    }

    /// It has all its attempts again.
    pub fn renew(&mut self, setup: &Setup) {
        self.limit = if self.failures > 0 { 1 } else { setup.attempts };
        self.counted = 0;
    }

    /// Returns the attempt's number.
    pub fn start(&mut self, now: Nanos, revokes: u64) -> u32 {
        self.wire = Some(Sent { at: now, revokes });
        self.counted += 1;
        self.counted
    }

    pub fn succeeded(&mut self) {
        self.open = false;
        self.forgive();
    }

    /// All earlier failures are forgotten.
    pub fn forgive(&mut self) {
        (self.failures, self.not_before, self.last) = (0, 0, None);
    }

    pub fn failed(&mut self, failure: Failure, setup: &Setup, now: Nanos, random: f64) -> Verdict {
        if failure.credentials_changed() && !self.credentials_retried {
            self.credentials_retried = true;
            self.counted -= 1;
            self.next_at = now;
            return Verdict::Again;
        }
        let retry_after = failure.retry_after().unwrap_or(0);
        let goes_on =
            failure.is_retryable() && self.counted < self.limit && retry_after <= LONGEST_PAUSE;
        if goes_on {
            self.pause(retry_after, now, random);
            return Verdict::Again;
        }
        self.open = false;
        self.failures += 1;
        self.last = Some(failure);
        let mut wait = setup.cooling * SECOND;
        if failure.is_retryable() {
            wait = FIRST_COOLING.min(wait);
            for _ in 1..self.failures {
                wait = (wait * 2).min(setup.cooling * SECOND);
            }
            wait = times(wait, 1.0 - random / 2.0);
        }
        self.not_before = now + wait.max(retry_after.min(LONGEST_RETRY_AFTER));
        Verdict::Over
    }

    /// There is no leave for an attempt: it is over, and has not failed.
    pub fn turned_away(&mut self, failure: Failure, now: Nanos) -> Nanos {
        let retry_after = failure.retry_after().unwrap_or(0);
        let wait = retry_after.clamp(FIRST_COOLING, LONGEST_RETRY_AFTER);
        (self.open, self.left_off) = (false, false);
        (self.last, self.not_before) = (Some(failure), now + wait);
        wait
    }

    /// 250 ms, doubling with every attempt that counts, up to 5 s; any part of it, by chance.
    fn pause(&mut self, retry_after: Nanos, now: Nanos, random: f64) {
        let mut pause = 250 * MILLISECOND;
        for _ in 1..self.counted {
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.next_at = now + times(pause, random).max(retry_after);
    }
}
