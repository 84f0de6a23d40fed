//! Middleware that adds the session's token to requests and handles 401s: for reqwest (feature
//! `reqwest-middleware`), and for any `tower` service (feature `tower`), such as a hyper-util client or a tonic
//! channel.
//!
//! ```
//! # #[cfg(feature = "reqwest-middleware")] mod example {
//! use ccg_session::{ConfigError, SessionHandle, middleware::Attach};
//! use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
//!
//! fn api(session: SessionHandle, client: reqwest::Client) -> Result<ClientWithMiddleware, ConfigError> {
//!     let attach = Attach::new(session).to("https://api.box.com")?.to("https://upload.box.com")?;
//!     Ok(ClientBuilder::new(client).with(attach).build())
//! }
//! # }
//! ```
//!
//! With tower, use the layer from [`Attach::layer`]:
//! `ServiceBuilder::new().layer(attach.layer()).service(client)`. The service must be `Clone + Send`, and its error
//! must convert into a boxed error. `examples/hyper_client.rs` and `examples/tonic_client.rs` are whole programs.
//!
//! # Where a token goes
//! Only to the origins [listed](Attach::to). A request to any other origin is sent without a token (with the
//! event `token.withheld`), as is one whose `Host` header names another origin or that already has an
//! `Authorization` header. If no token is available, the request is not sent: the call fails, and
//! `downcast_ref` on the client's error gives the [`SessionError`].
//!
//! # What happens at a 401
//! A response counts as a rejection of the token if it is a 401 with a challenge for the token's scheme
//! (`Bearer`, RFC 6750 §3; `DPoP`, RFC 9449 §7.1) with `error="invalid_token"` or without an `error`. Then the
//! token is [invalidated](crate::SessionHandle::invalidate), and the request is sent once more with the next
//! token, whatever its method: the server did not process it. The request is not repeated
//!
//! - if the session keeps giving out the same token, as after a second rejection within 10 seconds or the first
//!   rejection of an exchanged token younger than that, or if the server grants the same token again;
//! - if its body cannot be sent again: a stream or, with tower, any non-empty body, unless you set
//!   [`repeating`](AttachLayer::repeating). The middleware does not buffer bodies.
//!
//! Then the caller gets the 401. A 401 to the second request is also passed on, and also invalidates its token.
//! If the session cannot get another token, the call fails with the [`SessionError`]. All other responses are
//! passed through: a 403, `insufficient_scope`, a 401 from a proxy or for another scheme.
//!
//! A server that answers before it has read the whole body may close the connection. Over HTTP/1.1 the client
//! may then report a connection error instead of the 401, and the token is not invalidated. With such a server,
//! send `Expect: 100-continue`, or send a small request first.
//!
//! A gRPC response with status `UNAUTHENTICATED`, in headers or trailers, is a rejection too. Such a call is
//! never repeated, but the next one uses a new token.
//!
//! # Redirects
//! reqwest follows redirects below this middleware, and keeps the token only within the origin. In that case
//! the first request was processed, so after a 401 to the last one the call is repeated from the start only if
//! its method is safe (`GET`, `HEAD`, `OPTIONS`, `TRACE`), and only a 401 that says `invalid_token` counts,
//! since the last one may have gone out without a token. (The middleware cannot detect a redirect from a URL to
//! itself. If your API does this for other methods, build the client with `redirect(Policy::none())`.) With
//! tower, put the layer that follows redirects *above* this one, which then decides for each request
//! separately.
//!
//! # Tokens that are bound to a key
//! Each request gets its own proof (RFC 9449 §7). The last nonce from each origin is stored; a request rejected
//! for lack of a nonce is sent once more. A proof is valid for one URL, so a reqwest client must not follow
//! redirects: build it with `redirect(Policy::none())`. If it follows one, the call fails.
//!
//! # Order of middleware
//! | | side |
//! |---|---|
//! | a retry | above: each retry gets a current token. A retry below would send a rejected token again |
//! | redirects, in tower | above |
//! | a cache | below: a cache above sees no `Authorization` header, and could serve one tenant's response to another |
//! | compression | either |
//! | a limit of concurrency | below, if only requests should count; above, a call also holds its permit while it waits for a token |
//! | a time-out | above for the whole call, below for each of its (at most two) requests |
//! | traces and logs | above for calls; below for requests, whose token is marked sensitive |
//!
//! # Cancel safety
//! A call may be dropped at any time. An invalidation that it has already made stays in effect.

mod decide;
#[cfg(feature = "reqwest-middleware")]
mod reqwest;
#[cfg(test)]
mod tests;
#[cfg(feature = "tower")]
mod tower;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body;
use tokio_util::bytes::Buf;

use crate::error::{ConfigError, SessionError};
use crate::foreign::guarded;
use crate::handle::SessionHandle;
use crate::request::ExchangeRequest;
use crate::token::AccessToken;
use decide::{Origin, Verdict, verdict};
#[cfg(feature = "tower")]
pub use tower::{AttachLayer, Attached, AttachedBody, EmptyBodies, Repeat};

const DPOP: &str = "dpop";

/// How much of a refused answer's body is read, so that its connection can be used again; and for how long.
const DRAIN_BYTES: u64 = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// Decides which requests get a token. It is a [`reqwest_middleware`] middleware and, through
/// [`layer`](Self::layer), a tower layer.
///
/// Cheap to clone; clones share the session and the stored nonces.
#[derive(Clone)]
pub struct Attach(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    session: SessionHandle,
    exchange: Option<ExchangeRequest>,
    origins: Vec<Origin>,
}

impl Attach {
    /// Uses tokens of this session, for the origins added with [`to`](Self::to).
    pub fn new(session: SessionHandle) -> Self {
        Self(Arc::new(Inner { session, exchange: None, origins: Vec::new() }))
    }

    /// Adds an origin that tokens are sent to: scheme, host and port. The host of a request URL must be spelled
    /// the same way, ignoring case. The scheme's default port may be omitted.
    ///
    /// # Errors
    /// If it is not an origin, or is neither `https:` nor a loopback address.
    pub fn to(mut self, origin: &str) -> Result<Self, ConfigError> {
        let origin = Origin::parse(origin)?;
        Arc::make_mut(&mut self.0).origins.push(origin);
        Ok(self)
    }

    /// Sends a token [exchanged](SessionHandle::exchange) with this request instead of the session's own, so
    /// that it grants no more than these origins need.
    #[must_use]
    pub fn exchanging(mut self, request: ExchangeRequest) -> Self {
        Arc::make_mut(&mut self.0).exchange = Some(request);
        self
    }

    /// Where a request goes, if that is listed and the token is not there already.
    fn destination(
        &self,
        scheme: &str,
        authority: &str,
        headers: &HeaderMap,
    ) -> Result<Option<&Origin>, ConfigError> {
        if self.0.origins.is_empty() {
            let problem = "was never called on this Attach: list the origins that tokens go to";
            return Err(ConfigError::new("to", problem));
        }
        if headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        // Where several share an address, it is this header that says whose a request is.
        let hosts = headers.get_all(HOST);
        let origin = self.0.origins.iter().find(|origin| {
            let is_host =
                |host: &HeaderValue| host.to_str().is_ok_and(|host| origin.is(scheme, host));
            origin.is(scheme, authority) && hosts.iter().all(is_host)
        });
        if origin.is_none() {
            let host = authority.rsplit('@').next();
            tracing::debug!(name: "token.withheld", scheme, host, "token.withheld");
        }
        Ok(origin)
    }

    async fn token(&self) -> Result<AccessToken, Problem> {
        let Some(request) = &self.0.exchange else { return Ok(self.0.session.get_token().await?) };
        let token = self.0.session.exchange(request.clone()).await?;
        if token.header_value().is_none() {
            let problem = "gave something that is no access token (token_type N_A): ask for one, or set \
                no requested_token_type";
            return Err(ConfigError::new("exchanging", problem).into());
        }
        Ok(AccessToken::new(token.as_ref().clone()))
    }

    /// What a request needs besides a token that is bound to a key.
    fn proof(
        origin: &Origin,
        token: &AccessToken,
        method: &Method,
        url: &impl fmt::Display,
    ) -> Result<Option<HeaderValue>, ConfigError> {
        if !is_bound(token) {
            return Ok(None);
        }
        let (url, nonce) = (url.to_string(), origin.nonce());
        match nonce.as_ref().and_then(|nonce| nonce.to_str().ok()) {
            Some(nonce) => token.proof_with_nonce(method, &url, nonce),
            None => token.proof(method, &url),
        }
    }

    /// For a request that is worth sending once more; `None` if the server's new token is the one that was
    /// refused, word for word.
    async fn token_for(
        &self,
        again: Again,
        before: &AccessToken,
    ) -> Result<Option<AccessToken>, Problem> {
        let token = self.token().await?;
        let is_wanted = again == Again::WithNonce || token.secret() != before.secret();
        Ok(is_wanted.then_some(token))
    }

    /// Takes in what an answer to this request says. Whether it is worth sending that once more.
    fn hear(
        &self,
        origin: &Origin,
        token: &AccessToken,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Again {
        if is_bound(token) {
            origin.remember(headers);
        }
        match verdict(status, headers, token.header_value()) {
            Verdict::Nonce if is_bound(token) => Again::WithNonce,
            Verdict::Pass | Verdict::Nonce => Again::No,
            Verdict::Refused | Verdict::Challenged => self.refused(token),
            Verdict::RefusedCall => {
                self.refused(token);
                Again::No
            }
        }
    }

    /// [`hear`](Self::hear) of the last answer after redirects. The first request was carried out, and it is the
    /// one that would be sent again: only a safe method may be (RFC 9110 §9.2.1). And the token may have been
    /// left behind on the way.
    #[cfg(feature = "reqwest-middleware")]
    fn hear_redirected(
        &self,
        method: &Method,
        token: &AccessToken,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Again {
        match verdict(status, headers, token.header_value()) {
            Verdict::Refused if method.is_safe() => self.refused(token),
            Verdict::Refused | Verdict::RefusedCall => {
                self.refused(token);
                Again::No
            }
            Verdict::Pass | Verdict::Nonce | Verdict::Challenged => Again::No,
        }
    }

    /// Whether there is another token to be had.
    fn refused(&self, token: &AccessToken) -> Again {
        let again = self.0.session.invalidate(token);
        let generation = token.id().generation();
        tracing::debug!(name: "token.refused", generation, again, "token.refused");
        if again { Again::WithAnotherToken } else { Again::No }
    }
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins: Vec<_> = self.0.origins.iter().map(Origin::text).collect();
        f.debug_struct("Attach")
            .field("session", &self.0.session)
            .field("exchanging", &self.0.exchange)
            .field("to", &origins)
            .finish()
    }
}

fn put(headers: &mut HeaderMap, token: &AccessToken, proof: Option<HeaderValue>) {
    headers.insert(AUTHORIZATION, token.header_value().clone());
    if let Some(proof) = proof {
        headers.insert(DPOP, proof);
    }
}

/// Reads a body to its end, so that the connection can be used again, unless that takes too much.
async fn drain<A: Body + Unpin>(mut body: A) {
    // There is none in a runtime without timers.
    let Some(time) = guarded(|| tokio::time::sleep(DRAIN_TIME)) else { return };
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            // A frame without data is none for nothing: a body may have no end of them.
            let read = 1 + frame.data_ref().map_or(0, Buf::remaining);
            left = left.saturating_sub(read as u64);
            if left == 0 {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = time => {}
    }
}

fn is_bound(token: &AccessToken) -> bool {
    token.as_ref().token().proof_key().is_some()
}

/// Whether a request is worth sending once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    WithNonce,
    WithAnotherToken,
}

/// Why a request is not sent. Its client's error has what is inside.
enum Problem {
    Session(SessionError),
    Config(ConfigError),
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
