//! Leave to send. Where the manager is gated, a grant or an exchange waits for its leave before the attempt
//! begins: the wait is no part of the attempt's time, nor of its token's life, and a revoke ends it.

use std::time::Duration;

use super::event::{Effects, Purpose, Wait};
use crate::error::TokenError;
use crate::request::PermitRequest;

/// How long an attempt waits for leave. Then its callers are told to come again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// When, after that.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Of the session's own token; of an exchanged one see [`Place`](super::exchanges::Place).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(crate) enum Leave {
    #[default]
    None,
    Awaited,
    /// For the event that has brought it.
    Given,
}

pub(crate) fn ask<R>(purpose: Purpose, request: PermitRequest, fx: &mut Effects<R>) {
    fx.waits.push(Wait::Begin(purpose, request, LONGEST_WAIT));
}

/// Why there is no leave, to those who waited for it: nothing was sent, so nothing has timed out.
pub(crate) fn refusal(error: TokenError) -> TokenError {
    match error {
        TokenError::TimedOut { retry_after: None, .. } => {
            TokenError::rate_limited(Some(COME_AGAIN))
        }
        error => error,
    }
}
