//! Sessions on real HTTP and in real time, against the embedded authority and against servers made here.
//! Runs with the feature `test-util` and without it, where the session has the clock that its users have.

mod allocations;
mod authority;
mod authority_itself;
mod authority_limits;
mod authority_proofs;
mod authority_tls;
mod certificates;
mod config;
mod dated;
mod discovery;
mod dpop;
mod echoes;
mod endless;
mod examples;
mod failures;
mod loopback;
#[cfg(not(feature = "test-util"))]
mod paused;
#[cfg(feature = "pool")]
mod pool;
mod profiles;
mod proxies;
#[path = "../session/recording.rs"]
mod recording;
mod rotation;
mod secrets;
mod subjects;
mod tls;
mod transport;
mod wire;
mod wrapped_manager;

use std::sync::LazyLock;
use std::time::Duration;

use ccg_session::{Session, SessionConfig, SessionHandle, TokenManager};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn session_of(
    manager: impl TokenManager,
    change: impl FnOnce(&mut SessionConfig),
) -> SessionHandle {
    let mut config = SessionConfig::default();
    change(&mut config);
    Session::builder(manager).config(config).seed(1).spawn().unwrap()
}

/// What uses tokens, or asks an authority behind the session's back. One for all: making one takes longer
/// than most of what is tested here. It keeps no connection, which might be another runtime's.
fn client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| client_with(|client| client));
    CLIENT.clone()
}

fn client_with(
    more: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Client {
    // With the feature http, reqwest is built without a provider of its own; a second installation
    // fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    more(builder.pool_max_idle_per_host(0)).build().unwrap()
}
