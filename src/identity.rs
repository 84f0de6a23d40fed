//! The parameters that two sessions must have in common to share a token.

use std::collections::BTreeSet;
use std::fmt;

/// Everything that a token depends on, as names and values: managers with equal identities get interchangeable
/// tokens. See [`TokenManager::identity`](crate::TokenManager::identity).
///
/// ```
/// use ccg_session::Identity;
///
/// let identity = Identity::new()
///     .with("token_url", "https://auth.example.com/token")
///     .with("client_id", "app")
///     .with("scope", "read")
///     .with("scope", "write");
/// assert_eq!(identity.pairs().count(), 4);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Identity(BTreeSet<(String, String)>);

impl Identity {
    /// An empty identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter. Order and duplicates do not matter. Do not add secrets: a rotated secret must not
    /// change the identity.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert((name.into(), value.into()));
        self
    }

    /// The parameters, sorted.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Names only: a value may be personal.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.pairs().map(|(name, _)| name)).finish()
    }
}
