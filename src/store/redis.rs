//! A store in Redis or Valkey: five scripts, and a channel for what is revoked.
//!
//! Connections are opened here rather than by the crate `redis`: TLS is this crate's own, trusts what it
//! trusts elsewhere, and takes no provider from the process. A connection is opened in a task of its own, so
//! that a call which gives up leaves it to the next.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo,
    RedisError, Value, cmd,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use url::Url;

use super::contract::{
    Buried, Found, Heard, Id, LEASE, Record, Sealed, Slot, Store, StoreError, StoreTime, Taken,
    Want, hex,
};
use super::fleet::locked;
use super::{BURY, LEAVE, PUT, RENEW, TAKE, micros};
use crate::error::ConfigError;
use crate::http::crypto::library::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use crate::http::tls::Tls;

const CONNECT: Duration = Duration::from_secs(5);
const PING_EACH: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(2);
/// Between two attempts to listen: doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Of a cluster.
const HASH_SLOTS: u16 = 16_384;

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

struct Redis {
    servers: Servers,
    user: User,
    tls: Option<Arc<ClientConfig>>,
    /// The connections that there are, or that are being opened.
    open: Mutex<HashMap<Address, Opening>>,
    /// Of sentinels the master, and of a cluster who has which hash slots, as far as that is known.
    masters: Mutex<Vec<(u16, Address)>>,
}

/// Host and port.
type Address = (Arc<str>, u16);
type Opening = watch::Receiver<Option<Result<MultiplexedConnection, StoreError>>>;

#[derive(Debug)]
enum Servers {
    One(Address),
    Sentinels(Vec<Address>, String),
    Cluster(Vec<Address>),
}

#[derive(Default)]
struct User {
    name: Option<String>,
    password: Option<SecretString>,
    database: i64,
}

struct Listening {
    connection: MultiplexedConnection,
    pushed: mpsc::UnboundedReceiver<PushInfo>,
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
        let (is_tls, servers, user) = parsed(address.expose_secret())
            .map_err(|problem| ConfigError::new("store address", problem))?;
        let tls = Tls { roots, ..Tls::default() };
        let tls = is_tls.then(|| tls.config(true).map(Arc::new)).transpose()?;
        let (open, masters) = (Mutex::default(), Mutex::default());
        let redis = Arc::new(Redis { servers, user, tls, open, masters });
        Ok(RedisStore { redis, listening: Mutex::default() })
    }
}

/// Whether with TLS, and what else an address says. Whatever it looks like, no error has more of it than a
/// scheme: what seems to be a host may be half a password.
fn parsed(address: &str) -> Result<(bool, Servers, User), String> {
    let (scheme, rest) = address.split_once("://").ok_or_else(|| {
        "has no scheme, but must begin with \"redis://\" or \"rediss://\", say".to_owned()
    })?;
    let (user, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
    let unreadable = || "has a user or password that cannot be read: percent-encode it".to_owned();
    if user.contains(['/', '?', '#']) {
        return Err(unreadable());
    }
    if rest.contains(['?', '#']) {
        return Err("has a query or a fragment, and takes none: leave it out".into());
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (is_tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, kind),
        None => (false, scheme.strip_prefix("redis").unwrap_or("?")),
    };
    let usual = if kind == "+sentinel" { 26_379 } else { 6_379 };
    let addresses = hosts.split(',').map(|host| one_address(host, usual));
    let mut addresses = addresses.collect::<Option<Vec<_>>>().ok_or(
        "names a server that cannot be read: name each as host or host:port, after the last @",
    )?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let decode =
        |text: &str| (!text.is_empty()).then(|| decoded(text).ok_or_else(unreadable)).transpose();
    let mut user =
        User { name: decode(name)?, password: decode(password)?.map(Into::into), database: 0 };
    let servers = match kind {
        "" if addresses.len() == 1 => {
            if !path.is_empty() {
                let number = path.parse();
                user.database =
                    number.map_err(|_| "names a database that is no number: it is 0, say")?;
            }
            Servers::One(addresses.remove(0))
        }
        "" => return Err("names several servers: is it redis+sentinel: or redis-cluster:?".into()),
        "+sentinel" if path.is_empty() => {
            return Err("names no master: put its name at the end, after a slash".into());
        }
        "+sentinel" => Servers::Sentinels(addresses, path.into()),
        "-cluster" => Servers::Cluster(addresses),
        _ => {
            return Err(format!(
                "has the scheme {}, but must be redis, rediss, redis+sentinel, rediss+sentinel, \
                 redis-cluster or rediss-cluster",
                if scheme.bytes().all(|byte| byte.is_ascii_lowercase()) { scheme } else { "?" }
            ));
        }
    };
    Ok((is_tls, servers, user))
}

fn one_address(text: &str, usual_port: u16) -> Option<Address> {
    let url = Url::parse(&format!("redis://{text}")).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.into(), url.port().unwrap_or(usual_port)))
}

/// Percent-decoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

// Connections

impl Redis {
    /// With RESP3 what is published arrives beside the answers.
    fn info(&self, is_of_master: bool, protocol: ProtocolVersion) -> RedisConnectionInfo {
        let mut info =
            RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
        if is_of_master {
            info = info.set_db(self.user.database);
            if let Some(name) = &self.user.name {
                info = info.set_username(name);
            }
            if let Some(password) = &self.user.password {
                info = info.set_password(password.expose_secret());
            }
        }
        info
    }

    async fn dial(
        &self,
        address: &Address,
        info: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, StoreError> {
        let dial = async {
            let (host, port) = (&*address.0, address.1);
            let stream = TcpStream::connect((host, port)).await.map_err(StoreError::unreachable)?;
            stream.set_nodelay(true).map_err(StoreError::unreachable)?;
            let Some(tls) = &self.tls else {
                return opened(info, stream, config).await;
            };
            let name = ServerName::try_from(host.to_owned()).map_err(StoreError::unreachable)?;
            let connector = TlsConnector::from(Arc::clone(tls));
            let stream = connector.connect(name, stream).await.map_err(StoreError::unreachable)?;
            opened(info, stream, config).await
        };
        timeout(CONNECT, dial).await.unwrap_or(Err(StoreError::TimedOut))
    }

    /// The connection to this server: one, for whoever calls.
    async fn connection(
        self: &Arc<Self>,
        address: &Address,
        is_of_master: bool,
    ) -> Result<(MultiplexedConnection, Opening), StoreError> {
        let mut opening = {
            let mut open = locked(&self.open);
            let there = open.get(address).filter(|opening| is_of_use(opening)).cloned();
            there.unwrap_or_else(|| {
                let opening = self.open(address.clone(), is_of_master);
                open.insert(address.clone(), opening.clone());
                opening
            })
        };
        let opened = opening.wait_for(Option::is_some).await.ok().and_then(|opened| opened.clone());
        match opened {
            Some(Ok(connection)) => Ok((connection, opening)),
            failed => {
                self.forget(address, &opening);
                let lost = || StoreError::unreachable("the task that connects was lost");
                Err(failed.and_then(Result::err).unwrap_or_else(lost))
            }
        }
    }

    fn open(self: &Arc<Self>, address: Address, is_of_master: bool) -> Opening {
        let (answer, opening) = watch::channel(None);
        let redis = Arc::clone(self);
        tokio::spawn(async move {
            let info = redis.info(is_of_master, ProtocolVersion::RESP2);
            // The time of a call is its caller's.
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            answer.send_replace(Some(redis.dial(&address, &info, config).await));
        });
        opening
    }

    /// Of a connection that was of no use; not of one that has taken its place.
    fn forget(&self, address: &Address, opening: &Opening) {
        let mut open = locked(&self.open);
        if open.get(address).is_some_and(|there| there.same_channel(opening)) {
            open.remove(address);
        }
        drop(open);
        locked(&self.masters).clear();
    }

    /// Who has this slot.
    async fn address_of(self: &Arc<Self>, slot: &Slot) -> Result<Address, StoreError> {
        let hash_slot = hash_slot(format!("{}:{}", slot.namespace(), slot.name()).as_bytes());
        let known = || {
            let masters = locked(&self.masters);
            masters.iter().find(|(last, _)| hash_slot <= *last).map(|(_, address)| address.clone())
        };
        if let Servers::One(address) = &self.servers {
            return Ok(address.clone());
        }
        if let Some(address) = known() {
            return Ok(address);
        }
        let masters = self.find_masters().await?;
        *locked(&self.masters) = masters;
        known().ok_or_else(|| StoreError::refused(format!("nobody has the hash slot {hash_slot}")))
    }

    /// By the last of the hash slots that each has. All are asked at once, since some may never answer.
    async fn find_masters(self: &Arc<Self>) -> Result<Vec<(u16, Address)>, StoreError> {
        let mut last = StoreError::unreachable("it has no address");
        let asked = match &self.servers {
            Servers::One(address) => return Ok(vec![(HASH_SLOTS, address.clone())]),
            Servers::Sentinels(addresses, _) | Servers::Cluster(addresses) => addresses,
        };
        let mut answers = JoinSet::new();
        for address in asked.clone() {
            let redis = Arc::clone(self);
            answers.spawn(async move { redis.ask_for_masters(&address).await });
        }
        while let Some(answer) = answers.join_next().await {
            match answer {
                Ok(Ok(masters)) => return Ok(masters),
                Ok(Err(error)) => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    async fn ask_for_masters(
        self: &Arc<Self>,
        address: &Address,
    ) -> Result<Vec<(u16, Address)>, StoreError> {
        let (is_cluster, question) = match &self.servers {
            Servers::Sentinels(_, master) => {
                (false, cmd("SENTINEL").arg("get-master-addr-by-name").arg(master).to_owned())
            }
            _ => (true, cmd("CLUSTER").arg("SLOTS").to_owned()),
        };
        let (mut connection, opening) = self.connection(address, is_cluster).await?;
        let forget = |error| {
            self.forget(address, &opening);
            error
        };
        let answer = timeout(PONG, connection.send_packed_command(&question)).await;
        let answer = answer.map_err(|_| forget(StoreError::TimedOut))?;
        let answer = answer.map_err(|error| forget(error_of(&error)))?;
        let masters = if is_cluster { ranges(&answer, &address.0) } else { master(&answer) };
        masters.ok_or_else(|| forget(StoreError::refused("it does not know the master")))
    }

    /// Runs a script on the server that has the slot; once more where another has it, or where the connection
    /// was lost, as one that was idle may have been for long. To be done twice harms none of the scripts.
    async fn run(self: &Arc<Self>, slot: &Slot, script: &Script<'_>) -> Result<Value, StoreError> {
        let mut address = self.address_of(slot).await?;
        for is_last in [false, true] {
            let (mut connection, opening) = self.connection(&address, true).await?;
            // A connection that does not answer in time may be dead without knowing it.
            let mut given_up = GivenUp { redis: self, used: Some((&address, &opening)) };
            let result = script.run(&mut connection).await;
            given_up.used = None;
            drop(given_up);
            let error = match result {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // Read-only: it was the master.
            let is_lost = is_broken(&error) || error.code() == Some("READONLY");
            if is_lost {
                self.forget(&address, &opening);
            }
            address = match error.redirect_node().filter(|_| error.code() == Some("MOVED")) {
                _ if is_last => return Err(error_of(&error)),
                _ if is_lost => self.address_of(slot).await?,
                Some((host, port)) => {
                    locked(&self.masters).clear();
                    let host = if host.is_empty() { Arc::clone(&address.0) } else { host.into() };
                    (host, port)
                }
                None => return Err(error_of(&error)),
            };
        }
        Err(StoreError::refused("it sends from one server to the next"))
    }

    /// A connection of its own, so that what is told waits for no answer.
    async fn listen(self: &Arc<Self>, namespace: &str) -> Result<Listening, StoreError> {
        let address = match &self.servers {
            Servers::One(address) => address.clone(),
            Servers::Sentinels(..) | Servers::Cluster(_) => {
                let masters = self.find_masters().await?;
                let chosen = fastrand::usize(..masters.len().max(1));
                masters.into_iter().nth(chosen).ok_or(StoreError::TimedOut)?.1
            }
        };
        let (tell, pushed) = mpsc::unbounded_channel();
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(PONG)).set_push_sender(tell);
        let info = self.info(true, ProtocolVersion::RESP3);
        let mut connection = self.dial(&address, &info, config).await?;
        connection
            .subscribe(format!("{namespace}:news"))
            .await
            .map_err(|error| error_of(&error))?;
        Ok(Listening { connection, pushed })
    }
}

/// Dropped with a connection, as when a call is given up, it forgets that.
struct GivenUp<'a> {
    redis: &'a Redis,
    used: Option<(&'a Address, &'a Opening)>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some((address, opening)) = self.used {
            self.redis.forget(address, opening);
        }
    }
}

/// Unless it has failed, or the task that opens it was lost with its runtime.
fn is_of_use(opening: &Opening) -> bool {
    match &*opening.borrow() {
        Some(opened) => opened.is_ok(),
        None => opening.has_changed().is_ok(),
    }
}

async fn opened<C>(
    info: &RedisConnectionInfo,
    stream: C,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, StoreError>
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let opened = MultiplexedConnection::new_with_config(info, stream, config).await;
    let (connection, driver) = opened.map_err(StoreError::unreachable)?;
    tokio::spawn(driver);
    Ok(connection)
}

/// Whether the connection is of no more use.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

fn error_of(error: &RedisError) -> StoreError {
    if error.is_timeout() {
        StoreError::TimedOut
    } else if is_broken(error) || error.kind() == ErrorKind::AuthenticationFailed {
        StoreError::unreachable(error.to_string())
    } else {
        StoreError::refused(error.to_string())
    }
}

// Answers

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => std::str::from_utf8(text(other)?).ok()?.parse().ok(),
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// Of `SENTINEL get-master-addr-by-name`.
fn master(answer: &Value) -> Option<Vec<(u16, Address)>> {
    let [host, port] = list(answer)? else { return None };
    let address =
        (std::str::from_utf8(text(host)?).ok()?.into(), u16::try_from(number(port)?).ok()?);
    Some(vec![(HASH_SLOTS, address)])
}

/// Of `CLUSTER SLOTS`. An empty host is the one that was asked.
fn ranges(answer: &Value, asked: &Arc<str>) -> Option<Vec<(u16, Address)>> {
    let range = |range: &Value| {
        let [_, last, master, ..] = list(range)? else { return None };
        let [host, port, ..] = list(master)? else { return None };
        let host = std::str::from_utf8(text(host)?).ok()?;
        let host = if host.is_empty() { Arc::clone(asked) } else { host.into() };
        let port = u16::try_from(number(port)?).ok()?;
        Some((u16::try_from(number(last)?).ok()?, (host, port)))
    };
    let mut ranges = list(answer)?.iter().map(range).collect::<Option<Vec<_>>>()?;
    ranges.sort();
    Some(ranges)
}

/// Of the part of a key that is in braces: CRC16/XMODEM.
fn hash_slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    crc % HASH_SLOTS
}

fn misread() -> StoreError {
    StoreError::refused("its answer made no sense")
}

/// A script, and the name that the server has for it.
struct Body {
    text: &'static str,
    sha: LazyLock<String>,
}

macro_rules! bodies {
    ($($name:ident: $text:ident;)*) => {
        $(static $name: Body = Body { text: $text, sha: LazyLock::new(|| sha_of($text)) };)*
    };
}

bodies! {
    TAKING: TAKE;
    PUTTING: PUT;
    RENEWING: RENEW;
    LEAVING: LEAVE;
    BURYING: BURY;
}

fn sha_of(text: &str) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// One run of a script.
struct Script<'a> {
    body: &'static Body,
    keys: Vec<String>,
    args: Vec<&'a [u8]>,
}

impl<'a> Script<'a> {
    fn new(body: &'static Body, slot: &Slot, keys: &str, args: Vec<&'a [u8]>) -> Self {
        let slot = format!("{{{}:{}}}", slot.namespace(), slot.name());
        let key = |which| format!("{slot}{which}");
        Self { body, keys: keys.chars().map(key).collect(), args }
    }

    async fn run(&self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        let mut command = cmd("EVALSHA");
        command.arg(&*self.body.sha).arg(self.keys.len()).arg(&self.keys);
        for arg in &self.args {
            command.arg(*arg);
        }
        let result = connection.send_packed_command(&command).await.and_then(Value::extract_error);
        match result {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let load = cmd("SCRIPT").arg("LOAD").arg(self.body.text).to_owned();
                connection.send_packed_command(&load).await?.extract_error()?;
                connection.send_packed_command(&command).await?.extract_error()
            }
            result => result,
        }
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

impl Listening {
    /// `None` when the connection is lost.
    async fn next(&mut self, namespace: &str) -> Option<Heard> {
        loop {
            let Ok(pushed) = timeout(PING_EACH, self.pushed.recv()).await else {
                timeout(PONG, self.connection.send_packed_command(&cmd("PING")))
                    .await
                    .ok()?
                    .ok()?;
                continue;
            };
            let PushInfo { kind, data } = pushed?;
            match kind {
                PushKind::Disconnection => return None,
                PushKind::Message => {}
                _ => continue,
            }
            // What is no notice of ours is nobody's.
            let told = data.last().and_then(text).and_then(|told| told.split_at_checked(16));
            if let Some((id, record)) = told
                && let (Ok(id), Ok(record)) = (id.try_into(), record.try_into())
            {
                return Some(Heard::Notice(Slot::new(namespace, id), Record(record)));
            }
        }
    }
}

fn bytes(id: Option<&Id>) -> &[u8] {
    id.map_or(&[], |id| &id.0)
}

fn taken(answer: Value) -> Option<Taken> {
    let Value::Array(answer) = answer else { return None };
    let [kind, secs, micros, revoked, more] = <[Value; 5]>::try_from(answer).ok()?;
    let (Value::BulkString(revoked), Value::BulkString(more)) = (revoked, more) else {
        return None;
    };
    let found = match text(&kind)? {
        b"entry" => Found::Entry(Sealed(more)),
        b"leased" => Found::Leased,
        b"busy" => Found::Busy(Id(more.try_into().ok()?)),
        b"none" => Found::None,
        _ => return None,
    };
    let now = number(&secs)?.checked_mul(1_000_000)?.checked_add(number(&micros)?)?;
    Some(Taken { now: StoreTime(now), revoked, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_the_servers_are_and_as_whom_to_come() {
        for (address, expected) in [
            ("redis://cache", "false One((\"cache\", 6379)) None None 0"),
            ("rediss://a:b@cache:1/3", "true One((\"cache\", 1)) Some(\"a\") Some(\"b\") 3"),
            ("redis://:p%40s%3as@[::1]", "false One((\"::1\", 6379)) None Some(\"p@s:s\") 0"),
            (
                "redis+sentinel://u:p@one,two:7/main",
                "false Sentinels([(\"one\", 26379), (\"two\", 7)], \"main\") Some(\"u\") Some(\"p\") 0",
            ),
            (
                "rediss-cluster://one,two",
                "true Cluster([(\"one\", 6379), (\"two\", 6379)]) None None 0",
            ),
        ] {
            let (is_tls, servers, user) = parsed(address).unwrap();
            let password = user.password.as_ref().map(ExposeSecret::expose_secret);
            let shown =
                format!("{is_tls} {servers:?} {:?} {password:?} {}", user.name, user.database);
            assert_eq!(shown, expected, "{address}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_its_password() {
        for (address, says) in [
            ("cache:6379", "has no scheme"),
            ("http://cache", "has the scheme http,"),
            ("redis://u:s3cret@one,two", "several servers"),
            ("redis+sentinel://u:s3cret@one", "names no master"),
            ("redis://u:s3cret@one/main", "a database that is no number"),
            ("redis://u:s3cret%zz@one", "percent-encode"),
            ("redis://u:s3cret@", "names a server that cannot be read"),
            ("redis://u:p/s3cret@one", "percent-encode"),
            ("redis://u:9/s3cret@one/0", "percent-encode"),
            ("redis://u:p?s3cret@one", "percent-encode"),
            ("redis://u:p#s3cret@one", "percent-encode"),
            ("u:s3cret@redis://one", "has the scheme ?,"),
            ("redis+s3cret://one", "has the scheme ?,"),
            ("redis://one/s3cret", "a database that is no number"),
            ("redis://one/0?password=s3cret", "has a query"),
            ("redis://one?password=s3cret", "has a query"),
            ("redis+sentinel://one/main?password=s3cret", "has a query"),
            ("redis://one#s3cret", "has a query or a fragment"),
            ("redis://u:s3cret", "names a server that cannot be read"),
            ("redis://one,u:s3cret", "names a server that cannot be read"),
            ("redis://u s3cret@:1", "names a server that cannot be read"),
            ("u:s3cret@one", "has no scheme"),
        ] {
            let error = RedisStore::connect(address).build().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        let store = RedisStore::connect("redis://u:s3cret@one").build().unwrap();
        assert_eq!(format!("{store:?}"), "RedisStore(One((\"one\", 6379)))");
    }

    /// The specification's own examples.
    #[test]
    fn hash_slots_are_those_of_the_servers() {
        assert_eq!(hash_slot(b"123456789"), 0x31C3 % HASH_SLOTS);
        assert_eq!(hash_slot(b"user1000"), 3443);
        assert_eq!(hash_slot(b""), 0);
    }
}
