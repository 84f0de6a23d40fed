//! What a failure says is obeyed and kept; and what is no refusal is not taken for one.

use std::error::Error;
use std::time::Duration;

use ccg_session::testing::{Answer, Authority, Fault, Kind, Rule, Script};
use ccg_session::{
    Credential, ExchangeRequest, GrantRequest, HttpTokenManager, Provider, Session, SessionConfig,
    SessionError, SessionHandle, TokenError, TokenManager,
};
use http::{HeaderValue, StatusCode};

use super::loopback::Server;
use super::{millis, session_of};

const PAGE: &str = "<!doctype html><title>Blocked</title>";

fn manager(authority: &Authority) -> HttpTokenManager {
    authority.manager().unwrap()
}

fn session(authority: &Authority) -> SessionHandle {
    let minute = Duration::from_secs(60);
    session_of(manager(authority), |config| config.retry.attempt_timeout = minute)
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

async fn error(authority: &Authority, answer: impl Into<Fault>) -> TokenError {
    authority.fail(Kind::Grant, answer.into());
    manager(authority).grant(GrantRequest::default()).await.unwrap_err()
}

/// It is tried again within the flight, so nobody hears of it.
#[tokio::test]
async fn infrastructure_is_not_a_refusal() {
    let authority = Authority::start().await.unwrap();
    for answer in [
        Answer::new(status(403)).body(PAGE),
        Answer::new(status(400)).body(PAGE),
        Answer::new(status(404)),
        Answer::new(status(421)),
        Answer::new(status(425)),
        Answer::new(status(400)).body(r#"{"error":"internal_failure"}"#),
        Answer::new(status(500)).body(r#"{"error":"invalid_client"}"#),
    ] {
        let rule = Rule::new(Kind::Grant).requests(1..=1).fault(answer.clone());
        authority.set_script(Script::new().rule(rule));
        assert!(session(&authority).get_token().await.is_ok(), "{answer:?}");
    }
    // These are: some servers refuse a client with no more than that.
    for answer in [
        Answer::new(status(403)),
        Answer::new(status(403)).body("no"),
        Answer::new(status(401)).body(PAGE),
        Answer::new(status(400)),
    ] {
        let before = authority.counts().grants;
        authority.fail(Kind::Grant, answer.clone());
        let session = session(&authority);
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error}");
        assert!(error.retry_after().unwrap() > Duration::from_secs(20), "{error}");
        assert_eq!(authority.counts().grants, before + 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_method_is_not_asked_again() {
    let authority = Authority::start().await.unwrap();
    for code in [501, 505] {
        let before = authority.counts().grants;
        authority.fail(Kind::Grant, Answer::new(status(code)));
        let error = session(&authority).get_token().await.unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Server { .. })), "{error}");
        assert_eq!(authority.counts().grants, before + 1, "{code}");
    }
}

#[tokio::test]
async fn a_refusal_with_retry_after_is_left_alone_for_the_longer_of_it_and_cooling() {
    let authority = Authority::start().await.unwrap();
    for (asked, least, most) in [(70, 60, 70), (5, 20, 30), (86_400, 590, 600)] {
        let refusal = Answer::new(status(400)).body(r#"{"error":"unauthorized_client"}"#);
        authority.fail(Kind::Grant, refusal.retry_after(Duration::from_secs(asked)));
        let error = session(&authority).get_token().await.unwrap_err();
        assert!(matches!(error, SessionError::Failed { .. }), "{error}");
        let wait = error.retry_after().unwrap();
        let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(bounds.contains(&wait), "{asked}: {wait:?}");
        let refused = error.token_error().unwrap();
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(asked)));
    }
}

/// Entra's descriptions end with a correlation id, by which its operators find the request.
#[tokio::test]
async fn a_description_is_kept_to_its_end() {
    let authority = Authority::start().await.unwrap();
    let words = format!("AADSTS7000215: {} Correlation ID: 7f3a", "blah ".repeat(180));
    let body = serde_json::json!({ "error": "invalid_client", "error_description": words });
    let error = error(&authority, Answer::new(status(401)).body(body.to_string())).await;
    assert!(error.to_string().ends_with("Correlation ID: 7f3a"), "{error}");
}

#[tokio::test]
async fn an_error_names_its_cause_and_nothing_is_said_twice() {
    let nobody = Provider::generic("http://127.0.0.1:1/token");
    let builder = HttpTokenManager::builder(nobody, "test-client", "test-secret");
    let mut config = SessionConfig::default();
    config.retry.attempts = 1;
    let session = Session::builder(builder.build().unwrap()).config(config).spawn().unwrap();
    let failed = session.get_token().await.unwrap_err();
    let cooling = session.get_token().await.unwrap_err();
    assert!(matches!(cooling, SessionError::Cooling { .. }), "{cooling:?}");
    for error in [&failed as &dyn Error, failed.token_error().unwrap(), &cooling] {
        let mut said = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            said.push(error.to_string());
            next = error.source();
        }
        assert!(said[0].contains("Connection refused"), "the cause is not lost: {said:?}");
        assert!(said.len() > 1, "{said:?}");
        for (nth, text) in said.iter().enumerate() {
            let others = said.iter().enumerate().filter(|(other, _)| *other != nth);
            assert!(
                others.into_iter().all(|(_, other)| !other.contains(text.as_str())),
                "{said:?}"
            );
        }
    }
}

#[tokio::test]
async fn durations_in_messages_are_rounded() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Grant, Answer::new(status(401)).error("invalid_client"));
    let session = session(&authority);
    session.get_token().await.unwrap_err();
    let error = session.get_token().await.unwrap_err().to_string();
    assert!(error.starts_with("no request is sent for another 30s after an error: "), "{error}");
    let limited = TokenError::rate_limited(Some(Duration::from_micros(29_999_999)));
    assert_eq!(limited.to_string(), "too many requests; try again in 30s");
    let endless =
        format!("HTTP/1.1 503 -\r\nretry-after: {}\r\ncontent-length: 0\r\n\r\n", "9".repeat(30));
    let server = Server::start(move |_| endless.clone()).await;
    let builder = HttpTokenManager::builder(Provider::generic(&server.base), "id", "s3cr3t");
    let error = builder.build().unwrap().grant(GrantRequest::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("; it asked to wait 100years"), "{error}");
}

#[tokio::test]
async fn an_error_names_the_address() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url().to_owned();
    let address = format!("{base}/oauth2/token");
    let with_key = Provider::generic(format!("{}?key=s3cr3t", authority.token_url()))
        .revocation_url(authority.revocation_url());
    for (fault, begins) in [
        (Answer::new(status(503)).into(), format!("the server failed (status 503) at {address}")),
        (Fault::Drop, format!("the server could not be reached at {address}: ")),
        (Fault::Cut, format!("the server could not be reached at {address}: ")),
        (Fault::Hang, format!("no answer within 500ms from {address}")),
    ] {
        authority.fail(Kind::Grant, fault);
        let builder = HttpTokenManager::builder(with_key.clone(), "test-client", "test-secret");
        let mut config = SessionConfig::default();
        config.retry.attempts = 1;
        let hangs = begins.contains("500ms");
        config.retry.attempt_timeout = if hangs { millis(500) } else { Duration::from_secs(60) };
        let session = Session::builder(builder.build().unwrap()).config(config).spawn().unwrap();
        let error = session.get_token().await.unwrap_err();
        let error = error.token_error().unwrap();
        assert!(error.to_string().starts_with(&begins), "{begins}: {error}");
        assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
    }
    // Whatever it was that hung.
    authority.heal();
    let session = session_of(manager(&authority), |config| {
        config.retry.attempts = 1;
        config.retry.attempt_timeout = Duration::from_secs(3);
    });
    session.get_token().await.unwrap();
    authority.fail(Kind::Revoke, Fault::Hang);
    let error = session.revoke().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("no answer within 3s from {}", authority.revocation_url())),
        "{error}"
    );
}

#[tokio::test]
async fn metadata_that_is_nowhere_is_reported_as_that_and_looked_for_once_per_flight() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let issuer = format!("{base}/tenant");
    let builder = HttpTokenManager::builder(Provider::discover(&issuer), "test-client", "s");
    let session = Session::builder(builder.build().unwrap()).spawn().unwrap();
    let error = session.get_token().await.unwrap_err();
    let Some(TokenError::Denied { error, description, status, .. }) = error.token_error() else {
        panic!("{error}")
    };
    assert_eq!((&**error, *status), ("no_metadata", 404));
    let words = description.as_deref().unwrap();
    assert!(
        words.starts_with(&format!("no metadata was found for the issuer {issuer:?}")),
        "{words}"
    );
    assert_eq!(session.status().counters().grants_started, 1);

    // A web application may answer there, as at each path that it does not know.
    authority.fail(Kind::Discovery, Fault::Html);
    let builder = HttpTokenManager::builder(Provider::discover(base), "test-client", "s");
    let session = Session::builder(builder.build().unwrap()).spawn().unwrap();
    let error = session.get_token().await.unwrap_err();
    let cause = error.token_error().unwrap();
    assert!(matches!(cause, TokenError::Denied { error, .. } if error == "no_metadata"), "{error}");
    assert!(error.to_string().contains("looks like a web page"), "{error}");
    assert_eq!(session.status().counters().grants_started, 1);
}

#[tokio::test]
async fn requests_ask_for_no_coding_and_an_answer_that_is_coded_is_named_as_such() {
    let authority = Authority::start().await.unwrap();
    let gzip = HeaderValue::from_static("gzip");
    let coded = Answer::new(status(200)).header(http::header::CONTENT_ENCODING, gzip);
    let error = error(&authority, coded.body("\u{1f}\u{8b}")).await;
    assert!(error.to_string().contains("the answer is coded (\"gzip\")"), "{error}");
    // Where a coding stands a server can put anything, so what is no coding is not shown.
    let echo = http::HeaderValue::from_static("s3cr3t-value");
    let coded = Answer::new(status(200)).header(http::header::CONTENT_ENCODING, echo);
    let error = crate::failures::error(&authority, coded.body("x")).await;
    assert!(error.to_string().contains("the answer is coded (in a way of its own)"), "{error}");
    assert!(error.is_retryable(), "a proxy may have done that");
}

#[tokio::test]
async fn a_form_encoded_answer_is_read() {
    let authority = Authority::start().await.unwrap();
    let token = "access_token=T&token_type=bearer&expires_in=3600";
    authority.fail(Kind::Grant, Answer::new(status(200)).body(token));
    let token = session(&authority).get_token().await.unwrap();
    assert_eq!(token.secret(), "T");
    assert!(token.remaining() > Duration::from_secs(3_500));
    let refusal = "error=invalid_client&error_description=no+such+client";
    let error = error(&authority, Answer::new(status(400)).body(refusal)).await;
    assert_eq!(error.to_string(), "the server refused (400): invalid_client: no such client");
}

#[tokio::test]
async fn a_type_that_cannot_be_used_is_refused_and_not_asked_for_again() {
    let authority = Authority::start().await.unwrap();
    let body = r#"{"access_token":"T","token_type":"mac","expires_in":3600}"#;
    authority.fail(Kind::Grant, Answer::new(status(200)).body(body));
    let error = session(&authority).get_token().await.unwrap_err();
    let Some(TokenError::Denied { description, .. }) = error.token_error() else {
        panic!("{error}")
    };
    assert!(description.as_deref().unwrap().starts_with("its token_type is \"mac\""), "{error}");
    assert_eq!(authority.counts().grants, 1);
}

#[tokio::test]
async fn a_number_too_large_is_a_large_number() {
    let authority = Authority::start().await.unwrap();
    let body = r#"{"access_token":"T","expires_in":1e999}"#;
    authority.fail(Kind::Grant, Answer::new(status(200)).body(body));
    let token = session(&authority).get_token().await.unwrap();
    assert!(token.remaining() > Duration::from_secs(29 * 24 * 3_600));
}

/// RFC 8707 §2: an absolute URI without a fragment.
#[tokio::test]
async fn a_resource_that_is_no_absolute_uri_is_refused() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    session.get_token().await.unwrap();
    for resource in ["foo", "", "/files/1", "//host/path", "https://api.example.com/#top"] {
        let provider = authority.provider().resource(resource);
        let built = HttpTokenManager::builder(provider, "id", "secret").build();
        let error = built.unwrap_err();
        assert_eq!(error.setting(), "resource", "{error}");
        let request = ExchangeRequest::scopes(["a"]).resource(resource);
        let error = session.exchange(request).await.unwrap_err();
        let refused = matches!(error.token_error(), Some(TokenError::Denied { status: 0, .. }));
        assert!(refused && error.to_string().contains("resource is "), "{error}");
    }
    assert_eq!(authority.counts().exchanges, 0, "nothing is sent");
    for resource in ["https://api.example.com/files?id=1", "urn:example:files", "api://x"] {
        let provider = authority.provider().resource(resource);
        assert!(HttpTokenManager::builder(provider, "id", "secret").build().is_ok(), "{resource}");
    }
}

/// A pipe that nobody writes to hangs as a file of a dead mount does.
#[cfg(unix)]
#[tokio::test]
async fn a_secrets_file_that_hangs_is_named_and_not_the_server() {
    let pipe = std::env::temp_dir().join(format!("ccg-session-hangs-{}", std::process::id()));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let provider = Provider::generic("http://127.0.0.1:1/token");
    let credential = Credential::file(&pipe);
    let manager = HttpTokenManager::builder(provider, "id", credential).build().unwrap();
    let session = session_of(manager, |config| {
        config.retry.attempts = 1;
        config.retry.attempt_timeout = millis(100);
    });
    let error = session.get_token().await.unwrap_err().to_string();
    let expected = format!("no answer within 100ms from the file {}", pipe.display());
    assert!(error.ends_with(&expected), "{error}");
    // So that its thread ends.
    std::fs::write(&pipe, "s3cr3t").unwrap();
    std::fs::remove_file(&pipe).unwrap();
}
