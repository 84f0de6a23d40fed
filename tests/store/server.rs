//! A `redis-server` process of a test's own, and a connection to it that says whatever a test wants said.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Killed when it is dropped, and its directory removed.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    directory: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

/// Says so where there is no `redis-server`; a test then ends without having shown anything. Where it has to
/// be there, as in CI, `REQUIRE_REDIS=1` makes that a failure.
pub(crate) fn is_absent() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    let absent = found.is_err();
    assert!(!absent || std::env::var_os("REQUIRE_REDIS").is_none(), "no redis-server");
    if absent {
        println!("SKIPPED: there is no redis-server on this machine");
    }
    absent
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    /// With these variables in its environment.
    pub(crate) fn start_in(env: &[(&'static str, String)], args: &[&str]) -> Self {
        // Another process may take the port first: then the next one is tried.
        for _ in 0..10 {
            if let Some(server) = Self::start_at(free_port(), env, args) {
                return server;
            }
        }
        panic!("redis-server does not start")
    }

    pub(crate) fn start_at(
        port: u16,
        env: &[(&'static str, String)],
        args: &[&str],
    ) -> Option<Self> {
        let directory =
            std::env::temp_dir().join(format!("ccg-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let env = env.to_vec();
        let mut child = spawn(port, &directory, &env, &args);
        let is_up = is_up(&mut child);
        let server = Self { child, port, directory, args, env };
        is_up.then_some(server)
    }

    /// One that watches the master at this port, and makes another of its replicas after half a second.
    pub(crate) fn sentinel_of(master: u16) -> Self {
        let port = free_port();
        let directory =
            std::env::temp_dir().join(format!("ccg-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let config = directory.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("redis-server")
            .arg(config)
            .arg("--sentinel")
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server starts");
        assert!(is_up(&mut child));
        Self { child, port, directory, args: Vec::new(), env: Vec::new() }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.port).expect("it is up")
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Again on the same port, empty.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.directory, &self.env, &self.args);
        assert!(is_up(&mut self.child));
    }
}

fn spawn(port: u16, directory: &Path, env: &[(&'static str, String)], args: &[String]) -> Child {
    Command::new("redis-server")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(directory)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server starts")
}

/// Waits until it says that it is ready; `false` if it ends before.
fn is_up(child: &mut Child) -> bool {
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (tell, ready) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // Of a server, and of a sentinel.
            if line.contains("Ready to accept connections") || line.contains("+monitor master") {
                let _ = tell.send(());
            }
        }
    });
    ready.recv_timeout(Duration::from_secs(60)).is_ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// One connection, used by one thread.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Number(i64),
    Bytes(Vec<u8>),
    Error(String),
    List(Vec<Reply>),
}

impl Connection {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let arg = arg.as_ref();
            out.extend(format!("${}\r\n", arg.len()).as_bytes());
            out.extend(arg);
            out.extend(b"\r\n");
        }
        match self.stream.get_mut().write_all(&out).and_then(|()| self.read()) {
            Ok(reply) => reply,
            Err(error) => Reply::Error(error.to_string()),
        }
    }

    pub(crate) fn count_anew(&mut self) {
        self.call(&["CONFIG", "RESETSTAT"]);
    }

    /// How often the server has run each command since it counts anew, those of scripts among them.
    pub(crate) fn calls(&mut self) -> BTreeMap<String, u64> {
        let Reply::Bytes(info) = self.call(&["INFO", "commandstats"]) else { panic!("no bytes") };
        let stats = String::from_utf8(info).unwrap();
        let calls = stats.lines().filter_map(|line| {
            let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), stats.split_once(',')?.0.parse().unwrap()))
        });
        calls.filter(|(name, _)| name != "config|resetstat").collect()
    }

    pub(crate) fn read(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "-" => Reply::Error(rest.to_owned()),
            "+" => Reply::Bytes(rest.as_bytes().to_vec()),
            ":" => Reply::Number(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Reply::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Reply::Bytes(bytes)
                }
            },
            _ => Reply::List((0..number()?).map(|_| self.read()).collect::<io::Result<_>>()?),
        })
    }
}
