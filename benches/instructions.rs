//! So many calls of one kind on a session with a fresh token, for `.ci/instructions.py` to count the
//! instructions of: `instructions get_token 10000`.

use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::Duration;

use ccg_session::{Grant, GrantRequest, Session, TokenError, TokenManager};

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
    // As callers call it: in a task that is polled once for all the calls, as long as no call has to wait.
    let calls = std::pin::pin!(async {
        match call.as_str() {
            "get_token" => {
                for _ in 0..count {
                    black_box(session.get_token().await.unwrap());
                }
            }
            "try_token" => {
                for _ in 0..count {
                    black_box(session.try_token().unwrap());
                }
            }
            "header_value" => {
                for _ in 0..count {
                    black_box(session.get_token().await.unwrap().header_value().clone());
                }
            }
            _ => panic!("there is no call {call:?}"),
        }
    });
    assert!(calls.poll(&mut Context::from_waker(Waker::noop())).is_ready(), "a call had to wait");
}
