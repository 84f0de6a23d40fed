//! So many calls of one kind on a session with a fresh token, for `.ci/instructions.py` to count the
//! instructions of: `instructions get_token 10000`.

use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ccg_session::{Grant, GrantRequest, Session, SessionHandle, TokenError, TokenManager};

struct Manager;

impl TokenManager for Manager {
    async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("x".repeat(1_024))?.expires_in(Duration::from_secs(3_600)))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, call, count] = arguments.as_slice() else {
        // `cargo bench` runs every bench, with arguments of its own.
        println!("instructions: run by .ci/instructions.py");
        return;
    };
    let Ok(count) = count.parse::<u64>() else { panic!("{count:?} is not a number of calls") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = runtime.block_on(async {
        let session = Session::builder(Manager).spawn().unwrap();
        session.get_token().await.unwrap();
        session
    });
    match call.as_str() {
        "get_token" => repeat(count, || get_token(&session)),
        "try_token" => repeat(count, || session.try_token().unwrap()),
        "header_value" => repeat(count, || get_token(&session).header_value().clone()),
        _ => panic!("there is no call {call:?}"),
    }
}

fn repeat<T>(count: u64, call: impl Fn() -> T) {
    for _ in 0..count {
        black_box(call());
    }
}

fn get_token(session: &SessionHandle) -> ccg_session::AccessToken {
    let call = std::pin::pin!(session.get_token());
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.unwrap(),
        Poll::Pending => panic!("it had to wait"),
    }
}
