//! The one clock of a session. It counts the time that the machine was suspended and never follows
//! the wall clock: `CLOCK_BOOTTIME` on Linux, elsewhere the standard monotonic clock (which, there,
//! may stand still during suspend).

use std::time::Duration;

use crate::instant::Instant;

/// tokio's timers stand still while the machine is suspended, so nobody sleeps longer than this in
/// one go: a deadline that passed in suspend is noticed within it after waking.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// tokio's time is paused, as a test may, and this clock is not: so a sleep is over at once, time and
/// again, and what it waits for does not come.
#[derive(Debug)]
pub(crate) struct TimePaused;

/// Sleeps until this clock, not tokio's, has reached `at`.
pub(crate) async fn sleep_until(at: Instant) -> Result<(), TimePaused> {
    loop {
        let left = at.since(now());
        if left.is_zero() {
            return Ok(());
        }
        let nap = left.min(LONGEST_SLEEP);
        // What tokio measures its time by, unless that is paused: a nap is not over before its time.
        let began = std::time::Instant::now();
        tokio::time::sleep(nap).await;
        if cfg!(not(feature = "test-util")) && is_skipped(nap, began.elapsed()) {
            return Err(TimePaused);
        }
    }
}

/// Whether a sleep was over long before its time. tokio's timers count milliseconds: of a shorter sleep
/// nothing can be said.
fn is_skipped(nap: Duration, took: Duration) -> bool {
    nap >= Duration::from_millis(2) && took < nap / 2
}

#[cfg(not(feature = "test-util"))]
pub(crate) use real::now;
#[cfg(feature = "test-util")]
pub(crate) use tokio_time::now;
#[cfg(feature = "test-util")]
pub use tokio_time::suspend;

#[cfg(all(target_os = "linux", not(feature = "test-util")))]
mod real {
    use super::Instant;
    use rustix::time::{ClockId, clock_gettime};

    /// One vDSO read.
    pub(crate) fn now() -> Instant {
        super::from_timespec(clock_gettime(ClockId::Boottime))
    }
}

#[cfg(target_os = "linux")]
fn from_timespec(read: rustix::time::Timespec) -> Instant {
    // The time since boot is never negative, and a tv_nsec is less than a second.
    #[expect(clippy::cast_sign_loss, reason = "see above")]
    Instant::from_nanos(read.tv_sec as u64 * 1_000_000_000 + read.tv_nsec as u64)
}

#[cfg(all(not(target_os = "linux"), not(feature = "test-util")))]
mod real {
    use super::Instant;

    pub(crate) fn now() -> Instant {
        super::origin::since(std::time::Instant::now())
    }
}

#[cfg(any(not(target_os = "linux"), feature = "test-util"))]
mod origin {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant as StdInstant};

    use super::Instant;

    /// The clock starts at an hour, so that tests can look back without meeting zero.
    pub(super) fn since(at: StdInstant) -> Instant {
        static ORIGIN: OnceLock<StdInstant> = OnceLock::new();
        let origin = *ORIGIN.get_or_init(StdInstant::now);
        Instant::ZERO + Duration::from_secs(3_600) + at.saturating_duration_since(origin)
            - origin.saturating_duration_since(at)
    }
}

/// With the feature `test-util`: tokio's clock, plus the time that the machine was suspended. The same
/// value as without the feature, unless tokio's time is paused.
#[cfg(feature = "test-util")]
mod tokio_time {
    use std::cell::Cell;
    use std::time::Duration;

    use super::Instant;

    thread_local! {
        static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(crate) fn now() -> Instant {
        super::origin::since(tokio::time::Instant::now().into_std()) + suspended() + SUSPENDED.get()
    }

    /// Lets the sessions of this thread see what they would see had the machine been suspended for
    /// `time`: their clock steps ahead, and tokio's timers do not.
    pub fn suspend(time: Duration) {
        SUSPENDED.set(SUSPENDED.get() + time);
    }

    #[cfg(target_os = "linux")]
    fn suspended() -> Duration {
        use std::sync::atomic::{AtomicU64, Ordering};

        use rustix::time::{ClockId, clock_gettime};

        /// The last figure, in nanoseconds. The clocks cannot be read at once, so their difference is
        /// only known to lie between two bounds; a figure that fits them is kept, since a clock that
        /// trembles would make paused time run.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let read = |clock| super::from_timespec(clock_gettime(clock));
        let before = read(ClockId::Monotonic);
        let boottime = read(ClockId::Boottime);
        let after = read(ClockId::Monotonic);
        let (least, most) = (boottime.since(after), boottime.since(before));
        let known = Duration::from_nanos(LAST.load(Ordering::Relaxed));
        if (least..=most).contains(&known) {
            return known;
        }
        let nanos = u64::try_from(least.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(LAST.fetch_max(nanos, Ordering::Relaxed).max(nanos))
    }

    #[cfg(not(target_os = "linux"))]
    fn suspended() -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not the wall clock, and where the machine was suspended not the monotonic one.
    #[cfg(all(target_os = "linux", not(feature = "test-util")))]
    #[test]
    fn it_is_the_time_since_boot() {
        use rustix::time::{ClockId, clock_gettime};

        let read = || from_timespec(clock_gettime(ClockId::Boottime));
        let (before, now, after) = (read(), now(), read());
        assert!((before..=after).contains(&now), "{now:?} is not in {before:?}..={after:?}");
    }

    /// In a time namespace the kernel says what it would say had the machine been suspended. Where a process
    /// may not have one, this shows nothing.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_in_suspend_counts() {
        use std::process::{Command, Output};

        const INSIDE: &str = "CCG_SESSION_SUSPENDED";
        const YEARS: u64 = 10 * 365 * 24 * 60 * 60;
        if std::env::var_os(INSIDE).is_some() {
            assert!(now() >= Instant::ZERO + Duration::from_secs(YEARS), "{:?}", now());
            return;
        }
        let suspended = |program: &std::path::Path, arguments: &[&str]| -> Option<Output> {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--time", "--fork", "--boottime"]);
            command.arg(YEARS.to_string()).arg(program).args(arguments);
            command.env(INSIDE, "1").output().ok()
        };
        if suspended("true".as_ref(), &[]).is_none_or(|output| !output.status.success()) {
            return;
        }
        let this = std::env::current_exe().unwrap();
        let arguments = ["--exact", "clock::tests::the_time_in_suspend_counts"];
        let output = suspended(&this, &arguments).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_instant_counts_nanoseconds() {
        let read = rustix::time::Timespec { tv_sec: 3, tv_nsec: 7 };
        assert_eq!(from_timespec(read), Instant::from_nanos(3_000_000_007));
    }

    #[test]
    fn a_sleep_that_takes_less_than_half_its_time_was_skipped() {
        for (nap, took, expected) in [
            (30_000_000, 15_000_000, false),
            (30_000_000, 14_999_999, true),
            (30_000_000, 60_000_000, false),
            (2_000, 999, true),
            (1_999, 0, false),
        ] {
            let micros = Duration::from_micros;
            assert_eq!(is_skipped(micros(nap), micros(took)), expected, "{nap} {took}");
        }
    }
}
