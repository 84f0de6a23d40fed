//! What the machine publishes for readers, as far as it is the machine that decides it.

use std::sync::Arc;

use super::driver::Session;
use super::script::scripts;
use crate::config::RefreshMode::{Always, WhileUsed};
use crate::instant::Instant;
use crate::machine::{Cooling, Published};

// `ask_at`
scripts! {
    without_a_token_ask_at_is_now =>
        "ask_at -> 0ns";

    with_a_token_ask_at_is_its_stale_at =>
        "fresh, ask_at -> 28.5s";

    ask_at_does_not_come_while_a_flight_is_open =>
        "stale, asked, ask_at -> never // an attempt is on the wire
         grant_fails 503, ask_at -> never // between attempts
         +125ms, granted 60s, ask_at -> 28.5s";

    ask_at_does_not_come_while_the_barrier_is_up =>
        "revoking, ask_at -> never
         confirmed, ask_at -> 0ns";

    ask_at_is_the_later_of_stale_at_and_not_before =>
        "fresh, suspend 10s, ask 52s, grant_fails 503, +125ms, grant_fails 503, +250ms
         grant_fails 503, ask_at -> 18.125s // stale_at, not_before has come by then
         +20s, all_fail denied, read, all_fail denied, ask_at -> 30s // not_before";
}

// Asked
scripts! {
    an_asked_of_another_snapshot_is_ignored =>
        "fresh, suspend 30s, asked of 1 -> nothing
         asked of 3 -> nothing
         asked of 2 -> publish t1; grant #1";

    an_asked_of_another_snapshot_is_no_use_either =>
        "fresh, asked of 1, +60s -> nothing";

    a_stale_token_costs_one_message_per_snapshot =>
        "fresh, suspend 30s, read -> fast: t1; publish t1; grant #1
         read -> fast: t1
         grant_fails denied, read -> fast: t1
         suspend 29.9s, read -> fast: t1";

    the_first_snapshot_can_be_asked_about =>
        "try_token -> publish nothing; grant #1";
}

// Published whenever it differs, and only then
scripts! {
    what_readers_see_already_is_not_published_again =>
        "fresh, ask -> 2: t1
         exchange a -> exchange #1 of t1
         exchanged 60s -> 3: x1
         timer -> nothing
         leave 1 -> nothing";

    the_same_token_again_is_published_as_a_new_generation =>
        "ask, granted 60s as same, suspend 30s, ask, granted 60s as same -> publish same
         usable -> 54s";

    what_cools_is_published_with_its_end_and_no_longer_once_a_flight_is_open =>
        "holding, cools -> nothing
         grant_fails invalid_client no such client -> publish nothing; 1: failed
         cools -> 30s: refused before anything was sent: invalid_client: no such client
         +30s, ask, cools -> nothing
         granted 60s, cools -> nothing";

    a_doubt_that_is_dismissed_is_published_as_such =>
        "fresh, invalidate t1, ask, +1s, granted 60s, read -> fast: t2
         invalidate t2 -> publish t2
         doubts_dismissed -> 1
         read -> fast: t2 // the doubt no longer counts";

    a_doubt_outlives_a_publish_of_the_same_token =>
        "refreshing, grant_fails 503 -> publish t1
         doubts_dismissed -> 0";
}

#[test]
fn publications_differ_in_each_of_their_parts_but_their_number() {
    let published = |script| {
        let mut session = Session::new();
        session.play(script);
        session.history.published.clone()
    };
    let differs = |from: &Published, change: &dyn Fn(&mut Published)| {
        let mut other = from.clone();
        change(&mut other);
        !from.says_the_same(&other)
    };
    let fresh = published("fresh");
    assert!(!differs(&fresh, &|other| other.number += 1));
    assert!(differs(&fresh, &|other| other.token = None));
    assert!(differs(&fresh, &|other| other.ask_at = Instant::NEVER));
    assert!(differs(&fresh, &|other| other.closed = true));
    let cooling = published("cooling");
    let Some(Cooling { until, last }) = cooling.cooling.clone() else { panic!("it cools") };
    assert!(differs(&cooling, &|other| other.cooling = None));
    let later = Some(Cooling { until: Instant::NEVER, last: last.clone() });
    assert!(differs(&cooling, &|other| other.cooling = later.clone()));
    let another = Some(Cooling { until, last: Arc::new((*last).clone()) });
    assert!(differs(&cooling, &|other| other.cooling = another.clone()));
}

// `used`
scripts! {
    use_is_counted_from_the_last_publish_on =>
        "fresh, read, suspend 10s, ask 52s, grant_fails denied -> publish t1; 2: t1
         +60s -> nothing // nobody used this snapshot";

    an_idle_session_sends_nothing_more =>
        "fresh, deadline -> 28.5s // it looks whether it was used
         +1d -> nothing
         deadline -> never // and then sleeps";

    while_an_attempt_is_on_the_wire_there_is_nothing_to_be_woken_for in [Always, WhileUsed] =>
        "refreshing, deadline -> never";

    an_always_session_is_woken_before_its_first_event in [Always] =>
        "deadline -> 0ns";

    other_sessions_are_not =>
        "deadline -> never";
}
