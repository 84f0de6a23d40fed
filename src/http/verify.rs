//! What is signed, from the other side: for the authority that the feature `testing` has.

use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde_json::Value;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::crypto::library::hmac;
use super::crypto::library::signature::{
    self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use super::crypto::tls_provider;
use super::jwt::Object;
use super::keys::{SigningKey, sha256};
use super::tls::private_key;

/// The public half of a key, as a JWK: of a private key (PEM or JWK), or of a JWK that has no other.
pub(crate) fn public_jwk(key: &str) -> Result<Object, String> {
    match serde_json::from_str::<Object>(key) {
        Ok(jwk) if !jwk.contains_key("d") => {
            required(&jwk).ok_or_else(|| "is no JWK of a public key".into())
        }
        _ => SigningKey::parse(key, None).map(|key| key.public_jwk()),
    }
}

/// RFC 7638. `None` of what is no public key.
pub(crate) fn thumbprint(jwk: &Object) -> Option<String> {
    Some(sha256(&Value::Object(required(jwk)?).to_string()))
}

/// As `ath` wants it (RFC 9449 §4.1).
pub(crate) fn hash(token: &str) -> String {
    sha256(token)
}

/// Whether the holder of this key has signed it so.
pub(crate) fn has_signed(jwk: &Object, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
    let bytes = |name| BASE64_URL_SAFE_NO_PAD.decode(jwk.get(name)?.as_str()?).ok();
    let text = |name| jwk.get(name).and_then(Value::as_str);
    let with = |algorithm: &'static dyn VerificationAlgorithm, key: Option<Vec<u8>>| {
        key.is_some_and(|key| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        })
    };
    // Uncompressed (SEC 1 §2.3.3).
    let point = || Some([vec![4], bytes("x")?, bytes("y")?].concat());
    let rsa = |parameters| {
        let (Some(n), Some(e)) = (bytes("n"), bytes("e")) else { return false };
        RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
    };
    match (text("kty"), text("crv"), algorithm) {
        (Some("RSA"), _, "RS256") => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        (Some("RSA"), _, "RS384") => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        (Some("RSA"), _, "RS512") => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        (Some("RSA"), _, "PS256") => rsa(&signature::RSA_PSS_2048_8192_SHA256),
        (Some("EC"), Some("P-256"), "ES256") => with(&signature::ECDSA_P256_SHA256_FIXED, point()),
        (Some("EC"), Some("P-384"), "ES384") => with(&signature::ECDSA_P384_SHA384_FIXED, point()),
        (Some("OKP"), Some("Ed25519"), "EdDSA") => with(&signature::ED25519, bytes("x")),
        _ => false,
    }
}

/// Whether who knows this secret has signed it with HS256.
pub(crate) fn has_signed_with(secret: &str, message: &[u8], signature: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, message, signature).is_ok()
}

/// What a server shows and, of this CA, asks for; all in PEM.
pub(crate) fn server_config(
    certificate: &str,
    key: &str,
    client_ca: Option<&str>,
) -> Result<ServerConfig, String> {
    let certificates = |pem: &str| {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        found.map_err(|_| "is broken PEM".to_owned())
    };
    let failed = |error: &dyn std::fmt::Display| format!("cannot be used ({error})");
    let provider = Arc::new(tls_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
            // One that shows none may prove itself otherwise.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier.allow_unauthenticated().build();
            config.with_client_cert_verifier(verifier.map_err(|error| failed(&error))?)
        }
    };
    config
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .map_err(|error| failed(&error))
}

/// The members that a public key must have (RFC 7638 §3.2).
fn required(jwk: &Object) -> Option<Object> {
    let names: &[&str] = match jwk.get("kty")?.as_str()? {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => return None,
    };
    names.iter().map(|name| Some(((*name).to_owned(), jwk.get(*name)?.clone()))).collect()
}
