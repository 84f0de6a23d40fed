//! The scopes, and what they show.

use super::search::{Explored, Order, explore, explore_twice};
use super::*;
use crate::machine::tests::limit::Limit;

/// The largest that end have some ten thousand situations.
const ENDLESS: usize = 1_000_000;

/// With `EXHAUSTIVE_SCOPE`, only the scopes whose names it is a part of.
fn is_asked_for(name: &str) -> bool {
    std::env::var("EXHAUSTIVE_SCOPE").map_or(true, |asked| name.contains(&asked))
}

fn holds(name: &str, scope: Scope, must_end: bool) {
    if !is_asked_for(name) {
        return;
    }
    // With three replicas a situation has many that follow.
    let most = if scope.replicas > 2 { 1_000 } else { 6_000 };
    let limit = if must_end { Limit::Count(ENDLESS) } else { Limit::of(1, most) };
    let order = match limit {
        Limit::Until(_) => Order::Deep,
        Limit::Count(_) => Order::Broad,
    };
    let Explored { states, turns, left, violation, took } = explore(&scope, order, &limit);
    let is_cut = left > 0 && violation.is_none();
    let cut = if is_cut { format!(", CUT OFF with {left} left") } else { String::new() };
    let took = took.as_secs_f64();
    println!("{name:<42} {states:>9} situations, {turns:>9} turns, {took:.1} s{cut}");
    if let Some(violation) = violation {
        println!("{violation}\n   ... and now for a shorter way there");
        let shorter = explore(&scope, Order::Broad, &limit).violation;
        panic!("{name}: {}", shorter.unwrap_or(violation));
    }
    assert!(states > 50, "{name}: it shows nothing");
    assert!(!must_end || left == 0, "{name}: it did not end");
}

fn found(name: &str, scope: Scope, says: &[&str]) {
    let Explored { states, violation, took, .. } =
        explore(&scope, Order::Broad, &Limit::Count(ENDLESS));
    let Some(violation) = violation else { panic!("{name}: not found in {states} situations") };
    println!("{name:<42} {states:>9} situations, {:.1} s\n   {violation}", took.as_secs_f64());
    assert!(says.iter().any(|says| violation.starts_with(says)), "{name}: {violation}");
}

const ALL: &[Kind] = &[
    Kind::Kill,
    Kind::Empty,
    Kind::Rollback,
    Kind::Down,
    Kind::Late,
    Kind::Notice,
    Kind::Stop,
    Kind::Route,
    Kind::Forge,
    Kind::Clock,
];
const ALL_BUT_CLOCK: &[Kind] = ALL.split_at(ALL.len() - 1).0;

/// Those that end soon in a build for tests; in prompt time, so liveness is shown as well.
#[test]
fn a_fleet_keeps_its_promises_when_one_thing_goes_wrong() {
    let quick = Scope { revokes: 0, refreshes: 1, ..PROMPT };
    holds(
        "no fault, 2 refreshes, one request",
        Scope { refreshes: 2, one_request: true, ..quick },
        true,
    );
    holds(
        "3 replicas, no fault, one request",
        Scope { replicas: 3, one_request: true, ..quick },
        true,
    );
    for kind in ALL_BUT_CLOCK {
        let kinds: &'static [Kind] = std::slice::from_ref(kind);
        holds(&format!("1 {kind:?}"), Scope { faults: 1, kinds, ..quick }, true);
    }
    holds("1 Clock", Scope { faults: 1, kinds: &[Kind::Clock], step: 2, ..quick }, true);
    let three = Scope { replicas: 3, refreshes: 0, ..quick };
    holds("3 replicas, 1 Route", Scope { faults: 1, kinds: &[Kind::Route], ..three }, true);
    holds("3 replicas, 1 Forge", Scope { faults: 1, kinds: &[Kind::Forge], ..three }, true);
    holds("3 replicas, a lease forged for ever", Scope { held_lease: true, ..three }, true);
}

/// With a revoke the situations are millions: here some thousands, in `.ci/long` all of them.
#[test]
fn a_fleet_keeps_its_promises_while_somebody_revokes() {
    let some = Scope { refreshes: 1, ..PROMPT };
    holds("1 revoke, a lease forged for ever", Scope { held_lease: true, ..some }, false);
    for kind in ALL_BUT_CLOCK {
        let kinds: &'static [Kind] = std::slice::from_ref(kind);
        holds(&format!("1 revoke, 1 {kind:?}"), Scope { faults: 1, kinds, ..some }, false);
    }
    let clock = Scope { faults: 1, kinds: &[Kind::Clock], step: 2, ..some };
    holds("1 revoke, 1 Clock", clock, false);
    holds("1 revoke, 1 false 401", Scope { false_401s: 1, ..some }, false);
    holds("3 replicas, 1 revoke", Scope { replicas: 3, ..PROMPT }, false);
}

#[test]
fn a_fleet_keeps_its_promises_when_two_things_go_wrong() {
    let two = Scope { faults: 2, kinds: ALL_BUT_CLOCK, revokes: 0, ..PROMPT };
    let all = Scope { kinds: ALL, ..two };
    let forge = Scope { kinds: &[Kind::Forge], refreshes: 1, ..two };
    holds("2 faults of any kind", Scope { step: 2, ..all }, false);
    holds("2 Forge, 1 refresh", forge, false);
    let three = Scope { replicas: 3, refreshes: 1, ..two };
    holds("3 replicas, 2 Route", Scope { kinds: &[Kind::Route], ..three }, false);
    holds("3 replicas, 1 fault of any kind", Scope { faults: 1, ..three }, false);
    holds("2 revokes, 1 Kill", Scope { kinds: &[Kind::Kill], faults: 1, revokes: 2, ..two }, false);
    holds("1 revoke, 2 faults of any kind", Scope { revokes: 1, ..two }, false);
}

/// Any replica may stand still between any two steps.
#[test]
fn a_fleet_is_safe_however_slow_its_replicas_are() {
    holds("lazy, 1 refresh", Scope { revokes: 0, refreshes: 1, ..LAZY }, false);
    holds("lazy, 1 revoke", LAZY, false);
    // A route that breaks, and a replica that stops, are only slow.
    for kind in ALL_BUT_CLOCK.iter().filter(|kind| !matches!(kind, Kind::Stop | Kind::Route)) {
        let kinds: &'static [Kind] = std::slice::from_ref(kind);
        holds(&format!("lazy, 1 revoke, 1 {kind:?}"), Scope { faults: 1, kinds, ..LAZY }, false);
    }
    holds("lazy, 3 tokens, 1 revoke", Scope { tokens: 3, ..LAZY }, false);
    holds("lazy by half leases, 1 revoke", Scope { pace: 1, ..LAZY }, false);
    let clock = Scope { faults: 1, kinds: &[Kind::Clock], step: 2, ..LAZY };
    holds("lazy, 1 revoke, 1 Clock", clock, false);
}

/// A server that keeps one live token: nobody asks while another does.
#[test]
fn with_one_live_token_one_request_is_on_the_wire() {
    let one = Scope { one_live_token: true, one_request: true, revokes: 0, refreshes: 1, ..PROMPT };
    holds("one live token", one, true);
    holds("one live token, 3 replicas", Scope { replicas: 3, ..one }, true);
    for kinds in [&[Kind::Kill][..], &[Kind::Down], &[Kind::Late], &[Kind::Notice]] {
        holds(&format!("one live token, 1 {kinds:?}"), Scope { faults: 1, kinds, ..one }, true);
    }
    // What this mode risks, and its documentation says.
    for kinds in [&[Kind::Empty][..], &[Kind::Rollback], &[Kind::Stop], &[Kind::Forge]] {
        found(&format!("one live token, 1 {kinds:?}"), Scope { faults: 1, kinds, ..one }, &["G: "]);
    }
    let clock = Scope { faults: 1, kinds: &[Kind::Clock], step: 2, ..one };
    found("one live token, 1 Clock", clock, &["G: "]);
    let route = Scope { faults: 1, kinds: &[Kind::Route], one_request: false, ..one };
    found("one live token, 1 Route", route, &["L: "]);
    let forge = Scope { kinds: &[Kind::Forge], off: &[Rule::LeaseCap], ..route };
    found("one live token, without [LeaseCap]", forge, &["L: "]);
}

/// Each rule taken out, and what then happens.
#[test]
fn each_rule_is_needed() {
    let calm = Scope { revokes: 0, ..PROMPT };
    let fresh = Scope { refreshes: 1, ..PROMPT };
    let with = |kinds| Scope { faults: 1, kinds, ..PROMPT };
    let cases: &[(&[Rule], Scope, &[&str])] = &[
        (&[Rule::Have], Scope { refreshes: 1, ..calm }, &["S5"]),
        (&[Rule::Unconfirmed], Scope { revokes: 2, ..with(&[Kind::Kill]) }, &["S8"]),
        (&[Rule::List], with(&[Kind::Notice]), &["S9"]),
        (&[Rule::List], Scope { faults: 2, ..with(&[Kind::Kill, Kind::Forge]) }, &["S6"]),
        (&[Rule::BuryLease], fresh, &["S1"]),
        (&[Rule::BuryEntry], fresh, &["S1"]),
        (&[Rule::BuryIds], Scope { refreshes: 1, ..with(&[Kind::Rollback]) }, &["S1"]),
        (&[Rule::Owed], Scope { refreshes: 1, ..with(&[Kind::Down]) }, &["S1"]),
        (&[Rule::PutNeedsLease, Rule::BuryIds], fresh, &["S1"]),
        (&[Rule::Patience], Scope { revokes: 0, ..with(&[Kind::Route]) }, &["L"]),
        (&[Rule::Patience], Scope { revokes: 0, ..with(&[Kind::Forge]) }, &["L"]),
        (&[Rule::Patience, Rule::LeaseCap], Scope { revokes: 0, ..with(&[Kind::Forge]) }, &["L"]),
        (
            &[Rule::AskedCheck],
            Scope { step: 2, revokes: 0, refreshes: 1, ..with(&[Kind::Clock]) },
            &["S4"],
        ),
        (&[Rule::FromAsked], Scope { pace: 1, revokes: 0, refreshes: 1, ..LAZY }, &["S4"]),
        (&[Rule::Recheck], LAZY, &["S2", "S3"]),
        (
            &[Rule::Marked, Rule::Recheck],
            Scope { refreshes: 1, ..with(&[Kind::Forge, Kind::Rollback]) },
            &["S2", "S3"],
        ),
        (&[Rule::HandOverFirst], Scope { tokens: 3, ..LAZY }, &["S10"]),
    ];
    for (off, scope, says) in cases {
        found(&format!("without {off:?}"), Scope { off, ..*scope }, says);
    }
}

/// These save requests, or looks: without one of them nothing unsafe happens, and nobody waits.
#[test]
fn some_rules_are_only_thrift() {
    let calm = Scope { revokes: 0, ..PROMPT };
    let forge = Scope { faults: 1, kinds: &[Kind::Forge], ..calm };
    let route = Scope { faults: 1, kinds: &[Kind::Route], ..calm };
    for (off, scope) in [
        (&[Rule::TakeOver][..], route),
        (&[Rule::LeaseCap], Scope { refreshes: 1, ..forge }),
        (&[Rule::PutNeedsLease], Scope { refreshes: 1, ..calm }),
    ] {
        holds(&format!("without {off:?}"), Scope { off, ..scope }, true);
    }
    let marked = Scope { off: &[Rule::Marked], revokes: 1, ..forge };
    holds("without [Marked], 1 revoke", marked, false);
}

/// Else the search would take for known what it has not seen.
#[test]
fn situations_with_one_print_go_on_alike() {
    let some = Scope { faults: 1, refreshes: 1, ..PROMPT };
    for kind in ALL {
        let kinds: &'static [Kind] = std::slice::from_ref(kind);
        alike(&format!("1 {kind:?}"), Scope { kinds, step: 2, revokes: 0, ..some });
        alike(&format!("1 revoke, 1 {kind:?}"), Scope { kinds, step: 2, ..some });
        alike(&format!("lazy, 1 {kind:?}"), Scope { kinds, step: 2, faults: 1, ..LAZY });
    }
    let two = Scope { faults: 2, kinds: ALL, step: 2, ..some };
    alike("2 faults of any kind", two);
    alike("3 replicas, 2 revokes", Scope { replicas: 3, revokes: 2, ..two });
    alike("one live token", Scope { one_live_token: true, ..two });
    alike("lazy, 3 tokens", Scope { tokens: 3, faults: 2, kinds: ALL, step: 2, ..LAZY });
}

fn alike(name: &str, scope: Scope) {
    if !is_asked_for(name) {
        return;
    }
    match explore_twice(&scope, &Limit::Count(1_000)) {
        Ok(states) => println!("{name:<42} {states:>9} situations"),
        Err(differ) => panic!("{name}: {differ}"),
    }
}
