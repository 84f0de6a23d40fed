//! What a look at the shared store costs that finds a token, beside a `GET` of the same bytes by the same client:
//! `cargo bench --bench store --features redis`. It starts a `redis-server` of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

use ccg_session::{Found, Id, RedisStore, Sealed, Slot, Store, Want};
use divan::Bencher;
use redis::aio::MultiplexedConnection;
use tokio::runtime::{Builder, Runtime};

/// Calls in a row, of each kind in turn.
const CALLS: u32 = 2_000;
const TURNS: usize = 15;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::new);

struct Fixture {
    runtime: Runtime,
    store: RedisStore,
    slot: Slot,
    key: String,
    client: MultiplexedConnection,
}

fn main() {
    let Some(mut server) = server() else {
        println!("SKIPPED: there is no redis-server on this machine");
        return;
    };
    let fixture = &*FIXTURE;
    let time = |call: &dyn Fn()| {
        let began = Instant::now();
        (0..CALLS).for_each(|_| call());
        began.elapsed() / CALLS
    };
    let mut turns: Vec<_> =
        (0..TURNS).map(|_| (time(&|| fixture.get()), time(&|| fixture.take()))).collect();
    turns.sort_by_key(|(get, take)| take.as_nanos() * 1_000 / get.as_nanos());
    let (get, take) = turns[TURNS / 2];
    let ratio = take.as_secs_f64() / get.as_secs_f64();
    println!("GET {get:?}, take {take:?}: {ratio:.2} times, the median of {TURNS} turns\n");
    divan::main();
    let _ = server.kill().and_then(|()| server.wait());
    assert!(ratio < 4.0, "a look costs {ratio:.2} times a GET");
}

static PORT: LazyLock<u16> = LazyLock::new(|| {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port()
});

fn server() -> Option<Child> {
    let mut server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &PORT.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Ready to accept connections")));
    std::thread::spawn(move || lines.for_each(drop));
    Some(server)
}

impl Fixture {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let address = format!("redis://127.0.0.1:{}", *PORT);
        let store = RedisStore::connect(&*address).build().unwrap();
        let (slot, id) = (Slot::new("ns", [3; 16]), Id([4; 16]));
        let client = runtime.block_on(async {
            let mut want = Want::look();
            want.lease = Some(&id);
            let now = store.take(&slot, &want).await.unwrap().now.0;
            assert!(store.put(&slot, &id, &entry(now, id)).await.unwrap());
            redis::Client::open(address).unwrap().get_multiplexed_async_connection().await.unwrap()
        });
        let key = format!("{{ns:{}}}e", slot.name());
        Self { runtime, store, slot, key, client }
    }

    fn get(&self) {
        let mut client = self.client.clone();
        let get = redis::cmd("GET").arg(&self.key).to_owned();
        let found: Vec<u8> = self.runtime.block_on(get.query_async(&mut client)).unwrap();
        assert_eq!(found.len(), 49 + 1_024);
    }

    /// As an attempt does it: with a lease to take if there were nothing, and a few that will not do.
    fn take(&self) {
        let (id, not) = (Id([5; 16]), [[6; 16], [7; 16]]);
        let mut want = Want::look();
        (want.lease, want.not) = (Some(&id), &not);
        let taken = self.runtime.block_on(self.store.take(&self.slot, &want)).unwrap();
        assert!(matches!(taken.found, Found::Entry(_)));
    }
}

/// A token of about 1 KB, for an hour.
fn entry(asked: u64, id: Id) -> Sealed {
    let life = 3_600_000_000_u64;
    let header = [&[1][..], &asked.to_be_bytes(), &life.to_be_bytes(), &[8; 16], &id.0];
    Sealed([header.concat(), vec![9; 1_024]].concat())
}

#[divan::bench]
fn get(bencher: Bencher) {
    bencher.bench(|| FIXTURE.get());
}

#[divan::bench]
fn take(bencher: Bencher) {
    bencher.bench(|| FIXTURE.take());
}
