//! Stores of somebody else's making, that do what they should not: the session goes on without them.

use std::future::{Future, pending};
use std::sync::Arc;

use ccg_session::testing::Authority;
use ccg_session::{
    Buried, FileStore, Fleet, Heard, Id, Record, Sealed, Session, SessionHandle, Slot, Store,
    StoreError, StoreTime, Taken, Want,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::replica::{KEY, lets_go_of};
use crate::{Directory, secs};

/// What it does instead of one of its calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Before there is a future.
    PanicsWhenCalled,
    PanicsWhenPolled,
    /// It never answers, and panics when it is given up.
    PanicsWhenDropped,
    /// Of [`Store::heard`].
    AlwaysLook,
    AlwaysNotice,
    /// Of [`Store::take`].
    Answers(u64),
}

#[derive(Clone)]
struct Odd {
    store: Arc<FileStore>,
    call: &'static str,
    fault: Fault,
}

struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "it panics when it is dropped");
    }
}

impl Odd {
    fn meddle(&self, call: &'static str) -> impl Future<Output = ()> + Send + use<> {
        let fault = (self.call == call).then_some(self.fault);
        assert_ne!(fault, Some(Fault::PanicsWhenCalled));
        async move {
            assert_ne!(fault, Some(Fault::PanicsWhenPolled));
            if fault == Some(Fault::PanicsWhenDropped) {
                let _panics = Panics;
                pending::<()>().await;
            }
        }
    }
}

impl Store for Odd {
    fn take(
        &self,
        slot: &Slot,
        want: &Want<'_>,
    ) -> impl Future<Output = Result<Taken, StoreError>> + Send {
        let meddle = self.meddle("take");
        async move {
            meddle.await;
            let mut taken = self.store.take(slot, want).await?;
            if let Fault::Answers(now) = self.fault {
                taken.now = StoreTime(now);
                taken.revoked = vec![7; 1_000_000];
            }
            Ok(taken)
        }
    }

    fn put(
        &self,
        slot: &Slot,
        id: &Id,
        entry: &Sealed,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let meddle = self.meddle("put");
        async move {
            meddle.await;
            self.store.put(slot, id, entry).await
        }
    }

    async fn renew(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        self.store.renew(slot, id).await
    }

    fn leave(&self, slot: &Slot, id: &Id) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let meddle = self.meddle("leave");
        async move {
            meddle.await;
            self.store.leave(slot, id).await
        }
    }

    fn bury(
        &self,
        slot: &Slot,
        record: &Record,
    ) -> impl Future<Output = Result<Buried, StoreError>> + Send {
        let meddle = self.meddle("bury");
        async move {
            meddle.await;
            self.store.bury(slot, record).await
        }
    }

    fn heard(&self, namespace: &str) -> impl Future<Output = Heard> + Send {
        let meddle = self.meddle("heard");
        async move {
            meddle.await;
            match self.fault {
                Fault::AlwaysLook => Heard::Look,
                Fault::AlwaysNotice => {
                    Heard::Notice(Slot::new(namespace, [7; 16]), Record([7; 40]))
                }
                _ => self.store.heard(namespace).await,
            }
        }
    }
}

fn session(authority: &Authority, store: impl Store) -> (SessionHandle, Fleet<impl Store>) {
    let fleet = Fleet::builder(store, KEY).timeout(secs(1)).build().unwrap();
    let manager = fleet.share(authority.manager().unwrap()).build().unwrap();
    (Session::builder(manager).spawn().unwrap(), fleet)
}

/// Two sessions have a token, and again one after a revocation.
async fn goes_on(call: &'static str, fault: Fault) {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new();
    let store = || FileStore::open(directory.path()).unwrap();
    let (odd, _fleet) = session(&authority, Odd { store: Arc::new(store()), call, fault });
    let (other, _its_fleet) = session(&authority, store());
    for round in 0..2 {
        let tokens = async { (odd.get_token().await, other.get_token().await) };
        let (one, two) = timeout(secs(60), tokens).await.expect("in time");
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(authority.is_active(one.secret()), "{call} {fault:?} {round}");
        odd.revoke().await.unwrap();
        assert!(!authority.is_active(one.secret()), "{call} {fault:?} {round}");
        other.revoke().await.unwrap();
        lets_go_of(&odd, two.secret()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_is_one_that_is_away() {
    let mut cases = JoinSet::new();
    for call in ["take", "put", "leave", "bury", "heard"] {
        for fault in [Fault::PanicsWhenCalled, Fault::PanicsWhenPolled, Fault::PanicsWhenDropped] {
            cases.spawn(goes_on(call, fault));
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

/// It hears all the same, since it looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_while_it_is_listened_to_is_looked_at() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new();
    let store = || FileStore::open(directory.path()).unwrap();
    let fault = Fault::PanicsWhenPolled;
    let (odd, fleet) = session(&authority, Odd { store: Arc::new(store()), call: "heard", fault });
    let (other, _its_fleet) = session(&authority, store());
    let first = odd.get_token().await.unwrap();
    fleet.flush().await;
    assert_eq!(other.get_token().await.unwrap().secret(), first.secret());
    other.revoke().await.unwrap();
    lets_go_of(&odd, first.secret()).await;
}

#[tokio::test]
async fn a_store_whose_time_is_absurd_is_one_that_refuses() {
    for now in [u64::MAX, 1 << 54, 0] {
        goes_on("", Fault::Answers(now)).await;
    }
}

/// On one thread, where nobody else comes to his turn while somebody does not let go of it.
#[tokio::test]
async fn a_store_that_tells_without_end_starves_nobody() {
    for fault in [Fault::AlwaysLook, Fault::AlwaysNotice] {
        goes_on("", fault).await;
    }
}
