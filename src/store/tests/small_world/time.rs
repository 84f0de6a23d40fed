//! What time does, and what can then be forgotten.

use super::*;

impl World {
    pub(super) fn tick(&mut self, scope: &Scope) -> Verdict {
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
    pub(super) fn tidy(&mut self, scope: &Scope) {
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
