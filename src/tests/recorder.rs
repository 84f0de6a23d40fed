//! Writes down what tasks and threads see of a session, and what it sends.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::judge::intervals::{Attempt, Call, History, Outcome, Point, Revocation, Revoke, What};
use crate::judge::{Policy, Purpose};
use crate::testing::Authority;
use crate::{
    AccessToken, ExchangeRequest, ExchangedToken, Grant, GrantRequest, HttpTokenManager,
    SessionConfig, SessionError, SessionHandle, TokenError, TokenManager, TokenRequestOptions,
    TokenText,
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
    exchanged: Option<ExchangedToken>,
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
        self.got(began, result.as_ref().ok());
        result.map(|_| true)
    }

    pub(super) async fn exchange(
        &mut self,
        session: &SessionHandle,
        request: ExchangeRequest,
    ) -> Result<bool, SessionError> {
        let (began, what) = (self.clock.now(), What::Token(Purpose::of(&request.key())));
        let result = session.exchange(request).await;
        let given = result.as_ref().ok().map(|token| (token.id().generation(), token.secret()));
        self.write(what, began, given);
        self.exchanged = Some(result?);
        Ok(true)
    }

    pub(super) fn try_token(&mut self, session: &SessionHandle) -> bool {
        let began = self.clock.now();
        let token = session.try_token();
        self.got(began, token.as_ref());
        token.is_some()
    }

    pub(super) fn blocking_get_token(&mut self, session: &SessionHandle) -> bool {
        let began = self.clock.now();
        let result = session.blocking_get_token();
        self.got(began, result.as_ref().ok());
        result.is_ok()
    }

    /// Says that the last token was refused.
    pub(super) fn invalidate_own(&mut self, session: &SessionHandle) {
        let Some(token) = self.own.take() else { return };
        let began = self.clock.now();
        session.invalidate(&token);
        self.write(What::Invalidate(token.id().generation()), began, None);
    }

    pub(super) fn invalidate_exchanged(&mut self, session: &SessionHandle) {
        let Some(token) = self.exchanged.take() else { return };
        let began = self.clock.now();
        session.invalidate(&token);
        self.write(What::Invalidate(token.id().generation()), began, None);
    }

    fn got(&mut self, began: Point, token: Option<&AccessToken>) {
        let given = token.map(|token| (token.id().generation(), token.secret()));
        self.write(What::Token(Purpose::Grant), began, given);
        self.own = token.cloned().or(self.own.take());
    }

    fn write(&mut self, what: What, began: Point, given: Option<(u64, &str)>) {
        let ended = self.clock.now();
        if let Some((generation, text)) = given {
            self.texts.entry(generation).or_insert_with(|| text.to_owned());
        }
        let given = given.map(|(generation, _)| generation);
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

/// A history of a session with these settings, to tell things to.
pub(super) fn history_of(config: &SessionConfig) -> History {
    History { late: Duration::from_millis(250), ..History::new(Policy::of(config)) }
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

/// An attempt on the wire: written down when it ends, also by being dropped.
struct OnWire<'a> {
    wire: &'a Wire,
    attempt: Attempt,
}

impl<'a> OnWire<'a> {
    fn new(wire: &'a Wire, purpose: Purpose, subject: Option<&AccessToken>) -> Self {
        let (sent, outcome) = (wire.clock.now(), Outcome::Dropped);
        let subject = subject.map(|subject| subject.id().generation());
        Self { wire, attempt: Attempt { purpose, subject, sent, ended: sent, outcome } }
    }

    fn ended(
        mut self,
        result: Result<Grant, TokenError>,
        assumed: Duration,
    ) -> Result<Grant, TokenError> {
        self.attempt.outcome = match &result {
            Ok(grant) => {
                Outcome::Token(grant.text().expose().to_owned(), grant.life().unwrap_or(assumed))
            }
            Err(error) => Outcome::Failed(error.clone()),
        };
        result
    }
}

impl Drop for OnWire<'_> {
    fn drop(&mut self) {
        self.attempt.ended = self.wire.clock.now();
        self.wire.attempts.lock().unwrap().push(self.attempt.clone());
    }
}

impl TokenManager for Watched {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let on_wire = OnWire::new(&self.wire, Purpose::Grant, None);
        on_wire.ended(self.manager.grant(request).await, self.assumed_lifetime())
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        let purpose = Purpose::of(&request.key());
        let on_wire = OnWire::new(&self.wire, purpose, Some(&subject));
        on_wire.ended(self.manager.exchange(subject, request).await, self.assumed_lifetime())
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let mut revocation = OnWireToRevoke {
            wire: &self.wire,
            revocation: Revocation {
                text: token.expose().to_owned(),
                sent: self.wire.clock.now(),
                ended: Point::default(),
                confirmed: false,
            },
        };
        let result = self.manager.revoke(token, options).await;
        revocation.revocation.confirmed = result.is_ok();
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

/// The same, of a revocation.
struct OnWireToRevoke<'a> {
    wire: &'a Wire,
    revocation: Revocation,
}

impl Drop for OnWireToRevoke<'_> {
    fn drop(&mut self) {
        self.revocation.ended = self.wire.clock.now();
        self.wire.revocations.lock().unwrap().push(self.revocation.clone());
    }
}
