//! A session around its round, as plain as can be: what it is handed, and what must not happen then.

use super::*;

impl World {
    pub(super) fn begin(&mut self, nth: usize, scope: &Scope, replaces: bool) -> Verdict {
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
            one_live_token: scope.waits_on(),
            call: crate::store::round::CALL,
            only_looks: false,
        };
        let replica = self.replica(nth);
        let round = Round::new(asked, &at, &mut replica.memory);
        let (doing, is_listed) = (Doing::Bury, false);
        let attempt = Attempt { round, doing, replaces, refused, is_listed, known: None };
        replica.attempt = Some(Box::new(attempt));
        self.go_on(nth, scope, Input::Start)
    }

    /// Tells the round, and does what it says as far as it is done by itself.
    pub(super) fn go_on(&mut self, nth: usize, scope: &Scope, input: Input) -> Verdict {
        let at = self.moment();
        let replica = self.replica(nth);
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
            Step::Take(wanted, _) => Doing::Take(Box::new(wanted)),
            Step::Wait(_) => Doing::Wait(true),
            Step::Grant(lease) => Doing::Ask { lease, since: self.now, after },
            Step::Done(result, then) => {
                if let Some(After::Leave(lease)) = &then
                    && self.is_up
                {
                    self.write(|store, now| store.leave(now, &lease.id));
                }
                return self.done(nth, scope, *result, then.as_ref());
            }
        };
        self.replica(nth).do_next(doing);
        Ok(())
    }

    pub(super) fn done(
        &mut self,
        nth: usize,
        scope: &Scope,
        result: Result<Grant, TokenError>,
        then: Option<&After>,
    ) -> Verdict {
        let now = self.now;
        let given = result.as_ref().map_or(0, |grant| serial_of(grant.text()));
        let token = self.token_of(tag(given));
        let replica = self.replica(nth);
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
        let end = round_began(attempt, now) + left;
        if let Some(After::Put(lease, _)) = then {
            replica.put = Some((token, *lease));
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
    pub(super) fn adopt(
        &mut self,
        nth: usize,
        token: usize,
        end: u64,
        own: bool,
        replaces: bool,
    ) -> Verdict {
        let (now, stepped, is_forged) = (self.now, self.stepped, self.is_forged);
        let Some(facts) = self.tokens[token] else { return Err("a token of nobody's") };
        let life = self.life;
        let replica = self.replica(nth);
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
        if is_alive && end > facts.born + life + stepped.min(age) {
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
    pub(super) fn hear_news(&mut self, nth: usize) {
        if self.replicas[nth].memory.news.is_empty() {
            return;
        }
        for (text, _) in std::mem::take(&mut self.replica(nth).memory.news) {
            let Some(token) = self.token_of(tag(serial_of(&text))) else { continue };
            let replica = self.replica(nth);
            replica.ledger |= bit(token);
            replica.marked |= bit(token);
            replica.told |= bit(token);
            if replica.held == Some(token) {
                replica.drop_held();
            }
        }
    }
}
