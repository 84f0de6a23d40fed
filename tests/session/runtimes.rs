use std::sync::LazyLock;

use super::*;

/// Gives `token-0`, `token-1`, …, each for an hour.
struct Counting(AtomicU64);

impl TokenManager for Counting {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(HOUR))
    }
}

fn counting() -> SessionBuilder<Counting> {
    Session::builder(Counting(AtomicU64::new(0)))
}

#[test]
fn spawn_outside_a_runtime_is_a_config_error() {
    let error: ConfigError = counting().spawn().unwrap_err();
    assert_eq!(error.setting(), "spawn");
    assert!(error.to_string().contains("spawn_thread"), "{error}");
}

#[test]
fn spawn_on_starts_from_anywhere() {
    let runtime = Runtime::new().unwrap();
    let session = counting().spawn_on(runtime.handle()).unwrap();
    assert_eq!(session.blocking_get_token().unwrap().secret(), "token-0");
}

#[test]
fn spawn_checks_the_configuration_wherever_it_runs() {
    let runtime = Runtime::new().unwrap();
    let bad = || counting().config(config(|config| config.retry.attempts = 0));
    assert_eq!(bad().spawn_on(runtime.handle()).unwrap_err().setting(), "attempts");
    assert_eq!(bad().spawn_thread().unwrap_err().setting(), "attempts");
    let _guard = runtime.enter();
    assert_eq!(bad().spawn().unwrap_err().setting(), "attempts");
}

static SHARED: LazyLock<SessionHandle> = LazyLock::new(|| counting().spawn_thread().unwrap());

#[test]
fn a_session_in_a_static_works_from_threads_and_from_any_runtime() {
    let threads: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(|| SHARED.blocking_get_token().unwrap().secret().to_owned()))
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), "token-0");
    }
    for _ in 0..2 {
        // One runtime for each test, as people have it.
        let token = Runtime::new().unwrap().block_on(SHARED.get_token()).unwrap();
        assert_eq!(token.secret(), "token-0");
    }
    SHARED.invalidate(&SHARED.blocking_get_token().unwrap());
    assert_eq!(SHARED.blocking_get_token().unwrap().secret(), "token-1");
}

#[test]
fn the_thread_of_a_session_ends_with_it() {
    let (manager, mut endpoint) = scripted();
    let session = Session::builder(manager).spawn_thread().unwrap();
    let asking = {
        let session = session.clone();
        std::thread::spawn(move || session.blocking_get_token())
    };
    Runtime::new().unwrap().block_on(async {
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(asking.join().unwrap().unwrap().secret(), "one");
        drop(session);
        endpoint.calls_are_over().await;
    });
}

#[test]
fn a_blocked_thread_is_answered_closed_at_shutdown() {
    let (manager, mut endpoint) = scripted();
    let session = Session::builder(manager).spawn_thread().unwrap();
    let asking = {
        let session = session.clone();
        std::thread::spawn(move || session.blocking_get_token())
    };
    Runtime::new().unwrap().block_on(async {
        let grant = endpoint.grant().await;
        session.shutdown().await;
        assert!(grant.is_dropped());
    });
    assert!(matches!(asking.join().unwrap(), Err(SessionError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn blocking_inside_a_runtime_would_block_unless_there_is_a_token() {
    let (session, mut endpoint) = session();
    let error = session.blocking_get_token().unwrap_err();
    assert!(matches!(error, SessionError::WouldBlock), "{error:?}");
    let on_another_thread = session.clone();
    let result = tokio::task::spawn_blocking(move || on_another_thread.blocking_get_token());
    assert!(matches!(result.await.unwrap(), Err(SessionError::WouldBlock)));
    endpoint.is_quiet().await;

    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    text_of(asking).await;
    assert_eq!(session.blocking_get_token().unwrap().secret(), "one");
}

#[tokio::test]
async fn a_session_can_be_spawned_on_a_thread_from_inside_a_runtime() {
    let session = counting().spawn_thread().unwrap();
    assert_eq!(session.get_token().await.unwrap().secret(), "token-0");
    session.shutdown().await;
}

#[test]
fn what_callers_hold_fits_anywhere() {
    fn sends<T: Send>(_: T) {}
    fn is<T: Clone + Send + Sync + Debug + 'static>() {}
    is::<SessionHandle>();
    is::<ccg_session::AccessToken>();
    is::<ExchangedToken>();
    is::<ccg_session::StatusSubscription>();
    is::<SessionError>();
    let session = SessionHandle::fixed("text").unwrap();
    sends(session.get_token());
    sends(session.exchange(ExchangeRequest::default()));
    sends(session.revoke());
    sends(session.shutdown());
}
