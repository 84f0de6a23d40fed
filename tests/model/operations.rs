//! What a test does to both machines: abstract operations, so that a list of them still makes sense when
//! some are left out.

use std::io;
use std::time::Duration;

use ccg_session::testing::internals;
use ccg_session::{RefreshMode, SessionConfig, TokenError};
use proptest::prelude::*;
use proptest::sample::select;

use super::words::LEFT;
use super::{Nanos, SECOND};

/// When the session refreshes by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    WhileUsed,
    OnRequest,
    Always,
}

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
    pub can_exchange: bool,
    pub can_revoke: bool,
}

/// How long a token is taken to live whose server does not say.
pub const ASSUMED_LIFETIME: Nanos = 300 * SECOND;

/// How long an attempt may take.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(7);

impl Setup {
    /// What a test starts from.
    pub fn usual() -> Self {
        Self {
            mode: Mode::WhileUsed,
            stale_buffer: 600,
            expired_buffer: 30,
            attempts: 2,
            cooling: 30,
            max_held: 100,
            exchange_capacity: 100,
            can_exchange: true,
            can_revoke: true,
        }
    }

    pub fn stale_buffer(&self) -> Nanos {
        self.stale_buffer * SECOND
    }

    pub fn expired_buffer(&self) -> Nanos {
        self.expired_buffer * SECOND
    }

    pub fn cooling(&self) -> Nanos {
        self.cooling * SECOND
    }

    pub fn config(&self) -> SessionConfig {
        let mut config = SessionConfig::default();
        config.refresh_mode = match self.mode {
            Mode::WhileUsed => RefreshMode::WhileUsed,
            Mode::OnRequest => RefreshMode::OnRequest,
            Mode::Always => RefreshMode::Always,
        };
        config.stale_buffer = Duration::from_secs(self.stale_buffer);
        config.expired_buffer = Duration::from_secs(self.expired_buffer);
        config.retry.attempts = self.attempts;
        config.retry.attempt_timeout = ATTEMPT_TIMEOUT;
        config.retry.cooling = Duration::from_secs(self.cooling);
        config.max_held = self.max_held;
        config.exchange_capacity = self.exchange_capacity;
        config
    }

    pub fn abilities(&self) -> internals::Abilities {
        internals::Abilities {
            exchange: self.can_exchange,
            revoke: self.can_revoke,
            assumed_lifetime: Duration::from_nanos(ASSUMED_LIFETIME),
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

pub use super::words::Life::{self, Hinted, Huge, Millis, Unsaid};

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
    /// Time passes; nobody notices.
    Pass(u64),
    /// Time passes up to this instant, a nanosecond less, or one more.
    To(Mark, i8),
    /// The manager has learnt what its server can do.
    Abilities {
        exchange: bool,
        revoke: bool,
    },
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

fn lives() -> impl Strategy<Value = Life> {
    prop_oneof![
        4 => select(&LIVES[..2]).prop_map(Millis),
        2 => select(&LIVES[2..]).prop_map(Millis),
        1 => Just(Millis(0)),
        1 => Just(Unsaid),
        1 => Just(Huge),
        1 => (0..20_000_u64).prop_map(Millis),
        // Before the first tenth, at its end, between, at `hold_at` of most, and after that.
        1 => select(vec![0, 5_999, 6_000, 20_000, 54_000, 54_001, 70_000])
            .prop_map(|refresh_in| Hinted(60_000, refresh_in)),
    ]
}

fn failures() -> impl Strategy<Value = Failure> {
    let after = select(&RETRY_AFTER[..]);
    prop_oneof![
        3 => select(vec![TimedOut, Transport, Malformed, Expired, Panicked]),
        2 => select(vec![Denied, InvalidRequest]),
        2 => select(vec![InvalidGrant, InvalidToken, SubjectNamed]),
        1 => Just(CredentialsChanged),
        1 => after.clone().prop_map(RateLimited),
        1 => after.prop_map(Server),
    ]
}

/// So many of twenty fail.
fn outcomes(failing: u32) -> impl Strategy<Value = Outcome> {
    prop_oneof![
        16 - failing => lives().prop_map(New),
        4 => (0..3_u8, lives()).prop_map(|(back, life)| Again(back, life)),
        failing => failures().prop_map(Fails),
    ]
}

/// `weights` are those of asking for a token, for an exchange, for a revocation, for an invalidation, and
/// (of twenty) of an attempt that fails.
fn operations(weights: [u32; 5]) -> impl Strategy<Value = Op> {
    let left = || prop_oneof![3 => Just(0), 1 => select(LEFT.to_vec())];
    let ip = || prop_oneof![3 => Just(0_u8), 1 => 0..3_u8];
    let passes = prop_oneof![select(&PASSES[..]), 0..40_000_u64,];
    let mark = select(vec![Deadline, AskAt, AskAt, UsableUntil, NotBefore, ExchangedHoldAt]);
    let which = prop_oneof![4 => Just(Current), 2 => (0..4_u8).prop_map(Back), 1 => Just(Foreign)];
    prop_oneof![
        weights[0] => (left(), ip()).prop_map(|(left, ip)| Get { left, ip }),
        weights[1] => (prop_oneof![2 => Just(0_u8), 1 => 0..3_u8], any::<bool>(), left(), ip())
            .prop_map(|(key, reversed, left, ip)| Exchange { key, reversed, left, ip }),
        weights[2] => ip().prop_map(|ip| Revoke { ip }),
        4 => any::<u8>().prop_map(Leave),
        3 => Just(Use),
        4 => prop_oneof![3 => Just(true), 1 => Just(false)].prop_map(|current| Asked { current }),
        weights[3] => which.prop_map(Invalidate),
        30 => (0..4_u8, outcomes(weights[4])).prop_map(|(which, outcome)| End(which, outcome)),
        10 => passes.prop_map(Pass),
        10 => (mark, -1..=1_i8).prop_map(|(mark, off)| To(mark, off)),
        3 => Just(Timer),
        1 => (prop::bool::weighted(0.9), prop::bool::weighted(0.7))
            .prop_map(|(exchange, revoke)| Abilities { exchange, revoke }),
        12 => Just(Wake),
        1 => prop_oneof![1 => Just(Shutdown), 4 => Just(Wake)],
    ]
}

fn setups() -> impl Strategy<Value = Setup> {
    let mode = select(vec![Mode::WhileUsed, Mode::OnRequest, Mode::Always]);
    let buffers = select(&BUFFERS[..]);
    let bounds = (
        prop_oneof![3 => Just(100_usize), 1 => 1..4_usize],
        prop_oneof![2 => Just(100_usize), 1 => 0..3_usize],
    );
    let abilities = (prop::bool::weighted(0.95), prop::bool::weighted(0.95));
    (mode, buffers, 1..=4_u32, select(&COOLING[..]), bounds, abilities).prop_map(
        |(mode, (stale_buffer, expired_buffer), attempts, cooling, bounds, abilities)| Setup {
            mode,
            stale_buffer,
            expired_buffer,
            attempts,
            cooling,
            max_held: bounds.0,
            exchange_capacity: bounds.1,
            can_exchange: abilities.0,
            can_revoke: abilities.1,
        },
    )
}

/// A session and all that happens to it.
pub fn stories() -> impl Strategy<Value = (Setup, Vec<Step>)> {
    let steps = |weights| {
        let random = (0..1_000_u16).prop_map(|part| f64::from(part) / 1_000.0);
        prop::collection::vec((random, operations(weights)), 1..60)
    };
    let steps = prop_oneof![
        2 => steps([14, 8, 6, 4, 8]),
        1 => steps([4, 20, 1, 2, 8]),
        1 => steps([4, 30, 1, 2, 1]),
        1 => steps([14, 1, 12, 2, 8]),
        1 => steps([14, 4, 8, 2, 2]),
        2 => steps([20, 1, 1, 10, 10]),
    ];
    (setups(), steps)
}
