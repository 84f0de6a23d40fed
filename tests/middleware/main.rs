//! The middleware between real clients and real servers on loopback: reqwest's, hyper-util's and tonic's.

mod allocations;
mod bodies;
#[path = "../http/certificates.rs"]
mod certificates;
mod contract;
mod dpop;
mod events;
mod examples;
mod grpc;
mod many;
#[path = "../session/recording.rs"]
mod recording;
mod redirects;
mod refusals;
mod upstream;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ccg_session::middleware::{Attach, Attached};
use ccg_session::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, Session, SessionHandle, TokenError,
    TokenManager,
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use reqwest_middleware::ClientWithMiddleware;
use tower::{Layer as _, ServiceExt as _};

type BoxError = Box<dyn Error + Send + Sync>;

/// Grants `T1`, `T2` and so on, and exchanges them for `N1`, `N2`.
#[derive(Default)]
struct Tokens {
    grants: AtomicUsize,
    exchanges: AtomicUsize,
    gives_no_access_token: bool,
}

const LIFE: Duration = Duration::from_secs(3_600);

impl TokenManager for Tokens {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let number = self.grants.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Grant::bearer(format!("T{number}"))?.expires_in(LIFE))
    }

    async fn exchange(&self, _: AccessToken, _: ExchangeRequest) -> Result<Grant, TokenError> {
        let number = self.exchanges.fetch_add(1, Ordering::SeqCst) + 1;
        let grant = Grant::bearer(format!("N{number}"))?.expires_in(LIFE);
        Ok(if self.gives_no_access_token { grant.not_an_access_token() } else { grant })
    }

    fn can_exchange(&self) -> bool {
        true
    }
}

fn session() -> SessionHandle {
    Session::builder(Tokens::default()).spawn().unwrap()
}

/// With a token that is old enough for the session to believe that it is refused, and to ask for another
/// one at once.
async fn aged() -> SessionHandle {
    let session = session();
    session.get_token().await.unwrap();
    age();
    session
}

fn age() {
    ccg_session::test_util::suspend(Duration::from_secs(15));
}

fn attach(session: &SessionHandle, origins: &[&str]) -> Attach {
    let attach = Attach::new(session.clone());
    origins.iter().fold(attach, |attach, origin| attach.to(origin).unwrap())
}

type HyperClient = hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>;
type Copy = fn(&Full<Bytes>) -> Option<Full<Bytes>>;

fn hyper_client() -> HyperClient {
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http()
}

/// reqwest is built here without a crypto provider of its own.
fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn reqwest_builder() -> reqwest::ClientBuilder {
    install_provider();
    reqwest::Client::builder()
}

/// What is tested on each side.
enum Client {
    Reqwest(ClientWithMiddleware),
    /// Sends any of its bodies again.
    Tower(Box<Attached<HyperClient, Copy>>),
}

fn reqwest_client(attach: &Attach) -> ClientWithMiddleware {
    let client = reqwest_builder().build().unwrap();
    reqwest_middleware::ClientBuilder::new(client).with(attach.clone()).build()
}

impl Client {
    const SIDES: [fn(&Attach) -> Self; 2] = [
        |attach| Self::Reqwest(reqwest_client(attach)),
        |attach| {
            let layer = attach.layer().repeating((|body| Some(body.clone())) as Copy);
            Self::Tower(Box::new(layer.layer(hyper_client())))
        },
    ];

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        match self {
            Self::Reqwest(client) => {
                let answer = client.execute(request.try_into()?).await?;
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = answer.status();
                *response.headers_mut() = answer.headers().clone();
                *response.body_mut() = answer.bytes().await?;
                Ok(response)
            }
            Self::Tower(client) => {
                let answer = Attached::clone(client).oneshot(request.map(Full::new)).await?;
                let (parts, body) = answer.into_parts();
                Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
            }
        }
    }

    async fn get(&self, url: &str) -> Result<Response<Bytes>, BoxError> {
        self.send(Request::get(url).body(Bytes::new()).unwrap()).await
    }

    async fn status(&self, url: &str) -> u16 {
        self.get(url).await.unwrap().status().as_u16()
    }
}

/// Shared by a session and its test.
fn tokens() -> (Arc<Tokens>, SessionHandle) {
    let tokens = Arc::new(Tokens::default());
    let session = Session::builder(Arc::clone(&tokens)).spawn().unwrap();
    (tokens, session)
}

/// The error that a middleware gave, from that of its client.
fn inner<E: Error + Send + Sync + 'static>(error: &BoxError) -> &E {
    let error: &(dyn Error + 'static) = &**error;
    match error.downcast_ref::<reqwest_middleware::Error>() {
        Some(reqwest_middleware::Error::Middleware(error)) => error.downcast_ref().unwrap(),
        _ => error.downcast_ref().unwrap_or_else(|| panic!("{error:?}")),
    }
}
