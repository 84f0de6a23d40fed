//! An OAuth 2.0 token session for async Rust.

mod actor;
mod clock;
mod config;
mod error;
mod handle;
#[cfg(feature = "http")]
mod http;
mod machine;
mod manager;
mod session;
mod snapshot;
mod status;
mod token;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "http")]
pub use crate::http::{ClientAuth, HttpTokenManager, HttpTokenManagerBuilder, Provider, Subject};
pub use config::{RefreshMode, RetryPolicy, SessionConfig};
pub use error::{ConfigError, SessionError, TokenError};
pub use handle::SessionHandle;
pub use machine::{Counters, Phase};
pub use manager::{Actor, ExchangeRequest, Grant, GrantRequest, TokenManager, TokenRequestOptions};
pub use session::{Session, SessionBuilder};
pub use status::{Status, StatusSubscription};
pub use token::{AccessToken, ExchangedToken, TokenId, TokenText};
