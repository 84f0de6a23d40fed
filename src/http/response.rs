//! A response as it arrives, or how it failed to.

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use ::http::header::{DATE, RETRY_AFTER};
use ::http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::dpop::DpopKey;
use super::event::Arrived;
use super::limits::{CLOCKS_APART, MAX_BODY, MAX_WORDS, WORDS_TIME};
use super::wire::ServerAnswer;
use super::words::fit;
use crate::error::TokenError;

/// A response that has arrived.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Option<Vec<u8>>,
    pub(super) received: SystemTime,
    /// Whose it is: scheme, host and path.
    address: String,
}

impl Response {
    /// Reads no more than is allowed: the server may never stop.
    pub(super) async fn read(
        (mut response, address): Arrived,
        secrets: &[&str],
    ) -> Result<Self, TokenError> {
        let received = SystemTime::now();
        let body = if says_enough(&response) {
            // In a time of its own: or a body that stalls would turn what is known into a time-out.
            timeout(WORDS_TIME, whole(&mut response)).await.unwrap_or(Ok(None)).unwrap_or(None)
        } else {
            whole(&mut response).await.map_err(|error| transport(error, &address, secrets))?
        };
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, body, received, address })
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
            address: &self.address,
        }
    }
}

/// Whether its head tells that it failed and when to come again, whatever the body says.
fn says_enough(response: &reqwest::Response) -> bool {
    !response.status().is_success() && response.headers().contains_key(RETRY_AFTER)
}

/// The body, unless it is too long.
async fn whole(response: &mut reqwest::Response) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// With what was behind it, since reqwest's own words are only "error sending request".
pub(super) fn transport(error: reqwest::Error, address: &str, secrets: &[&str]) -> TokenError {
    TokenError::transport(Cause::of(&error.without_url(), secrets)).with_address(address)
}

/// What an error of reqwest says: first what was behind it all, then what that led to, from the top, and
/// nothing twice. In it are texts that came over the wire, such as a certificate's names, so only words are kept.
#[derive(Debug)]
pub(super) struct Cause {
    words: String,
    next: Option<Box<Cause>>,
}

impl Cause {
    pub(super) fn of(error: &reqwest::Error, secrets: &[&str]) -> Self {
        let mut chain: Vec<String> = Vec::new();
        let mut next: Option<&dyn Error> = Some(error);
        while let Some(error) = next {
            chain.push(fit(&error.to_string(), secrets, MAX_WORDS));
            next = error.source();
        }
        let words = chain.pop().unwrap_or_default();
        let link = |next: Option<Box<Self>>, words| Some(Box::new(Self { words, next }));
        Self { words, next: chain.into_iter().rev().fold(None, link) }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.as_deref().map(|next| next as &(dyn Error + 'static))
    }
}
