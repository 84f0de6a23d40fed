//! The instants of a token's life, and what they mean to callers.

use std::time::Duration;

use super::driver::{Session, millis, secs};
use super::script::scripts;
use crate::config::{RefreshMode, SessionConfig};

/// As good as one.
const MOST: f64 = 0.999_999_999;

/// `stale_at` and `hold_at` of a token of this life, counted from when it was asked for.
fn instants(
    life: &str,
    random: f64,
    change: impl FnOnce(&mut SessionConfig),
) -> (Duration, Duration) {
    let mut session = Session::with(change);
    session.random = random;
    session.play(&format!("ask, granted {life}"));
    (session.ask_at().expect("an ask_at"), session.usable_for())
}

#[test]
fn buffers_are_10_min_and_30_s_capped_by_half_and_a_tenth_of_the_life() {
    for (life, stale, hold) in [
        ("1h", secs(3_000), secs(3_570)),
        ("1200s", secs(600), secs(1_170)),
        ("300s", secs(150), secs(270)),
        ("60s", secs(30), secs(54)),
        ("1s", millis(500), millis(900)),
    ] {
        assert_eq!(instants(life, 0.0, |_| ()), (stale, hold), "{life}");
    }
}

#[test]
fn the_originals_buffer_can_be_had() {
    let buffers = |config: &mut SessionConfig| config.expired_buffer = secs(180);
    assert_eq!(instants("1h", 0.0, buffers), (secs(3_000), secs(3_420)));
    assert_eq!(instants("600s", 0.0, buffers), (secs(300), secs(540)));
}

#[test]
fn chance_makes_a_token_stale_earlier_by_up_to_a_tenth_of_the_buffer() {
    for (random, stale) in [(0.0, 3_000_u64), (0.25, 2_985), (0.5, 2_970), (MOST, 2_940)] {
        let (at, hold) = instants("1h", random, |_| ());
        assert!(at.abs_diff(secs(stale)) < millis(1), "{at:?} with {random}");
        assert_eq!(hold, secs(3_570), "chance moves nothing else");
    }
}

#[test]
fn stale_at_is_never_after_hold_at() {
    for life in [1, 2, 10, 59, 60, 300, 3_600, 86_400] {
        for (stale, expired) in [(600, 30), (600, 599), (2, 1), (1, 0), (86_400, 86_399)] {
            for random in [0.0, 0.5, MOST] {
                let (stale_at, hold_at) = instants(&format!("{life}s"), random, |config| {
                    config.stale_buffer = secs(stale);
                    config.expired_buffer = secs(expired);
                });
                assert!(stale_at <= hold_at, "{life} {stale} {expired} {random}");
                assert!(hold_at >= secs(life).mul_f64(0.9), "{life} {stale} {expired}");
            }
        }
    }
}

#[test]
fn refresh_in_is_stale_at_between_a_tenth_of_the_life_and_hold_at() {
    for (refresh_in, stale) in [
        ("0s", "3000s"),
        ("359s", "3000s"),
        ("360s", "360s"),
        ("1800s", "1800s"),
        ("3569.999s", "3569.999s"),
        ("3570s", "3570s"),
        ("3570.001s", "3000s"),
        ("3600s", "3000s"),
        ("1000000d", "3000s"),
    ] {
        let mut session = Session::new();
        session.random = 0.0;
        session.play(&format!(
            "holding, granted 1h refresh_in {refresh_in}, ask_at -> {stale}
             usable -> 3570s // nothing else moves"
        ));
    }
}

#[test]
fn refresh_in_counts_from_when_the_request_was_sent_and_chance_moves_it_ahead() {
    let story = |random, story: &str| {
        let mut session = Session::new();
        session.random = random;
        session.play(story);
    };
    // By up to a tenth of the rest of the life.
    story(
        0.0,
        "holding, suspend 4s, granted 1h refresh_in 1800s, ask_at -> 1796s
         suspend 1796s, read -> fast: t1; publish t1; grant #1",
    );
    story(0.5, "holding, suspend 4s, granted 1h refresh_in 1800s, ask_at -> 1706s");
    // Not before a tenth of the life.
    story(0.5, "holding, granted 1h refresh_in 400s, ask_at -> 360s");
}

#[test]
fn a_life_is_capped_at_30_days() {
    let days = secs(30 * 24 * 60 * 60);
    for life in ["30d", "31d", "1000000d"] {
        let expected = (days.abs_diff(secs(600)), days.abs_diff(secs(30)));
        assert_eq!(instants(life, 0.0, |_| ()), expected, "{life}");
    }
}

scripts! {
    a_life_is_counted_from_when_the_request_was_sent =>
        "holding, suspend 4s, granted 60s, usable -> 50s
         ask_at -> 24.5s";

    a_token_whose_life_is_not_told_lives_as_long_as_assumed_and_one_warning_says_so =>
        "holding, granted untold -> publish t1; 1: t1; warn: the server sends no usable expires_in; assuming a token lifetime of 5m
         usable -> 270s
         suspend 300s, ask, granted untold -> publish t2; 2: t2";

    a_token_that_is_dead_on_arrival_is_a_failed_attempt_that_is_retried =>
        "holding, granted 0s -> nothing
         +125ms -> grant #2
         suspend 5s, granted 5s -> nothing // its life was used up on the way
         +250ms -> grant #3
         granted 0s -> publish nothing; 1: failed";

    a_token_dead_on_arrival_leaves_the_one_that_is_held_usable =>
        "fresh, suspend 55s, ask, granted 0s -> publish t1; 2: t1";

    from_hold_at_on_callers_wait_and_from_expires_at_on_nobody_gets_it =>
        "fresh, suspend 53.999s, read -> fast: t1; publish t1; grant #1
         suspend 1ms, read -> nothing // held, on the flight that the last one opened
         suspend 6s, grant_fails denied -> publish t1; 2: failed";

    once_an_attempt_has_failed_the_token_is_usable_until_it_expires =>
        "fresh, suspend 30s, read, grant_fails denied, usable -> 30s
         +29.999s, read -> fast: t1 // cooling for a moment yet
         +1ms, read -> publish t1; grant #1
         waiting -> 2";

    callers_wait_for_the_attempt_in_progress_once_per_outage =>
        "unusable, ask -> publish t1; grant #1
         ask -> nothing
         grant_fails 503 -> publish t1; 2: t1; 3: t1
         ask -> 4: t1
         +125ms -> grant #2
         ask -> 5: t1";

    an_attempt_that_failed_for_the_last_token_does_not_count_for_the_next =>
        "refreshing, grant_fails 503, +125ms, granted 60s, suspend 54s, ask -> publish t2; grant #1
         waiting -> 3";

    a_success_answers_all_who_wait_even_past_its_own_hold_at =>
        "holding, ask 9s, exchange a, suspend 9.5s
         granted 10s -> publish t1; exchange #1 of t1; 1: t1; 2: t1
         ask -> publish t1; grant #1 // the next one waits
         waiting -> 3 4";

    time_in_suspend_counts =>
        "fresh, suspend 2h, timer -> nothing
         ask -> publish t1; grant #1
         waiting -> 2";
}

#[test]
fn the_same_token_again_is_a_new_generation_and_halves_the_interval() {
    let mut session = Session::of(RefreshMode::Always);
    session.random = 0.0;
    session.play("timer");
    for (generation, left) in [800, 400, 200, 100, 50].into_iter().enumerate() {
        session.play(&format!("granted {left}s as same, ask_at -> {}s", left / 2));
        assert_eq!(session.id("same").generation(), generation as u64 + 1);
        session.play(&format!("+{}s", left / 2));
    }
}
