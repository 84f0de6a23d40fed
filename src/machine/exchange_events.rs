//! The machine's rows that are an exchange's: a caller asks, an attempt is due, an attempt has ended.

use std::sync::Arc;
use std::time::Duration;

use super::event::{CallerId, Effects, Moment, Purpose, Reply, Request, Start};
use super::exchanges::{Exchange, Found, Place, exchanged};
use super::flight::Sent;
use super::gate;
use super::grant::Need;
use super::{Machine, Received};
use crate::error::{SessionError, TokenError};
use crate::grant::Grant;
use crate::instant::Instant;
use crate::request::{ExchangeKey, ExchangeRequest, PermitRequest};
use crate::token::{AccessToken, ExchangedToken, Issued, TokenId};

/// The least time between two refreshes of the session's token that an exchange asks for: a server which
/// refuses every subject is not given one after the other.
const SUBJECT_GAP: Duration = Duration::from_secs(10);

impl<R> Machine<R> {
    pub(super) fn exchange(
        &mut self,
        moment: Moment,
        caller: CallerId,
        reply: R,
        request: Box<ExchangeRequest>,
        fx: &mut Effects<R>,
    ) {
        let now = moment.now;
        let key = request.key();
        if self.abilities.exchange {
            self.note_use(now, &request.options);
            if let Found::Token(issued, is_due) = self.exchanges.find(&key, now) {
                let token = exchanged(issued);
                if is_due {
                    let has_failed = self.exchanges.has_failed(&key);
                    match self.endpoint.cooling(now, has_failed).map(|cooling| cooling.until) {
                        // Behind the token that is there, and with the subject that is there.
                        None => {
                            self.exchanges.open(&Arc::new(key), request, self.grants_ended, now);
                        }
                        Some(until) => self.exchanges.ask_again_at(key, until),
                    }
                }
                fx.replies.push((reply, Reply::Exchanged(Ok(token))));
                return;
            }
        }
        let refusal = self.refusal(now, &key, &request);
        if refusal.is_none() && !self.is_full() {
            let key = Arc::new(key);
            self.exchanges.open(&key, request, self.grants_ended, now);
            self.exchanges.join(&key, caller, reply);
            self.count_held();
            return;
        }
        let answer = match (self.exchanges.unexpired(&key, now), refusal) {
            (Some(issued), _) => Ok(exchanged(issued)),
            (None, Some(error)) => Err(error),
            (None, None) => Err(self.overloaded()),
        };
        fx.replies.push((reply, Reply::Exchanged(answer)));
    }

    /// What whoever asks for this key is told at once, if there is no token.
    fn refusal(
        &mut self,
        now: Instant,
        key: &ExchangeKey,
        request: &ExchangeRequest,
    ) -> Option<SessionError> {
        if !self.abilities.exchange {
            return Some(SessionError::Unsupported("token exchange"));
        }
        if self.exchanges.is_open(key) {
            return None;
        }
        if let Found::Cooling(cooling) = self.exchanges.find(key, now) {
            return Some(cooling.cooling(now));
        }
        let has_failed = self.exchanges.has_failed(key);
        if let Some(cooling) = self.endpoint.cooling(now, has_failed) {
            self.endpoint.turned_away(has_failed);
            return Some(cooling.cooling(now));
        }
        match self.need(now, &request.options) {
            Need::Fail(error) => Some(error),
            _ => None,
        }
    }

    // Attempts that ended

    pub(super) fn exchange_ended(
        &mut self,
        moment: Moment,
        key: &Arc<ExchangeKey>,
        result: Result<Grant, TokenError>,
        fx: &mut Effects<R>,
    ) {
        let landed = self.exchanges.change(key, Exchange::land).flatten();
        let Some((sent, subject, known)) = landed else { return };
        match result.and_then(|grant| self.receive(moment, sent, grant, Issued::by_exchange, fx)) {
            Ok(Received::Token(issued, lifetime)) => {
                self.endpoint.answered(known);
                let grants_ended = self.grants_ended;
                let callers =
                    self.exchanges.finish(key, &issued, lifetime, grants_ended, moment.now);
                let token = exchanged(&issued);
                fx.replies
                    .extend(callers.map(|reply| (reply, Reply::Exchanged(Ok(token.clone())))));
            }
            Ok(Received::Revoked(_)) => {
                self.endpoint.answered(known);
                let grants_ended = self.grants_ended;
                self.exchanges.change(key, |exchange| exchange.begin_again(grants_ended));
            }
            Err(error) if error.is_retryable() => {
                let retry = &self.config.retry;
                let is_over = self.endpoint.failed(known, &error, retry, moment);
                self.exchange_failed(moment, key, error, fx);
                if is_over {
                    self.fail_waiting_exchanges(moment.now, fx);
                }
            }
            Err(error) => {
                self.endpoint.refused(known);
                if refuses_subject(&error) && self.rerun(moment.now, key, subject, &error) {
                    self.counters.exchanges_failed += 1;
                } else {
                    self.exchange_failed(moment, key, error, fx);
                }
            }
        }
    }

    /// The manager lets an exchange go, or says why it does not.
    pub(super) fn exchange_permitted(
        &mut self,
        now: Instant,
        key: &Arc<ExchangeKey>,
        result: Result<(), TokenError>,
        fx: &mut Effects<R>,
    ) {
        if !self.exchanges.let_go(key) {
            return;
        }
        match result {
            Ok(()) => {
                let at_once = self.config.exchanges_at_once;
                if self.endpoint.may_depart(now, self.exchanges.on_wire(), 0, at_once) {
                    self.drive_exchange(now, key, true, fx);
                }
            }
            Err(error) => {
                let failed = self.exchanges.change(key, |exchange| {
                    exchange.slot.turn_away(gate::refusal(error), now);
                    exchange.slot.flight.last_failure().map(|last| last.failed(now))
                });
                if let Some(error) = failed.flatten() {
                    self.fail_exchange(now, key, &error, fx);
                }
            }
        }
    }

    /// It is the subject that was refused: the exchange runs once more, with another one. Whether there
    /// is, or will be, another one. The one that was refused may be good for everything else, so it stays.
    fn rerun(
        &mut self,
        now: Instant,
        key: &Arc<ExchangeKey>,
        subject: TokenId,
        refusal: &TokenError,
    ) -> bool {
        let state = self.exchanges.change(key, |exchange| {
            let has_rerun = exchange.open.as_ref().is_none_or(|open| open.has_rerun);
            (has_rerun, exchange.is_wanted(), exchange.options())
        });
        let Some((false, is_wanted, options)) = state else { return false };
        let held = self.own.kept().filter(|kept| kept.issued.id() == subject);
        let place = match held.map(|kept| kept.issued.text().clone()) {
            // It has been replaced, or given up.
            None => Place::Ready,
            Some(_) if !is_wanted => return false,
            Some(text) => {
                if !self.own.flight.is_open() {
                    let is_too_soon = now < self.subject_refresh_from;
                    if is_too_soon || !self.may_open(now) {
                        return false;
                    }
                    self.subject_refresh_from = now + SUBJECT_GAP;
                    self.refused = Some(text);
                    self.open(options);
                }
                Place::NextSubject(Box::new(refusal.clone()))
            }
        };
        self.exchanges.change(key, |exchange| exchange.rerun(now, place));
        true
    }

    /// An attempt failed: the flight waits for its next one, or it is over and the key cools. Who waits
    /// gets the token that is there, however near its end; else, if it is over, the error.
    pub(super) fn exchange_failed(
        &mut self,
        moment: Moment,
        key: &Arc<ExchangeKey>,
        error: TokenError,
        fx: &mut Effects<R>,
    ) {
        self.counters.exchanges_failed += 1;
        let (now, retry) = (moment.now, &self.config.retry);
        let failed = self.exchanges.change(key, |exchange| {
            exchange.slot.fail(error, retry, moment);
            let is_over = !exchange.slot.flight.is_open();
            exchange.pause();
            exchange.slot.flight.last_failure().filter(|_| is_over).map(|last| last.failed(now))
        });
        let own = failed.flatten();
        let shared = || self.endpoint.cooling(now, false).map(|cooling| cooling.failed(now));
        if let Some(error) = own.or_else(shared) {
            self.fail_exchange(now, key, &error, fx);
        } else if let Some(token) = self.exchanges.unexpired(key, now).map(exchanged) {
            let callers = self.exchanges.answered(key);
            fx.replies.extend(callers.map(|reply| (reply, Reply::Exchanged(Ok(token.clone())))));
        }
    }

    /// The key's flight is over; who waits gets the token that is there, or this error.
    pub(super) fn fail_exchange(
        &mut self,
        now: Instant,
        key: &Arc<ExchangeKey>,
        error: &SessionError,
        fx: &mut Effects<R>,
    ) {
        let token = self.exchanges.unexpired(key, now).map(exchanged);
        let answer: Result<ExchangedToken, _> = token.ok_or_else(|| error.clone());
        let callers = self.exchanges.close(key, now);
        fx.replies.extend(callers.map(|reply| (reply, Reply::Exchanged(answer.clone()))));
    }

    /// The endpoint is left alone: nothing will come for those who wait.
    fn fail_waiting_exchanges(&mut self, now: Instant, fx: &mut Effects<R>) {
        let cooling = self.endpoint.cooling(now, false);
        let Some(error) = cooling.map(|cooling| cooling.failed(now)) else { return };
        for key in self.exchanges.waiting() {
            self.endpoint.turned_away(self.exchanges.has_failed(&key));
            self.fail_exchange(now, &key, &error, fx);
        }
    }

    /// There will be no subject from this flight of the grant. That is no key's failure, so none cools;
    /// but whose subject was refused, and not replaced, is left with that answer.
    pub(super) fn no_subject_comes(&mut self, moment: Moment, fx: &mut Effects<R>) {
        while let Some((key, refusal)) = self.exchanges.pop_refused() {
            self.exchange_failed(moment, &key, refusal, fx);
        }
        let cooling = self.own.flight.last_failure().map(|last| last.failed(moment.now));
        if let Some(error) = cooling.filter(|_| self.own.usable(moment.now).is_none()) {
            for key in self.exchanges.ready_keys() {
                self.fail_exchange(moment.now, &key, &error, fx);
            }
        }
    }

    // What is due

    /// The manager has learnt that its server cannot exchange: nothing more is sent.
    pub(super) fn end_unsupported_exchanges(&mut self, now: Instant, fx: &mut Effects<R>) {
        if !self.abilities.exchange {
            let error = SessionError::Unsupported("token exchange");
            for key in self.exchanges.waiting() {
                self.fail_exchange(now, &key, &error, fx);
            }
        }
    }

    pub(super) fn drive_exchanges(&mut self, now: Instant, fx: &mut Effects<R>) {
        let at_once = self.config.exchanges_at_once;
        while self.endpoint.may_depart(
            now,
            self.exchanges.on_wire(),
            self.exchanges.at_gate(),
            at_once,
        ) && let Some(key) = self.exchanges.next_ready()
            && self.drive_exchange(now, &key, false, fx)
        {}
    }

    /// Whether the key whose turn it is has moved on; if not, it waits for a subject, and so do all
    /// behind it.
    fn drive_exchange(
        &mut self,
        now: Instant,
        key: &Arc<ExchangeKey>,
        has_leave: bool,
        fx: &mut Effects<R>,
    ) -> bool {
        let wants = self.exchanges.change(key, |exchange| {
            let grants_ended = exchange.open.as_ref().map_or(0, |open| open.grants_ended);
            (exchange.options(), grants_ended, exchange.is_wanted())
        });
        let Some((options, grants_ended, is_wanted)) = wants else { return false };
        // Behind a token that is there, or after a grant attempt, it takes the subject that there is.
        let takes_any = !is_wanted || grants_ended < self.grants_ended;
        let waited_for = self.own.unexpired(now).filter(|_| takes_any);
        let need = match waited_for {
            Some(kept) => Need::Reply(AccessToken::new(kept.issued.clone())),
            None => self.need(now, &options),
        };
        let is_usable = self.own.usable(now).is_some();
        match need {
            Need::Reply(_) if self.abilities.gated && !has_leave => {
                self.exchanges.change(key, |exchange| exchange.wait_for(Place::AtGate));
                gate::ask(Purpose::Exchange(key.clone()), PermitRequest::Exchange, fx);
            }
            Need::Reply(subject) => return self.depart_exchange(now, key, subject, fx),
            Need::Queue if !is_usable => return false,
            Need::QueueAndOpen if !is_wanted => {
                self.exchanges.close(key, now).for_each(drop);
            }
            Need::QueueAndOpen if !is_usable => {
                self.open(options);
                return false;
            }
            Need::Queue => {
                self.exchanges.change(key, |exchange| exchange.wait_for(Place::MoreLife));
            }
            Need::QueueAndOpen => {
                self.open(options);
                self.exchanges.change(key, |exchange| exchange.wait_for(Place::MoreLife));
            }
            Need::Fail(error) => self.fail_exchange(now, key, &error, fx),
        }
        true
    }

    fn depart_exchange(
        &mut self,
        now: Instant,
        key: &Arc<ExchangeKey>,
        subject: AccessToken,
        fx: &mut Effects<R>,
    ) -> bool {
        let sent = Sent { at: now, revokes: self.counters.revokes };
        let known = self.endpoint.depart(sent);
        let departed = self
            .exchanges
            .change(key, |exchange| exchange.depart(subject.issued().clone(), sent, known));
        let Some((number, request)) = departed.flatten() else { return false };
        self.counters.exchanges_started += 1;
        let request = Request::Exchange(key.clone(), subject, request);
        let timeout = self.config.retry.attempt_timeout;
        fx.start.push(Start { number, timeout, request });
        true
    }
}

/// Whether it is the subject token that the server did not like (RFC 8693 §2.2.2).
fn refuses_subject(error: &TokenError) -> bool {
    let TokenError::Denied { error, description, .. } = error else { return false };
    match error.as_str() {
        "invalid_grant" | "invalid_token" => true,
        "invalid_request" => description.as_ref().is_some_and(|text| {
            let text = text.to_ascii_lowercase();
            text.contains("subject_token") || text.contains("subject token")
        }),
        _ => false,
    }
}
