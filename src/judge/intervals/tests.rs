//! Histories that no session may have: each check finds the one that was made for it.

use super::*;
use crate::config::RetryPolicy;

/// A point in a run that is told in milliseconds.
fn at(millis: u64) -> Point {
    Point { at: Duration::from_millis(millis), count: 0 }
}

fn call(task: usize, what: What, began: u64, ended: u64, given: Option<u64>) -> Call {
    Call { task, what, began: at(began), ended: at(ended), given }
}

fn get(task: usize, began: u64, generation: u64) -> Call {
    call(task, What::Token(Purpose::Grant), began, began + 1, Some(generation))
}

fn attempt(purpose: Purpose, sent: u64, ended: u64, outcome: Outcome) -> Attempt {
    let subject = (purpose != Purpose::Grant).then_some(2);
    Attempt { purpose, subject, sent: at(sent), ended: at(ended), outcome }
}

fn token(text: &str) -> Outcome {
    Outcome::Token(text.into(), Duration::from_secs(100))
}

fn failure() -> Outcome {
    Outcome::Failed(TokenError::server(503, None))
}

fn revocation(text: &str, sent: u64) -> Revocation {
    Revocation { text: text.into(), sent: at(sent), ended: at(sent + 1), confirmed: true }
}

/// A token, a revoke, another token, one exchanged from it, an invalidation, a third token.
fn good() -> History {
    let retry = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    let mut history = History::new(&SessionConfig { retry, ..SessionConfig::default() });
    history.longest_flight = Some(Duration::from_secs(20));
    history.attempts = vec![
        attempt(Purpose::Grant, 0, 1, token("one")),
        attempt(Purpose::Grant, 1_011, 1_012, token("two")),
        attempt(Purpose::Exchange(0), 1_014, 1_015, token("narrow")),
        attempt(Purpose::Grant, 2_020, 2_021, token("three")),
    ];
    history.texts = [(1, "one"), (2, "two"), (3, "narrow"), (4, "three")]
        .map(|(generation, text)| (generation, text.to_owned()))
        .into();
    history.revokes =
        vec![Revoke { began: at(6), taken: Some(at(7)), ended: Some(at(10)), ok: true }];
    history.revocations = vec![revocation("one", 8)];
    history.revoked_at = [("one".to_owned(), at(9))].into();
    history.calls = vec![
        get(1, 2, 1),
        get(1, 1_012, 2),
        call(1, What::Invalidate(2), 1_016, 1_017, None),
        get(1, 2_021, 4),
        get(2, 4, 1),
        call(2, What::Token(Purpose::Exchange(0)), 1_013, 1_016, Some(3)),
        get(2, 2_022, 4),
        // Asked before the third token came, and answered late.
        call(3, What::Token(Purpose::Grant), 2_019, 2_030, Some(2)),
    ];
    history
}

/// The name of a check, and what is done to a good history that it must find.
type Broken = (&'static str, fn(&mut History));

const BROKEN: [Broken; 20] = [
    ("generations_never_go_back_in_any_task", |it| it.calls.push(get(2, 2_022, 2))),
    ("generations_never_go_back_in_real_time", |it| it.calls.push(get(4, 2_030, 2))),
    ("generations_never_go_back_in_real_time", |it| {
        it.texts.insert(5, "narrow".into());
        it.calls.push(call(4, What::Token(Purpose::Exchange(0)), 3_000, 3_001, Some(5)));
        it.calls.push(call(5, What::Token(Purpose::Exchange(0)), 3_002, 3_003, Some(3)));
    }),
    // After its publish, after its end, and told by its end alone.
    ("no_call_after_a_revoke_gives_a_token_from_before_it", |it| it.calls.push(get(4, 8, 1))),
    ("no_call_after_a_revoke_gives_a_token_from_before_it", |it| it.calls.push(get(4, 11, 1))),
    ("no_call_after_a_revoke_gives_a_token_from_before_it", |it| {
        it.revokes[0].taken = None;
        it.calls.push(get(4, 11, 1));
    }),
    ("no_call_after_a_revoke_gives_a_token_from_before_it", |it| {
        let revoke = Revoke { began: at(1_020), taken: Some(at(1_030)), ended: None, ok: false };
        it.revokes.push(revoke);
        it.calls.push(call(4, What::Token(Purpose::Exchange(0)), 1_031, 1_032, Some(3)));
    }),
    ("no_call_after_a_revoke_gives_a_token_from_before_it", |it| {
        it.attempts.push(attempt(Purpose::Grant, 3_021, 3_022, token("one")));
        it.texts.insert(5, "one".into());
        it.calls.push(get(4, 3_023, 5));
    }),
    ("no_task_gets_a_token_again_that_it_refused", |it| it.calls.insert(3, get(1, 1_018, 2))),
    ("no_task_gets_a_token_again_that_it_refused", |it| {
        // Another was refused as well, but long ago.
        it.calls.push(call(4, What::Invalidate(4), 11_017, 11_018, None));
        it.calls.push(get(4, 11_019, 4));
    }),
    ("no_task_gets_a_token_again_that_it_refused", |it| {
        it.calls.push(call(4, What::Invalidate(3), 11_014, 11_015, None));
        it.calls.push(call(4, What::Token(Purpose::Exchange(0)), 11_016, 11_017, Some(3)));
    }),
    ("no_token_is_given_at_or_after_its_expiry", |it| it.calls.push(get(1, 102_020, 4))),
    ("each_token_is_given_only_for_what_it_was_asked_for", |it| it.calls.push(get(4, 1_030, 3))),
    ("each_token_is_given_only_for_what_it_was_asked_for", |it| {
        it.calls.push(call(4, What::Token(Purpose::Exchange(1)), 1_030, 1_031, Some(3)));
    }),
    ("a_revoke_that_was_ok_left_nothing_alive", |it| {
        it.revoked_at.insert("one".into(), at(11));
    }),
    ("a_revoke_that_was_ok_left_nothing_alive", |it| it.revoked_at.clear()),
    ("one_attempt_of_a_purpose_at_a_time", |it| it.attempts[0].ended = at(1_012)),
    ("attempts_keep_to_the_policy", |it| it.attempts[1].sent = at(999)),
    ("a_token_is_not_revoked_again_once_that_is_confirmed", |it| {
        it.revocations.push(revocation("one", 10));
    }),
    ("nobody_waits_longer_than_the_flights_may_take", |it| {
        it.calls.push(call(4, What::Token(Purpose::Grant), 3_000, 23_001, None));
    }),
];

#[test]
fn a_good_history_passes() {
    good().judge().unwrap();
}

#[test]
fn each_check_finds_a_history_that_was_broken_for_it() {
    for (number, (name, break_it)) in BROKEN.iter().enumerate() {
        let (_, check) = ALL.iter().find(|(known, _)| known == name).expect(name);
        let mut history = good();
        break_it(&mut history);
        assert!(check(&history).is_err(), "the broken history {number} passes {name}");
        history.judge().unwrap_err();
    }
    let unbroken: Vec<_> =
        ALL.iter().filter(|(name, _)| !BROKEN.iter().any(|(broken, _)| broken == name)).collect();
    assert!(unbroken.is_empty(), "no history breaks {unbroken:?}");
}

#[test]
fn a_token_that_nobody_sent_for_is_found() {
    let mut history = good();
    history.texts.insert(5, "from nowhere".into());
    history.calls.push(get(1, 3_000, 5));
    assert!(history.judge().unwrap_err().contains("never came"));
}

/// Two attempts, then 375 ms at least, then a single one, then 750 ms at least; and what is not retryable
/// is left alone for all of `cooling`.
#[test]
fn each_pause_of_the_policy_is_asked_for() {
    let pace = |sent: &[u64]| {
        let mut history = good();
        history.attempts =
            sent.iter().map(|sent| attempt(Purpose::Grant, *sent, sent + 1, failure())).collect();
        attempts_keep_to_the_policy(&history)
    };
    pace(&[0, 1, 377, 1_128]).unwrap();
    pace(&[0, 1, 376, 1_128]).unwrap_err();
    pace(&[0, 1, 377, 1_127]).unwrap_err();

    let denied = |sent| {
        attempt(Purpose::Exchange(0), sent, sent + 1, {
            Outcome::Failed(TokenError::denied("invalid_scope", "not for you"))
        })
    };
    let mut history = good();
    history.attempts = vec![denied(0), denied(30_001)];
    attempts_keep_to_the_policy(&history).unwrap();
    history.attempts = vec![denied(0), denied(30_000)];
    attempts_keep_to_the_policy(&history).unwrap_err();
}

/// What looks wrong at first sight, and is not.
#[test]
fn what_is_allowed_is_not_found() {
    let allowed: [fn(&mut History); 5] = [
        // A second token was refused within ten seconds: then it is not the token that is wrong.
        |it| {
            it.calls.push(call(4, What::Invalidate(4), 2_030, 2_031, None));
            it.calls.push(get(4, 2_032, 4));
            it.calls.push(get(4, 62_032, 4));
        },
        // The exchange said so of the subject.
        |it| {
            it.calls.remove(2);
            let refused = Outcome::Failed(TokenError::denied("invalid_grant", "subject token"));
            it.attempts.push(attempt(Purpose::Exchange(1), 2_022, 2_023, refused));
            it.calls.push(call(4, What::Invalidate(4), 2_030, 2_031, None));
            it.calls.push(get(4, 2_032, 4));
        },
        // The token is too young to be wrong.
        |it| {
            it.calls.push(call(4, What::Invalidate(3), 11_013, 11_014, None));
            it.calls.push(call(4, What::Token(Purpose::Exchange(0)), 11_016, 11_017, Some(3)));
        },
        // The server gives a revoked token again, but only after its life.
        |it| {
            it.attempts[0].outcome = Outcome::Token("one".into(), Duration::from_secs(2));
            it.attempts.push(attempt(Purpose::Grant, 3_021, 3_022, token("one")));
            it.texts.insert(5, "one".into());
            it.calls.push(get(4, 3_023, 5));
        },
        // A revoke came meanwhile, and its end is not known.
        |it| {
            it.revokes.push(Revoke { began: at(4_000), taken: None, ended: None, ok: false });
            it.calls.push(call(4, What::Token(Purpose::Grant), 3_000, 23_001, None));
        },
    ];
    for allow in allowed {
        let mut history = good();
        allow(&mut history);
        history.judge().unwrap();
    }
}
