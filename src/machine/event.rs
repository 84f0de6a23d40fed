//! The machine's inputs and outputs: events and effects.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{SessionError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::request::{
    ExchangeKey, ExchangeRequest, GrantRequest, PermitRequest, TokenRequestOptions,
};
use crate::token::{AccessToken, ExchangedToken, TokenId};

/// The inputs that the machine cannot compute, supplied with each event.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The clock.
    pub now: Instant,
    /// In [0, 1): used for every draw that the event asks for.
    pub random: f64,
    /// Whether any caller has used the published snapshot.
    pub used: bool,
}

/// Identifies a caller that may wait. Ids increase: the first to ask is answered first.
pub type CallerId = u64;

/// Events of a session. Every effect is caused by one of them.
#[derive(Clone, Debug)]
pub enum Event<R> {
    /// A caller that the snapshot could not answer wants a token.
    GetToken(CallerId, R, TokenRequestOptions),
    /// A caller wants a narrower token.
    Exchange(CallerId, R, Box<ExchangeRequest>),
    /// A caller wants every token gone.
    Revoke(CallerId, R, TokenRequestOptions),
    /// A caller read this snapshot at or after its `ask_at`, and does not wait.
    Asked(u32),
    /// The resource server refused this token.
    Invalidate(TokenId),
    /// This caller no longer waits.
    Left(CallerId),
    /// An attempt ended, as each does exactly once.
    Ended(Ended),
    /// The wait for leave to send an attempt is over.
    Permitted(Purpose, Result<(), TokenError>),
    /// What the manager can do, as far as it knows now.
    Abilities(Abilities),
    /// The manager has learnt something of the session's tokens.
    News(News),
    /// `next_deadline` has come; early, late or twice changes nothing.
    Timer,
    /// The session ends.
    Shutdown,
}

/// What the session's token manager can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// It can exchange tokens.
    pub exchange: bool,
    /// It can revoke tokens.
    pub revoke: bool,
    /// The lifetime to assume for a token if the server does not say.
    pub assumed_lifetime: Duration,
    /// Each grant and each exchange needs its leave to be sent.
    pub gated: bool,
}

/// What an attempt is for that needs leave to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub enum Purpose {
    /// The session's own token.
    Grant,
    /// The token of this key.
    Exchange(Arc<ExchangeKey>),
}

/// A wait for leave to send an attempt.
#[derive(Clone, Debug)]
pub enum Wait {
    /// Asks the manager. It ends exactly once, if it is not given up: with `Permitted`.
    Begin(Purpose, PermitRequest, Duration),
    /// It is no longer needed.
    GiveUp(Purpose),
}

/// What a manager hears from elsewhere.
#[derive(Clone, Debug)]
pub enum News {
    /// Another session with the same tokens has revoked this one, which has so much life left.
    Revoked {
        /// The token.
        text: TokenText,
        /// Until it would have expired.
        left: Duration,
    },
}

/// Which attempt ended, and how.
#[derive(Clone, Debug)]
pub enum Ended {
    /// The grant.
    Grant(Result<Grant, TokenError>),
    /// The exchange for this key.
    Exchange(Arc<ExchangeKey>, Result<Grant, TokenError>),
    /// The revocation of the token with this text.
    Revocation(TokenText, Result<(), TokenError>),
}

/// What the machine wants done. The order of the fields is the order in which to do it: what is
/// published comes before the replies that rest on it.
#[derive(Debug)]
pub struct Effects<R> {
    /// Exchanged tokens to publish or to hide. Applied before `publish`, so that a revoke hides all of them
    /// atomically.
    pub exchanged: Vec<(Arc<ExchangeKey>, Option<PublishedExchange>)>,
    /// The snapshot to publish.
    pub publish: Option<Published>,
    /// Waits for leave to begin, or to be given up.
    pub waits: Vec<Wait>,
    /// Attempts to start. One that needed leave takes with it what the event brought.
    pub start: Vec<Start>,
    /// Replies to callers.
    pub replies: Vec<(R, Reply)>,
    /// Warnings to log.
    pub warnings: Vec<Warning>,
}

impl<R> Default for Effects<R> {
    fn default() -> Self {
        Self {
            exchanged: Vec::new(),
            publish: None,
            waits: Vec::new(),
            start: Vec::new(),
            replies: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// One attempt, to be started now. It ends exactly once: with its result, or with `TimedOut`.
#[derive(Clone, Debug)]
pub struct Start {
    /// The attempt's number within its flight, from 1.
    pub number: u32,
    /// How long it may take.
    pub timeout: Duration,
    /// What to send.
    pub request: Request,
}

/// What an attempt sends.
#[derive(Clone, Debug)]
pub enum Request {
    /// Client credentials.
    Grant(GrantRequest),
    /// A token exchange for this key.
    Exchange(Arc<ExchangeKey>, AccessToken, Box<ExchangeRequest>),
    /// The revocation of one token.
    Revocation(TokenText, TokenRequestOptions),
}

/// What a caller is told.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To `GetToken`.
    Token(Result<AccessToken, SessionError>),
    /// To `Exchange`.
    Exchanged(Result<ExchangedToken, SessionError>),
    /// To `Revoke`.
    Revoked(Result<(), SessionError>),
}

/// What callers can see of the session without asking it.
#[derive(Clone, Debug)]
pub struct Published {
    /// Rises with each publication.
    pub number: u32,
    /// The token held.
    pub token: Option<PublishedToken>,
    /// From here on the actor wants to hear of a reader.
    pub ask_at: Instant,
    /// A reader that finds no usable token before `until` gets `last`.
    pub cooling: Option<Cooling>,
    /// The session has ended.
    pub closed: bool,
}

/// The token in a [`Published`].
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub struct PublishedToken {
    /// The token itself.
    pub token: AccessToken,
    /// Given out before this instant.
    pub usable_until: Instant,
    /// Rises whenever a doubt of this token was dismissed: older doubts no longer count.
    pub doubts_dismissed: u64,
    /// A doubt of this token that comes earlier will be dismissed.
    pub doubts_honoured_from: Instant,
}

impl Published {
    /// Apart from its number.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let Self { number: _, token, ask_at, cooling, closed } = self;
        let same_token = match (token, &other.token) {
            (Some(token), Some(other)) => token.says_the_same(other),
            (None, None) => true,
            _ => false,
        };
        let same_cooling = match (cooling, &other.cooling) {
            (Some(Cooling { until, last }), Some(other)) => {
                *until == other.until && Arc::ptr_eq(last, &other.last)
            }
            (None, None) => true,
            _ => false,
        };
        same_token && same_cooling && *ask_at == other.ask_at && *closed == other.closed
    }
}

impl PublishedToken {
    fn says_the_same(&self, other: &Self) -> bool {
        let Self { token, usable_until, doubts_dismissed, doubts_honoured_from } = self;
        *token == other.token
            && *usable_until == other.usable_until
            && *doubts_dismissed == other.doubts_dismissed
            && *doubts_honoured_from == other.doubts_honoured_from
    }
}

/// An exchanged token that callers may take without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct PublishedExchange {
    /// The token itself.
    pub token: ExchangedToken,
    /// Given out before this instant.
    pub usable_until: Instant,
    /// From here on the actor wants to hear of a reader.
    pub ask_at: Instant,
}

/// Why and until when no grant starts.
#[derive(Clone, Debug)]
pub struct Cooling {
    /// The first instant at which a flight may open again.
    pub until: Instant,
    /// What the last flight failed with.
    pub last: Arc<TokenError>,
}

impl Cooling {
    /// For those who waited for the flight that failed.
    pub(crate) fn failed(&self, now: Instant) -> SessionError {
        SessionError::Failed { error: self.last.clone(), retry_after: self.until.since(now) }
    }

    /// For those who come while the server is left alone.
    pub(crate) fn cooling(&self, now: Instant) -> SessionError {
        SessionError::Cooling { last: self.last.clone(), retry_after: self.until.since(now) }
    }
}

/// Something that an operator should read in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The server does not say how long its tokens live. Told once per session.
    LifetimeAssumed(Duration),
    /// The ledger was full: this token can no longer be revoked.
    LedgerOverflow(TokenId),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LifetimeAssumed(lifetime) => write!(
                f,
                "the server sends no usable expires_in; assuming a token lifetime of {}",
                humantime::format_duration(*lifetime)
            ),
            Self::LedgerOverflow(id) => write!(
                f,
                "more live tokens than a revoke can reach: {id:?} can no longer be revoked"
            ),
        }
    }
}
