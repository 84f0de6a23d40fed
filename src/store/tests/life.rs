//! How long a session believes that its token lives, who has waited for it.

use std::time::Duration;

use crate::grant::Grant;
use crate::instant::Instant;
use crate::store::contract::{Id, Tag};
use crate::store::memory::Memory;
use crate::store::round::{Asked, CALL, Granted, Input, Look, Moment, Opened, Round, Seen, Step};

const START: Instant = Instant::from_nanos(1_000_000_000);
const LIFE: Duration = Duration::from_secs(10);
const WAITED: Duration = Duration::from_secs(2);
const ID: Id = Id([1; 16]);

fn at(now: Instant) -> Moment {
    Moment { now, random: 0.5, id: ID }
}

fn took(found: Seen) -> Input {
    Input::Took(Ok(Look { now: 0, revoked: Vec::new(), found }))
}

/// A round that has found the lease taken, and looks again after a while.
fn waited(memory: &mut Memory) -> Round {
    let asked = Asked {
        replaces: false,
        timeout: Duration::from_secs(30),
        least_life: Duration::ZERO,
        buffer: Duration::ZERO,
        not: Vec::new(),
        one_live_token: false,
        call: CALL,
        only_looks: false,
    };
    let mut round = Round::new(asked, &at(START), memory);
    assert!(matches!(round.next(&at(START), Input::Start, memory), Step::Take(..)));
    let busy = took(Seen::Busy(ID));
    assert!(matches!(round.next(&at(START), busy, memory), Step::Wait(_)));
    assert!(matches!(round.next(&at(START + WAITED), Input::Waited, memory), Step::Take(..)));
    round
}

fn grant() -> Grant {
    Grant::bearer("T").unwrap().expires_in(LIFE)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap()
}

/// From the start of the attempt, as the session counts.
fn told(step: Step) -> (Duration, Duration) {
    let Step::Done(result, _) = step else { panic!("{step:?}") };
    let grant = result.unwrap();
    (grant.life().unwrap(), grant.get_age())
}

#[test]
fn a_token_that_is_taken_after_a_wait_lives_no_shorter_for_that() {
    let mut memory = Memory::default();
    let mut round = waited(&mut memory);
    // That the store answers late makes its life no longer.
    let now = at(START + WAITED + Duration::from_secs(1));
    let entry = Opened {
        asked: 0,
        life: micros(LIFE),
        tag: Tag([1; 16]),
        id: ID,
        grant: grant(),
        is_refused: false,
    };
    let step = round.next(&now, took(Seen::Entry(Box::new(entry))), &mut memory);
    assert_eq!(told(step), (LIFE + WAITED, Duration::ZERO));
}

#[test]
fn nor_does_one_that_is_granted_after_a_wait() {
    let mut memory = Memory::default();
    let mut round = waited(&mut memory);
    let sent = at(START + WAITED);
    assert!(matches!(round.next(&sent, took(Seen::Leased), &mut memory), Step::Grant(Some(_))));
    let granted = Granted { grant: grant(), tag: Tag([1; 16]), life: LIFE, can_share: true };
    let step = round.next(&at(sent.now + WAITED), Input::Granted(Ok(granted)), &mut memory);
    assert_eq!(told(step), (LIFE + WAITED, Duration::ZERO));
}
