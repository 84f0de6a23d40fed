//! The exchange endpoint, which all keys share: whose turn it is, and when it is left alone.

use super::script::scripts;

// Turns
scripts! {
    exchanges_are_served_in_the_order_in_which_they_opened =>
        "at_once 1, exchange b, exchange c, exchange a
         granted 1h -> publish t1; exchange #1 of t1
         exchanged 60s -> exchange #1 of t1; 1: x1
         exchanged 60s -> exchange #1 of t1; 2: x2
         exchanged 60s -> 3: x3";

    at_most_so_many_exchanges_are_on_the_wire_and_freed_places_are_filled_at_once =>
        "at_once 2, fresh_for_1h, exchange a -> exchange #1 of t1
         exchange b -> exchange #1 of t1
         exchange c, exchange d -> nothing
         exchange_fails denied -> exchange #1 of t1; 2: failed
         exchanged 60s -> exchange #1 of t1; 3: x1";

    a_retry_keeps_its_turn =>
        "at_once 1, fresh_for_1h, exchange a, exchange b, exchange_fails 503
         +125ms -> exchange #2 of t1
         exchanged 60s -> exchange #1 of t1; 2: x1";

    the_subject_is_taken_at_departure =>
        "at_once 1, fresh_for_1h, suspend 2970s, exchange a, exchange b, granted 1h -> publish t2
         exchanged 1h -> exchange #1 of t2; 2: x1
         exchanged 1h -> 3: x2";

    who_waited_while_a_grant_attempt_ended_takes_what_there_is =>
        "at_once 1, fresh_for_1h, exchange a, exchange b 3240s, suspend 2970s, ask, granted 5s -> publish t2
         suspend 4s, exchanged 1h -> exchange #1 of t2; 2: x1";

    who_is_left_waits_behind_those_who_go =>
        "at_once 1, fresh_for_1h, exchange a, exchange b, exchange c, leave 3
         exchanged 60s -> exchange #1 of t1; 2: x1
         exchanged 60s -> 4: x2";
}

// The endpoint
scripts! {
    a_rate_limit_of_one_key_keeps_all_from_the_endpoint =>
        "fresh_for_1h, exchange a, exchange_fails 429 60s -> 2: failed
         exchange b, exchange c -> 4: cooling
         retry_after 4 -> 60s
         suspend 60s, exchange b -> exchange #1 of t1 // a probe
         exchange c -> nothing
         exchanged 60s -> exchange #1 of t1; 5: x1";

    a_5xx_says_nothing_of_the_endpoint_if_another_key_succeeded_since =>
        "fresh_for_1h, exchange a, exchange b, exchanged 60s -> 2: x1
         exchange_fails 503 -> nothing
         exchange c -> exchange #1 of t1",
        "fresh_for_1h, exchange a, exchanged 60s, exchange b, exchange_fails 503
         exchange c -> nothing // nothing has succeeded since that was sent";

    a_broken_transport_says_it_whoever_succeeds =>
        "fresh_for_1h, exchange a, exchange b, exchanged 60s, exchange_fails transport
         exchange c -> nothing";

    failures_of_attempts_that_were_sent_before_count_once =>
        "fresh_for_1h, exchange a, exchange b, exchange c
         exchange_fails 503, exchange_fails 503, exchange_fails 503 -> nothing
         exchange d, +125ms -> exchange #2 of t1 // one probe
         exchange_fails 503, +250ms -> exchange #3 of t1
         exchange_fails 503 -> 2: failed; 3: failed; 4: failed; 5: failed
         exchange e -> 6: cooling";

    after_the_cooling_there_is_one_probe_and_it_doubles =>
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 503 -> 2: failed
         exchange b -> 3: cooling
         retry_after 3 -> 562.5ms
         suspend 562.5ms, exchange b, exchange c, exchange d
         exchange_fails 503 -> 4: failed; 5: failed; 6: failed
         exchange c -> 7: cooling
         retry_after 7 -> 1.125s
         suspend 1.125s, exchange c, exchange d, exchanged 60s -> exchange #1 of t1; 8: x1
         exchange e -> exchange #1 of t1 // all is well";

    whoever_waits_to_probe_it_is_woken_for_it_and_else_nobody =>
        "fresh_for_1h, exchange a, exchange_fails 503 5s, leave 2, exchange b
         revoke, confirmed, +4.999s -> nothing // the pause of a has gone with it
         +1ms -> publish nothing; grant #1
         granted 1h -> publish t2; exchange #1 of t2",
        "attempts 1, fresh, exchange a, exchange_fails 503, deadline -> 28.5s";

    each_key_counts_its_own_attempts_besides =>
        "attempts 2, fresh_for_1h, exchange a, exchange b, exchange_fails 503, exchange_fails 503
         +125ms -> exchange #2 of t1
         exchange_fails 503 -> 2: failed; 3: failed
         retry_after 2 -> 562.5ms
         suspend 563ms, exchange b -> exchange #2 of t1 // it was left off after its first
         exchange_fails 503 -> 4: failed
         exchange b -> 5: cooling";

    an_answer_to_what_was_sent_before_a_failure_says_nothing =>
        "fresh_for_1h, exchange a, exchange b, exchange_fails 503, exchanged 60s -> 3: x1
         exchange c -> nothing
         +125ms -> exchange #2 of t1
         exchanged 60s -> exchange #1 of t1; 2: x2";

    a_refusal_cools_its_key_alone_and_shows_that_the_endpoint_works =>
        "fresh_for_1h, exchange a, exchange_fails 503, exchange b, +125ms -> exchange #2 of t1
         exchange_fails denied -> exchange #1 of t1; 2: failed
         exchange c -> exchange #1 of t1
         exchange a -> 5: cooling";

    the_grant_has_its_own_cooling =>
        "fresh_for_1h, exchange a, exchange_fails 429 60s, suspend 2970s, ask -> publish t1; grant #1; 3: t1",
        "stale_and_cooling, exchange a -> exchange #1 of t1";

    a_flight_that_fails_an_attempt_while_the_endpoint_cools_ends =>
        "fresh_for_1h, exchange a, exchange b, exchange_fails 429 60s -> 2: failed
         exchange_fails 503 -> 3: failed
         retry_after 3 -> 60s";

    one_that_is_sent_to_a_cooling_endpoint_is_answered_by_it =>
        "fresh_for_1h, exchange a, exchange b, exchange_fails 429 60s, exchange b -> nothing // joins
         exchanged 60s -> 3: x1; 4: x1
         exchange c -> 5: cooling // what was sent before says nothing";

    while_the_endpoint_cools_no_refresh_opens_and_the_next_reader_asks_after_it =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 285s, exchange b, exchange_fails 429 60s
         ask_at of a -> 0ns
         exchange a -> 4: x1
         ask_at of a -> 60s
         suspend 60s, exchange a -> exchange #1 of t1; 5: x1";

    once_the_manager_cannot_exchange_nothing_more_is_sent =>
        "at_once 1, fresh_for_1h, exchange a, exchange b, can revoke -> 3: unsupported
         exchange_fails 503 -> 2: unsupported
         exchange c -> 4: unsupported",
        "fresh, exchange a, exchange_fails 503, revoke, can revoke -> 2: unsupported";

    once_the_manager_cannot_revoke_a_revoke_is_unsupported_and_the_tokens_are_dropped =>
        "fresh, revoke, can exchange -> nothing // one is on the wire
         revocations_fail 503 -> publish nothing; 2: unsupported
         held -> nothing
         revoke -> 3: unsupported",
        "fresh, revoke, can exchange, confirmed -> publish nothing; 2: revoked";
}

// Who goes first
scripts! {
    a_key_that_failed_lets_those_go_first_that_were_turned_away =>
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 503 -> 2: failed
         exchange b -> 3: cooling
         retry_after 3 -> 562.5ms
         suspend 562.5ms, exchange a -> 4: cooling // it is the first to come back
         exchange b -> exchange #1 of t1
         exchanged 60s -> 5: x1
         exchange a -> exchange #1 of t1";

    a_key_that_failed_does_not_wait_for_those_who_do_not_come_again =>
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 503, exchange b
         suspend 562.5ms, exchange a -> 4: cooling
         retry_after 4 -> 5s
         suspend 5s, exchange a -> exchange #1 of t1",
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 429 60s, exchange b
         suspend 60s, exchange a -> 4: cooling
         retry_after 4 -> 5s";

    a_key_alone_waits_no_longer_than_the_endpoint_rests =>
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 503
         suspend 562.5ms, exchange a -> exchange #1 of t1";

    who_waited_for_the_probe_goes_before_those_that_failed =>
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 503
         suspend 562.5ms, exchange a -> exchange #1 of t1
         exchange b -> nothing
         exchange_fails 503 -> 3: failed; 4: failed
         suspend 1.125s, exchange a -> 5: cooling
         exchange b -> exchange #1 of t1";
}
