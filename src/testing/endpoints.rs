//! What each endpoint checks and does. No I/O: a request in, an answer out.

use std::collections::HashSet;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Response, StatusCode};
use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::client::authenticate;
use super::counts::{Kind, ReceivedRequest};
use super::reply::{Refusal, Reply, json_reply, seconds};
use super::script::Fault;
use super::state::{Settings, State};
use super::tokens::{Dead, Scopes, Token};

pub(super) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Answers properly; but a fault may spoil the token that a grant or an exchange gives.
pub(super) fn answer(
    state: &mut State,
    request: &ReceivedRequest,
    fault: Option<&Fault>,
    now: Instant,
) -> Reply {
    let reply = match request.kind {
        Kind::Resource => resource(state, request, now),
        Kind::Discovery => Ok(metadata(&state.settings)),
        kind => form(state, request).and_then(|()| match kind {
            Kind::Revoke => revoke(state, request, now),
            Kind::Introspect => introspect(state, request, now),
            Kind::Exchange => exchange(state, request, fault, now),
            _ => grant(state, request, fault, now),
        }),
    };
    reply.unwrap_or_else(Reply::from)
}

#[cfg(not(feature = "http"))]
const METHODS: &[&str] = &["client_secret_basic", "client_secret_post"];
#[cfg(feature = "http")]
const METHODS: &[&str] =
    &["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"];

/// RFC 8414 §2.
fn metadata(settings: &Settings) -> Reply {
    let issuer = &settings.issuer;
    let methods = METHODS.iter().chain(settings.takes_certificates.then_some(&"tls_client_auth"));
    let methods: Vec<_> = methods.collect();
    let body = json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/oauth2/token"),
        "revocation_endpoint": format!("{issuer}/oauth2/revoke"),
        "introspection_endpoint": format!("{issuer}/oauth2/introspect"),
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials", TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": methods,
    });
    json_reply(StatusCode::OK, &body)
}

/// What is asked of every form, and of the client that sends it.
fn form(state: &mut State, request: &ReceivedRequest) -> Result<(), Refusal> {
    let media_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(invalid_request("the body is not application/x-www-form-urlencoded"));
    }
    // RFC 6749 §3.2; RFC 8693 §2.1 lets these two be repeated.
    let mut before = HashSet::new();
    for (name, _) in &request.form {
        if !before.insert(name) && !matches!(name.as_str(), "resource" | "audience") {
            return Err(invalid_request(format!("the parameter {name} is repeated")));
        }
    }
    authenticate(state, request)
}

/// RFC 6749 §4.4.2.
fn grant(
    state: &mut State,
    request: &ReceivedRequest,
    fault: Option<&Fault>,
    now: Instant,
) -> Result<Reply, Refusal> {
    let grant_type = required(request, "grant_type")?;
    if grant_type != "client_credentials" {
        return Err(Refusal::new(
            "unsupported_grant_type",
            "neither client_credentials nor a token exchange",
        ));
    }
    let subject = subject(state, request)?;
    let scopes = scopes(request, &state.settings.scopes)?;
    let bound_to = key(state, request, None)?;
    Ok(json_reply(
        StatusCode::OK,
        &Value::Object(issue(state, Kind::Grant, Asked { scopes, subject, bound_to }, fault, now)),
    ))
}

/// Box's `box_subject_type` and `box_subject_id`: both or, unless the authority requires them, neither.
fn subject(state: &State, request: &ReceivedRequest) -> Result<String, Refusal> {
    let settings = &state.settings;
    let kind = request.param("box_subject_type");
    if kind.is_none() && request.param("box_subject_id").is_none() && !settings.require_subject {
        return Ok(settings.client_id.clone());
    }
    let kind = required(request, "box_subject_type")?;
    let id = required(request, "box_subject_id")?;
    let known = match kind {
        "enterprise" => id == settings.enterprise,
        "user" => settings.users.iter().any(|user| user == id),
        _ => return Err(invalid_request("box_subject_type is neither enterprise nor user")),
    };
    if !known {
        return Err(Refusal::new("invalid_grant", "Grant credentials are invalid"));
    }
    Ok(id.to_owned())
}

/// RFC 8693 §2.
fn exchange(
    state: &mut State,
    request: &ReceivedRequest,
    fault: Option<&Fault>,
    now: Instant,
) -> Result<Reply, Refusal> {
    let subject_token = required(request, "subject_token")?;
    if required(request, "subject_token_type")? != ACCESS_TOKEN {
        return Err(invalid_request("subject_token_type is not that of an access token"));
    }
    if request.param("requested_token_type").is_some_and(|wanted| wanted != ACCESS_TOKEN) {
        return Err(invalid_request("requested_token_type is not that of an access token"));
    }
    actor(request)?;
    for resource in request.params("resource") {
        if !url::Url::parse(resource).is_ok_and(|url| url.fragment().is_none()) {
            return Err(Refusal::new(
                "invalid_target",
                "resource is not an absolute URI without a fragment",
            ));
        }
    }
    let parent = state.tokens.active(subject_token, now).map_err(|dead| {
        Refusal::new("invalid_grant", format!("the subject_token is {}", dead.name()))
    })?;
    let scopes = scopes(request, &parent.scopes)?;
    let subject = parent.subject.clone();
    let bound_to = key(state, request, None)?;
    let mut body = issue(state, Kind::Exchange, Asked { scopes, subject, bound_to }, fault, now);
    body.insert("issued_token_type".into(), ACCESS_TOKEN.into());
    Ok(json_reply(StatusCode::OK, &Value::Object(body)))
}

/// An actor token comes with its type (RFC 8693 §2.1), and has the shape of a JWT: two JSON objects in
/// base64url and a signature, which is empty in Box's annotator tokens.
fn actor(request: &ReceivedRequest) -> Result<(), Refusal> {
    let Some(token) = request.param("actor_token") else {
        return match request.param("actor_token_type") {
            Some(_) => Err(invalid_request("actor_token_type without actor_token")),
            None => Ok(()),
        };
    };
    required(request, "actor_token_type")?;
    let is_object = |part: &str| {
        BASE64_URL_SAFE_NO_PAD
            .decode(part)
            .is_ok_and(|json| serde_json::from_slice::<Map<String, Value>>(&json).is_ok())
    };
    let parts: Vec<&str> = token.split('.').collect();
    match parts[..] {
        [header, claims, _] if is_object(header) && is_object(claims) => Ok(()),
        _ => Err(invalid_request("actor_token is not a JWT of three parts")),
    }
}

/// RFC 7009 §2.2: a token that is not known is as good as revoked.
fn revoke(state: &mut State, request: &ReceivedRequest, now: Instant) -> Result<Reply, Refusal> {
    state.tokens.revoke(required(request, "token")?, now);
    Ok(Response::new(Bytes::new()))
}

/// RFC 7662 §2.2.
fn introspect(state: &State, request: &ReceivedRequest, now: Instant) -> Result<Reply, Refusal> {
    let body = match state.tokens.active(required(request, "token")?, now) {
        Err(_) => json!({ "active": false }),
        Ok(token) => {
            let expires = SystemTime::now() + (token.expires_at - now);
            let since = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let mut body = json!({
                "active": true,
                "client_id": state.settings.client_id,
                "exp": since.as_secs(),
                "scope": join(&token.scopes),
                "sub": token.subject,
                "token_type": token.token_type(),
            });
            if let Some(thumbprint) = &token.bound_to {
                body["cnf"] = json!({ "jkt": thumbprint });
            }
            body
        }
    };
    Ok(json_reply(StatusCode::OK, &body))
}

/// A protected resource (RFC 6750 §3).
fn resource(state: &mut State, request: &ReceivedRequest, now: Instant) -> Result<Reply, Refusal> {
    let header = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let used = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        let is_bound = scheme.eq_ignore_ascii_case("dpop");
        (is_bound || scheme.eq_ignore_ascii_case("bearer")).then_some((is_bound, token.trim()))
    });
    let Some((is_bound, text)) = used else {
        // One who brought no token is told no error code (RFC 6750 §3.1); the body is ours.
        return Err(Refusal::new("unauthorized", "this takes a bearer token")
            .status(StatusCode::UNAUTHORIZED)
            .challenge("Bearer realm=\"ccg-session\""));
    };
    let proven = if is_bound { key(state, request, Some(text)).map_err(unproven)? } else { None };
    let token = state.tokens.active(text, now);
    let token = token.map_err(|dead| invalid_token(state, dead, is_bound, now))?;
    if is_bound != token.bound_to.is_some() || proven != token.bound_to {
        return Err(unproven(Refusal::new(
            "invalid_token",
            "the token is bound to a key that this request does not prove to hold, or to none",
        )));
    }
    if let Some(wanted) = request.param("scope") {
        for scope in wanted.split(' ') {
            check_scope(scope)?;
            if !token.scopes.contains(scope) {
                return Err(insufficient_scope(wanted));
            }
        }
    }
    Ok(json_reply(
        StatusCode::OK,
        &json!({ "type": "user", "id": token.subject, "scope": join(&token.scopes) }),
    ))
}

/// What the request proves by its signature.
#[cfg(feature = "http")]
use super::proof::key;

/// Nothing, where there is no crypto library.
#[cfg(not(feature = "http"))]
#[expect(clippy::unnecessary_wraps, reason = "it is the same function with `http`")]
fn key(_: &State, _: &ReceivedRequest, _: Option<&str>) -> Result<Option<String>, Refusal> {
    Ok(None)
}

/// RFC 9449 §7.1.
fn unproven(refusal: Refusal) -> Refusal {
    let challenge = format!("DPoP realm=\"ccg-session\", error=\"{}\"", refusal.error());
    refusal.status(StatusCode::UNAUTHORIZED).challenge(challenge)
}

/// Says which kind of dead the token is and, if it was revoked, when.
fn invalid_token(state: &State, dead: Dead, is_bound: bool, now: Instant) -> Refusal {
    let scheme = if is_bound { "DPoP" } else { "Bearer" };
    let description = format!("The access token is {}", dead.name());
    let challenge = format!(
        "{scheme} realm=\"ccg-session\", error=\"invalid_token\", error_description=\"{description}\""
    );
    let refusal = Refusal::new("invalid_token", description)
        .status(StatusCode::UNAUTHORIZED)
        .challenge(challenge)
        .with("refused", dead.name())
        .with("received_at_ns", state.nanos(now));
    match dead {
        Dead::Revoked { at } => refusal.with("revoked_at_ns", state.nanos(at)),
        Dead::Unknown | Dead::Expired => refusal,
    }
}

fn insufficient_scope(wanted: &str) -> Refusal {
    Refusal::new("insufficient_scope", "The access token does not have the scope needed")
        .status(StatusCode::FORBIDDEN)
        .challenge(format!(
            "Bearer realm=\"ccg-session\", error=\"insufficient_scope\", scope=\"{wanted}\""
        ))
        .with("scope", wanted)
}

/// The scopes asked for, of those allowed; all of them, if none is asked for.
fn scopes(request: &ReceivedRequest, allowed: &Scopes) -> Result<Scopes, Refusal> {
    let Some(asked) = request.param("scope") else {
        return Ok(allowed.clone());
    };
    let mut scopes = Scopes::new();
    for scope in asked.split(' ') {
        check_scope(scope)?;
        if !allowed.contains(scope) {
            return Err(Refusal::new("invalid_scope", format!("the scope {scope} is not allowed")));
        }
        scopes.insert(scope.to_owned());
    }
    Ok(scopes)
}

/// RFC 6749 §3.3: printable ASCII but the space, the quotation mark and the backslash.
fn check_scope(scope: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if scope.is_empty() || !scope.bytes().all(allowed) {
        return Err(Refusal::new("invalid_scope", "the scope is malformed"));
    }
    Ok(())
}

/// What a token shall be.
struct Asked {
    scopes: Scopes,
    subject: String,
    bound_to: Option<String>,
}

/// A token, new unless the script wants the last one again, as it is told to the client.
fn issue(
    state: &mut State,
    kind: Kind,
    asked: Asked,
    fault: Option<&Fault>,
    now: Instant,
) -> Map<String, Value> {
    let last = if kind == Kind::Grant { &state.last_granted } else { &state.last_exchanged };
    let again = last.clone().filter(|_| fault == Some(&Fault::SameToken));
    let again = again.and_then(|text| Some((state.tokens.get(&text)?.clone(), text)));
    let Asked { mut scopes, subject, bound_to } = asked;
    let (text, life) = if let Some((token, text)) = again {
        scopes = token.scopes;
        let left = token.expires_at.saturating_duration_since(now);
        (text, json!(left.as_secs()))
    } else {
        let ttl = state.settings.ttl;
        let text = state.tokens.issue(scopes.clone(), subject, bound_to, ttl, now);
        state.counts.tokens_issued += 1;
        let last =
            if kind == Kind::Grant { &mut state.last_granted } else { &mut state.last_exchanged };
        *last = Some(text.clone());
        (text, seconds(ttl))
    };
    let mut body = Map::new();
    let token_type = state.tokens.get(&text).map_or("bearer", Token::token_type);
    body.insert("access_token".into(), text.into());
    body.insert("token_type".into(), token_type.into());
    body.insert("scope".into(), join(&scopes).into());
    match fault {
        Some(Fault::NoExpiresIn) => {}
        Some(Fault::ExpiresIn(value)) => {
            body.insert("expires_in".into(), value.clone());
        }
        _ => {
            body.insert("expires_in".into(), life);
        }
    }
    body
}

fn required<'a>(request: &'a ReceivedRequest, name: &'static str) -> Result<&'a str, Refusal> {
    request.param(name).ok_or_else(|| invalid_request(format!("the parameter {name} is missing")))
}

fn invalid_request(description: impl AsRef<str>) -> Refusal {
    Refusal::new("invalid_request", description)
}

fn join(scopes: &Scopes) -> String {
    scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}
