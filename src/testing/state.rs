//! What the authority knows, under one lock, and what it decides about a request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::{Counts, Kind, ReceivedRequest};
use super::endpoints;
use super::reply::{Reply, html, malformed};
use super::script::{Fault, Script};
use super::tokens::{Scopes, Tokens};

/// How many requests are kept to be looked at.
const LOG_CAPACITY: usize = 4_096;

/// The most that they take together, in bytes.
const LOG_BYTES: usize = 16 << 20;

/// The last requests, oldest first.
#[derive(Default)]
pub(super) struct Log {
    requests: VecDeque<ReceivedRequest>,
    bytes: usize,
}

impl Log {
    pub(super) fn requests(&self) -> impl Iterator<Item = &ReceivedRequest> {
        self.requests.iter()
    }

    fn push(&mut self, request: ReceivedRequest) {
        self.bytes += request.bytes();
        self.requests.push_back(request);
        while self.requests.len() > LOG_CAPACITY || self.bytes > LOG_BYTES {
            let Some(oldest) = self.requests.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }
}

/// What the builder was told, and what never changes afterwards.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) issuer: String,
    pub(super) client_id: String,
    pub(super) enterprise: String,
    pub(super) users: Vec<String>,
    pub(super) require_subject: bool,
    pub(super) scopes: Scopes,
    pub(super) ttl: Duration,
    /// The public half of the client's key, as a JWK.
    #[cfg(feature = "http")]
    pub(super) client_key: Option<serde_json::Map<String, serde_json::Value>>,
    /// Who shows a certificate needs no secret.
    pub(super) takes_certificates: bool,
    /// Whom assertions may be for, if that was set.
    #[cfg(feature = "http")]
    pub(super) assertion_audiences: Option<Vec<String>>,
}

/// The names of what is good once, until it would be good no longer.
#[cfg(feature = "http")]
#[derive(Default)]
struct Seen {
    until: std::collections::HashMap<String, u64>,
    /// When those that are past have to go: that they are twice as many as after the last time.
    next: usize,
}

#[cfg(feature = "http")]
impl Seen {
    /// Whether it is new.
    fn insert(&mut self, name: String, until: u64, now: u64) -> bool {
        if self.until.len() >= self.next {
            self.until.retain(|_, until| *until >= now);
            self.next = 2 * self.until.len().max(1_024);
        }
        self.until.insert(name, until).is_none()
    }
}

pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) client_secret: String,
    pub(super) tokens: Tokens,
    pub(super) last_granted: Option<String>,
    pub(super) last_exchanged: Option<String>,
    pub(super) counts: Counts,
    #[cfg(feature = "http")]
    seen: Seen,
    pub(super) log: Log,
    /// A gate is open once its sender is gone.
    pub(super) gates: Vec<(Kind, watch::Receiver<()>)>,
    script: Script,
    /// When the script was set, and what had been counted by then.
    script_since: (Instant, Counts),
    started: Instant,
}

impl State {
    pub(super) fn set_script(&mut self, script: Script) {
        self.script = script;
        self.script_since = (Instant::now(), self.counts);
    }

    /// Whether this name of a JWT is one, and was not met before. Times are in seconds.
    #[cfg(feature = "http")]
    pub(super) fn is_new(&mut self, jti: &str, until: u64, now: u64) -> bool {
        // A longer one would fill the memory.
        (1..=256).contains(&jti.len()) && self.seen.insert(jti.to_owned(), until, now)
    }

    pub(super) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(self.since_start(at).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }
}

/// Shared by the authority and its connections.
pub(super) struct Shared {
    state: Mutex<State>,
    #[cfg(feature = "http")]
    pub(super) tls: Option<tokio_rustls::TlsAcceptor>,
    /// Published at the end of each change, so that whoever waits for a figure finds the rest done.
    pub(super) counts: watch::Sender<Counts>,
}

/// What comes of a request, and what must pass before.
pub(super) struct Plan {
    pub(super) delay: Duration,
    pub(super) gates: Vec<watch::Receiver<()>>,
    pub(super) outcome: Outcome,
    /// Ends when the request is answered, or its client is gone.
    pub(super) in_flight: InFlight,
}

pub(super) enum Outcome {
    Whole(Reply),
    Cut(Reply),
    Drop,
    Hang,
}

impl Shared {
    pub(super) fn new(settings: Settings, client_secret: String, script: Script) -> Self {
        let now = Instant::now();
        let counts = Counts::default();
        let state = State {
            settings,
            client_secret,
            tokens: Tokens::default(),
            last_granted: None,
            last_exchanged: None,
            counts,
            #[cfg(feature = "http")]
            seen: Seen::default(),
            log: Log::default(),
            gates: Vec::new(),
            script,
            script_since: (now, counts),
            started: now,
        };
        Self {
            state: Mutex::new(state),
            #[cfg(feature = "http")]
            tls: None,
            counts: watch::Sender::new(counts),
        }
    }

    #[cfg(feature = "http")]
    pub(super) fn with_tls(self, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        Self { tls, ..self }
    }

    /// A test that panicked while it held the lock has left nothing half done.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the request, keeps it, decides it and carries it out, all at once.
    pub(super) fn arrive(self: &Arc<Self>, mut request: ReceivedRequest) -> Plan {
        let mut state = self.state();
        let now = Instant::now();
        let kind = request.kind;
        request.at = state.since_start(now);
        state.counts.arrived(kind);

        let (since, before) = state.script_since;
        let number = |kind| state.counts.of(kind) - before.of(kind);
        let rule = state.script.find(kind, number, now.saturating_duration_since(since)).cloned();
        let (delay, fault) = rule.map_or((Duration::ZERO, None), |rule| (rule.delay, rule.fault));
        let outcome = match &fault {
            Some(Fault::Drop) => Outcome::Drop,
            Some(Fault::Hang) => Outcome::Hang,
            Some(Fault::Answer(answer)) => Outcome::Whole(answer.into()),
            Some(Fault::Malformed) => Outcome::Whole(malformed()),
            Some(Fault::Html) => Outcome::Whole(html()),
            Some(Fault::Cut) => Outcome::Cut(endpoints::answer(&mut state, &request, None, now)),
            None | Some(Fault::ExpiresIn(_) | Fault::NoExpiresIn | Fault::SameToken) => {
                Outcome::Whole(endpoints::answer(&mut state, &request, fault.as_ref(), now))
            }
        };

        state.gates.retain(|(_, gate)| gate.has_changed().is_ok());
        let closed = state.gates.iter().filter(|(on, _)| on.covers(kind));
        let gates: Vec<_> = closed.map(|(_, gate)| gate.clone()).collect();
        let held = !gates.is_empty();
        state.counts.held += u64::from(held);
        if kind != Kind::Resource {
            state.log.push(request);
        }
        self.counts.send_replace(state.counts);
        drop(state);
        Plan { delay, gates, outcome, in_flight: InFlight { shared: Arc::clone(self), kind, held } }
    }
}

/// A request that is not answered yet.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    kind: Kind,
    held: bool,
}

impl InFlight {
    /// Its gates are open.
    pub(super) fn let_go(&mut self) {
        if std::mem::take(&mut self.held) {
            let mut state = self.shared.state();
            state.counts.held -= 1;
            self.shared.counts.send_replace(state.counts);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.let_go();
        if self.kind == Kind::Grant {
            let mut state = self.shared.state();
            state.counts.grants_in_flight -= 1;
            self.shared.counts.send_replace(state.counts);
        }
    }
}
