use super::*;

#[tokio::test(start_paused = true)]
async fn callers_with_the_same_key_share_one_exchange_and_its_token_is_cached() {
    let (session, mut endpoint) = session();
    let with_ip = scope("a").options(TokenRequestOptions::new().ip("192.0.2.1").unwrap());
    let asking: Vec<_> = (0..100)
        .map(|number| {
            exchange(&session, if number % 2 == 0 { scope("a") } else { with_ip.clone() })
        })
        .collect();
    endpoint.grant().await.token("parent", HOUR);
    let call = endpoint.exchange().await;
    assert_eq!(call.about(), "parent");
    endpoint.is_quiet().await;
    call.token("child", HOUR);
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap().secret(), "child");
    }
    assert_eq!(session.exchange(with_ip).await.unwrap().secret(), "child");
    endpoint.is_quiet().await;
    assert_eq!(session.get_token().await.unwrap().secret(), "parent", "its own is untouched");
}

#[tokio::test(start_paused = true)]
async fn a_cached_token_is_given_without_the_sessions_task() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    let child = asking.await.unwrap().unwrap();
    let given = at_once(session.exchange(scope("a"))).expect("at once");
    assert_eq!(given.unwrap(), child);
    assert!(at_once(session.exchange(scope("b"))).is_none());
}

#[tokio::test(start_paused = true)]
async fn other_keys_have_exchanges_of_their_own_at_the_same_time() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let requests = [scope("a"), scope("b"), scope("a").resource("urn:r"), scope("a").audience("x")];
    let asking: Vec<_> = requests.into_iter().map(|request| exchange(&session, request)).collect();
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(endpoint.exchange().await);
    }
    for (number, call) in calls.into_iter().enumerate().rev() {
        call.token(&format!("child-{number}"), HOUR);
    }
    let mut texts = Vec::new();
    for asking in asking {
        texts.push(asking.await.unwrap().unwrap().secret().to_owned());
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_exchanged_token_outlives_its_parents_refresh() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", 2 * HOUR);
    asking.await.unwrap().unwrap();
    endpoint.grant().await.token("parent-2", HOUR);
    settle().await;
    assert_eq!(fast(&session).as_deref(), Some("parent-2"));
    assert_eq!(session.exchange(scope("a")).await.unwrap().secret(), "child");
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_exchanged_token_is_exchanged_anew() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    let child = asking.await.unwrap().unwrap();
    session.invalidate(&child);
    assert_eq!(session.exchange(scope("a")).await.unwrap(), child, "younger than 10 s");
    sleep(secs(10)).await;
    session.invalidate(&child);
    let asking = exchange(&session, scope("a"));
    let call = endpoint.exchange().await;
    assert_eq!(call.about(), "parent", "the session's own token stays");
    call.token("child-2", HOUR);
    let second = asking.await.unwrap().unwrap();
    assert_eq!(second.secret(), "child-2");
    assert!(second.id() > child.id());
}

#[tokio::test(start_paused = true)]
async fn an_honoured_invalidate_of_the_parent_drops_its_children() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    asking.await.unwrap().unwrap();
    session.invalidate(&session.get_token().await.unwrap());
    let asking = exchange(&session, scope("a"));
    endpoint.grant().await.token("parent-2", HOUR);
    let call = endpoint.exchange().await;
    assert_eq!(call.about(), "parent-2");
    call.token("child-2", HOUR);
    assert_eq!(asking.await.unwrap().unwrap().secret(), "child-2");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_stop_the_exchange_and_its_token_is_kept() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    let call = endpoint.exchange().await;
    asking.abort();
    settle().await;
    assert!(!call.is_dropped());
    call.token("child", HOUR);
    settle().await;
    assert_eq!(session.exchange(scope("a")).await.unwrap().secret(), "child");
}

#[tokio::test(start_paused = true)]
async fn a_refused_subject_is_replaced_and_the_exchange_runs_once_more() {
    let (session, mut endpoint) = session_holding("refused", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.fail(TokenError::denied("invalid_grant", "unknown subject"));
    endpoint.grant().await.token("parent", HOUR);
    let call = endpoint.exchange().await;
    assert_eq!(call.about(), "parent");
    call.fail(TokenError::denied("invalid_grant", "unknown subject"));
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error:?}");
    assert_eq!(fast(&session).as_deref(), Some("parent"), "the second one is not honoured");
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_subject_an_exchange_fails_as_the_grant_did() {
    let (session, mut endpoint) = session();
    let asking = exchange(&session, scope("a"));
    endpoint.grant().await.fail(denied());
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, SessionError::Failed { .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(secs(30)));
}

/// Both before the session's task has its turn.
#[tokio::test(start_paused = true)]
async fn a_cached_token_is_not_given_beside_a_doubt_of_its_parent_nor_after_the_end() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    let child = asking.await.unwrap().unwrap();
    assert_eq!(session.exchange(scope("a")).await.unwrap(), child);
    let parent = session.get_token().await.unwrap();
    let ending = session.clone();
    assert!(session.invalidate(&parent));
    let mut call = pin!(session.exchange(scope("a")));
    let mut context = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut context).is_pending());
    ending.shutdown().await;
    assert!(matches!(call.await, Err(SessionError::Closed)));

    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    asking.await.unwrap().unwrap();
    session.shutdown().await;
    let late = session.exchange(scope("a")).await;
    assert!(matches!(late, Err(SessionError::Closed)), "{late:?}");
}
