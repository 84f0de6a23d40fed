//! How long a search goes on.

use std::time::{Duration, Instant as Stopwatch};

/// Where nobody says for how long, so much is looked at, however slow the machine is.
pub(crate) enum Limit {
    Until(Stopwatch),
    Count(usize),
}

impl Limit {
    /// `EXHAUSTIVE_SECONDS` says for how long all of so many searches go on together.
    pub(crate) fn of(searches: u32, count: usize) -> Self {
        let seconds = std::env::var("EXHAUSTIVE_SECONDS").ok();
        match seconds.and_then(|text| text.parse().ok()) {
            Some(seconds) => {
                Self::Until(Stopwatch::now() + Duration::from_secs_f64(seconds) / searches)
            }
            None => Self::Count(count),
        }
    }

    pub(crate) fn is_reached(&self, count: usize) -> bool {
        match self {
            Self::Until(end) => Stopwatch::now() >= *end,
            Self::Count(most) => count >= *most,
        }
    }
}
