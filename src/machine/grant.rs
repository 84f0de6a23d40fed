//! The session's own token: who asks for it, when a grant is sent, and what comes of that.

use std::time::Duration;

use super::event::{CallerId, Effects, Moment, Reply, Request, Start};
use super::flight::Sent;
use super::lifetime::{Lifetime, has_left};
use super::{Machine, Received};
use crate::config::RefreshMode;
use crate::error::{SessionError, TokenError};
use crate::grant::Grant;
use crate::instant::Instant;
use crate::request::{GrantRequest, TokenRequestOptions};
use crate::token::{AccessToken, TokenId};

/// The least time between the request for a token and the next grant attempt: whatever throws tokens
/// away, and however short they live, there is no storm.
const GRANT_GAP: Duration = Duration::from_secs(1);

/// After an honoured `Invalidate`, a newer token that is refused as well is not what is wrong.
const INVALIDATE_GAP: Duration = Duration::from_secs(10);

/// The session's own token.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Held {
    pub(super) token: AccessToken,
    pub(super) lifetime: Lifetime,
    /// An attempt to replace it has failed: then it is good until its end.
    attempt_failed: bool,
    pub(super) doubts_dismissed: u64,
}

impl Held {
    pub(super) fn usable_until(&self) -> Instant {
        if self.attempt_failed { self.lifetime.expires_at } else { self.lifetime.hold_at }
    }
}

/// What the table says to somebody who needs a token.
pub(super) enum Need {
    Reply(AccessToken),
    Queue,
    QueueAndOpen,
    Fail(SessionError),
}

impl<R> Machine<R> {
    // Callers

    pub(super) fn get_token(
        &mut self,
        moment: Moment,
        caller: CallerId,
        reply: R,
        options: TokenRequestOptions,
        fx: &mut Effects<R>,
    ) {
        let need = self.need(moment.now, &options, false);
        self.note_use(moment.now, &options);
        match need {
            Need::Reply(token) => fx.replies.push((reply, Reply::Token(Ok(token)))),
            Need::Fail(error) => fx.replies.push((reply, Reply::Token(Err(error)))),
            Need::Queue | Need::QueueAndOpen if self.is_full() => {
                let answer = match self.unexpired(moment.now) {
                    Some(token) => Ok(token),
                    None => Err(self.overloaded()),
                };
                fx.replies.push((reply, Reply::Token(answer)));
            }
            Need::Queue => self.hold(caller, reply),
            Need::QueueAndOpen => {
                self.open(options);
                self.hold(caller, reply);
            }
        }
    }

    /// The row `GetToken`, which is also an exchange's when it needs a subject. Who has waited for an
    /// attempt takes the usable token there is, however little is left of it.
    pub(super) fn need(
        &self,
        now: Instant,
        options: &TokenRequestOptions,
        has_waited: bool,
    ) -> Need {
        match self.usable(now) {
            Some(held) => {
                let enough = has_left(held.token.issued(), options.get_min_remaining(), now);
                if has_waited || enough {
                    Need::Reply(held.token.clone())
                } else if self.flight.is_open() {
                    Need::Queue
                } else if self.may_open(now) {
                    Need::QueueAndOpen
                } else {
                    Need::Reply(held.token.clone())
                }
            }
            None => match self.flight.cooling(now) {
                Some(cooling) => Need::Fail(cooling.cooling(now)),
                None if self.barrier.is_up() || self.flight.is_open() => Need::Queue,
                None => Need::QueueAndOpen,
            },
        }
    }

    pub(super) fn hold(&mut self, caller: CallerId, reply: R) {
        self.callers.insert(caller, reply);
        self.count_held();
    }

    /// A reader of another snapshot than the published one asked for what has been done since.
    pub(super) fn asked(&mut self, moment: Moment, snapshot: u64) {
        if snapshot == self.published.number {
            self.note_use(moment.now, &TokenRequestOptions::default());
        }
    }

    /// The row `Asked`: whoever reaches the actor has used what was published, and is a reason to
    /// fetch a token from `ask_at` on. (There is no `ask_at` while none may be fetched.)
    pub(super) fn note_use(&mut self, now: Instant, options: &TokenRequestOptions) {
        self.used = true;
        self.warm = true;
        if self.ask_at() <= now {
            self.open(options.clone());
        }
    }

    pub(super) fn invalidate(&mut self, moment: Moment, id: TokenId) {
        let Some(held) = self.held.as_mut().filter(|held| held.token.issued().id() == id) else {
            self.exchanges.invalidate(id, moment.now);
            return;
        };
        let gap_over = self.invalidated_at.is_none_or(|at| moment.now.since(at) >= INVALIDATE_GAP);
        if !gap_over {
            held.doubts_dismissed += 1;
            return;
        }
        self.refused = Some(held.token.issued().text().clone());
        self.held = None;
        self.invalidated_at = Some(moment.now);
        self.exchanges.drop_children(id);
        self.counters.invalidations += 1;
    }

    // Attempts that ended

    pub(super) fn grant_ended(
        &mut self,
        moment: Moment,
        result: Result<Grant, TokenError>,
        fx: &mut Effects<R>,
    ) {
        let Some(sent) = self.flight.land() else { return };
        match result.and_then(|grant| self.receive(moment, sent, grant, fx)) {
            Ok(received) => {
                self.flight.succeed();
                self.earliest = sent.at + GRANT_GAP;
                match received {
                    Received::Token(issued, lifetime) => {
                        self.store(moment.now, AccessToken::new(issued), lifetime, fx);
                    }
                    Received::Revoked(text) => self.refused = Some(text),
                }
            }
            Err(error) => self.grant_failed(moment, error, fx),
        }
    }

    fn store(&mut self, now: Instant, token: AccessToken, lifetime: Lifetime, fx: &mut Effects<R>) {
        self.answer_all(&Ok(token.clone()), fx);
        self.exchanges.subject_came(&token, now);
        self.held = Some(Held { token, lifetime, attempt_failed: false, doubts_dismissed: 0 });
    }

    fn grant_failed(&mut self, moment: Moment, error: TokenError, fx: &mut Effects<R>) {
        self.counters.grants_failed += 1;
        self.earliest = self.flight.fail(error, &self.config.retry, moment);
        if let Some(held) = &mut self.held {
            held.attempt_failed = true;
        }
        self.exchanges.subject_did_not_come(moment.now);
        if let Some(held) = self.usable(moment.now) {
            let token = held.token.clone();
            self.answer_all(&Ok(token), fx);
        } else if !self.flight.is_open() {
            let Some(error) = self.flight.last_failure().map(|last| last.failed(moment.now)) else {
                return;
            };
            self.answer_all(&Err(error.clone()), fx);
            for key in self.exchanges.due(moment.now) {
                self.fail_exchange(moment.now, &key, &error, fx);
            }
        }
    }

    pub(super) fn answer_all(
        &mut self,
        answer: &Result<AccessToken, SessionError>,
        fx: &mut Effects<R>,
    ) {
        let callers = std::mem::take(&mut self.callers).into_values();
        fx.replies.extend(callers.map(|reply| (reply, Reply::Token(answer.clone()))));
    }

    /// After the barrier: who was held by it needs a flight.
    pub(super) fn serve_held(&mut self, now: Instant) {
        if !self.callers.is_empty() && self.may_open(now) {
            self.open(TokenRequestOptions::default());
        }
    }

    /// The row "`ask_at` passed, no caller".
    pub(super) fn refresh(&mut self, moment: Moment) {
        let wanted = match self.config.refresh_mode {
            RefreshMode::Always => self.warm || self.usable(moment.now).is_some(),
            RefreshMode::WhileUsed => {
                (self.used || moment.used)
                    && self.usable(moment.now).is_some_and(|held| self.is_published(held))
            }
            RefreshMode::OnRequest => false,
        };
        if wanted && self.ask_at() <= moment.now {
            self.open(TokenRequestOptions::default());
        }
    }

    pub(super) fn drive_grant(&mut self, now: Instant, fx: &mut Effects<R>) {
        if now < self.earliest || !self.flight.is_due(now) {
            return;
        }
        let sent = Sent { at: now, revokes: self.revokes };
        let Some((number, options)) = self.flight.depart(sent) else { return };
        self.counters.grants_started += 1;
        let request = Request::Grant(GrantRequest { options, refused: self.refused.clone() });
        fx.start.push(Start { number, timeout: self.config.retry.attempt_timeout, request });
    }

    pub(super) fn usable(&self, now: Instant) -> Option<&Held> {
        self.held.as_ref().filter(|held| now < held.usable_until())
    }

    fn is_published(&self, held: &Held) -> bool {
        self.published.token.as_ref().is_some_and(|published| published.token == held.token)
    }

    pub(super) fn unexpired(&self, now: Instant) -> Option<AccessToken> {
        let held = self.held.as_ref().filter(|held| now < held.lifetime.expires_at)?;
        Some(held.token.clone())
    }

    pub(super) fn may_open(&self, now: Instant) -> bool {
        !self.barrier.is_up() && self.flight.may_open(now)
    }

    /// From here on the actor wants to hear of a reader.
    pub(super) fn ask_at(&self) -> Instant {
        if self.closed || self.flight.is_open() || self.barrier.is_up() {
            return Instant::NEVER;
        }
        let stale_at = self.held.as_ref().map_or(Instant::ZERO, |held| held.lifetime.stale_at);
        stale_at.max(self.flight.not_before())
    }

    pub(super) fn open(&mut self, options: TokenRequestOptions) {
        if !self.flight.is_open() {
            self.flight.open(options);
        }
    }
}
