//! Many calls at once, and any answers in any order.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};

use ccg_session::Session;
use ccg_session::testing::Authority;
use http::{Extensions, Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use proptest::prelude::*;
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use tokio::sync::Barrier;
use tower::{Layer as _, Service, ServiceExt as _};

use super::upstream::Answer;
use super::{Client, Tokens, age, attach, reqwest_builder};

const CALLERS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_that_meet_a_revoked_token_cost_one_grant() {
    for client in Client::SIDES {
        let authority = Authority::start().await.unwrap();
        let session = Session::builder(authority.manager().unwrap()).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        let client = Arc::new(client(&attach(&session, &[authority.base_url()])));
        authority.revoke_behind(token.secret());
        let start = Arc::new(Barrier::new(CALLERS));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..CALLERS {
            let (client, start, url) =
                (Arc::clone(&client), Arc::clone(&start), authority.resource_url());
            calls.spawn(async move {
                start.wait().await;
                client.status(&url).await
            });
        }
        while let Some(status) = calls.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
        let counts = authority.counts();
        assert_eq!(counts.grants, 2, "the first, and one more");
        assert!(counts.resource <= 2 * CALLERS as u64 + 1, "{counts:?}");
        assert!(counts.resource > CALLERS as u64, "somebody met it: {counts:?}");
    }
}

/// Made once, and asked nothing.
static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| reqwest_builder().build().unwrap());

/// Answers as it is told, then always the same.
#[derive(Clone)]
struct Scripted {
    answers: Arc<Mutex<Vec<Kind>>>,
    requests: Arc<AtomicUsize>,
}

impl Service<Request<Full<Bytes>>> for Scripted {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let kind = self.answers.lock().unwrap().pop();
        ready(Ok(kind.unwrap_or_default().answer()))
    }
}

/// In the place of reqwest's client.
#[tonic::async_trait]
impl Middleware for Scripted {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let kind = self.answers.lock().unwrap().pop();
        let (mut parts, body) = kind.unwrap_or_default().answer().into_parts();
        let url = Response::builder().url(request.url().clone()).body(()).unwrap();
        parts.extensions = url.into_parts().0.extensions;
        Ok(Response::from_parts(parts, reqwest::Body::wrap(body)).into())
    }
}

#[derive(Clone, Debug, Default)]
struct Kind {
    status: u16,
    challenge: Option<&'static str>,
    grpc: Option<&'static str>,
    has_nonce: bool,
    /// The time that has gone by, so that the session may believe the next refusal.
    ages: bool,
}

impl Kind {
    fn answer(&self) -> Answer {
        if self.ages {
            age();
        }
        let mut answer = Response::builder().status(self.status.max(100));
        if let Some(challenge) = self.challenge {
            answer = answer.header("www-authenticate", challenge);
        }
        if let Some(status) = self.grpc {
            answer =
                answer.header("content-type", "application/grpc").header("grpc-status", status);
        }
        if self.has_nonce {
            answer = answer.header("dpop-nonce", "n");
        }
        answer.body(Full::default()).unwrap()
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    let challenge = prop::option::of(prop::sample::select(vec![
        "Bearer",
        "Bearer error=\"invalid_token\"",
        "Bearer error=\"insufficient_scope\"",
        "DPoP error=\"use_dpop_nonce\"",
        "Bearer error=\"use_dpop_nonce\"",
        "Basic realm=\"Bearer\", Bearer",
    ]));
    let status = prop::sample::select(vec![200, 302, 401, 401, 401, 403, 407, 500]);
    let grpc = prop::option::weighted(0.2, prop::sample::select(vec!["0", "7", "16"]));
    (status, challenge, grpc, any::<bool>(), any::<bool>()).prop_map(
        |(status, challenge, grpc, has_nonce, ages)| Kind {
            status,
            challenge,
            grpc,
            has_nonce,
            ages,
        },
    )
}

proptest! {
    #[test]
    fn no_call_makes_more_than_two_requests(
        answers in prop::collection::vec(kind(), 0..40),
        calls in 1..20_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let session = Session::builder(Tokens::default()).spawn().unwrap();
            let inner = Scripted { answers: Arc::new(Mutex::new(answers)), requests: Arc::default() };
            let requests = Arc::clone(&inner.requests);
            let attach = attach(&session, &["https://api.example.com"]);
            let tower = attach.layer().layer(inner.clone());
            let reqwest = ClientBuilder::new(CLIENT.clone()).with(attach).with(inner).build();
            for call in 0..calls {
                let before = requests.load(Ordering::SeqCst);
                let url = "https://api.example.com/";
                if call % 2 == 0 {
                    let request = Request::get(url).body(Full::default()).unwrap();
                    tower.clone().oneshot(request).await.unwrap();
                } else {
                    reqwest.get(url).send().await.unwrap();
                }
                let sent = requests.load(Ordering::SeqCst) - before;
                prop_assert!((1..=2).contains(&sent), "{}", sent);
            }
            Ok(())
        })?;
    }
}
