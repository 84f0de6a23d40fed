//! A server of Redis, an authority whose tokens live for ten minutes, and replicas between the two.

use ccg_session::testing::Authority;

use crate::fleets::{address, authority};
use crate::replica::{Local, Login};
use crate::secs;
use crate::server::{Server, is_absent};

pub(crate) struct OverRedis {
    pub(crate) server: Server,
    pub(crate) authority: Authority,
    pub(crate) login: Login,
}

impl OverRedis {
    /// `None` where there is no Redis.
    pub(crate) async fn start() -> Option<Self> {
        if is_absent() {
            return None;
        }
        let (server, authority) = (Server::start(&[]), authority(secs(600)).await);
        let login = Login::at(&authority);
        Some(Self { server, authority, login })
    }

    pub(crate) fn replica(&self) -> Local {
        Local::new(&address(&self.server), &self.login)
    }

    pub(crate) fn slotted(&self, slot: &str) -> Local {
        Local::slotted(&address(&self.server), &self.login, slot)
    }

    /// Two that share a token.
    pub(crate) async fn two(&self) -> ([Local; 2], String) {
        let [one, other] = [self.replica(), self.replica()];
        let token = one.token().await;
        assert_eq!(other.token().await, token);
        ([one, other], token)
    }
}
