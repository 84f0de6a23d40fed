//! An OAuth 2.0 token session for async Rust.

mod clock;
mod config;
mod error;
mod machine;
mod manager;
mod token;

#[cfg(feature = "testing")]
pub mod testing;

pub use config::{RefreshMode, RetryPolicy, SessionConfig};
pub use error::{ConfigError, SessionError, TokenError};
pub use machine::{Counters, Phase};
pub use manager::{Actor, ExchangeRequest, Grant, GrantRequest, TokenManager, TokenRequestOptions};
pub use token::{AccessToken, ExchangedToken, TokenId, TokenText};
