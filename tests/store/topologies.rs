//! Redis behind sentinels, as a cluster, with TLS, and at the end of a bad line.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use ccg_session::testing::Kind;
use ccg_session::{
    FileStore, Fleet, Grant, GrantRequest, RedisStore, Session, SessionPool, TokenError,
    TokenManager, TokenRequestOptions, TokenText,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::faults::endures_at;
use crate::fleets::{address, authority, wait};
use crate::forgers::keys;
use crate::replica::{KEY, Local, Login};
use crate::server::{Connection, Reply, Server, free_port, is_absent};
use crate::{Directory, millis, secs};

/// A new replica takes the token from the store.
async fn is_shared(place: &str) {
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    for slot in ["one", "two", "three", "four"] {
        let first = Local::slotted(place, &login, slot);
        let token = first.token().await;
        // It is put behind the caller's back.
        let began = Instant::now();
        loop {
            let second = Local::slotted(place, &login, slot);
            if second.token().await == token {
                break;
            }
            assert!(began.elapsed() < secs(60), "{slot}: {:?}", second.fleet.counts());
            sleep(millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_another_master_and_no_caller_sees_an_error() {
    if is_absent() {
        return;
    }
    let mut master = Server::start(&[]);
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    wait(|| is_linked(&replica)).await;
    let sentinel = Server::sentinel_of(master.port);
    let named = |sentinel: &Server| {
        sentinel.connect().call(&["SENTINEL", "get-master-addr-by-name", "main"])
    };
    let knows_replica = || {
        matches!(
            sentinel.connect().call(&["SENTINEL", "replicas", "main"]),
            Reply::List(replicas) if replicas.len() == 1
        )
    };
    wait(knows_replica).await;
    // The first takes connections, and never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf_port = deaf.local_addr().unwrap().port();
    let place = format!("redis+sentinel://127.0.0.1:{deaf_port},127.0.0.1:{}/main", sentinel.port);
    is_shared(&place).await;
    let port = Reply::Bytes(replica.port.to_string().into());
    endures_at(&place, async || {
        master.kill();
        let is_named = || matches!(named(&sentinel), Reply::List(list) if list[1] == port);
        let began = Instant::now();
        while !is_named() {
            assert!(began.elapsed() < secs(60), "no failover");
            sleep(millis(20)).await;
        }
        println!("failed over after {:?}", began.elapsed());
    })
    .await;
    is_shared(&place).await;
}

/// Whether a replica has its master's data.
fn is_linked(replica: &Server) -> bool {
    let Reply::Bytes(info) = replica.connect().call(&["INFO", "replication"]) else { return false };
    String::from_utf8_lossy(&info).contains("master_link_status:up")
}

struct Cluster(Vec<Server>);

impl Cluster {
    /// Three masters, and a replica of each.
    async fn start() -> Self {
        let args = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let nodes: Vec<_> = (0..6)
            .map(|_| {
                loop {
                    // Its other port is this one and 10,000.
                    let port = free_port();
                    if port < 50_000
                        && let Some(node) = Server::start_at(port, &[], &args)
                    {
                        break node;
                    }
                }
            })
            .collect();
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let cluster = Self(nodes);
        wait(|| cluster.0.iter().all(Cluster::is_ok)).await;
        // A replica that has not seen its master's data yet does not take its place.
        wait(|| cluster.0[3..].iter().all(is_linked)).await;
        cluster
    }

    fn is_ok(node: &Server) -> bool {
        let answer = Connection::open(node.port).map(|mut it| it.call(&["CLUSTER", "INFO"]));
        matches!(answer, Ok(Reply::Bytes(info)) if String::from_utf8_lossy(&info).contains("cluster_state:ok"))
    }

    fn address(&self) -> String {
        let hosts: Vec<_> = self.0.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_node_and_no_caller_sees_an_error() {
    if is_absent() {
        return;
    }
    let mut cluster = Cluster::start().await;
    let place = cluster.address();
    is_shared(&place).await;
    endures_at(&place, async || {
        cluster.0[0].kill();
        let survivors = &cluster.0[1..];
        let began = Instant::now();
        // It takes a while until the others have noticed.
        sleep(secs(2)).await;
        while !survivors.iter().all(Cluster::is_ok) {
            assert!(began.elapsed() < secs(60), "no failover");
            sleep(millis(20)).await;
        }
        println!("failed over after {:?}", began.elapsed());
    })
    .await;
    is_shared(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_only_a_server_that_is_trusted_is_a_store() {
    if is_absent() {
        return;
    }
    let directory = Directory::new();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("cert"), directory.path().join("key"));
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path(&certificate),
        "--tls-key-file",
        &path(&key),
        "--tls-ca-cert-file",
        &path(&certificate),
        "--tls-auth-clients",
        "no",
    ]);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let place = format!("rediss://localhost:{port}");
    let trusting = RedisStore::connect(&*place).root_certificate(cert.pem()).build().unwrap();
    let token = async |store: RedisStore| {
        let fleet = Fleet::builder(store, KEY).timeout(secs(1)).build().unwrap();
        let manager = fleet.share(login.manager()).build().unwrap();
        let session = Session::builder(manager).spawn().unwrap();
        let token = session.get_token().await.unwrap().secret().to_owned();
        (token, fleet.counts())
    };
    let (first, counts) = token(trusting.clone()).await;
    assert_eq!((counts.leased, counts.direct), (1, 0));
    let is_put = || server.connect().call(&["KEYS", "*e"]) != Reply::List(Vec::new());
    wait(is_put).await;
    assert_eq!(token(trusting).await.0, first);
    let (other, counts) = token(RedisStore::connect(&*place).build().unwrap()).await;
    assert_ne!(other, first);
    assert_eq!((counts.taken, counts.direct), (0, 1));
}

/// A line that can be made bad.
struct Line {
    port: u16,
    state: Arc<AtomicU8>,
}

const GOOD: u8 = 0;
/// What is sent arrives 150 ms later, so no answer comes within the time of a call.
const SLOW: u8 = 1;
/// Nothing arrives, and nobody is told.
const DEAF: u8 = 2;
/// Connections break.
const CUT: u8 = 3;
/// Connections that there are are deaf, as after a firewall forgot them; new ones are good.
const FORGOTTEN: u8 = 4;

impl Line {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, state) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU8::new(GOOD)));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                if state.load(Ordering::Relaxed) == CUT {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let (near, far) = (near.into_split(), far.into_split());
                    let born = state.load(Ordering::Relaxed);
                    tokio::select! {
                        () = carry(near.0, far.1, &state, born) => {}
                        () = carry(far.0, near.1, &state, born) => {}
                        () = until_cut(&state) => {}
                    }
                });
            }
        });
        Self { port, state }
    }

    fn is(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }
}

async fn until_cut(state: &AtomicU8) {
    while state.load(Ordering::Relaxed) != CUT {
        sleep(millis(10)).await;
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    state: &AtomicU8,
    born: u8,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        match state.load(Ordering::Relaxed) {
            SLOW => sleep(millis(150)).await,
            DEAF => continue,
            FORGOTTEN if born != FORGOTTEN => continue,
            _ => {}
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn endures_a_line_that_is(bad: u8) {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let line = Line::to(server.port).await;
    let place = format!("redis://127.0.0.1:{}", line.port);
    let grants = endures_at(&place, async || {
        line.is(bad);
        sleep(secs(4)).await;
        line.is(GOOD);
    })
    .await;
    // A store that is only slow is waited for, and its fleet does not turn on the server.
    let is_waited_for = bad == SLOW && crate::long().is_some();
    assert!(!is_waited_for || grants <= 9, "{grants} grants");
    is_shared(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_line_costs_next_to_nothing() {
    endures_a_line_that_is(SLOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_line_costs_requests_alone() {
    endures_a_line_that_is(DEAF).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_costs_requests_alone() {
    endures_a_line_that_is(CUT).await;
}

/// It is given up, and the next call has another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_dead_without_knowing_it_is_replaced() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let line = Line::to(server.port).await;
    let authority = authority(secs(3)).await;
    let place = format!("redis://127.0.0.1:{}", line.port);
    let local = Local::new(&place, &Login::at(&authority));
    let met = crate::replica::load(&local.session, 4);
    // It has put its token.
    wait(|| !keys(&mut server.connect()).is_empty()).await;
    line.is(FORGOTTEN);
    let before = local.fleet.counts().leased;
    wait(|| local.fleet.counts().leased >= before + 2).await;
    let (_, errors, _) = met.end();
    assert_eq!((errors, local.fleet.counts().direct), (0, 0));
}

/// Grants a token of its own each time, and revokes whatever it is told.
struct Mint(&'static AtomicU64);

impl TokenManager for Mint {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(secs(3_600)))
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        Ok(())
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

/// Of all that a fleet has over one store one is told, and there is one subscription. A hundred here, and a
/// hundred thousand where there is time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_of_a_fleet_have_one_subscription_and_one_of_them_is_told() {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    if is_absent() {
        return;
    }
    let count = if crate::long().is_some() { 100_000 } else { 100 };
    let server = Server::start(&[]);
    let fleet = || {
        let store = RedisStore::connect(address(&server)).build().unwrap();
        Fleet::builder(store, KEY).namespace("ns").timeout(secs(1)).build().unwrap()
    };
    let session = |fleet: &Fleet<RedisStore>, nth: usize| {
        let manager = fleet.share(Mint(&MINTED)).slot(format!("slot-{nth}")).build().unwrap();
        Session::builder(manager).spawn().unwrap()
    };
    let began = Instant::now();
    let (here, elsewhere) = (fleet(), fleet());
    let sessions: Vec<_> = (0..count).map(|nth| session(&here, nth)).collect();
    for some in sessions.chunks(64) {
        let asking = some.iter().map(|session| {
            let session = session.clone();
            tokio::spawn(async move { session.get_token().await.map(drop) })
        });
        for asked in asking.collect::<Vec<_>>() {
            asked.await.unwrap().unwrap();
        }
    }
    println!("{count} sessions have their tokens after {:?}", began.elapsed());
    let mut root = server.connect();
    let subscriptions = root.call(&["PUBSUB", "NUMSUB", "ns:news"]);
    assert_eq!(subscriptions, Reply::List(vec![Reply::Bytes(b"ns:news".into()), Reply::Number(1)]));
    let Reply::Bytes(clients) = root.call(&["CLIENT", "LIST"]) else { panic!() };
    let clients = String::from_utf8(clients).unwrap();
    // The commands', the subscription's, and that which asks.
    assert_eq!(clients.lines().count(), 3, "{clients}");
    assert_eq!((here.counts().leased, here.counts().direct), (count as u64, 0));

    let other = session(&elsewhere, 0);
    let token = other.get_token().await.unwrap();
    assert_eq!((elsewhere.counts().taken, MINTED.load(Ordering::Relaxed)), (1, count as u64));
    let mut told = sessions[0].subscribe();
    other.revoke().await.unwrap();
    while sessions[0].try_token().is_some_and(|it| it.secret() == token.secret()) {
        timeout(secs(60), told.changed()).await.expect("it is told").expect("it goes on");
    }
    assert!(sessions[1..].iter().all(|session| session.try_token().is_some()));
}

/// The gate is for those who ask the server: what lies in the store waits for nobody. What looks like it and is
/// none then waits for its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_the_store_does_not_wait_at_the_gate_of_a_pool() {
    if is_absent() {
        return;
    }
    let server = Server::start(&[]);
    let place = address(&server);
    let authority = authority(secs(600)).await;
    let login = Login::at(&authority);
    let other = Local::slotted(&place, &login, "there");
    let token = other.token().await;
    let mut root = server.connect();
    wait(|| !keys(&mut root).is_empty()).await;
    let key = keys(&mut root).remove(0);

    let store = RedisStore::connect(&*place).build().unwrap();
    let fleet = Fleet::builder(store, KEY).namespace("ns").timeout(secs(1)).build().unwrap();
    let (of_pool, at) = (fleet.clone(), login.clone());
    let pool = SessionPool::builder(move |tenant: &String| {
        let manager = of_pool.share(at.manager()).slot(tenant).build()?;
        Ok(Session::builder(manager))
    });
    let pool = pool.attempts_at_once(1).build().unwrap();
    let session = |tenant: &str| pool.get(&tenant.to_owned()).unwrap();
    let held = authority.hold(Kind::Grant);
    let asking = session("not-there");
    let asking = tokio::spawn(async move { asking.get_token().await.map(drop) });
    authority.wait_for(|counts| counts.grants == 2).await;
    assert_eq!((pool.status().attempts_out, pool.status().attempts_waiting), (1, 0));
    // The only place is taken.
    let there = session("there");
    assert_eq!(there.get_token().await.unwrap().secret(), token);
    assert_eq!((fleet.counts().taken, fleet.counts().direct), (1, 0));
    assert_eq!((pool.status().attempts_out, authority.counts().grants), (1, 2));

    // An entry that nobody of the fleet has written: the second attempt waits for its turn.
    let Reply::Bytes(mut entry) = root.call(&["GET", &key]) else { panic!() };
    *entry.last_mut().unwrap() ^= 1;
    entry[20] ^= 1;
    root.call(&[b"SET", key.as_bytes(), &entry[..]]);
    there.invalidate(&there.try_token().unwrap());
    let next = tokio::spawn(async move { there.get_token().await.unwrap().secret().to_owned() });
    let (waits, began) = (pool.clone(), Instant::now());
    wait(|| {
        waits.status().attempts_waiting + waits.status().attempts_out == 2 || next.is_finished()
    })
    .await;
    println!("it waits for its turn after {:?}", began.elapsed());
    assert!(!next.is_finished());
    drop(held);
    assert_ne!(next.await.unwrap(), token);
    asking.await.unwrap().unwrap();
    assert_eq!(authority.counts().grants, 3);
}

/// They are of no use without the key that they are bound to, so nobody waits for another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_tokens_are_not_shared_and_nobody_waits_for_them() {
    let directory = Directory::new();
    let authority = authority(secs(600)).await;
    let provider = authority.provider();
    let build = || {
        let manager = ccg_session::HttpTokenManager::builder(
            provider.clone(),
            authority.client_id(),
            authority.client_secret(),
        );
        let manager = manager.dpop(ccg_session::DpopKey::generate().unwrap()).build().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let fleet = Fleet::builder(store, KEY).build().unwrap();
        let manager = fleet.share(manager).slot("bound").build().unwrap();
        (Session::builder(manager).spawn().unwrap(), fleet)
    };
    let ((one, _), (two, fleet)) = (build(), build());
    let first = one.get_token().await.unwrap();
    let second = two.get_token().await.unwrap();
    assert_ne!(first.secret(), second.secret());
    assert_eq!(fleet.counts().taken, 0);
    let before = fleet.counts();
    assert!(two.invalidate(&second));
    let began = Instant::now();
    two.get_token().await.unwrap();
    println!("the next after {:?}", began.elapsed());
    assert_eq!(fleet.counts(), before);
}

/// Both are stores, and stay what they are.
#[test]
fn stores_are_shown_without_secrets() {
    let directory = Directory::new();
    let file = FileStore::open(directory.path()).unwrap();
    let redis = RedisStore::connect("redis://user:s3cret@host").build().unwrap();
    let fleet = Fleet::builder(file, "s3cret-key-that-is-long-enough-for-it").build().unwrap();
    let shown = format!("{fleet:?} {redis:?} {:?}", RedisStore::connect("redis://u:s3cret@host"));
    assert!(!shown.contains("s3cret"), "{shown}");
}
