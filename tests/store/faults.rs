//! What befalls Redis, and what its replicas and their callers notice of it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ccg_session::testing::Kind;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::fleets::{address, authority, longest_wait, periods, wait};
use crate::over_redis::OverRedis;
use crate::replica::{Local, Login, load};
use crate::server::{Connection, Reply, Server, is_absent};
use crate::{millis, secs};

/// Three replicas with tokens of 3 s, while something happens to the store: no caller meets an error, and the server
/// no more requests than those of three that share nothing.
pub(crate) async fn endures(server: &mut Server, fault: impl AsyncFnOnce(&mut Server)) {
    endures_at(&address(server), async || fault(server).await).await;
}

pub(crate) async fn endures_at(place: &str, fault: impl AsyncFnOnce()) -> u64 {
    let authority = authority(secs(3)).await;
    let login = Login::at(&authority);
    let began = Instant::now();
    let replicas: Vec<_> = (0..3).map(|_| Local::usual(place, &login)).collect();
    let loads: Vec<_> = replicas.iter().map(|replica| load(&replica.session, 8)).collect();
    sleep(secs(2)).await;
    fault().await;
    sleep(secs(4)).await;
    for met in loads {
        let (calls, errors, longest) = met.end();
        println!("{calls} calls, {errors} errors, longest wait {longest} ms");
        assert_eq!(errors, 0);
        assert!(met.believed.load(Ordering::Relaxed) <= 3_000);
        assert!(u128::from(longest) <= longest_wait().as_millis(), "{longest} ms");
    }
    let grants = authority.counts().grants;
    println!("{grants} grants");
    let most = 3 * periods(began.elapsed());
    assert!(grants <= most, "{grants} grants, at most {most}");
    grants
}

macro_rules! endures {
    ($($name:ident: $fault:expr;)*) => {
        mod no_caller_sees_an_error_while_redis {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if is_absent() {
                        return;
                    }
                    let mut server = Server::start(&[]);
                    endures(&mut server, $fault).await;
                }
            )*
        }
    };
}

endures! {
    is_stopped: async |server| {
        server.signal("-STOP");
        sleep(secs(5)).await;
        server.signal("-CONT");
    };
    is_killed: async |server| server.kill();
    restarts_empty: async |server| server.restart();
    is_emptied: async |server| { server.connect().call(&["FLUSHALL"]); };
    has_no_memory_left: async |server| { server.connect().call(&["CONFIG", "SET", "maxmemory", "1"]); };
    became_a_replica: async |server| { server.connect().call(&["REPLICAOF", "127.0.0.1", "1"]); };
    wants_another_password: async |server| {
        server.connect().call(&["CONFIG", "SET", "requirepass", "new"]);
        server.connect().call(&["AUTH", "new"]);
        let mut root = server.connect();
        root.call(&["AUTH", "new"]);
        root.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        root.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    };
    forgets_its_scripts: async |server| { server.connect().call(&["SCRIPT", "FLUSH"]); };
}

/// Its own clock steps an hour either way, during a life, a lease and a grant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_sees_an_error_while_the_clock_of_redis_steps() {
    if is_absent() {
        return;
    }
    let Some(clock) = Clock::new() else { return };
    let server = Server::start_in(&clock.env_of_redis(), &[]);
    let now = |server: &Server| match server.connect().call(&["TIME"]) {
        Reply::List(time) => match &time[0] {
            Reply::Bytes(secs) => String::from_utf8_lossy(secs).parse::<u64>().unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let before = now(&server);
    endures_at(&address(&server), async || {
        for secs in [3_600, 0, -3_600, 0, 2, -2] {
            clock.is_off_by(secs);
            let has_stepped_back = now(&server) < before;
            assert_eq!(has_stepped_back, secs == -3_600, "at {secs} s");
            sleep(millis(1_700)).await;
        }
    })
    .await;
}

/// As a server or a firewall closes what was idle for long: the next call has another, and is shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_while_it_was_idle_costs_nothing() {
    let Some(over) = OverRedis::start().await else { return };
    let ([one, other], _) = over.two().await;
    for replica in [&one, &other] {
        over.server.connect().call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let token = replica.session.try_token().unwrap();
        replica.session.invalidate(&token);
        replica.token().await;
        assert_eq!(replica.fleet.counts().direct, 0);
    }
    assert_eq!(one.token().await, other.token().await);
    // And a revocation is told.
    over.server.connect().call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let next = other.token().await;
    one.session.revoke().await.unwrap();
    other.lets_go_of(&next).await;
}

/// What is got under a lease is shared, also if renewing that went wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_put_though_the_store_was_late_meanwhile() {
    let Some(over) = OverRedis::start().await else { return };
    let (one, other) = (over.replica(), over.replica());
    let held = over.authority.hold(Kind::Grant);
    let asking = one.session.clone();
    let asking = tokio::spawn(async move { asking.get_token().await.unwrap().secret().to_owned() });
    over.authority.wait_for(|counts| counts.grants == 1).await;
    // When its lease is to be renewed.
    over.server.connect().call(&["CLIENT", "PAUSE", "1600", "ALL"]);
    sleep(millis(1_800)).await;
    drop(held);
    let first = asking.await.unwrap();
    assert_eq!(other.token().await, first);
    assert_eq!(over.authority.counts().grants, 1);
}

/// Of a subscription that was broken, at the next connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_cut_off_learns_of_a_revocation_when_it_is_connected_again() {
    let Some(over) = OverRedis::start().await else { return };
    let ([one, other], first) = over.two().await;
    let mut root = over.server.connect();
    let subscribers = |root: &mut Connection| root.call(&["PUBSUB", "NUMSUB", "ns:news"]);
    wait(|| {
        subscribers(&mut root)
            == Reply::List(vec![Reply::Bytes(b"ns:news".into()), Reply::Number(2)])
    })
    .await;
    // The record is written, and nobody is told.
    root.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    root.call(&["ACL", "SETUSER", "default", "resetchannels"]);
    one.session.revoke().await.unwrap();
    root.call(&["ACL", "SETUSER", "default", "allchannels"]);
    let began = Instant::now();
    other.lets_go_of(&first).await;
    println!("heard {:?} after the channel was there again", began.elapsed());
    assert!(crate::long().is_none() || began.elapsed() < secs(3));
}

/// Nobody asks without the store, and all is well when it is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_live_token_nobody_asks_without_the_store() {
    let Some(mut over) = OverRedis::start().await else { return };
    let local = over.replica();
    let manager =
        local.fleet.share(over.login.manager()).slot("live").one_live_token().build().unwrap();
    let session = ccg_session::Session::builder(manager).spawn().unwrap();
    over.server.kill();
    let error = session.get_token().await.unwrap_err();
    assert!(error.token_error().unwrap().is_retryable(), "{error}");
    assert_eq!(over.authority.counts().grants, 0);
    over.server.restart();
    let began = Instant::now();
    while session.get_token().await.is_err() {
        assert!(began.elapsed() < secs(60));
        sleep(millis(50)).await;
    }
    assert_eq!(over.authority.counts().grants, 1);
}
