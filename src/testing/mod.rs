//! An OAuth 2.0 authority for tests: a real HTTP server on loopback, in the test process, that can be made to
//! fail in the ways that real servers do. Enable the feature `testing` under `[dev-dependencies]`.
//!
//! ```
//! use std::time::Duration;
//! use ccg_session::testing::{Answer, Authority, Fault, Kind, Rule, Script};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let authority = Authority::start().await?;
//! // Point the code under test at these:
//! let _ = (authority.token_url(), authority.client_id(), authority.client_secret());
//!
//! // Every setting has a default.
//! let authority = Authority::builder()
//!     .client("my-app", "s3cret")
//!     .ttl(Duration::from_secs(5))
//!     .script(Script::new().rule(
//!         Rule::new(Kind::Grant)
//!             .requests(1..=2)
//!             .fault(Answer::new(http::StatusCode::SERVICE_UNAVAILABLE)),
//!     ))
//!     .start()
//!     .await?;
//! assert_eq!(authority.counts().grants, 0);
//!
//! // While it runs:
//! authority.fail(Kind::Grant, Fault::Drop);
//! authority.heal();
//! # Ok(()) }
//! ```
//!
//! # Endpoints
//! | endpoint | does | checks |
//! |---|---|---|
//! | `POST /oauth2/token` | grants with `client_credentials` (RFC 6749 §4.4) | the client, by `client_secret_basic`, `_post` or `_jwt` or by `private_key_jwt` (RFC 7523: signature, `iss`, `sub`, `aud`, `exp`, and a `jti` once), or by its certificate (RFC 8705); a proof that it holds a key, if it sends one, to which the token is then bound (RFC 9449); `box_subject_type` and `box_subject_id`, if sent or required; the scopes |
//! | the same | exchanges (RFC 8693) | besides the client: that the subject token is alive and has the scopes asked for, the token types, the shape of an actor token, that each `resource` is an absolute URI |
//! | `POST /oauth2/revoke` | revokes (RFC 7009): 200 for any token | the client |
//! | `POST /oauth2/introspect` | says whether a token is active (RFC 7662) | the client |
//! | `GET /.well-known/oauth-authorization-server` | returns its endpoint URLs (RFC 8414) | |
//! | `GET /2.0/users/me` | accepts requests with a valid token (RFC 6750) | that the token is known, not expired, not revoked, and has the scopes that the query's `scope` names; of one that is bound, the proof |
//!
//! A refused client gets 401 `invalid_client`, any other refusal of the first four rows is a 400 with an OAuth
//! error. An exchanged token has the same lifetime as any other, and is not revoked together with its subject.
//! The resource answers 401 with a `Bearer` challenge (RFC 6750 §3), or 403 if scopes are missing. The JSON of
//! a 401 says in `refused` what the token is (`unknown`, `expired`, `revoked`), in `received_at_ns` when the
//! request had arrived, and in `revoked_at_ns` when the token was revoked, both on the clock of
//! [`Authority::elapsed`].
//!
//! Signatures are verified only with the feature `http`, which provides the crypto library.
//!
//! It answers to `127.0.0.1`, `[::1]` and `localhost` alone as `Host` (else 421), takes at most 1 MiB and 256
//! parameters (else 413), has at most 4,096 connections at once (others wait), and emits a `tracing` event at
//! `DEBUG` for each request. It forgets a token at least one minute after its expiry.
//!
//! # Time
//! The authority's clock is tokio's ([`tokio::time::Instant`]), as is that of a session with the feature
//! `test-util`: then tokens age together with the session that uses them. Note that *paused* time does not work
//! well with real sockets: when every task waits for one, tokio considers the runtime idle and advances time to
//! the next timer, so that time-outs fire while a response is in transit. Run the authority on real time, with
//! short token lifetimes. For paused time, write a [`TokenManager`](crate::TokenManager) of your own.

mod authority;
mod client;
mod counts;
mod endpoints;
#[cfg(feature = "http")]
mod proof;
mod reply;
mod script;
mod server;
mod state;
mod tokens;

pub use authority::{Authority, AuthorityBuilder, Gate};
pub use counts::{Counts, Kind, ReceivedRequest};
pub use script::{Answer, Fault, Rule, Script};
