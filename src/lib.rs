//! An OAuth 2.0 token session for async Rust. Give it client credentials once; every task then asks a cheap
//! handle for an access token that is usable right away.
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
//!         let token = session.get_token().await?; // one grant request serves all 100 tasks
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
//! It is *fresh* until [`stale_buffer`](SessionConfig::stale_buffer) before its expiry. *Stale*, it is still
//! given out while one request for a new one runs in the background. In its last seconds
//! ([`expired_buffer`](SessionConfig::expired_buffer)) callers are *held* until the new token arrives. If that
//! request fails, they and all later callers get the old token until it expires. No caller waits before that
//! period (unless [`min_remaining`](TokenRequestOptions::min_remaining) asks for more), and no caller gets an
//! error while there is an unexpired token.
//!
//! # What you can rely on
//! - At most one grant request is on the wire, however many callers wait. Cancelling one caller does not cancel
//!   the request for others.
//! - A failing server receives no more requests than a single caller would send: retries are spaced, and after
//!   a failed series callers without a token get the last error at once until it is [time](RetryPolicy) to try
//!   again. Whatever callers do, at least one second passes between receiving a token and requesting the next.
//! - No failure is permanent: a session recovers without intervention.
//! - After [`revoke`](SessionHandle::revoke) no caller gets an earlier token, not even one whose request was in
//!   flight.
//! - After [`invalidate`](SessionHandle::invalidate) the same task does not get the refused token again, unless
//!   this is the second refusal within 10 seconds. The return value tells you which case applies. (A server may
//!   answer the next request with the same string: that is a new token to the session.)
//! - A panic in your code (a manager, an error's `Display`, a waker, a tracing subscriber) does not end the
//!   session. An attempt that panics counts as failed.
//! - The clock includes time spent suspended (on Linux) and is independent of the wall clock.
//! - Secrets and tokens never appear in `Debug` output, errors or logs.
//!
//! # What it does not do
//! - It does not log users in or open a browser: it is for services.
//! - It does not notice that a resource server rejects a token until you tell it
//!   ([`invalidate`](SessionHandle::invalidate)).
//! - If a token response never arrives, the session does not know that token and cannot revoke it.
//!
//! # Features
//! - `http` (default): [`HttpTokenManager`], for Box and other OAuth 2.0 servers that support the client
//!   credentials grant. Without it, you implement [`TokenManager`] yourself, and the crate compiles without an
//!   HTTP client or TLS.
//! - `aws-lc` (default) or `ring`: the crypto library under `http`, for TLS and for keys. `aws-lc` is also
//!   reqwest's default, so it adds no second crypto library to a program that uses reqwest. `ring` is for a
//!   program that installs ring as the process-wide provider: `default-features = false, features = ["http",
//!   "ring"]`.
//! - `reqwest-middleware`, `tower`: middleware that adds the token to requests and handles 401s (module
//!   `middleware`).
//! - `testing`: an embedded authority for your own tests (module `testing`). For `[dev-dependencies]`.
//! - `test-util`: the session's clock follows tokio's paused time (module `test_util`). For
//!   `[dev-dependencies]`; only needed if you pause tokio's time.
//! - `store`: one token for many processes ([`Fleet`]), over a directory ([`FileStore`], on Linux) or a store of
//!   your own. `redis`: over Redis or Valkey as well ([`RedisStore`]). Both include `http`.
//! - `pool`: [`SessionPool`], one session per tenant, with a shared limit on requests to the server.
//! - `metrics`: counters, gauges and histograms for sessions and pools (module `metrics`), through the
//!   `metrics` facade.
//! - `socks`: SOCKS proxies.
//! - `cli`: the command `ccg-session`.
//!
//! # Types of other crates
//! The public API uses types from `http` 1 (`HeaderValue`, `Method`, `StatusCode`), `secrecy` 0.10
//! (`SecretString`), `serde` 1 ([`SessionConfig`] implements its traits), `tokio` 1 (`runtime::Handle`) and, with the feature `http`, `reqwest` 0.13 (`Client`, for
//! [`http_client`](HttpTokenManagerBuilder::http_client)). The middleware adds `reqwest-middleware` 0.5, or
//! `tower-layer` and `tower-service` 0.3 and `http-body` 1. A breaking release of any of these means a breaking
//! release of this crate.
//!
//! # Tracing
//! These names are part of the interface: the span `ccg_session.attempt` (fields `kind`, `attempt`, `outcome`),
//! the events `token.published` and `session.phase` (DEBUG), and `refresh.failed` (WARN), once for each series
//! of attempts that failed while callers go on with the token they have. With `http`: `http.request` (DEBUG), once for
//! each request. Of the middleware: `token.withheld` (fields
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
