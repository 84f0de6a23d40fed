//! Eight processes that want one client's token: this crate over both stores, a lock by hand before Redis, and msal with
//! its file cache. `cargo bench --bench fleet --all-features` prints the table. It starts a `redis-server` of its own;
//! `MSAL_PYTHON` names a Python that has `msal` and `msal-extensions`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ccg_session::testing::{Authority, Kind, Rule, Script};
use ccg_session::{
    FileStore, Fleet, HttpTokenManager, Provider, RedisStore, Session, SessionHandle, Store,
};
use redis::aio::MultiplexedConnection;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

const PROCESSES: usize = 8;
const LOAD: Duration = Duration::from_secs(12);
/// What the server takes for a grant.
const GRANT: Duration = Duration::from_millis(100);

/// Its name, whether it is over Redis, and how long a token has to live for a refresh to be due each 3 s: it asks at half
/// of the life, a second before the end, or, as msal does, five minutes before.
const SUBJECTS: [(&str, bool, u64); 4] = [
    ("ccg-session, files", false, 6),
    ("ccg-session, Redis", true, 6),
    ("a lock by hand, Redis", true, 4),
    ("msal, file cache", false, 303),
];

fn main() {
    let args: Vec<_> = std::env::args().collect();
    if let [_, replica, subject, token_url, place] = &args[..]
        && replica == "replica"
    {
        return run_replica(subject, token_url, place);
    }
    println!(
        "| | cold start of {PROCESSES}: requests | the last has its token after, ms | {} s of load, a refresh due \
         each 3 s: requests | a call: p50, µs | p99, µs | longest, ms | who asks is killed: requests | the last of the \
         others has its token after, ms |\n|---|---|---|---|---|---|---|---|---|",
        LOAD.as_secs()
    );
    let runtime = Runtime::new().unwrap();
    for subject in SUBJECTS {
        match runtime.block_on(row(subject)) {
            Ok(row) => println!("| {} | {row} |", subject.0),
            Err(absent) => println!("| {} | SKIPPED: {absent} |", subject.0),
        }
    }
}

async fn row((name, _, life): (&str, bool, u64)) -> Result<String, String> {
    let begin = async |script: Script| {
        let authority = Authority::builder().client("id", "secret").scopes(["read"]);
        let authority = authority.ttl(Duration::from_secs(life)).script(script);
        let authority = authority.start().await.unwrap();
        let place = Place::new(name)?;
        let start = |_| Replica::start(name, &authority.token_url(), &place.address);
        let replicas = (0..PROCESSES).map(start).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, String>((authority, place, replicas))
    };
    let slow = || Rule::new(Kind::Grant).delay(GRANT);

    let (authority, _place, mut replicas) = begin(Script::new().rule(slow())).await?;
    tell(&mut replicas, "get 0");
    let cold = longest(&mut replicas);
    let cold_requests = authority.counts().grants;
    tell(&mut replicas, &format!("load {}", LOAD.as_secs()));
    let mut times: Vec<f64> = Vec::new();
    let mut errors = 0.0;
    for replica in &mut replicas {
        let answer = replica.answer();
        errors += answer[0];
        times.extend(&answer[1..]);
    }
    assert!(errors == 0.0, "{name}: {errors} errors");
    let requests = authority.counts().grants - cold_requests;
    times.sort_unstable_by(f64::total_cmp);
    let [p50, p99] = [50, 99].map(|percent| times[times.len() * percent / 100]);
    let most = times[times.len() - 1] / 1e3;

    let first_hangs = Rule::new(Kind::Grant).requests(1..=1).delay(Duration::from_secs(60));
    let script = Script::new().rule(first_hangs).rule(slow());
    let (authority, _place, mut replicas) = begin(script).await?;
    replicas[0].tell("get 0");
    authority.wait_for(|counts| counts.grants == 1).await;
    tell(&mut replicas[1..], "get 0");
    replicas.remove(0).kill();
    let after_kill = longest(&mut replicas);
    let kill_requests = authority.counts().grants;
    Ok(format!(
        "{cold_requests} | {cold:.0} | {requests} | {p50:.1} | {p99:.0} | {most:.0} | {kill_requests} | {after_kill:.0}"
    ))
}

fn tell(replicas: &mut [Replica], order: &str) {
    for replica in replicas {
        replica.tell(order);
    }
}

/// In milliseconds.
fn longest(replicas: &mut [Replica]) -> f64 {
    let took = replicas.iter_mut().map(|replica| replica.answer()[0] / 1e3);
    took.fold(0.0, f64::max)
}

// Where the token is kept

/// A directory, or a `redis-server`; gone when it is dropped.
struct Place {
    address: String,
    directory: PathBuf,
    server: Option<Child>,
}

impl Place {
    fn new(subject: &str) -> Result<Self, String> {
        let name = format!("ccg-fleet-{}-{:x}", std::process::id(), fastrand::u32(..));
        let directory = std::env::temp_dir().join(name);
        drop(FileStore::open(&directory).map_err(|error| error.to_string())?);
        let address = directory.display().to_string();
        let mut place = Self { address, directory, server: None };
        if subject.ends_with("Redis") {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port();
            let mut server = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|_| "there is no redis-server on this machine")?;
            let mut lines =
                BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
            assert!(lines.any(|line| line.contains("Ready to accept connections")));
            std::thread::spawn(move || lines.for_each(drop));
            place.address = format!("redis://127.0.0.1:{port}");
            place.server = Some(server);
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill().and_then(|()| server.wait());
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// A process, as its driver has it

struct Replica {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Replica {
    fn start(subject: &str, token_url: &str, place: &str) -> Result<Self, String> {
        let mut command = if subject.starts_with("msal") {
            let python = std::env::var("MSAL_PYTHON").map_err(|_| "MSAL_PYTHON is not set")?;
            let mut command = Command::new(python);
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/fleet.py"));
            command
        } else {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["replica", subject]);
            command
        };
        command.args([token_url, place]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|error| error.to_string())?;
        let orders = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut ready = String::new();
        answers.read_line(&mut ready).unwrap();
        if ready != "ready\n" {
            return Err("it does not start".to_owned());
        }
        Ok(Self { process, orders, answers })
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn answer(&mut self) -> Vec<f64> {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }

    fn kill(mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

// The process itself

enum Subject {
    Ours(SessionHandle),
    ByHand(ByHand),
}

impl Subject {
    async fn call(&self) -> bool {
        match self {
            Self::Ours(session) => session.get_token().await.is_ok(),
            Self::ByHand(cache) => cache.token().await.is_some(),
        }
    }
}

fn run_replica(subject: &str, token_url: &str, place: &str) {
    let runtime = Runtime::new().unwrap();
    let subject = Arc::new(runtime.block_on(async {
        match subject {
            "a lock by hand, Redis" => Subject::ByHand(ByHand::new(token_url, place).await),
            "ccg-session, Redis" => ours(RedisStore::connect(place).build().unwrap(), token_url),
            _ => ours(FileStore::open(place).unwrap(), token_url),
        }
    }));
    println!("ready");
    for order in std::io::stdin().lines().map_while(Result::ok) {
        let (what, seconds) = order.split_once(' ').unwrap();
        if what == "get" {
            let began = Instant::now();
            assert!(runtime.block_on(subject.call()));
            println!("{}", began.elapsed().as_micros());
            continue;
        }
        let until = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
        let met = Arc::new(Mutex::new((0, Vec::new())));
        let tasks =
            (0..4).map(|_| runtime.spawn(load(Arc::clone(&subject), until, Arc::clone(&met))));
        for task in tasks.collect::<Vec<_>>() {
            runtime.block_on(task).unwrap();
        }
        let (errors, times) = &*met.lock().unwrap();
        let times: Vec<_> = times.iter().map(f64::to_string).collect();
        println!("{errors} {}", times.join(" "));
    }
}

async fn load(subject: Arc<Subject>, until: Instant, met: Arc<Mutex<(u32, Vec<f64>)>>) {
    while Instant::now() < until {
        let began = Instant::now();
        let is_token = subject.call().await;
        let took = began.elapsed().as_secs_f64() * 1e6;
        {
            let mut met = met.lock().unwrap();
            met.0 += u32::from(!is_token);
            met.1.push(took);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ours(store: impl Store, token_url: &str) -> Subject {
    let fleet =
        Fleet::builder(store, "a key for the bench, of more than 32 bytes").build().unwrap();
    let manager =
        HttpTokenManager::builder(Provider::generic(token_url), "id", "secret").build().unwrap();
    let manager = fleet.share(manager).slot("bench").build().unwrap();
    Subject::Ours(Session::builder(manager).spawn().unwrap())
}

/// As it is often written: a lock in the process, and the token in Redis until a second before its end.
struct ByHand {
    token: RwLock<Option<(String, Instant)>>,
    redis: MultiplexedConnection,
    http: reqwest::Client,
    token_url: String,
}

impl ByHand {
    async fn new(token_url: &str, place: &str) -> Self {
        let client = redis::Client::open(place).unwrap();
        let redis = client.get_multiplexed_async_connection().await.unwrap();
        Self {
            token: RwLock::default(),
            redis,
            http: reqwest::Client::new(),
            token_url: token_url.to_owned(),
        }
    }

    async fn token(&self) -> Option<String> {
        let fresh = |held: &Option<(String, Instant)>| {
            held.as_ref().filter(|(_, ends)| Instant::now() < *ends).map(|(token, _)| token.clone())
        };
        if let Some(token) = fresh(&*self.token.read().await) {
            return Some(token);
        }
        let mut held = self.token.write().await;
        if let Some(token) = fresh(&held) {
            return Some(token);
        }
        let mut redis = self.redis.clone();
        let found: (Option<String>, i64) =
            redis::pipe().get("token").pttl("token").query_async(&mut redis).await.ok()?;
        let (token, left) = if let (Some(token), left) = found {
            (token, u64::try_from(left).unwrap_or(0))
        } else {
            let granted = self.ask().await?;
            let set =
                redis::cmd("SET").arg("token").arg(&granted.0).arg("PX").arg(granted.1).to_owned();
            let () = set.query_async(&mut redis).await.ok()?;
            granted
        };
        *held = Some((token.clone(), Instant::now() + Duration::from_millis(left)));
        Some(token)
    }

    async fn ask(&self) -> Option<(String, u64)> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "id"),
            ("client_secret", "secret"),
        ];
        let answer = self.http.post(&self.token_url).form(&form).send().await.ok()?;
        let answer: serde_json::Value = answer.json().await.ok()?;
        let left = answer["expires_in"].as_u64()? * 1_000 - 1_000;
        Some((answer["access_token"].as_str()?.to_owned(), left))
    }
}
