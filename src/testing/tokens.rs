//! The tokens that the authority issued, and what has become of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

pub(super) type Scopes = BTreeSet<String>;

#[derive(Clone)]
pub(super) struct Token {
    pub(super) scopes: Scopes,
    /// The enterprise or the user that it speaks for.
    pub(super) subject: String,
    pub(super) expires_at: Instant,
    pub(super) revoked_at: Option<Instant>,
    /// The thumbprint of the key that it is bound to (RFC 9449 §6).
    pub(super) bound_to: Option<String>,
}

impl Token {
    pub(super) fn token_type(&self) -> &'static str {
        if self.bound_to.is_some() { "DPoP" } else { "bearer" }
    }
}

/// Why a token is of no use.
#[derive(Clone, Copy)]
pub(super) enum Dead {
    Unknown,
    Expired,
    Revoked { at: Instant },
}

impl Dead {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// How long an expired token stays, so that a refusal can tell what it was.
const KEPT: Duration = Duration::from_secs(60);

/// Dead tokens stay for a while.
#[derive(Default)]
pub(super) struct Tokens {
    by_text: HashMap<String, Token>,
    /// When those that have been dead for long have to go: that there are twice as many as after the last time.
    next: usize,
}

impl Tokens {
    /// The token, if it is of use at `now`. Of one that was revoked and has expired since, the
    /// revocation is told.
    pub(super) fn active(&self, text: &str, now: Instant) -> Result<&Token, Dead> {
        match self.by_text.get(text) {
            None => Err(Dead::Unknown),
            Some(Token { revoked_at: Some(at), .. }) => Err(Dead::Revoked { at: *at }),
            Some(token) if token.expires_at <= now => Err(Dead::Expired),
            Some(token) => Ok(token),
        }
    }

    /// Dead or alive.
    pub(super) fn get(&self, text: &str) -> Option<&Token> {
        self.by_text.get(text)
    }

    pub(super) fn issue(
        &mut self,
        scopes: Scopes,
        subject: String,
        bound_to: Option<String>,
        ttl: Duration,
        now: Instant,
    ) -> String {
        // fastrand is no source for secrets: enough for tokens that open nothing.
        let text: String = std::iter::repeat_with(fastrand::alphanumeric).take(40).collect();
        let token = Token { scopes, subject, bound_to, expires_at: now + ttl, revoked_at: None };
        if self.by_text.len() >= self.next {
            self.by_text.retain(|_, token| token.expires_at + KEPT > now);
            self.next = 2 * self.by_text.len().max(1_024);
        }
        self.by_text.insert(text.clone(), token);
        text
    }

    /// The first revocation counts. Says whether the token is known.
    pub(super) fn revoke(&mut self, text: &str, now: Instant) -> bool {
        let token = self.by_text.get_mut(text);
        if let Some(token) = token {
            token.revoked_at.get_or_insert(now);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_have_expired_go_in_time() {
        let (mut tokens, mut now) =
            (Tokens::default(), Instant::from_std(std::time::Instant::now()));
        let life = Duration::from_secs(10);
        let mut issue = |now| tokens.issue(Scopes::new(), String::new(), None, life, now);
        let long_ago = issue(now);
        now += life + KEPT;
        let last: Vec<_> = (0..100_000)
            .map(|_| {
                now += Duration::from_millis(10);
                issue(now)
            })
            .collect();
        // Of 70 s and not yet swept.
        assert!(tokens.by_text.len() < 30_000, "{}", tokens.by_text.len());
        assert!(matches!(tokens.active(&long_ago, now), Err(Dead::Unknown)));
        assert!(matches!(tokens.active(&last[99_000 - 2_000], now), Err(Dead::Expired)));
        assert!(last[99_100..].iter().all(|text| tokens.active(text, now).is_ok()));
    }
}
