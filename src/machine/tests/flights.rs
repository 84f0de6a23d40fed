//! How often, when and with what a flight makes its attempts, and how long its failure is remembered.

use std::sync::Arc;
use std::time::Duration;

use super::driver::{Kind, Session, millis, secs};
use super::script::scripts;
use crate::config::RefreshMode;
use crate::error::{SessionError, TokenError};

/// As good as one.
const MOST: f64 = 0.999_999_999;

/// How long until the next attempt, when this one fails.
fn pause(session: &mut Session, error: &str) -> Duration {
    session.play(&format!("grant_fails {error}"));
    let pause = session.deadline().unwrap_or_default();
    session.pass(pause);
    assert!(session.is_on_wire(Kind::Grant), "the next attempt");
    pause
}

fn about(left: Duration, right: Duration) -> bool {
    left.abs_diff(right) < millis(1)
}

// Attempts
scripts! {
    a_flight_has_three_attempts_of_ten_seconds =>
        "holding, timeout -> 10s
         +60s -> grant #2; grant #3; publish nothing; 1: failed
         timeout -> 10s";

    after_a_failed_flight_there_is_one_attempt_only =>
        "holding, all_fail 503, +60s, all_fail 503, +60s, all_fail 503, +60s
         ask -> publish nothing; grant #1
         grant_fails 503 -> publish nothing; 2: failed",
        "cooling, +60s, ask -> publish nothing; grant #1
         grant_fails 503 -> publish nothing; 2: failed";

    an_error_that_is_not_retryable_ends_the_flight =>
        "holding, grant_fails denied -> publish nothing; 1: failed";

    who_joins_between_attempts_shares_the_flight =>
        "holding, grant_fails 503, ask -> nothing
         +125ms -> grant #2
         granted 60s -> publish t1; 1: t1; 2: t1";

    a_flight_is_not_ended_by_its_callers_leaving =>
        "holding, leave 1, grant_fails 503, +125ms -> grant #2
         granted 60s -> publish t1";
}

#[test]
fn a_flight_lasts_31_seconds_at_the_most() {
    let mut session = Session::new();
    session.random = MOST;
    session.play(
        "holding, +30s, waiting -> 1
         +1s, waiting -> nobody
         grants -> 3",
    );
}

#[test]
fn attempts_and_their_time_can_be_configured() {
    let mut session = Session::with(|config| {
        config.retry.attempts = 5;
        config.retry.attempt_timeout = secs(2);
    });
    session.play("ask, +60s, grants -> 5");
    assert!(session.started.iter().all(|(_, start)| start.timeout == secs(2)));
}

#[test]
fn all_other_errors_are_retried() {
    let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    for error in [
        TokenError::malformed("a proxy's page"),
        TokenError::transport(io),
        TokenError::rate_limited(None),
        TokenError::timed_out(secs(10)),
        TokenError::Panicked,
    ] {
        let mut session = Session::new();
        session.play("holding");
        assert_eq!(session.grant_ends(Err(error)), "nothing");
        session.play("+125ms -> grant #2");
    }
}

#[test]
fn everybody_who_waits_gets_the_same_error_with_its_retry_after() {
    let mut session = Session::new();
    session.play("holding, ask, grant_fails denied");
    let [first, second] = [1, 2].map(|caller| match session.error_of(caller) {
        SessionError::Failed { error, retry_after } if *retry_after == secs(30) => error.clone(),
        error => panic!("{error:?}"),
    });
    assert!(Arc::ptr_eq(&first, &second));
}

// Pauses between attempts

#[test]
fn pauses_double_from_250_ms_up_to_5_s() {
    let mut session = Session::with(|config| config.retry.attempts = 9);
    session.random = MOST;
    session.play("ask");
    for expected in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000] {
        let pause = pause(&mut session, "503");
        assert!(about(pause, millis(expected)), "{pause:?} for {expected} ms");
    }
}

#[test]
fn chance_takes_any_part_of_a_pause() {
    for (random, expected) in [(0.0, 0), (0.25, 62), (0.5, 125), (MOST, 250)] {
        let mut session = Session::new();
        session.random = random;
        session.play("ask");
        let pause = pause(&mut session, "503");
        assert!(about(pause, millis(expected)), "{pause:?} with {random}");
    }
}

scripts! {
    no_attempt_starts_before_a_short_retry_after =>
        "holding, grant_fails 429 100ms, deadline -> 125ms",
        "holding, grant_fails 429 3s, deadline -> 3s",
        "holding, grant_fails 503 3s, deadline -> 3s",
        "holding, grant_fails changed 3s, deadline -> 3s",
        "holding, grant_fails 429 5s, deadline -> 5s
         +4.999s -> nothing
         +1ms -> grant #2";

    a_retry_after_of_more_than_5_s_ends_the_flight_and_is_kept =>
        "holding, grant_fails 429 5.001s -> publish nothing; 1: failed
         ask_at -> 5.001s",
        "holding, grant_fails 429 90s, ask_at -> 90s // longer than cooling",
        "holding, grant_fails 503 599s, ask_at -> 599s";

    a_retry_after_is_capped_at_10_minutes =>
        "holding, grant_fails 429 601s, ask_at -> 600s",
        "holding, grant_fails 429 1000000d, ask_at -> 600s";
}

// Cooling

#[test]
fn after_an_error_that_is_not_retryable_the_server_is_left_alone_for_cooling() {
    for random in [0.0, 0.5, MOST] {
        let mut session = Session::new();
        session.random = random;
        session.play("cooling, ask_at -> 30s");
    }
    let mut session = Session::with(|config| config.retry.cooling = secs(7));
    session.play("cooling, ask_at -> 7s");
}

#[test]
fn after_other_errors_it_is_750_ms_doubling_up_to_cooling_less_up_to_half() {
    for (random, part) in [(0.0, 1.0), (0.5, 0.75), (MOST, 0.5)] {
        let mut session = Session::with(|config| config.retry.attempts = 1);
        session.random = random;
        for expected in [750, 1_500, 3_000, 6_000, 12_000, 24_000, 30_000, 30_000] {
            session.play("ask, grant_fails 503");
            let cooling = session.ask_at().expect("the flight is over");
            let expected = millis(expected).mul_f64(part);
            assert!(about(cooling, expected), "{cooling:?} for {expected:?}");
            session.pass(cooling);
        }
    }
}

scripts! {
    the_last_error_is_given_until_not_before_and_then_a_flight_opens =>
        "cooling, +29.999s, ask -> 2: cooling
         retry_after 2 -> 1ms
         +1ms, ask -> publish nothing; grant #1";

    a_success_resets_all_that_is_remembered_of_failures =>
        "holding, all_fail 503, +5s, all_fail 503, +5s, ask, granted 60s, suspend 60s, ask
         grant_fails 503 -> publish t1 // three attempts again
         +125ms, grant_fails 503, +250ms, grant_fails 503, ask_at -> 562.5ms // the first pause again";

    a_success_whose_token_only_goes_to_the_ledger_resets_it_too =>
        "cooling, +30s, ask, revoke, granted 60s, suspend 1s, confirmed -> grant #1; 3: revoked
         grant_fails 503 -> nothing // three attempts again";
}

// `earliest`
scripts! {
    a_grant_is_sent_no_sooner_than_1_s_after_the_last_success_was_sent =>
        "holding, suspend 400ms, granted 60s, invalidate t1
         ask -> publish nothing // the flight is open, and waits
         ask_at -> never
         +599ms -> nothing
         +1ms -> grant #1";

    a_revoke_does_not_bring_the_next_attempt_forward =>
        "holding, grant_fails 429 4s, revoke, +3.999s -> nothing
         +1ms -> grant #2";
}

// Credentials that changed
scripts! {
    after_credentials_changed_the_next_attempt_follows_at_once =>
        "holding, grant_fails changed -> grant #1";

    credentials_that_changed_are_tried_once_per_flight =>
        "holding, grant_fails changed, grant_fails changed -> publish nothing; 1: failed
         +30s, ask, grant_fails changed -> grant #1 // the next flight may, too, though it is a probe
         grant_fails changed -> publish nothing; 2: failed
         ask_at -> 30s";

    credentials_that_changed_add_one_attempt_at_the_most =>
        "holding, grant_fails 503, +1s, grant_fails changed -> grant #2
         grant_fails 503, +1s -> grant #3
         grant_fails 503 -> publish nothing; 1: failed
         grants -> 4";
}

// Options
scripts! {
    a_flight_sends_the_options_of_the_caller_that_opened_it_with_every_attempt =>
        "ask ip1, options -> 192.0.2.1; 0ns
         ask ip2, grant_fails 503, +1s, options -> 192.0.2.1; 0ns";

    a_flight_that_an_exchange_opened_sends_its_options =>
        "exchange a ip1, options -> 192.0.2.1; 0ns";

    a_caller_that_is_served_and_opens_a_refresh_sends_its_options =>
        "stale, ask ip3 -> publish t1; grant #1; 2: t1
         options -> 192.0.2.3; 0ns",
        "fresh, suspend 10s, ask ip4 54s -> publish t1; grant #1
         options -> 192.0.2.4; 54s";

    a_flight_that_no_single_caller_opened_sends_the_sessions_own in [RefreshMode::Always] =>
        "ask ip1, granted 60s, +28.5s -> publish t1; grant #1
         options -> no ip; 0ns // the timer's",
        "asked, ask 1s ip1, grant_fails 503, +1s -> grant #2
         options -> no ip; 0ns // Asked's";
}
