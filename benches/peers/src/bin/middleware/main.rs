//! The middleware beside others that put a token on requests: each on the same servers, in one run.
//! `cargo run --release --manifest-path benches/peers/Cargo.toml --bin middleware` prints the tables of
//! `benches/README.md`, in about a minute. It needs 2,100 file descriptors (`ulimit -n`).

mod clients;
mod grpc;
mod upstream;

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use clients::{Answer, Client, Sent};
use upstream::{Seen, Upstream};

const TASKS: usize = 1_000;
const CROWDS: usize = 5;
const ROUNDS: usize = 21;
const REQUESTS: u32 = 1_000;

fn main() {
    // Two TLS back ends are linked in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!(
        "| | a POST whose token is refused | the same, its body a stream | a 401 that is not about the token \
         | a redirect to another origin | a URL of another origin | 1,000 tasks meet a revoked token |\n\
         |---|---|---|---|---|---|---|"
    );
    http::<clients::Ours>();
    http::<clients::OursInTower>();
    http::<clients::Huskarl>();
    http::<clients::Middle>();
    http::<clients::ByHand>();
    println!(
        "\n| | a call whose token is refused | the next call | 1,000 tasks meet a revoked token | 1,000 \
         more |\n|---|---|---|---|---|"
    );
    calls::<grpc::Ours>();
    calls::<grpc::Middle>();
    time();
}

fn http<C: Client>() {
    let runtime = Runtime::new().unwrap();
    let cells = [
        runtime.block_on(refused::<C>(Sent::Text)),
        runtime.block_on(refused::<C>(Sent::Stream)),
        runtime.block_on(not_about_it::<C>()),
        runtime.block_on(redirected::<C>()),
        runtime.block_on(elsewhere::<C>()),
        runtime.block_on(crowds::<C>(1)).remove(0),
    ];
    println!("| {} | {} |", C::NAME, cells.join(" | "));
}

fn calls<C: Client>() {
    let runtime = Runtime::new().unwrap();
    let mut cells = runtime.block_on(async {
        let (upstream, client) = revoked::<C>().await;
        let first = told(&client, &upstream, &upstream.grpc, Sent::Nothing).await;
        upstream.forget();
        let next = told(&client, &upstream, &upstream.grpc, Sent::Nothing).await;
        vec![first, next]
    });
    cells.extend(runtime.block_on(crowds::<C>(2)));
    println!("| {} | {} |", C::NAME, cells.join(" | "));
}

/// A client with a token that was good, and is not.
async fn revoked<C: Client>() -> (Upstream, C) {
    let upstream = Upstream::start().await;
    let client = C::new(&upstream).await;
    assert_eq!(client.send(&upstream.api, Sent::Nothing).await, Ok(200), "{}", C::NAME);
    upstream.revoke();
    (upstream, client)
}

async fn refused<C: Client>(sent: Sent) -> String {
    let (upstream, client) = revoked::<C>().await;
    told(&client, &upstream, &upstream.api, sent).await
}

/// What one call made of it: the requests that came, with their tokens and bodies, and the caller's answer.
async fn told<C: Client>(client: &C, upstream: &Upstream, url: &str, sent: Sent) -> String {
    let answer = client.send(url, sent).await;
    let seen = upstream.seen().into_iter().map(|Seen { token, bytes, .. }| {
        let token = token.map_or("no token".to_owned(), |number| format!("T{number}"));
        if bytes == 0 { token } else { format!("{token} with {bytes} bytes") }
    });
    format!("{}: {}", seen.collect::<Vec<_>>().join(", then "), shown(answer))
}

fn shown(answer: Answer) -> String {
    answer.map_or_else(|error| format!("error ({error})"), |status| status.to_string())
}

async fn not_about_it<C: Client>() -> String {
    let upstream = Upstream::start().await;
    let client = C::new(&upstream).await;
    told(&client, &upstream, &format!("{}/password", upstream.api), Sent::Nothing).await
}

async fn redirected<C: Client>() -> String {
    let upstream = Upstream::start().await;
    let client = C::new(&upstream).await;
    let answer = client.send(&format!("{}/redirect", upstream.api), Sent::Nothing).await;
    format!("{}: {}", there(&upstream), shown(answer))
}

async fn elsewhere<C: Client>() -> String {
    let upstream = Upstream::start().await;
    let client = C::new(&upstream).await;
    let answer = client.send(&upstream.other, Sent::Nothing).await;
    format!("{}: {}", there(&upstream), shown(answer))
}

/// What the other origin saw.
fn there(upstream: &Upstream) -> &'static str {
    match upstream.seen().iter().find(|seen| seen.elsewhere) {
        None => "not followed",
        Some(Seen { token: None, .. }) => "without the token",
        Some(_) => "**with the token**",
    }
}

/// What crowds of tasks cost that come one after the other, the first with a revoked token: the least and the most of
/// a few runs.
async fn crowds<C: Client>(count: usize) -> Vec<String> {
    let mut runs = Vec::new();
    for _ in 0..CROWDS {
        let (upstream, client) = revoked::<C>().await;
        let mut run = Vec::new();
        for _ in 0..count {
            run.push(crowd(&upstream, &client).await);
        }
        runs.push(run);
    }
    (0..count).map(|which| Crowd::shown(runs.iter().map(|run| &run[which]))).collect()
}

struct Crowd {
    grants: u64,
    requests: u64,
    answers: BTreeSet<String>,
}

async fn crowd<C: Client>(upstream: &Upstream, client: &C) -> Crowd {
    upstream.forget();
    let before = upstream.grants();
    let start = Arc::new(Barrier::new(TASKS));
    let mut calls = JoinSet::new();
    for _ in 0..TASKS {
        let (client, start, url) = (client.clone(), Arc::clone(&start), upstream.api.clone());
        calls.spawn(async move {
            start.wait().await;
            client.send(&url, Sent::Nothing).await
        });
    }
    let answers = calls.join_all().await.into_iter().map(shown).collect();
    Crowd { grants: upstream.grants() - before, requests: upstream.seen().len() as u64, answers }
}

impl Crowd {
    fn shown<'a>(runs: impl Iterator<Item = &'a Self> + Clone) -> String {
        let range = |figure: fn(&Self) -> u64| {
            let all = runs.clone().map(figure);
            let (least, most) = (all.clone().min().unwrap(), all.max().unwrap());
            if least == most { least.to_string() } else { format!("{least}–{most}") }
        };
        let answers: BTreeSet<_> = runs.clone().flat_map(|run| &run.answers).collect();
        let answers: Vec<_> = answers.into_iter().map(String::as_str).collect();
        let [grants, requests] = [range(|run| run.grants), range(|run| run.requests)];
        format!("grants: {grants}, requests: {requests}, answers: {}", answers.join(", "))
    }
}

/// A client in a runtime that runs in the thread that asks for its time.
struct Timed {
    name: &'static str,
    bare: &'static str,
    /// Microseconds of processor time for a request.
    run: Box<dyn Fn() -> f64>,
    took: Vec<f64>,
}

impl Timed {
    fn of<C: Client>(url: fn(&Upstream) -> &String) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let upstream = runtime.block_on(Upstream::start());
        let client = runtime.block_on(C::new(&upstream));
        let url = url(&upstream).clone();
        let run = move || {
            let before = processor_time();
            for _ in 0..REQUESTS {
                let answer = runtime.block_on(client.send(&url, Sent::Nothing));
                assert_eq!(answer, Ok(200), "{}", C::NAME);
            }
            upstream.forget();
            (processor_time() - before) / f64::from(REQUESTS)
        };
        run();
        Self { name: C::NAME, bare: C::BARE, run: Box::new(run), took: Vec::new() }
    }
}

/// Of this thread, in microseconds.
fn processor_time() -> f64 {
    let read = clock_gettime(ClockId::ThreadCPUTime);
    read.tv_sec as f64 * 1e6 + read.tv_nsec as f64 / 1e3
}

/// Round by round, each beside the same client without it.
fn time() {
    let api: fn(&Upstream) -> &String = |upstream| &upstream.api;
    let grpc: fn(&Upstream) -> &String = |upstream| &upstream.grpc;
    let mut all = [
        Timed::of::<clients::Bare>(api),
        Timed::of::<clients::Ours>(api),
        Timed::of::<clients::Huskarl>(api),
        Timed::of::<clients::ByHand>(api),
        Timed::of::<clients::Bare012>(api),
        Timed::of::<clients::Middle>(api),
        Timed::of::<clients::BareHyper>(api),
        Timed::of::<clients::OursInTower>(api),
        Timed::of::<grpc::Bare>(grpc),
        Timed::of::<grpc::Ours>(grpc),
        Timed::of::<grpc::Middle>(grpc),
    ];
    for _ in 0..ROUNDS {
        for timed in &mut all {
            let took = (timed.run)();
            timed.took.push(took);
        }
    }
    println!("\n| processor time of a request, in µs | | without | more |\n|---|---|---|---|");
    for timed in all.iter().filter(|timed| timed.name != timed.bare) {
        let bare = all.iter().find(|bare| bare.name == timed.bare).expect("it is timed");
        let more = timed.took.iter().zip(&bare.took).map(|(with, without)| with - without);
        let [least, median, most] = quartiles(more.collect());
        let [_, without, _] = quartiles(bare.took.clone());
        println!(
            "| {} | {} | {without:.1} | {median:.1} [{least:.1}–{most:.1}] |",
            timed.name, timed.bare
        );
    }
}

/// The median, and what half of them are between.
fn quartiles(mut all: Vec<f64>) -> [f64; 3] {
    all.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| all[all.len() * quarter / 4])
}
