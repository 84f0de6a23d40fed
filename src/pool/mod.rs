//! One session for each tenant: made when it is first asked for, kept while it is used, and ended when it is
//! not.

mod builder;
mod gate;
mod gated;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use quick_cache::sync::{Cache, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
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

/// A session for each tenant of one server and client. Cheap to clone; clones are the same pool.
///
/// A tenant's session is made when it is first asked for, and there is never more than one. It ends when it
/// was not [asked for](Self::get) for [`idle`](SessionPoolBuilder::idle), or when the pool is full and others
/// need its place; never while somebody holds a handle to it, or a revoke is under way. Its end revokes
/// nothing. Tenants that were asked for once leave before those that were asked for again, so strangers with
/// invented names do not drive the others out.
///
/// # The gate
/// Each session spares the server by itself; the pool does so for all together. At most
/// [`attempts_at_once`](SessionPoolBuilder::attempts_at_once) grants and exchanges are on the wire, first
/// come, first served, and an attempt's time does not begin before its turn. (One that has taken 2 s no longer
/// counts, as long as there are no more of these than of the others.)
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
type Table<K> = Cache<K, Arc<Tenant>, UnitWeighter, DefaultHashBuilder, Watch>;
type Place<'a, K> = PlaceholderGuard<'a, K, Arc<Tenant>, UnitWeighter, DefaultHashBuilder, Watch>;

struct Pool<K> {
    /// In one shard: its capacity is the pool's, and whether it is full is known of all of it.
    table: Table<K>,
    make: Box<Make<K>>,
    gate: Arc<SharedGate>,
    capacity: usize,
    counts: Arc<Counts>,
    /// Nobody could leave for a new one; in nanoseconds of the clock.
    full_until: AtomicU64,
    end: CancellationToken,
}

/// For so long the pool is taken to be full still: finding out takes a look at each of its sessions.
const FULL_FOR: Duration = Duration::from_millis(10);

struct Tenant {
    handle: SessionHandle,
    /// How many sweeps there have been since it was last asked for.
    sweeps: AtomicU8,
}

impl Tenant {
    /// Asked under the table's lock, by which alone others come to it.
    fn is_in_use(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || self.handle.is_in_use()
    }
}

#[derive(Debug, Default)]
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

    fn evicted_idle(&self) {
        self.evicted_idle.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.evicted("idle");
    }
}

/// Tells the table who has to stay, and counts who leaves.
#[derive(Clone)]
struct Watch(Arc<Counts>);

impl<K> Lifecycle<K, Arc<Tenant>> for Watch {
    /// What is dropped after the lock.
    type RequestState = Vec<(K, Arc<Tenant>)>;

    fn is_pinned(&self, _: &K, tenant: &Arc<Tenant>) -> bool {
        tenant.is_in_use()
    }

    fn on_evict(&self, evicted: &mut Self::RequestState, key: K, tenant: Arc<Tenant>) {
        self.0.left();
        self.0.evicted_full();
        evicted.push((key, tenant));
    }
}

/// What a pool has, and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Sessions that there are now.
    pub sessions: usize,
    /// The most that there may be.
    pub capacity: usize,
    /// Sessions that were made since the pool was.
    pub made: u64,
    /// Sessions that left since the pool was full.
    pub evicted_full: u64,
    /// Sessions that left since nobody asked for them.
    pub evicted_idle: u64,
    /// How often [`PoolError::Full`] was the answer.
    pub refused_full: u64,
    /// Attempts that wait in the gate.
    pub attempts_waiting: usize,
    /// Attempts on the wire that came through the gate.
    pub attempts_out: usize,
    /// In an outage: until the gate tries the server again.
    pub rests: Option<Duration>,
}

/// Why a pool gives no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// There are as many as there may be, and somebody holds a handle to each.
    #[error(
        "the pool has as many sessions as its capacity allows, and somebody holds a handle to each: \
         drop handles that are not used, or raise the capacity"
    )]
    Full,
    /// The tenant's session could not be made. It is not remembered: the next call tries again.
    #[error("no session could be made for this tenant: {0}")]
    Maker(ConfigError),
    /// The pool was shut down.
    #[error("the pool was shut down: build another")]
    Closed,
}

impl<K> SessionPool<K> {
    /// A pool whose sessions are made by `maker`, for the tenants that its closure names. It is called where
    /// [`get`](Self::get) is, while others that ask for the same tenant wait: it must not do I/O.
    pub fn builder<M: TokenManager>(
        maker: impl Fn(&K) -> Result<SessionBuilder<M>, ConfigError> + Send + Sync + 'static,
    ) -> SessionPoolBuilder<K, M> {
        SessionPoolBuilder::new(Box::new(maker))
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> SessionPool<K> {
    /// The tenant's session. It waits for nothing: the first token is fetched when one is asked for.
    ///
    /// Keep the handle for as long as the tenant's work takes, and not longer: it holds a place in the pool.
    ///
    /// # Errors
    /// [`PoolError::Full`], [`PoolError::Maker`] if the maker fails or panics, [`PoolError::Closed`].
    pub fn get(&self, tenant: &K) -> Result<SessionHandle, PoolError> {
        let pool = &*self.0;
        loop {
            match pool.table.get_value_or_guard(tenant, None) {
                GuardResult::Value(found) if found.handle.has_ended() => {
                    drop(found);
                    pool.remove_if(tenant, |found| found.handle.has_ended());
                }
                GuardResult::Value(found) => {
                    if found.sweeps.load(Relaxed) > 0 {
                        found.sweeps.store(0, Relaxed);
                    }
                    return Ok(found.handle.clone());
                }
                GuardResult::Guard(place) => {
                    if let Some(made) = pool.make(tenant, place)? {
                        return Ok(made);
                    }
                }
                // Only for those who set one.
                GuardResult::Timeout => {}
            }
            if pool.end.is_cancelled() {
                return Err(PoolError::Closed);
            }
        }
    }

    /// Ends the tenant's session, if there is one: who holds a handle to it gets
    /// [`Closed`](SessionError::Closed). Revokes nothing. The next [`get`](Self::get) makes another.
    pub fn remove(&self, tenant: &K) {
        if let Some(removed) = self.0.remove_if(tenant, |_| true) {
            removed.handle.end();
        }
    }

    /// Revokes the tokens of all sessions that are in the pool now, 64 sessions at a time, so that the others
    /// go on meanwhile. The tokens of sessions that have left the pool live until they expire.
    ///
    /// # Errors
    /// What the last of those met whose tokens could not all be revoked; the others' are, all the same.
    ///
    /// # Cancel safety
    /// The revokes that have begun go on; no other one begins.
    pub async fn revoke_all(&self) -> Result<(), SessionError> {
        let mut outcome = Ok(());
        for batch in self.0.tenants().chunks(BATCH) {
            let mut revokes = JoinSet::new();
            for tenant in batch {
                if let Some(found) = self.0.table.peek(tenant) {
                    let session = found.handle.clone();
                    revokes.spawn(async move { session.revoke().await });
                }
            }
            while let Some(revoked) = revokes.join_next().await {
                match revoked {
                    // It was removed, or ended by another: its tokens are as those that left.
                    Ok(Ok(()) | Err(SessionError::Closed)) | Err(_) => {}
                    Ok(Err(error)) => outcome = Err(error),
                }
            }
        }
        outcome
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
const BATCH: usize = 64;

impl<K> SessionPool<K> {
    /// What the pool has, and has done.
    pub fn status(&self) -> PoolStatus {
        let Pool { gate, capacity, counts, .. } = &*self.0;
        let (attempts_waiting, attempts_out, rests) = gate.status();
        PoolStatus {
            sessions: counts.sessions.load(Relaxed),
            capacity: *capacity,
            made: counts.made.load(Relaxed),
            evicted_full: counts.evicted_full.load(Relaxed),
            evicted_idle: counts.evicted_idle.load(Relaxed),
            refused_full: counts.refused_full.load(Relaxed),
            attempts_waiting,
            attempts_out,
            rests,
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
    /// `None` if its place has been taken away meanwhile.
    fn make(&self, tenant: &K, place: Place<'_, K>) -> Result<Option<SessionHandle>, PoolError> {
        if self.end.is_cancelled() {
            return Err(PoolError::Closed);
        }
        let has_room = self.counts.sessions.fetch_add(1, Relaxed) < self.capacity;
        if !has_room && self.is_known_to_be_full() {
            return self.unmade(Err(self.full()));
        }
        let made = guarded(|| (self.make)(tenant)).unwrap_or_else(|| {
            Err(ConfigError::new("maker", "panicked: standard error should say why"))
        });
        let handle = match made {
            Ok(handle) => handle,
            Err(error) => return self.unmade(Err(PoolError::Maker(error))),
        };
        let made = Arc::new(Tenant { handle: handle.clone(), sweeps: AtomicU8::new(0) });
        let mut evicted = Vec::new();
        if place.insert_with_lifecycle(Arc::clone(&made), &mut evicted).is_err() {
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
            if self.remove_if(tenant, is_ours).is_some() {
                self.note_full();
                return Err(self.full());
            }
            // Somebody has found it there already.
            return Ok(None);
        }
        if self.end.is_cancelled() {
            self.remove_if(tenant, |_| true);
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
        self.counts.refused_full.fetch_add(1, Relaxed);
        PoolError::Full
    }

    fn note_full(&self) {
        let until = (clock::now() + FULL_FOR).since(Instant::ZERO);
        self.full_until.store(u64::try_from(until.as_nanos()).unwrap_or_default(), Relaxed);
    }

    fn is_known_to_be_full(&self) -> bool {
        clock::now() < Instant::from_nanos(self.full_until.load(Relaxed))
    }

    fn remove_if(
        &self,
        tenant: &K,
        wanted: impl FnOnce(&Arc<Tenant>) -> bool,
    ) -> Option<Arc<Tenant>> {
        let (_, removed) = self.table.remove_if(tenant, wanted)?;
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

    /// Their names alone: their sessions can leave.
    fn tenants(&self) -> Vec<K> {
        self.table.iter().map(|(tenant, _)| tenant).collect()
    }

    /// Whoever was not asked for since the sweep before the last four has been idle for long enough.
    fn sweep(&self) {
        for (tenant, found) in self.table.iter() {
            let sweeps = found.sweeps.load(Relaxed).saturating_add(1);
            found.sweeps.store(sweeps, Relaxed);
            let has_ended = found.handle.has_ended();
            drop(found);
            let is_idle = |found: &Arc<Tenant>| {
                found.handle.has_ended()
                    || found.sweeps.load(Relaxed) > SWEEPS && !found.is_in_use()
            };
            if (sweeps > SWEEPS || has_ended) && self.remove_if(&tenant, is_idle).is_some() {
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
