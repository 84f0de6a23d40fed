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

use proptest::test_runner::{Config, FileFailurePersistence, TestError, TestRunner};
use proptest::test_runner::TestCaseError;
use reference::operations::*;
use reference::run::{check, pasteable, play, shrink};

/// What the tests below begin with.
fn usual() -> Setup {
    Setup {
        mode: Mode::WhileUsed,
        stale_buffer: 600,
        expired_buffer: 30,
        attempts: 2,
        cooling: 30,
        max_held: 100,
        exchange_capacity: 100,
        can_exchange: true,
        can_revoke: true,
    }
}

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
    let setup = Setup { max_held: 1, ..usual() };
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
