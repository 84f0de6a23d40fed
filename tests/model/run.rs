//! Does the same to the machine and to its model, and compares what they want done.

use std::fmt::Write;
use std::sync::Arc;

use ccg_session::testing::internals::{
    Effects, Ended, Event, ExchangeKey, Instant, Machine, Moment, Reply, Request, TokenText,
};
use ccg_session::{Grant, TokenError, TokenId, TokenRequestOptions};

use super::operations::*;
use super::properties::{self, History};
use super::words::{self, Asks, Found, Output, What, put_into_words};
use super::{Model, Nanos, SECOND};

/// The session's clock does not begin with the session.
const BEGINNING: Nanos = 1_000_000 * SECOND;

/// An attempt on the wire.
#[derive(Clone)]
enum Wire {
    Grant,
    Exchange(Arc<ExchangeKey>),
    Revocation(TokenText),
}

/// The machine, its model, and the world around them.
pub struct Run {
    setup: Setup,
    machine: Machine<u64>,
    model: Model,
    now: Nanos,
    used: bool,
    wire: Vec<Wire>,
    /// Texts of tokens that were received, each once for every time.
    texts: Vec<String>,
    /// Tokens that somebody saw.
    ids: Vec<TokenId>,
    foreign: TokenId,
    history: History,
    next_id: u64,
    /// How many events both have handled.
    pub events: usize,
}

/// Plays a story. An error says at which step it went wrong, and how.
pub fn play(setup: &Setup, steps: &[Step]) -> Result<usize, String> {
    let mut run = Run::new(setup);
    for (at, (random, op)) in steps.iter().enumerate() {
        run.step(*random, *op).map_err(|problem| format!("step {at}, {op:?}: {problem}"))?;
    }
    Ok(run.events)
}

/// Leaves out whatever step a failure does not need. (Proptest tries each but once.)
pub fn shrink(setup: &Setup, mut steps: Vec<Step>) -> Vec<Step> {
    loop {
        let before = steps.len();
        for at in (0..before).rev() {
            let mut fewer = steps.clone();
            fewer.remove(at);
            if play(setup, &fewer).is_err() {
                steps = fewer;
            }
        }
        if steps.len() == before {
            return steps;
        }
    }
}

/// For pasted tests.
pub fn check(setup: &Setup, steps: &[Step]) {
    if let Err(problem) = play(setup, steps) {
        panic!("{problem}\n\n{}", pasteable(setup, steps));
    }
}

/// A test that one can paste into `tests/model.rs`.
pub fn pasteable(setup: &Setup, steps: &[Step]) -> String {
    let setup = format!("{setup:?}").replace("mode: ", "mode: Mode::");
    let mut text = format!("#[test]\nfn a_name_for_it() {{\n    let setup = {setup};\n");
    text += "    check(&setup, &[\n";
    for (random, op) in steps {
        writeln!(text, "        ({random:?}, {op:?}),").unwrap();
    }
    text + "    ]);\n}\n"
}

impl Run {
    fn new(setup: &Setup) -> Self {
        Self {
            setup: setup.clone(),
            machine: Machine::new(setup.config(), setup.abilities(), 1),
            model: Model::new(setup),
            now: BEGINNING,
            used: false,
            wire: Vec::new(),
            texts: Vec::new(),
            ids: Vec::new(),
            foreign: token_of_another_session(setup),
            history: History::default(),
            next_id: 1,
            events: 0,
        }
    }

    fn step(&mut self, random: f64, op: Op) -> Result<(), String> {
        match op {
            Use => self.used |= self.machine.published().token.is_some(),
            Pass(millis) => self.now += millis * 1_000_000,
            To(mark, off) => self.pass_to(mark, off),
            Wake => {
                self.pass_to(Deadline, 0);
                return self.tell(random, Event::Timer, &What::Timer);
            }
            Timer => return self.tell(random, Event::Timer, &What::Timer),
            Abilities { exchange, revoke } => {
                let learnt =
                    Setup { can_exchange: exchange, can_revoke: revoke, ..self.setup.clone() };
                let event = Event::Abilities(learnt.abilities());
                return self.tell(random, event, &What::Abilities { exchange, revoke });
            }
            Shutdown => return self.tell(random, Event::Shutdown, &What::Shutdown),
            End(which, outcome) => return self.end(random, usize::from(which), outcome),
            Get { .. } | Exchange { .. } | Revoke { .. } => return self.call(random, op),
            Leave(which) => {
                let waiting = &self.history.waiting;
                if let Some(id) = waiting.get(usize::from(which) % waiting.len().max(1)).copied() {
                    self.history.waiting.retain(|waiting| *waiting != id);
                    return self.tell(random, Event::Left(id), &What::Left(id));
                }
            }
            Asked { current } => {
                let number = self.machine.published().number;
                let number = if current { number } else { number.wrapping_sub(1) };
                return self.tell(random, Event::Asked(number), &What::Asked { current });
            }
            Invalidate(which) => {
                let published = self.machine.published().token.as_ref();
                let id = match which {
                    Current => published.map(|published| published.token.id()),
                    Back(back) => self.ids.iter().rev().nth(usize::from(back)).copied(),
                    Foreign => Some(self.foreign),
                };
                if let Some(id) = id {
                    let (ours, generation) = (id != self.foreign, id.generation());
                    let what = What::Invalidate { ours, generation };
                    return self.tell(random, Event::Invalidate(id), &what);
                }
            }
        }
        Ok(())
    }

    fn pass_to(&mut self, mark: Mark, off: i8) {
        let published = self.machine.published();
        let nanos = |instant: Option<Instant>| instant.map(words::nanos);
        let instant = match mark {
            Deadline => nanos(self.machine.next_deadline()),
            AskAt => Some(words::nanos(published.ask_at)),
            UsableUntil => nanos(published.token.as_ref().map(|token| token.usable_until)),
            NotBefore => nanos(published.cooling.as_ref().map(|cooling| cooling.until)),
            ExchangedHoldAt => self.model.exchanged_hold_at(),
        };
        let instant = instant.filter(|instant| *instant < Nanos::MAX / 2);
        if let Some(instant) = instant {
            self.now = self.now.max(instant.saturating_add_signed(off.into()));
        }
    }

    fn call(&mut self, random: f64, op: Op) -> Result<(), String> {
        let id = self.next_id;
        self.next_id += 1;
        self.history.waiting.push(id);
        match op {
            Get { left, ip } => {
                let asks = Asks { left, ip };
                let event = Event::GetToken(id, id, asks.options());
                self.tell(random, event, &What::Get(id, asks))
            }
            Exchange { key, reversed, left, ip } => {
                let asks = Asks { left, ip };
                let request = words::exchange_request(key, &asks, reversed);
                let event = Event::Exchange(id, id, Box::new(request));
                self.tell(random, event, &What::Exchange(id, key, asks))
            }
            Revoke { ip } => {
                self.history.revokes.push(id);
                let asks = Asks { left: 0, ip };
                let event = Event::Revoke(id, id, asks.options());
                self.tell(random, event, &What::Revoke(id, asks))
            }
            other => unreachable!("{other:?} is not a call"),
        }
    }

    fn end(&mut self, random: f64, which: usize, outcome: Outcome) -> Result<(), String> {
        if self.wire.is_empty() {
            return Ok(());
        }
        let wire = self.wire.remove(which % self.wire.len());
        let (event, what) = match wire {
            Wire::Grant => {
                let (result, found) = self.found(outcome);
                (Ended::Grant(result), What::GrantEnded(found))
            }
            Wire::Exchange(key) => {
                let (result, found) = self.found(outcome);
                let name = words::key_name(&key);
                (Ended::Exchange(key, result), What::ExchangeEnded(name, found))
            }
            Wire::Revocation(text) => {
                let result = match outcome {
                    New(_) | Again(..) => Ok(()),
                    Fails(failure) => Err(failure),
                };
                let name = text.expose().to_string();
                let event = Ended::Revocation(text, result.map_err(Failure::error));
                (event, What::RevocationEnded(name, result))
            }
        };
        self.tell(random, Event::Ended(event), &what)
    }

    fn found(&mut self, outcome: Outcome) -> (Result<Grant, TokenError>, Found) {
        let (back, life) = match outcome {
            New(life) => (None, life),
            Again(back, life) => (Some(usize::from(back)), life),
            Fails(failure) => return (Err(failure.error()), Err(failure)),
        };
        let again = back.and_then(|back| self.texts.iter().rev().nth(back).cloned());
        let text = again.unwrap_or_else(|| format!("token-{}", self.texts.len()));
        self.texts.push(text.clone());
        let grant = Grant::bearer(text.clone()).unwrap();
        let grant = match life.nanos() {
            None => grant,
            Some(nanos) => grant.expires_in(std::time::Duration::from_nanos(nanos)),
        };
        let grant = match life.refresh_in() {
            None => grant,
            Some(nanos) => grant.refresh_in(std::time::Duration::from_nanos(nanos)),
        };
        (Ok(grant), Ok((text, life)))
    }

    fn tell(&mut self, random: f64, event: Event<u64>, what: &What) -> Result<(), String> {
        self.events += 1;
        let mut effects = Effects::default();
        let moment = Moment { now: Instant::from_nanos(self.now), random, used: self.used };
        self.machine.handle(moment, event, &mut effects);
        let did = put_into_words(&effects);
        let should = self.model.handle(self.now, random, self.used, what);
        self.carry_out(effects);
        self.compare(&did, &should)?;
        properties::check(&mut self.history, &self.machine, moment, what, &did)
    }

    fn compare(&self, did: &Output, should: &Output) -> Result<(), String> {
        if did != should {
            return Err(format!("the machine says\n{did:#?}\nthe model says\n{should:#?}"));
        }
        let deadline = self.machine.next_deadline().map(words::nanos);
        let expected = self.model.next_deadline();
        let in_vain =
            |at: Nanos| expected.is_none_or(|expected| at < expected) && self.model.may_wake_at(at);
        if deadline != expected && !deadline.is_some_and(in_vain) {
            let from_now = |at: Option<Nanos>| at.map(|at| i128::from(at) - i128::from(self.now));
            return Err(format!(
                "the deadline of the machine is {:?} ns from now, of the model {:?}",
                from_now(deadline),
                from_now(expected)
            ));
        }
        Ok(())
    }

    /// What the actor would do.
    fn carry_out(&mut self, effects: Effects<u64>) {
        if let Some(published) = effects.publish {
            self.used = false;
            let id = published.token.map(|published| published.token.id());
            self.ids.extend(id.filter(|id| !self.ids.contains(id)));
        }
        for start in effects.start {
            self.wire.push(match start.request {
                Request::Grant(_) => Wire::Grant,
                Request::Exchange(key, ..) => Wire::Exchange(key),
                Request::Revocation(text, _) => Wire::Revocation(text),
            });
        }
        for (_, answer) in effects.replies {
            if let Reply::Exchanged(Ok(token)) = answer
                && !self.ids.contains(&token.id())
            {
                self.ids.push(token.id());
            }
        }
    }
}

fn token_of_another_session(setup: &Setup) -> TokenId {
    let mut machine = Machine::new(setup.config(), setup.abilities(), 2);
    let moment = Moment { now: Instant::from_nanos(BEGINNING), random: 0.0, used: false };
    let grant = Ended::Grant(Ok(Grant::bearer("foreign").unwrap()));
    let ask = Event::GetToken(1, 1, TokenRequestOptions::new());
    machine.handle(moment, ask, &mut Effects::default());
    machine.handle(moment, Event::Ended(grant), &mut Effects::default());
    machine.published().token.as_ref().expect("a token was granted").token.id()
}
