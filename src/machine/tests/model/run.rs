//! Does the same to the machine and to its model, and compares what they want done.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::operations::*;
use super::words::{self, Asks, Found, Output, What, put_into_words};
use super::{Model, Nanos, SECOND};
use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::judge::{History, Session};
use crate::machine::{CallerId, Effects, Ended, Event, Machine, Moment, Reply, Request};
use crate::request::ExchangeKey;
use crate::token::TokenId;

/// The session's clock does not begin with the session.
const BEGINNING: Nanos = 1_000_000 * SECOND;
/// A token of another session.
const OF_ANOTHER: TokenId = TokenId { session: 2, generation: 1 };

/// An attempt on the wire.
enum Wire {
    Grant,
    Exchange(Arc<ExchangeKey>),
    Revocation(TokenText),
}

/// Puts something around the machine, or nothing.
pub(crate) type Around<'a> = &'a dyn Fn(Machine<CallerId>) -> Box<dyn Session>;

pub(crate) fn nothing(machine: Machine<CallerId>) -> Box<dyn Session> {
    Box::new(machine)
}

/// The machine, its model, and the world around them.
struct Run {
    setup: Setup,
    session: Box<dyn Session>,
    model: Model,
    now: Nanos,
    used: bool,
    wire: Vec<Wire>,
    /// Texts of tokens that were received, each once for every time.
    texts: Vec<String>,
    /// Tokens that somebody saw.
    ids: Vec<TokenId>,
    history: History,
    next_id: u64,
    events: usize,
}

/// Plays a story; how many events both have handled. An error says at which step it went wrong, and how.
pub(crate) fn play(around: Around<'_>, setup: &Setup, steps: &[Step]) -> Result<usize, String> {
    let mut run = Run::new(around, setup);
    for (at, (random, op)) in steps.iter().enumerate() {
        run.step(*random, *op).map_err(|problem| format!("step {at}, {op:?}: {problem}"))?;
    }
    Ok(run.events)
}

/// Leaves out whatever step a failure does not need. (Proptest tries each but once.)
pub(crate) fn shrink(around: Around<'_>, setup: &Setup, mut steps: Vec<Step>) -> Vec<Step> {
    loop {
        let before = steps.len();
        for at in (0..before).rev() {
            let mut fewer = steps.clone();
            fewer.remove(at);
            if play(around, setup, &fewer).is_err() {
                steps = fewer;
            }
        }
        if steps.len() == before {
            return steps;
        }
    }
}

/// Plays it, and panics with a test that can be pasted.
pub(crate) fn play_or_show(setup: &Setup, steps: &[Step]) {
    let is_fine = play(&nothing, setup, steps).is_ok();
    assert!(is_fine, "{}", pasteable(setup, &shrink(&nothing, setup, steps.to_vec())));
}

/// The problem, and a test of it that one can paste into `tests.rs`.
pub(crate) fn pasteable(setup: &Setup, steps: &[Step]) -> String {
    let problem = play(&nothing, setup, steps).err().unwrap_or_default();
    let setup = format!("{setup:?}").replace("mode: ", "mode: Mode::");
    let mut text =
        format!("{problem}\n\n#[test]\nfn a_name_for_it() {{\n    let setup = {setup};\n");
    text += "    play(&nothing, &setup, &[\n";
    for (random, op) in steps {
        writeln!(text, "        ({random:?}, {op:?}),").unwrap();
    }
    text + "    ]).unwrap();\n}\n"
}

impl Run {
    fn new(around: Around<'_>, setup: &Setup) -> Self {
        let (config, abilities) = (setup.config(), setup.abilities());
        let machine = Machine::new(config.clone(), abilities, 1);
        Self {
            setup: setup.clone(),
            history: History::new(machine.published(), &config, abilities),
            session: around(machine),
            model: Model::new(setup),
            now: BEGINNING,
            used: false,
            wire: Vec::new(),
            texts: Vec::new(),
            ids: Vec::new(),
            next_id: 1,
            events: 0,
        }
    }

    fn step(&mut self, random: f64, op: Op) -> Result<(), String> {
        match op {
            Use => self.used |= self.history.published.token.is_some(),
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
                let waiting = &self.history.callers;
                if let Some(id) = waiting.keys().nth(usize::from(which) % waiting.len().max(1)) {
                    let id = *id;
                    return self.tell(random, Event::Left(id), &What::Left(id));
                }
            }
            Asked { current } => {
                let number = self.history.published.number;
                let number = if current { number } else { number.wrapping_sub(1) };
                return self.tell(random, Event::Asked(number), &What::Asked { current });
            }
            Invalidate(which) => {
                let published = self.history.published.token.as_ref();
                let id = match which {
                    Current => published.map(|published| published.token.id()),
                    Back(back) => self.ids.iter().rev().nth(usize::from(back)).copied(),
                    Foreign => Some(OF_ANOTHER),
                };
                if let Some(id) = id {
                    let (ours, generation) = (id != OF_ANOTHER, id.generation());
                    let what = What::Invalidate { ours, generation };
                    return self.tell(random, Event::Invalidate(id), &what);
                }
            }
        }
        Ok(())
    }

    fn pass_to(&mut self, mark: Mark, off: i8) {
        let published = &self.history.published;
        let instant = match mark {
            Deadline => self.session.next_deadline().map(words::nanos),
            AskAt => Some(words::nanos(published.ask_at)),
            UsableUntil => published.token.as_ref().map(|token| words::nanos(token.usable_until)),
            NotBefore => published.cooling.as_ref().map(|cooling| words::nanos(cooling.until)),
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
        let mut grant = Grant::bearer(text.clone()).unwrap();
        if let Some(nanos) = life.nanos() {
            grant = grant.expires_in(Duration::from_nanos(nanos));
        }
        if let Some(nanos) = life.refresh_in() {
            grant = grant.refresh_in(Duration::from_nanos(nanos));
        }
        (Ok(grant), Ok((text, life)))
    }

    fn tell(&mut self, random: f64, event: Event<CallerId>, what: &What) -> Result<(), String> {
        self.events += 1;
        let moment = Moment { now: Instant::from_nanos(self.now), random, used: self.used };
        let effects = self.history.tell(&mut *self.session, moment, event)?;
        let did = put_into_words(&effects);
        let should = self.model.handle(self.now, random, self.used, what);
        self.carry_out(effects);
        self.compare(&did, &should)?;
        self.history.judge(&*self.session, Moment { used: self.used, ..moment })
    }

    fn compare(&self, did: &Output, should: &Output) -> Result<(), String> {
        if did != should {
            return Err(format!("the machine says\n{did:#?}\nthe model says\n{should:#?}"));
        }
        let deadline = self.session.next_deadline().map(words::nanos);
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
    fn carry_out(&mut self, effects: Effects<CallerId>) {
        if let Some(published) = effects.publish {
            self.used = false;
            self.saw(published.token.map(|published| published.token.id()));
        }
        for start in effects.start {
            self.wire.push(match start.request {
                Request::Grant(_) => Wire::Grant,
                Request::Exchange(key, ..) => Wire::Exchange(key),
                Request::Revocation(text, _) => Wire::Revocation(text),
            });
        }
        for (_, answer) in effects.replies {
            if let Reply::Exchanged(Ok(token)) = answer {
                self.saw(Some(token.id()));
            }
        }
    }

    fn saw(&mut self, id: Option<TokenId>) {
        self.ids.extend(id.filter(|id| !self.ids.contains(id)));
    }
}
