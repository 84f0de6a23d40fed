//! What can happen next, one thing at a time.

use super::*;

impl World {
    pub(super) fn next(&self, scope: &Scope, out: &mut Next) -> Judged {
        let mut is_urgent = false;
        for nth in 0..self.replicas.len() {
            if self.replicas[nth].is_stopped {
                self.then(out, (Some(nth), "goes on"), |it| {
                    it.replica(nth).is_stopped = false;
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
            let asks =
                next.replicas.iter().filter(|it| matches!(it.doing(), Some(Doing::Ask { .. })));
            if scope.one_request && asks.count() > 1 {
                return Err((*label, "G: two requests are on the wire at once"));
            }
            next.tidy(scope);
        }
        Ok(())
    }

    pub(super) fn then(
        &self,
        out: &mut Next,
        label: Label,
        change: impl FnOnce(&mut World) -> Verdict,
    ) -> Judged {
        let mut next = self.clone();
        change(&mut next).map_err(|why| (label, why))?;
        out.push((label, next));
        Ok(())
    }

    /// In prompt time, before the next tick.
    pub(super) fn must(&self, nth: usize, scope: &Scope, out: &mut Next) -> Judged {
        let replica = &self.replicas[nth];
        let me = Some(nth);
        match replica.doing() {
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
                self.late_take(nth, scope, out)?;
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
                    let replica = it.replica(nth);
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
        let has_dead = replica.held.is_some_and(|token| self.is_dead(token));
        if has_dead && replica.is_usable(self.now) && replica.revoke != Revoke::Bury {
            self.then(out, (me, "meets a 401"), |it| {
                it.replica(nth).drop_held();
                Ok(())
            })?;
        }
        for (at, (token, _)) in replica.notices.iter().enumerate() {
            let token = *token;
            self.then(out, (me, "hears of a revocation"), |it| {
                let (_, end) = it.replica(nth).notices.remove(at);
                it.hear(nth, token, end);
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, nth: usize, token: usize, end: u64) {
        let (now, serial) = (at(self.now), self.serial(token));
        let replica = self.replica(nth);
        replica.told |= bit(token);
        replica.memory.learn(now, tag(serial), end);
        self.hear_news(nth);
    }

    pub(super) fn revoke_goes_on(&self, nth: usize, scope: &Scope, out: &mut Next) -> Judged {
        let replica = &self.replicas[nth];
        match replica.revoke {
            Revoke::Bury => self.then(out, (Some(nth), "buries what it revokes"), |it| {
                let marked = it.replicas[nth].marked;
                for token in (0..TOKENS).filter(|token| has(marked, *token)) {
                    let text = grant(it.serial(token));
                    let replica = it.replica(nth);
                    replica.has_buried |= replica.memory.revoke(text.text());
                }
                if it.is_up {
                    it.bury(nth, scope);
                }
                it.replica(nth).revoke = Revoke::Send;
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
                    for (token, facts) in it.tokens().iter_mut().enumerate() {
                        if let Some(facts) = facts.as_mut().filter(|_| has(sent, token)) {
                            facts.dead = true;
                        }
                    }
                    let (now, life) = (it.now, scope.life);
                    let replica = Arc::make_mut(&mut it.replicas[nth]);
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
    pub(super) fn server_answers(&self, nth: usize, scope: &Scope, out: &mut Next) -> Judged<bool> {
        let replica = &self.replicas[nth];
        let Some(Doing::Ask { lease, since, after }) = replica.doing() else { return Ok(false) };
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
        // More tokens at a time are beyond the scope, and so is waiting for one of them.
        let Some(free) = (0..scope.tokens).find(|token| self.tokens[*token].is_none()) else {
            return Ok(waited >= GRANT);
        };
        self.then(out, (Some(nth), "is granted"), |it| {
            it.serials += 1;
            let serial = it.serials;
            if scope.one_live_token {
                it.tokens().iter_mut().flatten().for_each(|token| token.dead = true);
            }
            let token = Token { serial, born: it.now, after, dead: false, put: None };
            it.tokens()[free] = Some(token);
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
    pub(super) fn may(&self, nth: usize, scope: &Scope, out: &mut Next) -> Judged<bool> {
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
                let replica = it.replica(nth);
                replica.revoke = Revoke::Bury;
                replica.marked |= replica.ledger;
                replica.before = !matches!(replica.doing(), None | Some(Doing::Rest));
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
                it.replica(nth).drop_held();
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

    pub(super) fn read_list(&mut self, nth: usize, scope: &Scope) -> Verdict {
        self.replica(nth).is_linked = true;
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
}
