//! The bodies of the fuzz targets in `fuzz/` that need nothing but the crate. They live here so that
//! ordinary builds compile them, and an ordinary test replays what the fuzzers found.

use std::time::Duration;

use crate::config::SessionConfig;
use crate::error::TokenError;
use crate::grant::Grant;
use crate::instant::Instant;
use crate::machine::{Abilities, Effects, Ended, Event, Machine, Moment};
use crate::request::TokenRequestOptions;
use crate::testing::Script;

/// Every configuration that is accepted can be written, and read again as the same; a session can live
/// with it. The same for a script of the authority, and for the addresses of a request.
pub fn config(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<SessionConfig>(data) {
        let written = serde_json::to_vec(&config).expect("a configuration can be written");
        let again: SessionConfig = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(config, again);
        if config.check().is_ok() {
            live(&config, &Err(TokenError::Panicked));
            live(&config, &Grant::bearer("T"));
        }
    }
    if let Ok(script) = serde_json::from_slice::<Script>(data) {
        let written = serde_json::to_vec(&script).expect("a script can be written");
        let again: Script = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(script, again);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(options) = TokenRequestOptions::new().ip(text)
    {
        let sent = options.forwarded_for().expect("what was accepted is sent");
        assert!(http::HeaderValue::from_str(sent).is_ok(), "{sent:?} cannot go into a header");
        assert_eq!(TokenRequestOptions::new().ip(sent).ok().as_ref(), Some(&options));
    }
}

/// Whatever a server answers to a request for a token: no panic, no token without a life or with
/// characters that do not belong into a header, no secret in an error, and nothing that a session
/// cannot live with.
#[cfg(feature = "http")]
pub fn token_response(data: &[u8]) {
    use crate::http::fuzz::{exchange_answer, grant_answer};

    let Some((status, headers, body)) = response(data) else { return };
    for read in [grant_answer, exchange_answer] {
        let answer = read(status, &headers, body);
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
        let unchallenged = read(status, &without_challenge(&headers), body);
        assert_eq!(format!("{answer:?}"), format!("{unchallenged:?}"));
    }
}

/// Whatever a server answers to a revocation: no panic, no secret in an error, and success only where
/// the status says so.
#[cfg(feature = "http")]
pub fn revocation_response(data: &[u8]) {
    use crate::http::fuzz::revocation_answer;

    let Some((status, headers, body)) = response(data) else { return };
    let answer = revocation_answer(status, &headers, body);
    match &answer {
        Ok(()) => assert!(status.is_success(), "{status} is no success"),
        Err(error) => check_error(error, status, &headers),
    }
    let unchallenged = revocation_answer(status, &without_challenge(&headers), body);
    assert_eq!(format!("{answer:?}"), format!("{unchallenged:?}"));
}

/// No secret, not too many words, and the server's `Retry-After` as it was meant.
#[cfg(feature = "http")]
fn check_error(error: &TokenError, status: http::StatusCode, headers: &http::HeaderMap) {
    use crate::http::fuzz::SECRET;

    let told = format!("{error} {error:?}");
    assert!(!told.contains(SECRET), "a secret in {told}");
    assert!(told.len() < 16_384, "{} bytes of a server's words", told.len());
    if status.as_u16() == 429 || (status.is_server_error() && error.is_retryable()) {
        let after = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        match after.map(str::parse::<u32>) {
            None => assert_eq!(error.retry_after(), None),
            Some(Ok(seconds)) if after.is_some_and(|text| !text.starts_with('+')) => {
                assert_eq!(error.retry_after(), Some(Duration::from_secs(seconds.into())));
            }
            Some(_) => {}
        }
    }
}

/// A `WWW-Authenticate` (RFC 6749 §5.2) tells how to log in, never what went wrong: nothing may depend
/// on it.
#[cfg(feature = "http")]
fn without_challenge(headers: &http::HeaderMap) -> http::HeaderMap {
    let mut headers = headers.clone();
    headers.remove(http::header::WWW_AUTHENTICATE);
    headers
}

/// A session in which every attempt ends like this: it always looks ahead, whoever asks is answered, and
/// no failed server is left alone for longer than the configuration and its `Retry-After` allow.
fn live(config: &SessionConfig, answer: &Result<Grant, TokenError>) {
    const CALLS: u64 = 5;
    let abilities =
        Abilities { exchange: false, revoke: false, assumed_lifetime: Duration::from_secs(300) };
    let mut machine = Machine::new(config.clone(), abilities, 1);
    let mut now = Instant::from_nanos(1_000_000_000_000);
    let (mut calls, mut answered) = (0, 0);
    let mut on_wire = false;
    // A flight has many attempts, if it is configured so.
    for _ in 0..50 {
        let event = if std::mem::take(&mut on_wire) {
            Event::Ended(Ended::Grant(answer.clone()))
        } else if calls == answered && calls < CALLS {
            calls += 1;
            Event::GetToken(calls, calls, TokenRequestOptions::new())
        } else {
            let Some(deadline) = machine.next_deadline() else { break };
            now = deadline;
            Event::Timer
        };
        let mut effects = Effects::default();
        machine.handle(Moment { now, random: 0.5, used: true }, event, &mut effects);
        on_wire = !effects.start.is_empty();
        answered += effects.replies.len() as u64;
        assert!(machine.next_deadline().is_none_or(|deadline| now < deadline));
        if let Some(cooling) = &machine.published().cooling {
            let longest = config.retry.cooling.max(Duration::from_secs(600));
            assert!(cooling.until.since(now) <= longest, "{cooling:?} at {now:?}");
        }
    }
    let waiting = calls - answered;
    assert!(
        waiting == 0 || on_wire || machine.next_deadline().is_some(),
        "{waiting} wait for ever"
    );
}

/// Two bytes of status, lines of headers, an empty line, the body.
#[cfg(feature = "http")]
fn response(data: &[u8]) -> Option<(http::StatusCode, http::HeaderMap, &[u8])> {
    let (status, rest) = data.split_first_chunk::<2>()?;
    let status = http::StatusCode::from_u16(100 + u16::from_be_bytes(*status) % 500).ok()?;
    let end = rest.windows(2).position(|pair| pair == b"\n\n")?;
    let mut headers = http::HeaderMap::new();
    for line in rest[..end].split(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = http::HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, http::HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    Some((status, headers, &rest[end + 2..]))
}
