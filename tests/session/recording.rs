//! A subscriber for one test among others of its process.

use std::sync::LazyLock;

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Subscriber};

/// Tells `subscriber` what this thread does, until the guard is dropped.
///
/// As long as a process has had one subscriber only, `tracing` decides by the thread that comes to an event
/// first whether anybody wants it. A test beside this one, on a thread without a subscriber, would decide for
/// all of them that nobody does. With two subscribers each is asked.
pub fn record(subscriber: impl Subscriber + Send + Sync) -> DefaultGuard {
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&ANOTHER);
    tracing::subscriber::set_default(subscriber)
}
