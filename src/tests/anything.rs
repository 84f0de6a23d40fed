//! Anything may happen to the actor, in any order: see `world.rs`.
//!
//! `PROPTEST_CASES=20000 cargo test --all-features --lib anything` runs it longer. A failure prints a test
//! that can be pasted here; its seed goes to `anything.regressions`, which is played first by every later run.

use proptest::prelude::*;

use super::world::{End::*, Said::*, Setup, Step::*, *};
use crate::RefreshMode;
use crate::judge::search::{Failure, search};

fn setups() -> impl Strategy<Value = Setup> {
    let mode = prop_oneof![
        Just(RefreshMode::WhileUsed),
        Just(RefreshMode::OnRequest),
        Just(RefreshMode::Always)
    ];
    let end = prop_oneof![Just(Shutdown), Just(LastHandle), Just(LastCaller), Just(RuntimeDropped)];
    let max_held = prop_oneof![3 => Just(100_usize), 1 => 1..4_usize];
    (mode, 1..4_u32, max_held, any::<bool>(), end, any::<u64>()).prop_map(
        |(mode, attempts, max_held, heals, end, seed)| Setup {
            mode,
            attempts,
            max_held,
            heals,
            end,
            seed,
        },
    )
}

fn said() -> impl Strategy<Value = Said> {
    let life = prop_oneof![Just(0_u64), Just(2), Just(20), Just(100), Just(3600)];
    prop_oneof![
        8 => life.clone().prop_map(Token),
        1 => life.prop_map(Again),
        2 => Just(Unavailable),
        1 => prop_oneof![Just(1_u64), Just(4), Just(7), Just(700)].prop_map(RateLimited),
        1 => Just(Denied),
        1 => Just(CredentialsChanged),
        1 => Just(InvalidToken),
        1 => Just(Panic),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let task = || 0..TASKS;
    let pass = prop_oneof![
        3 => Just(1_u64),
        2 => 2..1_000_u64,
        2 => 1_000..12_000_u64,
        1 => 12_000..100_000_u64,
        1 => 100_000..3_600_000_u64,
    ];
    let step = prop_oneof![
        8 => task().prop_map(Get),
        1 => (task(), 1..200_u64).prop_map(|(task, left)| GetWith(task, left)),
        1 => task().prop_map(Try),
        3 => (task(), 0..2_u8).prop_map(|(task, key)| Exchange(task, key)),
        2 => task().prop_map(Revoke),
        3 => task().prop_map(Leave),
        2 => task().prop_map(Invalidate),
        1 => task().prop_map(InvalidateExchanged),
        12 => (0..8_usize, said()).prop_map(|(nth, said)| Answer(nth, said)),
        4 => (0..6_usize).prop_map(Yield),
        8 => pass.prop_map(Pass),
        1 => (1..4_000_u64).prop_map(Suspend),
        1 => Just(CloneHandle),
        1 => Just(DropHandle),
    ];
    proptest::collection::vec(step, 1..80)
}

#[test]
fn anything_may_happen_in_any_order() {
    let mut played = Played::default();
    let mut cases = 0;
    let stories = (setups(), steps());
    let found = search(&stories, "src/tests/anything.regressions", |(setup, steps)| {
        played += play(setup, steps)?;
        cases += 1;
        Ok(())
    });
    println!("{played:?}");
    if let Err(Failure { cases, value: (setup, steps), seed }) = found {
        let problem = play(&setup, &steps).err();
        let setup = format!("{setup:?}").replace("mode: ", "mode: RefreshMode::");
        panic!(
            "after {cases} cases; shrunk to {} steps; seed {seed}\n{}\n\nPaste this:\n\n#[test]\nfn found() \
             {{\n    play(&{setup}, &{steps:?}).unwrap();\n}}",
            steps.len(),
            problem.unwrap_or("(not when played again)".into()),
        );
    }
    // Or it shows nothing.
    let Played { events, given, attempts, .. } = played;
    assert!(events > cases && given > cases && attempts > cases, "{played:?}");
}
