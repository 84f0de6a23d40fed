//! For tests with paused time: with the feature `test-util`, sessions use tokio's clock, so
//! `#[tokio::test(start_paused = true)]`, [`tokio::time::advance`] and similar functions control it. Without
//! that feature a session on paused time ends with
//! [`SessionError::TimePaused`](crate::SessionError::TimePaused).

pub use crate::clock::suspend;
