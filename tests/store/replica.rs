//! A replica: a process of its own, or a session in the test's.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ccg_session::testing::Authority;
use ccg_session::{
    Fleet, FleetBuilder, HttpTokenManager, Provider, Session, SessionConfig, SessionHandle, Subject,
};

use tokio::time::timeout;

use crate::place::Place;
use crate::secs;

pub(crate) const KEY: &str = "a key for tests, of more than 32 bytes";

/// The time of an attempt: who waits for less has not waited for an attempt that hangs.
pub(crate) const ATTEMPT: Duration = secs(20);

/// Where the authority is, and as whom to come.
#[derive(Clone, Debug)]
pub(crate) struct Login(String);

impl Login {
    pub(crate) fn at(authority: &Authority) -> Self {
        let (id, secret) = (authority.client_id(), authority.client_secret());
        Self(format!("{} {} {id} {secret}", authority.base_url(), authority.enterprise()))
    }

    pub(crate) fn with_secret(&self, secret: &str) -> Self {
        let (before, _) = self.0.rsplit_once(' ').unwrap();
        Self(format!("{before} {secret}"))
    }

    pub(crate) fn manager(&self) -> HttpTokenManager {
        let [url, enterprise, id, secret] = self.0.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{self:?}")
        };
        let provider = Provider::box_ccg(Subject::enterprise(enterprise)).base_url(url);
        HttpTokenManager::builder(provider, id, secret).build().unwrap()
    }
}

/// A replica in the test's own process: a fleet of its own, with one session.
pub(crate) struct Local {
    pub(crate) fleet: Fleet<Place>,
    pub(crate) session: SessionHandle,
}

impl Local {
    pub(crate) fn new(place: &str, login: &Login) -> Self {
        Self::slotted(place, login, "one")
    }

    /// A call of its store may take all the time that there is: the machine may be busy.
    pub(crate) fn slotted(place: &str, login: &Login, slot: &str) -> Self {
        Self::built(|place| Fleet::builder(place, KEY).timeout(secs(1)), place, login, slot)
    }

    /// A call of its store may take as long as usual.
    pub(crate) fn usual(place: &str, login: &Login) -> Self {
        Self::built(|place| Fleet::builder(place, KEY), place, login, "one")
    }

    fn built(
        builder: impl FnOnce(Place) -> FleetBuilder<Place>,
        place: &str,
        login: &Login,
        slot: &str,
    ) -> Self {
        let fleet = builder(Place::open(place)).namespace("ns").build().unwrap();
        let session = session(&fleet, login, slot);
        Self { fleet, session }
    }

    pub(crate) async fn token(&self) -> String {
        self.session.get_token().await.unwrap().secret().to_owned()
    }

    /// Waits until this token is handed out no longer.
    pub(crate) async fn lets_go_of(&self, token: &str) {
        lets_go_of(&self.session, token).await;
    }
}

pub(crate) async fn lets_go_of(session: &SessionHandle, token: &str) {
    let mut status = session.subscribe();
    let has_it = || session.try_token().is_some_and(|it| it.secret() == token);
    let gone = async {
        while has_it() {
            status.changed().await.expect("it goes on");
        }
    };
    timeout(secs(60), gone).await.expect("it is still handed out");
}

pub(crate) fn session(fleet: &Fleet<Place>, login: &Login, slot: &str) -> SessionHandle {
    let manager = fleet.share(login.manager()).slot(slot).build().unwrap();
    let mut config = SessionConfig::default();
    config.retry.attempt_timeout = ATTEMPT;
    Session::builder(manager).config(config).spawn().unwrap()
}

/// What callers met.
#[derive(Default)]
pub(crate) struct Met {
    pub(crate) calls: AtomicU64,
    pub(crate) errors: AtomicU64,
    /// In milliseconds.
    pub(crate) longest: AtomicU64,
    /// What was left of a token, at most, in milliseconds.
    pub(crate) believed: AtomicU64,
    pub(crate) is_over: AtomicBool,
}

/// So many tasks ask for the token again and again, until they are told that it is over.
pub(crate) fn load(session: &SessionHandle, tasks: usize) -> Arc<Met> {
    let met = Arc::new(Met::default());
    for _ in 0..tasks {
        let (session, met) = (session.clone(), Arc::clone(&met));
        tokio::spawn(async move {
            while !met.is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                match session.get_token().await {
                    Ok(token) => {
                        let left = u64::try_from(token.remaining().as_millis()).unwrap();
                        met.believed.fetch_max(left, Ordering::Relaxed);
                    }
                    Err(error) => {
                        println!("@error {error}");
                        met.errors.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let waited = u64::try_from(began.elapsed().as_millis()).unwrap();
                met.longest.fetch_max(waited, Ordering::Relaxed);
                met.calls.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    met
}

impl Met {
    pub(crate) fn end(&self) -> (u64, u64, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.calls), read(&self.errors), read(&self.longest))
    }
}

// Processes

const PLACE: &str = "STORE_TEST_PLACE";
const LOGIN: &str = "STORE_TEST_LOGIN";

/// Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Process {
    pub(crate) fn start(place: &str, login: &Login) -> Self {
        Self::start_in(&[], place, login)
    }

    /// With these variables in its environment.
    pub(crate) fn start_in(env: &[(&'static str, String)], place: &str, login: &Login) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .args(["--exact", "replica::it_does_what_it_is_told_if_it_is_one", "--nocapture"])
            .env(PLACE, place)
            .env(LOGIN, &login.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(answer) = line.strip_prefix('@') {
                    let _ = tell.send(answer.to_owned());
                }
            }
        });
        let mut process = Self { child, orders, answers };
        assert_eq!(process.answer(), "ready");
        process
    }

    pub(crate) fn start_many(count: usize, place: &str, login: &Login) -> Vec<Self> {
        let starting = (0..count).map(|_| {
            let (place, login) = (place.to_owned(), login.clone());
            std::thread::spawn(move || Self::start(&place, &login))
        });
        let starting: Vec<_> = starting.collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        self.answers.recv_timeout(secs(60)).expect("it answers")
    }

    /// The token, and how long it took to get it.
    pub(crate) fn token(&mut self) -> (String, Duration) {
        let answer = self.answer();
        let (token, millis) = answer.split_once(' ').expect(&answer);
        (token.to_owned(), Duration::from_millis(millis.parse().expect(&answer)))
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run by [`Process::start`]; by itself it is nobody's replica, and has nothing to do.
#[test]
fn it_does_what_it_is_told_if_it_is_one() {
    let (Ok(place), Ok(login)) = (std::env::var(PLACE), std::env::var(LOGIN)) else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let replica = Local::new(&place, &Login(login));
        println!("@ready");
        let mut met = None;
        let (tell, mut orders) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        while let Some(order) = orders.recv().await {
            let session = replica.session.clone();
            match order.as_str() {
                "get" => drop(tokio::spawn(async move {
                    let began = Instant::now();
                    match session.get_token().await {
                        Ok(token) => {
                            println!("@{} {}", token.secret(), began.elapsed().as_millis());
                        }
                        Err(error) => println!("@error {error}"),
                    }
                })),
                "revoke" => drop(tokio::spawn(async move {
                    println!("@{:?}", session.revoke().await.is_ok());
                })),
                "load" => met = Some(load(&replica.session, 16)),
                "end" => {
                    println!("@{:?} {:?}", met.take().map(|met| met.end()), replica.fleet.counts());
                }
                other => println!("@what is {other}?"),
            }
        }
    });
}
