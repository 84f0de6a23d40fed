//! For tower. See the module's documentation.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::uri::Authority;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower_layer::Layer;
use tower_service::Service;

use super::decide::{self, Origin};
use super::{Again, Attach, Problem, drain, put};
use crate::error::ConfigError;
use crate::token::AccessToken;

type BoxError = Box<dyn Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

impl Attach {
    /// For a stack of tower services that ends at a client. Requests must have an absolute URL, which says
    /// where they go. Clients that tonic generates have `with_origin` for it: give it the address that the
    /// channel connects to, which does so whatever URLs say.
    pub fn layer(&self) -> AttachLayer {
        AttachLayer { attach: self.clone(), repeat: EmptyBodies }
    }
}

/// Puts [`Attached`] around a service. Made by [`Attach::layer`].
#[derive(Clone, Debug)]
pub struct AttachLayer<R = EmptyBodies> {
    attach: Attach,
    repeat: R,
}

impl<R> AttachLayer<R> {
    /// How a body is had once more, if it can be: without this, an empty one can.
    ///
    /// ```
    /// # use ccg_session::{ConfigError, SessionHandle, middleware::{Attach, AttachLayer}};
    /// # use http_body_util::Full;
    /// # use hyper::body::Bytes;
    /// # fn example(attach: Attach) {
    /// let layer = attach.layer().repeating(|body: &Full<Bytes>| Some(body.clone()));
    /// # }
    /// ```
    pub fn repeating<B, F: Fn(&B) -> Option<B>>(self, copy: F) -> AttachLayer<F> {
        AttachLayer { attach: self.attach, repeat: copy }
    }
}

impl<S, R: Clone> Layer<S> for AttachLayer<R> {
    type Service = Attached<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Attached { inner, attach: self.attach.clone(), repeat: self.repeat.clone() }
    }
}

/// How a body is had once more. Implemented by functions of one to an `Option` of another.
pub trait Repeat<B> {
    /// The same body, if it can be had.
    fn repeat(&self, body: &B) -> Option<B>;
}

/// Only an empty body can be sent again.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyBodies;

impl<B: Body + Default> Repeat<B> for EmptyBodies {
    fn repeat(&self, body: &B) -> Option<B> {
        let empty = || Some(B::default()).filter(Body::is_end_stream);
        body.is_end_stream().then(empty).flatten()
    }
}

impl<B, F: Fn(&B) -> Option<B>> Repeat<B> for F {
    fn repeat(&self, body: &B) -> Option<B> {
        self(body)
    }
}

/// A service whose requests carry the token.
#[derive(Clone, Debug)]
pub struct Attached<S, R = EmptyBodies> {
    inner: S,
    attach: Attach,
    repeat: R,
}

impl<S, R, B, A> Service<Request<B>> for Attached<S, R>
where
    S: Service<Request<B>, Response = Response<A>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: Repeat<B>,
    B: Send + 'static,
    A: Body + Send + Unpin + 'static,
{
    type Response = Response<AttachedBody<A>>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let copy = self.repeat.repeat(&body).map(|body| (parts.clone(), body));
        // The one that is ready is the one that was polled; its clone may not be.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(send(inner, self.attach.clone(), parts, body, copy))
    }
}

async fn send<S, B, A>(
    mut inner: S,
    attach: Attach,
    mut parts: Parts,
    body: B,
    copy: Option<(Parts, B)>,
) -> Result<Response<AttachedBody<A>>, BoxError>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Error: Into<BoxError>,
    A: Body + Unpin,
{
    let Some(origin) = destination(&attach, &parts)? else {
        let answer = inner.call(Request::from_parts(parts, body)).await.map_err(Into::into)?;
        return Ok(answer.map(|body| AttachedBody { inner: body, watch: None }));
    };
    let token = attach.token().await?;
    sign(origin, &token, &mut parts)?;
    let answer = inner.call(Request::from_parts(parts, body)).await.map_err(Into::into)?;
    let again = attach.hear(origin, &token, answer.status(), answer.headers());
    let Some((mut parts, body)) = copy.filter(|_| again != Again::No) else {
        return Ok(watched(answer, attach, token));
    };
    // First this: whatever it takes, the token is one of the time at which the request goes out.
    poll_fn(|context| inner.poll_ready(context)).await.map_err(Into::into)?;
    let Some(token) = attach.token_for(again, &token).await? else {
        return Ok(watched(answer, attach, token));
    };
    sign(origin, &token, &mut parts)?;
    drain(answer.into_body()).await;
    let answer = inner.call(Request::from_parts(parts, body)).await.map_err(Into::into)?;
    attach.hear(origin, &token, answer.status(), answer.headers());
    Ok(watched(answer, attach, token))
}

/// A request without an authority is refused: nobody knows here where it goes.
fn destination<'a>(attach: &'a Attach, parts: &Parts) -> Result<Option<&'a Origin>, ConfigError> {
    let (scheme, authority) = (parts.uri.scheme_str(), parts.uri.authority());
    if authority.is_none() && !parts.headers.contains_key(AUTHORIZATION) {
        let problem = format!(
            "is {:?}, which does not say where the request goes: give it scheme and host, with `with_origin` \
             of a client that tonic generates",
            parts.uri.path()
        );
        return Err(ConfigError::new("url", problem));
    }
    let authority = authority.map_or("", Authority::as_str);
    attach.destination(scheme.unwrap_or_default(), authority, &parts.headers)
}

fn sign(origin: &Origin, token: &AccessToken, parts: &mut Parts) -> Result<(), ConfigError> {
    let proof = Attach::proof(origin, token, &parts.method, &parts.uri)?;
    put(&mut parts.headers, token, proof);
    Ok(())
}

fn watched<A>(
    answer: Response<A>,
    attach: Attach,
    token: AccessToken,
) -> Response<AttachedBody<A>> {
    let watch = decide::is_grpc(answer.headers()).then_some((attach, token));
    answer.map(|body| AttachedBody { inner: body, watch })
}

/// The body of an answer. Trailers of gRPC that say `UNAUTHENTICATED` are told to the session.
pub struct AttachedBody<A> {
    inner: A,
    watch: Option<(Attach, AccessToken)>,
}

impl<A: Body + Unpin> Body for AttachedBody<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
        if let (Some((attach, token)), Some(trailers)) = (&self.watch, trailers)
            && decide::is_unauthenticated(trailers)
        {
            attach.refused(token);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<A> fmt::Debug for AttachedBody<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedBody").finish_non_exhaustive()
    }
}

impl From<Problem> for BoxError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Session(error) => error.into(),
            Problem::Config(error) => error.into(),
        }
    }
}
