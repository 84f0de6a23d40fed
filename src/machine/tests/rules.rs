//! The rules that the event table rests on, apart from those with a file of their own: 1 and 2 in
//! `storms.rs`, 5 in `revoke_barrier.rs`.

use super::driver::Session;
use super::script::scripts;
use crate::config::SessionConfig;

/// How many tokens the ledger holds.
const LEDGER: usize = 4_096;

// Rule 3: Invalidate names a generation
scripts! {
    an_older_generation_is_ignored =>
        "fresh_for_1h, suspend 3000s, ask, granted 1h, invalidate t1 -> nothing
         read -> fast: t2";

    the_second_of_two_invalidations_of_one_token_is_ignored =>
        "fresh_for_1h, invalidate t1 -> publish nothing
         invalidate t1 -> nothing";

    ten_seconds_after_an_honoured_invalidate_the_next_is_honoured =>
        "fresh_for_1h, invalidate t1, ask, +1s, granted 1h
         suspend 8999ms, invalidate t2 -> publish t2
         suspend 1ms, invalidate t2 -> publish nothing";

    an_invalidate_that_was_not_honoured_does_not_prolong_the_10_s =>
        "fresh_for_1h, invalidate t1, ask, +1s, granted 1h
         suspend 4s, invalidate t2 -> publish t2
         suspend 4s, invalidate t2 -> publish t2
         suspend 1s, invalidate t2 -> publish nothing";

    the_next_grant_is_told_which_token_was_refused =>
        "holding, refused -> nothing",
        "fresh_for_1h, suspend 1s, invalidate t1, ask, refused -> t1";

    an_exchanged_token_that_is_refused_leaves_the_cache_and_nothing_else_does =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 10s, exchange b, exchanged 600s
         invalidate x1 -> nothing
         exchange b -> 4: x2
         exchange a -> exchange #1 of t1
         read -> fast: t1";

    an_exchanged_token_younger_than_10_s_stays =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 9999ms, invalidate x1
         exchange a -> 3: x1";

    a_refused_exchanged_token_stays_in_the_ledger =>
        "fresh_for_1h, exchange a, exchanged 600s, suspend 10s, invalidate x1
         revoke -> publish nothing; revoke x1; revoke t1";
}

#[test]
fn another_sessions_token_of_the_same_generation_is_ignored() {
    let mut other = Session::numbered(8, SessionConfig::default());
    other.play("fresh");
    let mut session = Session::new();
    session.play("fresh");
    assert_eq!(session.id("t1").generation(), other.id("t1").generation());
    assert_eq!(session.invalidate_id(other.id("t1")), "nothing");
}

#[test]
fn one_counter_serves_both_kinds_of_tokens() {
    let mut session = Session::new();
    session.play("fresh, exchange a, exchanged 60s");
    assert_eq!((session.id("t1").generation(), session.id("x1").generation()), (1, 2));
}

// Rule 4: the ledger
scripts! {
    every_token_that_was_received_is_revoked_until_it_expires =>
        "holding, granted 600s, exchange a, exchanged 500s, suspend 320s, ask, granted 1h
         suspend 1s, invalidate t2, revoke -> publish nothing; revoke x1; revoke t1; revoke t2";

    expired_tokens_are_not_sent =>
        "fresh, exchange a, exchanged 20s, suspend 20s, revoke -> publish nothing; revoke t1";

    a_token_that_is_dead_for_callers_may_be_alive_for_others_and_is_revoked =>
        "fresh_for_1h, suspend 3000s, ask, suspend 6s, granted 5s
         revoke -> publish nothing; revoke t2; revoke t1";

    a_token_that_comes_twice_is_sent_once_and_its_later_expiry_counts =>
        "holding, granted 1h as same, suspend 3000s, ask, granted 60s as same, suspend 300s
         revoke -> publish nothing; revoke same
         revocations -> 1";

    a_marked_token_that_is_granted_again_is_a_failed_attempt =>
        "holding, granted 1h as same, revoke, confirmed, suspend 1s, ask
         granted 1h as same -> nothing
         +125ms -> grant #2
         granted 1h as same, +250ms -> grant #3
         granted 1h as same -> publish nothing; 3: failed";

    a_marked_token_that_an_exchange_gives_is_a_failed_attempt =>
        "fresh_for_1h, exchange a, exchanged 1h as same, revoke, confirmed
         suspend 1s, exchange a, granted 1h, exchanged 1h as same -> nothing
         +125ms -> exchange #2 of t2
         exchanged 1h -> 4: x1";

    a_token_of_unknown_life_is_reached_for_a_day_after_it_was_last_heard_of =>
        "holding, granted untold, suspend 86399.999s, revoke -> publish nothing; revoke t1",
        "holding, granted untold, suspend 24h, revoke -> publish nothing; 2: revoked",
        "holding, granted untold as same, suspend 20h, ask, granted untold as same
         suspend 20h, revoke -> publish nothing; revoke same",
        // To be sent is to be heard of, and so is to be confirmed.
        "holding, granted untold, suspend 20h, revoke, revocations_fail denied
         suspend 20h, revoke -> publish nothing; revoke t1",
        "holding, granted untold, suspend 20h, revoke, revocations_fail denied
         suspend 24h, revoke -> 3: revoked",
        "holding, granted untold as same, revoke, suspend 20h, confirmed
         suspend 20h, ask, granted 1h as same -> nothing // it is marked";

    a_life_that_is_told_after_all_ends_the_day_of_one_unknown =>
        "fresh_for_1h, exchange a, exchange b, exchanged untold as same, exchanged 24h as same
         suspend 20h, revoke, revocations_fail denied, suspend 4h, revoke -> 5: revoked";

    the_30_days_cap_the_use_of_a_token_and_not_its_revocation =>
        "holding, granted 100d, suspend 99d, revoke -> publish nothing; revoke t1",
        "holding, granted 100d, suspend 100d, revoke -> publish nothing; 2: revoked";

    of_unknown_life_none_is_kept_where_it_could_not_be_revoked =>
        "can exchange, holding, granted untold
         can exchange and revoke, revoke -> publish nothing; 2: revoked",
        "can exchange, holding, granted 1h
         can exchange and revoke, revoke -> publish nothing; revoke t1",
        // Unless it is there already.
        "holding, granted 1h as same, can exchange, suspend 1h, ask, granted untold as same
         can exchange and revoke, revoke -> publish nothing; 3: revoked",
        "holding, granted 1h as same, can exchange, suspend 3000s, ask, granted untold as same
         can exchange and revoke, suspend 1h, revoke -> publish nothing; revoke same";

    a_server_that_repeats_a_marked_token_is_believed_after_a_day =>
        "holding, granted 100d as same, revoke, confirmed, suspend 86399.9s
         ask, granted 100d as same -> nothing
         suspend 125ms, timer -> grant #2
         granted 100d as same -> publish same; 3: same
         revoke -> publish nothing; revoke same // it is a new one",
        // A day is over as it ends.
        "holding, granted 100d as same, revoke, confirmed, suspend 24h
         ask, granted 100d as same -> publish same; 3: same",
        "holding, granted 86401s as same, revoke, confirmed, suspend 24h, ask, granted untold as same
         suspend 23h, revoke -> publish nothing; revoke same // its life is the new one's",
        // What is repeated does not renew its mark.
        "holding, granted 100d as same, revoke, confirmed, suspend 20h
         ask, granted untold as same, suspend 4h, timer -> grant #2
         granted 100d as same -> publish same; 3: same",
        // Nor its life, where that is unknown.
        "attempts 1, holding, granted untold as same, revoke, revocations_fail denied, suspend 20h
         ask, granted untold as same -> publish nothing; 3: failed
         suspend 4h, revoke -> 4: revoked",
        "attempts 1, holding, granted 1h as same, revoke, confirmed, suspend 1s, ask
         granted 1h as same -> publish nothing; 3: failed
         error 3 -> the server sent an unusable token: it has been revoked; if the server goes on to repeat it, it is taken again 24 hours after the revoke";

    a_marked_token_that_was_not_confirmed_is_a_failed_attempt_too =>
        "holding, granted 1h as same, revoke, revocations_fail denied, suspend 1s, ask
         granted 1h as same -> nothing";
}

#[test]
fn beyond_4096_tokens_the_first_to_expire_leaves_the_ledger_with_a_warning() {
    let mut session = Session::new();
    // Nothing is cached, for speed. The session's own token is the first to expire.
    session.play("capacity 0, fresh_for_1h");
    session.history.is_crowded = true;
    for number in 1..LEDGER {
        session.play(&format!("exchange {number}, exchanged {}s", 36_000 + number));
    }
    session.play(
        "exchange again, exchanged 20h as x7 -> 4097: x7 // which takes no place
         exchange more, exchanged 20h -> 4098: x4096; warn: more live tokens than a revoke can \
         reach: TokenId { session: 7, generation: 2 } can no longer be revoked",
    );
    // It is the first to expire, and stays nevertheless. What is only heard of stays away.
    session.play(
        "exchange soon, exchanged 60s -> 4099: x4097; warn: more live tokens than a revoke can \
         reach: TokenId { session: 7, generation: 3 } can no longer be revoked
         hear stranger -> nothing",
    );
    session.play(
        "revoke -> publish nothing; revoke x4097; revoke t1; revoke x3; revoke x4; revoke x5; revoke x6; \
         revoke x8; revoke x9 // not x1 and x2, and the session's own though it expires before them",
    );
}

// Rule 6: min_remaining
scripts! {
    min_remaining_is_served_from_what_is_left =>
        "holding, granted 100s, suspend 40s, ask 60s -> 2: t1
         ask 61s -> publish t1; grant #1";

    min_remaining_counts_as_at_most_nine_tenths_of_the_life =>
        "holding, granted 100s, suspend 10s, ask 1h -> 2: t1
         suspend 1ms, ask 1h -> publish t1; grant #1";

    min_remaining_waits_for_one_attempt_that_ends_and_takes_the_usable_token_there_is =>
        "holding, granted 100s, suspend 20s, ask 90s, +10s -> publish t1; 2: t1",
        "holding, granted 100s, suspend 20s, ask 90s
         granted 50s -> publish t2; 2: t2 // less than it had asked for";

    min_remaining_never_makes_an_error_of_a_usable_token =>
        "holding, granted 100s, suspend 20s, ask 90s, grant_fails denied -> publish t1; 2: t1
         ask 90s -> 3: t1";

    min_remaining_does_not_outlive_the_token =>
        "holding, granted 5s, suspend 4s, ask 4s, suspend 1s
         grant_fails denied -> publish t1; 2: failed";
}

// Rule 7: ip
scripts! {
    ip_decides_nothing_about_a_token_that_is_there =>
        "fresh_for_1h, ask ip1 -> 2: t1
         exchange a ip1, exchanged 60s, exchange a ip2 -> 4: x1";

    the_options_of_a_refresh_do_not_stick =>
        "ask ip1, granted 60s, suspend 60s, ask, options -> no ip; 0ns";
}

// Rule 8: max_held
scripts! {
    above_max_held_callers_are_told_overloaded =>
        "max_held 2, ask, ask, ask -> 3: overloaded
         exchange a -> 4: overloaded
         revoke -> 5: overloaded
         granted 60s -> publish t1; 1: t1; 2: t1
         ask -> 6: t1";

    gets_exchanges_and_revokes_count_together =>
        "max_held 2, exchange a, revoke, ask -> 3: overloaded",
        "max_held 2, ask, exchange a, exchange a -> 3: overloaded";

    one_who_leaves_makes_room =>
        "max_held 2, ask, ask, leave 1, ask -> nothing
         waiting -> 2 3";

    above_max_held_an_unexpired_token_is_given_where_there_is_one =>
        "max_held 2, unusable, ask, ask, ask -> 4: t1
         suspend 6s, ask -> 5: overloaded";

    above_max_held_an_unexpired_exchanged_token_is_given_where_there_is_one =>
        "max_held 2, fresh_for_1h, exchange a, exchanged 100s, suspend 90s, exchange b, exchange c
         exchange a -> 5: x1
         suspend 10s, exchange a -> 6: overloaded";

    a_crowd_does_not_keep_those_away_who_need_not_wait_and_a_revoke_changes_nothing =>
        "max_held 2, fresh_for_1h, exchange a, exchange b, ask -> 4: t1
         exchange_fails 503 -> nothing
         revoke -> 5: overloaded
         read -> fast: t1";
}

#[test]
fn a_held_caller_is_answered_at_the_end_of_its_flight_however_many_revokes_come() {
    let mut session = Session::new();
    session.play("ask");
    for _ in 0..20 {
        session.play("revoke, all_succeed 60s, +1s");
    }
    session.play("all_succeed 60s, waiting -> nobody");
}
