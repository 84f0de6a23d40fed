//! What the fleet is compared with: as many sessions by themselves, at a server of their own, at the same time.

use std::time::Duration;

use ccg_session::testing::Authority;
use ccg_session::{HttpTokenManager, Session, SessionHandle};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::failure::Failure;

/// Each as often as a single caller of theirs needs a token: more would not send more.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Singles {
    authority: Authority,
    /// Expensive to build, and cheap to clone.
    manager: HttpTokenManager,
    sessions: Vec<Option<Single>>,
}

struct Single {
    session: SessionHandle,
    caller: JoinHandle<()>,
}

impl Singles {
    pub(super) fn new(authority: Authority, count: usize) -> Result<Self, Failure> {
        let manager = authority.manager()?;
        Ok(Self { authority, manager, sessions: (0..count).map(|_| None).collect() })
    }

    pub(super) fn start(&mut self, number: usize) -> Result<(), Failure> {
        self.sessions[number] = Some(Single::start(self.manager.clone())?);
        Ok(())
    }

    pub(super) fn end(&mut self, number: usize) {
        self.sessions[number] = None;
    }

    pub(super) fn revoke(&self, number: usize) {
        if let Some(Single { session, .. }) = &self.sessions[number] {
            let session = session.clone();
            tokio::spawn(async move { session.revoke().await });
        }
    }

    pub(super) fn grants(&self) -> u64 {
        self.authority.counts().grants
    }
}

impl Single {
    fn start(manager: HttpTokenManager) -> Result<Self, Failure> {
        let session = Session::builder(manager).spawn()?;
        let calling = session.clone();
        let caller = tokio::spawn(async move {
            loop {
                let _ = calling.get_token().await;
                sleep(PAUSE).await;
            }
        });
        Ok(Self { session, caller })
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        self.caller.abort();
    }
}
