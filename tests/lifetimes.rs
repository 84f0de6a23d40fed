//! The instants of a token's life, and what they mean to callers.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use std::time::Duration;

use ccg_session::testing::internals::Warning;
use ccg_session::{RefreshMode, SessionConfig};
use machine::{Session, at_least, denied, millis, scope, secs, transient};

/// As good as one.
const MOST: f64 = 0.999_999_999;

/// `stale_at` and `hold_at` of a token of this life, counted from when it was asked for.
fn instants(
    life: Duration,
    random: f64,
    change: impl FnOnce(&mut SessionConfig),
) -> (Duration, Duration) {
    let mut session = Session::with(change);
    session.random = random;
    session.ask();
    session.granted(life);
    let token = session.published.token.as_ref().expect("a token");
    (session.ask_at().expect("an ask_at"), token.usable_until.since(session.now))
}

/// A token of this life has arrived, at once.
fn holds(life: Duration) -> Session {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted(life);
    session
}

#[test]
fn buffers_are_10_min_and_30_s_capped_by_half_and_a_tenth_of_the_life() {
    for (life, stale, hold) in [
        (secs(3_600), secs(3_000), secs(3_570)),
        (secs(1_200), secs(600), secs(1_170)),
        (secs(300), secs(150), secs(270)),
        (secs(60), secs(30), secs(54)),
        (secs(1), millis(500), millis(900)),
    ] {
        assert_eq!(instants(life, 0.0, |_| ()), (stale, hold), "{life:?}");
    }
}

#[test]
fn the_originals_buffer_can_be_had() {
    let buffers = |config: &mut SessionConfig| config.expired_buffer = secs(180);
    assert_eq!(instants(secs(3_600), 0.0, buffers), (secs(3_000), secs(3_420)));
    assert_eq!(instants(secs(600), 0.0, buffers), (secs(300), secs(540)));
}

#[test]
fn chance_makes_a_token_stale_earlier_by_up_to_a_tenth_of_the_buffer() {
    for (random, stale) in [(0.0, 3_000_u64), (0.25, 2_985), (0.5, 2_970), (MOST, 2_940)] {
        let (at, hold) = instants(secs(3_600), random, |_| ());
        assert!(at.abs_diff(secs(stale)) < millis(1), "{at:?} with {random}");
        assert_eq!(hold, secs(3_570), "chance moves nothing else");
    }
}

#[test]
fn stale_at_is_never_after_hold_at() {
    for life in [1, 2, 10, 59, 60, 300, 3_600, 86_400] {
        for (stale, expired) in [(600, 30), (600, 599), (2, 1), (1, 0), (86_400, 86_399)] {
            for random in [0.0, 0.5, MOST] {
                let (stale_at, hold_at) = instants(secs(life), random, |config| {
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
    let buffer = secs(3_000);
    for (refresh_in, stale) in [
        (Duration::ZERO, buffer),
        (secs(359), buffer),
        (secs(360), secs(360)),
        (secs(1_800), secs(1_800)),
        (millis(3_569_999), millis(3_569_999)),
        (secs(3_570), secs(3_570)),
        (millis(3_570_001), buffer),
        (secs(3_600), buffer),
        (Duration::MAX, buffer),
    ] {
        let mut session = Session::with(|_| ());
        session.random = 0.0;
        session.ask();
        session.granted_to_refresh(secs(3_600), refresh_in);
        assert_eq!(session.ask_at(), Some(stale), "{refresh_in:?}");
        let token = session.published.token.as_ref().expect("a token");
        assert_eq!(token.usable_until.since(session.now), secs(3_570), "nothing else moves");
    }
}

#[test]
fn refresh_in_counts_from_when_the_request_was_sent_and_chance_does_not_move_it() {
    let mut session = Session::with(|_| ());
    session.random = MOST;
    session.ask();
    session.suspend(secs(4));
    session.granted_to_refresh(secs(3_600), secs(1_800));
    assert_eq!(session.ask_at(), Some(secs(1_796)));
    session.suspend(secs(1_796));
    assert_eq!(session.read(), "fast: t1; publish t1; grant #1");
}

#[test]
fn a_life_is_capped_at_30_days() {
    const DAYS: Duration = secs(30 * 24 * 60 * 60);
    for life in [DAYS, DAYS + secs(1), Duration::MAX] {
        let expected = (DAYS.abs_diff(secs(600)), DAYS.abs_diff(secs(30)));
        assert_eq!(instants(life, 0.0, |_| ()), expected, "{life:?}");
    }
}

#[test]
fn a_life_is_counted_from_when_the_request_was_sent() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.suspend(secs(4));
    session.granted(secs(60));
    let token = session.published.token.as_ref().expect("a token");
    assert_eq!(token.usable_until.since(session.now), secs(50));
    assert_eq!(session.ask_at(), Some(millis(24_500)));
}

#[test]
fn a_token_whose_life_is_not_told_lives_as_long_as_assumed_and_one_warning_says_so() {
    let mut session = Session::with(|_| ());
    session.ask();
    assert_eq!(
        session.granted_for_unknown_time(),
        "publish t1; 1: t1; warn: the server sends no usable expires_in; its tokens are taken to live 5m"
    );
    let token = session.published.token.as_ref().expect("a token");
    assert_eq!(token.usable_until.since(session.now), secs(270));
    assert_eq!(session.warnings, [Warning::LifetimeAssumed(secs(300))]);
    session.suspend(secs(300));
    session.ask();
    session.granted_for_unknown_time();
    assert_eq!(session.warnings.len(), 1);
}

#[test]
fn a_token_that_is_dead_on_arrival_is_a_failed_attempt_that_is_retried() {
    let mut session = Session::with(|_| ());
    session.ask();
    assert_eq!(session.granted(Duration::ZERO), "nothing");
    assert_eq!(session.pass(millis(125)), "grant #2");
    session.suspend(secs(5));
    assert_eq!(session.granted(secs(5)), "nothing", "its life was used up on the way");
    assert_eq!(session.pass(millis(250)), "grant #3");
    assert_eq!(session.granted(Duration::ZERO), "publish nothing; 1: failed");
}

#[test]
fn a_token_dead_on_arrival_leaves_the_one_that_is_held_usable() {
    let mut session = holds(secs(60));
    session.suspend(secs(55));
    session.ask();
    assert_eq!(session.granted(Duration::ZERO), "publish t1; 2: t1");
}

#[test]
fn from_hold_at_on_callers_wait_and_from_expires_at_on_nobody_gets_it() {
    let mut session = holds(secs(60));
    session.suspend(millis(53_999));
    assert!(session.read().starts_with("fast: t1"));
    session.suspend(millis(1));
    assert_eq!(session.read(), "nothing", "held, on the flight that the last one opened");
    session.suspend(secs(6));
    assert_eq!(session.grant_fails(denied()), "publish t1; 2: failed");
}

#[test]
fn once_an_attempt_has_failed_the_token_is_usable_until_it_expires() {
    let mut session = holds(secs(60));
    session.suspend(secs(30));
    session.read();
    session.grant_fails(denied());
    session.pass(millis(29_999));
    assert_eq!(session.read(), "fast: t1", "cooling for a moment yet");
    session.pass(millis(1));
    assert_eq!(session.read(), "publish t1; grant #1");
    assert!(session.waits(2));
}

#[test]
fn callers_wait_for_the_attempt_in_progress_once_per_outage() {
    let mut session = holds(secs(60));
    session.suspend(secs(54));
    assert_eq!(session.ask(), "publish t1; grant #1");
    assert_eq!(session.ask(), "nothing");
    assert_eq!(session.grant_fails(transient()), "publish t1; 2: t1; 3: t1");
    assert_eq!(session.ask(), "4: t1");
    session.pass(millis(125));
    assert_eq!(session.on_wire().len(), 1);
    assert_eq!(session.ask(), "5: t1", "though an attempt is on the wire again");
}

#[test]
fn an_attempt_that_failed_for_the_last_token_does_not_count_for_the_next() {
    let mut session = holds(secs(60));
    session.suspend(secs(30));
    session.ask();
    session.grant_fails(transient());
    session.pass(millis(125));
    session.granted(secs(60));
    session.suspend(secs(54));
    assert_eq!(session.ask(), "publish t2; grant #1");
    assert!(session.waits(3));
}

#[test]
fn a_success_answers_all_who_wait_even_past_its_own_hold_at() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.ask_with(at_least(secs(9)));
    session.exchange(scope("a"));
    session.suspend(millis(9_500));
    assert_eq!(session.granted(secs(10)), "publish t1; exchange #1 of t1; 1: t1; 2: t1");
    assert_eq!(session.ask(), "publish t1; grant #1", "the next one waits");
}

#[test]
fn the_same_token_again_is_a_new_generation_and_halves_the_interval() {
    let mut session = Session::of(RefreshMode::Always);
    session.random = 0.0;
    session.timer();
    let dies_at = session.now + secs(800);
    let mut last = None;
    for wait in [400, 200, 100, 50, 25] {
        let left = dies_at.since(session.now);
        session.granted_as("same", left);
        let id = session.id("same");
        assert!(last < Some(id.generation()));
        last = Some(id.generation());
        assert_eq!(session.ask_at(), Some(secs(wait)));
        session.pass(secs(wait));
    }
}

#[test]
fn time_in_suspend_counts() {
    let mut session = holds(secs(60));
    session.suspend(secs(7_200));
    assert_eq!(session.timer(), "nothing");
    assert_eq!(session.ask(), "publish t1; grant #1");
    assert!(session.waits(2));
}
