//! A few replicas, one slot and everything that can go wrong with them, tried in every order: the real
//! [`Round`], [`Memory`] and [`Content`], with a session, an authorization server and a network as plain as
//! can be around them.
//!
//! Time is counted in ticks of 1.5 s: a lease lasts for two, a token for four. No horizon: what has ended is
//! forgotten, so leases and lives run out after every fault. In *prompt* time a replica that is neither
//! stopped nor cut off does at once what it can, and looks once a tick while it waits: that shows liveness. In
//! *lazy* time, where two ticks pass at once, any replica may stand still between any two steps: that shows
//! safety.
//!
//! | file | what it has |
//! |---|---|
//! | `rounds.rs`, `calls.rs` | the session around a round, and the store that it calls |
//! | `turns.rs`, `faults.rs`, `time.rs` | what can happen next: as it should, as it should not, and when time passes |
//! | `prints.rs`, `search.rs` | when two situations are one, and the search itself |
//! | `scopes.rs` | what is searched, and what it shows |
//!
//! Not in it: sealing (a changed entry is one that does not open), the breaker, several slots, more than one
//! write lost in a failover, a request of a killed process that still arrives.

mod calls;
mod faults;
mod prints;
mod rounds;
mod scopes;
mod search;
mod time;
mod turns;

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::store::contract::{Found, Id, LEASE, Record, Sealed, StoreError, Tag, Want};
use crate::store::memory::Memory;
use crate::store::micros;
use crate::store::round::{
    After, Asked, Granted, Input, Lease, Look, Moment, Opened, Round, Seen, Step, Wanted,
};
use crate::store::script::{Content, HEADER, Header, Key};

/// Half a lease.
const TICK: Duration = Duration::from_millis(1_500);
/// By then a healthy server has answered, and the attempt of a broken route has failed.
const GRANT: u64 = 1;
const ATTEMPT: u64 = 5;
/// For how many ticks a replica waits for others.
const PATIENCE: u64 = 2;
/// Tokens that may be known at a time.
const TOKENS: usize = 5;
const START: u64 = 1_000_000;

/// What a search explores.
#[derive(Clone, Copy)]
struct Scope {
    replicas: usize,
    prompt: bool,
    one_live_token: bool,
    /// How many ticks pass at once.
    pace: u64,
    /// In ticks.
    life: u64,
    tokens: usize,
    faults: u8,
    kinds: &'static [Kind],
    /// By how many ticks the store's clock steps.
    step: u64,
    revokes: u8,
    refreshes: u8,
    false_401s: u8,
    /// Rules taken out.
    off: &'static [Rule],
    /// Whether two requests at once are a violation.
    one_request: bool,
    /// A lease that is forged anew before each look.
    held_lease: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    Empty,
    Rollback,
    Down,
    /// A take is done, and its answer comes too late.
    Late,
    Notice,
    Stop,
    Route,
    Clock,
    Forge,
}

/// What the code does, and why a search without it must find something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A refresh does not take an entry that the session has had.
    Have,
    /// What others revoked is sent to the server all the same.
    Unconfirmed,
    /// The slot's list of revocations is read.
    List,
    BuryLease,
    BuryEntry,
    /// What a burial removed will not do if it comes back.
    BuryIds,
    /// A burial that failed comes before the next take.
    Owed,
    /// Only the holder of the lease puts.
    PutNeedsLease,
    Patience,
    /// The last look takes the lease over.
    TakeOver,
    /// A lease without an end, or with one too far off, is free.
    LeaseCap,
    /// An entry asked for in the future is no entry.
    AskedCheck,
    /// Its life counts from when it was asked for.
    FromAsked,
    /// What was revoked while the answer was on its way counts.
    Recheck,
    /// All that is marked is refused, not only the last.
    Marked,
    /// The session has its token before it is put.
    HandOverFirst,
}

const LAZY: Scope = Scope {
    replicas: 2,
    prompt: false,
    one_live_token: false,
    pace: 2,
    life: 4,
    tokens: 2,
    faults: 0,
    kinds: &[],
    step: 0,
    revokes: 1,
    refreshes: 0,
    false_401s: 0,
    off: &[],
    one_request: false,
    held_lease: false,
};
const PROMPT: Scope = Scope { prompt: true, pace: 1, tokens: TOKENS, ..LAZY };

#[derive(Clone, Copy, PartialEq, Eq)]
struct Token {
    serial: u64,
    born: u64,
    /// The replicas that had not revoked anything yet when it was asked for.
    after: u8,
    dead: bool,
    /// Asked for at, id: as it was once put.
    put: Option<(u64, Id)>,
}

#[derive(Clone)]
enum Doing {
    Bury,
    Take(Box<Wanted>),
    /// The store has answered, and the answer is on its way.
    Answered(Box<Look>),
    /// `true`: has looked in this tick.
    Wait(bool),
    Ask {
        lease: Option<Lease>,
        since: u64,
        after: u8,
    },
    /// Without `HandOverFirst`.
    HandOver {
        token: usize,
        end: u64,
    },
    /// The attempt has failed.
    Rest,
}

#[derive(Clone)]
struct Attempt {
    round: Round,
    doing: Doing,
    replaces: bool,
    /// Tokens that the session had refused or marked when it began.
    refused: u8,
    /// Whether the store's list named the token when it answered, and, without `Recheck`, what was known then.
    is_listed: bool,
    known: Option<Box<Memory>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Revoke {
    None,
    Bury,
    Send,
    Done,
}

#[derive(Clone)]
struct Replica {
    memory: Memory,
    attempt: Option<Box<Attempt>>,
    put: Option<(usize, Lease)>,
    held: Option<usize>,
    end: u64,
    ledger: u8,
    marked: u8,
    refused: u8,
    /// Of which the session was told.
    told: u8,
    /// On their way.
    notices: Vec<(usize, u64)>,
    revoke: Revoke,
    /// It had a token to revoke: of one that has none, nobody hears.
    has_buried: bool,
    /// An attempt was under way when the revoke began.
    before: bool,
    is_linked: bool,
    has_route: bool,
    is_stopped: bool,
    /// For how many ticks it has been without a token.
    need: u64,
}

/// A situation. What follows on it has most of it unchanged, and shares that.
#[derive(Clone)]
struct World {
    replicas: Vec<Arc<Replica>>,
    /// In the order of their births.
    tokens: Arc<[Option<Token>; TOKENS]>,
    store: Arc<Content>,
    /// What it held before the last write.
    before: Arc<Content>,
    is_up: bool,
    /// In ticks, of the replicas and of the store.
    now: u64,
    clock: u64,
    /// Of a token.
    life: u64,
    serials: u64,
    ids: u64,
    faults: u8,
    revokes: u8,
    refreshes: u8,
    false_401s: u8,
    is_forged: bool,
    /// By how many ticks the store's clock has stepped back.
    stepped: u64,
}

type Label = (Option<usize>, &'static str);
type Verdict = Result<(), &'static str>;
type Judged<T = ()> = Result<T, (Label, &'static str)>;
type Next = Vec<(Label, World)>;

fn bit(nth: usize) -> u8 {
    1 << nth
}

fn has(mask: u8, nth: usize) -> bool {
    mask & bit(nth) != 0
}

fn store_time(ticks: u64) -> u64 {
    micros(TICK) * ticks
}

fn tag(serial: u64) -> Tag {
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&serial.to_be_bytes());
    tag[8] = 1;
    Tag(tag)
}

fn grant(serial: u64) -> Grant {
    Grant::bearer(format!("t{serial}")).expect("it is a token")
}

fn serial_of(text: &TokenText) -> u64 {
    text.expose()[1..].parse().unwrap_or(0)
}

/// With a body that opens.
fn entry(asked: u64, life: u64, serial: u64, id: Id, body: u8) -> Vec<u8> {
    let mut entry = vec![1];
    entry.extend(asked.to_be_bytes());
    entry.extend(life.to_be_bytes());
    entry.extend(tag(serial).0);
    entry.extend(id.0);
    entry.push(body);
    entry
}

fn record(tag: Tag, end: u64) -> Record {
    let mut record = [0; 40];
    record[..16].copy_from_slice(&tag.0);
    record[16..24].copy_from_slice(&end.to_be_bytes());
    Record(record)
}

/// Who can write to the store, and is no replica.
const FORGER: Id = Id([255; 16]);
const OPENS: u8 = 1;

impl Scope {
    fn on(&self, rule: Rule) -> bool {
        !self.off.contains(&rule)
    }

    fn can(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn life(&self) -> Duration {
        TICK * u32::try_from(self.life).unwrap_or(1)
    }

    /// Whether a replica waits for others until its attempt times out.
    fn waits_on(&self) -> bool {
        self.one_live_token || !self.on(Rule::Patience)
    }

    /// So that the patience is as long as a lease; without it there is no end to it.
    fn timeout(&self) -> Duration {
        if self.on(Rule::Patience) { LEASE * 3 } else { LEASE * 1_000 }
    }
}

impl Replica {
    fn new() -> Self {
        Self {
            memory: Memory::default(),
            attempt: None,
            put: None,
            held: None,
            end: 0,
            ledger: 0,
            marked: 0,
            refused: 0,
            told: 0,
            notices: Vec::new(),
            revoke: Revoke::None,
            has_buried: false,
            before: false,
            is_linked: true,
            has_route: true,
            is_stopped: false,
            need: 0,
        }
    }

    fn is_usable(&self, now: u64) -> bool {
        self.held.is_some() && self.end > now
    }

    /// Whether its session may open an attempt.
    fn may_ask(&self) -> bool {
        self.attempt.is_none() && matches!(self.revoke, Revoke::None | Revoke::Done)
    }

    fn doing(&self) -> Option<&Doing> {
        self.attempt.as_ref().map(|attempt| &attempt.doing)
    }

    fn do_next(&mut self, doing: Doing) {
        if let Some(attempt) = &mut self.attempt {
            attempt.doing = doing;
        }
    }

    fn drop_held(&mut self) {
        self.refused = self.held.take().map_or(self.refused, bit);
        self.end = 0;
    }
}

impl World {
    fn new(scope: &Scope) -> Self {
        Self {
            replicas: (0..scope.replicas).map(|_| Arc::new(Replica::new())).collect(),
            tokens: Arc::new([None; TOKENS]),
            store: Arc::default(),
            before: Arc::default(),
            is_up: true,
            now: START,
            clock: START,
            life: scope.life,
            serials: 0,
            ids: 0,
            faults: scope.faults,
            revokes: scope.revokes,
            refreshes: scope.refreshes,
            false_401s: scope.false_401s,
            is_forged: false,
            stepped: 0,
        }
    }

    fn moment(&mut self) -> Moment {
        self.ids += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.ids.to_be_bytes());
        Moment { now: at(self.now), random: 0.5, id: Id(id) }
    }

    fn replica(&mut self, nth: usize) -> &mut Replica {
        Arc::make_mut(&mut self.replicas[nth])
    }

    fn tokens(&mut self) -> &mut [Option<Token>; TOKENS] {
        Arc::make_mut(&mut self.tokens)
    }

    fn token_of(&self, tag_wanted: Tag) -> Option<usize> {
        self.tokens.iter().position(|token| token.is_some_and(|it| tag(it.serial) == tag_wanted))
    }

    fn serial(&self, token: usize) -> u64 {
        self.tokens[token].map_or(0, |token| token.serial)
    }

    fn is_dead(&self, token: usize) -> bool {
        self.tokens[token].is_some_and(|token| token.dead)
    }

    fn store_now(&self) -> u64 {
        store_time(self.clock)
    }

    fn may_yet(&self, scope: &Scope, kind: Kind) -> bool {
        self.faults > 0 && scope.can(kind)
    }

    /// By how many ticks the store's clock may yet step back.
    fn may_step(&self, scope: &Scope) -> u64 {
        if scope.can(Kind::Clock) { scope.step * u64::from(self.faults) } else { 0 }
    }

    /// When a token is over for every clock.
    fn long(&self, scope: &Scope) -> u64 {
        scope.life + self.stepped + self.may_step(scope)
    }

    fn revoking(&self) -> u8 {
        let revoking = self.replicas.iter().enumerate().filter(|(_, it)| it.revoke != Revoke::None);
        revoking.fold(0, |mask, (nth, _)| mask | bit(nth))
    }

    /// What a failover may lose is the last write.
    fn write<T>(&mut self, change: impl FnOnce(&mut Content, u64) -> T) -> T {
        let (before, now) = (Arc::clone(&self.store), self.store_now());
        let result = change(Arc::make_mut(&mut self.store), now);
        if self.store == before {
            self.store = before;
        } else {
            self.before = before;
        }
        result
    }
}

fn at(ticks: u64) -> Instant {
    Instant::ZERO + TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// In ticks.
fn round_began(attempt: &Attempt, now: u64) -> u64 {
    now - ticks(at(now).since(attempt.round.facts().began))
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX)
}
