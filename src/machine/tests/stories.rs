//! Long stories: too long to be searched, with everything in them. At each turn somebody chooses what
//! happens next: chance (`explore.rs`) or a fuzzer (`fuzz/`).

use std::fmt::Write as _;

use super::small_world::{Budget, Outcome, Scope, Step, World, machine};
use crate::config::RefreshMode;
use crate::judge::{Session, Verdict};

/// Everything a few times.
pub(super) const LONG: Budget = Budget {
    asks: [8, 4],
    exchanges: [4, 2],
    revokes: 4,
    leaves: 4,
    doubts: 4,
    news: 2,
    reads: true,
    late: 3,
    suspends: 1,
    outcomes: &[
        Outcome::Ok,
        Outcome::Again,
        Outcome::Short,
        Outcome::Transient,
        Outcome::RetryAfter,
        Outcome::Denied,
        Outcome::Changed,
        Outcome::SubjectRefused,
        Outcome::TimedOut,
    ],
};

/// One long story. `choose` says which of so many things happens next, and with `None` that the story
/// is over; then it is run to the end, in each of the three ways. How many things happened, or what
/// must not have happened, ready to be pasted.
pub(super) fn tell(
    scope: &Scope,
    mut choose: impl FnMut(usize) -> Option<usize>,
) -> Result<usize, String> {
    let mut world = World::new(machine(scope), scope);
    let mut story = Vec::new();
    let violation = loop {
        let steps = world.steps();
        let chosen = if steps.is_empty() { None } else { choose(steps.len()) };
        let Some(step) = chosen.map(|at| steps[at]) else {
            break run_to_the_end(&world).err();
        };
        story.push(step);
        if let Err(why) = world.take(step).and_then(|()| world.judge()) {
            break Some(why);
        }
    };
    violation.map_or(Ok(story.len()), |why| {
        let (story, why) = shorten(scope, story, why);
        Err(pasteable(scope, &story, &why))
    })
}

/// The body of a fuzz target: the first byte says what kind of session it is, each that follows what
/// happens next.
pub fn fuzz(data: &[u8]) {
    let Some((kind, story)) = data.split_first() else { return };
    let kind = usize::from(*kind);
    let modes = [RefreshMode::WhileUsed, RefreshMode::OnRequest, RefreshMode::Always];
    let random = [0.0, 0.5, 0.999][kind / 3 % 3];
    let scope = Scope {
        name: "long",
        mode: modes[kind % 3],
        random,
        gated: kind / 9 % 2 == 1,
        budget: LONG,
    };
    // What may happen a few times only has happened by then.
    let mut story = story.iter().take(100);
    let told = tell(&scope, |among| story.next().map(|byte| usize::from(*byte) % among));
    told.unwrap_or_else(|violation| panic!("{violation}"));
}

/// From here on all attempts succeed, or are denied, or time out: everybody is answered.
pub(super) fn run_to_the_end<S: Session + Clone>(world: &World<S>) -> Verdict {
    for outcome in [Outcome::Ok, Outcome::Denied, Outcome::TimedOut] {
        let ends = world.clone().runs_to_its_end(outcome);
        ends.map_err(|why| format!("run to the end, all {outcome:?}: {why}"))?;
    }
    Ok(())
}

/// Leaves out what the violation does not need.
fn shorten(scope: &Scope, mut steps: Vec<Step>, mut why: String) -> (Vec<Step>, String) {
    let violates = |steps: &[Step]| {
        let mut world = World::new(machine(scope), scope);
        for step in steps {
            if !world.steps().contains(step) {
                return None;
            }
            if let Err(why) = world.take(*step).and_then(|()| world.judge()) {
                return Some(why);
            }
        }
        run_to_the_end(&world).err()
    };
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        match violates(&fewer) {
            Some(reason) => (steps, why, at) = (fewer, reason, 0),
            None => at += 1,
        }
    }
    (steps, why)
}

/// A violation as a test that can be pasted into `explore.rs`.
pub(super) fn pasteable(scope: &Scope, steps: &[Step], why: &str) -> String {
    let mut text = format!("{why}\nreplay(machine(&scope), &scope, &[");
    for step in steps {
        let step = match step {
            Step::Pass(by) => format!("Pass(Duration::from_nanos({}))", by.as_nanos()),
            Step::Grant(outcome) => format!("Grant(Outcome::{outcome:?})"),
            Step::Exchanged(key, outcome) => format!("Exchanged({key}, Outcome::{outcome:?})"),
            Step::Revocation(outcome) => format!("Revocation(Outcome::{outcome:?})"),
            other => format!("{other:?}"),
        };
        write!(text, "\n    Step::{step},").expect("a string takes whatever is written");
    }
    write!(text, "\n]) // {} {:?}, random {}", scope.name, scope.mode, scope.random)
        .expect("a string takes whatever is written");
    text
}
