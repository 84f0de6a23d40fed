//! What a fleet promises: fewer requests, and nothing worse than without a store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ccg_session::testing::{Answer, Authority, Kind, Rule, Script};
use http::StatusCode;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::replica::{ATTEMPT, Local, Login, Process, load};
use crate::server::{Server, is_absent};
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
pub(crate) fn longest_wait() -> Duration {
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

pub(crate) async fn wait(mut until: impl FnMut() -> bool) {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < secs(60), "it does not come");
        sleep(millis(2)).await;
    }
}
