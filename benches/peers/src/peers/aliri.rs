//! aliri_tokens: a watcher that has its first token before it exists, so it has no cold state.

use aliri_tokens::backoff::ErrorBackoffConfig;
use aliri_tokens::jitter::NullJitter;
use aliri_tokens::sources::oauth2::{ClientCredentialsTokenSource, dto};
use aliri_tokens::{
    AccessToken, ClientId, ClientSecret, TokenLifetimeConfig, TokenStatus, TokenWatcher,
};

use crate::harness::{Setting, Subject};

pub struct Aliri(TokenWatcher);

impl Subject for Aliri {
    const NAME: &'static str = "aliri_tokens";
    const REFRESHED_SOON: u64 = 4;
    type Token = AccessToken;
    type Error = &'static str;

    async fn new(setting: &Setting) -> Self {
        let credentials = dto::ClientCredentials {
            client_id: ClientId::from_static("id"),
            client_secret: ClientSecret::from_static("secret"),
        };
        let credentials = dto::ClientCredentialsWithAudience {
            credentials: credentials.into(),
            audience: aliri::jwt::Audience::from_static("audience"),
        };
        let source = ClientCredentialsTokenSource::new(
            reqwest012::Client::new(),
            setting.token_url.parse().unwrap(),
            credentials,
            // Stale after half of its life.
            TokenLifetimeConfig::new(0.5, aliri_clock::DurationSecs(1)),
        );
        let watcher = TokenWatcher::spawn_from_token_source(
            source.using_form_data(),
            NullJitter,
            ErrorBackoffConfig::default(),
        );
        Self(watcher.await.unwrap())
    }

    async fn get(&self) -> Result<AccessToken, &'static str> {
        let borrowed = self.0.token();
        match borrowed.token_status() {
            TokenStatus::Expired => Err("expired"),
            _ => Ok(borrowed.access_token().to_owned()),
        }
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        matches!(scenario, "hot" | "paced" | "tight")
    }
}
