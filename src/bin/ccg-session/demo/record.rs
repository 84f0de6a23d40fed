//! What happened when: the stages of the day, every request for a token, and what the session looked
//! like in between. All times count from the start of the day.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ccg_session::{
    AccessToken, ConfigError, ExchangeRequest, Grant, GrantRequest, HttpTokenManager,
    SessionConfig, TokenError, TokenManager, TokenRequestOptions, TokenText,
};

/// A stretch of the day, in their order but for `Steady`, which comes more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    ColdStart,
    Refreshes,
    StaleOutage,
    Exchange,
    ExpiredOutage,
    Recovery,
    Steady,
    Revoke,
}

impl Stage {
    pub(super) const ALL: [Self; 8] = [
        Self::ColdStart,
        Self::Refreshes,
        Self::StaleOutage,
        Self::Exchange,
        Self::ExpiredOutage,
        Self::Recovery,
        Self::Steady,
        Self::Revoke,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold start",
            Self::Refreshes => "background refreshes",
            Self::StaleOutage => "outage while stale",
            Self::Exchange => "exchange",
            Self::ExpiredOutage => "outage across expiry",
            Self::Recovery => "recovery",
            Self::Steady => "steady",
            Self::Revoke => "revoke",
        }
    }
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Grant,
    Exchange,
    Revoke,
}

/// One request, as the client saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) purpose: Purpose,
    pub(super) began: Duration,
    pub(super) ended: Duration,
    pub(super) succeeded: bool,
}

/// What the session looked like at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) held: usize,
    /// How much of the token's life was left; nothing if there was no token.
    pub(super) remaining: Option<Duration>,
    pub(super) is_stale: bool,
}

/// Collects all of it while the day goes on.
#[derive(Debug)]
pub(super) struct Record {
    origin: Instant,
    stage: AtomicUsize,
    grants_begun: AtomicU64,
    grants_in_flight: AtomicU64,
    grants_in_flight_max: AtomicU64,
    happened: Mutex<Happened>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Happened {
    /// Each with its beginning; it lasts until the next.
    pub(super) stages: Vec<(Stage, Duration)>,
    pub(super) marks: Vec<Mark>,
    pub(super) samples: Vec<Sample>,
}

impl Happened {
    /// When this stage began and ended, the first time.
    pub(super) fn span(&self, stage: Stage) -> Option<(Duration, Duration)> {
        let index = self.stages.iter().position(|(other, _)| *other == stage)?;
        let end = match self.stages.get(index + 1) {
            Some((_, next)) => *next,
            None => self.end(),
        };
        Some((self.stages[index].1, end))
    }

    /// When the day was last looked at.
    pub(super) fn end(&self) -> Duration {
        self.samples.last().map_or(Duration::ZERO, |sample| sample.at)
    }
}

/// How many grants have begun, and how many of them have not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) begun: u64,
    pub(super) in_flight: u64,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            stage: AtomicUsize::new(0),
            grants_begun: AtomicU64::new(0),
            grants_in_flight: AtomicU64::new(0),
            grants_in_flight_max: AtomicU64::new(0),
            happened: Mutex::default(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn stage(&self) -> Stage {
        Stage::ALL[self.stage.load(SeqCst).min(Stage::ALL.len() - 1)]
    }

    pub(super) fn begin_stage(&self, stage: Stage) {
        let index = Stage::ALL.iter().position(|other| *other == stage).unwrap_or_default();
        self.stage.store(index, SeqCst);
        let now = self.elapsed();
        self.lock().stages.push((stage, now));
    }

    pub(super) fn sample(&self, sample: Sample) {
        self.lock().samples.push(sample);
    }

    pub(super) fn grants(&self) -> Grants {
        Grants {
            begun: self.grants_begun.load(SeqCst),
            in_flight: self.grants_in_flight.load(SeqCst),
        }
    }

    pub(super) fn grants_in_flight_max(&self) -> u64 {
        self.grants_in_flight_max.load(SeqCst)
    }

    pub(super) fn happened(&self) -> Happened {
        self.lock().clone()
    }

    /// A thread that panicked while it held this has left it whole: there is no step in between.
    fn lock(&self) -> MutexGuard<'_, Happened> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The real manager, watched: so that what is counted is what the client did, whatever the session
/// says of itself.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) manager: HttpTokenManager,
    pub(super) record: Arc<Record>,
}

impl TokenManager for Watched {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let call = Call::begin(&self.record, Purpose::Grant);
        call.end(self.manager.grant(request).await)
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        let call = Call::begin(&self.record, Purpose::Exchange);
        call.end(self.manager.exchange(subject, request).await)
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let call = Call::begin(&self.record, Purpose::Revoke);
        call.end(self.manager.revoke(token, options).await)
    }

    fn can_exchange(&self) -> bool {
        self.manager.can_exchange()
    }

    fn can_revoke(&self) -> bool {
        self.manager.can_revoke()
    }

    fn assumed_lifetime(&self) -> Duration {
        self.manager.assumed_lifetime()
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.manager.check(config)
    }
}

/// One request while it is on its way. One that is given up counts as failed when it is dropped.
struct Call<'a> {
    record: &'a Record,
    purpose: Purpose,
    began: Duration,
    succeeded: bool,
}

impl<'a> Call<'a> {
    fn begin(record: &'a Record, purpose: Purpose) -> Self {
        if purpose == Purpose::Grant {
            record.grants_begun.fetch_add(1, SeqCst);
            let in_flight = record.grants_in_flight.fetch_add(1, SeqCst) + 1;
            record.grants_in_flight_max.fetch_max(in_flight, SeqCst);
        }
        Self { record, purpose, began: record.elapsed(), succeeded: false }
    }

    fn end<T>(mut self, result: Result<T, TokenError>) -> Result<T, TokenError> {
        self.succeeded = result.is_ok();
        result
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Self { purpose, began, succeeded, .. } = *self;
        if purpose == Purpose::Grant {
            self.record.grants_in_flight.fetch_sub(1, SeqCst);
        }
        let ended = self.record.elapsed();
        self.record.lock().marks.push(Mark { purpose, began, ended, succeeded });
    }
}
