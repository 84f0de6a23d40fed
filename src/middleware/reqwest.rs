//! For reqwest. See the module's documentation.

use std::borrow::Cow;
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
        let sent_to = url_of(copy.as_ref(), &request);
        let (answer, again) =
            self.once(origin, &token, &sent_to, request, extensions, next.clone()).await?;
        drop(sent_to);
        let Some(request) = copy.filter(|_| again != Again::No) else { return Ok(answer) };
        let Some(token) = self.token_for(again, &token).await? else { return Ok(answer) };
        drain(Body::from(answer)).await;
        let sent_to = request.url().clone();
        Ok(self.once(origin, &token, &sent_to, request, extensions, next).await?.0)
    }

    /// One request, which goes to `sent_to`, and whether it is worth another.
    async fn once(
        &self,
        origin: &Origin,
        token: &AccessToken,
        sent_to: &Url,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<(Response, Again)> {
        let proof = Self::proof(origin, token, request.method(), sent_to).map_err(Problem::from)?;
        let method = request.method().clone();
        let is_proven = proof.is_some();
        put(request.headers_mut(), token, proof);
        let answer = next.run(request, extensions).await?;
        let url = answer.url();
        let is_redirected = url[..Position::AfterQuery] != sent_to[..Position::AfterQuery];
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

/// That of the request, to be kept while the client has it.
fn url_of<'a>(copy: Option<&'a Request>, request: &Request) -> Cow<'a, Url> {
    copy.map_or_else(|| Cow::Owned(request.url().clone()), |copy| Cow::Borrowed(copy.url()))
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Session(error) => Self::middleware(error),
            Problem::Config(error) => Self::middleware(error),
        }
    }
}
