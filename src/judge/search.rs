//! Plays stories that proptest makes up, until one fails.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs;

use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner,
};

use super::Verdict;

/// A story that failed.
pub(crate) struct Failure<T> {
    /// After so many cases.
    pub(crate) cases: u32,
    /// Shrunk.
    pub(crate) value: T,
    /// As it stands in the file of regressions.
    pub(crate) seed: String,
}

/// As many stories as `PROPTEST_CASES` says (256), those in the file of regressions first.
pub(crate) fn search<T: Debug>(
    stories: &impl Strategy<Value = T>,
    regressions: &'static str,
    play: impl FnMut(&T) -> Verdict,
) -> Result<(), Failure<T>> {
    let persistence = FileFailurePersistence::Direct(regressions);
    let config = Config {
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    run(stories, config, play).map_err(|failure| {
        let file = fs::read_to_string(regressions).unwrap_or_default();
        Failure { seed: file.lines().last().unwrap_or("not written").into(), ..failure }
    })
}

/// So many stories, and the same ones each time.
pub(crate) fn search_seeded<T: Debug>(
    stories: &impl Strategy<Value = T>,
    cases: u32,
    play: impl FnMut(&T) -> Verdict,
) -> Result<(), Failure<T>> {
    let rng_seed = RngSeed::Fixed(1);
    let config = Config {
        cases,
        rng_seed,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    };
    run(stories, config, play)
}

fn run<T: Debug>(
    stories: &impl Strategy<Value = T>,
    config: Config,
    play: impl FnMut(&T) -> Verdict,
) -> Result<(), Failure<T>> {
    let play = std::cell::RefCell::new(play);
    let (cases, failed) = (Cell::new(0), Cell::new(false));
    let result = TestRunner::new(config).run(stories, |story| {
        cases.set(cases.get() + u32::from(!failed.get()));
        let verdict = (play.borrow_mut())(&story);
        failed.set(failed.get() || verdict.is_err());
        verdict.map_err(TestCaseError::fail)
    });
    println!("{} cases", cases.get());
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(_, value)) => {
            Err(Failure { cases: cases.get(), value, seed: String::new() })
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}
