//! A request with the middleware and without it, allocations included: `cargo bench --bench middleware`. The server
//! is a function, so that nothing else is measured.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ccg_session::middleware::{Attach, AttachLayer};
use ccg_session::{Grant, GrantRequest, Session, TokenError, TokenManager};
use divan::{AllocProfiler, Bencher};
use http::header::{ACCEPT, HOST};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::{Layer as _, Service};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const URL: &str = "https://api.example.com/2.0/users/me";

fn main() {
    divan::main();
}

/// Grants at once, in this process.
struct Manager;

impl TokenManager for Manager {
    async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("x".repeat(1_024))?.expires_in(Duration::from_secs(3_600)))
    }
}

static ATTACH: LazyLock<Attach> = LazyLock::new(|| {
    let session = Session::builder(Manager).spawn_thread().unwrap();
    session.blocking_get_token().unwrap();
    Attach::new(session).to("https://api.example.com").unwrap()
});

/// In the place of a client, which adds a header, too.
#[derive(Clone)]
struct Server;

fn add_host(headers: &mut HeaderMap) {
    headers.insert(HOST, HeaderValue::from_static("api.example.com"));
}

impl Service<Request<Empty<Bytes>>> for Server {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Empty<Bytes>>) -> Self::Future {
        add_host(request.headers_mut());
        black_box(&request);
        ready(Ok(Response::new(Empty::new())))
    }
}

#[tonic::async_trait]
impl Middleware for Server {
    async fn handle(
        &self,
        mut request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        add_host(request.headers_mut());
        black_box(&request);
        Ok(Response::new(reqwest::Body::default()).into())
    }
}

/// The answer of a future that need not wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it had to wait"),
    }
}

fn request() -> Request<Empty<Bytes>> {
    Request::get(URL).body(Empty::new()).unwrap()
}

#[divan::bench]
fn tower_without(bencher: Bencher) {
    let mut service = Server;
    bencher
        .with_inputs(request)
        .bench_local_values(|request| at_once(service.call(request)).unwrap());
}

#[divan::bench]
fn tower_with(bencher: Bencher) {
    let layer: AttachLayer = ATTACH.layer();
    let mut service = layer.layer(Server);
    bencher
        .with_inputs(request)
        .bench_local_values(|request| at_once(service.call(request)).unwrap());
}

fn reqwest_request() -> reqwest::Request {
    let mut request = reqwest::Request::new(http::Method::GET, URL.parse().unwrap());
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("*/*"));
    request
}

fn client(attach: Option<Attach>) -> ClientWithMiddleware {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = ClientBuilder::new(reqwest::Client::new());
    let builder = match attach {
        Some(attach) => builder.with(attach),
        None => builder,
    };
    builder.with(Server).build()
}

#[divan::bench]
fn reqwest_without(bencher: Bencher) {
    let client = client(None);
    bencher
        .with_inputs(reqwest_request)
        .bench_local_values(|request| at_once(client.execute(request)).unwrap());
}

#[divan::bench]
fn reqwest_with(bencher: Bencher) {
    let client = client(Some(ATTACH.clone()));
    bencher
        .with_inputs(reqwest_request)
        .bench_local_values(|request| at_once(client.execute(request)).unwrap());
}

#[divan::bench]
fn reqwest_try_clone(bencher: Bencher) {
    bencher.with_inputs(reqwest_request).bench_local_refs(|request| request.try_clone());
}
