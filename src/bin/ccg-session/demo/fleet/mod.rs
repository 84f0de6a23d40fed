//! `demo --replicas N`: processes that share one token over a store. One is killed in the middle of a grant
//! and starts again, another revokes the token.
//!
//! As the day of the plain demo, the run follows what happens rather than the clock.

mod happened;
mod line;
mod picture;
mod process;
mod replica;
mod report;
mod singles;
mod store;

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use ccg_session::testing::{Authority, Kind, Rule, Script};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout, timeout_at};

use super::{crypto, plot, view};
use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::{authority, output};
use happened::{Happened, Lane, Moment, Stage};
use line::{Assignment, Order, Place, Told};
use process::{Heard, Process};
pub(crate) use replica::run as replica;
use report::Report;
use singles::Singles;
use store::Own;

/// The only argument of a process that is a replica.
pub(crate) const REPLICA: &str = "replica";
/// A busy machine is not to look like a broken store.
const STORE_TIMEOUT: Duration = Duration::from_millis(500);
const GRANT_TAKES: Duration = Duration::from_millis(60);

pub(super) async fn run(args: &DemoArgs, replicas: u16) -> Result<(), Failure> {
    // Before signals are listened to: whoever is asked for an address may want to end it.
    let redis = args.redis.as_deref().map(store::address).transpose()?;
    let interrupted = authority::interrupted()?;
    let plot = args.plot.as_deref().map(plot::open).transpose()?;
    let length = Duration::from_secs(args.seconds.into());
    let report = tokio::select! {
        biased;
        // The run is dropped, and with it its processes and its directory.
        () = interrupted => return Err(Failure::Interrupted),
        report = report(redis, replicas.into(), length) => report?,
    };
    if let Some(file) = plot {
        plot::save(file, |svg| picture::draw(svg, &report))?;
    }
    if args.json {
        output::json(&report.figures())?;
    } else {
        output::line(&report.tables())?;
    }
    match report.broken() {
        broken if broken.is_empty() => Ok(()),
        broken => Err(Failure::Figures(broken)),
    }
}

async fn report(
    redis: Option<String>,
    replicas: usize,
    length: Duration,
) -> Result<Report, Failure> {
    let mut run = Run::new(store::open(redis).await?, replicas, length).await?;
    let cut_short = run.stages(length).await.err().map(|Stuck(what)| what);
    run.happened.end = run.happened.elapsed();
    // The rest of what they have to say, whatever came before.
    if cut_short.is_none() {
        run.end().await;
    }
    Ok(Report {
        is_redis: matches!(run.own.0, Place::Redis(_)),
        life: run.life,
        grants: run.authority.counts().grants,
        grants_at_cold_start: run.grants_at_cold_start,
        grants_of_singles: run.singles.grants(),
        happened: run.happened,
        cut_short,
    })
}

/// What was waited for, and did not come.
struct Stuck(String);

struct Run {
    // Before the directory that they use: it goes last.
    processes: Vec<Process>,
    tell: UnboundedSender<Heard>,
    heard: UnboundedReceiver<Heard>,
    happened: Happened,
    assignment: Assignment,
    authority: Authority,
    grants_at_cold_start: u64,
    singles: Singles,
    life: Duration,
    own: Own,
}

impl Run {
    async fn new(own: Own, replicas: usize, length: Duration) -> Result<Self, Failure> {
        // Some refreshes; and between two of them there is time for a revocation to be heard of.
        let life = length.mul_f64(0.2).max(Duration::from_secs(6));
        let authority = server(life).await?;
        let (tell, heard) = unbounded_channel();
        let assignment = Assignment {
            number: 0,
            place: own.0.clone(),
            key: key()?,
            base_url: authority.base_url().into(),
            enterprise: authority.enterprise().into(),
            client_id: authority.client_id().into(),
            client_secret: authority.client_secret(),
        };
        let mut run = Self {
            processes: Vec::new(),
            tell,
            heard,
            happened: Happened::new(replicas),
            assignment,
            authority,
            grants_at_cold_start: 0,
            singles: Singles::new(server(life).await?, replicas)?,
            life,
            own,
        };
        for number in 0..replicas {
            let process = run.start(number)?;
            run.processes.push(process);
        }
        Ok(run)
    }

    fn start(&self, number: usize) -> Result<Process, Failure> {
        let assignment = Assignment { number, ..self.assignment.clone() };
        Process::start(&assignment, self.tell.clone())
    }

    async fn stages(&mut self, length: Duration) -> Result<(), Stuck> {
        let replicas = self.processes.len();
        self.until("replicas that are ready", |happened| {
            happened.lanes.iter().all(|lane| lane.is_ready)
        })
        .await?;

        self.happened.begin();
        self.begin(Stage::ColdStart);
        for (number, process) in self.processes.iter_mut().enumerate() {
            process.order(Order::Go);
            self.singles.start(number)?;
        }
        self.all_have_a_token_since(Duration::ZERO).await?;
        self.grants_at_cold_start = self.authority.counts().grants;

        self.begin(Stage::Refresh);
        let killed = self.kill_who_asks().await?;
        self.start_again(killed).await?;
        self.revoke((killed + replicas / 2) % replicas).await?;

        self.begin(Stage::Steady);
        self.pass(length.saturating_sub(self.happened.elapsed())).await
    }

    /// Who has sent a grant never hears what came of it.
    async fn kill_who_asks(&mut self) -> Result<usize, Stuck> {
        let held = self.authority.hold(Kind::Grant);
        if timeout(self.limit(), self.authority.wait_for(|counts| counts.held > 0)).await.is_err() {
            return Err(never("a refresh"));
        }
        let is_asking = |lane: &Lane| lane.asking.is_some();
        self.until("who asks", |happened| happened.lanes.iter().any(is_asking)).await?;
        let replica = self.happened.lanes.iter().position(is_asking).unwrap_or_default();
        self.begin(Stage::Killed);
        let at = self.happened.elapsed();
        self.happened.lanes[replica].killed(at);
        self.processes[replica].kill();
        held.release();
        self.singles.end(replica);
        self.happened.killed = Some(Moment { replica, at });
        self.until("the end of who was killed", |happened| happened.lanes[replica].has_ended)
            .await?;
        self.until("a token for the others", |happened| {
            happened.others(replica).all(|lane| lane.has_token_since(at))
        })
        .await?;
        Ok(replica)
    }

    async fn start_again(&mut self, replica: usize) -> Result<(), Stuck> {
        self.begin(Stage::StartedAgain);
        self.happened.lanes[replica].starts_again();
        self.processes[replica] = self.start(replica)?;
        self.singles.start(replica)?;
        self.until("a replica that starts again", |happened| happened.lanes[replica].is_ready)
            .await?;
        let at = self.happened.elapsed();
        self.happened.started_again = Some(Moment { replica, at });
        self.processes[replica].order(Order::Go);
        self.until("its first token", |happened| happened.lanes[replica].has_token_since(at)).await
    }

    /// When all have the same token, which nobody has just asked for (a session asks once per second at
    /// most, and that is not to be waited for), nor is about to replace.
    async fn revoke(&mut self, replica: usize) -> Result<(), Stuck> {
        let (soonest, latest) = (Duration::from_secs(1), Duration::from_millis(1_800));
        self.until("one token for all", |happened| {
            let ages = happened.ages_of_common_token();
            ages.is_some_and(|(least, most)| least >= soonest && most <= latest)
        })
        .await?;
        self.begin(Stage::Revoked);
        let at = self.happened.elapsed();
        self.processes[replica].order(Order::Revoke);
        self.singles.revoke(replica);
        self.all_have_a_token_since(at).await
    }

    /// What they met last, and then nothing.
    async fn end(&mut self) {
        for (lane, process) in self.happened.lanes.iter_mut().zip(&mut self.processes) {
            lane.may_end = true;
            process.order(Order::End);
        }
        // Who does not end is killed.
        let _ = self
            .until("their end", |happened| happened.lanes.iter().all(|lane| lane.has_ended))
            .await;
    }

    fn begin(&mut self, stage: Stage) {
        let at = self.happened.elapsed();
        self.happened.stages.push((stage, at));
        view::line(at, stage.name());
    }

    async fn all_have_a_token_since(&mut self, at: Duration) -> Result<(), Stuck> {
        let what = "a new token for each replica";
        self.until(what, |happened| happened.lanes.iter().all(|lane| lane.has_token_since(at)))
            .await
    }

    async fn until(
        &mut self,
        what: &'static str,
        reached: impl Fn(&Happened) -> bool,
    ) -> Result<(), Stuck> {
        let limit = Instant::now() + self.limit();
        while !reached(&self.happened) {
            match timeout_at(limit, self.heard.recv()).await {
                Ok(Some((replica, told))) => self.hear(replica, told)?,
                _ => return Err(never(what)),
            }
        }
        Ok(())
    }

    async fn pass(&mut self, time: Duration) -> Result<(), Stuck> {
        let limit = Instant::now() + time;
        while let Ok(Some((replica, told))) = timeout_at(limit, self.heard.recv()).await {
            self.hear(replica, told)?;
        }
        Ok(())
    }

    fn hear(&mut self, replica: usize, told: Option<Told>) -> Result<(), Stuck> {
        if let Some(told) = told {
            self.happened.hear(replica, told);
            return Ok(());
        }
        let lane = &mut self.happened.lanes[replica];
        lane.has_ended = true;
        if lane.may_end {
            return Ok(());
        }
        Err(Stuck(format!("replica {} ended by itself", replica + 1)))
    }

    fn limit(&self) -> Duration {
        self.life * 2 + Duration::from_secs(10)
    }
}

fn never(what: &str) -> Stuck {
    Stuck(format!("there never came {what}"))
}

/// In the middle of a run all that can be done is to tell what there is.
impl From<Failure> for Stuck {
    fn from(failure: Failure) -> Self {
        Self(failure.message())
    }
}

async fn server(life: Duration) -> Result<Authority, Failure> {
    let slowly = Script::new().rule(Rule::new(Kind::Grant).delay(GRANT_TAKES));
    let started = Authority::builder().ttl(life).script(slowly).start().await;
    started.map_err(|error| Failure::Usage(format!("no authority can be started: {error}")))
}

/// 256 bits.
fn key() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    let drawn = crypto().secure_random.fill(&mut bytes);
    drawn.map_err(|_| Failure::Usage("the system has no random numbers to give".into()))?;
    Ok(BASE64_STANDARD.encode(bytes))
}
