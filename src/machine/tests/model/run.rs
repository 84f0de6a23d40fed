//! Applies the same events to the machine and its model, and compares their effects.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::operations::*;
use super::words::{self, Output, put_into_words};
use super::{Model, Nanos, SECOND, SESSION};
use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::judge::{History, Session, Verdict};
use crate::machine::{
    self, CallerId, Effects, Ended, Event, Machine, Moment, News, Purpose, Reply, Request, Wait,
};
use crate::request::{ExchangeKey, ExchangeRequest, TokenRequestOptions};
use crate::token::TokenId;

/// The session's clock does not begin with the session.
const BEGINNING: Nanos = 1_000_000 * SECOND;
/// A token of another session.
const OF_ANOTHER: TokenId = TokenId { session: SESSION + 1, generation: 1 };

/// An attempt on the wire.
enum Wire {
    Grant,
    Exchange(Arc<ExchangeKey>),
    Revocation(TokenText),
}

/// Optionally wraps the machine.
pub(crate) type Around<'a> = &'a dyn Fn(Machine<CallerId>) -> Box<dyn Session>;

pub(crate) fn nothing(machine: Machine<CallerId>) -> Box<dyn Session> {
    Box::new(machine)
}

/// The machine, its model, and the world around them.
struct Run {
    abilities: machine::Abilities,
    session: Box<dyn Session>,
    model: Model,
    now: Nanos,
    used: bool,
    wire: Vec<Wire>,
    /// Waits for leave.
    waits: Vec<Purpose>,
    /// Texts of tokens that were received, each once for every time.
    texts: Vec<String>,
    /// Tokens that a caller has seen.
    ids: Vec<TokenId>,
    history: History,
    last_id: CallerId,
    events: usize,
}

/// Plays a story and returns the number of events that both have handled. An error names the step that failed
/// and the reason.
pub(crate) fn play(around: Around<'_>, setup: &Setup, steps: &[Step]) -> Result<usize, String> {
    let mut run = Run::new(around, setup);
    for (at, (random, op)) in steps.iter().enumerate() {
        run.step(*random, *op).map_err(|problem| format!("step {at}, {op:?}: {problem}"))?;
    }
    Ok(run.events)
}

/// Removes every step that is not needed for the failure. (Proptest tries each only once.)
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

fn options(left: u32, ip: u8) -> TokenRequestOptions {
    let options = TokenRequestOptions::new().min_remaining(Duration::from_secs(left.into()));
    if ip == 0 { options } else { options.ip(&format!("192.0.2.{ip}")).unwrap() }
}

impl Run {
    fn new(around: Around<'_>, setup: &Setup) -> Self {
        let (config, abilities) = (setup.config(), setup.abilities());
        let machine = Machine::new(config.clone(), abilities, SESSION);
        Self {
            abilities,
            history: History::new(machine.published(), &config, abilities),
            session: around(machine),
            model: Model::new(setup),
            now: BEGINNING,
            used: false,
            wire: Vec::new(),
            waits: Vec::new(),
            texts: Vec::new(),
            ids: Vec::new(),
            last_id: 0,
            events: 0,
        }
    }

    fn step(&mut self, random: f64, op: Op) -> Verdict {
        let event = match op {
            Use => {
                self.used |= self.history.published.token.is_some();
                return Ok(());
            }
            Pass(millis) => {
                self.now += millis * 1_000_000;
                return Ok(());
            }
            To(mark, off) => {
                self.pass_to(mark, off);
                return Ok(());
            }
            Wake => {
                self.pass_to(Deadline, 0);
                Some(Event::Timer)
            }
            Timer => Some(Event::Timer),
            Abilities { exchange, revoke } => {
                let abilities = self.abilities;
                Some(Event::Abilities(machine::Abilities { exchange, revoke, ..abilities }))
            }
            Hear(back, left) => {
                let next = || format!("token-{}", self.texts.len());
                let text = self.texts.iter().rev().nth(usize::from(back)).filter(|_| back < 3);
                let text = TokenText::new(&text.cloned().unwrap_or_else(next)).ok_or("no token")?;
                let left = Duration::from_secs(left.into());
                Some(Event::News(News::Revoked { text, left }))
            }
            Shutdown => Some(Event::Shutdown),
            Permit(which, refusal) => {
                let at = usize::from(which) % self.waits.len().max(1);
                let result = refusal.map_or(Ok(()), |failure| Err(failure.error()));
                (at < self.waits.len()).then(|| Event::Permitted(self.waits.remove(at), result))
            }
            End(which, outcome) => self.end(usize::from(which), outcome),
            Get { left, ip } => {
                let id = self.next_id();
                Some(Event::GetToken(id, id, options(left, ip)))
            }
            Exchange { key, reversed, left, ip } => {
                let id = self.next_id();
                let mut scopes = [format!("key-{key}"), "zone".to_string()];
                if reversed {
                    scopes.reverse();
                }
                let request = ExchangeRequest::scopes(scopes).options(options(left, ip));
                Some(Event::Exchange(id, id, Box::new(request)))
            }
            Revoke { ip } => {
                let id = self.next_id();
                Some(Event::Revoke(id, id, options(0, ip)))
            }
            Leave(which) => {
                let waiting = &self.history.callers;
                let leaving = waiting.keys().nth(usize::from(which) % waiting.len().max(1));
                leaving.map(|id| Event::Left(*id))
            }
            Asked { current } => {
                let number = self.history.published.number;
                Some(Event::Asked(if current { number } else { number.wrapping_sub(1) }))
            }
            Invalidate(which) => {
                let published = self.history.published.token.as_ref();
                let id = match which {
                    Current => published.map(|published| published.token.id()),
                    Back(back) => self.ids.iter().rev().nth(usize::from(back)).copied(),
                    Foreign => Some(OF_ANOTHER),
                };
                id.map(Event::Invalidate)
            }
        };
        event.map_or(Ok(()), |event| self.tell(random, event))
    }

    fn pass_to(&mut self, mark: Mark, off: i8) {
        let published = &self.history.published;
        let instant = match mark {
            Deadline => self.session.next_deadline().map(words::nanos),
            AskAt => Some(words::nanos(published.ask_at)),
            UsableUntil => published.token.as_ref().map(|token| words::nanos(token.usable_until)),
            NotBefore => published.cooling.as_ref().map(|cooling| words::nanos(cooling.until)),
            ExchangedStaleAt => self.model.exchanged_at(|token| token.stale_at),
            ExchangedHoldAt => self.model.exchanged_at(|token| token.hold_at),
        };
        let instant = instant.filter(|instant| *instant < Nanos::MAX / 2);
        if let Some(instant) = instant {
            self.now = self.now.max(instant.saturating_add_signed(off.into()));
        }
    }

    fn next_id(&mut self) -> CallerId {
        self.last_id += 1;
        self.last_id
    }

    fn end(&mut self, which: usize, outcome: Outcome) -> Option<Event<CallerId>> {
        if self.wire.is_empty() {
            return None;
        }
        let wire = self.wire.remove(which % self.wire.len());
        Some(Event::Ended(match wire {
            Wire::Grant => Ended::Grant(self.result(outcome)),
            Wire::Exchange(key) => Ended::Exchange(key, self.result(outcome)),
            Wire::Revocation(text) => Ended::Revocation(
                text,
                match outcome {
                    New(_) | Again(..) => Ok(()),
                    Fails(failure) => Err(failure.error()),
                },
            ),
        }))
    }

    fn result(&mut self, outcome: Outcome) -> Result<Grant, TokenError> {
        let (back, life) = match outcome {
            New(life) => (None, life),
            Again(back, life) => (Some(usize::from(back)), life),
            Fails(failure) => return Err(failure.error()),
        };
        let again = back.and_then(|back| self.texts.iter().rev().nth(back).cloned());
        let text = again.unwrap_or_else(|| format!("token-{}", self.texts.len()));
        self.texts.push(text.clone());
        Ok(life.of(Grant::bearer(text)?))
    }

    fn tell(&mut self, random: f64, event: Event<CallerId>) -> Verdict {
        self.events += 1;
        let moment = Moment { now: Instant::from_nanos(self.now), random, used: self.used };
        let should = self.model.handle(self.now, random, self.used, &event);
        let effects = self.history.tell(&mut *self.session, moment, event)?;
        let did = put_into_words(&effects);
        self.carry_out(effects);
        self.compare(&did, &should)?;
        self.history.judge(&*self.session, Moment { used: self.used, ..moment })
    }

    fn compare(&self, did: &Output, should: &Output) -> Verdict {
        if did != should {
            return Err(format!("the machine says\n{did:#?}\nthe model says\n{should:#?}"));
        }
        let seen: Vec<_> = self.history.exchanged.iter().map(words::seen_exchanged).collect();
        let seen: Vec<_> = seen.into_iter().filter(|it| self.now < it.usable_until).collect();
        let shown = self.model.shown_exchanged();
        if seen != shown {
            return Err(format!("readers of exchanged tokens see\n{seen:#?}\nnot\n{shown:#?}"));
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
        for wait in effects.waits {
            match wait {
                Wait::Begin(purpose, ..) => self.waits.push(purpose),
                Wait::GiveUp(purpose) => self.waits.retain(|other| *other != purpose),
            }
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
