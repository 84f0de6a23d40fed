//! Single calls under the microscope, allocations included: `cargo bench --bench calls`.
//!
//! For a figure to compare with others, see `table.rs`: it takes turns with the primitives.

use std::hint::black_box;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ccg_session::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, Session, SessionHandle, TokenError,
    TokenManager,
};
use divan::{AllocProfiler, Bencher};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const THREADS: [usize; 3] = [1, 2, 8];

fn main() {
    divan::main();
}

/// Grants and exchanges at once, in this process.
struct Manager;

impl TokenManager for Manager {
    async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("x".repeat(1_024))?.expires_in(Duration::from_secs(3_600)))
    }

    async fn exchange(
        &self,
        _subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        Ok(Grant::bearer(request.scopes.concat())?.expires_in(Duration::from_secs(3_600)))
    }

    fn can_exchange(&self) -> bool {
        true
    }
}

/// With a fresh token.
fn session() -> &'static SessionHandle {
    static SESSION: OnceLock<SessionHandle> = OnceLock::new();
    SESSION.get_or_init(|| {
        let session = Session::builder(Manager).spawn_thread().unwrap();
        session.blocking_get_token().unwrap();
        session
    })
}

/// The answer of a future that need not wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it had to wait"),
    }
}

#[divan::bench(threads = THREADS, sample_size = 1_000)]
fn get_token(bencher: Bencher) {
    let session = session();
    bencher.bench(|| drop(black_box(at_once(session.get_token()).unwrap())));
}

#[divan::bench(threads = THREADS, sample_size = 1_000)]
fn try_token(bencher: Bencher) {
    let session = session();
    bencher.bench(|| drop(black_box(session.try_token().unwrap())));
}

#[divan::bench(threads = THREADS, sample_size = 1_000)]
fn header_value_cloned(bencher: Bencher) {
    let session = session();
    bencher.bench(|| {
        let token = at_once(session.get_token()).unwrap();
        drop(black_box(token.header_value().clone()));
    });
}

/// A cached one, of so many.
#[divan::bench(args = [1, 32, 1_024])]
fn exchange_hit(bencher: Bencher, keys: usize) {
    let runtime = Runtime::new().unwrap();
    let session = runtime.block_on(async { Session::builder(Manager).spawn().unwrap() });
    let request = |key: usize| ExchangeRequest::scopes([format!("scope_{key}")]);
    for key in 0..keys {
        runtime.block_on(session.exchange(request(key))).unwrap();
    }
    bencher
        .with_inputs(|| request(keys / 2))
        .bench_local_values(|request| runtime.block_on(session.exchange(request)).unwrap());
}
