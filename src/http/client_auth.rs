//! How the client proves who it is (RFC 6749 §2.3).

use ::http::HeaderValue;
use base64::prelude::{BASE64_STANDARD, Engine};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::credential::Credential;
use crate::error::{ConfigError, TokenError};

/// How the client proves who it is (RFC 6749 §2.3). Chosen, never probed: a server that refuses one
/// is not tried with another.
///
/// What each sends comes from the [`Credential`] that the manager is built with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// `client_id` and `client_secret` in the form (`client_secret_post`). The default, and Box's way.
    #[default]
    Post,
    /// In the `Authorization` header (`client_secret_basic`). Both are form-encoded first, as the RFC
    /// wants it (§2.3.1), with `%20` for a space: servers that decode it take that, and some refuse a
    /// `+`.
    Basic,
    /// As [`Basic`](Self::Basic), but not encoded before base64: for servers that do not decode it
    /// (glewlwyd, node-oauth). It makes no difference to letters, digits and `-._*`.
    BasicRaw,
    /// The credential is the assertion itself (RFC 7523 §2.2), one that a platform writes and rotates:
    /// a Kubernetes projected service account token, say, in a [file](Credential::file). An empty
    /// `client_id` is not sent.
    Assertion,
    /// The client certificate of the TLS connection (RFC 8705): only `client_id` is sent. The
    /// certificate is the [HTTP client's](crate::HttpTokenManagerBuilder::http_client), and there is
    /// no credential.
    TlsClient,
    /// None, for a client that has no secret: only `client_id` is sent, and there is no credential.
    None,
}

impl ClientAuth {
    /// What the credential must be, and the builder's name for it.
    fn wants(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Post | Self::Basic | Self::BasicRaw => {
                Some(("client_secret", "the client's secret"))
            }
            Self::Assertion => Some(("credential", "an assertion")),
            Self::TlsClient | Self::None => None,
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
    /// What is secret of it, in each form in which the server could repeat it.
    traces: Vec<SecretString>,
}

impl ClientIdentity {
    /// Checks what can be known before anything is sent.
    pub(super) fn new(
        id: String,
        credential: Credential,
        auth: ClientAuth,
    ) -> Result<Self, ConfigError> {
        if id.is_empty() && auth != ClientAuth::Assertion {
            return Err(ConfigError::new(
                "client_id",
                "is empty: give the id that the server knows this client by",
            ));
        }
        match auth.wants() {
            Some((setting, wanted)) => {
                let refuse = |problem| {
                    let problem = format!("{problem}, but ClientAuth::{auth:?} needs {wanted}");
                    ConfigError::new(setting, problem)
                };
                if credential.is_none() {
                    return Err(refuse("is none".into()));
                }
                credential.known().map_err(refuse)?;
            }
            None if !credential.is_none() => {
                return Err(ConfigError::new(
                    "credential",
                    format!(
                        "would not be used, since ClientAuth::{auth:?} sends none: give \
                         Credential::none(), or another client_auth"
                    ),
                ));
            }
            None => {}
        }
        Ok(Self { id, credential, auth })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// With the credential as it was read for this attempt.
    pub(super) fn prove(&self, secret: Option<&SecretString>) -> Result<Proof, TokenError> {
        let secret = secret.map_or("", |secret| secret.expose_secret());
        let id = ("client_id", SecretString::from(&*self.id));
        let [encoded_id, encoded] = [&self.id, secret].map(form_encode);
        let basic = BASE64_STANDARD.encode(format!("{encoded_id}:{encoded}"));
        let raw = BASE64_STANDARD.encode(format!("{}:{secret}", self.id));
        let mut proof = Proof { header: None, form: Vec::new(), traces: Vec::new() };
        match &self.auth {
            ClientAuth::Post => proof.form = vec![id, ("client_secret", secret.into())],
            ClientAuth::Basic => proof.header = Some(basic_header(&basic)?),
            ClientAuth::BasicRaw => proof.header = Some(basic_header(&raw)?),
            ClientAuth::Assertion => proof.assertion(id, secret.into()),
            ClientAuth::TlsClient | ClientAuth::None => proof.form = vec![id],
        }
        if !secret.is_empty() {
            // Each way in which it could be repeated, whatever was sent: the server knows it.
            let forms = [secret, &encoded, &basic, &raw];
            proof.traces.extend(forms.map(SecretString::from));
        }
        Ok(proof)
    }
}

fn basic_header(credentials: &str) -> Result<HeaderValue, TokenError> {
    let mut header = HeaderValue::try_from(format!("Basic {credentials}"))
        .map_err(|_| TokenError::denied("invalid_client", "the credentials fit no header"))?;
    header.set_sensitive(true);
    Ok(header)
}

impl Proof {
    /// RFC 7523 §2.2. `client_id` may be left out (RFC 7521 §4.2), but some want it (Entra ID).
    fn assertion(&mut self, id: (&'static str, SecretString), assertion: SecretString) {
        const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        if !id.1.expose_secret().is_empty() {
            self.form.push(id);
        }
        // The signature alone would do to whoever can guess the rest.
        if let Some((_, signature)) = assertion.expose_secret().rsplit_once('.') {
            self.traces.push(signature.into());
        }
        self.traces.push(assertion.clone());
        self.form.push(("client_assertion_type", JWT_BEARER.into()));
        self.form.push(("client_assertion", assertion));
    }

    /// What goes into the form.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.form.iter().map(|(name, value)| (*name, value.expose_secret()))
    }

    /// What must not be seen in an error.
    pub(super) fn traces(&self) -> impl Iterator<Item = &str> {
        self.traces.iter().map(SecretString::expose_secret)
    }
}

/// As a form's value (RFC 6749 appendix B), but with `%20` for a space: Authlib and canaille refuse
/// `+`, and nobody refuses `%20`. A `+` of the text itself has become `%2B` by then.
fn form_encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prove(auth: ClientAuth, id: &str, secret: &str) -> Proof {
        let identity = ClientIdentity::new(id.into(), secret.into(), auth).unwrap();
        identity.prove(Some(&secret.into())).unwrap()
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
            let raw = format!("{id}:{secret}");
            assert_eq!(decoded_basic(ClientAuth::BasicRaw, id, secret), raw);
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
            let identity = ClientIdentity::new("id".into(), Credential::none(), auth).unwrap();
            let proof = identity.prove(None).unwrap();
            assert_eq!(proof.pairs().collect::<Vec<_>>(), [("client_id", "id")]);
            assert!(proof.header.is_none());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (auth, id, credential, expected) in [
            (ClientAuth::Post, "", Credential::from("s3cr3t"), "client_id is empty"),
            (ClientAuth::None, "", Credential::none(), "client_id is empty"),
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
            let error = ClientIdentity::new(id.into(), credential, auth).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        // It may come later.
        let late = Credential::file("/nowhere/secret");
        assert!(ClientIdentity::new("id".into(), late, ClientAuth::Post).is_ok());
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity =
            ClientIdentity::new("id".into(), "s3cr3t".into(), ClientAuth::Basic).unwrap();
        let shown = format!("{identity:?}");
        for trace in identity.prove(Some(&"s3cr3t".into())).unwrap().traces() {
            assert!(!shown.contains(trace), "{shown}");
        }
    }
}
