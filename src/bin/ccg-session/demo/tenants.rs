//! `demo --tenants N`: a pool's cold start, and an outage that N more meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ccg_session::middleware::Attach;
use ccg_session::testing::{Answer, Authority, Kind, Rule, Script};
use ccg_session::{Session, SessionPool, Subject};
use http::StatusCode;
use reqwest::Client;
use reqwest_middleware::ClientBuilder;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client;
use crate::failure::Failure;
use crate::output;

const GRANT_TAKES: Duration = Duration::from_millis(50);
const OUTAGE: Duration = Duration::from_secs(3);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Figures {
    tenants: u64,
    cold_start_seconds: f64,
    grants: u64,
    grants_in_flight_max: u64,
    grants_in_outage: u64,
    errors_in_outage: u64,
    recovery_seconds: f64,
    unanswered: u64,
}

impl Figures {
    fn broken(&self) -> Vec<String> {
        let checks = [
            ("grants", self.grants, self.tenants),
            ("grants_in_flight_max", self.grants_in_flight_max, 64),
            // Those that are out when it begins, and a few to see whether it is over.
            ("grants_in_outage", self.grants_in_outage, 64 + 8),
            ("unanswered", self.unanswered, 0),
        ];
        let is_broken = checks.iter().filter(|(_, value, most)| value > most);
        is_broken
            .map(|(what, value, most)| format!("{what} is {value}, but must be at most {most}"))
            .collect()
    }

    fn told(&self) -> String {
        format!(
            "{tenants} tenants had a token after {cold:.2} s: {grants} grants, {most} at once at most\n\
             {tenants} more met an outage of {outage} s: {sent} grants were sent, and {errors} calls told of \
             it\nit was over, and after {recovery:.2} s each of them had a token",
            tenants = self.tenants,
            cold = self.cold_start_seconds,
            grants = self.grants,
            most = self.grants_in_flight_max,
            outage = OUTAGE.as_secs(),
            sent = self.grants_in_outage,
            errors = self.errors_in_outage,
            recovery = self.recovery_seconds,
        )
    }
}

pub(super) async fn run(tenants: u16, json: bool) -> Result<(), Failure> {
    let figures = measure(tenants.into()).await?;
    if json {
        output::json(&figures)?;
    } else {
        output::line(&figures.told())?;
    }
    match figures.broken() {
        broken if broken.is_empty() => Ok(()),
        broken => Err(Failure::Figures(broken)),
    }
}

/// All that the tenants' calls need.
struct World {
    pool: SessionPool<u64>,
    client: Client,
    authority: Authority,
    errors: AtomicU64,
}

async fn measure(tenants: u64) -> Result<Figures, Failure> {
    let slowly = || Script::new().rule(Rule::new(Kind::Grant).delay(GRANT_TAKES));
    let mut authority = Authority::builder().script(slowly());
    for tenant in 0..tenants * 2 {
        authority = authority.user(tenant.to_string());
    }
    let authority = authority
        .start()
        .await
        .map_err(|error| Failure::Usage(format!("no authority can be started: {error}")))?;
    let base = authority.manager()?;
    let maker = move |tenant: &u64| {
        Ok(Session::builder(base.for_subject(Subject::user(tenant.to_string()))))
    };
    let pool = SessionPool::builder(maker).capacity(usize::from(u16::MAX) * 2).build()?;
    let world = Arc::new(World { pool, client: client()?, authority, errors: AtomicU64::new(0) });

    let began = Instant::now();
    let unanswered = all_call(&world, 0..tenants).await;
    let cold_start = began.elapsed();
    let cold = world.authority.counts();

    let unavailable = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
    world.authority.fail(Kind::Grant, unavailable);
    let over = async {
        sleep(OUTAGE).await;
        let sent = world.authority.counts().grants - cold.grants;
        world.authority.set_script(slowly());
        (sent, Instant::now())
    };
    let ((sent, healed), more) = tokio::join!(over, all_call(&world, tenants..tenants * 2));
    let recovery = healed.elapsed();
    world.pool.shutdown().await;
    Ok(Figures {
        tenants,
        cold_start_seconds: cold_start.as_secs_f64(),
        grants: cold.grants,
        grants_in_flight_max: world.authority.counts().grants_in_flight_max,
        grants_in_outage: sent,
        errors_in_outage: world.errors.load(Relaxed),
        recovery_seconds: recovery.as_secs_f64(),
        unanswered: unanswered + more,
    })
}

/// Each tenant makes one call of the API, as often as it takes. How many never got an answer.
async fn all_call(world: &Arc<World>, tenants: std::ops::Range<u64>) -> u64 {
    let mut calls = JoinSet::new();
    for tenant in tenants {
        calls.spawn(call(Arc::clone(world), tenant));
    }
    calls.join_all().await.into_iter().filter(|answered| !answered).count() as u64
}

/// A call is given up after so many tries: far more than the outage takes.
const TRIES: usize = 200;

async fn call(world: Arc<World>, tenant: u64) -> bool {
    let Ok(session) = world.pool.get(&tenant) else { return false };
    let Ok(attach) = Attach::new(session.clone()).to(world.authority.base_url()) else {
        return false;
    };
    let api = ClientBuilder::new(world.client.clone()).with(attach).build();
    for _ in 0..TRIES {
        if let Ok(answer) = api.get(world.authority.resource_url()).send().await {
            return answer.status() == StatusCode::OK;
        }
        world.errors.fetch_add(1, Relaxed);
        let wait = session.status().retry_after().unwrap_or_default();
        sleep(wait.max(Duration::from_millis(10))).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_judged() {
        let good = || Figures {
            tenants: 100,
            cold_start_seconds: 0.1,
            grants: 100,
            grants_in_flight_max: 64,
            grants_in_outage: 70,
            errors_in_outage: 500,
            recovery_seconds: 0.1,
            unanswered: 0,
        };
        assert!(good().broken().is_empty());
        for (figures, sentence) in [
            (Figures { grants: 101, ..good() }, "grants is 101, but must be at most 100"),
            (Figures { grants_in_flight_max: 65, ..good() }, "max is 65, but must be at most 64"),
            (Figures { grants_in_outage: 73, ..good() }, "outage is 73, but must be at most 72"),
            (Figures { unanswered: 1, ..good() }, "unanswered is 1, but must be at most 0"),
        ] {
            let broken = figures.broken();
            assert!(broken.len() == 1 && broken[0].ends_with(sentence), "{broken:?}");
        }
    }
}
