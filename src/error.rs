//! What can go wrong: in an attempt ([`TokenError`]), for a caller ([`SessionError`]), and before
//! anything is sent ([`ConfigError`]).

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why an attempt at the server failed.
///
/// Never contains a secret. Of the server's response it contains only what describes the failure, such as
/// `error`, `error_description` and `error_uri` (RFC 6749 §5.2), each truncated to 1,024 characters.
///
/// Variants may gain fields. In your own [`TokenManager`](crate::TokenManager), create an error with the
/// constructor of the same name, and add details with the `with_…` methods.
///
/// ```
/// use std::time::Duration;
/// use ccg_session::TokenError;
///
/// let error = TokenError::denied("invalid_client", "no such client").with_status(401);
/// assert_eq!(error.to_string(), "the server refused (401): invalid_client: no such client");
/// let error = TokenError::server(503, Some(Duration::from_secs(30)));
/// assert!(error.is_retryable());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// The server refused the request (RFC 6749 §5.2), or the manager did before sending it. The same request
    /// would be refused again.
    #[non_exhaustive]
    Denied {
        /// The `error` code, or the HTTP status in words if the server gave none.
        error: String,
        /// The server's `error_description`, or another text from its response.
        description: Option<String>,
        /// The server's `error_uri`.
        uri: Option<String>,
        /// The HTTP status; zero if nothing was sent.
        status: u16,
        /// The credentials have changed since they were read for this attempt, or a signature was dated by a
        /// clock that differs from the server's. Another attempt may succeed.
        credentials_changed: bool,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The client's credential could not be read or is invalid, so nothing was sent. It may be available at the
    /// next attempt, for example if the file is just being written.
    #[non_exhaustive]
    Credential {
        /// What was wrong with it, and where.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Too many requests: the server answers with 429, or with a response that means the same; or an attempt of a pool,
    /// or of another [gated](crate::TokenManager::is_gated) manager, was not admitted within 60 s and was not sent.
    #[non_exhaustive]
    RateLimited {
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The server or a proxy in front of it failed: 5xx, a web page instead of a token response, a 404, or a
    /// response that means the same.
    #[non_exhaustive]
    Server {
        /// The HTTP status.
        status: u16,
        /// What it said of it.
        description: Option<String>,
        /// Scheme, host and path.
        address: Option<String>,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The response was malformed: not a JSON token response, or a token that cannot be put into a header.
    #[non_exhaustive]
    Malformed {
        /// What was wrong with it.
        reason: String,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The token was expired or revoked when it arrived.
    #[non_exhaustive]
    Expired {
        /// Why it is dead.
        reason: &'static str,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The server could not be reached, or the connection broke.
    #[non_exhaustive]
    Transport {
        /// What the transport said.
        source: Arc<dyn Error + Send + Sync>,
        /// Scheme, host and path.
        address: Option<String>,
        /// How long the server is left alone, where that is known.
        retry_after: Option<Duration>,
    },
    /// No answer within the time allowed for an attempt.
    #[non_exhaustive]
    TimedOut {
        /// The time allowed.
        after: Duration,
        /// Scheme, host and path.
        address: Option<String>,
        /// How long the server is left alone, where that is known.
        retry_after: Option<Duration>,
    },
    /// The token manager panicked: a bug in it, or, of an [`HttpTokenManager`](crate::HttpTokenManager), a
    /// runtime without I/O (`enable_all`). The session goes on.
    Panicked,
}

impl TokenError {
    /// A refusal. It counts as coming from the manager, not the server, unless you set a
    /// [status](Self::with_status).
    pub fn denied(error: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Denied {
            error: error.into(),
            description: Some(description.into()),
            uri: None,
            status: 0,
            credentials_changed: false,
            retry_after: None,
        }
    }

    /// The text completes the sentence "the client's credential …", for example "could not be read".
    pub fn credential(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Credential { source: source.into().into() }
    }

    /// The server wants fewer requests.
    pub fn rate_limited(retry_after: Option<Duration>) -> Self {
        Self::RateLimited { retry_after }
    }

    /// The server failed, with this HTTP status.
    pub fn server(status: u16, retry_after: Option<Duration>) -> Self {
        Self::Server { status, description: None, address: None, retry_after }
    }

    /// The answer made no sense.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into(), retry_after: None }
    }

    /// The token was dead when it arrived.
    pub fn expired(reason: &'static str) -> Self {
        Self::Expired { reason, retry_after: None }
    }

    /// The server could not be reached.
    pub fn transport(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Transport { source: source.into().into(), address: None, retry_after: None }
    }

    /// No answer within this time.
    pub fn timed_out(after: Duration) -> Self {
        Self::TimedOut { after, address: None, retry_after: None }
    }

    /// With the HTTP status of a refusal, or of a server that failed.
    #[must_use]
    pub fn with_status(mut self, new: u16) -> Self {
        if let Self::Denied { status, .. } | Self::Server { status, .. } = &mut self {
            *status = new;
        }
        self
    }

    /// Adds the server's description, for variants that have one. It is shown to callers, so it must not
    /// contain a secret.
    #[must_use]
    pub fn with_description(mut self, new: impl Into<String>) -> Self {
        if let Self::Denied { description, .. } | Self::Server { description, .. } = &mut self {
            *description = Some(new.into());
        }
        self
    }

    /// With whether a refused client's credentials have changed since they were read for this attempt, so
    /// that another one is worth it.
    #[must_use]
    pub fn with_credentials_changed(mut self, new: bool) -> Self {
        if let Self::Denied { credentials_changed, .. } = &mut self {
            *credentials_changed = new;
        }
        self
    }

    /// Adds the server's `Retry-After`, for variants that have one.
    #[must_use]
    pub fn with_retry_after(mut self, new: Option<Duration>) -> Self {
        if let Self::Denied { retry_after, .. }
        | Self::RateLimited { retry_after }
        | Self::Server { retry_after, .. }
        | Self::Malformed { retry_after, .. }
        | Self::Expired { retry_after, .. }
        | Self::Transport { retry_after, .. }
        | Self::TimedOut { retry_after, .. } = &mut self
        {
            *retry_after = new;
        }
        self
    }

    /// Adds the server's address, for variants that have one: scheme, host and path, nothing secret.
    #[must_use]
    pub fn with_address(mut self, new: impl Into<String>) -> Self {
        if let Self::Server { address, .. }
        | Self::Transport { address, .. }
        | Self::TimedOut { address, .. } = &mut self
        {
            *address = Some(new.into());
        }
        self
    }

    /// The variant's name, in lower case with underscores: `"denied"`, `"rate_limited"`. For logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Denied { .. } => "denied",
            Self::Credential { .. } => "credential",
            Self::RateLimited { .. } => "rate_limited",
            Self::Server { .. } => "server",
            Self::Malformed { .. } => "malformed",
            Self::Expired { .. } => "expired",
            Self::Transport { .. } => "transport",
            Self::TimedOut { .. } => "timed_out",
            Self::Panicked => "panicked",
        }
    }

    /// Whether another attempt may succeed. [`Denied`](Self::Denied) says no, and so does a server that does
    /// not know the method or the protocol (501, 505); a malformed response may come from a proxy and be
    /// temporary, so it is retryable.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Denied { .. } | Self::Server { status: 501 | 505, .. })
    }

    /// How long the server asked to be left alone (RFC 9110 §10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied { retry_after, .. }
            | Self::RateLimited { retry_after }
            | Self::Server { retry_after, .. }
            | Self::Malformed { retry_after, .. }
            | Self::Expired { retry_after, .. }
            | Self::Transport { retry_after, .. }
            | Self::TimedOut { retry_after, .. } => *retry_after,
            Self::Credential { .. } | Self::Panicked => None,
        }
    }
}

/// The text includes the cause, so [`source`](Error::source) continues below it and nothing is printed twice.
impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { error, status: 0, .. } => {
                write!(f, "refused before anything was sent: {error}")?;
            }
            Self::Denied { error, status, .. } => {
                write!(f, "the server refused ({status}): {error}")?;
            }
            Self::Credential { source } => write!(f, "the client's credential {source}")?,
            Self::RateLimited { .. } => f.write_str("too many requests")?,
            Self::Server { status, address, .. } => {
                write!(f, "the server failed (status {status})")?;
                after(f, " at ", address.as_deref())?;
            }
            Self::Malformed { reason, .. } => {
                write!(f, "the server sent an invalid response: {reason}")?;
            }
            Self::Expired { reason, .. } => {
                write!(f, "the server sent an unusable token: {reason}")?;
            }
            Self::Transport { source, address, .. } => {
                f.write_str("the server could not be reached")?;
                after(f, " at ", address.as_deref())?;
                write!(f, ": {source}")?;
            }
            Self::TimedOut { after: allowed, address, .. } => {
                write!(f, "no answer within {}", humantime::format_duration(*allowed))?;
                after(f, " from ", address.as_deref())?;
            }
            Self::Panicked => {
                f.write_str("the token manager panicked: standard error should say why")?;
            }
        }
        if let Self::Denied { description, .. } | Self::Server { description, .. } = self {
            after(f, ": ", description.as_deref())?;
        }
        match (self.retry_after(), self) {
            (Some(wait), Self::Transport { .. } | Self::TimedOut { .. }) => {
                write!(f, "; the next request is sent in {} at the earliest", rounded(wait))
            }
            (Some(wait), Self::RateLimited { .. }) => {
                write!(f, "; try again in {}", rounded(wait))
            }
            (Some(wait), _) => write!(f, "; it asked to wait {}", rounded(wait)),
            (None, _) => Ok(()),
        }
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Credential { source } | Self::Transport { source, .. } => source.source(),
            _ => None,
        }
    }
}

fn after(f: &mut fmt::Formatter<'_>, before: &str, text: Option<&str>) -> fmt::Result {
    text.map_or(Ok(()), |text| write!(f, "{before}{text}"))
}

/// As people say it: 30 s, not 29.999.
fn rounded(wait: Duration) -> humantime::FormattedDuration {
    let unit = if wait < Duration::from_secs(1) { 1_000_000 } else { 1_000_000_000 };
    let units = wait.as_nanos().div_ceil(unit);
    let nanos = u64::try_from(units.saturating_mul(unit)).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_nanos(nanos))
}

/// Why a call on a session failed.
///
/// ```
/// use std::time::Duration;
/// use ccg_session::SessionError;
///
/// /// How long a service should tell its clients to wait, if waiting helps.
/// fn come_again(error: &SessionError) -> Option<Duration> {
///     match error {
///         SessionError::Failed { .. } | SessionError::Cooling { .. } => error.retry_after(),
///         SessionError::Overloaded => Some(Duration::from_secs(1)),
///         _ => None,
///     }
/// }
/// # assert!(come_again(&SessionError::Closed).is_none());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The attempts that this caller waited for have failed, and there is no unexpired token.
    Failed {
        /// The error of the last attempt.
        error: Arc<TokenError>,
        /// No attempt will start before this much time has passed.
        retry_after: Duration,
    },
    /// There is no unexpired token, and the session is backing off after a failure: see
    /// [`RetryPolicy`](crate::RetryPolicy).
    Cooling {
        /// The error of the last attempt.
        last: Arc<TokenError>,
        /// No attempt will start before this much time has passed.
        retry_after: Duration,
    },
    /// The number of waiting callers has reached [`max_held`](crate::SessionConfig::max_held), and there is no
    /// unexpired token.
    Overloaded,
    /// This session's token manager cannot do that. (An [`HttpTokenManager`](crate::HttpTokenManager) can
    /// revoke if its provider has a [`revocation_url`](crate::Provider::revocation_url).)
    Unsupported(&'static str),
    /// [`blocking_get_token`](crate::SessionHandle::blocking_get_token) would have had to block inside a tokio
    /// runtime.
    WouldBlock,
    /// The session has ended: shut down, or its runtime is gone. This handle stays closed.
    Closed,
    /// The session has ended because tokio's time was paused, as in a test. Enable the feature `test-util`,
    /// with which the session's clock follows tokio's.
    TimePaused,
}

impl SessionError {
    /// How long to wait before asking again can succeed. `None` if that is not known, or if waiting does not help: as
    /// after [`invalidate`](crate::SessionHandle::invalidate) of a [`fixed`](crate::SessionHandle::fixed) token.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed { retry_after, .. } | Self::Cooling { retry_after, .. } => {
                Some(*retry_after).filter(|wait| *wait < Duration::MAX)
            }
            _ => None,
        }
    }

    /// The underlying error of the attempt, if there was one.
    pub fn token_error(&self) -> Option<&TokenError> {
        match self {
            Self::Failed { error, .. } | Self::Cooling { last: error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Names its cause, as that of a [`TokenError`] does.
impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { error, .. } => write!(f, "the attempts failed: {error}"),
            Self::Cooling { last, retry_after } => write!(
                f,
                "no request is sent for another {} after an error: {last}",
                rounded(*retry_after)
            ),
            Self::Overloaded => f.write_str(
                "the number of waiting callers has reached max_held: try again later, or raise it",
            ),
            Self::Unsupported(what) => {
                write!(f, "this session's token manager, or its provider, does not support {what}")
            }
            Self::WouldBlock => f.write_str(
                "blocking_get_token would have to wait inside a tokio runtime: use get_token, or \
                 another thread",
            ),
            Self::Closed => f.write_str(
                "the session has ended (shutdown was called, or its runtime was dropped): spawn a new one",
            ),
            Self::TimePaused => f.write_str(
                "the session has ended because tokio's time is paused: enable ccg-session's feature \
                    `test-util` for tests with paused time",
            ),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.token_error()?.source()
    }
}

/// An invalid setting or call; nothing has been sent. The message names the setting, its value, and how to fix
/// it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct ConfigError {
    what: &'static str,
    problem: String,
}

impl ConfigError {
    /// `what` names the setting, `problem` completes the sentence.
    pub fn new(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into() }
    }

    /// The name of the setting that is wrong.
    pub fn setting(&self) -> &'static str {
        self.what
    }
}
