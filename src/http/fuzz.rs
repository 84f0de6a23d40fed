//! The bodies of the fuzz targets that are about a server's answers.

use std::time::{Duration, SystemTime};

use ::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::limits::{MAX_BODY, MAX_WAIT};
use super::wire::{Asked, ServerAnswer};
use crate::config::SessionConfig;
use crate::error::TokenError;
use crate::fuzz::live;

/// What was sent along, and must be seen nowhere.
const SECRET: &str = "s3cr3t-s3cr3t";

/// The header whose value was sent along too: any text may be a secret.
const ANOTHER_SECRET: &str = "x-secret";

/// Whatever a server answers to a request for a token: no panic, no token without a life or with
/// characters that do not belong into a header, no secret in an error, and nothing that a session
/// cannot live with.
pub fn token_response(data: &[u8]) {
    let Some((status, headers, body)) = response(data) else { return };
    let secrets = secrets(&headers);
    for asked in [Asked::Grant, Asked::Exchange] {
        let read = |headers: &HeaderMap| answer(status, headers, body, &secrets).token(asked);
        let answer = read(&headers);
        match &answer {
            Ok(grant) => {
                assert!(status.is_success(), "a token with {status}");
                assert_ne!(grant.life(), Some(Duration::ZERO), "a token without a life");
                let token = grant.text().expose();
                assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            Err(error) => check_error(error, status, &headers),
        }
        live(&SessionConfig::default(), &answer);
        let unchallenged = read(&without_challenge(&headers));
        assert_eq!(format!("{answer:?}"), format!("{unchallenged:?}"));
    }
}

/// Whatever a server answers to a revocation: no panic, no secret in an error, and success only where
/// the status says so.
pub fn revocation_response(data: &[u8]) {
    let Some((status, headers, body)) = response(data) else { return };
    let secrets = secrets(&headers);
    let read = |headers: &HeaderMap| answer(status, headers, body, &secrets).revocation();
    let answer = read(&headers);
    match &answer {
        Ok(()) => assert!(status.is_success(), "{status} is no success"),
        Err(error) => check_error(error, status, &headers),
    }
    let unchallenged = read(&without_challenge(&headers));
    assert_eq!(format!("{answer:?}"), format!("{unchallenged:?}"));
}

fn secrets(headers: &HeaderMap) -> [&str; 2] {
    let another =
        headers.get(ANOTHER_SECRET).and_then(|value| str::from_utf8(value.as_bytes()).ok());
    [SECRET, another.unwrap_or_default()]
}

/// No secret, not too many words, and the server's `Retry-After` as it was meant.
fn check_error(error: &TokenError, status: StatusCode, headers: &HeaderMap) {
    let told = format!("{error} {error:?}");
    assert!(!told.contains(SECRET), "a secret in {told}");
    assert!(told.len() < 16_384, "{} bytes of a server's words", told.len());
    if status.as_u16() == 429 || (status.is_server_error() && error.is_retryable()) {
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        match after.map(str::parse::<u32>) {
            None => assert_eq!(error.retry_after(), None),
            Some(Ok(seconds)) if after.is_some_and(|text| !text.starts_with('+')) => {
                let asked = Duration::from_secs(seconds.into());
                assert_eq!(error.retry_after(), Some(asked.min(MAX_WAIT)));
            }
            Some(_) => {}
        }
    }
}

/// A `WWW-Authenticate` (RFC 6749 §5.2) tells how to log in, never what went wrong: nothing may depend
/// on it.
fn without_challenge(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(WWW_AUTHENTICATE);
    headers
}

/// Two bytes of status, lines of headers, an empty line, the body.
fn response(data: &[u8]) -> Option<(StatusCode, HeaderMap, &[u8])> {
    let (status, rest) = data.split_first_chunk::<2>()?;
    let status = StatusCode::from_u16(100 + u16::from_be_bytes(*status) % 500).ok()?;
    let end = rest.windows(2).position(|pair| pair == b"\n\n")?;
    let mut headers = HeaderMap::new();
    for line in rest[..end].split(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    Some((status, headers, &rest[end + 2..]))
}

fn answer<'a>(
    status: StatusCode,
    headers: &'a HeaderMap,
    body: &'a [u8],
    secrets: &'a [&'a str],
) -> ServerAnswer<'a> {
    ServerAnswer {
        status,
        headers,
        body: (body.len() <= MAX_BODY).then_some(body),
        received: SystemTime::UNIX_EPOCH,
        secrets,
        limits: &[],
        dpop: None,
        address: "https://as.example/token",
    }
}
