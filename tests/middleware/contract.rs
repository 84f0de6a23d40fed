//! What tower wants of a service, and what the layers around this one see.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ccg_session::middleware::Attached;
use ccg_session::{Grant, GrantRequest, Session, SessionHandle, TokenError, TokenManager};
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::PollSemaphore;
use tower::limit::ConcurrencyLimit;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

use super::upstream::{Answer, Upstream, answer, ok, refusal, refuses_the_first};
use super::{Tokens, age, aged, attach, hyper_client};

type Body = Full<Bytes>;
const API: &str = "http://127.0.0.1:1";

fn get() -> Request<Body> {
    Request::get(API).body(Body::default()).unwrap()
}

/// Panics if it is called and was not polled ready, as the contract lets it. A clone was not.
struct Strict {
    is_ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { is_ready: false, calls: Arc::clone(&self.calls) }
    }
}

impl Service<Request<Body>> for Strict {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "it was not polled ready");
        self.calls.fetch_add(1, Ordering::SeqCst);
        let is_first = request.headers()[AUTHORIZATION] == "Bearer T1";
        ready(Ok(if is_first { refusal() } else { ok() }))
    }
}

fn strict() -> Strict {
    Strict { is_ready: false, calls: Arc::default() }
}

#[tokio::test]
async fn each_request_goes_to_a_service_that_was_polled_ready() {
    let session = aged().await;
    let inner = strict();
    let calls = Arc::clone(&inner.calls);
    let mut service = attach(&session, &[API]).layer().layer(inner);
    for _ in 0..3 {
        assert_eq!(service.ready().await.unwrap().call(get()).await.unwrap().status(), 200);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_call_that_is_not_awaited_yet_does_not_stop_the_next() {
    let session = aged().await;
    let mut service = attach(&session, &[API]).layer().layer(strict());
    let first = service.ready().await.unwrap().call(get());
    let second = service.ready().await.unwrap().call(get());
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(first.await.unwrap().status(), 200);
}

/// It panics if it is called without a place, and a clone has none.
#[tokio::test]
async fn a_limit_of_concurrency_inside_gives_each_request_a_place() {
    let session = aged().await;
    let stack = ServiceBuilder::new().layer(attach(&session, &[API]).layer()).concurrency_limit(1);
    let mut service: Attached<ConcurrencyLimit<Strict>> = stack.service(strict());
    for _ in 0..3 {
        let answer = service.ready().await.unwrap().call(get());
        let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
        assert_eq!(answer.expect("it has its place").unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_limit_of_concurrency_outside_counts_calls() {
    let session = aged().await;
    let stack = ServiceBuilder::new().concurrency_limit(2).layer(attach(&session, &[API]).layer());
    let service = stack.service(strict());
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        calls.spawn(service.clone().oneshot(get()));
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
}

/// A body is read for a limited time only, and here there is no time: then it is not read at all.
#[test]
fn its_callers_runtime_needs_no_timers() {
    let session = Session::builder(Tokens::default()).spawn_thread().unwrap();
    let service = attach(&session, &[API]).layer().layer(strict());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(service.oneshot(get())).unwrap().status(), 200);
}

/// Fails when polled.
#[derive(Clone)]
struct Broken;

impl Service<Request<Body>> for Broken {
    type Response = Answer;
    type Error = std::io::Error;
    type Future = Ready<Result<Answer, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Err(std::io::ErrorKind::NotConnected.into()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Err(std::io::ErrorKind::BrokenPipe.into()))
    }
}

#[tokio::test]
async fn the_inner_services_errors_are_given_as_they_are() {
    let session = aged().await;
    let mut service = attach(&session, &[API]).layer().layer(Broken);
    let kind = |error: super::BoxError| error.downcast_ref::<std::io::Error>().unwrap().kind();
    let error = service.ready().await.err().unwrap();
    assert_eq!(kind(error), std::io::ErrorKind::NotConnected);
    let error = service.call(get()).await.err().unwrap();
    assert_eq!(kind(error), std::io::ErrorKind::BrokenPipe);
}

/// `Authorization` and status.
type Passed = (Option<String>, u16);

/// Writes down what passes.
#[derive(Clone)]
struct Seeing<S> {
    inner: S,
    seen: Arc<Mutex<Vec<Passed>>>,
}

impl<S, A> Service<Request<Body>> for Seeing<S>
where
    S: Service<Request<Body>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let token =
            request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let (call, seen) = (self.inner.call(request), Arc::clone(&self.seen));
        Box::pin(async move {
            let answer = call.await?;
            seen.lock().unwrap().push((token, answer.status().as_u16()));
            Ok(answer)
        })
    }
}

/// Why a cache belongs below: what is above sees requests of all tenants alike. And what decodes answers, above or
/// below, has to do with the last one only.
#[tokio::test]
async fn a_layer_above_sees_one_request_without_a_token_and_the_last_answer() {
    let upstream = Upstream::start(refuses_the_first).await;
    let session = aged().await;
    let (above, below) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
    let service = Seeing { inner: hyper_client(), seen: Arc::clone(&below) };
    let service = attach(&session, &[&upstream.base]).layer().layer(service);
    let service = Seeing { inner: service, seen: Arc::clone(&above) };
    let request = Request::get(upstream.url("/")).body(Body::default()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(*above.lock().unwrap(), [(None, 200)]);
    let token = |number: u8| Some(format!("Bearer T{number}"));
    assert_eq!(*below.lock().unwrap(), [(token(1), 401), (token(2), 200)]);
}

/// Answers by URL and `Authorization`.
type Kept = HashMap<(String, Option<String>), Bytes>;

/// A shared cache of the simplest kind.
#[derive(Clone)]
struct Cache<S> {
    inner: S,
    kept: Arc<Mutex<Kept>>,
}

impl<S, A> Service<Request<Body>> for Cache<S>
where
    S: Service<Request<Body>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    A: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let token =
            request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let (key, kept) = ((request.uri().to_string(), token), Arc::clone(&self.kept));
        if let Some(body) = kept.lock().unwrap().get(&key).cloned() {
            return Box::pin(ready(Ok(Response::new(Full::new(body)))));
        }
        let call = self.inner.call(request);
        Box::pin(async move {
            let body = call.await?.into_body().collect().await.unwrap().to_bytes();
            kept.lock().unwrap().insert(key, body.clone());
            Ok(Response::new(Full::new(body)))
        })
    }
}

#[tokio::test]
async fn a_cache_below_keeps_tenants_apart_and_one_above_would_not() {
    for is_above in [false, true] {
        let upstream =
            Upstream::start(|seen| answer(200, &[], seen.authorization().to_owned())).await;
        let kept = Arc::<Mutex<Kept>>::default();
        let mut bodies = Vec::new();
        for tenant in ["A", "B"] {
            let session = SessionHandle::fixed(tenant).unwrap();
            let layer = attach(&session, &[&upstream.base]).layer();
            let request = Request::get(upstream.url("/")).body(Body::default()).unwrap();
            let kept = Arc::clone(&kept);
            let answer = if is_above {
                Cache { inner: layer.layer(hyper_client()), kept }
                    .oneshot(request)
                    .await
                    .unwrap()
                    .into_body()
            } else {
                let answer =
                    layer.layer(Cache { inner: hyper_client(), kept }).oneshot(request).await;
                Full::new(answer.unwrap().into_body().collect().await.unwrap().to_bytes())
            };
            bodies.push(answer.collect().await.unwrap().to_bytes());
        }
        let expected = if is_above { ["Bearer A", "Bearer A"] } else { ["Bearer A", "Bearer B"] };
        assert_eq!(bodies, expected);
    }
}

/// Refuses `T1`. Ready at once for a first request, and for a second one when it is told to be.
#[derive(Clone)]
struct Late {
    is_second: bool,
    opens: Arc<Mutex<oneshot::Receiver<()>>>,
    is_awaited: Arc<Notify>,
    last: Arc<Mutex<String>>,
}

impl Service<Request<Body>> for Late {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.is_second {
            self.is_awaited.notify_one();
            let mut opens = self.opens.lock().unwrap();
            return Pin::new(&mut *opens).poll(context).map(|_| Ok(()));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.is_second = true;
        let authorization = request.headers()[AUTHORIZATION].to_str().unwrap();
        authorization.clone_into(&mut self.last.lock().unwrap());
        ready(Ok(if authorization == "Bearer T1" { refusal() } else { ok() }))
    }
}

#[tokio::test]
async fn the_second_request_has_the_token_of_the_time_at_which_it_goes_out() {
    let session = aged().await;
    let (open, opens) = oneshot::channel();
    let late = Late {
        is_second: false,
        opens: Arc::new(Mutex::new(opens)),
        is_awaited: Arc::default(),
        last: Arc::default(),
    };
    let client = attach(&session, &[API]).layer().layer(late.clone());
    let call = tokio::spawn(client.oneshot(get()));
    late.is_awaited.notified().await;
    // What is given meanwhile dies before it can be sent.
    let token = session.get_token().await.unwrap();
    assert_eq!(token.secret(), "T2");
    age();
    assert!(session.invalidate(&token));
    open.send(()).unwrap();
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    assert_eq!(*late.last.lock().unwrap(), "Bearer T3");
}

/// One connection: a place that is free again when the answer's body has ended.
#[derive(Clone)]
struct Connection {
    places: PollSemaphore,
    place: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    calls: Arc<AtomicUsize>,
}

struct Held(Body, Option<OwnedSemaphorePermit>);

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.0).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) {
            self.1 = None;
        }
        frame
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Held>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let place = std::task::ready!(self.places.poll_acquire(context));
        *self.place.lock().unwrap() = place;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let place = self.place.lock().unwrap().take();
        assert!(place.is_some(), "it was not polled ready");
        let is_first = self.calls.fetch_add(1, Ordering::SeqCst) == 0;
        let (parts, _) = if is_first { refusal() } else { ok() }.into_parts();
        ready(Ok(Response::from_parts(parts, Held(Body::from("an answer"), place))))
    }
}

#[tokio::test]
async fn a_service_may_be_ready_no_sooner_than_the_last_answer_was_read() {
    let session = aged().await;
    let places = PollSemaphore::new(Arc::new(Semaphore::new(1)));
    let inner = Connection { places, place: Arc::default(), calls: Arc::default() };
    let mut service = attach(&session, &[API]).layer().layer(inner);
    let answer = service.ready().await.unwrap().call(get());
    let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
    assert_eq!(answer.expect("it is sent again").unwrap().status(), 200);
}

/// Grants once it may.
struct Waits(Arc<Semaphore>);

impl TokenManager for Waits {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let _leave = self.0.acquire().await.unwrap();
        Ok(Grant::bearer("T2")?.expires_in(Duration::from_secs(3_600)))
    }
}

#[tokio::test]
async fn a_call_that_waits_for_a_token_keeps_no_place_below() {
    let leave = Arc::new(Semaphore::new(0));
    let session = Session::builder(Waits(Arc::clone(&leave))).spawn().unwrap();
    let stack = ServiceBuilder::new().layer(attach(&session, &[API]).layer()).concurrency_limit(1);
    let service = stack.service(strict());
    let waits = tokio::spawn(service.clone().oneshot(get()));
    tokio::task::yield_now().await;
    let elsewhere = Request::get("http://127.0.0.1:2").header(AUTHORIZATION, "Bearer T0");
    let elsewhere = service.clone().oneshot(elsewhere.body(Body::default()).unwrap());
    let answer = tokio::time::timeout(Duration::from_secs(60), elsewhere).await;
    assert_eq!(answer.expect("there is a place").unwrap().status(), 200);
    assert!(!waits.is_finished());
    leave.add_permits(1);
    assert_eq!(waits.await.unwrap().unwrap().status(), 200);
}
