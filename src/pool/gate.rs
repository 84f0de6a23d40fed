//! The gate before a server that many sessions share: who may send an attempt, and when. Pure: it is told
//! the time, and says whom to answer. Sessions keep their own rules; these are about all of them together.
//!
//! - At most `most` attempts at once, first come, first served.
//! - One that has been out for [`SLOW`] gives its place back, as long as fewer than `most` such are out: the
//!   tenants of a dead route do not stop the others. A tenant whose last attempt was like that asks for one
//!   of those places at once.
//! - Failures that speak of the server, of two tenants and with no answer since they left, raise a *doubt*:
//!   nobody leaves but one probe. So does an attempt that is slow while nobody is answered. Any answer ends
//!   the doubt. A probe that fails confirms it: now those who wait get that error, and there is one probe at
//!   a time, after pauses that double. Its success lets two in, and each answer one more.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::TokenError;
use crate::instant::Instant;

/// How long an attempt may take before others need not wait for it.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// Between the first two probes; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest `Retry-After` that all tenants wait for.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// How many may be out after an outage.
const FIRST_ALLOWED: usize = 2;

/// Names an attempt, from when it asks to its end. Rising: who asked first goes first.
pub(super) type Ticket = u64;

/// Names a session.
pub(super) type Tenant = u64;

/// How an attempt ended, as far as it matters here.
#[derive(Debug)]
pub(super) enum How {
    /// The server did its work, a refusal included.
    Answered,
    /// It speaks of the server rather than of the tenant.
    Failed(TokenError),
    /// Nothing is known of the server: it was cancelled, or failed before anything was sent.
    Unknown,
}

impl How {
    /// `None`: it was cancelled.
    pub(super) fn of(ended: Option<Result<(), &TokenError>>) -> Self {
        match ended {
            Some(Ok(()) | Err(TokenError::Expired { .. })) => Self::Answered,
            Some(Err(TokenError::Denied { status, .. })) if *status != 0 => Self::Answered,
            Some(Err(
                error @ (TokenError::RateLimited { .. }
                | TokenError::Server { .. }
                | TokenError::Transport { .. }
                | TokenError::TimedOut { .. }),
            )) => Self::Failed(error.clone()),
            Some(Err(_)) | None => Self::Unknown,
        }
    }
}

/// Whom to answer, and what: the attempt may leave now, or it may not.
pub(super) type Answers<W> = Vec<(W, Result<(), TokenError>)>;

#[derive(Debug)]
pub(super) struct Gate<W> {
    most: usize,
    /// How many may be out: `most`, but for the time after an outage.
    allowed: usize,
    next: Ticket,
    waiting: BTreeMap<Ticket, Waiting<W>>,
    /// Those who wait for one of the places of slow attempts.
    waiting_slow: BTreeMap<Ticket, Waiting<W>>,
    out: BTreeMap<Ticket, Out>,
    answered_at: Instant,
    /// Whose attempt failed last, if none was answered since.
    failed: Option<Tenant>,
    shut: Option<Shut>,
}

#[derive(Debug)]
struct Waiting<W> {
    tenant: Tenant,
    reply: W,
}

#[derive(Debug)]
struct Out {
    tenant: Tenant,
    left: Instant,
    in_slow_place: bool,
    is_probe: bool,
}

#[derive(Debug)]
struct Shut {
    /// What those who wait are told. `None` while it is a doubt.
    error: Option<TokenError>,
    /// The one that is out and not slow yet.
    probe: Option<Ticket>,
    probe_at: Instant,
    pause: Duration,
}

impl Shut {
    fn doubt(now: Instant) -> Self {
        Self { error: None, probe: None, probe_at: now, pause: FIRST_PAUSE }
    }

    /// The probe came to nothing, or takes too long to wait for it.
    fn pause(&mut self, now: Instant) {
        self.probe = None;
        self.probe_at = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn confirm(&mut self, now: Instant, error: TokenError) {
        let rest = error.retry_after().unwrap_or_default().min(LONGEST_REST);
        self.probe_at = self.probe_at.max(now + rest);
        self.error = Some(error);
    }
}

impl<W> Gate<W> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            allowed: most,
            next: 0,
            waiting: BTreeMap::new(),
            waiting_slow: BTreeMap::new(),
            out: BTreeMap::new(),
            answered_at: Instant::ZERO,
            failed: None,
            shut: None,
        }
    }

    /// An attempt wants to leave; `is_slow` if the tenant's last one was.
    pub(super) fn ask(&mut self, tenant: Tenant, is_slow: bool, reply: W) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        let queue = if is_slow { &mut self.waiting_slow } else { &mut self.waiting };
        queue.insert(ticket, Waiting { tenant, reply });
        ticket
    }

    /// An attempt has ended, or who waited for it has left. Whether it was a slow one, if it was out.
    pub(super) fn end(&mut self, now: Instant, ticket: Ticket, how: How) -> Option<bool> {
        self.waiting.remove(&ticket);
        self.waiting_slow.remove(&ticket);
        let out = self.out.remove(&ticket)?;
        match how {
            How::Answered => self.answered(now, &out),
            How::Failed(error) => self.failed(now, ticket, &out, error),
            How::Unknown => self.probe_ended(now, ticket),
        }
        Some(out.is_slow(now))
    }

    fn answered(&mut self, now: Instant, out: &Out) {
        self.answered_at = now;
        self.failed = None;
        match &self.shut {
            None => self.allowed = (self.allowed + 1).min(self.most),
            Some(Shut { error: None, .. }) => self.shut = None,
            Some(_) if out.is_probe => {
                self.shut = None;
                self.allowed = FIRST_ALLOWED.min(self.most);
            }
            // It left before the outage.
            Some(_) => {}
        }
    }

    fn failed(&mut self, now: Instant, ticket: Ticket, out: &Out, error: TokenError) {
        self.probe_ended(now, ticket);
        if let Some(shut) = &mut self.shut {
            if out.is_probe {
                shut.confirm(now, error);
            }
        } else if self.answered_at <= out.left {
            let before = self.failed.replace(out.tenant);
            if before.is_some_and(|before| before != out.tenant) {
                self.shut = Some(Shut::doubt(now));
            }
        }
    }

    fn probe_ended(&mut self, now: Instant, ticket: Ticket) {
        if let Some(shut) = self.shut.as_mut().filter(|shut| shut.probe == Some(ticket)) {
            shut.pause(now);
        }
    }

    /// Says whom to answer. To be asked after all that happens, and at [`next_look`](Self::next_look).
    #[must_use]
    pub(super) fn answers(&mut self, now: Instant) -> Answers<W> {
        let mut answers = Vec::new();
        self.look_for_slow_ones(now);
        if self.shut.is_some() {
            self.answer_but_one(now, &mut answers);
            self.send_probe(now, &mut answers);
            return answers;
        }
        while self.out.values().filter(|out| !out.in_slow_place).count() < self.allowed {
            // A queue's head may be all of one dead route: while its attempts fill the places of slow ones,
            // those who came last go first.
            let next = if self.slow_places() < self.most {
                self.waiting.pop_first()
            } else {
                self.waiting.pop_last()
            };
            let Some(next) = next else { break };
            self.leave(now, next, false, &mut answers);
        }
        // The other half is for those who turn out to be slow.
        while self.slow_places() < self.allowed.div_ceil(2)
            && let Some(next) = self.waiting_slow.pop_first()
        {
            self.leave(now, next, true, &mut answers);
        }
        answers
    }

    /// When to look again though nothing happens: later than `now`, and only where somebody waits.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        if self.waiting.is_empty() && self.waiting_slow.is_empty() {
            return None;
        }
        let slow = self.out.values().filter(|out| !out.in_slow_place).map(|out| out.left + SLOW);
        let probe = self.shut.iter().filter(|shut| shut.probe.is_none()).map(|shut| shut.probe_at);
        slow.chain(probe).filter(|at| now < *at).min()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.waiting_slow.len()
    }

    pub(super) fn out(&self) -> usize {
        self.out.len()
    }

    /// Why all wait, and for how long, while the server is left alone.
    pub(super) fn rests(&self, now: Instant) -> Option<(&TokenError, Duration)> {
        let shut = self.shut.as_ref()?;
        Some((shut.error.as_ref()?, shut.probe_at.since(now)))
    }

    fn slow_places(&self) -> usize {
        self.out.values().filter(|out| out.in_slow_place).count()
    }

    fn look_for_slow_ones(&mut self, now: Instant) {
        let mut free = self.most - self.slow_places();
        for (ticket, out) in &mut self.out {
            if out.in_slow_place || !out.is_slow(now) {
                continue;
            }
            if let Some(shut) = self.shut.as_mut().filter(|shut| shut.probe == Some(*ticket)) {
                shut.pause(now);
            }
            if self.answered_at < out.left {
                // Is it this one's route, or is it the server?
                self.shut.get_or_insert_with(|| Shut::doubt(now));
            } else if free > 0 {
                out.in_slow_place = true;
                free -= 1;
            }
        }
    }

    /// All but the one that waits for the next probe, and has waited longest, are told why.
    fn answer_but_one(&mut self, now: Instant, answers: &mut Answers<W>) {
        // While a probe is out, all wait for what comes of it.
        let rests =
            self.rests(now).filter(|_| self.shut.as_ref().is_some_and(|shut| shut.probe.is_none()));
        let Some((error, rest)) = rests else { return };
        let error = error.clone().with_retry_after(Some(rest));
        let mut all = std::mem::take(&mut self.waiting).into_iter();
        let mut all_slow = std::mem::take(&mut self.waiting_slow).into_iter();
        if let Some((ticket, next)) = all.next() {
            self.waiting.insert(ticket, next);
        } else if let Some((ticket, next)) = all_slow.next() {
            self.waiting_slow.insert(ticket, next);
        }
        let refused = all.chain(all_slow);
        answers.extend(refused.map(|(_, waiting)| (waiting.reply, Err(error.clone()))));
    }

    fn send_probe(&mut self, now: Instant, answers: &mut Answers<W>) {
        let is_due = |shut: &Shut| shut.probe.is_none() && shut.probe_at <= now;
        if !self.shut.as_ref().is_some_and(is_due) || self.out.len() >= 2 * self.most {
            return;
        }
        // In a doubt the last, who is the least likely to be of the same route as those who are out.
        let next = self.waiting.pop_last().or_else(|| self.waiting_slow.pop_first());
        if let (Some(next), Some(shut)) = (next, &mut self.shut) {
            shut.probe = Some(next.0);
            self.leave(now, next, false, answers);
        }
    }

    fn leave(
        &mut self,
        now: Instant,
        (ticket, waiting): (Ticket, Waiting<W>),
        in_slow_place: bool,
        answers: &mut Answers<W>,
    ) {
        let is_probe = self.shut.is_some();
        let out = Out { tenant: waiting.tenant, left: now, in_slow_place, is_probe };
        self.out.insert(ticket, out);
        answers.push((waiting.reply, Ok(())));
    }
}

impl Out {
    fn is_slow(&self, now: Instant) -> bool {
        now.since(self.left) >= SLOW
    }
}

#[cfg(test)]
mod tests;
