//! What goes over the wire, pair for pair as the original client sends it.
//!
//! `goldens/box-wire-golden.json` was recorded from box-node-sdk. Each of its calls is made here
//! through a session, against a server on loopback that only records.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ccg_session::{
    Actor, ClientAuth, ExchangeRequest, GrantRequest, HttpTokenManager, Provider, SessionHandle,
    Subject, TokenManager, TokenRequestOptions,
};
use serde_json::{Value, json};

use super::loopback::{Request, Server, answer};
use super::session_of;

type Recorded = Arc<Mutex<Vec<Value>>>;

/// A server that takes every request, and notes it in the form of the recordings.
struct Recorder {
    server: Server,
    requests: Recorded,
}

impl Recorder {
    async fn start() -> Self {
        let requests = Recorded::default();
        let recorded = requests.clone();
        let server = Server::start(move |request| record(&recorded, request)).await;
        Self { server, requests }
    }

    fn session(&self, subject: Subject) -> SessionHandle {
        session(Provider::box_ccg(subject).base_url(&self.server.base))
    }

    fn taken(&self) -> Vec<Value> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn session(provider: Provider) -> SessionHandle {
    let manager = HttpTokenManager::builder(provider, "CLIENT_ID", "CLIENT_SECRET");
    session_of(manager.build().unwrap(), |_| {})
}

fn record(requests: &Recorded, request: &Request) -> String {
    let (method, path) = request.line().split_once(' ').unwrap();
    let mut form = request.form();
    form.sort();
    let is_exchange = form.iter().any(|(name, _)| name == "subject_token");
    let token = if is_exchange { "EXCHANGED_TOKEN" } else { "SESSION_TOKEN" };
    let mut headers = serde_json::Map::new();
    for name in ["authorization", "x-forwarded-for", "content-type", "accept"] {
        if let Some(value) = request.header(name) {
            headers.insert(name.into(), value.into());
        }
    }
    requests.lock().unwrap().push(json!({
        "method": method,
        "path": path,
        "headers": headers,
        "form": form,
    }));
    let body = json!({ "access_token": token, "token_type": "bearer", "expires_in": 3600 });
    answer(200, "", &body.to_string())
}

/// The recorded requests of one call.
fn golden(call: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../goldens/box-wire-golden.json")).unwrap();
    let requests = all["golden"][call]["requests"].as_array();
    requests.unwrap_or_else(|| panic!("no recording of {call:?}")).clone()
}

#[track_caller]
fn assert_same(call: &str, sent: &[Value], recorded: &[Value]) {
    assert_eq!(sent.len(), recorded.len(), "{call}: number of requests");
    for (sent, recorded) in sent.iter().zip(recorded) {
        assert_eq!(sent, recorded, "{call}");
    }
}

fn ip(ip: &str) -> TokenRequestOptions {
    TokenRequestOptions::new().ip(ip).unwrap()
}

fn enterprise() -> Subject {
    Subject::enterprise("ENTERPRISE_ID")
}

#[tokio::test]
async fn grants() {
    let server = Recorder::start().await;
    for (call, subject, options) in [
        ("grant for an enterprise", enterprise(), TokenRequestOptions::new()),
        ("grant for a user", Subject::user("USER_ID"), TokenRequestOptions::new()),
        ("grant with ip", enterprise(), ip("127.0.0.1, 192.168.10.10")),
    ] {
        server.session(subject).get_token_with(options).await.unwrap();
        assert_same(call, &server.taken(), &golden(call));
    }
}

#[tokio::test]
async fn exchanges() {
    let server = Recorder::start().await;
    let file = "https://api.box.com/2.0/files/123";
    let preview = || ExchangeRequest::scopes(["item_preview"]);
    for (call, request) in [
        ("exchange, one scope", preview()),
        ("exchange, several scopes", ExchangeRequest::scopes(["item_upload", "item_delete"])),
        ("exchange, resource", preview().resource(file)),
        ("exchange, shared link", preview().shared_link("https://app.box.com/s/abc")),
    ] {
        server.session(enterprise()).exchange(request).await.unwrap();
        assert_same(call, &server.taken(), &golden(call));
    }
}

#[tokio::test]
async fn exchange_for_an_actor() {
    let call = "exchange, actor";
    let server = Recorder::start().await;
    let request = ExchangeRequest::scopes(["item_preview"])
        .resource("https://api.box.com/2.0/files/123")
        .actor(Actor::new("ACTOR_ID", "Actor Name"));
    server.session(enterprise()).exchange(request).await.unwrap();

    let (mut sent, mut recorded) = (server.taken(), golden(call));
    let sent_parts = take_actor_token(&mut sent[1], |token| {
        let parts: Vec<_> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[2], "", "unsigned");
        let decode =
            |part| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        [decode(parts[0]), decode(parts[1])]
    });
    let recorded_parts = take_actor_token(&mut recorded[1], |token| {
        serde_json::from_str(token.strip_suffix(" unsigned").unwrap()).unwrap()
    });
    assert_same(call, &sent, &recorded);
    assert_eq!(sent_parts, recorded_parts);
}

/// The actor token's header and claims, decoded; `exp` and `jti` are checked and taken out.
fn take_actor_token(request: &mut Value, decode: impl Fn(&str) -> [Value; 2]) -> [Value; 2] {
    let form = request["form"].as_array_mut().unwrap();
    let pair = form.iter_mut().find(|pair| pair[0] == "actor_token").unwrap();
    let mut parts = decode(pair[1].take().as_str().unwrap());
    let claims = parts[1].as_object_mut().unwrap();

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = Duration::from_secs(claims.remove("exp").unwrap().as_u64().unwrap());
    assert!(exp <= now + Duration::from_secs(60), "at most a minute ahead");

    let jti = claims.remove("jti").unwrap();
    let lengths: Vec<_> = jti.as_str().unwrap().split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    parts
}

#[tokio::test]
async fn an_actor_token_lives_for_a_minute_from_now() {
    let server = Recorder::start().await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let request = ExchangeRequest::default().actor(Actor::new("1", "Ada"));
    server.session(enterprise()).exchange(request).await.unwrap();
    let form = server.taken()[1]["form"].take();
    let token = form.as_array().unwrap().iter().find(|pair| pair[0] == "actor_token").unwrap();
    let claims = token[1].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let exp = claims["exp"].as_u64().unwrap();
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((before + 60..=after + 60).contains(&exp), "{exp}");
}

/// The original reads `ip` from two places and sends it with one request or the other. Here there is
/// one place, and both requests carry it.
#[tokio::test]
async fn exchange_with_ip_sends_it_both_times() {
    let server = Recorder::start().await;
    let request = ExchangeRequest::scopes(["item_preview"]).options(ip("10.1.2.3"));
    server.session(enterprise()).exchange(request).await.unwrap();
    let sent = server.taken();
    for call in ["exchange with tokenRequestOptions.ip", "exchange with ip at the top"] {
        let mut recorded = golden(call);
        let carried =
            recorded.iter().filter(|request| request["headers"]["x-forwarded-for"] == "10.1.2.3");
        assert_eq!(carried.count(), 1, "the recording is no longer what this test says it is");
        for request in &mut recorded {
            request["headers"]["x-forwarded-for"] = "10.1.2.3".into();
        }
        assert_same(call, &sent, &recorded);
    }
}

#[tokio::test]
async fn revocations() {
    let server = Recorder::start().await;
    for (call, options) in
        [("revoke", TokenRequestOptions::new()), ("revoke with ip", ip("127.0.0.1"))]
    {
        let session = server.session(enterprise());
        session.get_token().await.unwrap();
        server.taken();
        session.revoke_with(options).await.unwrap();
        assert_same(call, &server.taken(), &golden(call));
    }
}

/// The original posts a revocation of nothing.
#[tokio::test]
async fn revoke_with_no_token_held_sends_nothing() {
    assert_eq!(golden("revoke with no token held").len(), 1);
    let server = Recorder::start().await;
    server.session(enterprise()).revoke().await.unwrap();
    assert_same("revoke with no token held", &server.taken(), &[]);
}

/// What no recording shows: a server that is not Box, with Basic authentication.
#[tokio::test]
async fn a_generic_provider_with_basic_authentication() {
    let server = Recorder::start().await;
    let provider = Provider::generic(format!("{}/token?tenant=1", server.server.base))
        .revocation_url(format!("{}/revoke", server.server.base))
        .client_auth(ClientAuth::Basic)
        .scopes(["read", "write"])
        .param("audience", "https://api.example.com");
    let session = session(provider);
    let request =
        ExchangeRequest::scopes(["read"]).resource("urn:2").resource("urn:1").audience("a");
    session.exchange(request).await.unwrap();
    session.revoke().await.unwrap();

    let sent = server.taken();
    let expected = [
        (
            "/token?tenant=1",
            json!([
                ["audience", "https://api.example.com"],
                ["grant_type", "client_credentials"],
                ["scope", "read write"],
            ]),
        ),
        (
            "/token?tenant=1",
            json!([
                ["audience", "a"],
                ["grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"],
                ["resource", "urn:1"],
                ["resource", "urn:2"],
                ["scope", "read"],
                ["subject_token", "SESSION_TOKEN"],
                ["subject_token_type", "urn:ietf:params:oauth:token-type:access_token"],
            ]),
        ),
    ];
    for (sent, (path, form)) in sent.iter().zip(&expected) {
        assert_eq!(sent["path"], *path);
        assert_eq!(sent["form"], *form);
    }
    assert_eq!(sent.len(), 4, "a revoke reaches both tokens");
    assert!(sent[2..].iter().all(|sent| sent["path"] == "/revoke"));
    let basic = "Basic Q0xJRU5UX0lEOkNMSUVOVF9TRUNSRVQ=";
    assert!(sent.iter().all(|sent| sent["headers"]["authorization"] == basic));
}

/// A connection that idled for most of a token's life is likely to be dead when it is needed.
#[tokio::test]
async fn no_connection_is_kept_for_the_next_attempt() {
    let server = Recorder::start().await;
    let provider = Provider::box_ccg(enterprise()).base_url(&server.server.base);
    let builder = HttpTokenManager::builder(provider, "CLIENT_ID", "CLIENT_SECRET");
    // A client that keeps connections shows that the server would let it.
    let keeping = reqwest::Client::builder().tls_backend_preconfigured(no_tls()).build().unwrap();
    for (builder, expected) in [(builder.clone(), 3), (builder.http_client(keeping), 1)] {
        server.server.connections.store(0, Ordering::SeqCst);
        let manager = builder.build().unwrap();
        for _ in 0..3 {
            manager.grant(GrantRequest::default()).await.unwrap();
            // A kept connection is put back by a task of its own, on this same thread.
            for _ in 0..32 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(server.server.connections.load(Ordering::SeqCst), expected);
    }
}

/// For a client that needs none, on a machine that has no CA certificates.
fn no_tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
