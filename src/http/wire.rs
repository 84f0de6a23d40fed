//! What a server's answer means (RFC 6749 §5, RFC 7009 §2.2, RFC 8693 §2.2). No I/O.
//!
//! Answers are taken by what they are, not by what their `Content-Type` says.

use std::time::{Duration, SystemTime};

use ::http::header::{CONTENT_ENCODING, DATE, LOCATION, RETRY_AFTER};
use ::http::{HeaderMap, StatusCode};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::address::without_secrets;
use super::dpop::DpopKey;
use super::jwt::Object;
use super::limits::{MAX_DEPTH, MAX_SCOPE, MAX_TOKENS, MAX_WAIT, MAX_WORDS};
use super::names::CODINGS;
use super::words::{REDACTED, fit, is_short};
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
    /// Whose answer it is: scheme, host and path.
    pub(super) address: &'a str,
}

/// Why a body is nothing that can be read.
enum Unread {
    TooLong,
    Empty,
    /// It begins as HTML or XML does.
    Page,
    NoObject,
    NoJson,
    Coded,
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
        self.refusal(&self.object()).map_or(Ok(()), Err)
    }

    /// The object of an answer that is no failure.
    fn success(&self) -> Result<Object, TokenError> {
        let object = self.object();
        if let Some(error) = self.refusal(&object) {
            return Err(error);
        }
        object.map_err(|unread| {
            let reason = format!("{} (HTTP {})", self.why(&unread), self.status.as_u16());
            self.malformed(reason)
        })
    }

    fn object(&self) -> Result<Object, Unread> {
        if self.coding().is_some() {
            return Err(Unread::Coded);
        }
        let body = self.body.ok_or(Unread::TooLong)?;
        // Lossy, so that a description in another charset does not hide the error code; a token that
        // this changes is not fit for a header anyway.
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        match json(text) {
            Some(Value::Object(object)) => Ok(object),
            _ if text.is_empty() => Err(Unread::Empty),
            _ if text.starts_with('<') => Err(Unread::Page),
            Some(_) => Err(Unread::NoObject),
            None => form(text).ok_or(Unread::NoJson),
        }
    }

    pub(super) fn is_page(&self) -> bool {
        matches!(self.object(), Err(Unread::Page))
    }

    /// How it is coded, if it is: the first that is said of several headers, and of several codings in one; or what
    /// it begins as (RFC 1952 §2.3.1), where that is not said.
    fn coding(&self) -> Option<&[u8]> {
        let headers = self.headers.get_all(CONTENT_ENCODING).iter();
        let mut codings = headers
            .flat_map(|header| header.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii);
        let said = codings.find(|it| !it.is_empty() && !it.eq_ignore_ascii_case(b"identity"));
        let is_gzip = self.body.is_some_and(|body| body.starts_with(&[0x1f, 0x8b]));
        said.or(is_gzip.then_some(b"gzip"))
    }

    fn why(&self, unread: &Unread) -> String {
        match unread {
            Unread::TooLong => "the answer is longer than 1 MiB".into(),
            Unread::Empty => "the answer is empty".into(),
            Unread::Page => "the answer looks like a web page, not like JSON".into(),
            Unread::NoObject => "the answer is JSON, but not an object".into(),
            Unread::NoJson => "the answer is not JSON".into(),
            Unread::Coded => {
                // One that nobody has heard of may be anything that the server was sent.
                let known = self.coding().and_then(|coding| {
                    CODINGS.into_iter().find(|known| known.as_bytes().eq_ignore_ascii_case(coding))
                });
                format!(
                    "the answer is coded ({}), though it was asked not to be",
                    known.map_or("in a way of its own".into(), |known| format!("{known:?}"))
                )
            }
        }
    }

    /// What kind of failure this is, if it is one.
    fn refusal(&self, object: &Result<Object, Unread>) -> Option<TokenError> {
        let (status, read) = (self.status, object.as_ref().ok());
        let limited = || Some(TokenError::rate_limited(self.retry_after()));
        let server = || Some(self.server(object));
        let code = read.and_then(|object| text(object, "error")).filter(|code| !code.is_empty());
        match code {
            // It cannot be meant otherwise; some servers send `access_denied` with it.
            _ if status == StatusCode::TOO_MANY_REQUESTS => limited(),
            Some(code) if self.is_limit(code, read) => limited(),
            _ if status.is_redirection() => Some(self.redirect(read)),
            // Whoever is out of order may say anything.
            _ if status.is_server_error() => server(),
            Some(code) if is_outage(code) => server(),
            Some(code) if is_too_many(code) => limited(),
            // Somebody else than the server has answered, unless the code is one that is defined to mean
            // that the request itself is refused.
            Some(code) if is_infrastructure(status) && !is_refusal(code) => server(),
            Some(code) => Some(self.denied(code, read)),
            None if is_infrastructure(status) => server(),
            None if status.is_success() => None,
            // No code, but a time at which to come again: a firewall that counts requests.
            None if self.retry_after().is_some() => limited(),
            None if self.is_refusal_without_code(object) => Some(self.no_code(object)),
            None => server(),
        }
    }

    /// Whether the server itself refuses, without a code: a page is a firewall's, but with 401, which some servers
    /// say to browsers too.
    fn is_refusal_without_code(&self, object: &Result<Object, Unread>) -> bool {
        self.status == StatusCode::UNAUTHORIZED || !matches!(object, Err(Unread::Page))
    }

    /// Whether this provider means too many requests by it.
    fn is_limit(&self, code: &str, object: Option<&Object>) -> bool {
        let description = object.and_then(|object| text(object, "error_description"));
        let description = description.unwrap_or_default().to_lowercase();
        let is_meant = |text: &str| description.contains(&text.to_lowercase());
        self.limits.iter().any(|(error, text)| error == code && is_meant(text))
    }

    fn denied(&self, code: &str, object: Option<&Object>) -> TokenError {
        let uri = object.and_then(|object| text(object, "error_uri"));
        let uri = uri.map(|uri| self.words(uri, object)).filter(|uri| !uri.is_empty());
        TokenError::Denied {
            // Decided by as it is, and no secret if an RFC defines it.
            error: if is_defined(code) { code.to_owned() } else { self.words(code, object) },
            description: object.and_then(|object| self.description(object)),
            uri,
            status: self.status.as_u16(),
            credentials_changed: false,
            retry_after: self.retry_after(),
        }
    }

    /// A refusal by the status alone.
    fn no_code(&self, object: &Result<Object, Unread>) -> TokenError {
        let name = self.status.canonical_reason().unwrap_or("unknown status");
        match object {
            Err(unread @ Unread::Coded) => {
                self.denied(name, None).with_description(self.why(unread))
            }
            object => self.denied(name, object.as_ref().ok()),
        }
    }

    fn server(&self, object: &Result<Object, Unread>) -> TokenError {
        let description = match object {
            Ok(object) => {
                let code = text(object, "error").filter(|code| !code.is_empty());
                let code = code.map(|code| self.words(code, Some(object)));
                let parts: Vec<_> =
                    [code, self.description(object)].into_iter().flatten().collect();
                (!parts.is_empty()).then(|| parts.join(": "))
            }
            Err(Unread::Empty | Unread::TooLong) => None,
            Err(unread) => Some(self.why(unread)),
        };
        TokenError::Server {
            status: self.status.as_u16(),
            description,
            address: Some(self.address.to_owned()),
            retry_after: self.retry_after(),
        }
    }

    fn malformed(&self, reason: String) -> TokenError {
        TokenError::malformed(reason).with_retry_after(self.retry_after())
    }

    /// What a server says in words: in the RFC's member, or in those that others have in its place.
    fn description(&self, object: &Object) -> Option<String> {
        // A part of their names: of Okta's, Google's, Spring's, Apigee's and AWS's, of RFC 9457's.
        const OTHERS: [&str; 8] = [
            "summary",
            "message",
            "msg",
            "faultstring",
            "description",
            "title",
            "detail",
            "reason",
        ];
        let own = text(object, "error_description").filter(|words| !words.is_empty());
        let mut found: Vec<&str> = own.into_iter().collect();
        if found.is_empty() {
            let first = object.get("errors").and_then(|errors| errors.get(0));
            let nested = [object.get("error"), object.get("fault"), first].into_iter().flatten();
            for object in [object].into_iter().chain(nested.clone().filter_map(Value::as_object)) {
                for part in OTHERS {
                    let named =
                        object.iter().filter(|(name, _)| name.to_lowercase().contains(part));
                    for words in named.filter_map(|(_, words)| said(words)) {
                        if !words.is_empty() && !found.contains(&words) {
                            found.push(words);
                        }
                    }
                }
            }
            found.extend(first.and_then(Value::as_str));
        }
        let words = self.words(&found.join("; "), Some(object));
        (!words.is_empty()).then_some(words)
    }

    /// A redirect would send the secret to whoever is named there, so it is not followed.
    fn redirect(&self, object: Option<&Object>) -> TokenError {
        let target = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let description = match target {
            Some(target) => format!(
                "the server redirects to {}; token requests follow no redirect: if that is the \
                 right address, configure it",
                self.words(&self.absolute(target, object), object)
            ),
            None => "the server redirects without saying where to".into(),
        };
        TokenError::denied(self.status.canonical_reason().unwrap_or("redirect"), description)
            .with_status(self.status.as_u16())
            .with_retry_after(self.retry_after())
    }

    /// Where a `Location` leads, without what could be secret. It may be relative (RFC 9110 §10.2.2).
    fn absolute(&self, target: &str, object: Option<&Object>) -> String {
        // Before what is read of it makes another text of it.
        let target = &self.words(target, object);
        // What follows a blank is the proxy.
        let here = self.address.split(' ').next().and_then(|here| Url::parse(here).ok());
        match here.and_then(|here| here.join(target).ok()) {
            Some(mut there) => {
                // Where there is a host, both can be set.
                let _ = there.set_username("").and(there.set_password(None));
                without_secrets(there.as_str()).to_owned()
            }
            None => without_secrets(target).to_owned(),
        }
    }

    fn grant(&self, object: &Object, asked: Asked) -> Result<Grant, TokenError> {
        let access_token = text(object, "access_token")
            .ok_or_else(|| self.malformed("the answer has no access_token".into()))?;
        let kept = |error: TokenError| error.with_retry_after(self.retry_after());
        let mut grant = Grant::bearer(access_token).map_err(kept)?;
        match (object.get("token_type"), self.dpop) {
            (Some(Value::String(kind)), Some(key)) if kind.trim().eq_ignore_ascii_case("dpop") => {
                grant = grant.bound_to(key.clone());
            }
            (None | Some(Value::Null), None) => {}
            (Some(Value::String(kind)), None) if kind.trim().eq_ignore_ascii_case("bearer") => {}
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
                // The next one would be of the same type.
                let words = format!("its token_type is {shown}, and {reason}");
                return Err(TokenError::denied("unusable_token_type", words)
                    .with_status(self.status.as_u16())
                    .with_retry_after(self.retry_after()));
            }
        }
        if let Some(life) = life(object.get("expires_in")).map_err(kept)? {
            grant = grant.expires_in(life);
        }
        if let Some(seconds) = seconds(object.get("refresh_in")) {
            // Nonsense says nothing.
            if let Ok(wait) = Duration::try_from_secs_f64(seconds) {
                grant = grant.refresh_in(wait);
            }
        }
        if let Some(scope) = self.scope(object) {
            grant = grant.scope(scope);
        }
        if let Some(kind) = text(object, "issued_token_type") {
            grant = grant.issued_token_type(self.data(kind, object));
        }
        Ok(grant)
    }

    /// The scopes, which some servers send as a list.
    pub(super) fn scope(&self, object: &Object) -> Option<String> {
        match object.get("scope")? {
            Value::String(scope) => Some(self.data(scope, object)),
            Value::Array(scopes) => {
                let scopes: Vec<_> = scopes.iter().filter_map(Value::as_str).collect();
                Some(self.data(&scopes.join(" "), object))
            }
            _ => None,
        }
    }

    /// As [`words`](Self::words), of what is data: a short secret's word may be one of its own by chance.
    fn data(&self, text: &str, object: &Object) -> String {
        let Some(mut secrets) = self.hidden(Some(object)) else { return REDACTED.into() };
        secrets.retain(|secret| !is_short(secret));
        fit(text, &secrets, MAX_SCOPE)
    }

    /// Seconds or a date (RFC 9110 §10.2.3). A date counts from the server's own `Date`, so that
    /// neither clock needs to be right.
    fn retry_after(&self) -> Option<Duration> {
        let header = |name| self.headers.get(name)?.to_str().ok();
        let after = header(RETRY_AFTER)?.trim();
        if !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Duration::from_secs(after.parse().unwrap_or(u64::MAX)).min(MAX_WAIT));
        }
        let at = httpdate::parse_http_date(after).ok()?;
        let now = header(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        let wait = at.duration_since(now.unwrap_or(self.received)).unwrap_or_default();
        Some(wait.min(MAX_WAIT))
    }

    /// A server's words, fit to be kept: without what was sent, nor the tokens that it gave itself.
    fn words(&self, words: &str, object: Option<&Object>) -> String {
        self.hidden(object).map_or(REDACTED.into(), |secrets| fit(words, &secrets, MAX_WORDS))
    }

    /// What must not be seen of this answer: what was sent, and the tokens that it gave itself. `None` if those
    /// are too many to look for.
    fn hidden<'a>(&'a self, object: Option<&'a Object>) -> Option<Vec<&'a str>> {
        let mut tokens = Vec::new();
        if let Some(object) = object {
            push_tokens(object, &mut tokens);
        }
        (tokens.len() <= MAX_TOKENS).then(|| [self.secrets, &tokens].concat())
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

/// The words of a member that is named as words are: a string, or what servers that check each field put there, such
/// as `FastAPI`'s list.
fn said(value: &Value) -> Option<&str> {
    const PARTS: [&str; 5] = ["msg", "message", "text", "description", "detail"];
    match value {
        Value::String(words) => Some(words),
        Value::Array(values) => values.first().filter(|first| first.is_object()).and_then(said),
        Value::Object(object) => PARTS.iter().find_map(|part| text(object, part)),
        _ => None,
    }
}

fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// JSON, whose numbers may be larger than any that there is: those are very large ones. What is nested deeper
/// than anybody reads it is left out.
fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text)
        .or_else(|error| {
            let text = with_possible_values(text).ok_or(error)?;
            serde_json::from_str(&text)
        })
        .ok()
}

/// `None` if all of them were possible.
fn with_possible_values(text: &str) -> Option<String> {
    let mut possible = String::new();
    let (mut rest, mut in_string, mut any, mut depth) = (text, false, false, 0_usize);
    while let Some(first) = rest.chars().next() {
        let is_number = !in_string && (first == '-' || first.is_ascii_digit());
        let length = match first {
            '\\' if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ if is_number => {
                let ends = |char: char| !char.is_ascii_digit() && !"+-.eE".contains(char);
                rest.find(ends).unwrap_or(rest.len())
            }
            first => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        in_string ^= first == '"';
        let is_bracket = |brackets: [char; 2]| !in_string && brackets.contains(&first);
        depth += usize::from(is_bracket(['[', '{']));
        if depth > MAX_DEPTH {
            any = true;
            // In place of the whole.
            if depth == MAX_DEPTH + 1 && is_bracket(['[', '{']) {
                possible += "null";
            }
        } else if is_number && token.parse().is_ok_and(f64::is_infinite) {
            any = true;
            possible += if first == '-' { "-1e308" } else { "1e308" };
        } else {
            possible += token;
        }
        depth = depth.saturating_sub(usize::from(is_bracket([']', '}'])));
        rest = after;
    }
    any.then_some(possible)
}

/// A form in place of JSON, as some servers answer: one that gives a token or says what is wrong.
fn form(text: &str) -> Option<Object> {
    let pairs = form_urlencoded::parse(text.as_bytes());
    let object: Object =
        pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect();
    let members = ["access_token", "error", "error_description"];
    members.iter().any(|name| object.contains_key(*name)).then_some(object)
}

/// A code that says "later", whatever the status.
fn is_outage(code: &str) -> bool {
    matches!(
        &*code.to_ascii_lowercase(),
        "temporarily_unavailable"
            | "server_error"
            | "internal_failure"
            | "internal_error"
            | "internal_server_error"
            | "service_unavailable"
            | "backend_error"
    )
}

/// A code that says "fewer", whatever the status.
fn is_too_many(code: &str) -> bool {
    matches!(
        &*code.to_ascii_lowercase(),
        "slow_down" | "too_many_requests" | "rate_limit_exceeded" | "rate_limited"
    )
}

/// A status that whatever is before a server gives, or one that is not quite there: nobody at that address,
/// a proxy that wants a password, a connection meant for another host, a request that came too late or too early.
fn is_infrastructure(status: StatusCode) -> bool {
    let statuses = [
        StatusCode::NOT_FOUND,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::MISDIRECTED_REQUEST,
        StatusCode::TOO_EARLY,
    ];
    statuses.contains(&status)
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

/// A lifetime in seconds, as a number or as text. What is neither says nothing, as if it were missing;
/// but a token with no life left is dead, and so is one whose lifetime is no number (`NaN`).
fn life(value: Option<&Value>) -> Result<Option<Duration>, TokenError> {
    let Some(seconds) = seconds(value) else { return Ok(None) };
    if seconds.is_nan() || seconds <= 0.0 {
        return Err(TokenError::expired("its expires_in leaves no life"));
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
