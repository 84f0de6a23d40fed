//! Stories by chance.

use proptest::prelude::*;
use proptest::sample::select;

use super::operations::*;

fn lives() -> impl Strategy<Value = Life> {
    prop_oneof![
        4 => select(&LIVES[..2]).prop_map(Millis),
        2 => select(&LIVES[2..]).prop_map(Millis),
        1 => Just(Millis(0)),
        1 => Just(Unsaid),
        1 => Just(Huge),
        1 => (0..20_000_u64).prop_map(Millis),
        // Before the first tenth, at its end, between, at `hold_at` of most, and after that.
        1 => select(vec![0, 5_999, 6_000, 20_000, 54_000, 54_001, 70_000])
            .prop_map(|refresh_in| Hinted(60_000, refresh_in)),
    ]
}

fn failures() -> impl Strategy<Value = Failure> {
    let after = select(&RETRY_AFTER[..]);
    prop_oneof![
        3 => select(vec![TimedOut, Transport, Malformed, Expired, Panicked]),
        2 => select(vec![Denied, InvalidRequest]),
        2 => select(vec![InvalidGrant, InvalidToken, SubjectNamed]),
        1 => Just(CredentialsChanged),
        1 => after.clone().prop_map(RateLimited),
        1 => after.prop_map(Server),
    ]
}

/// So many of twenty fail.
fn outcomes(failing: u32) -> impl Strategy<Value = Outcome> {
    prop_oneof![
        16 - failing => lives().prop_map(New),
        4 => (0..3_u8, lives()).prop_map(|(back, life)| Again(back, life)),
        failing => failures().prop_map(Fails),
    ]
}

/// `weights` are those of asking for a token, for an exchange, for a revocation, for an invalidation, and
/// (of twenty) of an attempt that fails.
fn operations(weights: [u32; 5]) -> impl Strategy<Value = Op> {
    let left = || prop_oneof![3 => Just(0), 1 => select(LEFT.to_vec())];
    let ip = || prop_oneof![3 => Just(0_u8), 1 => 0..3_u8];
    let passes = prop_oneof![select(&PASSES[..]), 0..40_000_u64,];
    let mark = select(vec![Deadline, AskAt, AskAt, UsableUntil, NotBefore, ExchangedHoldAt]);
    let which = prop_oneof![4 => Just(Current), 2 => (0..4_u8).prop_map(Back), 1 => Just(Foreign)];
    prop_oneof![
        weights[0] => (left(), ip()).prop_map(|(left, ip)| Get { left, ip }),
        weights[1] => (prop_oneof![2 => Just(0_u8), 1 => 0..3_u8], any::<bool>(), left(), ip())
            .prop_map(|(key, reversed, left, ip)| Exchange { key, reversed, left, ip }),
        weights[2] => ip().prop_map(|ip| Revoke { ip }),
        4 => any::<u8>().prop_map(Leave),
        3 => Just(Use),
        4 => prop_oneof![3 => Just(true), 1 => Just(false)].prop_map(|current| Asked { current }),
        weights[3] => which.prop_map(Invalidate),
        30 => (0..4_u8, outcomes(weights[4])).prop_map(|(which, outcome)| End(which, outcome)),
        10 => passes.prop_map(Pass),
        10 => (mark, -1..=1_i8).prop_map(|(mark, off)| To(mark, off)),
        3 => Just(Timer),
        1 => (prop::bool::weighted(0.9), prop::bool::weighted(0.7))
            .prop_map(|(exchange, revoke)| Abilities { exchange, revoke }),
        12 => Just(Wake),
        1 => prop_oneof![1 => Just(Shutdown), 4 => Just(Wake)],
    ]
}

fn setups() -> impl Strategy<Value = Setup> {
    let mode = select(vec![Mode::WhileUsed, Mode::OnRequest, Mode::Always]);
    let buffers = select(&BUFFERS[..]);
    let bounds = (
        prop_oneof![3 => Just(100_usize), 1 => 1..4_usize],
        prop_oneof![2 => Just(100_usize), 1 => 0..3_usize],
    );
    let abilities = (prop::bool::weighted(0.95), prop::bool::weighted(0.95));
    (mode, buffers, 1..=4_u32, select(&COOLING[..]), bounds, abilities).prop_map(
        |(mode, (stale_buffer, expired_buffer), attempts, cooling, bounds, abilities)| Setup {
            mode,
            stale_buffer,
            expired_buffer,
            attempts,
            cooling,
            max_held: bounds.0,
            exchange_capacity: bounds.1,
            can_exchange: abilities.0,
            can_revoke: abilities.1,
        },
    )
}

/// A session and all that happens to it.
pub fn stories() -> impl Strategy<Value = (Setup, Vec<Step>)> {
    let steps = |weights| {
        let random = (0..1_000_u16).prop_map(|part| f64::from(part) / 1_000.0);
        prop::collection::vec((random, operations(weights)), 1..60)
    };
    let steps = prop_oneof![
        2 => steps([14, 8, 6, 4, 8]),
        1 => steps([4, 20, 1, 2, 8]),
        1 => steps([4, 30, 1, 2, 1]),
        1 => steps([14, 1, 12, 2, 8]),
        1 => steps([14, 4, 8, 2, 2]),
        2 => steps([20, 1, 1, 10, 10]),
    ];
    (setups(), steps)
}
