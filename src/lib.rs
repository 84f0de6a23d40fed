//! An OAuth 2.0 token session for async Rust.

mod actor;
mod clock;
mod config;
mod error;
mod handle;
mod machine;
mod manager;
mod session;
mod snapshot;
mod status;
mod token;

#[cfg(feature = "testing")]
pub mod testing;

pub use config::{RefreshMode, RetryPolicy, SessionConfig};
pub use error::{ConfigError, SessionError, TokenError};
pub use handle::SessionHandle;
pub use machine::{Counters, Phase};
pub use manager::{Actor, ExchangeRequest, Grant, GrantRequest, TokenManager, TokenRequestOptions};
pub use session::{Session, SessionBuilder};
pub use status::{Status, StatusSubscription};
pub use token::{AccessToken, ExchangedToken, TokenId, TokenText};
