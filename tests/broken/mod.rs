//! Sessions that are broken on purpose: the machine, with one fault put around it. A test that cannot
//! find these finds nothing.

#![allow(dead_code, reason = "each test that includes this module uses its own part of it")]

use std::time::Duration;

use ccg_session::testing::internals::{
    Answer, CallerId, Effects, Ended, Event, Instant, Machine, Moment, Published, Request, Start,
};
use ccg_session::{AccessToken, ExchangedToken, SessionError};

use crate::invariants::Session;

/// What is wrong with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// When an attempt ends and answers several, the last answer is lost.
    LosesAnAnswer,
    /// Callers that left are kept.
    KeepsDepartedCallers,
    /// A second `GetToken` is answered with the first token that was ever given.
    GivesTheFirstTokenAgain,
    /// An exchange is answered with the first exchanged token that was ever given.
    GivesTheFirstExchangedTokenAgain,
    /// Each grant attempt starts twice.
    StartsASecondGrant,
    /// After a grant that failed, the next starts at once.
    RetriesAtOnce,
    /// After a revoke a grant starts at once.
    GrantsBehindTheBarrier,
    /// A revoke does not tell readers.
    DoesNotPublishARevoke,
    /// A revoke is answered when it is taken.
    AnswersARevokeAtOnce,
    /// A refused revocation counts as done.
    TakesARefusalForARevocation,
    /// An invalidation is ignored.
    IgnoresInvalidate,
    /// The timer is not asked for.
    ForgetsTheTimer,
    /// The timer is asked for again and again.
    SpinsOnTheTimer,
    /// What readers see is usable for a second longer than it is.
    PublishesTooLongALife,
    /// Readers are shown the first token that there ever was.
    PublishesTheFirstTokenAgain,
    /// In place of an error there is the last token that was given.
    GivesATokenInPlaceOfAnError,
    /// Callers 1 and 2 are answered with the next event, whatever is there.
    AnswersWithTheNextEvent,
    /// Shutdown leaves those alone who wait for a revoke.
    ForgetsRevokersAtTheEnd,
}

impl Fault {
    /// Each of them, and what the invariant says that finds it.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::LosesAnAnswer, "callers, and"),
        (Self::KeepsDepartedCallers, "callers, and"),
        (Self::GivesTheFirstTokenAgain, "is given"),
        (Self::GivesTheFirstExchangedTokenAgain, "is given"),
        (Self::StartsASecondGrant, "a second attempt on the wire"),
        (Self::RetriesAtOnce, "too early"),
        (Self::GrantsBehindTheBarrier, "started while"),
        (Self::DoesNotPublishARevoke, "published after the revoke"),
        (Self::AnswersARevokeAtOnce, "revoked, but"),
        (Self::TakesARefusalForARevocation, "revoked, but"),
        (Self::IgnoresInvalidate, "was not honoured"),
        (Self::ForgetsTheTimer, "wait for ever"),
        (Self::SpinsOnTheTimer, "the next deadline is"),
        (Self::PublishesTooLongALife, "a read gives"),
        (Self::PublishesTheFirstTokenAgain, "a revoked token is published"),
        (Self::GivesATokenInPlaceOfAnError, "at or after its expiry"),
        (Self::AnswersWithTheNextEvent, "has it not"),
        (Self::ForgetsRevokersAtTheEnd, "at the end are told"),
    ];
}

/// A machine with a fault.
#[derive(Clone, Debug)]
pub struct Broken {
    fault: Fault,
    token: Option<AccessToken>,
    exchanged: Option<ExchangedToken>,
    last_grant: Option<Start>,
    grant_on_wire: bool,
    late: Vec<(CallerId, Answer)>,
    now: Option<Instant>,
    // The last field: what is printed from its token on is what tells situations apart.
    machine: Machine<CallerId>,
}

impl Broken {
    /// Puts the fault around the machine.
    pub fn new(machine: Machine<CallerId>, fault: Fault) -> Self {
        Self {
            fault,
            token: None,
            exchanged: None,
            last_grant: None,
            grant_on_wire: false,
            late: Vec::new(),
            now: None,
            machine,
        }
    }

    /// What the machine is told in place of the truth.
    fn distort(&self, event: Event<CallerId>) -> Event<CallerId> {
        match (self.fault, event) {
            (Fault::KeepsDepartedCallers, Event::Left(_))
            | (Fault::IgnoresInvalidate, Event::Invalidate(_)) => Event::Timer,
            (Fault::TakesARefusalForARevocation, Event::Ended(Ended::Revocation(text, _))) => {
                Event::Ended(Ended::Revocation(text, Ok(())))
            }
            (_, event) => event,
        }
    }

    /// What becomes of that which the machine wants done.
    fn spoil(&mut self, event: &Event<CallerId>, fx: &mut Effects<CallerId>) {
        let grant = fx.start.iter().find(|start| matches!(start.request, Request::Grant(_)));
        self.last_grant = grant.cloned().or(self.last_grant.take());
        let again = self.last_grant.clone().into_iter();
        self.grant_on_wire &= !matches!(event, Event::Ended(Ended::Grant(_)));
        self.grant_on_wire |= fx.start.iter().any(|it| matches!(it.request, Request::Grant(_)));
        match (self.fault, event) {
            (Fault::LosesAnAnswer, Event::Ended(_)) if fx.replies.len() > 1 => {
                drop(fx.replies.pop());
            }
            (
                Fault::GivesTheFirstTokenAgain
                | Fault::GivesTheFirstExchangedTokenAgain
                | Fault::GivesATokenInPlaceOfAnError,
                _,
            ) => self.give_again(fx),
            (Fault::StartsASecondGrant, _) if !fx.start.is_empty() => fx.start.extend(again),
            (Fault::RetriesAtOnce, Event::Ended(Ended::Grant(Err(_)))) => fx.start.extend(again),
            (Fault::GrantsBehindTheBarrier, Event::Revoke(..)) if !self.grant_on_wire => {
                fx.start.extend(again);
            }
            (Fault::DoesNotPublishARevoke, Event::Revoke(..)) => fx.publish = None,
            (Fault::AnswersARevokeAtOnce, Event::Revoke(caller, ..)) if fx.replies.is_empty() => {
                fx.replies.push((*caller, Answer::Revoked(Ok(()))));
            }
            (Fault::PublishesTooLongALife, _) => {
                if let Some(token) = fx.publish.as_mut().and_then(|it| it.token.as_mut()) {
                    token.usable_until = token.usable_until + Duration::from_secs(1);
                }
            }
            (Fault::PublishesTheFirstTokenAgain, _) => {
                if let Some(token) = fx.publish.as_mut().and_then(|it| it.token.as_mut()) {
                    token.token = self.token.get_or_insert_with(|| token.token.clone()).clone();
                }
            }
            (Fault::AnswersWithTheNextEvent, Event::GetToken(1 | 2, ..)) => {
                std::mem::swap(&mut fx.replies, &mut self.late);
            }
            (Fault::AnswersWithTheNextEvent, Event::Timer) => {}
            (Fault::AnswersWithTheNextEvent, _) => fx.replies.append(&mut self.late),
            (Fault::ForgetsRevokersAtTheEnd, Event::Shutdown) => {
                let closed =
                    |answer: &Answer| matches!(answer, Answer::Revoked(Err(SessionError::Closed)));
                fx.replies.retain(|(_, answer)| !closed(answer));
            }
            _ => {}
        }
    }

    /// Answers with what it gave before; not the one who only tries what a read would give.
    fn give_again(&mut self, fx: &mut Effects<CallerId>) {
        let callers = fx.replies.iter_mut().filter(|(caller, _)| *caller < CallerId::MAX);
        for (_, answer) in callers {
            match answer {
                Answer::Token(Ok(token)) if self.fault == Fault::GivesTheFirstTokenAgain => {
                    *token = self.token.get_or_insert_with(|| token.clone()).clone();
                }
                Answer::Token(answer) if self.fault == Fault::GivesATokenInPlaceOfAnError => {
                    match (&*answer, &self.token) {
                        (Ok(token), _) => self.token = Some(token.clone()),
                        (Err(SessionError::Failed { .. }), Some(token)) => {
                            *answer = Ok(token.clone());
                        }
                        _ => {}
                    }
                }
                Answer::Exchanged(Ok(token))
                    if self.fault == Fault::GivesTheFirstExchangedTokenAgain =>
                {
                    *token = self.exchanged.get_or_insert_with(|| token.clone()).clone();
                }
                _ => {}
            }
        }
    }
}

impl Session for Broken {
    fn handle(&mut self, moment: Moment, event: Event<CallerId>, fx: &mut Effects<CallerId>) {
        self.now = Some(moment.now);
        let event = self.distort(event);
        let told = event.clone();
        self.machine.handle(moment, event, fx);
        self.spoil(&told, fx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.fault {
            Fault::ForgetsTheTimer => None,
            Fault::SpinsOnTheTimer => self.machine.next_deadline().and(self.now),
            _ => self.machine.next_deadline(),
        }
    }

    fn published(&self) -> Published {
        self.machine.published().clone()
    }

    fn held_callers(&self) -> usize {
        self.machine.held_callers()
    }
}
