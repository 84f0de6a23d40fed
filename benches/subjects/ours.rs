//! This crate, as its users have it.

use ccg_session::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, HttpTokenManager, Provider, SessionConfig,
    SessionError, SessionHandle, TokenError, TokenManager,
};
use http::HeaderValue;
use std::time::Duration;

use crate::harness::{Setting, Subject};

pub fn manager(token_url: &str) -> HttpTokenManager {
    HttpTokenManager::builder(Provider::generic(token_url), "id", "secret").build().unwrap()
}

pub fn spawn(manager: impl TokenManager, config: SessionConfig) -> SessionHandle {
    ccg_session::Session::builder(manager).config(config).spawn().unwrap()
}

/// `get_token().await`.
pub struct Session(pub SessionHandle);

impl Subject for Session {
    const NAME: &'static str = "ccg-session";
    // At most half of a token's life is stale, and up to a tenth of that half more.
    const REFRESHED_SOON: u64 = 4;
    type Token = AccessToken;
    type Error = SessionError;

    async fn new(setting: &Setting) -> Self {
        Self(spawn(manager(&setting.token_url), SessionConfig::default()))
    }

    async fn get(&self) -> Result<AccessToken, SessionError> {
        self.0.get_token().await
    }
}

/// `try_token()`.
pub struct TryToken(SessionHandle);

impl Subject for TryToken {
    const NAME: &'static str = "ccg-session, try_token";
    type Token = AccessToken;
    type Error = &'static str;

    async fn new(setting: &Setting) -> Self {
        let session = spawn(manager(&setting.token_url), SessionConfig::default());
        session.get_token().await.unwrap();
        Self(session)
    }

    async fn get(&self) -> Result<AccessToken, &'static str> {
        self.0.try_token().ok_or("no token")
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// What goes into a request: `get_token().await`, and its header's value to keep.
pub struct Header(SessionHandle);

impl Subject for Header {
    const NAME: &'static str = "ccg-session, header value cloned";
    type Token = HeaderValue;
    type Error = SessionError;

    async fn new(setting: &Setting) -> Self {
        Self(spawn(manager(&setting.token_url), SessionConfig::default()))
    }

    async fn get(&self) -> Result<HeaderValue, SessionError> {
        Ok(self.0.get_token().await?.header_value().clone())
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// Grants and exchanges at once, in this process: where the endpoint is not what is measured.
pub struct InProcess {
    pub token_length: usize,
}

impl TokenManager for InProcess {
    async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("x".repeat(self.token_length))?.expires_in(Duration::from_secs(3_600)))
    }

    async fn exchange(
        &self,
        _subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        Ok(Grant::bearer(request.scopes.concat())?.expires_in(Duration::from_secs(3_600)))
    }

    fn can_exchange(&self) -> bool {
        true
    }
}
