use std::task::Wake;

use super::*;

fn is_closed<T>(result: &Result<T, SessionError>) -> bool {
    matches!(result, Err(SessionError::Closed))
}

async fn assert_all_closed(session: &SessionHandle) {
    assert!(is_closed(&session.get_token().await));
    assert!(is_closed(&session.exchange(scope("a")).await));
    assert!(is_closed(&session.revoke().await));
    assert!(is_closed(&session.blocking_get_token()));
    assert_eq!(session.try_token(), None);
    assert_eq!(session.status().phase(), Phase::Closed);
    session.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_answers_everybody_closed_whatever_is_on_the_wire() {
    // Empty.
    let (session, _endpoint) = session();
    session.shutdown().await;
    assert_all_closed(&session).await;

    // A grant is on the wire, and the shutdown does not wait for it.
    let (session, mut endpoint) = super::session();
    let callers = [ask(&session), ask(&session)];
    let exchanging = exchange(&session, scope("a"));
    let grant = endpoint.grant().await;
    let start = Instant::now();
    session.shutdown().await;
    assert!(grant.is_dropped(), "shutdown waits until the requests have ended");
    assert_eq!(start.elapsed(), Duration::ZERO);
    for caller in callers {
        assert!(is_closed(&caller.await.unwrap()));
    }
    assert!(is_closed(&exchanging.await.unwrap()));
    assert_all_closed(&session).await;

    // A token is held; an exchange is on the wire.
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let exchanging = exchange(&session, scope("a"));
    let call = endpoint.exchange().await;
    session.shutdown().await;
    assert!(call.is_dropped());
    assert!(is_closed(&exchanging.await.unwrap()));
    assert_all_closed(&session).await;

    // A revoke is, and callers wait behind it.
    let (session, mut endpoint) = session_holding("one", HOUR).await;
    let revoking = revoke(&session);
    let call = endpoint.revocation().await;
    let waiting = ask(&session);
    settle().await;
    session.shutdown().await;
    assert!(call.is_dropped());
    assert!(is_closed(&revoking.await.unwrap()));
    assert!(is_closed(&waiting.await.unwrap()));
    assert_all_closed(&session).await;

    // The flight waits between attempts.
    let (session, mut endpoint) = super::session();
    let waiting = ask(&session);
    endpoint.grant().await.fail(TokenError::rate_limited(Some(secs(4))));
    settle().await;
    session.shutdown().await;
    assert!(is_closed(&waiting.await.unwrap()));
    endpoint.calls_are_over().await;
}

/// Each step of a session's life is cut short once.
#[tokio::test(start_paused = true)]
async fn a_shutdown_after_any_number_of_steps_leaves_nobody_waiting() {
    for steps in 0..40 {
        let (session, endpoint) = session();
        let served = endpoint.serve(|call| match call.asked {
            Asked::Revocation(..) => call.revoked(),
            _ => call.token("text", secs(5)),
        });
        let callers: Vec<_> = (0..4).map(|_| ask(&session)).collect();
        let exchanging = exchange(&session, scope("a"));
        let revoking = revoke(&session);
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        session.shutdown().await;
        for caller in callers {
            let result = caller.await.unwrap();
            assert!(result.is_ok() || is_closed(&result), "{steps}: {result:?}");
        }
        let result = exchanging.await.unwrap();
        assert!(result.is_ok() || is_closed(&result), "{steps}: {result:?}");
        let result = revoking.await.unwrap();
        assert!(result.is_ok() || is_closed(&result), "{steps}: {result:?}");
        assert_all_closed(&session).await;
        drop(session);
        served.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_dropped_ends_the_session_all_the_same() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    let mut grant = endpoint.grant().await;
    let shutdown = session.shutdown();
    drop(timeout(Duration::ZERO, shutdown).await);
    grant.dropped().await;
    assert!(is_closed(&asking.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn the_last_handles_drop_ends_the_actor_and_its_attempts() {
    let (session, mut endpoint) = session();
    assert_eq!(fast(&session), None);
    let mut grant = endpoint.grant().await;
    let clone = session.clone();
    drop(session);
    settle().await;
    assert!(!grant.is_dropped());
    let start = Instant::now();
    drop(clone);
    grant.dropped().await;
    endpoint.calls_are_over().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// Calls that were given up left their messages behind.
#[tokio::test(start_paused = true)]
async fn the_last_handles_drop_comes_before_what_is_in_the_mailbox() {
    let (session, _endpoint) = session();
    settle().await;
    let mut changes = session.subscribe();
    for _ in 0..1_000 {
        assert!(at_once(session.get_token()).is_none());
    }
    drop(session);
    let mut last = None;
    while let Some(status) = changes.changed().await {
        last = Some(status);
    }
    let last = last.expect("the end is told");
    assert_eq!((last.phase(), last.counters().held_max), (Phase::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_keeps_the_session_alive() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    drop(session);
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one");
    endpoint.calls_are_over().await;
}

#[test]
fn a_handle_kept_past_its_runtime_says_closed() {
    let runtime = Runtime::new().unwrap();
    let (session, mut endpoint) = runtime.block_on(async { session_holding("one", HOUR).await });
    let idle = runtime.block_on(async { session_with(|_| {}) }).0;
    let mut exchanging = None;
    runtime.block_on(async {
        exchanging = Some(exchange(&session, scope("a")));
        endpoint.exchange().await;
    });
    drop(runtime);
    assert_eq!(session.try_token(), None);
    assert!(is_closed(&session.blocking_get_token()));
    Runtime::new().unwrap().block_on(async {
        assert!(exchanging.unwrap().await.unwrap_err().is_cancelled());
        assert_all_closed(&session).await;
        assert_all_closed(&idle).await;
    });
}

/// The caller lives in another runtime than the session, whose runtime ends under it.
#[test]
fn who_waits_when_the_sessions_runtime_ends_gets_closed() {
    let theirs = Runtime::new().unwrap();
    let (builder, mut endpoint) = builder(|_| {});
    let session = builder.spawn_on(theirs.handle()).unwrap();
    let ours = Runtime::new().unwrap();
    ours.block_on(async {
        let waiting = [ask(&session), ask(&session)];
        let _grant = endpoint.grant().await;
        let mut changes = session.subscribe();
        tokio::task::spawn_blocking(move || drop(theirs)).await.unwrap();
        for waiting in waiting {
            assert!(is_closed(&waiting.await.unwrap()));
        }
        while changes.changed().await.is_some() {}
        assert_all_closed(&session).await;
    });
}

/// Its runtime may end while the actor has only taken some of what is in its mailbox.
#[test]
fn whoever_is_told_finds_it_closed() {
    /// What a caller sees when it is woken: the snapshot, and the status.
    struct Woken(SessionHandle, AtomicU64, AtomicU64);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let sees =
                at_once(self.0.get_token()).is_some() && self.0.status().phase() == Phase::Closed;
            let count = if sees { &self.1 } else { &self.2 };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    let theirs = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (builder, _endpoint) = builder(|_| {});
    let session = builder.spawn_on(theirs.handle()).unwrap();
    let woken = Arc::new(Woken(session.clone(), AtomicU64::new(0), AtomicU64::new(0)));
    let waker = Waker::from(woken.clone());
    let call = |_| {
        let mut waiting = Box::pin(session.get_token());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        waiting
    };
    let _taken: Vec<_> = (0..49_000).map(call).collect();
    theirs.block_on(tokio::task::yield_now());
    let _in_the_mailbox: Vec<_> = (0..1_000).map(call).collect();
    drop(theirs);
    let [saw, missed] = [&woken.1, &woken.2].map(|count| count.load(Ordering::Relaxed));
    assert_eq!((saw, missed), (50_000, 0));
}
