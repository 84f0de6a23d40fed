//! Whom the connection trusts, and as whom it shows itself.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::{BuilderVerifierExt, Verifier};
use secrecy::{ExposeSecret, SecretString};

use super::crypto::tls_provider;
use super::keys::SigningKey;
use super::pem::tidied;
use crate::error::ConfigError;

/// As it was set; parsed when the manager is built.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// Trusted besides what the platform trusts, in PEM.
    pub(crate) roots: Vec<String>,
    /// Certificates and private key, in PEM.
    pub(crate) client: Option<(String, SecretString)>,
}

/// The name that errors give.
const CLIENT_CERTIFICATE: &str = "client_certificate";

/// Shows none of the PEM: there may be a key in the file of a certificate.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_client_certificate = self.client.is_some();
        write!(f, "Tls(roots: {}, client: {has_client_certificate})", self.roots.len())
    }
}

impl Tls {
    pub(super) fn is_default(&self) -> bool {
        self.roots.is_empty() && self.client.is_none()
    }

    /// rustls on this crate's crypto library. Given explicitly, since reqwest would otherwise use the
    /// process's default provider, and panics where there is none. A machine without CA certificates is
    /// fine as long as no TLS is `needed`.
    pub(crate) fn config(&self, needed: bool) -> Result<ClientConfig, ConfigError> {
        let failed = |error| {
            let problem = format!(
                "could not be made ({error}): install CA certificates, or give a client of yours"
            );
            ConfigError::new("http_client", problem)
        };
        let provider = Arc::new(tls_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let mut roots = Vec::new();
        for pem in &self.roots {
            roots.extend(certificates("root_certificate", pem)?);
        }
        let builder = if roots.is_empty() {
            match builder.clone().with_platform_verifier() {
                Err(_) if !needed => builder.with_root_certificates(RootCertStore::empty()),
                verified => verified.map_err(failed)?,
            }
        } else {
            let verifier = Verifier::new_with_extra_roots(roots, provider).map_err(|error| {
                ConfigError::new("root_certificate", format!("cannot be used ({error})"))
            })?;
            // rustls's word for a verifier that it has not made itself; this one checks all there is.
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        let Some((chain, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(CLIENT_CERTIFICATE, chain)?;
        let key = private_key(key.expose_secret())
            .map_err(|problem| ConfigError::new(CLIENT_CERTIFICATE, problem))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| {
            ConfigError::new(
                CLIENT_CERTIFICATE,
                format!("and its private key cannot be used ({error})"),
            )
        })
    }
}

/// That of a certificate, or what is wrong with it.
pub(super) fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    // The library's words about a key could hold a part of it.
    PrivateKeyDer::from_pem_slice(tidied(text).as_bytes()).map_err(|_| {
        let problem = SigningKey::parse(text, None).err();
        let problem =
            problem.unwrap_or("is not in PEM: write it as \"-----BEGIN PRIVATE KEY-----\"".into());
        format!("has a key that {problem}")
    })
}

fn certificates(
    setting: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(tidied(pem).as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            let problem = "has no certificate in it: give PEM (\"-----BEGIN CERTIFICATE-----\")";
            Err(ConfigError::new(setting, problem))
        }
        // Somebody may have given a key.
        Err(_) => Err(ConfigError::new(setting, "is broken PEM: is it whole?")),
    }
}
