//! The rules that the event table rests on, apart from those with a file of their own: 1 and 2 in
//! `storms.rs`, 5 in `revoke_barrier.rs`.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use ccg_session::testing::internals::Warning;
use ccg_session::{SessionError, TokenRequestOptions};
use machine::{Session, at_least, denied, from_ip, millis, scope, secs, transient};

/// How many tokens the ledger holds.
const LEDGER: usize = 4_096;

/// A token of an hour is held.
fn fresh() -> Session {
    fresh_for(3_600)
}

fn fresh_for(life: u64) -> Session {
    let mut session = Session::with(|_| ());
    session.ask();
    assert_eq!(session.granted(secs(life)), "publish t1; 1: t1");
    session
}

/// x1 was exchanged ten seconds ago, less this.
fn exchanged_almost_10_s_ago(less: u64) -> Session {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.exchanged(secs(600));
    session.suspend(millis(10_000 - less));
    session
}

// Rule 3: Invalidate names a generation

#[test]
fn an_older_generation_is_ignored() {
    let mut session = fresh();
    session.suspend(secs(3_000));
    session.ask();
    session.granted(secs(3_600));
    assert_eq!(session.invalidate("t1"), "nothing");
    assert_eq!(session.read(), "fast: t2");
}

#[test]
fn another_sessions_token_of_the_same_generation_is_ignored() {
    let mut other = Session::numbered(8);
    other.ask();
    other.granted(secs(60));
    let mut session = fresh();
    assert_eq!(session.id("t1").generation(), 1);
    assert_eq!(session.invalidate_id(other.id("t1")), "nothing");
}

#[test]
fn the_second_of_two_invalidations_of_one_token_is_ignored() {
    let mut session = fresh();
    assert_eq!(session.invalidate("t1"), "publish nothing");
    assert_eq!(session.invalidate("t1"), "nothing");
}

#[test]
fn ten_seconds_after_an_honoured_invalidate_the_next_is_honoured() {
    let mut session = fresh();
    session.invalidate("t1");
    session.ask();
    session.pass(secs(1));
    session.granted(secs(3_600));
    session.suspend(millis(8_999));
    assert_eq!(session.invalidate("t2"), "publish t2");
    session.suspend(millis(1));
    assert_eq!(session.invalidate("t2"), "publish nothing");
}

#[test]
fn an_invalidate_that_was_not_honoured_does_not_prolong_the_10_s() {
    let mut session = fresh();
    session.invalidate("t1");
    session.ask();
    session.pass(secs(1));
    session.granted(secs(3_600));
    for _ in 0..9 {
        assert_eq!(session.invalidate("t2"), "publish t2");
        session.suspend(secs(1));
    }
    assert_eq!(session.invalidate("t2"), "publish nothing");
}

#[test]
fn the_next_grant_is_told_which_token_was_refused() {
    let mut session = fresh();
    session.suspend(secs(1));
    session.invalidate("t1");
    session.ask();
    assert_eq!(session.last_refused().as_deref(), Some("t1"));
    let mut session = Session::with(|_| ());
    session.ask();
    assert_eq!(session.last_refused(), None);
}

#[test]
fn an_exchanged_token_that_is_refused_leaves_the_cache_and_nothing_else_does() {
    let mut session = exchanged_almost_10_s_ago(0);
    session.exchange(scope("b"));
    session.exchanged(secs(600));
    assert_eq!(session.invalidate("x1"), "nothing");
    assert_eq!(session.exchange(scope("b")), "4: x2");
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    assert_eq!(session.read(), "fast: t1");
}

#[test]
fn an_exchanged_token_younger_than_10_s_stays() {
    let mut session = exchanged_almost_10_s_ago(1);
    session.invalidate("x1");
    assert_eq!(session.exchange(scope("a")), "3: x1");
}

#[test]
fn a_refused_exchanged_token_stays_in_the_ledger() {
    let mut session = exchanged_almost_10_s_ago(0);
    session.invalidate("x1");
    assert_eq!(session.revoke(), "publish nothing; revoke x1; revoke t1");
}

#[test]
fn one_counter_serves_both_kinds_of_tokens() {
    let session = exchanged_almost_10_s_ago(0);
    assert_eq!((session.id("t1").generation(), session.id("x1").generation()), (1, 2));
}

// Rule 4: the ledger

#[test]
fn every_token_that_was_received_is_revoked_until_it_expires() {
    let mut session = fresh_for(600);
    session.exchange(scope("a"));
    session.exchanged(secs(500));
    session.suspend(secs(320));
    session.ask();
    session.granted(secs(3_600));
    session.suspend(secs(1));
    session.invalidate("t2");
    assert_eq!(session.revoke(), "publish nothing; revoke x1; revoke t1; revoke t2");
}

#[test]
fn expired_tokens_are_not_sent() {
    let mut session = fresh_for(60);
    session.exchange(scope("a"));
    session.exchanged(secs(20));
    session.suspend(secs(20));
    assert_eq!(session.revoke(), "publish nothing; revoke t1");
}

#[test]
fn a_token_that_is_dead_for_callers_may_be_alive_for_others_and_is_revoked() {
    let mut session = fresh();
    session.suspend(secs(3_000));
    session.ask();
    session.suspend(secs(6));
    session.granted(secs(5));
    assert_eq!(session.revoke(), "publish nothing; revoke t2; revoke t1");
}

#[test]
fn a_token_that_comes_twice_is_sent_once_and_its_later_expiry_counts() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted_as("same", secs(3_600));
    session.suspend(secs(3_000));
    session.ask();
    session.granted_as("same", secs(60));
    session.suspend(secs(300));
    assert_eq!(session.revoke(), "publish nothing; revoke same");
    assert_eq!(session.revocations().len(), 1);
}

#[test]
fn a_marked_token_that_is_granted_again_is_a_failed_attempt() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted_as("same", secs(3_600));
    session.revoke();
    session.confirmed();
    session.suspend(secs(1));
    session.ask();
    assert_eq!(session.granted_as("same", secs(3_600)), "nothing");
    assert_eq!(session.pass(millis(125)), "grant #2");
    session.granted_as("same", secs(3_600));
    session.pass(millis(250));
    assert_eq!(session.granted_as("same", secs(3_600)), "publish nothing; 3: failed");
}

#[test]
fn a_marked_token_that_an_exchange_gives_is_a_failed_attempt() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.exchanged_as("same", secs(3_600));
    session.revoke();
    session.confirmed();
    session.suspend(secs(1));
    session.exchange(scope("a"));
    session.granted(secs(3_600));
    assert_eq!(session.exchanged_as("same", secs(3_600)), "nothing");
    assert_eq!(session.pass(millis(125)), "exchange #2 of t2");
    assert_eq!(session.exchanged(secs(3_600)), "4: x1");
}

#[test]
fn a_marked_token_that_was_not_confirmed_is_a_failed_attempt_too() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted_as("same", secs(3_600));
    session.revoke();
    session.revocations_fail(&denied());
    session.suspend(secs(1));
    session.ask();
    assert_eq!(session.granted_as("same", secs(3_600)), "nothing");
}

/// The ledger is full of exchanged tokens of ten hours, and the session's own expires first.
fn full_ledger() -> Session {
    let mut session = fresh();
    session.check_idle = false;
    for name in 1..LEDGER {
        session.exchange(scope(&name.to_string()));
        session.exchanged(secs(36_000 + name as u64));
    }
    assert!(session.warnings.is_empty());
    session
}

#[test]
fn beyond_4096_tokens_the_first_to_expire_leaves_the_ledger_with_a_warning() {
    let mut session = full_ledger();
    session.exchange(scope("one more"));
    let said = session.exchanged(secs(72_000));
    assert_eq!(session.warnings, [Warning::LedgerOverflow(session.id("x1"))]);
    let lost = "warn: more live tokens than a revoke can reach: \
        TokenId { session: 7, generation: 2 } will live until it expires";
    assert!(said.ends_with(lost), "{said}");
    session.revoke();
    session.all_succeed(secs(1));
    let sent = session.revoked_names();
    assert_eq!(sent.len(), LEDGER);
    assert!(sent.contains("t1"), "the session's own stays, though it expires first");
    assert!(!sent.contains("x1"));
}

#[test]
fn a_token_that_comes_again_takes_no_place() {
    let mut session = full_ledger();
    session.exchange(scope("one more"));
    session.exchanged_as("x7", secs(72_000));
    assert!(session.warnings.is_empty());
}

// Rule 6: min_remaining

#[test]
fn min_remaining_is_served_from_what_is_left() {
    let mut session = fresh_for(100);
    session.suspend(secs(40));
    assert_eq!(session.ask_with(at_least(secs(60))), "2: t1");
    assert_eq!(session.ask_with(at_least(secs(61))), "publish t1; grant #1");
}

#[test]
fn min_remaining_counts_as_at_most_nine_tenths_of_the_life() {
    let mut session = fresh_for(100);
    session.suspend(secs(10));
    assert_eq!(session.ask_with(at_least(secs(3_600))), "2: t1");
    session.suspend(millis(1));
    assert_eq!(session.ask_with(at_least(secs(3_600))), "publish t1; grant #1");
}

#[test]
fn min_remaining_waits_for_one_attempt_that_ends_and_takes_the_usable_token_there_is() {
    let mut session = fresh_for(100);
    session.suspend(secs(20));
    session.ask_with(at_least(secs(90)));
    assert_eq!(session.pass(secs(10)), "publish t1; 2: t1");
    let mut session = fresh_for(100);
    session.suspend(secs(20));
    session.ask_with(at_least(secs(90)));
    assert_eq!(session.granted(secs(50)), "publish t2; 2: t2", "less than it had asked for");
}

#[test]
fn min_remaining_never_makes_an_error_of_a_usable_token() {
    let mut session = fresh_for(100);
    session.suspend(secs(20));
    session.ask_with(at_least(secs(90)));
    assert_eq!(session.grant_fails(denied()), "publish t1; 2: t1");
    assert_eq!(session.ask_with(at_least(secs(90))), "3: t1");
}

#[test]
fn min_remaining_does_not_outlive_the_token() {
    let mut session = fresh_for(5);
    session.suspend(secs(4));
    session.ask_with(at_least(secs(4)));
    session.suspend(secs(1));
    assert_eq!(session.grant_fails(denied()), "publish t1; 2: failed");
}

// Rule 7: ip

#[test]
fn ip_decides_nothing_about_a_token_that_is_there() {
    let mut session = fresh();
    assert_eq!(session.ask_with(from_ip(1)), "2: t1");
    session.exchange(scope("a").options(from_ip(1)));
    session.exchanged(secs(60));
    assert_eq!(session.exchange(scope("a").options(from_ip(2))), "4: x1");
}

#[test]
fn the_options_of_a_refresh_do_not_stick() {
    let mut session = Session::with(|_| ());
    session.ask_with(from_ip(1));
    session.granted(secs(60));
    session.suspend(secs(60));
    session.ask();
    assert_eq!(session.last_options(), TokenRequestOptions::new());
}

// Rule 8: max_held

fn crowded(change: impl FnOnce(&mut Session)) -> Session {
    let mut session = Session::with(|config| config.max_held = 2);
    change(&mut session);
    assert_eq!(session.machine.held_callers(), 2);
    session
}

#[test]
fn above_max_held_callers_are_told_overloaded() {
    let mut session = crowded(|session| {
        session.ask();
        session.ask();
    });
    assert_eq!(session.ask(), "3: overloaded");
    assert_eq!(session.exchange(scope("a")), "4: overloaded");
    assert_eq!(session.revoke(), "5: overloaded");
    assert_eq!(session.granted(secs(60)), "publish t1; 1: t1; 2: t1");
    assert_eq!(session.ask(), "6: t1");
}

#[test]
fn gets_exchanges_and_revokes_count_together() {
    let mut session = crowded(|session| {
        session.exchange(scope("a"));
        session.revoke();
    });
    assert_eq!(session.ask(), "3: overloaded");
    let mut session = crowded(|session| {
        session.ask();
        session.exchange(scope("a"));
    });
    assert_eq!(session.exchange(scope("a")), "3: overloaded");
}

#[test]
fn one_who_leaves_makes_room() {
    let mut session = crowded(|session| {
        session.ask();
        session.ask();
    });
    session.leave(1);
    assert_eq!(session.ask(), "nothing");
}

#[test]
fn above_max_held_an_unexpired_token_is_given_where_there_is_one() {
    let mut session = crowded(|session| {
        session.ask();
        session.granted(secs(60));
        session.suspend(secs(54));
        session.ask();
        session.ask();
    });
    assert_eq!(session.ask(), "4: t1");
    session.suspend(secs(6));
    assert_eq!(session.ask(), "5: overloaded");
}

#[test]
fn above_max_held_an_unexpired_exchanged_token_is_given_where_there_is_one() {
    let mut session = crowded(|session| {
        session.ask();
        session.granted(secs(3_600));
        session.exchange(scope("a"));
        session.exchanged(secs(100));
        session.suspend(secs(90));
        session.exchange(scope("b"));
        session.exchange(scope("c"));
    });
    assert_eq!(session.exchange(scope("a")), "5: x1");
    session.suspend(secs(10));
    assert_eq!(session.exchange(scope("a")), "6: overloaded");
}

#[test]
fn a_crowd_does_not_keep_those_away_who_need_not_wait() {
    let mut session = crowded(|session| {
        session.ask();
        session.granted(secs(3_600));
        session.exchange(scope("a"));
        session.exchange(scope("b"));
    });
    assert_eq!(session.ask(), "4: t1");
    assert_eq!(session.exchange_fails(transient()), "nothing");
}

#[test]
fn a_revoke_above_max_held_changes_nothing() {
    let mut session = crowded(|session| {
        session.ask();
        session.granted(secs(3_600));
        session.exchange(scope("a"));
        session.exchange(scope("b"));
    });
    assert_eq!(session.revoke(), "4: overloaded");
    assert!(matches!(session.error_of(4), SessionError::Overloaded));
    assert_eq!(session.read(), "fast: t1");
}

#[test]
fn a_held_caller_is_answered_at_the_end_of_its_flight_however_many_revokes_come() {
    let mut session = Session::with(|_| ());
    session.ask();
    for _ in 0..20 {
        session.revoke();
        session.all_succeed(secs(60));
        session.pass(secs(1));
    }
    session.all_succeed(secs(60));
    assert!(!session.waits(1));
}
