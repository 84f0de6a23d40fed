//! The script of the day: what goes wrong, when, and what is asked for meanwhile.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ccg_session::testing::{Answer, Fault, Kind, Rule, Script};
use ccg_session::{ExchangeRequest, ExchangedToken, SessionError, SessionHandle, Status};
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::load::{Errors, World};
use super::record::Stage;
use super::view::View;

/// How long everything takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The whole day.
    pub(super) length: Duration,
    /// How long a token lives by the authority's word.
    pub(super) life: Duration,
    /// How much longer it takes it in truth, as servers do for the sake of clocks and of the way that
    /// a request takes: a token may be handed out until it expires.
    pub(super) leeway: Duration,
    /// How long a grant takes, so that one can see it.
    pub(super) grant_takes: Duration,
    /// How many grants fail in the outage while the token is stale.
    pub(super) stale_failures: u64,
    /// How long a failed server is left alone, at most.
    pub(super) cooling: Duration,
    pub(super) sample_every: Duration,
}

impl Plan {
    pub(super) fn new(length: Duration) -> Self {
        // The stages take about five and a half lives. Shorter ones than the shortest leave no room
        // for a refresh, since a session asks at most once per second; longer ones show no more.
        let life = length.mul_f64(0.17).clamp(Duration::from_millis(1600), Duration::from_secs(30));
        Self {
            length,
            life,
            leeway: Duration::from_millis(500),
            grant_takes: (life / 20).clamp(Duration::from_millis(60), Duration::from_millis(150)),
            stale_failures: stale_failures(life),
            cooling: Duration::from_secs(1),
            sample_every: (length / 4000).max(Duration::from_millis(10)),
        }
    }

    /// Tells of shorter lives than the tokens have: see `leeway`.
    pub(super) fn healthy(&self) -> Script {
        self.with_proper_answers(Script::new())
    }

    /// So many failures, and then all is well: by number rather than by time, so that it ends inside
    /// the stale stretch on any machine.
    fn stale_outage(&self) -> Script {
        let unavailable = Rule::new(Kind::Grant)
            .requests(1..=self.stale_failures)
            .fault(Answer::new(StatusCode::SERVICE_UNAVAILABLE));
        self.with_proper_answers(Script::new().rule(unavailable))
    }

    /// The server hangs up on each grant, after a while.
    fn expired_outage(&self) -> Script {
        let hang_up = Rule::new(Kind::Grant).delay(self.grant_takes).fault(Fault::Drop);
        self.with_proper_answers(Script::new().rule(hang_up))
    }

    fn with_proper_answers(&self, script: Script) -> Script {
        let told = Fault::ExpiresIn(json!(self.life.as_secs_f64()));
        script
            .rule(Rule::new(Kind::Grant).delay(self.grant_takes).fault(told.clone()))
            .rule(Rule::new(Kind::Exchange).fault(told))
    }
}

/// As many as surely fit into the stale stretch, which is half of a life: the second comes within
/// 250 ms of the first, the third within 500 ms more, each other within 1 s of the one before.
fn stale_failures(life: Duration) -> u64 {
    let life = life.as_secs_f64();
    if life < 2.4 {
        return 1;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 2 to 11")]
    let number = (0.35 * life + 1.25) as u64;
    number.max(2)
}

/// What came of the day, the tasks' tallies aside.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Callers without an answer after a held stretch.
    pub(super) unanswered: u64,
    /// Errors of the exchanges and of the revoke.
    pub(super) errors: Errors,
    /// Of the exchanged tokens, how many can do more than they should, or less.
    pub(super) wrong_scopes: u64,
    /// How many tokens the authority still took after the revoke.
    pub(super) alive_after_revoke: u64,
    /// Why the day did not get to its end, if it did not.
    pub(super) cut_short: Option<String>,
}

/// The callers that ask for the same exchange at once.
pub(super) const EXCHANGE_CALLERS: usize = 16;
/// What they all need: one request for what they share, one for what another wants, and one later,
/// when the first token has expired.
pub(super) const EXCHANGES: u64 = 3;

/// The whole of it, in order.
pub(super) async fn live_through(plan: &Plan, world: &World, view: &View) -> Outcome {
    let mut day = Day { plan, world, view, outcome: Outcome::default() };
    if let Err(Stuck(what)) = day.stages().await {
        day.outcome.cut_short = Some(format!("there never came {what}"));
    }
    day.outcome
}

struct Day<'a> {
    plan: &'a Plan,
    world: &'a World,
    view: &'a View,
    outcome: Outcome,
}

/// What was waited for, and did not come.
struct Stuck(&'static str);

impl Day<'_> {
    async fn stages(&mut self) -> Result<(), Stuck> {
        self.view.stage(Stage::ColdStart, self.world.record.elapsed());
        self.until("a first token", |status| status.generation().is_some()).await?;
        self.everyone_is_answered().await;
        sleep(self.plan.life / 10).await;

        self.begin(Stage::Refreshes);
        for _ in 0..3 {
            self.next_token("a refresh").await?;
        }
        self.until_nearly_stale().await?;

        self.begin(Stage::StaleOutage);
        self.world.authority.set_script(self.plan.stale_outage());
        self.next_token("a refresh after the outage").await?;
        self.world.authority.set_script(self.plan.healthy());

        self.begin(Stage::Exchange);
        let exchanged = self.exchange().await;
        self.check_scopes(&exchanged).await;
        self.until_nearly_stale().await?;

        self.expire().await?;

        self.begin(Stage::Steady);
        self.until_nearly_stale().await?;

        self.begin(Stage::Revoke);
        self.revoke().await?;
        sleep(self.plan.life / 10).await;

        self.begin(Stage::Steady);
        sleep(self.plan.length.saturating_sub(self.world.record.elapsed())).await;
        Ok(())
    }

    /// The outage that no token outlives, and its end.
    async fn expire(&mut self) -> Result<(), Stuck> {
        self.begin(Stage::ExpiredOutage);
        self.world.authority.set_script(self.plan.expired_outage());
        self.until("an expired token", |status| {
            status.remaining().is_none_or(|remaining| remaining.is_zero())
        })
        .await?;
        sleep(self.plan.life / 5).await;

        self.begin(Stage::Recovery);
        self.world.authority.set_script(self.plan.healthy());
        self.until("a token after the outage", |status| {
            status.remaining().is_some_and(|remaining| !remaining.is_zero())
        })
        .await?;
        self.everyone_is_answered().await;
        Ok(())
    }

    /// Many want the same, one wants something else. Gives each token once.
    async fn exchange(&mut self) -> Vec<ExchangedToken> {
        let session = &self.world.session;
        let ask = |scopes: &[&str]| {
            let request = ExchangeRequest::scopes(scopes.iter().copied());
            let session: SessionHandle = session.clone();
            tokio::spawn(async move { session.exchange(request).await })
        };
        let mut asked: Vec<_> = (0..EXCHANGE_CALLERS).map(|_| ask(&[NARROW])).collect();
        asked.push(ask(&[NARROW, "item_download"]));
        let mut exchanged: Vec<ExchangedToken> = Vec::new();
        for answer in asked {
            match answer.await {
                Ok(Ok(token)) if exchanged.contains(&token) => {}
                Ok(Ok(token)) => exchanged.push(token),
                _ => self.outcome.errors.count(Stage::Exchange, self.world.record.stage()),
            }
        }
        exchanged
    }

    /// The exchanged tokens can do what they are for, and nothing else.
    async fn check_scopes(&mut self, exchanged: &[ExchangedToken]) {
        for (scope, wanted) in [(NARROW, StatusCode::OK), (WIDE, StatusCode::FORBIDDEN)] {
            for token in exchanged {
                if self.try_scope(token, scope).await != Some(wanted) {
                    self.outcome.wrong_scopes += 1;
                }
            }
        }
    }

    async fn try_scope(&self, token: &ExchangedToken, scope: &str) -> Option<StatusCode> {
        let url = format!("{}?scope={scope}", self.world.resource_url);
        let header = token.header_value()?.clone();
        let request = self.world.client.get(url).header(AUTHORIZATION, header);
        Some(request.send().await.ok()?.status())
    }

    /// Every token dies at the authority, and the tasks go on with another.
    async fn revoke(&mut self) -> Result<(), Stuck> {
        let session = &self.world.session;
        let held = session.get_token().await.map(|token| token.secret().to_owned());
        let exchanged = session.exchange(ExchangeRequest::scopes([NARROW])).await;
        let exchanged = exchanged.map(|token| token.secret().to_owned());
        let before = session.status().generation();
        let revoked: Result<(), SessionError> = session.revoke().await;
        for result in [revoked, held.as_ref().map(drop).map_err(Clone::clone)] {
            if result.is_err() {
                self.outcome.errors.count(Stage::Revoke, self.world.record.stage());
            }
        }
        for token in [held, exchanged].into_iter().flatten() {
            self.outcome.alive_after_revoke += u64::from(self.world.authority.is_active(&token));
        }
        self.until("a token after the revoke", |status| {
            status.generation().is_some_and(|now| Some(now) > before)
        })
        .await?;
        self.everyone_is_answered().await;
        Ok(())
    }

    fn begin(&self, stage: Stage) {
        self.world.record.begin_stage(stage);
        self.view.stage(stage, self.world.record.elapsed());
    }

    async fn next_token(&self, what: &'static str) -> Result<(), Stuck> {
        let before = self.world.session.status().generation();
        self.until(what, |status| status.generation() > before).await
    }

    /// What goes wrong from here on meets the next refresh.
    async fn until_nearly_stale(&self) -> Result<(), Stuck> {
        let nearly = self.plan.life / 10;
        self.until("a token shortly before it is stale", |status| {
            status.stale_in().is_some_and(|left| !left.is_zero() && left < nearly)
        })
        .await
    }

    /// Looks every few milliseconds, since nothing fires merely because time passes.
    async fn until(
        &self,
        what: &'static str,
        reached: impl Fn(&Status) -> bool,
    ) -> Result<(), Stuck> {
        let looking = async {
            while !reached(&self.world.session.status()) {
                sleep(LOOK_EVERY).await;
            }
        };
        let limit = self.plan.life * 2 + Duration::from_secs(10);
        timeout(limit, looking).await.map_err(|_| Stuck(what))
    }

    /// A held stretch is over: now each task must get one more answer.
    async fn everyone_is_answered(&mut self) {
        let answers = &self.world.answers;
        let before: Vec<u64> = answers.iter().map(|count| count.load(Relaxed)).collect();
        let unanswered = || {
            answers
                .iter()
                .zip(&before)
                .filter(|(now, before)| now.load(Relaxed) <= **before)
                .count()
        };
        let looking = async {
            while unanswered() > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(Duration::from_secs(10), looking).await.is_err() {
            self.outcome.unanswered += unanswered() as u64;
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What the exchanged tokens are for.
const NARROW: &str = "item_preview";
/// What they must not be able to do.
const WIDE: &str = "root_readwrite";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failures_fit_into_the_stale_stretch() {
        for seconds in 8..=300 {
            let plan = Plan::new(Duration::from_secs(seconds));
            let until_success = match plan.stale_failures {
                1 => 0.25,
                2 => 0.75,
                #[expect(clippy::cast_precision_loss, reason = "it is small")]
                failures => 0.75 + (failures - 2) as f64,
            };
            // A refresh begins no sooner than a second after the last.
            let begins = (plan.life / 2).max(Duration::from_secs(1)).as_secs_f64();
            let ends = begins + until_success + plan.grant_takes.as_secs_f64();
            assert!(ends < plan.life.as_secs_f64(), "{plan:?}: {ends}");
        }
    }
}
