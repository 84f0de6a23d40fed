//! Each point of the design's section "The snapshot", as far as a snapshot by itself can keep it. What
//! is published comes from the machine, so that no test makes up a state that never is.

#[path = "common/published.rs"]
mod published;

use std::sync::Arc;

use ccg_session::testing::internals::{Effects, Event, Moment, Reply, Snapshot};
use ccg_session::{Grant, SessionError, TokenError, TokenId, TokenRequestOptions};
use published::{LIFE, Session, at, plain, wants};

/// Whether the actor is told; `None` if that token is not the one published.
fn doubt(snapshot: &Snapshot, token: TokenId) -> Option<bool> {
    let mut told = false;
    snapshot.doubt(token, || told = true).then_some(told)
}

/// In words: `token`, an error, or `ask`.
fn read(snapshot: &Snapshot, seconds: u64, options: &TokenRequestOptions) -> String {
    match snapshot.read(at(seconds), options) {
        None => "ask".into(),
        Some(Ok(_)) => "token".into(),
        Some(Err(SessionError::Closed)) => "closed".into(),
        Some(Err(SessionError::Cooling { retry_after, .. })) => format!("cooling {retry_after:?}"),
        Some(Err(other)) => panic!("{other:?}"),
    }
}

#[test]
fn point_1_answers_what_it_can_and_sends_the_rest_to_the_actor() {
    let cases: &[(Session, &[(u64, &str)])] = &[
        (Session::new(), &[(0, "ask"), (1_000, "ask")]),
        // Fresh, stale, held, over.
        (
            Session::holding(),
            &[
                (0, "token"),
                (2_999, "token"),
                (3_000, "token"),
                (3_569, "token"),
                (3_570, "ask"),
                (3_600, "ask"),
            ],
        ),
        // After a failed attempt it is usable to its end. Then the cooling counts.
        (
            Session::holding_after_failure(),
            &[(3_100, "token"), (3_570, "token"), (3_599, "token"), (3_600, "ask")],
        ),
        (Session::cooling(), &[(0, "cooling 30s"), (29, "cooling 1s"), (30, "ask"), (31, "ask")]),
        (Session::closed(), &[(0, "closed"), (1, "closed"), (100_000, "closed")]),
    ];
    for (index, (session, expected)) in cases.iter().enumerate() {
        for (seconds, expected) in *expected {
            let answer = read(&session.snapshot(), *seconds, &plain());
            assert_eq!(answer, *expected, "case {index} at {seconds} s");
        }
    }
}

#[test]
fn point_1_gives_no_token_with_less_life_than_is_asked_for() {
    let snapshot = Session::holding().snapshot();
    for (seconds, min_remaining, expected) in [
        (0, 3_600, "token"), // counts as nine tenths
        (360, 3_600, "token"),
        (361, 3_600, "ask"),
        (361, 3_239, "token"),
        (1_000, 2_600, "token"),
        (1_001, 2_600, "ask"),
        (3_569, 31, "token"),
        (3_570, 1, "ask"),
    ] {
        let answer = read(&snapshot, seconds, &wants(min_remaining));
        assert_eq!(answer, expected, "{min_remaining} s wanted at {seconds} s");
    }
}

#[test]
fn point_1_the_last_error_is_given_only_where_there_is_no_usable_token() {
    let mut session = Session::holding();
    session.ask(at(3_580), plain());
    session.grant(at(3_580), Err(TokenError::denied("invalid_client", "no such client")));
    let snapshot = session.snapshot();
    assert_eq!(read(&snapshot, 3_599, &plain()), "token");
    assert_eq!(read(&snapshot, 3_600, &plain()), "cooling 10s");
    assert_eq!(read(&snapshot, 3_610, &plain()), "ask");
}

/// Everything that can be told without the actor is what the actor would have told.
#[test]
fn point_1_gives_only_what_the_machine_would_have_given() {
    let mut refreshing = Session::holding();
    refreshing.ask(at(3_100), plain());
    let mut revoking = Session::holding();
    revoking.handle(at(10), Event::Revoke(9, (), plain()));
    let mut revoking_while_cooling = Session::cooling();
    revoking_while_cooling.handle(at(10), Event::Revoke(9, (), plain()));
    let mut holding_on = Session::holding();
    holding_on.ask(at(3_575), plain());
    let sessions = [
        Session::new(),
        Session::holding(),
        Session::holding_after_failure(),
        Session::cooling(),
        Session::closed(),
        refreshing,
        revoking,
        revoking_while_cooling,
        holding_on,
    ];
    let mut answered = 0;
    for (index, session) in sessions.iter().enumerate() {
        let snapshot = session.snapshot();
        for seconds in (0..3_700).step_by(5).map(|seconds| seconds + 1) {
            for options in [plain(), wants(30), wants(700), wants(100_000)] {
                let Some(answer) = snapshot.read(at(seconds), &options) else { continue };
                let machine = session.clone().ask(at(seconds), options).replies.pop();
                let Some(((), Reply::Token(given))) = machine else {
                    panic!("case {index} at {seconds} s: {answer:?}, but the machine lets wait");
                };
                match (answer, given) {
                    (Ok(answer), Ok(given)) => assert_eq!(*answer, given),
                    (Err(answer), Err(given)) => {
                        assert_eq!(format!("{answer:?}"), format!("{given:?}"));
                    }
                    different => panic!("case {index} at {seconds} s: {different:?}"),
                }
                answered += 1;
            }
        }
    }
    assert!(answered > 5_000, "{answered}");
}

#[test]
fn point_2_the_first_reader_marks_it_used() {
    let snapshot = Session::holding().snapshot();
    assert!(!snapshot.is_used());
    assert!(!snapshot.note_use(at(1)), "before ask_at nobody need be told");
    assert!(snapshot.is_used());
    assert!(!snapshot.note_use(at(2)));
}

#[test]
fn point_2_one_reader_asks_from_ask_at_on() {
    let snapshot = Session::holding().snapshot();
    assert!(!snapshot.note_use(at(2_999)));
    assert!(snapshot.note_use(at(3_000)), "the one that turns `asked` on tells the actor");
    assert!(!snapshot.note_use(at(3_000)));
    assert!(!snapshot.note_use(at(3_599)));
}

#[test]
fn point_2_of_many_readers_at_once_exactly_one_asks() {
    let snapshot = Arc::new(Session::holding().snapshot());
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let snapshot = Arc::clone(&snapshot);
            std::thread::spawn(move || (0..1_000).filter(|_| snapshot.note_use(at(3_001))).count())
        })
        .collect();
    let asked: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert_eq!(asked, 1);
}

#[test]
fn point_2_nobody_asks_while_a_flight_is_open_or_the_server_is_left_alone() {
    let mut refreshing = Session::holding();
    refreshing.ask(at(3_100), plain());
    assert!(!refreshing.snapshot().note_use(at(3_200)));
    let mut revoking = Session::holding();
    revoking.handle(at(1), Event::Revoke(9, (), plain()));
    assert!(!revoking.snapshot().note_use(at(3_200)));
    let cooling = Session::cooling().snapshot();
    assert!(!cooling.note_use(at(29)));
    assert!(cooling.note_use(at(30)), "with no token: from `not_before` on");
    assert!(!Session::closed().snapshot().note_use(at(100_000)));
    assert!(Session::new().snapshot().note_use(at(0)), "nothing published yet: at once");
}

#[test]
fn point_2_a_snapshot_that_follows_is_neither_used_nor_asked_about() {
    let mut session = Session::holding();
    let first = session.snapshot();
    assert!(first.note_use(at(3_001)));
    session.ask(at(3_001), plain());
    session.fail(at(3_001));
    let second = first.followed_by(session.published.clone());
    assert!(second.number() > first.number());
    assert!(!second.is_used());
    assert!(second.note_use(at(3_100)));
}

#[test]
fn point_2_an_asked_of_another_snapshot_is_ignored() {
    let mut session = Session::holding();
    let number = session.published.number;
    for other in [number - 1, number + 1] {
        assert!(session.handle(at(3_001), Event::Asked(other)).start.is_empty());
    }
    assert_eq!(session.handle(at(3_001), Event::Asked(number)).start.len(), 1);
}

#[test]
fn point_3_only_the_first_doubt_of_the_published_token_is_news() {
    let session = Session::holding();
    let snapshot = session.snapshot();
    let other = {
        let mut other = Session::holding();
        other.handle(at(20), Event::Invalidate(other.token().id()));
        other.ask(at(20), plain());
        other.grant(at(20), Ok(Grant::bearer("two").unwrap()));
        other.token().id()
    };
    assert_eq!(doubt(&snapshot, other), None, "it is not the one published");
    assert_eq!(read(&snapshot, 1, &plain()), "token");
    assert_eq!(doubt(&snapshot, session.token().id()), Some(true));
    assert_eq!(doubt(&snapshot, session.token().id()), Some(false));
    assert_eq!(doubt(&Session::cooling().snapshot(), session.token().id()), None);
}

#[test]
fn point_3_a_doubted_token_sends_every_reader_to_the_actor() {
    let session = Session::holding();
    let snapshot = session.snapshot();
    doubt(&snapshot, session.token().id());
    for seconds in [0, 2_999, 3_001, 3_600] {
        assert_eq!(read(&snapshot, seconds, &plain()), "ask");
    }
}

#[test]
fn point_3_publishing_the_same_token_again_keeps_the_doubt() {
    let mut session = Session::holding();
    let doubted = session.snapshot();
    doubt(&doubted, session.token().id());
    session.ask(at(3_100), plain());
    let refreshing = doubted.followed_by(session.published.clone());
    assert_eq!(read(&refreshing, 3_100, &plain()), "ask");
    session.fail(at(3_101));
    let failed = refreshing.followed_by(session.published.clone());
    assert_eq!(read(&failed, 3_101, &plain()), "ask");
    assert_eq!(doubt(&failed, session.token().id()), Some(false));
}

#[test]
fn point_3_a_doubt_of_an_old_snapshot_reaches_the_one_that_has_followed() {
    let mut session = Session::holding();
    let loaded = session.snapshot();
    session.ask(at(3_100), plain());
    let current = loaded.followed_by(session.published.clone());
    assert_eq!(doubt(&loaded, session.token().id()), Some(true));
    assert_eq!(read(&current, 3_100, &plain()), "ask");
}

#[test]
fn point_3_a_dismissed_doubt_is_cleared_by_the_publish_that_follows() {
    let mut session = Session::holding();
    session.handle(at(20), Event::Invalidate(session.token().id()));
    session.ask(at(20), plain());
    session.grant(at(20), Ok(Grant::bearer("two").unwrap().expires_in(LIFE)));
    let doubted = session.snapshot();
    doubt(&doubted, session.token().id());
    let before = session.published.number;
    session.handle(at(21), Event::Invalidate(session.token().id()));
    assert!(session.published.number > before, "the second refusal within 10 s is dismissed");
    let dismissed = doubted.followed_by(session.published.clone());
    assert_eq!(read(&dismissed, 21, &plain()), "token");
    assert_eq!(doubt(&dismissed, session.token().id()), Some(true), "and may be doubted again");
}

#[test]
fn point_3_a_doubt_does_not_pass_to_the_next_token() {
    let mut session = Session::holding();
    let doubted = session.snapshot();
    doubt(&doubted, session.token().id());
    session.handle(at(20), Event::Invalidate(session.token().id()));
    session.ask(at(20), plain());
    session.grant(at(20), Ok(Grant::bearer("two").unwrap().expires_in(LIFE)));
    let next = doubted.followed_by(session.published.clone());
    assert_eq!(read(&next, 21, &plain()), "token");
}

/// `revoke` takes effect at its publish: the very next reader finds nothing.
#[test]
fn point_5_a_revoke_publishes_before_it_sends_anything() {
    let mut session = Session::holding();
    let mut effects = Effects::default();
    let moment = Moment { now: at(1), random: 0.0, used: true };
    session.machine.handle(moment, Event::Revoke(9, (), plain()), &mut effects);
    let published = effects.publish.expect("the revoke itself publishes");
    assert!(published.token.is_none());
    assert_eq!(read(&session.snapshot().followed_by(published), 1, &plain()), "ask");
    assert_eq!(effects.start.len(), 1);
}

#[test]
fn what_is_shown_of_a_snapshot_holds_no_token() {
    let shown = format!("{:?}", Session::holding().snapshot());
    assert!(!shown.contains("t0ken"), "{shown}");
}

#[test]
fn threads_count_on_copies_of_their_own() {
    let session = Session::holding();
    let snapshot = session.snapshot();
    let refreshed = snapshot.followed_by(session.published.clone());
    // A header's clone has the bytes of what it was cloned from.
    let place = |snapshot: &Snapshot| {
        let token = snapshot.read(at(0), &plain()).unwrap().unwrap();
        assert_eq!(token, &session.token());
        assert!(token.header_value().is_sensitive());
        token.clone().header_value().clone().as_bytes().as_ptr().addr()
    };
    let here = place(&snapshot);
    assert_eq!(place(&snapshot), here);
    assert_eq!(place(&refreshed), here, "they belong to the token");
    // One of them may by chance share this thread's.
    let there = || std::thread::scope(|scope| scope.spawn(|| place(&snapshot)).join().unwrap());
    assert!((0..3).any(|_| there() != here));
}

#[test]
fn more_threads_than_there_are_copies_read_as_well() {
    let session = Session::holding();
    let snapshot = session.snapshot();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..=16.max(8 * processors) {
        let read = || snapshot.read(at(0), &plain()).unwrap().unwrap().clone();
        let token = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
        assert_eq!(token, session.token());
    }
}
