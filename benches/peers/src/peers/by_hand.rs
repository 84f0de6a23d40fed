//! The `oauth2` crate with a typical hand-written cache.

use std::time::{Duration, Instant};

use oauth2::basic::{BasicClient, BasicRequestTokenError};
use oauth2::{
    AccessToken, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpClientError,
    TokenResponse, TokenUrl,
};
use tokio::sync::RwLock;

use crate::harness::{Setting, Subject};

type Client =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

pub struct ByHand {
    client: Client,
    http: reqwest012::Client,
    token: RwLock<Option<Token>>,
}

struct Token {
    text: AccessToken,
    until: Instant,
}

impl Token {
    fn usable(token: Option<&Self>) -> Option<AccessToken> {
        token.filter(|token| Instant::now() < token.until).map(|token| token.text.clone())
    }
}

impl Subject for ByHand {
    const NAME: &'static str = "oauth2 + RwLock<Option<Token>>";
    const REFRESHED_SOON: u64 = 62;
    type Token = AccessToken;
    type Error = BasicRequestTokenError<HttpClientError<reqwest012::Error>>;

    async fn new(setting: &Setting) -> Self {
        let client = BasicClient::new(ClientId::new("id".into()))
            .set_client_secret(ClientSecret::new("secret".into()))
            .set_token_uri(TokenUrl::new(setting.token_url.clone()).unwrap());
        let http = reqwest012::Client::builder()
            .redirect(reqwest012::redirect::Policy::none())
            .build()
            .unwrap();
        Self { client, http, token: RwLock::new(None) }
    }

    async fn get(&self) -> Result<AccessToken, Self::Error> {
        if let Some(token) = Token::usable(self.token.read().await.as_ref()) {
            return Ok(token);
        }
        let mut current = self.token.write().await;
        if let Some(token) = Token::usable(current.as_ref()) {
            return Ok(token);
        }
        let granted = self.client.exchange_client_credentials().request_async(&self.http).await?;
        let life = granted.expires_in().unwrap_or(Duration::from_secs(300));
        let text = granted.access_token().clone();
        // A minute early.
        let until = Instant::now() + life - Duration::from_secs(60);
        *current = Some(Token { text: text.clone(), until });
        Ok(text)
    }
}
