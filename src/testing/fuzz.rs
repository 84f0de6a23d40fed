//! The bodies of the fuzz targets in `fuzz/`. They live here so that ordinary builds compile them, and
//! an ordinary test replays what the fuzzers found.

use std::time::Duration;

use crate::config::SessionConfig;
use crate::testing::Script;

/// Every configuration that is accepted can be written, and read again as the same.
pub fn config(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<SessionConfig>(data) {
        let _ = config.check();
        let written = serde_json::to_vec(&config).expect("a configuration can be written");
        let again: SessionConfig = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(config, again);
    }
    if let Ok(script) = serde_json::from_slice::<Script>(data) {
        let written = serde_json::to_vec(&script).expect("a script can be written");
        serde_json::from_slice::<Script>(&written).expect("and read again");
    }
}

/// Whatever a server answers to a request for a token: no panic, no token without a life or with
/// characters that do not belong into a header, and no secret in an error.
#[cfg(feature = "http")]
pub fn token_response(data: &[u8]) {
    use crate::http::fuzz::{SECRET, exchange_answer, grant_answer};

    let Some((status, headers, body)) = response(data) else { return };
    for answer in [grant_answer(status, &headers, body), exchange_answer(status, &headers, body)] {
        match answer {
            Ok(grant) => {
                assert_ne!(grant.life(), Some(Duration::ZERO), "a token without a life");
                let token = grant.text().expose();
                assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            Err(error) => {
                let told = format!("{error} {error:?}");
                assert!(!told.contains(SECRET), "a secret in {told}");
                assert!(told.len() < 16_384, "{} bytes of a server's words", told.len());
            }
        }
    }
}

/// Whatever a server answers to a revocation: no panic, and success only where the status says so.
#[cfg(feature = "http")]
pub fn revocation_response(data: &[u8]) {
    use crate::http::fuzz::{SECRET, revocation_answer};

    let Some((status, headers, body)) = response(data) else { return };
    match revocation_answer(status, &headers, body) {
        Ok(()) => assert!(status.is_success(), "{status} is no success"),
        Err(error) => {
            assert!(!format!("{error} {error:?}").contains(SECRET), "a secret in {error:?}");
        }
    }
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
