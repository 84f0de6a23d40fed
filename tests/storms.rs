//! Rules 1 and 2: one grant attempt on the wire, ever, and an upstream that is protected. Whatever
//! callers do, attempts follow the flight policy: each case lets callers rage for three simulated
//! minutes, and counts what the server sees.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::time::Duration;

use ccg_session::testing::internals::Request;
use ccg_session::{RefreshMode, TokenError};
use machine::{START, Session, credentials_changed, denied, millis, scope, secs, transient};

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

/// Callers and server take turns.
fn storm(session: &mut Session, callers: impl Fn(&mut Session), server: impl Fn(&mut Session)) {
    session.check_idle = false; // with thousands of callers it copies them at each event
    while session.elapsed() < STORM {
        callers(session);
        server(session);
        session.pass(STEP);
    }
}

/// The same against a server that is dead, for each draw: the number of grant attempts it saw.
fn most_grants(callers: impl Fn(&mut Session), server: impl Fn(&mut Session)) -> usize {
    let runs = DRAWS.map(|random| {
        let mut session = Session::with(|_| ());
        session.random = random;
        storm(&mut session, &callers, &server);
        session.grants().len()
    });
    runs.into_iter().max().expect("a run")
}

fn dead(session: &mut Session) {
    session.all_fail(&transient());
}

fn denying(session: &mut Session) {
    session.all_fail(&denied());
}

fn healthy(session: &mut Session) {
    session.all_succeed(secs(3_600));
}

fn hanging(_: &mut Session) {}

/// Nothing but grants is dead.
fn dead_for_grants(session: &mut Session) {
    session.each_ends(|session, what| match what {
        "grant" => session.grant_fails(transient()),
        "exchange" => session.exchanged(secs(3_600)),
        _ => session.confirmed(),
    });
}

/// Nothing but exchanges is dead.
fn dead_for_exchanges(session: &mut Session) {
    session.each_ends(|session, what| match what {
        "grant" => session.granted(secs(3_600)),
        "exchange" => session.exchange_fails(transient()),
        _ => session.confirmed(),
    });
}

/// Nothing but revocations is dead.
fn dead_for_revocations(session: &mut Session) {
    session.each_ends(|session, what| match what {
        "grant" => session.granted(secs(3_600)),
        "exchange" => session.exchanged(secs(3_600)),
        _ => session.revocations_fail(&transient()),
    });
}

fn ask(session: &mut Session) {
    session.ask();
}

/// Each asks, and is gone before anything comes.
fn ask_and_leave(session: &mut Session) {
    session.ask();
    session.leave_all();
}

fn try_token(session: &mut Session) {
    session.asked();
}

fn ask_and_revoke(session: &mut Session) {
    session.ask();
    session.revoke();
}

fn ask_invalidate_and_ask(session: &mut Session) {
    session.ask();
    if let Some(name) = session.published_token().map(str::to_owned) {
        session.invalidate(&name);
    }
    session.ask();
}

fn exchange(session: &mut Session) {
    session.exchange(scope("a"));
}

/// How many attempts these requests were: those of one attempt are sent at once.
fn attempts(session: &Session) -> usize {
    let revocations = session.started.iter().filter_map(|(at, start)| {
        let is_revocation = matches!(start.request, Request::Revocation(..));
        is_revocation.then(|| (at.since(START), start.number))
    });
    revocations.collect::<BTreeSet<_>>().len()
}

#[test]
fn a_thousand_callers_make_one_grant() {
    let mut session = Session::with(|_| ());
    session.check_idle = false;
    for _ in 0..1_000 {
        session.ask();
    }
    assert_eq!(session.grants().len(), 1);
    session.granted(secs(60));
    assert!((1..=1_000).all(|caller| !session.waits(caller)));
}

#[test]
fn a_thousand_callers_in_a_retry_loop_against_a_dead_endpoint_cost_what_one_does() {
    let run = |callers: usize| {
        let mut session = Session::with(|_| ());
        session.check_idle = false;
        let all = |session: &mut Session| (0..callers).for_each(|_| ask(session));
        while session.elapsed() < secs(10) {
            all(&mut session);
            dead(&mut session);
            session.pass(millis(100));
        }
        session.grants()
    };
    assert_eq!(run(1), run(1_000));
}

#[test]
fn a_loop_of_get_token_is_no_storm() {
    assert!(most_grants(ask, dead) <= DEAD);
    assert!(most_grants(ask, denying) <= DENYING);
    assert!(most_grants(ask, hanging) <= DEAD);
    assert_eq!(most_grants(ask, healthy), 1);
}

#[test]
fn a_loop_of_callers_who_leave_is_no_storm() {
    assert!(most_grants(ask_and_leave, dead) <= DEAD);
    assert!(most_grants(ask_and_leave, hanging) <= DEAD);
}

#[test]
fn a_loop_of_try_token_is_no_storm() {
    assert!(most_grants(try_token, dead) <= DEAD);
    assert!(most_grants(try_token, denying) <= DENYING);
    assert_eq!(most_grants(try_token, healthy), 1);
}

#[test]
fn a_loop_of_revokes_is_no_storm() {
    assert!(most_grants(ask_and_revoke, dead) <= DEAD);
    assert!(most_grants(ask_and_revoke, denying) <= DENYING);
    assert!(most_grants(ask_and_revoke, hanging) <= DEAD);
    assert!(most_grants(ask_and_revoke, healthy) <= HEALTHY);
}

#[test]
fn a_loop_of_revokes_whose_callers_leave_is_no_storm() {
    let callers = |session: &mut Session| {
        ask_and_revoke(session);
        session.leave_all();
    };
    assert!(most_grants(callers, dead) <= DEAD);
    assert!(most_grants(callers, hanging) <= DEAD);
    assert!(most_grants(callers, healthy) <= HEALTHY);
}

#[test]
fn a_loop_of_callers_who_leave_between_attempts_and_revokes_is_no_storm() {
    let worst = most_grants(ask, |session| {
        dead_for_grants(session);
        session.leave_all();
        session.revoke();
    });
    assert!(worst <= DEAD, "{worst} attempts");
}

#[test]
fn a_loop_of_revokes_during_attempts_whose_credentials_changed_is_no_storm() {
    let callers = |session: &mut Session| {
        ask_and_revoke(session);
        session.leave_all();
    };
    let worst = most_grants(callers, |session| {
        session.all_fail(&credentials_changed());
    });
    assert!(worst <= 2 * DENYING, "{worst} attempts");
}

#[test]
fn a_loop_of_invalidations_is_no_storm() {
    assert!(most_grants(ask_invalidate_and_ask, dead) <= DEAD);
    // One is honoured each 10 s.
    let healthy = most_grants(ask_invalidate_and_ask, healthy);
    assert!(healthy <= 1 + 18, "{healthy} attempts");
}

#[test]
fn tokens_of_one_second_are_no_storm_in_any_mode() {
    for mode in [RefreshMode::WhileUsed, RefreshMode::OnRequest, RefreshMode::Always] {
        let mut session = Session::of(mode);
        storm(&mut session, ask, |session| {
            session.all_succeed(secs(1));
        });
        let seen = session.grants();
        assert!(seen.len() <= HEALTHY, "{mode:?}: {} attempts", seen.len());
        let gaps = seen.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
        assert!(gaps.min().expect("a gap") >= secs(1), "{mode:?}");
    }
}

#[test]
fn tokens_that_are_dead_on_arrival_are_no_storm() {
    let worst = most_grants(ask, |session| {
        session.all_succeed(Duration::ZERO);
    });
    assert!(worst <= DEAD, "{worst} attempts");
}

#[test]
fn a_server_that_repeats_a_dying_token_sees_few_requests() {
    let mut session = Session::of(RefreshMode::Always);
    session.timer();
    let dies_at = session.now + secs(3_600);
    while session.now < dies_at {
        if !session.on_wire().is_empty() {
            let left = dies_at.since(session.now);
            session.granted_as("same", left);
        }
        session.pass(millis(100));
    }
    let seen = session.grants().len();
    assert!(seen <= 16, "{seen} attempts");
}

#[test]
fn a_loop_of_exchanges_is_no_storm() {
    for random in DRAWS {
        let mut session = Session::with(|_| ());
        session.random = random;
        storm(&mut session, exchange, dead_for_exchanges);
        let seen = session.exchanges().len();
        assert!(seen <= DEAD, "{seen} attempts with {random}");
        assert_eq!(session.grants().len(), 1);
    }
}

#[test]
fn a_loop_of_exchanges_and_revokes_is_no_storm() {
    for random in DRAWS {
        let mut session = Session::with(|_| ());
        session.random = random;
        storm(&mut session, exchange, |session| {
            dead_for_exchanges(session);
            session.leave_all();
            session.revoke();
            dead_for_exchanges(session);
        });
        let seen = session.exchanges().len();
        assert!(seen <= DEAD, "{seen} attempts with {random}");
    }
}

#[test]
fn exchanges_whose_subject_is_always_refused_are_no_storm() {
    let mut session = Session::with(|_| ());
    storm(&mut session, exchange, |session| {
        session.each_ends(|session, what| match what {
            "grant" => session.granted(secs(3_600)),
            _ => session.exchange_fails(TokenError::denied("invalid_grant", "")),
        });
    });
    // Each flight once more with another subject, where the invalidation was honoured.
    let (exchanges, grants) = (session.exchanges().len(), session.grants().len());
    assert!(exchanges <= 2 * DENYING, "{exchanges} attempts");
    assert!(grants <= 1 + DENYING, "{grants} attempts");
}

#[test]
fn a_loop_of_revokes_against_a_dead_revocation_endpoint_is_no_storm() {
    for random in DRAWS {
        let mut session = Session::with(|_| ());
        session.random = random;
        storm(&mut session, ask_and_revoke, dead_for_revocations);
        let seen = attempts(&session);
        assert!(seen <= DEAD, "{seen} attempts with {random}");
        assert!(session.grants().len() <= HEALTHY);
    }
}

#[test]
fn a_loop_of_revokes_against_a_hanging_revocation_endpoint_is_no_storm() {
    let mut session = Session::with(|_| ());
    storm(&mut session, ask_and_revoke, |session| {
        if session.on_wire().iter().any(|start| matches!(start.request, Request::Grant(_))) {
            session.granted(secs(3_600));
        }
    });
    let seen = attempts(&session);
    assert!((2..=DEAD).contains(&seen), "{seen} attempts");
}
