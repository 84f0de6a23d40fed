//! What an assertion says (RFC 7523 §3).

use serde_json::json;

use super::address::Address;
use super::blanks::{check_some, trimmed};
use super::credential::unusable;
use super::jwt::{self, Object};
use super::keys::JwtAlgorithm;
use super::limits::{ASSERTION_LIFE, DATED_BACK};
use crate::error::{ConfigError, TokenError};
use crate::identity::Identity;

/// What the assertions of [`SecretJwt`](crate::ClientAuth::SecretJwt) and
/// [`PrivateKeyJwt`](crate::ClientAuth::PrivateKeyJwt) say, besides what RFC 7523 §3 fixes: `iss` and `sub` are
/// the client id, `exp` is two minutes after `iat`, which lies 5 seconds back. If the `Date` of a refusal shows
/// that the server's clock differs, the next assertion is dated by the server's clock.
///
/// ```
/// use ccg_session::{AssertionAudience, ClientAuth, JwtAlgorithm, JwtAuth, Provider};
///
/// let provider = Provider::generic("https://login.example.com/token").client_auth(
///     ClientAuth::PrivateKeyJwt(
///         JwtAuth::new()
///             .algorithm(JwtAlgorithm::Ps256)
///             .key_id("2026-11")
///             .audience(AssertionAudience::value("https://login.example.com")),
///     ),
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtAuth {
    algorithm: Option<JwtAlgorithm>,
    key_id: Option<String>,
    audience: AssertionAudience,
    revocation_audience: Option<AssertionAudience>,
}

impl JwtAuth {
    pub(super) fn identify(&self, identity: Identity) -> Identity {
        // Which key signs, and how, is no part of the token, and a revocation is no grant.
        let Self { algorithm: _, key_id: _, audience, revocation_audience: _ } = self;
        match audience {
            AssertionAudience::Endpoint => identity.with("assertion_audience", "endpoint"),
            AssertionAudience::Issuer => identity.with("assertion_audience", "issuer"),
            AssertionAudience::Value(text) => identity.with("assertion_audience_value", text),
        }
    }

    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The signature algorithm. Default: the JWK's `alg`, else the usual one for the key (RS256, ES256, ES384,
    /// `EdDSA`). A secret always signs with HS256.
    #[must_use]
    pub fn algorithm(mut self, algorithm: JwtAlgorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// The header's `kid`: which of the client's keys this is. Default: the JWK's own, or none.
    #[must_use]
    pub fn key_id(mut self, id: impl Into<String>) -> Self {
        self.key_id = Some(id.into());
        self
    }

    /// The audience of the assertions (`aud`). Servers differ, and some compare it byte for byte. Default:
    /// [`AssertionAudience::Endpoint`].
    #[must_use]
    pub fn audience(mut self, audience: AssertionAudience) -> Self {
        self.audience = audience;
        self
    }

    /// The audience for revocations and [introspections](crate::HttpTokenManager::is_active). Default: the same
    /// as [`audience`](Self::audience).
    #[must_use]
    pub fn revocation_audience(mut self, audience: AssertionAudience) -> Self {
        self.revocation_audience = Some(audience);
        self
    }
}

/// The audience of an assertion (RFC 7523 §3, `aud`), which is the server. The audience of a token is
/// [`Provider::audience`](crate::Provider::audience), or that of an
/// [exchange](crate::ExchangeRequest::audience).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssertionAudience {
    /// The URL of the endpoint that the assertion is sent to, exactly as configured. For a client with a
    /// certificate that uses an mTLS alias (RFC 8705 §5), it is the regular endpoint's URL.
    #[default]
    Endpoint,
    /// The provider's issuer. Requires a [discovered](crate::Provider::discover) provider; any other is
    /// rejected in [`build`](crate::HttpTokenManagerBuilder::build).
    Issuer,
    /// This.
    Value(String),
}

impl AssertionAudience {
    /// This text.
    pub fn value(text: impl Into<String>) -> Self {
        Self::Value(text.into())
    }
}

/// Where a request goes, and so its assertion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint<'a> {
    pub(super) address: &'a Address,
    /// The issuer, if it is known.
    pub(super) issuer: Option<&'a str>,
    /// Requests for tokens go there, not revocations or introspections.
    pub(super) gives_tokens: bool,
}

impl JwtAuth {
    pub(super) fn get_algorithm(&self) -> Option<JwtAlgorithm> {
        self.algorithm
    }

    pub(super) fn get_key_id(&self) -> Option<&str> {
        self.key_id.as_deref().map(trimmed)
    }

    /// `has_issuer`: the provider knows its issuer.
    pub(super) fn check(&self, has_issuer: bool) -> Result<(), ConfigError> {
        for (setting, audience) in [
            ("assertion_audience", Some(&self.audience)),
            ("revocation_audience", self.revocation_audience.as_ref()),
        ] {
            match audience {
                Some(AssertionAudience::Issuer) if !has_issuer => {
                    return Err(ConfigError::new(
                        setting,
                        "is AssertionAudience::Issuer, but this provider's issuer is not known: give \
                         AssertionAudience::value(…)",
                    ));
                }
                Some(AssertionAudience::Value(text)) => {
                    check_some(text).map_err(|problem| ConfigError::new(setting, problem))?;
                }
                _ => {}
            }
        }
        let key_id = self.key_id.as_deref().map_or(Ok(()), check_some);
        key_id.map_err(|problem| ConfigError::new("key_id", problem))
    }

    /// The header and the claims of an assertion by this client (RFC 7523 §3), at this time by the server's
    /// clock. Each has a `jti` of its
    /// own, since a server may refuse one that it has seen.
    pub(super) fn assertion(
        &self,
        client_id: &str,
        key_id: Option<&str>,
        endpoint: Endpoint<'_>,
        now: u64,
    ) -> Result<(Object, Object), TokenError> {
        let audience = match &self.revocation_audience {
            Some(audience) if !endpoint.gives_tokens => audience,
            _ => &self.audience,
        };
        let audience = match audience {
            AssertionAudience::Endpoint => &endpoint.address.audience,
            AssertionAudience::Issuer => endpoint
                .issuer
                .ok_or_else(|| unusable("cannot be used: the issuer is not known".into()))?,
            AssertionAudience::Value(text) => trimmed(text),
        };
        let mut header = Object::from_iter([("typ".to_owned(), json!("JWT"))]);
        header.extend(key_id.map(|id| ("kid".to_owned(), json!(id))));
        let issued = now.saturating_sub(DATED_BACK);
        let claims = Object::from_iter([
            ("iss".to_owned(), json!(client_id)),
            ("sub".to_owned(), json!(client_id)),
            ("aud".to_owned(), json!(audience)),
            ("jti".to_owned(), json!(jwt::jti().map_err(unusable)?)),
            ("iat".to_owned(), json!(issued)),
            ("exp".to_owned(), json!(issued + ASSERTION_LIFE)),
        ]);
        Ok((header, claims))
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::check_url;
    use super::*;

    const NOW: u64 = 1_795_262_400;
    const TOKEN: &str = "https://login.example.com";
    const REVOCATION: &str = "https://login.example.com/revoke?x";

    /// The header and the claims of one that goes to this URL.
    fn assertion(jwt: &JwtAuth, url: &str) -> (Object, Object) {
        let address = check_url("token_url", url, false).unwrap();
        let (issuer, gives_tokens) = (Some("https://issuer.example"), url == TOKEN);
        let endpoint = Endpoint { address: &address, issuer, gives_tokens };
        jwt.assertion("id", jwt.get_key_id(), endpoint, NOW).unwrap()
    }

    #[test]
    fn an_assertion_says_who_for_whom_and_until_when() {
        let (header, mut claims) = assertion(&JwtAuth::new(), TOKEN);
        assert_eq!(json!(header), json!({ "typ": "JWT" }));
        let issued = NOW - 5;
        let jti = claims.remove("jti").unwrap();
        assert_eq!(
            json!(claims),
            json!({ "iss": "id", "sub": "id", "aud": TOKEN, "iat": issued, "exp": issued + 120 })
        );
        let (_, again) = assertion(&JwtAuth::new(), TOKEN);
        assert_ne!(again["jti"], jti, "each has its own");
    }

    #[test]
    fn the_audience_is_what_is_set_for_the_endpoint() {
        let (issuer, other) = ("https://issuer.example", "https://other.example/");
        let value = || JwtAuth::new().audience(AssertionAudience::value(other));
        for (jwt, token, revocation) in [
            (JwtAuth::new(), TOKEN, REVOCATION),
            (JwtAuth::new().audience(AssertionAudience::Issuer), issuer, issuer),
            (value(), other, other),
            (value().revocation_audience(AssertionAudience::Endpoint), other, REVOCATION),
        ] {
            for (url, expected) in [(TOKEN, token), (REVOCATION, revocation)] {
                let (_, claims) = assertion(&jwt, url);
                assert_eq!(claims["aud"], expected, "{jwt:?} {url}");
            }
        }
    }
}
