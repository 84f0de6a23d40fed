use super::*;

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_on_an_empty_session_share_one_grant() {
    let (session, mut endpoint) = session();
    let callers: Vec<_> = (0..10_000).map(|_| ask(&session)).collect();
    let grant = endpoint.grant().await;
    sleep(millis(50)).await;
    grant.token("one", HOUR);
    for caller in callers {
        assert_eq!(text_of(caller).await, "one");
    }
    endpoint.is_quiet().await;
    assert_eq!(session.status().counters().grants_started, 1);
    assert_eq!(session.status().counters().held_max, 10_000);
    assert_eq!(session.status().held(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_of_ten_thousand_leaves_and_takes_nothing_with_it() {
    let (session, mut endpoint) = session();
    let first = ask(&session);
    let grant = endpoint.grant().await;
    let others: Vec<_> = (1..10_000).map(|_| ask(&session)).collect();
    sleep(millis(25)).await;
    first.abort();
    sleep(millis(25)).await;
    assert_eq!(session.status().held(), 9_999);
    assert!(!grant.is_dropped());
    grant.token("one", HOUR);
    for caller in others {
        assert_eq!(text_of(caller).await, "one");
    }
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_there_is_given_without_the_sessions_task() {
    let (session, _endpoint) = session_holding("one", HOUR).await;
    let plain = TokenRequestOptions::new;
    assert_eq!(at_once(session.get_token()).expect("at once").unwrap().secret(), "one");
    let given = at_once(session.get_token_with(plain().min_remaining(secs(60)))).expect("at once");
    assert_eq!(given.unwrap().secret(), "one");
    sleep(HOUR / 2).await;
    assert!(at_once(session.get_token_with(plain().min_remaining(HOUR))).is_none());
}

#[tokio::test(start_paused = true)]
async fn one_error_answers_all_who_waited_and_says_when_to_come_again() {
    let (session, mut endpoint) = session();
    let callers: Vec<_> = (0..100).map(|_| ask(&session)).collect();
    endpoint.grant().await.fail(denied());
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert!(matches!(&error, SessionError::Failed { .. }), "{error:?}");
        assert_eq!(error.retry_after(), Some(secs(30)));
    }
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(&error, SessionError::Cooling { .. }), "{error:?}");
    assert_eq!(session.status().phase(), Phase::Cooling);
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_denied_recovers_by_itself() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.fail(denied());
    asking.await.unwrap().unwrap_err();
    sleep(secs(30)).await;
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one");
}

#[tokio::test(start_paused = true)]
async fn more_callers_than_max_held_are_turned_away() {
    let (session, mut endpoint) = session_with(|config| config.max_held = 2);
    let held = [ask(&session), ask(&session)];
    settle().await;
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(error, SessionError::Overloaded), "{error:?}");
    let error = session.revoke().await.unwrap_err();
    assert!(matches!(error, SessionError::Overloaded), "{error:?}");
    let error = session.exchange(scope("a")).await.unwrap_err();
    assert!(matches!(error, SessionError::Overloaded), "{error:?}");
    assert_eq!(session.status().counters().overloaded, 3);
    endpoint.grant().await.token("one", HOUR);
    for caller in held {
        assert_eq!(text_of(caller).await, "one");
    }
    assert_eq!(session.get_token().await.unwrap().secret(), "one");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_left_makes_room() {
    let (session, mut endpoint) = session_with(|config| config.max_held = 1);
    let left = ask(&session);
    settle().await;
    left.abort();
    settle().await;
    let stays = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(stays).await, "one");
}

#[tokio::test(start_paused = true)]
async fn an_unexpired_token_is_given_rather_than_overloaded() {
    let (session, mut endpoint) = session_with(|config| {
        config.max_held = 1;
        config.refresh_mode = RefreshMode::OnRequest;
    });
    let asking = ask(&session);
    endpoint.grant().await.token("old", secs(100));
    assert_eq!(text_of(asking).await, "old");
    sleep(secs(95)).await; // hold_at is at 90 s
    let waits = ask(&session);
    settle().await;
    assert_eq!(session.status().phase(), Phase::Holding);
    assert_eq!(session.get_token().await.unwrap().secret(), "old");
    endpoint.grant().await.token("new", HOUR);
    assert_eq!(text_of(waits).await, "new");
}

#[tokio::test(start_paused = true)]
async fn try_token_on_an_empty_session_starts_one_grant_and_does_not_wait() {
    let (session, mut endpoint) = session();
    for _ in 0..1_000 {
        assert_eq!(fast(&session), None);
    }
    let grant = endpoint.grant().await;
    for _ in 0..1_000 {
        assert_eq!(fast(&session), None);
    }
    endpoint.is_quiet().await;
    grant.token("one", HOUR);
    settle().await;
    assert_eq!(fast(&session).as_deref(), Some("one"));
    assert_eq!(session.status().counters().grants_started, 1);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_more_life_than_is_left_waits_for_one_attempt_and_takes_what_there_is() {
    let (session, mut endpoint) = session_holding("old", HOUR).await;
    sleep(secs(600)).await;
    let wants = TokenRequestOptions::new().min_remaining(secs(3_100));
    let asking = {
        let session = session.clone();
        tokio::spawn(async move { session.get_token_with(wants).await })
    };
    let grant = endpoint.grant().await;
    assert_eq!(fast(&session).as_deref(), Some("old"), "others go on");
    grant.fail(unavailable());
    assert_eq!(asking.await.unwrap().unwrap().secret(), "old");
}

/// Each call is dropped at its first await, and nothing is lost but its answer.
#[tokio::test(start_paused = true)]
async fn every_call_is_cancel_safe() {
    let (session, mut endpoint) = session();
    for _ in 0..100 {
        let now = Duration::ZERO;
        assert!(timeout(now, session.get_token()).await.is_err());
        assert!(timeout(now, session.exchange(scope("a"))).await.is_err());
        assert!(timeout(now, session.revoke()).await.is_err());
    }
    settle().await;
    assert_eq!(session.status().held(), 0);
    let asking = ask(&session);
    endpoint.grant().await.token("revoked", HOUR);
    endpoint.revocation().await.revoked();
    endpoint.grant().await.token("two", HOUR);
    assert_eq!(text_of(asking).await, "two");
    assert_eq!(endpoint.grants_on_wire_max(), 1);
}

/// Neither a JWT's `exp` nor the time of the answer counts, but when the request was sent.
#[tokio::test(start_paused = true)]
async fn a_life_is_counted_from_when_the_request_was_sent() {
    // {"alg":"none"} . {"exp":1}
    let jwt = "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.";
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    let grant = endpoint.grant().await;
    sleep(secs(5)).await;
    grant.token(jwt, secs(60));
    assert_eq!(text_of(asking).await, jwt);
    let left = session.get_token().await.unwrap().remaining();
    assert!(left <= secs(55) && left > secs(54), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flight_sends_the_options_of_the_caller_that_opened_it() {
    let (session, mut endpoint) = session();
    let with_ip = |ip| TokenRequestOptions::new().ip(ip).unwrap();
    let asking = |options| {
        let session = session.clone();
        tokio::spawn(async move { session.get_token_with(options).await })
    };
    let first = asking(with_ip("192.0.2.1"));
    settle().await;
    let second = asking(with_ip("192.0.2.2"));
    let grant = endpoint.grant().await;
    assert_eq!(grant.options().unwrap().forwarded_for(), Some("192.0.2.1"));
    grant.token("one", HOUR);
    assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());

    let revoking = {
        let session = session.clone();
        tokio::spawn(async move { session.revoke_with(with_ip("192.0.2.3")).await })
    };
    let revocation = endpoint.revocation().await;
    assert_eq!(revocation.options().unwrap().forwarded_for(), Some("192.0.2.3"));
    revocation.revoked();
    revoking.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_and_subscription_tell_what_the_session_does() {
    let (session, mut endpoint) = session();
    let mut changes = session.subscribe();
    assert_eq!(session.status().phase(), Phase::Empty);
    assert_eq!(session.status().generation(), None);
    let asking = ask(&session);
    let holding = changes.changed().await.unwrap();
    assert_eq!((holding.phase(), holding.held()), (Phase::Holding, 1));
    endpoint.grant().await.token("one", HOUR);
    let fresh = changes.changed().await.unwrap();
    assert_eq!((fresh.phase(), fresh.generation()), (Phase::Fresh, Some(1)));
    assert_eq!(fresh.remaining(), Some(HOUR));
    assert!(fresh.stale_in().unwrap() <= secs(50 * 60));
    text_of(asking).await;

    sleep(secs(52 * 60)).await;
    assert_eq!(session.status().phase(), Phase::Stale);
    assert_eq!(session.status().stale_in(), Some(Duration::ZERO));
    assert_eq!(fast(&session).as_deref(), Some("one"));
    assert_eq!(changes.changed().await.unwrap().phase(), Phase::Refreshing);
    endpoint.grant().await.token("two", HOUR);
    let fresh = changes.changed().await.unwrap();
    assert_eq!((fresh.phase(), fresh.generation()), (Phase::Fresh, Some(2)));

    session.invalidate(&session.get_token().await.unwrap());
    let empty = changes.changed().await.unwrap();
    assert_eq!((empty.phase(), empty.remaining()), (Phase::Empty, None));
    assert_eq!(empty.counters().invalidations, 1);

    drop(session);
    assert_eq!(changes.changed().await.unwrap().phase(), Phase::Closed, "the last is told");
    assert!(changes.changed().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_does_not_keep_the_session_alive() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    let mut grant = endpoint.grant().await;
    let mut changes = session.subscribe();
    asking.abort();
    drop(session);
    grant.dropped().await;
    while let Some(status) = changes.changed().await {
        assert!(matches!(status.phase(), Phase::Holding | Phase::Closed));
    }
}

/// The seed decides every draw: when refreshes come, and when retries.
#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn run(seed: u64) -> Vec<Duration> {
        let (manager, endpoint) = scripted();
        let mut config = config(|config| config.refresh_mode = RefreshMode::Always);
        config.retry.attempts = 4;
        let session = Session::builder(manager).config(config).seed(seed).spawn().unwrap();
        let start = Instant::now();
        let mut number = 0;
        let served = endpoint.serve(move |call| {
            number += 1;
            if number % 3 == 0 { call.token("t", secs(60)) } else { call.fail(unavailable()) }
        });
        sleep(secs(600)).await;
        drop(session);
        served.await.unwrap().grants.into_iter().map(|at| at - start).collect()
    }
    let first = run(7).await;
    assert!(first.len() > 20, "{first:?}");
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
}
