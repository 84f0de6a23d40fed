//! The machine decides everything, and does nothing: no I/O, no clock, no randomness. It is told what
//! happened ([`Event`], [`Moment`]) and says what to do ([`Effects`]), and when it wants to be woken
//! ([`Machine::next_deadline`]).
//!
//! There is a method for each event of the table in `src/docs/design.md`, and in it an arm for each column:
//! those about the session's own token are in `grant.rs`, an exchange's in `exchange_events.rs`. After each event [`Machine::advance`] does whatever
//! is due or may start, so that nothing is left which could still start.

mod barrier;
mod endpoint;
mod event;
mod exchange_events;
mod exchanges;
mod flight;
mod gate;
mod grant;
mod ledger;
mod lifetime;
mod slot;
mod status;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::time::Duration;

pub use event::*;
pub use status::{Counters, Phase};
pub(crate) use status::{Facts, LastError, TokenFacts};

use barrier::Barrier;
use endpoint::Endpoint;
use exchanges::Exchanges;
pub(crate) use exchanges::is_too_young_to_doubt;
use flight::Sent;
use gate::Leave;
use ledger::{Evicted, Ledger};
use lifetime::Lifetime;
pub(crate) use lifetime::has_left;
use slot::Slot;

use crate::config::{RefreshMode, SessionConfig};
use crate::error::{SessionError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::request::TokenRequestOptions;
use crate::token::{AccessToken, Issued, TokenId};

/// One session. `R` is where a caller's answer goes: a channel's end, or a number in a test.
#[derive(Clone, Debug)]
pub struct Machine<R> {
    config: SessionConfig,
    abilities: Abilities,
    session: u64,

    own: Slot<R>,
    /// No grant attempt starts before this, whatever ended in between.
    earliest: Instant,
    /// To send the grant.
    leave: Leave,
    /// How many grant attempts have ended, or were given no leave.
    grants_ended: u64,
    /// The session's own token that was last invalidated or revoked, or refused as a subject.
    refused: Option<TokenText>,
    /// A refused subject opens no refresh before this.
    subject_refresh_from: Instant,
    /// A doubt of the session's own token that comes earlier is dismissed.
    doubts_honoured_from: Instant,
    /// Of the token that is held.
    doubts_dismissed: u64,
    /// `RefreshMode::Always` keeps a token for somebody.
    warm: bool,

    endpoint: Endpoint,
    exchanges: Exchanges<R>,
    ledger: Ledger,
    barrier: Barrier<R>,

    generation: u64,
    /// A caller used the published snapshot by asking the actor.
    used: bool,
    published: Published,
    next_deadline: Instant,
    lifetime_assumed: bool,
    closed: bool,
    /// When a token came last; never, if none has.
    last_success: Instant,
    counters: Counters,
}

/// The kind of token that a response brings.
type Issue = fn(TokenId, Grant, Instant, Duration) -> Issued;

/// What came of a response that holds a token.
enum Received {
    Token(Issued, Lifetime),
    /// A revoke came while it was on the wire.
    Revoked(TokenText),
}

impl<R> Machine<R> {
    /// A session that holds nothing. `session` tells its tokens from those of other sessions.
    pub fn new(config: SessionConfig, abilities: Abilities, session: u64) -> Self {
        let warm = config.refresh_mode == RefreshMode::Always;
        Self {
            abilities,
            session,
            own: Slot::default(),
            earliest: Instant::ZERO,
            leave: Leave::None,
            grants_ended: 0,
            refused: None,
            subject_refresh_from: Instant::ZERO,
            doubts_honoured_from: Instant::ZERO,
            doubts_dismissed: 0,
            warm,
            endpoint: Endpoint::default(),
            exchanges: Exchanges::new(config.exchange_capacity),
            ledger: Ledger::default(),
            barrier: Barrier::default(),
            generation: 0,
            used: false,
            published: Published {
                number: 0,
                token: None,
                ask_at: Instant::ZERO,
                cooling: None,
                closed: false,
            },
            next_deadline: if warm { Instant::ZERO } else { Instant::NEVER },
            lifetime_assumed: false,
            closed: false,
            last_success: Instant::NEVER,
            counters: Counters::default(),
            config,
        }
    }

    /// What readers see. Before the first event nothing has been put out by an effect yet.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// When to send [`Event::Timer`]. Later than the last event's moment.
    pub fn next_deadline(&self) -> Option<Instant> {
        (self.next_deadline < Instant::NEVER).then_some(self.next_deadline)
    }

    /// How many callers wait: for a token, an exchange, or the end of a revoke.
    pub fn held_callers(&self) -> usize {
        self.own.callers.len() + self.barrier.callers() + self.exchanges.callers()
    }

    /// The only way in.
    pub fn handle(&mut self, moment: Moment, event: Event<R>, fx: &mut Effects<R>) {
        // What has expired meanwhile does not count, whether or not anything happened at that time; and
        // whose pause is over has waited since, whether or not the timer came.
        self.ledger.forget_expired(moment.now);
        self.exchanges.wake(moment.now, self.grants_ended);
        match event {
            _ if self.closed => Self::refuse(event, &SessionError::Closed, fx),
            Event::GetToken(caller, reply, options) => {
                self.get_token(moment, caller, reply, options, fx);
            }
            Event::Exchange(caller, reply, request) => {
                self.exchange(moment, caller, reply, request, fx);
            }
            Event::Revoke(caller, reply, options) => {
                self.revoke(moment, caller, reply, options, fx);
            }
            Event::Asked(snapshot) => self.asked(moment, snapshot),
            Event::Invalidate(id) => self.invalidate(moment, id),
            Event::Left(caller) => self.left(moment.now, caller),
            Event::Ended(Ended::Grant(result)) => self.grant_ended(moment, result, fx),
            Event::Ended(Ended::Exchange(key, result)) => {
                self.exchange_ended(moment, &key, result, fx);
            }
            Event::Ended(Ended::Revocation(text, result)) => {
                self.revocation_ended(moment, &text, result);
            }
            Event::Permitted(Purpose::Grant, result) => self.grant_permitted(moment, result, fx),
            Event::Permitted(Purpose::Exchange(key), result) => {
                self.exchange_permitted(moment.now, &key, result, fx);
            }
            Event::Abilities(abilities) => self.abilities = abilities,
            Event::News(News::Revoked { text, left }) => {
                self.revoked_elsewhere(moment.now, &text, left);
            }
            Event::Timer => {}
            Event::Shutdown => self.shutdown(fx),
        }
        self.advance(moment, fx);
    }

    fn revoke(
        &mut self,
        moment: Moment,
        caller: CallerId,
        reply: R,
        options: TokenRequestOptions,
        fx: &mut Effects<R>,
    ) {
        let refusal = if !self.abilities.revoke {
            Some(SessionError::Unsupported("revocation"))
        } else if self.is_full() {
            Some(self.overloaded())
        } else {
            None
        };
        if let Some(error) = refusal {
            fx.replies.push((reply, Reply::Revoked(Err(error))));
            return;
        }
        self.counters.revokes += 1;
        self.warm = false;
        if let Some(kept) = self.own.take() {
            self.refused = Some(kept.issued.text().clone());
        }
        self.exchanges.drop_all();
        self.ledger.mark_all(moment.now);
        self.barrier.raise(caller, reply, options);
        self.count_held();
    }

    fn left(&mut self, now: Instant, caller: CallerId) {
        if self.own.callers.remove(&caller).is_none() && !self.barrier.leave(caller) {
            self.exchanges.leave(caller, now);
        }
    }

    fn revocation_ended(
        &mut self,
        moment: Moment,
        text: &TokenText,
        result: Result<(), TokenError>,
    ) {
        if result.as_ref().is_err_and(|error| !barrier::is_already_invalid(error)) {
            self.counters.revocations_failed += 1;
        }
        self.barrier.answered(text, result, &mut self.ledger, &self.config.retry, moment);
    }

    /// A token joins the ledger before anything else is decided about it. There it counts from now
    /// on, not from when it was asked for: that is the longest that the server can have meant.
    fn receive(
        &mut self,
        moment: Moment,
        sent: Sent,
        grant: Grant,
        issue: Issue,
        fx: &mut Effects<R>,
    ) -> Result<Received, TokenError> {
        self.generation += 1;
        let id = TokenId { session: self.session, generation: self.generation };
        let life = grant.life().unwrap_or(self.abilities.assumed_lifetime);
        if grant.life().is_none() && !self.lifetime_assumed {
            self.lifetime_assumed = true;
            fx.warnings.push(Warning::LifetimeAssumed(life));
        }
        let lifetime = Lifetime::new(sent.at, life, &grant, &self.config, moment.random);
        let text = grant.text().clone();
        let current = self.own.kept().map(|kept| kept.issued.text());
        // One of unknown life is kept for a day: for nothing, where nothing can be revoked.
        let is_kept = grant.life().is_some() || self.abilities.revoke || self.ledger.holds(&text);
        if is_kept {
            let evicted = self.ledger.join(moment.now, id, &text, grant.life(), current);
            if let Some(Evicted { id, warns }) = evicted {
                self.counters.ledger_evicted += 1;
                if warns {
                    fx.warnings.push(Warning::LedgerOverflow(id));
                }
            }
        }
        if sent.revokes < self.counters.revokes {
            self.ledger.mark(&text, moment.now);
            return Ok(Received::Revoked(text));
        }
        if self.ledger.is_marked(&text, moment.now) {
            return Err(TokenError::expired(
                "it has been revoked; if the server goes on to repeat it, it is taken again 24 hours \
                 after the revoke",
            ));
        }
        if lifetime.expires_at <= moment.now {
            return Err(TokenError::expired("its life was over when it arrived"));
        }
        Ok(Received::Token(issue(id, grant, lifetime.expires_at, lifetime.length), lifetime))
    }

    // What is due

    fn advance(&mut self, moment: Moment, fx: &mut Effects<R>) {
        if !self.closed {
            self.ledger.forget_expired(moment.now);
            // A pause may be none at all.
            self.exchanges.wake(moment.now, self.grants_ended);
            self.end_unsupported_exchanges(moment.now, fx);
            if self.barrier.is_up() {
                self.abandon_unwanted(moment.now);
                self.exchanges.leave_the_gate();
                self.drive_barrier(moment.now, fx);
            }
            self.exchanges.give_up_leaves(fx);
            if !self.own.flight.is_open() {
                self.exchanges.stop_waiting_for_next_subject();
                self.exchanges.stop_waiting_for_more_life();
            }
            if !self.barrier.is_up() {
                self.serve_held(moment.now);
                self.drive_exchanges(moment.now, fx);
                self.refresh(moment);
                self.drive_grant(moment.now, fx);
            }
            self.exchanges.give_up_leaves(fx);
            self.give_up_leave(moment.now, fx);
        }
        self.publish(fx);
        self.next_deadline = self.soonest_deadline(moment.now).unwrap_or(Instant::NEVER);
    }

    /// Before the barrier may end: however short it was, nobody wants these any more.
    fn abandon_unwanted(&mut self, now: Instant) {
        self.exchanges.abandon_unwanted(now);
        let is_wanted = !self.own.callers.is_empty() || self.exchanges.is_any_held();
        if !self.own.flight.is_on_wire() && !is_wanted {
            self.own.flight.abandon();
        }
    }

    fn drive_barrier(&mut self, now: Instant, fx: &mut Effects<R>) {
        let sent = Sent { at: now, revokes: self.counters.revokes };
        self.barrier.send(sent, self.abilities.revoke, &mut self.ledger, &self.config.retry, fx);
        // Nothing else has started in this event.
        self.counters.revocations_started += fx.start.len() as u64;
        let on_wire = self.own.flight.is_on_wire() || self.exchanges.on_wire() > 0;
        self.barrier.lower(now, on_wire, &self.ledger, fx);
    }

    /// Puts out what readers shall see, if it is not what they see already. Nobody else publishes.
    fn publish(&mut self, fx: &mut Effects<R>) {
        fx.exchanged.append(&mut self.exchanges.take_published());
        let next = Published {
            number: self.published.number.wrapping_add(1),
            token: self.own.kept().map(|kept| PublishedToken {
                token: AccessToken::new(kept.issued.clone()),
                usable_until: kept.usable_until(),
                doubts_dismissed: self.doubts_dismissed,
                doubts_honoured_from: self.doubts_honoured_from,
            }),
            ask_at: self.ask_at(),
            cooling: self.own.flight.last_failure().filter(|_| !self.own.flight.is_open()).cloned(),
            closed: self.closed,
        };
        if !next.says_the_same(&self.published) {
            self.used = false;
            self.published = next.clone();
            fx.publish = Some(next);
        }
    }

    fn soonest_deadline(&self, now: Instant) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let refreshes = match self.config.refresh_mode {
            RefreshMode::Always => self.warm || self.own.kept().is_some(),
            RefreshMode::WhileUsed => self.own.kept().is_some(),
            RefreshMode::OnRequest => false,
        };
        let deadlines = if self.barrier.is_up() {
            [self.barrier.next_attempt_at(), None, None, None]
        } else {
            [
                self.own.flight.next_attempt_at().map(|at| at.max(self.earliest)),
                self.exchanges.next_attempt_at(now),
                self.endpoint.next_probe_at().filter(|_| self.exchanges.is_any_ready()),
                refreshes.then(|| self.ask_at()),
            ]
        };
        deadlines.into_iter().flatten().filter(|at| now < *at).min()
    }

    // Facts

    fn is_full(&self) -> bool {
        self.held_callers() >= self.config.max_held
    }

    fn overloaded(&mut self) -> SessionError {
        self.counters.overloaded += 1;
        SessionError::Overloaded
    }

    fn count_held(&mut self) {
        self.counters.held_max = self.counters.held_max.max(self.held_callers());
    }

    /// What a status is made of.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            closed: self.closed,
            barrier_up: self.barrier.is_up(),
            flight_open: self.own.flight.is_open(),
            not_before: self.own.flight.last_failure().map(|failure| failure.until),
            token: self.own.kept().map(|kept| TokenFacts {
                stale_at: kept.lifetime.stale_at,
                usable_until: kept.usable_until(),
                expires_at: kept.lifetime.expires_at,
                generation: kept.issued.id().generation,
            }),
            held: self.held_callers(),
            last_error: self.own.flight.last_failure().map(|last| LastError(last.last.clone())),
            last_success: (self.last_success < Instant::NEVER).then_some(self.last_success),
            counters: self.counters,
        }
    }

    // The end

    fn shutdown(&mut self, fx: &mut Effects<R>) {
        let closed = SessionError::Closed;
        self.closed = true;
        self.own.take();
        self.own.flight.abandon();
        self.ledger = Ledger::default();
        self.answer_all(&Err(closed.clone()), fx);
        let exchanges = self.exchanges.shut_down();
        fx.replies.extend(exchanges.map(|r| (r, Reply::Exchanged(Err(closed.clone())))));
        let revokes = self.barrier.close();
        fx.replies.extend(revokes.map(|r| (r, Reply::Revoked(Err(closed.clone())))));
    }

    fn refuse(event: Event<R>, error: &SessionError, fx: &mut Effects<R>) {
        let error = error.clone();
        match event {
            Event::GetToken(_, reply, _) => fx.replies.push((reply, Reply::Token(Err(error)))),
            Event::Exchange(_, reply, _) => {
                fx.replies.push((reply, Reply::Exchanged(Err(error))));
            }
            Event::Revoke(_, reply, _) => fx.replies.push((reply, Reply::Revoked(Err(error)))),
            _ => {}
        }
    }
}
