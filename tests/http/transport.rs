//! One attempt over a real connection, and all that can go wrong with it.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ccg_session::{
    Actor, ExchangeRequest, Grant, GrantRequest, HttpTokenManager, Provider, Session, SessionError,
    TokenError, TokenManager,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{millis, secs, session_of};

const SECRET: &str = "p+s3cr3t/ä";

/// A server that sends these bytes to whoever connects, the last part again and again if so wanted,
/// and counts the connections.
struct Raw {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Raw {
    async fn start(head: impl Into<String>, again: Option<&'static str>) -> Self {
        Self::start_with(head.into().into_bytes(), again).await
    }

    /// Never closes, and sends no more.
    async fn start_slow(head: &'static str) -> Self {
        Self::start_with(head.into(), Some("")).await
    }

    async fn start_with(head: Vec<u8>, again: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(stream, head.clone(), again));
            }
        });
        Self { address, connections }
    }

    fn manager(&self) -> HttpTokenManager {
        manager(&format!("http://{}/token", self.address))
    }

    async fn grant(&self) -> Result<Grant, TokenError> {
        let manager = self.manager();
        let grant = manager.grant(GrantRequest::default());
        let result = tokio::time::timeout(secs(60), grant).await.unwrap();
        assert_eq!(self.connections.load(Ordering::SeqCst), 1, "one attempt, one connection");
        if let Err(error) = &result {
            assert_clean(error);
        }
        result
    }
}

async fn answer(mut stream: TcpStream, head: Vec<u8>, again: Option<&'static str>) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    if stream.write_all(&head).await.is_err() {
        return;
    }
    if again == Some("") {
        std::future::pending::<()>().await;
    }
    if let Some(again) = again {
        while stream.write_all(again.as_bytes()).await.is_ok() {}
    }
    let _ = stream.shutdown().await;
}

fn manager(url: &str) -> HttpTokenManager {
    HttpTokenManager::builder(Provider::generic(url), "id", SECRET).build().unwrap()
}

/// Neither what it shows nor what is behind it holds the secret or the address's query.
fn assert_clean(error: &TokenError) {
    let mut shown = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        shown = format!("{shown} {cause} {cause:?}");
        source = cause.source();
    }
    for secret in [SECRET, "p%2Bs3cr3t", "s3cr3t"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

fn with_length(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_token() {
    let server = Raw::start(with_length("200 OK", "", r#"{"access_token":"T"}"#), None).await;
    assert!(server.grant().await.is_ok());
}

#[tokio::test]
async fn what_the_head_says_counts_though_the_body_stalls() {
    let head = |status: u16| {
        let head = format!(
            "HTTP/1.1 {status} -\r\nretry-after: 60\r\ncontent-length: 20\r\n\r\n{{\"error\":"
        );
        Raw::start_with(head.into_bytes(), Some(""))
    };
    for status in [429, 503, 500, 403] {
        let server = head(status).await;
        let session = session_of(server.manager(), |config| config.retry.attempts = 1);
        let error = session.get_token().await.unwrap_err();
        let expected = match error.token_error().unwrap() {
            TokenError::RateLimited { retry_after, .. } if matches!(status, 429 | 403) => {
                retry_after
            }
            TokenError::Server { status: 500 | 503, retry_after, .. } => retry_after,
            error => panic!("{status}: {error}"),
        };
        assert_eq!(*expected, Some(secs(60)), "{status}");
    }
}

/// What comes over the connection, and what it means: what the table in `src/http/wire/tests.rs` has no
/// place for. `~` is a byte that is no UTF-8.
#[tokio::test]
async fn odd_and_hostile_connections() {
    let ok = |headers: &str, body: &str| with_length("200 OK", headers, body);
    let token = r#"{"access_token":"T"}"#;
    let kib = |n: usize| "x".repeat(n * 1024);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let zeros = "\0".repeat(4096);
    let mut wrong = Vec::new();
    for (answer, expected) in [
        (ok("", token), "T"),
        (format!("HTTP/1.0 200 OK\r\n\r\n{token}"), "T"),
        (format!("HTTP/1.1 200\r\ncontent-length: 20\r\n\r\n{token}"), "T"),
        (format!("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n{}", ok("", token)), "T"),
        (
            format!("{chunked}a\r\n{{\"access_t\r\nA\r\noken\":\"T\"}}\r\n0\r\nx-late: 1\r\n\r\n"),
            "T",
        ),
        (ok(&format!("x-long: {}\r\n", kib(64)), token), "T"),
        (ok(&format!("x-long: {}\r\n", kib(1024)), token), "no connection"),
        (ok(&"x-many: 1\r\n".repeat(100), token), "no connection"),
        (ok("x-bad header: 1\r\n", token), "no connection"),
        (ok("content-length: 7\r\n", token), "no connection"),
        (format!("{chunked}zz\r\n{token}\r\n0\r\n\r\n"), "no connection"),
        (format!("HTTP/2 200 OK\r\n\r\n{token}"), "no connection"),
        (format!("HTTP/1.1 99 Low\r\n\r\n{token}"), "no connection"),
        (ok("content-type: text/html; charset=iso-8859-1\r\n", token), "T"),
        (ok("content-type: application/json; charset=utf-16\r\n", token), "T"),
        (ok("", &format!("\u{feff}{token}")), "T"),
        (ok("", &format!("{{\"access_token\":\"{}\"}}", kib(64))), "a token of 65536 characters"),
        (ok("", "{\"access_token\":\"T~\"}"), "malformed"),
        (ok("", &format!("{{\"x\":{}", "[".repeat(200_000))), "malformed"),
        (ok("content-encoding: gzip\r\n", &format!("\u{1f}~\u{8}{zeros}")), "malformed"),
        (ok("content-encoding: gzip\r\n", token), "malformed"),
        (ok("content-encoding: identity\r\n", token), "T"),
        (ok("set-cookie: a=b\r\nlocation: /x\r\n", token), "T"),
        (ok("", r#"{"error":"invalid_client"}"#), "denied 200 invalid_client"),
        (with_length("400 ~~", "", r#"{"error":"invalid_scope"}"#), "denied 400 invalid_scope"),
        (
            with_length("400 Bad", "", "{\"error\":\"a\",\"error_description\":\"~ p+s3cr3t/ä\"}"),
            "denied 400 a",
        ),
        (with_length("204 No Content", "", ""), "malformed"),
        (with_length("999 Odd", "", "{}"), "denied 999 unknown status"),
    ] {
        let begins = answer.chars().take(120).collect::<String>();
        let outcome = match Raw::start_with(bytes(&answer), None).await.grant().await {
            Ok(grant) => shown(&grant),
            Err(TokenError::Malformed { .. }) => "malformed".into(),
            Err(TokenError::Transport { .. }) => "no connection".into(),
            Err(TokenError::Denied { error, status, .. }) => format!("denied {status} {error}"),
            Err(other) => other.to_string(),
        };
        if outcome != expected {
            wrong.push(format!("{outcome:?}, not {expected:?}: {begins:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// As bytes, `~` as one that begins no character of UTF-8.
fn bytes(text: &str) -> Vec<u8> {
    text.bytes().map(|byte| if byte == b'~' { 0xff } else { byte }).collect()
}

/// A grant's token goes into a session's hands, which show it.
fn shown(grant: &Grant) -> String {
    struct Given(Grant);
    impl TokenManager for Given {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            Ok(self.0.clone())
        }
    }
    let session = Session::builder(Given(grant.clone())).spawn_thread().unwrap();
    let token = std::thread::spawn(move || session.blocking_get_token()).join().unwrap().unwrap();
    match token.secret().len() {
        0..100 => token.secret().to_owned(),
        length => format!("a token of {length} characters"),
    }
}

#[tokio::test]
async fn a_slow_body_ends_with_the_attempts_time() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"access_token";
    let server = Raw::start_slow(head).await;
    let session = session_of(server.manager(), |config| {
        config.retry.attempts = 1;
        config.retry.attempt_timeout = millis(200);
    });
    let answer = tokio::time::timeout(secs(60), session.get_token()).await;
    let error = answer.expect("it ends").unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::TimedOut { .. })), "{error}");
}

#[tokio::test]
async fn a_body_without_end_is_read_to_its_limit_only() {
    let spaces = &*" ".repeat(4096).leak();
    let chunk = format!("1000\r\n{spaces}\r\n").leak();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let error = Raw::start(head, Some(chunk)).await.grant().await.unwrap_err();
    assert!(
        matches!(&error, TokenError::Malformed { reason, .. } if reason.contains("longer than 1 MiB"))
    );

    let head = "HTTP/1.1 200 OK\r\n\r\n{";
    let error = Raw::start(head, Some(spaces)).await.grant().await.unwrap_err();
    assert!(matches!(error, TokenError::Malformed { .. }), "{error}");

    let head = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 99999999999\r\n\r\n";
    let error = Raw::start(head, Some(spaces)).await.grant().await.unwrap_err();
    assert!(matches!(error, TokenError::Denied { status: 401, .. }), "{error}");
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let token = r#"{"access_token":"T"}"#;
    let body = token.to_owned() + &" ".repeat(1024 * 1024 - token.len());
    assert!(Raw::start(with_length("200 OK", "", &body), None).await.grant().await.is_ok());
    let server = Raw::start(with_length("200 OK", "", &(body + " ")), None).await;
    assert!(matches!(server.grant().await, Err(TokenError::Malformed { .. })));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_matter_of_transport() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access_token\":\"T\"}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{\"acc",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "",
        "SSH-2.0-OpenSSH_9.9\r\n",
    ] {
        let error = Raw::start(head, None).await.grant().await.unwrap_err();
        assert!(matches!(error, TokenError::Transport { .. }), "{head:?}: {error}");
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_where_to() {
    let elsewhere = Raw::start(with_length("200 OK", "", r#"{"access_token":"T"}"#), None).await;
    let location = format!("location: http://{}/token/?x=s3cr3t\r\n", elsewhere.address);
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"]
    {
        let server = Raw::start(with_length(status, &location, ""), None).await;
        let error = server.grant().await.unwrap_err();
        assert!(!error.is_retryable());
        let target = format!("redirects to http://{}/token/;", elsewhere.address);
        assert!(error.to_string().contains(&target), "{error}");
    }
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_for_what_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token?key=s3cr3t", listener.local_addr().unwrap());
    drop(listener);
    let error = manager(&url).grant(GrantRequest::default()).await.unwrap_err();
    assert!(matches!(error, TokenError::Transport { .. }));
    assert!(
        error.to_string().contains("refused"),
        "the cause, not \"error sending request\": {error}"
    );
    assert_clean(&error);
}

#[tokio::test]
async fn tls_is_spoken_without_a_provider_of_the_process() {
    let server = Raw::start("HTTP/1.1 400 Bad Request\r\n\r\n", None).await;
    let manager = manager(&format!("https://{}/token", server.address));
    let error = manager.grant(GrantRequest::default()).await.unwrap_err();
    assert!(matches!(error, TokenError::Transport { .. }), "{error}");
    assert_clean(&error);
}

#[tokio::test]
async fn a_secret_that_is_echoed_is_not_kept() {
    let basic = "aWQ6cCUyQnMzY3IzdCUyRiVDMyVBNA=="; // id:p%2Bs3cr3t%2F%C3%A4
    for echo in [SECRET, "p%2Bs3cr3t%2F%C3%A4", basic] {
        let body = format!(
            r#"{{"error":"invalid_client","error_description":"{echo} is wrong","error_uri":"{echo}"}}"#
        );
        let server = Raw::start(with_length("401 Unauthorized", "", &body), None).await;
        let error = server.grant().await.unwrap_err();
        let TokenError::Denied { description, uri, .. } = &error else { panic!("{error}") };
        assert_eq!(description.as_deref(), Some("[redacted] is wrong"));
        assert_eq!(uri.as_deref(), Some("[redacted]"));
    }
}

#[tokio::test]
async fn what_only_box_has_is_refused_elsewhere() {
    let server = Raw::start(with_length("200 OK", "", r#"{"access_token":"T"}"#), None).await;
    let session = session_of(server.manager(), |_| {});
    session.get_token().await.unwrap();
    for request in [
        ExchangeRequest::scopes(["a"]).actor(Actor::new("7", "Ada")),
        ExchangeRequest::scopes(["a"]).shared_link("https://app.box.com/s/abc"),
        ExchangeRequest::scopes(["a"]).param("grant_type", "password"),
    ] {
        let error = session.exchange(request).await.unwrap_err();
        assert!(
            matches!(error.token_error(), Some(TokenError::Denied { status: 0, .. })),
            "{error}"
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1, "only the grant was sent");
    assert!(matches!(session.revoke().await, Err(SessionError::Unsupported(_))));
}
