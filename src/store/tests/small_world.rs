//! A few replicas, one slot and everything that can go wrong with them, tried in every order: the real
//! [`Round`], [`Memory`] and [`Content`], with a session, an authorization server and a network as plain as
//! can be around them.
//!
//! Time is counted in ticks of 1.5 s: a lease lasts for two, a token for four (or less). No horizon: what has
//! ended is forgotten, so leases and lives run out after every fault. In *prompt* time a replica that is
//! neither stopped nor cut off does at once what it can, and looks once a tick while it waits: that shows
//! liveness. In *lazy* time any replica may stand still between any two steps: that shows safety.
//!
//! Not in it: sealing (a changed entry is one that does not open), the breaker, several slots, more than one
//! write lost in a failover, a request of a killed process that still arrives.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant as Stopwatch};

use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::store::contract::{Found, Id, LEASE, Record, Sealed, StoreError, Tag};
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
    life: 2,
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
const PROMPT: Scope = Scope { prompt: true, life: 4, tokens: TOKENS, ..LAZY };

#[derive(Clone, Copy, Hash, PartialEq, Eq)]
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
    /// What was known when the store answered, and whether its list named the token.
    known: Memory,
    is_listed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Revoke {
    None,
    Bury,
    Send,
    Done,
}

#[derive(Clone)]
struct Replica {
    memory: Memory,
    attempt: Option<Attempt>,
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

#[derive(Clone)]
struct World {
    replicas: Vec<Replica>,
    tokens: [Option<Token>; TOKENS],
    store: Content,
    before: Content,
    is_up: bool,
    /// In ticks, of the replicas and of the store.
    now: u64,
    clock: u64,
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

    /// When a token is over for every clock.
    fn long(&self) -> u64 {
        self.life + self.step
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

    fn drop_held(&mut self) {
        self.refused = self.held.take().map_or(self.refused, bit);
        self.end = 0;
    }
}

impl World {
    fn new(scope: &Scope) -> Self {
        Self {
            replicas: vec![Replica::new(); scope.replicas],
            tokens: [None; TOKENS],
            store: Content::default(),
            before: Content::default(),
            is_up: true,
            now: START,
            clock: START,
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

    fn revoking(&self) -> u8 {
        let revoking = self.replicas.iter().enumerate().filter(|(_, it)| it.revoke != Revoke::None);
        revoking.fold(0, |mask, (nth, _)| mask | bit(nth))
    }

    /// What a failover may lose is the last write.
    fn write<T>(&mut self, change: impl FnOnce(&mut Content, u64) -> T) -> T {
        let (before, now) = (self.store.clone(), self.store_now());
        let result = change(&mut self.store, now);
        if self.store != before {
            self.before = before;
        }
        result
    }

    // Steps of a round

    fn begin(&mut self, nth: usize, scope: &Scope, replaces: bool) -> Verdict {
        let at = self.moment();
        let replica = &self.replicas[nth];
        let known = if scope.on(Rule::Marked) { replica.marked } else { 0 };
        let refused = replica.refused | known;
        let not = (0..TOKENS).filter(|token| has(refused, *token));
        let asked = Asked {
            replaces: replaces && scope.on(Rule::Have),
            timeout: scope.timeout(),
            least_life: Duration::ZERO,
            buffer: Duration::ZERO,
            not: not.map(|token| tag(self.serial(token)).0).collect(),
            one_live_token: scope.one_live_token || !scope.on(Rule::Patience),
        };
        let replica = &mut self.replicas[nth];
        let round = Round::new(asked, &at, &mut replica.memory);
        let known = Memory::default();
        replica.attempt =
            Some(Attempt { round, doing: Doing::Bury, replaces, refused, known, is_listed: false });
        self.go_on(nth, scope, Input::Start)
    }

    /// Tells the round, and does what it says as far as it is done by itself.
    fn go_on(&mut self, nth: usize, scope: &Scope, input: Input) -> Verdict {
        let at = self.moment();
        let replica = &mut self.replicas[nth];
        let Some(attempt) = &mut replica.attempt else { return Ok(()) };
        let owed = (!scope.on(Rule::Owed)).then(|| replica.memory.owes());
        if owed == Some(true) {
            replica.memory.forget_owed();
        }
        let step = attempt.round.next(&at, input, &mut replica.memory);
        self.hear_news(nth);
        let after = self.revoking();
        let doing = match step {
            Step::Bury => Doing::Bury,
            Step::Take(wanted) => Doing::Take(Box::new(wanted)),
            Step::Wait(_) => Doing::Wait(true),
            Step::Grant(lease) => Doing::Ask { lease, since: self.now, after },
            Step::Done(result, then) => {
                if let Some(After::Leave(lease)) = then
                    && self.is_up
                {
                    self.write(|store, now| store.leave(now, &lease.id));
                }
                return self.done(nth, scope, *result, then);
            }
        };
        if let Some(attempt) = &mut self.replicas[nth].attempt {
            attempt.doing = doing;
        }
        Ok(())
    }

    fn done(
        &mut self,
        nth: usize,
        scope: &Scope,
        result: Result<Grant, TokenError>,
        then: Option<After>,
    ) -> Verdict {
        let now = self.now;
        let given = result.as_ref().map_or(0, |grant| serial_of(grant.text()));
        let token = self.token_of(tag(given));
        let replica = &mut self.replicas[nth];
        let Some(attempt) = &mut replica.attempt else { return Ok(()) };
        let number = attempt.round.attempt();
        let Ok(grant) = result else {
            replica.memory.end_attempt(number);
            attempt.doing = Doing::Rest;
            replica.before = false;
            return Ok(());
        };
        let (replaces, own) = (attempt.replaces, then.is_some());
        let Some(token) = token else { return Err("a token of nobody's") };
        let left = grant.life().unwrap_or_default().as_nanos().div_ceil(TICK.as_nanos());
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        let sent = match attempt.doing {
            Doing::Ask { since, .. } => since,
            _ => round_began(attempt, now),
        };
        let end = sent + left;
        if let Some(After::Put(lease, _)) = then {
            replica.put = Some((token, lease));
        }
        let is_direct = matches!(attempt.doing, Doing::Ask { lease: None, .. });
        if own && !is_direct && !scope.on(Rule::HandOverFirst) {
            attempt.doing = Doing::HandOver { token, end };
            return Ok(());
        }
        replica.memory.end_attempt(number);
        replica.attempt = None;
        self.adopt(nth, token, end, own || is_direct, replaces)
    }

    /// The session gets a token.
    fn adopt(&mut self, nth: usize, token: usize, end: u64, own: bool, replaces: bool) -> Verdict {
        let (now, stepped, is_forged) = (self.now, self.stepped, self.is_forged);
        let Some(facts) = self.tokens[token] else { return Err("a token of nobody's") };
        let replica = &mut self.replicas[nth];
        replica.ledger |= bit(token);
        if replica.before {
            // It was on the wire when the revoke began: it is revoked too, before that is over.
            replica.marked |= bit(token);
            replica.before = false;
            replica.revoke = Revoke::Bury;
            return Ok(());
        }
        let is_alive = end > now;
        let has_revoked = matches!(replica.revoke, Revoke::Send | Revoke::Done);
        let has_revoked = has_revoked && replica.has_buried;
        if is_alive && has_revoked && !is_forged && !has(facts.after, nth) {
            return Err("S1: after its revoke a replica takes a token that was asked for before");
        }
        if has(replica.marked, token) {
            return Err("S2: a replica takes a token that it has revoked");
        }
        if has(replica.told, token) {
            return Err("S3: a replica takes a token after it was told of its revocation");
        }
        let age = now - facts.born;
        if is_alive && end > facts.born + LIFE.get() + stepped.min(age) {
            return Err("S4: a token is believed to live longer than it does");
        }
        if !own && replaces && replica.held == Some(token) {
            return Err("S5: a refresh gives the token that it should replace");
        }
        replica.held = Some(token);
        replica.end = end;
        replica.need = 0;
        Ok(())
    }

    /// What the round learnt of its session's tokens.
    fn hear_news(&mut self, nth: usize) {
        let news = std::mem::take(&mut self.replicas[nth].memory.news);
        for (text, _) in news {
            let Some(token) = self.token_of(tag(serial_of(&text))) else { continue };
            let replica = &mut self.replicas[nth];
            replica.ledger |= bit(token);
            replica.marked |= bit(token);
            replica.told |= bit(token);
            if replica.held == Some(token) {
                replica.drop_held();
            }
        }
    }

    // Calls of the store

    fn take(&mut self, nth: usize, scope: &Scope, mut wanted: Wanted) -> Result<Found, Verdict> {
        if scope.held_lease {
            let ends = Some(self.store_now() + micros(LEASE));
            self.store.lease = Some(Key { value: FORGER.0.to_vec(), ends });
        }
        if !self.is_up {
            let verdict = self.go_on(nth, scope, Input::Took(Err(StoreError::TimedOut)));
            return Err(verdict);
        }
        if !scope.on(Rule::TakeOver) {
            wanted.take_over_nothing();
        }
        let asked_check = scope.on(Rule::AskedCheck);
        let lease_cap = scope.on(Rule::LeaseCap);
        let list = scope.on(Rule::List);
        let taken = self.write(|store, now| {
            if let Some(lease) = store.lease.as_mut().filter(|_| !lease_cap)
                && lease.ends.is_none_or(|ends| ends > now)
            {
                lease.ends = Some(now + micros(LEASE));
            }
            let whole = store.entry.clone();
            if let Some(key) = store.entry.as_mut().filter(|_| !asked_check)
                && let Some(header) = Header::of(&key.value).filter(|it| it.asked > now)
            {
                let life = header.life + (header.asked - now);
                key.value[1..9].copy_from_slice(&now.to_be_bytes());
                key.value[9..17].copy_from_slice(&life.to_be_bytes());
            }
            let taken = store.take(now, &wanted.want());
            if store.entry.is_some() {
                store.entry = whole;
            }
            taken
        });
        let records = taken.revoked.chunks_exact(40);
        let revoked: Vec<(Tag, u64)> = records
            .filter(|record| crate::store::script::is_in_force(record, taken.now.0))
            .filter_map(|record| {
                let (tag, end) = (record[..16].try_into().ok()?, record[16..24].try_into().ok()?);
                Some((Tag(tag), u64::from_be_bytes(end)))
            })
            .collect();
        let found = match &taken.found {
            Found::Entry(sealed) => self.open(nth, sealed),
            Found::Leased => Seen::Leased,
            Found::Busy(id) => Seen::Busy(*id),
            Found::None => Seen::None,
        };
        let listed = if list { revoked.clone() } else { Vec::new() };
        let is_listed = match &found {
            Seen::Entry(entry) => revoked.iter().any(|(tag, _)| *tag == entry.tag),
            _ => false,
        };
        let look = Look { now: taken.now.0, revoked: listed, found };
        if matches!(taken.found, Found::Entry(_)) {
            let replica = &mut self.replicas[nth];
            if let Some(attempt) = &mut replica.attempt {
                attempt.known = replica.memory.clone();
                attempt.is_listed = is_listed;
                attempt.doing = Doing::Answered(Box::new(look));
            }
            return Ok(taken.found);
        }
        Err(self.go_on(nth, scope, Input::Took(Ok(look))))
    }

    fn open(&self, nth: usize, sealed: &Sealed) -> Seen {
        let Some(header) = Header::of(&sealed.0) else { return Seen::Forged(Tag([0; 16])) };
        let tag = Tag(header.tag);
        let token = self.token_of(tag).filter(|_| sealed.0[HEADER..] == [OPENS]);
        let Some(token) = token else { return Seen::Forged(tag) };
        let refused = self.replicas[nth].attempt.as_ref().map_or(0, |attempt| attempt.refused);
        Seen::Entry(Box::new(Opened {
            asked: header.asked,
            life: header.life,
            tag,
            id: Id(header.id),
            grant: grant(self.serial(token)),
            is_refused: has(refused, token),
        }))
    }

    fn use_answer(&mut self, nth: usize, scope: &Scope, look: Look) -> Verdict {
        let entry = match &look.found {
            Seen::Entry(entry) => Some(entry.tag),
            _ => None,
        };
        let is_listed = self.replicas[nth].attempt.as_ref().is_some_and(|it| it.is_listed);
        if !scope.on(Rule::Recheck) {
            // It decides by what was known when the store answered.
            let replica = &mut self.replicas[nth];
            if let Some(attempt) = &replica.attempt {
                replica.memory = attempt.known.clone();
            }
        }
        let held = self.replicas[nth].held;
        self.go_on(nth, scope, Input::Took(Ok(look)))?;
        let now_held = self.replicas[nth].held;
        if is_listed && now_held != held && now_held == entry.and_then(|tag| self.token_of(tag)) {
            return Err("S6: a replica takes a token that the slot's list calls revoked");
        }
        if !scope.on(Rule::Marked)
            && let Some(token) = now_held.filter(|token| Some(*token) != held)
            && has(self.replicas[nth].marked, token)
        {
            return Err("S7: the store makes an attempt fail");
        }
        Ok(())
    }

    fn bury(&mut self, nth: usize, scope: &Scope) {
        let owed: Vec<_> = self.replicas[nth].memory.owed().collect();
        for owed in owed {
            let left = owed.ends.since(at(self.now));
            let end = (self.store_now() + micros(left)).max(owed.entry_ends);
            let (entry, lease) = (scope.on(Rule::BuryEntry), scope.on(Rule::BuryLease));
            let gone = self.write(|store, now| {
                let (old_entry, old_lease) = (store.entry.clone(), store.lease.clone());
                let mut gone = store.bury(now, &record(owed.tag, end));
                let is_its_own = old_entry.as_ref().and_then(|key| Header::of(&key.value));
                if !entry && is_its_own.is_none_or(|it| Tag(it.tag) != owed.tag) {
                    store.entry = old_entry;
                    gone.entry = None;
                }
                if !lease {
                    store.lease = old_lease;
                    gone.lease = None;
                }
                gone
            });
            let gone = if scope.on(Rule::BuryIds) { gone } else { crate::store::Buried::default() };
            self.replicas[nth].memory.buried(owed.tag, end, gone);
            let Some(token) = self.token_of(owed.tag) else { continue };
            for (other, replica) in self.replicas.iter_mut().enumerate() {
                if other != nth && replica.is_linked && !has(replica.told, token) {
                    replica.notices.retain(|(already, _)| *already != token);
                    replica.notices.push((token, end));
                }
            }
        }
    }

    fn publish(&mut self, nth: usize, scope: &Scope) {
        let Some((token, lease)) = self.replicas[nth].put.take() else { return };
        if !self.is_up || self.tokens[token].is_none() {
            return;
        }
        let asked = if scope.on(Rule::FromAsked) { lease.asked } else { self.store_now() };
        let sealed =
            Sealed(entry(asked, micros(scope.life()), self.serial(token), lease.id, OPENS));
        let needs_lease = scope.on(Rule::PutNeedsLease);
        let is_put = self.write(|store, now| {
            let holder = store.lease.clone();
            if !needs_lease {
                store.lease = Some(Key { value: lease.id.0.to_vec(), ends: Some(now + 1) });
            }
            let is_put = store.put(now, &lease.id, &sealed);
            if !needs_lease && holder.as_ref().is_some_and(|key| key.value != lease.id.0) {
                store.lease = holder;
            }
            is_put
        });
        if let Some(facts) =
            self.tokens[token].as_mut().filter(|_| is_put && scope.can(Kind::Forge))
        {
            facts.put = Some((asked, lease.id));
        }
    }

    // What can happen

    fn next(
        &self,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<(), (Label, &'static str)> {
        let mut is_urgent = false;
        for nth in 0..self.replicas.len() {
            if self.replicas[nth].is_stopped {
                self.then(out, (Some(nth), "goes on"), |it| {
                    it.replicas[nth].is_stopped = false;
                    Ok(())
                })?;
                continue;
            }
            let before = out.len();
            self.must(nth, scope, out)?;
            is_urgent |= out.len() > before;
            is_urgent |= self.server_answers(nth, scope, out)?;
            is_urgent |= self.may(nth, scope, out)?;
        }
        self.faults_of_the_store(scope, out)?;
        if !self.is_up {
            self.then(out, (None, "the store is up"), |it| {
                it.is_up = true;
                Ok(())
            })?;
        }
        if !(scope.prompt && is_urgent) {
            self.then(out, (None, "tick"), |it| it.tick(scope))?;
        }
        for (label, next) in out.iter_mut() {
            let asks = next
                .replicas
                .iter()
                .filter(|it| matches!(&it.attempt, Some(Attempt { doing: Doing::Ask { .. }, .. })));
            if scope.one_request && asks.count() > 1 {
                return Err((*label, "G: two requests are on the wire at once"));
            }
            next.tidy(scope);
        }
        Ok(())
    }

    fn then(
        &self,
        out: &mut Vec<(Label, World)>,
        label: Label,
        change: impl FnOnce(&mut World) -> Verdict,
    ) -> Result<(), (Label, &'static str)> {
        let mut next = self.clone();
        change(&mut next).map_err(|why| (label, why))?;
        out.push((label, next));
        Ok(())
    }

    /// In prompt time, before the next tick.
    fn must(
        &self,
        nth: usize,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<(), (Label, &'static str)> {
        let replica = &self.replicas[nth];
        let me = Some(nth);
        match replica.attempt.as_ref().map(|attempt| &attempt.doing) {
            None if replica.may_ask() && !replica.is_usable(self.now) => {
                self.then(out, (me, "asks"), |it| it.begin(nth, scope, false))?;
            }
            Some(Doing::Bury) => self.then(out, (me, "tells the store what it owes"), |it| {
                if it.is_up {
                    it.bury(nth, scope);
                    it.go_on(nth, scope, Input::Buried(Ok(())))
                } else {
                    it.go_on(nth, scope, Input::Buried(Err(StoreError::TimedOut)))
                }
            })?,
            Some(Doing::Take(wanted)) => {
                let wanted = Wanted::clone(wanted);
                self.then(out, (me, "looks"), |it| {
                    it.take(nth, scope, wanted).err().unwrap_or(Ok(()))
                })?;
            }
            Some(Doing::Answered(look)) => {
                let look = Look::clone(look);
                self.then(out, (me, "uses what the store gave"), |it| {
                    it.use_answer(nth, scope, look)
                })?;
            }
            Some(Doing::Wait(has_looked)) if !(scope.prompt && *has_looked) => {
                self.then(out, (me, "has waited"), |it| it.go_on(nth, scope, Input::Waited))?;
            }
            Some(Doing::HandOver { token, end }) if replica.put.is_none() => {
                let (token, end) = (*token, *end);
                self.then(out, (me, "uses its own"), |it| {
                    let replica = &mut it.replicas[nth];
                    if has(replica.marked | replica.told, token) && !replica.before {
                        return Err("S10: a token just granted is turned away");
                    }
                    replica.attempt = None;
                    it.adopt(nth, token, end, true, false)
                })?;
            }
            _ => {}
        }
        if replica.put.is_some() {
            self.then(out, (me, "publishes"), |it| {
                it.publish(nth, scope);
                Ok(())
            })?;
        }
        self.revoke_goes_on(nth, scope, out)?;
        if let Some(token) =
            replica.held.filter(|token| replica.is_usable(self.now) && self.is_dead(*token))
            && replica.revoke != Revoke::Bury
        {
            let _ = token;
            self.then(out, (me, "meets a 401"), |it| {
                it.replicas[nth].drop_held();
                Ok(())
            })?;
        }
        for (at, (token, _)) in replica.notices.iter().enumerate() {
            let token = *token;
            self.then(out, (me, "hears of a revocation"), |it| {
                let (_, end) = it.replicas[nth].notices.remove(at);
                it.hear(nth, token, end);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn hear(&mut self, nth: usize, token: usize, end: u64) {
        let (now, serial) = (at(self.now), self.serial(token));
        let replica = &mut self.replicas[nth];
        replica.told |= bit(token);
        replica.memory.learn(now, tag(serial), end);
        self.hear_news(nth);
    }

    fn revoke_goes_on(
        &self,
        nth: usize,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<(), (Label, &'static str)> {
        let replica = &self.replicas[nth];
        match replica.revoke {
            Revoke::Bury => self.then(out, (Some(nth), "buries what it revokes"), |it| {
                let marked = it.replicas[nth].marked;
                for token in (0..TOKENS).filter(|token| has(marked, *token)) {
                    let text = grant(it.serial(token));
                    it.replicas[nth].has_buried |= it.replicas[nth].memory.revoke(text.text());
                }
                if it.is_up {
                    it.bury(nth, scope);
                }
                it.replicas[nth].revoke = Revoke::Send;
                Ok(())
            }),
            Revoke::Send => {
                let label = (Some(nth), "revokes at the server");
                let kept = if scope.on(Rule::Unconfirmed) { 0 } else { replica.told };
                let sent = replica.marked & !kept;
                let is_new = (0..TOKENS).any(|token| {
                    has(sent, token) && self.tokens[token].is_some_and(|token| !token.dead)
                });
                if replica.before && !is_new {
                    return Ok(());
                }
                self.then(out, label, |it| {
                    for (token, facts) in it.tokens.iter_mut().enumerate() {
                        if let Some(facts) = facts.as_mut().filter(|_| has(sent, token)) {
                            facts.dead = true;
                        }
                    }
                    let (now, life) = (it.now, scope.life);
                    let replica = &mut it.replicas[nth];
                    if replica.before {
                        return Ok(());
                    }
                    replica.revoke = Revoke::Done;
                    replica.need = 0;
                    let lives = it.tokens.iter().enumerate().any(|(token, facts)| {
                        has(replica.marked, token)
                            && facts.is_some_and(|it| !it.dead && now - it.born < life)
                    });
                    if lives {
                        Err("S8: a revoke is answered, and a token of its own lives")
                    } else {
                        Ok(())
                    }
                })
            }
            Revoke::None | Revoke::Done => Ok(()),
        }
    }

    /// Whether it has to, before the next tick.
    fn server_answers(
        &self,
        nth: usize,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<bool, (Label, &'static str)> {
        let replica = &self.replicas[nth];
        let Some(Attempt { doing: Doing::Ask { lease, since, after }, .. }) = &replica.attempt
        else {
            return Ok(false);
        };
        let (lease, waited, after) = (*lease, self.now - since, *after);
        if let Some(lease) = lease.filter(|_| !scope.prompt && self.is_up) {
            let mut next = self.clone();
            if next.write(|store, now| store.renew(now, &lease.id)) && next.store != self.store {
                out.push(((Some(nth), "renews"), next));
            }
        }
        if !replica.has_route {
            if waited < ATTEMPT {
                return Ok(false);
            }
            self.then(out, (Some(nth), "fails: its route is broken"), |it| {
                it.go_on(nth, scope, Input::Granted(Err(TokenError::timed_out(TICK))))
            })?;
            return Ok(true);
        }
        let Some(free) = (0..scope.tokens).find(|token| self.tokens[*token].is_none()) else {
            return Ok(false);
        };
        self.then(out, (Some(nth), "is granted"), |it| {
            it.serials += 1;
            let serial = it.serials;
            if scope.one_live_token {
                it.tokens.iter_mut().flatten().for_each(|token| token.dead = true);
            }
            it.tokens[free] = Some(Token { serial, born: it.now, after, dead: false, put: None });
            let granted = Granted {
                grant: grant(serial).expires_in(scope.life()),
                tag: tag(serial),
                life: scope.life(),
                can_share: true,
            };
            it.go_on(nth, scope, Input::Granted(Ok(granted)))
        })?;
        Ok(waited >= GRANT)
    }

    /// Whether it has to, before the next tick.
    fn may(
        &self,
        nth: usize,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<bool, (Label, &'static str)> {
        let replica = &self.replicas[nth];
        let (me, is_usable) = (Some(nth), replica.is_usable(self.now));
        if replica.may_ask() && is_usable && self.refreshes > 0 && replica.put.is_none() {
            self.then(out, (me, "refreshes"), |it| {
                it.refreshes -= 1;
                it.begin(nth, scope, true)
            })?;
        }
        if self.revokes > 0 && replica.revoke == Revoke::None && replica.ledger != 0 {
            self.then(out, (me, "begins to revoke"), |it| {
                it.revokes -= 1;
                let replica = &mut it.replicas[nth];
                replica.revoke = Revoke::Bury;
                replica.marked |= replica.ledger;
                let rests = matches!(&replica.attempt, Some(Attempt { doing: Doing::Rest, .. }));
                replica.before = replica.attempt.is_some() && !rests;
                replica.drop_held();
                Ok(())
            })?;
        }
        if let Some(token) = replica.held.filter(|_| is_usable && self.false_401s > 0)
            && !self.is_dead(token)
            && replica.revoke != Revoke::Bury
        {
            self.then(out, (me, "meets a false 401"), |it| {
                it.false_401s -= 1;
                it.replicas[nth].drop_held();
                Ok(())
            })?;
        }
        let mut is_urgent = false;
        if !replica.is_linked {
            is_urgent = self.is_up;
            self.then(out, (me, "is connected again"), |it| it.read_list(nth, scope))?;
        }
        self.faults_of_a_replica(nth, scope, out)?;
        Ok(is_urgent)
    }

    fn read_list(&mut self, nth: usize, scope: &Scope) -> Verdict {
        self.replicas[nth].is_linked = true;
        if !self.is_up {
            return Ok(());
        }
        let now = self.store_now();
        let listed = self.store.revoked.as_ref().map_or(Vec::new(), |key| key.value.clone());
        let records =
            listed.chunks_exact(40).filter(|it| crate::store::script::is_in_force(it, now));
        for record in records {
            let (Ok(named), Ok(end)) = (record[..16].try_into(), record[16..24].try_into()) else {
                continue;
            };
            let Some(token) = self.token_of(Tag(named)) else { continue };
            if scope.on(Rule::List) {
                self.hear(nth, token, u64::from_be_bytes(end));
            }
            let replica = &self.replicas[nth];
            let is_alive = self.tokens[token].is_some_and(|it| self.now - it.born < scope.life);
            if replica.held == Some(token) && replica.is_usable(self.now) && is_alive {
                return Err("S9: connected again, a replica still hands out what was revoked");
            }
        }
        Ok(())
    }

    // Faults

    fn fault(
        &self,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
        kind: Kind,
        label: Label,
        change: impl FnOnce(&mut World),
    ) -> Result<(), (Label, &'static str)> {
        if self.faults == 0 || !scope.can(kind) {
            return Ok(());
        }
        self.then(out, label, |it| {
            it.faults -= 1;
            change(it);
            Ok(())
        })
    }

    fn faults_of_a_replica(
        &self,
        nth: usize,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<(), (Label, &'static str)> {
        let (me, replica) = (Some(nth), &self.replicas[nth]);
        if replica.held.is_some() || replica.attempt.is_some() || replica.ledger != 0 {
            self.fault(scope, out, Kind::Kill, (me, "FAULT: killed, and started anew"), |it| {
                it.replicas[nth] = Replica::new();
                it.tokens.iter_mut().flatten().for_each(|token| token.after &= !bit(nth));
                for replica in &mut it.replicas {
                    if let Some(Attempt { doing: Doing::Ask { after, .. }, .. }) =
                        &mut replica.attempt
                    {
                        *after &= !bit(nth);
                    }
                }
            })?;
        }
        if !replica.notices.is_empty() {
            self.fault(scope, out, Kind::Notice, (me, "FAULT: notices are lost"), |it| {
                it.replicas[nth].notices.clear();
                it.replicas[nth].is_linked = false;
            })?;
        }
        let revokes = matches!(replica.revoke, Revoke::Bury | Revoke::Send);
        if scope.prompt && (replica.attempt.is_some() || replica.put.is_some() || revokes) {
            self.fault(scope, out, Kind::Stop, (me, "FAULT: stopped"), |it| {
                it.replicas[nth].is_stopped = true;
            })?;
        }
        if replica.has_route {
            self.fault(scope, out, Kind::Route, (me, "FAULT: its route breaks"), |it| {
                it.replicas[nth].has_route = false;
            })?;
        }
        Ok(())
    }

    fn faults_of_the_store(
        &self,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
    ) -> Result<(), (Label, &'static str)> {
        if self.store != Content::default() {
            self.fault(scope, out, Kind::Empty, (None, "FAULT: the store restarts empty"), |it| {
                it.write(|store, _| *store = Content::default());
            })?;
        }
        if self.before != self.store {
            let label = (None, "FAULT: a failover loses the last write");
            self.fault(scope, out, Kind::Rollback, label, |it| it.store = it.before.clone())?;
        }
        if self.is_up {
            self.fault(scope, out, Kind::Down, (None, "FAULT: the store is down"), |it| {
                it.is_up = false;
            })?;
        }
        let step = scope.step;
        self.fault(
            scope,
            out,
            Kind::Clock,
            (None, "FAULT: the store's clock steps ahead"),
            |it| {
                it.clock += step;
            },
        )?;
        self.fault(scope, out, Kind::Clock, (None, "FAULT: the store's clock steps back"), |it| {
            it.clock -= step;
            it.stepped += step;
        })?;
        if !scope.can(Kind::Forge) {
            return Ok(());
        }
        let now = self.store_now();
        for token in self.tokens.iter().flatten() {
            if let Some((asked, id)) =
                token.put.filter(|(asked, _)| *asked + micros(scope.life()) > now)
            {
                let value = entry(asked, micros(scope.life()), token.serial, id, OPENS);
                self.forge(scope, out, "FORGED: an earlier entry", true, |store| {
                    store.entry = Some(Key { value, ends: None });
                })?;
            }
        }
        for nth in 0..self.store.revoked.as_ref().map_or(0, |key| key.value.len() / 40) {
            self.forge(scope, out, "FORGED: a record is taken out", false, |store| {
                if let Some(list) = &mut store.revoked {
                    list.value.drain(40 * nth..40 * (nth + 1));
                }
            })?;
        }
        let value = entry(now, micros(scope.life()), 0, FORGER, 0);
        self.forge(scope, out, "FORGED: an entry that does not open", true, |store| {
            store.entry = Some(Key { value, ends: None });
        })?;
        for (name, ends) in [
            ("FORGED: a lease without an end", None),
            ("FORGED: a lease", Some(now + micros(LEASE))),
        ] {
            self.forge(scope, out, name, true, |store| {
                store.lease = Some(Key { value: FORGER.0.to_vec(), ends });
            })?;
        }
        Ok(())
    }

    fn forge(
        &self,
        scope: &Scope,
        out: &mut Vec<(Label, World)>,
        name: &'static str,
        counts: bool,
        change: impl FnOnce(&mut Content),
    ) -> Result<(), (Label, &'static str)> {
        self.fault(scope, out, Kind::Forge, (None, name), |it| {
            it.is_forged |= counts;
            it.write(|store, _| change(store));
        })
    }

    // Time

    fn tick(&mut self, scope: &Scope) -> Verdict {
        self.now += 1;
        self.clock += 1;
        let (now, is_up) = (self.now, self.is_up);
        let store_now = self.store_now();
        for replica in &mut self.replicas {
            match replica.attempt.as_mut().map(|attempt| &mut attempt.doing) {
                Some(Doing::Wait(has_looked)) => *has_looked = false,
                Some(Doing::Rest) => replica.attempt = None,
                // It is renewed each second.
                Some(Doing::Ask { lease: Some(lease), .. })
                    if scope.prompt && !replica.is_stopped && is_up =>
                {
                    let holder = self.store.lease.as_mut().filter(|key| key.value == lease.id.0);
                    if let Some(key) = holder.filter(|key| key.ends >= Some(store_now)) {
                        key.ends = Some(store_now + micros(LEASE));
                    }
                }
                _ => {}
            }
            let was_usable = replica.held.is_some() && replica.end >= now;
            let is_over = matches!(replica.revoke, Revoke::None | Revoke::Done);
            let is_healthy = !replica.is_stopped && replica.has_route && is_over;
            if scope.prompt && !was_usable && is_healthy && (is_up || !scope.one_live_token) {
                replica.need += 1;
            } else {
                replica.need = 0;
            }
            let bound =
                if scope.one_live_token { 2 * (PATIENCE + GRANT) } else { PATIENCE + GRANT };
            if replica.need > bound {
                return Err("L: a replica with a healthy route waits for too long");
            }
        }
        Ok(())
    }

    /// Forgets what can matter to nobody any more, so that situations come back to each other.
    fn tidy(&mut self, scope: &Scope) {
        let (now, long) = (self.now, scope.long());
        let gone = store_time(self.clock.saturating_sub(scope.step));
        for store in [&mut self.store, &mut self.before] {
            store.at(gone);
            let is_over =
                |key: &mut Key| Header::of(&key.value).is_some_and(|it| it.asked + it.life <= gone);
            store.entry.take_if(is_over);
        }
        for replica in &mut self.replicas {
            if replica.held.is_some() && replica.end <= now {
                replica.held = None;
                replica.end = 0;
            }
        }
        for token in 0..TOKENS {
            let Some(facts) = &mut self.tokens[token] else { continue };
            if now - facts.born >= scope.life {
                facts.dead = true;
            }
            if now - facts.born < long {
                continue;
            }
            let name = tag(facts.serial);
            let in_store = [&self.store, &self.before].iter().any(|store| {
                let entry = store.entry.as_ref().and_then(|key| Header::of(&key.value));
                entry.is_some_and(|it| it.tag == name.0)
            });
            let in_use = self.replicas.iter().any(|replica| {
                let doing = replica.attempt.as_ref().map(|attempt| &attempt.doing);
                let used = match doing {
                    Some(Doing::HandOver { token: used, .. }) => *used == token,
                    Some(Doing::Answered(look)) => {
                        matches!(&look.found, Seen::Entry(entry) if entry.tag == name)
                    }
                    _ => false,
                };
                used || replica.held == Some(token)
                    || replica.put.is_some_and(|(put, _)| put == token)
            });
            if in_store || in_use {
                continue;
            }
            self.tokens[token] = None;
            for replica in &mut self.replicas {
                for mask in [
                    &mut replica.ledger,
                    &mut replica.marked,
                    &mut replica.refused,
                    &mut replica.told,
                ] {
                    *mask &= !bit(token);
                }
                replica.notices.retain(|(named, _)| *named != token);
                if let Some(attempt) = &mut replica.attempt {
                    attempt.refused &= !bit(token);
                }
            }
        }
        let is_quiet = self.tokens.iter().all(Option::is_none);
        for replica in &mut self.replicas {
            if replica.revoke == Revoke::Done
                && is_quiet
                && replica.marked == 0
                && !replica.memory.owes()
            {
                replica.revoke = Revoke::None;
                replica.has_buried = false;
            }
            if replica.revoke != Revoke::None || self.revokes == 0 {
                replica.ledger &= replica.marked;
            }
        }
        if self.faults == 0 || !scope.can(Kind::Rollback) {
            self.before = self.store.clone();
        }
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

thread_local! {
    static LIFE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

// One situation is another if all that can follow is the same

/// Ids are named in the order in which they appear, tokens by their place.
struct Print<'a> {
    world: &'a World,
    scope: &'a Scope,
    names: Vec<Id>,
    sum: Sum,
}

#[derive(Default)]
struct Sum(u64, u64);

impl Sum {
    fn add(&mut self, number: u64) {
        for (sum, factor) in
            [(&mut self.0, 0x9E37_79B9_7F4A_7C15_u128), (&mut self.1, 0xD6E8_FEB8_6659_FD93)]
        {
            let product = u128::from(*sum ^ number.wrapping_add(factor as u64)) * factor;
            *sum = (product as u64).rotate_left(23) ^ (product >> 64) as u64;
        }
    }
}

impl Print<'_> {
    fn add(&mut self, number: impl Into<u64>) {
        self.sum.add(number.into());
    }

    fn id(&mut self, id: &Id) {
        let known = self.names.iter().position(|name| name == id);
        let name = known.unwrap_or_else(|| {
            self.names.push(*id);
            self.names.len() - 1
        });
        self.add(name as u64);
    }

    /// Of a token that may matter.
    fn tag(&mut self, tag: Tag) {
        let token = self.world.token_of(tag).map_or(99, |token| token as u64);
        self.add(token);
    }

    /// An instant of the store's, as far as it can matter.
    fn store_time(&mut self, time: u64) {
        let now = self.world.store_now();
        let most = store_time(self.scope.long());
        self.add(time.saturating_sub(now - most));
    }

    /// Of a token's birth, or of a request: what is older than this is as old as that.
    fn age(&mut self, since: u64, most: u64) {
        self.add((self.world.now - since).min(most));
    }

    /// An end: what lies back has ended.
    fn end(&mut self, end: Instant) {
        let left = end.since(at(self.world.now));
        self.add(u64::try_from(left.as_micros()).unwrap_or(u64::MAX));
    }

    fn content(&mut self, content: &Content) {
        self.add(u8::from(content.entry.is_some()));
        if let Some(key) = &content.entry {
            if let Some(header) = Header::of(&key.value) {
                self.store_time(header.asked);
                self.tag(Tag(header.tag));
                self.id(&Id(header.id));
                self.add(key.value[HEADER]);
            }
            self.add(u8::from(key.ends.is_some()));
        }
        self.add(u8::from(content.lease.is_some()));
        if let Some(key) = &content.lease {
            self.id(&Id(key.value.clone().try_into().unwrap_or_default()));
            self.add(u8::from(key.ends.is_some()));
            self.store_time(key.ends.unwrap_or(0));
        }
        let now = self.world.store_now();
        let list = content.revoked.as_ref().map_or(&[][..], |key| &key.value);
        for record in list.chunks_exact(40) {
            let end = u64::from_be_bytes(record[16..24].try_into().unwrap_or_default());
            if now < end + store_time(self.scope.step) {
                self.tag(Tag(record[..16].try_into().unwrap_or_default()));
                self.store_time(end);
            }
        }
        self.add(77_u8);
    }

    /// Whether this id can still come from anywhere.
    fn is_about(&self, id: &Id) -> bool {
        let world = self.world;
        let in_store = [&world.store, &world.before].iter().any(|store| {
            store.lease.as_ref().is_some_and(|key| key.value == id.0)
                || store
                    .entry
                    .as_ref()
                    .and_then(|key| Header::of(&key.value))
                    .is_some_and(|header| header.id == id.0)
        });
        in_store
            || world.tokens.iter().flatten().any(|it| it.put.is_some_and(|(_, put)| put == *id))
            || world.replicas.iter().any(|replica| {
                replica.put.is_some_and(|(_, lease)| lease.id == *id)
                    || replica.attempt.as_ref().is_some_and(|attempt| match &attempt.doing {
                        Doing::Ask { lease: Some(lease), .. } => lease.id == *id,
                        Doing::Answered(look) => {
                            matches!(&look.found, Seen::Entry(entry) if entry.id == *id)
                        }
                        _ => false,
                    })
            })
    }

    fn memory(&mut self, memory: &Memory) {
        let facts = memory.facts();
        for handed in facts.handed {
            let is_about = handed.id.is_some_and(|id| self.is_about(&id));
            if at(self.world.now) < handed.ends || is_about {
                self.tag(handed.tag);
                self.add(u8::from(handed.id.is_some()));
                if let Some(id) = handed.id.filter(|_| is_about) {
                    self.id(&id);
                }
                self.end(handed.ends);
                self.store_time(handed.entry_ends);
            }
        }
        self.add(78_u8);
        for owed in memory.owed() {
            self.tag(owed.tag);
            self.end(owed.ends);
            self.store_time(owed.entry_ends);
        }
        self.add(79_u8);
        let mut known: Vec<_> = facts.known.to_vec();
        known.retain(|(tag, _)| self.world.token_of(*tag).is_some());
        known.sort_unstable();
        for (tag, end) in known {
            self.tag(tag);
            self.store_time(end);
        }
        self.add(80_u8);
        for id in facts.buried {
            if self.is_about(&id) {
                self.id(&id);
            }
        }
        self.add(81_u8);
        for tag in facts.heard {
            if self.world.token_of(tag).is_some() {
                self.tag(tag);
            }
        }
        self.add(82_u8);
    }

    fn attempt(&mut self, attempt: &Attempt, memory: &Memory) {
        let facts = attempt.round.facts();
        self.add(attempt.replaces);
        self.add(attempt.refused);
        let waited = at(self.world.now).since(facts.began).min(TICK * 3);
        self.add(ticks(waited));
        self.add(facts.looks_last);
        match facts.holder {
            Some(holder) if self.is_about(&holder) => self.id(&holder),
            holder => self.add(u8::from(holder.is_some()) + 200),
        }
        self.add(facts.bad.len().min(2) as u64);
        for tag in facts.bad {
            self.tag(Tag(*tag));
        }
        match &attempt.doing {
            Doing::Bury => self.add(1_u8),
            Doing::Take(_) => self.add(2_u8),
            Doing::Answered(look) => {
                self.add(3_u8);
                self.store_time(look.now);
                for (tag, end) in &look.revoked {
                    self.tag(*tag);
                    self.store_time(*end);
                }
                match &look.found {
                    Seen::Entry(entry) => {
                        self.store_time(entry.asked);
                        self.tag(entry.tag);
                        self.id(&entry.id);
                    }
                    Seen::Forged(tag) => self.tag(*tag),
                    _ => {}
                }
                self.add(attempt.is_listed && !self.scope.on(Rule::List));
                if !self.scope.on(Rule::Recheck) {
                    self.memory(&attempt.known);
                }
            }
            Doing::Wait(has_looked) => self.add(4 + u8::from(*has_looked)),
            Doing::Ask { lease, since, after } => {
                self.add(6_u8);
                if let Some(lease) = lease {
                    self.id(&lease.id);
                    self.store_time(lease.asked);
                    self.add(facts.burials == memory.burials);
                }
                let scope = self.scope;
                let most = if scope.prompt { scope.long().max(ATTEMPT) + 1 } else { scope.life };
                self.age(*since, most);
                self.add(*after);
            }
            Doing::HandOver { token, end } => {
                self.add(7_u8);
                self.add(*token as u64);
                self.add(end.saturating_sub(self.world.now));
            }
            Doing::Rest => self.add(8_u8),
        }
    }

    fn replica(&mut self, replica: &Replica) {
        self.add(replica.held.map_or(99, |token| token as u64));
        self.add(replica.end.saturating_sub(self.world.now));
        for mask in [replica.ledger, replica.marked, replica.refused, replica.told] {
            self.add(mask);
        }
        for fact in [
            replica.has_buried,
            replica.before,
            replica.is_linked,
            replica.has_route,
            replica.is_stopped,
        ] {
            self.add(fact);
        }
        self.add(replica.revoke as u8);
        self.add(replica.need);
        let mut notices = replica.notices.clone();
        notices.sort_unstable();
        for (token, end) in notices {
            self.add(token as u64);
            self.store_time(end);
        }
        self.add(83_u8);
        if let Some((token, lease)) = replica.put {
            self.add(token as u64);
            self.id(&lease.id);
            self.store_time(lease.asked);
        }
        self.memory(&replica.memory);
        if let Some(attempt) = &replica.attempt {
            self.attempt(attempt, &replica.memory);
        }
        self.add(84_u8);
    }
}

fn print(world: &World, scope: &Scope) -> u128 {
    let mut print = Print { world, scope, names: vec![FORGER], sum: Sum::default() };
    print.content(&world.store);
    if world.faults > 0 && scope.can(Kind::Rollback) {
        print.content(&world.before);
    }
    for token in &world.tokens {
        print.add(u8::from(token.is_some()));
        if let Some(token) = token {
            print.age(token.born, scope.long());
            print.add(token.after);
            print.add(token.dead);
            if let Some((asked, id)) = token.put {
                print.store_time(asked);
                print.id(&id);
            }
        }
    }
    for replica in &world.replicas {
        print.replica(replica);
    }
    for number in [world.faults, world.revokes, world.refreshes, world.false_401s] {
        print.add(number);
    }
    print.add(world.is_up);
    print.add(world.is_forged);
    print.add(world.stepped);
    u128::from(print.sum.0) << 64 | u128::from(print.sum.1)
}

/// Replicas that differ by name alone count once.
fn print_once(world: &World, scope: &Scope) -> u128 {
    let mut least = print(world, scope);
    let swaps: &[&[usize]] = match world.replicas.len() {
        2 => &[&[1, 0]],
        3 => &[&[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
        _ => &[],
    };
    for order in swaps {
        let mut swapped = world.clone();
        swapped.replicas = order.iter().map(|nth| world.replicas[*nth].clone()).collect();
        let moved = |mask: u8| {
            let places = order.iter().enumerate().filter(|(_, from)| has(mask, **from));
            places.fold(0, |mask, (to, _)| mask | bit(to))
        };
        swapped.tokens.iter_mut().flatten().for_each(|token| token.after = moved(token.after));
        for replica in &mut swapped.replicas {
            if let Some(Attempt { doing: Doing::Ask { after, .. }, .. }) = &mut replica.attempt {
                *after = moved(*after);
            }
        }
        least = least.min(print(&swapped, scope));
    }
    least
}

#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

struct Explored {
    states: usize,
    left: usize,
    violation: Option<String>,
    took: Duration,
}

/// Breadth first, so that what is found is short.
fn explore(scope: &Scope, limit: Duration) -> Explored {
    LIFE.set(scope.life);
    let began = Stopwatch::now();
    let mut known: HashSet<u128, BuildHasherDefault<AsItIs>> = HashSet::default();
    let mut paths: Vec<(u32, Label)> = vec![(0, (None, "start"))];
    let mut waiting = VecDeque::from([(World::new(scope), 0_u32)]);
    known.insert(print_once(&World::new(scope), scope));
    let mut out = Vec::new();
    let mut violation = None;
    while let Some((world, from)) = waiting.pop_front() {
        out.clear();
        if let Err((label, why)) = world.next(scope, &mut out) {
            let mut steps = vec![label];
            let mut at = from;
            while at != 0 {
                let (before, label) = paths[at as usize];
                steps.push(label);
                at = before;
            }
            let shown = steps.iter().rev().map(|(who, what)| match who {
                Some(nth) => format!("{nth} {what}"),
                None => (*what).to_owned(),
            });
            violation = Some(format!("{why}\n   {}", shown.collect::<Vec<_>>().join("; ")));
            break;
        }
        for (label, next) in out.drain(..) {
            if known.insert(print_once(&next, scope)) {
                paths.push((from, label));
                let at = u32::try_from(paths.len() - 1).unwrap_or(u32::MAX);
                waiting.push_back((next, at));
            }
        }
        if began.elapsed() > limit {
            break;
        }
    }
    Explored { states: known.len(), left: waiting.len(), violation, took: began.elapsed() }
}

include!("scopes.rs");
