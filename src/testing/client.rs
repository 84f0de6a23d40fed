//! Who is asking: the client's id and secret (RFC 6749 §2.3.1), or what it signs.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use http::header::AUTHORIZATION;

use super::counts::ReceivedRequest;
use super::reply::Refusal;
use super::state::State;

/// Accepts one method at a time.
pub(super) fn authenticate(state: &mut State, request: &ReceivedRequest) -> Result<(), Refusal> {
    #[cfg(feature = "http")]
    if request.param("client_assertion").is_some() {
        if request.headers.contains_key(AUTHORIZATION) || request.param("client_secret").is_some() {
            return Err(in_two_ways());
        }
        return super::proof::assertion(state, request);
    }
    // The connection has proven it (RFC 8705 §2), so only its name is missing.
    if request.is_certified
        && !request.headers.contains_key(AUTHORIZATION)
        && request.param("client_secret").is_none()
        && request.param("client_id") == Some(&state.settings.client_id)
    {
        return Ok(());
    }
    secret(request, &state.settings.client_id, &state.client_secret)
}

/// `client_secret_basic` and `client_secret_post`.
fn secret(request: &ReceivedRequest, client_id: &str, client_secret: &str) -> Result<(), Refusal> {
    let (id, secret) = match request.headers.get(AUTHORIZATION) {
        Some(header) => {
            if request.param("client_secret").is_some() {
                return Err(in_two_ways());
            }
            let (id, secret) = header.to_str().ok().and_then(basic).ok_or_else(unknown)?;
            if request.param("client_id").is_some_and(|other| other != id) {
                return Err(Refusal::new("invalid_request", "two different client_id"));
            }
            (Cow::Owned(id), Cow::Owned(secret))
        }
        None => (
            Cow::Borrowed(request.param("client_id").unwrap_or_default()),
            Cow::Borrowed(request.param("client_secret").unwrap_or_default()),
        ),
    };
    if id != client_id || secret != client_secret {
        return Err(unknown());
    }
    Ok(())
}

fn in_two_ways() -> Refusal {
    Refusal::new("invalid_request", "the client authenticates in more than one way")
}

fn unknown() -> Refusal {
    invalid_client("The client credentials are invalid")
}

pub(super) fn invalid_client(why: impl AsRef<str>) -> Refusal {
    Refusal::new("invalid_client", why)
        .status(StatusCode::UNAUTHORIZED)
        .challenge("Basic realm=\"ccg-session\"")
}

/// Id and secret, each of which was form-encoded before it went into base64.
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((form_decode(id), form_decode(secret)))
}

/// As the value of a form's only pair: so its own `&` must not end the pair.
fn form_decode(text: &str) -> String {
    let pair = format!("={}", text.replace('&', "%26"));
    url::form_urlencoded::parse(pair.as_bytes())
        .map(|(_, value)| value.into_owned())
        .next()
        .unwrap_or_default()
}
