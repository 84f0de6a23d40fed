//! How often, when and with what a flight makes its attempts, and how long its failure is remembered.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use std::sync::Arc;
use std::time::Duration;

use ccg_session::{RefreshMode, SessionError, TokenError, TokenRequestOptions};
use machine::{
    Session, at_least, credentials_changed, denied, from_ip, millis, retry_after, scope, secs,
    transient,
};

/// As good as one.
const MOST: f64 = 0.999_999_999;

/// A caller waits; the first attempt is on the wire.
fn opened() -> Session {
    let mut session = Session::with(|_| ());
    assert_eq!(session.ask(), "publish nothing; grant #1");
    session
}

/// How long until the next attempt, when this one fails.
fn pause(session: &mut Session, error: TokenError) -> Duration {
    session.grant_fails(error);
    let pause = session.deadline().unwrap_or_default();
    session.pass(pause);
    assert_eq!(session.on_wire().len(), 1, "the next attempt");
    pause
}

/// How long the server is left alone, when the attempt on the wire fails and ends its flight.
fn cooling(session: &mut Session, error: TokenError) -> Duration {
    session.grant_fails(error);
    assert!(session.on_wire().is_empty(), "the flight is over");
    session.ask_at().expect("an ask_at")
}

fn about(left: Duration, right: Duration) -> bool {
    left.abs_diff(right) < millis(1)
}

// Attempts

#[test]
fn a_flight_has_three_attempts_of_ten_seconds() {
    let mut session = opened();
    assert_eq!(session.pass(secs(60)), "grant #2; grant #3; publish nothing; 1: failed");
    assert!(session.started.iter().all(|(_, start)| start.timeout == secs(10)));
}

#[test]
fn a_flight_lasts_31_seconds_at_the_most() {
    let mut session = opened();
    session.random = MOST;
    session.pass(secs(31));
    assert!(!session.waits(1));
    assert_eq!(session.grants().len(), 3);
}

#[test]
fn attempts_and_their_time_can_be_configured() {
    let mut session = Session::with(|config| {
        config.retry.attempts = 5;
        config.retry.attempt_timeout = secs(2);
    });
    session.ask();
    session.pass(secs(60));
    assert_eq!(session.grants().len(), 5);
    assert!(session.started.iter().all(|(_, start)| start.timeout == secs(2)));
}

#[test]
fn after_a_failed_flight_there_is_one_attempt_only() {
    for error in [transient(), denied()] {
        let mut session = opened();
        session.all_fail(&error);
        session.pass(secs(60));
        session.all_fail(&error);
        session.pass(secs(60));
        session.all_fail(&error);
        session.pass(secs(60));
        assert_eq!(session.ask(), "publish nothing; grant #1");
        assert_eq!(session.grant_fails(transient()), "publish nothing; 2: failed");
    }
}

#[test]
fn an_error_that_is_not_retryable_ends_the_flight() {
    assert_eq!(opened().grant_fails(denied()), "publish nothing; 1: failed");
}

#[test]
fn all_other_errors_are_retried() {
    let malformed = TokenError::malformed("a proxy's page");
    let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let transport = TokenError::transport(io);
    let limited = TokenError::rate_limited(None);
    let timed_out = TokenError::timed_out(secs(10));
    for error in [malformed, transport, limited, timed_out, TokenError::Panicked, transient()] {
        let mut session = opened();
        assert_eq!(session.grant_fails(error), "nothing");
        assert_eq!(session.pass(millis(125)), "grant #2");
    }
}

#[test]
fn everybody_who_waits_gets_the_same_error_with_its_retry_after() {
    let mut session = opened();
    session.ask();
    session.grant_fails(denied());
    let errors = [1, 2].map(|caller| match session.error_of(caller) {
        SessionError::Failed { error, retry_after } => {
            assert_eq!(*retry_after, secs(30));
            error.clone()
        }
        error => panic!("{error}"),
    });
    assert!(Arc::ptr_eq(&errors[0], &errors[1]));
}

#[test]
fn who_joins_between_attempts_shares_the_flight() {
    let mut session = opened();
    session.grant_fails(transient());
    assert_eq!(session.ask(), "nothing");
    assert_eq!(session.pass(millis(125)), "grant #2");
    assert_eq!(session.granted(secs(60)), "publish t1; 1: t1; 2: t1");
}

#[test]
fn a_flight_is_not_ended_by_its_callers_leaving() {
    let mut session = opened();
    session.leave(1);
    session.grant_fails(transient());
    assert_eq!(session.pass(millis(125)), "grant #2");
    assert_eq!(session.granted(secs(60)), "publish t1");
}

// Pauses between attempts

#[test]
fn pauses_double_from_250_ms_up_to_5_s() {
    let mut session = Session::with(|config| config.retry.attempts = 9);
    session.random = MOST;
    session.ask();
    for expected in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000] {
        let pause = pause(&mut session, transient());
        assert!(about(pause, millis(expected)), "{pause:?} for {expected} ms");
    }
}

#[test]
fn chance_takes_any_part_of_a_pause() {
    for (random, expected) in [(0.0, 0), (0.25, 62), (0.5, 125), (MOST, 250)] {
        let mut session = opened();
        session.random = random;
        let pause = pause(&mut session, transient());
        assert!(about(pause, millis(expected)), "{pause:?} with {random}");
    }
}

#[test]
fn no_attempt_starts_before_a_short_retry_after() {
    for (asked, expected) in [(millis(100), millis(125)), (secs(3), secs(3)), (secs(5), secs(5))] {
        assert_eq!(pause(&mut opened(), retry_after(asked)), expected);
        let error = TokenError::server(503, Some(asked));
        assert_eq!(pause(&mut opened(), error), expected);
    }
}

#[test]
fn a_retry_after_of_more_than_5_s_ends_the_flight_and_is_kept() {
    assert_eq!(cooling(&mut opened(), retry_after(millis(5_001))), millis(5_001));
    assert_eq!(cooling(&mut opened(), retry_after(secs(599))), secs(599));
}

#[test]
fn a_retry_after_is_capped_at_10_minutes() {
    assert_eq!(cooling(&mut opened(), retry_after(secs(601))), secs(600));
    assert_eq!(cooling(&mut opened(), retry_after(Duration::MAX)), secs(600));
}

// Cooling

#[test]
fn after_an_error_that_is_not_retryable_the_server_is_left_alone_for_cooling() {
    for random in [0.0, 0.5, MOST] {
        let mut session = opened();
        session.random = random;
        assert_eq!(cooling(&mut session, denied()), secs(30));
    }
    let mut session = Session::with(|config| config.retry.cooling = secs(7));
    session.ask();
    assert_eq!(cooling(&mut session, denied()), secs(7));
}

#[test]
fn after_other_errors_it_is_750_ms_doubling_up_to_cooling_less_up_to_half() {
    for (random, part) in [(0.0, 1.0), (0.5, 0.75), (MOST, 0.5)] {
        let mut session = Session::with(|config| config.retry.attempts = 1);
        session.random = random;
        for expected in [750, 1_500, 3_000, 6_000, 12_000, 24_000, 30_000, 30_000] {
            session.ask();
            let cooling = cooling(&mut session, transient());
            let expected = millis(expected).mul_f64(part);
            assert!(about(cooling, expected), "{cooling:?} for {expected:?}");
            session.pass(cooling);
        }
    }
}

#[test]
fn a_retry_after_longer_than_cooling_counts() {
    assert_eq!(cooling(&mut opened(), retry_after(secs(90))), secs(90));
}

#[test]
fn the_last_error_is_given_until_not_before_and_then_a_flight_opens() {
    let mut session = opened();
    session.grant_fails(denied());
    session.pass(millis(29_999));
    assert_eq!(session.ask(), "2: cooling");
    assert_eq!(session.error_of(2).retry_after(), Some(millis(1)));
    session.pass(millis(1));
    assert_eq!(session.ask(), "publish nothing; grant #1");
}

#[test]
fn a_success_resets_all_that_is_remembered_of_failures() {
    let mut session = opened();
    session.all_fail(&transient());
    session.pass(secs(5));
    session.all_fail(&transient());
    session.pass(secs(5));
    session.ask();
    session.granted(secs(60));
    session.suspend(secs(60));
    session.ask();
    assert_eq!(session.grant_fails(transient()), "publish t1", "three attempts again");
    session.pass(millis(125));
    session.grant_fails(transient());
    session.pass(millis(250));
    assert_eq!(
        cooling(&mut session, transient()),
        millis(750).mul_f64(0.75),
        "the first pause again"
    );
}

#[test]
fn a_success_whose_token_only_goes_to_the_ledger_resets_it_too() {
    let mut session = opened();
    session.all_fail(&denied());
    session.pass(secs(30));
    session.ask();
    session.revoke();
    session.granted(secs(60));
    session.suspend(secs(1));
    assert_eq!(session.confirmed(), "grant #1; 3: revoked");
    assert_eq!(session.grant_fails(transient()), "nothing", "three attempts again");
}

// `earliest`

#[test]
fn a_grant_is_sent_no_sooner_than_1_s_after_the_last_success_was_sent() {
    let mut session = opened();
    session.suspend(millis(400));
    session.granted(secs(60));
    session.invalidate("t1");
    assert_eq!(session.ask(), "publish nothing", "the flight is open, and waits");
    assert_eq!(session.ask_at(), None);
    assert_eq!(session.pass(millis(599)), "nothing");
    assert_eq!(session.pass(millis(1)), "grant #1");
}

#[test]
fn a_revoke_does_not_bring_the_next_attempt_forward() {
    let mut session = opened();
    session.grant_fails(retry_after(secs(4)));
    session.revoke();
    assert_eq!(session.pass(millis(3_999)), "nothing");
    assert_eq!(session.pass(millis(1)), "grant #2");
}

// Credentials that changed

#[test]
fn after_credentials_changed_the_next_attempt_follows_at_once() {
    assert_eq!(opened().grant_fails(credentials_changed()), "grant #1");
}

#[test]
fn credentials_that_changed_are_tried_once_per_flight() {
    let mut session = opened();
    session.grant_fails(credentials_changed());
    assert_eq!(session.grant_fails(credentials_changed()), "publish nothing; 1: failed");
    session.pass(secs(30));
    session.ask();
    session.grant_fails(credentials_changed());
    assert_eq!(session.on_wire().len(), 1, "the next flight may, too, though it is a probe");
    assert_eq!(session.grant_fails(credentials_changed()), "publish nothing; 2: failed");
    assert_eq!(session.ask_at(), Some(secs(30)));
}

#[test]
fn credentials_that_changed_add_one_attempt_at_the_most() {
    let mut session = opened();
    session.grant_fails(transient());
    session.pass(secs(1));
    session.grant_fails(credentials_changed());
    session.all_fail(&transient());
    session.pass(secs(10));
    session.all_fail(&transient());
    assert!(session.grants().len() <= 4, "{:?}", session.grants());
    assert!(!session.waits(1));
}

// Options

#[test]
fn a_flight_sends_the_options_of_the_caller_that_opened_it_with_every_attempt() {
    let mut session = Session::with(|_| ());
    session.ask_with(from_ip(1));
    assert_eq!(session.last_options(), from_ip(1));
    session.ask_with(from_ip(2));
    session.grant_fails(transient());
    session.pass(secs(1));
    assert_eq!(session.last_options(), from_ip(1));
}

#[test]
fn a_flight_that_an_exchange_opened_sends_its_options() {
    let mut session = Session::with(|_| ());
    session.exchange(scope("a").options(from_ip(1)));
    assert_eq!(session.last_options(), from_ip(1));
}

#[test]
fn a_caller_that_is_served_and_opens_a_refresh_sends_its_options() {
    let mut session = opened();
    session.granted(secs(60));
    session.suspend(secs(30));
    assert_eq!(session.ask_with(from_ip(3)), "publish t1; grant #1; 2: t1");
    assert_eq!(session.last_options(), from_ip(3));
    let mut session = opened();
    session.granted(secs(60));
    session.suspend(secs(10));
    let options = from_ip(4).min_remaining(secs(54));
    assert_eq!(session.ask_with(options.clone()), "publish t1; grant #1");
    assert_eq!(session.last_options(), options);
}

#[test]
fn a_flight_that_no_single_caller_opened_sends_the_sessions_own() {
    let own = TokenRequestOptions::new();
    let mut session = Session::of(RefreshMode::Always);
    session.ask_with(from_ip(1));
    session.granted(secs(60));
    session.pass(millis(28_500));
    assert_eq!(session.last_options(), own, "the timer's");
    let mut session = Session::with(|_| ());
    session.asked();
    session.ask_with(at_least(secs(1)));
    session.grant_fails(transient());
    session.pass(secs(1));
    assert_eq!(session.last_options(), own, "Asked's");
}
