//! The barrier that a revoke puts up, and the revocations behind it.

use super::Model;
use super::flight::{Sent, Verdict};
use super::operations::Failure;
use super::words::{Start, Told, Wrong};
use crate::request::TokenRequestOptions;

#[derive(Clone, Debug, PartialEq)]
pub struct Barrier {
    pub callers: Vec<u64>,
    options: TokenRequestOptions,
    /// Nothing more is sent before the next revoke.
    stuck: Option<Why>,
    /// The batch on the wire: how many have yet to end, and how the others did.
    outstanding: usize,
    confirmed: bool,
    errors: Vec<Failure>,
}

/// Why nothing more is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    /// The flight has failed.
    Failed,
    /// No flight may open yet.
    Cools,
    /// The manager cannot any more.
    Unsupported,
}

impl Model {
    pub(super) fn revoke(&mut self, id: u64, options: &TokenRequestOptions) {
        if !self.setup.can_revoke {
            return self.tell(id, Told::Revoked(Err(Wrong::Unsupported)));
        }
        if self.is_full() {
            return self.tell(id, Told::Revoked(Err(Wrong::Overloaded)));
        }
        self.revokes += 1;
        self.warm = false;
        if let Some(token) = self.held.take() {
            self.refused = Some(token.text);
        }
        self.drop_all_exchanged();
        self.ledger.mark(|_| true, self.now);
        let barrier = self.barrier.get_or_insert_with(|| Barrier {
            callers: Vec::new(),
            options: TokenRequestOptions::new(),
            stuck: None,
            outstanding: 0,
            confirmed: false,
            errors: Vec::new(),
        });
        barrier.callers.push(id);
        barrier.options = options.clone();
        barrier.stuck = None;
    }

    pub(super) fn revocation_ended(&mut self, text: &str, result: Result<(), Failure>) {
        // Of a token that is invalid already there is nothing to revoke.
        let result = result.or_else(|failure| match failure {
            Failure::InvalidToken => Ok(()),
            other => Err(other),
        });
        self.ledger.came_back(text, result.is_ok(), self.now);
        let barrier = self.barrier.as_mut().expect("revocations are sent behind a barrier");
        barrier.outstanding -= 1;
        match result {
            Ok(()) => barrier.confirmed = true,
            Err(failure) => barrier.errors.push(failure),
        }
        if barrier.outstanding > 0 {
            return;
        }
        self.revocation.wire = None;
        let (now, random) = (self.now, self.random);
        let mut errors = barrier.errors.iter();
        let error = if barrier.confirmed {
            self.revocation.forgive();
            self.revocation.renew(&self.setup);
            self.revocation.next_at = now;
            errors.find(|error| error.is_retryable())
        } else {
            errors.next()
        };
        let Some(error) = error else {
            if self.ledger.unconfirmed() == 0 {
                self.revocation.succeeded();
            }
            return;
        };
        if self.revocation.failed(*error, &self.setup, now, random) == Verdict::Over {
            barrier.stuck = Some(Why::Failed);
        }
    }

    /// Sends what may be sent.
    pub(super) fn advance_revocation(&mut self) {
        let left = self.ledger.unconfirmed();
        let Some(barrier) = &mut self.barrier else { return };
        if self.revocation.waits() && left == 0 {
            self.revocation.abandon();
        }
        if !self.setup.can_revoke && left > 0 && self.revocation.wire.is_none() {
            self.revocation.abandon();
            barrier.stuck = Some(Why::Unsupported);
        }
        if !self.revocation.open && left > 0 && barrier.stuck.is_none() {
            if self.revocation.may_open(self.now) {
                self.revocation.open(&self.setup, &barrier.options);
            } else {
                barrier.stuck = Some(Why::Cools);
            }
        }
        if !self.revocation.waits() || self.now < self.revocation.next_at {
            return;
        }
        let batch = self.ledger.take_batch(self.now);
        (barrier.outstanding, barrier.confirmed) = (batch.len(), false);
        barrier.errors.clear();
        let number = self.revocation.start(self.now, self.revokes);
        for text in batch {
            let options = self.revocation.options.clone();
            self.out.starts.push(Start::Revocation { number, text, options });
        }
    }

    /// The barrier ends when what was on the wire has ended and the revocations are over.
    pub(super) fn end_barrier(&mut self) {
        let on_the_wire = |sent: &Option<Sent>| sent.is_some();
        let busy = on_the_wire(&self.grant.wire)
            || self.keys.iter().any(|key| on_the_wire(&key.flight.wire))
            || self.revocation.open;
        let Some(barrier) = self.barrier.take_if(|_| !busy) else { return };
        let told = if self.ledger.unconfirmed() == 0 {
            Ok(())
        } else if barrier.stuck == Some(Why::Unsupported) {
            Err(Wrong::Unsupported)
        } else {
            let last = self.revocation.last.expect("what is left is left because of an error");
            let wait = self.revocation.not_before.saturating_sub(self.now);
            Err(match barrier.stuck {
                Some(Why::Cools) => Wrong::Cooling(last, wait),
                _ => Wrong::Failed(last, wait),
            })
        };
        for id in barrier.callers {
            self.tell(id, Told::Revoked(told.clone()));
        }
    }
}
