//! The instants of a token's life.
//!
//! ```text
//! acquired ───────── fresh ─────────► stale_at ──── stale ────► hold_at ── held ──► expires_at
//!           reply at once                reply at once,            callers wait for   never handed
//!                                        refresh behind            a fresh token      out from here on
//! ```

use std::time::Duration;

use crate::config::SessionConfig;
use crate::grant::Grant;
use crate::instant::Instant;
use crate::token::Issued;

/// Nobody who says longer means it: such figures come from a missing division by a thousand.
pub(super) const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The instants of one token. Its life is counted from when its request was *sent*: the server may have
/// issued it at any time since, so this errs on the safe side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Lifetime {
    pub(crate) stale_at: Instant,
    pub(crate) hold_at: Instant,
    pub(crate) expires_at: Instant,
    /// The whole of it, with what had passed before it came here.
    pub(crate) length: Duration,
}

impl Lifetime {
    /// The server's own word for `stale_at`, `refresh_in`, counts where it makes sense: one in
    /// the first tenth of the life would be a loop, one after `hold_at` would have callers wait.
    ///
    /// Else the buffers decide. They are capped by the life itself, or a short-lived token would be born stale and be
    /// refreshed in a loop. `random` moves `stale_at` ahead by up to a tenth of its buffer, so that a
    /// fleet which started together does not refresh together.
    ///
    /// All is reckoned back from the end, since a token that has lived a while may be older than the clock.
    pub(crate) fn new(
        sent_at: Instant,
        left: Duration,
        grant: &Grant,
        config: &SessionConfig,
        random: f64,
    ) -> Self {
        let length = left.saturating_add(grant.get_age()).min(LONGEST);
        let expires_at = sent_at + left.min(LONGEST);
        let stale_buffer = config.stale_buffer.min(length / 2).mul_f64(1.0 + random / 10.0);
        let expired_buffer = config.expired_buffer.min(length / 10);
        let most = length.saturating_sub(length / 10);
        let sensible = expired_buffer..=most;
        let told = grant.get_refresh_in().and_then(|wait| length.checked_sub(wait));
        // It is moved ahead by chance too: a fleet is told the same.
        let told = told
            .filter(|left| sensible.contains(left))
            .map(|left| (left + left.mul_f64(random / 10.0)).min(most));
        Self {
            stale_at: expires_at - told.unwrap_or(stale_buffer.max(expired_buffer)),
            hold_at: expires_at - expired_buffer,
            expires_at,
            length,
        }
    }
}

/// Whether as much life is left as a caller asks for. More than nine tenths of a token's life cannot be
/// asked for: hardly any token would do.
pub(crate) fn has_left(token: &Issued, min_remaining: Duration, now: Instant) -> bool {
    min_remaining.is_zero() || token.remaining(now) >= min_remaining.min(token.lifetime() / 10 * 9)
}
