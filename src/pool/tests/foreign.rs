//! Code of others that the pool runs: a maker, and what a tenant's name does.

use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use super::*;

/// Its own code panics when it is told so.
#[derive(Clone, Debug)]
struct Name(u64, What);

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Nothing,
    Hash,
    Eq,
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert_ne!(self.1, What::Hash, "hash");
        state.write_u64(self.0);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        assert!(self.1 != What::Eq && other.1 != What::Eq, "eq");
        self.0 == other.0
    }
}

impl Eq for Name {}

fn session(tenant: u64) -> SessionBuilder<Manager> {
    Session::builder(Manager { tenant, server: healthy(), seen: Arc::default() })
}

#[tokio::test]
async fn a_name_that_panics_stops_no_other_tenant() {
    let pool = SessionPool::builder(|name: &Name| Ok(session(name.0))).capacity(4).build().unwrap();
    let seven = Name(7, What::Nothing);
    let before = pool.get(&seven).unwrap();
    for _ in 0..3 {
        let panics = catch_unwind(AssertUnwindSafe(|| pool.get(&Name(7, What::Hash)).map(drop)));
        assert!(panics.is_err(), "that is its own caller's matter");
        let other = pool.get(&Name(7, What::Eq)).unwrap();
        assert!(!before.is_same(&other), "nobody gets another's session");
    }
    assert!(pool.get(&seven).unwrap().is_same(&before));
    for tenant in 8..20 {
        pool.get(&Name(tenant, What::Nothing)).unwrap();
        pool.remove(&Name(tenant, What::Nothing));
    }
    pool.revoke_all().await.unwrap();
    pool.0.sweep();
    pool.shutdown().await;
    assert!(before.has_ended());
    assert_eq!(pool.status().sessions, 0);
}

/// What the pool has of it panics when it is dropped, every time.
struct Bomb {
    tenant: u64,
    is_clone: bool,
}

fn bomb(tenant: u64) -> Bomb {
    Bomb { tenant, is_clone: false }
}

impl Hash for Bomb {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.tenant);
    }
}

impl PartialEq for Bomb {
    fn eq(&self, other: &Self) -> bool {
        self.tenant == other.tenant
    }
}

impl Eq for Bomb {}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        Self { tenant: self.tenant, is_clone: true }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.is_clone, "it panics when it is dropped");
    }
}

/// So does this.
struct Explosive(Manager);

impl TokenManager for Explosive {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        self.0.grant(request).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        self.0.revoke(token, options).await
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        panic!("it panics when it is dropped");
    }
}

/// Evicted, removed, refused, idle, revoked, ended and dropped.
#[tokio::test(start_paused = true)]
async fn what_panics_when_it_leaves_takes_no_place_along() {
    let maker = |bomb: &Bomb| match bomb.tenant {
        100.. => Err(ConfigError::new("tenant", "is not known")),
        tenant => {
            let manager = Manager { tenant, server: healthy(), seen: Arc::default() };
            Ok(Session::builder(Explosive(manager)))
        }
    };
    let idle = Duration::from_secs(100);
    let pool = SessionPool::builder(maker).capacity(4).idle(idle).build().unwrap();
    let fill = async || {
        for tenant in 0..40 {
            pool.get(&bomb(tenant)).unwrap().get_token().await.unwrap();
            assert!(matches!(pool.get(&bomb(100 + tenant)), Err(PoolError::Maker(_))));
        }
        assert_eq!(pool.status().sessions, 4);
    };
    fill().await;
    tokio::time::sleep(2 * idle).await;
    assert_eq!((pool.status().sessions, pool.status().evicted_idle), (0, 4));
    fill().await;
    tokio::time::sleep(2 * idle).await;
    assert_eq!(pool.status().sessions, 0, "the sweep goes on");

    fill().await;
    let held = pool.get(&bomb(39)).unwrap();
    pool.remove(&bomb(39));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(held.has_ended());
    assert_eq!(pool.status().sessions, 3);
    fill().await;
    pool.revoke_all().await.unwrap();
    pool.shutdown().await;
    assert_eq!(pool.status().sessions, 0);

    let pool = SessionPool::builder(|bomb: &Bomb| Ok(session(bomb.tenant))).build().unwrap();
    for tenant in 0..4 {
        pool.get(&bomb(tenant)).unwrap();
    }
    drop(pool);
}

#[tokio::test]
async fn a_maker_that_asks_for_what_it_is_to_make_is_told_so() {
    static POOL: OnceLock<SessionPool<u64>> = OnceLock::new();
    let maker = |tenant: &u64| {
        let pool = POOL.get().unwrap();
        // Of another it may ask.
        if *tenant > 0 {
            pool.get(&(tenant % 2))
                .map_err(|error| ConfigError::new("asked", error.to_string()))?;
        }
        Ok(session(*tenant))
    };
    let pool = POOL.get_or_init(|| SessionPool::builder(maker).build().unwrap());
    pool.get(&2).unwrap();
    for _ in 0..2 {
        let error = pool.get(&1).unwrap_err().to_string();
        assert!(error.contains("would wait for itself"), "{error}");
    }
    pool.get(&4).unwrap();
}

#[test]
fn a_pool_whose_runtime_is_gone_is_closed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = {
        let _inside = runtime.enter();
        SessionPool::builder(|tenant: &u64| Ok(session(*tenant))).build().unwrap()
    };
    pool.get(&1).unwrap();
    drop(runtime);
    assert_eq!(pool.get(&1).unwrap_err(), PoolError::Closed);
    assert_eq!(pool.get(&2).unwrap_err(), PoolError::Closed);
    assert_eq!(pool.status().sessions, 0);
}
