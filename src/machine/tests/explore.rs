//! Every turn of events in a small world, breadth first: whatever callers, the server and the clock do,
//! in whatever order, each property holds in every situation that can be reached.
//!
//! `cargo test --lib explore -- --nocapture` prints what was explored. It takes
//! about 10 s; `EXHAUSTIVE_SECONDS=120` goes deeper. The first violation that is found is one with the
//! fewest events, since the search is breadth first; it is printed as the steps that lead to it, ready
//! to be pasted into [`replay`].
//!
//! What lies deeper is told by chance, in long stories from a seed; a violation in one of them is cut
//! down to the steps that it needs.
//!
//! That it can find something is shown by sessions that are broken on purpose.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant as Stopwatch};

use super::broken::{Broken, Fault};
use super::limit::Limit;
use super::model::operations::{self, Life, Op, Setup};
use super::model::run::play;
use super::small_world::{Budget, Outcome, START, Scope, Step, World, machine};
use super::stories::{LONG, pasteable, run_to_the_end, tell};
use crate::config::RefreshMode;
use crate::instant::Instant;
use crate::judge::{PROPERTIES, Session, Verdict};

/// The most situations that wait to be looked at: 4 KiB each.
const MOST_WAITING: usize = 500_000;

const ALL: &[Outcome] = &[
    Outcome::Ok,
    Outcome::Again,
    Outcome::Short,
    Outcome::Transient,
    Outcome::RetryAfter,
    Outcome::Denied,
    Outcome::TimedOut,
];
const FEW: &[Outcome] = &[Outcome::Ok, Outcome::Transient, Outcome::Denied];
const OF_EXCHANGES: &[Outcome] = &[
    Outcome::Ok,
    Outcome::Again,
    Outcome::Short,
    Outcome::Transient,
    Outcome::Denied,
    Outcome::Changed,
    Outcome::SubjectRefused,
    Outcome::TimedOut,
];

/// Everything once or twice.
const WIDE: Budget = Budget {
    asks: [2, 1],
    exchanges: [1, 0],
    revokes: 2,
    leaves: 1,
    doubts: 1,
    news: 1,
    reads: true,
    late: 1,
    suspends: 1,
    outcomes: ALL,
};

/// The grant alone, so that longer stories fit.
const GRANTS: Budget = Budget { asks: [3, 1], exchanges: [0, 0], revokes: 0, doubts: 2, ..WIDE };

/// Revokes, with what gets in their way.
const REVOKES: Budget = Budget {
    asks: [2, 0],
    exchanges: [1, 0],
    revokes: 2,
    doubts: 0,
    late: 0,
    suspends: 0,
    outcomes: FEW,
    ..WIDE
};

/// Two keys of exchanged tokens.
const EXCHANGES: Budget = Budget {
    asks: [1, 1],
    exchanges: [2, 1],
    revokes: 1,
    leaves: 1,
    doubts: 2,
    news: 1,
    reads: false,
    late: 0,
    suspends: 0,
    outcomes: OF_EXCHANGES,
};

fn scopes() -> Vec<Scope> {
    let scope = |name, mode, random, budget| Scope { name, mode, random, gated: false, budget };
    let gated = |name, mode, random, budget| Scope { name, mode, random, gated: true, budget };
    vec![
        scope("wide", RefreshMode::WhileUsed, 0.5, WIDE),
        scope("wide", RefreshMode::OnRequest, 0.0, WIDE),
        scope("wide", RefreshMode::Always, 0.5, WIDE),
        scope("grants", RefreshMode::WhileUsed, 0.0, GRANTS),
        scope("grants", RefreshMode::Always, 0.5, GRANTS),
        scope("revokes", RefreshMode::WhileUsed, 0.5, REVOKES),
        scope("revokes", RefreshMode::Always, 0.0, REVOKES),
        scope("exchanges", RefreshMode::WhileUsed, 0.5, EXCHANGES),
        scope("exchanges", RefreshMode::OnRequest, 0.0, EXCHANGES),
        gated("gated", RefreshMode::WhileUsed, 0.5, REVOKES),
        gated("gated exchanges", RefreshMode::OnRequest, 0.0, EXCHANGES),
    ]
}

/// What an exploration found out.
struct Explored {
    states: usize,
    transitions: usize,
    /// All that can happen within so many events has been tried.
    depth: usize,
    /// Nothing was left to try.
    complete: bool,
    took: Duration,
    violation: Option<(Vec<Step>, String)>,
}

/// How each situation was reached: from which, and by what.
#[derive(Default)]
struct Paths(Vec<(u32, Option<Step>)>);

impl Paths {
    fn add(&mut self, from: u32, step: Option<Step>) -> u32 {
        self.0.push((from, step));
        u32::try_from(self.0.len() - 1).expect("fewer situations than fit into the memory")
    }

    fn to(&self, mut at: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        while let (from, Some(step)) = self.0[at as usize] {
            steps.push(step);
            at = from;
        }
        steps.reverse();
        steps
    }
}

/// Breadth first, until nothing is left, or the limit is reached, or the room is used up. From every `ends`-th new
/// situation it is also run to the end, in each of the three ways.
fn explore<S: Session + Clone + Hash>(
    session: S,
    scope: &Scope,
    limit: &Limit,
    ends: usize,
) -> Explored {
    let began = Stopwatch::now();
    let first = World::new(session, scope);
    let mut known = HashSet::from([fingerprint(&first)]);
    let mut paths = Paths::default();
    let mut waiting = VecDeque::from([(paths.add(0, None), 0, first)]);
    let mut explored = Explored {
        states: 1,
        transitions: 0,
        depth: 0,
        complete: false,
        took: Duration::ZERO,
        violation: None,
    };
    'search: while let Some((at, depth, world)) = waiting.pop_front() {
        explored.depth = depth;
        for step in world.steps() {
            let mut next = world.clone();
            explored.transitions += 1;
            let mut verdict = next.take(step);
            let is_new = verdict.is_ok() && known.insert(fingerprint(&next));
            if is_new {
                explored.states += 1;
                verdict = next.judge();
                if verdict.is_ok() && explored.states.is_multiple_of(ends) {
                    verdict = run_to_the_end(&next);
                }
            }
            if let Err(why) = verdict {
                let mut steps = paths.to(at);
                steps.push(step);
                explored.violation = Some((steps, why));
                break 'search;
            }
            if is_new && waiting.len() >= MOST_WAITING {
                // What is dropped here is not explored further: then the search ends at this depth.
                break 'search;
            }
            if is_new {
                waiting.push_back((paths.add(at, Some(step)), depth + 1, next));
            }
        }
        if limit.is_reached(explored.states) {
            break;
        }
    }
    explored.complete = waiting.is_empty() && explored.violation.is_none();
    explored.took = began.elapsed();
    explored
}

/// Lets these things happen to a new session, one after the other.
fn replay<S: Session + Clone>(session: S, scope: &Scope, steps: &[Step]) -> Verdict {
    let mut world = World::new(session, scope);
    for (nth, step) in steps.iter().enumerate() {
        let verdict = world.take(*step).and_then(|()| world.judge());
        verdict.and_then(|()| run_to_the_end(&world)).map_err(|why| format!("{nth}: {why}"))?;
    }
    Ok(())
}

/// Two situations are one if all that can follow is the same: so instants count from now, and what lies
/// more than a minute back lies back; how often things were done does not count.
fn fingerprint<S: Session + Clone + Hash>(world: &World<S>) -> u64 {
    let mut hasher = Relative { now: world.history.now, hasher: DefaultHasher::new() };
    let World { session, history, left, used, asked, last_exchanged, .. } = world;
    (session, history, used, asked, last_exchanged, world.is_doubted()).hash(&mut hasher);
    (left.asks, left.exchanges, left.revokes, left.leaves, left.doubts, left.late, left.suspends)
        .hash(&mut hasher);
    let asked_messages = world.asked_messages.iter();
    let is_current = |number: &u32| *number == history.published.number;
    asked_messages.map(is_current).collect::<Vec<_>>().hash(&mut hasher);
    world.invalidate_messages.hash(&mut hasher);
    hasher.finish()
}

/// Takes each number that is large enough for an instant as one. No other comes near the first of them.
struct Relative {
    now: Instant,
    hasher: DefaultHasher,
}

impl Hasher for Relative {
    fn write(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        const LONG_AGO: Duration = Duration::from_secs(61);
        let at = Instant::from_nanos(number);
        match at {
            // Or a count of nothing; where one can stand, the other cannot.
            Instant::ZERO => (Duration::ZERO, LONG_AGO).hash(&mut self.hasher),
            Instant::NEVER => self.hasher.write_u64(number),
            _ if at < START => self.hasher.write_u64(number),
            _ => (at.since(self.now), self.now.since(at).min(LONG_AGO)).hash(&mut self.hasher),
        }
    }

    fn finish(&self) -> u64 {
        self.hasher.finish()
    }
}

#[test]
fn nothing_that_can_happen_breaks_an_invariant() {
    let scopes = scopes();
    let searches = u32::try_from(scopes.len()).unwrap_or(1);
    let ends = if cfg!(debug_assertions) { 8 } else { 1 };
    println!("run to the end from every {ends}-th situation");
    println!("scope      mode       random    states transitions  depth  seconds");
    for scope in scopes {
        let limit = Limit::of(searches, 3_000);
        let explored = explore(machine(&scope), &scope, &limit, ends);
        println!(
            "{:<10} {:<10} {:>6} {:>9} {:>11} {:>6} {:>8.1}{}",
            scope.name,
            format!("{:?}", scope.mode),
            scope.random,
            explored.states,
            explored.transitions,
            explored.depth,
            explored.took.as_secs_f64(),
            if explored.complete { "  complete" } else { "" },
        );
        if let Some((steps, why)) = explored.violation {
            panic!("{}", pasteable(&scope, &steps, &why));
        }
        assert!(explored.states > 100, "it shows nothing");
    }
}

/// What lies deeper than the search comes, by chance. `EXHAUSTIVE_SEED=1` tells the stories of this
/// seed; it is printed, and the same one each time.
#[test]
fn nothing_in_a_long_story_breaks_an_invariant() {
    let limit = Limit::of(1, 1_000);
    let seed = std::env::var("EXHAUSTIVE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(1);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut stories, mut taken) = (0, 0);
    let began = Stopwatch::now();
    while !limit.is_reached(stories) {
        let modes = [RefreshMode::WhileUsed, RefreshMode::OnRequest, RefreshMode::Always];
        let draw = [0.0, 0.5, 0.999][stories / 3 % 3];
        let scope = Scope {
            name: "long",
            mode: modes[stories % 3],
            random: draw,
            gated: stories % 4 == 3,
            budget: LONG,
        };
        let mut left = 60;
        let told = tell(&scope, |among| {
            left -= 1;
            (left >= 0).then(|| random.usize(..among))
        });
        taken +=
            told.unwrap_or_else(|violation| panic!("seed {seed}, story {stories}\n{violation}"));
        stories += 1;
    }
    println!("seed {seed}: {stories} stories, {taken} steps, {:?}", began.elapsed());
    assert!(taken > 1_000, "it shows nothing");
}

/// The smallest world in which the fault shows.
fn where_to_look(fault: Fault) -> Budget {
    match fault {
        Fault::GivesTheFirstExchangedTokenAgain
        | Fault::AsksAFailingEndpoint
        | Fault::DropsARefusedSubject
        | Fault::ShowsAnExchangedTokenAfterARevoke
        | Fault::ShowsChildrenOfOneRevokedElsewhere
        | Fault::ShowsAnExchangedTokenForTooLong => EXCHANGES,
        Fault::GivesATokenInPlaceOfAnError => Budget { outcomes: FEW, news: 0, ..GRANTS },
        Fault::TakesASuccessForARefusal => GRANTS,
        Fault::GivesTheFirstTokenAgain
        | Fault::PublishesTheFirstTokenAgain
        | Fault::GrantsBehindTheBarrier
        | Fault::TakesARefusalForARevocation => REVOKES,
        _ => WIDE,
    }
}

/// Each fault, what shows it, and after how few events.
#[test]
fn every_broken_session_is_found_out() {
    println!("fault                              events  found by");
    let mut escaped = Vec::new();
    for (fault, property, says) in Fault::JUDGED {
        let budget = where_to_look(*fault);
        let scope = Scope {
            name: "fault",
            mode: RefreshMode::WhileUsed,
            random: 0.5,
            gated: false,
            budget,
        };
        let session = Broken::new(machine(&scope), *fault);
        let found = explore(session, &scope, &Limit::Count(100_000), 4).violation;
        let (steps, why) = found.unwrap_or_default();
        println!("{:<34} {:>6}  {why}", format!("{fault:?}"), steps.len());
        if !(why.contains(&format!("{property}: ")) && why.contains(says)) {
            escaped.push((fault, steps, why));
        }
    }
    assert!(escaped.is_empty(), "not found, or not by what should find them: {escaped:#?}");
}

/// These need a longer story than the search has the time for, so it is told.
#[test]
fn a_stale_token_given_again_is_found_out() {
    let scope = Scope {
        name: "fault",
        mode: RefreshMode::OnRequest,
        random: 0.0,
        gated: false,
        budget: GRANTS,
    };
    let session = || Broken::new(machine(&scope), Fault::GivesTheFirstTokenAgain);
    for (story, property, says) in STALE_TOKENS {
        let steps = [&[Step::Ask(1), Step::Grant(Outcome::Ok)], *story].concat();
        let why = replay(session(), &scope, &steps).expect_err("it is broken");
        assert!(why.contains(&format!("{property}: ")) && why.contains(says), "{why}");
        replay(machine(&scope), &scope, &steps).expect("the machine is not");
    }
}

/// What happens after a grant, which property finds the broken session out then, and what it says.
const STALE_TOKENS: &[(&[Step], &str, &str)] = &[
    (
        &[
            Step::Pass(Duration::from_secs(31)),
            Step::Ask(1),
            Step::Grant(Outcome::Ok),
            Step::Ask(1),
        ],
        "generations_never_go_back",
        "generation 1 after 2",
    ),
    (
        &[Step::Doubt, Step::InvalidateArrives, Step::Ask(1), Step::Grant(Outcome::Ok)],
        "no_earlier_token_after_an_honoured_invalidate",
        "generation 1 was invalidated",
    ),
];

/// In the small world nobody ends a session.
#[test]
fn a_session_that_goes_on_after_its_end_is_found_out() {
    let got = Op::End(0, operations::New(Life::Unsaid));
    let ops = [
        Op::Get { left: 0, ip: 0 },
        got,
        Op::Shutdown,
        Op::Pass(2_000),
        Op::Asked { current: true },
    ];
    let around = |machine| Broken::around(machine, Fault::GoesOnAfterTheEnd);
    let why = play(&around, &Setup::usual(), &ops.map(|op| (0.0, op))).expect_err("it is broken");
    assert!(why.contains(&format!("{AFTER_THE_END}: after the end it starts Grant")), "{why}");
}
const AFTER_THE_END: &str = "nothing_happens_after_the_end";

/// In the small world there is room for all exchanges.
#[test]
fn a_session_that_sends_too_many_exchanges_is_found_out() {
    let exchange = |key| Op::Exchange { key, reversed: false, left: 0, ip: 0 };
    let got = Op::End(0, operations::New(Life::Unsaid));
    let ops = [exchange(0), exchange(1), got];
    let setup = Setup { exchanges_at_once: 1, ..Setup::usual() };
    let around = |machine| Broken::around(machine, Fault::SendsTooManyExchanges);
    let why = play(&around, &setup, &ops.map(|op| (0.0, op))).expect_err("it is broken");
    assert!(why.contains(&format!("{TOO_MANY}: an exchange is sent beside 1 others")), "{why}");
}
const TOO_MANY: &str = "at_most_so_many_exchanges_are_on_the_wire";

/// In the small world it is otherwise seldom that leave is needed.
#[test]
fn a_gated_session_that_goes_without_leave_is_found_out() {
    let setup = Setup { gated: true, ..Setup::usual() };
    for (fault, ops, property) in [
        (Fault::SendsWithoutLeave, &[Op::Get { left: 0, ip: 0 }][..], LEAVE),
        (
            Fault::WaitsForLeaveBehindTheBarrier,
            &[
                Op::Get { left: 0, ip: 0 },
                Op::Permit(0, None),
                Op::End(0, operations::New(Life::Millis(60_000))),
                Op::Exchange { key: 0, reversed: false, left: 0, ip: 0 },
                Op::Revoke { ip: 0 },
            ],
            LEAVE_BEHIND_THE_BARRIER,
        ),
    ] {
        let around = |machine| Broken::around(machine, fault);
        let ops: Vec<_> = ops.iter().map(|op| (0.0, *op)).collect();
        let why = play(&around, &setup, &ops).expect_err("it is broken");
        assert!(why.contains(&format!("{property}: ")), "{why}");
    }
}
const LEAVE: &str = "each_attempt_of_a_gated_session_has_leave";
const LEAVE_BEHIND_THE_BARRIER: &str = "nobody_waits_for_leave_behind_the_barrier";

/// A property that nothing can break says nothing.
#[test]
fn each_property_can_fail() {
    let by_faults = Fault::JUDGED.iter().map(|(_, property, _)| *property);
    let by_stories = STALE_TOKENS.iter().map(|(_, property, _)| *property);
    let broken: BTreeSet<_> = by_faults
        .chain(by_stories)
        .chain([AFTER_THE_END, TOO_MANY, LEAVE, LEAVE_BEHIND_THE_BARRIER])
        .collect();
    let all: BTreeSet<_> = PROPERTIES.iter().map(|(name, _)| *name).collect();
    let unbroken: Vec<_> = all.difference(&broken).collect();
    assert!(unbroken.is_empty(), "no session in broken.rs breaks {unbroken:?}");
    let unknown: Vec<_> = broken.difference(&all).collect();
    assert!(unknown.iter().all(|name| name.starts_with("run to the end")), "{unknown:?}");
}

/// An abandoned flight once forgot when its next attempt was due.
#[test]
fn an_abandoned_flight_leaves_its_pause_to_the_next() {
    let scope = Scope {
        name: "wide",
        mode: RefreshMode::WhileUsed,
        random: 0.5,
        gated: false,
        budget: WIDE,
    };
    let steps = [
        Step::Exchange(0),
        Step::Grant(Outcome::Short),
        Step::Revoke,
        Step::Revocation(Outcome::TimedOut),
        Step::Exchanged(0, Outcome::Ok),
    ];
    replay(machine(&scope), &scope, &steps).unwrap_or_else(|why| panic!("{why}"));
}

/// And one that was abandoned before its first attempt had counted forgot that it was forgiven once.
#[test]
fn an_abandoned_flight_is_not_forgiven_twice() {
    let scope = Scope {
        name: "long",
        mode: RefreshMode::OnRequest,
        random: 0.5,
        gated: false,
        budget: LONG,
    };
    let steps = [
        Step::Exchange(0),
        Step::Grant(Outcome::Ok),
        Step::Revoke,
        Step::Exchanged(0, Outcome::Changed),
        Step::Leave(13),
        Step::Revocation(Outcome::Ok),
        Step::Exchange(0),
        Step::Wake,
        Step::Grant(Outcome::Ok),
        Step::Exchanged(0, Outcome::Changed),
    ];
    replay(machine(&scope), &scope, &steps).unwrap_or_else(|why| panic!("{why}"));
}
