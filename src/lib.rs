//! An OAuth 2.0 token session for async Rust.
mod clock;
mod config;
mod error;
mod machine;
mod manager;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use config::{RefreshMode, RetryPolicy, SessionConfig};
pub use error::{ConfigError, SessionError, TokenError};
pub use manager::*;
pub use manager::{Actor, ExchangeRequest, Grant, GrantRequest, TokenManager, TokenRequestOptions};
pub use token::*;
pub use token::{AccessToken, ExchangedToken, TokenId};
