//! [`SharedTokenManager`]: carries the steps of a [`Round`] to the store, to the manager and to the clock.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::contract::{Found, Id, LONGEST, Slot, Store, StoreError, Tag, Taken};
use super::fleet::{Fleet, Inner, Place, count, locked};
use super::micros;
use super::round::{
    After, Asked, Granted, Input, Lease, Look, Moment, Opened, Round, Seen, Step, Wanted,
};
use super::seal::{Keys, can_share};
use crate::clock;
use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::identity::Identity;
use crate::manager::TokenManager;
use crate::news::NewsSender;
use crate::permit::Permit;
use crate::request::{ExchangeRequest, GrantRequest, PermitRequest, TokenRequestOptions};
use crate::token::AccessToken;

/// A lease lasts for three of these.
const RENEW_EACH: Duration = Duration::from_secs(1);
/// What an attempt may take if nobody says.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the session's marks those that came last are named to the store; all are looked at when it answers.
const MARKS_NAMED: usize = 16;
/// For how many slots tokens are remembered, where the manager's identity changes.
const MAX_PLACES: usize = 4;

/// A token manager whose tokens are shared with the replicas of a [`Fleet`]: one of them asks the server,
/// and all use what it gets. Made by [`Fleet::share`].
///
/// Exchanged tokens are not shared, nor are tokens that are bound to a key ([`DpopKey`](crate::DpopKey)).
pub struct SharedTokenManager<M, S: Store> {
    manager: M,
    fleet: Fleet<S>,
    slot: Option<String>,
    one_live_token: bool,
    /// The session's `expired_buffer`, in microseconds.
    buffer: AtomicU64,
    /// The last token was one that cannot be shared, so there is nothing to wait for.
    is_alone: AtomicBool,
    leave: Mutex<Leave>,
    places: Mutex<Vec<Arc<Place>>>,
    news: Arc<Mutex<Vec<NewsSender>>>,
}

/// Where attempts need a permit, whether the next one has it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Leave {
    #[default]
    Given,
    /// It needs none: there is an entry.
    OnlyToLook,
    /// There was none that would do, after all.
    LookedInVain,
}

/// How to build a [`SharedTokenManager`].
#[derive(Debug)]
pub struct SharedTokenManagerBuilder<M, S> {
    manager: M,
    fleet: Fleet<S>,
    slot: Option<String>,
    one_live_token: bool,
}

impl<M: TokenManager, S: Store> SharedTokenManagerBuilder<M, S> {
    pub(super) fn new(manager: M, fleet: Fleet<S>) -> Self {
        Self { manager, fleet, slot: None, one_live_token: false }
    }

    /// Separates tokens that must not be shared although their managers have the same
    /// [`identity`](TokenManager::identity). Required if the manager does not know its identity. The name then
    /// identifies the token's owner: give the same one to all replicas of one client and subject, and to no
    /// others.
    #[must_use]
    pub fn slot(mut self, slot: impl Into<String>) -> Self {
        self.slot = Some(slot.into());
        self
    }

    /// For a server that allows one live token per client, so that a new token invalidates the previous one.
    /// Default: off.
    ///
    /// Then a replica sends no request while another replica's is in progress, and none while the store is
    /// down. The session thus depends on the store: while it is down, no replica gets a new token, and a
    /// replica that cannot reach the server blocks the others for as long as its attempts last. Two requests at
    /// once remain possible: after a replica that was stopped for more than 3 s, a store that was emptied or
    /// rolled back, a revocation, a forged lease. Then one token is invalidated early, and its holders get a 401.
    /// Keep [`stale_buffer`](SessionConfig::stale_buffer) small, since each refresh ends the token that the
    /// others still use.
    #[must_use]
    pub fn one_live_token(mut self) -> Self {
        self.one_live_token = true;
        self
    }

    /// The manager.
    ///
    /// # Errors
    /// If the manager does not know its identity, and no [`slot`](Self::slot) is given.
    pub fn build(self) -> Result<SharedTokenManager<M, S>, ConfigError> {
        let Self { manager, fleet, slot, one_live_token } = self;
        if slot.is_none() && manager.identity().is_none() {
            return Err(ConfigError::new(
                "slot",
                "is not given, and this manager cannot tell by itself whose token it gets: name it, the \
                 same for all replicas of one client and subject, and for nobody else",
            ));
        }
        let buffer = SessionConfig::default().expired_buffer;
        Ok(SharedTokenManager {
            manager,
            fleet,
            slot,
            one_live_token,
            buffer: AtomicU64::new(micros(buffer)),
            is_alone: AtomicBool::new(false),
            leave: Mutex::default(),
            places: Mutex::default(),
            news: Arc::default(),
        })
    }
}

impl<M, S: Store> fmt::Debug for SharedTokenManager<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTokenManager")
            .field("fleet", &self.fleet)
            .field("slot", &self.slot)
            .field("one_live_token", &self.one_live_token)
            .finish_non_exhaustive()
    }
}

impl<M, S: Store> Drop for SharedTokenManager<M, S> {
    fn drop(&mut self) {
        let places = std::mem::take(&mut *locked(&self.places));
        for place in places {
            let slot = place.slot.clone();
            drop(place);
            self.fleet.inner.forget(&slot);
        }
    }
}

/// A lease that is or may be this attempt's. Dropped, as when the attempt is, it is given back.
struct Holding<S: Store> {
    inner: Arc<Inner<S>>,
    place: Arc<Place>,
    attempt: u64,
    lease: Option<Id>,
}

impl<S: Store> Holding<S> {
    fn leave(&mut self) {
        if let Some(id) = self.lease.take() {
            self.inner.leave(&self.place.slot, id);
        }
    }
}

impl<S: Store> Drop for Holding<S> {
    fn drop(&mut self) {
        self.leave();
        self.place.with(|memory| memory.end_attempt(self.attempt));
    }
}

impl<M: TokenManager, S: Store> SharedTokenManager<M, S> {
    fn inner(&self) -> &Arc<Inner<S>> {
        &self.fleet.inner
    }

    /// The slot as things are now: an identity may change, as when a certificate is renewed.
    async fn place(&self) -> Result<(Arc<Place>, Arc<Keys>), StoreError> {
        self.fleet.listen();
        let keys = self.inner().keys().await?;
        let identity = self.manager.identity();
        if identity.is_none() && self.slot.is_none() {
            return Err(StoreError::refused("whose token it is can no longer be told"));
        }
        let name = self.slot.as_deref().unwrap_or_default();
        let slot = keys.slot(&self.inner().namespace, name, identity.as_ref());
        let place = self.place_of(slot);
        place.runs_here();
        Ok((place, keys))
    }

    fn place_of(&self, slot: Slot) -> Arc<Place> {
        let mut places = locked(&self.places);
        if let Some(place) = places.iter().find(|place| place.slot == slot) {
            return Arc::clone(place);
        }
        let place = Arc::new(Place::new(slot, Arc::clone(&self.news)));
        self.inner().register(&place);
        if places.len() == MAX_PLACES {
            let slot = places.remove(0).slot.clone();
            self.inner().forget(&slot);
        }
        places.push(Arc::clone(&place));
        place
    }

    fn asked(&self, request: &GrantRequest, keys: &Keys, only_looks: bool) -> Asked {
        let marked = request.marked.iter().flat_map(|marked| marked.iter().rev().take(MARKS_NAMED));
        Asked {
            replaces: request.replaces.is_some(),
            timeout: request.timeout.unwrap_or(USUAL_TIMEOUT),
            least_life: request.options.get_min_remaining(),
            buffer: Duration::from_micros(self.buffer.load(Ordering::Relaxed)),
            not: request.refused.iter().chain(marked).map(|text| keys.tag(text).0).collect(),
            one_live_token: self.one_live_token,
            call: self.inner().timeout,
            only_looks,
        }
    }

    async fn shared(
        &self,
        request: GrantRequest,
        place: Arc<Place>,
        keys: Arc<Keys>,
        only_looks: bool,
    ) -> Result<Grant, TokenError> {
        let began = clock::now();
        let moment = || {
            let id = keys.draw().ok_or_else(|| {
                TokenError::credential("cannot be used: the system has no random numbers to give")
            })?;
            Ok(Moment { now: clock::now(), random: fastrand::f64(), id })
        };
        let asked = self.asked(&request, &keys, only_looks);
        let at = moment()?;
        let mut round = place.with(|memory| Round::new(asked, &at, memory));
        let (inner, attempt) = (Arc::clone(self.inner()), round.attempt());
        let mut holding = Holding { inner, place: Arc::clone(&place), attempt, lease: None };
        let mut input = Input::Start;
        loop {
            let at = moment()?;
            // Between this decision and the answer to the session nothing is awaited.
            let is_taken = matches!(&input, Input::Took(Ok(Look { found: Seen::Entry(_), .. })));
            let step = place.with(|memory| round.next(&at, input, memory));
            input = match step {
                Step::Bury => {
                    let settled = self.inner().settle(&place, &keys, false);
                    let settled = timeout(self.inner().timeout, settled).await;
                    let settled = settled.unwrap_or(Err(StoreError::TimedOut));
                    if settled.is_err() {
                        self.inner().catch_up(&place, &keys);
                    }
                    Input::Buried(settled)
                }
                Step::Take(wanted, within) => {
                    Input::Took(self.take(&mut holding, wanted, within, &request, &keys).await)
                }
                Step::Wait(pause) => {
                    sleep(pause).await;
                    Input::Waited
                }
                Step::Grant(lease) => {
                    let counts = &self.inner().counts;
                    count(if lease.is_some() { &counts.leased } else { &counts.direct });
                    let mut request = request.clone();
                    let left =
                        request.timeout.map(|all| all.saturating_sub(clock::now().since(began)));
                    request.timeout = left;
                    let result = self.ask(request, &place, lease).await;
                    Input::Granted(result.map(|grant| self.granted(grant, &keys)))
                }
                Step::Done(result, after) => {
                    if is_taken && result.is_ok() {
                        count(&self.inner().counts.taken);
                    }
                    match after {
                        Some(After::Put(lease, granted)) => {
                            holding.lease = None;
                            self.put(&place, &keys, lease, &granted);
                        }
                        // It is given back with the attempt.
                        Some(After::Leave(lease)) => holding.lease = Some(lease.id),
                        None => {}
                    }
                    return *result;
                }
            };
        }
    }

    async fn take(
        &self,
        holding: &mut Holding<S>,
        wanted: Wanted,
        within: Duration,
        request: &GrantRequest,
        keys: &Keys,
    ) -> Result<Look, StoreError> {
        let (inner, place) = (self.inner(), Arc::clone(&holding.place));
        holding.lease = wanted.lease;
        let taken = inner.call(within, inner.store.take(&place.slot, &wanted.want())).await;
        match &taken {
            Ok(Taken { found: Found::Leased, .. }) => {}
            // It may have been done.
            Err(StoreError::TimedOut) => holding.leave(),
            _ => holding.lease = None,
        }
        let Taken { now, revoked, found } = taken?;
        let revoked = keys.read_list(&place.slot, &revoked, now.0);
        let found = match found {
            Found::Leased => Seen::Leased,
            Found::Busy(id) => Seen::Busy(id),
            Found::None => Seen::None,
            Found::Entry(sealed) => {
                if let Some((header, grant)) = keys.open(&place.slot, &sealed) {
                    Seen::Entry(Box::new(Opened {
                        asked: header.asked,
                        life: header.life,
                        tag: Tag(header.tag),
                        id: Id(header.id),
                        is_refused: request.is_refused(grant.text()),
                        grant,
                    }))
                } else {
                    count(&inner.counts.bad_entries);
                    inner.warn("an entry of the store is not from a replica of this fleet");
                    Seen::Forged(sealed.tag())
                }
            }
        };
        Ok(Look { now: now.0, revoked, found })
    }

    /// The request itself, beside which its lease is renewed.
    async fn ask(
        &self,
        request: GrantRequest,
        place: &Place,
        lease: Option<Lease>,
    ) -> Result<Grant, TokenError> {
        let inner = self.inner();
        let renewing = async {
            let Some(lease) = lease else { return std::future::pending().await };
            loop {
                sleep(RENEW_EACH).await;
                let renewed = inner.store.renew(&place.slot, &lease.id);
                if let Ok(false) = inner.call(RENEW_EACH, renewed).await {
                    count(&inner.counts.lost_leases);
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            biased;
            result = self.manager.grant(request) => result,
            () = renewing => Err(TokenError::Panicked),
        }
    }

    fn granted(&self, grant: Grant, keys: &Keys) -> Granted {
        let life = grant.life().unwrap_or_else(|| self.manager.assumed_lifetime()).min(LONGEST);
        let can_share = can_share(&grant);
        self.is_alone.store(!can_share, Ordering::Relaxed);
        Granted { tag: keys.tag(grant.text()), life, can_share, grant }
    }

    /// In a task of its own: no store stands between a token and its session.
    fn put(&self, place: &Arc<Place>, keys: &Keys, lease: Lease, granted: &Granted) {
        let Some(entry) = keys.seal(&place.slot, lease.id, lease.asked, granted) else {
            return self.inner().leave(&place.slot, lease.id);
        };
        let (inner, place) = (Arc::clone(self.inner()), Arc::clone(place));
        self.inner().behind(async move { inner.store.put(&place.slot, &lease.id, &entry).await });
    }
}

impl<M: TokenManager, S: Store> TokenManager for SharedTokenManager<M, S> {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let only_looks = std::mem::take(&mut *locked(&self.leave)) == Leave::OnlyToLook;
        if only_looks {
            let taken = match self.place().await {
                Ok((place, keys)) => self.shared(request, place, keys, true).await,
                Err(_) => Err(TokenError::rate_limited(None)),
            };
            if taken.is_err() {
                *locked(&self.leave) = Leave::LookedInVain;
            }
            return taken;
        }
        if self.is_alone.load(Ordering::Relaxed) && !self.one_live_token {
            let grant = self.manager.grant(request).await?;
            self.is_alone.store(!can_share(&grant), Ordering::Relaxed);
            return Ok(grant);
        }
        match self.place().await {
            Ok((place, keys)) => self.shared(request, place, keys, false).await,
            Err(error) if self.one_live_token => Err(TokenError::transport(error)),
            Err(error) => {
                self.inner().warn_of(&error);
                count(&self.inner().counts.direct);
                self.manager.grant(request).await
            }
        }
    }

    fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
        self.manager.exchange(subject, request)
    }

    /// The store is told first, so that no replica that starts meanwhile takes it. If it does not answer in
    /// time, it is told when it does.
    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let places = locked(&self.places).clone();
        for place in places {
            if place.with(|memory| memory.revoke(&token))
                && let Ok(keys) = self.inner().keys().await
            {
                self.inner().catch_up(&place, &keys);
                let _ = timeout(2 * self.inner().timeout, place.is_told()).await;
            }
        }
        self.manager.revoke(token, options).await
    }

    fn can_exchange(&self) -> bool {
        self.manager.can_exchange()
    }

    fn can_revoke(&self) -> bool {
        self.manager.can_revoke()
    }

    fn assumed_lifetime(&self) -> Duration {
        self.manager.assumed_lifetime()
    }

    fn is_gated(&self) -> bool {
        self.manager.is_gated()
    }

    /// Leave to ask the server is for those who have to ask it.
    async fn needs_permit(&self, request: &GrantRequest) -> bool {
        let before = std::mem::take(&mut *locked(&self.leave));
        if before == Leave::LookedInVain || self.is_alone.load(Ordering::Relaxed) {
            return true;
        }
        if let Ok((place, keys)) = self.place().await {
            let asked = self.asked(request, &keys, true);
            let wanted = place.with(|memory| asked.wanted(memory, None));
            let want = wanted.want();
            let look = self.inner().store.take(&place.slot, &want);
            if let Ok(Taken { found: Found::Entry(_), .. }) =
                self.inner().call(asked.call, look).await
            {
                *locked(&self.leave) = Leave::OnlyToLook;
                return false;
            }
        }
        self.manager.needs_permit(request).await
    }

    fn ready(
        &self,
        request: &PermitRequest,
    ) -> impl Future<Output = Result<Permit, TokenError>> + Send {
        self.manager.ready(request)
    }

    fn attach(&self, news: NewsSender) {
        {
            let mut attached = locked(&self.news);
            attached.retain(|news| !news.is_closed());
            attached.push(news.clone());
        }
        self.fleet.listen();
        self.manager.attach(news);
    }

    fn identity(&self) -> Option<Identity> {
        self.manager.identity()
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.buffer.store(micros(config.expired_buffer), Ordering::Relaxed);
        self.manager.check(config)
    }
}
