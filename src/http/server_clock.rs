//! What time it is at the server: what is signed is dated by it, and refused if the two clocks differ.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use ::http::HeaderMap;
use ::http::header::DATE;

use super::limits::CLOCK_LEEWAY;

/// How far the server's clock is ahead of this machine's, in seconds, as far as a refusal has shown it.
#[derive(Debug, Default)]
pub(super) struct ServerClock(AtomicI64);

/// The same, as it was known when an attempt began: what others learn meanwhile does not date its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerTime(i64);

impl ServerTime {
    /// As a JWT counts it (RFC 7519 §2: `NumericDate`).
    pub(super) fn now(self) -> u64 {
        let now = seconds(SystemTime::now()).saturating_add(self.0);
        u64::try_from(now).unwrap_or_default()
    }
}

impl ServerClock {
    pub(super) fn read(&self) -> ServerTime {
        ServerTime(self.0.load(Relaxed))
    }

    /// Learns from the `Date` of a refusal. Whether it is another time than the one that the request was
    /// dated by, and so may be why it was refused.
    pub(super) fn learn(
        &self,
        headers: &HeaderMap,
        dated_by: ServerTime,
        sent: SystemTime,
        received: SystemTime,
    ) -> bool {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
            return false;
        };
        let (date, ahead) = (seconds(date), dated_by.0);
        let [sent, received] = [sent, received].map(|at| seconds(at).saturating_add(ahead));
        let is_expected = date >= sent.saturating_sub(CLOCK_LEEWAY)
            && date <= received.saturating_add(CLOCK_LEEWAY);
        if !is_expected {
            self.0.store(date.saturating_sub(received.saturating_sub(ahead)), Relaxed);
        }
        !is_expected
    }
}

fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_date_that_cannot_be_between_sent_and_received_is_the_servers_time() {
        let clock = ServerClock::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds);
        let learn = |date: u64| {
            let date = httpdate::fmt_http_date(at(date)).parse().unwrap();
            clock.learn(&HeaderMap::from_iter([(DATE, date)]), clock.read(), at(100), at(110))
        };
        for (date, is_news, ahead) in [
            (95, false, 0),
            (100, false, 0),
            (115, false, 0),
            (94, true, -16),
            // What is known now is no news.
            (94, false, -16),
            (79, false, -16),
            (116, true, 6),
            (400, true, 290),
            (105, true, -5),
        ] {
            assert_eq!((learn(date), clock.0.load(Relaxed)), (is_news, ahead), "{date}");
        }
        assert!(!clock.learn(&HeaderMap::new(), clock.read(), at(100), at(110)));
        let odd = HeaderMap::from_iter([(DATE, "yesterday".parse().unwrap())]);
        assert!(!clock.learn(&odd, clock.read(), at(100), at(110)));
        let behind = ServerClock(AtomicI64::new(-100));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 100).abs_diff(behind.read().now()) <= 1);
        assert_eq!(ServerTime(i64::MIN).now(), 0);
    }
    /// Two subjects share it: what one's refusal has taught is no reason to leave the other's unexplained.
    #[test]
    fn what_another_attempt_has_learnt_meanwhile_is_news_to_this_one() {
        let clock = ServerClock::default();
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds);
        let date = httpdate::fmt_http_date(at(400)).parse().unwrap();
        let headers = HeaderMap::from_iter([(DATE, date)]);
        let (one, other) = (clock.read(), clock.read());
        assert!(clock.learn(&headers, one, at(100), at(110)));
        assert!(clock.learn(&headers, other, at(100), at(110)));
        assert!(!clock.learn(&headers, clock.read(), at(100), at(110)));
    }
}
