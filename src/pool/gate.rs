//! The gate before a server that many sessions share: who may send an attempt, and when. Pure: it is told
//! the time, and says whom to answer. Sessions keep their own rules; these are about all of them together.
//!
//! - At most `most` attempts at once, first come, first served; tenants that are failing come last.
//! - One that has been out for [`SLOW`] gives its place back, as long as fewer than `most` such are out: the
//!   tenants of a dead route do not stop the others. A tenant whose last attempt was like that asks for one
//!   of those places at once.
//! - A tenant has a [`Standing`]. Its failure is news only if it was not failing already.
//! - Two tenants' failures that are news, with no answer since they left, *shut* the gate; so does an attempt
//!   that is slow while nobody is answered. Now one probe is out at a time: of a tenant that was answered
//!   before if one waits, else of a new one, else of a failing one; of several of one who came last, since
//!   whoever comes back the moment he may is likely to be in trouble himself. Any answer opens the gate.
//! - A shut gate *rests* failing tenants when [`LEAST_PROOF`] have failed, new ones when [`PROOF`] have, or the
//!   former and nobody was answered for [`PROVEN_AFTER`], and the rest when as many of them have. Who rests is
//!   told the error at once, but for one, who is the probe after a pause, which doubles.
//! - After a rest of new ones two are let in, and with each answer one more.
//!
//! Without the standings, on a server that fails two tenants of three: `1 fails, 2 fails, 1's probe fails, 3
//! asks` tells 3 that the server fails; and 1, who comes back the moment the rest is over, is the probe for
//! ever.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::error::TokenError;
use crate::instant::Instant;
use queue::{Queue, Waiting};

/// How long an attempt may take before others need not wait for it.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// Between the first two probes; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest `Retry-After` that all tenants wait for.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// So many tenants must fail, one after the other, before others need not try;
const PROOF: usize = 16;
/// and so many, if nobody has been answered for this long.
const LEAST_PROOF: usize = 3;
const PROVEN_AFTER: Duration = Duration::from_secs(10);
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

/// What is known of the server's answers to a tenant, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its last attempt failed in a way that speaks of the server: that it fails again says nothing new.
    Failing,
    New,
    /// Its last attempt was answered.
    Answered,
}

impl Standing {
    const ALL: [Self; 3] = [Self::Failing, Self::New, Self::Answered];
}

#[derive(Debug)]
pub(super) struct Gate<W> {
    most: usize,
    /// How many may be out: `most`, but for the time after an outage.
    allowed: usize,
    next: Ticket,
    /// Of those that are not new.
    standings: HashMap<Tenant, Standing>,
    waiting: Queue<W>,
    out: BTreeMap<Ticket, Out>,
    answered_at: Instant,
    /// Who failed, and was not failing, if none was answered since.
    failed: Option<Standing>,
    shut: Option<Shut>,
}

#[derive(Debug)]
struct Out {
    tenant: Tenant,
    left: Instant,
    in_slow_place: bool,
    /// As it was then.
    standing: Standing,
}

/// Nobody was answered since this is there.
#[derive(Debug)]
struct Shut {
    /// Of each standing.
    rests: [Rest; 3],
    since: Instant,
    /// The last failure.
    error: Option<TokenError>,
    /// The one that is out and not slow yet.
    probe: Option<Ticket>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    /// Failures that say that these need not try.
    failed: usize,
    /// Until then none of these is sent.
    until: Instant,
    pause: Duration,
}

impl Rest {
    fn is_proven(&self, standing: Standing, shut_for: Duration) -> bool {
        let is_soon = standing != Standing::Failing && shut_for < PROVEN_AFTER;
        self.failed >= if is_soon { PROOF } else { LEAST_PROOF }
    }

    fn pause(&mut self, now: Instant) {
        self.until = self.until.max(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

impl Shut {
    fn new(now: Instant) -> Self {
        let rest = Rest { failed: 0, until: now, pause: FIRST_PAUSE };
        Self { rests: [rest; 3], since: now, error: None, probe: None }
    }

    /// A failure of one concerns those whose standing is not better.
    fn concerned(&mut self, standing: Standing) -> impl Iterator<Item = (Standing, &mut Rest)> {
        Standing::ALL.into_iter().zip(&mut self.rests).filter(move |(other, _)| *other <= standing)
    }

    fn failed(&mut self, now: Instant, standing: Standing, was_probe: bool, error: TokenError) {
        let shut_for = now.since(self.since);
        let wanted = error.retry_after().unwrap_or_default().min(LONGEST_REST);
        for (concerned, rest) in self.concerned(standing) {
            let was_proven = rest.is_proven(concerned, shut_for);
            rest.failed += 1;
            if rest.is_proven(concerned, shut_for) {
                if was_probe || !was_proven {
                    rest.pause(now);
                }
                rest.until = rest.until.max(now + wanted);
            }
        }
        self.error = Some(error);
    }

    /// The probe is slow, or nobody knows how it ended.
    fn probe_is_lost(&mut self, now: Instant, standing: Standing) {
        self.probe = None;
        self.concerned(standing).for_each(|(_, rest)| rest.pause(now));
    }

    fn rest(&self, standing: Standing) -> &Rest {
        &self.rests[standing as usize]
    }

    fn is_proven(&self, standing: Standing, now: Instant) -> bool {
        self.rest(standing).is_proven(standing, now.since(self.since))
    }
}

impl<W> Gate<W> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            allowed: most,
            next: 0,
            standings: HashMap::new(),
            waiting: Queue::new(),
            out: BTreeMap::new(),
            answered_at: Instant::ZERO,
            failed: None,
            shut: None,
        }
    }

    /// An attempt wants to leave; `is_slow` if the tenant's last one was.
    pub(super) fn ask(&mut self, tenant: Tenant, is_slow: bool, reply: W) -> Ticket {
        let (ticket, standing) = (self.next, self.standing(tenant));
        self.next += 1;
        self.waiting.push(Waiting { ticket, tenant, standing, reply }, is_slow);
        ticket
    }

    /// An attempt has ended, or who waited for it has left. Whether it was a slow one, if it was out.
    pub(super) fn end(&mut self, now: Instant, ticket: Ticket, how: How) -> Option<bool> {
        self.waiting.remove(ticket);
        let out = self.out.remove(&ticket)?;
        let shut = self.shut.as_mut().filter(|shut| shut.probe == Some(ticket));
        match (how, shut) {
            (How::Answered, _) => self.answered(now, out.tenant),
            (How::Failed(error), probe) => {
                let was_probe = probe.map(|shut| shut.probe = None).is_some();
                self.failed(now, &out, was_probe, error);
            }
            (How::Unknown, Some(shut)) => shut.probe_is_lost(now, out.standing),
            (How::Unknown, None) => {}
        }
        Some(out.is_slow(now))
    }

    /// The session has ended.
    pub(super) fn forget(&mut self, tenant: Tenant) {
        self.standings.remove(&tenant);
    }

    fn standing(&self, tenant: Tenant) -> Standing {
        self.standings.get(&tenant).copied().unwrap_or(Standing::New)
    }

    fn answered(&mut self, now: Instant, tenant: Tenant) {
        self.standings.insert(tenant, Standing::Answered);
        self.answered_at = now;
        self.failed = None;
        let was_outage = self.shut.take().is_some_and(|shut| shut.is_proven(Standing::New, now));
        let allowed = if was_outage { FIRST_ALLOWED } else { self.allowed + 1 };
        self.allowed = allowed.min(self.most);
    }

    fn failed(&mut self, now: Instant, out: &Out, was_probe: bool, error: TokenError) {
        let before = self.standings.insert(out.tenant, Standing::Failing);
        let is_news = before != Some(Standing::Failing) && self.answered_at <= out.left;
        match &mut self.shut {
            Some(shut) if is_news || was_probe => shut.failed(now, out.standing, was_probe, error),
            None if is_news => {
                if let Some(first) = self.failed.replace(out.standing) {
                    let shut = self.shut.insert(Shut::new(now));
                    for standing in [first, out.standing] {
                        shut.failed(now, standing, false, error.clone());
                    }
                }
            }
            Some(_) | None => {}
        }
    }

    /// Says whom to answer. To be asked after all that happens, and at [`next_look`](Self::next_look).
    #[must_use]
    pub(super) fn answers(&mut self, now: Instant) -> Answers<W> {
        let mut answers = Vec::new();
        self.look_for_slow_ones(now);
        if self.shut.is_some() {
            self.send_probe(now, &mut answers);
            self.answer_but_one(now, &mut answers);
            return answers;
        }
        while self.out.values().filter(|out| !out.in_slow_place).count() < self.allowed {
            // A queue's head may be all of one dead route: while its attempts fill the places of slow ones,
            // those who came last go first.
            let next = if self.slow_places() < self.most {
                self.waiting.pop_first(false)
            } else {
                self.waiting.pop_last(false)
            };
            let Some(next) = next else { break };
            self.leave(now, next, false, &mut answers);
        }
        // The other half is for those who turn out to be slow.
        while self.slow_places() < self.allowed.div_ceil(2)
            && let Some(next) = self.waiting.pop_first(true)
        {
            self.leave(now, next, true, &mut answers);
        }
        answers
    }

    /// When to look again though nothing happens: later than `now`, and only where somebody waits.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        if self.waiting.len() == 0 {
            return None;
        }
        let slow = self.out.values().filter(|out| !out.in_slow_place).map(|out| out.left + SLOW);
        let shut = self.shut.iter().filter(|shut| shut.probe.is_none());
        let waiting = |standing: &Standing| self.waiting.has(*standing);
        let probe = shut.flat_map(|shut| {
            Standing::ALL.into_iter().filter(waiting).map(|standing| shut.rest(standing).until)
        });
        slow.chain(probe).filter(|at| now < *at).min()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn out(&self) -> usize {
        self.out.len()
    }

    /// Why tenants rest, and until one of them is sent.
    pub(super) fn rests(&self, now: Instant) -> Option<(&TokenError, Duration)> {
        let shut = self.shut.as_ref()?;
        let all = Standing::ALL.into_iter().rev();
        let mut proven = all.filter(|standing| shut.is_proven(*standing, now));
        Some((shut.error.as_ref()?, shut.rest(proven.next()?).until.since(now)))
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
                shut.probe_is_lost(now, out.standing);
            }
            if self.answered_at < out.left {
                // Is it this one's route, or is it the server?
                self.shut.get_or_insert_with(|| Shut::new(now));
            } else if free > 0 {
                out.in_slow_place = true;
                free -= 1;
            }
        }
    }

    fn send_probe(&mut self, now: Instant, answers: &mut Answers<W>) {
        let Some(shut) = self.shut.as_mut().filter(|shut| shut.probe.is_none()) else { return };
        if self.out.len() >= 2 * self.most {
            return;
        }
        let mut best = Standing::ALL.into_iter().rev();
        let next = best
            .find(|next| self.waiting.has(*next) && shut.rest(*next).until <= now)
            .and_then(|standing| self.waiting.pop_last_of(standing));
        if let Some(next) = next {
            shut.probe = Some(next.ticket);
            self.leave(now, next, false, answers);
        }
    }

    /// All who rest are told why, but for the next probe if it is one of them.
    fn answer_but_one(&mut self, now: Instant, answers: &mut Answers<W>) {
        // While a probe is out, all wait for what comes of it.
        let Some(shut) = self.shut.as_ref().filter(|shut| shut.probe.is_none()) else { return };
        let mut has_next = false;
        for standing in Standing::ALL.into_iter().rev() {
            let rest = shut.rest(standing);
            if let Some(error) = &shut.error
                && shut.is_proven(standing, now)
                && now < rest.until
            {
                let error = error.clone().with_retry_after(Some(rest.until.since(now)));
                let told = self.waiting.take(standing, !has_next);
                answers.extend(told.map(|reply| (reply, Err(error.clone()))));
            }
            has_next |= self.waiting.has(standing);
        }
    }

    fn leave(
        &mut self,
        now: Instant,
        next: Waiting<W>,
        in_slow_place: bool,
        answers: &mut Answers<W>,
    ) {
        let Waiting { ticket, tenant, standing, reply } = next;
        self.out.insert(ticket, Out { tenant, left: now, in_slow_place, standing });
        answers.push((reply, Ok(())));
    }
}

impl Out {
    fn is_slow(&self, now: Instant) -> bool {
        now.since(self.left) >= SLOW
    }
}

mod queue;
#[cfg(test)]
mod tests;
