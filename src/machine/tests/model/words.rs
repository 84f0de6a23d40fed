//! What is said to a machine and by it, in words that both the model and the real one can be put into.

use std::sync::Arc;
use std::time::Duration;

use super::Nanos;
use super::operations::{ATTEMPT_TIMEOUT, Failure};
use crate::error::{SessionError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::machine::{
    self, CallerId, Effects, Published, PublishedExchange, Purpose, Reply, Request, Warning,
};
use crate::request::{ExchangeKey, GrantRequest, PermitRequest, TokenRequestOptions};
use crate::token::Issued;

/// What came of a grant or an exchange.
pub(super) type Found = Result<Came, Failure>;

/// A token that came.
pub(super) struct Came {
    pub(super) text: String,
    /// How long it lives, if the server says so.
    pub(super) life: Option<Nanos>,
    /// When the server wants it refreshed.
    pub(super) refresh_in: Option<Nanos>,
}

pub(super) fn found(result: &Result<Grant, TokenError>) -> Found {
    let grant = result.as_ref().map_err(Failure::of)?;
    Ok(Came {
        text: grant.text().expose().into(),
        life: grant.life().map(span),
        refresh_in: grant.get_refresh_in().map(span),
    })
}

/// What it wants done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Output {
    pub(super) publish: Option<Seen>,
    /// Of each purpose in their order.
    pub(super) waits: Vec<(Option<ExchangeKey>, Wait)>,
    pub(super) starts: Vec<Start>,
    pub(super) replies: Vec<(u64, Told)>,
    pub(super) warnings: Vec<String>,
}

/// Of a wait for leave.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wait {
    Begins(Option<Asked>),
    IsGivenUp,
}

/// What a grant will ask for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) options: TokenRequestOptions,
    pub(super) refused: Option<String>,
    pub(super) replaces: Option<String>,
    pub(super) marked: Vec<String>,
}

/// A publication.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) number: u32,
    pub(super) token: Option<SeenToken>,
    pub(super) ask_at: Nanos,
    pub(super) cooling: Option<(Nanos, Failure)>,
    pub(super) closed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenToken {
    pub(super) generation: u64,
    pub(super) text: String,
    pub(super) usable_until: Nanos,
    pub(super) doubts_dismissed: u64,
    pub(super) doubts_honoured_from: Nanos,
}

/// An exchanged token that readers may take.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenExchanged {
    pub(super) key: ExchangeKey,
    pub(super) generation: u64,
    pub(super) text: String,
    pub(super) usable_until: Nanos,
    pub(super) ask_at: Nanos,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Start {
    Grant { number: u32, asked: Asked },
    Exchange { number: u32, key: ExchangeKey, subject: u64, options: TokenRequestOptions },
    Revocation { number: u32, text: String, options: TokenRequestOptions },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    Token(Result<(u64, String), Wrong>),
    Exchanged(Result<(u64, String), Wrong>),
    Revoked(Result<(), Wrong>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wrong {
    Failed(Failure, Nanos),
    Cooling(Failure, Nanos),
    Overloaded,
    Unsupported,
    Closed,
}

/// Puts the real machine's effects into words.
pub(super) fn put_into_words(effects: &Effects<CallerId>) -> Output {
    Output {
        publish: effects.publish.as_ref().map(seen),
        waits: in_order(effects.waits.iter().map(wait)),
        starts: effects.start.iter().map(start).collect(),
        replies: effects.replies.iter().map(|(id, answer)| (*id, told(answer))).collect(),
        warnings: effects.warnings.iter().map(warning).collect(),
    }
}

pub(super) fn nanos(instant: Instant) -> Nanos {
    if instant == Instant::NEVER { Nanos::MAX } else { span(instant.since(Instant::ZERO)) }
}

pub(super) fn span(span: Duration) -> Nanos {
    Nanos::try_from(span.as_nanos()).unwrap()
}

fn seen(published: &Published) -> Seen {
    let token = published.token.as_ref().map(|published| SeenToken {
        generation: published.token.id().generation(),
        text: published.token.secret().into(),
        usable_until: nanos(published.usable_until),
        doubts_dismissed: published.doubts_dismissed,
        doubts_honoured_from: nanos(published.doubts_honoured_from),
    });
    let cooling = published.cooling.as_ref();
    let cooling = cooling.map(|cooling| (nanos(cooling.until), Failure::of(&cooling.last)));
    let Published { number, ask_at, closed, .. } = *published;
    Seen { number, token, ask_at: nanos(ask_at), cooling, closed }
}

pub(super) fn seen_exchanged(
    (key, published): (&Arc<ExchangeKey>, &PublishedExchange),
) -> SeenExchanged {
    SeenExchanged {
        key: (**key).clone(),
        generation: published.token.id().generation(),
        text: published.token.secret().into(),
        usable_until: nanos(published.usable_until),
        ask_at: nanos(published.ask_at),
    }
}

/// By purpose; of each in the order in which they came.
pub(super) fn in_order(
    waits: impl IntoIterator<Item = (Option<ExchangeKey>, Wait)>,
) -> Vec<(Option<ExchangeKey>, Wait)> {
    let mut waits: Vec<_> = waits.into_iter().collect();
    waits.sort_by(|(one, _), (other, _)| one.cmp(other));
    waits
}

fn wait(wait: &machine::Wait) -> (Option<ExchangeKey>, Wait) {
    let key = |purpose: &Purpose| match purpose {
        Purpose::Grant => None,
        Purpose::Exchange(key) => Some((**key).clone()),
    };
    match wait {
        machine::Wait::Begin(purpose, request, longest) => {
            assert_eq!(*longest, Duration::from_secs(60));
            let asked = match request {
                PermitRequest::Grant(request) => Some(asked(request)),
                PermitRequest::Exchange => None,
            };
            (key(purpose), Wait::Begins(asked))
        }
        machine::Wait::GiveUp(purpose) => (key(purpose), Wait::IsGivenUp),
    }
}

fn asked(request: &GrantRequest) -> Asked {
    assert_eq!(request.timeout, Some(ATTEMPT_TIMEOUT));
    let text = |text: &TokenText| text.expose().to_owned();
    let mut marked: Vec<_> = request.marked.iter().flat_map(|it| it.iter().map(text)).collect();
    marked.sort();
    Asked {
        options: request.options.clone(),
        refused: request.refused.as_ref().map(text),
        replaces: request.replaces.as_ref().map(text),
        marked,
    }
}

fn start(start: &crate::machine::Start) -> Start {
    let number = start.number;
    assert_eq!(start.timeout, ATTEMPT_TIMEOUT);
    match &start.request {
        Request::Grant(request) => Start::Grant { number, asked: asked(request) },
        Request::Exchange(key, subject, request) => Start::Exchange {
            number,
            key: (**key).clone(),
            subject: subject.id().generation(),
            options: request.options.clone(),
        },
        Request::Revocation(text, options) => {
            let (text, options) = (text.expose().into(), options.clone());
            Start::Revocation { number, text, options }
        }
    }
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
