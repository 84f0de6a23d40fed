//! A pool of many tenants, and a get of one that is there beside moka's:
//! `cargo run --release --manifest-path benches/peers/Cargo.toml --bin pool`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use ccg_session::{
    Grant, GrantRequest, Session, SessionHandle, SessionPool, TokenError, TokenManager,
};

const TENANTS: u64 = 100_000;
const CALLS: u64 = 1_000_000;
const RACES: u64 = 1_000_000;

struct InProcess;

impl TokenManager for InProcess {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("T9cE5asGnuyYCCqIZFoWjFHvNbvVqHjl")?
            .expires_in(Duration::from_secs(3_600)))
    }
}

fn pool(capacity: u64) -> SessionPool<u64> {
    let maker = |_: &u64| Ok(Session::builder(InProcess));
    let capacity = usize::try_from(capacity).expect("it fits");
    let idle = Duration::from_secs(3_600);
    SessionPool::builder(maker).capacity(capacity).idle(idle).build().expect("it makes sense")
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads");
    let _inside = runtime.enter();
    many(&runtime);
    for threads in [1, 2, 8] {
        let ours = pool(1_000);
        let moka = moka::sync::Cache::new(1_000);
        for key in 0..100 {
            moka.insert(key, ours.get(&key).expect("there is room"));
        }
        let mut nanos = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            let ours = ours.clone();
            nanos[0].push(per_get(threads, move |key| ours.get(&key).ok()));
            let moka = moka.clone();
            nanos[1].push(per_get(threads, move |key| moka.get(&key)));
        }
        let [ours, moka] = nanos.map(|mut all| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        });
        println!("get of one that is there, {threads} threads: {ours:.0} ns, moka {moka:.0} ns");
    }
    race();
}

/// New ones, and what each takes once it has a token and is idle.
fn many(runtime: &tokio::runtime::Runtime) {
    let pool = pool(TENANTS);
    let before = resident();
    let began = Instant::now();
    for tenant in 0..TENANTS {
        black_box(pool.get(&tenant).expect("there is room"));
    }
    let new = began.elapsed() / u32::try_from(TENANTS).expect("it fits");
    println!("a new session: {new:?}");
    runtime.block_on(async {
        for tenant in 0..TENANTS {
            let session = pool.get(&tenant).expect("it is there");
            session.get_token().await.expect("it is granted");
            session.get_token().await.expect("it is there");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    });
    let bytes = resident().saturating_sub(before) / TENANTS;
    println!("an idle tenant: {bytes} bytes ({} KiB)", bytes as f64 / 1024.0);
    assert_eq!(pool.status().made, TENANTS);
}

fn per_get(
    threads: u64,
    get: impl Fn(u64) -> Option<SessionHandle> + Clone + Send + 'static,
) -> f64 {
    let start = Arc::new(Barrier::new(usize::try_from(threads).expect("few") + 1));
    let threads: Vec<_> = (0..threads)
        .map(|thread| {
            let (get, start) = (get.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                let began = Instant::now();
                for call in 0..CALLS {
                    black_box(get((call * 7 + thread * 13) % 100)).expect("it is there");
                }
                began.elapsed()
            })
        })
        .collect();
    start.wait();
    let count = threads.len();
    let took: Duration = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    took.as_nanos() as f64 / (CALLS as f64 * count as f64)
}

/// Two threads, one key after the other: each key has one session.
fn race() {
    let pool = pool(100);
    let both = Arc::new(Barrier::new(2));
    let racers: Vec<_> = (0..2)
        .map(|_| {
            let (pool, both) = (pool.clone(), Arc::clone(&both));
            std::thread::spawn(move || {
                // Held until the other has it too: else it may leave the pool before that.
                let mut held = VecDeque::new();
                for key in 0..RACES {
                    if key % 10 == 0 {
                        both.wait();
                    }
                    held.push_back(pool.get(&key).expect("one can leave"));
                    if held.len() > 20 {
                        held.pop_front();
                    }
                }
            })
        })
        .collect();
    for racer in racers {
        racer.join().expect("no panic");
    }
    println!("{RACES} races for a key: {} sessions", pool.status().made);
    assert_eq!(pool.status().made, RACES);
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
