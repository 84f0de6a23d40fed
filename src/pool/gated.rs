//! A manager that waits in the pool's gate, and the one who drives that.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::gate::{Answers, Gate, How, Tenant, Ticket};
use crate::clock;
use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::identity::Identity;
#[cfg(feature = "metrics")]
use crate::instant::Instant;
use crate::manager::TokenManager;
#[cfg(feature = "metrics")]
use crate::metrics::{GateCounts, GateMetrics};
use crate::news::NewsSender;
use crate::permit::Permit;
use crate::request::{ExchangeRequest, GrantRequest, PermitRequest, TokenRequestOptions};
use crate::token::AccessToken;

type Reply = oneshot::Sender<Result<(), TokenError>>;

/// The gate that a pool's sessions share.
pub(super) struct SharedGate {
    state: Mutex<State>,
    /// The driver is to look at the clock again.
    looks_earlier: Notify,
    next_tenant: AtomicU64,
    refused: AtomicU64,
    runtime: Handle,
    #[cfg(feature = "metrics")]
    metrics: GateMetrics,
}

struct State {
    gate: Gate<Reply>,
    /// Somebody sleeps until the gate's next look.
    is_driven: bool,
    #[cfg(feature = "metrics")]
    shown: GateCounts,
}

impl SharedGate {
    pub(super) fn new(
        attempts_at_once: usize,
        runtime: Handle,
        #[cfg(feature = "metrics")] metrics: GateMetrics,
    ) -> Arc<Self> {
        let state = State {
            gate: Gate::new(attempts_at_once),
            is_driven: false,
            #[cfg(feature = "metrics")]
            shown: GateCounts::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            looks_earlier: Notify::new(),
            next_tenant: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            runtime,
            #[cfg(feature = "metrics")]
            metrics,
        })
    }

    pub(super) fn gated<M>(self: &Arc<Self>, manager: M) -> Gated<M> {
        let number = self.next_tenant.fetch_add(1, Relaxed);
        let tenant = AtTheGate { gate: Arc::clone(self), number, was_slow: AtomicBool::new(false) };
        Gated { manager, tenant: Arc::new(tenant) }
    }

    /// How many attempts wait, and how many are out.
    pub(super) fn attempts(&self) -> [usize; 2] {
        let State { gate, .. } = &*self.lock();
        [gate.waiting(), gate.out()]
    }

    /// How many attempts were refused leave.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// How long the server is left alone.
    pub(super) fn rests(&self) -> Option<Duration> {
        self.lock().gate.rests(clock::now()).map(|(_, rest)| rest)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers those whose time has come, and sees to it that somebody does so when the next one's comes.
    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>, mut answers: Answers<Reply>) {
        let now = clock::now();
        answers.extend(state.gate.answers(now));
        let drive =
            state.gate.next_look(now).is_some() && !std::mem::replace(&mut state.is_driven, true);
        let refused = answers.iter().filter(|(_, answer)| answer.is_err()).count();
        self.refused.fetch_add(refused as u64, Relaxed);
        #[cfg(feature = "metrics")]
        let has_changed = self.note(&mut state, now);
        drop(state);
        if drive {
            self.runtime.spawn(Arc::clone(self).drive());
        } else {
            self.looks_earlier.notify_one();
        }
        for (reply, answer) in answers {
            // Its drop is what gives a place back, also of one that has left.
            let _ = reply.send(answer);
        }
        #[cfg(feature = "metrics")]
        if has_changed || refused > 0 {
            self.metrics.show(refused);
        }
    }

    /// Whether there is anything new to show.
    #[cfg(feature = "metrics")]
    fn note(&self, state: &mut State, now: Instant) -> bool {
        let State { gate, shown, .. } = state;
        let counts = [gate.waiting(), gate.out(), usize::from(gate.rests(now).is_some())];
        let before = std::mem::replace(shown, counts);
        self.metrics.change(before, counts);
        before != counts
    }

    /// While anybody waits for the clock.
    async fn drive(self: Arc<Self>) {
        loop {
            let next_look = {
                let mut state = self.lock();
                let next_look = state.gate.next_look(clock::now());
                state.is_driven = next_look.is_some();
                next_look
            };
            let Some(next_look) = next_look else { return };
            tokio::select! {
                slept = clock::sleep_until(next_look) => if slept.is_err() {
                    // So are all of its sessions over.
                    self.lock().is_driven = false;
                    return;
                },
                () = self.looks_earlier.notified() => continue,
            }
            self.settle(self.lock(), Vec::new());
        }
    }
}

#[cfg(feature = "metrics")]
impl Drop for SharedGate {
    fn drop(&mut self) {
        let shown = self.lock().shown;
        self.metrics.change(shown, GateCounts::default());
        self.metrics.show(0);
    }
}

/// One session before the gate.
struct AtTheGate {
    gate: Arc<SharedGate>,
    number: Tenant,
    was_slow: AtomicBool,
}

impl Drop for AtTheGate {
    fn drop(&mut self) {
        self.gate.lock().gate.forget(self.number);
    }
}

/// An attempt that waits, or is out. Its drop tells the gate that it was given up.
struct Attempt {
    tenant: Arc<AtTheGate>,
    ticket: Ticket,
    how: How,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let how = std::mem::replace(&mut self.how, How::Unknown);
        let gate = &self.tenant.gate;
        let mut state = gate.lock();
        if let Some(was_slow) = state.gate.end(clock::now(), self.ticket, how) {
            self.tenant.was_slow.store(was_slow, Relaxed);
        }
        gate.settle(state, Vec::new());
    }
}

/// A manager whose attempts wait in the gate. All else it passes on.
pub(super) struct Gated<M> {
    manager: M,
    tenant: Arc<AtTheGate>,
}

impl<M: fmt::Debug> fmt::Debug for Gated<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.manager.fmt(f)
    }
}

impl<M: TokenManager> TokenManager for Gated<M> {
    fn is_gated(&self) -> bool {
        true
    }

    /// The gate's leave comes first: a manager with one of its own may wait for something rarer.
    async fn ready(&self, request: &PermitRequest) -> Result<Permit, TokenError> {
        let (reply, answer) = oneshot::channel();
        let mut attempt = {
            let gate = &self.tenant.gate;
            let mut state = gate.lock();
            let was_slow = self.tenant.was_slow.load(Relaxed);
            // Before this one: a probe whose time has come is one of those who waited for it.
            let earlier = state.gate.answers(clock::now());
            let ticket = state.gate.ask(self.tenant.number, was_slow, reply);
            let tenant = Arc::clone(&self.tenant);
            gate.settle(state, earlier);
            Attempt { tenant, ticket, how: How::Unknown }
        };
        // It is answered, or this is dropped.
        answer.await.unwrap_or_else(|_| Err(TokenError::rate_limited(None)))?;
        let inner = if self.manager.is_gated() {
            self.manager.ready(request).await?
        } else {
            Permit::free()
        };
        Ok(Permit::new(move |result| {
            attempt.how = How::of(Some(result));
            drop(attempt);
            inner.end(result);
        }))
    }

    async fn needs_permit(&self, request: &GrantRequest) -> bool {
        self.manager.needs_permit(request).await
    }

    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        self.manager.grant(request).await
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        self.manager.exchange(subject, request).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        self.manager.revoke(token, options).await
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

    fn attach(&self, news: NewsSender) {
        self.manager.attach(news);
    }

    fn identity(&self) -> Option<Identity> {
        self.manager.identity()
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.manager.check(config)
    }
}
