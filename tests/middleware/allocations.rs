//! What a request costs more than without the middleware. The allocator counts for each thread by itself.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use ccg_session::middleware::Attach;
use ccg_session::{Session, SessionHandle};
use http::header::{AUTHORIZATION, HOST};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::{Layer as _, Service};

use super::{Tokens, reqwest_builder};

const URL: &str = "https://api.example.com/2.0/users/me";

/// With a fresh token that this thread has used.
fn session() -> SessionHandle {
    let session = Session::builder(Tokens::default()).spawn_thread().unwrap();
    session.blocking_get_token().unwrap();
    session.try_token().unwrap();
    session
}

fn attach() -> Attach {
    Attach::new(session()).to("https://api.example.com").unwrap()
}

/// As clients of HTTP/1.1 do it.
fn add_host(headers: &mut HeaderMap) {
    headers.insert(HOST, HeaderValue::from_static("api.example.com"));
}

/// In the place of a client.
#[derive(Clone)]
struct Server;

impl Service<Request<Empty<Bytes>>> for Server {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Empty<Bytes>>) -> Self::Future {
        add_host(request.headers_mut());
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
        Ok(Response::new(reqwest::Body::default()).into())
    }
}

/// Allocations of the one call that is measured; what it makes first, and what is left of it, not counted.
fn counted<T, F: Future<Output: Send>>(prepare: impl Fn() -> T, call: impl Fn(T) -> F) -> u64 {
    let once = || {
        let prepared = prepare();
        let mut answer = None;
        let counted = measure(|| {
            let future = pin!(call(prepared));
            answer = Some(future.poll(&mut Context::from_waker(Waker::noop())));
        });
        assert!(matches!(answer, Some(Poll::Ready(_))), "it had to wait");
        counted.count_total
    };
    once();
    let counts = [once(), once(), once()];
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    counts[0]
}

fn request() -> Request<Empty<Bytes>> {
    Request::get(URL).body(Empty::new()).unwrap()
}

#[test]
fn in_tower_it_is_two_at_most() {
    let without = counted(request, |request| Server.call(request));
    let layer = attach().layer();
    let with = counted(request, |request| layer.layer(Server).call(request));
    assert!((1..=2).contains(&(with - without)), "{with} with it, {without} without");
}

fn client(attach: Option<Attach>) -> ClientWithMiddleware {
    let builder = ClientBuilder::new(reqwest_builder().build().unwrap());
    let builder = match attach {
        Some(attach) => builder.with(attach),
        None => builder,
    };
    builder.with(Server).build()
}

#[test]
fn in_reqwest_it_is_one_more_than_its_try_clone() {
    let request = || {
        let mut request = reqwest::Request::new(http::Method::GET, URL.parse().unwrap());
        // reqwest sets one before it sends.
        request.headers_mut().insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
        request
    };
    let (plain, attached) = (client(None), client(Some(attach())));
    let (plain, attached) = (&plain, &attached);
    let without = counted(request, |request| plain.execute(request));
    let with = counted(request, |request| attached.execute(request));
    let clone = counted(request, |request| {
        std::hint::black_box(request.try_clone());
        ready(())
    });
    assert!(
        (1..=clone + 1).contains(&(with - without)),
        "{with} with it, {without} without, {clone} for the clone"
    );
}

#[test]
fn the_header_is_the_tokens_own_and_sensitive() {
    let session = session();
    let attach = Attach::new(session.clone()).to("https://api.example.com").unwrap();
    let seen = std::sync::Arc::<std::sync::Mutex<Option<HeaderValue>>>::default();
    let kept = std::sync::Arc::clone(&seen);
    let mut service =
        attach.layer().layer(tower::service_fn(move |request: Request<Empty<Bytes>>| {
            *kept.lock().unwrap() = request.headers().get(AUTHORIZATION).cloned();
            ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        }));
    let call = pin!(service.call(request()));
    assert!(call.poll(&mut Context::from_waker(Waker::noop())).is_ready());
    let seen = seen.lock().unwrap().take().unwrap();
    assert!(seen.is_sensitive(), "HPACK indexes it never");
    assert_eq!(
        seen.as_bytes().as_ptr(),
        session.try_token().unwrap().header_value().as_bytes().as_ptr()
    );
}
