//! The shortest traces that broke an earlier design, each named after what went wrong. As in the
//! model that found them: a token of 60 s (stale at 28.5 s, hold at 54 s), 2 attempts of 10 s,
//! cooling 30 s.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use machine::{Session, at_least, denied, millis, retry_after, secs, transient};

fn model() -> Session {
    Session::with(|config| config.retry.attempts = 2)
}

/// Its first token has come.
fn holding_a_token() -> Session {
    let mut session = model();
    session.ask();
    assert_eq!(session.granted(secs(60)), "publish t1; 1: t1");
    session
}

#[test]
fn a_revoke_is_ok_while_an_attempt_that_was_given_up_is_still_out() {
    let mut session = model();
    session.ask();
    session.suspend(secs(10));
    assert_eq!(session.revoke(), "nothing", "the attempt has not ended yet");
    assert_eq!(session.granted(secs(60)), "revoke t1", "so its token is reached");
    assert_eq!(session.confirmed(), "grant #1; 2: revoked");
}

#[test]
fn two_grants_on_the_wire() {
    let mut session = model();
    session.ask();
    session.suspend(millis(10_125));
    assert_eq!(session.timer(), "nothing", "the first attempt has not ended yet");
    assert_eq!(session.on_wire().len(), 1);
}

#[test]
fn each_revoke_lets_the_next_attempt_go_at_once() {
    let mut session = model();
    for _ in 0..100 {
        session.ask();
        session.all_fail(&transient());
        session.revoke();
    }
    assert_eq!(session.grants().len(), 1, "no time has passed");
}

#[test]
fn a_revoke_jumps_retry_after() {
    let mut session = model();
    session.asked();
    session.grant_fails(retry_after(secs(12)));
    assert_eq!(session.revoke(), "1: revoked");
    assert_eq!(session.ask(), "2: cooling");
    assert_eq!(session.pass(millis(11_999)), "nothing");
    assert_eq!(session.ask(), "3: cooling");
    session.pass(millis(1));
    assert_eq!(session.ask(), "publish nothing; grant #1");
}

#[test]
fn a_grant_30_s_too_early() {
    let mut session = holding_a_token();
    session.suspend(millis(28_500));
    session.read();
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
    assert_eq!(session.grant_fails(denied()), "publish nothing");
    assert_eq!(session.ask(), "3: cooling");
    assert_eq!(session.confirmed(), "publish nothing; 2: revoked");
    assert_eq!(session.ask(), "4: cooling");
}

#[test]
fn try_token_starves_since_its_asked_came_while_cooling() {
    let mut session = model();
    session.ask();
    session.grant_fails(denied());
    assert_eq!(session.ask_at(), Some(secs(30)), "readers know when to ask");
    session.pass(secs(30));
    assert_eq!(session.try_token(), "publish nothing; grant #1");
}

#[test]
fn try_token_starves_since_its_asked_came_behind_the_barrier() {
    let mut session = model();
    session.ask();
    session.granted(secs(60));
    session.revoke();
    assert_eq!(session.try_token(), "nothing");
    session.suspend(secs(1));
    session.confirmed();
    assert_eq!(session.try_token(), "publish nothing; grant #1");
}

#[test]
fn a_grant_that_nobody_wants_right_after_logging_out() {
    let mut session = holding_a_token();
    session.suspend(millis(28_500));
    let snapshot = session.published.number;
    session.revoke();
    session.confirmed();
    assert_eq!(session.asked_of(snapshot), "nothing");
    assert_eq!(session.pass(secs(60)), "nothing");
}

#[test]
fn an_attempt_with_a_time_out_of_zero() {
    let mut session = model();
    session.ask();
    session.grant_fails(transient());
    session.suspend(secs(3_600));
    assert_eq!(session.timer(), "grant #2");
    assert_eq!(session.on_wire()[0].timeout, secs(10));
}

#[test]
fn an_error_with_6_s_of_life_left() {
    let mut session = holding_a_token();
    session.suspend(secs(15));
    assert_eq!(session.ask_with(at_least(secs(50))), "publish t1; grant #1");
    session.suspend(secs(10));
    assert_eq!(session.grant_fails(denied()), "publish t1; 2: t1");
    session.suspend(secs(29));
    assert_eq!(session.ask(), "3: t1");
}

#[test]
fn the_refused_token_is_handed_out() {
    let mut session = holding_a_token();
    session.suspend(secs(54));
    session.ask();
    assert_eq!(session.invalidate("t1"), "publish nothing");
    assert_eq!(session.grant_fails(transient()), "nothing");
    session.pass(millis(125));
    assert_eq!(session.grant_fails(transient()), "publish nothing; 2: failed");
}

#[test]
fn a_revoked_token_is_handed_out() {
    let mut session = model();
    session.ask();
    session.revoke();
    session.granted_as("same", secs(60));
    session.suspend(secs(1));
    assert_eq!(session.confirmed(), "grant #1; 2: revoked");
    assert_eq!(session.granted_as("same", secs(60)), "nothing", "a failed attempt");
    assert_eq!(session.pass(millis(125)), "grant #2");
    assert_eq!(session.granted(secs(60)), "publish t1; 1: t1");
}

#[test]
fn the_ledger_forgets_a_token_after_1_5_s() {
    let mut session = model();
    session.ask();
    session.revoke();
    session.granted_as("same", millis(1_500));
    session.suspend(secs(1));
    assert_eq!(session.revocations_fail(&denied()), "grant #1; 2: failed");
    assert_eq!(session.granted_as("same", secs(60)), "nothing");
    session.suspend(secs(2));
    assert_eq!(session.timer(), "grant #2");
    assert_eq!(session.granted_as("same", secs(60)), "publish nothing; 1: failed");
}

#[test]
fn a_caller_is_held_for_ever() {
    let mut session = holding_a_token();
    session.revoke();
    session.ask();
    assert_eq!(session.confirmed(), "2: revoked", "the flight is open, and waits");
    session.pass(secs(1));
    session.grant_fails(transient());
    session.suspend(secs(3_600));
    assert_eq!(session.timer(), "grant #2");
    session.granted(secs(60));
    assert!(!session.waits(3));
}

#[test]
fn a_token_that_arrives_past_its_own_hold_at_holds_callers_for_ever() {
    let mut session = model();
    session.ask();
    session.suspend(secs(9));
    assert_eq!(session.granted(secs(10)), "publish t1; 1: t1");
}
