//! The task that listens for a fleet: where it runs, and how often.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::grant::Grant;
use crate::store::{
    Buried, Fleet, Found, Heard, Id, Record, Sealed, Slot, Store, StoreError, StoreTime, Taken,
    Want,
};
use crate::{GrantRequest, Phase, Session, SessionHandle, TokenError, TokenManager};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Keeps nothing, and has nothing to tell but what `heard` says.
struct Empty<H>(H);

impl<H: Fn() -> Option<Heard> + Send + Sync + 'static> Store for Empty<H> {
    async fn take(&self, _: &Slot, want: &Want<'_>) -> Result<Taken, StoreError> {
        let found = if want.lease.is_some() { Found::Leased } else { Found::None };
        Ok(Taken { now: StoreTime(1_000_000), revoked: Vec::new(), found })
    }

    async fn put(&self, _: &Slot, _: &Id, _: &Sealed) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn renew(&self, _: &Slot, _: &Id) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn leave(&self, _: &Slot, _: &Id) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn bury(&self, _: &Slot, _: &Record) -> Result<Buried, StoreError> {
        Ok(Buried::default())
    }

    async fn heard(&self, _: &str) -> Heard {
        match (self.0)() {
            Some(heard) => heard,
            None => pending().await,
        }
    }
}

struct Manager;

impl TokenManager for Manager {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("T")?.expires_in(Duration::from_secs(3_600)))
    }
}

/// Each has a token.
async fn sessions<S: Store>(fleet: &Fleet<S>, names: std::ops::Range<u32>) -> Vec<SessionHandle> {
    let mut sessions = Vec::new();
    for name in names {
        let manager = fleet.share(Manager).slot(name.to_string()).build().unwrap();
        let session = Session::builder(manager).spawn().unwrap();
        session.get_token().await.unwrap();
        sessions.push(session);
    }
    sessions
}

/// Its only thread has this name, and says so wherever it listens.
fn runtime(name: &str) -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(1).thread_name(name).enable_all().build().unwrap()
}

fn told_where() -> (Fleet<impl Store>, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let store = Empty(move || {
        tell.send(std::thread::current().name().unwrap().to_owned()).unwrap();
        None
    });
    (Fleet::builder(store, KEY).build().unwrap(), told)
}

const MINUTE: Duration = Duration::from_secs(60);

/// A runtime that ends drops what is started in it at once, so a listener must not start the next one from there.
#[test]
fn a_runtime_ends_however_many_sessions_it_had() {
    let (fleet, told) = told_where();
    let one = runtime("one");
    let held = one.block_on(sessions(&fleet, 0..3_000));
    assert_eq!(told.recv_timeout(MINUTE).unwrap(), "one");
    drop(one);
    assert!(held.iter().all(|session| session.status().phase() == Phase::Closed));
    assert!(told.try_recv().is_err(), "nobody is there to listen");

    let two = runtime("two");
    let later = two.block_on(sessions(&fleet, 0..1));
    assert_eq!(told.recv_timeout(MINUTE).unwrap(), "two");
    drop((later, held));
}

#[test]
fn another_runtime_takes_over_from_one_that_had_many_sessions() {
    let (fleet, told) = told_where();
    let (one, two) = (runtime("one"), runtime("two"));
    let many = one.block_on(sessions(&fleet, 0..3_000));
    assert_eq!(told.recv_timeout(MINUTE).unwrap(), "one");
    let few = two.block_on(sessions(&fleet, 3_000..3_002));
    drop(one);
    assert_eq!(told.recv_timeout(MINUTE).unwrap(), "two");
    drop(two);
    assert!(told.try_recv().is_err(), "each was told of once");
    drop((many, few));
}

/// Of slots that nobody has here, without a pause: a core would do nothing else.
#[tokio::test(start_paused = true)]
async fn a_store_that_tells_without_a_pause_is_listened_to_with_one() {
    const MOST: u64 = 200_000;
    let calls = Arc::new(AtomicU64::new(0));
    let store = {
        let calls = Arc::clone(&calls);
        // The clock of this test stands still while anybody is busy.
        Empty(move || {
            let notice = Heard::Notice(Slot::new("ccg-session", [7; 16]), Record([7; 40]));
            (calls.fetch_add(1, Relaxed) < MOST).then_some(notice)
        })
    };
    let fleet = Fleet::builder(store, KEY).build().unwrap();
    let _held = sessions(&fleet, 0..1).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let at_once = calls.load(Relaxed);
    assert!(at_once >= 500, "what comes at once is heard at once: {at_once}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let all = calls.load(Relaxed);
    assert!(all < MOST, "{all} in 10 s");
}
