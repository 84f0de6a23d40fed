//! A store that cannot be reached is left alone for a while, so that it costs nobody the time of finding out.
//! One that is late once may only be busy; late twice running, it counts as out of reach.

use std::time::Duration;

use super::contract::StoreError;
use crate::instant::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// `None` while all is well.
    open: Option<Open>,
    /// When a call was given up, if none was answered since.
    late: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    until: Instant,
    wait: Duration,
}

impl Breaker {
    /// Whether a call may be made now: while the store is left alone, one at a time, as a probe.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        match &mut self.open {
            None => true,
            Some(open) if now < open.until => false,
            Some(open) => {
                open.until = now + open.wait;
                true
            }
        }
    }

    /// What became of a call that began then. An error that the store answered is an answer.
    pub(crate) fn note(&mut self, began: Instant, now: Instant, error: Option<&StoreError>) {
        match error {
            None | Some(StoreError::Refused(_)) => self.close(),
            // Of those that were under way when it opened, each would double it.
            Some(_) if self.open.is_some_and(|open| began < open.since) => {}
            // Those that were under way beside it say nothing new either.
            Some(StoreError::TimedOut)
                if self.open.is_none() && self.late.is_none_or(|late| began < late) =>
            {
                self.late.get_or_insert(now);
            }
            Some(_) => {
                let wait = self.open.map_or(FIRST, |open| (2 * open.wait).min(LONGEST));
                self.open = Some(Open { since: now, until: now + wait, wait });
            }
        }
    }

    /// The store has been reached in another way.
    pub(crate) fn close(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_for_longer_and_longer_and_lets_one_probe_through() {
        let secs = |secs: u64| Instant::from_nanos(secs * 1_000_000_000);
        let (mut breaker, error) = (Breaker::default(), StoreError::unreachable("it is away"));
        breaker.note(secs(10), secs(10), Some(&StoreError::refused("OOM")));
        assert!(breaker.admits(secs(10)));
        let mut now = 10;
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            breaker.note(secs(now), secs(now), Some(&error));
            // Others that began before say nothing new.
            breaker.note(secs(now - 1), secs(now), Some(&error));
            assert!(
                !breaker.admits(secs(now) + Duration::from_secs(wait) - Duration::from_nanos(1))
            );
            now += wait;
            assert!(breaker.admits(secs(now)), "after {wait}");
            assert!(!breaker.admits(secs(now)), "one probe after {wait}");
        }
        breaker.note(secs(now), secs(now), None);
        assert!(breaker.admits(secs(now)) && breaker.admits(secs(now)));
        breaker.note(secs(now), secs(now), Some(&error));
        breaker.close();
        assert!(breaker.admits(secs(now)));
    }

    #[test]
    fn it_opens_when_the_store_is_late_twice_running() {
        let secs = |secs: u64| Instant::from_nanos(secs * 1_000_000_000);
        let (mut breaker, late) = (Breaker::default(), StoreError::TimedOut);
        for now in [10, 20] {
            breaker.note(secs(now), secs(now + 1), Some(&late));
            // It was under way meanwhile.
            breaker.note(secs(now), secs(now + 2), Some(&late));
            assert!(breaker.admits(secs(now + 2)));
            breaker.note(secs(now), secs(now + 2), None);
        }
        breaker.note(secs(30), secs(31), Some(&late));
        breaker.note(secs(31), secs(32), Some(&late));
        assert!(!breaker.admits(secs(32)));
        // As a probe it need not be late twice.
        assert!(breaker.admits(secs(33)));
        breaker.note(secs(33), secs(34), Some(&late));
        assert!(!breaker.admits(secs(35)) && breaker.admits(secs(36)));
    }
}
