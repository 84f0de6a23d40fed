//! The first callers leave before the grant that they caused has landed.

use std::sync::Arc;
use std::time::Duration;

use super::cold::Crowd;
use crate::harness::endpoint::{Endpoint, Plan};
use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, Setting, Subject, figures, millis, now, runtime, sleep_until};

pub const LEAVE: Scenario = Scenario {
    name: "leave",
    title: "Callers leave",
    told: "1,000 callers wait for a grant of 200 ms. The first of them, who came 10 ms before the \
           rest, leaves after 100 ms; or the first 999 do. The last answer of those who stay, from \
           the first request's arrival.",
    case: "leave",
    cases: &[0, 1, 999],
    columns: &[
        Column::plain("requests", "requests"),
        Column::plain("unanswered", "unanswered"),
        Column::plain("last_ms", "last answer, ms"),
    ],
    who: Who::All,
    rounds: None,
};

const CALLERS: usize = 1_000;

pub fn play<S: Subject>(leaving: usize) -> Figures {
    let mut endpoint = Endpoint::start(Plan::Grant { after_ms: 200, life: 3_600 });
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    runtime().block_on(async {
        let crowd = Crowd::new(S::new(&setting).await, CALLERS - leaving);
        let start = now();
        let mut leavers = Vec::new();
        for caller in 0..CALLERS {
            let crowd = Arc::clone(&crowd);
            if caller == 1 {
                sleep_until(start, 10).await;
            }
            if caller < leaving {
                leavers.push(tokio::spawn(async move { drop(crowd.subject.get().await) }));
            } else {
                tokio::spawn(async move { crowd.call().await });
            }
        }
        sleep_until(start, 100).await;
        leavers.iter().for_each(tokio::task::JoinHandle::abort);
        let (unanswered, last) = crowd.wait(20).await;
        // What those who left may still cause.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let seen = endpoint.seen();
        let mut known =
            figures([("requests", seen.len() as f64), ("unanswered", unanswered as f64)]);
        if unanswered == 0 {
            known.extend(figures([("last_ms", millis(last - seen[0].arrived))]));
        }
        known
    })
}
