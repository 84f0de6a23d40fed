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
