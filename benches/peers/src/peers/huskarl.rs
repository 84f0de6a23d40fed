//! huskarl: its cache over a client-credentials grant.

use std::sync::Arc;
use std::time::Duration;

use huskarl::cache::{
    GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache, TokenSource,
};
use huskarl::core::EndpointUrl;
use huskarl::core::client_auth::ClientSecret;
use huskarl::core::secrets::{ProvidedSecret, SecretString};
use huskarl::grant::client_credentials::{
    ClientCredentialsGrant, ClientCredentialsGrantParameters,
};
use huskarl_reqwest::ReqwestClient;

use crate::harness::{Setting, Subject};

pub struct Huskarl(
    InMemoryTokenCache<GrantTokenSource<ClientCredentialsGrant, InMemoryRefreshTokenStore>>,
);

impl Subject for Huskarl {
    const NAME: &'static str = "huskarl";
    const REFRESHED_SOON: u64 = 64;
    type Token = Arc<huskarl::grant::core::TokenResponse>;
    type Error = huskarl::cache::TokenError;

    async fn new(setting: &Setting) -> Self {
        let secret = ProvidedSecret::new(SecretString::new("secret"));
        let grant = ClientCredentialsGrant::builder()
            .client_id("id")
            .http_client(ReqwestClient::from(reqwest::Client::new()))
            .client_auth(ClientSecret::new(secret))
            .token_endpoint(EndpointUrl::try_from(setting.token_url.as_str()).unwrap())
            .build();
        let source = GrantTokenSource::builder()
            .grant(grant)
            .grant_parameters(ClientCredentialsGrantParameters::builder().build())
            .refresh_store(InMemoryRefreshTokenStore::default())
            .build();
        let cache = InMemoryTokenCache::builder().source(source);
        Self(match setting.refreshes {
            false => cache.build(),
            // Without jitter, which would put a token this short inside its window from birth.
            true => cache.refresh_ahead(Duration::from_secs(62)).refresh_jitter(None).build(),
        })
    }

    async fn get(&self) -> Result<Self::Token, Self::Error> {
        self.0.token().await
    }
}
