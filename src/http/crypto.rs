//! The crypto library, for TLS and for keys: the user's choice, by the features `aws-lc` and `ring`.
//! Where both are on, `aws-lc` counts: it is the one that reqwest has by default.

#[cfg(feature = "aws-lc")]
pub(crate) use aws_lc_rs as library;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
pub(crate) use ring as library;

#[cfg(not(any(feature = "ring", feature = "aws-lc")))]
compile_error!(
    "ccg-session: the feature `http` needs a crypto library: enable the feature `aws-lc` or `ring`"
);

use library::error::KeyRejected;
use library::signature::{EcdsaKeyPair, EcdsaSigningAlgorithm};

/// For TLS.
pub(super) fn tls_provider() -> rustls::crypto::CryptoProvider {
    #[cfg(feature = "aws-lc")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc"))]
    return rustls::crypto::ring::default_provider();
}

/// The only call that differs between the two.
pub(super) fn ec_key_pair(
    algorithm: &'static EcdsaSigningAlgorithm,
    private: &[u8],
    public: &[u8],
) -> Result<EcdsaKeyPair, KeyRejected> {
    #[cfg(feature = "aws-lc")]
    return EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public);
    #[cfg(not(feature = "aws-lc"))]
    return EcdsaKeyPair::from_private_key_and_public_key(
        algorithm,
        private,
        public,
        &library::rand::SystemRandom::new(),
    );
}
