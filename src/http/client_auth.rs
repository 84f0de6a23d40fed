//! How the client proves who it is (RFC 6749 §2.3).

use ::http::HeaderValue;
use base64::prelude::{BASE64_STANDARD, Engine};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::Form;
use crate::error::{ConfigError, TokenError};

/// How the client proves who it is (RFC 6749 §2.3.1). Chosen, never probed: a server that refuses one
/// is not tried with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// `client_id` and `client_secret` in the form (`client_secret_post`). The default, and Box's way.
    #[default]
    Post,
    /// In the `Authorization` header (`client_secret_basic`). Both are form-encoded first, as the RFC
    /// wants it, with `%20` for a space: servers that decode it take that, and some refuse a `+`.
    Basic,
}

/// Who the client is, and how it says so.
#[derive(Debug)]
pub(super) struct Credentials {
    id: String,
    secret: SecretString,
    auth: ClientAuth,
    /// What `Authorization: Basic` carries.
    basic: SecretString,
    /// Each way in which a server could repeat the secret.
    traces: [SecretString; 3],
}

impl Credentials {
    pub(super) fn new(
        id: String,
        secret: SecretString,
        auth: ClientAuth,
    ) -> Result<Self, ConfigError> {
        if id.is_empty() {
            return Err(ConfigError::new(
                "client_id",
                "is empty: give the id that the server knows this client by",
            ));
        }
        if secret.expose_secret().is_empty() {
            return Err(ConfigError::new(
                "client_secret",
                format!("is empty, but ClientAuth::{auth:?} sends it: give the client's secret"),
            ));
        }
        let encoded = form_encode(secret.expose_secret());
        let basic = BASE64_STANDARD.encode(format!("{}:{encoded}", form_encode(&id)));
        let basic = SecretString::from(basic);
        let traces = [secret.clone(), encoded.into(), basic.clone()];
        Ok(Self { id, secret, auth, basic, traces })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Adds to the form what goes there; gives the `Authorization` header if there is one.
    pub(super) fn authenticate<'a>(
        &'a self,
        form: &mut Form<'a>,
    ) -> Result<Option<HeaderValue>, TokenError> {
        match self.auth {
            ClientAuth::Post => {
                form.push(("client_id", &self.id));
                form.push(("client_secret", self.secret.expose_secret()));
                Ok(None)
            }
            ClientAuth::Basic => {
                let mut header =
                    HeaderValue::try_from(format!("Basic {}", self.basic.expose_secret()))
                        .map_err(|_| {
                            TokenError::denied("invalid_client", "the credentials fit no header")
                        })?;
                header.set_sensitive(true);
                Ok(Some(header))
            }
        }
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

    fn decoded_basic(id: &str, secret: &str) -> String {
        let credentials = Credentials::new(id.into(), secret.into(), ClientAuth::Basic).unwrap();
        let mut form = Form::new();
        let header = credentials.authenticate(&mut form).unwrap().unwrap();
        assert!(form.is_empty(), "with Basic nothing goes into the form (RFC 6749 §2.3)");
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
            assert_eq!(decoded_basic(id, secret), expected);
        }
    }

    #[test]
    fn post_puts_both_into_the_form() {
        let credentials =
            Credentials::new("id".into(), "a secret".into(), ClientAuth::Post).unwrap();
        let mut form = Form::new();
        assert!(credentials.authenticate(&mut form).unwrap().is_none());
        assert_eq!(form, [("client_id", "id"), ("client_secret", "a secret")]);
    }

    #[test]
    fn debug_shows_no_secret() {
        let credentials =
            Credentials::new("id".into(), "s3cr3t".into(), ClientAuth::Basic).unwrap();
        let shown = format!("{credentials:?}");
        for trace in credentials.traces() {
            assert!(!shown.contains(trace), "{shown}");
        }
    }
}
