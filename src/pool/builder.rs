//! Building a pool.

use std::fmt;
use std::hash::{Hash, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

use quick_cache::{OptionsBuilder, UnitWeighter};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::gated::SharedGate;
use super::key::BuildAsItIs;
use super::{Counts, Pool, SWEEPS, SessionPool, Table, Watch};
use crate::clock;
use crate::error::ConfigError;
use crate::manager::TokenManager;
use crate::session::SessionBuilder;

type Maker<K, M> = Box<dyn Fn(&K) -> Result<SessionBuilder<M>, ConfigError> + Send + Sync>;

/// Sets a pool up; ends with [`build`](Self::build).
#[must_use = "there is no pool before build is called"]
pub struct SessionPoolBuilder<K, M> {
    maker: Maker<K, M>,
    capacity: usize,
    idle: Duration,
    attempts_at_once: usize,
    #[cfg(feature = "metrics")]
    name: Arc<str>,
}

impl<K, M> SessionPoolBuilder<K, M> {
    pub(super) fn new(maker: Maker<K, M>) -> Self {
        let idle = Duration::from_secs(10 * 60);
        Self {
            maker,
            capacity: 10_000,
            idle,
            attempts_at_once: 64,
            #[cfg(feature = "metrics")]
            name: crate::metrics::DEFAULT_NAME.into(),
        }
    }

    /// The maximum number of sessions. Default: 10,000.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// How long a session is kept without being requested; it may be kept up to a quarter longer. Default: 10
    /// minutes.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// How many grants and exchanges may be in flight at the same time. Attempts that take longer than 2 s do
    /// not count, up to the same number again. Default: 64.
    pub fn attempts_at_once(mut self, attempts_at_once: usize) -> Self {
        self.attempts_at_once = attempts_at_once;
        self
    }

    /// The value of the label `session` in the [metrics](crate::metrics) of the pool and its sessions. Default:
    /// `"default"`.
    #[cfg(feature = "metrics")]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, M: TokenManager> SessionPoolBuilder<K, M> {
    /// Builds the pool. Its sessions run in the current tokio runtime, wherever `get` is called. A task that
    /// ends idle sessions runs there too, until the last clone of the pool is dropped.
    ///
    /// # Errors
    /// If there is no current runtime, or a setting is invalid.
    pub fn build(self) -> Result<SessionPool<K>, ConfigError> {
        let refuse = |what, problem: &str| Err(ConfigError::new(what, problem));
        if self.capacity == 0 {
            return refuse("capacity", "is 0, but then there could be no session: use 1 or more");
        }
        if self.idle < Duration::from_secs(1) {
            return refuse(
                "idle",
                "is less than 1s, but sessions are made to stay: use 1s or more",
            );
        }
        if self.attempts_at_once == 0 {
            return refuse(
                "attempts_at_once",
                "is 0, but then nothing could be sent: use 1 or more",
            );
        }
        let runtime = Handle::try_current().map_err(|_| {
            ConfigError::new("build", "was called outside a tokio runtime: call it inside one")
        })?;
        let counts = Counts {
            sessions: AtomicUsize::new(0),
            made: AtomicU64::new(0),
            evicted_full: AtomicU64::new(0),
            evicted_idle: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            metrics: crate::metrics::PoolMetrics::new(&self.name),
        };
        let gate = SharedGate::new(
            self.attempts_at_once,
            runtime.clone(),
            #[cfg(feature = "metrics")]
            crate::metrics::GateMetrics::new(&self.name),
        );
        let make = {
            let (maker, gate, runtime) = (self.maker, Arc::clone(&gate), runtime.clone());
            #[cfg(feature = "metrics")]
            let name = self.name;
            move |tenant: &K| {
                let session = maker(tenant)?.wrap(|manager| gate.gated(manager));
                #[cfg(feature = "metrics")]
                let session = session.shared_name(Arc::clone(&name));
                session.spawn_on(&runtime)
            }
        };
        let pool = Arc::new(Pool {
            table: table(self.capacity)?,
            hashes: RandomState::new(),
            make: Box::new(make),
            gate,
            capacity: self.capacity,
            counts,
            full_until: AtomicU64::new(0),
            end: CancellationToken::new(),
        });
        let end = pool.end.clone();
        runtime.spawn(sweep(Arc::downgrade(&pool), end, self.idle / u32::from(SWEEPS)));
        Ok(SessionPool(pool))
    }
}

fn table<K: Eq + Hash>(capacity: usize) -> Result<Table<K>, ConfigError> {
    let options = OptionsBuilder::new()
        .shards(1)
        .estimated_items_capacity(capacity)
        .weight_capacity(capacity as u64)
        .build()
        .map_err(|error| ConfigError::new("capacity", format!("cannot be used: {error}")))?;
    Ok(Table::with_options(options, UnitWeighter, BuildAsItIs::default(), Watch))
}

async fn sweep<K: Clone + Eq + Hash>(pool: Weak<Pool<K>>, end: CancellationToken, every: Duration) {
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            slept = clock::sleep_until(clock::now() + every) => if slept.is_err() { return },
        }
        match pool.upgrade() {
            Some(pool) => pool.sweep(),
            None => return,
        }
    }
}

impl<K, M> fmt::Debug for SessionPoolBuilder<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPoolBuilder")
            .field("capacity", &self.capacity)
            .field("idle", &self.idle)
            .field("attempts_at_once", &self.attempts_at_once)
            .finish_non_exhaustive()
    }
}
