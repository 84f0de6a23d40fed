//! The table of exchanged tokens: a slot for each key, whose turn it is, and the bounds.
//!
//! Tens of thousands of keys may wait, and as many may be kept. So each key stands in the list of those
//! that wait for the same thing, and an event looks at the lists of what it can change.

use std::collections::btree_map::IntoValues;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::endpoint::Known;
use super::event::{CallerId, Cooling, Effects, PublishedExchange, Purpose, Wait};
use super::flight::Sent;
use super::lifetime::Lifetime;
use super::slot::{Kept, Slot};
#[cfg(test)]
use super::tests::cost::touched;
use crate::error::TokenError;
use crate::grant::TokenText;
use crate::instant::Instant;
use crate::request::{ExchangeKey, ExchangeRequest, TokenRequestOptions};
use crate::token::{ExchangedToken, Issued, TokenId};

/// See [`is_too_young_to_doubt`].
const TOO_YOUNG_TO_DOUBT: Duration = Duration::from_secs(10);

/// The most keys that are remembered for their failure alone.
const MOST_FAILURES: usize = 1_024;

/// Rises with each flight that opens: who asked first is served first.
type Turn = u64;

#[derive(Clone, Debug)]
pub(crate) struct Exchanges<R> {
    capacity: usize,
    keys: HashMap<Arc<ExchangeKey>, Exchange<R>, BuildHasherDefault<DefaultHasher>>,
    lists: LazyLists,
}

/// A key: its slot, and what there is besides while its flight is open.
#[derive(Clone, Debug)]
pub(crate) struct Exchange<R> {
    pub(crate) slot: Slot<R>,
    /// What the token that is kept was exchanged from.
    subject: Option<TokenText>,
    pub(crate) open: Option<Box<Open>>,
}

/// What an open flight knows besides its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    turn: Turn,
    place: Place,
    pub(crate) request: Box<ExchangeRequest>,
    /// How many grant attempts had ended when this began to wait for a subject: who has waited for one
    /// takes what there is.
    pub(crate) grants_ended: u64,
    /// The subject was refused once and replaced; the second refusal stands.
    pub(crate) has_rerun: bool,
    /// What the attempt on the wire exchanges.
    subject: Option<Issued>,
    known: Known,
    /// The session gave up that subject meanwhile: what comes is not kept, and given to those alone who waited
    /// by then.
    orphaned: Option<Vec<CallerId>>,
}

/// What an open flight waits for.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(crate) enum Place {
    /// That the pause between two attempts is over.
    Paused(Instant),
    /// Its turn: a free place on the wire, and a subject.
    Ready,
    /// Leave to be sent.
    AtGate,
    /// A subject with more life left.
    MoreLife,
    /// A subject that is not the one which was refused with this.
    NextSubject(Box<TokenError>),
    /// The answer.
    OnWire,
}

#[derive(Clone, Debug, Default)]
struct Lists {
    /// What each caller waits for.
    callers: BTreeMap<CallerId, Arc<ExchangeKey>>,
    next_turn: Turn,
    /// The open flights; then those, by what they wait for.
    keys: BTreeMap<Turn, Arc<ExchangeKey>>,
    paused: BTreeSet<(Instant, Turn)>,
    ready: BTreeSet<Turn>,
    at_gate: BTreeSet<Turn>,
    more_life: BTreeSet<Turn>,
    next_subject: BTreeSet<Turn>,
    on_wire: BTreeSet<Turn>,
    /// Those that have nothing on the wire and nobody who waits for them.
    unwanted: BTreeSet<Turn>,
    /// Those that waited for leave, and do not now.
    left_gate: Vec<Arc<ExchangeKey>>,
    /// Keys whose flight is closed, by when they stop to be of use: with a token, and with nothing but the
    /// memory of a failure.
    cached: BTreeSet<(Instant, Arc<ExchangeKey>)>,
    failed: BTreeSet<(Instant, Arc<ExchangeKey>)>,
    /// The tokens kept that were exchanged from this one. (By its text: a server may send it again.)
    children: BTreeMap<TokenText, BTreeSet<TokenId>>,
    /// The key that a token is kept for.
    tokens: BTreeMap<TokenId, Arc<ExchangeKey>>,
    /// What readers are to see that they do not yet.
    published: Vec<(Arc<ExchangeKey>, Option<PublishedExchange>)>,
}

/// Made when something is first put into them: most sessions exchange nothing, and keep no room for lists.
#[derive(Clone, Debug, Default)]
struct LazyLists(Option<Box<Lists>>);

impl LazyLists {
    /// For what is to be taken out, if there is anything.
    fn made(&mut self) -> Option<&mut Lists> {
        self.0.as_deref_mut()
    }
}

impl Deref for LazyLists {
    type Target = Lists;

    fn deref(&self) -> &Lists {
        static EMPTY: LazyLock<Lists> = LazyLock::new(Lists::default);
        self.0.as_deref().unwrap_or_else(|| &EMPTY)
    }
}

impl DerefMut for LazyLists {
    fn deref_mut(&mut self) -> &mut Lists {
        self.0.get_or_insert_default()
    }
}

/// What the table has for a key.
pub(crate) enum Found<'a> {
    /// And whether it is due for a refresh.
    Token(&'a Issued, bool),
    Cooling(&'a Cooling),
    Nothing,
}

impl<R> Default for Exchange<R> {
    fn default() -> Self {
        Self { slot: Slot::default(), subject: None, open: None }
    }
}

impl<R> Exchange<R> {
    /// When it stops to be of use: the first to end makes room for others.
    fn ends_at(&self) -> Instant {
        let expires_at = self.slot.kept().map(|kept| kept.lifetime.expires_at);
        expires_at.unwrap_or(Instant::ZERO).max(self.slot.flight.not_before())
    }

    fn published(&self) -> Option<PublishedExchange> {
        let kept = self.slot.kept()?;
        Some(PublishedExchange {
            token: exchanged(&kept.issued),
            usable_until: kept.usable_until(),
            ask_at: self.slot.ask_at(),
        })
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !self.slot.callers.is_empty()
    }

    /// Waits for this from now on.
    pub(crate) fn wait_for(&mut self, place: Place) {
        if let Some(open) = &mut self.open {
            open.place = place;
        }
    }

    /// An attempt has ended that is not the last: waits for the next one.
    pub(crate) fn pause(&mut self) {
        let next = self.slot.flight.next_attempt_at();
        self.wait_for(next.map_or(Place::Ready, Place::Paused));
    }

    pub(crate) fn options(&self) -> TokenRequestOptions {
        self.open.as_ref().map(|open| open.request.options.clone()).unwrap_or_default()
    }

    /// Starts an attempt with this subject: its number, and what to ask for.
    pub(crate) fn depart(
        &mut self,
        subject: Issued,
        sent: Sent,
        known: Known,
    ) -> Option<(u32, Box<ExchangeRequest>)> {
        let open = self.open.as_mut()?;
        let (number, _) = self.slot.flight.depart(sent)?;
        open.place = Place::OnWire;
        open.subject = Some(subject);
        open.known = known;
        open.orphaned = None;
        Some((number, open.request.clone()))
    }

    /// The attempt on the wire has ended: when it was sent, with which subject, and what was known of the
    /// endpoint. Where the key goes from here is for the caller to say.
    pub(crate) fn land(&mut self) -> Option<(Sent, TokenId, Known)> {
        let open = self.open.as_ref()?;
        Some((self.slot.flight.land()?, open.subject.as_ref()?.id(), open.known))
    }

    /// What came was revoked on its way: the flight starts over.
    pub(crate) fn begin_again(&mut self, grants_ended: u64) {
        let options = self.options();
        self.slot.flight.succeed();
        self.slot.flight.open(options);
        if let Some(open) = &mut self.open {
            open.place = Place::Ready;
            open.grants_ended = grants_ended;
        }
    }

    /// Once more with another subject, which is to be waited for here.
    pub(crate) fn rerun(&mut self, now: Instant, place: Place) {
        self.slot.flight.renew(now);
        self.wait_for(place);
        if let Some(open) = &mut self.open {
            open.has_rerun = true;
        }
    }
}

impl<R> Exchanges<R> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, keys: HashMap::default(), lists: LazyLists::default() }
    }

    /// What tells situations apart: of turns and counts only how they compare.
    #[cfg(test)]
    pub(crate) fn fingerprint<H: std::hash::Hasher>(
        &self,
        grants_ended: u64,
        endpoint: &super::endpoint::Endpoint,
        state: &mut H,
    ) where
        R: std::hash::Hash,
    {
        use std::hash::Hash;

        (&self.lists.callers, &self.lists.children, &self.lists.tokens).hash(state);
        for (key, Exchange { slot, subject, open }) in self.keys.iter().collect::<BTreeMap<_, _>>()
        {
            (key, slot, subject, open.is_some()).hash(state);
        }
        let open = self.lists.keys.values().filter_map(|key| self.keys.get(key)?.open.as_deref());
        for (key, open) in self.lists.keys.values().zip(open) {
            let Open { turn: _, place, request, has_rerun, subject, orphaned, .. } = open;
            (key, place, &request.options, has_rerun, subject, orphaned).hash(state);
            (open.grants_ended < grants_ended).hash(state);
            if matches!(place, Place::OnWire) {
                endpoint.has_changed_since(open.known).hash(state);
            }
        }
    }

    /// No token is ever stale.
    #[cfg(test)]
    pub(crate) fn forget_stale_at(&mut self) {
        for exchange in self.keys.values_mut() {
            if let Some(kept) = exchange.slot.kept_mut() {
                kept.lifetime.stale_at = kept.lifetime.hold_at;
            }
        }
    }

    /// All have waited for a subject for long.
    #[cfg(test)]
    pub(crate) fn has_waited(&mut self) {
        for open in self.keys.values_mut().filter_map(|exchange| exchange.open.as_mut()) {
            open.grants_ended = 0;
        }
    }

    pub(crate) fn find(&self, key: &ExchangeKey, now: Instant) -> Found<'_> {
        let Some(Exchange { slot, .. }) = self.keys.get(key) else { return Found::Nothing };
        if let Some(kept) = slot.usable(now) {
            return Found::Token(&kept.issued, slot.ask_at() <= now);
        }
        let cooling = slot.flight.cooling(now).filter(|_| !slot.flight.is_open());
        cooling.map_or(Found::Nothing, Found::Cooling)
    }

    pub(crate) fn unexpired(&self, key: &ExchangeKey, now: Instant) -> Option<&Issued> {
        self.keys.get(key)?.slot.unexpired(now).map(|kept| &kept.issued)
    }

    pub(crate) fn is_open(&self, key: &ExchangeKey) -> bool {
        self.keys.get(key).is_some_and(|exchange| exchange.open.is_some())
    }

    /// Whether its last flight failed.
    pub(crate) fn has_failed(&self, key: &ExchangeKey) -> bool {
        let exchange = self.keys.get(key);
        exchange.is_some_and(|exchange| exchange.slot.flight.last_failure().is_some())
    }

    /// Opens the key's flight, if it is not.
    pub(crate) fn open(
        &mut self,
        key: &Arc<ExchangeKey>,
        request: Box<ExchangeRequest>,
        grants_ended: u64,
        now: Instant,
    ) {
        if self.is_open(key) {
            return;
        }
        let turn = self.lists.next_turn;
        self.lists.next_turn += 1;
        self.lists.keys.insert(turn, Arc::clone(key));
        self.keys.entry(Arc::clone(key)).or_default();
        self.change(key, |exchange| {
            exchange.slot.flight.open(request.options.clone());
            let next = exchange.slot.flight.next_attempt_at().filter(|at| now < *at);
            exchange.open = Some(Box::new(Open {
                turn,
                place: next.map_or(Place::Ready, Place::Paused),
                request,
                grants_ended,
                has_rerun: false,
                subject: None,
                known: Known::default(),
                orphaned: None,
            }));
        });
    }

    /// A caller waits for the key's flight.
    pub(crate) fn join(&mut self, key: &Arc<ExchangeKey>, caller: CallerId, reply: R) {
        self.lists.callers.insert(caller, Arc::clone(key));
        self.change(key, |exchange| exchange.slot.callers.insert(caller, reply));
    }

    /// The only way to a key: whatever `change` does to it, the lists follow, and readers are to see it.
    pub(crate) fn change<T>(
        &mut self,
        key: &Arc<ExchangeKey>,
        change: impl FnOnce(&mut Exchange<R>) -> T,
    ) -> Option<T> {
        #[cfg(test)]
        touched(1);
        let exchange = self.keys.get_mut(key)?;
        let before = exchange.published();
        self.lists.strike(key, exchange);
        let changed = change(exchange);
        self.lists.enter(key, exchange);
        let after = exchange.published();
        if after != before {
            self.lists.published.push((Arc::clone(key), after));
        }
        Some(changed)
    }

    /// The first reader who finds the key's token due for a refresh is the only one who says so. It cannot
    /// be refreshed now: from then on another shall.
    pub(crate) fn ask_again_at(&mut self, key: ExchangeKey, at: Instant) {
        if let Some(published) = self.keys.get(&key).and_then(Exchange::published) {
            let published = PublishedExchange { ask_at: at, ..published };
            self.lists.published.push((Arc::new(key), Some(published)));
        }
    }

    /// What has changed for readers.
    pub(crate) fn take_published(&mut self) -> Vec<(Arc<ExchangeKey>, Option<PublishedExchange>)> {
        self.lists.made().map(|lists| std::mem::take(&mut lists.published)).unwrap_or_default()
    }

    /// The key that is to go next: it has waited longest of those that wait for their turn.
    pub(crate) fn next_ready(&self) -> Option<Arc<ExchangeKey>> {
        self.lists.keys.get(self.lists.ready.first()?).cloned()
    }

    /// Those whose pause is over wait for their turn.
    pub(crate) fn wake(&mut self, now: Instant, grants_ended: u64) {
        while let Some((_, turn)) = self.lists.paused.first().copied().filter(|(at, _)| *at <= now)
        {
            self.ready(turn, grants_ended);
        }
    }

    /// A grant attempt has ended: who waited for a subject with more life takes what there is.
    pub(crate) fn stop_waiting_for_more_life(&mut self) {
        while let Some(turn) = self.lists.more_life.first().copied() {
            self.requeue(turn, |_| {});
        }
    }

    /// There is another subject, or will be none from this flight.
    pub(crate) fn stop_waiting_for_next_subject(&mut self) {
        while let Some(turn) = self.lists.next_subject.first().copied() {
            self.requeue(turn, |_| {});
        }
    }

    /// The first of those that wait for another subject, and what the last was refused with.
    pub(crate) fn pop_refused(&mut self) -> Option<(Arc<ExchangeKey>, TokenError)> {
        let turn = self.lists.next_subject.first()?;
        let key = Arc::clone(self.lists.keys.get(turn)?);
        let refusal = self.change(&key, |exchange| {
            let place =
                exchange.open.as_mut().map(|open| std::mem::replace(&mut open.place, Place::Ready));
            match place {
                Some(Place::NextSubject(refusal)) => Some(*refusal),
                _ => None,
            }
        });
        Some((key, refusal??))
    }

    pub(crate) fn at_gate(&self) -> usize {
        self.lists.at_gate.len()
    }

    /// The key has its leave: it waits for its turn, which is now. `false` if it did not wait for leave.
    pub(crate) fn let_go(&mut self, key: &Arc<ExchangeKey>) -> bool {
        let open = self.keys.get(key).and_then(|exchange| exchange.open.as_deref());
        let waits = open.is_some_and(|open| matches!(open.place, Place::AtGate));
        if waits {
            self.change(key, |exchange| exchange.wait_for(Place::Ready));
            self.lists.left_gate.clear();
        }
        waits
    }

    /// No leave is of use now.
    pub(crate) fn leave_the_gate(&mut self) {
        while let Some(turn) = self.lists.at_gate.first().copied() {
            self.requeue(turn, |_| {});
        }
    }

    pub(crate) fn give_up_leaves(&mut self, fx: &mut Effects<R>) {
        let left = self.lists.made().map(|lists| std::mem::take(&mut lists.left_gate));
        let left = left.into_iter().flatten();
        fx.waits.extend(left.map(|key| Wait::GiveUp(Purpose::Exchange(key))));
    }

    fn ready(&mut self, turn: Turn, grants_ended: u64) {
        self.requeue(turn, |open| open.grants_ended = grants_ended);
    }

    fn requeue(&mut self, turn: Turn, change: impl FnOnce(&mut Open)) {
        let Some(key) = self.lists.keys.get(&turn).cloned() else { return };
        self.change(&key, |exchange| {
            if let Some(open) = &mut exchange.open {
                open.place = Place::Ready;
                change(open);
            }
        });
    }

    /// The flight has brought this token. Who gets it.
    pub(crate) fn finish(
        &mut self,
        key: &Arc<ExchangeKey>,
        issued: &Issued,
        lifetime: Lifetime,
        grants_ended: u64,
        now: Instant,
    ) -> IntoValues<CallerId, R> {
        let orphaned = self.change(key, |exchange| exchange.open.as_mut()?.orphaned.take());
        if let Some(in_time) = orphaned.flatten() {
            return self.finish_orphan(key, in_time, grants_ended, now);
        }
        let open = self.change(key, |exchange| exchange.open.take()).flatten();
        let subject = open.as_ref().and_then(|open| open.subject.as_ref());
        if let Some(subject) = subject.map(|it| it.text().clone()) {
            self.forget_token(key);
            self.lists.children.entry(subject.clone()).or_default().insert(issued.id());
            self.lists.tokens.insert(issued.id(), Arc::clone(key));
            self.change(key, |exchange| {
                exchange.slot.store(issued.clone(), lifetime);
                exchange.subject = Some(subject);
            });
        }
        self.end(key, open, now)
    }

    /// The flight has brought a token whose subject was given up. For those who asked later it begins again.
    fn finish_orphan(
        &mut self,
        key: &Arc<ExchangeKey>,
        in_time: Vec<CallerId>,
        grants_ended: u64,
        now: Instant,
    ) -> IntoValues<CallerId, R> {
        let mut callers = BTreeMap::new();
        let is_wanted = self.change(key, |exchange| {
            let waiting = &mut exchange.slot.callers;
            callers.extend(in_time.into_iter().filter_map(|id| waiting.remove_entry(&id)));
            exchange.slot.flight.succeed();
            exchange.is_wanted()
        });
        for caller in callers.keys() {
            self.lists.callers.remove(caller);
        }
        if is_wanted == Some(true) {
            self.change(key, |exchange| exchange.begin_again(grants_ended));
        } else {
            self.close(key, now).for_each(drop);
        }
        callers.into_values()
    }

    /// The flight has failed, or nobody wants it any more: the key rests, with what it has.
    pub(crate) fn close(
        &mut self,
        key: &Arc<ExchangeKey>,
        now: Instant,
    ) -> IntoValues<CallerId, R> {
        let open = self.change(key, |exchange| {
            exchange.slot.flight.abandon();
            exchange.open.take()
        });
        self.end(key, open.flatten(), now)
    }

    fn end(
        &mut self,
        key: &Arc<ExchangeKey>,
        open: Option<Box<Open>>,
        now: Instant,
    ) -> IntoValues<CallerId, R> {
        if let Some(open) = open {
            self.lists.keys.remove(&open.turn);
        }
        let callers = self.answered(key);
        self.make_room(now);
        callers
    }

    /// Those who wait for this key, who are to be answered now.
    pub(crate) fn answered(&mut self, key: &Arc<ExchangeKey>) -> IntoValues<CallerId, R> {
        let callers = self.change(key, |exchange| std::mem::take(&mut exchange.slot.callers));
        let callers = callers.unwrap_or_default();
        for caller in callers.keys() {
            self.lists.callers.remove(caller);
        }
        callers.into_values()
    }

    /// Failures are kept, or their followers would not be spaced out further. They make room among
    /// themselves alone: beside a full cache a key that was refused would be the first to go, and each
    /// call another request.
    fn make_room(&mut self, now: Instant) {
        while let Some(key) = self.lists.superfluous(self.capacity, now) {
            self.forget_token(&key);
            if let Some(exchange) = self.keys.get(&key) {
                self.lists.strike(&key, exchange);
                self.keys.remove(&key);
            }
        }
    }

    /// A caller no longer waits. The flight goes on, unless it has sent nothing yet and this was the last
    /// one: or calls that are dropped while there is no subject would all be sent when it comes.
    pub(crate) fn leave(&mut self, caller: CallerId, now: Instant) {
        let Some(lists) = self.lists.made() else { return };
        let Some(key) = lists.callers.remove(&caller) else { return };
        let is_unwanted = self.change(&key, |exchange| {
            exchange.slot.callers.remove(&caller);
            exchange.slot.callers.is_empty() && !exchange.slot.flight.has_begun()
        });
        if is_unwanted == Some(true) {
            self.close(&key, now).for_each(drop);
        }
    }

    pub(crate) fn callers(&self) -> usize {
        self.lists.callers.len()
    }

    pub(crate) fn on_wire(&self) -> usize {
        self.lists.on_wire.len()
    }

    /// The open flights that have nothing on the wire.
    pub(crate) fn waiting(&self) -> Vec<Arc<ExchangeKey>> {
        let is_waiting = |turn: &&Turn| !self.lists.on_wire.contains(turn);
        self.lists.keys_of(self.lists.keys.keys().filter(is_waiting))
    }

    /// The keys that wait for their turn, or for leave.
    pub(crate) fn ready_keys(&self) -> Vec<Arc<ExchangeKey>> {
        self.lists.keys_of(self.lists.ready.union(&self.lists.at_gate))
    }

    pub(crate) fn is_any_ready(&self) -> bool {
        !self.lists.ready.is_empty()
    }

    /// Whether a flight has nothing on the wire. Somebody waits for each that there is once those that nobody
    /// wants have been [abandoned](Self::abandon_unwanted).
    pub(crate) fn is_any_held(&self) -> bool {
        self.lists.keys.len() > self.lists.on_wire.len()
    }

    /// When the first of the flights that wait between attempts goes on.
    pub(crate) fn next_attempt_at(&self, now: Instant) -> Option<Instant> {
        let after = (Excluded((now, Turn::MAX)), Unbounded);
        self.lists.paused.range(after).next().map(|(at, _)| *at)
    }

    /// The resource server refused an exchanged token. Whether it is dropped for that.
    pub(crate) fn invalidate(&mut self, id: TokenId, now: Instant) -> bool {
        let Some(key) = self.lists.tokens.get(&id).cloned() else { return false };
        let kept = self.keys.get(&key).and_then(|exchange| exchange.slot.kept());
        let is_honoured = kept.is_some_and(|kept| !is_too_young_to_doubt(&kept.issued, now));
        if is_honoured {
            self.drop_token(&key);
        }
        is_honoured
    }

    /// The session gave this token up, and with it those that were exchanged from it.
    pub(crate) fn drop_children(&mut self, subject: &TokenText) {
        let Some(lists) = self.lists.made() else { return };
        for child in lists.children.remove(subject).unwrap_or_default() {
            if let Some(key) = self.lists.tokens.get(&child).cloned() {
                self.drop_token(&key);
            }
        }
        for key in self.lists.keys_of(&self.lists.on_wire) {
            self.change(&key, |exchange| {
                if let Some(open) = &mut exchange.open {
                    let exchanges = open.subject.as_ref().map(Issued::text);
                    if exchanges == Some(subject) {
                        let callers = &exchange.slot.callers;
                        open.orphaned.get_or_insert_with(|| callers.keys().copied().collect());
                    }
                }
            });
        }
    }

    /// Another session has revoked this token. That is rare, so all are looked at.
    pub(crate) fn drop_text(&mut self, text: &TokenText) {
        let is_it =
            |it: &Exchange<R>| it.slot.kept().is_some_and(|kept| kept.issued.text() == text);
        let keys = self.keys.iter().filter(|(_, exchange)| is_it(exchange));
        for key in keys.map(|(key, _)| Arc::clone(key)).collect::<Vec<_>>() {
            self.drop_token(&key);
        }
    }

    /// A revoke.
    pub(crate) fn drop_all(&mut self) {
        let Some(lists) = self.lists.made() else { return };
        for key in std::mem::take(&mut lists.tokens).into_values() {
            self.drop_token(&key);
        }
    }

    /// The key's token is given to nobody any more; the key goes too, if there is nothing else about it.
    fn drop_token(&mut self, key: &Arc<ExchangeKey>) {
        self.forget_token(key);
        let is_idle = self
            .keys
            .get(key)
            .is_some_and(|exchange| exchange.open.is_none() && !exchange.slot.flight.remembers());
        if is_idle && let Some(exchange) = self.keys.get(key) {
            self.lists.strike(key, exchange);
            self.keys.remove(key);
        }
    }

    fn forget_token(&mut self, key: &Arc<ExchangeKey>) {
        let token = self.change(key, |exchange| (exchange.slot.take(), exchange.subject.take()));
        if let Some((Some(Kept { issued, .. }), subject)) = token {
            self.lists.tokens.remove(&issued.id());
            if let Some(subject) = subject
                && let Some(children) = self.lists.children.get_mut(&subject)
            {
                children.remove(&issued.id());
                if children.is_empty() {
                    self.lists.children.remove(&subject);
                }
            }
        }
    }

    /// While the barrier is up: a flight that waits ends when nobody waits for it.
    pub(crate) fn abandon_unwanted(&mut self, now: Instant) {
        while let Some(turn) = self.lists.unwanted.first() {
            let Some(key) = self.lists.keys.get(turn).cloned() else { return };
            self.close(&key, now).for_each(drop);
        }
    }

    /// The end: all who wait, as they came.
    pub(crate) fn shut_down(&mut self) -> impl Iterator<Item = R> + use<R> {
        let keys = std::mem::replace(self, Self::new(self.capacity)).keys;
        let callers = keys.into_values().flat_map(|exchange| exchange.slot.callers);
        callers.collect::<BTreeMap<_, _>>().into_values()
    }
}

impl Lists {
    /// Whether the key is in the list or out of it is all that these two differ in.
    fn enter<R>(&mut self, key: &Arc<ExchangeKey>, exchange: &Exchange<R>) {
        let Some(open) = &exchange.open else {
            let list =
                if exchange.slot.flight.remembers() { &mut self.failed } else { &mut self.cached };
            list.insert((exchange.ends_at(), Arc::clone(key)));
            return;
        };
        match open.place {
            Place::Paused(until) => drop(self.paused.insert((until, open.turn))),
            Place::Ready => drop(self.ready.insert(open.turn)),
            Place::AtGate => {
                self.at_gate.insert(open.turn);
                // It has been struck for another change.
                self.left_gate.pop_if(|left| left == key);
            }
            Place::MoreLife => drop(self.more_life.insert(open.turn)),
            Place::NextSubject(_) => drop(self.next_subject.insert(open.turn)),
            Place::OnWire => drop(self.on_wire.insert(open.turn)),
        }
        if !exchange.is_wanted() && !matches!(open.place, Place::OnWire) {
            self.unwanted.insert(open.turn);
        }
    }

    fn strike<R>(&mut self, key: &Arc<ExchangeKey>, exchange: &Exchange<R>) {
        let Some(open) = &exchange.open else {
            let list =
                if exchange.slot.flight.remembers() { &mut self.failed } else { &mut self.cached };
            list.remove(&(exchange.ends_at(), Arc::clone(key)));
            return;
        };
        match open.place {
            Place::Paused(until) => drop(self.paused.remove(&(until, open.turn))),
            Place::Ready => drop(self.ready.remove(&open.turn)),
            Place::AtGate => {
                self.at_gate.remove(&open.turn);
                self.left_gate.push(Arc::clone(key));
            }
            Place::MoreLife => drop(self.more_life.remove(&open.turn)),
            Place::NextSubject(_) => drop(self.next_subject.remove(&open.turn)),
            Place::OnWire => drop(self.on_wire.remove(&open.turn)),
        }
        self.unwanted.remove(&open.turn);
    }

    fn keys_of<'a>(&self, turns: impl IntoIterator<Item = &'a Turn>) -> Vec<Arc<ExchangeKey>> {
        let keys: Vec<_> =
            turns.into_iter().filter_map(|turn| self.keys.get(turn)).cloned().collect();
        #[cfg(test)]
        touched(keys.len());
        keys
    }

    /// A key that has to go: its token has expired, or there are too many.
    fn superfluous(&self, capacity: usize, now: Instant) -> Option<Arc<ExchangeKey>> {
        let first = |list: &BTreeSet<(Instant, Arc<ExchangeKey>)>| list.first().cloned();
        let expired = first(&self.cached).filter(|(ends_at, _)| *ends_at <= now);
        let too_many = || first(&self.cached).filter(|_| self.cached.len() > capacity);
        let too_often = || first(&self.failed).filter(|_| self.failed.len() > MOST_FAILURES);
        let (_, key) = expired.or_else(too_many).or_else(too_often)?;
        Some(key)
    }
}

/// Whether a doubt of this token is dismissed for its age: a cached token that is younger is not what is
/// wrong, whatever a resource server says of it. (For the session's own there is another rule.)
pub(crate) fn is_too_young_to_doubt(token: &Issued, now: Instant) -> bool {
    token.is_exchanged() && token.age(now) < TOO_YOUNG_TO_DOUBT
}

/// As callers get it.
pub(crate) fn exchanged(issued: &Issued) -> ExchangedToken {
    ExchangedToken::new(issued.clone())
}
