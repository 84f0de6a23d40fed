//! One token for many processes: a [`Fleet`] of sessions over one [`Store`].
//!
//! ```text
//! SharedTokenManager ── steps ── Round (pure) ── Memory (pure): what a replica knows of a slot
//!         │                                      Keys: what replicas prove to each other, and hide
//!       Fleet ── Breaker, one task that listens
//!         │
//!       Store ── FileStore ── script.rs (pure): what the five calls do
//!             └─ RedisStore ─ lua/*.lua: the same
//! ```
//!
//! What is promised, in this order:
//! 1. *Safety does not depend on the store.* An attacker who can write to it, or any fault of it, can cause
//!    extra requests and a 401. It can never hand out another client's token, return a revoked token to the
//!    replica that revoked it, or make a token appear to live longer than its whole lifetime from when it was
//!    taken.
//! 2. *The lease only saves requests.* A replica that can reach the server has a token within 3 s plus one
//!    grant, whatever the store does, unless it blocks the thread.
//! 3. *A revocation is remembered* by the store until the token would have ended, and read with every look.
//!
//! `tests/small_world/` tries every turn of events on the pure parts, and takes out each rule in turn.

mod breaker;
mod contract;
#[cfg(target_os = "linux")]
mod file;
mod fleet;
mod guarded;
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
