use ccg_session::Counters;

use super::*;

/// The counters that a test expects: those that it names, and nothing else.
fn counted(change: impl FnOnce(&mut Counters)) -> Counters {
    let mut counters = Counters::default();
    change(&mut counters);
    counters
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_counted_when_it_starts_and_when_it_fails() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    for _ in 0..2 {
        endpoint.grant().await.fail(unavailable());
    }
    endpoint.grant().await.token("one", HOUR);
    text_of(asking).await;
    let exchanging = exchange(&session, scope("a"));
    for _ in 0..2 {
        endpoint.exchange().await.fail(unavailable());
    }
    endpoint.exchange().await.token("child", HOUR);
    exchanging.await.unwrap().unwrap();
    let so_far = counted(|it| {
        (it.grants_started, it.grants_failed) = (3, 2);
        (it.exchanges_started, it.exchanges_failed) = (3, 2);
        it.held_max = 1;
    });
    assert_eq!(session.status().counters(), so_far);

    let revoking = revoke(&session);
    for _ in 0..2 {
        endpoint.revocation().await.fail(unavailable());
    }
    for _ in 0..2 {
        let gone = endpoint.revocation().await;
        if gone.about() == "one" {
            gone.revoked();
        } else {
            gone.fail(TokenError::denied("invalid_token", "long gone"));
        }
    }
    revoking.await.unwrap().unwrap();
    let in_the_end = counted(|it| {
        *it = so_far;
        (it.revokes, it.revocations_started, it.revocations_failed) = (1, 4, 2);
    });
    assert_eq!(session.status().counters(), in_the_end, "what is invalid already was no failure");
}

#[tokio::test(start_paused = true)]
async fn revokes_invalidations_and_refused_callers_are_counted() {
    let (session, mut endpoint) = session_with(|config| config.max_held = 2);
    let asking = [ask(&session), ask(&session)];
    settle().await;
    for _ in 0..2 {
        session.get_token().await.unwrap_err();
    }
    endpoint.grant().await.token("one", HOUR);
    for asking in asking {
        text_of(asking).await;
    }
    for text in ["two", "three"] {
        session.invalidate(&session.get_token().await.unwrap());
        let asking = ask(&session);
        endpoint.grant().await.token(text, HOUR);
        text_of(asking).await;
        sleep(secs(10)).await;
    }
    let revoking = [revoke(&session), revoke(&session)];
    for _ in 0..3 {
        endpoint.revocation().await.revoked();
    }
    for revoking in revoking {
        revoking.await.unwrap().unwrap();
    }
    let expected = counted(|it| {
        (it.grants_started, it.revocations_started) = (3, 3);
        (it.revokes, it.invalidations, it.overloaded, it.held_max) = (2, 2, 2, 2);
    });
    assert_eq!(session.status().counters(), expected);
}

/// A revoke reaches 4,096 tokens.
#[tokio::test(start_paused = true)]
async fn tokens_that_a_revoke_can_no_longer_reach_are_counted() {
    let (session, endpoint) = session_holding("parent", HOUR).await;
    let mut number = 0;
    endpoint.serve(move |call| {
        number += 1;
        call.token(&format!("child-{number}"), HOUR);
    });
    for number in 0..4_097 {
        session.exchange(scope(&format!("scope-{number}"))).await.unwrap();
    }
    assert_eq!(session.status().counters().ledger_evicted, 2);
}
