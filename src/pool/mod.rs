//! One session for each tenant: made when it is first asked for, kept while it is used, and ended when it is
//! not.

mod builder;
mod gate;
mod gated;
mod key;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use quick_cache::sync::{Cache, GuardResult, PlaceholderGuard};
use quick_cache::{Equivalent, Lifecycle, UnitWeighter};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use builder::SessionPoolBuilder;

use crate::clock;
use crate::error::{ConfigError, SessionError};
use crate::foreign::guarded;
use crate::handle::SessionHandle;
use crate::instant::Instant;
use crate::manager::TokenManager;
#[cfg(feature = "metrics")]
use crate::metrics::PoolMetrics;
use crate::session::SessionBuilder;
use gated::SharedGate;
use key::{Asked, BuildAsItIs, Key};

/// A session for each tenant of one server and client. Cheap to clone; clones are the same pool.
///
/// A tenant's session is made when it is first asked for, and there is never more than one. It ends when it
/// was not [asked for](Self::get) for [`idle`](SessionPoolBuilder::idle), or when the pool is full and others
/// need its place; never while somebody holds a handle to it, or a revoke is under way. Its end revokes
/// nothing, and forgets all that the session knew, such as how long a refused tenant was to wait. Tenants that
/// were asked for once leave before those that were asked for again. Let the maker refuse tenants that you do
/// not know: a stranger with invented names who asks twice for each drives others out.
///
/// # The gate
/// Each session limits its own requests; the gate limits those of all sessions together. At most
/// [`attempts_at_once`](SessionPoolBuilder::attempts_at_once) grants and exchanges are in flight, first come,
/// first served. The time-out of an attempt starts when its turn comes. (An attempt that has taken 2 s no
/// longer counts, up to the same number again.)
///
/// If attempts of two tenants that did not fail before fail one after the other in a way that speaks of the
/// server, one is sent at a time until one is answered: of a tenant that was answered before, if one waits.
/// A failing tenant that fails again is no news, so tenants in trouble do not stop the others. When three have
/// failed, tenants whose last attempt failed get that error at once, and one is sent after 1 s, doubling to
/// 30 s, or after the server's `Retry-After`, of which a minute counts. When 16 have failed, or three and
/// nobody was answered for 10 s, so do tenants that are new; and when as many have that were answered before,
/// all do. When one succeeds, the next few are let in, then more.
/// A refusal concerns its tenant alone.
///
/// ```
/// use std::time::Duration;
/// use ccg_session::{Session, SessionPool};
/// # use ccg_session::{Grant, GrantRequest, TokenError, TokenManager};
/// # struct Manager(String);
/// # impl TokenManager for Manager {
/// #     async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> { Grant::bearer(self.0.as_str()) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // With the feature `http`: Session::builder(manager.for_subject(Subject::enterprise(tenant)))
/// let pool = SessionPool::builder(|tenant: &String| Ok(Session::builder(Manager(tenant.clone()))))
///     .capacity(10_000)
///     .idle(Duration::from_secs(600))
///     .build()?;
///
/// let session = pool.get(&"tenant-7".to_owned())?;
/// assert_eq!(session.get_token().await?.secret(), "tenant-7");
/// # Ok(()) }
/// ```
pub struct SessionPool<K>(Arc<Pool<K>>);

type Make<K> = dyn Fn(&K) -> Result<SessionHandle, ConfigError> + Send + Sync;
type Table<K> = Cache<Key<K>, Arc<Tenant>, UnitWeighter, BuildAsItIs, Watch>;
type Place<'a, K> = PlaceholderGuard<'a, Key<K>, Arc<Tenant>, UnitWeighter, BuildAsItIs, Watch>;

struct Pool<K> {
    /// In one shard: its capacity is the pool's, and whether it is full is known of all of it.
    table: Table<K>,
    hashes: RandomState,
    make: Box<Make<K>>,
    gate: Arc<SharedGate>,
    capacity: usize,
    counts: Counts,
    /// Nobody could leave for a new one; in nanoseconds of the clock.
    full_until: AtomicU64,
    end: CancellationToken,
}

/// For so long per session the pool is taken to be full still: finding out takes a look at each of them.
const FULL_FOR: Duration = Duration::from_micros(1);

thread_local! {
    /// Whose sessions this thread is making: the pools' addresses, and the names' hashes.
    static MAKING: RefCell<Vec<(usize, u64)>> = const { RefCell::new(Vec::new()) };
}

struct Tenant {
    handle: SessionHandle,
    /// How many sweeps there have been since it was last asked for.
    sweeps: AtomicU8,
}

impl Tenant {
    /// `None` if it has ended.
    fn asked_for(&self) -> Option<SessionHandle> {
        if self.handle.has_ended() {
            return None;
        }
        if self.sweeps.load(Relaxed) > 0 {
            self.sweeps.store(0, Relaxed);
        }
        Some(self.handle.clone())
    }

    /// Asked under the table's lock, by which alone others come to it.
    fn is_in_use(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || self.handle.is_in_use()
    }
}

#[derive(Debug)]
struct Counts {
    /// In the table, or about to be.
    sessions: AtomicUsize,
    made: AtomicU64,
    evicted_full: AtomicU64,
    evicted_idle: AtomicU64,
    refused_full: AtomicU64,
    #[cfg(feature = "metrics")]
    metrics: PoolMetrics,
}

impl Counts {
    /// One is in the table for which there was a place.
    fn joined(&self) {
        self.made.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.joined();
    }

    fn left(&self) {
        self.sessions.fetch_sub(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.left();
    }

    fn evicted_full(&self) {
        self.evicted_full.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.evicted("full");
    }

    fn refused_full(&self) {
        self.refused_full.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.refused();
    }

    fn evicted_idle(&self) {
        self.evicted_idle.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.evicted("idle");
    }
}

/// Tells the table who has to stay, and keeps who leaves for when its lock is free.
#[derive(Clone)]
struct Watch;

impl<K> Lifecycle<Key<K>, Arc<Tenant>> for Watch {
    type RequestState = Vec<(Key<K>, Arc<Tenant>)>;

    fn is_pinned(&self, _: &Key<K>, tenant: &Arc<Tenant>) -> bool {
        tenant.is_in_use()
    }

    fn on_evict(&self, evicted: &mut Self::RequestState, key: Key<K>, tenant: Arc<Tenant>) {
        evicted.push((key, tenant));
    }
}

/// The state of a pool, and its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The current number of sessions.
    pub sessions: usize,
    /// The maximum number of sessions.
    pub capacity: usize,
    /// Sessions created since the pool was built.
    pub made: u64,
    /// Sessions evicted because the pool was full.
    pub evicted_full: u64,
    /// Sessions ended because they were idle.
    pub evicted_idle: u64,
    /// How many calls returned [`PoolError::Full`].
    pub refused_full: u64,
    /// Attempts waiting in the gate.
    pub attempts_waiting: usize,
    /// Attempts in flight that passed the gate.
    pub attempts_out: usize,
    /// Attempts that got another tenant's error in place of leave, since the server failed one after the
    /// other.
    pub attempts_refused: u64,
    /// While some or all tenants rest for that reason: until the gate tries the server again.
    pub rests: Option<Duration>,
}

/// Why [`SessionPool::get`] returned no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// There are as many as there may be, and somebody holds a handle to each, or did a moment ago: the pool
    /// looks again after a microsecond for each session that it may have, 10 ms for 10,000.
    #[error(
        "the pool has as many sessions as its capacity allows, and somebody holds a handle to each: \
         drop handles that are not used, or raise the capacity"
    )]
    Full,
    /// The tenant's session could not be created. The error is not cached: the next call tries again.
    #[error("no session could be made for this tenant: {0}")]
    Maker(ConfigError),
    /// The pool was shut down, or its runtime is gone.
    #[error("the pool was shut down, or its runtime is gone: build another")]
    Closed,
}

impl<K> SessionPool<K> {
    /// A pool whose sessions are created by `maker`, which gets the tenant's key. `maker` runs inside
    /// [`get`](Self::get), and concurrent calls for the same tenant wait for it, so it must not do I/O. It may
    /// ask the pool for other tenants' sessions, but not two makers for each other's.
    pub fn builder<M: TokenManager>(
        maker: impl Fn(&K) -> Result<SessionBuilder<M>, ConfigError> + Send + Sync + 'static,
    ) -> SessionPoolBuilder<K, M> {
        SessionPoolBuilder::new(Box::new(maker))
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> SessionPool<K> {
    /// The tenant's session, created if necessary. This does not wait for a token: the first one is fetched on
    /// the first call of `get_token`.
    ///
    /// Drop the handle when the tenant's work is done: while you hold it, the session keeps its place in the
    /// pool.
    ///
    /// # Errors
    /// [`PoolError::Full`], [`PoolError::Maker`] if the maker fails or panics, [`PoolError::Closed`].
    pub fn get(&self, tenant: &K) -> Result<SessionHandle, PoolError> {
        let pool = &*self.0;
        let asked = pool.asked(tenant);
        match pool.table.get(&asked).and_then(|found| found.asked_for()) {
            Some(handle) => Ok(handle),
            None => pool.get_or_make(&asked),
        }
    }

    /// Ends the tenant's session, if there is one: who holds a handle to it gets
    /// [`Closed`](SessionError::Closed). Revokes nothing. The next [`get`](Self::get) makes another.
    pub fn remove(&self, tenant: &K) {
        if let Some(removed) = self.0.remove_if(&self.0.asked(tenant), |_| true) {
            removed.handle.end();
        }
    }

    /// Revokes the tokens of all sessions that are in the pool now, of 64 at a time. Until its turn has come
    /// none of them leaves the pool, so there may be no places for new ones meanwhile. The tokens of sessions
    /// that have left the pool, or have ended, before this call live until they expire.
    ///
    /// # Errors
    /// What the last of those met whose tokens could not all be revoked, which is
    /// [`Closed`](SessionError::Closed) if it was ended before the server had confirmed it. The others' are
    /// revoked all the same.
    ///
    /// # Cancel safety
    /// The revokes that have begun go on; no other one begins.
    pub async fn revoke_all(&self) -> Result<(), SessionError> {
        let held = self.0.table.iter().map(|(_, tenant)| tenant.handle.clone());
        // Now: what ends before its turn has come is an error.
        let held: Vec<_> = held.filter(|session| !session.has_ended()).collect();
        let mut waiting = held.into_iter();
        let mut revokes = JoinSet::new();
        let mut outcome = Ok(());
        loop {
            while revokes.len() < REVOKES
                && let Some(session) = waiting.next()
            {
                revokes.spawn(async move { session.revoke().await });
            }
            let Some(ended) = revokes.join_next().await else { return outcome };
            // The runtime's end, too, is a session's.
            if let Err(error) = ended.unwrap_or(Err(SessionError::Closed)) {
                outcome = Err(error);
            }
        }
    }

    /// Ends all sessions, and waits until they have. Revokes nothing. Later calls of [`get`](Self::get) give
    /// [`PoolError::Closed`].
    ///
    /// # Cancel safety
    /// They all end even if this is dropped.
    pub async fn shutdown(&self) {
        self.0.end.cancel();
        let ended = self.0.take_all();
        for tenant in &ended {
            tenant.handle.end();
        }
        for tenant in ended {
            tenant.handle.shutdown().await;
        }
    }
}

/// How many sessions are revoked at once.
const REVOKES: usize = 64;

impl<K> SessionPool<K> {
    /// What the pool has, and has done.
    pub fn status(&self) -> PoolStatus {
        let Pool { gate, capacity, counts, .. } = &*self.0;
        let [attempts_waiting, attempts_out] = gate.attempts();
        PoolStatus {
            sessions: counts.sessions.load(Relaxed),
            capacity: *capacity,
            made: counts.made.load(Relaxed),
            evicted_full: counts.evicted_full.load(Relaxed),
            evicted_idle: counts.evicted_idle.load(Relaxed),
            refused_full: counts.refused_full.load(Relaxed),
            attempts_waiting,
            attempts_out,
            attempts_refused: gate.refused(),
            rests: gate.rests(),
        }
    }
}

impl<K> Clone for SessionPool<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for SessionPool<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionPool").field(&self.status()).finish()
    }
}

impl<K: Clone + Eq + Hash> Pool<K> {
    fn asked<'a>(&self, tenant: &'a K) -> Asked<'a, K> {
        Asked { hash: self.hashes.hash_one(tenant), name: tenant }
    }

    fn get_or_make(&self, asked: &Asked<'_, K>) -> Result<SessionHandle, PoolError> {
        if MAKING.with_borrow(|making| making.contains(&self.making(asked))) {
            let problem =
                "asked the pool for the session that it is to make: it would wait for itself";
            return Err(PoolError::Maker(ConfigError::new("maker", problem)));
        }
        let key = asked.to_key();
        loop {
            match self.table.get_value_or_guard(&key, None) {
                GuardResult::Value(found) => {
                    if let Some(handle) = found.asked_for() {
                        return Ok(handle);
                    }
                    drop(found);
                    self.remove_if(asked, |found| found.handle.has_ended());
                }
                GuardResult::Guard(place) => {
                    if let Some(made) = self.make(asked, place)? {
                        return Ok(made);
                    }
                }
                // Only for those who set one.
                GuardResult::Timeout => {}
            }
            if self.end.is_cancelled() {
                return Err(PoolError::Closed);
            }
        }
    }

    fn making(&self, asked: &Asked<'_, K>) -> (usize, u64) {
        (std::ptr::from_ref(self).addr(), asked.hash)
    }

    /// `None` if its place has been taken away meanwhile.
    fn make(
        &self,
        asked: &Asked<'_, K>,
        place: Place<'_, K>,
    ) -> Result<Option<SessionHandle>, PoolError> {
        if self.end.is_cancelled() {
            return Err(PoolError::Closed);
        }
        let has_room = self.counts.sessions.fetch_add(1, Relaxed) < self.capacity;
        if !has_room && self.is_known_to_be_full() {
            return self.unmade(Err(self.full()));
        }
        MAKING.with_borrow_mut(|making| making.push(self.making(asked)));
        let made = guarded(|| (self.make)(asked.name));
        MAKING.with_borrow_mut(Vec::pop);
        let made = made.unwrap_or_else(|| {
            Err(ConfigError::new("maker", "panicked: standard error should say why"))
        });
        let handle = match made {
            // It ends at once where there is no runtime.
            Ok(handle) if handle.has_ended() => return self.unmade(Err(PoolError::Closed)),
            Ok(handle) => handle,
            Err(error) => return self.unmade(Err(PoolError::Maker(error))),
        };
        let made = Arc::new(Tenant { handle: handle.clone(), sweeps: AtomicU8::new(0) });
        let mut evicted = Vec::new();
        let is_in = place.insert_with_lifecycle(Arc::clone(&made), &mut evicted).is_ok();
        for _ in &evicted {
            self.counts.left();
            self.counts.evicted_full();
        }
        if !is_in {
            return self.unmade(Ok(None));
        }
        self.counts.joined();
        if !has_room && evicted.is_empty() && self.table.len() > self.capacity {
            drop(handle);
            let is_ours = |found: &Arc<Tenant>| {
                // The table has one, and so has this.
                Arc::ptr_eq(found, &made)
                    && Arc::strong_count(found) == 2
                    && !made.handle.is_in_use()
            };
            if self.remove_if(asked, is_ours).is_some() {
                self.note_full();
                return Err(self.full());
            }
            // Somebody has found it there already.
            return Ok(None);
        }
        if self.end.is_cancelled() {
            self.remove_if(asked, |_| true);
            handle.end();
            return Err(PoolError::Closed);
        }
        Ok(Some(handle))
    }

    fn unmade<T>(&self, why: Result<T, PoolError>) -> Result<T, PoolError> {
        self.counts.sessions.fetch_sub(1, Relaxed);
        why
    }

    fn full(&self) -> PoolError {
        self.counts.refused_full();
        PoolError::Full
    }

    fn note_full(&self) {
        let full_for = FULL_FOR.saturating_mul(u32::try_from(self.capacity).unwrap_or(u32::MAX));
        let until = (clock::now() + full_for).since(Instant::ZERO);
        self.full_until.store(u64::try_from(until.as_nanos()).unwrap_or_default(), Relaxed);
    }

    fn is_known_to_be_full(&self) -> bool {
        clock::now() < Instant::from_nanos(self.full_until.load(Relaxed))
    }

    fn remove_if(
        &self,
        key: &(impl Equivalent<Key<K>> + Hash),
        wanted: impl FnOnce(&Arc<Tenant>) -> bool,
    ) -> Option<Arc<Tenant>> {
        let (_, removed) = self.table.remove_if(key, wanted)?;
        self.counts.left();
        self.full_until.store(0, Relaxed);
        Some(removed)
    }

    fn take_all(&self) -> Vec<Arc<Tenant>> {
        let taken: Vec<_> = self.table.drain().map(|(_, tenant)| tenant).collect();
        for _ in &taken {
            self.counts.left();
        }
        taken
    }

    /// Whoever was not asked for since the sweep before the last four has been idle for long enough.
    fn sweep(&self) {
        for (key, found) in self.table.iter() {
            let sweeps = found.sweeps.load(Relaxed).saturating_add(1);
            found.sweeps.store(sweeps, Relaxed);
            let has_ended = found.handle.has_ended();
            drop(found);
            let is_idle = |found: &Arc<Tenant>| {
                found.handle.has_ended()
                    || found.sweeps.load(Relaxed) > SWEEPS && !found.is_in_use()
            };
            if (sweeps > SWEEPS || has_ended) && self.remove_if(&key, is_idle).is_some() {
                self.counts.evicted_idle();
            }
        }
    }
}

/// How many sweeps there are in the time that a session may be idle.
const SWEEPS: u8 = 4;

impl<K> Drop for Pool<K> {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
