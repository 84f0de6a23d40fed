//! Rule 5: revoke is a barrier.

use super::driver::Session;
use super::script::{outcome, scripts};

/// A token of an hour is held, and so many exchanged ones beside it.
fn with_exchanged(tokens: usize) -> Session {
    let mut session = Session::new();
    session.play("fresh_for_1h");
    session.history.is_crowded = true;
    for name in 0..tokens {
        session.play(&format!("exchange {name}, exchanged 1h"));
    }
    session
}

// What is dropped, and who is held
scripts! {
    readers_see_no_token_from_the_revoke_on =>
        "fresh_for_1h, revoke, held -> nothing
         read -> nothing // held behind the barrier
         waiting -> 2 3";

    a_caller_behind_the_barrier_gets_a_token_that_was_asked_for_after_it =>
        "fresh_for_1h, revoke, ask, suspend 1s, confirmed, granted 1h -> publish t2; 3: t2";

    while_the_barrier_is_up_nothing_is_sent_but_revocations =>
        "fresh_for_1h, revoke, ask, exchange a, asked, +9s -> nothing";

    a_revoke_during_a_grant_waits_for_it_and_revokes_its_token_too =>
        "refreshing, revoke -> publish nothing; revoke t1
         confirmed -> nothing // the grant is still on the wire
         granted 1h -> revoke t2
         confirmed -> publish nothing; 3: revoked";

    a_revoke_during_a_grant_that_then_fails_ends_with_it =>
        "refreshing, revoke, confirmed, grant_fails denied -> publish nothing; 3: revoked";

    a_revoke_during_an_exchange_revokes_its_token_and_the_caller_gets_another =>
        "fresh_for_1h, exchange a, revoke, confirmed, exchanged 1h -> revoke x1
         suspend 1s, confirmed -> grant #1; 3: revoked
         granted 1h -> publish t2; exchange #1 of t2
         exchanged 1h -> 2: x2";

    a_flight_that_waits_between_attempts_ends_at_a_revoke_if_nobody_waits_for_it =>
        "asked, grant_fails 503, revoke -> publish nothing; 1: revoked
         +60s -> nothing // nobody wants a token right after logging out";

    a_flight_whose_attempt_fails_behind_the_barrier_ends_with_it_if_nobody_waits =>
        "asked, revoke -> nothing // the attempt is on the wire
         grant_fails 503 -> publish nothing; 1: revoked
         +60s -> nothing";

    a_flight_that_waits_between_attempts_goes_on_after_the_barrier_where_it_was =>
        "ask ip1, grant_fails 503, revoke -> 2: revoked
         +124ms -> nothing
         +1ms -> grant #2
         options -> 192.0.2.1; 0ns";

    an_exchange_that_waits_between_attempts_goes_on_after_the_barrier_where_it_was =>
        "fresh_for_1h, exchange a, exchange_fails 503, revoke, suspend 1s
         confirmed -> grant #1; 3: revoked
         granted 60s -> publish t2; exchange #2 of t2";

    a_flight_that_waits_between_attempts_goes_on_if_an_exchange_waits_for_its_token =>
        "ask ip1, exchange a ip2, leave 1, grant_fails 503, revoke -> 3: revoked
         +1s -> grant #2
         options -> 192.0.2.1; 0ns // the same flight";

    a_flight_that_waits_between_attempts_ends_though_an_exchange_is_on_the_wire =>
        "fresh_for_1h, exchange a ip2, invalidate t1, ask ip1, leave 3, +1s, grant_fails 503, revoke
         exchanged 60s -> nothing
         confirmed -> revoke x1
         confirmed -> 4: revoked
         +1s -> grant #2
         options -> 192.0.2.2; 0ns // a flight of its own";

    an_exchange_that_waits_between_attempts_ends_at_a_revoke_if_nobody_waits_for_it =>
        "fresh_for_1h, exchange a, exchange_fails 503, leave 2, revoke, ask, suspend 1s
         confirmed -> grant #1; 3: revoked
         granted 60s -> publish t2; 4: t2 // and no exchange for nobody";

    a_pause_between_attempts_outlives_the_flight_that_a_revoke_ended =>
        "fresh_for_1h, exchange a, exchange b, exchanged 60s, exchange_fails 503 5s, leave 3
         revoke, confirmed, exchange b, +1s, granted 60s -> publish t2
         +3.999s -> nothing
         +1ms -> exchange #2 of t2";
}

// The answers
scripts! {
    a_second_revoke_joins_the_first =>
        "revoking, revoke -> nothing
         confirmed -> publish nothing; 2: revoked; 3: revoked
         revocations -> 1";

    a_revoke_goes_on_though_its_caller_left =>
        "revoking, leave 2, revocations_fail 503, +1s -> revoke t1
         confirmed -> publish nothing";

    the_options_of_a_revoke_go_with_its_revocations_and_with_no_grant =>
        "fresh, revoke ip1, options -> 192.0.2.1; 0ns
         ask ip2, suspend 1s, confirmed -> grant #1; 2: revoked
         options -> no ip; 0ns // the barrier's end opened it";

    without_a_revocation_endpoint_nothing_changes =>
        "fresh, can exchange, revoke -> 2: unsupported
         read -> fast: t1";

    what_the_manager_has_learnt_of_its_server_counts_from_then_on =>
        "revoke -> 1: revoked // not known yet; and there is nothing to revoke
         ask, can exchange, granted 1h, revoke -> 3: unsupported
         held -> t1
         can exchange and revoke, revoke -> publish nothing; revoke t1";

    an_answer_that_the_token_is_invalid_is_a_success =>
        "revoking, revocations_fail invalid_token -> publish nothing; 2: revoked
         revoke -> 3: revoked // there is nothing left to send";

    a_confirmed_token_is_not_sent_again =>
        "revoking, confirmed, revoke -> 3: revoked";

    a_token_that_expires_meanwhile_need_not_be_confirmed =>
        "holding, granted 2s, revoke, suspend 1s, revocations_fail 429 3s
         +3s -> publish nothing; 2: revoked
         revocations -> 1";
}

// Its flight
scripts! {
    a_failing_endpoint_gets_the_attempts_of_one_flight_and_the_rest_is_for_the_next_revoke =>
        "fresh_for_1h, revoke, revocations_fail 503, +1s -> revoke t1
         revocations_fail 503, +1s -> revoke t1
         revocations_fail 503 -> publish nothing; 2: failed
         +30s, revoke -> publish nothing; revoke t1
         revocations_fail 503 -> publish nothing; 3: failed // a probe
         +30s, revoke, confirmed -> publish nothing; 4: revoked";

    a_hanging_endpoint_holds_a_revoke_for_its_attempts_and_no_longer =>
        "fresh_for_1h, revoke, ask, +30s -> revoke t1; revoke t1
         waiting -> 2 3
         +1s -> grant #1; 2: failed
         error 2 -> no answer within 10s";

    a_revoke_before_not_before_drops_and_marks_but_sends_nothing_and_gets_the_last_error =>
        "fresh_for_1h, revoke, revocations_fail denied, suspend 10s, ask, granted 1h
         revoke -> publish nothing; 4: cooling
         retry_after 4 -> 20s
         suspend 20s, revoke -> publish nothing; revoke t2; revoke t1";

    retry_after_is_kept_between_revocations =>
        "fresh_for_1h, revoke, revocations_fail 429 4s, +3.999s -> nothing
         +1ms -> revoke t1
         revocations_fail 429 90s -> publish nothing; 2: failed
         retry_after 2 -> 90s";

    a_token_that_lands_after_the_revocations_failed_is_for_the_next_revoke =>
        "fresh_for_1h, suspend 3100s, ask, revoke, revocations_fail denied -> nothing
         waiting -> 3 // the grant is still on the wire
         granted 1h -> publish nothing; 3: failed
         suspend 30s, revoke -> publish nothing; revoke t2; revoke t1";
}

#[test]
fn a_batch_is_of_8_and_each_success_renews_the_attempts() {
    let mut session = with_exchanged(100);
    session.play("revoke, +1s");
    let mut batches = 0;
    while session.waits(102) {
        batches += 1;
        assert!(session.on_wire() <= 8);
        // Each batch fails at first, and would be the last but for the success of the one before.
        session.play("revocations_fail 503, +5s, confirmed");
    }
    assert_eq!(batches, 101_usize.div_ceil(8));
    session.play("revoke -> 103: revoked");
}

#[test]
fn a_thousand_exchanged_tokens_are_all_revoked() {
    let mut session = with_exchanged(1_000);
    session.play(
        "revoke, all_succeed 1s, waiting -> nobody
         revocations -> 1001
         revoke -> 1003: revoked",
    );
}

#[test]
fn a_token_that_the_server_will_not_take_does_not_keep_the_rest_from_it() {
    let mut session = with_exchanged(20);
    session.play("revoke");
    while session.waits(22) {
        session.revocations_end(|name| outcome(&[if name == "x1" { "denied" } else { "1h" }]));
    }
    session.play(
        "retry_after 22 -> 30s
         +30s, revoke -> publish nothing; revoke x1 // all others have been confirmed",
    );
}

#[test]
fn a_success_makes_the_probe_after_a_failed_flight_a_whole_flight_again() {
    let mut session = with_exchanged(20);
    session.play(
        "revoke, revocations_fail denied, +30s, revoke, confirmed
         revocations_fail 503 -> nothing // three attempts
         +1s, revocations_fail 503 -> nothing
         +1s, revocations_fail 503 -> publish nothing; 23: failed",
    );
}

// What grants are told
scripts! {
    the_next_grant_is_told_which_token_was_revoked =>
        "revoking, ask, suspend 1s, confirmed, refused -> t1";

    an_exchanged_token_is_never_the_one_that_a_grant_is_told_of =>
        "fresh_for_1h, exchange a, revoke, confirmed, exchanged 1h, suspend 1s
         confirmed -> grant #1; 3: revoked
         refused -> t1";

    a_grant_that_a_revoke_overtook_is_told_of_to_the_next_one =>
        "holding, revoke, granted 1h, suspend 1s, confirmed, refused -> t1";
}
