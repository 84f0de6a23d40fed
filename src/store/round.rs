//! One attempt at a token, as a sequence of steps. Nothing in here waits, reads a clock or draws: each
//! input comes with its [`Moment`], and the [`Step`] it is answered with is the next thing to do.
//!
//! ```text
//! Start ─► (Bury) ─► Take ─┬─ an entry that will do ──────────────► Done
//!                     ▲    ├─ leased ─► Grant(lease) ─► Granted ──► Done, Put or Leave
//!                     │    ├─ busy ──► Wait ─┐
//!                     └────┴─ a bad entry, no answer (once) ◄──┘ (until patience ends)
//! and with a broken store, or without patience: Grant(None) ─► Granted ─► Done
//! ```

use std::time::Duration;

use super::contract::{Id, LEASE, StoreError, Tag, Want};
use super::memory::{Handed, Memory};
use super::script::Header;
use crate::error::TokenError;
use crate::grant::Grant;
use crate::instant::Instant;

/// Between two looks at a slot whose lease another holds: doubles, and chance takes any part of it.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// What a call of the store may take, unless something else is set.
pub(crate) const CALL: Duration = Duration::from_millis(250);
/// What a call may take for which nobody waits, or that follows on one that was late.
pub(crate) const LONG_CALL: Duration = Duration::from_secs(1);

/// What an attempt is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The session has a token, and wants another.
    pub(crate) replaces: bool,
    /// How long the attempt may last.
    pub(crate) timeout: Duration,
    pub(crate) least_life: Duration,
    pub(crate) buffer: Duration,
    /// Tags of tokens that the session has refused or revoked.
    pub(crate) not: Vec<[u8; 16]>,
    /// The server keeps one live token for each client, so nobody asks while another does.
    pub(crate) one_live_token: bool,
    /// What a call of the store may take.
    pub(crate) call: Duration,
    /// Nothing may be sent to the server: there is no leave for that.
    pub(crate) only_looks: bool,
}

impl Asked {
    /// A first look, which takes the lease by this id if that may be.
    pub(crate) fn wanted(&self, memory: &Memory, id: Option<Id>) -> Wanted {
        Wanted {
            lease: id.filter(|_| !self.only_looks),
            seen: None,
            not: self.not(memory),
            least_life: self.least_life,
            buffer: self.buffer,
        }
    }

    fn not(&self, memory: &Memory) -> Vec<[u8; 16]> {
        let mut not = memory.not(self.replaces);
        not.extend(&self.not);
        not
    }
}

/// What an input comes with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    /// In [0, 1).
    pub(crate) random: f64,
    /// Never seen before: for the lease that may be taken next.
    pub(crate) id: Id,
}

#[derive(Debug)]
pub(crate) enum Input {
    Start,
    /// The store has been told of what was owed, or has not.
    Buried(Result<(), StoreError>),
    Took(Result<Look, StoreError>),
    Waited,
    Granted(Result<Granted, TokenError>),
}

/// What a look at the slot found, unsealed.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) now: u64,
    /// The records that a replica wrote and that are in force.
    pub(crate) revoked: Vec<(Tag, u64)>,
    pub(crate) found: Seen,
}

#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Entry(Box<Opened>),
    /// An entry that no replica of this slot has written so.
    Forged(Tag),
    Leased,
    Busy(Id),
    None,
}

/// An entry that a replica of this slot wrote.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) asked: u64,
    pub(crate) life: u64,
    pub(crate) tag: Tag,
    pub(crate) id: Id,
    pub(crate) grant: Grant,
    /// The session has refused or revoked this text.
    pub(crate) is_refused: bool,
}

/// What the authorization server gave.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) tag: Tag,
    pub(crate) life: Duration,
    /// Whether it can be put into an entry.
    pub(crate) can_share: bool,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// Tell the store of what is owed.
    Bury,
    /// For so long.
    Take(Wanted, Duration),
    Wait(Duration),
    /// Ask the server, and renew this lease until it answers.
    Grant(Option<Lease>),
    Done(Box<Result<Grant, TokenError>>, Option<After>),
}

/// A [`Want`] that owns what it names.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) lease: Option<Id>,
    seen: Option<Id>,
    not: Vec<[u8; 16]>,
    least_life: Duration,
    buffer: Duration,
}

impl Wanted {
    pub(crate) fn of(want: &Want<'_>) -> Self {
        let Want { lease, least_life, buffer, seen, not } = *want;
        Self { lease: lease.copied(), seen: seen.copied(), not: not.to_vec(), least_life, buffer }
    }

    pub(crate) fn want(&self) -> Want<'_> {
        let Self { lease, seen, not, least_life, buffer } = self;
        Want {
            lease: lease.as_ref(),
            least_life: *least_life,
            buffer: *buffer,
            seen: seen.as_ref(),
            not,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: Id,
    /// When it was given, so before the request that is sent under it.
    pub(crate) asked: u64,
}

/// What follows when the session has its answer.
#[derive(Clone, Debug)]
pub(crate) enum After {
    Put(Lease, Box<Granted>),
    Leave(Lease),
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Round {
    asked: Asked,
    /// By which it is heard what others revoke meanwhile.
    attempt: u64,
    began: Instant,
    /// From here on the lease is taken over from who held it first.
    last_look_at: Instant,
    looks_last: bool,
    /// The first that held the lease.
    holder: Option<Id>,
    /// What was offered to the store when it did not answer in time. It may have taken it.
    late: Option<Id>,
    pause: Duration,
    bad: Vec<[u8; 16]>,
    /// The id that was last offered to the store.
    id: Id,
    lease: Option<Lease>,
    /// When the last request was sent, to the store or to the server; and how many revocations had begun by then.
    sent: Instant,
    burials: u64,
}

impl Round {
    pub(crate) fn new(asked: Asked, at: &Moment, memory: &mut Memory) -> Self {
        let patience = patience(asked.timeout);
        let latest = patience.saturating_sub(asked.call);
        // So that of those who wait one takes over, and the others find what it has got.
        let earliest = latest * 3 / 4;
        Self {
            asked,
            attempt: memory.begin_attempt(),
            began: at.now,
            last_look_at: at.now + earliest + latest.saturating_sub(earliest).mul_f64(at.random),
            looks_last: false,
            holder: None,
            late: None,
            pause: FIRST_PAUSE,
            bad: Vec::new(),
            id: at.id,
            lease: None,
            sent: at.now,
            burials: 0,
        }
    }

    /// Whoever drops a round that is not done says so.
    pub(crate) fn attempt(&self) -> u64 {
        self.attempt
    }

    pub(crate) fn next(&mut self, at: &Moment, input: Input, memory: &mut Memory) -> Step {
        match input {
            Input::Start if memory.owes() => Step::Bury,
            Input::Start | Input::Buried(Ok(())) | Input::Waited => self.look(at, memory),
            Input::Took(Ok(look)) => self.took(at, look, memory),
            // It may only be busy, and so may all who ask it: they are not to turn on the server at once.
            Input::Took(Err(StoreError::TimedOut)) if self.late.is_none() => {
                self.late = Some(self.id);
                self.look(at, memory)
            }
            Input::Buried(Err(error)) | Input::Took(Err(error)) => self.without_store(at, error),
            Input::Granted(result) => self.granted(at, result, memory),
        }
    }

    fn look(&mut self, at: &Moment, memory: &Memory) -> Step {
        let mut within = if self.late.is_some() { LONG_CALL } else { self.asked.call };
        if self.asked.one_live_token {
            if at.now >= self.began + self.asked.timeout * 2 / 3 {
                return done(Err(TokenError::timed_out(at.now.since(self.began))));
            }
        } else {
            if at.now > self.began + patience(self.asked.timeout) {
                return self.grant(at, None);
            }
            self.looks_last = at.now >= self.last_look_at;
            within = within.min(self.patience_left(at)).max(self.asked.call);
        }
        (self.id, self.sent) = (at.id, at.now);
        let mut wanted = self.asked.wanted(memory, Some(at.id));
        wanted.seen = self.holder.filter(|_| self.looks_last).or(self.late);
        wanted.not.extend(&self.bad);
        Step::Take(wanted, within)
    }

    fn took(&mut self, at: &Moment, look: Look, memory: &mut Memory) -> Step {
        for (tag, end) in &look.revoked {
            memory.learn(at.now, *tag, *end);
        }
        match look.found {
            Seen::Entry(entry) => match self.left(&entry, look.now, memory) {
                Some(left) => self.use_entry(at, *entry, left, memory),
                None => self.found_bad(at, entry.tag, memory),
            },
            Seen::Forged(tag) => self.found_bad(at, tag, memory),
            Seen::Leased => {
                self.burials = memory.burials;
                self.grant(at, Some(Lease { id: self.id, asked: look.now }))
            }
            Seen::Busy(id) => {
                self.holder.get_or_insert(id);
                // After the last look: another has just taken it over, and all who wait are not to follow.
                if self.looks_last && self.patience_left(at) <= self.asked.call {
                    self.grant(at, None)
                } else {
                    self.wait(at)
                }
            }
            Seen::None => self
                .without_store(at, StoreError::refused("it gave no lease, though nobody holds it")),
        }
    }

    /// Whether an entry will do, whatever the store says of it: and for how long.
    fn left(&self, entry: &Opened, now: u64, memory: &Memory) -> Option<Duration> {
        let Opened { asked, life, tag, id, is_refused, .. } = *entry;
        let header = Header { asked, life, tag: tag.0, id: id.0 };
        let not = self.asked.not(memory);
        let will_do = !is_refused
            && !memory.is_revoked(tag, self.attempt, now)
            && !not.contains(&tag.0)
            && !not.contains(&id.0);
        header.left(now).filter(|_| will_do).map(Duration::from_micros)
    }

    fn use_entry(&self, at: &Moment, entry: Opened, left: Duration, memory: &mut Memory) -> Step {
        let Opened { asked, life, tag, id, grant, is_refused: _ } = entry;
        memory.hand(
            at.now,
            Handed {
                tag,
                text: grant.text().clone(),
                id: Some(id),
                ends: at.now + left,
                entry_ends: asked + life,
            },
        );
        let left = left.saturating_add(self.waited());
        let age = Duration::from_micros(life).saturating_sub(left);
        done(Ok(grant.expires_in(left).age(age)))
    }

    /// A life is told as counted from the start of the attempt, and known from when the request was sent.
    fn waited(&self) -> Duration {
        self.sent.since(self.began)
    }

    /// Once may be a race, or somebody's old entry; twice is a store that is not to be waited for.
    fn found_bad(&mut self, at: &Moment, tag: Tag, memory: &Memory) -> Step {
        self.bad.push(tag.0);
        match self.bad.len() {
            1 => self.look(at, memory),
            _ if self.asked.one_live_token => self.wait(at),
            _ => self.grant(at, None),
        }
    }

    fn wait(&mut self, at: &Moment) -> Step {
        let pause = self.pause.mul_f64(at.random);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let until_last_look = self.last_look_at.since(at.now);
        let most = match until_last_look {
            _ if self.asked.one_live_token => pause,
            Duration::ZERO => self.patience_left(at).saturating_sub(self.asked.call),
            until_last_look => until_last_look,
        };
        Step::Wait(pause.min(most).max(Duration::from_millis(1)))
    }

    fn patience_left(&self, at: &Moment) -> Duration {
        (self.began + patience(self.asked.timeout)).since(at.now)
    }

    fn without_store(&mut self, at: &Moment, error: StoreError) -> Step {
        if self.asked.one_live_token {
            return done(Err(TokenError::transport(error)));
        }
        self.grant(at, None)
    }

    fn grant(&mut self, at: &Moment, lease: Option<Lease>) -> Step {
        if self.asked.only_looks {
            return done(Err(TokenError::rate_limited(None)));
        }
        self.sent = at.now;
        self.lease = lease;
        Step::Grant(lease)
    }

    fn granted(
        &mut self,
        at: &Moment,
        result: Result<Granted, TokenError>,
        memory: &mut Memory,
    ) -> Step {
        let lease = self.lease.take();
        let granted = match result {
            Ok(granted) => granted,
            Err(error) => return Step::Done(Box::new(Err(error)), lease.map(After::Leave)),
        };
        memory.hand(
            at.now,
            Handed {
                tag: granted.tag,
                text: granted.grant.text().clone(),
                id: lease.map(|lease| lease.id),
                ends: self.sent + granted.life,
                entry_ends: lease.map_or(0, |lease| lease.asked + super::micros(granted.life)),
            },
        );
        let grant = match granted.grant.life() {
            Some(life) => granted.grant.clone().expires_in(life.saturating_add(self.waited())),
            None => granted.grant.clone(),
        };
        // What was asked for before a revocation began here is for nobody else.
        let may_share = granted.can_share && self.burials == memory.burials;
        let after = lease.map(|lease| {
            if may_share { After::Put(lease, Box::new(granted)) } else { After::Leave(lease) }
        });
        Step::Done(Box::new(Ok(grant)), after)
    }
}

fn done(result: Result<Grant, TokenError>) -> Step {
    Step::Done(Box::new(result), None)
}

/// How long others are waited for, so that there is time for a grant of one's own.
fn patience(timeout: Duration) -> Duration {
    LEASE.min(timeout / 3)
}

/// For the exploration, which tells situations apart and takes rules out.
#[cfg(test)]
pub(crate) struct Facts<'a> {
    pub(crate) began: Instant,
    pub(crate) looks_last: bool,
    pub(crate) holder: Option<Id>,
    pub(crate) late: Option<Id>,
    pub(crate) bad: &'a [[u8; 16]],
    pub(crate) sent: Instant,
    pub(crate) burials: u64,
}

#[cfg(test)]
impl Round {
    pub(crate) fn facts(&self) -> Facts<'_> {
        let Self { began, looks_last, holder, late, ref bad, sent, burials, .. } = *self;
        Facts { began, looks_last, holder, late, bad, sent, burials }
    }
}

#[cfg(test)]
impl Wanted {
    pub(crate) fn take_over_nothing(&mut self) {
        self.seen = None;
    }
}
