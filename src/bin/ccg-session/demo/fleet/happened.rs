//! What happened when, by replica. All times count from when the callers began.

use std::collections::HashMap;
use std::time::Duration;

use super::line::{Met, Told, What, now};

/// A stretch of the run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    ColdStart,
    Refresh,
    Killed,
    StartedAgain,
    Revoked,
    Steady,
}

impl Stage {
    pub(super) const ALL: [Self; 6] = [
        Self::ColdStart,
        Self::Refresh,
        Self::Killed,
        Self::StartedAgain,
        Self::Revoked,
        Self::Steady,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold start",
            Self::Refresh => "until a refresh",
            Self::Killed => "one is killed in a grant",
            Self::StartedAgain => "it starts again",
            Self::Revoked => "one revokes",
            Self::Steady => "steady",
        }
    }
}

/// A moment of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) replica: usize,
    pub(super) at: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Happened {
    origin: u64,
    pub(super) lanes: Vec<Lane>,
    pub(super) stages: Vec<(Stage, Duration)>,
    pub(super) killed: Option<Moment>,
    pub(super) started_again: Option<Moment>,
    /// And the token's name.
    pub(super) revoked: Option<(Moment, u64)>,
    pub(super) end: Duration,
}

/// One replica, through both of its processes if it was killed.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) is_ready: bool,
    pub(super) may_end: bool,
    pub(super) has_ended: bool,
    /// The grant that it has sent and that is not answered.
    pub(super) asking: Option<Duration>,
    pub(super) asks: Vec<Ask>,
    pub(super) tokens: Vec<Token>,
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) longest: Duration,
    /// What its callers waited, where one can see it.
    pub(super) waits: Vec<(Duration, Duration)>,
    /// When it last gave each token to a caller.
    pub(super) handed: HashMap<u64, Duration>,
    pub(super) revocation_failed: bool,
}

/// A request to the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) began: Duration,
    pub(super) ended: Duration,
    pub(super) is_granted: bool,
}

/// A token when a caller first had it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) at: Duration,
    pub(super) name: u64,
    pub(super) from_store: bool,
}

impl Lane {
    /// How many of its tokens came from the store.
    pub(super) fn taken(&self) -> u64 {
        self.tokens.iter().filter(|token| token.from_store).count() as u64
    }

    pub(super) fn has_token_since(&self, at: Duration) -> bool {
        self.tokens.last().is_some_and(|token| token.at > at)
    }

    /// An ask that its process did not live to see answered.
    pub(super) fn killed(&mut self, at: Duration) {
        (self.may_end, self.is_ready) = (true, false);
        if let Some(began) = self.asking.take() {
            self.asks.push(Ask { began, ended: at, is_granted: false });
        }
    }

    pub(super) fn starts_again(&mut self) {
        (self.may_end, self.has_ended) = (false, false);
    }
}

impl Happened {
    pub(super) fn new(replicas: usize) -> Self {
        let lanes = (0..replicas).map(|_| Lane::default()).collect();
        Self { origin: now(), lanes, ..Self::default() }
    }

    /// From now on times count.
    pub(super) fn begin(&mut self) {
        self.origin = now();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.since_begin(now())
    }

    fn since_begin(&self, at: u64) -> Duration {
        Duration::from_micros(at.saturating_sub(self.origin))
    }

    /// All but this one.
    pub(super) fn others(&self, replica: usize) -> impl Iterator<Item = &Lane> {
        let others = self.lanes.iter().enumerate().filter(move |(number, _)| *number != replica);
        others.map(|(_, lane)| lane)
    }

    /// For how long the replicas have had the token that they all have: who got it last, and who first.
    pub(super) fn ages_of_common_token(&self) -> Option<(Duration, Duration)> {
        let tokens: Option<Vec<_>> = self.lanes.iter().map(|lane| lane.tokens.last()).collect();
        let tokens = tokens?;
        let name = tokens.first()?.name;
        if tokens.iter().any(|token| token.name != name) {
            return None;
        }
        let now = self.elapsed();
        let ages = || tokens.iter().map(|token| now.saturating_sub(token.at));
        ages().min().zip(ages().max())
    }

    /// When this stage began and ended.
    pub(super) fn span(&self, stage: Stage) -> Option<(Duration, Duration)> {
        let index = self.stages.iter().position(|(other, _)| *other == stage)?;
        let end = self.stages.get(index + 1).map_or(self.end, |(_, next)| *next);
        Some((self.stages[index].1, end))
    }

    pub(super) fn hear(&mut self, replica: usize, told: Told) {
        let at = self.since_begin(told.at);
        let lane = &mut self.lanes[replica];
        match told.what {
            What::Ready => lane.is_ready = true,
            What::Asks => lane.asking = Some(at),
            What::Answered { is_granted } => {
                let began = lane.asking.take().unwrap_or(at);
                lane.asks.push(Ask { began, ended: at, is_granted });
            }
            What::Token { name, from_store } => {
                lane.tokens.push(Token { at, name, from_store });
            }
            What::Met(met) => self.met(replica, met),
            What::Revokes { name } => self.revoked = Some((Moment { replica, at }, name)),
            What::Revoked { is_done } => lane.revocation_failed = !is_done,
        }
    }

    fn met(&mut self, replica: usize, met: Met) {
        let Met { calls, errors, longest: (began, ended), handed } = met;
        let (began, ended) = (self.since_begin(began), self.since_begin(ended));
        let handed: Vec<_> =
            handed.into_iter().map(|(name, at)| (name, self.since_begin(at))).collect();
        let lane = &mut self.lanes[replica];
        lane.calls += calls;
        lane.errors += errors;
        lane.handed.extend(handed);
        let waited = ended.saturating_sub(began);
        lane.longest = lane.longest.max(waited);
        if waited >= SEEN {
            lane.waits.push((began, ended));
        }
    }
}

/// A shorter wait is one for the session's task or for the processor.
const SEEN: Duration = Duration::from_millis(30);
