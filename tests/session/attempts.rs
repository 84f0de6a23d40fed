use super::*;

fn assert_panicked<T: Debug>(result: Result<T, SessionError>) {
    let error = result.unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Panicked)), "{error:?}");
}

/// One attempt per flight, so that each panic is what its caller sees.
fn one_attempt() -> (SessionHandle, Endpoint) {
    session_with(|config| config.retry.attempts = 1)
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_grant_is_an_error_of_that_attempt() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.panic();
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one", "it is retried");

    let (session, mut endpoint) = one_attempt();
    let asking = ask(&session);
    endpoint.grant().await.panic();
    assert_panicked(asking.await.unwrap());
    sleep(secs(1)).await;
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one", "the session goes on");
}

/// Before its future is there, in the future, and when that is dropped since it took too long.
#[tokio::test(start_paused = true)]
async fn wherever_a_manager_panics_its_session_goes_on() {
    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("as asked for");
        }
    }

    struct Manager(AtomicU64);

    impl TokenManager for Manager {
        fn grant(
            &self,
            _request: GrantRequest,
        ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
            let attempt = self.0.fetch_add(1, Ordering::Relaxed);
            assert!(attempt > 0, "as asked for");
            async move {
                let _panics = (attempt < 3).then(|| Panics);
                if attempt == 2 {
                    std::future::pending::<()>().await;
                }
                Ok(Grant::bearer("one")?.expires_in(HOUR))
            }
        }
    }

    let config = config(|config| config.retry.attempts = 4);
    let session = Session::builder(Manager(AtomicU64::new(0))).config(config).spawn().unwrap();
    assert_eq!(session.get_token().await.unwrap().secret(), "one");
    assert_eq!(session.status().counters().grants_failed, 3);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_exchange_is_an_error_of_that_attempt() {
    let (session, mut endpoint) = one_attempt();
    let asking = [exchange(&session, scope("a")), exchange(&session, scope("b"))];
    endpoint.grant().await.token("parent", HOUR);
    endpoint.exchange().await.panic();
    endpoint.exchange().await.panic();
    for asking in asking {
        assert_panicked(asking.await.unwrap());
    }
    assert_eq!(fast(&session).as_deref(), Some("parent"));
    sleep(secs(1)).await;
    let asking = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    assert_eq!(asking.await.unwrap().unwrap().secret(), "child");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_revocation_is_an_error_of_that_attempt() {
    let (session, mut endpoint) = one_attempt();
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    text_of(asking).await;
    let revoking = revoke(&session);
    endpoint.revocation().await.panic();
    assert_panicked(revoking.await.unwrap());
    sleep(secs(1)).await;
    let revoking = revoke(&session);
    endpoint.revocation().await.revoked();
    revoking.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_dropped_before_it_is_reported() {
    let (session, mut endpoint) = one_attempt();
    let start = Instant::now();
    let asking = ask(&session);
    let grant = endpoint.grant().await;
    let error = asking.await.unwrap().unwrap_err();
    assert!(grant.is_dropped());
    assert!(
        matches!(error.token_error(), Some(TokenError::TimedOut { after, .. }) if *after == secs(10)),
        "{error:?}"
    );
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_the_last_moment_still_counts() {
    let (session, mut endpoint) = one_attempt();
    let asking = ask(&session);
    let grant = endpoint.grant().await;
    sleep(millis(9_999)).await;
    grant.token("one", HOUR);
    assert_eq!(text_of(asking).await, "one");
}

#[tokio::test(start_paused = true)]
async fn a_hung_endpoint_delays_no_reply_but_those_that_need_it() {
    let (session, mut endpoint) = session_holding("parent", HOUR).await;
    let hung = exchange(&session, scope("hung"));
    let _hung_call = endpoint.exchange().await;
    let start = Instant::now();
    let other = exchange(&session, scope("other"));
    endpoint.exchange().await.token("child", HOUR);
    assert_eq!(other.await.unwrap().unwrap().secret(), "child");
    assert_eq!(fast(&session).as_deref(), Some("parent"));
    assert!(start.elapsed() < secs(1));
    hung.abort();
}

#[tokio::test(start_paused = true)]
async fn a_flight_makes_its_attempts_and_ends_within_31_seconds() {
    let (session, mut endpoint) = session();
    let start = Instant::now();
    let asking = ask(&session);
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(endpoint.grant().await);
    }
    asking.await.unwrap().unwrap_err();
    assert!(start.elapsed() <= secs(31), "{:?}", start.elapsed());
    assert!(calls.iter().all(Call::is_dropped));
    assert_eq!(endpoint.grants_on_wire_max(), 1);
    endpoint.is_quiet().await;
}
