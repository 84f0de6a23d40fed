//! A flight is a series of attempts with one purpose. One type serves the grant, each exchange key and
//! the revocation: it counts attempts, spaces them, and keeps a failed server alone for a while.

use std::sync::Arc;
use std::time::Duration;

use super::event::{Cooling, Moment};
use crate::config::RetryPolicy;
use crate::error::TokenError;
use crate::instant::Instant;
use crate::request::TokenRequestOptions;

/// The first pause between two attempts; it doubles, and chance takes any part of it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two attempts. A server that asks for more ends the flight.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the server is left alone after a failed flight; it doubles up to `cooling`. From 750 ms, an
/// outage of 5 s meets 6 attempts at most, and one of 3 s is over 3 s after its end, but once in a thousand.
const FIRST_COOLING: Duration = Duration::from_millis(750);
/// A `Retry-After` beyond this is a mistake, or an attack.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

/// The flights of one purpose: the one that is open, and what is remembered of those before it. Most have
/// nothing of either at most times, and take no room for it.
#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Flight(Option<Box<Series>>);

#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
struct Series {
    is_open: bool,
    /// Of the flight that is open; or of one that was abandoned between its attempts. The next one goes
    /// on where that was: or callers who leave, again and again, would be worth new attempts each time.
    course: Course,
    failed_in_a_row: u32,
    failure: Option<Cooling>,
}

#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
struct Course {
    options: TokenRequestOptions,
    attempts: u32,
    next_attempt_at: Instant,
    on_wire: Option<Sent>,
    credentials_reread: bool,
}

/// Stamps an attempt on the wire.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    /// How many revokes there had been: one that came later does not know of this attempt's token.
    pub(crate) revokes: u64,
}

impl Flight {
    fn opened(&self) -> Option<&Course> {
        self.0.as_ref().filter(|series| series.is_open).map(|series| &series.course)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened().is_some()
    }

    pub(crate) fn is_on_wire(&self) -> bool {
        self.opened().is_some_and(|course| course.on_wire.is_some())
    }

    /// Whether an attempt was made, since the last that started the count again.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.as_ref().is_some_and(|series| series.course.attempts > 0)
    }

    /// The instant before which the next flight may not open.
    pub(crate) fn not_before(&self) -> Instant {
        self.last_failure().map_or(Instant::ZERO, |failure| failure.until)
    }

    pub(crate) fn may_open(&self, now: Instant) -> bool {
        !self.is_open() && self.not_before() <= now
    }

    /// What the last flight failed with, while it keeps the next from opening.
    pub(crate) fn cooling(&self, now: Instant) -> Option<&Cooling> {
        self.last_failure().filter(|failure| now < failure.until)
    }

    /// The same, whatever the time.
    pub(crate) fn last_failure(&self) -> Option<&Cooling> {
        self.0.as_ref()?.failure.as_ref()
    }

    /// `options` are the opener's, and go with every attempt.
    pub(crate) fn open(&mut self, options: TokenRequestOptions) {
        let series = self.0.get_or_insert_default();
        series.is_open = true;
        series.course.options = options;
    }

    /// What goes with its attempts.
    pub(crate) fn options(&self) -> TokenRequestOptions {
        self.opened().map(|course| course.options.clone()).unwrap_or_default()
    }

    /// Nobody wants its result any more. What is remembered of earlier flights stays.
    pub(crate) fn abandon(&mut self) {
        if let Some(series) = &mut self.0 {
            series.is_open = false;
        }
        // A pause counts too, though it may follow on a success in part.
        let has_paused = |series: &Series| series.course.next_attempt_at > Instant::ZERO;
        if !self.remembers() && !self.0.as_deref().is_some_and(has_paused) {
            self.0 = None;
        }
    }

    /// Whether there is anything that the next flight has to know of those before it.
    pub(crate) fn remembers(&self) -> bool {
        self.0.as_deref().is_some_and(|Series { is_open, course, failure, .. }| {
            let left_off = !is_open && (course.attempts > 0 || course.credentials_reread);
            failure.is_some() || left_off
        })
    }

    /// When the next attempt may start: `None` if no flight is open, or an attempt is on the wire.
    pub(crate) fn next_attempt_at(&self) -> Option<Instant> {
        let waits = self.opened().filter(|course| course.on_wire.is_none());
        waits.map(|course| course.next_attempt_at)
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_attempt_at().is_some_and(|at| at <= now)
    }

    /// Starts an attempt; its number, and the options that go with it. `None` where none may start.
    pub(crate) fn depart(&mut self, sent: Sent) -> Option<(u32, TokenRequestOptions)> {
        self.next_attempt_at()?;
        let course = &mut self.0.as_mut()?.course;
        course.attempts += 1;
        course.on_wire = Some(sent);
        Some((course.attempts, course.options.clone()))
    }

    /// The attempt on the wire has ended; `None` if there was none.
    pub(crate) fn land(&mut self) -> Option<Sent> {
        self.0.as_mut().filter(|series| series.is_open)?.course.on_wire.take()
    }

    /// The flight has reached its purpose, and all failures are forgotten.
    pub(crate) fn succeed(&mut self) {
        self.0 = None;
    }

    /// Begins again with all its attempts, at once: the last one was worth it.
    pub(crate) fn renew(&mut self, now: Instant) {
        if let Some(series) = &mut self.0 {
            series.course.attempts = 0;
            series.course.next_attempt_at = now;
        }
    }

    /// A success that is not yet the whole: all failures are forgotten, and the flight goes on.
    pub(crate) fn succeed_in_part(&mut self, now: Instant) {
        if let Some(series) = &mut self.0 {
            series.failed_in_a_row = 0;
            series.failure = None;
        }
        self.renew(now);
    }

    /// No attempt may be sent, and the flight is over: the server has not failed, so only what was said of
    /// coming again keeps the next one from opening.
    pub(crate) fn turn_away(&mut self, error: TokenError, now: Instant) -> Instant {
        let series = self.0.get_or_insert_default();
        let retry_after = error.retry_after().unwrap_or_default();
        let until = now + retry_after.clamp(FIRST_COOLING, LONGEST_RETRY_AFTER);
        series.is_open = false;
        series.course = Course::default();
        series.failure = Some(Cooling { until, last: Arc::new(error) });
        until
    }

    /// An attempt failed: the flight waits for its next one, or it is over and the server is left
    /// alone. Returns the instant before which no attempt may start.
    pub(crate) fn fail(
        &mut self,
        error: TokenError,
        policy: &RetryPolicy,
        moment: Moment,
    ) -> Instant {
        let series = self.0.get_or_insert_default();
        let retry_after = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let allowed = if series.failed_in_a_row == 0 { policy.attempts } else { 1 };
        let course = &mut series.course;
        let changed = matches!(error, TokenError::Denied { credentials_changed: true, .. });
        if changed && !course.credentials_reread && retry_after <= LONGEST_PAUSE {
            course.credentials_reread = true;
            course.attempts = course.attempts.saturating_sub(1);
            course.next_attempt_at = moment.now + retry_after;
            return course.next_attempt_at;
        }
        if error.is_retryable() && course.attempts < allowed && retry_after <= LONGEST_PAUSE {
            let pause = doubled(FIRST_PAUSE, course.attempts, LONGEST_PAUSE);
            let pause = pause.mul_f64(moment.random).max(retry_after);
            course.next_attempt_at = moment.now + pause;
            return course.next_attempt_at;
        }
        series.is_open = false;
        series.course = Course::default();
        series.failed_in_a_row = series.failed_in_a_row.saturating_add(1);
        let alone = if error.is_retryable() {
            doubled(FIRST_COOLING, series.failed_in_a_row, policy.cooling)
                .mul_f64(1.0 - moment.random / 2.0)
        } else {
            policy.cooling
        };
        let until = moment.now + alone.max(retry_after);
        series.failure = Some(Cooling { until, last: Arc::new(error) });
        until
    }
}

/// `first`, doubled for each one after the first, up to `longest`.
fn doubled(first: Duration, nth: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(nth.saturating_sub(1))).min(longest)
}
