//! Revoke is a barrier: while it is up nothing is sent but revocations, and nobody gets a token that
//! the session had when the revoke was taken. It ends when the attempts that were on the wire have
//! ended and the revocation flight is over.

use std::collections::BTreeMap;

use super::event::{CallerId, Effects, Moment, Reply, Request, Start};
use super::flight::{Flight, Sent};
use super::ledger::Ledger;
use crate::config::RetryPolicy;
use crate::error::{SessionError, TokenError};
use crate::grant::TokenText;
use crate::instant::Instant;
use crate::request::TokenRequestOptions;

/// How many tokens one attempt of the revocation flight takes.
const BATCH: usize = 8;

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Barrier<R> {
    up: Option<Box<Raised<R>>>,
    flight: Flight,
}

/// What there is while it is up.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Raised<R> {
    callers: BTreeMap<CallerId, R>,
    options: TokenRequestOptions,
    batch: Batch,
    /// The flight failed, or may not open: what is left is for the next revoke.
    given_up: Option<GivenUp>,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
enum GivenUp {
    Failed,
    /// The manager has learnt meanwhile that it cannot revoke.
    Unsupported,
    /// After an earlier one that failed.
    Cooling,
}

/// The attempt on the wire: a request for each of its tokens.
#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
struct Batch {
    on_wire: Vec<TokenText>,
    any_confirmed: bool,
    errors: Vec<TokenError>,
}

impl<R> Default for Barrier<R> {
    fn default() -> Self {
        Self { up: None, flight: Flight::default() }
    }
}

impl<R> Barrier<R> {
    pub(crate) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    pub(crate) fn callers(&self) -> usize {
        self.up.as_ref().map_or(0, |up| up.callers.len())
    }

    /// A revoke: puts the barrier up, or joins it.
    pub(crate) fn raise(&mut self, caller: CallerId, reply: R, options: TokenRequestOptions) {
        let up = self.up.get_or_insert_with(|| {
            Box::new(Raised {
                callers: BTreeMap::new(),
                options: TokenRequestOptions::default(),
                batch: Batch::default(),
                given_up: None,
            })
        });
        up.given_up = None;
        up.options = options;
        up.callers.insert(caller, reply);
    }

    pub(crate) fn leave(&mut self, caller: CallerId) -> bool {
        self.up.as_mut().is_some_and(|up| up.callers.remove(&caller).is_some())
    }

    pub(crate) fn close(&mut self) -> impl Iterator<Item = R> + use<R> {
        self.up.take().into_iter().flat_map(|up| up.callers.into_values())
    }

    /// When the revocation flight wants to go on.
    pub(crate) fn next_attempt_at(&self) -> Option<Instant> {
        self.flight.next_attempt_at()
    }

    /// Starts what of the revocation flight is due.
    pub(crate) fn send(
        &mut self,
        sent: Sent,
        can_revoke: bool,
        ledger: &mut Ledger,
        policy: &RetryPolicy,
        fx: &mut Effects<R>,
    ) {
        let Some(up) = &mut self.up else { return };
        if self.flight.is_on_wire() {
            return;
        }
        if ledger.is_all_confirmed() {
            self.flight.abandon();
            return;
        }
        if !can_revoke {
            self.flight.abandon();
            up.given_up = Some(GivenUp::Unsupported);
        }
        if up.given_up.is_some() {
            return;
        }
        if self.flight.cooling(sent.at).is_some() {
            up.given_up = Some(GivenUp::Cooling);
            return;
        }
        if !self.flight.is_open() {
            self.flight.open(up.options.clone());
        }
        if !self.flight.is_due(sent.at) {
            return;
        }
        let Some((number, options)) = self.flight.depart(sent) else { return };
        up.batch = Batch { on_wire: ledger.take_unconfirmed(BATCH, sent.at), ..Batch::default() };
        fx.start.extend(up.batch.on_wire.iter().map(|text| Start {
            number,
            timeout: policy.attempt_timeout,
            request: Request::Revocation(text.clone(), options.clone()),
        }));
    }

    /// One token of the attempt has been answered; the last one ends the attempt. A batch of which
    /// anything was confirmed shows a server that works, so the flight goes on with all its attempts,
    /// at once unless the server asked for a pause.
    pub(crate) fn answered(
        &mut self,
        text: &TokenText,
        result: Result<(), TokenError>,
        ledger: &mut Ledger,
        policy: &RetryPolicy,
        moment: Moment,
    ) {
        let Some(up) = &mut self.up else { return };
        up.batch.on_wire.retain(|other| other != text);
        match result {
            Err(error) if !is_already_invalid(&error) => {
                up.batch.errors.push(error);
            }
            _ => {
                ledger.confirm(text, moment.now);
                up.batch.any_confirmed = true;
            }
        }
        if !up.batch.on_wire.is_empty() || self.flight.land().is_none() {
            return;
        }
        let mut errors = up.batch.errors.drain(..);
        let error = if up.batch.any_confirmed {
            self.flight.succeed_in_part(moment.now);
            errors.find(TokenError::is_retryable)
        } else {
            errors.next()
        };
        let Some(error) = error else {
            if ledger.is_all_confirmed() {
                self.flight.succeed();
            }
            return;
        };
        self.flight.fail(error, policy, moment);
        if !self.flight.is_open() {
            up.given_up = Some(GivenUp::Failed);
        }
    }

    /// Ends the barrier, if nothing that it waits for is left.
    pub(crate) fn lower(
        &mut self,
        now: Instant,
        anything_on_wire: bool,
        ledger: &Ledger,
        fx: &mut Effects<R>,
    ) {
        if anything_on_wire || self.flight.is_open() {
            return;
        }
        let Some(up) = self.up.take() else { return };
        let given_up = up.given_up.filter(|_| !ledger.is_all_confirmed());
        let last = self.flight.last_failure();
        let error = given_up.and_then(|why| match why {
            GivenUp::Unsupported => Some(SessionError::Unsupported("revocation")),
            GivenUp::Failed => last.map(|last| last.failed(now)),
            GivenUp::Cooling => last.map(|last| last.cooling(now)),
        });
        for reply in up.callers.into_values() {
            fx.replies.push((reply, Reply::Revoked(error.clone().map_or(Ok(()), Err))));
        }
    }
}

/// RFC 7009 §2.2: the client cannot do more about a token that is not valid, so this is a success.
pub(crate) fn is_already_invalid(error: &TokenError) -> bool {
    matches!(error, TokenError::Denied { error, .. } if error == "invalid_token")
}
