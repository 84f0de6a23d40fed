//! `demo --replicas`: real processes over a real store, and nothing left of them.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use super::*;

/// A demo at work, whose store is in a directory of its own.
struct Demo {
    process: Child,
    /// What it says on stderr.
    lines: mpsc::Receiver<String>,
    directory: Directory,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let directory = Directory::new();
        let mut demo = command();
        demo.args(["demo", "--replicas"]).args(args).env("TMPDIR", &directory.0);
        let mut process = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { process, lines, directory }
    }

    /// Until it says so: then all replicas are at work. Gives their ids.
    fn at_work(&self) -> Vec<u32> {
        let line = self.lines.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(line.ends_with("cold start"), "{line}");
        let replicas = children(self.process.id());
        for replica in &replicas {
            // What other users can see.
            let arguments = std::fs::read(format!("/proc/{replica}/cmdline")).unwrap();
            let arguments: Vec<_> = arguments.split(|byte| *byte == 0).skip(1).collect();
            assert_eq!(arguments, [&b"replica"[..], b""]);
            let environment = std::fs::read(format!("/proc/{replica}/environ")).unwrap();
            let environment = String::from_utf8_lossy(&environment);
            assert!(!environment.contains(SECRET), "{environment}");
        }
        replicas
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Its exit code, and all that it said.
    fn end(&mut self) -> (Option<i32>, String, String) {
        let mut stdout = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let code = self.process.wait().unwrap().code();
        (code, stdout, self.lines.iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Of this process: those that run.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after_name = status.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let processes = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    ids.filter(is_child).collect()
}

/// Or is a zombie that nobody has asked about.
fn has_ended(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, |status| {
        status.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"))
    })
}

fn wait_until_all_have_ended(processes: &[u32]) {
    let began = Instant::now();
    while let Some(process) = processes.iter().find(|process| !has_ended(**process)) {
        assert!(began.elapsed() < Duration::from_secs(60), "{process} is left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ccg-session-{:x}", fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What it says of its figures, but for those that are times: those are judged by `.ci/demo.py`, beside which
/// nothing else runs.
fn broken_counts(stderr: &str) -> Vec<&str> {
    let figures = stderr.lines().find_map(|line| line.split_once("figures do not hold: "));
    let broken = figures.into_iter().flat_map(|(_, figures)| figures.split("; "));
    broken.filter(|figure| !figure.ends_with(" s") && !figure.ends_with(" ms")).collect()
}

fn keeps_its_promises(args: &[&str], plot: &Path) {
    let plot_argument = plot.to_str().unwrap();
    let mut demo =
        Demo::start(&[args, &["--seconds", "8", "--json", "--plot", plot_argument]].concat());
    let replicas = demo.at_work();
    assert_eq!(replicas.len(), 4);
    let (code, stdout, stderr) = demo.end();
    assert!(matches!(code, Some(0 | 1)), "{stdout}{stderr}");
    assert!(code == Some(0) || stderr.contains("figures do not hold: "), "{stdout}{stderr}");
    assert_eq!(broken_counts(&stderr), [""; 0], "{stdout}{stderr}");
    wait_until_all_have_ended(&replicas);
    assert_eq!(demo.directory.entries(), 0);
    assert!(!format!("{stdout}{stderr}").contains(SECRET), "{stdout}{stderr}");

    let figures: Value = serde_json::from_str(&stdout).unwrap();
    let expected = [
        "calls",
        "errors",
        "grants",
        "grants_at_cold_start",
        "grants_of_restarted",
        "grants_of_single_sessions",
        "replicas",
        "seconds",
        "seconds_to_stop_after_revoke",
        "seconds_to_token_after_kill",
        "seconds_waited_after_kill",
    ];
    assert_eq!(keys(&figures), expected);
    for (key, value) in [("errors", 0), ("grants_at_cold_start", 1), ("grants_of_restarted", 0)] {
        assert_eq!(figures[key], value, "{figures}");
    }
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&figures["seconds_to_token_after_kill"]) > 1.0, "a lease was left: {figures}");
    // The demo itself judges what they may be at most.
    assert!(
        figures["grants"].as_u64() < figures["grants_of_single_sessions"].as_u64(),
        "{figures}"
    );
    let each = figures["replicas"].as_array().unwrap();
    assert_eq!(each.len(), 4);
    for replica in each {
        assert_eq!(keys(replica), ["asked", "calls", "errors", "seconds_waited_max", "taken"]);
        assert!(replica["calls"].as_u64().unwrap() > 10, "{figures}");
    }
    let sum = |key: &str| each.iter().map(|replica| replica[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("asked"), figures["grants"].as_u64().unwrap(), "{figures}");
    assert!(sum("taken") > sum("asked"), "{figures}");

    let svg = std::fs::read_to_string(plot).unwrap();
    check_xml(&svg);
    for word in ["replica 1", "replica 4", "asked the server", "killed", "one revokes"] {
        assert!(svg.contains(word), "{word}");
    }
}

#[test]
fn replicas_share_one_token_and_leave_nothing_behind() {
    let plot = TempFile::new("fleet.svg", "");
    keeps_its_promises(&["4"], &plot.0);
}

#[cfg(feature = "redis")]
#[test]
fn replicas_share_one_token_over_redis() {
    let plot = TempFile::new("fleet-redis.svg", "");
    let Some(redis) = Redis::start() else { return };
    keeps_its_promises(&["4", "--redis", &redis.address], &plot.0);
}

/// A `redis-server` of this test's own.
#[cfg(feature = "redis")]
struct Redis {
    process: Child,
    address: String,
}

#[cfg(feature = "redis")]
impl Redis {
    /// Says so where there is none; where `REQUIRE_REDIS` is set that is a failure.
    fn start() -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Command::new("redis-server");
        redis.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"]);
        let Ok(process) = redis.stdout(Stdio::null()).spawn() else {
            assert!(std::env::var_os("REQUIRE_REDIS").is_none(), "no redis-server");
            println!("SKIPPED: there is no redis-server on this machine");
            return None;
        };
        let redis = Self { process, address: format!("redis://127.0.0.1:{port}") };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "redis-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(redis)
    }
}

#[cfg(feature = "redis")]
impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn no_replica_outlives_the_demo() {
    let mut demo = Demo::start(&["3", "--seconds", "60"]);
    let replicas = demo.at_work();
    assert_eq!(replicas.len(), 3);
    demo.signal("-KILL");
    assert_eq!(demo.end().0, None);
    wait_until_all_have_ended(&replicas);
}

#[test]
fn an_interrupted_demo_takes_its_replicas_and_its_directory_with_it() {
    for signal in ["-INT", "-TERM"] {
        let mut demo = Demo::start(&["3", "--seconds", "60"]);
        let replicas = demo.at_work();
        assert_eq!((replicas.len(), demo.directory.entries()), (3, 1));
        demo.signal(signal);
        let (code, stdout, stderr) = demo.end();
        assert_eq!((code, &*stdout), (Some(130), ""), "{stderr}");
        assert!(stderr.ends_with("interrupted"), "{stderr}");
        assert!(replicas.iter().all(|replica| has_ended(*replica)));
        assert_eq!(demo.directory.entries(), 0);
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_a_replica_starts() {
    let refused = |args: &[&str], words: &[&str]| {
        let text = problem(&run(command().arg("demo").args(args)), 2);
        for word in words {
            assert!(text.contains(word), "{args:?}: {word}: {text}");
        }
        text
    };
    refused(&["--replicas", "1"], &["--replicas"]);
    refused(&["--replicas", "17"], &["--replicas"]);
    for (flag, value) in [("--tenants", "2"), ("--tasks", "2")] {
        refused(&["--replicas", "2", flag, value], &["--replicas", flag]);
    }
    refused(&["--redis", "redis://127.0.0.1"], &["--replicas"]);
    refused(&["--replicas", "2", "--plot", "/nonexistent/fleet.svg"], &["/nonexistent/fleet.svg"]);
    for address in ["redis://:hunter2@127.0.0.1", "redis://me:hunter2@127.0.0.1:1/0"] {
        let text = refused(&["--replicas", "2", "--redis", address], &["--redis -", "compromised"]);
        assert!(!text.contains("hunter2"), "{text}");
    }
    // It has no order to take from anybody else.
    let text = problem(&run_with_stdin(command().arg("replica"), "{}\n"), 2);
    assert!(text.contains("demo --replicas"), "{text}");
    for args in [&["--help"][..], &["completions", "bash"]] {
        let text = result(&run(command().args(args)));
        assert!(
            !text.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "replica")
        );
    }
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_that_is_of_no_use_is_told_of_before_a_replica_starts() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("redis://me:hunter2@{unused}\n");
    let mut demo = command();
    demo.args(["demo", "--replicas", "2", "--redis", "-"]);
    let text = problem(&run_with_stdin(&mut demo, &address), 2);
    assert!(text.contains("--redis is of no use: the store cannot be reached"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let text = problem(&run(command().args(["demo", "--replicas", "2", "--redis", "nonsense"])), 2);
    assert!(text.contains("--redis"), "{text}");
}

#[cfg(not(feature = "redis"))]
#[test]
fn without_redis_the_flag_says_how_to_have_it() {
    let mut demo = command();
    demo.args(["demo", "--replicas", "2", "--redis", "redis://127.0.0.1"]);
    let text = problem(&run(&mut demo), 2);
    assert!(text.contains("--features cli,redis"), "{text}");
}
