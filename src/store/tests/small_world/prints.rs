//! Two situations are one if all that can follow is the same.

use super::*;

impl Doing {
    fn number(&self) -> u8 {
        match self {
            Self::Bury => 1,
            Self::Take(_) => 2,
            Self::Answered(_) => 3,
            Self::Wait(has_looked) => 4 + u8::from(*has_looked),
            Self::Ask { .. } => 6,
            Self::HandOver { .. } => 7,
            Self::Rest => 8,
        }
    }
}

/// Ids are named in the order in which they appear, tokens by their place.
struct Print<'a> {
    world: &'a World,
    scope: &'a Scope,
    /// The replicas are named by their places in it.
    order: &'a [usize],
    names: Vec<Id>,
    sum: Sum,
}

#[derive(Default)]
struct Sum(u64, u64);

impl Sum {
    fn add(&mut self, number: u64) {
        for (sum, factor) in
            [(&mut self.0, 0x9E37_79B9_7F4A_7C15_u64), (&mut self.1, 0xD6E8_FEB8_6659_FD93)]
        {
            let product = u128::from(*sum ^ number.wrapping_add(factor)) * u128::from(factor);
            let [low, high] = [product & u128::from(u64::MAX), product >> 64];
            let half = |half: u128| u64::try_from(half).unwrap_or_default();
            *sum = half(low).rotate_left(23) ^ half(high);
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

    /// A set of replicas.
    fn replicas(&self, mask: u8) -> u8 {
        let places = self.order.iter().enumerate().filter(|(_, nth)| has(mask, **nth));
        places.fold(0, |mask, (place, _)| mask | bit(place))
    }

    /// Of a token that may matter.
    fn tag(&mut self, tag: Tag) {
        let token = self.world.token_of(tag).map_or(99, |token| token as u64);
        self.add(token);
    }

    /// When something was asked for, by the store's clock: what is older than this is as old as that.
    fn asked(&mut self, time: u64) {
        let most = store_time(self.scope.life + self.world.may_step(self.scope));
        self.add(time.saturating_sub(self.world.store_now() - most));
    }

    /// An end by the store's clock: what lies back for good has ended.
    fn store_end(&mut self, time: u64) {
        let step = store_time(self.world.may_step(self.scope));
        self.add(time.saturating_sub(self.world.store_now() - step));
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
                self.asked(header.asked);
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
            self.store_end(key.ends.unwrap_or(0));
        }
        let list = content.revoked.as_ref().map_or(&[][..], |key| &key.value);
        for record in list.chunks_exact(40) {
            let tag = Tag(record[..16].try_into().unwrap_or_default());
            if self.world.token_of(tag).is_some() {
                self.tag(tag);
                self.store_end(u64::from_be_bytes(record[16..24].try_into().unwrap_or_default()));
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
            || *id == FORGER && world.may_yet(self.scope, Kind::Forge)
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
            if is_about || self.world.token_of(handed.tag).is_some() {
                self.tag(handed.tag);
                self.add(u8::from(handed.id.is_some()));
                if let Some(id) = handed.id.filter(|_| is_about) {
                    self.id(&id);
                }
                self.end(handed.ends);
                self.store_end(handed.entry_ends);
            }
        }
        self.add(78_u8);
        for owed in memory.owed() {
            self.tag(owed.tag);
            self.end(owed.ends);
            self.store_end(owed.entry_ends);
        }
        self.add(79_u8);
        for token in self.world.tokens.iter().flatten() {
            let tag = tag(token.serial);
            let known = facts.known.iter().find(|(other, _)| *other == tag);
            self.store_end(known.map_or(0, |(_, end)| *end));
            self.add(known.is_some());
        }
        for id in facts.buried {
            if self.is_about(id) {
                self.id(id);
            }
        }
        self.add(81_u8);
        for tag in facts.attempts.iter().flat_map(|(_, heard)| heard) {
            if self.world.token_of(*tag).is_some() {
                self.tag(*tag);
            }
        }
        self.add(82_u8);
    }

    fn attempt(&mut self, attempt: &Attempt, replica: &Replica) {
        let facts = attempt.round.facts();
        self.add(attempt.replaces);
        self.add(attempt.refused);
        let (now, scope) = (at(self.world.now), self.scope);
        let is_late = if scope.waits_on() { scope.timeout() * 2 / 3 } else { TICK * 3 };
        self.add(ticks(now.since(facts.began).min(is_late)));
        self.add(facts.looks_last);
        match facts.holder {
            Some(holder) if self.is_about(&holder) => self.id(&holder),
            holder => self.add(u8::from(holder.is_some()) + 200),
        }
        match facts.late {
            Some(late) if self.is_about(&late) => self.id(&late),
            late => self.add(u8::from(late.is_some()) + 210),
        }
        self.add(facts.bad.len().min(2) as u64);
        for tag in facts.bad {
            self.tag(Tag(*tag));
        }
        self.add(attempt.doing.number());
        match &attempt.doing {
            Doing::Bury | Doing::Wait(_) | Doing::Rest => {}
            Doing::Take(wanted) => {
                self.add(ticks(now.since(facts.sent)).min(scope.life));
                let Want { seen, not, .. } = wanted.want();
                self.add(seen.is_some());
                // What was revoked since it was sent may still be the answer.
                let tokens = not.iter().filter_map(|it| self.world.token_of(Tag(*it)));
                self.add(tokens.fold(0, |mask, token| mask | bit(token)));
                for id in not.iter().map(|it| Id(*it)) {
                    if self.is_about(&id) {
                        self.id(&id);
                    }
                }
                self.add(85_u8);
            }
            Doing::Answered(look) => {
                self.add(ticks(now.since(facts.sent)).min(scope.life));
                self.asked(look.now);
                for (tag, end) in &look.revoked {
                    self.tag(*tag);
                    self.store_end(*end);
                }
                match &look.found {
                    Seen::Entry(entry) => {
                        self.add(look.now.wrapping_sub(entry.asked));
                        self.tag(entry.tag);
                        self.id(&entry.id);
                    }
                    Seen::Forged(tag) => self.tag(*tag),
                    _ => {}
                }
                self.add(attempt.is_listed && !self.scope.on(Rule::List));
                if let Some(known) = &attempt.known {
                    self.memory(known);
                }
            }
            Doing::Ask { lease, since, after } => {
                if let Some(lease) = lease {
                    self.id(&lease.id);
                    self.asked(lease.asked);
                    self.add(facts.burials == replica.memory.burials);
                }
                let may_fail = !replica.has_route || self.world.may_yet(scope, Kind::Route);
                self.age(*since, if may_fail { scope.life.max(ATTEMPT) } else { scope.life });
                let after = self.replicas(*after);
                self.add(after);
            }
            Doing::HandOver { token, end } => {
                self.add(*token as u64);
                self.add(end.saturating_sub(self.world.now));
            }
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
        for token in 0..TOKENS {
            let notice = replica.notices.iter().find(|(other, _)| *other == token);
            self.store_end(notice.map_or(0, |(_, end)| *end));
            self.add(notice.is_some());
        }
        if let Some((token, lease)) = replica.put {
            self.add(token as u64);
            self.id(&lease.id);
            self.asked(lease.asked);
        }
        self.memory(&replica.memory);
        if let Some(attempt) = &replica.attempt {
            self.attempt(attempt, replica);
        }
        self.add(84_u8);
    }
}

fn print(world: &World, scope: &Scope, order: &[usize]) -> u128 {
    let mut names = Vec::with_capacity(16);
    names.push(FORGER);
    let mut print = Print { world, scope, order, names, sum: Sum::default() };
    print.content(&world.store);
    if world.may_yet(scope, Kind::Rollback) {
        print.content(&world.before);
    }
    for token in world.tokens.iter() {
        print.add(u8::from(token.is_some()));
        if let Some(token) = token {
            print.age(token.born, world.long(scope));
            let after = print.replicas(token.after);
            print.add(after);
            print.add(token.dead);
            if let Some((asked, id)) = &token.put {
                print.asked(*asked);
                print.id(id);
            }
        }
    }
    for nth in order {
        print.replica(&world.replicas[*nth]);
    }
    for number in [world.faults, world.revokes, world.refreshes, world.false_401s] {
        print.add(number);
    }
    print.add(world.is_up);
    print.add(world.is_forged);
    print.add(world.stepped);
    u128::from(print.sum.0) << 64 | u128::from(print.sum.1)
}

/// Replicas that differ by name alone count once: they are named in the order of what is plain to see, and
/// where that is the same, in each.
pub(super) fn print_once(world: &World, scope: &Scope) -> u128 {
    let orders: &[&[usize]] = match world.replicas.len() {
        2 => &[&[0, 1], &[1, 0]],
        _ => &[&[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
    };
    let plain = |nth: &usize| plain(&world.replicas[*nth]);
    let orders = orders.iter().filter(|order| order.is_sorted_by_key(plain));
    orders.map(|order| print(world, scope, order)).min().unwrap_or_default()
}

fn plain(replica: &Replica) -> impl PartialOrd {
    let Replica { held, end, ledger, marked, revoke, need, put, .. } = replica;
    let doing = replica.doing().map_or(0, Doing::number);
    (doing, *held, *end, [*ledger, *marked], *revoke as u8, *need, put.map(|(token, _)| token))
}
