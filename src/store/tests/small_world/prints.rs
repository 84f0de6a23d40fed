//! Two situations are one if all that can follow is the same.

use super::*;

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
        let mut known: Vec<_> = facts.known.clone();
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
        match facts.late {
            Some(late) if self.is_about(&late) => self.id(&late),
            late => self.add(u8::from(late.is_some()) + 210),
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
pub(super) fn print_once(world: &World, scope: &Scope) -> u128 {
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
