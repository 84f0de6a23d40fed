//! Building and spawning a session.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::{Attempts, SessionActor, abilities_of};
use crate::config::SessionConfig;
use crate::error::ConfigError;
use crate::foreign::guarded;
use crate::handle::SessionHandle;
#[cfg(feature = "http")]
use crate::http::{Credential, HttpTokenManager, Provider, Subject};
use crate::machine::Machine;
use crate::manager::TokenManager;
use crate::news::Queue;
use crate::snapshot::Publisher;
use crate::token::next_session;

/// The entry point: [`Session::builder`], or [`Session::box_ccg`] for Box.
#[derive(Debug)]
#[doc(alias = "CCGSession")]
#[doc(alias = "BoxSDKNode")]
pub struct Session {
    _private: (),
}

impl Session {
    /// A session whose tokens come from `manager`.
    pub fn builder<M: TokenManager>(manager: M) -> SessionBuilder<M> {
        SessionBuilder {
            manager,
            config: SessionConfig::default(),
            seed: None,
            #[cfg(feature = "metrics")]
            name: crate::metrics::DEFAULT_NAME.into(),
        }
    }

    /// A session for Box, with the Client Credentials Grant: see
    /// <https://developer.box.com/guides/authentication/client-credentials/>.
    ///
    /// ```no_run
    /// use ccg_session::{Session, Subject};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let secret = std::env::var("BOX_CLIENT_SECRET")?;
    /// let session = Session::box_ccg(Subject::enterprise("12345"), "client-id", secret)?.spawn()?;
    /// let token = session.get_token().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the subject, the client id or the secret is empty, or the secret's environment variable not
    /// set.
    #[cfg(feature = "http")]
    pub fn box_ccg(
        subject: Subject,
        client_id: impl Into<String>,
        client_secret: impl Into<Credential>,
    ) -> Result<SessionBuilder<HttpTokenManager>, ConfigError> {
        let provider = Provider::box_ccg(subject);
        Ok(Self::builder(HttpTokenManager::builder(provider, client_id, client_secret).build()?))
    }
}

/// Configures a session. Finish with [`spawn`](Self::spawn), [`spawn_on`](Self::spawn_on) or
/// [`spawn_thread`](Self::spawn_thread).
#[derive(Debug)]
#[must_use = "nothing runs before one of the spawn methods is called"]
pub struct SessionBuilder<M> {
    manager: M,
    config: SessionConfig,
    seed: Option<u64>,
    #[cfg(feature = "metrics")]
    name: Arc<str>,
}

impl<M: TokenManager> SessionBuilder<M> {
    /// How the session behaves. Default: [`SessionConfig::default`].
    pub fn config(mut self, config: SessionConfig) -> Self {
        self.config = config;
        self
    }

    /// Seeds the random generator for the jitter of refreshes and retries, so that a run can be reproduced.
    /// Default: a different seed for each session.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The value of the label `session` in its [metrics](crate::metrics). Sessions may share a name. Default:
    /// `"default"`.
    #[cfg(feature = "metrics")]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    #[cfg(all(feature = "metrics", feature = "pool"))]
    pub(crate) fn shared_name(mut self, name: Arc<str>) -> Self {
        self.name = name;
        self
    }

    /// The same session by another manager.
    #[cfg(feature = "pool")]
    pub(crate) fn wrap<N>(self, wrap: impl FnOnce(M) -> N) -> SessionBuilder<N> {
        SessionBuilder {
            manager: wrap(self.manager),
            config: self.config,
            seed: self.seed,
            #[cfg(feature = "metrics")]
            name: self.name,
        }
    }

    /// Starts the session in the current tokio runtime, whose timer must be enabled, and its I/O for
    /// [`HttpTokenManager`](crate::HttpTokenManager): `enable_all`, as `#[tokio::main]` does. It ends with
    /// its last handle, with [`shutdown`](SessionHandle::shutdown), or with the runtime.
    ///
    /// # Errors
    /// If there is no current runtime, it has no timer, or the [configuration](Self::config) is invalid.
    pub fn spawn(self) -> Result<SessionHandle, ConfigError> {
        let runtime = Handle::try_current().map_err(|_| {
            ConfigError::new(
                "spawn",
                "was called outside a tokio runtime: call it inside one, or use spawn_on or \
                 spawn_thread",
            )
        })?;
        self.spawn_on(&runtime)
    }

    /// Like [`spawn`](Self::spawn), but in the given tokio runtime. Can be called from any thread.
    ///
    /// # Errors
    /// If the runtime has no timer, or the configuration is invalid.
    pub fn spawn_on(self, runtime: &Handle) -> Result<SessionHandle, ConfigError> {
        if !has_timer(runtime) {
            return Err(ConfigError::new(
                "runtime",
                "has no timer, so the session could not wait: build it with enable_all, or use \
                 spawn_thread",
            ));
        }
        let task = TaskTracker::new();
        let (actor, handle) = self.build(&task, runtime)?;
        task.spawn_on(actor.run(), runtime);
        Ok(handle)
    }

    /// Starts the session on a dedicated thread, so that its handles work anywhere: in a `static`, in
    /// synchronous code, on another executor. The thread ends with the session.
    ///
    /// ```
    /// use std::sync::LazyLock;
    /// use ccg_session::{Session, SessionHandle};
    /// # struct Manager;
    /// # impl ccg_session::TokenManager for Manager {
    /// #     async fn grant(&self, _: ccg_session::GrantRequest) -> Result<ccg_session::Grant, ccg_session::TokenError> {
    /// #         ccg_session::Grant::bearer("a-token")
    /// #     }
    /// # }
    ///
    /// static SESSION: LazyLock<SessionHandle> =
    ///     LazyLock::new(|| Session::builder(Manager).spawn_thread().expect("valid configuration"));
    ///
    /// assert_eq!(SESSION.blocking_get_token()?.secret(), "a-token");
    /// # Ok::<(), ccg_session::SessionError>(())
    /// ```
    ///
    /// # Errors
    /// If the configuration is invalid, or the thread cannot be spawned.
    pub fn spawn_thread(self) -> Result<SessionHandle, ConfigError> {
        let task = TaskTracker::new();
        let refused = |error: std::io::Error| {
            ConfigError::new("spawn_thread", format!("was refused by the system: {error}"))
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (actor, handle) = match self.build(&task, runtime.handle()) {
            Ok(built) => built,
            Err(error) => {
                // Dropped within another runtime it would panic.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        std::thread::Builder::new()
            .name("ccg-session".into())
            .spawn(move || runtime.block_on(task.track_future(actor.run())))
            .map_err(refused)?;
        Ok(handle)
    }

    fn build(
        self,
        task: &TaskTracker,
        runtime: &Handle,
    ) -> Result<(Box<SessionActor<M>>, SessionHandle), ConfigError> {
        self.config.check()?;
        let manager = Arc::new(self.manager);
        let news = Arc::new(Queue::default());
        let abilities = guarded(|| {
            let _inside = runtime.enter();
            manager.check(&self.config)?;
            manager.attach(news.sender());
            Ok(abilities_of(&*manager))
        });
        let abilities = abilities.unwrap_or_else(|| {
            Err(ConfigError::new("manager", "panicked when it was asked what it can do"))
        })?;
        let session = next_session();
        let max_held = self.config.max_held;
        let machine = Machine::new(self.config, abilities, session);
        let publisher = Publisher::new(machine.published().clone());
        let (sender, mailbox) = mpsc::unbounded_channel();
        let (status, shown) = watch::channel(machine.facts());
        let end = CancellationToken::new();
        // Nothing but the session's task will be tracked: whoever waits waits for its end.
        task.close();
        let reader = publisher.reader();
        let handle =
            SessionHandle::new(session, reader, sender, shown, end.clone(), task.clone(), max_held);
        let actor = SessionActor {
            machine,
            manager,
            mailbox,
            inbox: Vec::new(),
            publisher,
            status,
            end,
            random: self.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
            attempts: Attempts::default(),
            news: Some(news).filter(|news| !news.is_deserted()),
            has_heard: false,
            time_paused: false,
            #[cfg(feature = "metrics")]
            metrics: crate::metrics::Metrics::new(&self.name, session),
        };
        Ok((Box::new(actor), handle))
    }
}

/// tokio tells by a panic only; in the session's task that would be the end of it, at its first token.
fn has_timer(runtime: &Handle) -> bool {
    let _inside = runtime.enter();
    std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TokenError;
    use crate::grant::Grant;
    use crate::request::GrantRequest;

    struct Manager;

    impl TokenManager for Manager {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            Grant::bearer("a-token")
        }
    }

    /// Listens from the beginning.
    struct Listens;

    impl TokenManager for Listens {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            Grant::bearer("a-token")
        }

        fn attach(&self, news: crate::NewsSender) {
            tokio::spawn(async move { drop(news) });
        }
    }

    #[test]
    fn a_manager_is_attached_within_the_sessions_runtime() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Session::builder(Listens).spawn_on(runtime.handle()).unwrap();
        let session = Session::builder(Listens).spawn_thread().unwrap();
        assert_eq!(session.blocking_get_token().unwrap().secret(), "a-token");
    }

    #[tokio::test]
    async fn a_thread_that_is_refused_a_session_may_be_in_another_runtime() {
        let config = SessionConfig { max_held: 0, ..SessionConfig::default() };
        Session::builder(Listens).config(config).spawn_thread().unwrap_err();
    }

    #[test]
    fn a_runtime_without_a_timer_is_refused() {
        for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let spawn = |runtime: tokio::runtime::Runtime| {
                Session::builder(Manager).spawn_on(runtime.handle()).map(drop)
            };
            let error = spawn(builder.build().unwrap()).unwrap_err();
            assert_eq!(error.setting(), "runtime");
            assert!(error.to_string().contains("enable_all"), "{error}");
            spawn(builder.enable_time().build().unwrap()).unwrap();
        }
    }
}
