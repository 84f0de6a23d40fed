//! What a fleet promises: fewer requests, and nothing worse than without a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ccg_session::testing::{Answer, Authority, Kind, Rule, Script};
use http::StatusCode;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::replica::{ATTEMPT, Local, Login, Process, load};
use crate::server::{Connection, Reply, Server, is_absent};
use crate::{Directory, millis, secs};

/// Runs a test on both stores.
macro_rules! on_both {
    ($($(#[$docs:meta])* $name:ident => $test:ident;)*) => {
        $(
            mod $name {
                use super::*;

                $(#[$docs])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_files() {
                    let directory = Directory::new();
                    $test(directory.path().to_str().unwrap()).await;
                }

                $(#[$docs])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_redis() {
                    if is_absent() {
                        return;
                    }
                    let server = Server::start(&[]);
                    $test(&address(&server)).await;
                }
            }
        )*
    };
}

pub(crate) fn address(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

pub(crate) async fn authority(ttl: Duration) -> Authority {
    Authority::builder().ttl(ttl).start().await.unwrap()
}

/// How often one session asks in this time for tokens of 3 s: when half of one is left, give or take a tenth of that.
pub(crate) fn periods(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / 1_350).unwrap() + 1
}

/// Waiting for others, and a grant. Beside all the other tests it is only less than an attempt takes that hangs: what
/// it takes on a machine that is not busy, `.ci/long` measures.
fn longest_wait() -> Duration {
    if crate::long().is_some() { millis(3_000 + 750) } else { ATTEMPT }
}

on_both! {
    a_cold_start_of_eight_processes_sends_one_request => cold_start;
    eight_processes_ask_as_often_as_one => as_often_as_one;
    a_holder_that_is_killed_costs_others_three_seconds => killed_holder;
    a_holder_that_is_stopped_costs_others_three_seconds => stopped_holder;
    a_holder_whose_route_is_broken_withholds_no_token => broken_route;
    a_revocation_reaches_all_who_have_the_token => revocation;
    a_revocation_outlives_its_replica => revocation_of_the_dead;
    after_a_401_of_one_the_others_take_the_next_token => refused;
    a_replica_with_a_wrong_secret_harms_no_other => wrong_secret;
    while_the_server_fails_each_keeps_its_own_pace => failing_server;
    a_replica_whose_clock_is_wrong_harms_nobody => clock_of_a_replica;
}

async fn cold_start(place: &str) {
    let authority = authority(secs(60)).await;
    let mut replicas = Process::start_many(8, place, &Login::at(&authority));
    for replica in &mut replicas {
        replica.tell("get");
    }
    let tokens: Vec<_> = replicas.iter_mut().map(Process::token).collect();
    println!("{:?}", tokens.iter().map(|(_, waited)| *waited).collect::<Vec<_>>());
    assert!(tokens.iter().all(|(token, _)| *token == tokens[0].0));
    assert_eq!(authority.counts().grants, 1);
}

async fn as_often_as_one(place: &str) {
    let authority = authority(secs(3)).await;
    let mut replicas = Process::start_many(8, place, &Login::at(&authority));
    let began = Instant::now();
    for replica in &mut replicas {
        replica.tell("load");
    }
    let time = crate::long().unwrap_or(secs(10));
    sleep(time).await;
    for replica in &mut replicas {
        replica.tell("end");
    }
    let took = began.elapsed();
    for replica in &mut replicas {
        let met = replica.answer();
        println!("calls, errors, longest wait: {met}");
        assert!(met.contains(", 0, "), "{met}");
    }
    let grants = authority.counts().grants;
    let periods = periods(took);
    println!("{grants} grants in {took:?}: at most {periods} periods");
    // On a busy machine one or the other misses the store, but eight that share nothing ask eight times as often.
    let most = if crate::long().is_some() { periods } else { 2 * periods };
    assert!(grants <= most, "{grants} grants in {periods} periods");
}

/// The first request of all is not answered; whoever comes next is.
fn first_hangs() -> Script {
    Script::new().rule(Rule::new(Kind::Grant).requests(1..=1).delay(secs(60)))
}

async fn holder_at_work(place: &str, authority: &Authority) -> (Process, Process) {
    authority.set_script(first_hangs());
    let mut replicas = Process::start_many(2, place, &Login::at(authority));
    let (mut holder, other) = (replicas.remove(0), replicas.remove(0));
    holder.tell("get");
    authority.wait_for(|counts| counts.grants == 1).await;
    (holder, other)
}

fn gets_a_token(other: &mut Process) {
    other.tell("get");
    let (_, waited) = other.token();
    println!("a token after {waited:?}");
    assert!(waited <= longest_wait(), "{waited:?}");
}

async fn killed_holder(place: &str) {
    let authority = authority(secs(60)).await;
    let (holder, mut other) = holder_at_work(place, &authority).await;
    holder.signal("-KILL");
    gets_a_token(&mut other);
    assert_eq!(authority.counts().grants, 2);
}

async fn stopped_holder(place: &str) {
    let authority = authority(secs(60)).await;
    let (holder, mut other) = holder_at_work(place, &authority).await;
    holder.signal("-STOP");
    gets_a_token(&mut other);
    holder.signal("-CONT");
    assert_eq!(authority.counts().grants, 2);
}

async fn broken_route(place: &str) {
    let authority = authority(secs(60)).await;
    let (mut holder, mut other) = holder_at_work(place, &authority).await;
    gets_a_token(&mut other);
    // It fails its attempt, and then finds what the other has put.
    println!("and the holder after {:?}", holder.token().1);
    assert_eq!(authority.counts().grants, 2);
}

async fn revocation(place: &str) {
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let replicas: Vec<_> = (0..8).map(|_| Arc::new(Local::new(place, &login))).collect();
    // By a notice, or by a look each second.
    let (most, rounds) =
        if place.starts_with("redis") { (millis(50), 200) } else { (millis(1_200), 20) };
    let (most, rounds) = if crate::long().is_some() { (most, rounds) } else { (secs(60), 1) };
    let mut first = replicas[0].token().await;
    let mut heard = Vec::new();
    for _ in 0..rounds {
        // One that a busy machine kept from the store has a token of its own, and is not asked about.
        let mut holders = Vec::new();
        for replica in &replicas[1..] {
            if replica.token().await == first {
                holders.push(replica.clone());
            }
        }
        let began = Instant::now();
        let waiting = holders.into_iter().map(|replica| {
            let token = first.clone();
            tokio::spawn(async move {
                replica.lets_go_of(&token).await;
                began.elapsed()
            })
        });
        let waiting: Vec<_> = waiting.collect();
        replicas[0].session.revoke().await.unwrap();
        for waiting in waiting {
            heard.push(waiting.await.unwrap());
        }
        assert!(!authority.is_active(&first));
        first = replicas[0].token().await;
        assert!(authority.is_active(&first));
    }
    let least = if crate::long().is_some() { rounds * 6 } else { 1 };
    assert!(heard.len() >= least, "{} of {rounds} rounds", heard.len());
    heard.sort_unstable();
    let p99 = heard[(heard.len() * 99).div_ceil(100) - 1];
    println!("{rounds} revokes, heard after {:?} (median), {p99:?} (p99)", heard[heard.len() / 2]);
    assert!(p99 <= most, "{p99:?}");
}

/// It had told the store, and not yet the server.
async fn revocation_of_the_dead(place: &str) {
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let other = Local::new(place, &login);
    let first = other.token().await;
    let mut dying = Process::start(place, &login);
    dying.tell("get");
    assert_eq!(dying.token().0, first);
    let held = authority.hold(Kind::Revoke);
    dying.tell("revoke");
    authority.wait_for(|counts| counts.revocations == 1).await;
    other.lets_go_of(&first).await;
    drop(dying);
    drop(held);
    other.session.revoke().await.unwrap();
    assert!(!authority.is_active(&first), "the server has never heard of it");
}

async fn refused(place: &str) {
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let replicas: Vec<_> = (0..4).map(|_| Local::new(place, &login)).collect();
    let first = replicas[0].token().await;
    for replica in &replicas {
        assert_eq!(replica.token().await, first);
    }
    assert!(authority.revoke_behind(&first));
    let mut next = Vec::new();
    for replica in &replicas {
        let token = replica.session.try_token().expect("it knows of nothing");
        replica.session.invalidate(&token);
        next.push(replica.token().await);
    }
    assert!(next.iter().all(|token| *token == next[0] && *token != first), "{}", next.len());
    assert_eq!(authority.counts().grants, 2);
}

async fn wrong_secret(place: &str) {
    let authority = authority(secs(3)).await;
    let login = Login::at(&authority);
    let wrong = Local::new(place, &login.with_secret("not-the-secret"));
    let others: Vec<_> = (0..3).map(|_| Local::new(place, &login)).collect();
    let loads: Vec<_> = others.iter().map(|replica| load(&replica.session, 4)).collect();
    // Else it may be the first to ask, and then rests.
    others[0].token().await;
    let (mut served, mut refused) = (0, 0);
    for _ in 0..60 {
        match wrong.session.get_token().await {
            Ok(_) => served += 1,
            Err(_) => refused += 1,
        }
        sleep(millis(100)).await;
    }
    println!("it was served {served} times, and refused {refused} times");
    // It lives on what the others put, where it asks for a token that is there.
    assert!(served > 0);
    for met in loads {
        let (_, errors, longest) = met.end();
        assert_eq!(errors, 0);
        assert!(u128::from(longest) <= longest_wait().as_millis(), "{longest} ms");
    }
}

/// Nothing of a failure is shared: each hears it itself, and rests by itself.
async fn failing_server(place: &str) {
    let asked = async |count: usize| {
        let authority = authority(secs(60)).await;
        authority.fail(Kind::Grant, Answer::new(StatusCode::SERVICE_UNAVAILABLE));
        let login = Login::at(&authority);
        let replicas: Vec<_> = (0..count).map(|_| Local::new(place, &login)).collect();
        let loads: Vec<_> = replicas.iter().map(|replica| load(&replica.session, 4)).collect();
        sleep(secs(6)).await;
        authority.heal();
        let requests = authority.counts().grants;
        for met in loads {
            met.end();
        }
        requests
    };
    // In each others' way they ask less often than each by itself.
    let (one, three) = tokio::join!(asked(1), asked(3));
    println!("one alone {one} requests, three {three}");
    assert!(three <= 3 * (one + 2), "{three} for three, {one} for one");
}

// What befalls Redis

/// Three replicas with tokens of 3 s, while something happens to the store: no caller meets an error, and the server
/// no more requests than those of three that share nothing.
async fn endures(server: &mut Server, fault: impl AsyncFnOnce(&mut Server)) {
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

/// The clock of one replica is off by an hour, either way: where that is a store's clock too, as of files, and
/// where it is not.
async fn clock_of_a_replica(place: &str) {
    let Some(clock) = Clock::new() else { return };
    let authority = authority(secs(3)).await;
    let login = Login::at(&authority);
    let mut replicas = Process::start_many(2, place, &login);
    replicas.push(Process::start_in(&clock.env(), place, &login));
    let began = Instant::now();
    for replica in &mut replicas {
        replica.tell("load");
    }
    for secs in [3_600, -3_600, 0] {
        clock.is_off_by(secs);
        sleep(millis(2_500)).await;
    }
    for replica in &mut replicas {
        replica.tell("end");
        let met = replica.answer();
        println!("calls, errors, longest wait: {met}");
        assert!(met.contains(", 0, "), "{met}");
    }
    let grants = authority.counts().grants;
    println!("{grants} grants");
    let is_one = place.starts_with("redis") && crate::long().is_some();
    let most = if is_one { 1 } else { 3 } * periods(began.elapsed());
    assert!(grants <= most, "{grants} grants, at most {most}");
}

/// As a server or a firewall closes what was idle for long: the next call has another, and is shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_while_it_was_idle_costs_nothing() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let (one, other) =
        (Local::new(&address(&server), &login), Local::new(&address(&server), &login));
    let first = one.token().await;
    assert_eq!(other.token().await, first);
    for replica in [&one, &other] {
        server.connect().call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let token = replica.session.try_token().unwrap();
        replica.session.invalidate(&token);
        replica.token().await;
        assert_eq!(replica.fleet.counts().direct, 0);
    }
    assert_eq!(one.token().await, other.token().await);
    // And a revocation is told.
    server.connect().call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let next = other.token().await;
    one.session.revoke().await.unwrap();
    other.lets_go_of(&next).await;
}

/// What is got under a lease is shared, also if renewing that went wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_put_though_the_store_was_late_meanwhile() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let (one, other) =
        (Local::new(&address(&server), &login), Local::new(&address(&server), &login));
    let held = authority.hold(Kind::Grant);
    let asking = one.session.clone();
    let asking = tokio::spawn(async move { asking.get_token().await.unwrap().secret().to_owned() });
    authority.wait_for(|counts| counts.grants == 1).await;
    // When its lease is to be renewed.
    server.connect().call(&["CLIENT", "PAUSE", "1600", "ALL"]);
    sleep(millis(1_800)).await;
    drop(held);
    let first = asking.await.unwrap();
    assert_eq!(other.token().await, first);
    assert_eq!(authority.counts().grants, 1);
}

/// Of a subscription that was broken, at the next connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_cut_off_learns_of_a_revocation_when_it_is_connected_again() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let (one, other) =
        (Local::new(&address(&server), &login), Local::new(&address(&server), &login));
    let first = one.token().await;
    assert_eq!(other.token().await, first);
    let mut root = server.connect();
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

pub(crate) async fn wait(mut until: impl FnMut() -> bool) {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < secs(60), "it does not come");
        sleep(millis(2)).await;
    }
}

// Who can write to the store

pub(crate) fn keys(root: &mut Connection) -> Vec<String> {
    let Reply::List(keys) = root.call(&["KEYS", "{ns:*}e"]) else { panic!() };
    keys.into_iter()
        .map(|key| match key {
            Reply::Bytes(key) => String::from_utf8(key).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn get(root: &mut Connection, key: &str) -> Vec<u8> {
    match root.call(&["GET", key]) {
        Reply::Bytes(bytes) => bytes,
        other => panic!("{key}: {other:?}"),
    }
}

/// Who waits for another's lease looks for it ten times a second.
fn assert_does_not_wait(root: &mut Connection) {
    let calls = root.calls();
    assert!(calls["evalsha"] < 8, "{calls:?}");
}

/// A replica that starts anew finds the entry changed: it gets a token of the server's, at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_with_any_byte_changed_is_no_token() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let first = Local::new(&address(&server), &login);
    let token = first.token().await;
    let mut root = server.connect();
    wait(|| !keys(&mut root).is_empty()).await;
    let key = keys(&mut root).remove(0);
    let entry = get(&mut root, &key);
    let step = if crate::long().is_some() { 1 } else { 5 };
    for at in (0..entry.len()).step_by(step) {
        let mut changed = entry.clone();
        changed[at] ^= 1;
        root.call(&[b"SET", key.as_bytes(), &changed[..]]);
        root.count_anew();
        let other = Local::new(&address(&server), &login);
        let got = other.token().await;
        assert!(got != token && authority.is_active(&got), "byte {at}");
        assert_does_not_wait(&mut root);
        // Its own put may still be on its way.
        wait(|| get(&mut root, &key) != changed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_another_slot_or_of_another_key_is_no_token() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let (one, two) = (
        Local::slotted(&address(&server), &login, "one"),
        Local::slotted(&address(&server), &login, "two"),
    );
    let tokens = [one.token().await, two.token().await];
    assert_ne!(tokens[0], tokens[1]);
    let mut root = server.connect();
    wait(|| keys(&mut root).len() == 2).await;
    let keys = keys(&mut root);
    let entries = [get(&mut root, &keys[0]), get(&mut root, &keys[1])];
    root.call(&[b"SET", keys[0].as_bytes(), &entries[1][..]]);
    root.call(&[b"SET", keys[1].as_bytes(), &entries[0][..]]);
    for (slot, elses) in [("one", &tokens[1]), ("two", &tokens[0])] {
        let replica = Local::slotted(&address(&server), &login, slot);
        assert_ne!(replica.token().await, *elses);
        assert_eq!(replica.fleet.counts().bad_entries, 1);
    }
}

/// The list deleted, the entry put back: who revoked it is safe; who was told of it is too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_entry_put_back_is_no_token_for_who_revoked_it() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let (one, other) =
        (Local::new(&address(&server), &login), Local::new(&address(&server), &login));
    let first = one.token().await;
    assert_eq!(other.token().await, first);
    let mut root = server.connect();
    wait(|| !keys(&mut root).is_empty()).await;
    let key = keys(&mut root).remove(0);
    let entry = get(&mut root, &key);
    one.session.revoke().await.unwrap();
    other.lets_go_of(&first).await;
    for _ in 0..3 {
        root.call(&["DEL", &key.replace("}e", "}r")]);
        root.call(&[b"SET", key.as_bytes(), &entry[..]]);
        for replica in [&one, &other] {
            let token = replica.token().await;
            assert!(token != first && authority.is_active(&token));
            let token = replica.session.try_token().unwrap();
            replica.session.invalidate(&token);
        }
    }
}

/// Rewrites lease and entry of every slot ten times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forger_that_never_rests_costs_requests_and_nothing_else() {
    if is_absent() {
        return;
    }
    let mut server = Server::start(&[]);
    let is_over = Arc::new(AtomicBool::new(false));
    let forger = {
        let (is_over, mut root) = (Arc::clone(&is_over), server.connect());
        std::thread::spawn(move || {
            let mut number = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                for key in keys(&mut root) {
                    number += 1;
                    let mut entry = get_or(&mut root, &key);
                    if let Some(byte) = entry.last_mut() {
                        *byte ^= 1;
                    }
                    root.call(&[b"SET", key.as_bytes(), &entry[..]]);
                    let lease = key.replace("}e", "}l");
                    let mut id = [0; 16];
                    id[..8].copy_from_slice(&number.to_be_bytes());
                    root.call(&[b"SET", lease.as_bytes(), &id[..], b"PX", b"3000"]);
                }
                std::thread::sleep(millis(100));
            }
        })
    };
    endures(&mut server, async |_| sleep(secs(4)).await).await;
    is_over.store(true, Ordering::Relaxed);
    forger.join().unwrap();
}

fn get_or(root: &mut Connection, key: &str) -> Vec<u8> {
    match root.call(&["GET", key]) {
        Reply::Bytes(bytes) => bytes,
        _ => Vec::new(),
    }
}

/// A lease that nobody will give back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_without_an_end_is_nobodys() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let first = Local::new(&address(&server), &login);
    first.token().await;
    let mut root = server.connect();
    wait(|| !keys(&mut root).is_empty()).await;
    let key = keys(&mut root).remove(0);
    root.call(&["DEL", &key]);
    root.call(&[b"SET", key.replace("}e", "}l").as_bytes(), &b"0123456789abcdef"[..]]);
    root.count_anew();
    Local::new(&address(&server), &login).token().await;
    assert_does_not_wait(&mut root);
}

/// The other slots do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_slot_harms_no_other() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let names: Vec<_> = (0..20).map(|nth| format!("slot-{nth}")).collect();
    for name in &names {
        Local::slotted(&address(&server), &login, name).token().await;
    }
    let mut root = server.connect();
    wait(|| keys(&mut root).len() == names.len()).await;
    let key = keys(&mut root).remove(0);
    for which in ["}e", "}l", "}r"] {
        root.call(&["DEL", &key.replace("}e", which)]);
        root.call(&["RPUSH", &key.replace("}e", which), "x"]);
    }
    let mut taken = 0;
    for name in &names {
        let replica = Local::slotted(&address(&server), &login, name);
        replica.token().await;
        let counts = replica.fleet.counts();
        assert_eq!(counts.direct, 0);
        taken += counts.taken;
    }
    assert_eq!(taken, names.len() as u64 - 1);
}

/// Nobody asks without the store, and all is well when it is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_live_token_nobody_asks_without_the_store() {
    if is_absent() {
        return;
    }
    let mut server = Server::start(&[]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let local = Local::new(&address(&server), &login);
    let manager = local.fleet.share(login.manager()).slot("live").one_live_token().build().unwrap();
    let session = ccg_session::Session::builder(manager).spawn().unwrap();
    server.kill();
    let error = session.get_token().await.unwrap_err();
    assert!(error.token_error().unwrap().is_retryable(), "{error}");
    assert_eq!(authority.counts().grants, 0);
    server.restart();
    let began = Instant::now();
    while session.get_token().await.is_err() {
        assert!(began.elapsed() < secs(60));
        sleep(millis(50)).await;
    }
    assert_eq!(authority.counts().grants, 1);
}
