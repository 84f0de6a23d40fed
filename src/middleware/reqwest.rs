//! For reqwest. See the module's documentation.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::pin::Pin;

use ::reqwest::{Body, Request, Response};
use http::Extensions;
use reqwest_middleware::{Error, Middleware, Next, Result};
use url::{Position, Url};

use super::decide::Origin;
use super::{Again, Attach, Problem, drain, put};
use crate::error::ConfigError;
use crate::token::AccessToken;

impl Middleware for Attach {
    // As `async_trait` writes it.
    fn handle<'this, 'extensions, 'next, 'call>(
        &'this self,
        request: Request,
        extensions: &'extensions mut Extensions,
        next: Next<'next>,
    ) -> Pin<Box<dyn Future<Output = Result<Response>> + Send + 'call>>
    where
        'this: 'call,
        'extensions: 'call,
        'next: 'call,
    {
        Box::pin(self.send(request, extensions, next))
    }
}

impl Attach {
    async fn send(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let url = request.url();
        let Some(origin) = self
            .destination(url.scheme(), url.authority(), request.headers())
            .map_err(Problem::from)?
        else {
            return next.run(request, extensions).await;
        };
        let copy = request.try_clone();
        let token = self.token().await?;
        let (answer, again) = self.once(origin, &token, request, extensions, next.clone()).await?;
        let Some(request) = copy.filter(|_| again != Again::No) else { return Ok(answer) };
        let Some(token) = self.token_for(again, &token).await? else { return Ok(answer) };
        drain(Body::from(answer)).await;
        Ok(self.once(origin, &token, request, extensions, next).await?.0)
    }

    /// One request, and whether it is worth another.
    async fn once(
        &self,
        origin: &Origin,
        token: &AccessToken,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<(Response, Again)> {
        let proof =
            Self::proof(origin, token, request.method(), request.url()).map_err(Problem::from)?;
        let (method, sent_to) = (request.method().clone(), fingerprint(request.url()));
        let is_proven = proof.is_some();
        put(request.headers_mut(), token, proof);
        let answer = next.run(request, extensions).await?;
        let url = answer.url();
        let is_redirected = fingerprint(url) != sent_to;
        if is_proven && is_redirected {
            let problem = "was followed by the client, and the proof of a token that is bound to a key is for one \
                URL: build the client with redirect(Policy::none())";
            return Err(Error::middleware(ConfigError::new("redirect", problem)));
        }
        // The target of a redirect to another origin has not seen the token.
        let has_seen_it = origin.is(url.scheme(), url.authority());
        let (status, headers) = (answer.status(), answer.headers());
        let again = match (has_seen_it, is_redirected) {
            (false, _) => Again::No,
            (true, true) => self.hear_redirected(&method, token, status, headers),
            (true, false) => self.hear(origin, token, status, headers),
        };
        Ok((answer, again))
    }
}

/// Tells a URL from that of a redirect, without a copy of it.
fn fingerprint(url: &Url) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(&url[..Position::AfterQuery])
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Session(error) => Self::middleware(error),
            Problem::Config(error) => Self::middleware(error),
        }
    }
}
