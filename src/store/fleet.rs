//! What the sessions of a process have in common at one store: its key, its breaker, and one task that hears
//! what others revoke.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::breaker::Breaker;
use super::contract::{
    Heard, Id, LONGEST, Record, Slot, Store, StoreError, StoreTime, Taken, Want,
};
use super::guarded::Guarded;
use super::memory::Memory;
use super::round::{CALL, LONG_CALL};
use super::seal::{Keys, LEAST_KEY};
use super::shared::SharedTokenManagerBuilder;
use crate::clock;
use crate::error::ConfigError;
use crate::foreign::guarded;
use crate::http::Credential;
use crate::instant::Instant;
use crate::manager::TokenManager;
use crate::news::NewsSender;

/// How many slots catch up at once, as after a subscription was broken.
const AT_ONCE: usize = 64;
/// Between two attempts of a slot to catch up: doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at all slots.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How many notices are heard in that time: more than a fleet gives, and less than what would keep a core busy.
const NOTICES: u32 = 500;
/// What a program's end may wait for.
const FLUSH: Duration = Duration::from_secs(2);
const WARNING_GAP: Duration = Duration::from_secs(60);

/// A connection to one store, for all sessions of this process that share tokens with other processes. Clones
/// refer to the same fleet.
///
/// Replicas share a token if they have the same store, namespace and key, and their managers the same
/// [`identity`](TokenManager::identity). What is in the store is sealed with the key: who can read the store
/// learns no token, and who can write it can cost requests and a 401, and nothing else.
///
/// ```no_run
/// use ccg_session::{Credential, FileStore, Fleet, Session, Subject};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let manager = ccg_session::HttpTokenManager::builder(
/// #     ccg_session::Provider::generic("https://auth.example.com/token"), "id", "secret").build()?;
/// let store = FileStore::open("/var/lib/my-app/tokens")?;
/// let fleet = Fleet::builder(store, Credential::file("/run/secrets/fleet-key")).build()?;
///
/// let session = Session::builder(fleet.share(manager).slot("billing").build()?).spawn()?;
/// let token = session.get_token().await?; // requested by one process, used by all
/// # Ok(()) }
/// ```
///
/// # For operators
/// - *When the store is down*, slow, full or corrupted, no caller fails, and none waits more than 3 s longer
///   than the request itself: the session asks the server, as it would without a fleet. After a failure to
///   reach the store, it is not contacted for 1 s, doubling each time up to 30 s. (But see
///   [`one_live_token`](SharedTokenManagerBuilder::one_live_token).)
/// - *The store is a cache.* You may empty it at any time. That costs a request and forgets revocations; no
///   backup is needed. A slot takes the token's length plus about a kilobyte, and expires with its token.
/// - *If a replica is killed* during its request, the others wait until its lease ends, at most 3 s.
/// - *When the server fails*, each replica sees the failure itself and backs off on its own. Failures are not
///   shared.
/// - *A revocation* reaches every replica that has the token: immediately over Redis, within a second over
///   files, and on reconnection for replicas that were cut off. Tokens that another replica requested without
///   the store are not revoked. `Ok` of [`revoke`](crate::SessionHandle::revoke) says that the server has
///   confirmed it. A store that does not answer within half a second is told when it does, as long as the token
///   lives and the runtime of the session: a program that ends waits for [`flush`](Self::flush) first.
/// - *Two versions* of this crate can share tokens as long as the entry format is the same; the changelog says
///   when it changes. Otherwise each version shares only among its own replicas.
/// - *To rotate the key*, give the replicas the new key and restart them one by one. Meanwhile, replicas with
///   the old key and replicas with the new key form separate groups, and a revocation reaches only its own
///   group.
/// - *The clocks* of the replicas do not matter, only the store's. If the store's clock steps back, a token may
///   be treated as valid for that much longer: its holder gets a 401 and requests another.
pub struct Fleet<S> {
    pub(super) inner: Arc<Inner<S>>,
    hub: Arc<Hub>,
}

impl<S> Clone for Fleet<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), hub: Arc::clone(&self.hub) }
    }
}

impl<S> fmt::Debug for Fleet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("namespace", &self.inner.namespace).finish_non_exhaustive()
    }
}

/// How to build a [`Fleet`].
#[derive(Debug)]
pub struct FleetBuilder<S> {
    store: S,
    key: Credential,
    namespace: String,
    timeout: Duration,
}

/// Counters of a fleet in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetCounts {
    /// Tokens taken from the store.
    pub taken: u64,
    /// Requests sent under a lease, whose tokens are shared.
    pub leased: u64,
    /// Requests sent without the store.
    pub direct: u64,
    /// Entries from the store that this session could not use.
    pub bad_entries: u64,
    /// Leases that were lost while the request was under way.
    pub lost_leases: u64,
}

pub(super) struct Inner<S> {
    pub(super) store: Guarded<S>,
    pub(super) namespace: Arc<str>,
    key: Credential,
    keys: OnceCell<Arc<Keys>>,
    pub(super) timeout: Duration,
    breaker: Mutex<Breaker>,
    places: Mutex<HashMap<[u8; 16], Vec<Weak<Place>>>>,
    pub(super) counts: Counts,
    warned: Mutex<Option<Instant>>,
    /// What the store is being told while nobody waits for it.
    behind: TaskTracker,
    at_once: Semaphore,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) taken: AtomicU64,
    pub(super) leased: AtomicU64,
    pub(super) direct: AtomicU64,
    pub(super) bad_entries: AtomicU64,
    pub(super) lost_leases: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One slot as one manager uses it.
pub(super) struct Place {
    pub(super) slot: Slot,
    memory: Mutex<Memory>,
    news: Arc<Mutex<Vec<NewsSender>>>,
    /// Of its session, once that has asked for a token.
    runtime: Mutex<Option<Handle>>,
    /// It is to catch up now, not later.
    hurry: Notify,
    caught_up: Notify,
}

impl Place {
    pub(super) fn new(slot: Slot, news: Arc<Mutex<Vec<NewsSender>>>) -> Self {
        Self {
            slot,
            memory: Mutex::default(),
            news,
            runtime: Mutex::default(),
            hurry: Notify::new(),
            caught_up: Notify::new(),
        }
    }

    pub(super) fn runs_here(&self) {
        *locked(&self.runtime) = Handle::try_current().ok();
    }

    /// Waits until the store has been told of all that is revoked here.
    pub(super) async fn is_told(&self) {
        loop {
            let caught_up = self.caught_up.notified();
            if !self.with(|memory| memory.owes()) {
                return;
            }
            caught_up.await;
        }
    }

    /// The session is told what is learnt in here.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        let (result, news) = {
            let mut memory = locked(&self.memory);
            let result = act(&mut memory);
            (result, std::mem::take(&mut memory.news))
        };
        for (text, left) in news {
            for sender in locked(&self.news).iter() {
                guarded(|| sender.revoked(text.clone(), left));
            }
        }
        result
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Store> Fleet<S> {
    /// A fleet over this store with this key: at least 32 random bytes, for example from `openssl rand -hex
    /// 32`, the same for all replicas. The key is read once. Replicas with different keys share nothing. Under
    /// [`one_live_token`](SharedTokenManagerBuilder::one_live_token) stop all replicas before you give them a
    /// new one.
    pub fn builder(store: S, key: impl Into<Credential>) -> FleetBuilder<S> {
        FleetBuilder { store, key: key.into(), namespace: "ccg-session".into(), timeout: CALL }
    }

    /// Wraps a manager so that its tokens are shared. Use one per session.
    pub fn share<M: TokenManager>(&self, manager: M) -> SharedTokenManagerBuilder<M, S> {
        SharedTokenManagerBuilder::new(manager, self.clone())
    }

    /// Waits until the store has been told of all tokens that were got or revoked here, 2 s at most: a session gives
    /// its callers a new token without waiting for that. Call it before a short program ends, or the next one asks the
    /// server again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn flush(&self) {
        // If it is late, it is told after: nothing ends here.
        let _ = timeout(FLUSH, self.inner.behind.wait()).await;
    }

    /// What has been done so far.
    pub fn counts(&self) -> FleetCounts {
        let Counts { taken, leased, direct, bad_entries, lost_leases } = &self.inner.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FleetCounts {
            taken: read(taken),
            leased: read(leased),
            direct: read(direct),
            bad_entries: read(bad_entries),
            lost_leases: read(lost_leases),
        }
    }

    /// Starts the task that listens, unless it runs.
    pub(super) fn listen(&self) {
        if let Ok(runtime) = Handle::try_current()
            && !self.hub.is_heard.swap(true, Ordering::AcqRel)
        {
            Listener::start(&self.hub, &self.inner, std::iter::once(runtime));
        }
    }
}

impl<S: Store> FleetBuilder<S> {
    /// Separates fleets that use the same store: 1 to 64 characters from `A-Z a-z 0-9 . _ -`. Default:
    /// `ccg-session`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How long a call of the store may take, connecting included. Default: 250 ms; at most 1 s. The store may
    /// just be busy, so after a time-out a session tries once more, for up to 1 s, before it asks the server
    /// itself.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Builds the fleet. Nothing is sent yet, so this succeeds even if the store is down.
    ///
    /// # Errors
    /// If a setting is invalid, or the key is already available and too short.
    pub fn build(self) -> Result<Fleet<S>, ConfigError> {
        let Self { store, key, namespace, timeout } = self;
        let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&namespace.len()) || !namespace.bytes().all(may_be) {
            return Err(ConfigError::new(
                "namespace",
                format!("is {namespace:?}, but must be 1 to 64 of A-Z a-z 0-9 . _ -"),
            ));
        }
        if timeout.is_zero() || timeout > LONG_CALL {
            return Err(ConfigError::new(
                "store timeout",
                format!(
                    "is {}, but must be more than 0s and at most 1s",
                    humantime::format_duration(timeout)
                ),
            ));
        }
        let known = key.known().map_err(|problem| ConfigError::new("fleet key", problem))?;
        let keys = match &known {
            _ if key.is_none() => {
                return Err(ConfigError::new("fleet key", "is none: give one to all replicas"));
            }
            Some(known) => {
                let keys =
                    Keys::new(known).ok_or_else(|| ConfigError::new("fleet key", too_short()))?;
                OnceCell::new_with(Some(Arc::new(keys)))
            }
            None => OnceCell::new(),
        };
        let behind = TaskTracker::new();
        // So that waiting for it ends when all has been told; more may come.
        behind.close();
        let inner = Inner {
            store: Guarded(store),
            namespace: namespace.into(),
            key,
            keys,
            timeout,
            breaker: Mutex::default(),
            places: Mutex::default(),
            counts: Counts::default(),
            warned: Mutex::default(),
            behind,
            at_once: Semaphore::new(AT_ONCE),
        };
        Ok(Fleet { inner: Arc::new(inner), hub: Arc::default() })
    }
}

fn too_short() -> String {
    format!(
        "is shorter than {LEAST_KEY} bytes, and could be guessed: openssl rand -hex 32 makes one"
    )
}

impl<S: Store> Inner<S> {
    pub(super) async fn keys(&self) -> Result<Arc<Keys>, StoreError> {
        let read = async {
            let key = self.key.read().await.map_err(StoreError::refused)?;
            let keys = key.as_ref().and_then(Keys::new).map(Arc::new);
            keys.ok_or_else(|| StoreError::refused(format!("the fleet's key {}", too_short())))
        };
        let read = timeout(LONG_CALL, self.keys.get_or_try_init(|| read));
        read.await.map_err(|_| StoreError::TimedOut)?.cloned()
    }

    /// One call of the store: within its time, and not while it is left alone.
    pub(super) async fn call<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = clock::now();
        if !locked(&self.breaker).admits(began) {
            return Err(StoreError::unreachable(
                "it did not answer, and is left alone for a while",
            ));
        }
        let result = match timeout(within, call).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::TimedOut),
        };
        locked(&self.breaker).note(began, clock::now(), result.as_ref().err());
        if let Err(error) = &result {
            self.warn_of(error);
        }
        result
    }

    /// One call for which nobody waits, and on which others depend: also while the store is left alone.
    async fn insist<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = timeout(LONG_CALL, call).await.unwrap_or(Err(StoreError::TimedOut));
        match &result {
            Ok(_) => locked(&self.breaker).close(),
            Err(error) => self.warn_of(error),
        }
        result
    }

    /// Gives a lease back.
    pub(super) fn leave(self: &Arc<Self>, slot: &Slot, id: Id) {
        let (inner, slot) = (Arc::clone(self), slot.clone());
        self.behind(async move { inner.store.leave(&slot, &id).await });
    }

    /// What ends a lease, in a task of its own: nobody waits for it, and it is tried also while the store is
    /// left alone, as after a take that timed out.
    pub(super) fn behind(
        self: &Arc<Self>,
        call: impl Future<Output = Result<bool, StoreError>> + Send + 'static,
    ) {
        let Ok(runtime) = Handle::try_current() else { return };
        let inner = Arc::clone(self);
        let call = async move {
            if let Err(error) = timeout(LONG_CALL, call).await.unwrap_or(Err(StoreError::TimedOut))
            {
                inner.warn_of(&error);
            }
        };
        self.behind.spawn_on(call, &runtime);
    }

    /// Reads the slot's list, and tells the store of what is revoked here.
    pub(super) async fn settle(
        &self,
        place: &Place,
        keys: &Keys,
        insists: bool,
    ) -> Result<(), StoreError> {
        let look = self.store.take(&place.slot, &Want::LOOK);
        let look =
            if insists { self.insist(look).await } else { self.call(self.timeout, look).await };
        let Taken { now: StoreTime(now), revoked, .. } = look?;
        let listed = keys.read_list(&place.slot, &revoked, now);
        let owed = place.with(|memory| {
            for (tag, end) in listed {
                memory.learn(clock::now(), tag, end);
            }
            memory.owed().collect::<Vec<_>>()
        });
        for owed in owed {
            let left = super::micros(owed.ends.since(clock::now()));
            // Later than that none is believed.
            let end = (now + left).max(owed.entry_ends).min(now + super::micros(LONGEST));
            let record = keys.record(&place.slot, owed.tag, end);
            let bury = self.store.bury(&place.slot, &record);
            let gone =
                if insists { self.insist(bury).await } else { self.call(self.timeout, bury).await };
            let gone = gone?;
            place.with(|memory| memory.buried(owed.tag, end, gone));
        }
        Ok(())
    }

    /// Tells the store of what is revoked here and reads its list, time and again until it has answered: in a
    /// task of its own, for as long as a session has the slot or a token that is revoked here lives.
    pub(super) fn catch_up(self: &Arc<Self>, place: &Arc<Place>, keys: &Arc<Keys>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !place.with(Memory::falls_behind) {
            return place.hurry.notify_one();
        }
        let late = Late { inner: Arc::clone(self), place: Arc::clone(place), is_done: false };
        self.behind.spawn_on(late.catch_up(Arc::clone(keys)), &runtime);
    }

    pub(super) fn warn_of(&self, error: &StoreError) {
        self.warn(&format!("a token is not shared: {error}"));
    }

    /// At most one a minute, of whatever kind.
    pub(super) fn warn(&self, what: &str) {
        let now = clock::now();
        let mut warned = locked(&self.warned);
        if warned.is_none_or(|last| now.since(last) >= WARNING_GAP) {
            *warned = Some(now);
            drop(warned);
            guarded(|| tracing::warn!("{what}"));
        }
    }

    // What others revoke

    pub(super) fn register(&self, place: &Arc<Place>) {
        let mut places = locked(&self.places);
        let here = places.entry(*place.slot.id()).or_default();
        here.retain(|place| place.strong_count() > 0);
        here.push(Arc::downgrade(place));
    }

    pub(super) fn forget(&self, slot: &Slot) {
        let mut places = locked(&self.places);
        if let Some(here) = places.get_mut(slot.id()) {
            here.retain(|place| place.strong_count() > 0);
            if here.is_empty() {
                places.remove(slot.id());
            }
        }
    }

    fn notice(&self, slot: &Slot, record: &Record) {
        let here: Vec<_> = match locked(&self.places).get(slot.id()) {
            Some(here) => here.iter().filter_map(Weak::upgrade).collect(),
            None => return,
        };
        let Some(keys) = self.keys.get() else { return };
        for place in here {
            if let Some((tag, end)) = keys.read(&place.slot, record) {
                place.with(|memory| memory.learn(clock::now(), tag, end));
            }
        }
    }
}

impl<S: Store> Inner<S> {
    fn look_at_all(self: &Arc<Self>) {
        locked(&self.breaker).close();
        let Some(keys) = self.keys.get() else { return };
        for place in self.places() {
            self.catch_up(&place, keys);
        }
    }

    fn places(&self) -> Vec<Arc<Place>> {
        let mut places = locked(&self.places);
        places.retain(|_, here| here.iter().any(|place| place.strong_count() > 0));
        places.values().flatten().filter_map(Weak::upgrade).collect()
    }
}

/// A slot that catches up with the store.
struct Late<S: Store> {
    inner: Arc<Inner<S>>,
    place: Arc<Place>,
    is_done: bool,
}

impl<S: Store> Late<S> {
    async fn catch_up(mut self, keys: Arc<Keys>) {
        let mut pause = FIRST_PAUSE;
        while !self.has_caught_up(&keys).await && self.is_of_use() {
            let pausing = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            tokio::select! {
                () = pausing => pause = (2 * pause).min(LONGEST_PAUSE),
                () = self.place.hurry.notified() => pause = FIRST_PAUSE,
            }
        }
    }

    async fn has_caught_up(&mut self, keys: &Keys) -> bool {
        let calls = self.place.with(|memory| memory.calls());
        let _turn = self.inner.at_once.acquire().await;
        let settled = self.inner.settle(&self.place, keys, true).await;
        self.is_done = settled.is_ok() && self.place.with(|memory| memory.has_caught_up(calls));
        self.place.caught_up.notify_waiters();
        self.is_done
    }

    fn is_of_use(&self) -> bool {
        Arc::strong_count(&self.place) > 1 || self.place.with(|it| it.owes_at(clock::now()))
    }
}

/// Also with its runtime.
impl<S: Store> Drop for Late<S> {
    fn drop(&mut self) {
        if !self.is_done {
            self.place.with(Memory::stays_behind);
        }
    }
}

/// Whether somebody listens. It is over with the last handle to its fleet.
#[derive(Default)]
struct Hub {
    is_heard: AtomicBool,
    over: CancellationToken,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// The task that listens. If it ends with the runtime that it was started in, another session's takes over.
struct Listener<S: Store> {
    inner: Arc<Inner<S>>,
    hub: Weak<Hub>,
    /// Set when its runtime has taken it, and when it is dropped: whoever comes second goes on.
    is_second: Arc<AtomicBool>,
}

impl<S: Store> Listener<S> {
    /// In the first of these runtimes that has not ended. Called by who has set `is_heard`.
    fn start(hub: &Arc<Hub>, inner: &Arc<Inner<S>>, runtimes: impl Iterator<Item = Handle>) {
        for runtime in runtimes {
            let is_second = Arc::new(AtomicBool::new(false));
            let listener = Self {
                inner: Arc::clone(inner),
                hub: Arc::downgrade(hub),
                is_second: Arc::clone(&is_second),
            };
            let over = hub.over.clone();
            drop(runtime.spawn(async move {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = listener.listen() => {}
                }
            }));
            if !is_second.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        hub.is_heard.store(false, Ordering::Release);
    }

    async fn listen(self) {
        let inner = &self.inner;
        // The last that listened may have left slots behind.
        inner.look_at_all();
        let (mut began, mut notices) = (clock::now(), 0);
        loop {
            match inner.store.heard(&inner.namespace).await {
                Heard::Notice(slot, record) => {
                    inner.notice(&slot, &record);
                    notices += 1;
                    if notices == NOTICES {
                        // There may be no end of them.
                        sleep(LOOK_PAUSE.saturating_sub(clock::now().since(began))).await;
                        (began, notices) = (clock::now(), 0);
                    }
                    tokio::task::yield_now().await;
                }
                Heard::Look => {
                    inner.look_at_all();
                    sleep(LOOK_PAUSE).await;
                }
            }
        }
    }
}

impl<S: Store> Drop for Listener<S> {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        // A runtime that has ended drops at once what is spawned there. Then `start`, which is at it, tries the
        // next: to start that from here would nest them all.
        if self.is_second.swap(true, Ordering::AcqRel) {
            let places = self.inner.places().into_iter();
            let runtimes = places.filter_map(|place| locked(&place.runtime).clone());
            Self::start(&hub, &self.inner, runtimes);
        }
    }
}
