//! What is said to a machine and by it, in words that both the model and the real one can be put into.

use std::time::Duration;

use super::Nanos;
use super::operations::{ATTEMPT_TIMEOUT, Failure};
use crate::error::SessionError;
use crate::instant::Instant;
use crate::machine::{CallerId, Effects, Published, Reply, Request, Warning};
use crate::request::{ExchangeKey, ExchangeRequest, TokenRequestOptions};
use crate::token::Issued;

/// The options of a caller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asks {
    /// Seconds that the token should have left.
    pub left: u32,
    /// Which address, zero for none.
    pub ip: u8,
}

impl Asks {
    pub fn min_remaining(&self) -> Nanos {
        Nanos::from(self.left) * super::SECOND
    }

    pub fn options(&self) -> TokenRequestOptions {
        let options =
            TokenRequestOptions::new().min_remaining(Duration::from_secs(u64::from(self.left)));
        match self.ip {
            0 => options,
            ip => options.ip(&format!("192.0.2.{ip}")).unwrap(),
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

impl Life {
    pub fn nanos(self) -> Option<Nanos> {
        match self {
            Self::Unsaid => None,
            Self::Millis(millis) | Self::Hinted(millis, _) => Some(millis * 1_000_000),
            Self::Huge => Some(Nanos::MAX),
        }
    }

    /// When the server wants it refreshed.
    pub fn refresh_in(self) -> Option<Nanos> {
        match self {
            Self::Hinted(_, millis) => Some(millis * 1_000_000),
            _ => None,
        }
    }
}

/// What came of a grant or an exchange: a text and its life.
pub type Found = Result<(String, Life), Failure>;

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Get(u64, Asks),
    Exchange(u64, u8, Asks),
    Revoke(u64, Asks),
    Asked { current: bool },
    Invalidate { ours: bool, generation: u64 },
    Left(u64),
    GrantEnded(Found),
    ExchangeEnded(u8, Found),
    RevocationEnded(String, Result<(), Failure>),
    Abilities { exchange: bool, revoke: bool },
    Timer,
    Shutdown,
}

/// What it wants done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub publish: Option<Seen>,
    pub starts: Vec<Start>,
    pub replies: Vec<(u64, Told)>,
    pub warnings: Vec<String>,
}

/// A publication, without its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub token: Option<SeenToken>,
    pub ask_at: Nanos,
    pub cooling: Option<(Nanos, Failure)>,
    pub closed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SeenToken {
    pub generation: u64,
    pub text: String,
    pub usable_until: Nanos,
    pub doubts_dismissed: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    Grant { number: u32, asks: Asks, refused: Option<String> },
    Exchange { number: u32, key: u8, subject: u64, asks: Asks },
    Revocation { number: u32, text: String, asks: Asks },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Token(Result<(u64, String), Wrong>),
    Exchanged(Result<(u64, String), Wrong>),
    Revoked(Result<(), Wrong>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Wrong {
    Failed(Failure, Nanos),
    Cooling(Failure, Nanos),
    Overloaded,
    Unsupported,
    Closed,
}

/// A request for the token that goes by this name; two ways to write it, which give the same key.
pub fn exchange_request(key: u8, asks: &Asks, reversed: bool) -> ExchangeRequest {
    let mut scopes = [format!("key-{key}"), "zone".to_string()];
    if reversed {
        scopes.reverse();
    }
    ExchangeRequest::scopes(scopes).options(asks.options())
}

pub fn key_name(key: &ExchangeKey) -> u8 {
    let is_named = |name: &u8| exchange_request(*name, &Asks::default(), false).key() == *key;
    (0..=9).find(is_named).expect("one of our keys")
}

/// Puts the real machine's effects into words.
pub fn put_into_words(effects: &Effects<CallerId>) -> Output {
    Output {
        publish: effects.publish.as_ref().map(seen),
        starts: effects.start.iter().map(start).collect(),
        replies: effects.replies.iter().map(|(id, answer)| (*id, told(answer))).collect(),
        warnings: effects.warnings.iter().map(warning).collect(),
    }
}

pub fn nanos(instant: Instant) -> Nanos {
    if instant == Instant::NEVER { Nanos::MAX } else { span(instant.since(Instant::ZERO)) }
}

fn span(span: Duration) -> Nanos {
    Nanos::try_from(span.as_nanos()).unwrap()
}

fn seen(published: &Published) -> Seen {
    let token = published.token.as_ref().map(|published| SeenToken {
        generation: published.token.id().generation(),
        text: published.token.secret().into(),
        usable_until: nanos(published.usable_until),
        doubts_dismissed: published.doubts_dismissed,
    });
    let cooling = published.cooling.as_ref();
    let cooling = cooling.map(|cooling| (nanos(cooling.until), Failure::of(&cooling.last)));
    Seen { token, ask_at: nanos(published.ask_at), cooling, closed: published.closed }
}

fn start(start: &crate::machine::Start) -> Start {
    let number = start.number;
    assert_eq!(start.timeout, ATTEMPT_TIMEOUT);
    match &start.request {
        Request::Grant(request) => Start::Grant {
            number,
            asks: asks(&request.options),
            refused: request.refused.as_ref().map(|text| text.expose().into()),
        },
        Request::Exchange(key, subject, request) => Start::Exchange {
            number,
            key: key_name(key),
            subject: subject.id().generation(),
            asks: asks(&request.options),
        },
        Request::Revocation(text, options) => {
            Start::Revocation { number, text: text.expose().into(), asks: asks(options) }
        }
    }
}

/// How much life is asked for.
pub const LEFT: [u32; 5] = [0, 1, 40, 1_800, 1_000_000];

/// The addresses of options are compared by their text.
fn asks(options: &TokenRequestOptions) -> Asks {
    let all = LEFT.into_iter().flat_map(|left| (0..3).map(move |ip| Asks { left, ip }));
    let mut same = all.filter(|asks| asks.options() == *options);
    same.next().expect("options that somebody asked for")
}

fn told(answer: &Reply) -> Told {
    match answer {
        Reply::Token(answer) => Told::Token(given(answer)),
        Reply::Exchanged(answer) => Told::Exchanged(given(answer)),
        Reply::Revoked(answer) => Told::Revoked(answer.as_ref().map_err(wrong).copied()),
    }
}

fn given(answer: &Result<impl AsRef<Issued>, SessionError>) -> Result<(u64, String), Wrong> {
    let token = answer.as_ref().map_err(wrong)?.as_ref();
    Ok((token.id().generation(), token.text().expose().into()))
}

fn wrong(error: &SessionError) -> Wrong {
    match error {
        SessionError::Failed { error, retry_after } => {
            Wrong::Failed(Failure::of(error), span(*retry_after))
        }
        SessionError::Cooling { last, retry_after } => {
            Wrong::Cooling(Failure::of(last), span(*retry_after))
        }
        SessionError::Overloaded => Wrong::Overloaded,
        SessionError::Unsupported(_) => Wrong::Unsupported,
        SessionError::Closed => Wrong::Closed,
        other => panic!("the machine never says {other:?}"),
    }
}

fn warning(warning: &Warning) -> String {
    match warning {
        Warning::LifetimeAssumed(_) => "lifetime assumed".into(),
        Warning::LedgerOverflow(_) => "ledger overflow".into(),
    }
}
