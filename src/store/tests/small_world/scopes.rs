//! The scopes, and what they show.

use super::search::{Explored, explore};
use super::*;
use crate::machine::tests::limit::Limit;

/// The largest that end have some ten thousand situations.
const ENDLESS: usize = 1_000_000;

fn holds(name: &str, scope: Scope, must_end: bool) {
    // With three replicas a situation has many that follow.
    let most = if scope.replicas > 2 { 1_000 } else { 6_000 };
    let limit = if must_end { Limit::Count(ENDLESS) } else { Limit::of(1, most) };
    let explored = explore(&scope, &limit);
    let Explored { states, left, violation, took } = explored;
    let cut = if left > 0 { format!(", {left} left to look at") } else { String::new() };
    println!("{name:<58} {states:>9} situations{cut}, {:.1} s", took.as_secs_f64());
    if let Some(violation) = violation {
        panic!("{name}: {violation}");
    }
    assert!(states > 50, "{name}: it shows nothing");
    assert!(!must_end || left == 0, "{name}: it did not end");
}

fn found(name: &str, scope: Scope, says: &[&str]) {
    let Explored { states, violation, took, .. } = explore(&scope, &Limit::Count(ENDLESS));
    let Some(violation) = violation else { panic!("{name}: not found in {states} situations") };
    println!("{name:<58} {states:>9} situations, {:.1} s\n   {violation}", took.as_secs_f64());
    assert!(says.iter().any(|says| violation.starts_with(says)), "{name}: {violation}");
}

const ALL_BUT_CLOCK: &[Kind] = &[
    Kind::Kill,
    Kind::Empty,
    Kind::Rollback,
    Kind::Down,
    Kind::Late,
    Kind::Notice,
    Kind::Stop,
    Kind::Route,
    Kind::Forge,
];

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
    let one = Scope { faults: 1, ..PROMPT };
    for kind in ALL_BUT_CLOCK {
        let kinds: &'static [Kind] = std::slice::from_ref(kind);
        holds(&format!("1 revoke, 1 {kind:?}"), Scope { kinds, refreshes: 1, ..one }, false);
    }
    holds("1 revoke, 1 Clock", Scope { kinds: &[Kind::Clock], step: 2, ..one }, false);
    let no_fault = Scope { refreshes: 1, false_401s: 1, ..PROMPT };
    holds("1 revoke, 1 refresh, 1 false 401", no_fault, false);
    holds("3 replicas, 1 revoke", Scope { replicas: 3, ..PROMPT }, false);
    holds("2 revokes, 1 Kill", Scope { kinds: &[Kind::Kill], revokes: 2, ..one }, false);
    let two = Scope { faults: 2, kinds: ALL_BUT_CLOCK, ..PROMPT };
    holds("1 revoke, 2 faults of any kind", two, false);
}

/// Any replica may stand still between any two steps.
#[test]
fn a_fleet_is_safe_however_slow_its_replicas_are() {
    let quick = Scope { revokes: 0, refreshes: 1, ..LAZY };
    holds("lazy, 1 refresh", quick, false);
    holds("lazy, 1 revoke", LAZY, false);
    for kind in
        [Kind::Kill, Kind::Empty, Kind::Rollback, Kind::Down, Kind::Late, Kind::Notice, Kind::Forge]
    {
        let kinds: &'static [Kind] = match kind {
            Kind::Kill => &[Kind::Kill],
            Kind::Empty => &[Kind::Empty],
            Kind::Rollback => &[Kind::Rollback],
            Kind::Down => &[Kind::Down],
            Kind::Late => &[Kind::Late],
            Kind::Notice => &[Kind::Notice],
            _ => &[Kind::Forge],
        };
        holds(&format!("lazy, 1 revoke, 1 {kind:?}"), Scope { faults: 1, kinds, ..LAZY }, false);
    }
    let clock = Scope { faults: 1, kinds: &[Kind::Clock], step: 1, ..LAZY };
    holds("lazy, 1 revoke, 1 Clock", clock, false);
    holds("lazy, 3 tokens, 1 revoke", Scope { tokens: 3, ..LAZY }, false);
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
        (&[Rule::FromAsked], Scope { revokes: 0, refreshes: 1, ..LAZY }, &["S4"]),
        (&[Rule::Recheck], LAZY, &["S2", "S3"]),
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
