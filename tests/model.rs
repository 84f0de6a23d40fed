//! The machine against a model of it that was written from DESIGN.md alone (`tests/model/`): whatever
//! happens, they want the same done, in the same order, and wake up at the same time.
//!
//! `PROPTEST_CASES=20000 cargo test --features testing --test model` runs it longer. A failure prints a
//! test that can be pasted here; its seed goes to `tests/model.proptest-regressions`, which is played
//! first by every later run.

#![cfg(feature = "testing")]

#[path = "model/mod.rs"]
mod reference;

use std::cell::Cell;
use std::fs;

use proptest::test_runner::TestCaseError;
use proptest::test_runner::{Config, FileFailurePersistence, TestError, TestRunner};
use reference::operations::*;
use reference::run::{check, pasteable, play, shrink};

/// Where the seeds of failures go.
const REGRESSIONS: &str = "tests/model.proptest-regressions";

#[test]
fn the_machine_does_what_the_model_does() {
    let persistence = FileFailurePersistence::Direct(REGRESSIONS);
    let config = Config {
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let (cases, events, failed) = (Cell::new(0_usize), Cell::new(0_usize), Cell::new(false));
    let result = TestRunner::new(config).run(&stories(), |(setup, steps)| {
        let played = play(&setup, &steps);
        if !failed.get() {
            cases.set(cases.get() + 1);
            events.set(events.get() + played.as_ref().map_or(0, |events| *events));
        }
        failed.set(failed.get() || played.is_err());
        played.map(drop).map_err(TestCaseError::fail)
    });
    println!("{} cases, {} events", cases.get(), events.get());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(_, (setup, steps))) => {
            let steps = shrink(&setup, steps);
            let problem = play(&setup, &steps).unwrap_err();
            let file = fs::read_to_string(REGRESSIONS).unwrap_or_default();
            panic!(
                "after {} cases; shrunk to {} steps\n{problem}\n\nPaste this:\n\n{}\nOr run it again: \
                 cargo test --features testing --test model\n{REGRESSIONS} has its seed:\n{}",
                cases.get(),
                steps.len(),
                pasteable(&setup, &steps),
                file.lines().last().unwrap_or("(it could not be written)"),
            );
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn an_unexpired_exchanged_token_is_given_when_too_many_wait_for_its_successor() {
    let setup = Setup { max_held: 1, ..Setup::usual() };
    check(
        &setup,
        &[
            (0.0, Get { left: 0, ip: 0 }),
            (0.0, End(0, New(Millis(3_600_000)))),
            (0.0, Exchange { key: 0, reversed: false, left: 0, ip: 0 }),
            (0.0, End(0, New(Millis(60_000)))),
            (0.0, To(ExchangedHoldAt, 0)),
            (0.0, Exchange { key: 0, reversed: false, left: 0, ip: 0 }),
            (0.0, Exchange { key: 0, reversed: true, left: 0, ip: 0 }),
        ],
    );
}

// What the model found in the machine: each was wrong once.

#[test]
fn a_batch_of_revocations_pauses_for_a_retryable_error_that_was_not_its_first() {
    let exchange = |key| Exchange { key, reversed: false, left: 0, ip: 0 };
    check(
        &Setup::usual(),
        &[
            (0.0, exchange(1)),
            (0.0, exchange(0)),
            (0.0, End(0, New(Unsaid))),
            (0.0, End(0, New(Unsaid))),
            (0.0, End(0, New(Unsaid))),
            (0.0, Revoke { ip: 0 }),
            (0.0, End(0, Fails(Denied))),
            (0.0, End(0, Fails(RateLimited(Some(5_000))))),
            (0.0, End(0, New(Unsaid))),
            (0.0, Wake),
        ],
    );
}

#[test]
fn a_grant_is_not_warned_of_an_exchanged_token() {
    check(
        &Setup::usual(),
        &[
            (0.0, Get { left: 0, ip: 0 }),
            (0.0, Exchange { key: 0, reversed: false, left: 0, ip: 0 }),
            (0.0, End(0, New(Unsaid))),
            (0.0, Revoke { ip: 0 }),
            (0.0, End(0, New(Unsaid))),
            (0.0, End(0, New(Unsaid))),
            (0.0, End(0, New(Unsaid))),
            (0.0, Wake),
        ],
    );
}

#[test]
fn a_flight_that_nobody_wants_ends_however_short_the_barrier_was() {
    check(
        &Setup { mode: Mode::Always, ..Setup::usual() },
        &[(0.0, Timer), (0.0, Revoke { ip: 0 }), (0.0, End(0, Fails(Transport))), (0.0, Wake)],
    );
}

#[test]
fn a_failed_revoke_counts_the_time_from_its_answer() {
    check(
        &Setup { attempts: 1, ..Setup::usual() },
        &[
            (0.0, Get { left: 0, ip: 0 }),
            (0.0, Revoke { ip: 0 }),
            (0.0, End(0, New(Millis(60_000)))),
            (0.0, End(0, Fails(RateLimited(Some(5_000))))),
            (0.0, Wake),
            (0.0, Revoke { ip: 0 }),
            (0.0, Pass(1)),
            (0.0, End(0, New(Millis(60_000)))),
        ],
    );
}

#[test]
fn a_token_that_came_after_a_revoke_is_kept_fresh() {
    check(
        &Setup { mode: Mode::Always, ..Setup::usual() },
        &[
            (0.0, Get { left: 0, ip: 0 }),
            (0.0, Revoke { ip: 0 }),
            (0.0, End(0, New(Millis(60_000)))),
            (0.0, End(0, New(Unsaid))),
            (0.0, Wake),
            (0.0, End(0, New(Millis(60_000)))),
            (0.0, Wake),
        ],
    );
}

#[test]
fn an_exchange_without_a_subject_fails_at_once_behind_the_barrier_too() {
    check(
        &Setup { mode: Mode::Always, attempts: 1, ..Setup::usual() },
        &[
            (0.0, Timer),
            (0.0, End(0, New(Millis(60_000)))),
            (0.0, Wake),
            (0.0, End(0, Fails(TimedOut))),
            (0.0, Revoke { ip: 0 }),
            (0.0, Exchange { key: 0, reversed: false, left: 0, ip: 0 }),
        ],
    );
}

#[test]
fn a_text_that_comes_again_after_its_expiry_is_a_new_token() {
    check(
        &Setup::usual(),
        &[
            (0.0, Get { left: 0, ip: 0 }),
            (0.0, Revoke { ip: 0 }),
            (0.0, End(0, New(Millis(13_000)))),
            (0.0, End(0, New(Unsaid))),
            (0.0, Wake),
            (0.0, Pass(12_000)),
            (0.0, End(0, Again(0, Millis(60_000)))),
        ],
    );
}

#[test]
fn a_revocation_flight_that_succeeded_leaves_nothing_to_the_next() {
    check(
        &Setup { attempts: 1, ..Setup::usual() },
        &[
            (0.0, Exchange { key: 0, reversed: false, left: 0, ip: 0 }),
            (0.0, End(0, New(Unsaid))),
            (0.0, Revoke { ip: 0 }),
            (0.0, End(1, Fails(CredentialsChanged))),
            (0.0, End(1, New(Unsaid))),
            (0.0, End(0, New(Unsaid))),
            (0.0, End(0, Fails(CredentialsChanged))),
        ],
    );
}

#[test]
fn a_key_that_cools_is_not_pushed_out_for_a_token_that_is_dead() {
    let exchange = |key| Exchange { key, reversed: false, left: 0, ip: 0 };
    check(
        &Setup {
            stale_buffer: 10,
            expired_buffer: 3,
            attempts: 1,
            cooling: 1,
            exchange_capacity: 1,
            ..Setup::usual()
        },
        &[
            (0.0, Asked { current: true }),
            (0.0, End(0, New(Millis(3_600_000)))),
            (0.0, exchange(0)),
            (0.0, exchange(1)),
            (0.0, End(2, New(Millis(60_000)))),
            (0.0, To(UsableUntil, 0)),
            (0.0, exchange(0)),
            (0.0, End(2, New(Millis(0)))),
            (0.0, End(0, New(Millis(60_000)))),
            (0.0, Wake),
            (0.0, End(0, New(Millis(1)))),
            (0.0, exchange(0)),
        ],
    );
}
