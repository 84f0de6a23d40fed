//! The rules of the store, without a network or a clock.

mod life;
mod listener;
mod lua;
#[allow(dead_code, reason = "the crate's other tests use more of it")]
#[path = "../../../tests/store/server.rs"]
mod server;
mod small_world;
