//! Answers: the proper ones, the refusals, and those that a script makes up.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use serde_json::{Value, json};

use super::script::Answer;

pub(super) type Reply = Response<Bytes>;

/// A JSON body that nobody may keep (RFC 6749 §5.1).
pub(super) fn json_reply(status: StatusCode, body: &Value) -> Reply {
    let mut reply = Response::new(Bytes::from(body.to_string()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    reply
}

/// A refusal: an OAuth error (RFC 6749 §5.2).
pub(super) struct Refusal {
    status: StatusCode,
    body: Value,
    challenge: Option<String>,
}

impl Refusal {
    /// Status 400.
    pub(super) fn new(error: &str, description: impl AsRef<str>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            body: json!({ "error": error, "error_description": description.as_ref() }),
            challenge: None,
        }
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }

    /// What goes into `WWW-Authenticate`.
    pub(super) fn challenge(mut self, challenge: impl Into<String>) -> Self {
        self.challenge = Some(challenge.into());
        self
    }

    /// One more member of the body.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body[name] = value.into();
        self
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let mut reply = json_reply(refusal.status, &refusal.body);
        // A challenge is made of fixed words and scopes that were checked: it always is a header value.
        if let Some(Ok(challenge)) = refusal.challenge.map(HeaderValue::try_from) {
            reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        reply
    }
}

impl From<&Answer> for Reply {
    fn from(answer: &Answer) -> Self {
        let error = answer.error.as_ref().map(|error| json!({ "error": error }).to_string());
        let body = answer.body.clone().or(error).unwrap_or_default();
        let mut reply = Response::new(Bytes::from(body));
        *reply.status_mut() = answer.status;
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = answer.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(wait) = answer.retry_after_date {
            let date = httpdate::fmt_http_date(SystemTime::now() + wait);
            if let Ok(date) = HeaderValue::try_from(date) {
                headers.insert(RETRY_AFTER, date);
            }
        }
        headers.extend(answer.headers.clone());
        reply
    }
}

pub(super) fn malformed() -> Reply {
    let mut reply = Response::new(Bytes::from_static(b"{\"access_token\": \"cut-off"));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

pub(super) fn html() -> Reply {
    let page = b"<!DOCTYPE html><html><title>Sign in</title><p>Please accept the terms.</p></html>";
    let mut reply = Response::new(Bytes::from_static(page));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    reply
}

/// Whole seconds as an integer, others as a float, so that a lifetime of half a second is not zero.
pub(super) fn seconds(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 {
        return json!(duration.as_secs());
    }
    json!(duration.as_secs_f64())
}

/// The bytes of an answer: all that were promised, or half of them and then a broken connection.
pub(super) struct Bytestream {
    promised: u64,
    data: Bytes,
    broken: Option<Flushed>,
}

/// Whether the half that is sent has had its chance to leave before the connection breaks.
struct Flushed(bool);

impl Bytestream {
    pub(super) fn whole(data: Bytes) -> Self {
        Self { promised: data.len() as u64, data, broken: None }
    }

    /// Where there is no body to cut, one byte is promised and none is sent.
    pub(super) fn cut(data: &Bytes) -> Self {
        Self {
            promised: data.len().max(1) as u64,
            data: data.slice(..data.len() / 2),
            broken: Some(Flushed(false)),
        }
    }
}

/// Ends the connection: what hyper does when a body or a service fails.
#[derive(Debug, thiserror::Error)]
#[error("the script ends this connection")]
pub(super) struct Broken;

impl Body for Bytestream {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        match &mut self.broken {
            None => Poll::Ready(None),
            Some(Flushed(true)) => Poll::Ready(Some(Err(Broken))),
            Some(Flushed(flushed)) => {
                // hyper flushes what it has when a body has nothing more for the moment.
                *flushed = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.broken.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
