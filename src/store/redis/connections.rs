//! The connections that calls share, one to each server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, Value,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::{Address, Servers, User};
use super::script::Script;
use crate::store::contract::{Slot, StoreError};
use crate::store::fleet::locked;

const CONNECT: Duration = Duration::from_secs(5);
pub(super) const PONG: Duration = Duration::from_secs(2);

pub(super) struct Redis {
    pub(super) servers: Servers,
    pub(super) user: User,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The connections that there are, or that are being opened.
    pub(super) open: Mutex<HashMap<Address, Opening>>,
    /// Of sentinels the master, and of a cluster who has which hash slots, as far as that is known.
    pub(super) masters: Mutex<Vec<(u16, Address)>>,
}

pub(super) type Opening = watch::Receiver<Option<Result<MultiplexedConnection, StoreError>>>;

impl Redis {
    /// With RESP3 what is published arrives beside the answers.
    pub(super) fn info(
        &self,
        is_of_master: bool,
        protocol: ProtocolVersion,
    ) -> RedisConnectionInfo {
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

    pub(super) async fn dial(
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
    pub(super) async fn connection(
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
    pub(super) fn forget(&self, address: &Address, opening: &Opening) {
        let mut open = locked(&self.open);
        if open.get(address).is_some_and(|there| there.same_channel(opening)) {
            open.remove(address);
        }
        drop(open);
        locked(&self.masters).clear();
    }

    /// Runs a script on the server that has the slot; once more where another has it, or where the connection
    /// was lost, as one that was idle may have been for long. To be done twice harms none of the scripts.
    pub(super) async fn run(
        self: &Arc<Self>,
        slot: &Slot,
        script: &Script<'_>,
    ) -> Result<Value, StoreError> {
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

pub(super) fn error_of(error: &RedisError) -> StoreError {
    if error.is_timeout() {
        StoreError::TimedOut
    } else if is_broken(error) || error.kind() == ErrorKind::AuthenticationFailed {
        StoreError::unreachable(error.to_string())
    } else {
        StoreError::refused(error.to_string())
    }
}
