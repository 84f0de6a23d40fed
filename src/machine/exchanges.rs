//! The table of exchanged tokens: one flight per key, the cache, and its bound.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use super::event::{CallerId, Cooling};
use super::flight::{Flight, Sent};
use super::lifetime::Lifetime;
use crate::instant::Instant;
use crate::request::{ExchangeKey, ExchangeRequest, TokenRequestOptions};
use crate::token::{AccessToken, ExchangedToken, TokenId};

/// A cached token that is younger is not what is wrong, whatever a resource server says of it.
const TOO_YOUNG_TO_DOUBT: Duration = Duration::from_secs(10);

/// The most keys that are remembered for their failure alone.
const MOST_FAILURES: usize = 1_024;

/// Keys in flight, and those that are done: with a token, or with an error that keeps them cool.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Exchanges<R> {
    capacity: usize,
    open: BTreeMap<Arc<ExchangeKey>, Exchange<R>>,
    /// Those of the open keys that have nothing on the wire, by when their next attempt may start. Many
    /// may be open: no event looks at all of them.
    waiting: Waiting,
    /// What each caller waits for.
    callers: BTreeMap<CallerId, Arc<ExchangeKey>>,
    done: BTreeMap<Arc<ExchangeKey>, Done>,
}

/// A key in flight.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
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
#[cfg_attr(test, derive(Hash))]
struct Done {
    flight: Flight,
    cached: Option<Cached>,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
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
        Self {
            capacity,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            callers: BTreeMap::new(),
            done: BTreeMap::new(),
        }
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
        self.callers.insert(caller, Arc::clone(&key));
        let (done, waiting) = (&mut self.done, &mut self.waiting);
        let exchange = self.open.entry(key).or_insert_with_key(|key| {
            let (mut flight, previous) =
                done.remove(key).map(|done| (done.flight, done.cached)).unwrap_or_default();
            flight.open(request.options.clone());
            wait(waiting, key, flight.next_attempt_at());
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

    /// The only way to a key's flight: whatever `change` does to it, it is known what waits.
    pub(crate) fn change<T>(
        &mut self,
        key: &Arc<ExchangeKey>,
        change: impl FnOnce(&mut Exchange<R>) -> T,
    ) -> Option<T> {
        let exchange = self.open.get_mut(key)?;
        let before = exchange.flight.next_attempt_at();
        let changed = change(exchange);
        let after = exchange.flight.next_attempt_at();
        if before != after {
            wait_no_more(&mut self.waiting, key, before);
            wait(&mut self.waiting, key, after);
        }
        Some(changed)
    }

    /// The keys whose next attempt is due: they want a subject.
    pub(crate) fn due(&self, now: Instant) -> Vec<Arc<ExchangeKey>> {
        let mut due: Vec<_> =
            self.waiting.range(..=now).flat_map(|(_, keys)| keys).cloned().collect();
        due.sort_unstable();
        due
    }

    /// A grant succeeded: whoever waits for a subject takes this one, even past its own `hold_at`.
    pub(crate) fn subject_came(&mut self, subject: &AccessToken, now: Instant) {
        for key in self.due(now) {
            self.change(&key, |exchange| exchange.subject = Some(subject.clone()));
        }
    }

    /// A grant attempt failed: whoever waits for a subject no longer waits for a better one.
    pub(crate) fn subject_did_not_come(&mut self, now: Instant) {
        for key in self.due(now) {
            self.change(&key, |exchange| exchange.has_waited = true);
        }
    }

    /// The key is in flight no longer.
    fn remove(&mut self, key: &Arc<ExchangeKey>) -> Option<Exchange<R>> {
        let exchange = self.open.remove(key)?;
        wait_no_more(&mut self.waiting, key, exchange.flight.next_attempt_at());
        for caller in exchange.callers.keys() {
            self.callers.remove(caller);
        }
        Some(exchange)
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
        if let Some(mut exchange) = self.remove(key) {
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
        if let Some(exchange) = self.remove(key) {
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
        self.change(key, |exchange| exchange.flight.abandon());
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
        let Some(key) = self.callers.remove(&caller) else { return };
        let is_unwanted = self.change(&key, |exchange| {
            exchange.callers.remove(&caller);
            exchange.callers.is_empty() && !exchange.flight.has_begun()
        });
        if is_unwanted == Some(true) {
            self.abandon(&key, now).for_each(drop);
        }
    }

    pub(crate) fn callers(&self) -> usize {
        self.callers.len()
    }

    pub(crate) fn is_any_on_wire(&self) -> bool {
        self.open.values().any(|exchange| exchange.flight.is_on_wire())
    }

    /// Whether anybody waits for a flight that has nothing on the wire.
    pub(crate) fn is_any_held(&self) -> bool {
        self.waiting.values().flatten().any(|key| !self.is_unwanted(key))
    }

    fn is_unwanted(&self, key: &ExchangeKey) -> bool {
        self.open.get(key).is_none_or(|exchange| exchange.callers.is_empty())
    }

    /// When the first of the flights that wait between attempts goes on.
    pub(crate) fn next_attempt_at(&self, now: Instant) -> Option<Instant> {
        self.waiting.range((Excluded(now), Unbounded)).next().map(|(at, _)| *at)
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
        let waiting = self.waiting.values().flatten();
        let unwanted: Vec<_> = waiting.filter(|key| self.is_unwanted(key)).cloned().collect();
        for key in unwanted {
            self.abandon(&key, now).for_each(drop);
        }
    }

    pub(crate) fn close(&mut self) -> impl Iterator<Item = R> + use<R> {
        self.done.clear();
        self.waiting.clear();
        self.callers.clear();
        std::mem::take(&mut self.open)
            .into_values()
            .flat_map(|exchange| exchange.callers.into_values())
    }
}

type Waiting = BTreeMap<Instant, BTreeSet<Arc<ExchangeKey>>>;

fn wait(waiting: &mut Waiting, key: &Arc<ExchangeKey>, until: Option<Instant>) {
    if let Some(until) = until {
        waiting.entry(until).or_default().insert(Arc::clone(key));
    }
}

fn wait_no_more(waiting: &mut Waiting, key: &Arc<ExchangeKey>, until: Option<Instant>) {
    if let Some(until) = until
        && let Some(keys) = waiting.get_mut(&until)
    {
        keys.remove(key);
        if keys.is_empty() {
            waiting.remove(&until);
        }
    }
}

impl Done {
    /// When it stops to be of use: the first to end makes room for others.
    fn ends_at(&self) -> Instant {
        let cached = self.cached.as_ref().map(|cached| cached.lifetime.expires_at);
        cached.unwrap_or(Instant::ZERO).max(self.flight.not_before())
    }
}
