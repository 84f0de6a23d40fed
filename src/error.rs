//! What can go wrong: in an attempt ([`TokenError`]), for a caller ([`SessionError`]), and before
//! anything is sent ([`ConfigError`]).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// What one attempt at the server met.
///
/// Never holds a secret, nor a server's answer beyond its own words about the failure, such as `error`,
/// `error_description` and `error_uri` (RFC 6749 §5.2), each cut to 1,024 characters.
///
/// Its variants may grow fields: a [`TokenManager`](crate::TokenManager) of yours makes one by the function
/// that is named after it, and says more with those that begin with `with`.
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
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The server refused (RFC 6749 §5.2), or the manager did before it asked. The same request would be
    /// refused again.
    #[error("{}: {error}{}{}", refusal(*status), colon(description.as_deref()), wait(*retry_after))]
    #[non_exhaustive]
    Denied {
        /// The `error` code, or the HTTP status in words if the server gave none.
        error: String,
        /// The server's `error_description`, or what it says in its place.
        description: Option<String>,
        /// The server's `error_uri`.
        uri: Option<String>,
        /// The HTTP status; zero if no server was asked.
        status: u16,
        /// The credentials have changed since they were read for this attempt, or what was signed with them
        /// was dated by a clock that is not the server's: worth one more.
        credentials_changed: bool,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The client's credential could not be read, or is not what it should be, so nothing was sent. It
    /// may be there by the next attempt: somebody may just be writing it.
    #[error("the client's credential {source}")]
    #[non_exhaustive]
    Credential {
        /// What was wrong with it, and where.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The server wants fewer requests: 429, or words to that effect.
    #[error("the server wants fewer requests{}", wait(*retry_after))]
    #[non_exhaustive]
    RateLimited {
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The server failed, or what is before it: 5xx, a page in place of an answer, an address where nobody
    /// is, or words to that effect.
    #[error("the server failed (status {status}){}{}{}", named(" at ", address.as_deref()), colon(description.as_deref()), wait(*retry_after))]
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
    /// The answer made no sense: not the JSON of a token, or a token that cannot be sent.
    #[error("the server's answer made no sense: {reason}{}", wait(*retry_after))]
    #[non_exhaustive]
    Malformed {
        /// What was wrong with it.
        reason: String,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The token was expired or revoked when it arrived.
    #[error("the server answered with a dead token: {reason}{}", wait(*retry_after))]
    #[non_exhaustive]
    Expired {
        /// Why it is dead.
        reason: &'static str,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The server could not be reached, or the connection broke.
    #[error("the server could not be reached{}: {source}", named(" at ", address.as_deref()))]
    #[non_exhaustive]
    Transport {
        /// What the transport said.
        source: Arc<dyn Error + Send + Sync>,
        /// Scheme, host and path.
        address: Option<String>,
    },
    /// No answer within the time allowed for an attempt.
    #[error("no answer within {}{}", humantime::format_duration(*after), named(" from ", address.as_deref()))]
    #[non_exhaustive]
    TimedOut {
        /// The time allowed.
        after: Duration,
        /// Scheme, host and path.
        address: Option<String>,
    },
    /// The token manager panicked: a bug in it, or, of an [`HttpTokenManager`](crate::HttpTokenManager), a
    /// runtime without I/O (`enable_all`). The session goes on.
    #[error("the token manager panicked: standard error should say why")]
    Panicked,
}

impl TokenError {
    /// A refusal that comes from the manager itself, not from a server, unless a
    /// [status](Self::with_status) is given.
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

    /// What was wrong with the client's credential completes a sentence: "could not be read", say.
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
        Self::Transport { source: source.into().into(), address: None }
    }

    /// No answer within this time.
    pub fn timed_out(after: Duration) -> Self {
        Self::TimedOut { after, address: None }
    }

    /// With the HTTP status of a refusal, or of a server that failed.
    #[must_use]
    pub fn with_status(mut self, new: u16) -> Self {
        if let Self::Denied { status, .. } | Self::Server { status, .. } = &mut self {
            *status = new;
        }
        self
    }

    /// With what the server said of it, where that is kept. It is shown, so it must hold no secret.
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

    /// With how long the server asked to be left alone, where that is kept.
    #[must_use]
    pub fn with_retry_after(mut self, new: Option<Duration>) -> Self {
        if let Self::Denied { retry_after, .. }
        | Self::RateLimited { retry_after }
        | Self::Server { retry_after, .. }
        | Self::Malformed { retry_after, .. }
        | Self::Expired { retry_after, .. } = &mut self
        {
            *retry_after = new;
        }
        self
    }

    /// With where the server is, where that is kept: scheme, host and path, and nothing secret.
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

    /// Whether another attempt may go better. [`Denied`](Self::Denied) says no, and so does a server that
    /// does not know the method or the protocol (501, 505); an answer that made no sense may have been a
    /// proxy's page, which comes and goes.
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
            | Self::Expired { retry_after, .. } => *retry_after,
            Self::Credential { .. }
            | Self::Transport { .. }
            | Self::TimedOut { .. }
            | Self::Panicked => None,
        }
    }
}

fn named(before: &str, address: Option<&str>) -> String {
    address.map(|address| format!("{before}{address}")).unwrap_or_default()
}

fn refusal(status: u16) -> String {
    match status {
        0 => "refused before anything was sent".into(),
        status => format!("the server refused ({status})"),
    }
}

fn colon(description: Option<&str>) -> String {
    description.map(|text| format!(": {text}")).unwrap_or_default()
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after
        .map(|after| format!("; it said to wait {}", humantime::format_duration(after)))
        .unwrap_or_default()
}

/// What a caller gets instead of a token.
///
/// ```
/// use std::time::Duration;
/// use ccg_session::SessionError;
///
/// /// How long a service tells its own clients to wait, if waiting helps.
/// fn come_again(error: &SessionError) -> Option<Duration> {
///     match error {
///         SessionError::Failed { .. } | SessionError::Cooling { .. } => error.retry_after(),
///         SessionError::Overloaded => Some(Duration::from_secs(1)),
///         _ => None,
///     }
/// }
/// # assert!(come_again(&SessionError::Closed).is_none());
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The attempts that this caller waited for have failed, and there is no unexpired token.
    #[error("the attempts failed: {error}")]
    Failed {
        /// What the last of them met.
        #[source]
        error: Arc<TokenError>,
        /// No attempt will start before this much time has passed.
        retry_after: Duration,
    },
    /// There is no unexpired token, and after a failure the server is left alone for a while: see
    /// [`RetryPolicy`](crate::RetryPolicy).
    #[error("the server is left alone for another {} after an error: {last}", humantime::format_duration(whole_millis(*retry_after)))]
    Cooling {
        /// What the last attempt met.
        #[source]
        last: Arc<TokenError>,
        /// No attempt will start before this much time has passed.
        retry_after: Duration,
    },
    /// As many callers wait as [`max_held`](crate::SessionConfig::max_held) allows, and there is no token
    /// that could be given instead.
    #[error(
        "as many callers wait for this session as max_held allows: ask again later, or raise it"
    )]
    Overloaded,
    /// This session's token manager cannot do that. (An [`HttpTokenManager`](crate::HttpTokenManager) can
    /// revoke if its provider has a [`revocation_url`](crate::Provider::revocation_url).)
    #[error("this session's token manager, or its provider, does not support {0}")]
    Unsupported(&'static str),
    /// [`blocking_get_token`](crate::SessionHandle::blocking_get_token) would have had to wait inside a
    /// tokio runtime.
    #[error(
        "blocking_get_token would have to wait inside a tokio runtime: use get_token, or another thread"
    )]
    WouldBlock,
    /// The session has ended: shut down, or its runtime is gone. This handle stays closed.
    #[error("the session has ended (shutdown was called, or its runtime is gone): spawn another")]
    Closed,
    /// The session has ended, since tokio's time was paused, as in a test, and the session's clock goes
    /// on: switch on the feature `test-util`, with which it follows tokio's.
    #[error(
        "tokio's time is paused, and this session's clock is not, so it has ended: tests on paused time \
         need ccg-session's feature `test-util`"
    )]
    TimePaused,
}

impl SessionError {
    /// How long until asking again can make a difference, as far as that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed { retry_after, .. } | Self::Cooling { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }

    /// What the server's side of the matter was, if there was one.
    pub fn token_error(&self) -> Option<&TokenError> {
        match self {
            Self::Failed { error, .. } | Self::Cooling { last: error, .. } => Some(error),
            _ => None,
        }
    }
}

fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Something that was asked for cannot be, and nothing has been sent. The message says what was
/// wrong, with what value, and what to do.
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
