//! Rules 1 and 2: one grant attempt on the wire, ever, and an upstream that is protected. Whatever
//! callers do, attempts follow the flight policy: each case lets callers rage for three simulated
//! minutes, and counts what the server sees.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::driver::Kind::{self, Exchange, Grant, Revocation};
use super::driver::{START, Session, kind, millis, secs};
use crate::config::RefreshMode::{Always, OnRequest, WhileUsed};

/// How long callers rage, and how often.
const STORM: Duration = secs(180);
const STEP: Duration = millis(50);

/// A dead server sees three attempts, then one after 0.75, 1.5, 3, 6, 12, 24 s and one each 30 s; chance
/// takes up to half of those pauses.
const DEAD: usize = 3 + 6 + 10;
/// A server that denies sees one attempt each 30 s.
const DENYING: usize = 6;
/// A healthy one sees an attempt each second, as long as tokens are thrown away.
const HEALTHY: usize = 1 + 180;

/// The least, a middling and the greatest draw.
const DRAWS: [f64; 3] = [0.0, 0.5, 0.999_999];

const HANGING: &str = "";

/// Callers and server take turns.
fn storm(mut session: Session, callers: &str, server: &str) -> Session {
    session.history.is_crowded = true; // with thousands of callers it copies them at each event
    while session.elapsed() < STORM {
        session.play(callers);
        session.play(server);
        session.pass(STEP);
    }
    session
}

/// What is counted, callers, the server, and how many attempts it sees.
type Case = (Kind, &'static str, &'static str, RangeInclusive<usize>);

/// With each draw.
fn check((what, callers, server, expected): Case) {
    for random in DRAWS {
        let mut session = Session::new();
        session.random = random;
        let session = storm(session, callers, server);
        let attempts = attempts(&session, what);
        assert!(expected.contains(&attempts), "{callers} | {server}: {attempts} with {random}");
    }
}

/// Revocations of one attempt are sent at once.
fn attempts(session: &Session, what: Kind) -> usize {
    let started = session.started.iter().filter(|(_, start)| kind(start) == what);
    match what {
        Revocation => {
            let attempts = started.map(|(at, start)| (at.since(START), start.number));
            attempts.collect::<BTreeSet<_>>().len()
        }
        Grant | Exchange => started.count(),
    }
}

macro_rules! storms {
    ($($name:ident => $($case:expr),+;)+) => { $(
        #[test]
        fn $name() {
            $(check($case);)+
        }
    )+ };
}

storms! {
    a_loop_of_get_token_is_no_storm =>
        (Grant, "ask", "all_fail 503", 10..=DEAD),
        (Grant, "ask", "all_fail denied", 5..=DENYING),
        (Grant, "ask", HANGING, 5..=DEAD),
        (Grant, "ask", "all_succeed 1h", 1..=1);

    a_loop_of_callers_who_leave_is_no_storm =>
        (Grant, "ask, leave_all", "all_fail 503", 10..=DEAD),
        (Grant, "ask, leave_all", HANGING, 5..=DEAD);

    a_loop_of_try_token_is_no_storm =>
        (Grant, "asked", "all_fail 503", 10..=DEAD),
        (Grant, "asked", "all_fail denied", 5..=DENYING),
        (Grant, "asked", "all_succeed 1h", 1..=1);

    a_loop_of_revokes_is_no_storm =>
        (Grant, "ask, revoke", "all_fail 503", 10..=DEAD),
        (Grant, "ask, revoke", "all_fail denied", 5..=DENYING),
        (Grant, "ask, revoke", HANGING, 5..=DEAD),
        (Grant, "ask, revoke", "all_succeed 1h", 100..=HEALTHY);

    a_loop_of_revokes_whose_callers_leave_is_no_storm =>
        (Grant, "ask, revoke, leave_all", "all_fail 503", 10..=DEAD),
        (Grant, "ask, revoke, leave_all", HANGING, 5..=DEAD),
        (Grant, "ask, revoke, leave_all", "all_succeed 1h", 100..=HEALTHY);

    a_loop_of_callers_who_leave_between_attempts_and_revokes_is_no_storm =>
        (Grant, "ask", "all_end 503 1h 1h, leave_all, revoke", 10..=DEAD);

    a_loop_of_revokes_during_attempts_whose_credentials_changed_is_no_storm =>
        (Grant, "ask, revoke, leave_all", "all_fail changed", 5..=2 * DENYING);

    a_loop_of_invalidations_is_no_storm =>
        (Grant, "ask, invalidate held, ask", "all_fail 503", 10..=DEAD),
        // One is honoured each 10 s.
        (Grant, "ask, invalidate held, ask", "all_succeed 1h", 10..=1 + 18);

    tokens_that_are_dead_on_arrival_are_no_storm =>
        (Grant, "ask", "all_succeed 0s", 10..=DEAD);

    a_loop_of_exchanges_is_no_storm =>
        (Exchange, "exchange a", "all_end 1h 503 1h", 10..=DEAD);

    a_loop_of_exchanges_asks_for_one_subject =>
        (Grant, "exchange a", "all_end 1h 503 1h", 1..=1);

    a_loop_of_exchanges_and_revokes_is_no_storm =>
        (Exchange, "exchange a", "all_end 1h 503 1h, leave_all, revoke, all_end 1h 503 1h", 10..=DEAD);

    // Each flight once more with another subject, where the invalidation was honoured.
    exchanges_whose_subject_is_always_refused_are_no_storm =>
        (Exchange, "exchange a", "all_end 1h invalid_grant 1h", 5..=2 * DENYING),
        (Grant, "exchange a", "all_end 1h invalid_grant 1h", 5..=1 + DENYING);

    a_loop_of_revokes_against_a_dead_or_a_hanging_revocation_endpoint_is_no_storm =>
        (Revocation, "ask, revoke", "all_end 1h 1h 503", 10..=DEAD),
        (Grant, "ask, revoke", "all_end 1h 1h 503", 5..=HEALTHY),
        (Revocation, "ask, revoke", "all_end 1h 1h hangs", 2..=DEAD);
}

#[test]
fn a_thousand_callers_make_one_grant() {
    let mut session = Session::new();
    session.history.is_crowded = true;
    for _ in 0..1_000 {
        session.play("ask");
    }
    session.play("grants -> 1");
    session.play("granted 60s, waiting -> nobody");
}

#[test]
fn a_thousand_callers_in_a_retry_loop_against_a_dead_endpoint_cost_what_one_does() {
    let run = |callers: usize| {
        let mut session = Session::new();
        session.history.is_crowded = true;
        while session.elapsed() < secs(10) {
            for _ in 0..callers {
                session.play("ask");
            }
            session.play("all_fail 503, +100ms");
        }
        session.sent(Grant)
    };
    assert_eq!(run(1), run(1_000));
}

#[test]
fn tokens_of_one_second_are_no_storm_in_any_mode() {
    for mode in [WhileUsed, OnRequest, Always] {
        let seen = storm(Session::of(mode), "ask", "all_succeed 1s").sent(Grant);
        assert!(seen.len() <= HEALTHY, "{mode:?}: {} attempts", seen.len());
        let gaps = seen.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
        assert!(gaps.min().expect("a gap") >= secs(1), "{mode:?}");
    }
}

#[test]
fn a_server_that_repeats_a_dying_token_sees_few_requests() {
    let mut session = Session::of(Always);
    session.play("timer");
    let dies_at = session.now + secs(3_600);
    while session.now < dies_at {
        if session.is_on_wire(Grant) {
            let left = dies_at.since(session.now).as_millis();
            session.play(&format!("granted {left}ms as same"));
        }
        session.pass(millis(100));
    }
    let seen = session.sent(Grant).len();
    assert!(seen <= 16, "{seen} attempts");
}
