//! That a revocation is heard of, whatever the store does meanwhile.

use ccg_session::testing::Authority;
use ccg_session::{Fleet, Session};
use rustix::fs::{FlockOperation, flock};
use tokio::time::{sleep, timeout};

use crate::fleets::address;
use crate::place::Place;
use crate::replica::{KEY, Local, Login, lets_go_of};
use crate::server::{Server, is_absent};
use crate::{Directory, millis, secs};

/// Held by another process, until this is dropped.
fn locked(directory: &Directory) -> std::fs::File {
    let lock = std::fs::File::open(directory.path().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// Two that have one token.
async fn two(place: &str, authority: &Authority) -> (Local, Local, String) {
    let login = Login::at(authority);
    let (one, other) = (Local::new(place, &login), Local::new(place, &login));
    let first = one.token().await;
    one.fleet.flush().await;
    assert_eq!(other.token().await, first);
    (one, other, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_files_were_late_for_is_told_when_they_answer() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new();
    let place = directory.path().to_str().unwrap();
    let (one, other, first) = two(place, &authority).await;
    let lock = locked(&directory);
    one.session.revoke().await.unwrap();
    assert!(!authority.is_active(&first), "it is confirmed");
    // Whoever ends the session owes it to the others all the same.
    one.session.shutdown().await;
    let mut told = Box::pin(one.fleet.flush());
    assert!(timeout(millis(50), &mut told).await.is_err(), "it is not told yet");
    drop(lock);
    told.await;
    // Each waits for 2 s at most, and a machine that is busy may need more.
    for _ in 0..10 {
        one.fleet.flush().await;
    }
    let later = Local::new(place, &Login::at(&authority));
    assert_ne!(later.token().await, first);
    other.lets_go_of(&first).await;
}

/// After several attempts, and though the store is left alone by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_was_away_for_is_told_when_it_is_back() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = Authority::start().await.unwrap();
    let (one, other, first) = two(&address(&server), &authority).await;
    server.signal("-STOP");
    one.session.revoke().await.unwrap();
    one.token().await;
    sleep(secs(3)).await;
    server.signal("-CONT");
    other.lets_go_of(&first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_files_did_not_answer_is_made_up_for() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new();
    let (one, other, first) = two(directory.path().to_str().unwrap(), &authority).await;
    one.session.revoke().await.unwrap();
    let lock = locked(&directory);
    // It has seen that there is news, and may not look.
    sleep(millis(2_500)).await;
    drop(lock);
    other.lets_go_of(&first).await;
}

/// As during a failover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_redis_did_not_answer_is_made_up_for() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = Authority::start().await.unwrap();
    let (one, other, first) = two(&address(&server), &authority).await;
    let mut root = server.connect();
    root.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    root.call(&["ACL", "SETUSER", "default", "resetchannels"]);
    one.session.revoke().await.unwrap();
    root.call(&["CLIENT", "PAUSE", "3000", "WRITE"]);
    root.call(&["ACL", "SETUSER", "default", "allchannels"]);
    other.lets_go_of(&first).await;
}

#[test]
fn another_session_listens_when_the_runtime_of_the_first_ends() {
    let directory = Directory::new();
    let place = directory.path().to_str().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authority = runtime.block_on(Authority::start()).unwrap();
    let login = Login::at(&authority);
    let fleet = Fleet::builder(Place::open(place), KEY).namespace("ns").timeout(secs(1));
    let fleet = fleet.build().unwrap();
    let session = || {
        let manager = fleet.share(login.manager()).slot("one").build().unwrap();
        Session::builder(manager).spawn_thread().unwrap()
    };
    // Several, of which all but the last end, one after the other.
    let sessions: Vec<_> = (0..4).map(|_| session()).collect();
    let (last, others) = sessions.split_last().unwrap();
    let first = last.blocking_get_token().unwrap();
    for other in others {
        other.blocking_get_token().unwrap();
    }
    for other in others {
        runtime.block_on(other.shutdown());
    }
    runtime.block_on(async {
        let elsewhere = Local::new(place, &login);
        fleet.flush().await;
        assert_eq!(elsewhere.token().await, first.secret());
        // So that it is not the look with which it takes over that hears of it.
        sleep(millis(1_100)).await;
        elsewhere.session.revoke().await.unwrap();
        lets_go_of(last, first.secret()).await;
    });
}
