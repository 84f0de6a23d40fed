//! A response as it arrives, or how it failed to.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::header::DATE;
use ::http::{HeaderMap, StatusCode};

use super::dpop::DpopKey;
use super::limits::{CLOCKS_APART, MAX_BODY};
use super::wire::ServerAnswer;
use crate::error::TokenError;

/// A response that has arrived.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Option<Vec<u8>>,
    received: SystemTime,
}

impl Response {
    /// Reads no more than is allowed: the server may never stop.
    pub(super) async fn read(mut response: reqwest::Response) -> Result<Self, TokenError> {
        let received = SystemTime::now();
        let mut body = Some(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            body = body.filter(|body| body.len() + chunk.len() <= MAX_BODY);
            let Some(body) = &mut body else { break };
            body.extend_from_slice(&chunk);
        }
        Ok(Self { status: response.status(), headers: response.headers().clone(), body, received })
    }

    /// Says so if the server's clock shows another time: servers that refuse an assertion for that
    /// reason seldom do.
    pub(super) fn clocks_apart(&self) -> Option<String> {
        let date = self.headers.get(DATE)?.to_str().ok()?;
        let theirs = httpdate::parse_http_date(date).ok()?;
        let (apart, word) = match self.received.duration_since(theirs) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let apart = Duration::from_secs(apart.as_secs());
        (apart >= CLOCKS_APART).then(|| {
            let apart = humantime::format_duration(apart);
            format!("this machine's clock is {apart} {word} the server's, and the request is dated by it")
        })
    }

    pub(super) fn answer<'a>(
        &'a self,
        secrets: &'a [&'a str],
        limits: &'a [(String, String)],
        dpop: Option<&'a DpopKey>,
    ) -> ServerAnswer<'a> {
        ServerAnswer {
            status: self.status,
            headers: &self.headers,
            body: self.body.as_deref(),
            received: self.received,
            secrets,
            limits,
            dpop,
        }
    }
}

pub(super) fn transport(error: reqwest::Error) -> TokenError {
    TokenError::Transport { source: Arc::new(Cause(error.without_url())) }
}

/// Says what was behind an error of reqwest, whose own words are only "error sending request". Those
/// are the next in the chain of sources.
#[derive(Debug)]
pub(super) struct Cause(pub(super) reqwest::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cause: &dyn Error = &self.0;
        while let Some(source) = cause.source() {
            cause = source;
        }
        fmt::Display::fmt(cause, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
