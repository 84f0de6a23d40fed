//! Exchanged tokens that are cached.

use std::hint::black_box;

use ccg_session::{ExchangeRequest, SessionConfig};

use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, cpu, figures, median, now, runtime};
use crate::subjects::ours::{self, InProcess};

pub const EXCHANGE: Scenario = Scenario {
    name: "exchange",
    title: "Exchange hits",
    told: "One task asks for each of so many cached tokens in turn, with a request of one scope and \
           one resource.",
    case: "cached keys",
    cases: &[1, 32, 1_024],
    columns: &[
        Column::plain("per_s", "hits per second"),
        Column::plain("cpu_us", "CPU µs per hit"),
    ],
    who: Who::Ours,
    rounds: None,
};

pub fn play(keys: usize) -> Figures {
    // In a task, as in a service; on the thread that `block_on` holds it would be another thread's guest.
    runtime().block_on(async move { tokio::spawn(hits(keys)).await.expect("no panic") })
}

async fn hits(keys: usize) -> Figures {
    let session = ours::spawn(InProcess { token_length: 1_024 }, SessionConfig::default());
    let requests: Vec<_> = (0..keys)
        .map(|key| {
            ExchangeRequest::scopes([format!("scope_{key}")])
                .resource("https://api.box.com/2.0/files/123")
        })
        .collect();
    for request in &requests {
        session.exchange(request.clone()).await.expect("it is granted");
    }
    let sent = session.status().counters().exchanges_started;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (start, used) = (now(), cpu());
        let hits = 20_480;
        for request in requests.iter().cycle().take(hits) {
            let _ = black_box(session.exchange(request.clone()).await.expect("it is cached"));
        }
        rates.push(hits as f64 * 1e9 / (now() - start) as f64);
        costs.push((cpu() - used) as f64 / 1e3 / hits as f64);
    }
    let now_sent = session.status().counters().exchanges_started;
    assert_eq!(now_sent, sent, "nothing is sent for a hit");
    figures([("per_s", median(&mut rates)), ("cpu_us", median(&mut costs))])
}
