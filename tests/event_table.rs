//! The design's event table: a test for each cell, named after what it promises. The left column's
//! tests say `no_usable_token`, the right column's `usable_token`.
//!
//! A token of 60 s is stale after 28.5 s, held after 54 s, and over after 60 s.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use ccg_session::RefreshMode;
use machine::{Session, at_least, denied, millis, scope, secs, transient};

const MODES: [RefreshMode; 3] =
    [RefreshMode::WhileUsed, RefreshMode::OnRequest, RefreshMode::Always];

// Where a case begins. Its callers have the numbers that follow.

/// It has never held a token. (`Always` opens by itself: see the rows of the timer.)
fn empty(mode: RefreshMode) -> Session {
    Session::of(mode)
}

/// A caller (1) waits for the first token.
fn holding(mode: RefreshMode) -> Session {
    let mut session = empty(mode);
    assert_eq!(session.ask(), "publish nothing; grant #1");
    session
}

/// The first flight has been denied; the next may open in 30 s.
fn cooling(mode: RefreshMode) -> Session {
    let mut session = holding(mode);
    assert_eq!(session.grant_fails(denied()), "publish nothing; 1: failed");
    session
}

/// A token of 60 s, just arrived.
fn fresh(mode: RefreshMode) -> Session {
    let mut session = holding(mode);
    assert_eq!(session.granted(secs(60)), "publish t1; 1: t1");
    session
}

/// It is past its `stale_at`, and nobody has noticed.
fn stale(mode: RefreshMode) -> Session {
    let mut session = fresh(mode);
    session.suspend(millis(28_500));
    session
}

/// An attempt to replace the stale token (opened by caller 2) is on the wire.
fn refreshing(mode: RefreshMode) -> Session {
    let mut session = stale(mode);
    assert_eq!(session.ask(), "publish t1; grant #1; 2: t1");
    session
}

/// That attempt was denied: usable, but `not_before` is ahead.
fn stale_and_cooling(mode: RefreshMode) -> Session {
    let mut session = refreshing(mode);
    assert_eq!(session.grant_fails(denied()), "publish t1");
    session
}

/// The token is past its `hold_at`, and nobody has noticed.
fn unusable(mode: RefreshMode) -> Session {
    let mut session = fresh(mode);
    session.suspend(secs(54));
    session
}

/// The token is being revoked (by caller 2).
fn revoking(mode: RefreshMode) -> Session {
    let mut session = fresh(mode);
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
    session
}

/// A denied flight, and a barrier that caller 3 put up since: the exchanged token's request is on
/// the wire, so it stays up.
fn revoking_and_cooling() -> Session {
    let mut session = fresh(RefreshMode::WhileUsed);
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    session.suspend(millis(28_500));
    assert_eq!(session.ask(), "publish t1; grant #1; 3: t1");
    assert_eq!(session.grant_fails(denied()), "publish t1");
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
    session
}

// GetToken

#[test]
fn get_token_with_no_usable_token_and_not_before_ahead_gives_the_last_error() {
    for mode in MODES {
        assert_eq!(cooling(mode).ask(), "2: cooling");
    }
}

#[test]
fn get_token_with_no_usable_token_and_not_before_ahead_gives_the_last_error_behind_a_barrier_too() {
    assert_eq!(revoking_and_cooling().ask(), "5: cooling");
}

#[test]
fn get_token_with_no_usable_token_and_the_barrier_up_queues() {
    for mode in MODES {
        assert_eq!(revoking(mode).ask(), "nothing");
    }
}

#[test]
fn get_token_with_no_usable_token_and_a_flight_open_queues() {
    for mode in MODES {
        assert_eq!(holding(mode).ask(), "nothing");
    }
}

#[test]
fn get_token_with_no_usable_token_else_queues_and_opens() {
    for mode in MODES {
        assert_eq!(empty(mode).ask(), "publish nothing; grant #1");
        let mut session = unusable(mode);
        assert_eq!(session.ask(), "publish t1; grant #1");
        assert!(session.waits(2));
    }
}

#[test]
fn get_token_with_a_usable_token_gives_it() {
    for mode in MODES {
        assert_eq!(fresh(mode).ask(), "2: t1");
        assert_eq!(refreshing(mode).ask(), "3: t1");
        assert_eq!(stale_and_cooling(mode).ask(), "3: t1");
    }
}

#[test]
fn get_token_with_a_usable_token_of_too_little_life_queues_on_an_open_flight() {
    assert_eq!(refreshing(RefreshMode::WhileUsed).ask_with(at_least(secs(40))), "nothing");
}

#[test]
fn get_token_with_a_usable_token_of_too_little_life_opens_a_flight_that_may_open() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.suspend(secs(10));
    assert_eq!(session.ask_with(at_least(secs(52))), "publish t1; grant #1");
    assert!(session.waits(2));
}

#[test]
fn get_token_with_a_usable_token_of_too_little_life_gets_it_while_no_flight_may_open() {
    let mut session = stale_and_cooling(RefreshMode::WhileUsed);
    assert_eq!(session.ask_with(at_least(secs(40))), "3: t1");
}

// An exchange's need of a subject

#[test]
fn exchange_with_no_usable_token_and_not_before_ahead_gives_the_last_error() {
    for mode in MODES {
        assert_eq!(cooling(mode).exchange(scope("a")), "2: cooling");
    }
}

#[test]
fn exchange_with_no_usable_token_and_not_before_ahead_gives_the_last_error_behind_a_barrier_too() {
    assert_eq!(revoking_and_cooling().exchange(scope("b")), "5: cooling");
}

#[test]
fn exchange_with_no_usable_token_and_the_barrier_up_queues() {
    let mut session = revoking(RefreshMode::WhileUsed);
    assert_eq!(session.exchange(scope("a")), "nothing");
    assert!(session.waits(3));
}

#[test]
fn exchange_with_no_usable_token_and_a_flight_open_queues() {
    let mut session = holding(RefreshMode::WhileUsed);
    assert_eq!(session.exchange(scope("a")), "nothing");
    assert!(session.waits(2));
}

#[test]
fn exchange_with_no_usable_token_else_queues_and_opens() {
    for mode in MODES {
        assert_eq!(empty(mode).exchange(scope("a")), "publish nothing; grant #1");
        assert_eq!(unusable(mode).exchange(scope("a")), "publish t1; grant #1");
    }
}

#[test]
fn exchange_with_a_usable_token_is_sent_at_once() {
    for mode in MODES {
        assert_eq!(fresh(mode).exchange(scope("a")), "exchange #1 of t1");
        assert_eq!(refreshing(mode).exchange(scope("a")), "exchange #1 of t1");
        assert_eq!(stale_and_cooling(mode).exchange(scope("a")), "exchange #1 of t1");
    }
}

#[test]
fn exchange_with_a_usable_token_of_too_little_life_queues_on_a_flight_that_is_open_or_may_open() {
    let request = scope("a").options(at_least(secs(52)));
    let mut session = refreshing(RefreshMode::WhileUsed);
    assert_eq!(session.exchange(request.clone()), "nothing");
    let mut session = fresh(RefreshMode::WhileUsed);
    session.suspend(secs(10));
    assert_eq!(session.exchange(request), "publish t1; grant #1");
    assert!(session.waits(2));
}

#[test]
fn exchange_with_a_usable_token_of_too_little_life_takes_it_while_no_flight_may_open() {
    let mut session = stale_and_cooling(RefreshMode::WhileUsed);
    let request = scope("a").options(at_least(secs(40)));
    assert_eq!(session.exchange(request), "exchange #1 of t1");
}

// Asked

#[test]
fn asked_with_no_usable_token_opens_if_it_may_open() {
    for mode in MODES {
        assert_eq!(empty(mode).asked(), "publish nothing; grant #1");
        assert_eq!(unusable(mode).asked(), "publish t1; grant #1");
    }
}

#[test]
fn asked_with_no_usable_token_does_nothing_if_none_may_open() {
    for mode in MODES {
        assert_eq!(cooling(mode).asked(), "nothing");
        assert_eq!(holding(mode).asked(), "nothing");
        assert_eq!(revoking(mode).asked(), "nothing");
    }
}

#[test]
fn asked_with_a_usable_token_before_ask_at_does_nothing() {
    for mode in MODES {
        assert_eq!(fresh(mode).asked(), "nothing");
        assert_eq!(stale_and_cooling(mode).asked(), "nothing");
        assert_eq!(refreshing(mode).asked(), "nothing");
    }
}

#[test]
fn asked_with_a_usable_token_past_ask_at_opens() {
    for mode in MODES {
        assert_eq!(stale(mode).asked(), "publish t1; grant #1");
        let mut session = stale_and_cooling(mode);
        session.suspend(secs(30));
        assert_eq!(session.asked(), "publish t1; grant #1");
    }
}

// `ask_at` passed, no caller

#[test]
fn ask_at_passed_with_no_usable_token_opens_when_always_and_warm() {
    assert_eq!(empty(RefreshMode::Always).timer(), "publish nothing; grant #1");
    assert_eq!(unusable(RefreshMode::Always).timer(), "publish t1; grant #1");
    assert_eq!(cooling(RefreshMode::Always).pass(secs(30)), "publish nothing; grant #1");
}

#[test]
fn ask_at_passed_with_no_usable_token_opens_nothing_in_other_modes() {
    for mode in [RefreshMode::WhileUsed, RefreshMode::OnRequest] {
        assert_eq!(empty(mode).timer(), "nothing");
        let mut session = unusable(mode);
        session.suspend(secs(60));
        assert_eq!(session.timer(), "nothing");
        assert_eq!(cooling(mode).pass(secs(60)), "nothing");
    }
}

#[test]
fn ask_at_passed_with_no_usable_token_opens_nothing_once_a_revoke_has_cleared_warm() {
    let mut session = revoking(RefreshMode::Always);
    assert_eq!(session.confirmed(), "publish nothing; 2: revoked");
    assert_eq!(session.pass(secs(3_600)), "nothing");
}

#[test]
fn any_caller_makes_an_always_session_warm_again() {
    let mut session = revoking(RefreshMode::Always);
    session.confirmed();
    session.ask();
    session.pass(secs(1));
    session.granted(secs(60));
    assert_eq!(session.pass(secs(30)), "publish t2; grant #1");
}

#[test]
fn ask_at_passed_with_a_usable_token_opens_when_always() {
    assert_eq!(fresh(RefreshMode::Always).pass(secs(28)), "nothing");
    assert_eq!(fresh(RefreshMode::Always).pass(millis(28_500)), "publish t1; grant #1");
    assert_eq!(stale_and_cooling(RefreshMode::Always).pass(secs(30)), "publish t1; grant #1");
}

#[test]
fn ask_at_passed_with_a_usable_token_opens_when_while_used_and_used() {
    let mut session = fresh(RefreshMode::WhileUsed);
    assert_eq!(session.read(), "fast: t1");
    assert_eq!(session.pass(millis(28_499)), "nothing");
    assert_eq!(session.pass(millis(1)), "publish t1; grant #1");
}

#[test]
fn a_caller_that_asked_the_actor_has_used_the_token() {
    let mut session = fresh(RefreshMode::WhileUsed);
    assert_eq!(session.ask_with(at_least(secs(5))), "2: t1");
    assert_eq!(session.pass(secs(30)), "publish t1; grant #1");
    let mut session = fresh(RefreshMode::WhileUsed);
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    assert_eq!(session.exchanged(secs(60)), "2: x1");
    assert_eq!(session.pass(secs(30)), "publish t1; grant #1");
}

#[test]
fn ask_at_passed_with_a_usable_token_that_nobody_used_opens_nothing() {
    assert_eq!(fresh(RefreshMode::WhileUsed).pass(secs(3_600)), "nothing");
}

#[test]
fn use_of_an_earlier_snapshot_is_no_use_of_this_one() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.read();
    assert_eq!(session.pass(secs(30)), "publish t1; grant #1");
    assert_eq!(session.granted(secs(60)), "publish t2");
    assert_eq!(session.pass(secs(3_600)), "nothing");
}

#[test]
fn ask_at_passed_with_a_usable_token_opens_nothing_on_request() {
    let mut session = fresh(RefreshMode::OnRequest);
    session.read();
    session.ask();
    assert_eq!(session.pass(secs(29)), "nothing");
    assert_eq!(session.read(), "fast: t1; publish t1; grant #1");
}

// The grant attempt ends

#[test]
fn grant_success_is_stored_and_given_to_all_who_wait() {
    let mut session = holding(RefreshMode::WhileUsed);
    session.ask();
    assert_eq!(session.granted(secs(60)), "publish t1; 1: t1; 2: t1");
    assert_eq!(session.published_token(), Some("t1"));
}

#[test]
fn grant_success_with_a_usable_token_replaces_it_and_is_given_to_all_who_wait() {
    let mut session = refreshing(RefreshMode::WhileUsed);
    session.ask_with(at_least(secs(40)));
    assert_eq!(session.granted(secs(60)), "publish t2; 3: t2");
}

#[test]
fn grant_success_after_a_revoke_goes_to_the_ledger_and_callers_stay_held() {
    let mut session = holding(RefreshMode::WhileUsed);
    assert_eq!(session.revoke(), "nothing");
    assert_eq!(session.granted(secs(60)), "revoke t1");
    assert!(session.waits(1));
    session.pass(secs(2));
    assert_eq!(session.confirmed(), "grant #1; 2: revoked");
    assert_eq!(session.granted(secs(60)), "publish t2; 1: t2");
}

#[test]
fn grant_failure_with_no_usable_token_keeps_callers_held_while_the_flight_goes_on() {
    let mut session = holding(RefreshMode::WhileUsed);
    assert_eq!(session.grant_fails(transient()), "nothing");
    assert_eq!(session.pass(secs(1)), "grant #2");
    assert!(session.waits(1));
}

#[test]
fn flight_failure_with_no_usable_token_gives_the_error_to_all() {
    let mut session = holding(RefreshMode::WhileUsed);
    session.ask();
    assert_eq!(session.exchange(scope("a")), "nothing");
    assert_eq!(session.grant_fails(denied()), "publish nothing; 1: failed; 2: failed; 3: failed");
}

#[test]
fn grant_failure_with_a_usable_token_gives_it_to_all_who_wait_whatever_they_asked_for() {
    let mut session = refreshing(RefreshMode::WhileUsed);
    session.ask_with(at_least(secs(40)));
    session.ask_with(at_least(secs(50)));
    assert_eq!(session.grant_fails(transient()), "publish t1; 3: t1; 4: t1");
}

#[test]
fn grant_failure_makes_a_token_usable_that_was_held_and_all_who_wait_get_it() {
    let mut session = unusable(RefreshMode::WhileUsed);
    session.ask();
    session.ask();
    assert_eq!(session.grant_fails(transient()), "publish t1; 2: t1; 3: t1");
}

// Invalidate

#[test]
fn invalidate_of_the_token_held_drops_it_usable_or_not() {
    for situation in [fresh, stale, refreshing, stale_and_cooling, unusable] {
        for mode in [RefreshMode::WhileUsed, RefreshMode::OnRequest] {
            let mut session = situation(mode);
            assert_eq!(session.invalidate("t1"), "publish nothing");
        }
    }
}

#[test]
fn an_invalidated_token_stays_in_the_ledger() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.invalidate("t1");
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
}

#[test]
fn invalidate_within_10_s_of_an_honoured_one_only_clears_the_doubt() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.invalidate("t1");
    session.ask();
    session.pass(secs(1));
    session.granted(secs(60));
    let doubts = session.published.token.as_ref().map(|token| token.doubts_dismissed);
    assert_eq!(session.invalidate("t2"), "publish t2");
    let after = session.published.token.as_ref().map(|token| token.doubts_dismissed);
    assert!(after > doubts, "{doubts:?} {after:?}");
    assert_eq!(session.ask(), "3: t2");
}

#[test]
fn invalidate_of_an_unusable_token_within_10_s_of_an_honoured_one_does_not_drop_it_either() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.invalidate("t1");
    session.ask();
    session.pass(secs(1));
    session.granted(secs(5));
    session.suspend(millis(4_600));
    assert_eq!(session.invalidate("t2"), "publish t2");
}

// Revoke

#[test]
fn revoke_with_no_token_at_all_ends_at_once() {
    for mode in [RefreshMode::WhileUsed, RefreshMode::OnRequest] {
        assert_eq!(empty(mode).revoke(), "1: revoked");
        assert_eq!(cooling(mode).revoke(), "2: revoked");
    }
}

#[test]
fn revoke_drops_the_token_held_usable_or_not_and_puts_the_barrier_up() {
    for situation in [fresh, stale, stale_and_cooling, unusable] {
        for mode in MODES {
            let mut session = situation(mode);
            assert_eq!(session.revoke(), "publish nothing; revoke t1");
            assert_eq!(session.ask_at(), None, "the barrier is up");
        }
    }
}

#[test]
fn revoke_drops_all_exchanged_tokens_and_marks_the_whole_ledger() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.exchange(scope("a"));
    session.exchanged(secs(50));
    session.exchange(scope("b"));
    session.exchanged(secs(55));
    assert_eq!(session.revoke(), "publish nothing; revoke x1; revoke x2; revoke t1");
    session.suspend(secs(1));
    assert_eq!(session.exchange(scope("a")), "nothing");
    assert_eq!(session.confirmed(), "grant #1; 4: revoked");
    assert_eq!(session.granted(secs(60)), "publish t2; exchange #1 of t2");
}

// The barrier ends

#[test]
fn the_barriers_end_answers_the_revokes_and_opens_nothing_for_nobody() {
    let mut session = revoking(RefreshMode::WhileUsed);
    session.revoke();
    session.pass(secs(1));
    assert_eq!(session.confirmed(), "publish nothing; 2: revoked; 3: revoked");
}

#[test]
fn the_barriers_end_opens_for_callers_who_wait() {
    let mut session = revoking(RefreshMode::WhileUsed);
    session.ask();
    session.pass(secs(1));
    assert_eq!(session.confirmed(), "grant #1; 2: revoked");
}

#[test]
fn the_barriers_end_lets_the_flight_go_on_that_waited() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.invalidate("t1");
    session.suspend(secs(1));
    assert_eq!(session.ask(), "publish nothing; grant #1");
    assert_eq!(session.grant_fails(transient()), "nothing");
    assert_eq!(session.revoke(), "revoke t1");
    assert_eq!(session.pass(secs(1)), "nothing", "the next attempt is due, but the barrier is up");
    assert_eq!(session.confirmed(), "grant #2; 3: revoked");
}

// Left

#[test]
fn left_is_forgotten_and_its_flight_goes_on() {
    let mut session = holding(RefreshMode::WhileUsed);
    session.ask();
    assert_eq!(session.leave(1), "nothing");
    assert_eq!(session.machine.held_callers(), 1);
    assert_eq!(session.granted(secs(60)), "publish t1; 2: t1");
}

#[test]
fn left_while_a_usable_token_is_held_is_forgotten_too() {
    let mut session = refreshing(RefreshMode::WhileUsed);
    session.ask_with(at_least(secs(50)));
    assert_eq!(session.leave(3), "nothing");
    assert_eq!(session.granted(secs(60)), "publish t2");
}

#[test]
fn an_exchange_and_a_revoke_are_forgotten_when_they_have_left() {
    let mut session = fresh(RefreshMode::WhileUsed);
    session.exchange(scope("a"));
    session.revoke();
    assert_eq!(session.machine.held_callers(), 2);
    assert_eq!(session.leave(2), "nothing");
    assert_eq!(session.leave(3), "nothing");
    assert_eq!(session.machine.held_callers(), 0);
    assert_eq!(session.exchange_fails(denied()), "nothing");
}

#[test]
fn left_of_one_who_has_been_answered_changes_nothing() {
    let mut session = fresh(RefreshMode::WhileUsed);
    assert_eq!(session.leave(1), "nothing");
    assert_eq!(session.ask(), "2: t1");
}

// The end

#[test]
fn shutdown_publishes_closed_and_answers_all_who_wait() {
    for mode in MODES {
        assert_eq!(holding(mode).shutdown(), "publish closed; 1: closed");
        assert_eq!(fresh(mode).shutdown(), "publish closed");
        let mut session = revoking(mode);
        session.ask();
        session.exchange(scope("a"));
        assert_eq!(session.shutdown(), "publish closed; 3: closed; 4: closed; 2: closed");
        assert_eq!(session.deadline(), None);
    }
}

#[test]
fn after_shutdown_everybody_is_told_closed_and_nothing_is_sent() {
    let mut session = holding(RefreshMode::Always);
    session.shutdown();
    assert_eq!(session.granted(secs(60)), "nothing");
    assert_eq!(session.ask(), "2: closed");
    assert_eq!(session.exchange(scope("a")), "3: closed");
    assert_eq!(session.revoke(), "4: closed");
    assert_eq!(session.asked(), "nothing");
    assert_eq!(session.timer(), "nothing");
    assert_eq!(session.shutdown(), "nothing");
}
