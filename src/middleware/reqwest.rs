//! For reqwest. See the module's documentation.

use std::pin::Pin;

use ::reqwest::{Body, Request, Response};
use http::Extensions;
use reqwest_middleware::{Error, Middleware, Next, Result};
use url::Position;

use super::decide::Origin;
use super::{Attach, Problem, drain, put};
use crate::error::ConfigError;

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
        let (answer, again) = self.once(origin, request, extensions, next.clone()).await?;
        let Some(request) = copy.filter(|_| again) else { return Ok(answer) };
        drain(Body::from(answer)).await;
        Ok(self.once(origin, request, extensions, next).await?.0)
    }

    /// One request, and whether it is worth another.
    async fn once(
        &self,
        origin: &Origin,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<(Response, bool)> {
        let token = self.token().await?;
        let proof =
            Self::proof(origin, &token, request.method(), request.url()).map_err(Problem::from)?;
        let proven = proof.as_ref().map(|_| request.url().clone());
        put(request.headers_mut(), &token, proof);
        let answer = next.run(request, extensions).await?;
        let url = answer.url();
        if proven
            .is_some_and(|proven| proven[..Position::AfterQuery] != url[..Position::AfterQuery])
        {
            let problem = "was followed by the client, and the proof of a token that is bound to a key is for one \
                URL: build the client with redirect(Policy::none())";
            return Err(Error::middleware(ConfigError::new("redirect", problem)));
        }
        // The target of a redirect to another origin has not seen the token.
        let has_seen_it = origin.is(url.scheme(), url.authority());
        let again = has_seen_it && self.hear(origin, &token, answer.status(), answer.headers());
        Ok((answer, again))
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Session(error) => Self::middleware(error),
            Problem::Config(error) => Self::middleware(error),
        }
    }
}
