//! The store's calls on the real script, and how they change when a rule is removed.

use super::*;

impl World {
    pub(super) fn take(
        &mut self,
        nth: usize,
        scope: &Scope,
        mut wanted: Wanted,
    ) -> Result<Found, Verdict> {
        if scope.held_lease {
            let ends = Some(self.store_now() + micros(LEASE));
            Arc::make_mut(&mut self.store).lease = Some(Key { value: FORGER.0.to_vec(), ends });
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
            let whole = if asked_check { None } else { store.entry.clone() };
            if let Some(key) = store.entry.as_mut().filter(|_| !asked_check)
                && let Some(header) = Header::of(&key.value).filter(|it| it.asked > now)
            {
                let life = header.life + (header.asked - now);
                key.value[1..9].copy_from_slice(&now.to_be_bytes());
                key.value[9..17].copy_from_slice(&life.to_be_bytes());
            }
            let taken = store.take(now, &wanted.want());
            if store.entry.is_some() && whole.is_some() {
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
            let replica = self.replica(nth);
            if let Some(attempt) = &mut replica.attempt {
                attempt.known =
                    (!scope.on(Rule::Recheck)).then(|| Box::new(replica.memory.clone()));
                attempt.is_listed = is_listed;
                attempt.doing = Doing::Answered(Box::new(look));
            }
            return Ok(taken.found);
        }
        Err(self.go_on(nth, scope, Input::Took(Ok(look))))
    }

    pub(super) fn open(&self, nth: usize, sealed: &Sealed) -> Seen {
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

    pub(super) fn use_answer(&mut self, nth: usize, scope: &Scope, look: Look) -> Verdict {
        let entry = match &look.found {
            Seen::Entry(entry) => Some(entry.tag),
            _ => None,
        };
        let is_listed = self.replicas[nth].attempt.as_ref().is_some_and(|it| it.is_listed);
        // Without `Recheck` it decides by what was known when the store answered.
        let replica = self.replica(nth);
        if let Some(known) = replica.attempt.as_mut().and_then(|attempt| attempt.known.take()) {
            replica.memory = *known;
        }
        let held = self.replicas[nth].held;
        self.go_on(nth, scope, Input::Took(Ok(look)))?;
        let now_held = self.replicas[nth].held;
        if is_listed && now_held != held && now_held == entry.and_then(|tag| self.token_of(tag)) {
            return Err("S6: a replica takes a token that the slot's list calls revoked");
        }
        Ok(())
    }

    pub(super) fn bury(&mut self, nth: usize, scope: &Scope) {
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
            self.replica(nth).memory.buried(owed.tag, end, gone);
            let Some(token) = self.token_of(owed.tag) else { continue };
            for (other, replica) in self.replicas.iter_mut().enumerate() {
                if other != nth && replica.is_linked && !has(replica.told, token) {
                    let replica = Arc::make_mut(replica);
                    replica.notices.retain(|(already, _)| *already != token);
                    replica.notices.push((token, end));
                }
            }
        }
    }

    pub(super) fn publish(&mut self, nth: usize, scope: &Scope) {
        let Some((token, lease)) = self.replica(nth).put.take() else { return };
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
        if let Some(facts) = self.tokens()[token].as_mut().filter(|_| is_put) {
            facts.put = Some((asked, lease.id));
        }
    }
}
