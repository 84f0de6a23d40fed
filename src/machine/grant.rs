//! The session's own token: who asks for it, when a grant is sent, and what comes of that.

use std::time::Duration;

use super::event::{CallerId, Effects, Moment, Purpose, Reply, Request, Start, Wait};
use super::flight::Sent;
use super::gate::{self, Leave};
use super::lifetime::{Lifetime, has_left};
use super::slot::Kept;
use super::{Machine, Received};
use crate::config::RefreshMode;
use crate::error::{SessionError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::request::{GrantRequest, PermitRequest, TokenRequestOptions};
use crate::token::{AccessToken, Issued, TokenId};

/// The least time between the request for a token and the next grant attempt: whatever throws tokens
/// away, and however short they live, there is no storm.
const GRANT_GAP: Duration = Duration::from_secs(1);

/// After an honoured `Invalidate`, a newer token that is refused as well is not what is wrong.
const INVALIDATE_GAP: Duration = Duration::from_secs(10);

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
        let need = self.need(moment.now, &options);
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

    /// The row `GetToken`, which is also an exchange's when it needs a subject.
    pub(super) fn need(&self, now: Instant, options: &TokenRequestOptions) -> Need {
        match self.own.usable(now) {
            Some(kept) => {
                if has_left(&kept.issued, options.get_min_remaining(), now) {
                    Need::Reply(AccessToken::new(kept.issued.clone()))
                } else if self.own.flight.is_open() {
                    Need::Queue
                } else if self.may_open(now) {
                    Need::QueueAndOpen
                } else {
                    Need::Reply(AccessToken::new(kept.issued.clone()))
                }
            }
            None => match self.own.flight.cooling(now) {
                Some(cooling) => Need::Fail(cooling.cooling(now)),
                None if self.barrier.is_up() || self.own.flight.is_open() => Need::Queue,
                None => Need::QueueAndOpen,
            },
        }
    }

    pub(super) fn hold(&mut self, caller: CallerId, reply: R) {
        self.own.callers.insert(caller, reply);
        self.count_held();
    }

    /// A reader of another snapshot than the published one asked for what has been done since.
    pub(super) fn asked(&mut self, moment: Moment, snapshot: u32) {
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
        let Some(kept) = self.own.kept().filter(|kept| kept.issued.id() == id) else {
            self.counters.invalidations += u64::from(self.exchanges.invalidate(id, moment.now));
            return;
        };
        if moment.now < self.doubts_honoured_from {
            self.doubts_dismissed += 1;
            return;
        }
        let text = kept.issued.text().clone();
        self.own.take();
        self.doubts_honoured_from = moment.now + INVALIDATE_GAP;
        self.exchanges.drop_children(&text);
        self.refused = Some(text);
        self.counters.invalidations += 1;
    }

    /// The row `News`: another replica has revoked this token. It is no `Invalidate`, and opens no flight.
    pub(super) fn revoked_elsewhere(&mut self, now: Instant, text: &TokenText, left: Duration) {
        if self.ledger.is_marked(text, now) {
            return;
        }
        // What was never seen here says nothing about this session.
        self.warm &= !self.ledger.holds(text);
        let current = self.own.kept().map(|kept| kept.issued.text());
        let left = left.min(super::lifetime::LONGEST);
        self.ledger.hear(now, text, left, current);
        self.exchanges.drop_children(text);
        self.exchanges.drop_text(text);
        if self.own.take_if(|kept| kept.issued.text() == text).is_some() {
            self.refused = Some(text.clone());
        }
    }

    // Attempts that ended

    pub(super) fn grant_ended(
        &mut self,
        moment: Moment,
        result: Result<Grant, TokenError>,
        fx: &mut Effects<R>,
    ) {
        let Some(sent) = self.own.flight.land() else { return };
        self.grants_ended += 1;
        self.exchanges.stop_waiting_for_more_life();
        match result.and_then(|grant| self.receive(moment, sent, grant, Issued::new, fx)) {
            Ok(received) => {
                self.earliest = sent.at + GRANT_GAP;
                self.last_success = moment.now;
                match received {
                    Received::Token(issued, lifetime) => self.store(issued, lifetime, fx),
                    Received::Revoked(text) => {
                        self.own.flight.succeed();
                        self.refused = Some(text);
                    }
                }
            }
            Err(error) => self.grant_failed(moment, error, fx),
        }
    }

    fn store(&mut self, issued: Issued, lifetime: Lifetime, fx: &mut Effects<R>) {
        self.answer_all(&Ok(AccessToken::new(issued.clone())), fx);
        self.own.store(issued, lifetime);
        self.doubts_dismissed = 0;
        self.exchanges.stop_waiting_for_next_subject();
    }

    fn grant_failed(&mut self, moment: Moment, error: TokenError, fx: &mut Effects<R>) {
        self.counters.grants_failed += 1;
        self.earliest = self.own.fail(error, &self.config.retry, moment);
        self.serve_without(moment, fx);
    }

    /// The manager lets the grant go, or says why it does not.
    pub(super) fn grant_permitted(
        &mut self,
        moment: Moment,
        result: Result<(), TokenError>,
        fx: &mut Effects<R>,
    ) {
        if self.leave != Leave::Awaited {
            return;
        }
        match result {
            Ok(()) => self.leave = Leave::Given,
            Err(error) => {
                self.leave = Leave::None;
                self.grants_ended += 1;
                self.exchanges.stop_waiting_for_more_life();
                self.earliest = self.own.turn_away(gate::refusal(error), moment.now);
                self.serve_without(moment, fx);
            }
        }
    }

    /// Leave that cannot be used now is not waited for.
    pub(super) fn give_up_leave(&mut self, now: Instant, fx: &mut Effects<R>) {
        let may_go = !self.barrier.is_up() && self.own.flight.is_due(now);
        if self.leave == Leave::Awaited && !may_go {
            fx.waits.push(Wait::GiveUp(Purpose::Grant));
        }
        if self.leave == Leave::Given || !may_go {
            self.leave = Leave::None;
        }
    }

    /// No token has come: who waits gets the one that is there, or the error, if nothing more is tried.
    fn serve_without(&mut self, moment: Moment, fx: &mut Effects<R>) {
        let is_over = !self.own.flight.is_open();
        if let Some(kept) = self.own.usable(moment.now) {
            let token = AccessToken::new(kept.issued.clone());
            self.answer_all(&Ok(token), fx);
        } else if let Some(last) = self.own.flight.last_failure().filter(|_| is_over) {
            let error = last.failed(moment.now);
            self.answer_all(&Err(error), fx);
        }
        if is_over {
            self.no_subject_comes(moment, fx);
        }
    }

    pub(super) fn answer_all(
        &mut self,
        answer: &Result<AccessToken, SessionError>,
        fx: &mut Effects<R>,
    ) {
        let callers = self.own.take_callers();
        fx.replies.extend(callers.map(|reply| (reply, Reply::Token(answer.clone()))));
    }

    /// After the barrier: who was held by it needs a flight.
    pub(super) fn serve_held(&mut self, now: Instant) {
        if !self.own.callers.is_empty() && self.may_open(now) {
            self.open(TokenRequestOptions::default());
        }
    }

    /// The row "`ask_at` passed, no caller".
    pub(super) fn refresh(&mut self, moment: Moment) {
        let wanted = match self.config.refresh_mode {
            RefreshMode::Always => self.warm || self.own.usable(moment.now).is_some(),
            RefreshMode::WhileUsed => {
                (self.used || moment.used)
                    && self.own.usable(moment.now).is_some_and(|kept| self.is_published(kept))
            }
            RefreshMode::OnRequest => false,
        };
        if wanted && self.ask_at() <= moment.now {
            self.open(TokenRequestOptions::default());
        }
    }

    pub(super) fn drive_grant(&mut self, now: Instant, fx: &mut Effects<R>) {
        if now < self.earliest || !self.own.flight.is_due(now) {
            return;
        }
        if self.abilities.gated && self.leave != Leave::Given {
            if self.leave == Leave::None {
                self.leave = Leave::Awaited;
                let request = self.grant_request(self.own.flight.options());
                gate::ask(Purpose::Grant, PermitRequest::Grant(request), fx);
            }
            return;
        }
        let sent = Sent { at: now, revokes: self.counters.revokes };
        let Some((number, options)) = self.own.flight.depart(sent) else { return };
        self.counters.grants_started += 1;
        let timeout = self.config.retry.attempt_timeout;
        let request = Request::Grant(self.grant_request(options));
        fx.start.push(Start { number, timeout, request });
    }

    fn grant_request(&mut self, options: TokenRequestOptions) -> GrantRequest {
        GrantRequest {
            options,
            refused: self.refused.clone(),
            replaces: self.own.kept().map(|kept| kept.issued.text().clone()),
            marked: self.ledger.marked(),
            timeout: Some(self.config.retry.attempt_timeout),
        }
    }

    fn is_published(&self, kept: &Kept) -> bool {
        let published = self.published.token.as_ref();
        published.is_some_and(|published| *published.token.issued() == kept.issued)
    }

    fn unexpired(&self, now: Instant) -> Option<AccessToken> {
        Some(AccessToken::new(self.own.unexpired(now)?.issued.clone()))
    }

    pub(super) fn may_open(&self, now: Instant) -> bool {
        !self.barrier.is_up() && self.own.flight.may_open(now)
    }

    /// From here on the actor wants to hear of a reader.
    pub(super) fn ask_at(&self) -> Instant {
        if self.closed || self.barrier.is_up() { Instant::NEVER } else { self.own.ask_at() }
    }

    pub(super) fn open(&mut self, options: TokenRequestOptions) {
        if !self.own.flight.is_open() {
            self.own.flight.open(options);
        }
    }
}
