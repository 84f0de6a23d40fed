//! One token for many processes.

mod breaker;
mod contract;
#[cfg(target_os = "linux")]
mod file;
mod fleet;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod round;
mod script;
mod seal;
mod shared;
#[cfg(test)]
mod tests;

use std::time::Duration;

use contract::LONGEST;
pub use contract::{
    Buried, Found, Heard, Id, LEASE, Record, Sealed, Slot, Store, StoreError, StoreTime, Taken,
    Want,
};
#[cfg(target_os = "linux")]
pub use file::FileStore;
pub use fleet::{Fleet, FleetBuilder, FleetCounts};
#[cfg(feature = "redis")]
pub use redis::{RedisStore, RedisStoreBuilder};
pub use shared::{SharedTokenManager, SharedTokenManagerBuilder};

// Run by the server, each in one step. They translate `script.rs`.
#[cfg(any(feature = "redis", test))]
const TAKE: &str = include_str!("lua/take.lua");
#[cfg(any(feature = "redis", test))]
const PUT: &str = include_str!("lua/put.lua");
#[cfg(any(feature = "redis", test))]
const RENEW: &str = include_str!("lua/renew.lua");
#[cfg(any(feature = "redis", test))]
const LEAVE: &str = include_str!("lua/leave.lua");
#[cfg(any(feature = "redis", test))]
const BURY: &str = include_str!("lua/bury.lua");

/// As the store counts; more than any life is no more.
fn micros(life: Duration) -> u64 {
    u64::try_from(life.min(LONGEST + Duration::from_secs(1)).as_micros()).unwrap_or(u64::MAX)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
