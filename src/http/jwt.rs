//! JSON Web Tokens in their compact form (RFC 7515 §7.1): assertions, proofs, Box's actor tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use secrecy::SecretString;
use serde_json::Value;

use super::crypto::library::rand::{SecureRandom, SystemRandom};

/// Of JSON: an answer, or a part of a JWT.
pub(super) type Object = serde_json::Map<String, Value>;

/// What `sign` makes of the JWT's signing input (RFC 7515 §5.1) goes behind it: of an unsigned one nothing
/// (RFC 7519 §6). `header` says what there is beside `alg`.
pub(super) fn encode<E>(
    algorithm: &str,
    mut header: Object,
    claims: Object,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<SecretString, E> {
    header.insert("alg".into(), algorithm.into());
    let [header, claims] =
        [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(Value::Object(part).to_string()));
    let mut jwt = format!("{header}.{claims}");
    let signature = sign(jwt.as_bytes())?;
    jwt.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut jwt);
    Ok(jwt.into())
}

/// A name that no other JWT has: 128 random bits.
pub(super) fn jti() -> Result<String, String> {
    let mut bits = [0; 16];
    let failed = |_| "could not be used: the system gives no randomness".to_owned();
    SystemRandom::new().fill(&mut bits).map_err(failed)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bits))
}

/// Now, as a JWT counts it (RFC 7519 §2: `NumericDate`), by this machine's clock.
pub(super) fn numeric_date() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
