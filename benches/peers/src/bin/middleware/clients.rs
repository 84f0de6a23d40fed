//! Who calls it, each as its documentation says.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ccg_session::middleware::{Attach, Attached};
use ccg_session::{ClientAuth, HttpTokenManager, Provider, Session};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Either, Full};
use huskarl::authorizer::{HttpAuthorizer, parse_challenges};
use huskarl::cache::{GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache};
use huskarl::core::client_auth::ClientSecret as HuskarlSecret;
use huskarl::core::secrets::{ProvidedSecret, SecretString};
use huskarl::core::{EndpointUrl, OAuthErrorCode};
use huskarl::grant::client_credentials::{
    ClientCredentialsGrant, ClientCredentialsGrantParameters,
};
use huskarl_reqwest::ReqwestClient;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use middle::BasicClientCredentialAuthorizer;
use oauth2::basic::BasicClient;
use oauth2::{ClientId, ClientSecret, EndpointNotSet, EndpointSet, TokenResponse, TokenUrl};
use reqwest::redirect::Policy;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tokio::sync::RwLock;
use tower::{Layer, ServiceExt};

use crate::upstream::Upstream;

/// The answer's status, or why there is none.
pub type Answer = Result<u16, String>;

/// Something that sends requests with a token on them.
pub trait Client: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// The same without it.
    const BARE: &'static str;

    /// It has a token when it is there, or gets one with its first request.
    fn new(upstream: &Upstream) -> impl Future<Output = Self> + Send;

    /// A POST, or a GET if there is nothing in it.
    fn send(&self, url: &str, body: Sent) -> impl Future<Output = Answer> + Send;
}

#[derive(Clone, Copy)]
pub enum Sent {
    Nothing,
    Text,
    /// The same, in pieces.
    Stream,
}

const TEXT: &str = "some bytes.";

impl Sent {
    fn method(self) -> Method {
        if matches!(self, Self::Nothing) { Method::GET } else { Method::POST }
    }

    /// `None` if it is a stream.
    fn whole(self) -> Option<&'static str> {
        match self {
            Self::Nothing => Some(""),
            Self::Text => Some(TEXT),
            Self::Stream => None,
        }
    }
}

/// A body that is there only once.
struct Stream(std::str::SplitInclusive<'static, char>);

impl Stream {
    fn new() -> Self {
        Self(TEXT.split_inclusive(' '))
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

fn told(error: impl ToString) -> String {
    error.to_string()
}

/// What both versions of reqwest have, by the same names.
macro_rules! with_reqwest {
    ($reqwest:ident, $body:ident, $status:ident) => {
        fn $body(sent: Sent) -> $reqwest::Body {
            sent.whole().map_or_else(|| $reqwest::Body::wrap(Stream::new()), Into::into)
        }

        async fn $status(answer: Result<$reqwest::Response, impl ToString>) -> Answer {
            let answer = answer.map_err(told)?;
            let status = answer.status().as_u16();
            answer.bytes().await.map_err(told)?;
            Ok(status)
        }
    };
}

with_reqwest!(reqwest, body, status);
with_reqwest!(reqwest012, body_012, status_012);

fn constant() -> HeaderValue {
    format!("Bearer T{:031}", 1).parse().unwrap()
}

async fn fetch_the_constant(upstream: &Upstream) {
    status(reqwest::Client::new().post(upstream.token_url()).send().await).await.unwrap();
}

/// reqwest with a constant for a token.
#[derive(Clone)]
pub struct Bare(reqwest::Client, HeaderValue);

impl Client for Bare {
    const NAME: &'static str = "reqwest 0.13";
    const BARE: &'static str = Self::NAME;

    async fn new(upstream: &Upstream) -> Self {
        fetch_the_constant(upstream).await;
        Self(reqwest::Client::new(), constant())
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let request = self.0.request(sent.method(), url).header(AUTHORIZATION, &self.1);
        status(request.body(body(sent)).send().await).await
    }
}

/// The version that `middle` wraps.
#[derive(Clone)]
pub struct Bare012(reqwest012::Client, HeaderValue);

impl Client for Bare012 {
    const NAME: &'static str = "reqwest 0.12";
    const BARE: &'static str = Self::NAME;

    async fn new(upstream: &Upstream) -> Self {
        fetch_the_constant(upstream).await;
        Self(reqwest012::Client::new(), constant())
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let request = self.0.request(sent.method(), url).header(AUTHORIZATION, &self.1);
        status_012(request.body(body_012(sent)).send().await).await
    }
}

type Body = Either<Full<Bytes>, Stream>;
type Hyper = HyperClient<HttpConnector, Body>;

fn hyper_client() -> Hyper {
    HyperClient::builder(TokioExecutor::new()).build_http()
}

fn hyper_request(url: &str, sent: Sent) -> http::Request<Body> {
    let body = sent.whole().map(|text| Either::Left(Full::from(text)));
    let request = http::Request::builder().method(sent.method()).uri(url);
    request.body(body.unwrap_or_else(|| Either::Right(Stream::new()))).unwrap()
}

/// The client of hyper-util with a constant for a token.
#[derive(Clone)]
pub struct BareHyper(Hyper, HeaderValue);

impl Client for BareHyper {
    const NAME: &'static str = "hyper-util";
    const BARE: &'static str = Self::NAME;

    async fn new(upstream: &Upstream) -> Self {
        fetch_the_constant(upstream).await;
        Self(hyper_client(), constant())
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let mut request = hyper_request(url, sent);
        request.headers_mut().insert(AUTHORIZATION, self.1.clone());
        let answer = self.0.request(request).await.map_err(told)?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await.map_err(told)?;
        Ok(status)
    }
}

pub fn attach(upstream: &Upstream) -> Attach {
    let provider = Provider::generic(upstream.token_url()).client_auth(ClientAuth::Basic);
    let manager = HttpTokenManager::builder(provider, "id", "secret").build().unwrap();
    let session = Session::builder(manager).spawn().unwrap();
    Attach::new(session).to(&upstream.api).unwrap().to(&upstream.grpc).unwrap()
}

#[derive(Clone)]
pub struct Ours(ClientWithMiddleware);

impl Client for Ours {
    const NAME: &'static str = "**ccg-session**, in reqwest";
    const BARE: &'static str = Bare::NAME;

    async fn new(upstream: &Upstream) -> Self {
        Self(ClientBuilder::new(reqwest::Client::new()).with(attach(upstream)).build())
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let request = self.0.request(sent.method(), url).body(body(sent));
        status(request.send().await).await
    }
}

/// A body can be sent again if it is no stream.
fn copy(body: &Body) -> Option<Body> {
    match body {
        Either::Left(whole) => Some(Either::Left(whole.clone())),
        Either::Right(_) => None,
    }
}

#[derive(Clone)]
pub struct OursInTower(Attached<Hyper, fn(&Body) -> Option<Body>>);

impl Client for OursInTower {
    const NAME: &'static str = "**ccg-session**, a tower layer";
    const BARE: &'static str = BareHyper::NAME;

    async fn new(upstream: &Upstream) -> Self {
        let layer = attach(upstream).layer().repeating(copy as fn(&Body) -> Option<Body>);
        Self(layer.layer(hyper_client()))
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let answer = self.0.clone().oneshot(hyper_request(url, sent)).await.map_err(told)?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await.map_err(told)?;
        Ok(status)
    }
}

/// Its part are headers, and what an answer means for the token; whether to send again is the user's. So this is
/// the loop of its example `cached_client`, without redirects as it has them, for requests that have a body, too.
#[derive(Clone)]
pub struct Huskarl(Arc<HttpAuthorizer>, reqwest::Client);

impl Client for Huskarl {
    const NAME: &'static str = "huskarl 0.11.10, `HttpAuthorizer`";
    const BARE: &'static str = Bare::NAME;

    async fn new(upstream: &Upstream) -> Self {
        let client = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        let secret = ProvidedSecret::new(SecretString::new("secret"));
        let grant = ClientCredentialsGrant::builder()
            .client_id("id")
            .http_client(ReqwestClient::from(client.clone()))
            .client_auth(HuskarlSecret::new(secret))
            .token_endpoint(EndpointUrl::try_from(upstream.token_url().as_str()).unwrap())
            .build();
        let source = GrantTokenSource::builder()
            .grant(grant)
            .grant_parameters(ClientCredentialsGrantParameters::builder().build())
            .refresh_store(InMemoryRefreshTokenStore::default())
            .build();
        let cache = InMemoryTokenCache::builder().source(source).build();
        Self(Arc::new(HttpAuthorizer::builder().cache(cache).build()), client)
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let Self(authorizer, client) = self;
        let (method, uri) = (sent.method(), url.parse::<Uri>().map_err(told)?);
        let mut request = client.request(method.clone(), url).body(body(sent)).build().unwrap();
        let again = request.try_clone();
        request.headers_mut().extend(authorizer.get_headers(&method, &uri).await.map_err(told)?);
        let mut answer = client.execute(request).await.map_err(told)?;
        authorizer.process_response(&uri, answer.headers());
        let is_refused = answer.status() == StatusCode::UNAUTHORIZED
            && parse_challenges(answer.headers())
                .iter()
                .any(|challenge| challenge.error() == Some(OAuthErrorCode::InvalidToken));
        if let Some(mut again) = again.filter(|_| is_refused) {
            let headers = authorizer.get_headers(&method, &uri).await.map_err(told)?;
            again.headers_mut().extend(headers);
            answer = client.execute(again).await.map_err(told)?;
            authorizer.process_response(&uri, answer.headers());
        }
        status(Ok::<_, String>(answer)).await
    }
}

pub async fn middle_authorizer(upstream: &Upstream) -> BasicClientCredentialAuthorizer {
    let url = upstream.token_url().parse().unwrap();
    BasicClientCredentialAuthorizer::basic_builder("id", "secret", url).build().await.unwrap()
}

#[derive(Clone)]
pub struct Middle(middle::HttpClient<BasicClientCredentialAuthorizer>);

impl Client for Middle {
    const NAME: &'static str = "middle 0.5.0, `HttpClient`";
    const BARE: &'static str = Bare012::NAME;

    async fn new(upstream: &Upstream) -> Self {
        Self(middle::HttpClient::new(middle_authorizer(upstream).await))
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let request = self.0.request(sent.method(), url).map_err(told)?;
        status_012(request.body(body_012(sent)).send().await).await
    }
}

/// What many write: a token in a lock, and a middleware that forgets it at a 401 and tries once more.
#[derive(Clone)]
pub struct ByHand(ClientWithMiddleware);

struct Lock {
    client:
        BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>,
    http: reqwest012::Client,
    token: RwLock<Option<String>>,
}

impl Lock {
    async fn header(&self) -> reqwest_middleware::Result<HeaderValue> {
        if let Some(token) = &*self.token.read().await {
            return Ok(bearer(token));
        }
        let mut current = self.token.write().await;
        if let Some(token) = &*current {
            return Ok(bearer(token));
        }
        let grant = self.client.exchange_client_credentials();
        let granted = grant.request_async(&self.http).await;
        let granted = granted.map_err(reqwest_middleware::Error::middleware)?;
        Ok(bearer(current.insert(granted.access_token().secret().clone())))
    }
}

fn bearer(token: &str) -> HeaderValue {
    format!("Bearer {token}").parse().unwrap()
}

#[async_trait::async_trait]
impl Middleware for Lock {
    async fn handle(
        &self,
        mut request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let again = request.try_clone();
        request.headers_mut().insert(AUTHORIZATION, self.header().await?);
        let answer = next.clone().run(request, extensions).await?;
        match again {
            Some(mut again) if answer.status() == StatusCode::UNAUTHORIZED => {
                *self.token.write().await = None;
                again.headers_mut().insert(AUTHORIZATION, self.header().await?);
                next.run(again, extensions).await
            }
            _ => Ok(answer),
        }
    }
}

impl Client for ByHand {
    const NAME: &'static str = "`RwLock` by hand, in reqwest";
    const BARE: &'static str = Bare::NAME;

    async fn new(upstream: &Upstream) -> Self {
        let client = BasicClient::new(ClientId::new("id".into()))
            .set_client_secret(ClientSecret::new("secret".into()))
            .set_token_uri(TokenUrl::new(upstream.token_url()).unwrap());
        let lock = Lock { client, http: reqwest012::Client::new(), token: RwLock::new(None) };
        Self(ClientBuilder::new(reqwest::Client::new()).with(lock).build())
    }

    async fn send(&self, url: &str, sent: Sent) -> Answer {
        let request = self.0.request(sent.method(), url).body(body(sent));
        status(request.send().await).await
    }
}
