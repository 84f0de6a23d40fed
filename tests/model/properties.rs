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
