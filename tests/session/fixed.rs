use super::*;

#[test]
fn it_gives_its_token_without_a_runtime_and_for_ever() {
    let session = SessionHandle::fixed("developer").unwrap();
    let token = session.blocking_get_token().unwrap();
    assert_eq!(token.secret(), "developer");
    assert_eq!(token.header_value(), "Bearer developer");
    assert_eq!(token.remaining(), Duration::MAX);
    assert_eq!(session.try_token(), Some(token));
    assert_eq!(session.status().phase(), Phase::Fresh);
    assert_eq!(session.status().remaining(), Some(Duration::MAX));
}

#[tokio::test(start_paused = true)]
async fn after_invalidate_it_is_denied() {
    let session = SessionHandle::fixed("developer").unwrap();
    let clone = session.clone();
    let long_lived = TokenRequestOptions::new().min_remaining(secs(u64::MAX));
    let token = session.get_token_with(long_lived).await.unwrap();
    sleep(1_000 * HOUR).await;
    assert_eq!(session.get_token().await.unwrap(), token);
    session.invalidate(&token);
    for result in [clone.get_token().await, clone.blocking_get_token()] {
        let error = result.unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error:?}");
    }
    assert_eq!(clone.try_token(), None);
    assert_eq!(clone.status().phase(), Phase::Empty);
}

#[tokio::test(start_paused = true)]
async fn it_ignores_the_tokens_of_other_sessions() {
    let session = SessionHandle::fixed("developer").unwrap();
    let other = SessionHandle::fixed("other").unwrap();
    session.invalidate(&other.try_token().unwrap());
    let (live, _endpoint) = session_holding("live", HOUR).await;
    session.invalidate(&live.get_token().await.unwrap());
    assert_eq!(session.get_token().await.unwrap().secret(), "developer");
    assert_ne!(session.try_token(), other.try_token());
}

#[tokio::test]
async fn exchange_and_revoke_are_unsupported() {
    let session = SessionHandle::fixed("developer").unwrap();
    let error = session.exchange(scope("a")).await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
    let error = session.revoke().await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
    session.shutdown().await;
    assert_eq!(session.get_token().await.unwrap().secret(), "developer");
}

#[test]
fn what_cannot_go_into_a_header_is_no_token() {
    for text in ["", "two words", "new\nline", "gr\u{fc}n"] {
        let error = SessionHandle::fixed(text).unwrap_err();
        assert!(matches!(error, TokenError::Malformed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_subscription_is_told_of_the_refusal_and_of_the_end() {
    let session = SessionHandle::fixed("developer").unwrap();
    let mut changes = session.subscribe();
    session.invalidate(&session.get_token().await.unwrap());
    assert_eq!(changes.changed().await.unwrap().phase(), Phase::Empty);
    let following = tokio::spawn(async move {
        assert_eq!(changes.changed().await.unwrap().phase(), Phase::Closed, "the last is told");
        changes.changed().await.is_none()
    });
    tokio::task::yield_now().await;
    drop(session);
    assert!(following.await.unwrap());
}
