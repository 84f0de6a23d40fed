//! How the client proves who it is (RFC 6749 §2.3).

use ::http::HeaderValue;
use base64::prelude::{BASE64_STANDARD, Engine};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::assertion::{Endpoint, JwtAuth};
use super::blanks::{check_word, trimmed};
use super::credential::{Credential, unusable};
use super::keys::{self, SigningKey};
use super::names::JWT_BEARER;
use crate::error::{ConfigError, TokenError};
use crate::identity::Identity;

/// How the client proves who it is (RFC 6749 §2.3). It is fixed, never probed: if the server refuses one
/// method, no other is tried.
///
/// The secret or key comes from the [`Credential`] that the manager is built with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// `client_id` and `client_secret` in the form (`client_secret_post`). The default, and Box's method.
    #[default]
    Post,
    /// In the `Authorization` header (`client_secret_basic`). Id and secret are form-encoded first, as the RFC
    /// requires (§2.3.1), with `%20` for a space: servers that decode accept it, and some reject `+`.
    Basic,
    /// As [`Basic`](Self::Basic), but not encoded before base64: for servers that do not decode it
    /// (glewlwyd, node-oauth). It makes no difference to letters, digits and `-._*`.
    BasicRaw,
    /// An assertion signed with the client's secret, using HS256 (`client_secret_jwt`, RFC 7523 §2.2). Each
    /// attempt uses a new assertion, valid for two minutes. RFC 7518 §3.2 requires a secret of at least 32
    /// bytes, and some servers reject a shorter one.
    SecretJwt(JwtAuth),
    /// An assertion signed with the client's private key (`private_key_jwt`, RFC 7523 §2.2). The credential is
    /// the private key: PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted) or a JWK. A new one for each attempt,
    /// good for two minutes.
    PrivateKeyJwt(JwtAuth),
    /// The credential is the assertion itself (RFC 7523 §2.2), one that a platform writes and rotates:
    /// a Kubernetes projected service account token, say, in a [file](Credential::file). An empty
    /// `client_id` is not sent.
    Assertion,
    /// The client certificate of the TLS connection (RFC 8705); only `client_id` is sent. Set it with the
    /// builder's [`client_certificate`](crate::HttpTokenManagerBuilder::client_certificate), or that of an
    /// [HTTP client of yours](crate::HttpTokenManagerBuilder::http_client), and there is no credential.
    TlsClient,
    /// No authentication, for a client without a secret: only `client_id` is sent, and there is no credential.
    None,
}

impl ClientAuth {
    /// Whether what it sends says when it was made.
    pub(super) fn depends_on_clock(&self) -> bool {
        matches!(self, Self::SecretJwt(_) | Self::PrivateKeyJwt(_))
    }

    /// What the credential must be, and the builder's name for it.
    fn wants(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Post | Self::Basic | Self::BasicRaw | Self::SecretJwt(_) => {
                Some(("client_secret", "the client's secret"))
            }
            Self::PrivateKeyJwt(_) => Some(("credential", "the client's private key")),
            Self::Assertion => Some(("credential", "an assertion")),
            Self::TlsClient | Self::None => None,
        }
    }

    /// Whether assertions can be made, as far as that is known without having read the key.
    fn check(&self, key: Option<&SecretString>, has_issuer: bool) -> Result<(), ConfigError> {
        let (Self::SecretJwt(jwt) | Self::PrivateKeyJwt(jwt)) = self else { return Ok(()) };
        jwt.check(has_issuer)?;
        match (self, jwt.get_algorithm(), key) {
            (Self::SecretJwt(_), Some(algorithm), _) => Err(ConfigError::new(
                "algorithm",
                format!("is {algorithm}, but a secret signs with HS256: leave it out"),
            )),
            (Self::PrivateKeyJwt(_), wanted, Some(key)) => {
                match SigningKey::parse(key.expose_secret(), wanted) {
                    Ok(_) => Ok(()),
                    Err(problem) => Err(ConfigError::new("credential", problem)),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whoever is sent a private key can be this client from then on; and as a secret it was never meant.
    fn refuse_private_key(&self, secret: &SecretString) -> Result<(), String> {
        match self {
            Self::PrivateKeyJwt(_) | Self::TlsClient | Self::None => Ok(()),
            _ if !keys::holds_private_key(secret.expose_secret()) => Ok(()),
            _ => Err(
                "is a private key: use ClientAuth::PrivateKeyJwt, which signs with it and does \
                      not send it"
                    .into(),
            ),
        }
    }

    /// One that was wrapped is not mended: in which words it was is not known.
    fn check_assertion(&self, secret: &SecretString) -> Result<(), String> {
        match self {
            Self::Assertion => {
                let assertion = trimmed(secret.expose_secret());
                if assertion.starts_with(['"', '\'']) {
                    return Err("has quotes around it: leave them out".into());
                }
                check_word(assertion)
            }
            _ => Ok(()),
        }
    }

    /// As it is written in a program.
    fn name(&self) -> &'static str {
        match self {
            Self::Post => "Post",
            Self::Basic => "Basic",
            Self::BasicRaw => "BasicRaw",
            Self::SecretJwt(_) => "SecretJwt",
            Self::PrivateKeyJwt(_) => "PrivateKeyJwt",
            Self::Assertion => "Assertion",
            Self::TlsClient => "TlsClient",
            Self::None => "None",
        }
    }
}

/// Who the client is, and how it says so.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    id: String,
    credential: Credential,
    auth: ClientAuth,
}

/// What one request says of the client.
pub(super) struct Proof {
    /// The `Authorization` header.
    pub(super) header: Option<HeaderValue>,
    form: Vec<(&'static str, SecretString)>,
    /// What is secret of it.
    secrets: Vec<SecretString>,
}

impl ClientIdentity {
    /// Who the client is. `None` where only its credential knows: an assertion names whom it is for, and a
    /// certificate is what its tokens may be bound to. The credential itself changes, and the token stays.
    pub(super) fn identify(&self, identity: Identity) -> Option<Identity> {
        let Self { id, credential: _, auth } = self;
        let identity = identity.with("client_id", id);
        Some(match auth {
            ClientAuth::Post => identity.with("client_auth", "post"),
            ClientAuth::Basic => identity.with("client_auth", "basic"),
            ClientAuth::BasicRaw => identity.with("client_auth", "basic_raw"),
            ClientAuth::SecretJwt(jwt) => jwt.identify(identity.with("client_auth", "secret_jwt")),
            ClientAuth::PrivateKeyJwt(jwt) => {
                jwt.identify(identity.with("client_auth", "private_key_jwt"))
            }
            ClientAuth::None => identity.with("client_auth", "none"),
            ClientAuth::Assertion | ClientAuth::TlsClient => return None,
        })
    }

    /// Checks what can be known before anything is sent. `has_issuer`: the provider knows its issuer.
    pub(super) fn new(
        id: &str,
        credential: Credential,
        auth: ClientAuth,
        has_issuer: bool,
    ) -> Result<Self, ConfigError> {
        let id = trimmed(id).to_owned();
        check_word(&id).map_err(|problem| ConfigError::new("client_id", problem))?;
        if id.is_empty() && auth != ClientAuth::Assertion {
            return Err(ConfigError::new(
                "client_id",
                "is empty: give the id that the server knows this client by",
            ));
        }
        if id.contains(':') && auth == ClientAuth::BasicRaw {
            return Err(ConfigError::new(
                "client_id",
                format!("is {id:?}, and the colon would end it there: use ClientAuth::Basic"),
            ));
        }
        let name = auth.name();
        let Some((setting, wanted)) = auth.wants() else {
            if credential.is_none() {
                return Ok(Self { id, credential, auth });
            }
            let problem = format!(
                "would not be used, since ClientAuth::{name} sends none: give Credential::none(), or \
                 another client_auth"
            );
            return Err(ConfigError::new("credential", problem));
        };
        let refuse = |problem| {
            let problem = format!("{problem}, but ClientAuth::{name} needs {wanted}");
            ConfigError::new(setting, problem)
        };
        if credential.is_none() {
            return Err(refuse("is none".into()));
        }
        let known = credential.known().map_err(refuse)?;
        if let Some(secret) = &known {
            let checked =
                auth.refuse_private_key(secret).and_then(|()| auth.check_assertion(secret));
            checked.map_err(|problem| ConfigError::new(setting, problem))?;
        }
        auth.check(known.as_ref(), has_issuer)?;
        Ok(Self { id, credential, auth })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// With the credential as it was read for this attempt, at this time by the server's clock.
    pub(super) fn prove(
        &self,
        secret: Option<&SecretString>,
        endpoint: Endpoint<'_>,
        now: u64,
    ) -> Result<Proof, TokenError> {
        if let Some(secret) = secret {
            self.auth.refuse_private_key(secret).map_err(unusable)?;
            self.auth.check_assertion(secret).map_err(unusable)?;
        }
        let secret = secret.map_or("", |secret| secret.expose_secret());
        let id = ("client_id", SecretString::from(&*self.id));
        let mut proof = Proof { header: None, form: Vec::new(), secrets: Vec::new() };
        match &self.auth {
            ClientAuth::Post => proof.form = vec![id, ("client_secret", secret.into())],
            ClientAuth::Basic => {
                proof.header = Some(basic_header(&form_encode(&self.id), &form_encode(secret))?);
            }
            ClientAuth::BasicRaw => proof.header = Some(basic_header(&self.id, secret)?),
            ClientAuth::SecretJwt(jwt) => {
                let (header, claims) = jwt.assertion(&self.id, jwt.get_key_id(), endpoint, now)?;
                let signed = keys::hs256(secret, header, claims).map_err(unusable)?;
                proof.assertion(id, signed);
            }
            ClientAuth::PrivateKeyJwt(jwt) => {
                let key = SigningKey::parse(secret, jwt.get_algorithm()).map_err(unusable)?;
                let key_id = jwt.get_key_id().or(key.id());
                let (header, claims) = jwt.assertion(&self.id, key_id, endpoint, now)?;
                proof.assertion(id, key.jwt(header, claims).map_err(unusable)?);
            }
            ClientAuth::Assertion => proof.assertion(id, trimmed(secret).into()),
            ClientAuth::TlsClient | ClientAuth::None => proof.form = vec![id],
        }
        // A private key is not among what the server could repeat, nor copied about.
        if !matches!(self.auth, ClientAuth::PrivateKeyJwt(_)) {
            proof.secrets.push(secret.into());
        }
        let sent = proof.header.as_ref().and_then(|header| header.to_str().ok()?.split_once(' '));
        proof.secrets.extend(sent.map(|(_, credentials)| credentials.into()));
        Ok(proof)
    }
}

fn basic_header(id: &str, secret: &str) -> Result<HeaderValue, TokenError> {
    let credentials = BASE64_STANDARD.encode(format!("{id}:{secret}"));
    let mut header = HeaderValue::try_from(format!("Basic {credentials}"))
        .map_err(|_| TokenError::denied("invalid_client", "the credentials fit no header"))?;
    header.set_sensitive(true);
    Ok(header)
}

impl Proof {
    /// RFC 7523 §2.2. `client_id` may be left out (RFC 7521 §4.2), but some want it (Entra ID).
    fn assertion(&mut self, id: (&'static str, SecretString), assertion: SecretString) {
        if !id.1.expose_secret().is_empty() {
            self.form.push(id);
        }
        self.secrets.push(assertion.clone());
        self.form.push(("client_assertion_type", JWT_BEARER.into()));
        self.form.push(("client_assertion", assertion));
    }

    /// What goes into the form.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.form.iter().map(|(name, value)| (*name, value.expose_secret()))
    }

    /// What must not be seen in an error.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(SecretString::expose_secret)
    }
}

/// As a form's value (RFC 6749 appendix B), but with `%20` for a space: Authlib and canaille refuse
/// `+`, and nobody refuses `%20`. A `+` of the text itself has become `%2B` by then.
fn form_encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::super::address::check_url;
    use super::super::assertion::AssertionAudience;
    use super::super::keys::JwtAlgorithm;
    use super::*;

    fn with_endpoint<T>(read: impl FnOnce(Endpoint<'_>) -> T) -> T {
        let address = check_url("token_url", "https://login.example.com", false).unwrap();
        read(Endpoint { address: &address, issuer: None, gives_tokens: true })
    }

    const P256: &str = include_str!("../../tests/keys/p256.pem");
    const P256_JWK: &str = include_str!("../../tests/keys/p256.jwk");
    const RSA: &str = include_str!("../../tests/keys/rsa.pem");

    fn new(id: &str, credential: Credential, auth: ClientAuth) -> Result<ClientIdentity, String> {
        ClientIdentity::new(id, credential, auth, false).map_err(|error| error.to_string())
    }

    fn prove(auth: ClientAuth, id: &str, secret: &str) -> Proof {
        let identity = new(id, secret.into(), auth).unwrap();
        with_endpoint(|endpoint| identity.prove(Some(&secret.into()), endpoint, 0)).unwrap()
    }

    /// The header of the assertion that is sent.
    fn header(jwt: JwtAuth, key: &str) -> Value {
        let proof = prove(ClientAuth::PrivateKeyJwt(jwt), "id", key);
        let form: Vec<_> = proof.pairs().collect();
        let [("client_id", "id"), ("client_assertion_type", kind), ("client_assertion", jwt)] =
            form[..]
        else {
            panic!("{form:?}")
        };
        assert_eq!(kind, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        assert!(proof.secrets().any(|secret| secret == jwt), "it would be shown");
        let header = BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap();
        serde_json::from_slice(&header).unwrap()
    }

    #[test]
    fn a_key_names_itself_and_its_algorithm() {
        assert_eq!(header(JwtAuth::new(), P256), json!({ "alg": "ES256", "typ": "JWT" }));
        let named = header(JwtAuth::new(), P256_JWK);
        assert_eq!(named, json!({ "alg": "ES256", "typ": "JWT", "kid": "p256-1" }));
        let set = JwtAuth::new().key_id("mine").algorithm(JwtAlgorithm::Ps256);
        assert_eq!(header(set, RSA), json!({ "alg": "PS256", "typ": "JWT", "kid": "mine" }));
        let other = header(JwtAuth::new().key_id("mine"), P256_JWK);
        assert_eq!(other["kid"], "mine");
    }

    #[test]
    fn what_cannot_sign_is_refused_or_is_an_error_of_the_attempt() {
        let private = |jwt| ClientAuth::PrivateKeyJwt(jwt);
        let rs256 = || JwtAuth::new().algorithm(JwtAlgorithm::Rs256);
        for (auth, key, expected) in [
            (private(JwtAuth::new()), "s3cr3t", "credential is no private key: give one in PEM"),
            (private(rs256()), P256, "credential is a key on the curve P-256, which cannot sign"),
            (ClientAuth::SecretJwt(rs256()), "s3cr3t", "algorithm is RS256, but a secret signs"),
            (
                private(JwtAuth::new().revocation_audience(AssertionAudience::Issuer)),
                P256,
                "revocation_audience is AssertionAudience::Issuer, but this provider's issuer is not known",
            ),
        ] {
            let error = new("id", key.into(), auth.clone()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        // A file is not read before the first attempt.
        let late = new("id", Credential::file("/nowhere/key"), private(rs256())).unwrap();
        let Err(error) = with_endpoint(|endpoint| late.prove(Some(&P256.into()), endpoint, 0))
        else {
            panic!("it signed")
        };
        let expected =
            "the client's credential is a key on the curve P-256, which cannot sign with";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(error.is_retryable(), "somebody may be writing it");
    }

    #[test]
    fn a_private_key_is_not_sent_as_a_secret() {
        const ENCRYPTED: &str = include_str!("../../tests/keys/p256-encrypted.pem");
        let jwk = P256_JWK.trim();
        let set = format!("{{\"keys\": [{jwk}]}}");
        let escaped = P256.replace('\n', "\\n");
        let with_certificate = format!("-----BEGIN CERTIFICATE-----\nAA==\n{P256}");
        let methods = [
            ClientAuth::Post,
            ClientAuth::Basic,
            ClientAuth::BasicRaw,
            ClientAuth::SecretJwt(JwtAuth::new()),
            ClientAuth::Assertion,
        ];
        for key in [P256, RSA, ENCRYPTED, jwk, &set, &escaped, &with_certificate] {
            for auth in methods.clone() {
                let error = new("id", key.into(), auth.clone()).unwrap_err();
                assert!(
                    error.contains("is a private key: use ClientAuth::PrivateKeyJwt"),
                    "{error}"
                );
                // What is in a file is known by the first attempt.
                let late = new("id", Credential::file("/nowhere/key"), auth).unwrap();
                let Err(error) =
                    with_endpoint(|endpoint| late.prove(Some(&key.into()), endpoint, 0))
                else {
                    panic!("it was sent")
                };
                let expected = "the client's credential is a private key: use";
                assert!(error.to_string().starts_with(expected), "{error}");
            }
        }
        let base64 = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
        let der: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
        let without_first_line: String = RSA.lines().skip(1).collect::<Vec<_>>().join("\n");
        let bytes = base64::prelude::BASE64_STANDARD.decode(&der).unwrap();
        let hex = format!("{bytes:02x?}").replace(['[', ']', ',', ' '], "");
        let percent: String = url::form_urlencoded::byte_serialize(jwk.as_bytes())
            .collect::<String>()
            .replace('+', "%20");
        for key in [
            der.clone(),
            base64(&base64(RSA)),
            base64(jwk),
            hex,
            percent,
            without_first_line,
            RSA.to_ascii_lowercase(),
            format!("[{jwk}]"),
            format!(r#"{{"a":{{"b":{jwk}}}}}"#),
            jwk.replace('"', "'"),
            jwk.replace('"', "\\\""),
            jwk[..jwk.len() - 1].to_owned(),
            "PuTTY-User-Key-File-3: ssh-rsa".to_owned(),
            "AGE-SECRET-KEY-1QQ".to_owned(),
        ] {
            let error = new("id", key.as_str().into(), ClientAuth::Post).unwrap_err();
            assert!(error.contains("is a private key"), "{error}");
        }
        let public = r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#;
        for secret in ["{not JSON}", "{}", "PRIVATE KEY", public, r#"{"kty":"oct","k":"AA"}"#] {
            assert!(new("id", secret.into(), ClientAuth::Post).is_ok(), "{secret}");
        }
    }

    fn decoded_basic(auth: ClientAuth, id: &str, secret: &str) -> String {
        let proof = prove(auth, id, secret);
        assert_eq!(
            proof.pairs().count(),
            0,
            "with Basic nothing goes into the form (RFC 6749 §2.3)"
        );
        let header = proof.header.unwrap();
        assert!(header.is_sensitive());
        let base64 = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        String::from_utf8(BASE64_STANDARD.decode(base64).unwrap()).unwrap()
    }

    #[test]
    fn basic_encodes_id_and_secret_before_base64() {
        for (id, secret, expected) in [
            ("client", "secret", "client:secret"),
            ("a:b", "c:d", "a%3Ab:c%3Ad"),
            ("id", "with space", "id:with%20space"),
            ("id", "p+q", "id:p%2Bq"),
            ("id", "100%&=/?", "id:100%25%26%3D%2F%3F"),
            ("id", "-._*~", "id:-._*%7E"),
            ("id", "grün", "id:gr%C3%BCn"),
        ] {
            assert_eq!(decoded_basic(ClientAuth::Basic, id, secret), expected);
            if !id.contains(':') {
                let raw = format!("{id}:{secret}");
                assert_eq!(decoded_basic(ClientAuth::BasicRaw, id, secret), raw);
            }
        }
    }

    #[test]
    fn the_form_has_what_each_method_puts_there() {
        let form = |auth, id, secret| {
            let proof = prove(auth, id, secret);
            assert!(proof.header.is_none());
            proof
                .pairs()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join("&")
        };
        let post = form(ClientAuth::Post, "id", "a secret");
        assert_eq!(post, "client_id=id&client_secret=a secret");
        let kind = "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let assertion = form(ClientAuth::Assertion, "id", "a.b.c");
        assert_eq!(assertion, format!("client_id=id&{kind}&client_assertion=a.b.c"));
        let assertion = form(ClientAuth::Assertion, "", "a.b.c");
        assert_eq!(assertion, format!("{kind}&client_assertion=a.b.c"));
        for auth in [ClientAuth::TlsClient, ClientAuth::None] {
            let identity = new("id", Credential::none(), auth).unwrap();
            let proof = with_endpoint(|endpoint| identity.prove(None, endpoint, 0)).unwrap();
            assert_eq!(proof.pairs().collect::<Vec<_>>(), [("client_id", "id")]);
            assert!(proof.header.is_none());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (auth, id, credential, expected) in [
            (ClientAuth::Post, "", Credential::from("s3cr3t"), "client_id is empty"),
            (ClientAuth::None, "", Credential::none(), "client_id is empty"),
            (ClientAuth::BasicRaw, "a:b", "s3cr3t".into(), "client_id is \"a:b\", and the colon"),
            (
                ClientAuth::BasicRaw,
                "id",
                Credential::from("\n"),
                "client_secret is empty, but ClientAuth::BasicRaw needs the client's secret",
            ),
            (
                ClientAuth::Post,
                "id",
                Credential::none(),
                "client_secret is none, but ClientAuth::Post needs the client's secret",
            ),
            (
                ClientAuth::Assertion,
                "id",
                Credential::env("CCG_SESSION_NOT_SET"),
                "credential comes from the environment variable CCG_SESSION_NOT_SET, which is not \
                 set, but ClientAuth::Assertion needs an assertion",
            ),
            (
                ClientAuth::TlsClient,
                "id",
                Credential::from("s3cr3t"),
                "credential would not be used, since ClientAuth::TlsClient sends none",
            ),
        ] {
            let error = new(id, credential, auth).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        // It may come later.
        let late = Credential::file("/nowhere/secret");
        assert!(new("id", late, ClientAuth::Post).is_ok());
    }

    #[test]
    fn a_private_key_is_not_copied_about() {
        const KEY: &str = include_str!("../../tests/keys/p256.pem");
        let proof = prove(ClientAuth::PrivateKeyJwt(JwtAuth::new()), "id", KEY);
        assert!(proof.secrets().all(|secret| secret.starts_with("ey")), "the server has no key");
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = new("id", "s3cr3t".into(), ClientAuth::Basic).unwrap();
        let shown = format!("{identity:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}
