//! What a test does to both machines: abstract operations, so that a list of them still makes sense when
//! some are left out.

use std::io;
use std::time::Duration;

use super::{Nanos, SECOND};
pub use crate::config::RefreshMode as Mode;
use crate::config::{RetryPolicy, SessionConfig};
use crate::error::TokenError;
use crate::grant::Grant;
use crate::machine;

/// A session's configuration, and what its manager can do. Spans are in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    pub mode: Mode,
    pub stale_buffer: u64,
    pub expired_buffer: u64,
    pub attempts: u32,
    pub cooling: u64,
    pub max_held: usize,
    pub exchange_capacity: usize,
    pub exchanges_at_once: usize,
    pub can_exchange: bool,
    pub can_revoke: bool,
    /// Grants and exchanges wait for leave.
    pub gated: bool,
}

/// How long a token is taken to live whose server does not say.
pub const ASSUMED_LIFETIME: Nanos = 300 * SECOND;

/// How long an attempt may take.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(7);

impl Setup {
    /// What a test starts from.
    #[cfg(test)]
    pub const fn usual() -> Self {
        Self {
            mode: Mode::WhileUsed,
            stale_buffer: 600,
            expired_buffer: 30,
            attempts: 2,
            cooling: 30,
            max_held: 100,
            exchange_capacity: 100,
            exchanges_at_once: 64,
            can_exchange: true,
            can_revoke: true,
            gated: false,
        }
    }

    pub fn config(&self) -> SessionConfig {
        SessionConfig {
            refresh_mode: self.mode,
            stale_buffer: Duration::from_secs(self.stale_buffer),
            expired_buffer: Duration::from_secs(self.expired_buffer),
            retry: RetryPolicy {
                attempts: self.attempts,
                attempt_timeout: ATTEMPT_TIMEOUT,
                cooling: Duration::from_secs(self.cooling),
            },
            max_held: self.max_held,
            exchange_capacity: self.exchange_capacity,
            exchanges_at_once: self.exchanges_at_once,
        }
    }

    pub fn abilities(&self) -> machine::Abilities {
        machine::Abilities {
            exchange: self.can_exchange,
            revoke: self.can_revoke,
            assumed_lifetime: Duration::from_nanos(ASSUMED_LIFETIME),
            gated: self.gated,
        }
    }
}

/// How an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    Denied,
    CredentialsChanged,
    /// `invalid_grant`, which in an exchange refuses the subject.
    InvalidGrant,
    /// `invalid_token`.
    InvalidToken,
    /// `invalid_request`, with a description that names the subject token.
    SubjectNamed,
    /// `invalid_request`, with another description.
    InvalidRequest,
    /// With a `Retry-After` of so many milliseconds.
    RateLimited(Option<u64>),
    /// The same.
    Server(Option<u64>),
    Malformed,
    Expired,
    Transport,
    TimedOut,
    Panicked,
}
pub use Failure::*;

impl Failure {
    pub fn credentials_changed(self) -> bool {
        self == CredentialsChanged
    }

    pub fn is_retryable(self) -> bool {
        !matches!(
            self,
            Denied
                | CredentialsChanged
                | InvalidGrant
                | InvalidToken
                | SubjectNamed
                | InvalidRequest
        )
    }

    pub fn refuses_subject(self) -> bool {
        matches!(self, InvalidGrant | InvalidToken | SubjectNamed)
    }

    pub fn retry_after(self) -> Option<Nanos> {
        match self {
            RateLimited(millis) | Server(millis) => millis.map(|millis| millis * 1_000_000),
            _ => None,
        }
    }

    pub fn error(self) -> TokenError {
        let after = |millis: Option<u64>| millis.map(Duration::from_millis);
        match self {
            Denied => TokenError::denied("unauthorized_client", "not you"),
            CredentialsChanged => TokenError::denied("invalid_client", "")
                .with_status(401)
                .with_credentials_changed(true),
            InvalidGrant => TokenError::denied("invalid_grant", "no"),
            InvalidToken => TokenError::denied("invalid_token", "no"),
            SubjectNamed => TokenError::denied("invalid_request", "the subject_token is not valid"),
            InvalidRequest => TokenError::denied("invalid_request", "a parameter is missing"),
            RateLimited(millis) => TokenError::rate_limited(after(millis)),
            Server(millis) => TokenError::server(503, after(millis)),
            Malformed => TokenError::malformed("not JSON"),
            Expired => TokenError::expired("by the server's own account"),
            Transport => TokenError::transport(io::Error::other("the cable is cut")),
            TimedOut => TokenError::timed_out(ATTEMPT_TIMEOUT),
            Panicked => TokenError::Panicked,
        }
    }

    /// Why there is no leave. Nothing was sent that could have timed out.
    pub fn no_leave(error: &TokenError) -> Self {
        match Self::of(error) {
            TimedOut => RateLimited(Some(1_000)),
            failure => failure,
        }
    }

    /// Which failure this is the error of.
    pub fn of(error: &TokenError) -> Self {
        let millis =
            |after: &Option<Duration>| after.map(|after| u64::try_from(after.as_millis()).unwrap());
        match error {
            TokenError::Denied { credentials_changed: true, .. } => CredentialsChanged,
            TokenError::Denied { error, description, .. } => match error.as_str() {
                "invalid_grant" => InvalidGrant,
                "invalid_token" => InvalidToken,
                "invalid_request" => match description.as_deref() {
                    Some("a parameter is missing") => InvalidRequest,
                    _ => SubjectNamed,
                },
                _ => Denied,
            },
            TokenError::RateLimited { retry_after, .. } => RateLimited(millis(retry_after)),
            TokenError::Server { retry_after, .. } => Server(millis(retry_after)),
            TokenError::Malformed { .. } => Malformed,
            TokenError::Expired { .. } => Expired,
            TokenError::Transport { .. } => Transport,
            TokenError::TimedOut { .. } => TimedOut,
            TokenError::Panicked => Panicked,
            other => panic!("an error that no attempt ends with: {other:?}"),
        }
    }
}

/// How long the server says that a token lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Life {
    Unsaid,
    Millis(u64),
    Huge,
    /// The first, and the second is when the server wants it refreshed.
    Hinted(u64, u64),
}
pub use Life::{Hinted, Huge, Millis, Unsaid};

impl Life {
    pub fn of(self, grant: Grant) -> Grant {
        match self {
            Unsaid => grant,
            Millis(millis) => grant.expires_in(Duration::from_millis(millis)),
            Huge => grant.expires_in(Duration::from_nanos(Nanos::MAX)),
            Hinted(millis, refresh_in) => {
                Millis(millis).of(grant).refresh_in(Duration::from_millis(refresh_in))
            }
        }
    }
}

/// How an attempt on the wire ends. A revocation that gets a token is one that succeeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// A token that was never seen before.
    New(Life),
    /// The token received last, or the one so many before.
    Again(u8, Life),
    Fails(Failure),
}
pub use Outcome::*;

/// Which token a caller says was refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    Current,
    /// So many generations before the last that was given out or published.
    Back(u8),
    /// One of another session.
    Foreign,
}
pub use Which::*;

/// An instant that matters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    Deadline,
    AskAt,
    UsableUntil,
    NotBefore,
    /// Of the exchanged token that comes to it first.
    ExchangedStaleAt,
    ExchangedHoldAt,
}
pub use Mark::*;

/// One thing that happens. `left` is in seconds, `ip` names an address, other spans are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    Get {
        left: u32,
        ip: u8,
    },
    Exchange {
        key: u8,
        reversed: bool,
        left: u32,
        ip: u8,
    },
    Revoke {
        ip: u8,
    },
    /// One of those who wait leaves.
    Leave(u8),
    /// A reader finds the token in the snapshot.
    Use,
    /// A reader sends word that it read the current snapshot, or an older one.
    Asked {
        current: bool,
    },
    Invalidate(Which),
    /// An attempt on the wire ends, counted from the oldest.
    End(u8, Outcome),
    /// A wait for leave ends, counted from the oldest: with leave, or with this.
    Permit(u8, Option<Failure>),
    /// Time passes; nobody notices.
    Pass(u64),
    /// Time passes up to this instant, a nanosecond less, or one more.
    To(Mark, i8),
    /// The manager has learnt what its server can do.
    Abilities {
        exchange: bool,
        revoke: bool,
    },
    /// Another session has revoked the token received last, or the one so many before; or, from 3 on, the
    /// next new one. It has so many seconds left.
    Hear(u8, u32),
    Timer,
    /// Time passes up to the deadline, and the timer rings.
    Wake,
    Shutdown,
}
pub use Op::*;

/// An operation, and the random number that comes in with its event.
pub type Step = (f64, Op);

/// How long tokens live, in milliseconds: what is usual first.
pub const LIVES: [u64; 7] = [60_000, 3_600_000, 1, 1_000, 1_500, 5_000, 20_000];

/// How much life is asked for, in seconds.
pub const LEFT: [u32; 5] = [0, 1, 40, 1_800, 1_000_000];

/// What a server says about coming again, in milliseconds.
pub const RETRY_AFTER: [Option<u64>; 7] =
    [None, Some(0), Some(900), Some(5_000), Some(5_001), Some(40_000), Some(7_200_000)];

/// Spans of time that something depends on, in milliseconds.
pub const PASSES: [u64; 11] =
    [0, 1, 100, 250, 1_000, 5_000, 10_000, 30_000, 60_000, 3_600_000, 36_000_000];

/// `stale_buffer` and `expired_buffer`.
pub const BUFFERS: [(u64, u64); 5] = [(600, 30), (600, 180), (10, 3), (1, 0), (86_400, 0)];

/// `cooling`.
pub const COOLING: [u64; 2] = [1, 30];
