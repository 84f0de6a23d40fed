//! `demo`: a session's bad day. Real HTTP, many tasks, short-lived tokens, outages, a revoke.
//!
//! The day follows the session rather than the clock: each stage begins when the token is where the
//! stage wants it, so that a slow machine shows the same day as a fast one.

mod day;
mod fleet;
mod load;
mod plot;
mod record;
mod report;
mod tenants;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ccg_session::middleware::Attach;
use ccg_session::testing::Authority;
use ccg_session::{Session, SessionConfig};
use reqwest::Client;
use reqwest_middleware::ClientBuilder;
use rustls::crypto::CryptoProvider;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::{output, provider};
use day::{Outcome, Plan};
pub(crate) use fleet::{REPLICA, replica};
use load::{Clocks, Tally, World};
use record::{Record, Sample, Watched};
use report::Report;
use view::View;

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let runtime = provider::runtime_of(&mut Builder::new_multi_thread())?;
    if let Some(replicas) = args.replicas {
        return runtime.block_on(fleet::run(args, replicas));
    }
    if args.tenants > 1 {
        return runtime.block_on(tenants::run(args.tenants, args.json));
    }
    // Before the day: nobody wants to hear after it that the path is wrong.
    let plot = args.plot.as_deref().map(plot::open).transpose()?;
    let (report, record) = runtime.block_on(run_day(args))?;
    if let Some(file) = plot {
        plot::write(file, &record.happened(), &report)?;
    }
    if args.json {
        output::json(&report.figures)?;
    } else {
        output::line(&report.table())?;
    }
    match report.broken() {
        broken if broken.is_empty() => Ok(()),
        broken => Err(Failure::Figures(broken)),
    }
}

async fn run_day(args: &DemoArgs) -> Result<(Report, Arc<Record>), Failure> {
    let plan = Plan::new(Duration::from_secs(args.seconds.into()));
    let world = Arc::new(world(args, &plan).await?);
    let view = Arc::new(View::new(plan.length, args.tasks.into()));
    // Before the first task asks, so that the cold start is its whole.
    world.record.begin_stage(record::Stage::ColdStart);
    let mut tasks = JoinSet::new();
    for task in 0..world.answers.len() {
        tasks.spawn(load::call_all_day(Arc::clone(&world), task, Tally::new()?));
    }
    let sampling = tokio::spawn(sample(Arc::clone(&world), Arc::clone(&view), plan.sample_every));
    let mut outcome = day::live_through(&plan, &world, &view).await;
    let elapsed = world.record.elapsed();
    world.stop.store(true, Relaxed);
    let tally = finish(&mut tasks, &mut outcome).await?;
    sampling.abort();
    view.finish();
    let report = Report::new(&plan, &world, &tally, &outcome, elapsed);
    world.session.shutdown().await;
    Ok((report, Arc::clone(&world.record)))
}

/// Waits for the tasks; one that does not end has a call that nobody answers.
async fn finish(tasks: &mut JoinSet<Tally>, outcome: &mut Outcome) -> Result<Tally, Failure> {
    let mut sum = Tally::new()?;
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(tally) => sum.add(&tally)?,
                Err(error) => outcome.cut_short = Some(format!("a task was lost: {error}")),
            }
        }
        Ok::<(), Failure>(())
    };
    if let Ok(ended) = tokio::time::timeout(LAST_ANSWERS, all).await {
        ended?;
    }
    outcome.unanswered += tasks.len() as u64;
    Ok(sum)
}

/// More than any flight takes on this day.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Everything that the day needs, with nobody in it yet.
async fn world(args: &DemoArgs, plan: &Plan) -> Result<World, Failure> {
    let unavailable =
        |error: std::io::Error| Failure::Usage(format!("no authority can be started: {error}"));
    let authority = Authority::builder()
        .ttl(plan.life + plan.leeway)
        .script(plan.healthy())
        .start()
        .await
        .map_err(unavailable)?;
    let record = Arc::new(Record::new());
    let manager = Watched { manager: authority.manager()?, record: Arc::clone(&record) };
    let session = Session::builder(manager).config(config(plan)).spawn()?;
    let attach = Attach::new(session.clone()).to(authority.base_url())?;
    Ok(World {
        authority_started: Clocks::read(&authority),
        resource_url: authority.resource_url(),
        authority,
        session,
        client: ClientBuilder::new(client()?).with(attach).build(),
        record,
        answers: (0..args.tasks).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
        sabotage: args.sabotage,
    })
}

/// The library's defaults, but for what short-lived tokens need.
fn config(plan: &Plan) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.stale_buffer = plan.life / 2;
    config.expired_buffer = plan.life / 10;
    config.retry.cooling = plan.cooling;
    config
}

/// What the tasks use their tokens with, in plain HTTP on this machine: whatever proxy the environment
/// names is not asked, and no certificates are needed.
fn client() -> Result<Client, Failure> {
    let unusable = |error: &dyn std::error::Error| {
        Failure::Usage(format!("no HTTP client can be made: {error}"))
    };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(crypto()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .map_err(|error| unusable(&error))
}

#[cfg(feature = "aws-lc")]
fn crypto() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(not(feature = "aws-lc"))]
fn crypto() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Looks at the session again and again, for the plot and the view.
async fn sample(world: Arc<World>, view: Arc<View>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let status = world.session.status();
        let sample = Sample {
            at: world.record.elapsed(),
            held: status.held(),
            remaining: status.remaining(),
            is_stale: status.stale_in().is_some_and(|left| left.is_zero()),
        };
        world.record.sample(sample);
        view.show(&sample, &status);
    }
}
