use super::*;

#[tokio::test(start_paused = true)]
async fn a_revoke_while_a_grant_is_on_the_wire_revokes_that_token_too() {
    let (session, mut endpoint) = session();
    let before = ask(&session);
    let grant = endpoint.grant().await;
    let revoking = revoke(&session);
    settle().await;
    assert_eq!(session.status().phase(), Phase::Revoking);
    let after = ask(&session);
    endpoint.is_quiet().await;

    grant.token("revoked", HOUR);
    let revocation = endpoint.revocation().await;
    assert_eq!(revocation.about(), "revoked");
    endpoint.is_quiet().await;
    assert_eq!(fast(&session), None);
    assert!(!revoking.is_finished());
    revocation.revoked();
    revoking.await.unwrap().unwrap();

    let grant = endpoint.grant().await;
    assert_eq!(grant.refused(), Some("revoked"));
    grant.token("later", HOUR);
    assert_eq!(text_of(before).await, "later");
    assert_eq!(text_of(after).await, "later");
}

#[tokio::test(start_paused = true)]
async fn a_revoke_with_nothing_to_revoke_sends_nothing() {
    let (session, mut endpoint) = session();
    session.revoke().await.unwrap();
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_revoke_joins_the_first() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let first = revoke(&session);
    let revocation = endpoint.revocation().await;
    let second = revoke(&session);
    endpoint.is_quiet().await;
    revocation.revoked();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoke_goes_on_though_its_caller_left() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let revoking = revoke(&session);
    let revocation = endpoint.revocation().await;
    revoking.abort();
    settle().await;
    assert!(!revocation.is_dropped());
    revocation.fail(unavailable());
    endpoint.revocation().await.revoked();
    let asking = ask(&session);
    endpoint.grant().await.token("two", HOUR);
    assert_eq!(text_of(asking).await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_revoke_ends_with_the_last_handle() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let revoking = revoke(&session);
    let mut revocation = endpoint.revocation().await;
    drop(session);
    settle().await;
    assert!(!revocation.is_dropped(), "a waiting call keeps the session alive");
    revoking.abort();
    revocation.dropped().await;
    endpoint.calls_are_over().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoke_whose_endpoint_hangs_ends_after_its_attempts_and_the_next_tries_again() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let start = Instant::now();
    let revoking = revoke(&session);
    let mut hung = Vec::new();
    for _ in 0..3 {
        hung.push(endpoint.revocation().await);
    }
    let asking = ask(&session);
    let error = revoking.await.unwrap().unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::TimedOut { .. })), "{error:?}");
    assert!(start.elapsed() <= secs(31), "{:?}", start.elapsed());
    assert!(hung.iter().all(Call::is_dropped));
    endpoint.grant().await.token("two", HOUR);
    assert_eq!(text_of(asking).await, "two", "nobody is held for ever");

    sleep(error.retry_after().unwrap()).await;
    let revoking = revoke(&session);
    let mut texts = Vec::new();
    for _ in 0..2 {
        let revocation = endpoint.revocation().await;
        texts.push(revocation.about().to_owned());
        revocation.revoked();
    }
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
    revoking.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_revoke_whose_endpoint_fails_says_so_and_gives_the_token_to_nobody() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let revoking = revoke(&session);
    endpoint.revocation().await.fail(denied());
    let error = revoking.await.unwrap().unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error:?}");
    assert_eq!(fast(&session), None);
    // Before `not_before` another revoke sends nothing, but still drops and marks.
    endpoint.grant().await.token("two", HOUR);
    settle().await;
    assert_eq!(fast(&session).as_deref(), Some("two"));
    let error = session.revoke().await.unwrap_err();
    assert!(matches!(error, SessionError::Cooling { .. }), "{error:?}");
    assert_eq!(fast(&session), None);
    endpoint.grant().await.token("three", HOUR);
    sleep(secs(30)).await;
    let revoking = revoke(&session);
    for _ in 0..3 {
        endpoint.revocation().await.revoked();
    }
    revoking.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_invalid_already_counts_as_revoked() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let revoking = revoke(&session);
    endpoint.revocation().await.fail(TokenError::denied("invalid_token", "unknown"));
    revoking.await.unwrap().unwrap();
    session.revoke().await.unwrap();
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoke_reaches_a_thousand_exchanged_tokens_eight_at_a_time() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let exchanging: Vec<_> =
        (0..1_000).map(|number| exchange(&session, scope(&format!("scope-{number}")))).collect();
    for number in 0..1_000 {
        endpoint.exchange().await.token(&format!("child-{number}"), HOUR);
    }
    for exchanging in exchanging {
        exchanging.await.unwrap().unwrap();
    }
    let revoking = revoke(&session);
    let mut revoked = Vec::new();
    while revoked.len() < 1_001 {
        let mut batch = vec![endpoint.revocation().await];
        while batch.len() < 8.min(1_001 - revoked.len()) {
            batch.push(endpoint.revocation().await);
        }
        endpoint.is_quiet().await;
        for call in batch {
            revoked.push(call.about().to_owned());
            call.revoked();
        }
    }
    revoking.await.unwrap().unwrap();
    endpoint.is_quiet().await;
    revoked.sort();
    revoked.dedup();
    assert_eq!(revoked.len(), 1_001);

    let again = exchange(&session, scope("scope-0"));
    endpoint.grant().await.token("parent-2", HOUR);
    let call = endpoint.exchange().await;
    assert_eq!(call.about(), "parent-2", "the cache is gone as well");
    call.token("child", HOUR);
    assert_eq!(again.await.unwrap().unwrap().secret(), "child");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_tokens_text_is_never_handed_out_again() {
    let (session, endpoint) = session_holding("revoked", HOUR).await;
    let served = endpoint.serve(|call| match call.asked {
        Asked::Revocation(..) => call.revoked(),
        _ => call.token("revoked", HOUR),
    });
    session.revoke().await.unwrap();
    let start = Instant::now();
    while start.elapsed() < secs(600) {
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Expired { .. })), "{error:?}");
        assert_eq!(fast(&session), None);
        sleep(millis(100)).await;
    }
    drop(session);
    let served = served.await.unwrap();
    assert_eq!(served.revocations.len(), 1, "a confirmed one is not sent again");
    assert!(served.grants.len() < 60, "{}", served.grants.len());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_text_is_refused_from_an_exchange_too() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let revoking = revoke(&session);
    endpoint.revocation().await.revoked();
    revoking.await.unwrap().unwrap();
    let exchanging = exchange(&session, scope("a"));
    endpoint.grant().await.token("parent-2", HOUR);
    for _ in 0..3 {
        endpoint.exchange().await.token("parent", HOUR);
    }
    let error = exchanging.await.unwrap().unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Expired { .. })), "{error:?}");
}

/// A manager that has only grants.
struct GrantsOnly;

impl TokenManager for GrantsOnly {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Grant::bearer("one")
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_manager_cannot_do_is_unsupported_and_changes_nothing() {
    let session = Session::builder(GrantsOnly).spawn().unwrap();
    let token = session.get_token().await.unwrap();
    let error = session.revoke().await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
    let error = session.exchange(scope("a")).await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
    assert_eq!(session.try_token(), Some(token));
    assert_eq!(session.status().counters().revokes, 0);
}
