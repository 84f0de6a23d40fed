//! What is called: an API that refuses tokens once they are revoked, its token endpoint, and a server of another
//! origin. It remembers what it was asked.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request as Call, Status};

/// Threads of its own, so that its work is not counted as a client's.
static SERVERS: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// Origins, and what their servers saw.
pub struct Upstream {
    pub api: String,
    pub other: String,
    pub grpc: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    granted: AtomicU64,
    /// So many tokens, from the first on, are refused.
    revoked: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

/// A request that came, but for those to the token endpoint.
#[derive(Clone)]
pub struct Seen {
    pub elsewhere: bool,
    /// The number of its token.
    pub token: Option<u64>,
    pub bytes: usize,
}

impl Upstream {
    pub async fn start() -> Self {
        let started = SERVERS.spawn(async {
            let state = Arc::<State>::default();
            let [api, other, grpc] = [bind().await, bind().await, bind().await];
            let origin =
                |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
            let upstream = Self {
                api: origin(&api),
                other: origin(&other),
                grpc: origin(&grpc),
                state: Arc::clone(&state),
            };
            let away = format!("{}/landing", upstream.other);
            tokio::spawn(serve(api, Arc::clone(&state), Some(away)));
            tokio::spawn(serve(other, Arc::clone(&state), None));
            tokio::spawn(serve_grpc(grpc, state));
            upstream
        });
        started.await.unwrap()
    }

    pub fn token_url(&self) -> String {
        format!("{}/token", self.api)
    }

    /// All tokens so far are refused from now on, and what was seen is forgotten.
    pub fn revoke(&self) {
        self.state.revoked.store(self.grants(), SeqCst);
        self.forget();
    }

    /// What was seen.
    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    pub fn grants(&self) -> u64 {
        self.state.granted.load(SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

async fn bind() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(4_096).unwrap()
}

/// The API, which redirects to `away` on demand; or the other server, which takes everything.
async fn serve(listener: TcpListener, state: Arc<State>, away: Option<String>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (state, away) = (Arc::clone(&state), away.clone());
        let service = service_fn(move |request| answer(Arc::clone(&state), away.clone(), request));
        let server = Builder::new(TokioExecutor::new());
        tokio::spawn(async move {
            // An error is a client that left.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    state: Arc<State>,
    away: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let token = token.and_then(number);
    let bytes = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    let mut response = Response::builder();
    if path == "/token" {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let number = state.granted.fetch_add(1, SeqCst) + 1;
        let body = format!(
            r#"{{"access_token":"T{number:031}","token_type":"Bearer","expires_in":3600}}"#
        );
        response = response.header("content-type", "application/json");
        return Ok(response.body(body.into()).unwrap());
    }
    let is_refused = state.judge(Seen { elsewhere: away.is_none(), token, bytes });
    Ok(match away {
        Some(_) if is_refused => response
            .status(401)
            .header("www-authenticate", r#"Bearer error="invalid_token""#)
            .body(Full::default()),
        Some(away) if path == "/redirect" => {
            response.status(302).header("location", away).body(Full::default())
        }
        Some(_) if path == "/password" => response
            .status(401)
            .header("www-authenticate", r#"Basic realm="something else""#)
            .body(Full::default()),
        _ => response.body("ok".into()),
    }
    .unwrap())
}

async fn serve_grpc(listener: TcpListener, state: Arc<State>) {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let health = InterceptedService::new(health, move |call: Call<()>| {
        let token = call.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let seen = Seen { elsewhere: false, token: token.and_then(number), bytes: 0 };
        if state.judge(seen) { Err(Status::unauthenticated("refused")) } else { Ok(call) }
    });
    let server = Server::builder().add_service(health);
    server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
}

fn number(authorization: &str) -> Option<u64> {
    authorization.strip_prefix("Bearer T")?.parse().ok()
}

impl State {
    /// Whether its token is refused.
    fn judge(&self, seen: Seen) -> bool {
        let is_refused = seen.token.is_none_or(|number| number <= self.revoked.load(SeqCst));
        self.seen.lock().unwrap().push(seen);
        is_refused
    }
}
