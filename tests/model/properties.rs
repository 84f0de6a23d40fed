//! What holds of any machine whatever its rules are, each as a small function.

use std::collections::BTreeMap;

use ccg_session::testing::internals::{Effects, Event, Machine, Moment};

use super::Nanos;
use super::words::{self, Output, Start, Told, What, Wrong};

/// What the world around the machine knows.
#[derive(Default)]
pub struct History {
    /// Callers that have not left and were not answered, in the order in which they came.
    pub waiting: Vec<u64>,
    /// Those that ever wanted to revoke.
    pub revokes: Vec<u64>,
    grants_on_the_wire: usize,
    /// When each text expires at the latest, as far as was said.
    expires: BTreeMap<String, Nanos>,
    sent_at: BTreeMap<Option<u8>, Nanos>,
    /// The last generation of the session's own that a caller was given.
    last_given: u64,
    /// The highest generation that was given or published, of either kind.
    highest: u64,
    /// No generation up to this may be given: it was revoked.
    revoked_up_to: u64,
    closed: bool,
}

/// All of them, after each event.
pub fn check(
    history: &mut History,
    machine: &Machine<u64>,
    moment: Moment,
    what: &What,
    did: &Output,
) -> Result<(), String> {
    note(history, moment, what, did);
    deadline_is_later_than_now(machine, moment)?;
    timer_changes_nothing(machine, moment)?;
    one_grant_on_the_wire(history)?;
    every_caller_is_answered_once(history, machine, did)?;
    only_revocations_behind_the_barrier(history, did)?;
    generations_never_go_back(history, did)?;
    no_revoked_generation_is_given(history, machine, what, did)?;
    nothing_expired_is_given(history, moment, did)?;
    nothing_after_closing(history, what, did)
}

/// Keeps the history up to date with what happened and what was started.
fn note(history: &mut History, moment: Moment, what: &What, did: &Output) {
    let now = words::nanos(moment.now);
    let ended = match what {
        What::GrantEnded(found) => {
            history.grants_on_the_wire -= 1;
            Some((None, found))
        }
        What::ExchangeEnded(key, found) => Some((Some(*key), found)),
        _ => None,
    };
    if let Some((kind, Ok((text, life)))) = ended {
        let life = life.nanos().unwrap_or(300 * super::SECOND);
        let until = history.expires.entry(text.clone()).or_default();
        *until = history.sent_at[&kind].saturating_add(life).max(*until);
    }
    for start in &did.starts {
        match start {
            Start::Grant { .. } => {
                history.grants_on_the_wire += 1;
                history.sent_at.insert(None, now);
            }
            Start::Exchange { key, .. } => {
                history.sent_at.insert(Some(*key), now);
            }
            Start::Revocation { .. } => {}
        }
    }
}

fn deadline_is_later_than_now(machine: &Machine<u64>, moment: Moment) -> Result<(), String> {
    match machine.next_deadline() {
        Some(deadline) if deadline <= moment.now => {
            Err(format!("the deadline {deadline:?} is not later than {:?}", moment.now))
        }
        _ => Ok(()),
    }
}

/// Nothing is left that could still start; so a timer at the same moment does nothing, once or twice.
fn timer_changes_nothing(machine: &Machine<u64>, moment: Moment) -> Result<(), String> {
    let mut machine = machine.clone();
    let deadline = machine.next_deadline();
    for _ in 0..2 {
        let mut effects = Effects::default();
        // The snapshot may be a new one, which nobody has used.
        let unused = Moment { used: false, ..moment };
        machine.handle(unused, Event::Timer, &mut effects);
        let did = words::put_into_words(&effects);
        if did != Output::default() || machine.next_deadline() != deadline {
            return Err(format!("another timer did this: {did:#?}"));
        }
    }
    Ok(())
}

fn one_grant_on_the_wire(history: &History) -> Result<(), String> {
    if history.grants_on_the_wire > 1 {
        return Err(format!("{} grants are on the wire", history.grants_on_the_wire));
    }
    Ok(())
}

/// Who was answered waited until then, and the machine holds all others.
fn every_caller_is_answered_once(
    history: &mut History,
    machine: &Machine<u64>,
    did: &Output,
) -> Result<(), String> {
    for (id, _) in &did.replies {
        let Some(at) = history.waiting.iter().position(|waiting| waiting == id) else {
            return Err(format!("caller {id} was answered, but no longer waited"));
        };
        history.waiting.remove(at);
    }
    if machine.held_callers() != history.waiting.len() {
        let (held, waiting) = (machine.held_callers(), history.waiting.len());
        return Err(format!("{waiting} callers wait, but the machine holds {held}"));
    }
    Ok(())
}

/// Whoever waits for a revoke waits behind the barrier.
fn only_revocations_behind_the_barrier(history: &History, did: &Output) -> Result<(), String> {
    let barrier = history.waiting.iter().any(|id| history.revokes.contains(id));
    let other = did.starts.iter().find(|start| !matches!(start, Start::Revocation { .. }));
    match other {
        Some(start) if barrier => Err(format!("{start:?} behind the barrier")),
        _ => Ok(()),
    }
}

fn given(did: &Output) -> impl Iterator<Item = &(u64, String)> {
    did.replies.iter().filter_map(|(_, told)| match told {
        Told::Token(Ok(token)) => Some(token),
        _ => None,
    })
}

/// Whatever is revoked or invalidated in between: what comes after it is newer.
fn generations_never_go_back(history: &mut History, did: &Output) -> Result<(), String> {
    for (generation, _) in given(did) {
        if *generation < history.last_given {
            return Err(format!("{generation} was given after {}", history.last_given));
        }
        history.last_given = *generation;
    }
    Ok(())
}

/// Neither the session's own tokens nor exchanged ones come back after a revoke.
fn no_revoked_generation_is_given(
    history: &mut History,
    machine: &Machine<u64>,
    what: &What,
    did: &Output,
) -> Result<(), String> {
    let taken = |id| {
        let refusals = [Wrong::Unsupported, Wrong::Overloaded, Wrong::Closed];
        let refusals = refusals.map(|wrong| (id, Told::Revoked(Err(wrong))));
        !did.replies.iter().any(|reply| refusals.contains(reply))
    };
    if matches!(what, What::Revoke(id, _) if taken(*id)) {
        history.revoked_up_to = history.highest;
    }
    let published = machine.published().token.as_ref().map(|token| token.token.id().generation());
    let given = did.replies.iter().filter_map(|(_, told)| match told {
        Told::Token(Ok((generation, _))) | Told::Exchanged(Ok((generation, _))) => {
            Some(*generation)
        }
        _ => None,
    });
    for generation in given.chain(published) {
        if generation <= history.revoked_up_to {
            return Err(format!("generation {generation} is there after it was revoked"));
        }
        history.highest = history.highest.max(generation);
    }
    Ok(())
}

fn nothing_expired_is_given(history: &History, moment: Moment, did: &Output) -> Result<(), String> {
    let now = words::nanos(moment.now);
    for (_, told) in &did.replies {
        if let Told::Token(Ok((_, text))) | Told::Exchanged(Ok((_, text))) = told
            && history.expires[text] <= now
        {
            return Err(format!("{text} was given after its expiry"));
        }
    }
    Ok(())
}

fn nothing_after_closing(history: &mut History, what: &What, did: &Output) -> Result<(), String> {
    if history.closed && (did.publish.is_some() || !did.starts.is_empty()) {
        return Err("something was done after the session had closed".into());
    }
    history.closed |= *what == What::Shutdown;
    Ok(())
}

/// Each property, shown able to fail: what it says of a machine and a history that it must not let pass.
#[cfg(test)]
mod broken {
    use std::collections::BTreeSet;

    use ccg_session::testing::internals::{Ended, Instant};
    use ccg_session::{Grant, TokenError, TokenRequestOptions};

    use super::super::operations::Setup;
    use super::super::words::Asks;
    use super::*;

    const NOW: Moment = Moment { now: Instant::from_nanos(1_000_000), random: 0.5, used: false };

    /// A machine with a caller and a grant on the wire.
    fn asked() -> Machine<u64> {
        let setup = Setup::usual();
        let mut machine = Machine::new(setup.config(), setup.abilities(), 1);
        let ask = Event::GetToken(1, 1, TokenRequestOptions::new());
        machine.handle(NOW, ask, &mut Effects::default());
        machine
    }

    /// The same, when the grant has ended.
    fn ended(result: Result<Grant, TokenError>) -> Machine<u64> {
        let mut machine = asked();
        machine.handle(NOW, Event::Ended(Ended::Grant(result)), &mut Effects::default());
        machine
    }

    fn holding() -> Machine<u64> {
        ended(Ok(Grant::bearer("t").unwrap()))
    }

    /// A history in which caller 1 waits.
    fn waiting() -> History {
        History { waiting: vec![1], ..History::default() }
    }

    fn told(told: Told) -> Output {
        Output { replies: vec![(1, told)], ..Output::default() }
    }

    fn token(generation: u64) -> Told {
        Told::Token(Ok((generation, "t".into())))
    }

    fn grant() -> Start {
        Start::Grant { number: 1, asks: Asks::default(), refused: None }
    }

    /// When the pause after a failed attempt is over, and the timer has not come yet.
    fn when_the_next_attempt_is_due(machine: &Machine<u64>) -> Moment {
        Moment { now: machine.next_deadline().unwrap(), ..NOW }
    }

    /// A property's verdict, with its name.
    macro_rules! of {
        ($property:ident($($argument:expr),* $(,)?)) => {
            (stringify!($property), $property($($argument),*))
        };
    }

    #[test]
    fn each_property_can_fail() {
        let failed = ended(Err(TokenError::server(503, None)));
        let due = when_the_next_attempt_is_due(&failed);
        let nothing = Output::default();
        let start = Output { starts: vec![grant()], ..Output::default() };
        let known = || BTreeMap::from([("t".to_string(), words::nanos(NOW.now))]);
        let revoke = What::Revoke(2, Asks::default());
        let verdicts = [
            (of!(deadline_is_later_than_now(&failed, due)), "is not later than"),
            (of!(timer_changes_nothing(&failed, due)), "another timer did"),
            (
                of!(one_grant_on_the_wire(&History {
                    grants_on_the_wire: 2,
                    ..History::default()
                })),
                "2 grants",
            ),
            (
                of!(every_caller_is_answered_once(
                    &mut History::default(),
                    &holding(),
                    &told(token(1))
                )),
                "no longer waited",
            ),
            (
                of!(every_caller_is_answered_once(&mut waiting(), &holding(), &nothing)),
                "1 callers wait, but the machine holds 0",
            ),
            (
                of!(every_caller_is_answered_once(&mut History::default(), &asked(), &nothing)),
                "0 callers wait, but the machine holds 1",
            ),
            (
                of!(only_revocations_behind_the_barrier(
                    &History { revokes: vec![1], ..waiting() },
                    &start,
                )),
                "behind the barrier",
            ),
            (
                of!(generations_never_go_back(
                    &mut History { last_given: 2, ..History::default() },
                    &told(token(1)),
                )),
                "1 was given after 2",
            ),
            (
                of!(no_revoked_generation_is_given(
                    &mut History { revoked_up_to: 1, ..History::default() },
                    &asked(),
                    &What::Timer,
                    &told(Told::Exchanged(Ok((1, "t".into())))),
                )),
                "generation 1 is there after",
            ),
            (
                of!(no_revoked_generation_is_given(
                    &mut History { highest: 1, ..History::default() },
                    &holding(),
                    &revoke,
                    &nothing,
                )),
                "generation 1 is there after",
            ),
            (
                of!(nothing_expired_is_given(
                    &History { expires: known(), ..History::default() },
                    NOW,
                    &told(token(1)),
                )),
                "after its expiry",
            ),
            (
                of!(nothing_after_closing(
                    &mut History { closed: true, ..History::default() },
                    &What::Timer,
                    &start,
                )),
                "after the session had closed",
            ),
        ];
        let mut broken = BTreeSet::new();
        for ((name, verdict), says) in verdicts {
            let why = verdict.expect_err(name);
            assert!(why.contains(says), "{name} says {why}");
            broken.insert(name);
        }
        // Each function of this file that gives a verdict, and is asked after each event.
        let asked = include_str!("properties.rs").split_once("note(history, moment, what, did);");
        let (asked, _) = asked.and_then(|(_, rest)| rest.split_once('}')).unwrap();
        let asked: BTreeSet<_> = asked
            .lines()
            .filter_map(|line| line.trim().split_once('('))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(broken, asked, "shown able to fail, and asked");
    }
}
