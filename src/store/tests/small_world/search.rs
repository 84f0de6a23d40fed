//! The search.

use super::prints::print_once;
use super::*;
use crate::machine::tests::limit::Limit;

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

pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) left: usize,
    pub(super) violation: Option<String>,
    pub(super) took: Duration,
}

/// Breadth first, so that what is found is short.
pub(super) fn explore(scope: &Scope, limit: &Limit) -> Explored {
    let began = Stopwatch::now();
    let mut known: HashSet<u128, BuildHasherDefault<AsItIs>> = HashSet::default();
    let mut paths: Vec<(u32, Label)> = vec![(0, (None, "start"))];
    let mut waiting = VecDeque::from([(World::new(scope), 0_u32)]);
    known.insert(print_once(&World::new(scope), scope));
    let mut out = Vec::new();
    let mut violation = None;
    while let Some((world, from)) = waiting.pop_front() {
        out.clear();
        if let Err((label, why)) = world.next(scope, &mut out) {
            let mut steps = vec![label];
            let mut at = from;
            while at != 0 {
                let (before, label) = paths[at as usize];
                steps.push(label);
                at = before;
            }
            let shown = steps.iter().rev().map(|(who, what)| match who {
                Some(nth) => format!("{nth} {what}"),
                None => (*what).to_owned(),
            });
            violation = Some(format!("{why}\n   {}", shown.collect::<Vec<_>>().join("; ")));
            break;
        }
        for (label, next) in out.drain(..) {
            if known.insert(print_once(&next, scope)) {
                paths.push((from, label));
                let at = u32::try_from(paths.len() - 1).unwrap_or(u32::MAX);
                waiting.push_back((next, at));
            }
        }
        if limit.is_reached(known.len()) {
            break;
        }
    }
    Explored { states: known.len(), left: waiting.len(), violation, took: began.elapsed() }
}
