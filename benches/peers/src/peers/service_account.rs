//! yup-oauth2 and gcp_auth, each with a service account whose token URL is our endpoint's.

use std::process::Command;
use std::sync::Arc;

use gcp_auth::{CustomServiceAccount, TokenProvider};
use yup_oauth2::ServiceAccountAuthenticator;
use yup_oauth2::authenticator::DefaultAuthenticator;

use crate::harness::{Setting, Subject};

/// The account's file, with a key made for this run.
fn account(setting: &Setting) -> String {
    let key = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output()
        .expect("openssl is on the path");
    let url = &setting.token_url;
    serde_json::json!({
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "key",
        "private_key": String::from_utf8(key.stdout).unwrap(),
        "client_email": "account@example.com",
        "client_id": "1",
        "auth_uri": url,
        "token_uri": url,
        "auth_provider_x509_cert_url": url,
        "client_x509_cert_url": url,
    })
    .to_string()
}

pub struct Yup(DefaultAuthenticator);

impl Subject for Yup {
    const NAME: &'static str = "yup-oauth2";
    const REFRESHED_SOON: u64 = 62;
    type Token = yup_oauth2::AccessToken;
    type Error = yup_oauth2::Error;

    async fn new(setting: &Setting) -> Self {
        let key = serde_json::from_str(&account(setting)).unwrap();
        Self(ServiceAccountAuthenticator::builder(key).build().await.unwrap())
    }

    async fn get(&self) -> Result<Self::Token, Self::Error> {
        self.0.token(&["scope"]).await
    }

    /// It sends a request for nearly each waiting caller.
    fn plays(scenario: &str, case: usize) -> bool {
        scenario != "stampede" || case <= 1_000
    }
}

pub struct Gcp(CustomServiceAccount);

impl Subject for Gcp {
    const NAME: &'static str = "gcp_auth";
    const REFRESHED_SOON: u64 = 22;
    type Token = Arc<gcp_auth::Token>;
    type Error = gcp_auth::Error;

    async fn new(setting: &Setting) -> Self {
        Self(CustomServiceAccount::from_json(&account(setting)).unwrap())
    }

    async fn get(&self) -> Result<Self::Token, Self::Error> {
        self.0.token(&["scope"]).await
    }
}
