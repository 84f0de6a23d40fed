//! Small models of what threads do with a snapshot at once: reads, use, doubts, against publications and a
//! revoke. They meet again and again, each time over a snapshot of their own; and they need neither a
//! clock nor a runtime, so that Miri can run them too.

use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::{HOLDING, after, at, plain, token};
use crate::machine::Published;
use crate::machine::tests::driver::Session;
use crate::snapshot::{Publisher, Snapshot};

/// Miri is some thousand times slower, but makes up for it: each of its seeds is another interleaving.
const ROUNDS: usize = if cfg!(miri) { 2 } else { 2_000 };

/// What is published after each of these events.
fn published(session: &mut Session, events: &[&str]) -> Vec<Published> {
    let after = |event: &&str| {
        session.play(event);
        session.history.published.clone()
    };
    events.iter().map(after).collect()
}

/// So many threads do something with each of these at the same time.
fn together<T: Sync>(threads: usize, rounds: &[T], run: impl Fn(usize, &T) + Sync) {
    /// Else those that wait for a thread which has panicked would wait for ever.
    struct Tells<'a>(&'a AtomicBool);

    impl Drop for Tells<'_> {
        fn drop(&mut self) {
            self.0.fetch_or(thread::panicking(), Relaxed);
        }
    }

    let here: Vec<_> = rounds.iter().map(|_| AtomicUsize::new(0)).collect();
    let has_panicked = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..threads {
            let (here, run, has_panicked) = (&here, &run, &has_panicked);
            scope.spawn(move || {
                let _tells = Tells(has_panicked);
                for (here, round) in here.iter().zip(rounds) {
                    here.fetch_add(1, Relaxed);
                    while here.load(Relaxed) < threads {
                        assert!(!has_panicked.load(Relaxed), "another thread has panicked");
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
    let session = after(HOLDING);
    let token = token(&session);
    let round = |_| {
        let (mailbox, words) = mpsc::channel();
        let publisher = Publisher::new(session.history.published.clone());
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
    let mut session = after("");
    let events = [HOLDING, "suspend 3100s, ask", "suspend 1s, grant_fails 503"];
    let [stale, refreshing, failed] = published(&mut session, &events).try_into().unwrap();
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

#[test]
fn readers_follow_what_is_published_and_never_go_back() {
    let events = [
        HOLDING,
        "suspend 3100s, ask",
        "suspend 1s, granted 1h",
        "suspend 1s, revoke",
        "suspend 1s, confirmed",
        "suspend 7s, ask, granted 1h",
        "suspend 1s, shutdown",
    ];
    let life = published(&mut after(""), &events);
    let (revoke, revoked) = (life[3].number, 2);
    let rounds: Vec<_> = (0..ROUNDS.div_ceil(10))
        .map(|_| (Publisher::new(life[0].clone()), AtomicU64::new(0), AtomicU32::new(0)))
        .collect();
    together(3, &rounds, |number, (publisher, gone, seen)| {
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
        // By turns as it is published, and as a thread keeps it.
        for is_kept in [false, true].into_iter().cycle() {
            let (gone, seen_before) = (gone.load(Acquire), seen.load(Acquire));
            let mut read = |snapshot: &Snapshot| {
                assert!(snapshot.number() >= number, "{} after {number}", snapshot.number());
                let behind = "another thread has read a newer one";
                assert!(snapshot.number() >= seen_before, "{behind}: {seen_before}");
                number = snapshot.number();
                seen.fetch_max(number, Release);
                match snapshot.read(at(3_112), &plain()) {
                    Some(Ok(token)) => {
                        let next = token.id().generation();
                        assert!(next >= generation, "{next} after {generation}");
                        assert!(next > gone, "{next} is read after {gone} was revoked");
                        assert_eq!(token.clone().secret(), format!("t{next}"));
                        generation = next;
                    }
                    Some(Err(_)) => is_closed = true,
                    None => thread::yield_now(),
                }
            };
            if is_kept {
                reader.with(&mut read);
            } else {
                read(&reader.load());
            }
            if is_closed {
                break;
            }
        }
        assert_eq!(number, life[6].number);
    });
}

#[test]
fn what_a_thread_keeps_is_never_older_than_what_it_has_read() {
    const PUBLICATIONS: u32 = if cfg!(miri) { 20 } else { 100_000 };
    let mut next = after(HOLDING).history.published.clone();
    let publisher = Publisher::new(next.clone());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = publisher.reader();
                while !is_over.load(Relaxed) {
                    let read = reader.load().number();
                    let kept = reader.with(Snapshot::number);
                    assert!(kept >= read, "{kept} after {read}");
                }
            });
        }
        for _ in 0..PUBLICATIONS {
            next.number += 1;
            publisher.publish(next.clone());
        }
        is_over.store(true, Relaxed);
    });
}

/// Whoever refuses a token does not read it again, though it is published again meanwhile; until the
/// actor has dismissed the doubt.
#[test]
fn a_doubt_stays_until_it_is_dismissed() {
    let mut session = after("ask, granted 1h, suspend 20s, invalidate t1, ask");
    let events =
        ["granted 20s", "suspend 3s, ask 18s", "suspend 1s, grant_fails 503", "invalidate t2"];
    let [held, refreshing, failed, dismissed] =
        published(&mut session, &events).try_into().unwrap();
    assert!(dismissed.number > failed.number && failed.number > refreshing.number);
    let token = session.id("t2");
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
