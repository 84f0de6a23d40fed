//! Exchanged tokens: the key, the cache and its bound, the subject and its end.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use ccg_session::testing::internals::Request;
use ccg_session::{Actor, ExchangeRequest, SessionError, TokenError};
use machine::{Session, at_least, denied, from_ip, millis, scope, secs, transient};

/// A token of an hour is held.
fn fresh() -> Session {
    fresh_with(1_024)
}

fn fresh_with(capacity: usize) -> Session {
    let mut session = Session::with(|config| config.exchange_capacity = capacity);
    session.ask();
    assert_eq!(session.granted(secs(3_600)), "publish t1; 1: t1");
    session
}

/// x1 has been exchanged, too.
fn cached() -> Session {
    let mut session = fresh();
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    assert_eq!(session.exchanged(secs(600)), "2: x1");
    session
}

/// x1 of t1 has been exchanged, and t1 is too old for an `Invalidate` to be doubted.
fn refused(error: TokenError) -> (Session, String) {
    let mut session = fresh();
    session.suspend(secs(20));
    session.exchange(scope("a"));
    let said = session.exchange_fails(error);
    (session, said)
}

fn subject_refused() -> TokenError {
    TokenError::denied("invalid_grant", "")
}

// Cache and flight

#[test]
fn an_exchange_never_changes_the_sessions_own_token() {
    let mut session = cached();
    assert_eq!(session.published_token(), Some("t1"));
    assert_eq!(session.ask(), "3: t1");
}

#[test]
fn an_exchanged_token_is_cached_until_its_own_hold_at() {
    let mut session = cached();
    session.suspend(millis(569_999));
    assert_eq!(session.exchange(scope("a")), "3: x1");
    session.suspend(millis(1));
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
}

#[test]
fn an_exchanged_token_past_its_own_hold_at_goes_to_those_who_waited_for_it() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.suspend(millis(9_500));
    assert_eq!(session.exchanged(secs(10)), "2: x1");
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
}

#[test]
fn there_is_one_flight_per_key_and_all_who_joined_share_its_end() {
    let mut session = fresh();
    session.exchange(scope("a"));
    assert_eq!(session.exchange(scope("a")), "nothing");
    assert_eq!(session.exchange(scope("b")), "exchange #1 of t1");
    assert_eq!(session.exchanged(secs(60)), "2: x1; 3: x1");
    assert_eq!(session.exchanged(secs(60)), "4: x2");
}

#[test]
fn an_exchange_flight_follows_the_policy_of_all_flights() {
    let mut session = fresh();
    session.exchange(scope("a"));
    assert_eq!(
        session.pass(secs(60)),
        "exchange #2 of t1; exchange #3 of t1; 2: failed",
        "three attempts that hang"
    );
    let mut session = fresh();
    session.exchange(scope("a"));
    assert_eq!(session.exchange_fails(denied()), "2: failed");
    assert_eq!(session.exchange(scope("a")), "3: cooling");
    assert_eq!(session.error_of(3).retry_after(), Some(secs(30)));
    assert_eq!(session.exchange(scope("b")), "exchange #1 of t1", "other keys are no worse for it");
    session.exchanged(secs(60));
    session.pass(secs(30));
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    assert_eq!(session.exchange_fails(transient()), "5: failed", "a probe");
}

#[test]
fn a_failed_exchange_is_no_failure_of_the_sessions_own_token() {
    let (mut session, said) = refused(denied());
    assert_eq!(said, "2: failed");
    assert_eq!(session.read(), "fast: t1");
}

#[test]
fn an_exchange_flight_is_not_ended_by_its_callers_leaving() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.leave(2);
    assert_eq!(session.exchanged(secs(60)), "nothing");
    assert_eq!(session.exchange(scope("a")), "3: x1");
}

#[test]
fn an_exchange_that_is_on_the_wire_is_joined_though_no_grant_may_start() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.invalidate("t1");
    session.ask();
    session.pass(secs(1));
    assert_eq!(session.grant_fails(denied()), "publish nothing; 3: failed");
    assert_eq!(session.exchange(scope("b")), "4: cooling");
    assert_eq!(session.exchange(scope("a")), "nothing");
    assert_eq!(session.exchanged(secs(60)), "2: x1; 5: x1");
}

#[test]
fn a_manager_without_exchange_answers_unsupported() {
    assert_eq!(Session::bare().exchange(scope("a")), "1: unsupported");
}

// The key

#[test]
fn requests_that_would_give_the_same_token_share_it() {
    let resources = || scope("a").resource("r").resource("s");
    let same = [
        (ExchangeRequest::scopes(["a", "b"]), ExchangeRequest::scopes(["b", "a", "b"])),
        (resources(), resources().resource("r")),
        (scope("a").audience("x"), scope("a").audience("x").audience("x")),
        (scope("a").param("k", "1").param("l", "2"), scope("a").param("l", "2").param("k", "1")),
        (scope("a").options(from_ip(1)), scope("a").options(from_ip(2))),
        (scope("a"), scope("a").options(at_least(secs(9)))),
        (scope("a").actor(Actor::new("1", "Ada")), scope("a").actor(Actor::new("1", "Ada"))),
    ];
    for (first, second) in same {
        let mut session = fresh();
        session.exchange(first.clone());
        assert_eq!(session.exchange(second.clone()), "nothing", "{first:?} {second:?}");
    }
}

#[test]
fn requests_that_would_give_another_token_do_not() {
    let different = [
        scope("a"),
        scope("b"),
        scope("a b"),
        ExchangeRequest::scopes(["a", "b"]),
        ExchangeRequest::scopes(Vec::<String>::new()),
        scope("a").resource("r"),
        scope("a").resource("r").resource("s"),
        scope("a").resource("s").resource("r"),
        scope("a").audience("r"),
        scope("a").audience("r").audience("s"),
        scope("a").actor(Actor::new("1", "Ada")),
        scope("a").actor(Actor::new("2", "Ada")),
        scope("a").actor(Actor::new("1", "Bob")),
        scope("a").shared_link("r"),
        scope("a").requested_token_type("r"),
        scope("a").param("r", "s"),
        scope("a").param("s", "r"),
        scope("a").param("r", "s").param("r", "s"),
    ];
    let mut session = fresh();
    for request in different {
        assert_eq!(session.exchange(request.clone()), "exchange #1 of t1", "{request:?}");
    }
}

#[test]
fn the_wire_keeps_the_callers_order() {
    let mut session = fresh();
    let request = ExchangeRequest::scopes(["b", "a"]).param("z", "1").param("y", "2");
    session.exchange(request.clone());
    let Request::Exchange(_, _, sent) = &session.on_wire()[0].request else { panic!("a grant") };
    assert_eq!(format!("{sent:?}"), format!("{request:?}"));
}

#[test]
fn an_exchanges_options_go_with_it() {
    let mut session = fresh();
    let request = scope("a").options(from_ip(1));
    session.exchange(request.clone());
    let Request::Exchange(_, _, sent) = &session.on_wire()[0].request else { panic!("a grant") };
    assert_eq!(format!("{sent:?}"), format!("{request:?}"));
}

// The bound

#[test]
fn beyond_the_capacity_the_first_to_expire_goes() {
    let mut session = fresh_with(2);
    for (name, life) in [("a", 600), ("b", 500), ("c", 700)] {
        session.exchange(scope(name));
        session.exchanged(secs(life));
    }
    assert_eq!(session.exchange(scope("a")), "5: x1");
    assert_eq!(session.exchange(scope("c")), "6: x3");
    assert_eq!(session.exchange(scope("b")), "exchange #1 of t1");
}

/// It used to be the first to go, and then each call was a request.
#[test]
fn a_key_that_was_refused_cools_beside_a_full_cache_and_without_one() {
    for capacity in [0, 1] {
        let mut session = fresh_with(capacity);
        session.exchange(scope("a"));
        session.exchanged(secs(600));
        session.exchange(scope("b"));
        assert_eq!(session.exchange_fails(denied()), "3: failed");
        session.exchange(scope("c"));
        assert_eq!(session.exchange_fails(denied()), "4: failed");
        assert_eq!(session.exchange(scope("b")), "5: cooling");
        assert_eq!(session.exchange(scope("c")), "6: cooling");
        let said = if capacity == 0 { "exchange #1 of t1" } else { "7: x1" };
        assert_eq!(session.exchange(scope("a")), said, "no failure takes a token's room");
    }
}

#[test]
fn of_more_than_1024_keys_that_failed_the_first_to_end_goes() {
    let mut session = fresh_with(0);
    session.check_idle = false;
    session.exchange(scope("first"));
    session.exchange_fails(denied());
    session.suspend(millis(1));
    for key in 0..1_024 {
        session.exchange(scope(&key.to_string()));
        session.exchange_fails(denied());
    }
    assert!(session.exchange(scope("0")).ends_with(": cooling"));
    assert_eq!(session.exchange(scope("first")), "exchange #1 of t1");
}

#[test]
fn a_key_that_made_attempts_is_not_forgotten_for_one_that_made_none() {
    let mut session = fresh_with(1);
    session.exchange(scope("a"));
    session.exchange_fails(transient());
    session.invalidate("t1");
    assert_eq!(
        session.pass(secs(1)),
        "publish nothing; grant #1",
        "a subject for the next attempt"
    );
    session.exchange(scope("b"));
    session.grant_fails(denied());
    session.pass(secs(30));
    session.exchange(scope("a"));
    assert_eq!(session.granted(secs(60)), "publish t2; exchange #2 of t2");
}

#[test]
fn keys_in_flight_stay_whatever_the_capacity() {
    let mut session = fresh_with(1);
    for name in ["a", "b", "c"] {
        assert_eq!(session.exchange(scope(name)), "exchange #1 of t1");
    }
    session.exchanged(secs(60));
    assert_eq!(session.exchange(scope("b")), "nothing", "joins");
    assert_eq!(session.exchanged(secs(60)), "3: x2; 5: x2");
    assert_eq!(session.exchanged(secs(60)), "4: x3");
}

// The end of its parent

#[test]
fn an_exchanged_token_outlives_its_parents_refresh() {
    let mut session = fresh();
    session.suspend(secs(2_970));
    session.exchange(scope("a"));
    session.exchanged(secs(3_600));
    assert_eq!(session.granted(secs(3_600)), "publish t2");
    assert_eq!(session.exchange(scope("a")), "3: x1");
}

#[test]
fn a_revoke_drops_all() {
    let mut session = cached();
    session.suspend(secs(1));
    session.revoke();
    session.confirmed();
    assert_eq!(session.exchange(scope("a")), "publish nothing; grant #1");
}

#[test]
fn an_honoured_invalidate_of_the_parent_drops_those_exchanged_from_it() {
    let mut session = fresh();
    session.suspend(secs(2_970));
    session.exchange(scope("of t1"));
    session.exchanged(secs(3_600));
    session.granted(secs(3_600));
    session.exchange(scope("of t2"));
    session.exchanged(secs(3_600));
    session.suspend(secs(1));
    assert_eq!(session.invalidate("t2"), "publish nothing");
    assert_eq!(session.exchange(scope("of t1")), "publish nothing; grant #1; 4: x1");
    assert_eq!(session.exchange(scope("of t2")), "nothing");
    assert_eq!(session.granted(secs(60)), "publish t3; exchange #1 of t3");
}

#[test]
fn one_on_the_wire_when_its_parent_is_invalidated_goes_to_its_callers_and_is_not_cached() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.invalidate("t1");
    assert_eq!(session.exchanged(secs(600)), "2: x1");
    session.suspend(secs(1));
    assert_eq!(session.exchange(scope("a")), "publish nothing; grant #1");
}

#[test]
fn an_invalidate_that_was_not_honoured_drops_none() {
    let mut session = fresh();
    session.invalidate("t1");
    session.suspend(secs(1));
    session.exchange(scope("a"));
    session.granted(secs(60));
    session.exchanged(secs(60));
    assert_eq!(session.invalidate("t2"), "publish t2");
    assert_eq!(session.exchange(scope("a")), "3: x1");
}

// The need of a subject

#[test]
fn callers_that_wait_for_a_subject_get_the_grants_error_and_the_key_does_not_cool() {
    let mut session = Session::with(|_| ());
    session.exchange(scope("a"));
    assert_eq!(session.grant_fails(denied()), "publish nothing; 1: failed");
    session.pass(secs(30));
    session.ask();
    session.granted(secs(60));
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    assert_eq!(session.exchange_fails(transient()), "nothing", "all its attempts");
}

#[test]
fn an_exchange_flight_keeps_its_attempts_while_it_waits_for_a_subject() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.exchange_fails(transient());
    session.invalidate("t1");
    session.suspend(secs(1));
    assert_eq!(session.timer(), "publish nothing; grant #1");
    assert_eq!(session.granted(secs(60)), "publish t2; exchange #2 of t2");
}

#[test]
fn an_exchange_flight_opens_no_grant_if_nobody_waits_for_it_any_more() {
    let mut session = fresh();
    session.exchange(scope("a"));
    session.exchange_fails(transient());
    session.invalidate("t1");
    session.leave(2);
    assert_eq!(session.pass(secs(60)), "nothing");
}

/// Calls that are given up while no subject comes do not pile up, to be sent when it does.
#[test]
fn an_exchange_that_has_sent_nothing_ends_with_its_last_caller() {
    let mut session = Session::with(|_| ());
    session.exchange(scope("a"));
    session.exchange(scope("a"));
    session.exchange(scope("b"));
    session.leave(1);
    session.leave(3);
    assert_eq!(session.granted(secs(3_600)), "publish t1; exchange #1 of t1");
    assert_eq!(session.exchanged(secs(60)), "2: x1");
}

#[test]
fn an_exchange_that_asks_for_more_life_waits_for_at_most_one_attempt() {
    let mut session = fresh();
    session.suspend(secs(600));
    let request = scope("a").options(at_least(secs(3_200)));
    assert_eq!(session.exchange(request), "publish t1; grant #1");
    assert_eq!(session.grant_fails(transient()), "publish t1; exchange #1 of t1");
}

// The subject is refused

#[test]
fn an_exchange_that_waits_for_more_life_does_not_hold_up_the_attempts_of_others() {
    let mut session = fresh();
    session.suspend(millis(359_950));
    assert_eq!(
        session.exchange(scope("a").options(at_least(secs(3_240)))),
        "exchange #1 of t1",
        "there is enough left"
    );
    session.exchange_fails(transient());
    session.pass(millis(50));
    session.exchange(scope("b"));
    session.exchange_fails(transient());
    assert_eq!(session.pass(millis(75)), "publish t1; grant #1", "there is not enough left");
    assert_eq!(session.pass(millis(50)), "exchange #2 of t1", "of the other");
}

#[test]
fn a_refused_subject_is_invalidated_and_the_exchange_runs_once_more() {
    let reasons = [
        subject_refused(),
        TokenError::denied("invalid_token", ""),
        TokenError::denied("invalid_request", "The subject_token has expired"),
        TokenError::denied("invalid_request", "bad Subject Token"),
    ];
    for error in reasons {
        let (mut session, said) = refused(error.clone());
        assert_eq!(said, "publish nothing; grant #1", "{error}");
        assert_eq!(session.granted(secs(60)), "publish t2; exchange #1 of t2");
        assert_eq!(session.last_refused().as_deref(), Some("t1"));
        assert_eq!(session.exchanged(secs(60)), "2: x1");
    }
}

#[test]
fn the_second_refusal_stands() {
    let (mut session, _) = refused(subject_refused());
    session.granted(secs(60));
    session.suspend(secs(10));
    assert_eq!(session.exchange_fails(subject_refused()), "publish nothing; 2: failed");
    assert_eq!(session.exchange(scope("a")), "publish nothing; grant #1; 3: cooling");
}

#[test]
fn a_refusal_that_is_not_the_subjects_stands() {
    for error in [
        denied(),
        TokenError::denied("invalid_request", "scope is missing"),
        TokenError::denied("invalid_scope", "the subject_token does not have it"),
        TokenError::denied("invalid_target", ""),
    ] {
        let (session, said) = refused(error);
        assert_eq!(said, "2: failed");
        assert!(matches!(session.error_of(2), SessionError::Failed { .. }));
    }
}

#[test]
fn a_refused_subject_is_kept_by_the_10_s_rule_and_then_the_answer_stands() {
    let mut session = fresh();
    session.invalidate("t1");
    session.suspend(secs(1));
    session.ask();
    session.granted(secs(60));
    session.exchange(scope("a"));
    let said = session.exchange_fails(subject_refused());
    assert!(said.ends_with("3: failed"), "{said}");
    assert_eq!(session.published_token(), Some("t2"));
}

#[test]
fn a_refused_subject_that_was_replaced_meanwhile_costs_its_follower_nothing() {
    let mut session = fresh();
    session.suspend(secs(2_970));
    session.exchange(scope("a"));
    session.granted(secs(3_600));
    assert_eq!(session.exchange_fails(subject_refused()), "exchange #1 of t2");
    assert_eq!(session.published_token(), Some("t2"));
}

#[test]
fn other_exchanges_of_a_refused_subject_are_not_cached() {
    let mut session = fresh();
    session.suspend(secs(20));
    session.exchange(scope("a"));
    session.exchange(scope("b"));
    assert_eq!(session.exchange_fails(subject_refused()), "publish nothing; grant #1");
    assert_eq!(session.exchanged(secs(60)), "3: x1");
    assert_eq!(session.exchange(scope("b")), "nothing", "waits for the new subject");
}
