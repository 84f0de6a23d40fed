//! Rule 5: revoke is a barrier.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use ccg_session::testing::internals::Reply;
use ccg_session::{SessionError, TokenError};
use machine::{Session, denied, from_ip, millis, retry_after, scope, secs, transient};

/// A token of an hour is held.
fn fresh() -> Session {
    let mut session = Session::with(|_| ());
    session.ask();
    assert_eq!(session.granted(secs(3_600)), "publish t1; 1: t1");
    session
}

/// So many exchanged tokens beside it. (One event each: a check of each would take a while.)
fn with_exchanged(tokens: usize) -> Session {
    let mut session = fresh();
    session.check_idle = false;
    for name in 0..tokens {
        session.exchange(scope(&name.to_string()));
        session.exchanged(secs(3_600));
    }
    session
}

fn cools_for(session: &Session, caller: u32) -> std::time::Duration {
    match session.error_of(caller) {
        SessionError::Cooling { retry_after, .. } | SessionError::Failed { retry_after, .. } => {
            *retry_after
        }
        error => panic!("{error}"),
    }
}

// What is dropped, and who is held

#[test]
fn readers_see_no_token_from_the_revoke_on() {
    let mut session = fresh();
    session.revoke();
    assert_eq!(session.published_token(), None);
    assert_eq!(session.read(), "nothing", "held behind the barrier");
}

#[test]
fn a_caller_behind_the_barrier_gets_a_token_that_was_asked_for_after_it() {
    let mut session = fresh();
    session.revoke();
    session.ask();
    session.suspend(secs(1));
    session.confirmed();
    assert_eq!(session.granted(secs(3_600)), "publish t2; 3: t2");
}

#[test]
fn while_the_barrier_is_up_nothing_is_sent_but_revocations() {
    let mut session = fresh();
    session.revoke();
    session.ask();
    session.exchange(scope("a"));
    session.asked();
    assert_eq!(session.pass(secs(9)), "nothing");
    assert_eq!(session.revocations().len(), 1);
}

#[test]
fn a_revoke_during_a_grant_waits_for_it_and_revokes_its_token_too() {
    let mut session = fresh();
    session.suspend(secs(3_100));
    assert_eq!(session.ask(), "publish t1; grant #1; 2: t1");
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
    assert_eq!(session.confirmed(), "nothing", "the grant is still on the wire");
    assert_eq!(session.granted(secs(3_600)), "revoke t2");
    assert_eq!(session.confirmed(), "publish nothing; 3: revoked");
}

#[test]
fn a_revoke_during_a_grant_that_then_fails_ends_with_it() {
    let mut session = fresh();
    session.suspend(secs(3_100));
    session.ask();
    session.revoke();
    session.confirmed();
    assert_eq!(session.grant_fails(denied()), "publish nothing; 3: revoked");
}

#[test]
fn a_revoke_during_an_exchange_revokes_its_token_and_the_caller_gets_another() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.revoke();
    session.confirmed();
    assert_eq!(session.exchanged(secs(3_600)), "revoke x1");
    session.suspend(secs(1));
    assert_eq!(session.confirmed(), "grant #1; 3: revoked");
    assert_eq!(session.granted(secs(3_600)), "publish t2; exchange #1 of t2");
    assert_eq!(session.exchanged(secs(3_600)), "2: x2");
}

#[test]
fn a_flight_that_waits_between_attempts_ends_at_a_revoke_if_nobody_waits_for_it() {
    let mut session = Session::with(|_| ());
    assert_eq!(session.asked(), "publish nothing; grant #1");
    session.grant_fails(transient());
    assert_eq!(session.revoke(), "publish nothing; 1: revoked");
    assert_eq!(session.pass(secs(60)), "nothing", "nobody wants a token right after logging out");
}

#[test]
fn a_flight_whose_attempt_fails_behind_the_barrier_ends_with_it_if_nobody_waits() {
    let mut session = Session::with(|_| ());
    session.asked();
    assert_eq!(session.revoke(), "nothing", "the attempt is on the wire");
    assert_eq!(session.grant_fails(transient()), "publish nothing; 1: revoked");
    assert_eq!(session.pass(secs(60)), "nothing");
}

#[test]
fn a_flight_that_waits_between_attempts_goes_on_after_the_barrier_where_it_was() {
    let mut session = Session::with(|_| ());
    session.ask_with(from_ip(1));
    session.grant_fails(transient());
    assert_eq!(session.revoke(), "2: revoked");
    assert_eq!(session.pass(millis(124)), "nothing");
    assert_eq!(session.pass(millis(1)), "grant #2");
    assert_eq!(session.last_options(), from_ip(1));
}

#[test]
fn an_exchange_that_waits_between_attempts_goes_on_after_the_barrier_where_it_was() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.exchange_fails(transient());
    session.revoke();
    session.suspend(secs(1));
    assert_eq!(session.confirmed(), "grant #1; 3: revoked");
    assert_eq!(session.granted(secs(60)), "publish t2; exchange #2 of t2");
}

#[test]
fn a_flight_that_waits_between_attempts_goes_on_if_an_exchange_waits_for_its_token() {
    let mut session = Session::with(|_| ());
    session.ask_with(from_ip(1));
    session.exchange(scope("a").options(from_ip(2)));
    session.leave(1);
    session.grant_fails(transient());
    assert_eq!(session.revoke(), "3: revoked");
    assert_eq!(session.pass(secs(1)), "grant #2");
    assert_eq!(session.last_options(), from_ip(1), "the same flight");
}

#[test]
fn a_flight_that_waits_between_attempts_ends_though_an_exchange_is_on_the_wire() {
    let mut session = fresh();
    session.exchange(scope("a").options(from_ip(2)));
    session.invalidate("t1");
    session.ask_with(from_ip(1));
    session.leave(3);
    session.pass(secs(1));
    session.grant_fails(transient());
    session.revoke();
    assert_eq!(session.exchanged(secs(60)), "nothing");
    assert_eq!(session.confirmed(), "revoke x1");
    assert_eq!(session.confirmed(), "4: revoked");
    assert_eq!(session.pass(secs(1)), "grant #2");
    assert_eq!(session.last_options(), from_ip(2), "a flight of its own");
}

#[test]
fn an_exchange_that_waits_between_attempts_ends_at_a_revoke_if_nobody_waits_for_it() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.exchange_fails(transient());
    session.leave(2);
    session.revoke();
    session.ask();
    session.suspend(secs(1));
    assert_eq!(session.confirmed(), "grant #1; 3: revoked");
    assert_eq!(session.granted(secs(60)), "publish t2; 4: t2", "and no exchange for nobody");
}

// The answers

#[test]
fn a_second_revoke_joins_the_first() {
    let mut session = fresh();
    session.revoke();
    assert_eq!(session.revoke(), "nothing");
    assert_eq!(session.confirmed(), "publish nothing; 2: revoked; 3: revoked");
    assert_eq!(session.revocations().len(), 1);
}

#[test]
fn a_revoke_goes_on_though_its_caller_left() {
    let mut session = fresh();
    session.revoke();
    session.leave(2);
    session.revocations_fail(&transient());
    assert_eq!(session.pass(secs(1)), "revoke t1");
    assert_eq!(session.confirmed(), "publish nothing");
}

#[test]
fn the_options_of_a_revoke_go_with_its_revocations_and_with_no_grant() {
    let mut session = fresh();
    session.revoke_with(from_ip(1));
    assert_eq!(session.last_options(), from_ip(1));
    session.ask_with(from_ip(2));
    session.suspend(secs(1));
    session.confirmed();
    assert_eq!(session.last_options(), machine::at_least(secs(0)), "the barrier's end opened it");
}

#[test]
fn without_a_revocation_endpoint_nothing_changes() {
    let mut session = Session::bare();
    session.ask();
    session.granted(secs(3_600));
    assert_eq!(session.revoke(), "2: unsupported");
    assert_eq!(session.read(), "fast: t1");
}

#[test]
fn an_answer_that_the_token_is_invalid_is_a_success() {
    let mut session = fresh();
    session.revoke();
    let error = TokenError::denied("invalid_token", "");
    assert_eq!(session.revocations_fail(&error), "publish nothing; 2: revoked");
    assert_eq!(session.revoke(), "3: revoked", "there is nothing left to send");
}

#[test]
fn a_confirmed_token_is_not_sent_again() {
    let mut session = fresh();
    session.revoke();
    session.confirmed();
    assert_eq!(session.revoke(), "3: revoked");
}

#[test]
fn a_token_that_expires_meanwhile_need_not_be_confirmed() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted(secs(2));
    session.revoke();
    session.suspend(secs(1));
    session.revocations_fail(&retry_after(secs(3)));
    assert_eq!(session.pass(secs(3)), "publish nothing; 2: revoked");
    assert_eq!(session.revocations().len(), 1);
}

// Its flight

#[test]
fn a_batch_is_of_8_and_each_success_renews_the_attempts() {
    let mut session = with_exchanged(1_000);
    session.revoke();
    session.pass(secs(1));
    let mut batches = 0;
    while session.waits(1_002) {
        batches += 1;
        // Each batch fails at first, and would be the last but for the success of the one before.
        session.revocations_fail(&transient());
        session.pass(secs(5));
        session.confirmed();
    }
    assert_eq!(batches, 1_001_usize.div_ceil(8));
    assert_eq!(session.most_at_once, 8);
    assert!(matches!(session.answers[&1_002], Reply::Revoked(Ok(()))));
}

#[test]
fn a_thousand_exchanged_tokens_are_all_revoked() {
    let mut session = with_exchanged(1_000);
    session.revoke();
    session.all_succeed(secs(1));
    assert!(!session.waits(1_002));
    assert_eq!(session.revocations().len(), 1_001);
    assert_eq!(session.most_at_once, 8);
}

#[test]
fn a_token_that_the_server_will_not_take_does_not_keep_the_rest_from_it() {
    let mut session = with_exchanged(20);
    session.revoke();
    session.each_ends(|session, _| {
        session.revocations_end(|name| if name == "x1" { Err(denied()) } else { Ok(()) })
    });
    assert!(matches!(session.error_of(22), SessionError::Failed { .. }));
    session.pass(secs(30));
    assert_eq!(session.revoke(), "publish nothing; revoke x1", "all others have been confirmed");
}

#[test]
fn a_failing_endpoint_gets_the_attempts_of_one_flight_and_the_rest_is_for_the_next_revoke() {
    let mut session = fresh();
    session.revoke();
    let mut said = String::new();
    while session.waits(2) {
        said = session.revocations_fail(&transient());
        session.pass(secs(1));
    }
    assert_eq!(said, "publish nothing; 2: failed");
    assert_eq!(session.revocations().len(), 3);
    session.pass(secs(30));
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
    assert_eq!(session.revocations_fail(&transient()), "publish nothing; 3: failed", "a probe");
    session.pass(secs(30));
    session.revoke();
    assert_eq!(session.confirmed(), "publish nothing; 4: revoked");
}

#[test]
fn a_success_makes_the_probe_after_a_failed_flight_a_whole_flight_again() {
    let mut session = with_exchanged(20);
    session.revoke();
    session.revocations_fail(&denied());
    session.pass(secs(30));
    session.revoke();
    session.confirmed();
    for _ in 0..2 {
        assert_eq!(session.revocations_fail(&transient()), "nothing", "three attempts");
        session.pass(secs(1));
    }
    assert_eq!(session.revocations_fail(&transient()), "publish nothing; 23: failed");
}

#[test]
fn a_hanging_endpoint_holds_a_revoke_for_its_attempts_and_no_longer() {
    let mut session = fresh();
    session.random = 0.999;
    session.revoke();
    session.ask();
    session.pass(secs(30));
    assert!(session.waits(2));
    assert_eq!(session.pass(secs(1)), "grant #1; 2: failed");
    assert!(matches!(session.error_of(2).token_error(), Some(TokenError::TimedOut { .. })));
    assert_eq!(session.revocations().len(), 3);
}

#[test]
fn a_revoke_before_not_before_drops_and_marks_but_sends_nothing_and_gets_the_last_error() {
    let mut session = fresh();
    session.revoke();
    session.revocations_fail(&denied());
    session.suspend(secs(10));
    session.ask();
    session.granted(secs(3_600));
    assert_eq!(session.revoke(), "publish nothing; 4: cooling");
    assert_eq!(cools_for(&session, 4), secs(20));
    session.suspend(secs(20));
    assert_eq!(session.revoke(), "publish nothing; revoke t2; revoke t1");
}

#[test]
fn retry_after_is_kept_between_revocations() {
    let mut session = fresh();
    session.revoke();
    session.revocations_fail(&retry_after(secs(4)));
    assert_eq!(session.pass(millis(3_999)), "nothing");
    assert_eq!(session.pass(millis(1)), "revoke t1");
    assert_eq!(session.revocations_fail(&retry_after(secs(90))), "publish nothing; 2: failed");
    assert_eq!(cools_for(&session, 2), secs(90));
}

#[test]
fn a_token_that_lands_after_the_revocations_failed_is_for_the_next_revoke() {
    let mut session = fresh();
    session.suspend(secs(3_100));
    session.ask();
    session.revoke();
    session.revocations_fail(&denied());
    assert!(session.waits(3), "the grant is still on the wire");
    assert_eq!(session.granted(secs(3_600)), "publish nothing; 3: failed");
    session.suspend(secs(30));
    assert_eq!(session.revoke(), "publish nothing; revoke t2; revoke t1");
}

// What grants are told

#[test]
fn the_next_grant_is_told_which_token_was_revoked() {
    let mut session = fresh();
    session.revoke();
    session.ask();
    session.suspend(secs(1));
    session.confirmed();
    assert_eq!(session.last_refused().as_deref(), Some("t1"));
}

#[test]
fn an_exchanged_token_is_never_the_one_that_a_grant_is_told_of() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.revoke();
    session.confirmed();
    session.exchanged(secs(3_600));
    session.suspend(secs(1));
    session.confirmed();
    assert_eq!(session.last_refused().as_deref(), Some("t1"));
}

#[test]
fn a_grant_that_a_revoke_overtook_is_told_of_to_the_next_one() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.revoke();
    session.granted(secs(3_600));
    session.suspend(secs(1));
    session.confirmed();
    assert_eq!(session.last_refused().as_deref(), Some("t1"));
}

#[test]
fn what_the_manager_has_learnt_of_its_server_counts_from_then_on() {
    let mut session = Session::with(|_| ());
    assert_eq!(session.revoke(), "1: revoked", "not known yet; and there is nothing to revoke");
    session.ask();
    session.can_revoke(false);
    session.granted(secs(3_600));
    assert_eq!(session.revoke(), "3: unsupported");
    assert_eq!(session.published_token(), Some("t1"), "nothing has changed");
    session.can_revoke(true);
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
}
