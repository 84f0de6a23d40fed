//! The event table of `src/docs/design.md`: a test for each cell, named after what it promises. The left column's
//! tests say `no_usable_token`, the right column's `usable_token`.

use super::script::scripts;
use crate::config::RefreshMode::{self, Always, OnRequest, WhileUsed};

const EVERY: [RefreshMode; 3] = [WhileUsed, OnRequest, Always];

// GetToken
scripts! {
    get_token_with_no_usable_token_and_not_before_ahead_gives_the_last_error in EVERY =>
        "cooling, ask -> 2: cooling";

    get_token_with_no_usable_token_and_not_before_ahead_gives_the_last_error_behind_a_barrier_too =>
        "revoking_and_cooling, ask -> 5: cooling";

    get_token_with_no_usable_token_and_the_barrier_up_queues in EVERY =>
        "revoking, ask -> nothing";

    get_token_with_no_usable_token_and_a_flight_open_queues in EVERY =>
        "holding, ask -> nothing";

    get_token_with_no_usable_token_else_queues_and_opens in EVERY =>
        "ask -> publish nothing; grant #1",
        "unusable, ask -> publish t1; grant #1
         waiting -> 2";

    get_token_with_a_usable_token_gives_it in EVERY =>
        "fresh, ask -> 2: t1",
        "refreshing, ask -> 3: t1",
        "stale_and_cooling, ask -> 3: t1";

    get_token_with_a_usable_token_of_too_little_life_queues_on_an_open_flight =>
        "refreshing, ask 40s -> nothing";

    get_token_with_a_usable_token_of_too_little_life_opens_a_flight_that_may_open =>
        "fresh, suspend 10s, ask 52s -> publish t1; grant #1
         waiting -> 2";

    get_token_with_a_usable_token_of_too_little_life_gets_it_while_no_flight_may_open =>
        "stale_and_cooling, ask 40s -> 3: t1";
}

// An exchange's need of a subject
scripts! {
    exchange_with_no_usable_token_and_not_before_ahead_gives_the_last_error in EVERY =>
        "cooling, exchange a -> 2: cooling";

    exchange_with_no_usable_token_and_not_before_ahead_gives_the_last_error_behind_a_barrier_too =>
        "revoking_and_cooling, exchange b -> 5: cooling";

    exchange_with_no_usable_token_and_the_barrier_up_queues =>
        "revoking, exchange a -> nothing
         waiting -> 2 3";

    exchange_with_no_usable_token_and_a_flight_open_queues =>
        "holding, exchange a -> nothing
         waiting -> 1 2";

    exchange_with_no_usable_token_else_queues_and_opens in EVERY =>
        "exchange a -> publish nothing; grant #1",
        "unusable, exchange a -> publish t1; grant #1";

    exchange_with_a_usable_token_is_sent_at_once in EVERY =>
        "fresh, exchange a -> exchange #1 of t1",
        "refreshing, exchange a -> exchange #1 of t1",
        "stale_and_cooling, exchange a -> exchange #1 of t1";

    exchange_with_a_usable_token_of_too_little_life_queues_on_a_flight_that_is_open_or_may_open =>
        "refreshing, exchange a 52s -> nothing",
        "fresh, suspend 10s, exchange a 52s -> publish t1; grant #1
         waiting -> 2";

    exchange_with_a_usable_token_of_too_little_life_takes_it_while_no_flight_may_open =>
        "stale_and_cooling, exchange a 40s -> exchange #1 of t1";
}

// Asked
scripts! {
    asked_with_no_usable_token_opens_if_it_may_open in EVERY =>
        "asked -> publish nothing; grant #1",
        "unusable, asked -> publish t1; grant #1";

    asked_with_no_usable_token_does_nothing_if_none_may_open in EVERY =>
        "cooling, asked -> nothing",
        "holding, asked -> nothing",
        "revoking, asked -> nothing";

    asked_with_a_usable_token_before_ask_at_does_nothing in EVERY =>
        "fresh, asked -> nothing",
        "stale_and_cooling, asked -> nothing",
        "refreshing, asked -> nothing";

    asked_with_a_usable_token_past_ask_at_opens in EVERY =>
        "stale, asked -> publish t1; grant #1",
        "stale_and_cooling, suspend 30s, asked -> publish t1; grant #1";
}

// `ask_at` passed, no caller
scripts! {
    ask_at_passed_with_no_usable_token_opens_when_always_and_warm in [Always] =>
        "timer -> publish nothing; grant #1",
        "unusable, timer -> publish t1; grant #1",
        "cooling, +30s -> publish nothing; grant #1";

    ask_at_passed_with_no_usable_token_opens_nothing_in_other_modes in [WhileUsed, OnRequest] =>
        "timer -> nothing",
        "unusable, suspend 60s, timer -> nothing",
        "cooling, +60s -> nothing";

    ask_at_passed_with_no_usable_token_opens_nothing_once_a_revoke_has_cleared_warm in [Always] =>
        "revoking, confirmed -> publish nothing; 2: revoked
         +1h -> nothing";

    any_caller_makes_an_always_session_warm_again in [Always] =>
        "revoking, confirmed, ask, +1s, granted 60s
         +30s -> publish t2; grant #1";

    ask_at_passed_with_a_usable_token_opens_when_always in [Always] =>
        "fresh, +28s -> nothing
         +500ms -> publish t1; grant #1",
        "stale_and_cooling, +30s -> publish t1; grant #1";

    ask_at_passed_with_a_usable_token_opens_when_while_used_and_used =>
        "fresh, read -> fast: t1
         +28.499s -> nothing
         +1ms -> publish t1; grant #1";

    a_caller_that_asked_the_actor_has_used_the_token =>
        "fresh, ask 5s -> 2: t1
         +30s -> publish t1; grant #1",
        "fresh, exchange a, exchanged 60s -> 2: x1
         +30s -> publish t1; grant #1";

    ask_at_passed_with_a_usable_token_that_nobody_used_opens_nothing =>
        "fresh, +1h -> nothing";

    use_of_an_earlier_snapshot_is_no_use_of_this_one =>
        "fresh, read, +30s -> publish t1; grant #1
         granted 60s -> publish t2
         +1h -> nothing",
        "refreshing, read, suspend 30s, granted 60s -> publish t2 // stale when it comes";

    ask_at_passed_with_a_usable_token_opens_nothing_on_request in [OnRequest] =>
        "fresh, read, ask, +29s -> nothing
         read -> fast: t1; publish t1; grant #1";
}

// The grant attempt ends
scripts! {
    grant_success_is_stored_and_given_to_all_who_wait =>
        "holding, ask, granted 60s -> publish t1; 1: t1; 2: t1";

    grant_success_with_a_usable_token_replaces_it_and_is_given_to_all_who_wait =>
        "refreshing, ask 40s, granted 60s -> publish t2; 3: t2";

    grant_success_after_a_revoke_goes_to_the_ledger_and_callers_stay_held =>
        "holding, revoke -> nothing
         granted 60s -> revoke t1
         waiting -> 1 2
         +2s, confirmed -> grant #1; 2: revoked
         granted 60s -> publish t2; 1: t2";

    grant_failure_with_no_usable_token_keeps_callers_held_while_the_flight_goes_on =>
        "holding, grant_fails 503 -> nothing
         +1s -> grant #2
         waiting -> 1";

    flight_failure_with_no_usable_token_gives_the_error_to_all =>
        "holding, ask, exchange a
         grant_fails denied -> publish nothing; 1: failed; 2: failed; 3: failed";

    grant_failure_with_a_usable_token_gives_it_to_all_who_wait_whatever_they_asked_for =>
        "refreshing, ask 40s, ask 50s, grant_fails 503 -> publish t1; 3: t1; 4: t1";

    grant_failure_makes_a_token_usable_that_was_held_and_all_who_wait_get_it =>
        "unusable, ask, ask, grant_fails 503 -> publish t1; 2: t1; 3: t1";
}

// Invalidate
scripts! {
    invalidate_of_the_token_held_drops_it_usable_or_not in [WhileUsed, OnRequest] =>
        "fresh, invalidate t1 -> publish nothing",
        "stale, invalidate t1 -> publish nothing",
        "refreshing, invalidate t1 -> publish nothing",
        "stale_and_cooling, invalidate t1 -> publish nothing",
        "unusable, invalidate t1 -> publish nothing";

    an_invalidated_token_stays_in_the_ledger =>
        "fresh, invalidate t1, revoke -> publish nothing; revoke t1";

    invalidate_within_10_s_of_an_honoured_one_only_clears_the_doubt_usable_or_not =>
        "fresh, invalidate t1, ask, +1s, granted 5s, doubts_dismissed -> 0
         invalidate t2 -> publish t2
         doubts_dismissed -> 1
         ask -> 3: t2
         suspend 4.6s, invalidate t2 -> publish t2";
}

// News
scripts! {
    news_of_the_token_held_drops_it_usable_or_not in [WhileUsed, OnRequest, Always] =>
        "fresh, hear t1 -> publish nothing",
        "stale, hear t1 -> publish nothing",
        "refreshing, hear t1 -> publish nothing",
        "stale_and_cooling, hear t1 -> publish nothing",
        "unusable, hear t1 -> publish nothing";

    news_of_the_token_held_serves_those_who_wait_by_a_flight =>
        "refreshing, ask 40s, hear t1 -> publish nothing
         granted 60s -> publish t2; 3: t2",
        "fresh, exchange a, hear t1 -> publish nothing
         exchanged 60s -> 2: x1
         +1s, ask -> publish nothing; grant #1";

    news_of_another_token_leaves_the_one_that_is_held =>
        "fresh, hear t0 -> nothing
         ask -> 2: t1",
        "fresh, hear t2 -> nothing
         suspend 28.5s, ask, granted 60s -> publish t1";

    news_is_no_invalidate =>
        "fresh, hear t1, ask, +1s, granted 60s, invalidate t2 -> publish nothing";

    news_does_not_shorten_the_gap_after_a_token =>
        "fresh, hear t1, ask -> publish nothing
         +1s -> grant #1";

    news_does_not_shorten_a_cooling =>
        "stale_and_cooling, hear t1, ask -> 3: cooling";

    what_another_session_revoked_is_sent_with_the_next_revoke =>
        "fresh, hear t1, revoke -> publish nothing; revoke t1",
        "fresh, hear t0, revoke -> publish nothing; revoke t0; revoke t1",
        "hear t0, suspend 60s, revoke -> 1: revoked";

    what_a_revoke_has_marked_already_is_no_news =>
        "revoking, hear t1 -> nothing
         confirmed -> publish nothing; 2: revoked
         hear t1, revoke -> 3: revoked";

    tokens_exchanged_from_one_that_is_revoked_elsewhere_are_dropped_and_stay_in_the_ledger =>
        "fresh_for_1h, exchange a, exchanged 60s, hear t1, +1s, exchange a -> publish nothing; grant #1
         leave_all, granted 60s, revoke -> publish nothing; revoke x1; revoke t2; revoke t1";

    an_exchanged_token_that_is_revoked_elsewhere_is_dropped_and_no_other =>
        "fresh_for_1h, exchange a, exchanged 60s, exchange b, exchanged 60s, hear x1
         exchange b -> 4: x2
         exchange a -> exchange #1 of t1";
}

// Revoke
scripts! {
    revoke_with_no_token_at_all_ends_at_once in [WhileUsed, OnRequest] =>
        "revoke -> 1: revoked",
        "cooling, revoke -> 2: revoked";

    revoke_drops_the_token_held_usable_or_not_and_puts_the_barrier_up in EVERY =>
        "fresh, revoke -> publish nothing; revoke t1
         ask_at -> never",
        "stale, revoke -> publish nothing; revoke t1
         ask_at -> never",
        "stale_and_cooling, revoke -> publish nothing; revoke t1
         ask_at -> never",
        "unusable, revoke -> publish nothing; revoke t1
         ask_at -> never";

    revoke_drops_all_exchanged_tokens_and_marks_the_whole_ledger =>
        "fresh, exchange a, exchanged 50s, exchange b, exchanged 55s
         revoke -> publish nothing; revoke x1; revoke x2; revoke t1
         suspend 1s, exchange a -> nothing
         confirmed -> grant #1; 4: revoked
         granted 60s -> publish t2; exchange #1 of t2";
}

// The barrier ends
scripts! {
    the_barriers_end_answers_the_revokes_and_opens_nothing_for_nobody =>
        "revoking, revoke, +1s, confirmed -> publish nothing; 2: revoked; 3: revoked";

    the_barriers_end_opens_for_callers_who_wait =>
        "revoking, ask, +1s, confirmed -> grant #1; 2: revoked";

    the_barriers_end_lets_the_flight_go_on_that_waited =>
        "fresh, invalidate t1, suspend 1s, ask, grant_fails 503, revoke -> revoke t1
         +1s -> nothing // the next attempt is due, but the barrier is up
         confirmed -> grant #2; 3: revoked";
}

// Left
scripts! {
    left_is_forgotten_and_its_flight_goes_on =>
        "holding, ask, leave 1 -> nothing
         granted 60s -> publish t1; 2: t1";

    left_while_a_usable_token_is_held_is_forgotten_too =>
        "refreshing, ask 50s, leave 3 -> nothing
         granted 60s -> publish t2";

    an_exchange_and_a_revoke_are_forgotten_when_they_have_left =>
        "fresh, exchange a, revoke, leave 2 -> nothing
         leave 3 -> nothing
         exchange_fails denied -> nothing";

    left_of_one_who_has_been_answered_changes_nothing =>
        "fresh, leave 1 -> nothing
         ask -> 2: t1";
}

// The end
scripts! {
    shutdown_publishes_closed_and_answers_all_who_wait in EVERY =>
        "holding, shutdown -> publish closed; 1: closed",
        "fresh, shutdown -> publish closed",
        "revoking, ask, exchange a, shutdown -> publish closed; 3: closed; 4: closed; 2: closed
         deadline -> never
         ask_at -> never
         held -> nothing";

    after_shutdown_everybody_is_told_closed_and_nothing_is_sent in [Always] =>
        "holding, shutdown, granted 60s -> nothing
         ask -> 2: closed
         exchange a -> 3: closed
         revoke -> 4: closed
         asked -> nothing
         timer -> nothing
         shutdown -> nothing
         read -> fast: closed";
}
