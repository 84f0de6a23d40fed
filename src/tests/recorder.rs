//! Writes down what tasks and threads see of a session, and what it sends.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::judge::Purpose;
use crate::judge::intervals::{Attempt, Call, History, Outcome, Point, Revocation, Revoke, What};
use crate::testing::Authority;
use crate::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, HttpTokenManager, SessionError,
    SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};

/// The scopes that are exchanged for.
pub(super) const KEYS: [&str; 3] = ["item_preview", "item_download", "item_upload"];

/// One monotonic clock for all threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Point {
        Point { at: self.0.elapsed(), count: 0 }
    }
}

/// A task or a thread, and what it has seen.
#[derive(Debug)]
pub(super) struct Task {
    number: usize,
    clock: Clock,
    calls: Vec<Call>,
    texts: BTreeMap<u64, String>,
    own: Option<AccessToken>,
    exchanged: Option<AccessToken>,
}

impl Task {
    pub(super) fn new(number: usize, clock: Clock) -> Self {
        let (calls, texts) = (Vec::new(), BTreeMap::new());
        Self { number, clock, calls, texts, own: None, exchanged: None }
    }

    /// Whether a token was given, or the error.
    pub(super) async fn get_token(
        &mut self,
        call: impl Future<Output = Result<AccessToken, SessionError>>,
    ) -> Result<bool, SessionError> {
        let began = self.clock.now();
        let result = call.await;
        self.got(Purpose::Grant, began, result.as_ref().ok());
        result.map(|_| true)
    }

    pub(super) async fn exchange(
        &mut self,
        session: &SessionHandle,
        request: ExchangeRequest,
    ) -> Result<bool, SessionError> {
        let (began, purpose) = (self.clock.now(), Purpose::of(&request.key()));
        let result = session.exchange(request).await;
        let token = result.as_ref().ok().map(|token| AccessToken::new(token.as_ref().clone()));
        self.got(purpose, began, token.as_ref());
        result.map(|_| true)
    }

    pub(super) fn try_token(&mut self, session: &SessionHandle) -> bool {
        let began = self.clock.now();
        self.got(Purpose::Grant, began, session.try_token().as_ref())
    }

    pub(super) fn blocking_get_token(&mut self, session: &SessionHandle) -> bool {
        let began = self.clock.now();
        self.got(Purpose::Grant, began, session.blocking_get_token().ok().as_ref())
    }

    /// Says that the last token of its own, or of those that were exchanged, was refused.
    pub(super) fn invalidate(&mut self, session: &SessionHandle, exchanged: bool) {
        let last = if exchanged { &mut self.exchanged } else { &mut self.own };
        let Some(token) = last.take() else { return };
        let began = self.clock.now();
        session.invalidate(&token);
        self.write(What::Invalidate(token.id().generation()), began, None);
    }

    fn got(&mut self, purpose: Purpose, began: Point, token: Option<&AccessToken>) -> bool {
        self.write(What::Token(purpose), began, token.map(|token| token.id().generation()));
        if let Some(token) = token {
            let text = || token.secret().to_owned();
            self.texts.entry(token.id().generation()).or_insert_with(text);
            let own = purpose == Purpose::Grant;
            *(if own { &mut self.own } else { &mut self.exchanged }) = Some(token.clone());
        }
        token.is_some()
    }

    fn write(&mut self, what: What, began: Point, given: Option<u64>) {
        let ended = self.clock.now();
        self.calls.push(Call { task: self.number, what, began, ended, given });
    }

    /// Adds what was seen.
    pub(super) fn tell(self, history: &mut History) {
        history.calls.extend(self.calls);
        for (generation, text) in self.texts {
            let known = history.texts.entry(generation).or_insert_with(|| text.clone());
            assert!(*known == text, "generation {generation} is two tokens");
        }
    }
}

/// Revokes, `count` times at once. Nobody else may revoke meanwhile, or it would not be known which of
/// the revokes the session has taken.
pub(super) async fn revoke(
    session: &SessionHandle,
    clock: Clock,
    count: u64,
    leaves: bool,
) -> Vec<Revoke> {
    let mut changes = session.subscribe();
    let before = session.status().counters().revokes;
    let began = clock.now();
    let calls: Vec<_> = (0..count)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                let ok = session.revoke().await.is_ok();
                (clock.now(), ok)
            })
        })
        .collect();
    let mut status = session.status();
    while status.counters().revokes < before + count {
        status = changes.changed().await.expect("the session goes on");
    }
    let taken = Some(clock.now());
    let mut revokes = Vec::new();
    for call in calls {
        if leaves {
            call.abort();
        }
        let (ended, ok) = call.await.map_or((None, false), |(ended, ok)| (Some(ended), ok));
        revokes.push(Revoke { began, taken, ended, ok });
    }
    revokes
}

/// What a session sends.
#[derive(Debug)]
pub(super) struct Wire {
    clock: Clock,
    attempts: Mutex<Vec<Attempt>>,
    revocations: Mutex<Vec<Revocation>>,
}

impl Wire {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, attempts: Mutex::default(), revocations: Mutex::default() })
    }

    /// Adds what was sent, and what has become of it at the authority.
    pub(super) fn tell(&self, history: &mut History, authority: &Authority) {
        history.attempts = mem::take(&mut *self.attempts.lock().unwrap());
        history.revocations = mem::take(&mut *self.revocations.lock().unwrap());
        history.attempts.sort_by_key(|attempt| attempt.sent);
        history.revocations.sort_by_key(|revocation| revocation.sent);
        // Its clock started before, at the latest so long ago.
        let ahead = authority.elapsed().saturating_sub(self.clock.now().at);
        for attempt in &history.attempts {
            if let Outcome::Token(text, _) = &attempt.outcome
                && let Some(at) = authority.revoked_at(text)
            {
                let at = Point { at: at.saturating_sub(ahead), count: 0 };
                history.revoked_at.insert(text.clone(), at);
            }
        }
    }
}

/// The manager that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) manager: HttpTokenManager,
    pub(super) wire: Arc<Wire>,
}

/// Something on the wire: written down when it ends, also by being dropped.
enum OnWire<'a> {
    Attempt(&'a Wire, Attempt),
    Revocation(&'a Wire, Revocation),
}

impl Drop for OnWire<'_> {
    fn drop(&mut self) {
        match self {
            Self::Attempt(wire, attempt) => {
                attempt.ended = wire.clock.now();
                wire.attempts.lock().unwrap().push(attempt.clone());
            }
            Self::Revocation(wire, revocation) => {
                revocation.ended = wire.clock.now();
                wire.revocations.lock().unwrap().push(revocation.clone());
            }
        }
    }
}

impl Watched {
    async fn watch(
        &self,
        purpose: Purpose,
        subject: Option<u64>,
        attempt: impl Future<Output = Result<Grant, TokenError>> + Send,
    ) -> Result<Grant, TokenError> {
        let (sent, outcome) = (self.wire.clock.now(), Outcome::Dropped);
        let sending = Attempt { purpose, subject, sent, ended: sent, outcome };
        let mut on_wire = OnWire::Attempt(&self.wire, sending);
        let result = attempt.await;
        if let OnWire::Attempt(_, attempt) = &mut on_wire {
            attempt.outcome = match &result {
                Ok(grant) => {
                    let life = grant.life().unwrap_or(self.assumed_lifetime());
                    Outcome::Token(grant.text().expose().to_owned(), life)
                }
                Err(error) => Outcome::Failed(error.clone()),
            };
        }
        result
    }
}

impl TokenManager for Watched {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        self.watch(Purpose::Grant, None, self.manager.grant(request)).await
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        let (purpose, id) = (Purpose::of(&request.key()), subject.id());
        let attempt = self.manager.exchange(subject, request);
        self.watch(purpose, Some(id.generation()), attempt).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let (text, sent) = (token.expose().to_owned(), self.wire.clock.now());
        let sending = Revocation { text, sent, ended: sent, confirmed: false };
        let mut on_wire = OnWire::Revocation(&self.wire, sending);
        let result = self.manager.revoke(token, options).await;
        if let OnWire::Revocation(_, revocation) = &mut on_wire {
            revocation.confirmed = result.is_ok();
        }
        result
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }

    fn assumed_lifetime(&self) -> Duration {
        self.manager.assumed_lifetime()
    }
}
