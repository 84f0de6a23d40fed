//! What is published: on a connection of its own, so that it waits for no answer.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind, cmd};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::address::Servers;
use super::answer::text;
use super::connections::{PONG, Redis, error_of};
use crate::store::contract::{Heard, Record, Slot, StoreError};

const PING_EACH: Duration = Duration::from_secs(10);

pub(super) struct Listening {
    connection: MultiplexedConnection,
    pushed: mpsc::UnboundedReceiver<PushInfo>,
}

impl Redis {
    /// A connection of its own, so that what is told waits for no answer.
    pub(super) async fn listen(self: &Arc<Self>, namespace: &str) -> Result<Listening, StoreError> {
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

impl Listening {
    /// `None` when the connection is lost.
    pub(super) async fn next(&mut self, namespace: &str) -> Option<Heard> {
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
