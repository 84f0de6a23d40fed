//! What each kind of answer means, as a table: right ones, odd ones, wrong ones, hostile ones. Those that
//! are a matter of the connection are in `tests/transport.rs`.

use super::*;
use crate::tests::effort::assert_takes_little;

const SECRETS: [&str; 2] = ["s3cr3t", "subject-token"];
/// Sat, 21 Nov 2026 12:00:00 GMT.
const NOW: u64 = 1_795_262_400;

fn with_answer<T>(
    status: u16,
    header_lines: &str,
    body: &[u8],
    read: impl FnOnce(&ServerAnswer<'_>) -> T,
) -> T {
    let mut headers = HeaderMap::new();
    for line in header_lines.split('|').filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        let name = ::http::HeaderName::try_from(name.trim()).unwrap();
        headers.append(name, value.trim().parse().unwrap());
    }
    read(&ServerAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &headers,
        body: Some(body),
        received: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        secrets: &SECRETS,
        limits: &[("invalid_request".into(), "Rate Limit".into())],
        dpop: None,
        address: "https://as.example/token",
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
            shown + if grant.is_access_token() { "" } else { " no header" }
        }
        Err(TokenError::Denied { error, description, uri, status, .. }) => {
            let mut shown = format!("denied {status} {error}");
            for part in [description, uri].into_iter().flatten() {
                shown = format!("{shown}; {part}");
            }
            shown
        }
        Err(TokenError::RateLimited { retry_after, .. }) => {
            format!("limited {}", wait(retry_after))
        }
        Err(TokenError::Server { status, description, retry_after, .. }) => {
            let words = description.map_or(String::new(), |words| format!("; {words}"));
            format!("server {status} {}{words}", wait(retry_after))
        }
        Err(TokenError::Malformed { reason, .. }) => format!("malformed: {reason}"),
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
    (200, "", r#"{"access_token":" T"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
    (200, "", r#"{"access_token":"T\n"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
    (200, "", r#"{"access_token":"a\tb"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
    (200, "", r#"{"access_token":"a\u0000b"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
    (200, "", r#"{"access_token":"a\u007fb"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
    (200, "", r#"{"access_token":"a\u2028b"}"#, "malformed: the access token is empty, or has characters that cannot go into a header"),
    (200, "", r#"{"access_token":"a-._~+/=|\"'%b"}"#, r#"a-._~+/=|"'%b"#),
    (200, "", r#"{"ACCESS_TOKEN":"T"}"#, "malformed: the answer has no access_token"),
    (200, "", r#"{"data":{"access_token":"T"}}"#, "malformed: the answer has no access_token"),
    // Its type (RFC 6749 §7.1).
    (200, "", r#"{"access_token":"T","token_type":"BEARER"}"#, "T"),
    (200, "", r#"{"access_token":"T","token_type":null}"#, "T"),
    (200, "", r#"{"access_token":"T","token_type":"mac"}"#, r#"denied 200 unusable_token_type; its token_type is "mac", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
    (200, "", r#"{"access_token":"T","token_type":""}"#, r#"denied 200 unusable_token_type; its token_type is "", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
    (200, "", r#"{"access_token":"T","token_type":["Bearer"]}"#, "denied 200 unusable_token_type; its token_type is no text, and a token of a type that is not understood must not be used (RFC 6749 §7.1)"),
    (200, "", r#"{"access_token":"T123","token_type":"type-T123"}"#, r#"denied 200 unusable_token_type; its token_type is "type-[redacted]", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
    (200, "", r#"{"access_token":"T","token_type":"N_A"}"#, r#"denied 200 unusable_token_type; its token_type is "N_A", and a token of a type that is not understood must not be used (RFC 6749 §7.1)"#),
    // Its lifetime.
    (200, "", r#"{"access_token":"T","expires_in":3600.5}"#, "T 3600.5s"),
    (200, "", r#"{"access_token":"T","expires_in":"3600"}"#, "T 3600s"),
    (200, "", r#"{"access_token":"T","expires_in":" 60.25 "}"#, "T 60.25s"),
    (200, "", r#"{"access_token":"T","expires_in":"+1e3"}"#, "T 1000s"),
    (200, "", r#"{"access_token":"T","expires_in":"3,600"}"#, "T"),
    (200, "", r#"{"access_token":"T","expires_in":"1h"}"#, "T"),
    (200, "", r#"{"access_token":"T","expires_in":60,"expires_in":"90"}"#, "T 90s"),
    (200, "", r#"{"access_token":"T","expires_in":1e-400}"#, "expired"),
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
    (200, "", r#"{"access_token":"T","expires_in":1e999}"#, "T 18446744073709551615.999999999s"),
    (200, "", r#"{"x":"\\\"1e999","access_token":"T","expires_in":123e+0500,"y":[-1E999]}"#, "T 18446744073709551615.999999999s"),
    (200, "", r#"{"access_token":"T","expires_in":-1e999}"#, "expired"),
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
    (200, "", "access_token=T%2B1&token_type=bearer&expires_in=60&scope=a+b", "T+1 60s [a b]"),
    (200, "", "token_type=bearer", "malformed: the answer is not JSON (HTTP 200)"),
    (200, "", r#"{"access_token":"T"}{"access_token":"U"}"#, "malformed: the answer is not JSON (HTTP 200)"),
    (200, "", r#"callback({"access_token":"T"})"#, "malformed: the answer is not JSON (HTTP 200)"),
    (200, "", "{'access_token':'T'}", "malformed: the answer is not JSON (HTTP 200)"),
    (200, "content-encoding: gzip", "\u{1f}\u{8b}\u{8}\0", "malformed: the answer is coded (\"gzip\"), though it was asked not to be (HTTP 200)"),
    (200, "content-encoding: identity", r#"{"access_token":"T"}"#, "T"),
    (200, "content-encoding: ", r#"{"access_token":"T"}"#, "T"),
    (200, "content-encoding: , identity|content-encoding: IDENTITY", r#"{"access_token":"T"}"#, "T"),
    (200, "content-encoding: identity|content-encoding: gzip", "\u{1f}\u{8b}", "malformed: the answer is coded (\"gzip\"), though it was asked not to be (HTTP 200)"),
    (200, "content-encoding: identity, BR", "\u{1f}\u{8b}", "malformed: the answer is coded (\"br\"), though it was asked not to be (HTTP 200)"),
    (200, "content-encoding: s3cr3t", "\u{1f}\u{8b}", "malformed: the answer is coded (in a way of its own), though it was asked not to be (HTTP 200)"),
    (400, "content-encoding: br", "\u{1f}\u{8b}", "denied 400 Bad Request; the answer is coded (\"br\"), though it was asked not to be"),
    (200, "", "\u{feff}", "malformed: the answer is empty (HTTP 200)"),
    (200, "", r#"["T"]"#, "malformed: the answer is JSON, but not an object (HTTP 200)"),
    (200, "", "null", "malformed: the answer is JSON, but not an object (HTTP 200)"),
    // Refusals (RFC 6749 §5.2), at any status.
    (400, "", r#"{"error":"invalid_grant","error_description":"No such user","error_uri":"https://x.example/e"}"#, "denied 400 invalid_grant; No such user; https://x.example/e"),
    (401, "", r#"{"error":"invalid_client"}"#, "denied 401 invalid_client"),
    (400, "", r#"{"error":"use_dpop_nonce"}"#, "denied 400 use_dpop_nonce"),
    (200, "", r#"{"error":"invalid_client","access_token":"T"}"#, "denied 200 invalid_client"),
    (500, "", r#"{"error":"invalid_client","error_description":"x"}"#, "server 500 -; invalid_client: x"),
    (400, "content-type: text/html", r#"{"error":"invalid_scope","error_description":""}"#, "denied 400 invalid_scope"),
    (400, "", r#"{"error":"invalid_grant","error_description":["x"],"error_uri":1}"#, "denied 400 invalid_grant"),
    (400, "", "", "denied 400 Bad Request"),
    (401, "www-authenticate: Bearer", "no", "denied 401 Unauthorized"),
    (401, "", "<html>", "denied 401 Unauthorized"),
    (403, "", "", "denied 403 Forbidden"),
    (403, "", "no", "denied 403 Forbidden"),
    (405, "", "{}", "denied 405 Method Not Allowed"),
    (422, "", r#"{"detail":"x"}"#, "denied 422 Unprocessable Entity; x"),
    (422, "", r#"{"detail":[{"loc":["body","scope"],"msg":"field required"}]}"#, "denied 422 Unprocessable Entity; field required"),
    (400, "", r#"{"message":{"text":"x"}}"#, "denied 400 Bad Request; x"),
    (422, "", r#"["x"]"#, "denied 422 Unprocessable Entity"),
    (400, "", "error=invalid_client&error_description=x+y", "denied 400 invalid_client; x y"),
    (400, "", r#"{"error":"a","error":"b"}"#, "denied 400 b"),
    (400, "", r#"{"error":"invalid_client","error_description":{"a":1},"errors":[1]}"#, "denied 400 invalid_client"),
    (418, "", r#"{"errorCode":"E0000011","errorSummary":"x"}"#, "denied 418 I'm a teapot; x"),
    (400, "", r#"{"error":{"code":7,"message":"x"}}"#, "denied 400 Bad Request; x"),
    (400, "", r#"{"errors":[{"message":"x"},{"message":"y"}]}"#, "denied 400 Bad Request; x"),
    (403, "", r#"{"type":"about:blank","title":"Forbidden","detail":"not from here","status":403}"#, "denied 403 Forbidden; Forbidden; not from here"),
    (400, "", r#"{"message":"x","reason":"x","error":{"message":"y"}}"#, "denied 400 Bad Request; x; y"),
    (400, "", r#"{"errors":["x","y"]}"#, "denied 400 Bad Request; x"),
    (401, "", r#"{"fault":{"faultstring":"x","detail":{"errorcode":"y"}}}"#, "denied 401 Unauthorized; x"),
    (400, "", r#"{"__type":"E","Message":"x"}"#, "denied 400 Bad Request; x"),
    (400, "", r#"{"error":"e","userMessage":"x","details":["y"],"reasonPhrase":""}"#, "denied 400 e; x"),
    (400, "", "error_description=x+y", "denied 400 Bad Request; x y"),
    (401, "", r#"{"error":"Unauthorized","message":"no \u202esuch client"}"#, "denied 401 Unauthorized; no such client"),
    (400, "", r#"{"error":"invalid_grant","error_description":"x","message":"y"}"#, "denied 400 invalid_grant; x"),
    (405, "", "", "denied 405 Method Not Allowed"),
    (499, "", "", "denied 499 unknown status"),
    (499, "", "gone", "denied 499 unknown status"),
    // Somebody else has answered: a firewall, a gateway, a server that is not quite there.
    (400, "", "\n <!doctype html>", "server 400 -; the answer looks like a web page, not like JSON"),
    (403, "", "\u{feff}<html>", "server 403 -; the answer looks like a web page, not like JSON"),
    (403, "content-type: application/json", "<?xml version='1.0'?><Error/>", "server 403 -; the answer looks like a web page, not like JSON"),
    (402, "", "<html>", "server 402 -; the answer looks like a web page, not like JSON"),
    (405, "", "<html>", "server 405 -; the answer looks like a web page, not like JSON"),
    (407, "", "", "server 407 -"),
    (407, "", r#"{"error":"proxy"}"#, "server 407 -; proxy"),
    (451, "", "<html>", "server 451 -; the answer looks like a web page, not like JSON"),
    (404, "", "", "server 404 -"),
    (404, "", r#"{"error":"not_found"}"#, "server 404 -; not_found"),
    (404, "", r#"{"error":"invalid_client"}"#, "denied 404 invalid_client"),
    (421, "", "", "server 421 -"),
    (425, "retry-after: 1", "", "server 425 1s"),
    (400, "", r#"{"error":"internal_failure","error_description":"Backend Error"}"#, "server 400 -; internal_failure: Backend Error"),
    (400, "", r#"{"error":"INTERNAL_FAILURE"}"#, "server 400 -; INTERNAL_FAILURE"),
    (400, "", r#"{"error":"Rate_Limited"}"#, "limited -"),
    (200, "", r#"{"error":"internal_error"}"#, "server 200 -; internal_error"),
    (501, "", r#"{"error":"unsupported_grant_type"}"#, "server 501 -; unsupported_grant_type"),
    // Redirects are not followed, and told without what could be secret.
    (302, "location: https://login.example.com/token/?code=s3cr3t#f", "", "denied 302 Found; the server redirects to https://login.example.com/token/; token requests follow no redirect: if that is the right address, configure it"),
    (301, "location: https://user:pass@login.example.com/", r#"{"error":"moved"}"#, "denied 301 Moved Permanently; the server redirects to https://login.example.com/; token requests follow no redirect: if that is the right address, configure it"),
    (307, "location: /oauth2/s3cr3t", "", "denied 307 Temporary Redirect; the server redirects to https://as.example/oauth2/[redacted]; token requests follow no redirect: if that is the right address, configure it"),
    (308, "location: //other.example/t/?k", "", "denied 308 Permanent Redirect; the server redirects to https://other.example/t/; token requests follow no redirect: if that is the right address, configure it"),
    (308, "location: http://[", "", "denied 308 Permanent Redirect; the server redirects to http://[; token requests follow no redirect: if that is the right address, configure it"),
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
    (503, "retry-after: 120", "<html>", "server 503 120s; the answer looks like a web page, not like JSON"),
    (502, "", r#"{"error":"internal_error"}"#, "server 502 -; internal_error"),
    (408, "", "", "server 408 -"),
    (400, "retry-after: 1", r#"{"error":"temporarily_unavailable"}"#, "server 400 1s; temporarily_unavailable"),
    (200, "", r#"{"error":"server_error"}"#, "server 200 -; server_error"),
    (503, "", r#"{"access_token":"T"}"#, "server 503 -"),
    // How much later.
    (503, "retry-after: Sat, 21 Nov 2026 12:00:30 GMT", "", "server 503 30s"),
    (503, "retry-after: Sat, 21 Nov 2026 11:00:00 GMT", "", "server 503 0ns"),
    (503, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT|date: Sun, 06 Nov 1994 08:49:07 GMT", "", "server 503 30s"),
    (503, "retry-after: Sunday, 06-Nov-94 08:49:37 GMT|date: Sun, 06 Nov 1994 08:49:07 GMT", "", "server 503 30s"),
    (503, "retry-after: 99999999999999999999999", "", "server 503 3155760000s"),
    (503, "retry-after: -5", "", "server 503 -"),
    (503, "retry-after: soon", "", "server 503 -"),
    (503, "retry-after: 1.5", "", "server 503 -"),
    (503, "retry-after: 5|retry-after: 7", "", "server 503 5s"),
    (503, "retry-after: Sat, 21 Nov 2026 12:00:30 GMT|date: yesterday", "", "server 503 30s"),
    (429, "retry-after: 86400", "", "limited 86400s"),
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
        (r#"{"access_token":"T","issued_token_type":"bearer"}"#.into(), "T (bearer)".to_owned()),
    ] {
        let outcome =
            with_answer(200, "", body.as_bytes(), |answer| shown(answer.token(Asked::Exchange)));
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
        (503, "retry-after: 9", "", "retry_after: Some(9s) }"),
        (429, "", "", "RateLimited { retry_after: None }"),
        (200, "content-encoding: gzip", "\u{1f}", "Ok(())"),
        (302, "location: /x", "", "redirects to https://as.example/x"),
        (404, "", "", "Server { status: 404"),
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
    let cases: [&[u8]; 7] = [
        deep.as_bytes(),
        deep_in_token.as_bytes(),
        b"\xff\xfe{\0\"\0",
        b"{\"access_token\":\"\xe9\"}",
        // UTF-16, with and without its mark.
        b"\xff\xfe{\0\"\0a\0c\0c\0e\0s\0s\0_\0t\0o\0k\0e\0n\0\"\0:\0\"\0T\0\"\0}\0",
        b"\0{\0\"\0a\0\"\0:\x001\0}",
        // A gzip bomb's beginning: nothing is unpacked.
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xec\xc1\x01\x01",
    ];
    for body in cases {
        let outcome = with_answer(200, "", body, |answer| shown(answer.token(Asked::Grant)));
        assert!(outcome.starts_with("malformed: "), "{outcome}");
        assert_eq!(outcome.contains(r#"is coded ("gzip")"#), body[0] == 0x1f, "{outcome}");
    }
    let latin1 = b"{\"error\":\"invalid_grant\",\"error_description\":\"ung\xfcltig\"}";
    let outcome = with_answer(400, "", latin1, |answer| shown(answer.token(Asked::Grant)));
    assert_eq!(outcome, "denied 400 invalid_grant; ung\u{fffd}ltig");
}

#[test]
fn a_servers_words_are_cut_to_length() {
    let long = "ü".repeat(1_300);
    let body = format!(r#"{{"error":"e","error_description":"{long}"}}"#);
    let outcome = with_answer(400, "", body.as_bytes(), |answer| shown(answer.token(Asked::Grant)));
    assert_eq!(outcome, format!("denied 400 e; {}…", "ü".repeat(MAX_WORDS)));
}

#[test]
fn words_among_more_tokens_than_can_be_looked_for_are_not_shown() {
    for (tokens, expected) in [(16, "denied 400 e; d"), (17, "denied 400 [redacted]; [redacted]")] {
        let tokens: String = numbered(tokens, r#",{"id_token":"t-#"}"#);
        let body = format!(r#"{{"error":"e","error_description":"d","x":[0{tokens}]}}"#);
        let result = with_answer(400, "", body.as_bytes(), |answer| answer.token(Asked::Grant));
        assert_eq!(shown(result), expected);
    }
}

#[test]
fn what_is_nested_deeper_than_anybody_reads_is_left_out() {
    for depth in [90, 101, 128, 100_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let objects = format!("{}{}", r#"{"a":"#.repeat(depth), "1");
        let objects = format!("{objects}{}", "}".repeat(depth));
        for deep in [format!("{open}\"]}}\\\"\",1e999{close}"), objects] {
            let body =
                format!(r#"{{"x":{deep},"access_token":"T","y":{{"z":{deep}}},"expires_in":60}}"#);
            let result = with_answer(200, "", body.as_bytes(), |answer| answer.token(Asked::Grant));
            assert_eq!(shown(result), "T 60s", "{depth}");
        }
        let cut = format!(r#"{{"access_token":"T","x":{open}"#);
        let result = with_answer(200, "", cut.as_bytes(), |answer| answer.token(Asked::Grant));
        assert_eq!(shown(result), "malformed: the answer is not JSON (HTTP 200)");
    }
}

/// So many of it, each with its number in place of `#`.
fn numbered(count: usize, part: &str) -> String {
    (0..count).fold(String::new(), |all, at| all + &part.replace('#', &format!("{at:x}")))
}

/// Of at most 1 MiB, as they are read.
#[test]
fn an_answer_of_many_parts_is_read_in_little_time() {
    let many = |part: &str| part.repeat(1_000_000 / part.len());
    let list = |part: &str| format!("[{}0]", many(part));
    let scopes =
        r#""access_token":"the-token-itself","refresh_token":"another-token-of-it","scope""#;
    for (what, status, body) in [
        ("scopes in a string", 200, format!("{{{scopes}:\"{}\"}}", many("abc "))),
        ("scopes in a list", 200, format!("{{{scopes}:{}}}", list("\"ab%63\","))),
        (
            "members",
            400,
            format!(
                "{{\"error\":\"e\",\"error_description\":\"d\"{}}}",
                numbered(100_000, r##","#":1"##)
            ),
        ),
        ("words", 400, format!("{{\"error\":\"e\",\"error_description\":\"{}\"}}", many("w%25 "))),
        (
            "tokens",
            400,
            format!(
                "{{\"error\":\"e\",\"error_description\":\"{}\",\"x\":{}}}",
                "w ".repeat(9_000),
                list("{\"access_token\":\"aaaaaaaaaa\"},")
            ),
        ),
        (
            "other tokens",
            400,
            format!(
                "{{\"error\":\"e\",\"error_description\":\"{}\",\"x\":[{}0]}}",
                "w ".repeat(9_000),
                numbered(20_000, r#"{"access_token":"token-#"},"#)
            ),
        ),
        ("errors", 400, format!("{{\"errors\":{}}}", list("{\"message\":\"m\"},"))),
        ("pairs of a form", 400, format!("error=e&{}", many("a=b&"))),
        ("digits", 200, format!("{{\"access_token\":\"T\",\"expires_in\":{}}}", many("9"))),
        ("large numbers", 200, format!("{{\"access_token\":\"T\",\"x\":{}}}", list("1e999,"))),
        ("escapes", 400, format!("{{\"error\":\"{}\"}}", many("%25"))),
    ] {
        assert_takes_little(what, || {
            let _ = with_answer(status, "", body.as_bytes(), |answer| answer.token(Asked::Grant));
        });
    }
}

#[test]
fn retry_after_counts_for_every_failure() {
    for (status, body, expected) in [
        (401, r#"{"error":"invalid_client"}"#, "Denied"),
        (403, "{}", "RateLimited"),
        (302, "", "Denied"),
        (200, "<html>", "Malformed"),
        (200, "{}", "Malformed"),
        (200, r#"{"access_token":"a b"}"#, "Malformed"),
        (200, r#"{"access_token":"T","expires_in":0}"#, "Expired"),
        (200, r#"{"access_token":"T","token_type":"mac"}"#, "Denied"),
        (404, "", "Server"),
        (501, "", "Server"),
        (429, "", "RateLimited"),
    ] {
        let error = with_answer(status, "retry-after: 70", body.as_bytes(), |answer| {
            answer.token(Asked::Grant).unwrap_err()
        });
        assert!(format!("{error:?}").starts_with(expected), "{status} {body}: {error:?}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(70)), "{error:?}");
        let retryable = !matches!(error, TokenError::Denied { .. }) && status != 501;
        assert_eq!(error.is_retryable(), retryable, "{error:?}");
    }
}

#[test]
fn an_answer_that_was_too_long_to_read_still_has_a_status() {
    let at = |status| {
        with_answer(status, "", b"", |answer| {
            shown(ServerAnswer { body: None, ..*answer }.token(Asked::Grant))
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
        let body = format!("{{\"error\":\"e\",\"{field}\":{}}}", Value::from(format!("{noise}subject-token{noise}")));
        let headers = format!("retry-after: {}", retry_after.replace('|', ""));
        let outcome = with_answer(status, &headers, body.as_bytes(), |answer| {
            shown(answer.token(Asked::Grant)) + &format!("{:?}", answer.revocation())
        });
        assert!(!outcome.contains("subject-token"), "{outcome}");
    }
}
