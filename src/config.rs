//! How a session behaves. Every setting has a default that fits Box and most other servers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings of a session. Change fields of the default, or deserialize it with serde: durations are strings
/// such as `"500ms"`, `"10s"`, `"10m"`, and unknown keys are rejected.
///
/// ```
/// use std::time::Duration;
/// use ccg_session::{RefreshMode, SessionConfig};
///
/// let mut config = SessionConfig::default();
/// config.stale_buffer = Duration::from_secs(5 * 60);
/// config.check()?;
///
/// let config: SessionConfig = serde_json::from_str(
///     r#"{ "stale_buffer": "5m", "refresh_mode": "always", "retry": { "attempts": 5 } }"#,
/// )?;
/// assert_eq!(config.refresh_mode, RefreshMode::Always);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionConfig {
    /// When a token is refreshed in the background. Default: [`RefreshMode::WhileUsed`].
    pub refresh_mode: RefreshMode,
    /// How long before its expiry a token is stale: callers still get it immediately, and it is refreshed in
    /// the background. Capped at half of the token's lifetime; up to a tenth is added at random, so that a
    /// fleet does not refresh in step. A server's `refresh_in` takes precedence. Default: 10 minutes; at most
    /// 24 hours.
    #[doc(alias = "staleBufferMS")]
    #[serde(with = "duration")]
    pub stale_buffer: Duration,
    /// How long before its expiry callers wait for a new token instead of getting this one. If the next attempt
    /// fails, they get it after all. Capped at a tenth of the token's lifetime. Default: 30 seconds; shorter
    /// than `stale_buffer`. (Box's `expiredBufferMS` defaults to 3 minutes, because it is the only refresh
    /// trigger there; set this to `3m` for the same behaviour.)
    #[doc(alias = "expiredBufferMS")]
    #[serde(with = "duration")]
    pub expired_buffer: Duration,
    /// The number of attempts, their time-out, and the delays after failures.
    pub retry: RetryPolicy,
    /// How many callers may wait at the same time, for any call. Beyond that, callers get an unexpired token if
    /// there is one, otherwise [`Overloaded`](crate::SessionError::Overloaded). Default: 131,072.
    pub max_held: usize,
    /// How many exchanged tokens are cached; the first to expire is evicted first. Default: 1,024.
    pub exchange_capacity: usize,
    /// How many exchange requests may be in flight at the same time; others wait for their turn. Default: 64.
    pub exchanges_at_once: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            refresh_mode: RefreshMode::default(),
            stale_buffer: Duration::from_secs(10 * 60),
            expired_buffer: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            max_held: 131_072,
            exchange_capacity: 1_024,
            exchanges_at_once: 64,
        }
    }
}

/// When a stale but usable token is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefreshMode {
    /// By a timer, if the token has been used since it was fetched. An idle session sends nothing. Callers who
    /// waited for the token do not count as users: a token that is not requested again is left to expire.
    #[default]
    WhileUsed,
    /// Only when a caller asks for the token while it is stale, as the documentation of Box's original
    /// describes.
    OnRequest,
    /// By a timer, whether the token is used or not; the first token is fetched at start-up. A revoke suspends
    /// this until the next request for a token. Use it if the first call must not wait.
    Always,
}

/// How often an attempt is repeated, how long it may take, and how long to wait after a failed series.
///
/// The pause between two attempts is 250 ms, doubling up to 5 s, with full jitter, and never less than the
/// server's `Retry-After` (RFC 9110 §10.2.3). A `Retry-After` longer than 5 s ends the series. After a failed
/// series the next may begin after 750 ms, doubling up to `cooling`, less up to half at random; after an error
/// that is not [retryable](crate::TokenError::is_retryable), after `cooling`. With the defaults the session
/// gives up on a server that never answers after about 31 s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many attempts a series has, including the first; a series after a failed one has only one. Default:
    /// 3.
    pub attempts: u32,
    /// How long an attempt may take. Default: 10 seconds; at most 24 hours.
    #[serde(with = "duration")]
    pub attempt_timeout: Duration,
    /// The longest wait after a failed series, unless the server's `Retry-After` (capped at 10 minutes) is
    /// longer. Default: 30 seconds; from 1 second to 24 hours.
    #[serde(with = "duration")]
    pub cooling: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            attempt_timeout: Duration::from_secs(10),
            cooling: Duration::from_secs(30),
        }
    }
}

impl SessionConfig {
    /// Checks that these settings are valid together. Spawning a session does this too.
    ///
    /// # Errors
    /// Names the first invalid setting, its value, and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        let show = humantime::format_duration;
        let refuse = |what, problem: String| Err(ConfigError::new(what, problem));
        if self.stale_buffer.is_zero() || self.stale_buffer > DAY {
            return refuse(
                "stale_buffer",
                format!("is {}, but must be more than 0s and at most 24h", show(self.stale_buffer)),
            );
        }
        if self.expired_buffer >= self.stale_buffer {
            return refuse(
                "expired_buffer",
                format!(
                    "is {}, but must be shorter than the stale_buffer of {}",
                    show(self.expired_buffer),
                    show(self.stale_buffer)
                ),
            );
        }
        if self.retry.attempts == 0 {
            return refuse(
                "attempts",
                "is 0, but without an attempt there is no token: use 1 or \
                more"
                    .into(),
            );
        }
        if self.retry.attempt_timeout.is_zero() || self.retry.attempt_timeout > DAY {
            return refuse(
                "attempt_timeout",
                format!(
                    "is {}, but must be more than 0s and at most 24h",
                    show(self.retry.attempt_timeout)
                ),
            );
        }
        if self.retry.cooling < Duration::from_secs(1) || self.retry.cooling > DAY {
            return refuse(
                "cooling",
                format!("is {}, but must be at least 1s and at most 24h", show(self.retry.cooling)),
            );
        }
        if self.max_held == 0 {
            return refuse("max_held", "is 0, but then nobody could wait: use 1 or more".into());
        }
        if self.exchanges_at_once == 0 {
            return refuse(
                "exchanges_at_once",
                "is 0, but then no exchange could be sent: use 1 or more".into(),
            );
        }
        Ok(())
    }
}

pub(crate) mod duration {
    use std::fmt;
    use std::time::Duration;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Written)
    }

    struct Written;

    impl Visitor<'_> for Written {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"10m\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|error| {
                E::custom(format!("{text:?} is not a duration such as \"10m\": {error}"))
            })
        }
    }
}
