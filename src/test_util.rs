//! Sessions in tests on paused time: with the feature `test-util` their clock is tokio's, so
//! `#[tokio::test(start_paused = true)]`, [`tokio::time::advance`] and the like move it. Without that feature
//! a session on paused time ends with [`SessionError::TimePaused`](crate::SessionError::TimePaused).

pub use crate::clock::suspend;
