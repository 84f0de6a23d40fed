//! Addresses that a secret may be sent to.

use std::fmt;

use url::{Host, Url};

use super::blanks::{check_word, trimmed};
use crate::error::ConfigError;

/// A checked address, and its text as it was given: an assertion names that, byte for byte.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) url: Url,
    pub(super) text: String,
    /// The text by which an assertion names it: of an alias for clients with a certificate that of the
    /// published address, which servers know themselves by (RFC 8705 §5 gives them no other name).
    pub(super) audience: String,
    /// As it may be shown.
    pub(super) shown: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

/// A token request carries the client's secret, so its address must be one that keeps it
/// (RFC 6749 §3.2 and §10.9: TLS, and no fragment).
pub(super) fn check_url(
    setting: &'static str,
    text: &str,
    allow_http: bool,
) -> Result<Address, ConfigError> {
    let text = trimmed(text);
    let shown = without_secrets(text);
    let refuse = |problem: String| Err(ConfigError::new(setting, problem));
    // The parser would leave out some of them, and encode others.
    if let Err(problem) = check_word(text) {
        return refuse(problem);
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            return refuse(format!(
                "is {shown:?}, which is not a URL ({error}): write it in full, such as \
                 \"https://login.example.com/token\""
            ));
        }
    };
    if !matches!(url.scheme(), "https" | "http") {
        return refuse(format!("is {shown:?}, but must begin with https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(format!(
            "has a user name or password in it, before {shown:?}: leave them out, and give the \
             client's id and secret to the builder"
        ));
    }
    if url.fragment().is_some() {
        return refuse(format!(
            "has a fragment after {shown:?}, which RFC 6749 §3.2 forbids: leave out the # and what \
             follows"
        ));
    }
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        return refuse(format!(
            "is {shown:?}: without TLS anybody on the way can read the client's secret. Use \
             https://, or allow_insecure_http if the way is safe"
        ));
    }
    Ok(Address { url, text: text.into(), audience: text.into(), shown: shown.into() })
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// A URL's text without the parts in which a secret could be: what is before `@`, and the query.
pub(super) fn without_secrets(url: &str) -> &str {
    let (url, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    match url.rsplit_once('@') {
        Some((_, rest)) => rest,
        // That may be a password with a ? in it.
        None if query.contains('@') => &url[..url.find("://").map_or(0, |scheme| scheme + 3)],
        None => url,
    }
}
