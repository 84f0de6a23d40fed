//! The shortest traces that broke an earlier design, each named after what went wrong; `src/docs/design.md` has
//! them with the rules that prevent them. As in the model that found them: a token of 60 s (stale at 28.5 s, hold at 54 s), 2 attempts of 10 s,
//! cooling 30 s.

use super::driver::Session;
use super::script::scripts;

scripts! {
    a_revoke_is_ok_while_an_attempt_that_was_given_up_is_still_out =>
        "attempts 2, ask, suspend 10s, revoke -> nothing // the attempt has not ended yet
         granted 60s -> revoke t1 // so its token is reached
         confirmed -> grant #1; 2: revoked";

    two_grants_on_the_wire =>
        "attempts 2, ask, suspend 10.125s, timer -> nothing // the first attempt has not ended yet
         grants -> 1";

    a_revoke_jumps_retry_after =>
        "attempts 2, asked, grant_fails 429 12s, revoke -> 1: revoked
         ask -> 2: cooling
         +11.999s -> nothing
         ask -> 3: cooling
         +1ms, ask -> publish nothing; grant #1";

    a_grant_30_s_too_early =>
        "attempts 2, stale, read, revoke -> publish nothing; revoke t1
         grant_fails denied -> publish nothing
         ask -> 3: cooling
         confirmed -> publish nothing; 2: revoked
         ask -> 4: cooling";

    try_token_starves_since_its_asked_came_while_cooling =>
        "attempts 2, cooling, ask_at -> 30s // readers know when to ask
         +30s, try_token -> publish nothing; grant #1";

    try_token_starves_since_its_asked_came_behind_the_barrier =>
        "attempts 2, revoking, try_token -> nothing
         suspend 1s, confirmed, try_token -> publish nothing; grant #1";

    a_grant_that_nobody_wants_right_after_logging_out =>
        "attempts 2, stale, revoke, confirmed, asked of 2 -> nothing // the stale token's snapshot
         +60s -> nothing";

    an_attempt_with_a_time_out_of_zero =>
        "attempts 2, ask, grant_fails 503, suspend 1h, timer -> grant #2
         timeout -> 10s";

    an_error_with_6_s_of_life_left =>
        "attempts 2, fresh, suspend 15s, ask 50s -> publish t1; grant #1
         suspend 10s, grant_fails denied -> publish t1; 2: t1
         suspend 29s, ask -> 3: t1";

    the_refused_token_is_handed_out =>
        "attempts 2, unusable, ask, invalidate t1 -> publish nothing
         grant_fails 503 -> nothing
         +125ms, grant_fails 503 -> publish nothing; 2: failed";

    a_revoked_token_is_handed_out =>
        "attempts 2, ask, revoke, granted 60s as same, suspend 1s
         confirmed -> grant #1; 2: revoked
         granted 60s as same -> nothing // a failed attempt
         +125ms -> grant #2
         granted 60s -> publish t1; 1: t1";

    the_ledger_forgets_a_token_after_1_5_s =>
        "attempts 2, ask, revoke, granted 1.5s as same, suspend 1s
         revocations_fail denied -> grant #1; 2: failed
         granted 60s as same -> nothing
         suspend 2s, timer -> grant #2
         granted 60s as same -> publish nothing; 1: failed";

    a_caller_is_held_for_ever =>
        "attempts 2, fresh, revoke, ask, confirmed -> 2: revoked // the flight is open, and waits
         +1s, grant_fails 503, suspend 1h, timer -> grant #2
         granted 60s -> publish t2; 3: t2";

    a_key_that_failed_is_the_probe_for_ever =>
        "attempts 1, fresh_for_1h, exchange a, exchange_fails 503, exchange b -> 3: cooling
         +562.5ms, exchange a -> 4: cooling
         exchange b -> exchange #1 of t1";

    an_exchange_from_a_revoked_subject_is_joined =>
        "attempts 2, fresh, exchange a, hear t1, exchange a, exchanged 60s -> 2: x1
         +1s -> grant #1
         granted 60s -> publish t2; exchange #1 of t2
         exchanged 60s -> 3: x2";

    a_token_that_arrives_past_its_own_hold_at_holds_callers_for_ever =>
        "attempts 2, ask, suspend 9s, granted 10s -> publish t1; 1: t1";
}

#[test]
fn each_revoke_lets_the_next_attempt_go_at_once() {
    let mut session = Session::with(|config| config.retry.attempts = 2);
    for _ in 0..100 {
        session.play("ask, all_fail 503, revoke");
    }
    session.play("grants -> 1 // no time has passed");
}
