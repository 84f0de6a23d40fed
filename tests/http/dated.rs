//! A server with a clock of its own that refuses what is not dated by it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ccg_session::{
    ClientAuth, Credential, DpopKey, HttpTokenManager, JwtAuth, Provider, Session, SessionHandle,
    TokenError,
};
use serde_json::Value;

use crate::loopback::{Request, Server, answer};

/// How far the server's clock is ahead, in seconds, and when what it was sent was issued, by that clock.
#[derive(Default)]
struct Clock {
    ahead: i64,
    issued: Vec<i64>,
}

fn issued(jwt: &str) -> i64 {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["iat"].as_i64().unwrap()
}

async fn server(ahead: i64) -> (Server, Arc<Mutex<Clock>>) {
    let clock = Arc::new(Mutex::new(Clock { ahead, issued: Vec::new() }));
    let shared = clock.clone();
    let server = Server::start(move |request: &Request| {
        let mut clock = shared.lock().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(now).unwrap() + clock.ahead;
        let form = request.form();
        let assertion = form.iter().find(|(name, _)| name == "client_assertion");
        let jwt = assertion.map(|(_, jwt)| jwt.as_str()).or(request.header("dpop")).unwrap();
        let at = issued(jwt) - now;
        clock.issued.push(at);
        let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(now).unwrap());
        let date = format!("Date: {}\r\n", httpdate::fmt_http_date(date));
        if (-20..=0).contains(&at) {
            let kind = if request.header("dpop").is_some() { "DPoP" } else { "Bearer" };
            answer(200, &date, &format!(r#"{{"access_token":"T","token_type":"{kind}"}}"#))
        } else {
            answer(401, &date, r#"{"error":"invalid_client"}"#)
        }
    });
    (server.await, clock)
}

fn by_assertion(server: &Server) -> SessionHandle {
    let provider = Provider::generic(format!("{}/token", server.base))
        .client_auth(ClientAuth::SecretJwt(JwtAuth::new()));
    let builder =
        HttpTokenManager::builder(provider, "id", "a secret of more than 32 bytes, for HS256");
    Session::builder(builder.build().unwrap()).spawn().unwrap()
}

fn by_proof(server: &Server) -> SessionHandle {
    let provider =
        Provider::generic(format!("{}/token", server.base)).client_auth(ClientAuth::None);
    let builder = HttpTokenManager::builder(provider, "id", Credential::none());
    let builder = builder.dpop(DpopKey::generate().unwrap());
    Session::builder(builder.build().unwrap()).spawn().unwrap()
}

#[tokio::test]
async fn what_is_signed_is_dated_a_little_back() {
    let (server, clock) = server(0).await;
    by_assertion(&server).get_token().await.unwrap();
    by_proof(&server).get_token().await.unwrap();
    let issued = &clock.lock().unwrap().issued;
    assert!(issued.len() == 2 && issued.iter().all(|at| (-8..=-5).contains(at)), "{issued:?}");
}

#[tokio::test]
async fn after_a_refusal_it_is_dated_by_the_servers_clock() {
    for ahead in [3_600, -3_600, -30] {
        let (server, clock) = server(ahead).await;
        for session in [by_assertion(&server), by_proof(&server)] {
            clock.lock().unwrap().issued.clear();
            session.get_token().await.unwrap();
            assert_eq!(
                clock.lock().unwrap().issued.len(),
                2,
                "one refusal, and at once another try"
            );
            // What was learned is kept.
            session.invalidate(&session.get_token().await.unwrap());
            session.get_token().await.unwrap();
            let issued = clock.lock().unwrap().issued.clone();
            assert_eq!(issued.len(), 3, "{issued:?}");
            assert!((-8..=-4).contains(&issued[2]), "{issued:?}");
        }
    }
}

/// A refusal for another reason is one.
#[tokio::test]
async fn a_refusal_by_the_same_clock_is_not_tried_again() {
    let body = r#"{"error":"invalid_client"}"#;
    let server = Server::start(move |_| {
        let date = httpdate::fmt_http_date(SystemTime::now());
        answer(401, &format!("Date: {date}\r\n"), body)
    });
    let server = server.await;
    let error = by_assertion(&server).get_token().await.unwrap_err();
    let refused =
        matches!(error.token_error(), Some(TokenError::Denied { credentials_changed: false, .. }));
    assert!(refused, "{error:?}");
    assert_eq!(server.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}
