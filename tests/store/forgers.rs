//! What somebody can do who can write to the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;

use crate::faults::endures;
use crate::fleets::wait;
use crate::over_redis::OverRedis;
use crate::server::{Connection, Reply, Server, is_absent};
use crate::{millis, secs};

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
    let Some(over) = OverRedis::start().await else { return };
    let first = over.replica();
    let token = first.token().await;
    let mut root = over.server.connect();
    wait(|| !keys(&mut root).is_empty()).await;
    let key = keys(&mut root).remove(0);
    let entry = get(&mut root, &key);
    let step = if crate::long().is_some() { 1 } else { 5 };
    for at in (0..entry.len()).step_by(step) {
        let mut changed = entry.clone();
        changed[at] ^= 1;
        root.call(&[b"SET", key.as_bytes(), &changed[..]]);
        root.count_anew();
        let other = over.replica();
        let got = other.token().await;
        assert!(got != token && over.authority.is_active(&got), "byte {at}");
        assert_does_not_wait(&mut root);
        // Its own put may still be on its way.
        wait(|| get(&mut root, &key) != changed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_another_slot_or_of_another_key_is_no_token() {
    let Some(over) = OverRedis::start().await else { return };
    let (one, two) = (over.slotted("one"), over.slotted("two"));
    let tokens = [one.token().await, two.token().await];
    assert_ne!(tokens[0], tokens[1]);
    let mut root = over.server.connect();
    wait(|| keys(&mut root).len() == 2).await;
    let keys = keys(&mut root);
    let entries = [get(&mut root, &keys[0]), get(&mut root, &keys[1])];
    root.call(&[b"SET", keys[0].as_bytes(), &entries[1][..]]);
    root.call(&[b"SET", keys[1].as_bytes(), &entries[0][..]]);
    for (slot, elses) in [("one", &tokens[1]), ("two", &tokens[0])] {
        let replica = over.slotted(slot);
        assert_ne!(replica.token().await, *elses);
        assert_eq!(replica.fleet.counts().bad_entries, 1);
    }
}

/// The list deleted, the entry put back: who revoked it is safe; who was told of it is too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_entry_put_back_is_no_token_for_who_revoked_it() {
    let Some(over) = OverRedis::start().await else { return };
    let ([one, other], first) = over.two().await;
    let mut root = over.server.connect();
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
            assert!(token != first && over.authority.is_active(&token));
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
    let Some(over) = OverRedis::start().await else { return };
    let first = over.replica();
    first.token().await;
    let mut root = over.server.connect();
    wait(|| !keys(&mut root).is_empty()).await;
    let key = keys(&mut root).remove(0);
    root.call(&["DEL", &key]);
    root.call(&[b"SET", key.replace("}e", "}l").as_bytes(), &b"0123456789abcdef"[..]]);
    root.count_anew();
    over.replica().token().await;
    assert_does_not_wait(&mut root);
}

/// The other slots do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_slot_harms_no_other() {
    let Some(over) = OverRedis::start().await else { return };
    let names: Vec<_> = (0..20).map(|nth| format!("slot-{nth}")).collect();
    for name in &names {
        over.slotted(name).token().await;
    }
    let mut root = over.server.connect();
    wait(|| keys(&mut root).len() == names.len()).await;
    let key = keys(&mut root).remove(0);
    for which in ["}e", "}l", "}r"] {
        root.call(&["DEL", &key.replace("}e", which)]);
        root.call(&["RPUSH", &key.replace("}e", which), "x"]);
    }
    let mut taken = 0;
    for name in &names {
        let replica = over.slotted(name);
        replica.token().await;
        let counts = replica.fleet.counts();
        assert_eq!(counts.direct, 0);
        taken += counts.taken;
    }
    assert_eq!(taken, names.len() as u64 - 1);
}
