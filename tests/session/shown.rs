//! What operators see: status, its `Debug`, and the log.

use std::fmt::Write;
use std::sync::Mutex;

use tokio::time::sleep_until;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

use super::recording::record;
use super::*;

/// Keeps the warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::WARN {
            event.record(&mut self.clone());
        }
    }
}

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

/// Keeps what the crate's documentation names: each span and event, with its fields.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn keep(&self, what: &str, fields: impl FnOnce(&mut Fields)) {
        let mut line = Fields(what.to_owned());
        fields(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.keep(span.metadata().name(), |line| span.record(line));
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.keep("", |line| values.record(line));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.keep(event.metadata().name(), |line| event.record(line));
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_tells_of_attempts_tokens_and_phases() {
    let log = Log::default();
    let _guard = record(registry().with(log.clone()));
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.fail(TokenError::Panicked);
    endpoint.grant().await.token("parent", HOUR);
    text_of(asking).await;
    let exchanging = exchange(&session, scope("a"));
    endpoint.exchange().await.token("child", HOUR);
    exchanging.await.unwrap().unwrap();
    let revoking = revoke(&session);
    for _ in 0..2 {
        endpoint.revocation().await.revoked();
    }
    revoking.await.unwrap().unwrap();
    let expected = [
        "session.phase phase=Holding",
        "ccg_session.attempt kind=\"grant\" attempt=1",
        " outcome=the token manager panicked: standard error should say why",
        "ccg_session.attempt kind=\"grant\" attempt=2",
        " outcome=\"ok\"",
        "token.published generation=1",
        "session.phase phase=Fresh",
        "ccg_session.attempt kind=\"exchange\" attempt=1",
        " outcome=\"ok\"",
        "session.phase phase=Revoking",
        "ccg_session.attempt kind=\"revocation\" attempt=1",
        "ccg_session.attempt kind=\"revocation\" attempt=1",
        " outcome=\"ok\"",
        " outcome=\"ok\"",
        "session.phase phase=Empty",
    ];
    assert_eq!(*log.0.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_failed_background_refresh_is_one_warning_with_its_reason_and_the_life_left() {
    let warnings = Warnings::default();
    let _guard = record(registry().with(warnings.clone()));
    let (session, mut endpoint) = session_holding("t1", HOUR).await;
    sleep(secs(3_200)).await;
    let token = session.get_token().await.unwrap();
    for _ in 0..3 {
        endpoint.grant().await.fail(unavailable());
    }
    settle().await;
    assert_eq!(session.get_token().await.unwrap(), token, "it is good to its end");
    let warnings = warnings.0.lock().unwrap().clone();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.contains("6m"), "the life left: {warning}");
    assert!(warning.contains("the server failed (status 503)"), "the reason: {warning}");
}

/// Its callers get the error.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_as_its_token_ends_is_no_warning() {
    let warnings = Warnings::default();
    let _guard = record(registry().with(warnings.clone()));
    let born = Instant::now();
    let (session, mut endpoint) = session_holding("t1", HOUR).await;
    sleep_until(born + HOUR - secs(5)).await;
    let asking = ask(&session);
    let grant = endpoint.grant().await;
    sleep_until(born + HOUR).await;
    grant.fail(denied());
    asking.await.unwrap().unwrap_err();
    assert_eq!(*warnings.0.lock().unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn status_tells_the_last_error_until_a_token_comes_and_when_one_came() {
    let (session, mut endpoint) = session();
    assert_eq!(session.status().last_success(), None);
    let asking = ask(&session);
    endpoint.grant().await.fail(denied());
    asking.await.unwrap().unwrap_err();
    let status = session.status();
    assert!(status.last_error().is_some_and(|error| error.to_string().contains("invalid_client")));
    assert_eq!(status.last_success(), None);
    assert_eq!(status.retry_after(), Some(secs(30)));
    sleep(secs(30)).await;
    assert_eq!(session.status().retry_after(), None);
    let asking = ask(&session);
    endpoint.grant().await.token("t1", HOUR);
    text_of(asking).await;
    sleep(secs(7)).await;
    let status = session.status();
    assert!(status.last_error().is_none());
    assert_eq!(status.retry_after(), None);
    assert_eq!(status.last_success().map(|ago| ago.as_secs()), Some(7));
}

#[tokio::test(start_paused = true)]
async fn status_tells_how_long_a_token_stays_fresh() {
    let (session, _endpoint) = super::session();
    assert_eq!(session.status().stale_in(), None);
    let (session, _endpoint) = session_holding("t1", HOUR).await;
    let fresh_for = session.status().stale_in().unwrap();
    assert!(secs(2_900) < fresh_for && fresh_for <= secs(3_000), "{fresh_for:?}");
    sleep(secs(600)).await;
    assert_eq!(session.status().stale_in(), fresh_for.checked_sub(secs(600)));
    sleep(secs(2_400)).await;
    assert_eq!(session.status().stale_in(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_debug_of_a_status_shows_durations_and_not_ticks_of_a_clock() {
    let (session, _endpoint) = session_holding("t1", HOUR).await;
    sleep(secs(600)).await;
    let status = session.status();
    let shown = format!("{status:?}");
    assert!(shown.contains("phase: Fresh"), "{shown}");
    let remaining = status.remaining().unwrap();
    assert!(secs(2_990) < remaining && remaining <= secs(3_000), "{remaining:?}");
    assert!(shown.contains(&format!("remaining: Some({remaining:?})")), "{shown}");
    assert!(!shown.contains("Instant"), "{shown}");
    assert_eq!(session.status().phase().as_str(), "fresh");
    assert_eq!(session.status().phase().to_string(), "fresh");
}

#[tokio::test(start_paused = true)]
async fn the_debug_of_a_handle_and_of_what_it_gives_says_what_they_are() {
    let (session, _endpoint) = session_holding("t1", HOUR).await;
    assert_eq!(format!("{session:?}"), "SessionHandle { phase: Fresh, .. }");
    assert_eq!(format!("{:?}", session.get_token()), "GetToken");
    let shown = format!("{:?}", session.get_token().await.unwrap().as_ref());
    assert!(shown.starts_with("Issued(TokenId {") && shown.ends_with("[redacted])"), "{shown}");
}

/// Looks at the status when it is woken, on the spot.
struct Looks(SessionHandle, Mutex<Vec<usize>>);

impl std::task::Wake for Looks {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0.status().held());
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_what_an_answer_rests_on_before_the_answer_comes() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.token("one", HOUR);
    text_of(asking).await;
    let looks = Arc::new(Looks(session.clone(), Mutex::default()));
    let waker = Arc::clone(&looks).into();
    let mut exchanging = std::pin::pin!(session.exchange(scope("a")));
    let mut context = std::task::Context::from_waker(&waker);
    assert!(exchanging.as_mut().poll(&mut context).is_pending());
    let attempt = endpoint.exchange().await;
    assert_eq!(session.status().held(), 1);
    attempt.fail(TokenError::denied("invalid_client", ""));
    settle().await;
    assert_eq!(*looks.1.lock().unwrap(), [0]);
    exchanging.await.unwrap_err();
}
