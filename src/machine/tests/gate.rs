//! Leave to send: see [`gate`](super::super::gate).

use super::script::scripts;
use crate::config::RefreshMode::{OnRequest, WhileUsed};

scripts! {
    an_attempt_of_a_gated_session_starts_when_its_leave_comes in [WhileUsed, OnRequest] =>
        "gated, ask -> publish nothing; wait for the grant
         ask -> nothing
         permit -> grant #1
         granted 60s -> publish t1; 1: t1; 2: t1";

    the_wait_for_leave_is_no_part_of_the_tokens_life =>
        "gated, ask, +59s, permit, granted 60s
         usable -> 54s";

    the_wait_for_leave_counts_for_no_attempt =>
        "attempts 2, gated, ask, permit, grant_fails 503, +250ms -> wait for the grant
         no_permit 429 2s -> publish nothing; 1: failed
         retry_after 1 -> 2s
         +2s, ask, permit -> grant #1";

    a_refusal_of_leave_is_no_failure_of_the_server =>
        "gated, ask, no_permit 503 -> publish nothing; 1: failed
         retry_after 1 -> 750ms
         +750ms, ask, no_permit 503 -> publish nothing; 2: failed
         retry_after 2 -> 750ms";

    whoever_waited_for_leave_in_vain_is_told_when_to_come_again =>
        "gated, ask, no_permit timed_out -> publish nothing; 1: failed
         retry_after 1 -> 1s
         ask -> 2: cooling";

    a_refusal_of_leave_makes_a_token_usable_to_its_end =>
        "gated, ask, permit, granted 60s, suspend 54s, ask -> publish t1; wait for the grant
         no_permit 429 -> publish t1; 2: t1
         usable -> 6s";

    a_revoke_gives_up_the_wait_for_leave =>
        "gated, ask, permit, granted 60s, suspend 54s, ask -> publish t1; wait for the grant
         revoke -> publish nothing; no wait for the grant; revoke t1
         confirmed -> wait for the grant; 3: revoked
         permit -> grant #1",
        "gated, ask, permit, granted 60s, exchange a -> wait for a
         revoke -> publish nothing; no wait for a; revoke t1
         confirmed -> 3: revoked
         +1s -> wait for the grant";

    a_revoke_that_has_nothing_to_do_leaves_the_grants_wait =>
        "gated, ask, revoke -> 2: revoked
         permit -> grant #1";

    leave_that_comes_too_late_sends_nothing =>
        "gated, ask, permit, granted 60s, permit -> nothing
         exchange a, leave 2 -> no wait for a
         permit a -> nothing";

    a_grant_whose_callers_have_left_keeps_its_wait =>
        "gated, ask, leave 1 -> nothing
         permit -> grant #1";

    each_exchange_waits_for_its_leave_and_takes_the_subject_that_there_is_then =>
        "gated, ask, permit, granted 60s, exchange a, exchange b -> wait for b
         permit b -> exchange #1 of t1
         suspend 54s, ask, permit, granted 60s, permit a -> exchange #1 of t2";

    an_exchange_whose_subject_has_gone_waits_for_its_turn_again =>
        "gated, ask, permit, granted 60s, exchange a, invalidate t1 -> publish nothing
         permit a -> publish nothing
         +1s -> wait for the grant
         permit, granted 60s -> publish t2; wait for a
         permit a -> exchange #1 of t2";

    an_exchange_that_is_given_no_leave_fails_and_its_key_rests =>
        "gated, ask, permit, granted 60s, exchange a, no_permit a 429 5s -> 2: failed
         exchange a -> 3: cooling
         exchange b -> wait for b";

    an_exchange_that_waited_for_a_grant_without_leave_takes_the_subject_that_there_is =>
        "at_once 1, gated, ask, permit, granted 1h, suspend 600s, exchange b, permit b, exchange a 3200s
         ask 3200s -> publish t1; wait for the grant
         no_permit 429 -> publish t1; 4: t1
         +1s, exchanged 600s -> wait for a; 2: x1";

    those_that_wait_for_leave_count_as_if_they_were_on_the_wire =>
        "at_once 1, gated, ask, permit, granted 60s, exchange a -> wait for a
         exchange b -> nothing
         permit a, exchanged 60s -> wait for b; 2: x1";

    a_failing_endpoint_has_one_probe_that_waits =>
        "gated, ask, permit, granted 1h, exchange a, permit a, exchange_fails transport -> nothing
         exchange b -> nothing
         +250ms -> wait for a
         exchange b -> nothing";

    a_manager_that_is_gated_no_more_lets_all_go =>
        "gated, ask, ungated -> no wait for the grant; grant #1";
}
