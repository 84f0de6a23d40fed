//! What a manager hears from elsewhere reaches its session.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccg_session::{
    ConfigError, Grant, GrantRequest, NewsSender, Session, SessionConfig, TokenError, TokenManager,
    TokenText,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Its tokens are numbered; it keeps what it needs to tell of them.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    news: Option<NewsSender>,
    granted: Vec<TokenText>,
    requests: Vec<GrantRequest>,
}

impl TokenManager for Shared {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let mut state = self.0.lock().unwrap();
        let number = state.granted.len() + 1;
        let grant = Grant::bearer(format!("t{number}"))?.expires_in(HOUR);
        state.granted.push(grant.text().clone());
        state.requests.push(request);
        Ok(grant)
    }

    fn attach(&self, news: NewsSender) {
        self.0.lock().unwrap().news = Some(news);
    }
}

impl Shared {
    fn news(&self) -> NewsSender {
        self.0.lock().unwrap().news.clone().expect("attached")
    }

    fn granted(&self, nth: usize) -> TokenText {
        self.0.lock().unwrap().granted[nth].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_session_revoked_is_given_to_nobody_any_more() {
    let manager = Shared::default();
    let session = Session::builder(manager.clone()).spawn().unwrap();
    assert_eq!(session.get_token().await.unwrap().secret(), "t1");
    let mut changes = session.subscribe();
    manager.news().revoked(manager.granted(0), HOUR);
    while changes.changed().await.expect("the session goes on").generation().is_some() {}
    assert!(session.try_token().is_none());
    assert_eq!(session.get_token().await.unwrap().secret(), "t2");
    let request = manager.0.lock().unwrap().requests[1].clone();
    assert_eq!(request.refused, Some(manager.granted(0)));
    assert!(request.is_refused(&manager.granted(0)) && !request.is_refused(&manager.granted(1)));
    assert_eq!(request.timeout, Some(SessionConfig::default().retry.attempt_timeout));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_says_which_token_it_is_to_replace() {
    let manager = Shared::default();
    let session = Session::builder(manager.clone()).spawn().unwrap();
    session.get_token().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3300)).await;
    session.get_token().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(session.status().generation(), Some(2));
    let state = manager.0.lock().unwrap();
    assert_eq!(state.requests[0].replaces, None);
    assert_eq!(state.requests[1].replaces.as_ref(), state.granted.first());
}

#[tokio::test(start_paused = true)]
async fn news_keep_no_session_alive() {
    let manager = Shared::default();
    let session = Session::builder(manager.clone()).spawn().unwrap();
    session.get_token().await.unwrap();
    assert!(!manager.news().is_closed());
    session.shutdown().await;
    assert!(manager.news().is_closed());
    manager.news().revoked(manager.granted(0), HOUR);
}

/// Each of these is asked when a session starts.
struct Panics(&'static str);

impl Panics {
    fn at(&self, method: &str) {
        assert!(self.0 != method, "{method} panics");
    }
}

impl TokenManager for Panics {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Grant::bearer("token")
    }

    fn can_exchange(&self) -> bool {
        self.at("can_exchange");
        false
    }

    fn check(&self, _: &SessionConfig) -> Result<(), ConfigError> {
        self.at("check");
        Ok(())
    }

    fn attach(&self, _: NewsSender) {
        self.at("attach");
    }
}

#[tokio::test]
async fn a_manager_that_panics_when_a_session_starts_is_refused() {
    for method in ["can_exchange", "check", "attach"] {
        let error = Session::builder(Panics(method)).spawn().unwrap_err();
        assert_eq!(error.setting(), "manager", "{method}");
    }
}
