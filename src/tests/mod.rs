//! Tests of the whole that need to look inside.

#[cfg(feature = "test-util")]
mod anything;
#[cfg(feature = "test-util")]
mod crowds;
#[cfg(feature = "http")]
pub(crate) mod effort;
#[cfg(feature = "test-util")]
mod foreign;
#[cfg(all(feature = "http", feature = "testing"))]
mod recorder;
#[cfg(feature = "test-util")]
#[path = "../../tests/session/recording.rs"]
mod recording;
#[cfg(feature = "test-util")]
#[path = "../../tests/session/scripted.rs"]
#[allow(dead_code, reason = "the session's other tests use more of it")]
mod scripted;
#[cfg(all(feature = "http", feature = "testing"))]
mod threads;
mod told;
#[cfg(feature = "test-util")]
mod world;
