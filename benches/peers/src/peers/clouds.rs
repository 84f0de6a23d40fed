//! google-cloud-auth and azure_identity.

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request, Transport, headers::Headers};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use google_cloud_auth::credentials::{AccessToken, AccessTokenCredentials, user_account};

use crate::harness::{Setting, Subject};

/// A user's credential, since its token URL can be set. A task refreshes it, from its construction on.
pub struct Google(AccessTokenCredentials);

impl Subject for Google {
    const NAME: &'static str = "google-cloud-auth";
    const REFRESHED_SOON: u64 = 242;
    type Token = AccessToken;
    type Error = google_cloud_auth::errors::CredentialsError;

    async fn new(setting: &Setting) -> Self {
        let credential = serde_json::json!({
            "type": "authorized_user",
            "client_id": "id",
            "client_secret": "secret",
            "refresh_token": "refresh",
        });
        let builder = user_account::Builder::new(credential).with_token_uri(&setting.token_url);
        Self(builder.build_access_token_credentials().unwrap())
    }

    async fn get(&self) -> Result<AccessToken, Self::Error> {
        self.0.access_token().await
    }
}

/// It requires `https:`, so its transport is replaced with one that posts to our endpoint.
pub struct Azure(Arc<ClientSecretCredential>);

impl Subject for Azure {
    const NAME: &'static str = "azure_identity";
    const REFRESHED_SOON: u64 = 302;
    type Token = azure_core::credentials::AccessToken;
    type Error = Error;

    async fn new(setting: &Setting) -> Self {
        // The time-outs of azure_core's own transport.
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        let transport = ToEndpoint { client, token_url: setting.token_url.clone() };
        let mut options = ClientSecretCredentialOptions::default();
        options.client_options.transport = Some(Transport::new(Arc::new(transport)));
        let secret = "secret".to_owned().into();
        Self(ClientSecretCredential::new("tenant", "id".into(), secret, Some(options)).unwrap())
    }

    async fn get(&self) -> Result<Self::Token, Error> {
        self.0.get_token(&["scope"], None).await
    }
}

#[derive(Debug)]
struct ToEndpoint {
    client: reqwest::Client,
    token_url: String,
}

#[async_trait::async_trait]
impl HttpClient for ToEndpoint {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else { unreachable!("a form is not streamed") };
        let io = |error: reqwest::Error| Error::new(ErrorKind::Io, error);
        let request = self
            .client
            .post(&self.token_url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.clone());
        let response = request.send().await.map_err(io)?;
        let status = response.status().as_u16().into();
        let body = response.bytes().await.map_err(io)?;
        Ok(AsyncRawResponse::from_bytes(status, Headers::new(), body))
    }
}
