//! The token endpoint: a process of its own on loopback, so that its work is not counted as a
//! subject's. It is told what to do, and tells what it saw, a line of JSON each.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::now;

/// What it does with each request.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Plan {
    /// A new token of 1,024 bytes, after so many milliseconds, that lives for so many seconds.
    Grant { after_ms: u64, life: u64 },
    /// 500, after 5 milliseconds.
    Fail,
    /// Nothing, until there is another plan; then that.
    Hang,
}

/// A request that it saw: when it came, and when it was answered or given up, by [`now`].
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Seen {
    pub arrived: u64,
    pub ended: Option<u64>,
}

/// The driver's side.
pub struct Endpoint {
    process: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
    pub token_url: String,
}

impl Endpoint {
    pub fn start(plan: Plan) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("endpoint")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let mut reports = BufReader::new(process.stdout.take().unwrap());
        let mut token_url = String::new();
        reports.read_line(&mut token_url).unwrap();
        let token_url = token_url.trim().to_owned();
        let mut endpoint = Self { process, orders, reports, token_url };
        endpoint.plan(plan);
        endpoint
    }

    /// From here on it does this.
    pub fn plan(&mut self, plan: Plan) {
        self.order(Some(plan));
    }

    /// All requests so far, in the order in which they came.
    pub fn seen(&mut self) -> Vec<Seen> {
        self.order(None)
    }

    fn order(&mut self, order: Option<Plan>) -> Vec<Seen> {
        writeln!(self.orders, "{}", serde_json::to_string(&order).unwrap()).unwrap();
        let mut report = String::new();
        self.reports.read_line(&mut report).unwrap();
        serde_json::from_str(&report).unwrap()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct State {
    plan: watch::Sender<Plan>,
    seen: Vec<Seen>,
}

/// The endpoint itself. It ends with the process that started it.
pub fn serve() {
    let state =
        Arc::new(Mutex::new(State { plan: watch::Sender::new(Plan::Fail), seen: Vec::new() }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(4_096).unwrap();
        println!("http://{}/token", listener.local_addr().unwrap());
        let obeying = Arc::clone(&state);
        std::thread::spawn(move || obey(&obeying));
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let state = Arc::clone(&state);
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
}

fn obey(state: &Mutex<State>) {
    for order in std::io::stdin().lines() {
        let state = state.lock().unwrap();
        if let Some(plan) = serde_json::from_str(&order.unwrap()).unwrap() {
            state.plan.send_replace(plan);
        }
        println!("{}", serde_json::to_string(&state.seen).unwrap());
    }
    std::process::exit(0);
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let arrival = Arrival::of(&state);
    let mut plans = state.lock().unwrap().plan.subscribe();
    let _ = request.into_body().collect().await;
    let plan = plans.wait_for(|plan| !matches!(plan, Plan::Hang)).await;
    let plan = *plan.expect("the state lives as long as the process");
    let (status, body) = match plan {
        Plan::Grant { after_ms, life } => {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            let token = format!("{:x<1024}", arrival.number);
            let body = serde_json::json!({
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": life,
                "ext_expires_in": life,
            });
            (200, body)
        }
        Plan::Fail => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            (500, serde_json::json!({ "error": "server_error" }))
        }
        Plan::Hang => unreachable!("it waited for another"),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body.to_string()))).unwrap())
}

/// A request that is being answered; it has ended when this is dropped.
struct Arrival {
    state: Arc<Mutex<State>>,
    number: usize,
}

impl Arrival {
    fn of(state: &Arc<Mutex<State>>) -> Self {
        let mut locked = state.lock().unwrap();
        locked.seen.push(Seen { arrived: now(), ended: None });
        let number = locked.seen.len() - 1;
        Self { state: Arc::clone(state), number }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.state.lock().unwrap().seen[self.number].ended = Some(now());
    }
}
