//! Small models of what threads do with a snapshot at once: reads, use, doubts, against publications and a
//! revoke. They meet again and again, each time over a snapshot of their own; and they need neither a
//! clock nor a runtime, so that Miri can run them too.

#[path = "common/published.rs"]
mod published;

use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use ccg_session::Grant;
use ccg_session::testing::internals::{Ended, Event, Published, Publisher, Request};
use published::{LIFE, Session, at, plain, secs, wants};

/// Miri is some thousand times slower, but makes up for it: each of its seeds is another interleaving.
const ROUNDS: usize = if cfg!(miri) { 2 } else { 2_000 };

/// So many threads do something with each of these at the same time.
fn together<T: Sync>(threads: usize, rounds: &[T], run: impl Fn(usize, &T) + Sync) {
    let here: Vec<_> = rounds.iter().map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for number in 0..threads {
            let (here, run) = (&here, &run);
            scope.spawn(move || {
                for (here, round) in here.iter().zip(rounds) {
                    here.fetch_add(1, Relaxed);
                    while here.load(Relaxed) < threads {
                        thread::yield_now();
                    }
                    run(number, round);
                }
            });
        }
    });
}

/// What a handle sends to its session's actor.
#[derive(Debug, PartialEq)]
enum Word {
    Invalidate,
    GetToken,
}

/// Both refuse the same token, and ask again: whoever comes first, the actor hears of the refusal before
/// it is asked.
#[test]
fn who_refuses_a_token_second_asks_behind_the_word_of_the_first() {
    struct Round {
        publisher: Publisher,
        mailbox: Sender<Word>,
        words: Mutex<Receiver<Word>>,
    }
    let session = Session::holding();
    let token = session.token().id();
    let round = |_| {
        let (mailbox, words) = mpsc::channel();
        let publisher = Publisher::new(session.published.clone());
        Round { publisher, mailbox, words: Mutex::new(words) }
    };
    let rounds: Vec<_> = (0..ROUNDS).map(round).collect();
    together(2, &rounds, |_, Round { publisher, mailbox, .. }| {
        let reader = publisher.reader();
        assert!(reader.load().doubt(token, || {
            // A thread may be held up anywhere; here is where it matters.
            thread::yield_now();
            mailbox.send(Word::Invalidate).unwrap();
        }));
        assert!(reader.load().read(at(1), &plain()).is_none(), "it has been refused");
        mailbox.send(Word::GetToken).unwrap();
    });
    for Round { words, .. } in rounds {
        let words: Vec<_> = words.into_inner().unwrap().try_iter().collect();
        assert_eq!(words[0], Word::Invalidate, "{words:?}");
        let told = words.iter().filter(|word| **word == Word::Invalidate).count();
        assert!((1..=2).contains(&told), "{words:?}");
    }
}

/// Whatever is published meanwhile, each snapshot is asked about at most once, and only one that wants it.
#[test]
fn a_stale_snapshot_is_asked_about_once() {
    let mut session = Session::holding();
    let stale = session.published.clone();
    session.ask(at(3_100), plain());
    let refreshing = session.published.clone();
    session.fail(at(3_101));
    let failed = session.published.clone();

    let rounds: Vec<_> =
        (0..ROUNDS).map(|_| (Publisher::new(stale.clone()), Mutex::new(Vec::new()))).collect();
    together(3, &rounds, |number, (publisher, asked)| {
        if number == 0 {
            publisher.publish(refreshing.clone());
            publisher.publish(failed.clone());
            return;
        }
        let reader = publisher.reader();
        for _ in 0..3 {
            let snapshot = reader.load();
            if snapshot.note_use(at(3_200)) {
                asked.lock().unwrap().push(snapshot.number());
            }
            assert!(snapshot.is_used());
        }
    });
    for (publisher, asked) in rounds {
        let mut asked = asked.into_inner().unwrap();
        asked.sort_unstable();
        let count = asked.len();
        asked.dedup();
        assert_eq!(asked.len(), count, "a snapshot was asked about twice: {asked:?}");
        assert!(!asked.contains(&refreshing.number), "nobody wanted to hear of it");
        let last_is_used = publisher.is_used();
        assert_eq!(last_is_used, asked.contains(&failed.number), "{asked:?}");
    }
}

/// What a session publishes in its life: a token, its refresh, the next, a revoke, another, the end. And
/// which of it is the revoke, and what it took.
fn life() -> (Vec<Published>, u64, u64) {
    let mut session = Session::holding();
    let mut life = vec![session.published.clone()];
    session.ask(at(3_100), plain());
    life.push(session.published.clone());
    session.grant(at(3_101), Ok(Grant::bearer("two").unwrap().expires_in(LIFE)));
    life.push(session.published.clone());
    let revoked = session.token().id().generation();
    let effects = session.handle(at(3_102), Event::Revoke(9, (), plain()));
    life.push(session.published.clone());
    let revoke = session.published.number;
    for start in effects.start {
        if let Request::Revocation(text, _) = start.request {
            session.handle(at(3_103), Event::Ended(Ended::Revocation(text, Ok(()))));
        }
    }
    life.push(session.published.clone());
    session.ask(at(3_110), plain());
    session.grant(at(3_110), Ok(Grant::bearer("three").unwrap().expires_in(LIFE)));
    assert!(session.published.token.is_some());
    life.push(session.published.clone());
    session.handle(at(3_111), Event::Shutdown);
    life.push(session.published.clone());
    (life, revoke, revoked)
}

#[test]
fn readers_follow_what_is_published_and_never_go_back() {
    let (life, revoke, revoked) = life();
    let rounds: Vec<_> = (0..ROUNDS.div_ceil(10))
        .map(|_| (Publisher::new(life[0].clone()), AtomicU64::new(0)))
        .collect();
    together(3, &rounds, |number, (publisher, gone)| {
        if number == 0 {
            for published in &life[1..] {
                publisher.publish(published.clone());
                if published.number == revoke {
                    gone.store(revoked, Release);
                }
            }
            return;
        }
        let reader = publisher.reader();
        let (mut number, mut generation, mut is_closed) = (0, 0, false);
        while !is_closed {
            let gone = gone.load(Acquire);
            let snapshot = reader.load();
            assert!(snapshot.number() >= number, "{} after {number}", snapshot.number());
            number = snapshot.number();
            match snapshot.read(at(3_112), &plain()) {
                Some(Ok(token)) => {
                    let next = token.id().generation();
                    assert!(next >= generation, "{next} after {generation}");
                    assert!(next > gone, "{next} is read after {gone} was revoked");
                    let text = ["t0ken", "two", "three"][usize::try_from(next).unwrap() - 1];
                    assert_eq!(token.clone().secret(), text);
                    generation = next;
                }
                Some(Err(_)) => is_closed = true,
                None => thread::yield_now(),
            }
        }
        assert_eq!(number, life.last().unwrap().number);
    });
}

/// Whoever refuses a token does not read it again, though it is published again meanwhile; until the
/// actor has dismissed the doubt.
#[test]
fn a_doubt_stays_until_it_is_dismissed() {
    let mut session = Session::holding();
    session.handle(at(20), Event::Invalidate(session.token().id()));
    session.ask(at(20), plain());
    session.grant(at(20), Ok(Grant::bearer("two").unwrap().expires_in(secs(20))));
    let held = session.published.clone();
    let token = session.token().id();
    session.handle(at(23), Event::GetToken(1, (), wants(18)));
    let refreshing = session.published.clone();
    session.fail(at(24));
    let failed = session.published.clone();
    session.handle(at(25), Event::Invalidate(token));
    let dismissed = session.published.clone();
    assert!(dismissed.number > failed.number && failed.number > refreshing.number);

    let rounds: Vec<_> = (0..ROUNDS).map(|_| Publisher::new(held.clone())).collect();
    together(2, &rounds, |number, publisher| {
        if number == 0 {
            publisher.publish(refreshing.clone());
            publisher.publish(failed.clone());
            return;
        }
        let reader = publisher.reader();
        assert!(reader.load().doubt(token, || ()));
        for _ in 0..4 {
            assert!(reader.load().read(at(25), &plain()).is_none(), "refused, and read again");
        }
    });
    for publisher in rounds {
        let reader = publisher.reader();
        assert!(reader.load().read(at(25), &plain()).is_none());
        publisher.publish(dismissed.clone());
        assert!(reader.load().read(at(25), &plain()).is_some_and(|read| read.is_ok()));
    }
}
