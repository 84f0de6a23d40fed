//! Tests of the whole that need to look inside.

#[cfg(feature = "testing")]
mod anything;
#[cfg(all(feature = "http", feature = "testing"))]
mod recorder;
#[cfg(feature = "testing")]
#[path = "../../tests/common/scripted.rs"]
#[allow(dead_code, reason = "the session's other tests use more of it")]
mod scripted;
#[cfg(all(feature = "http", feature = "testing"))]
mod threads;
#[cfg(feature = "testing")]
mod world;
