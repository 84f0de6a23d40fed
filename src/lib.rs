//! An OAuth 2.0 token session for async Rust: give it client credentials once, and every task asks a
//! cheap handle for an access token that is usable now.
//!
//! ```no_run
//! use ccg_session::{Session, Subject};
//!
//! # #[cfg(feature = "http")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret = std::env::var("BOX_CLIENT_SECRET")?;
//! let session = Session::box_ccg(Subject::enterprise("12345"), "client-id", secret)?.spawn()?;
//!
//! for _ in 0..100 {
//!     let session = session.clone();
//!     tokio::spawn(async move {
//!         let token = session.get_token().await?; // one grant serves all hundred
//!         let _header = token.header_value();     // "Bearer …", marked sensitive
//!         Ok::<_, ccg_session::SessionError>(())
//!     });
//! }
//! # Ok(()) }
//! # #[cfg(not(feature = "http"))] fn main() {}
//! ```
//!
//! The module `docs` has a tutorial, guides (servers, tenants, a fleet, tests, operations, coming from another
//! library), and the design.
//!
//! # One token's life
//! ```text
//! acquired ───────── fresh ─────────► stale ─────────────────► held ─────────► expired
//!           answered at once           answered at once,        callers wait     never handed
//!                                      refreshed meanwhile      for a new one    out
//! ```
//! It is *fresh* until [`stale_buffer`](SessionConfig::stale_buffer) before its expiry. *Stale*, it is
//! still given out while one request for a new one runs in the background. In its last seconds
//! ([`expired_buffer`](SessionConfig::expired_buffer)) callers are *held* until the new one is there; if
//! that request fails, they get the token that there is, and so do all after them until it expires. Nobody
//! waits before that stretch (unless [`min_remaining`](TokenRequestOptions::min_remaining) asks for more),
//! and nobody sees an error while there is an unexpired token.
//!
//! # What you can rely on
//! - At most one grant request is on the wire, however many callers wait. A caller that is cancelled
//!   takes nobody's request with it.
//! - A failing server is asked as often as one caller would ask it: retries are spaced, and after a failed
//!   series callers without a token get the last error at once until it is [time](RetryPolicy) to try
//!   again. Whatever callers do, there is at least a second between a token and the next request for one.
//! - No failure is final: a session recovers by itself.
//! - After [`revoke`](SessionHandle::revoke) nobody gets an earlier token, not even one whose request was
//!   on the wire.
//! - After [`invalidate`](SessionHandle::invalidate) the same task does not get the refused token again,
//!   unless this is the second refusal within 10 seconds. The return value says which it is.
//! - Code of yours that panics (a manager, an error's `Display`, a waker, a subscriber of events) ends no
//!   session: an attempt that panics is a failed one.
//! - The clock counts the time that the machine was suspended (on Linux), and never follows the wall
//!   clock.
//! - Secrets and tokens are in no `Debug`, error or log.
//!
//! # What it does not do
//! - It has no login for people, and starts no browser: this is for services.
//! - It does not know that a resource server refuses a token before you tell it
//!   ([`invalidate`](SessionHandle::invalidate)).
//! - A token whose response never arrived is not known, and cannot be revoked.
//!
//! # Features
//! - `http` (default): [`HttpTokenManager`], for Box and other OAuth 2.0 servers that grant to client credentials. Without it
//!   you bring a [`TokenManager`] of your own; the session then compiles without an HTTP client or TLS.
//! - `aws-lc` (default) or `ring`: the crypto library under `http`, for TLS and for keys. The first is what
//!   reqwest itself takes, so a program that has reqwest stays as it was. The second is for a program that
//!   installs ring for the whole process: `default-features = false, features = ["http", "ring"]`.
//! - `reqwest-middleware`, `tower`: the token on requests, and what to do about a 401 (module `middleware`).
//! - `testing`: an embedded authority for your own tests (module `testing`). For `[dev-dependencies]`.
//! - `test-util`: the session's clock follows tokio's paused time (module `test_util`). For
//!   `[dev-dependencies]`; only needed if you pause tokio's time.
//! - `store`: one token for many processes ([`Fleet`]), over a directory ([`FileStore`], on Linux) or a store of
//!   your own. `redis`: over Redis or Valkey as well ([`RedisStore`]).
//! - `pool`: [`SessionPool`], a session for each of many tenants, and one gate before their server.
//! - `metrics`: counters and gauges of sessions and pools (module `metrics`), by the facade of that name.
//! - `cli`: the command `ccg-session`.
//!
//! # Types of other crates
//! The interface names types of `http` 1 (`HeaderValue`, `Method`, `StatusCode`), `secrecy` 0.10 (`SecretString`),
//! `tokio` 1 (`runtime::Handle`) and, with the feature `http`, `reqwest` 0.13 (`Client`, for
//! [`http_client`](HttpTokenManagerBuilder::http_client)). The middleware adds `reqwest-middleware` 0.5, or `tower-layer` and
//! `tower-service` 0.3 and `http-body` 1. A breaking version of these is a breaking version of this crate.
//!
//! # Tracing
//! These names are part of the interface: the span `ccg_session.attempt` (fields `kind`, `attempt`, `outcome`),
//! the events `token.published` and `session.phase` (DEBUG), and `refresh.failed` (WARN), once for each series
//! of attempts that failed while callers go on with the token they have. Of the middleware: `token.withheld` (fields
//! `scheme`, `host`) and `token.refused` (`generation`, `again`), both DEBUG.

// docs.rs marks what a feature is needed for.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod actor;
mod asked;
mod clock;
mod config;
#[cfg(all(
    doc,
    feature = "http",
    feature = "metrics",
    feature = "pool",
    feature = "redis",
    feature = "reqwest-middleware",
    feature = "test-util",
    feature = "testing",
    feature = "tower"
))]
pub mod docs;
mod error;
mod foreign;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod grant;
mod handle;
#[cfg(feature = "http")]
mod http;
mod identity;
mod instant;
#[cfg(any(test, fuzzing))]
mod judge;
mod machine;
mod manager;
#[cfg(feature = "metrics")]
pub mod metrics;
mod news;
mod permit;
#[cfg(feature = "pool")]
mod pool;
mod request;
mod session;
mod snapshot;
mod status;
#[cfg(feature = "store")]
mod store;
mod token;

#[cfg(any(feature = "reqwest-middleware", feature = "tower"))]
pub mod middleware;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;

/// The tests of `tests/` share some of theirs with those in here.
#[cfg(test)]
extern crate self as ccg_session;

#[cfg(feature = "http")]
pub use crate::http::{
    AssertionAudience, ClientAuth, Credential, DpopKey, Endpoints, HttpTokenManager,
    HttpTokenManagerBuilder, Introspection, JwtAlgorithm, JwtAuth, Provider, Subject,
};
pub use config::{RefreshMode, RetryPolicy, SessionConfig};
pub use error::{ConfigError, SessionError, TokenError};
pub use grant::{Grant, TokenText};
pub use handle::{GetToken, SessionHandle};
pub use identity::Identity;
pub use machine::{Counters, Phase};
pub use manager::{BoxTokenManager, TokenManager};
pub use news::NewsSender;
pub use permit::Permit;
#[cfg(feature = "pool")]
pub use pool::{PoolError, PoolStatus, SessionPool, SessionPoolBuilder};
pub use request::{Actor, ExchangeRequest, GrantRequest, PermitRequest, TokenRequestOptions};
pub use session::{Session, SessionBuilder};
pub use status::{Status, StatusSubscription};
#[cfg(all(feature = "store", target_os = "linux"))]
pub use store::FileStore;
#[cfg(feature = "store")]
pub use store::{
    Buried, Fleet, FleetBuilder, FleetCounts, Found, Heard, Id, LEASE, Record, Sealed,
    SharedTokenManager, SharedTokenManagerBuilder, Slot, Store, StoreError, StoreTime, Taken, Want,
};
#[cfg(feature = "redis")]
pub use store::{RedisStore, RedisStoreBuilder};
pub use token::{AccessToken, ExchangedToken, Issued, TokenId};

/// The README's examples compile, and run where they can.
#[cfg(all(
    doctest,
    feature = "http",
    feature = "pool",
    feature = "redis",
    feature = "reqwest-middleware",
    feature = "testing"
))]
#[doc = include_str!("../README.md")]
struct Readme;
