//! What time does, and what can then be forgotten.

use super::*;

impl World {
    pub(super) fn tick(&mut self, scope: &Scope) -> Verdict {
        self.now += scope.pace;
        self.clock += scope.pace;
        let (now, is_up) = (self.now, self.is_up);
        let renewed = store_time(self.clock) + micros(LEASE);
        for replica in &mut self.replicas {
            let was_usable = replica.held.is_some() && replica.end >= now;
            let is_over = matches!(replica.revoke, Revoke::None | Revoke::Done);
            let is_healthy = !replica.is_stopped && replica.has_route && is_over;
            let waits = !was_usable && is_healthy && (is_up || !scope.one_live_token);
            let need = if scope.prompt && waits { replica.need + 1 } else { 0 };
            let bound =
                if scope.one_live_token { 2 * (PATIENCE + GRANT) } else { PATIENCE + GRANT };
            if need > bound {
                return Err("L: a replica with a healthy route waits for too long");
            }
            if need != replica.need {
                Arc::make_mut(replica).need = need;
            }
            match replica.doing() {
                Some(Doing::Wait(true)) => Arc::make_mut(replica).do_next(Doing::Wait(false)),
                Some(Doing::Rest) => Arc::make_mut(replica).attempt = None,
                // It is renewed each second.
                Some(Doing::Ask { lease: Some(lease), .. })
                    if scope.prompt && !replica.is_stopped && is_up =>
                {
                    let is_held = self.store.lease.as_ref().is_some_and(|key| {
                        key.value == lease.id.0 && key.ends >= Some(renewed - micros(LEASE))
                    });
                    if is_held && let Some(key) = &mut Arc::make_mut(&mut self.store).lease {
                        key.ends = Some(renewed);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets what can matter to nobody any more, so that situations come back to each other.
    pub(super) fn tidy(&mut self, scope: &Scope) {
        self.end_what_is_over(scope);
        self.tidy_tokens(scope);
        self.tidy_replicas();
        if !self.may_yet(scope, Kind::Rollback) {
            self.before = Arc::clone(&self.store);
        }
    }

    fn end_what_is_over(&mut self, scope: &Scope) {
        let gone = store_time(self.clock - self.may_step(scope));
        for store in [&mut self.store, &mut self.before] {
            let has_ended =
                |key: &Key| Header::of(&key.value).is_some_and(|it| it.asked + it.life <= gone);
            let ends = [&store.entry, &store.lease, &store.revoked].map(|key| key.as_ref()?.ends);
            if ends.iter().flatten().any(|ends| *ends <= gone)
                || store.entry.as_ref().is_some_and(has_ended)
            {
                let store = Arc::make_mut(store);
                store.at(gone).entry.take_if(|key| has_ended(key));
            }
        }
        for replica in &mut self.replicas {
            if replica.held.is_some() && replica.end <= self.now {
                let replica = Arc::make_mut(replica);
                replica.held = None;
                replica.end = 0;
            }
        }
    }

    fn tidy_tokens(&mut self, scope: &Scope) {
        let gone = store_time(self.clock - self.may_step(scope));
        let can_forge = self.may_yet(scope, Kind::Forge);
        for token in (0..TOKENS).rev() {
            let Some(mut facts) = self.tokens[token] else { continue };
            let age = self.now - facts.born;
            let is_over = age >= self.long(scope);
            facts.dead |= age >= scope.life;
            facts.after = if is_over { 0 } else { facts.after };
            facts.put.take_if(|(asked, _)| !can_forge || *asked + micros(scope.life()) <= gone);
            if self.tokens[token] != Some(facts) {
                self.tokens()[token] = Some(facts);
            }
            if is_over && !self.is_anywhere(token) {
                self.forget(token);
            }
        }
        let is_asked = |it: &Arc<Replica>| matches!(it.doing(), Some(Doing::Ask { .. }));
        if self.tokens.iter().all(Option::is_none) && !self.replicas.iter().any(is_asked) {
            self.stepped = 0;
            self.is_forged = false;
        }
    }

    fn tidy_replicas(&mut self) {
        let is_quiet = self.tokens.iter().all(Option::is_none);
        for replica in &mut self.replicas {
            if replica.revoke == Revoke::Done
                && is_quiet
                && replica.marked == 0
                && !replica.memory.owes()
            {
                let replica = Arc::make_mut(replica);
                replica.revoke = Revoke::None;
                replica.has_buried = false;
            }
            let can_revoke = replica.revoke == Revoke::None && self.revokes > 0;
            if !can_revoke && replica.ledger & !replica.marked != 0 {
                Arc::make_mut(replica).ledger &= replica.marked;
            }
        }
    }

    /// In the store, or with a replica.
    fn is_anywhere(&self, token: usize) -> bool {
        let name = tag(self.serial(token));
        let in_store = |store: &Arc<Content>| {
            let entry = store.entry.as_ref().and_then(|key| Header::of(&key.value));
            entry.is_some_and(|it| it.tag == name.0)
        };
        let in_use = |replica: &Arc<Replica>| match replica.doing() {
            Some(Doing::HandOver { token: used, .. }) => *used == token,
            Some(Doing::Answered(look)) => {
                matches!(&look.found, Seen::Entry(entry) if entry.tag == name)
            }
            _ => false,
        };
        let is_with = |replica: &Arc<Replica>| {
            replica.held == Some(token) || replica.put.is_some_and(|(put, _)| put == token)
        };
        [&self.store, &self.before].into_iter().any(in_store)
            || self.replicas.iter().any(|replica| in_use(replica) || is_with(replica))
    }

    /// The younger ones move up, so that tokens are named in the order of their births.
    fn forget(&mut self, token: usize) {
        let name = tag(self.serial(token));
        self.tokens()[token..].rotate_left(1);
        self.tokens()[TOKENS - 1] = None;
        for store in [&mut self.store, &mut self.before] {
            let records = store.revoked.iter().flat_map(|key| key.value.chunks_exact(40));
            let kept: Vec<_> = records.filter(|it| it[..16] != name.0).flatten().copied().collect();
            if let Some(list) = &mut Arc::make_mut(store).revoked {
                list.value = kept;
            }
            Arc::make_mut(store).revoked.take_if(|list| list.value.is_empty());
        }
        let older = bit(token) - 1;
        let moved = |mask: &mut u8| *mask = *mask & older | *mask >> 1 & !older;
        let renamed = |name: &mut usize| *name -= usize::from(*name > token);
        for replica in &mut self.replicas {
            let replica = Arc::make_mut(replica);
            let Replica { ledger, marked, refused, told, .. } = replica;
            [ledger, marked, refused, told].into_iter().for_each(moved);
            replica.notices.retain(|(named, _)| *named != token);
            replica.notices.iter_mut().for_each(|(named, _)| renamed(named));
            replica.held.iter_mut().for_each(renamed);
            replica.put.iter_mut().for_each(|(named, _)| renamed(named));
            if let Some(attempt) = &mut replica.attempt {
                moved(&mut attempt.refused);
                if let Doing::HandOver { token: named, .. } = &mut attempt.doing {
                    renamed(named);
                }
            }
        }
    }
}
