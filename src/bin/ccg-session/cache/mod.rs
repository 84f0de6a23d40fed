//! `--cache`: a fleet of which each call of the command is a replica, so that one of them asks the server
//! and the others use what it gets.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod key;
mod look;
mod place;

use std::sync::Arc;
use std::time::Duration;

use ccg_session::{
    ConfigError, Fleet, Grant, GrantRequest, HttpTokenManager, Identity, Session, SessionConfig,
    SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};

pub(crate) use look::look;
use place::{Kept, Place};

use crate::failure::Failure;
use crate::settings::{Auth, Settings};

pub(crate) struct Cache {
    store: Arc<Kept>,
    fleet: Fleet<Arc<Kept>>,
}

impl Cache {
    /// What `--cache` names, if it is given.
    pub(crate) fn open(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some(name) = &settings.cache else {
            return match settings.cache_key_file {
                Some(_) => Err(Failure::Usage(NOTHING_TO_SEAL.into())),
                None => Ok(None),
            };
        };
        // The library would not share these, and say nothing of it.
        if settings.dpop_key.is_some() {
            return Err(Failure::Usage(BOUND.into()));
        }
        if matches!(settings.auth, Some(Auth::Assertion | Auth::TlsClient)) {
            return Err(Failure::Usage(WHOSE.into()));
        }
        let place = Place::open(settings, name)?;
        let key = key::read(settings, &place)?;
        let store = Arc::new(Kept::new(place));
        let fleet = Fleet::builder(Arc::clone(&store), key.secret).timeout(CALL).build();
        let fleet = fleet.map_err(|error| Failure::from(error).about(&key.path))?;
        Ok(Some(Self { store, fleet }))
    }

    /// With the cache before this manager.
    pub(crate) fn session(
        &self,
        manager: impl TokenManager,
        config: SessionConfig,
    ) -> Result<SessionHandle, Failure> {
        let manager = self.fleet.share(manager).build()?;
        Ok(Session::builder(manager).config(config).spawn()?)
    }

    /// How many requests for a token were sent.
    pub(crate) fn grants(&self) -> u64 {
        let counts = self.fleet.counts();
        counts.leased + counts.direct
    }

    /// Waits until the cache has been told of what was got or revoked: its session does not.
    pub(crate) async fn settle(&self) {
        self.fleet.flush().await;
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.store.has_answered()
    }

    /// Whether it was told of the revocation.
    pub(crate) fn has_buried(&self) -> bool {
        self.store.has_buried()
    }
}

/// Nobody's callers wait for it, so it may take as long as it can.
const CALL: Duration = Duration::from_secs(1);

const NOTHING_TO_SEAL: &str =
    "--cache-key-file is the key of a cache: give --cache too, or leave it out";

const BOUND: &str =
    "--cache keeps no token that is bound to a key: leave out --cache or --dpop-key";

const WHOSE: &str = "--cache does not know whose token it would keep where the credential alone says that, \
    as with --auth assertion and tls-client: leave out --cache";

/// Gives what the cache has, and asks the server for nothing: of a revocation the cache is told once the server has
/// confirmed it.
pub(crate) struct Unasked(pub(crate) HttpTokenManager);

impl TokenManager for Unasked {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Err(TokenError::denied("no_token", "the cache has none"))
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        Ok(())
    }

    fn can_revoke(&self) -> bool {
        true
    }

    fn identity(&self) -> Option<Identity> {
        self.0.identity()
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.0.check(config)
    }
}
