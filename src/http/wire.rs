//! What a server's answer means (RFC 6749 §5, RFC 7009 §2.2, RFC 8693 §2.2). No I/O.
//!
//! Answers are taken by what they are, not by what their `Content-Type` says.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use ::http::header::{DATE, LOCATION, RETRY_AFTER};
use ::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::provider::without_secrets;
use crate::error::TokenError;
use crate::manager::Grant;

/// The longest answer that is read. A token's answer has a few KiB.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// How much of a server's words is kept, in characters.
const MAX_WORDS: usize = 256;

/// A response, and what is needed to read it.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// `None` if it was longer than [`MAX_BODY`].
    pub(super) body: Option<&'a [u8]>,
    /// The wall clock, for a `Retry-After` that is a date when the server tells no `Date`.
    pub(super) received: SystemTime,
    /// What was sent that must not be seen in an error.
    pub(super) secrets: &'a [&'a str],
    /// Errors, and what is in their descriptions, that mean too many requests.
    pub(super) limits: &'a [(String, String)],
}

/// What a token was asked for with: only an exchange may give something that is no access token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Grant,
    Exchange,
}

pub(super) type Object = Map<String, Value>;

impl Answer<'_> {
    /// The answer to a request for a token.
    pub(super) fn token(&self, asked: Asked) -> Result<Grant, TokenError> {
        self.grant(&self.success()?, asked)
    }

    /// The answer to a request for the server's metadata (RFC 8414 §3.2).
    pub(super) fn metadata(&self) -> Result<Object, TokenError> {
        self.success()
    }

    /// The answer to an introspection: whether the token is active (RFC 7662 §2.2).
    pub(super) fn introspection(&self) -> Result<bool, TokenError> {
        self.success()?.get("active").and_then(Value::as_bool).ok_or_else(|| {
            let reason = "the answer does not say whether the token is active".into();
            TokenError::Malformed { reason }
        })
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
            _ if status.is_redirection() => Some(self.redirect()),
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
            error: self.words(code, object),
            description: words("error_description"),
            uri: words("error_uri"),
            status: self.status.as_u16(),
            credentials_changed: false,
        }
    }

    /// A redirect would send the secret to whoever is named there, so it is not followed.
    fn redirect(&self) -> TokenError {
        let target = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let description = match target {
            Some(target) => format!(
                "the server redirects to {}; token requests follow no redirect: if that is the \
                 right address, configure it",
                self.words(without_secrets(target), None)
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
        match object.get("token_type") {
            None | Some(Value::Null) => {}
            Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") => {}
            Some(Value::String(kind))
                if asked == Asked::Exchange && kind.eq_ignore_ascii_case("n_a") =>
            {
                grant = grant.not_an_access_token();
            }
            Some(other) => {
                let shown = other.as_str().map_or("no text".into(), |kind| {
                    format!("{:?}", self.words(kind, Some(object)))
                });
                return Err(TokenError::Malformed {
                    reason: format!(
                        "its token_type is {shown}, and a token of a type that is not understood \
                         must not be used (RFC 6749 §7.1)"
                    ),
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
        if let Some(scope) = scope(object.get("scope")) {
            grant = grant.scope(scope);
        }
        if let Some(kind) = text(object, "issued_token_type") {
            grant = grant.issued_token_type(kind);
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

    /// A server's words, fit to be kept and shown: no secret, nothing that moves a terminal's cursor,
    /// and not too long.
    fn words(&self, words: &str, object: Option<&Object>) -> String {
        let mut words: String = words.chars().filter(|char| is_visible(*char)).collect();
        let tokens = ["access_token", "refresh_token", "id_token"];
        let tokens = tokens.iter().filter_map(|name| text(object?, name));
        let secrets = self.secrets.iter().copied().chain(tokens);
        let mut secrets: Vec<String> = secrets
            .map(|secret| secret.chars().filter(|char| is_visible(*char)).collect())
            .collect();
        // The longest first, since one may be a part of another.
        secrets.sort_by_key(|secret| Reverse(secret.len()));
        for secret in secrets.iter().map(|secret| secret.trim()).filter(|secret| !secret.is_empty())
        {
            words = words.replace(secret, "[redacted]");
        }
        match words.char_indices().nth(MAX_WORDS) {
            Some((end, _)) => words[..end].to_owned() + "…",
            None => words,
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

/// Neither a control character nor one that reorders the text around it.
fn is_visible(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
mod tests {
    use super::*;

    const SECRETS: [&str; 2] = ["s3cr3t", "subject-token"];
    /// Sat, 21 Nov 2026 12:00:00 GMT.
    const NOW: u64 = 1_795_262_400;

    fn with_answer<T>(
        status: u16,
        header_lines: &str,
        body: &[u8],
        read: impl FnOnce(&Answer<'_>) -> T,
    ) -> T {
        let mut headers = HeaderMap::new();
        for line in header_lines.split('|').filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            let name = ::http::HeaderName::try_from(name.trim()).unwrap();
            headers.append(name, value.trim().parse().unwrap());
        }
        read(&Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            body: Some(body),
            received: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
            secrets: &SECRETS,
            limits: &[("invalid_request".into(), "Rate Limit".into())],
        })
    }

    fn shown(result: Result<Grant, TokenError>) -> String {
        let wait = |after: Option<Duration>| after.map_or("-".into(), |after| format!("{after:?}"));
        match result {
            Ok(grant) => {
                let mut shown = grant.text().expose().to_owned();
                shown += &grant.life().map_or(String::new(), |life| format!(" {life:?}"));
                let wait = grant.get_refresh_in();
                shown += &wait.map_or(String::new(), |wait| format!(" refresh {wait:?}"));
                shown += &grant.get_scope().map_or(String::new(), |scope| format!(" [{scope}]"));
                let kind = grant.get_issued_token_type();
                shown += &kind.map_or(String::new(), |kind| format!(" ({kind})"));
                shown + if grant.is_bearer() { "" } else { " no header" }
            }
            Err(TokenError::Denied { error, description, uri, status, .. }) => {
                let mut shown = format!("denied {status} {error}");
                for part in [description, uri].into_iter().flatten() {
                    shown = format!("{shown}; {part}");
                }
                shown
            }
            Err(TokenError::RateLimited { retry_after }) => {
                format!("limited {}", wait(retry_after))
            }
            Err(TokenError::Server { status, retry_after }) => {
                format!("server {status} {}", wait(retry_after))
            }
            Err(TokenError::Malformed { reason }) => format!("malformed: {reason}"),
            Err(TokenError::Expired { .. }) => "expired".into(),
            Err(other) => format!("{other:?}"),
        }
    }

    /// Status, headers, body, and what it means. A row's outcome is compared whole.
    #[rustfmt::skip]
    const GRANTS: &[(u16, &str, &str, &str)] = &[
        // Tokens.
        (200, "", r#"{"access_token":"T","token_type":"Bearer","expires_in":3600}"#, "T 3600s"),
        (200, "", r#"{"access_token":"T","token_type":"bearer","expires_in":3600,"restricted_to":[],"issued_token_type":"bearer"}"#, "T 3600s (bearer)"),
        (201, "", r#"{"access_token":"T"}"#, "T"),
        (200, "content-type: text/html", "\n {\"access_token\":\"T\"} \n", "T"),
        (200, "content-type: text/plain; charset=utf-16", "\u{feff}{\"access_token\":\"T\"}", "T"),
        (200, "", r#"{"access_token":"T","refresh_token":"R","id_token":null,"x":{"y":[1]}}"#, "T"),
        (200, "", r#"{"access_token":"A","access_token":"B"}"#, "B"),
        (200, "", r#"{"access_token":"T","error":null}"#, "T"),
        (200, "", r#"{"access_token":"T","error":""}"#, "T"),
        (200, "retry-after: 5", r#"{"access_token":"T"}"#, "T"),
        // The token itself.
        (200, "", "{}", "malformed: the answer has no access_token"),
        (200, "", r#"{"access_token":null}"#, "malformed: the answer has no access_token"),
        (200, "", r#"{"access_token":7}"#, "malformed: the answer has no access_token"),
        (200, "", r#"{"access_token":""}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
        (200, "", r#"{"access_token":"a b"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
        (200, "", r#"{"access_token":"a\r\nX: y"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
        (200, "", r#"{"access_token":"grün"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
        // Its type (RFC 6749 §7.1).
        (200, "", r#"{"access_token":"T","token_type":"BEARER"}"#, "T"),
        (200, "", r#"{"access_token":"T","token_type":null}"#, "T"),
        (200, "", r#"{"access_token":"T","token_type":"mac"}"#, r#"malformed: its token_type is "mac", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
        (200, "", r#"{"access_token":"T","token_type":""}"#, r#"malformed: its token_type is "", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
        (200, "", r#"{"access_token":"T","token_type":["Bearer"]}"#, "malformed: its token_type is no text, and a token of a type that is not understood must not be used (RFC 6749 §7.1)"),
        (200, "", r#"{"access_token":"T123","token_type":"type-T123"}"#, r#"malformed: its token_type is "type-[redacted]", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
        (200, "", r#"{"access_token":"T","token_type":"N_A"}"#, r#"malformed: its token_type is "N_A", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
        // Its lifetime.
        (200, "", r#"{"access_token":"T","expires_in":3600.5}"#, "T 3600.5s"),
        (200, "", r#"{"access_token":"T","expires_in":"3600"}"#, "T 3600s"),
        (200, "", r#"{"access_token":"T","expires_in":" 60.25 "}"#, "T 60.25s"),
        (200, "", r#"{"access_token":"T","expires_in":null}"#, "T"),
        (200, "", r#"{"access_token":"T","expires_in":"soon"}"#, "T"),
        (200, "", r#"{"access_token":"T","expires_in":""}"#, "T"),
        (200, "", r#"{"access_token":"T","expires_in":true}"#, "T"),
        (200, "", r#"{"access_token":"T","expires_in":[3600]}"#, "T"),
        (200, "", r#"{"access_token":"T","expires_in":0}"#, "expired"),
        (200, "", r#"{"access_token":"T","expires_in":-1}"#, "expired"),
        (200, "", r#"{"access_token":"T","expires_in":-0.0}"#, "expired"),
        (200, "", r#"{"access_token":"T","expires_in":"0"}"#, "expired"),
        (200, "", r#"{"access_token":"T","expires_in":"NaN"}"#, "expired"),
        (200, "", r#"{"access_token":"T","expires_in":"-inf"}"#, "expired"),
        (200, "", r#"{"access_token":"T","expires_in":1e300}"#, "T 18446744073709551615.999999999s"),
        (200, "", r#"{"access_token":"T","expires_in":"inf"}"#, "T 18446744073709551615.999999999s"),
        (200, "", r#"{"access_token":"T","expires_in":1e999}"#, "malformed: the answer is not JSON (HTTP 200)"),
        (200, "", r#"{"access_token":"T","expires_in":NaN}"#, "malformed: the answer is not JSON (HTTP 200)"),
        // When to refresh it; the session decides whether that makes sense.
        (200, "", r#"{"access_token":"T","expires_in":86400,"refresh_in":43200}"#, "T 86400s refresh 43200s"),
        (200, "", r#"{"access_token":"T","refresh_in":"1800.5"}"#, "T refresh 1800.5s"),
        (200, "", r#"{"access_token":"T","refresh_in":0}"#, "T refresh 0ns"),
        (200, "", r#"{"access_token":"T","refresh_in":-1}"#, "T"),
        (200, "", r#"{"access_token":"T","refresh_in":"NaN"}"#, "T"),
        (200, "", r#"{"access_token":"T","refresh_in":1e300}"#, "T"),
        (200, "", r#"{"access_token":"T","refresh_in":null}"#, "T"),
        (200, "", r#"{"access_token":"T","refresh_in":{}}"#, "T"),
        // Its scope.
        (200, "", r#"{"access_token":"T","scope":"a b"}"#, "T [a b]"),
        (200, "", r#"{"access_token":"T","scope":["a","b"]}"#, "T [a b]"),
        (200, "", r#"{"access_token":"T","scope":{}}"#, "T"),
        // What is no token's answer at all.
        (200, "", "", "malformed: the answer is empty (HTTP 200)"),
        (204, "", "", "malformed: the answer is empty (HTTP 204)"),
        (200, "content-type: application/json", "<!doctype html><p>T", "malformed: the answer looks like a web page, not like JSON (HTTP 200)"),
        (200, "", r#"{"access_token":"T""#, "malformed: the answer is not JSON (HTTP 200)"),
        (200, "", "access_token=T&token_type=bearer", "malformed: the answer is not JSON (HTTP 200)"),
        (200, "", r#"["T"]"#, "malformed: the answer is JSON, but not an object (HTTP 200)"),
        (200, "", "null", "malformed: the answer is JSON, but not an object (HTTP 200)"),
        // Refusals (RFC 6749 §5.2), at any status.
        (400, "", r#"{"error":"invalid_grant","error_description":"No such user","error_uri":"https://x.example/e"}"#, "denied 400 invalid_grant; No such user; https://x.example/e"),
        (401, "", r#"{"error":"invalid_client"}"#, "denied 401 invalid_client"),
        (400, "", r#"{"error":"use_dpop_nonce"}"#, "denied 400 use_dpop_nonce"),
        (200, "", r#"{"error":"invalid_client","access_token":"T"}"#, "denied 200 invalid_client"),
        (500, "", r#"{"error":"invalid_client"}"#, "denied 500 invalid_client"),
        (400, "content-type: text/html", r#"{"error":"invalid_scope","error_description":""}"#, "denied 400 invalid_scope"),
        (400, "", r#"{"error":"invalid_grant","error_description":["x"],"error_uri":1}"#, "denied 400 invalid_grant"),
        (400, "", "", "denied 400 Bad Request"),
        (401, "www-authenticate: Bearer", "no", "denied 401 Unauthorized"),
        (403, "", "<html>", "denied 403 Forbidden"),
        (404, "", "", "denied 404 Not Found"),
        (405, "", "{}", "denied 405 Method Not Allowed"),
        (499, "", "", "denied 499 unknown status"),
        (400, "", r#"{"error":{"code":7,"message":"x"}}"#, "denied 400 Bad Request"),
        // Redirects are not followed, and told without what could be secret.
        (302, "location: https://login.example.com/token/?code=s3cr3t#f", "", "denied 302 Found; the server redirects to https://login.example.com/token/; token requests follow no redirect: if that is the right address, configure it"),
        (301, "location: https://user:pass@login.example.com/", r#"{"error":"moved"}"#, "denied 301 Moved Permanently; the server redirects to login.example.com/; token requests follow no redirect: if that is the right address, configure it"),
        (307, "location: /oauth2/s3cr3t", "", "denied 307 Temporary Redirect; the server redirects to /oauth2/[redacted]; token requests follow no redirect: if that is the right address, configure it"),
        (303, "", "", "denied 303 See Other; the server redirects without saying where to"),
        // Later, please.
        (429, "", "", "limited -"),
        (429, "retry-after: 7", "<html>", "limited 7s"),
        (429, "", r#"{"error":"access_denied"}"#, "limited -"),
        (400, "retry-after: 7", r#"{"error":"slow_down"}"#, "limited 7s"),
        (403, "retry-after: 7", "", "limited 7s"),
        (400, "", r#"{"error":"invalid_request","error_description":"Client has exceeded the rate limit of 10 tokens"}"#, "limited -"),
        (500, "retry-after: 7", r#"{"error":"invalid_request","error_description":"RATE LIMIT"}"#, "limited 7s"),
        (400, "", r#"{"error":"invalid_request","error_description":"no limit"}"#, "denied 400 invalid_request; no limit"),
        (400, "", r#"{"error":"invalid_client","error_description":"rate limit"}"#, "denied 400 invalid_client; rate limit"),
        (400, "", r#"{"error":"invalid_request"}"#, "denied 400 invalid_request"),
        (403, "retry-after: 7", r#"{"error":"invalid_client"}"#, "denied 403 invalid_client"),
        (500, "", "", "server 500 -"),
        (503, "retry-after: 120", "<html>", "server 503 120s"),
        (502, "", r#"{"error":"internal_error"}"#, "server 502 -"),
        (408, "", "", "server 408 -"),
        (400, "retry-after: 1", r#"{"error":"temporarily_unavailable"}"#, "server 400 1s"),
        (200, "", r#"{"error":"server_error"}"#, "server 200 -"),
        (503, "", r#"{"access_token":"T"}"#, "server 503 -"),
        // How much later.
        (503, "retry-after: Sat, 21 Nov 2026 12:00:30 GMT", "", "server 503 30s"),
        (503, "retry-after: Sat, 21 Nov 2026 11:00:00 GMT", "", "server 503 0ns"),
        (503, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT|date: Sun, 06 Nov 1994 08:49:07 GMT", "", "server 503 30s"),
        (503, "retry-after: Sunday, 06-Nov-94 08:49:37 GMT|date: Sun, 06 Nov 1994 08:49:07 GMT", "", "server 503 30s"),
        (503, "retry-after: 99999999999999999999999", "", "server 503 18446744073709551615s"),
        (503, "retry-after: -5", "", "server 503 -"),
        (503, "retry-after: soon", "", "server 503 -"),
        (503, "retry-after: 0", "", "server 503 0ns"),
        // A server's words are cleaned before they are kept.
        (400, "", r#"{"error":"invalid_client","error_description":"s3cr3t is not the secret; s3cr3t!"}"#, "denied 400 invalid_client; [redacted] is not the secret; [redacted]!"),
        (400, "", r#"{"error":"bad s3cr3t","error_uri":"https://x.example/?t=subject-token"}"#, "denied 400 bad [redacted]; https://x.example/?t=[redacted]"),
        (200, "", r#"{"error":"odd","error_description":"gave T123 and R456","access_token":"T123","refresh_token":"R456"}"#, "denied 200 odd; gave [redacted] and [redacted]"),
        (400, "", "{\"error\":\"e\",\"error_description\":\"a\\u001b[31m\\r\\nb\\u202ec s3c\\nr3t\"}", "denied 400 e; a[31mbc [redacted]"),
    ];

    #[test]
    fn grants() {
        for (status, headers, body, expected) in GRANTS {
            let outcome = with_answer(*status, headers, body.as_bytes(), |answer| {
                shown(answer.token(Asked::Grant))
            });
            assert_eq!(outcome, *expected, "{status} {headers} {body}");
        }
    }

    #[test]
    fn an_exchange_may_give_something_else_than_an_access_token() {
        let saml = "urn:ietf:params:oauth:token-type:saml2";
        for (body, expected) in [
            (
                format!(
                    r#"{{"access_token":"T","token_type":"N_A","issued_token_type":"{saml}","expires_in":9}}"#
                ),
                format!("T 9s ({saml}) no header"),
            ),
            (r#"{"access_token":"T","token_type":"n_a"}"#.into(), "T no header".into()),
            (
                r#"{"access_token":"T","issued_token_type":"bearer"}"#.into(),
                "T (bearer)".to_owned(),
            ),
        ] {
            let outcome = with_answer(200, "", body.as_bytes(), |answer| {
                shown(answer.token(Asked::Exchange))
            });
            assert_eq!(outcome, expected, "{body}");
        }
    }

    #[test]
    fn revocations() {
        for (status, headers, body, expected) in [
            (200, "", "", "Ok(())"),
            (204, "", "", "Ok(())"),
            (200, "", "<html>revoked</html>", "Ok(())"),
            (200, "", "{}", "Ok(())"),
            (400, "", r#"{"error":"invalid_token"}"#, "invalid_token"),
            (400, "", r#"{"error":"unsupported_token_type"}"#, "unsupported_token_type"),
            (200, "", r#"{"error":"invalid_client"}"#, "invalid_client"),
            (503, "retry-after: 9", "", "Server { status: 503, retry_after: Some(9s) }"),
            (429, "", "", "RateLimited { retry_after: None }"),
            (302, "location: /x", "", "redirects to /x"),
            (404, "", "", "Not Found"),
        ] {
            let outcome = with_answer(status, headers, body.as_bytes(), |answer| {
                format!("{:?}", answer.revocation())
            });
            assert!(outcome.contains(expected), "{status} {body}: {outcome}");
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_and_nothing_else() {
        let deep = "[".repeat(100_000);
        let deep_in_token = format!(r#"{{"access_token":"T","x":{deep}"#);
        let cases: [&[u8]; 4] = [
            deep.as_bytes(),
            deep_in_token.as_bytes(),
            b"\xff\xfe{\0\"\0",
            b"{\"access_token\":\"\xe9\"}",
        ];
        for body in cases {
            let outcome = with_answer(200, "", body, |answer| shown(answer.token(Asked::Grant)));
            assert!(outcome.starts_with("malformed: "), "{outcome}");
        }
        let latin1 = b"{\"error\":\"invalid_grant\",\"error_description\":\"ung\xfcltig\"}";
        let outcome = with_answer(400, "", latin1, |answer| shown(answer.token(Asked::Grant)));
        assert_eq!(outcome, "denied 400 invalid_grant; ung\u{fffd}ltig");
    }

    #[test]
    fn a_servers_words_are_cut_to_length() {
        let long = "ü".repeat(300);
        let body = format!(r#"{{"error":"e","error_description":"{long}"}}"#);
        let outcome =
            with_answer(400, "", body.as_bytes(), |answer| shown(answer.token(Asked::Grant)));
        assert_eq!(outcome, format!("denied 400 e; {}…", "ü".repeat(MAX_WORDS)));
    }

    #[test]
    fn an_answer_that_was_too_long_to_read_still_has_a_status() {
        let at = |status| {
            with_answer(status, "", b"", |answer| {
                shown(Answer { body: None, ..*answer }.token(Asked::Grant))
            })
        };
        assert_eq!(at(200), "malformed: the answer is longer than 1 MiB (HTTP 200)");
        assert_eq!(at(401), "denied 401 Unauthorized");
        assert_eq!(at(503), "server 503 -");
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read_without_panic_or_secret(
            status in 200_u16..600,
            retry_after in "[ -~]{0,30}",
            noise in ".{0,20}",
            field in proptest::sample::select(vec!["error", "error_description", "error_uri", "x"]),
        ) {
            let body = format!("{{\"error\":\"e\",\"{field}\":{}}}", Value::from(format!("{noise}s3cr3t{noise}")));
            let headers = format!("retry-after: {}", retry_after.replace('|', ""));
            let outcome = with_answer(status, &headers, body.as_bytes(), |answer| {
                shown(answer.token(Asked::Grant)) + &format!("{:?}", answer.revocation())
            });
            assert!(!outcome.contains("s3cr3t"), "{outcome}");
        }
    }
}
