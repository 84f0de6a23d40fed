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

/// Dead tokens stay, so that a refusal can tell what the token was.
#[derive(Default)]
pub(super) struct Tokens {
    by_text: HashMap<String, Token>,
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
