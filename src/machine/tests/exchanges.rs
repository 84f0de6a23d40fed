//! Exchanged tokens: the key, the cache and its bound, the subject and its end.

use super::driver::{Session, scope, secs};
use super::script::scripts;
use crate::machine::Request;
use crate::request::{Actor, ExchangeRequest, TokenRequestOptions};

// Cache and flight
scripts! {
    an_exchange_never_changes_the_sessions_own_token =>
        "fresh_for_1h, exchange a, exchanged 600s -> 2: x1
         held -> t1
         ask -> 3: t1";

    an_exchanged_token_is_fresh_then_stale_then_held =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 284.999s, exchange a -> 3: x1
         suspend 1ms, exchange a -> exchange #1 of t1; 4: x1 // a refresh behind it
         exchange a -> 5: x1
         exchanged 600s, exchange a -> 6: x2",
        "fresh_for_1h, exchange a, exchanged 600s, suspend 569.999s, exchange a -> exchange #1 of t1; 3: x1
         suspend 1ms, exchange a -> nothing // waits
         exchanged 600s -> 4: x2";

    an_exchanged_token_is_usable_to_its_end_once_an_attempt_failed =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 570s, exchange a -> exchange #1 of t1
         exchange_fails 503 -> 3: x1 // the flight goes on
         exchange a -> 4: x1
         +125ms -> exchange #2 of t1
         exchange_fails denied -> nothing
         suspend 29.874s, exchange a -> 5: x1
         suspend 1ms, exchange a -> 6: cooling";

    a_refresh_that_failed_is_not_tried_again_before_its_time =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 285s, exchange a -> exchange #1 of t1; 3: x1
         exchange_fails denied, ask_at of a -> 30s
         exchange a -> 4: x1
         suspend 30s, exchange a -> exchange #1 of t1; 5: x1";

    a_key_whose_token_is_refused_rests_no_less =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 285s, exchange a, exchange_fails denied
         invalidate x1, exchange a -> 4: cooling";

    a_refresh_that_nobody_waits_for_takes_the_subject_that_there_is =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 400s
         exchange a 3240s -> exchange #1 of t1; 3: x1 // and opens no grant for more life";

    a_refresh_that_nobody_waits_for_opens_no_grant =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 285s, exchange a -> exchange #1 of t1; 3: x1
         exchange_fails 503, invalidate t1, +60s -> nothing
         exchange a -> publish nothing; grant #1";

    nobody_sees_an_error_while_there_is_an_unexpired_exchanged_token =>
        // The grant cools, and there is no subject.
        "fresh, exchange a, exchanged 600s, suspend 570s, ask
         grant_fails denied -> publish t1; 3: failed
         exchange a -> 4: x1
         suspend 30s, exchange b, grant_fails denied, exchange a -> 6: cooling",
        // The endpoint cools.
        "at_once 1, fresh_for_1h, exchange a, exchanged 600s, suspend 570s, exchange b, exchange a
         exchange_fails 429 60s -> 3: failed; 4: x1
         exchange a -> 5: x1
         suspend 30s, exchange a -> 6: cooling",
        // The manager has learnt that it cannot.
        "at_once 1, fresh_for_1h, exchange a, exchanged 600s, suspend 570s, exchange b, exchange a
         can revoke -> 4: x1
         exchanged 600s -> 3: x2
         exchange a -> 5: x1
         exchange b -> 6: x2
         exchange c -> 7: unsupported";

    an_exchanged_token_past_its_own_hold_at_goes_to_those_who_waited_for_it =>
        "fresh_for_1h, exchange a, suspend 9.5s, exchanged 10s -> 2: x1
         exchange a -> exchange #1 of t1";

    there_is_one_flight_per_key_and_all_who_joined_share_its_end =>
        "fresh_for_1h, exchange a, exchange a -> nothing
         exchange b -> exchange #1 of t1
         exchanged 60s -> 2: x1; 3: x1
         exchanged 60s -> 4: x2";

    an_exchange_flight_follows_the_policy_of_all_flights =>
        "fresh_for_1h, exchange a, +60s -> exchange #2 of t1; exchange #3 of t1; 2: failed",
        "fresh_for_1h, exchange a, exchange_fails denied -> 2: failed
         exchange a -> 3: cooling
         retry_after 3 -> 30s
         exchange b -> exchange #1 of t1 // other keys are no worse for it
         exchanged 60s, +30s, exchange a -> exchange #1 of t1
         exchange_fails 503 -> 5: failed // a probe";

    a_failed_exchange_is_no_failure_of_the_sessions_own_token =>
        "fresh, exchange a, exchange_fails denied -> 2: failed
         read -> fast: t1";

    an_exchange_flight_is_not_ended_by_its_callers_leaving =>
        "fresh, exchange a, leave 2, exchanged 60s -> nothing
         exchange a -> 3: x1";

    an_exchange_that_is_on_the_wire_is_joined_though_no_grant_may_start =>
        "fresh, suspend 53s, exchange a, suspend 7s, ask, grant_fails denied -> publish t1; 3: failed
         exchange b -> 4: cooling
         exchange a -> nothing
         exchanged 120s -> 2: x1; 5: x1";

    a_manager_without_exchange_answers_unsupported =>
        "can revoke, exchange a -> 1: unsupported";
}

// The key

#[test]
fn requests_that_would_give_the_same_token_share_it() {
    let resources = || scope("a").resource("r").resource("s");
    let options = TokenRequestOptions::new().min_remaining(secs(9));
    let same = [
        (ExchangeRequest::scopes(["a", "b"]), ExchangeRequest::scopes(["b", "a", "b"])),
        (resources(), resources().resource("r")),
        (scope("a").audience("x"), scope("a").audience("x").audience("x")),
        (scope("a").param("k", "1").param("l", "2"), scope("a").param("l", "2").param("k", "1")),
        (
            scope("a").param("k", "1").param("k", "2").param("l", "1"),
            scope("a").param("l", "1").param("k", "1").param("k", "2"),
        ),
        (scope("a"), scope("a").options(options.ip("192.0.2.1").expect("an address"))),
        (scope("a").actor(Actor::new("1", "Ada")), scope("a").actor(Actor::new("1", "Ada"))),
    ];
    for (first, second) in same {
        let mut session = Session::new();
        session.play("fresh");
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
        // The order of parameters of one name may matter.
        scope("a").param("r", "s").param("r", "t"),
        scope("a").param("r", "t").param("r", "s"),
    ];
    let mut session = Session::new();
    session.play("fresh");
    for request in different {
        assert_eq!(session.exchange(request.clone()), "exchange #1 of t1", "{request:?}");
    }
}

#[test]
fn the_wire_keeps_the_callers_order_and_options() {
    let options = TokenRequestOptions::new().ip("192.0.2.1").expect("an address");
    let request =
        ExchangeRequest::scopes(["b", "a"]).param("z", "1").param("y", "2").options(options);
    let mut session = Session::new();
    session.play("fresh");
    session.exchange(request.clone());
    let Request::Exchange(_, _, sent) = &session.last().request else { panic!("no exchange") };
    assert_eq!(format!("{sent:?}"), format!("{request:?}"));
}

// The bound
scripts! {
    beyond_the_capacity_the_first_to_expire_goes =>
        "capacity 2, fresh_for_1h
         exchange a, exchanged 600s, exchange b, exchanged 500s, exchange c, exchanged 700s
         exchange a -> 5: x1
         exchange c -> 6: x3
         exchange b -> exchange #1 of t1";

    // It used to be the first to go, and then each call was a request.
    a_key_that_was_refused_cools_beside_a_full_cache_and_without_one =>
        "capacity 1, fresh_for_1h, exchange a, exchanged 600s
         exchange b, exchange_fails denied, exchange c, exchange_fails denied
         exchange b -> 5: cooling
         exchange c -> 6: cooling
         exchange a -> 7: x1 // no failure takes a token's room",
        "capacity 0, fresh_for_1h, exchange a, exchanged 600s
         exchange b, exchange_fails denied, exchange c, exchange_fails denied
         exchange b -> 5: cooling
         exchange c -> 6: cooling
         exchange a -> exchange #1 of t1";

    a_key_that_made_attempts_is_not_forgotten_for_one_that_made_none =>
        "capacity 1, fresh_for_1h, exchange a, exchange_fails 503, invalidate t1
         +1s -> publish nothing; grant #1 // a subject for the next attempt
         exchange b, grant_fails denied, +30s, exchange a
         granted 60s -> publish t2; exchange #2 of t2";

    keys_in_flight_stay_whatever_the_capacity =>
        "capacity 1, fresh, exchange a, exchange b, exchange c -> exchange #1 of t1
         exchanged 60s, exchange b -> nothing // joins
         exchanged 60s -> 3: x2; 5: x2
         exchanged 60s -> 4: x3";
}

#[test]
fn of_more_than_1024_keys_that_failed_the_first_to_end_goes() {
    let mut session = Session::new();
    session.play("capacity 0, fresh_for_1h, exchange first, exchange_fails denied, suspend 1ms");
    session.history.is_crowded = true;
    for key in 0..1_024 {
        session.play(&format!("exchange {key}, exchange_fails denied"));
    }
    session.play("exchange 0 -> 1027: cooling");
    session.history.paces.clear(); // the judge knows no such bound
    session.play("exchange first -> exchange #1 of t1");
}

// The end of its parent
scripts! {
    an_exchanged_token_outlives_its_parents_refresh =>
        "fresh_for_1h, suspend 2970s, exchange a, exchanged 1h, granted 1h -> publish t2
         exchange a -> 3: x1";

    a_revoke_drops_all =>
        "fresh, exchange a, exchanged 600s, suspend 1s, revoke, confirmed
         exchange a -> publish nothing; grant #1";

    an_honoured_invalidate_of_the_parent_drops_those_exchanged_from_it =>
        "fresh_for_1h, suspend 2970s, exchange of_t1, exchanged 1h, granted 1h
         exchange of_t2, exchanged 1h, suspend 1s, invalidate t2 -> publish nothing
         exchange of_t1 -> publish nothing; grant #1; 4: x1
         exchange of_t2 -> nothing
         granted 60s -> publish t3; exchange #1 of t3";

    one_on_the_wire_when_its_parent_is_invalidated_goes_to_its_callers_and_is_not_cached =>
        "fresh, exchange a, invalidate t1, exchanged 600s -> 2: x1
         suspend 1s, exchange a -> publish nothing; grant #1";

    who_asks_after_the_parent_was_given_up_does_not_get_what_is_on_the_wire =>
        "fresh, exchange a, invalidate t1, exchange a, exchanged 600s -> 2: x1
         +1s -> grant #1
         granted 60s -> publish t2; exchange #1 of t2
         exchanged 600s -> 3: x2",
        "fresh, exchange a, hear t1, exchange a, exchanged 600s -> 2: x1
         +1s -> grant #1
         granted 60s -> publish t2; exchange #1 of t2
         exchanged 600s -> 3: x2",
        // Nobody who asked in time is left.
        "fresh, exchange a, leave 2, invalidate t1, exchange a, exchanged 600s -> nothing
         +1s -> grant #1";

    an_invalidate_that_was_not_honoured_drops_none =>
        "fresh, invalidate t1, suspend 1s, exchange a, granted 60s, exchanged 60s
         invalidate t2 -> publish t2
         exchange a -> 3: x1";
}

// The need of a subject
scripts! {
    callers_that_wait_for_a_subject_get_the_grants_error_and_the_key_does_not_cool =>
        "exchange a, grant_fails denied -> publish nothing; 1: failed
         +30s, ask, granted 60s, exchange a -> exchange #1 of t1
         exchange_fails 503 -> nothing // all its attempts";

    an_exchange_flight_keeps_its_attempts_while_it_waits_for_a_subject =>
        "fresh, exchange a, exchange_fails 503, invalidate t1, suspend 1s
         timer -> publish nothing; grant #1
         granted 60s -> publish t2; exchange #2 of t2";

    an_exchange_flight_opens_no_grant_if_nobody_waits_for_it_any_more =>
        "fresh, exchange a, exchange_fails 503, invalidate t1, leave 2, +60s -> nothing";

    // Calls that are given up while no subject comes do not pile up, to be sent when it does.
    an_exchange_that_has_sent_nothing_ends_with_its_last_caller =>
        "exchange a, exchange a, exchange b, leave 1, leave 3
         granted 1h -> publish t1; exchange #1 of t1
         exchanged 60s -> 2: x1";

    an_exchange_that_asks_for_more_life_waits_for_at_most_one_attempt =>
        "fresh_for_1h, suspend 600s, exchange a 3200s -> publish t1; grant #1
         grant_fails 503 -> publish t1; exchange #1 of t1";

    an_exchange_that_waits_for_more_life_does_not_hold_up_the_attempts_of_others =>
        "fresh_for_1h, suspend 359.95s, exchange a 3240s -> exchange #1 of t1 // there is enough left
         exchange b -> exchange #1 of t1
         exchange_fails 503, exchange_fails 503
         +125ms -> publish t1; exchange #2 of t1; grant #1 // of the other: there is not enough left
         exchanged 60s -> 3: x1
         grant_fails 503 -> publish t1; exchange #2 of t1",
        "fresh_for_1h, suspend 600s, exchange a 3200s -> publish t1; grant #1
         exchange b 3200s -> nothing
         exchange c -> exchange #1 of t1";
}

// The subject is refused
scripts! {
    a_refused_subject_opens_a_refresh_behind_it_and_the_exchange_runs_once_more =>
        "fresh_for_1h, exchange a, exchange_fails invalid_grant -> publish t1
         ask -> 3: t1 // it may be good for everything else
         +1s -> grant #1
         refused -> t1
         granted 60s -> publish t2; exchange #1 of t2
         exchanged 60s -> 2: x1",
        "fresh_for_1h, exchange a, exchange_fails invalid_token -> publish t1",
        "fresh_for_1h, exchange a
         exchange_fails invalid_request The subject_token has expired -> publish t1",
        "fresh_for_1h, exchange a
         exchange_fails invalid_request bad Subject Token -> publish t1";

    an_exchange_whose_subject_was_refused_has_all_its_attempts_once_more =>
        "fresh_for_1h, suspend 1s, exchange a, exchange_fails 503, +125ms
         exchange_fails invalid_grant -> publish t1; grant #1
         granted 60s -> publish t2; exchange #1 of t2";

    the_second_refusal_stands =>
        "fresh_for_1h, suspend 20s, exchange a, exchange_fails invalid_grant
         granted 1h -> publish t2; exchange #1 of t2
         suspend 10s, exchange_fails invalid_grant -> 2: failed
         exchange a -> 3: cooling
         held -> t2";

    at_most_one_refresh_in_10_s_is_for_a_refused_subject =>
        "fresh_for_1h, suspend 20s, exchange a
         exchange_fails invalid_grant -> publish t1; grant #1
         granted 1h, exchanged 60s
         suspend 9.999s, exchange b, exchange_fails invalid_grant -> 3: failed
         exchange b -> 4: cooling
         suspend 1ms, exchange c, exchange_fails invalid_grant -> publish t2; grant #1
         exchange d, exchange_fails invalid_grant -> nothing // waits for the same
         granted 1h -> publish t3; exchange #1 of t3; exchange #1 of t3";

    an_honoured_invalidate_keeps_no_refused_subject_from_its_refresh =>
        "fresh_for_1h, invalidate t1, suspend 1s, ask, granted 1h, exchange a, suspend 1s
         exchange_fails invalid_grant -> publish t2; grant #1";

    where_no_refresh_may_open_or_it_fails_a_refused_subject_stands_and_the_key_cools =>
        "stale_and_cooling, exchange a, exchange_fails invalid_grant -> 3: failed
         exchange a -> 4: cooling
         held -> t1",
        "fresh_for_1h, suspend 20s, exchange a, exchange_fails invalid_grant
         grant_fails 503 -> publish t1 // its flight goes on
         +125ms, grant_fails denied -> publish t1; 2: failed
         error 2 -> refused before anything was sent: invalid_grant:
         exchange a -> 3: cooling
         ask -> 4: t1";

    a_refused_subject_that_nobody_waits_for_stands =>
        "fresh_for_1h, suspend 20s, exchange a, leave 2, exchange_fails invalid_grant -> nothing
         exchange a -> 3: cooling";

    an_exchange_that_waits_for_the_next_subject_ends_with_its_last_caller =>
        "fresh_for_1h, suspend 20s, exchange a, exchange_fails invalid_grant, leave 2
         granted 1h -> publish t2";

    a_revoke_ends_the_wait_for_the_next_subject =>
        "fresh_for_1h, suspend 20s, exchange a, exchange_fails invalid_grant
         revoke -> publish nothing; revoke t1
         confirmed, granted 1h -> revoke t2
         confirmed -> 3: revoked
         +1s -> grant #1
         granted 1h -> publish t3; exchange #1 of t3
         exchanged 60s -> 2: x1";

    a_refusal_that_is_not_the_subjects_stands =>
        "fresh_for_1h, exchange a, exchange_fails denied -> 2: failed",
        "fresh_for_1h, exchange a, exchange_fails invalid_request scope is missing -> 2: failed",
        "fresh_for_1h, exchange a, exchange_fails invalid_target -> 2: failed",
        "fresh_for_1h, exchange a
         exchange_fails invalid_scope the subject_token does not have it -> 2: failed";

    a_refused_subject_that_was_replaced_meanwhile_costs_its_follower_nothing =>
        "fresh_for_1h, suspend 2970s, exchange a, granted 1h
         exchange_fails invalid_grant -> exchange #1 of t2
         held -> t2";

    children_of_a_refused_subject_stay =>
        "fresh_for_1h, suspend 20s, exchange a, exchange b, exchange c, exchanged 1h
         exchange_fails invalid_grant -> publish t1; grant #1
         exchanged 60s -> 4: x2
         exchange a -> 5: x1
         exchange c -> 6: x2
         granted 1h, exchange a -> 7: x1";
}

#[test]
fn an_attempt_whose_subject_is_refused_has_failed() {
    let mut session = Session::of(crate::RefreshMode::WhileUsed);
    session.play("fresh_for_1h, exchange a, exchange_fails invalid_grant -> publish t1");
    assert_eq!(session.counters().exchanges_failed, 1);
}
