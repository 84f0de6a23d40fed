//! Each point of the section "The snapshot" of `src/docs/design.md`, as far as a snapshot alone can guarantee
//! it. The snapshots come from the machine, so that no test uses an unreachable state.

mod threads;

use std::collections::BTreeSet;

use crate::config::RefreshMode;
use crate::error::SessionError;
use crate::instant::Instant;
use crate::machine::Reply;
use crate::machine::tests::driver::{START, Session, scope, secs};
use crate::request::TokenRequestOptions;
use crate::snapshot::{Publisher, Snapshot};
use crate::token::TokenId;

/// A token of an hour is stale from 3000 s on, held from 3570 s on, and over at 3600 s.
const HOLDING: &str = "ask, granted 1h";
const REFRESHING: &str = "ask, granted 1h, suspend 3100s, ask";
/// The refresh of its token has failed.
const FAILED: &str = "ask, granted 1h, suspend 3100s, ask, grant_fails 503";
const COOLING: &str = "ask, grant_fails denied";
const REVOKING: &str = "ask, granted 1h, suspend 10s, revoke";
const REVOKING_AND_COOLING: &str = "ask, grant_fails denied, suspend 10s, exchange a, revoke";
const HELD: &str = "ask, granted 1h, suspend 3575s, ask";
const CLOSED: &str = "ask, granted 1h, suspend 1s, shutdown";

/// A session to which this has happened.
fn after(script: &str) -> Session {
    let mut session = Session::with(|config| {
        config.refresh_mode = RefreshMode::OnRequest;
        config.retry.attempts = 1;
    });
    session.random = 0.0;
    session.play(script);
    session
}

/// Counted from when the first token's request was sent.
fn at(seconds: u64) -> Instant {
    START + secs(seconds)
}

fn plain() -> TokenRequestOptions {
    TokenRequestOptions::new()
}

fn wants(seconds: u64) -> TokenRequestOptions {
    plain().min_remaining(secs(seconds))
}

/// Of what is published now.
fn snapshot(session: &Session) -> Snapshot {
    Snapshot::new(session.history.published.clone())
}

fn token(session: &Session) -> TokenId {
    session.history.published.token.as_ref().expect("a token").token.id()
}

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
    let cases: &[(&str, &[(u64, &str)])] = &[
        ("", &[(0, "ask"), (1_000, "ask")]),
        // Fresh, stale, held, over.
        (HOLDING, &[(0, "token"), (2_999, "token"), (3_000, "token"), (3_569, "token")]),
        (HOLDING, &[(3_570, "ask"), (3_600, "ask")]),
        // After a failed attempt it is usable to its end. Then the cooling counts.
        (FAILED, &[(3_100, "token"), (3_570, "token"), (3_599, "token"), (3_600, "ask")]),
        (COOLING, &[(0, "cooling 30s"), (29, "cooling 1s"), (30, "ask"), (31, "ask")]),
        // The last error is given only where there is no usable token.
        (
            "ask, granted 1h, suspend 3580s, ask, grant_fails denied",
            &[(3_599, "token"), (3_600, "cooling 10s"), (3_610, "ask")],
        ),
        (CLOSED, &[(0, "closed"), (1, "closed"), (100_000, "closed")]),
    ];
    for (script, expected) in cases {
        for (seconds, expected) in *expected {
            let answer = read(&snapshot(&after(script)), *seconds, &plain());
            assert_eq!(answer, *expected, "{script}: at {seconds} s");
        }
    }
}

#[test]
fn point_1_gives_no_token_with_less_life_than_is_asked_for() {
    let snapshot = snapshot(&after(HOLDING));
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

/// Every reply given without the actor equals the reply that the actor would have given.
#[test]
fn point_1_gives_only_what_the_machine_would_have_given() {
    let scripts = ["", HOLDING, REFRESHING, FAILED, COOLING, REVOKING, REVOKING_AND_COOLING, HELD];
    let mut answered = 0;
    for script in scripts.into_iter().chain([CLOSED]) {
        let session = after(script);
        let snapshot = snapshot(&session);
        let began = session.elapsed().as_secs();
        for seconds in (began..3_700).step_by(5).map(|seconds| seconds + 1) {
            for options in [plain(), wants(30), wants(700), wants(100_000)] {
                let Some(answer) = snapshot.read(at(seconds), &options) else { continue };
                let mut machine = session.clone();
                machine.now = at(seconds);
                machine.ask_with(options);
                let given = machine.answers.pop_last();
                let Some((_, Reply::Token(given))) = given else {
                    panic!("{script}: at {seconds} s: {answer:?}, but the machine lets wait");
                };
                let answer = answer.cloned();
                assert_eq!(format!("{answer:?}"), format!("{given:?}"), "{script}: at {seconds} s");
                answered += 1;
            }
        }
    }
    assert!(answered > 5_000, "{answered}");
}

#[test]
fn point_2_the_first_reader_marks_it_used_and_the_first_from_ask_at_on_asks() {
    let snapshot = snapshot(&after(HOLDING));
    assert!(!snapshot.is_used());
    assert!(!snapshot.note_use(at(2_999)), "before ask_at nobody need be told");
    assert!(snapshot.is_used());
    assert!(snapshot.note_use(at(3_000)), "the one that turns `asked` on tells the actor");
    assert!(!snapshot.note_use(at(3_000)));
    assert!(!snapshot.note_use(at(3_599)));
}

#[test]
fn point_2_nobody_asks_while_a_flight_is_open_or_the_server_is_left_alone() {
    for (script, seconds, expected) in [
        (REFRESHING, 3_200, false),
        (REVOKING, 3_200, false),
        (COOLING, 29, false),
        (COOLING, 30, true), // with no token: from `not_before` on
        (CLOSED, 100_000, false),
        ("", 0, true), // nothing published yet: at once
    ] {
        let asks = snapshot(&after(script)).note_use(at(seconds));
        assert_eq!(asks, expected, "{script}: at {seconds} s");
    }
}

#[test]
fn point_2_a_snapshot_that_follows_is_neither_used_nor_asked_about() {
    let mut session = after(HOLDING);
    let first = snapshot(&session);
    assert!(first.note_use(at(3_001)));
    session.play("suspend 3001s, ask, grant_fails 503");
    let second = first.followed_by(session.history.published.clone());
    assert!(second.number() > first.number());
    assert!(!second.is_used());
    assert!(second.note_use(at(3_100)));
}

#[test]
fn point_3_only_the_first_doubt_of_the_published_token_is_news() {
    let mut session = after(HOLDING);
    let (snapshot, token) = (snapshot(&session), token(&session));
    session.play("suspend 20s, invalidate t1, ask, granted 1h");
    assert_eq!(doubt(&snapshot, session.id("t2")), None, "it is not the one published");
    assert_eq!(read(&snapshot, 1, &plain()), "token");
    assert_eq!(doubt(&snapshot, token), Some(true));
    assert_eq!(doubt(&snapshot, token), Some(false));
    assert_eq!(doubt(&Snapshot::new(after(COOLING).history.published.clone()), token), None);
}

#[test]
fn point_3_a_doubted_token_sends_every_reader_to_the_actor() {
    let session = after(HOLDING);
    let snapshot = snapshot(&session);
    doubt(&snapshot, token(&session));
    for seconds in [0, 2_999, 3_001, 3_600] {
        assert_eq!(read(&snapshot, seconds, &plain()), "ask");
    }
}

#[test]
fn point_3_publishing_the_same_token_again_keeps_the_doubt() {
    let mut session = after(HOLDING);
    let loaded = snapshot(&session);
    session.play("suspend 3100s, ask");
    let refreshing = loaded.followed_by(session.history.published.clone());
    assert_eq!(doubt(&loaded, token(&session)), Some(true), "though it has been followed");
    assert_eq!(read(&refreshing, 3_100, &plain()), "ask");
    session.play("grant_fails 503");
    let failed = refreshing.followed_by(session.history.published.clone());
    assert_eq!(read(&failed, 3_100, &plain()), "ask");
    assert_eq!(doubt(&failed, token(&session)), Some(false));
}

#[test]
fn point_3_a_dismissed_doubt_is_cleared_by_the_publish_that_follows() {
    let mut session = after("ask, granted 1h, suspend 20s, invalidate t1, ask, granted 1h");
    let doubted = snapshot(&session);
    doubt(&doubted, token(&session));
    session.play("suspend 1s, invalidate t2 -> publish t2 // the second refusal within 10 s");
    let dismissed = doubted.followed_by(session.history.published.clone());
    assert_eq!(read(&dismissed, 21, &plain()), "token");
    assert_eq!(doubt(&dismissed, token(&session)), Some(true), "and may be doubted again");
}

#[test]
fn point_3_a_doubt_does_not_pass_to_the_next_token() {
    let mut session = after(HOLDING);
    let doubted = snapshot(&session);
    doubt(&doubted, token(&session));
    session.play("suspend 20s, invalidate t1, ask, granted 1h");
    let next = doubted.followed_by(session.history.published.clone());
    assert_eq!(read(&next, 21, &plain()), "token");
}

/// What a caller is given whom nobody can take up.
#[test]
fn a_token_near_its_end_serves_in_need_but_not_past_it_nor_in_doubt() {
    let session = after(HOLDING);
    let held = snapshot(&session);
    for (seconds, is_there) in [(0, true), (3_570, true), (3_599, true), (3_600, false)] {
        assert_eq!(held.unexpired_token(at(seconds)).is_some(), is_there, "at {seconds} s");
    }
    doubt(&held, token(&session));
    for seconds in [0, 3_599, 3_600] {
        assert!(held.unexpired_token(at(seconds)).is_none(), "in doubt, at {seconds} s");
    }
    assert!(snapshot(&after(COOLING)).unexpired_token(at(0)).is_none());
}

/// A publisher of a session that holds an exchanged token for `a` and one for `b`, each for an hour.
fn with_exchanged() -> (Session, Publisher) {
    let session = after("ask, granted 1h, exchange a, exchanged 1h, exchange b, exchanged 1h");
    let publisher = Publisher::new(session.history.published.clone());
    publish_exchanged(&publisher, &session);
    (session, publisher)
}

fn publish_exchanged(publisher: &Publisher, session: &Session) {
    let exchanged = session.history.exchanged.iter();
    publisher.publish_exchanged(exchanged.map(|(key, it)| (key.clone(), Some(it.clone()))));
}

/// The text of what a caller who exchanges for this is given without asking the actor.
fn exchanged(publisher: &Publisher, name: &str, seconds: u64) -> Option<String> {
    let reader = publisher.reader();
    let found = reader.exchanged(&reader.load(), &scope(name).key(), || at(seconds));
    found.map(|(token, now)| {
        assert_eq!(now, at(seconds));
        token.secret().to_owned()
    })
}

#[test]
fn an_exchanged_token_is_given_until_its_last_seconds_and_one_caller_asks_once_it_is_stale() {
    let (session, publisher) = with_exchanged();
    let x1 = Some("x1".to_owned());
    assert_eq!(exchanged(&publisher, "a", 0), x1);
    assert_eq!(exchanged(&publisher, "a", 2_999), x1);
    assert_eq!(exchanged(&publisher, "a", 3_000), None, "the first from there on asks the actor");
    assert_eq!(exchanged(&publisher, "a", 3_000), x1, "and none after it");
    assert_eq!(exchanged(&publisher, "a", 3_569), x1);
    assert_eq!(exchanged(&publisher, "a", 3_570), None);
    assert_eq!(exchanged(&publisher, "b", 3_001), None, "each key asks for itself");
    assert_eq!(exchanged(&publisher, "b", 3_001).as_deref(), Some("x2"));
    assert_eq!(exchanged(&publisher, "c", 0), None);
    publish_exchanged(&publisher, &session);
    assert_eq!(exchanged(&publisher, "a", 3_100), None, "and so does each publication");
}

#[test]
fn an_exchanged_token_is_given_neither_in_doubt_nor_beside_a_doubt_nor_after_it_is_hidden() {
    let (session, publisher) = with_exchanged();
    let issued = |name| session.history.exchanged[&scope(name).key()].token.as_ref().clone();
    issued("a").doubt(|| ());
    assert_eq!(exchanged(&publisher, "a", 0), None);
    assert_eq!(exchanged(&publisher, "b", 0).as_deref(), Some("x2"));
    issued("a").doubt_arrived();
    assert_eq!(exchanged(&publisher, "a", 0).as_deref(), Some("x1"), "the word has arrived");

    let hidden = std::iter::once((scope("a").key().into(), None));
    publisher.publish_exchanged(hidden);
    assert_eq!(exchanged(&publisher, "a", 0), None);
    assert_eq!(exchanged(&publisher, "b", 0).as_deref(), Some("x2"));

    doubt(&publisher.reader().load(), token(&session));
    assert_eq!(exchanged(&publisher, "b", 0), None, "its parent is in doubt");
    let (_, publisher) = with_exchanged();
    publisher.close(false);
    assert_eq!(exchanged(&publisher, "b", 0), None);
}

/// `revoke` takes effect when it publishes: the next reader finds no token.
#[test]
fn point_5_a_revoke_publishes_before_it_sends_anything() {
    let mut session = after(HOLDING);
    let held = snapshot(&session);
    session.play("suspend 1s, revoke -> publish nothing; revoke t1");
    assert_eq!(read(&held.followed_by(session.history.published.clone()), 1, &plain()), "ask");
}

#[test]
fn what_is_shown_of_a_snapshot_holds_no_token() {
    let shown = format!("{:?}", snapshot(&after("ask, granted 1h as t0ken")));
    assert!(!shown.contains("t0ken"), "{shown}");
}

#[test]
fn threads_count_on_copies_of_their_own() {
    let session = after(HOLDING);
    let first = snapshot(&session);
    let refreshed = first.followed_by(session.history.published.clone());
    // A header's clone has the bytes of what it was cloned from.
    let place = |snapshot: &Snapshot| {
        let copy = snapshot.read(at(0), &plain()).unwrap().unwrap();
        assert_eq!(copy.id(), token(&session));
        assert!(copy.header_value().is_sensitive());
        copy.clone().header_value().clone().as_bytes().as_ptr().addr()
    };
    let here = place(&first);
    let published = session.history.published.token.as_ref().unwrap();
    assert_eq!(here, published.token.header_value().as_bytes().as_ptr().addr(), "it read first");
    assert_eq!(place(&first), here);
    assert_eq!(place(&refreshed), here, "they belong to the token");
    let there = || std::thread::scope(|scope| scope.spawn(|| place(&first)).join().unwrap());
    let others: BTreeSet<_> = (0..4).map(|_| there()).collect();
    assert!(!others.contains(&here));
    // Some of them may by chance share one.
    assert!(others.len() > 1);
}

/// A thread's cached snapshot is never used instead of a newer one or another session's.
#[test]
fn what_a_thread_has_kept_is_read_only_while_it_is_the_last() {
    let mut session = after(HOLDING);
    let shown = |session: &Session| session.history.published.clone();
    let publisher = Publisher::new(shown(&session));
    let other = Publisher::new(shown(&after("ask, granted 1h as other")));
    let secret = |publisher: &Publisher| {
        publisher.reader().with(|snapshot| {
            let read = snapshot.read(at(0), &plain())?.ok();
            read.map(|token| token.secret().to_owned())
        })
    };
    for _ in 0..2 {
        assert_eq!(secret(&publisher).as_deref(), Some("t1"));
        assert_eq!(secret(&other).as_deref(), Some("other"));
    }
    session.play("suspend 1s, invalidate t1, ask, granted 1h");
    publisher.publish(shown(&session));
    assert_eq!(secret(&publisher).as_deref(), Some("t2"));
    // What is read may read itself, as a destructor of somebody else's may.
    let inside = publisher.reader().with(|_| (secret(&publisher), secret(&other)));
    assert_eq!(inside, (Some("t2".to_owned()), Some("other".to_owned())));
    publisher.close(false);
    assert_eq!(secret(&publisher), None);
    assert_eq!(secret(&other).as_deref(), Some("other"));
}

/// Else a reader that is held up between the two would judge a newer snapshot by an older time.
#[test]
fn the_clock_is_read_after_the_snapshot() {
    let mut session = after(HOLDING);
    let first = session.history.published.clone();
    let publisher = Publisher::new(first.clone());
    session.play("suspend 1s, invalidate t1, ask, granted 1h");
    let reader = publisher.reader();
    // Once as it is published, and once as a thread keeps it.
    for read_before in [first.number, session.history.published.number] {
        let read = reader.with_time(
            || {
                publisher.publish(session.history.published.clone());
                at(1)
            },
            |snapshot, now| (snapshot.number(), now),
        );
        assert_eq!(read, (read_before, at(1)));
    }
}

#[test]
fn more_threads_than_there_are_copies_read_as_well() {
    let session = after(HOLDING);
    let snapshot = snapshot(&session);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..=16.max(8 * processors) {
        let read = || snapshot.read(at(0), &plain()).unwrap().unwrap().id();
        let read = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
        assert_eq!(read, token(&session));
    }
}
