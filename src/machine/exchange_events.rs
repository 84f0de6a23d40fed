//! The machine's rows that are an exchange's: a caller asks, an attempt is due, an attempt has ended.

use std::sync::Arc;

use super::event::{CallerId, Effects, Moment, Reply, Request, Start};
use super::exchanges::{Exchange, Found};
use super::flight::Sent;
use super::grant::Need;
use super::{Machine, Received};
use crate::error::{SessionError, TokenError};
use crate::grant::Grant;
use crate::instant::Instant;
use crate::request::{ExchangeKey, ExchangeRequest};
use crate::token::{ExchangedToken, TokenId};

impl<R> Machine<R> {
    pub(super) fn exchange(
        &mut self,
        moment: Moment,
        caller: CallerId,
        reply: R,
        request: Box<ExchangeRequest>,
        fx: &mut Effects<R>,
    ) {
        if !self.abilities.exchange {
            let error = SessionError::Unsupported("token exchange");
            fx.replies.push((reply, Reply::Exchanged(Err(error))));
            return;
        }
        self.note_use(moment.now, &request.options);
        let key = request.key();
        let answer = match self.exchanges.find(&key, moment.now) {
            Found::Token(token) => Ok(token.clone()),
            Found::Cooling(cooling) => Err(cooling.cooling(moment.now)),
            Found::Nothing => match self.need(moment.now, &request.options, false) {
                // It would fail at once, but for the barrier.
                Need::Fail(error) if !self.exchanges.is_open(&key) => Err(error),
                _ if self.is_full() => match self.exchanges.find_unexpired(&key, moment.now) {
                    Some(token) => Ok(token.clone()),
                    None => Err(self.overloaded()),
                },
                _ => {
                    self.exchanges.join(Arc::new(key), caller, reply, request);
                    self.count_held();
                    return;
                }
            },
        };
        fx.replies.push((reply, Reply::Exchanged(answer)));
    }

    pub(super) fn exchange_ended(
        &mut self,
        moment: Moment,
        key: &Arc<ExchangeKey>,
        result: Result<Grant, TokenError>,
        fx: &mut Effects<R>,
    ) {
        let Some((sent, subject)) = self.exchanges.change(key, Exchange::land).flatten() else {
            return;
        };
        match result.and_then(|grant| self.receive(moment, sent, grant, fx)) {
            Ok(Received::Token(issued, lifetime)) => {
                let token = ExchangedToken::new(issued);
                let callers = self.exchanges.finish(key, &token, lifetime, moment.now);
                fx.replies
                    .extend(callers.map(|reply| (reply, Reply::Exchanged(Ok(token.clone())))));
            }
            Ok(Received::Revoked(_)) => {
                self.exchanges.change(key, |exchange| {
                    exchange.flight.succeed();
                    exchange.flight.open(exchange.request.options.clone());
                });
            }
            Err(error) => self.exchange_failed(moment, key, subject, error, fx),
        }
    }

    fn exchange_failed(
        &mut self,
        moment: Moment,
        key: &Arc<ExchangeKey>,
        subject: TokenId,
        error: TokenError,
        fx: &mut Effects<R>,
    ) {
        self.counters.exchanges_failed += 1;
        let subject_refused = refuses_subject(&error);
        if subject_refused {
            self.invalidate(moment, subject);
        }
        let replaced = self.held.as_ref().is_none_or(|held| held.token.issued().id() != subject);
        let retry = &self.config.retry;
        let failed = self.exchanges.change(key, |exchange| {
            if subject_refused && replaced && !exchange.has_rerun {
                exchange.has_rerun = true;
                exchange.flight.renew(moment.now);
                return None;
            }
            exchange.flight.fail(error, retry, moment);
            let is_over = !exchange.flight.is_open();
            let last = exchange.flight.last_failure().filter(|_| is_over)?;
            Some(last.failed(moment.now))
        });
        if let Some(error) = failed.flatten() {
            let callers = self.exchanges.cool(key, moment.now);
            fx.replies.extend(callers.map(|reply| (reply, Reply::Exchanged(Err(error.clone())))));
        }
    }

    pub(super) fn drive_exchanges(&mut self, now: Instant, fx: &mut Effects<R>) {
        // Without this, each of many keys that wait for a first token would look at all the others.
        let all_wait = self.usable(now).is_none() && self.flight.is_open();
        if !all_wait {
            for key in self.exchanges.due(now) {
                self.drive_exchange(now, &key, fx);
            }
        }
    }

    fn drive_exchange(&mut self, now: Instant, key: &Arc<ExchangeKey>, fx: &mut Effects<R>) {
        let wants = self.exchanges.change(key, |exchange| {
            let is_wanted = !exchange.callers.is_empty();
            (exchange.options().clone(), exchange.has_waited, exchange.subject.take(), is_wanted)
        });
        let Some((options, has_waited, subject, is_wanted)) = wants else { return };
        let need = match subject {
            Some(subject) => Need::Reply(subject),
            None => self.need(now, &options, has_waited),
        };
        match need {
            Need::Reply(subject) => {
                let sent = Sent { at: now, revokes: self.revokes };
                let departed = self.exchanges.change(key, |exchange| {
                    let number = exchange.depart(&subject, sent)?;
                    Some((number, exchange.request.clone()))
                });
                let Some((number, request)) = departed.flatten() else { return };
                self.counters.exchanges_started += 1;
                let request = Request::Exchange(key.clone(), subject, request);
                let timeout = self.config.retry.attempt_timeout;
                fx.start.push(Start { number, timeout, request });
            }
            Need::Queue => {}
            Need::QueueAndOpen if !is_wanted => {
                self.exchanges.abandon(key, now).for_each(drop);
            }
            Need::QueueAndOpen => self.open(options),
            Need::Fail(error) => self.fail_exchange(now, key, &error, fx),
        }
    }

    /// There is no subject. That is not this key's failure, so it does not cool.
    pub(super) fn fail_exchange(
        &mut self,
        now: Instant,
        key: &Arc<ExchangeKey>,
        error: &SessionError,
        fx: &mut Effects<R>,
    ) {
        let callers = self.exchanges.abandon(key, now);
        fx.replies.extend(callers.map(|reply| (reply, Reply::Exchanged(Err(error.clone())))));
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
