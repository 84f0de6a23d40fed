//! What every store does, asked of each: the same calls, the same answers.

use std::time::Duration;

use ccg_session::{
    Buried, FileStore, Found, Heard, Id, LEASE, Record, RedisStore, Sealed, Slot, Store,
    StoreError, Want,
};
use tokio::time::timeout;

use crate::server::{Server, is_absent};
use crate::{ACL, Directory, secs};

fn id() -> Id {
    Id(std::array::from_fn(|_| fastrand::u8(..)))
}

fn entry(asked: u64, life: Duration, tag: [u8; 16], id: Id) -> Sealed {
    let life = u64::try_from(life.as_micros()).unwrap();
    let mut entry = vec![1];
    entry.extend([asked.to_be_bytes(), life.to_be_bytes()].concat());
    entry.extend([tag, id.0].concat());
    entry.extend([7; 40]);
    Sealed(entry)
}

fn record(tag: [u8; 16], ends: u64) -> Record {
    let bytes = [&tag[..], &ends.to_be_bytes(), &[9; 16]].concat();
    Record(bytes.try_into().unwrap())
}

fn want(lease: Option<&Id>) -> Want<'_> {
    let mut want = Want::look();
    want.lease = lease;
    want
}

async fn keeps_the_contract(store: impl Store + Clone) {
    let slot = Slot::new("ns", std::array::from_fn(|_| fastrand::u8(..)));
    let (one, two) = (id(), id());

    let nothing = store.take(&slot, &want(None)).await.unwrap();
    assert_eq!((nothing.found, nothing.revoked), (Found::None, Vec::new()));
    let leased = store.take(&slot, &want(Some(&one))).await.unwrap();
    assert_eq!(leased.found, Found::Leased);
    let now = leased.now.0;
    assert_eq!(store.take(&slot, &want(Some(&two))).await.unwrap().found, Found::Busy(one));
    assert!(!store.renew(&slot, &two).await.unwrap() && store.renew(&slot, &one).await.unwrap());
    assert!(!store.leave(&slot, &two).await.unwrap());

    let token = entry(now, secs(60), [5; 16], one);
    let elses = entry(now, secs(60), [5; 16], two);
    assert!(!store.put(&slot, &two, &elses).await.unwrap());
    assert!(store.put(&slot, &one, &token).await.unwrap());
    assert!(!store.put(&slot, &one, &token).await.unwrap());
    assert_eq!(
        store.take(&slot, &want(Some(&two))).await.unwrap().found,
        Found::Entry(token.clone())
    );

    // What is asked of the life that is left.
    let mut long = want(None);
    long.least_life = secs(50);
    assert_eq!(store.take(&slot, &long).await.unwrap().found, Found::Entry(token.clone()));
    long.least_life = secs(3_600);
    assert_eq!(store.take(&slot, &long).await.unwrap().found, Found::Entry(token.clone()));
    for not in [[5; 16], one.0] {
        let not = [[1; 16], not];
        let mut other = want(None);
        other.not = &not;
        assert_eq!(store.take(&slot, &other).await.unwrap().found, Found::None);
    }

    // A lease that was waited for is taken over, and whoever had it cannot put.
    let not = [one.0];
    let mut refresh = want(Some(&one));
    refresh.not = &not;
    assert_eq!(store.take(&slot, &refresh).await.unwrap().found, Found::Leased);
    let mut over = want(Some(&two));
    over.not = &not;
    over.seen = Some(&one);
    assert_eq!(store.take(&slot, &over).await.unwrap().found, Found::Leased);
    assert!(!store.put(&slot, &one, &token).await.unwrap());

    // A revocation takes both away, is listed, and is told.
    let listener = store.clone();
    assert_eq!(timeout(secs(60), listener.heard("ns")).await.unwrap(), Heard::Look);
    let revoked = record([5; 16], now + 50_000_000);
    let gone = store.bury(&slot, &revoked).await.unwrap();
    assert_eq!(gone, Buried { entry: Some(one), lease: Some(two) });
    match timeout(secs(60), listener.heard("ns")).await.unwrap() {
        Heard::Look => {}
        notice @ Heard::Notice(..) => assert_eq!(notice, Heard::Notice(slot.clone(), revoked)),
    }
    let after = store.take(&slot, &want(None)).await.unwrap();
    assert_eq!((after.found, after.revoked), (Found::None, revoked.0.to_vec()));
    let mut all = vec![revoked];
    for nth in 0..20_u8 {
        let next = record([nth + 100; 16], now + 50_000_000);
        assert_eq!(store.bury(&slot, &next).await.unwrap(), Buried::default());
        all.push(next);
    }
    let last: Vec<u8> = all[5..].iter().flat_map(|record| record.0).collect();
    assert_eq!(store.take(&slot, &want(None)).await.unwrap().revoked, last);

    // A lease ends by itself.
    let three = id();
    assert_eq!(store.take(&slot, &want(Some(&three))).await.unwrap().found, Found::Leased);
    tokio::time::sleep(LEASE + Duration::from_millis(100)).await;
    assert!(!store.renew(&slot, &three).await.unwrap());

    // A token that has ended, or was asked for in the future, is not put.
    for asked in [now - 61_000_000, now + 60_000_000] {
        let four = id();
        assert_eq!(store.take(&slot, &want(Some(&four))).await.unwrap().found, Found::Leased);
        let dead = entry(asked, secs(60), [5; 16], four);
        assert!(!store.put(&slot, &four, &dead).await.unwrap());
    }
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let directory = Directory::new();
    keeps_the_contract(FileStore::open(directory.path()).unwrap()).await;
}

/// As the user that the documentation names, with no more rights than those.
#[tokio::test]
async fn redis_keeps_the_contract_with_the_rights_that_are_documented() {
    if is_absent() {
        return;
    }
    let server = Server::start(&["--lua-time-limit", "100"]);
    let mut root = server.connect();
    let mut acl = vec!["ACL", "SETUSER", "fleet"];
    let own = ACL.replace("payments", "ns");
    acl.extend(own.split_whitespace());
    root.call(&acl);
    root.call(&["CONFIG", "SET", "requirepass", "another"]);
    let address = format!("redis://fleet:its-password@127.0.0.1:{}", server.port);
    keeps_the_contract(RedisStore::connect(address).build().unwrap()).await;

    let address = format!("redis://fleet:wrong@127.0.0.1:{}", server.port);
    let wrong = RedisStore::connect(address).build().unwrap();
    let slot = Slot::new("ns", [0; 16]);
    let error = wrong.take(&slot, &want(None)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    let address = format!("redis://fleet:its-password@127.0.0.1:{}", server.port);
    let elsewhere = RedisStore::connect(address).build().unwrap();
    let error = elsewhere.take(&Slot::new("other", [0; 16]), &want(None)).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

/// The line of the documentation is the line of the test.
#[test]
fn the_rights_that_are_tested_are_those_that_are_documented() {
    let docs = include_str!("../../src/store/redis.rs");
    let begin = docs.find("ACL SETUSER fleet ").expect("the docs name them");
    let lines = docs[begin..].lines().take_while(|line| !line.contains("```"));
    let line: Vec<_> =
        lines.flat_map(|line| line.trim_start_matches("///").split_whitespace()).collect();
    assert_eq!(line[3..].join(" "), ACL.split_whitespace().collect::<Vec<_>>().join(" "));
}

/// Namespaces, and clones, do not wait for each other.
async fn tells_all_who_listen(store: impl Store + Clone) {
    let other = store.clone();
    let slots = [Slot::new("one", [1; 16]), Slot::new("two", [2; 16])];
    for namespace in ["one", "two"] {
        assert_eq!(timeout(secs(60), store.heard(namespace)).await.unwrap(), Heard::Look);
        assert_eq!(timeout(secs(60), other.heard(namespace)).await.unwrap(), Heard::Look);
    }
    for (nth, namespace) in ["one", "two"].into_iter().enumerate() {
        let (elses, clones) = (store.heard(["two", "one"][nth]), other.heard(namespace));
        tokio::pin!(elses);
        // It is waited for first, and has nothing to tell; of files it is not told what was revoked.
        let waiting = timeout(Duration::from_millis(50), &mut elses).await;
        assert!(waiting.is_err(), "{waiting:?}");
        let now = store.take(&slots[nth], &want(None)).await.unwrap().now.0;
        store.bury(&slots[nth], &record([5; 16], now + 50_000_000)).await.unwrap();
        timeout(secs(60), store.heard(namespace)).await.expect("its own");
        timeout(secs(60), clones).await.expect("its clone's");
    }
}

#[tokio::test]
async fn files_tell_all_who_listen() {
    let directory = Directory::new();
    tells_all_who_listen(FileStore::open(directory.path()).unwrap()).await;
}

#[tokio::test]
async fn redis_tells_all_who_listen() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let address = format!("redis://127.0.0.1:{}", server.port);
    tells_all_who_listen(RedisStore::connect(address).build().unwrap()).await;
}

/// As by a replica that is stopped inside a call: others start, and what they give up is not done after.
#[tokio::test]
async fn a_directory_that_is_locked_for_long_fails_no_start_and_leases_nothing_behind() {
    let directory = Directory::new();
    let store = FileStore::open(directory.path()).unwrap();
    let (slot, one, two) = (Slot::new("ns", [3; 16]), id(), id());
    store.take(&slot, &want(None)).await.unwrap();
    let lock = std::fs::File::open(directory.path().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    FileStore::open(directory.path()).unwrap();
    let first = want(Some(&one));
    let given_up = timeout(Duration::from_millis(50), store.take(&slot, &first)).await;
    assert!(given_up.is_err());
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
    for _ in 0..20 {
        assert_eq!(store.take(&slot, &want(Some(&two))).await.unwrap().found, Found::Leased);
        assert!(store.leave(&slot, &two).await.unwrap());
    }
}

#[test]
fn a_directory_that_others_can_reach_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let directory = Directory::new();
    let refused = |path: &std::path::Path| FileStore::open(path).unwrap_err().to_string();
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o770)).unwrap();
    assert!(refused(&open).contains("has the mode 770"), "{}", refused(&open));
    let mine = directory.path().join("mine");
    FileStore::open(&mine).unwrap();
    let link = directory.path().join("link");
    symlink(&mine, &link).unwrap();
    assert!(refused(&link).contains("is a link"), "{}", refused(&link));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refused(&file).contains("no directory"), "{}", refused(&file));
    let orphan = directory.path().join("no/where");
    assert!(refused(&orphan).contains("cannot be made"), "{}", refused(&orphan));
    assert!(
        refused(std::path::Path::new("/proc/self/task")).contains("belongs to")
            || refused(std::path::Path::new("/proc/self/task")).contains("mode")
            || refused(std::path::Path::new("/proc/self/task")).contains("file system")
    );
}

/// Whatever lies in its place counts as nothing, and is replaced.
#[tokio::test]
async fn a_file_that_is_no_slot_counts_as_nothing() {
    let directory = Directory::new();
    let store = FileStore::open(directory.path()).unwrap();
    for (nth, bytes) in
        [&b""[..], b"\x01", &[1; 100], &vec![0; 200_000], b"\x02garbage"].iter().enumerate()
    {
        let slot = Slot::new("ns", [u8::try_from(nth).unwrap(); 16]);
        let path = directory.path().join(slot.name());
        std::fs::write(&path, bytes).unwrap();
        let one = id();
        let look = store.take(&slot, &want(Some(&one))).await.unwrap();
        assert_eq!((look.found, look.revoked), (Found::Leased, Vec::new()), "{nth}");
        let token = entry(look.now.0, secs(60), [5; 16], one);
        assert!(store.put(&slot, &one, &token).await.unwrap());
        assert_eq!(store.take(&slot, &want(None)).await.unwrap().found, Found::Entry(token));
        // Torn at any place.
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 1, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.take(&slot, &want(None)).await.unwrap().found, Found::None);
        }
    }
    let slot = Slot::new("ns", [99; 16]);
    std::os::unix::fs::symlink("/etc/hostname", directory.path().join(slot.name())).unwrap();
    assert_eq!(store.take(&slot, &want(Some(&id()))).await.unwrap().found, Found::Leased);
    assert!(directory.path().join(slot.name()).symlink_metadata().unwrap().is_file());
}

/// One wrong key is a miss, is mended by the next write, and nothing large is ever answered.
#[tokio::test]
async fn a_bad_key_in_redis_counts_as_nothing() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let mut root = server.connect();
    let store = RedisStore::connect(format!("redis://127.0.0.1:{}", server.port)).build().unwrap();
    let slot = Slot::new("ns", [3; 16]);
    let large = vec![1; 8 << 20];
    for which in ["e", "l", "r"] {
        let key = format!("{{ns:{}}}{which}", slot.name());
        let bad: [&[&[u8]]; 6] = [
            &[b"RPUSH", key.as_bytes(), b"x"],
            &[b"HSET", key.as_bytes(), b"f", b"v"],
            &[b"SET", key.as_bytes(), b"\x01"],
            &[b"SET", key.as_bytes(), &[1; 48]],
            &[b"SET", key.as_bytes(), b""],
            &[b"SET", key.as_bytes(), &large],
        ];
        for make in bad {
            root.call(&["FLUSHALL"]);
            root.call(make);
            let one = id();
            let look = store.take(&slot, &want(Some(&one))).await.unwrap();
            assert_eq!(look.found, Found::Leased, "{which} {:?}", &make[..1]);
            assert!(look.revoked.len() <= 640);
            assert!(store.renew(&slot, &one).await.unwrap());
            let token = entry(look.now.0, secs(60), [5; 16], one);
            assert!(store.put(&slot, &one, &token).await.unwrap());
            root.call(make);
            let revoked = record([5; 16], look.now.0 + 50_000_000);
            store.bury(&slot, &revoked).await.unwrap();
            assert_eq!(store.take(&slot, &want(None)).await.unwrap().revoked, revoked.0);
        }
    }
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let store = RedisStore::connect(format!("redis://127.0.0.1:{}", server.port)).build().unwrap();
    let slot = Slot::new("ns", [3; 16]);
    for _ in 0..2 {
        store.take(&slot, &want(None)).await.unwrap();
        server.connect().call(&["SCRIPT", "FLUSH"]);
    }
}

/// What it takes beside a `GET`, in time, is `benches/store.rs`'s to say.
#[tokio::test]
async fn a_take_that_finds_a_token_is_one_command_that_reads_twice() {
    const TAKES: u64 = 100;
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let mut root = server.connect();
    let store = RedisStore::connect(format!("redis://127.0.0.1:{}", server.port)).build().unwrap();
    let (slot, one, not) = (Slot::new("ns", [3; 16]), id(), [[6; 16], [7; 16]]);
    let now = store.take(&slot, &want(Some(&one))).await.unwrap().now.0;
    assert!(store.put(&slot, &one, &entry(now, secs(3_600), [5; 16], one)).await.unwrap());
    root.count_anew();
    for _ in 0..TAKES {
        let mut want = want(Some(&one));
        want.not = &not;
        let taken = store.take(&slot, &want).await.unwrap();
        assert!(matches!(taken.found, Found::Entry(_)));
    }
    let expected = [("evalsha", TAKES), ("getrange", 2 * TAKES), ("time", TAKES)];
    assert_eq!(root.calls(), expected.map(|(name, calls)| (name.to_owned(), calls)).into());
}
