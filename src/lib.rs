//! An OAuth 2.0 token session for async Rust.
mod clock;
mod config;
mod error;
#[cfg(feature = "http")]
mod http;
mod machine;
mod manager;
mod token;

#[cfg(feature = "http")]
pub use crate::http::{ClientAuth, HttpTokenManager, HttpTokenManagerBuilder, Provider, Subject};
pub use config::{RefreshMode, RetryPolicy, SessionConfig};
pub use error::{ConfigError, SessionError, TokenError};
pub use manager::*;
pub use manager::{Actor, ExchangeRequest, Grant, GrantRequest, TokenManager, TokenRequestOptions};
pub use token::*;
pub use token::{AccessToken, ExchangedToken, TokenId};
