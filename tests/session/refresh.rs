use super::*;

const STALE: Duration = secs(52 * 60);

/// A session in this mode with a token of an hour, got by one caller.
async fn in_mode(mode: RefreshMode) -> (SessionHandle, Endpoint) {
    let (session, mut endpoint) = session_with(|config| config.refresh_mode = mode);
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one");
    (session, endpoint)
}

async fn refreshed(session: &SessionHandle, endpoint: &mut Endpoint, text: &str) {
    let grant = endpoint.grant().await;
    assert!(fast(session).is_some_and(|held| held != text), "a stale token is given meanwhile");
    grant.token(text, HOUR);
    settle().await;
    assert_eq!(fast(session).as_deref(), Some(text));
}

#[tokio::test(start_paused = true)]
async fn while_used_refreshes_a_token_that_only_the_fast_path_used() {
    let (session, mut endpoint) = in_mode(RefreshMode::WhileUsed).await;
    let start = Instant::now();
    sleep(secs(60)).await;
    assert_eq!(fast(&session).as_deref(), Some("one"));
    let grant = endpoint.grant().await;
    let after = grant.at - start;
    assert!((secs(49 * 60)..=secs(50 * 60)).contains(&after), "{after:?}");
    grant.token("two", HOUR);
    settle().await;
    // Nobody uses the second one.
    sleep(10 * HOUR).await;
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn while_used_leaves_an_idle_session_alone() {
    let (session, mut endpoint) = in_mode(RefreshMode::WhileUsed).await;
    sleep(10 * HOUR).await;
    endpoint.is_quiet().await;
    assert_eq!(session.status().phase(), Phase::Empty);
}

#[tokio::test(start_paused = true)]
async fn while_used_refreshes_when_first_used_in_the_stale_stretch() {
    let (session, mut endpoint) = in_mode(RefreshMode::WhileUsed).await;
    sleep(STALE).await;
    endpoint.is_quiet().await;
    assert_eq!(fast(&session).as_deref(), Some("one"));
    refreshed(&session, &mut endpoint, "two").await;
}

#[tokio::test(start_paused = true)]
async fn on_request_refreshes_only_at_a_request_inside_the_stale_stretch() {
    let (session, mut endpoint) = in_mode(RefreshMode::OnRequest).await;
    sleep(secs(60)).await;
    assert_eq!(fast(&session).as_deref(), Some("one"));
    sleep(STALE).await;
    endpoint.is_quiet().await;
    assert_eq!(session.get_token().await.unwrap().secret(), "one", "and it does not wait");
    refreshed(&session, &mut endpoint, "two").await;
}

#[tokio::test(start_paused = true)]
async fn always_keeps_a_token_without_any_caller() {
    let (session, mut endpoint) = session_with(|config| {
        config.refresh_mode = RefreshMode::Always;
    });
    for number in 0..5 {
        endpoint.grant().await.token(&format!("token-{number}"), HOUR);
    }
    settle().await;
    assert_eq!(session.get_token().await.unwrap().secret(), "token-4");
}

#[tokio::test(start_paused = true)]
async fn always_ends_with_a_revoke_until_somebody_asks_again() {
    let (session, mut endpoint) = in_mode(RefreshMode::Always).await;
    let revoking = revoke(&session);
    endpoint.revocation().await.revoked();
    revoking.await.unwrap().unwrap();
    sleep(10 * HOUR).await;
    endpoint.is_quiet().await;
    assert_eq!(fast(&session), None);
    endpoint.grant().await.token("two", HOUR);
    endpoint.grant().await.token("three", HOUR);
}

#[tokio::test(start_paused = true)]
async fn one_message_asks_for_a_stale_token_however_many_read_it() {
    let (session, mut endpoint) = in_mode(RefreshMode::OnRequest).await;
    sleep(STALE).await;
    for _ in 0..10_000 {
        assert_eq!(session.get_token().await.unwrap().secret(), "one");
    }
    refreshed(&session, &mut endpoint, "two").await;
    endpoint.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_preserves_a_good_token_to_its_end() {
    let (session, endpoint) = in_mode(RefreshMode::WhileUsed).await;
    let got = Instant::now();
    let served = endpoint.serve(|call| call.fail(unavailable()));
    sleep(STALE).await;
    while got.elapsed() + secs(1) < HOUR {
        assert_eq!(session.get_token().await.unwrap().secret(), "one");
        sleep(secs(1)).await;
    }
    sleep(secs(1)).await;
    session.get_token().await.unwrap_err();
    drop(session);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn near_its_end_callers_wait_for_the_attempt_and_get_the_old_token_if_it_fails() {
    let (session, mut endpoint) = in_mode(RefreshMode::OnRequest).await;
    sleep(secs(3_580)).await; // hold_at is 30 s before the end
    assert_eq!(fast(&session), None);
    let asking = ask(&session);
    let grant = endpoint.grant().await;
    settle().await;
    assert!(!asking.is_finished());
    grant.fail(unavailable());
    assert_eq!(text_of(asking).await, "one");
    assert_eq!(fast(&session).as_deref(), Some("one"), "once per outage");
}
