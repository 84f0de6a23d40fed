//! The machine against its model: whatever happens, they want the same done, in the same order, and wake up
//! at the same time.
//!
//! `PROPTEST_CASES=20000 cargo test --lib model` runs it longer. A failure prints a test that can be pasted
//! here; its seed goes to `regressions.txt`, which is played first by every later run.

use proptest::prelude::*;

use super::super::broken::{Broken, Fault};
use super::bytes::story;
use super::operations::*;
use super::run::{nothing, pasteable, play, shrink};
use crate::judge::search::{Failure, search, search_seeded};

fn stories() -> impl Strategy<Value = (Setup, Vec<Step>)> {
    prop::collection::vec(any::<u8>(), 10..500).prop_map(|bytes| story(&bytes))
}

#[test]
fn the_machine_does_what_the_model_does() {
    let regressions = "src/machine/tests/model/regressions.txt";
    let mut events = 0;
    let found = search(&stories(), regressions, |(setup, steps)| {
        events += play(&nothing, setup, steps)?;
        Ok(())
    });
    println!("{events} events");
    if let Err(Failure { cases, value: (setup, steps), seed }) = found {
        let steps = shrink(&nothing, &setup, steps);
        panic!(
            "after {cases} cases; shrunk to {} steps; seed {seed}\n{}",
            steps.len(),
            pasteable(&setup, &steps)
        );
    }
}

/// Does it find what it is there to find? `cargo test --lib seeded -- --nocapture` prints the table.
#[test]
fn the_model_finds_every_seeded_fault() {
    println!("| fault | after cases | shrunk to events | found by |\n|---|---|---|---|");
    let mut missed = Vec::new();
    for fault in Fault::SEEDED {
        let around = |machine| Broken::around(machine, fault);
        let found =
            search_seeded(&stories(), 511, |(setup, steps)| play(&around, setup, steps).map(drop));
        let Err(Failure { cases, value: (setup, steps), .. }) = found else {
            missed.push(fault);
            continue;
        };
        let steps = shrink(&around, &setup, steps);
        let problem = play(&around, &setup, &steps).unwrap_err();
        let problem = problem.lines().next().unwrap_or_default();
        println!("| {fault:?} | {cases} | {} | {problem} |", steps.len());
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// A caller that wants a token, and one that wants it exchanged.
const ASK: Op = Get { left: 0, ip: 0 };
const fn exchange(key: u8) -> Op {
    Exchange { key, reversed: false, left: 0, ip: 0 }
}
const REVOKE: Op = Revoke { ip: 0 };
/// The first attempt on the wire gives a token that lives so long, or whose life is not said.
const fn lives(millis: u64) -> Op {
    End(0, New(Millis(millis)))
}
const LIVES: Op = End(0, New(Unsaid));
const fn fails(failure: super::operations::Failure) -> Op {
    End(0, Fails(failure))
}
const USUAL: Setup = Setup::usual();
const ALWAYS: Setup = Setup { mode: Mode::Always, ..USUAL };
const ONE_ATTEMPT: Setup = Setup { attempts: 1, ..USUAL };

/// What the model found in the machine: each was wrong once.
const FOUND: &[(&str, Setup, &[Op])] = &[
    (
        "a barrier ends though its last token has expired, and a revoke was turned away",
        Setup { cooling: 1, max_held: 2, can_exchange: false, ..USUAL },
        &[ASK, REVOKE, lives(1), fails(TimedOut), Pass(1_000), ASK, REVOKE, LIVES],
    ),
    (
        "an unexpired exchanged token is given when too many wait for its successor",
        Setup { max_held: 1, ..USUAL },
        &[
            ASK,
            lives(3_600_000),
            exchange(0),
            lives(60_000),
            To(ExchangedHoldAt, 0),
            exchange(0),
            Exchange { key: 0, reversed: true, left: 0, ip: 0 },
        ],
    ),
    (
        "a batch of revocations pauses for a retryable error that was not its first",
        USUAL,
        &[
            exchange(1),
            exchange(0),
            LIVES,
            LIVES,
            LIVES,
            REVOKE,
            fails(Denied),
            fails(RateLimited(Some(5_000))),
            LIVES,
            Wake,
        ],
    ),
    (
        "a grant is not warned of an exchanged token",
        USUAL,
        &[ASK, exchange(0), LIVES, REVOKE, LIVES, LIVES, LIVES, Wake],
    ),
    (
        "a flight that nobody wants ends however short the barrier was",
        ALWAYS,
        &[Timer, REVOKE, fails(Transport), Wake],
    ),
    (
        "a failed revoke counts the time from its answer",
        ONE_ATTEMPT,
        &[
            ASK,
            REVOKE,
            lives(60_000),
            fails(RateLimited(Some(5_000))),
            Wake,
            REVOKE,
            Pass(1),
            lives(60_000),
        ],
    ),
    (
        "a token that came after a revoke is kept fresh",
        ALWAYS,
        &[ASK, REVOKE, lives(60_000), LIVES, Wake, lives(60_000), Wake],
    ),
    (
        "an exchange without a subject fails at once behind the barrier too",
        Setup { attempts: 1, ..ALWAYS },
        &[Timer, lives(60_000), Wake, fails(TimedOut), REVOKE, exchange(0)],
    ),
    (
        "a string that comes again after its expiry is a new token",
        USUAL,
        &[ASK, REVOKE, lives(13_000), LIVES, Wake, Pass(12_000), End(0, Again(0, Millis(60_000)))],
    ),
    (
        "a revocation flight that succeeded leaves nothing to the next",
        ONE_ATTEMPT,
        &[
            exchange(0),
            LIVES,
            REVOKE,
            End(1, Fails(CredentialsChanged)),
            End(1, New(Unsaid)),
            LIVES,
            fails(CredentialsChanged),
        ],
    ),
    (
        "a pause of nothing is over at once",
        USUAL,
        &[exchange(0), LIVES, fails(CredentialsChanged), fails(TimedOut), LIVES],
    ),
    (
        "a refresh that nobody waits for opens no grant for its second attempt",
        ONE_ATTEMPT,
        &[
            ASK,
            lives(3_600_000),
            exchange(0),
            lives(600_000),
            To(ExchangedHoldAt, -1),
            Exchange { key: 0, reversed: false, left: 1_000_000, ip: 0 },
            fails(CredentialsChanged),
            LIVES,
        ],
    ),
    (
        "who is told that it is unsupported has no unexpired token",
        Setup { exchanges_at_once: 1, ..USUAL },
        &[
            ASK,
            lives(3_600_000),
            exchange(0),
            lives(60_000),
            exchange(1),
            To(ExchangedHoldAt, 0),
            exchange(0),
            Abilities { exchange: false, revoke: true },
            exchange(0),
            exchange(2),
        ],
    ),
    (
        "a key that cools is not pushed out for a token that is dead",
        Setup {
            stale_buffer: 10,
            expired_buffer: 3,
            cooling: 1,
            exchange_capacity: 1,
            ..ONE_ATTEMPT
        },
        &[
            Asked { current: true },
            lives(3_600_000),
            exchange(0),
            exchange(1),
            End(2, New(Millis(60_000))),
            To(UsableUntil, 0),
            exchange(0),
            End(2, New(Millis(0))),
            lives(60_000),
            Wake,
            lives(1),
            exchange(0),
        ],
    ),
    (
        "a token that is dead when it arrives is a new one when it is heard of at that instant",
        USUAL,
        &[exchange(0), REVOKE, lives(0), Hear(0, 10_000_000), Wake, REVOKE],
    ),
    (
        "a revocation that is heard of again, after its mark has ended, marks again",
        Setup { mode: Mode::Always, ..USUAL },
        &[Wake, End(0, New(Huge)), Hear(3, 10_000_000), Wake, Hear(3, 3_600), LIVES],
    ),
];

#[test]
fn what_the_model_has_found_before_stays_mended() {
    for (what, setup, ops) in FOUND {
        let steps: Vec<Step> = ops.iter().map(|op| (0.0, *op)).collect();
        if let Err(problem) = play(&nothing, setup, &steps) {
            panic!("{what}: {problem}");
        }
    }
}

/// A batch of which one was confirmed and another failed, and that has nothing left to send.
#[test]
fn a_pause_of_the_revocations_outlives_what_they_were_to_revoke() {
    let setup = Setup { max_held: 2, attempts: 1, cooling: 1, ..USUAL };
    play(
        &nothing,
        &setup,
        &[
            (0.0, exchange(2)),
            (0.0, lives(7777)),
            (0.0, Wake),
            (0.0, lives(1)),
            (0.0, exchange(0)),
            (0.0, REVOKE),
            (0.0, Pass(5000)),
            (0.0, End(1, Again(0, Millis(0)))),
            (1.0 / 256.0, End(3, Fails(RateLimited(None)))),
            (0.0, LIVES),
        ],
    )
    .unwrap();
}
