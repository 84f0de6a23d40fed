//! The table of exchanged tokens: one flight per key, the cache, and its bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::flight::{Flight, Sent};
use super::lifetime::Lifetime;
use super::{CallerId, Cooling, Instant};
use crate::manager::{ExchangeKey, ExchangeRequest, TokenRequestOptions};
use crate::token::{AccessToken, ExchangedToken, TokenId};

/// A cached token that is younger is not what is wrong, whatever a resource server says of it.
const TOO_YOUNG_TO_DOUBT: Duration = Duration::from_secs(10);

/// The most keys that are remembered for their failure alone.
const MOST_FAILURES: usize = 1_024;

/// Keys in flight, and those that are done: with a token, or with an error that keeps them cool.
#[derive(Clone, Debug)]
pub(crate) struct Exchanges<R> {
    capacity: usize,
    open: BTreeMap<Arc<ExchangeKey>, Exchange<R>>,
    done: BTreeMap<Arc<ExchangeKey>, Done>,
}

/// A key in flight.
#[derive(Clone, Debug)]
pub(crate) struct Exchange<R> {
    pub(crate) flight: Flight,
    pub(crate) callers: BTreeMap<CallerId, R>,
    pub(crate) request: Box<ExchangeRequest>,
    /// What to exchange next, where it was given before it was looked for.
    pub(crate) subject: Option<AccessToken>,
    /// What the attempt on the wire exchanges.
    sent_subject: Option<TokenId>,
    /// It has waited for one grant attempt already, and takes the usable token there is.
    pub(crate) has_waited: bool,
    /// Its subject was refused once and replaced; the second refusal stands.
    pub(crate) has_rerun: bool,
    /// The token that this will replace: near its end, but for times of need.
    previous: Option<Cached>,
    /// The session gave up the subject while this was on the wire: callers get the token, others not.
    orphaned: bool,
}

#[derive(Clone, Debug)]
struct Done {
    flight: Flight,
    cached: Option<Cached>,
}

#[derive(Clone, Debug)]
struct Cached {
    token: ExchangedToken,
    lifetime: Lifetime,
    subject: Option<TokenId>,
}

/// What the table has for a key.
pub(crate) enum Found<'a> {
    Token(&'a ExchangedToken),
    Cooling(&'a Cooling),
    Nothing,
}

impl<R> Exchange<R> {
    pub(crate) fn options(&self) -> &TokenRequestOptions {
        &self.request.options
    }

    /// Starts an attempt with this subject.
    pub(crate) fn depart(&mut self, subject: &AccessToken, sent: Sent) -> Option<u32> {
        let (number, _) = self.flight.depart(sent)?;
        self.sent_subject = Some(subject.issued().id());
        self.subject = None;
        self.has_waited = false;
        self.orphaned = false;
        Some(number)
    }

    /// The attempt on the wire has ended: when it was sent, and with which subject.
    pub(crate) fn land(&mut self) -> Option<(Sent, TokenId)> {
        Some((self.flight.land()?, self.sent_subject?))
    }
}

impl<R> Exchanges<R> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, open: BTreeMap::new(), done: BTreeMap::new() }
    }

    pub(crate) fn find(&self, key: &ExchangeKey, now: Instant) -> Found<'_> {
        let Some(done) = self.done.get(key) else { return Found::Nothing };
        if let Some(cached) = done.cached.as_ref().filter(|cached| now < cached.lifetime.hold_at) {
            return Found::Token(&cached.token);
        }
        done.flight.cooling(now).map_or(Found::Nothing, Found::Cooling)
    }

    /// For times of need: a token that is near its end, but not past it.
    pub(crate) fn find_unexpired(
        &self,
        key: &ExchangeKey,
        now: Instant,
    ) -> Option<&ExchangedToken> {
        let done = self.done.get(key).map(|done| &done.cached);
        let previous = || self.open.get(key).map(|exchange| &exchange.previous);
        let cached = done.or_else(previous)?.as_ref()?;
        (now < cached.lifetime.expires_at).then_some(&cached.token)
    }

    /// A caller joins the flight of its key, or opens it.
    pub(crate) fn join(
        &mut self,
        key: Arc<ExchangeKey>,
        caller: CallerId,
        reply: R,
        request: Box<ExchangeRequest>,
    ) {
        let done = &mut self.done;
        let exchange = self.open.entry(key).or_insert_with_key(|key| {
            let (mut flight, previous) =
                done.remove(key).map(|done| (done.flight, done.cached)).unwrap_or_default();
            flight.open(request.options.clone());
            Exchange {
                flight,
                callers: BTreeMap::new(),
                request,
                subject: None,
                sent_subject: None,
                has_waited: false,
                has_rerun: false,
                previous,
                orphaned: false,
            }
        });
        exchange.callers.insert(caller, reply);
    }

    pub(crate) fn is_open(&self, key: &ExchangeKey) -> bool {
        self.open.contains_key(key)
    }

    pub(crate) fn open(&mut self, key: &ExchangeKey) -> Option<&mut Exchange<R>> {
        self.open.get_mut(key)
    }

    /// The keys whose next attempt is due: they want a subject.
    pub(crate) fn due(&self, now: Instant) -> Vec<Arc<ExchangeKey>> {
        let due = self.open.iter().filter(|(_, exchange)| exchange.flight.is_due(now));
        due.map(|(key, _)| key.clone()).collect()
    }

    fn each_due(&mut self, now: Instant) -> impl Iterator<Item = &mut Exchange<R>> {
        self.open.values_mut().filter(move |exchange| exchange.flight.is_due(now))
    }

    /// A grant succeeded: whoever waits for a subject takes this one, even past its own `hold_at`.
    pub(crate) fn subject_came(&mut self, subject: &AccessToken, now: Instant) {
        for exchange in self.each_due(now) {
            exchange.subject = Some(subject.clone());
        }
    }

    /// A grant attempt failed: whoever waits for a subject no longer waits for a better one.
    pub(crate) fn subject_did_not_come(&mut self, now: Instant) {
        for exchange in self.each_due(now) {
            exchange.has_waited = true;
        }
    }

    /// The key is done with this token.
    pub(crate) fn finish(
        &mut self,
        key: &Arc<ExchangeKey>,
        token: &ExchangedToken,
        lifetime: Lifetime,
        now: Instant,
    ) -> impl Iterator<Item = R> + use<R> {
        let mut callers = BTreeMap::new();
        if let Some(mut exchange) = self.open.remove(key) {
            callers = exchange.callers;
            if !exchange.orphaned {
                exchange.flight.succeed();
                let subject = exchange.sent_subject;
                let cached = Some(Cached { token: token.clone(), lifetime, subject });
                self.keep(key.clone(), Done { flight: exchange.flight, cached }, now);
            }
        }
        callers.into_values()
    }

    /// The key's flight has failed: it stays cool.
    pub(crate) fn cool(
        &mut self,
        key: &Arc<ExchangeKey>,
        now: Instant,
    ) -> impl Iterator<Item = R> + use<R> {
        let mut callers = BTreeMap::new();
        if let Some(exchange) = self.open.remove(key) {
            callers = exchange.callers;
            let done = Done { flight: exchange.flight, cached: exchange.previous };
            self.keep(key.clone(), done, now);
        }
        callers.into_values()
    }

    /// The key's flight ends without having failed: what is remembered of earlier ones stays.
    pub(crate) fn abandon(
        &mut self,
        key: &Arc<ExchangeKey>,
        now: Instant,
    ) -> impl Iterator<Item = R> + use<R> {
        if let Some(exchange) = self.open.get_mut(key) {
            exchange.flight.abandon();
        }
        self.cool(key, now)
    }

    /// Failures are kept, or their followers would not be spaced out further. They make room among
    /// themselves alone: beside a full cache a key that was refused would be the first to go, and each
    /// call another request.
    fn keep(&mut self, key: Arc<ExchangeKey>, done: Done, now: Instant) {
        let is_failure = done.flight.remembers();
        let most = if is_failure { MOST_FAILURES } else { self.capacity };
        self.done.insert(key, done);
        self.done.retain(|_, done| done.flight.remembers() || now < done.ends_at());
        let alike = self.done.iter().filter(|(_, done)| done.flight.remembers() == is_failure);
        if alike.clone().count() > most
            && let Some((first, _)) = alike.min_by_key(|(_, done)| done.ends_at())
        {
            let first = Arc::clone(first);
            self.done.remove(&first);
        }
    }

    /// A caller no longer waits. The flight goes on, unless it has sent nothing yet and this was the last
    /// one: or calls that are dropped while there is no subject would all be sent when it comes.
    pub(crate) fn leave(&mut self, caller: CallerId, now: Instant) {
        let left = self.open.iter_mut().find_map(|(key, exchange)| {
            exchange.callers.remove(&caller)?;
            Some((Arc::clone(key), exchange))
        });
        let Some((key, exchange)) = left else { return };
        if exchange.callers.is_empty() && !exchange.flight.has_begun() {
            self.abandon(&key, now).for_each(drop);
        }
    }

    pub(crate) fn callers(&self) -> usize {
        self.open.values().map(|exchange| exchange.callers.len()).sum()
    }

    pub(crate) fn is_any_on_wire(&self) -> bool {
        self.open.values().any(|exchange| exchange.flight.is_on_wire())
    }

    /// Whether anybody waits for a flight that has nothing on the wire.
    pub(crate) fn is_any_held(&self) -> bool {
        self.open
            .values()
            .any(|exchange| !exchange.flight.is_on_wire() && !exchange.callers.is_empty())
    }

    /// When the first of the flights that wait between attempts goes on.
    pub(crate) fn next_attempt_at(&self, now: Instant) -> Option<Instant> {
        let pauses = self.open.values().filter_map(|exchange| exchange.flight.next_attempt_at());
        pauses.filter(|at| now < *at).min()
    }

    /// The resource server refused an exchanged token.
    pub(crate) fn invalidate(&mut self, id: TokenId, now: Instant) {
        self.forget_tokens(|cached| {
            cached.token.issued().id() == id
                && now.since(cached.lifetime.acquired_at) >= TOO_YOUNG_TO_DOUBT
        });
    }

    /// The session gave this token up, and with it those that were exchanged from it.
    pub(crate) fn drop_children(&mut self, subject: TokenId) {
        self.forget_tokens(|cached| cached.subject == Some(subject));
        for exchange in self.open.values_mut() {
            exchange.orphaned |= exchange.sent_subject == Some(subject);
        }
    }

    /// A revoke.
    pub(crate) fn drop_all(&mut self) {
        self.forget_tokens(|_| true);
    }

    fn forget_tokens(&mut self, is_forgotten: impl Fn(&Cached) -> bool) {
        let previous = self.open.values_mut().map(|exchange| &mut exchange.previous);
        for cached in self.done.values_mut().map(|done| &mut done.cached).chain(previous) {
            cached.take_if(|cached| is_forgotten(cached));
        }
        self.done.retain(|_, done| done.cached.is_some() || done.flight.remembers());
    }

    /// While the barrier is up: a flight that waits between attempts ends when nobody waits for it.
    pub(crate) fn abandon_unwanted(&mut self, now: Instant) {
        let unwanted =
            |exchange: &Exchange<R>| exchange.callers.is_empty() && !exchange.flight.is_on_wire();
        let keys: Vec<_> = self
            .open
            .iter()
            .filter(|(_, exchange)| unwanted(exchange))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.abandon(&key, now).for_each(drop);
        }
    }

    pub(crate) fn close(&mut self) -> impl Iterator<Item = R> + use<R> {
        self.done.clear();
        std::mem::take(&mut self.open)
            .into_values()
            .flat_map(|exchange| exchange.callers.into_values())
    }
}

impl Done {
    /// When it stops to be of use: the first to end makes room for others.
    fn ends_at(&self) -> Instant {
        let cached = self.cached.as_ref().map(|cached| cached.lifetime.expires_at);
        cached.unwrap_or(Instant::ZERO).max(self.flight.not_before())
    }
}
