use super::*;

#[tokio::test(start_paused = true)]
async fn invalidate_then_get_token_in_one_task_never_gives_the_refused_token() {
    let (session, mut endpoint) = session();
    let mut refused = None;
    for number in 0..20 {
        let text = format!("token-{number}");
        let (asking, endpoint_text) = (session.get_token(), text.clone());
        let answering = async {
            let grant = endpoint.grant().await;
            assert_eq!(grant.refused().map(str::to_owned), refused);
            grant.token(&endpoint_text, HOUR);
        };
        let token = tokio::join!(asking, answering).0.unwrap();
        assert_eq!(token.secret(), text);
        sleep(secs(10)).await;
        session.invalidate(&token);
        assert_eq!(fast(&session), None, "not even before the actor has heard of it");
        refused = Some(text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_within_ten_seconds_gives_the_token_again() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    session.invalidate(&session.get_token().await.unwrap());
    let asking = ask(&session);
    endpoint.grant().await.token("two", HOUR);
    text_of(asking).await;

    let two = session.get_token().await.unwrap();
    session.invalidate(&two);
    assert_eq!(fast(&session), None, "in doubt");
    assert_eq!(session.get_token().await.unwrap(), two);
    assert_eq!(fast(&session).as_deref(), Some("two"), "the doubt is dismissed");
    endpoint.is_quiet().await;

    sleep(secs(10)).await;
    session.invalidate(&two);
    let asking = ask(&session);
    endpoint.grant().await.token("three", HOUR);
    assert_eq!(text_of(asking).await, "three");
}

#[tokio::test(start_paused = true)]
async fn older_tokens_and_those_of_other_sessions_are_ignored() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let old = session.get_token().await.unwrap();
    session.invalidate(&old);
    let asking = ask(&session);
    endpoint.grant().await.token("two", HOUR);
    text_of(asking).await;
    sleep(secs(60)).await;

    let (other, _other_endpoint) = session_holding("one", HOUR).await;
    let foreign = other.get_token().await.unwrap();
    for token in [&old, &foreign] {
        session.invalidate(token);
        assert_eq!(fast(&session).as_deref(), Some("two"));
        assert_eq!(session.get_token().await.unwrap().secret(), "two");
    }
    endpoint.is_quiet().await;
    assert_eq!(session.status().counters().invalidations, 1);
}

/// Some tell all their sessions of a refusal. One that has ended used to keep the word for itself.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_other_sessions_are_told_of_first_is_heard_all_the_same() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    let child = asking.await.unwrap().unwrap();
    sleep(secs(10)).await;

    let (other, _endpoint) = session_holding("other", HOUR).await;
    let (ended, _endpoint) = super::session();
    ended.shutdown().await;
    for session in [&other, &ended, &session] {
        session.invalidate(&child);
    }
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child-2", HOUR);
    assert_eq!(asking.await.unwrap().unwrap().secret(), "child-2");
}

#[tokio::test(start_paused = true)]
async fn a_doubt_outlives_a_refresh_that_fails() {
    let (session, mut endpoint) = session_with(|config| {
        config.refresh_mode = RefreshMode::OnRequest;
        config.retry.attempts = 1;
    });
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    text_of(asking).await;
    sleep(secs(55 * 60)).await;
    let one = session.get_token().await.unwrap();
    let grant = endpoint.grant().await;
    session.invalidate(&one);
    grant.fail(unavailable());
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(error, SessionError::Failed { .. } | SessionError::Cooling { .. }));
}
