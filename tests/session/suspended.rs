use tokio::runtime::Handle;

use super::*;

/// What a session must notice within this time of waking.
const NOTICE: Duration = secs(30);

#[tokio::test(start_paused = true)]
async fn no_dead_token_is_handed_out_after_waking() {
    let (session, mut endpoint) = session_holding("dead", HOUR).await;
    assert_eq!(fast(&session).as_deref(), Some("dead"));
    suspend(3 * HOUR);
    assert_eq!(fast(&session), None);
    let asking = ask(&session);
    endpoint.grant().await.token("new", HOUR);
    assert_eq!(text_of(asking).await, "new");
}

#[tokio::test(start_paused = true)]
async fn no_dead_exchanged_token_is_handed_out_after_waking() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("dead", HOUR);
    asking.await.unwrap().unwrap();
    suspend(3 * HOUR);
    let asking = exchange(&session, scope("a"));
    endpoint.grant().await.token("parent-2", HOUR);
    endpoint.exchange().await.token("child", HOUR);
    assert_eq!(asking.await.unwrap().unwrap().secret(), "child");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_on_the_wire_ends() {
    let (session, mut endpoint) = session_with(|config| config.retry.attempt_timeout = secs(600));
    let asking = ask(&session);
    let mut grant = endpoint.grant().await;
    let woke = Instant::now();
    suspend(3 * HOUR);
    grant.dropped().await;
    assert!(woke.elapsed() <= NOTICE, "{:?}", woke.elapsed());
    endpoint.grant().await.token("new", HOUR);
    assert_eq!(text_of(asking).await, "new");
    assert!(woke.elapsed() <= NOTICE + secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_died_on_the_way_is_not_handed_out() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    let grant = endpoint.grant().await;
    suspend(3 * HOUR);
    grant.token("dead", HOUR);
    settle().await;
    assert_eq!(fast(&session), None);
    endpoint.grant().await.token("new", HOUR);
    assert_eq!(text_of(asking).await, "new");
}

#[tokio::test(start_paused = true)]
async fn the_refresh_of_a_session_that_is_kept_warm_follows_within_30_seconds_of_waking() {
    for asleep in [secs(52 * 60), 3 * HOUR] {
        let (session, mut endpoint) =
            session_with(|config| config.refresh_mode = RefreshMode::Always);
        endpoint.grant().await.token("one", HOUR);
        settle().await;
        let woke = Instant::now();
        suspend(asleep);
        let grant = endpoint.grant().await;
        assert!(woke.elapsed() <= NOTICE, "{:?}", woke.elapsed());
        grant.token("two", HOUR);
        settle().await;
        assert_eq!(fast(&session).as_deref(), Some("two"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_refresh_of_a_token_in_use_follows_within_30_seconds_of_waking() {
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    assert_eq!(fast(&session).as_deref(), Some("one"));
    sleep(secs(45)).await;
    let woke = Instant::now();
    suspend(secs(52 * 60)); // stale, and not yet held
    let grant = endpoint.grant().await;
    assert!(woke.elapsed() <= NOTICE, "{:?}", woke.elapsed());
    assert_eq!(fast(&session).as_deref(), Some("one"));
    grant.token("two", HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_left_alone_has_been_left_alone_in_suspend() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.fail(denied());
    asking.await.unwrap().unwrap_err();
    suspend(secs(30));
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one");
}

/// It has nothing to wait for, so it need not look whether the machine was suspended either.
#[tokio::test(start_paused = true)]
async fn an_idle_session_is_not_woken() {
    let (session, mut endpoint) =
        session_with(|config| config.refresh_mode = RefreshMode::OnRequest);
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    text_of(asking).await;
    let parked = || Handle::current().metrics().worker_park_count(0);
    let before = parked();
    sleep(HOUR).await;
    assert!(parked() - before < 10, "woken {} times in an hour", parked() - before);
    assert_eq!(fast(&session), None);
}
