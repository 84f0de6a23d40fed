//! The result, and nothing else, on stdout; what is said beside it on stderr.

use std::io::{Write, stderr, stdout};
use std::time::Duration;

use humantime::FormattedDuration;

use crate::failure::Failure;

/// One line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// As they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// How long a token lives, rounded up: a part of it has passed since the token came.
pub(crate) fn life(left: Duration) -> FormattedDuration {
    let seconds = left.as_millis().div_ceil(1_000);
    let unit = match seconds {
        86_400.. => 3_600,
        600.. => 60,
        _ => 1,
    };
    let rounded = u64::try_from(seconds.div_ceil(unit) * unit).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_secs(rounded))
}

/// One object on one line.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?;
    line(&text)
}

/// One line beside the result. If it cannot be written, nobody is left to be told; `eprintln` would
/// panic, and with that hide the exit code.
pub(crate) fn note(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_rounded_as_people_say_it() {
        for (millis, expected) in [
            (400, "1s"),
            (59_990, "1m"),
            (599_100, "10m"),
            (3_599_999, "1h"),
            (3_550_000, "1h"),
            (4_210_000, "1h 11m"),
            (30 * 86_400_000 - 900, "30days"),
            (30 * 86_400_000 - 4_000_000, "29days 23h"),
        ] {
            assert_eq!(life(Duration::from_millis(millis)).to_string(), expected);
        }
        life(Duration::MAX).to_string();
    }
}
