//! What a server's answer means (RFC 6749 §5, RFC 7009 §2.2, RFC 8693 §2.2). No I/O.
//!
//! Answers are taken by what they are, not by what their `Content-Type` says.

use std::time::{Duration, SystemTime};

use ::http::header::{DATE, LOCATION, RETRY_AFTER};
use ::http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::address::without_secrets;
use super::dpop::DpopKey;
use super::jwt::Object;
use super::limits::{MAX_SCOPE, MAX_WORDS, SHORT_SECRET};
use super::words::fit;
use crate::error::TokenError;
use crate::grant::Grant;

/// A response, and what is needed to read it.
pub(super) struct ServerAnswer<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// `None` if it was longer than [`MAX_BODY`](super::limits::MAX_BODY).
    pub(super) body: Option<&'a [u8]>,
    /// The wall clock, for a `Retry-After` that is a date when the server tells no `Date`.
    pub(super) received: SystemTime,
    /// What was sent that must not be seen in an error.
    pub(super) secrets: &'a [&'a str],
    /// Errors, and what is in their descriptions, that mean too many requests.
    pub(super) limits: &'a [(String, String)],
    /// The key that the token must be bound to, if one was asked for.
    pub(super) dpop: Option<&'a DpopKey>,
}

/// What a token was asked for with: only an exchange may give something that is no access token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Grant,
    Exchange,
}

impl ServerAnswer<'_> {
    /// The answer to a request for a token.
    pub(super) fn token(&self, asked: Asked) -> Result<Grant, TokenError> {
        self.grant(&self.success()?, asked)
    }

    /// The answer to a request for the server's metadata (RFC 8414 §3.2).
    pub(super) fn metadata(&self) -> Result<Object, TokenError> {
        self.success()
    }

    /// The answer to a revocation. The body of a success does not matter (RFC 7009 §2.2).
    pub(super) fn revocation(&self) -> Result<(), TokenError> {
        self.refusal(self.object().as_ref().ok()).map_or(Ok(()), Err)
    }

    /// The object of an answer that is no failure.
    fn success(&self) -> Result<Object, TokenError> {
        let object = self.object();
        if let Some(error) = self.refusal(object.as_ref().ok()) {
            return Err(error);
        }
        object.map_err(|reason| TokenError::Malformed {
            reason: format!("{reason} (HTTP {})", self.status.as_u16()),
        })
    }

    fn object(&self) -> Result<Object, &'static str> {
        let body = self.body.ok_or("the answer is longer than 1 MiB")?;
        // Lossy, so that a description in another charset does not hide the error code; a token that
        // this changes is not fit for a header anyway.
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(object),
            _ if text.is_empty() => Err("the answer is empty"),
            _ if text.starts_with('<') => Err("the answer looks like a web page, not like JSON"),
            Ok(_) => Err("the answer is JSON, but not an object"),
            Err(_) => Err("the answer is not JSON"),
        }
    }

    /// What kind of failure this is, if it is one.
    fn refusal(&self, object: Option<&Object>) -> Option<TokenError> {
        let (status, retry_after) = (self.status, self.retry_after());
        let server = || Some(TokenError::Server { status: status.as_u16(), retry_after });
        let limited = || Some(TokenError::RateLimited { retry_after });
        let code = object.and_then(|object| text(object, "error")).filter(|code| !code.is_empty());
        let failed = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
        match code {
            // It cannot be meant otherwise; some servers send `access_denied` with it.
            _ if status == StatusCode::TOO_MANY_REQUESTS => limited(),
            Some(code) if self.is_limit(code, object) => limited(),
            _ if status.is_redirection() => Some(self.redirect(object)),
            Some("temporarily_unavailable" | "server_error") => server(),
            Some("slow_down" | "too_many_requests" | "rate_limit_exceeded") => limited(),
            // A status that says "later" outweighs a code, unless the code is one that is defined to
            // mean that the request itself is refused.
            Some(code) if failed && !is_refusal(code) => server(),
            Some(code) => Some(self.denied(code, object)),
            None if failed => server(),
            None if status.is_success() => None,
            // No code, but a time at which to come again: a firewall that counts requests.
            None if retry_after.is_some() => limited(),
            None => Some(self.denied(status.canonical_reason().unwrap_or("unknown status"), None)),
        }
    }

    /// Whether this provider means too many requests by it.
    fn is_limit(&self, code: &str, object: Option<&Object>) -> bool {
        let description = object.and_then(|object| text(object, "error_description"));
        let description = description.unwrap_or_default().to_lowercase();
        let is_meant = |text: &str| description.contains(&text.to_lowercase());
        self.limits.iter().any(|(error, text)| error == code && is_meant(text))
    }

    fn denied(&self, code: &str, object: Option<&Object>) -> TokenError {
        let words = |name| {
            let words = self.words(text(object?, name)?, object);
            (!words.is_empty()).then_some(words)
        };
        TokenError::Denied {
            // Decided by as it is, and no secret if an RFC defines it.
            error: if is_defined(code) { code.to_owned() } else { self.words(code, object) },
            description: words("error_description"),
            uri: words("error_uri"),
            status: self.status.as_u16(),
            credentials_changed: false,
        }
    }

    /// A redirect would send the secret to whoever is named there, so it is not followed.
    fn redirect(&self, object: Option<&Object>) -> TokenError {
        let target = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let description = match target {
            Some(target) => format!(
                "the server redirects to {}; token requests follow no redirect: if that is the \
                 right address, configure it",
                self.words(without_secrets(target), object)
            ),
            None => "the server redirects without saying where to".into(),
        };
        TokenError::Denied {
            error: self.status.canonical_reason().unwrap_or("redirect").into(),
            description: Some(description),
            uri: None,
            status: self.status.as_u16(),
            credentials_changed: false,
        }
    }

    fn grant(&self, object: &Object, asked: Asked) -> Result<Grant, TokenError> {
        let access_token = text(object, "access_token").ok_or_else(|| TokenError::Malformed {
            reason: "the answer has no access_token".into(),
        })?;
        let mut grant = Grant::bearer(access_token)?;
        match (object.get("token_type"), self.dpop) {
            (Some(Value::String(kind)), Some(key)) if kind.eq_ignore_ascii_case("dpop") => {
                grant = grant.bound_to(key.clone());
            }
            (None | Some(Value::Null), None) => {}
            (Some(Value::String(kind)), None) if kind.eq_ignore_ascii_case("bearer") => {}
            (Some(Value::String(kind)), _)
                if asked == Asked::Exchange && kind.eq_ignore_ascii_case("n_a") =>
            {
                grant = grant.not_an_access_token();
            }
            (other, dpop) => {
                let shown = match other {
                    None => "missing".into(),
                    Some(other) => other.as_str().map_or("no text".into(), |kind| {
                        format!("{:?}", self.words(kind, Some(object)))
                    }),
                };
                let reason = match dpop {
                    None => {
                        "a token of a type that is not understood must not be used (RFC 6749 §7.1)"
                    }
                    Some(_) => {
                        "it was to be DPoP: whoever steals such a token can use it (RFC 9449 §5). If \
                         the server does not know DPoP, leave it out"
                    }
                };
                return Err(TokenError::Malformed {
                    reason: format!("its token_type is {shown}, and {reason}"),
                });
            }
        }
        if let Some(life) = life(object.get("expires_in"))? {
            grant = grant.expires_in(life);
        }
        if let Some(seconds) = seconds(object.get("refresh_in")) {
            // Nonsense says nothing.
            if let Ok(wait) = Duration::try_from_secs_f64(seconds) {
                grant = grant.refresh_in(wait);
            }
        }
        // Both are shown, but they are data: a short secret's word may be one of theirs by chance.
        let mut secrets = self.secrets.to_vec();
        push_tokens(object, &mut secrets);
        secrets.retain(|secret| secret.chars().count() >= SHORT_SECRET);
        if let Some(scope) = scope(object.get("scope")) {
            grant = grant.scope(fit(&scope, &secrets, MAX_SCOPE));
        }
        if let Some(kind) = text(object, "issued_token_type") {
            grant = grant.issued_token_type(fit(kind, &secrets, MAX_WORDS));
        }
        Ok(grant)
    }

    /// Seconds or a date (RFC 9110 §10.2.3). A date counts from the server's own `Date`, so that
    /// neither clock needs to be right.
    fn retry_after(&self) -> Option<Duration> {
        let header = |name| self.headers.get(name)?.to_str().ok();
        let after = header(RETRY_AFTER)?.trim();
        if !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Duration::from_secs(after.parse().unwrap_or(u64::MAX)));
        }
        let at = httpdate::parse_http_date(after).ok()?;
        let now = header(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        Some(at.duration_since(now.unwrap_or(self.received)).unwrap_or_default())
    }

    /// A server's words, fit to be kept: without what was sent, nor the tokens that it gave itself.
    fn words(&self, words: &str, object: Option<&Object>) -> String {
        let mut secrets = self.secrets.to_vec();
        if let Some(object) = object {
            push_tokens(object, &mut secrets);
        }
        fit(words, &secrets, MAX_WORDS)
    }
}

/// The tokens of an answer, wherever they are in it.
fn push_tokens<'a>(object: &'a Object, tokens: &mut Vec<&'a str>) {
    const TOKENS: [&str; 3] = ["access_token", "refresh_token", "id_token"];
    for (name, value) in object {
        match value {
            Value::String(token) if TOKENS.contains(&&**name) => tokens.push(token),
            Value::Object(object) => push_tokens(object, tokens),
            Value::Array(values) => {
                values
                    .iter()
                    .filter_map(Value::as_object)
                    .for_each(|part| push_tokens(part, tokens));
            }
            _ => {}
        }
    }
}

fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// The codes that RFC 6749 §5.2, RFC 7009 §2.2.1, RFC 8693 §2.2.2 and RFC 8707 §2 define: each says
/// that the same request will be refused again.
fn is_refusal(code: &str) -> bool {
    matches!(
        code,
        "invalid_request"
            | "invalid_client"
            | "invalid_grant"
            | "unauthorized_client"
            | "unsupported_grant_type"
            | "invalid_scope"
            | "invalid_target"
            | "unsupported_token_type"
    )
}

/// The other codes that something is decided by, here or in the session: RFC 6749 §4.1.2.1, RFC 6750 §3.1,
/// RFC 9449 §5 and §8.
fn is_defined(code: &str) -> bool {
    is_refusal(code)
        || matches!(
            code,
            "access_denied"
                | "invalid_token"
                | "insufficient_scope"
                | "invalid_dpop_proof"
                | "use_dpop_nonce"
        )
}

/// The scopes, which some servers send as a list.
fn scope(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(scope) => Some(scope.clone()),
        Value::Array(scopes) => {
            Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    }
}

/// A lifetime in seconds, as a number or as text. What is neither says nothing, as if it were missing;
/// but a token with no life left is dead, and so is one whose lifetime is no number (`NaN`).
fn life(value: Option<&Value>) -> Result<Option<Duration>, TokenError> {
    let Some(seconds) = seconds(value) else { return Ok(None) };
    if seconds.is_nan() || seconds <= 0.0 {
        return Err(TokenError::Expired { reason: "its expires_in leaves no life" });
    }
    Ok(Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
}

/// As a number or as text.
fn seconds(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
