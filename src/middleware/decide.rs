//! What both shells share, without I/O: where a token may go, and what an answer says of it.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use url::{Host, Url};

use crate::error::ConfigError;

/// A scheme, a host and a port that tokens may go to.
#[derive(Clone)]
pub(super) struct Origin {
    scheme: &'static str,
    /// With its port, even if that is the scheme's own.
    authority: Box<str>,
    /// Without it, if it is the scheme's own.
    short: Option<Box<str>>,
    /// What its server last wanted to see in a proof (RFC 9449 §9).
    nonce: Arc<Mutex<Option<HeaderValue>>>,
}

impl Origin {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        // What is before it may be a password.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let refuse = |problem: &str| {
            let problem = format!("is {shown:?}, {problem}, such as \"https://api.example.com\"");
            Err(ConfigError::new("to", problem))
        };
        let Ok(url) = Url::parse(text) else {
            return refuse("which is not a URL: give scheme and host");
        };
        let scheme = match url.scheme() {
            "https" => "https",
            "http" if is_loopback(&url) => "http",
            "http" => {
                return refuse(
                    "and without TLS anybody on the way can read the token: use https://",
                );
            }
            _ => return refuse("but must begin with https://"),
        };
        let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            return refuse("but must be an origin: leave out all but scheme, host and port");
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return refuse("which has no host: give scheme and host");
        };
        if host.contains('*') {
            return refuse("but must name one host: call this once for each");
        }
        let authority = format!("{host}:{port}").into();
        let short = url.port().is_none().then(|| host.into());
        Ok(Self { scheme, authority, short, nonce: Arc::default() })
    }

    /// Whether a URL with this scheme and authority is on it. An authority that is written in any other way
    /// is not: one with a user name, a dot at the end, an address in another form. What does not look the
    /// same may be understood in another way by who connects.
    pub(super) fn is(&self, scheme: &str, authority: &str) -> bool {
        let short = self.short.as_deref();
        scheme.eq_ignore_ascii_case(self.scheme)
            && (short.is_some_and(|short| authority.eq_ignore_ascii_case(short))
                || authority.eq_ignore_ascii_case(&self.authority))
    }

    pub(super) fn nonce(&self) -> Option<HeaderValue> {
        self.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the nonce of an answer, any answer (RFC 9449 §8.2).
    pub(super) fn remember(&self, headers: &HeaderMap) {
        if let Some(nonce) = headers.get(DPOP_NONCE) {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.clone());
        }
    }

    pub(super) fn text(&self) -> String {
        format!("{}://{}", self.scheme, self.short.as_ref().unwrap_or(&self.authority))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What an answer says of the token that its request carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Pass,
    /// Refused, and the request was not carried out (RFC 9110 §15.5.2).
    Refused,
    /// The same of a request that had a token. One that had none is answered so too (RFC 6750 §3.1).
    Challenged,
    /// Refused by a gRPC server, which may have read part of a stream of messages.
    RefusedCall,
    /// The proof needs the nonce that came with this answer (RFC 9449 §9).
    Nonce,
}

/// `authorization` is the header that was sent.
pub(super) fn verdict(
    status: StatusCode,
    headers: &HeaderMap,
    authorization: &HeaderValue,
) -> Verdict {
    if is_grpc(headers) && is_unauthenticated(headers) {
        return Verdict::RefusedCall;
    }
    if status != StatusCode::UNAUTHORIZED {
        return Verdict::Pass;
    }
    let scheme = authorization.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
    let lines = headers.get_all(WWW_AUTHENTICATE).iter();
    let ours = lines
        .flat_map(|line| challenges(line.as_bytes()))
        .filter(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
    let errors: Vec<_> = ours.map(|challenge| challenge.error).collect();
    let says = |error: &[u8]| errors.iter().any(|said| said.as_deref() == Some(error));
    if says(b"use_dpop_nonce") && headers.contains_key(DPOP_NONCE) {
        Verdict::Nonce
    } else if says(b"invalid_token") {
        Verdict::Refused
    } else if !errors.is_empty() && errors.iter().all(Option::is_none) {
        Verdict::Challenged
    } else {
        Verdict::Pass
    }
}

const GRPC: &[u8] = b"application/grpc";

/// Whether the answer is one of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let begin = media_type.get(..GRPC.len()).unwrap_or_default();
    begin.eq_ignore_ascii_case(GRPC)
}

/// Whether headers or trailers of a gRPC answer say that the token was refused.
pub(super) fn is_unauthenticated(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status == "16")
}

const DPOP_NONCE: &str = "dpop-nonce";

/// One of a `WWW-Authenticate` (RFC 9110 §11.6.1).
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge<'a> {
    scheme: &'a [u8],
    error: Option<Vec<u8>>,
}

/// Those of one line. What is malformed is read as far as it makes sense.
fn challenges(line: &[u8]) -> Vec<Challenge<'_>> {
    let mut found: Vec<Challenge<'_>> = Vec::new();
    for item in items(line) {
        let (word, rest) = split_word(item);
        let mut parameters = item;
        // `name=value` belongs to the challenge before it; else a scheme begins another.
        if !rest.trim_ascii_start().starts_with(b"=") {
            found.push(Challenge { scheme: word, error: None });
            parameters = rest;
        }
        while let Some((name, value, rest)) = split_parameter(parameters) {
            if let Some(challenge) = found.last_mut()
                && name.eq_ignore_ascii_case(b"error")
            {
                challenge.error = Some(unquoted(value));
            }
            parameters = rest;
        }
    }
    found
}

/// A name, its value, and what follows. Some servers put a blank or a semicolon where a comma belongs.
fn split_parameter(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let is_between = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
    let start = text.iter().position(|byte| !is_between(byte))?;
    let (name, rest) = split_word(&text[start..]);
    let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let mut is_escaped = false;
    let end = match value.split_first() {
        Some((b'"', quoted)) => {
            let closing = quoted.iter().position(|byte| {
                let closes = *byte == b'"' && !is_escaped;
                is_escaped = *byte == b'\\' && !is_escaped;
                closes
            });
            closing.map(|at| at + 2)
        }
        _ => value.iter().position(is_between),
    };
    let (value, rest) = value.split_at(end.unwrap_or(value.len()));
    Some((name, value, rest))
}

/// What is between commas, but for those in quotation marks.
fn items(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = line.split(move |byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' => return !is_quoted,
            _ => {}
        }
        false
    });
    parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty())
}

/// A name or a scheme, and what follows it.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'=');
    text.split_at(end.unwrap_or(text.len()))
}

fn unquoted(value: &[u8]) -> Vec<u8> {
    let Some(inner) = value.strip_prefix(b"\"") else { return value.to_vec() };
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let mut is_escaped = false;
    let kept = inner.iter().filter(|byte| {
        is_escaped = **byte == b'\\' && !is_escaped;
        !is_escaped
    });
    kept.copied().collect()
}
