//! Sessions that are broken on purpose: the machine, with one fault put around it or into it. A test that
//! cannot find these finds nothing.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::super::endpoint::Endpoint;
use super::super::ledger::Ledger;
use super::super::{
    CallerId, Effects, Ended, Event, Machine, Moment, Published, Reply, Request, Start,
};
use crate::error::{SessionError, TokenError};
use crate::grant::TokenText;
use crate::instant::Instant;
use crate::judge::{Session, refuses_subject};
use crate::request::TokenRequestOptions;
use crate::token::{AccessToken, ExchangedToken};

/// What is wrong with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// When an attempt ends and answers several, the last answer is lost.
    LosesAnAnswer,
    KeepsDepartedCallers,
    /// A second `GetToken` is answered with the first token that was ever given.
    GivesTheFirstTokenAgain,
    /// An exchange is answered with the first exchanged token that was ever given.
    GivesTheFirstExchangedTokenAgain,
    StartsASecondGrant,
    /// After a grant that failed, the next starts at once.
    RetriesAtOnce,
    /// After a revoke a grant starts at once.
    GrantsBehindTheBarrier,
    DoesNotPublishARevoke,
    /// A revoke is answered when it is taken.
    AnswersARevokeAtOnce,
    /// A refused revocation counts as done.
    TakesARefusalForARevocation,
    IgnoresInvalidate,
    IgnoresNews,
    /// What was exchanged from a token that is revoked elsewhere is still shown.
    ShowsChildrenOfOneRevokedElsewhere,
    ForgetsTheTimer,
    SpinsOnTheTimer,
    /// What readers see is usable for a second longer than it is.
    PublishesTooLongALife,
    /// Readers are shown the first token that there ever was.
    PublishesTheFirstTokenAgain,
    /// In place of an error there is the last token that was given.
    GivesATokenInPlaceOfAnError,
    /// Callers 1 and 2 are answered with the next event, whatever is there.
    AnswersWithTheNextEvent,
    ForgetsRevokersAtTheEnd,
    /// What answers several answers the last of them twice.
    AnswersTwice,
    /// A token that came is published, and those who waited for it are not told.
    KeepsATokenFromThoseWhoWait,
    /// When a token has come, the next grant starts at once.
    GrantsAgainAtOnce,
    /// When a revocation was not answered in time, a grant starts in its pause.
    GrantsInThePauseOfARevoke,
    /// A token that came is revoked, though nobody asked for it.
    RevokesANewToken,
    RevokesTwice,
    PublishesAtEachTimer,
    DoesNotCountPublications,
    /// A grant that succeeds is taken for one that was refused.
    TakesASuccessForARefusal,
    /// An attempt may take five minutes.
    IsTooPatient,
    /// Who reads after the end starts a grant.
    GoesOnAfterTheEnd,

    SendsWithoutLeave,
    WaitsForLeaveBehindTheBarrier,

    /// More exchanges are on the wire than may be.
    SendsTooManyExchanges,
    /// An endpoint that fails is asked on.
    AsksAFailingEndpoint,
    /// An endpoint that fails is probed before its time.
    ProbesTooEarly,
    /// A revoke does not tell readers of exchanged tokens.
    ShowsAnExchangedTokenAfterARevoke,
    /// A refused subject is thrown away.
    DropsARefusedSubject,
    /// Readers are shown exchanged tokens for a second longer than they are usable.
    ShowsAnExchangedTokenForTooLong,

    // Small ones, which only the model can tell.
    /// When the endpoint is left alone, the last who waits for it is told nothing.
    ForgetsAKeyInACooling,
    /// Who asked last for an exchange is served first.
    ServesTheLastExchangeFirst,
    /// A mark lasts for a minute.
    ForgetsMarks,
    /// A key whose token is stale is not refreshed.
    RefreshesNoExchangedToken,
    /// Whose pause is over takes the subject that is there, with however little life.
    TakesAnySubject,
    ForgetsTheLedgerAtAnInvalidate,
    AnswersTheLastFirst,
    /// An invalidation starts a second grant.
    GrantsAgainAtAnInvalidate,
    TakesStaleAtForHoldAt,
    TakesAnOldAsked,
    LosesADoubtAtAPublication,
    LiftsEarliestAtARevoke,
    /// The barrier does not wait for exchanges.
    DoesNotWaitForExchanges,
    LiftsNotBeforeAtAnInvalidate,
    AnswersARevokeBeforeItsLedger,
    ForgetsWhatIsConfirmed,
}

impl Fault {
    /// Which property finds each, and what that says. (Whether all are answered in time is found out at the
    /// end of a run.)
    #[rustfmt::skip]
    pub(super) const JUDGED: &[(Self, &str, &str)] = &[
        (Self::LosesAnAnswer, "nobody_waits_after_an_attempt_beside_a_usable_token", "still waits"),
        (Self::KeepsDepartedCallers, "whoever_waits_is_known_and_waits_for_something", "callers, and"),
        (Self::GivesTheFirstTokenAgain, "no_earlier_token_after_a_revoke", "is given"),
        (Self::GivesTheFirstExchangedTokenAgain, "a_token_is_given_only_to_those_who_asked_for_it", "is given"),
        (Self::StartsASecondGrant, "one_attempt_of_a_purpose_on_the_wire", "a second attempt on the wire"),
        (Self::RetriesAtOnce, "attempts_keep_to_the_flight_policy", "too early"),
        (Self::GrantsBehindTheBarrier, "nothing_but_revocations_starts_behind_the_barrier", "started while"),
        (Self::DoesNotPublishARevoke, "a_revoke_takes_the_token_from_readers", "published after the revoke"),
        (Self::AnswersARevokeAtOnce, "a_revoke_that_is_ok_left_nothing_alive", "revoked, but"),
        (Self::TakesARefusalForARevocation, "a_revoke_that_is_ok_left_nothing_alive", "revoked, but"),
        (Self::IgnoresInvalidate, "a_doubt_is_settled", "was not honoured"),
        (Self::IgnoresNews, "no_earlier_token_after_a_revoke", "is given"),
        (Self::ShowsChildrenOfOneRevokedElsewhere, "no_token_exchanged_from_one_revoked_elsewhere_is_shown", "its subject is revoked"),
        (Self::ForgetsTheTimer, "whoever_waits_is_known_and_waits_for_something", "wait for ever"),
        (Self::SpinsOnTheTimer, "the_next_deadline_is_ahead", "the next deadline is"),
        (Self::PublishesTooLongALife, "a_read_gives_what_the_session_would_give", "a read gives"),
        (Self::PublishesTheFirstTokenAgain, "no_earlier_token_after_a_revoke", "a revoked token is published"),
        (Self::GivesATokenInPlaceOfAnError, "no_token_at_or_after_its_expiry", "at or after its expiry"),
        (Self::AnswersWithTheNextEvent, "a_usable_token_is_an_answer_at_once", "has it not"),
        (Self::ForgetsRevokersAtTheEnd, "shutdown_answers_everybody", "at the end are told"),
        (Self::AnswersTwice, "exactly_one_answer_to_each_caller", "does not wait, and is told"),
        (Self::KeepsATokenFromThoseWhoWait, "nobody_waits_after_an_attempt_beside_a_usable_token", "still waits"),
        (Self::GrantsAgainAtOnce, "grants_keep_their_distance", "after the last that succeeded"),
        (Self::GrantsInThePauseOfARevoke, "nothing_but_revocations_starts_while_a_revoke_waits", "started while"),
        (Self::RevokesANewToken, "only_marked_tokens_are_revoked_and_once_confirmed_no_more", "came after the last revoke"),
        (Self::RevokesTwice, "only_marked_tokens_are_revoked_and_once_confirmed_no_more", "is revoked again"),
        (Self::PublishesAtEachTimer, "a_timer_that_is_not_due_does_nothing", "a timer that is not due"),
        (Self::DoesNotCountPublications, "snapshots_are_numbered_in_their_order", "snapshot 1 after 1"),
        (Self::ShowsAnExchangedTokenAfterARevoke, "no_revoked_exchanged_token_is_shown", "is shown after the revoke"),
        (Self::DropsARefusedSubject, "only_a_doubt_or_a_revoke_takes_a_usable_token", "is gone"),
        (Self::ShowsAnExchangedTokenForTooLong, "a_read_of_an_exchanged_token_gives_what_the_session_would_give", "a read gives"),
        (Self::AsksAFailingEndpoint, "a_failing_endpoint_sees_one_probe_at_a_time", "the failing endpoint is asked"),
        (Self::TakesASuccessForARefusal, "run to the end, all Ok", "all goes well"),
        (Self::IsTooPatient, "run to the end, all TimedOut", "it took"),
    ];

    /// What the model has to find.
    pub(super) const SEEDED: [Self; 23] = [
        Self::ForgetsTheLedgerAtAnInvalidate,
        Self::AnswersTheLastFirst,
        Self::GrantsAgainAtAnInvalidate,
        Self::TakesStaleAtForHoldAt,
        Self::KeepsDepartedCallers,
        Self::TakesAnOldAsked,
        Self::LosesADoubtAtAPublication,
        Self::LiftsEarliestAtARevoke,
        Self::DoesNotWaitForExchanges,
        Self::LiftsNotBeforeAtAnInvalidate,
        Self::AnswersARevokeBeforeItsLedger,
        Self::ForgetsWhatIsConfirmed,
        Self::SendsTooManyExchanges,
        Self::AsksAFailingEndpoint,
        Self::ProbesTooEarly,
        Self::ShowsAnExchangedTokenAfterARevoke,
        Self::DropsARefusedSubject,
        Self::ForgetsAKeyInACooling,
        Self::ServesTheLastExchangeFirst,
        Self::ForgetsMarks,
        Self::RefreshesNoExchangedToken,
        Self::TakesAnySubject,
        Self::IgnoresNews,
    ];
}

/// A machine with a fault.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    fault: Fault,
    token: Option<AccessToken>,
    exchanged: Option<ExchangedToken>,
    last_grant: Option<Start>,
    grant_on_wire: bool,
    late: Vec<(CallerId, Reply)>,
    confirmed: Vec<TokenText>,
    now: Instant,
    closed: bool,
    machine: Machine<CallerId>,
}

/// As in the machine, that is: what the fault remembers tells no situations apart.
impl Hash for Broken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.machine.hash(state);
    }
}

impl Broken {
    pub(super) fn around(machine: Machine<CallerId>, fault: Fault) -> Box<dyn Session> {
        Box::new(Self::new(machine, fault))
    }

    pub(super) fn new(mut machine: Machine<CallerId>, fault: Fault) -> Self {
        if fault == Fault::SendsTooManyExchanges {
            machine.config.exchanges_at_once += 1;
        }
        machine.abilities.gated &= fault != Fault::SendsWithoutLeave;
        Self {
            fault,
            token: None,
            exchanged: None,
            last_grant: None,
            grant_on_wire: false,
            late: Vec::new(),
            confirmed: Vec::new(),
            now: Instant::ZERO,
            closed: false,
            machine,
        }
    }

    /// What the machine is told in place of the truth.
    fn distort(&self, event: Event<CallerId>) -> Event<CallerId> {
        match (self.fault, event) {
            (Fault::KeepsDepartedCallers, Event::Left(_))
            | (Fault::IgnoresInvalidate, Event::Invalidate(_))
            | (Fault::IgnoresNews, Event::News(_)) => Event::Timer,
            (Fault::TakesAnOldAsked, Event::Asked(_)) => Event::Asked(self.published().number),
            (Fault::TakesARefusalForARevocation, Event::Ended(Ended::Revocation(text, _))) => {
                Event::Ended(Ended::Revocation(text, Ok(())))
            }
            (Fault::TakesASuccessForARefusal, Event::Ended(Ended::Grant(Ok(_)))) => {
                Event::Ended(Ended::Grant(Err(TokenError::denied("invalid_client", ""))))
            }
            (_, event) => event,
        }
    }

    /// What becomes of that which the machine wants done.
    #[expect(clippy::too_many_lines, reason = "an arm for each fault")]
    fn spoil(&mut self, event: &Event<CallerId>, fx: &mut Effects<CallerId>) {
        let grant = fx.start.iter().find(|start| matches!(start.request, Request::Grant(_)));
        self.last_grant = grant.cloned().or(self.last_grant.take());
        let again = self.last_grant.clone().into_iter();
        self.grant_on_wire &= !matches!(event, Event::Ended(Ended::Grant(_)));
        self.grant_on_wire |= fx.start.iter().any(|it| matches!(it.request, Request::Grant(_)));
        match (self.fault, event) {
            (Fault::LosesAnAnswer, Event::Ended(_))
            | (Fault::ForgetsAKeyInACooling, Event::Ended(Ended::Exchange(_, Err(_))))
                if fx.replies.len() > 1 =>
            {
                drop(fx.replies.pop());
            }
            (
                Fault::GivesTheFirstTokenAgain
                | Fault::GivesTheFirstExchangedTokenAgain
                | Fault::GivesATokenInPlaceOfAnError,
                _,
            ) => self.give_again(fx),
            (Fault::StartsASecondGrant, _) if !fx.start.is_empty() => fx.start.extend(again),
            (Fault::RetriesAtOnce, Event::Ended(Ended::Grant(Err(_))))
            | (Fault::GrantsAgainAtOnce, Event::Ended(Ended::Grant(Ok(_)))) => {
                fx.start.extend(again);
            }
            (Fault::GrantsBehindTheBarrier, Event::Revoke(..)) if !self.grant_on_wire => {
                fx.start.extend(again);
            }
            (Fault::DoesNotPublishARevoke, Event::Revoke(..)) => fx.publish = None,
            (Fault::WaitsForLeaveBehindTheBarrier, Event::Revoke(..)) => fx.waits.clear(),
            (Fault::AnswersARevokeAtOnce, Event::Revoke(caller, ..)) if fx.replies.is_empty() => {
                fx.replies.push((*caller, Reply::Revoked(Ok(()))));
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
                    |answer: &Reply| matches!(answer, Reply::Revoked(Err(SessionError::Closed)));
                fx.replies.retain(|(_, answer)| !closed(answer));
            }
            (Fault::AnswersTwice, Event::Ended(_)) if fx.replies.len() > 1 => {
                fx.replies.extend(fx.replies.last().cloned());
            }
            (Fault::KeepsATokenFromThoseWhoWait, Event::Ended(Ended::Grant(Ok(_)))) => {
                fx.replies.clear();
            }
            (
                Fault::GrantsInThePauseOfARevoke,
                Event::Ended(Ended::Revocation(_, Err(TokenError::TimedOut { .. }))),
            ) if !self.grant_on_wire => fx.start.extend(again),
            (Fault::RevokesANewToken, Event::Ended(Ended::Grant(Ok(_)))) => {
                fx.start.extend(self.what_a_revoke_would_start());
            }
            (Fault::RevokesTwice, Event::Ended(Ended::Revocation(text, Ok(())))) => {
                let request = Request::Revocation(text.clone(), TokenRequestOptions::new());
                fx.start.push(Start { number: 1, timeout: Duration::from_secs(10), request });
            }
            (Fault::PublishesAtEachTimer, Event::Timer) => {
                fx.publish = Some(self.published().clone());
            }
            (Fault::IsTooPatient, _) => {
                fx.start.iter_mut().for_each(|start| start.timeout = Duration::from_secs(300));
            }
            (Fault::DoesNotCountPublications, _) => {
                if let Some(published) = &mut fx.publish {
                    published.number = 1;
                }
            }
            (Fault::GoesOnAfterTheEnd, Event::Asked(_)) if self.closed => fx.start.extend(again),
            (Fault::ShowsAnExchangedTokenAfterARevoke, Event::Revoke(..))
            | (Fault::ShowsChildrenOfOneRevokedElsewhere, Event::News(_)) => fx.exchanged.clear(),
            (Fault::ShowsAnExchangedTokenForTooLong, _) => {
                for (_, shown) in &mut fx.exchanged {
                    if let Some(shown) = shown {
                        shown.usable_until = shown.usable_until + Duration::from_secs(1);
                    }
                }
            }
            (Fault::ServesTheLastExchangeFirst, _) => {
                let is_one = |start: &Start| matches!(start.request, Request::Exchange(..));
                let exchanges = fx.start.iter().take_while(|start| is_one(start)).count();
                fx.start[..exchanges].reverse();
            }
            (Fault::AnswersTheLastFirst, _) => {
                let is_token = |(_, answer): &(CallerId, Reply)| matches!(answer, Reply::Token(_));
                let tokens = fx.replies.iter().take_while(|reply| is_token(reply)).count();
                fx.replies[..tokens].reverse();
            }
            _ => {}
        }
    }

    /// The revocations that would be sent if somebody revoked now.
    fn what_a_revoke_would_start(&self) -> Vec<Start> {
        let mut fx = Effects::default();
        let revoke = Event::Revoke(CallerId::MAX, CallerId::MAX, TokenRequestOptions::new());
        let moment = Moment { now: self.now, random: 0.0, used: false };
        self.machine.clone().handle(moment, revoke, &mut fx);
        fx.start
    }

    /// Answers with what it gave before; not the one who only tries what a read would give.
    fn give_again(&mut self, fx: &mut Effects<CallerId>) {
        let callers = fx.replies.iter_mut().filter(|(caller, _)| *caller < CallerId::MAX);
        for (_, answer) in callers {
            match answer {
                Reply::Token(Ok(token)) if self.fault == Fault::GivesTheFirstTokenAgain => {
                    *token = self.token.get_or_insert_with(|| token.clone()).clone();
                }
                Reply::Token(answer) if self.fault == Fault::GivesATokenInPlaceOfAnError => {
                    match (&*answer, &self.token) {
                        (Ok(token), _) => self.token = Some(token.clone()),
                        (Err(SessionError::Failed { .. }), Some(token)) => {
                            *answer = Ok(token.clone());
                        }
                        _ => {}
                    }
                }
                Reply::Exchanged(Ok(token))
                    if self.fault == Fault::GivesTheFirstExchangedTokenAgain =>
                {
                    *token = self.exchanged.get_or_insert_with(|| token.clone()).clone();
                }
                _ => {}
            }
        }
    }
}

/// Faults within the machine: what is done to it when it has handled an event.
impl Broken {
    fn mutate(&mut self, before: &Machine<CallerId>, moment: Moment, fx: &mut Effects<CallerId>) {
        let machine = &mut self.machine;
        let invalidated = before.counters.invalidations < machine.counters.invalidations
            && before.own.kept().is_some()
            && machine.own.kept().is_none();
        let revoked = before.counters.revokes < machine.counters.revokes;
        let failed = before.counters.grants_failed < machine.counters.grants_failed;
        let on_wire = machine.exchanges.on_wire() > 0;
        let waits_for_none = machine.barrier.is_up() && !machine.own.flight.is_on_wire();
        match self.fault {
            Fault::ForgetsTheLedgerAtAnInvalidate if invalidated => {
                machine.ledger = Ledger::default();
            }
            Fault::GrantsAgainAtAnInvalidate if invalidated => drop(machine.own.flight.land()),
            Fault::TakesStaleAtForHoldAt => {
                let Some(kept) = machine.own.kept_mut() else { return };
                kept.lifetime.hold_at = kept.lifetime.stale_at;
            }
            Fault::LosesADoubtAtAPublication if failed && machine.own.kept().is_some() => {
                machine.doubts_dismissed += 1;
            }
            Fault::LiftsEarliestAtARevoke if revoked => machine.earliest = Instant::ZERO,
            Fault::LiftsNotBeforeAtAnInvalidate if invalidated && !machine.own.flight.is_open() => {
                machine.own.flight.succeed();
            }
            Fault::DoesNotWaitForExchanges if waits_for_none && on_wire => {
                machine.barrier.lower(moment.now, false, &machine.ledger, fx);
            }
            Fault::AnswersARevokeBeforeItsLedger if waits_for_none && !on_wire => {
                let callers = machine.barrier.close();
                fx.replies.extend(callers.map(|caller| (caller, Reply::Revoked(Ok(())))));
            }
            _ => return,
        }
        // What follows from it belongs to the same event.
        let number = fx.publish.as_ref().map(|published| published.number);
        machine.handle(moment, Event::Timer, fx);
        if let (Some(number), Some(published)) = (number, &mut fx.publish) {
            (published.number, machine.published.number) = (number, number);
        }
    }

    /// What is done to it before it handles an event.
    fn weaken(&mut self, moment: Moment, event: &Event<CallerId>) {
        let machine = &mut self.machine;
        let ends = |refuses: fn(&TokenError) -> bool| match event {
            Event::Ended(Ended::Exchange(_, Err(error))) => refuses(error),
            _ => false,
        };
        match self.fault {
            Fault::ForgetsWhatIsConfirmed => self.forget_what_is_confirmed(event),
            Fault::ForgetsMarks => machine.ledger.age_marks(moment.now, Duration::from_secs(60)),
            Fault::DropsARefusedSubject if ends(refuses_subject) => drop(machine.own.take()),
            Fault::AsksAFailingEndpoint => machine.endpoint = Endpoint::default(),
            Fault::ProbesTooEarly => machine.endpoint.forget_the_pause(),
            Fault::RefreshesNoExchangedToken => machine.exchanges.forget_stale_at(),
            Fault::TakesAnySubject => machine.exchanges.has_waited(),
            _ => {}
        }
    }

    /// A marked token that comes again is refused, unless it is not known any more.
    fn forget_what_is_confirmed(&mut self, event: &Event<CallerId>) {
        match event {
            Event::Ended(Ended::Revocation(text, Ok(()))) => self.confirmed.push(text.clone()),
            Event::Ended(Ended::Grant(Ok(grant)) | Ended::Exchange(_, Ok(grant)))
                if self.confirmed.contains(grant.text()) =>
            {
                self.machine.ledger = Ledger::default();
            }
            _ => {}
        }
    }
}

impl Session for Broken {
    fn handle(&mut self, moment: Moment, event: Event<CallerId>, fx: &mut Effects<CallerId>) {
        self.now = moment.now;
        let event = self.distort(event);
        let (told, before) = (event.clone(), self.machine.clone());
        self.weaken(moment, &event);
        self.machine.handle(moment, event, fx);
        self.mutate(&before, moment, fx);
        self.spoil(&told, fx);
        self.closed |= matches!(told, Event::Shutdown);
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.fault {
            Fault::ForgetsTheTimer => None,
            Fault::SpinsOnTheTimer => self.machine.next_deadline().and(Some(self.now)),
            _ => self.machine.next_deadline(),
        }
    }

    fn published(&self) -> &Published {
        self.machine.published()
    }

    fn held_callers(&self) -> usize {
        self.machine.held_callers()
    }

    fn fork(&self) -> Box<dyn Session> {
        Box::new(self.clone())
    }
}
