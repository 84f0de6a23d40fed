//! What the machine publishes for readers, as far as it is the machine that decides it.

#![cfg(feature = "testing")]

#[path = "common/machine.rs"]
mod machine;

use ccg_session::RefreshMode;
use machine::{Session, at_least, denied, millis, scope, secs, transient};

/// A token of 60 s is held: stale after 28.5 s.
fn fresh() -> Session {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted(secs(60));
    session
}

// `ask_at`

#[test]
fn without_a_token_ask_at_is_now() {
    assert_eq!(Session::with(|_| ()).ask_at(), Some(secs(0)));
}

#[test]
fn with_a_token_ask_at_is_its_stale_at() {
    assert_eq!(fresh().ask_at(), Some(millis(28_500)));
}

#[test]
fn ask_at_does_not_come_while_a_flight_is_open() {
    let mut session = fresh();
    session.suspend(millis(28_500));
    session.asked();
    assert_eq!(session.ask_at(), None, "an attempt is on the wire");
    session.grant_fails(transient());
    assert_eq!(session.ask_at(), None, "between attempts");
    session.pass(millis(125));
    session.granted(secs(60));
    assert_eq!(session.ask_at(), Some(millis(28_500)));
}

#[test]
fn ask_at_does_not_come_while_the_barrier_is_up() {
    let mut session = fresh();
    session.revoke();
    assert_eq!(session.ask_at(), None);
    session.confirmed();
    assert_eq!(session.ask_at(), Some(secs(0)));
}

#[test]
fn ask_at_is_the_later_of_stale_at_and_not_before() {
    let mut session = fresh();
    session.suspend(secs(10));
    session.ask_with(at_least(secs(52)));
    session.grant_fails(transient());
    session.pass(millis(125));
    session.grant_fails(transient());
    session.pass(millis(250));
    session.grant_fails(transient());
    assert_eq!(
        session.ask_at(),
        Some(millis(18_500 - 375)),
        "stale_at, not_before has come by then"
    );
    session.pass(secs(20));
    session.all_fail(&denied());
    session.read();
    session.all_fail(&denied());
    assert_eq!(session.ask_at(), Some(secs(30)), "not_before");
}

// Asked

#[test]
fn an_asked_of_another_snapshot_is_ignored() {
    let mut session = fresh();
    let number = session.published.number;
    session.suspend(secs(30));
    assert_eq!(session.asked_of(number - 1), "nothing");
    assert_eq!(session.asked_of(number + 1), "nothing");
    assert_eq!(session.asked_of(number), "publish t1; grant #1");
}

#[test]
fn an_asked_of_another_snapshot_is_no_use_either() {
    let mut session = fresh();
    session.asked_of(session.published.number - 1);
    assert_eq!(session.pass(secs(60)), "nothing");
}

#[test]
fn a_stale_token_costs_one_message_per_snapshot() {
    let mut session = fresh();
    session.suspend(secs(30));
    assert_eq!(session.read(), "fast: t1; publish t1; grant #1");
    for _ in 0..100 {
        assert_eq!(session.read(), "fast: t1");
    }
}

#[test]
fn the_first_snapshot_can_be_asked_about() {
    assert_eq!(Session::with(|_| ()).try_token(), "publish nothing; grant #1");
}

// Published whenever it differs, and only then

#[test]
fn what_readers_see_already_is_not_published_again() {
    let mut session = fresh();
    assert_eq!(session.ask(), "2: t1");
    assert_eq!(session.exchange(scope("a")), "exchange #1 of t1");
    assert_eq!(session.exchanged(secs(60)), "3: x1");
    assert_eq!(session.timer(), "nothing");
    assert_eq!(session.leave(1), "nothing");
}

#[test]
fn the_same_token_again_is_published_as_a_new_generation() {
    let mut session = Session::with(|_| ());
    session.ask();
    session.granted_as("same", secs(60));
    let before = session.id("same");
    session.suspend(secs(30));
    session.ask();
    assert_eq!(session.granted_as("same", secs(60)), "publish same");
    assert!(session.id("same") > before);
}

#[test]
fn a_failed_attempt_publishes_that_the_token_is_usable_to_its_end() {
    let mut session = fresh();
    session.suspend(secs(30));
    session.ask();
    session.grant_fails(transient());
    let token = session.published.token.as_ref().expect("a token");
    assert_eq!(token.usable_until.since(session.now), secs(30));
}

#[test]
fn what_cools_is_published_with_its_end_and_no_longer_once_a_flight_is_open() {
    let mut session = Session::with(|_| ());
    session.ask();
    assert!(session.published.cooling.is_none());
    session.grant_fails(denied());
    let cooling = session.published.cooling.as_ref().expect("a failure");
    assert_eq!(cooling.until.since(session.now), secs(30));
    assert_eq!(cooling.last.to_string(), denied().to_string());
    session.pass(secs(30));
    session.ask();
    assert!(session.published.cooling.is_none());
    session.granted(secs(60));
    assert!(session.published.cooling.is_none());
}

#[test]
fn closed_is_published_without_a_token() {
    let mut session = fresh();
    session.shutdown();
    assert!(session.published.closed);
    assert_eq!(session.published_token(), None);
    assert_eq!(session.ask_at(), None);
}

// Doubts

#[test]
fn a_doubt_that_is_dismissed_is_published_as_such() {
    let mut session = fresh();
    session.invalidate("t1");
    session.ask();
    session.pass(secs(1));
    session.granted(secs(60));
    assert_eq!(session.read(), "fast: t2");
    assert_eq!(session.invalidate("t2"), "publish t2");
    assert_eq!(session.published.token.as_ref().expect("a token").doubts_dismissed, 1);
    assert_eq!(session.read(), "fast: t2", "the doubt no longer counts");
}

#[test]
fn a_doubt_outlives_a_publish_of_the_same_token() {
    let mut session = fresh();
    session.suspend(secs(30));
    session.ask();
    let dismissed = session.published.token.as_ref().expect("a token").doubts_dismissed;
    session.grant_fails(transient());
    let after = session.published.token.as_ref().expect("a token").doubts_dismissed;
    assert_eq!(dismissed, after, "a doubt of before still counts");
}

// `used`

#[test]
fn use_is_counted_from_the_last_publish_on() {
    let mut session = fresh();
    session.read();
    session.suspend(secs(10));
    session.ask_with(at_least(secs(52)));
    assert_eq!(session.grant_fails(denied()), "publish t1; 2: t1");
    assert_eq!(session.pass(secs(60)), "nothing", "nobody used this snapshot");
}

#[test]
fn an_idle_session_sends_nothing_more() {
    let mut session = fresh();
    assert_eq!(session.deadline(), Some(millis(28_500)), "it looks whether it was used");
    session.pass(secs(86_400));
    assert_eq!(session.grants().len(), 1);
    assert_eq!(session.deadline(), None, "and then sleeps");
}

#[test]
fn an_always_session_is_woken_before_its_first_event() {
    let session = Session::of(RefreshMode::Always);
    assert_eq!(session.deadline(), Some(secs(0)));
    assert_eq!(Session::with(|_| ()).deadline(), None);
}
