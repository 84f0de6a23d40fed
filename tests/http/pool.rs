//! A pool of tenants on the wire: what one server's answers to some of them mean for the others.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use ccg_session::{
    HttpTokenManager, Provider, Session, SessionConfig, SessionError, SessionPool, Subject,
    TokenError,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{millis, secs};

/// What the server does with a tenant's request.
#[derive(Clone, Copy)]
enum Reply {
    Token,
    Refusal,
    /// 429, with so many seconds of `Retry-After`.
    Limit(u64),
    /// None, for as long as the client waits.
    Nothing,
}

type Rule = fn(u64) -> Reply;

struct Server {
    base: String,
    rule: watch::Sender<Rule>,
    seen: Arc<watch::Sender<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Whose request came, and when.
    requests: Vec<(u64, Instant)>,
    open: usize,
    most_open: usize,
}

/// A request that is being answered; dropped when it is, and when the client leaves.
struct Open(Arc<watch::Sender<Seen>>);

impl Open {
    fn of(seen: &Arc<watch::Sender<Seen>>, tenant: u64) -> Self {
        seen.send_modify(|seen| {
            seen.requests.push((tenant, Instant::now()));
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
        });
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|seen| seen.open -= 1);
    }
}

impl Server {
    async fn start(rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server =
            Self { base, rule: watch::Sender::new(rule), seen: Arc::new(watch::Sender::default()) };
        let (rule, seen) = (server.rule.subscribe(), Arc::clone(&server.seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (rule, seen) = (rule.clone(), Arc::clone(&seen));
                let service =
                    service_fn(move |request| answer(*rule.borrow(), Arc::clone(&seen), request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    fn pool(&self, config: &SessionConfig) -> SessionPool<u64> {
        let provider = Provider::box_ccg(Subject::user("0")).base_url(&self.base);
        let base = HttpTokenManager::builder(provider, "id", "secret").build().unwrap();
        let config = config.clone();
        let maker = move |tenant: &u64| {
            let manager = base.for_subject(Subject::user(tenant.to_string()));
            Ok(Session::builder(manager).config(config.clone()))
        };
        SessionPool::builder(maker).build().unwrap()
    }

    fn requests_of(&self, tenant: u64) -> usize {
        self.seen.borrow().requests.iter().filter(|(whose, _)| *whose == tenant).count()
    }
}

async fn answer(
    rule: Rule,
    seen: Arc<watch::Sender<Seen>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut form = url::form_urlencoded::parse(&body);
    let (_, tenant) = form.find(|(name, _)| name == "box_subject_id").unwrap();
    let tenant = tenant.parse().unwrap();
    let _open = Open::of(&seen, tenant);
    // So that many are open at once.
    tokio::time::sleep(millis(20)).await;
    let answer = Response::builder();
    let answer = match rule(tenant) {
        Reply::Token => answer.body(format!(
            r#"{{"access_token":"T{tenant}","token_type":"bearer","expires_in":3600}}"#
        )),
        Reply::Refusal => answer.status(400).body(r#"{"error":"invalid_grant"}"#.to_owned()),
        Reply::Limit(wait) => answer.status(429).header("retry-after", wait).body(String::new()),
        Reply::Nothing => std::future::pending().await,
    };
    Ok(answer.unwrap().map(Full::from))
}

/// Whatever else the machine does, an attempt has its time.
fn patient() -> SessionConfig {
    let mut config = SessionConfig::default();
    config.retry.attempt_timeout = secs(120);
    config
}

/// What each of them is told, all asking at once.
async fn all_ask(
    pool: &SessionPool<u64>,
    tenants: Range<u64>,
) -> Vec<(u64, Result<String, SessionError>)> {
    let mut calls = JoinSet::new();
    for tenant in tenants {
        let session = pool.get(&tenant).unwrap();
        calls.spawn(async move {
            let token = session.get_token().await;
            (tenant, token.map(|token| token.secret().to_owned()))
        });
    }
    calls.join_all().await
}

fn assert_own_token(tenant: u64, told: &Result<String, SessionError>) {
    assert_eq!(told.as_deref().ok(), Some(&*format!("T{tenant}")), "{told:?}");
}

#[tokio::test]
async fn a_tenant_that_asks_too_often_rests_alone() {
    let server =
        Server::start(|tenant| if tenant == 7 { Reply::Limit(600) } else { Reply::Token }).await;
    let pool = server.pool(&patient());
    for (tenant, told) in all_ask(&pool, 0..300).await {
        if tenant != 7 {
            assert_own_token(tenant, &told);
        }
    }
    assert_eq!(pool.status().rests, None);
    let error = pool.get(&7).unwrap().get_token().await.unwrap_err();
    assert!(error.retry_after().unwrap() > secs(400), "{error:?}");
    assert_eq!(server.requests_of(7), 1, "it rests");
    assert_eq!(server.seen.borrow().requests.len(), 300);
}

#[tokio::test]
async fn if_all_ask_too_often_all_rest_and_then_one_tries() {
    let server = Server::start(|_| Reply::Limit(15)).await;
    let mut config = patient();
    config.retry.attempts = 1;
    let pool = server.pool(&config);
    let (told, mut errors) = mpsc::unbounded_channel();
    let mut calls = JoinSet::new();
    for tenant in 0..200 {
        let (pool, told) = (pool.clone(), told.clone());
        calls.spawn(async move {
            loop {
                match pool.get(&tenant).unwrap().get_token().await {
                    Ok(token) => return (tenant, Ok(token.secret().to_owned())),
                    Err(error) => {
                        let wait = error.retry_after().unwrap();
                        told.send(error).unwrap();
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        });
    }
    // The one who is not told waits, and tries when the rest is over.
    for _ in 0..199 {
        let error = errors.recv().await.unwrap();
        let SessionError::Failed { error, .. } = error else { panic!("{error:?}") };
        assert!(matches!(*error, TokenError::RateLimited { .. }), "{error:?}");
    }
    assert!(pool.status().rests.is_some());
    let before = server.seen.borrow().requests.len();
    assert!(before <= 64 + 2, "{before} of 200 were sent");
    // Of two that come late the second is the next one to try, and the first is told.
    let ask = |tenant| {
        let session = pool.get(&tenant).unwrap();
        tokio::spawn(async move { session.get_token().await.map(drop) })
    };
    let (late, probe) = (ask(200), ask(201));
    assert!(late.await.unwrap().unwrap_err().retry_after().is_some());
    assert_eq!(server.requests_of(200), 0);

    server.rule.send_replace(|_| Reply::Token);
    for (tenant, told) in calls.join_all().await {
        assert_own_token(tenant, &told);
    }
    probe.await.unwrap().unwrap();
    assert_eq!(pool.status().rests, None);
    let seen = server.seen.borrow();
    let [last, first] = [before - 1, before].map(|index| seen.requests[index].1);
    assert!(first - last >= secs(15), "{:?}", first - last);
}

#[tokio::test]
async fn a_refusal_rests_nobody_else() {
    let server =
        Server::start(|tenant| if tenant % 2 == 0 { Reply::Refusal } else { Reply::Token }).await;
    let pool = server.pool(&patient());
    for (tenant, told) in all_ask(&pool, 0..300).await {
        if tenant % 2 == 0 {
            let Err(SessionError::Failed { error, .. }) = told else {
                panic!("{tenant}: {told:?}")
            };
            assert!(matches!(*error, TokenError::Denied { status: 400, .. }), "{error:?}");
        } else {
            assert_own_token(tenant, &told);
        }
    }
    assert_eq!(pool.status().rests, None);
    assert_eq!(server.seen.borrow().requests.len(), 300, "none was sent twice");
}

/// Those who came first are all of the dead route.
#[tokio::test]
async fn three_hundred_tenants_that_hang_do_not_stop_the_others() {
    let server =
        Server::start(|tenant| if tenant < 300 { Reply::Nothing } else { Reply::Token }).await;
    let pool = server.pool(&patient());
    let dead: Vec<_> = (0..300).map(|tenant| pool.get(&tenant).unwrap()).collect();
    let mut hanging = JoinSet::new();
    for session in dead {
        hanging.spawn(async move { session.get_token().await.map(drop) });
    }
    // All places are theirs.
    let mut seen = server.seen.subscribe();
    seen.wait_for(|seen| seen.open >= 64).await.unwrap();
    for (tenant, told) in all_ask(&pool, 300..1_300).await {
        assert_own_token(tenant, &told);
    }
    assert!(hanging.try_join_next().is_none(), "they hang still");
    let seen = server.seen.borrow();
    assert!((64..=128).contains(&seen.most_open), "{}", seen.most_open);
}
