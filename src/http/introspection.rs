//! What a server says of a token (RFC 7662).

use serde_json::Value;

use super::HttpTokenManager;
use super::request::{Request, no_endpoint};
use super::wire::ServerAnswer;
use crate::error::TokenError;
use crate::request::TokenRequestOptions;

/// What a server says of a token (RFC 7662 §2.2): see [`HttpTokenManager::introspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Introspection {
    /// Whether it is of use now.
    pub active: bool,
    /// Its scopes, if the server names them.
    pub scope: Option<String>,
}

impl HttpTokenManager {
    /// As [`is_active`](Self::is_active), with what else the server says of the token.
    ///
    /// # Errors
    /// Those of [`is_active`](Self::is_active).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn introspect(&self, token: &str) -> Result<Introspection, TokenError> {
        let (credential, endpoints) = self.prepare().await?;
        let address =
            endpoints.introspection.as_ref().ok_or_else(|| no_endpoint("introspection"))?;
        let (endpoint, form) = (endpoints.other(address), vec![("token", token)]);
        let options = &TokenRequestOptions::default();
        let (secrets, credential) = (vec![token], credential.as_ref());
        let request = Request { endpoint, form, options, secrets, credential };
        self.ask(&request, |answer: &ServerAnswer<'_>| told(answer)).await
    }
}

fn told(answer: &ServerAnswer<'_>) -> Result<Introspection, TokenError> {
    let object = answer.metadata()?;
    let active = object.get("active").and_then(Value::as_bool);
    let active = active.ok_or_else(|| {
        TokenError::malformed("the answer does not say whether the token is active")
    })?;
    let scope = answer.scope(&object);
    Ok(Introspection { active, scope })
}
