//! Tokens that only the holder of a key can use (RFC 9449).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ::http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use super::address::without_secrets;
use super::jwt::{self, Object};
use super::keys::{self, SigningKey};
use super::limits::DATED_BACK;
use super::names::DPOP_NONCE;
use crate::error::ConfigError;
use crate::grant::ProofKey;

/// The key that a session's tokens are bound to (`DPoP`, RFC 9449). A stolen token is useless without the key.
///
/// Give it to [`HttpTokenManagerBuilder::dpop`](crate::HttpTokenManagerBuilder::dpop). Then every
/// request for a token carries a proof, and so must every request that uses one:
///
/// ```
/// use ccg_session::{AccessToken, DpopKey};
///
/// fn request(token: &AccessToken) -> Result<http::Request<()>, Box<dyn std::error::Error>> {
///     let url = "https://api.example.com/files?limit=10";
///     let mut request = http::Request::get(url);
///     if let Some(proof) = token.proof(&http::Method::GET, url)? {
///         request = request.header("DPoP", proof); // a new one for each request
///     }
///     let request = request.header("Authorization", token.header_value()); // "DPoP …"
///     Ok(request.body(())?)
/// }
/// # let _ = (request, DpopKey::generate()?);
/// # Ok::<(), ccg_session::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct DpopKey(Arc<SigningKey>);

impl DpopKey {
    /// Generates a new ES256 key. It is lost when the program ends: the next run cannot use tokens bound to it.
    ///
    /// # Errors
    /// If the system has no randomness available.
    pub fn generate() -> Result<Self, ConfigError> {
        Self::from(SigningKey::generate())
    }

    /// This private key: PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted) or a JWK. The algorithm is the JWK's
    /// `alg`, else the usual one for the key.
    ///
    /// # Errors
    /// If it is not a key, or is of an unsupported kind.
    pub fn parse(key: impl Into<SecretString>) -> Result<Self, ConfigError> {
        Self::from(SigningKey::parse(key.into().expose_secret(), None))
    }

    fn from(key: Result<SigningKey, String>) -> Result<Self, ConfigError> {
        match key {
            Ok(key) => Ok(Self(Arc::new(key))),
            Err(problem) => Err(ConfigError::new("dpop", problem)),
        }
    }

    /// The key's thumbprint (RFC 7638), which a bound token contains as `cnf.jkt`.
    pub fn thumbprint(&self) -> String {
        self.0.thumbprint()
    }
}

impl ProofKey for DpopKey {
    fn proof(
        &self,
        method: &Method,
        url: &str,
        token: Option<&str>,
        nonce: Option<&str>,
    ) -> Result<HeaderValue, ConfigError> {
        self.proof_at(jwt::numeric_date(), method, url, token, nonce)
    }
}

impl DpopKey {
    /// A proof for one request (RFC 9449 §4.2), with the token that it uses, if any.
    fn proof_at(
        &self,
        now: u64,
        method: &Method,
        url: &str,
        token: Option<&str>,
        nonce: Option<&str>,
    ) -> Result<HeaderValue, ConfigError> {
        let refuse = |problem: &str| {
            let problem = format!("is {:?}, {problem}", without_secrets(url));
            ConfigError::new("url", problem)
        };
        let mut target = Url::parse(url)
            .map_err(|_| refuse("which is not a URL: give the whole address of the request"))?;
        if !matches!(target.scheme(), "https" | "http") {
            return Err(refuse("but must begin with https://"));
        }
        // It is no part of a request's target (RFC 9110 §4.2.4). No URL with a host refuses this.
        let _ = target.set_username("").and(target.set_password(None));
        target.set_query(None);
        target.set_fragment(None);
        let failed = |problem| ConfigError::new("dpop", problem);
        let header = Object::from_iter([
            ("typ".to_owned(), json!("dpop+jwt")),
            ("jwk".to_owned(), self.0.public_jwk().into()),
        ]);
        let mut claims = Object::from_iter([
            ("jti".to_owned(), json!(jwt::jti().map_err(failed)?)),
            ("htm".to_owned(), json!(method.as_str())),
            ("htu".to_owned(), json!(target.as_str())),
            ("iat".to_owned(), json!(now.saturating_sub(DATED_BACK))),
        ]);
        claims.extend(token.map(|token| ("ath".to_owned(), json!(keys::sha256(token)))));
        claims.extend(nonce.map(|nonce| ("nonce".to_owned(), json!(nonce))));
        let proof = self.0.jwt(header, claims).map_err(failed)?;
        // It is base64url and two dots.
        let mut proof = HeaderValue::try_from(proof.expose_secret())
            .map_err(|_| failed("made a proof that fits no header".into()))?;
        proof.set_sensitive(true);
        Ok(proof)
    }
}

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DpopKey({})", self.thumbprint())
    }
}

/// The key, and what the server last wanted to see in a proof.
#[derive(Debug)]
pub(super) struct Dpop {
    pub(super) key: DpopKey,
    nonce: Mutex<Option<String>>,
}

impl Dpop {
    pub(super) fn new(key: DpopKey) -> Self {
        Self { key, nonce: Mutex::new(None) }
    }

    /// For one request at the token endpoint, at this time by the server's clock; with the nonce that was
    /// told to this request, else the last one that was told to any.
    pub(super) fn proof(
        &self,
        url: &Url,
        now: u64,
        told: Option<&str>,
    ) -> Result<HeaderValue, ConfigError> {
        let last = || self.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nonce = told.map(str::to_owned).or_else(last);
        self.key.proof_at(now, &Method::POST, url.as_str(), None, nonce.as_deref())
    }

    /// Keeps the nonce of an answer, any answer (RFC 9449 §8.2).
    pub(super) fn remember(&self, headers: &HeaderMap) {
        if let Some(nonce) = headers.get(DPOP_NONCE).and_then(|nonce| nonce.to_str().ok()) {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
    use serde_json::Value;

    use super::*;

    fn parts(proof: &HeaderValue) -> [Value; 2] {
        let mut parts = proof.to_str().unwrap().split('.');
        [(); 2].map(|()| {
            let part = BASE64_URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
            serde_json::from_slice(&part).unwrap()
        })
    }

    #[test]
    fn a_proof_names_the_request_the_key_and_the_token() {
        let key = DpopKey::parse(include_str!("../../tests/keys/p256.pem")).unwrap();
        let url = "https://API.example.com:443/files/1?limit=10#top";
        let proof = key.proof(&Method::GET, url, Some("the-token"), Some("n")).unwrap();
        assert!(proof.is_sensitive());
        let [header, mut claims] = parts(&proof);
        let jwk: Value = serde_json::from_str(include_str!("../../tests/keys/p256.jwk")).unwrap();
        let public = json!({ "kty": "EC", "crv": "P-256", "x": jwk["x"], "y": jwk["y"] });
        assert_eq!(header, json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": public }));
        let claims = claims.as_object_mut().unwrap();
        let jti = claims.remove("jti").unwrap();
        let issued = claims.remove("iat").unwrap().as_u64().unwrap();
        assert!((5..10).contains(&(jwt::numeric_date() - issued)), "dated back");
        // RFC 9449 §4.2: without query and fragment. `ath` was computed with OpenSSL.
        let expected = json!({
            "htm": "GET", "htu": "https://api.example.com/files/1", "nonce": "n",
            "ath": "wqc_z2HfvcrceaELozCy7162b8Cmc17Wm3lrs8l7l64",
        });
        assert_eq!(Value::Object(claims.clone()), expected);

        let with_password = "https://me:s3cr3t@api.example.com/files/1";
        let [_, claims] = parts(&key.proof(&Method::GET, with_password, None, None).unwrap());
        assert_eq!(claims["htu"], "https://api.example.com/files/1");

        let [_, claims] = parts(&key.proof(&Method::GET, url, None, None).unwrap());
        assert_ne!(claims["jti"], jti, "each has its own");
        assert!(claims.get("ath").is_none() && claims.get("nonce").is_none());
    }

    /// Another request may have been told a newer one meanwhile, which may be good for that one only.
    #[test]
    fn a_proof_repeats_the_nonce_that_was_told_to_its_own_request() {
        let dpop = Dpop::new(DpopKey::generate().unwrap());
        let url = Url::parse("https://as.example.com/token").unwrap();
        let nonce = |told| parts(&dpop.proof(&url, 0, told).unwrap())[1]["nonce"].clone();
        assert_eq!(nonce(None), Value::Null);
        dpop.remember(&HeaderMap::from_iter([(DPOP_NONCE, "newer".parse().unwrap())]));
        assert_eq!((nonce(None), nonce(Some("own"))), (json!("newer"), json!("own")));
    }

    #[test]
    fn what_cannot_be_proved_is_refused() {
        let key = DpopKey::generate().unwrap();
        for (url, expected) in [
            ("/files?key=s3cr3t", "url is \"/files\", which is not a URL"),
            ("ftp://x.example/", "url is \"ftp://x.example/\", but must begin with https://"),
        ] {
            let error = key.proof(&Method::GET, url, None, None).unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains("s3cr3t"), "{error}");
        }
        let error = DpopKey::parse("s3cr3t").unwrap_err().to_string();
        assert!(error.starts_with("dpop is no private key"), "{error}");
        assert_eq!(format!("{key:?}"), format!("DpopKey({})", key.thumbprint()));
    }
}
