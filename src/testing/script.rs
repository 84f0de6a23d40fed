//! What goes wrong, and when: plain data, written in Rust or in a JSON file.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::counts::Kind;
use crate::config::duration;

/// The longest time: the clocks of all systems can count to its end, and a date can be written of it.
pub(super) const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// Decides which requests fail, by number or by time. The first rule that matches a request applies; a request
/// that matches none is answered normally. An empty script means a healthy server.
///
/// Numbers and times count from when the script was set: from [`start`](super::Authority::start), or
/// from [`set_script`](super::Authority::set_script).
///
/// # In JSON
/// ```
/// use std::time::Duration;
/// use ccg_session::testing::{Answer, Fault, Kind, Rule, Script};
///
/// let script: Script = serde_json::from_str(r#"{ "rules": [
///     { "on": "grant", "requests": [2, 3], "fault": { "answer": { "status": 503, "retry_after": "2s" } } },
///     { "on": "grant", "from": "10s", "until": "20s", "fault": "drop" },
///     { "on": "revoke", "fault": { "answer": { "status": 400, "error": "unsupported_token_type" } } },
///     { "on": "exchange", "fault": { "expires_in": "3600" } },
///     { "delay": "5ms" }
/// ] }"#)?;
///
/// let unavailable = Answer::new(http::StatusCode::SERVICE_UNAVAILABLE);
/// let unsupported = Answer::new(http::StatusCode::BAD_REQUEST).error("unsupported_token_type");
/// let same = Script::new()
///     .rule(
///         Rule::new(Kind::Grant)
///             .requests(2..=3)
///             .fault(unavailable.retry_after(Duration::from_secs(2))),
///     )
///     .rule(
///         Rule::new(Kind::Grant)
///             .from(Duration::from_secs(10))
///             .until(Duration::from_secs(20))
///             .fault(Fault::Drop),
///     )
///     .rule(Rule::new(Kind::Revoke).fault(unsupported))
///     .rule(Rule::new(Kind::Exchange).fault(Fault::ExpiresIn("3600".into())))
///     .rule(Rule::new(Kind::Any).delay(Duration::from_millis(5)));
/// assert_eq!(script, same);
/// # Ok::<(), serde_json::Error>(())
/// ```
/// The keys of a rule. All are optional; unknown keys are rejected:
///
/// | key | value | default |
/// |---|---|---|
/// | `on` | a [`Kind`]: `"grant"`, `"exchange"`, `"revoke"`, `"introspect"`, `"discovery"`, `"resource"`, `"any"` | `"any"` |
/// | `requests` | `[first, last]`: which requests of that kind, counted from 1, both included | all |
/// | `from`, `until` | durations such as `"1s"`: requests that arrive from then on, and before then | always |
/// | `delay` | a duration by which the response is delayed, whether normal or a fault | none |
/// | `fault` | a [`Fault`] | a proper answer |
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    rules: Vec<Rule>,
}

impl Script {
    /// A script in which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule, for requests that no earlier rule matches.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Whether the authority's clocks can count to each of its times.
    pub(super) fn times_are_kept(&self) -> bool {
        self.rules.iter().all(|rule| {
            let answer = match &rule.fault {
                Some(Fault::Answer(answer)) => [answer.retry_after, answer.retry_after_date],
                _ => [None; 2],
            };
            let times = [Some(rule.from), rule.until, Some(rule.delay)];
            times.into_iter().chain(answer).flatten().all(|time| time <= LONGEST)
        })
    }

    /// The rule for a request that is the `number(kind)`th of its kind, `since` the script was set.
    pub(super) fn find(
        &self,
        kind: Kind,
        number: impl Fn(Kind) -> u64,
        since: Duration,
    ) -> Option<&Rule> {
        self.rules.iter().find(|rule| {
            rule.on.covers(kind)
                && rule.requests.as_ref().is_none_or(|wanted| wanted.contains(&number(rule.on)))
                && rule.from <= since
                && rule.until.is_none_or(|until| since < until)
        })
    }
}

/// Which requests, and what happens to them: by itself every request, and nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default)]
    on: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "numbers")]
    requests: Option<RangeInclusive<u64>>,
    #[serde(default, skip_serializing_if = "Duration::is_zero", with = "duration")]
    from: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_duration")]
    until: Option<Duration>,
    #[serde(default, skip_serializing_if = "Duration::is_zero", with = "duration")]
    pub(super) delay: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
}

impl Rule {
    /// A rule for all requests of this kind.
    pub fn new(on: Kind) -> Self {
        Self {
            on,
            requests: None,
            from: Duration::ZERO,
            until: None,
            delay: Duration::ZERO,
            fault: None,
        }
    }

    /// Only for these requests of the rule's kind, counted from 1.
    #[must_use]
    pub fn requests(mut self, numbers: RangeInclusive<u64>) -> Self {
        self.requests = Some(numbers);
        self
    }

    /// Only for requests that arrive when the script is at least this old.
    #[must_use]
    pub fn from(mut self, age: Duration) -> Self {
        self.from = age;
        self
    }

    /// Only for requests that arrive before the script is this old.
    #[must_use]
    pub fn until(mut self, age: Duration) -> Self {
        self.until = Some(age);
        self
    }

    /// Delays the response. The request itself is processed on arrival.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// What goes wrong.
    #[must_use]
    pub fn fault(mut self, fault: impl Into<Fault>) -> Self {
        self.fault = Some(fault.into());
        self
    }
}

/// What goes wrong with one request. In JSON the name in snake case: `"drop"`, `{ "expires_in": null }`,
/// `{ "answer": { "status": 503 } }`.
///
/// Faults that *replace* the normal response prevent the request from being processed: no token is issued or
/// revoked. Faults that *modify* the response take effect after the request has been processed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// Instead: this answer.
    Answer(Answer),
    /// Instead: the connection is closed without a byte.
    Drop,
    /// Instead: no answer, ever, on a connection that stays open.
    Hang,
    /// Instead: status 200 and truncated JSON (with a correct `Content-Length`).
    Malformed,
    /// Instead: status 200 and an HTML page, as sent by captive portals and proxies.
    Html,
    /// The answer is cut short: half of the body that `Content-Length` promises, then the connection is
    /// closed.
    Cut,
    /// A token is issued, and the response's `expires_in` is this JSON value: a string, `null`, a negative
    /// number. The token's actual lifetime does not change. Grants and exchanges only.
    ExpiresIn(Value),
    /// A token is issued, and the answer has no `expires_in`. Grants and exchanges only.
    NoExpiresIn,
    /// The last token of the same kind is returned again, with its remaining lifetime, even if it has expired
    /// or was revoked. If there is none yet, a new one is issued. Grants and exchanges only.
    SameToken,
}

impl From<Answer> for Fault {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// A custom response. In JSON: `status` and, optionally, `error`, `body`, `headers` (each with a value or a
/// list of values), `retry_after`, `retry_after_date`.
///
/// ```
/// use ccg_session::testing::Answer;
///
/// let moved: Answer =
///     serde_json::from_str(r#"{ "status": 301, "headers": { "location": "/oauth2/token/" } }"#)?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    #[serde(with = "status")]
    pub(super) status: StatusCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<String>,
    #[serde(default, skip_serializing_if = "HeaderMap::is_empty", with = "headers")]
    pub(super) headers: HeaderMap,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub(super) retry_after: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub(super) retry_after_date: Option<Duration>,
}

impl Answer {
    /// An answer with this status, 200 or above, and an empty body.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            error: None,
            body: None,
            headers: HeaderMap::new(),
            retry_after: None,
            retry_after_date: None,
        }
    }

    /// An OAuth error (RFC 6749 §5.2) as the body, unless [`body`](Self::body) gives another.
    #[must_use]
    pub fn error(mut self, code: impl Into<String>) -> Self {
        self.error = Some(code.into());
        self
    }

    /// This body, sent as `application/json` unless [`header`](Self::header) says otherwise.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// `Retry-After` in seconds, rounded up (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// `Retry-After` as a date, this far in the future when the response is sent (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after_date(mut self, wait: Duration) -> Self {
        self.retry_after_date = Some(wait);
        self
    }
}

/// `[first, last]`.
mod numbers {
    use std::ops::RangeInclusive;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde hands the field over as it is")]
    pub(super) fn serialize<S: Serializer>(
        numbers: &Option<RangeInclusive<u64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        numbers.as_ref().map(|range| [*range.start(), *range.end()]).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<RangeInclusive<u64>>, D::Error> {
        let [first, last] = <[u64; 2]>::deserialize(deserializer)?;
        if first == 0 || last < first {
            return Err(D::Error::custom(format!(
                "\"requests\" is [{first}, {last}], but must be the first and the last request, \
                 counted from 1"
            )));
        }
        Ok(Some(first..=last))
    }
}

mod optional_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use crate::config::duration;

    #[expect(clippy::ref_option, reason = "serde hands the field over as it is")]
    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }
}

mod status {
    use http::StatusCode;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    pub(super) fn serialize<S: Serializer>(
        status: &StatusCode,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(status.as_u16())
    }

    /// Not below 200: what those announce would have to follow.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<StatusCode, D::Error> {
        let code = u16::deserialize(deserializer)?;
        StatusCode::from_u16(code).ok().filter(|status| !status.is_informational()).ok_or_else(
            || D::Error::custom(format!("\"status\" is {code}, but must be from 200 to 999")),
        )
    }
}

/// A name may have several values: then they are a list.
mod headers {
    use std::collections::BTreeMap;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged, expecting = "the value of a header must be a string, or a list of them")]
    enum Values {
        One(String),
        Several(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(
        headers: &HeaderMap,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut named = BTreeMap::new();
        for name in headers.keys() {
            let values = headers.get_all(name).iter().map(|value| {
                String::from_utf8(value.as_bytes().to_vec()).map_err(|_| {
                    ser::Error::custom(format!("the value of {name} is no text: {value:?}"))
                })
            });
            let mut values = values.collect::<Result<Vec<_>, _>>()?;
            let values = match values.len() {
                1 => Values::One(values.remove(0)),
                _ => Values::Several(values),
            };
            named.insert(name.as_str(), values);
        }
        named.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HeaderMap, D::Error> {
        let refused = |error: http::Error| de::Error::custom(format!("\"headers\": {error}"));
        let mut headers = HeaderMap::new();
        for (name, values) in BTreeMap::<String, Values>::deserialize(deserializer)? {
            let name = HeaderName::try_from(name).map_err(|error| refused(error.into()))?;
            let values = match values {
                Values::One(value) => vec![value],
                Values::Several(values) => values,
            };
            for value in values {
                let value = HeaderValue::try_from(value).map_err(|error| refused(error.into()))?;
                headers.append(&name, value);
            }
        }
        Ok(headers)
    }
}
