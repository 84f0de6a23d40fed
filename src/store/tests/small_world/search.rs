//! The search.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::thread;

use super::prints::print_once;
use super::*;
use crate::machine::tests::limit::Limit;

/// How many situations are looked at before those that follow on them are compared with all that is known.
const BATCH: usize = 1 << 10;

/// Which situations are looked at next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The oldest: what is found is as short as can be.
    Broad,
    /// The youngest: few wait at a time, in little memory.
    Deep,
}

#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, number: u128) {
        self.0 = u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
    }
}

type Prints = HashSet<u128, BuildHasherDefault<AsItIs>>;

/// How a situation was reached first: from which other, by which of its turns.
type Path = (u32, u8);

/// What follows on some situations and is not known yet, until a turn breaks a promise.
#[derive(Default)]
struct Followed {
    turns: usize,
    reached: Vec<(u128, World, Path)>,
    violation: Option<(u32, Label, &'static str)>,
}

pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) turns: usize,
    pub(super) left: usize,
    pub(super) violation: Option<String>,
    pub(super) took: Duration,
}

pub(super) fn explore(scope: &Scope, order: Order, limit: &Limit) -> Explored {
    let began = Stopwatch::now();
    let first = World::new(scope);
    let mut known = Prints::from_iter([print_once(&first, scope)]);
    let mut paths: Vec<Path> = vec![(0, 0)];
    let mut waiting = VecDeque::from([(first, 0)]);
    let (mut turns, mut violation) = (0, None);
    while violation.is_none() && !waiting.is_empty() && !limit.is_reached(known.len()) {
        let next = match order {
            Order::Broad => 0..waiting.len().min(BATCH),
            Order::Deep => waiting.len().saturating_sub(BATCH)..waiting.len(),
        };
        let batch = waiting.drain(next).collect();
        for followed in follow_side_by_side(batch, &known, scope) {
            turns += followed.turns;
            for (print, world, path) in followed.reached {
                if known.insert(print) {
                    waiting.push_back((world, number(paths.len())));
                    paths.push(path);
                }
            }
            violation = violation.or(followed.violation);
        }
    }
    let violation = violation
        .map(|(at, label, why)| format!("{why}\n   {}{}", told(scope, &paths, at), shown(label)));
    let (states, left) = (known.len(), waiting.len());
    Explored { states, turns, left, violation, took: began.elapsed() }
}

/// On as many threads as there are processors.
fn follow_side_by_side(
    mut batch: Vec<(World, u32)>,
    known: &Prints,
    scope: &Scope,
) -> Vec<Followed> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = batch.len().div_ceil(threads);
    thread::scope(|side| {
        let running: Vec<_> = (0..threads)
            .map(|_| batch.drain(..share.min(batch.len())).collect())
            .map(|part| side.spawn(move || follow(part, known, scope)))
            .collect();
        running.into_iter().map(|it| it.join().expect("a world does not panic")).collect()
    })
}

fn follow(part: Vec<(World, u32)>, known: &Prints, scope: &Scope) -> Followed {
    let (mut followed, mut out) = (Followed::default(), Vec::new());
    for (world, at) in part {
        if let Err((label, why)) = world.next(scope, &mut out) {
            followed.violation = Some((at, label, why));
            break;
        }
        followed.turns += out.len();
        for (turn, (_, next)) in out.drain(..).enumerate() {
            let print = print_once(&next, scope);
            if !known.contains(&print) {
                followed.reached.push((print, next, (at, turn_of(turn))));
            }
        }
    }
    followed
}

/// The way to a situation, by taking its turns again.
fn told(scope: &Scope, paths: &[Path], mut at: u32) -> String {
    let mut turns = Vec::new();
    while at != 0 {
        let (before, turn) = paths[at as usize];
        turns.push(turn);
        at = before;
    }
    let (mut world, mut told) = (World::new(scope), String::new());
    for turn in turns.into_iter().rev() {
        let mut out = Vec::new();
        world.next(scope, &mut out).expect("it went well before");
        let (label, next) = out.swap_remove(turn.into());
        told += &(shown(label) + "; ");
        world = next;
    }
    told
}

/// Looks again at what is known already: how many situations there are, and two that have one print and go on
/// differently.
pub(super) fn explore_twice(scope: &Scope, limit: &Limit) -> Result<usize, String> {
    let first = World::new(scope);
    let mut known = HashMap::from([(print_once(&first, scope), (0, futures(&first, scope)))]);
    let mut paths: Vec<Path> = vec![(0, 0)];
    let mut waiting = VecDeque::from([(first, 0)]);
    while let Some((world, at)) = waiting.pop_front() {
        if limit.is_reached(known.len()) {
            break;
        }
        let mut out = Vec::new();
        if world.next(scope, &mut out).is_err() {
            continue;
        }
        for (turn, (_, next)) in out.into_iter().enumerate() {
            let place = number(paths.len());
            let futures = futures(&next, scope);
            match known.entry(print_once(&next, scope)) {
                Entry::Vacant(entry) => {
                    entry.insert((place, futures));
                    paths.push((at, turn_of(turn)));
                    waiting.push_back((next, place));
                }
                Entry::Occupied(entry) if entry.get().1 != futures => {
                    let (other, others) = entry.get();
                    let what = futures.symmetric_difference(others).map(|(what, _)| what);
                    let what = what.collect::<Vec<_>>();
                    paths.push((at, turn_of(turn)));
                    let [one, other] = [place, *other].map(|at| told(scope, &paths, at));
                    return Err(format!("{what:?} after\n   {one}\n   {other}"));
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    Ok(known.len())
}

/// What each turn is called, and where it leads.
fn futures(world: &World, scope: &Scope) -> BTreeSet<(&'static str, u128)> {
    let mut out = Vec::new();
    match world.next(scope, &mut out) {
        Err((_, why)) => BTreeSet::from([(why, 0)]),
        Ok(()) => out.iter().map(|((_, what), next)| (*what, print_once(next, scope))).collect(),
    }
}

fn shown((who, what): Label) -> String {
    who.map_or(what.to_owned(), |nth| format!("{nth} {what}"))
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("memory ends before this does")
}

fn turn_of(nth: usize) -> u8 {
    u8::try_from(nth).expect("a situation has few turns")
}
