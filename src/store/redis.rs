//! A store in Redis or Valkey: five scripts, and a channel for what is revoked.
//!
//! Connections are opened here rather than by the crate `redis`: TLS is this crate's own, trusts what it
//! trusts elsewhere, and takes no provider from the process. A connection is opened in a task of its own, so
//! that a call which gives up leaves it to the next.

mod address;
mod answer;
mod connections;
mod listening;
mod masters;
mod script;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Value;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::sleep;

use self::answer::{list, misread, number, text};
use self::connections::Redis;
use self::listening::Listening;
use self::script::{BURYING, LEAVING, PUTTING, RENEWING, Script, TAKING};
use super::contract::{
    Buried, Found, Heard, Id, LEASE, Record, Sealed, Slot, Store, StoreError, StoreTime, Taken,
    Want,
};
use super::fleet::locked;
use super::micros;
use crate::error::ConfigError;
use crate::http::tls::Tls;

/// Between two attempts to listen: doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the tokens of a [`Fleet`](crate::Fleet) in Redis 6.2 or later, or in Valkey 7.2 or later. Clones share their connections.
///
/// ```no_run
/// # fn main() -> Result<(), ccg_session::ConfigError> {
/// use ccg_session::{Credential, Fleet, RedisStore};
///
/// let store = RedisStore::connect("rediss://fleet:its-password@redis.example.com").build()?;
/// let fleet = Fleet::builder(store, Credential::file("/run/secrets/fleet-key"))
///     .namespace("payments")
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # Addresses
/// - `redis://user:password@host:6379/0`, or `rediss:` with TLS.
/// - `redis+sentinel://user:password@host:26379,host:26379/name-of-the-master`, or `rediss+sentinel:` for TLS
///   to both the master and the sentinels. User and password are the master's.
/// - `redis-cluster://user:password@host:6379,host:6379`, or `rediss-cluster:`.
///
/// # Rights
/// The rights that the user needs, here for the namespace `payments` (in a cluster also `+cluster|slots`):
///
/// ```text
/// ACL SETUSER fleet on >its-password resetkeys resetchannels -@all ~{payments:* &payments:news
///     +evalsha +script|load +time +getrange +get +set +del +pttl +pexpire +publish +subscribe
///     +unsubscribe +ping
/// ```
pub struct RedisStore {
    redis: Arc<Redis>,
    /// By namespace, between two calls of `heard`.
    listening: Mutex<HashMap<String, Listening>>,
}

/// How to build a [`RedisStore`].
pub struct RedisStoreBuilder {
    address: SecretString,
    roots: Vec<String>,
}

impl RedisStore {
    /// Connects to this address; for the forms see [above](Self#addresses).
    pub fn connect(address: impl Into<SecretString>) -> RedisStoreBuilder {
        RedisStoreBuilder { address: address.into(), roots: Vec::new() }
    }
}

/// Each listens by itself.
impl Clone for RedisStore {
    fn clone(&self) -> Self {
        Self { redis: Arc::clone(&self.redis), listening: Mutex::default() }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisStore").field(&self.redis.servers).finish()
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisStoreBuilder")
    }
}

impl RedisStoreBuilder {
    /// Trusts this PEM certificate in addition to the platform's.
    #[must_use]
    pub fn root_certificate(mut self, pem: impl Into<String>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Builds the store. Nothing is sent yet, so this succeeds even if Redis is down.
    ///
    /// # Errors
    /// If the address or a certificate is invalid.
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        let Self { address, roots } = self;
        let (is_tls, servers, user) = address::parsed(address.expose_secret())
            .map_err(|problem| ConfigError::new("store address", problem))?;
        let tls = Tls { roots, ..Tls::default() };
        let tls = is_tls.then(|| tls.config(true).map(Arc::new)).transpose()?;
        let (open, masters) = (Mutex::default(), Mutex::default());
        let redis = Arc::new(Redis { servers, user, tls, open, masters });
        Ok(RedisStore { redis, listening: Mutex::default() })
    }
}

impl RedisStore {
    async fn is_done(&self, slot: &Slot, script: Script<'_>) -> Result<bool, StoreError> {
        let done = self.redis.run(slot, &script).await?;
        Ok(number(&done).ok_or_else(misread)? == 1)
    }
}

impl Store for RedisStore {
    async fn take(&self, slot: &Slot, want: &Want<'_>) -> Result<Taken, StoreError> {
        let decimal = |number: u64| number.to_string().into_bytes();
        let lease_ms = decimal(micros(LEASE) / 1_000);
        let (least, buffer) = (decimal(micros(want.least_life)), decimal(micros(want.buffer)));
        let count = decimal(want.not.len() as u64);
        let (id, seen) = (bytes(want.lease), bytes(want.seen));
        let mut args = vec![id, &*lease_ms, &*least, &*buffer, seen, &*count];
        args.extend(want.not.iter().map(|not| &not[..]));
        let answer = self.redis.run(slot, &Script::new(&TAKING, slot, "elr", args)).await?;
        let mut taken = taken(answer).ok_or_else(misread)?;
        // It was done before the connection broke, and again after.
        if let (Found::Busy(holder), Some(id)) = (&taken.found, want.lease)
            && holder == id
        {
            taken.found = Found::Leased;
        }
        Ok(taken)
    }

    async fn put(&self, slot: &Slot, id: &Id, entry: &Sealed) -> Result<bool, StoreError> {
        self.is_done(slot, Script::new(&PUTTING, slot, "el", vec![&id.0, &entry.0])).await
    }

    async fn renew(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        let lease_ms = (micros(LEASE) / 1_000).to_string();
        self.is_done(slot, Script::new(&RENEWING, slot, "l", vec![&id.0, lease_ms.as_bytes()]))
            .await
    }

    async fn leave(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        self.is_done(slot, Script::new(&LEAVING, slot, "l", vec![&id.0])).await
    }

    async fn bury(&self, slot: &Slot, record: &Record) -> Result<Buried, StoreError> {
        let channel = format!("{}:news", slot.namespace());
        let notice = [&slot.id()[..], &record.0].concat();
        let args = vec![&record.0[..], channel.as_bytes(), &notice];
        let answer = self.redis.run(slot, &Script::new(&BURYING, slot, "elr", args)).await?;
        let [entry, lease] = list(&answer).ok_or_else(misread)? else { return Err(misread()) };
        let id = |value: &Value| text(value)?.try_into().ok().map(Id);
        Ok(Buried { entry: id(entry), lease: id(lease) })
    }

    /// Listens, and after each connection asks for a look, since something may have been missed.
    async fn heard(&self, namespace: &str) -> Heard {
        // Taken out while it is waited for: another namespace's may be waited for beside it.
        let known = locked(&self.listening).remove(namespace);
        let keep = |listener| drop(locked(&self.listening).insert(namespace.to_owned(), listener));
        if let Some(mut listener) = known
            && let Some(heard) = listener.next(namespace).await
        {
            keep(listener);
            return heard;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            if let Ok(listener) = self.redis.listen(namespace).await {
                keep(listener);
                return Heard::Look;
            }
            // What calls of the store meet is told where they are made.
            locked(&self.redis.masters).clear();
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

fn bytes(id: Option<&Id>) -> &[u8] {
    id.map_or(&[], |id| &id.0)
}

/// `None` if it is not what the script gives.
fn taken(answer: Value) -> Option<Taken> {
    let Value::BulkString(answer) = answer else { return None };
    let mut parts = answer.splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let now = number()?.checked_mul(1_000_000)?.checked_add(number()?)?;
    let (kind, rest) = parts.next()?.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (revoked, more) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let found = match kind {
        b'e' => Found::Entry(Sealed(more.to_vec())),
        b'l' => Found::Leased,
        b'b' => Found::Busy(Id(more.try_into().ok()?)),
        b'n' => Found::None,
        _ => return None,
    };
    Some(Taken { now: StoreTime(now), revoked: revoked.to_vec(), found })
}
