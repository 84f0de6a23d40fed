//! What the authority saw: numbers by kind, and the requests themselves.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

/// What a request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// `POST /oauth2/token`, of any grant type but an exchange's.
    Grant,
    /// `POST /oauth2/token` with the grant type of RFC 8693.
    Exchange,
    /// `POST /oauth2/revoke` (RFC 7009).
    Revoke,
    /// `POST /oauth2/introspect` (RFC 7662).
    Introspect,
    /// `GET /.well-known/oauth-authorization-server` (RFC 8414).
    Discovery,
    /// `GET /2.0/users/me`.
    Resource,
    /// All of them.
    #[default]
    Any,
}

impl Kind {
    pub(super) fn covers(self, other: Self) -> bool {
        self == Self::Any || self == other
    }
}

/// Counts of received requests by kind, whatever their outcome, and of their results.
///
/// A request is counted when it has been received completely. Requests with an unknown path or method are not
/// counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Requests for a token, without exchanges.
    pub grants: u64,
    /// Token exchanges.
    pub exchanges: u64,
    /// Revocations.
    pub revocations: u64,
    /// Introspections.
    pub introspections: u64,
    /// Requests for the metadata.
    pub discoveries: u64,
    /// Requests for the resource.
    pub resource: u64,
    /// Tokens issued, by grants and exchanges.
    pub tokens_issued: u64,
    /// Responses currently held by a [`Gate`](super::Gate).
    pub held: u64,
    /// Grant requests that have been received and not yet answered. A request ends when its client disconnects.
    pub grants_in_flight: u64,
    /// The most that [`grants_in_flight`](Self::grants_in_flight) ever was.
    pub grants_in_flight_max: u64,
}

impl Counts {
    /// How many requests of this kind arrived.
    pub fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Grant => self.grants,
            Kind::Exchange => self.exchanges,
            Kind::Revoke => self.revocations,
            Kind::Introspect => self.introspections,
            Kind::Discovery => self.discoveries,
            Kind::Resource => self.resource,
            Kind::Any => {
                self.grants
                    + self.exchanges
                    + self.revocations
                    + self.introspections
                    + self.discoveries
                    + self.resource
            }
        }
    }

    pub(super) fn arrived(&mut self, kind: Kind) {
        match kind {
            Kind::Grant => {
                self.grants += 1;
                self.grants_in_flight += 1;
                self.grants_in_flight_max = self.grants_in_flight_max.max(self.grants_in_flight);
            }
            Kind::Exchange => self.exchanges += 1,
            Kind::Revoke => self.revocations += 1,
            Kind::Introspect => self.introspections += 1,
            Kind::Discovery => self.discoveries += 1,
            Kind::Resource => self.resource += 1,
            Kind::Any => {} // No request is of this kind.
        }
    }
}

/// What keeping a pair takes besides its text, in bytes: two strings, and as much again for what the
/// allocator keeps of them.
const PAIR: usize = 96;

/// A request as it arrived. Its fields hold secrets in clear; its `Debug` does not show them.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// What it is for.
    pub kind: Kind,
    /// When it had arrived, on the clock of [`Authority::elapsed`](super::Authority::elapsed).
    pub at: Duration,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// The pairs of its form, in the order sent, or of its query if it has no form.
    pub form: Vec<(String, String)>,
    /// Whether the client presented a certificate that was accepted.
    pub(super) is_certified: bool,
}

impl ReceivedRequest {
    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let pair = |name: &str, value: &[u8]| PAIR + name.len() + value.len();
        let form = self.form.iter().map(|(name, value)| pair(name, value.as_bytes()));
        let headers =
            self.headers.iter().map(|(name, value)| pair(name.as_str(), value.as_bytes()));
        PAIR + self.path.len() + form.chain(headers).sum::<usize>()
    }

    /// The first value of this form parameter. A parameter without a value counts as absent (RFC 6749 §3.1).
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params(name).next()
    }

    /// All values of this form parameter, such as `resource`.
    pub fn params<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.form
            .iter()
            .filter(move |(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for ReceivedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECRET: [&str; 5] =
            ["client_secret", "client_assertion", "token", "subject_token", "actor_token"];
        let form: Vec<(&str, &str)> = self
            .form
            .iter()
            .map(|(name, value)| {
                let secret = SECRET.contains(&name.as_str());
                (name.as_str(), if secret { "[redacted]" } else { value.as_str() })
            })
            .collect();
        f.debug_struct("ReceivedRequest")
            .field("kind", &self.kind)
            .field("at", &self.at)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers) // Authorization is marked sensitive.
            .field("form", &form)
            .field("is_certified", &self.is_certified)
            .finish()
    }
}
