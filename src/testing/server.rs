//! The HTTP server: connections in, plans carried out. hyper is used as it is, for a script may break
//! a connection, and whoever drops the authority ends all of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::form_urlencoded;

use super::counts::{Kind, ReceivedRequest};
use super::endpoints::TOKEN_EXCHANGE;
use super::reply::{Broken, Bytestream, Reply, json_reply};
use super::state::{Outcome, Shared};

/// More than any form, and not enough to hurt.
const MAX_BODY: usize = 1 << 20;

/// The most pairs of a form: many times what any request has.
const MAX_PARAMETERS: usize = 256;

/// The most connections at once: as many as the demonstration has tasks. Others wait to be accepted.
pub(super) const MAX_CONNECTIONS: usize = 4_096;

/// Accepts connections, so many at once, until it is dropped; they end with it.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, most: usize) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
                // The client is gone already, or the process has too many files open: in the second
                // case accepting again at once would be a busy loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it small answers may be late, but they come.
    let _ = stream.set_nodelay(true);
    #[cfg(feature = "http")]
    if let Some(tls) = &shared.tls {
        // One that fails is the client's to notice.
        if let Ok(stream) = tls.accept(stream).await {
            let is_certified = stream.get_ref().1.peer_certificates().is_some();
            speak(stream, shared, is_certified).await;
        }
        return;
    }
    speak(stream, shared, false).await;
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
    is_certified: bool,
) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request, is_certified));
    // An error is a client that went away, or a connection that the script breaks.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    is_certified: bool,
) -> Result<Response<Bytestream>, Broken> {
    let (method, path, begun) =
        (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let told = |status: &dyn fmt::Display| {
        let elapsed = begun.elapsed();
        tracing::debug!(name: "authority.request", %method, path, %status, ?elapsed, "authority.request");
    };
    let request = match receive(request).await {
        Ok(request) => ReceivedRequest { is_certified, ..request },
        Err(reply) => {
            told(&reply.status().as_u16());
            return Ok(reply.map(Bytestream::whole));
        }
    };
    let mut plan = shared.arrive(request);
    if !plan.delay.is_zero() {
        tokio::time::sleep(plan.delay).await;
    }
    for gate in &mut plan.gates {
        // Nothing is ever sent: this ends when the gate is dropped.
        while gate.changed().await.is_ok() {}
    }
    plan.in_flight.let_go();
    match plan.outcome {
        Outcome::Whole(reply) => {
            told(&reply.status().as_u16());
            Ok(reply.map(Bytestream::whole))
        }
        Outcome::Cut(reply) => {
            told(&"cut");
            Ok(reply.map(|body| Bytestream::cut(&body)))
        }
        Outcome::Drop => {
            told(&"dropped");
            Err(Broken)
        }
        Outcome::Hang => {
            told(&"hangs");
            std::future::pending().await
        }
    }
}

/// Reads the request whole, or answers one that no endpoint is for.
async fn receive(request: Request<Incoming>) -> Result<ReceivedRequest, Reply> {
    let (mut head, body) = request.into_parts();
    if !is_ours(&head.uri, &head.headers) {
        return Err(refuse(StatusCode::MISDIRECTED_REQUEST));
    }
    let (kind, method) = match head.uri.path() {
        "/oauth2/token" => (Kind::Grant, Method::POST),
        "/oauth2/revoke" => (Kind::Revoke, Method::POST),
        "/oauth2/introspect" => (Kind::Introspect, Method::POST),
        "/.well-known/oauth-authorization-server" => (Kind::Discovery, Method::GET),
        "/2.0/users/me" => (Kind::Resource, Method::GET),
        _ => return Err(refuse(StatusCode::NOT_FOUND)),
    };
    if head.method != method {
        let mut reply = refuse(StatusCode::METHOD_NOT_ALLOWED);
        if let Ok(allowed) = HeaderValue::try_from(method.as_str()) {
            reply.headers_mut().insert(ALLOW, allowed);
        }
        return Err(reply);
    }
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|_| refuse(StatusCode::PAYLOAD_TOO_LARGE))?.to_bytes();
    let pairs = match kind {
        Kind::Resource | Kind::Discovery => head.uri.query().unwrap_or_default().as_bytes(),
        _ => &body,
    };
    if let Some(authorization) = head.headers.get_mut(AUTHORIZATION) {
        authorization.set_sensitive(true);
    }
    let form: Vec<_> = form_urlencoded::parse(pairs).take(MAX_PARAMETERS + 1).collect();
    if form.len() > MAX_PARAMETERS {
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let form = form.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut request = ReceivedRequest {
        kind,
        at: Duration::ZERO, // Set on the authority's own clock, as soon as its lock is held.
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        form,
        is_certified: false,
    };
    if kind == Kind::Grant && request.param("grant_type") == Some(TOKEN_EXCHANGE) {
        request.kind = Kind::Exchange;
    }
    Ok(request)
}

/// Whether it is addressed to this machine by a name that nobody else can have: a web page whose own
/// name leads here is none of the authority's clients. A whole address in place of a path has one too, which
/// counts more (RFC 9112 §3.2.2).
fn is_ours(target: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let target = target.authority().map(Authority::as_str);
    host.to_str().is_ok_and(is_our_name) && target.is_none_or(is_our_name)
}

/// With a port or without, and nothing else.
fn is_our_name(host: &str) -> bool {
    let names = ["127.0.0.1", "[::1]", "localhost"].into_iter();
    names.filter_map(|name| host.get(..name.len()).map(|start| (name, start))).any(
        |(name, start)| {
            let port = host[start.len()..].strip_prefix(':');
            let is_port = |port: &str| {
                port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
            };
            start.eq_ignore_ascii_case(name)
                && (host.len() == name.len() || port.is_some_and(is_port))
        },
    )
}

fn refuse(status: StatusCode) -> Reply {
    json_reply(status, &json!({ "error": "invalid_request" }))
}
