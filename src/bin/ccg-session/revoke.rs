//! `revoke`: a session whose only token is the one from stdin, or that of the cache, so that its revoke, with
//! all its rules, is that token's.

use std::time::Duration;

use ccg_session::{
    AccessToken, ConfigError, Grant, GrantRequest, HttpTokenManager, Session, SessionConfig,
    SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::args::RevokeArgs;
use crate::cache::{Cache, Unasked};
use crate::failure::Failure;
use crate::settings::{Auth, Settings, is_stdin};
use crate::{input, provider};

pub(crate) fn run(args: RevokeArgs) -> Result<(), Failure> {
    // A file names a cache for all commands, and may do so where somebody pipes a token into this one.
    let of_the_cache = args.settings.cache.is_some();
    let settings = args.settings.complete(args.grant)?;
    if !of_the_cache && settings.client_secret_file.as_deref().is_some_and(is_stdin) {
        let problem = "the token to revoke is read from stdin, so the client's secret cannot be: \
                       give --client-secret-file another file, or set CCG_SESSION_CLIENT_SECRET";
        return Err(Failure::Usage(problem.into()));
    }
    let server = provider::builder(&settings)?.build()?;
    if !server.can_revoke() {
        let problem = "this provider has no revocation endpoint: give --revocation-url URL";
        return Err(Failure::Usage(problem.into()));
    }
    let cache = Cache::open(&settings)?;
    let given = if of_the_cache { None } else { Some(token_from_stdin()?) };
    provider::runtime()?.block_on(revoke(given, cache, server, &settings))
}

fn token_from_stdin() -> Result<Grant, Failure> {
    let text = input::secret_from_stdin("the token to revoke")?;
    let text = text.expose_secret().trim();
    let lower = text.to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| lower.starts_with(word));
    let problem = if text.is_empty() {
        "the token to revoke is empty (stdin)".into()
    } else if begins(&["{", "[", "\"{"]) {
        "stdin has JSON, not a token: give the value of access_token alone, as `ccg-session token` \
         prints it without --format"
            .into()
    } else if begins(&["\"", "'"]) {
        "the token on stdin has quotes around it: leave them out".into()
    } else if begins(&["bearer ", "dpop ", "authorization:"]) {
        "stdin has a header, not a token: leave out what is before the token".into()
    } else if let Some(at) = text.chars().position(|char| !char.is_ascii_graphic()) {
        format!(
            "what stdin has is not a token: it has a blank or another odd character, after {at} others"
        )
    } else {
        let token = Grant::bearer(text).map_err(|_| {
            Failure::Usage("what stdin has is not a token: no header takes it".into())
        })?;
        return Ok(token.expires_in(LONG_ENOUGH));
    };
    Err(Failure::Usage(problem))
}

async fn revoke(
    given: Option<Grant>,
    cache: Option<Cache>,
    server: HttpTokenManager,
    settings: &Settings,
) -> Result<(), Failure> {
    let config = provider::config(settings);
    let time = config.retry.attempt_timeout;
    let kept = match &cache {
        Some(cache) => kept(given.as_ref(), cache, &server, &config).await?,
        None => None,
    };
    let is_kept = kept.is_some();
    let token = match (&kept, given) {
        (_, Some(token)) => token,
        (Some((_, token)), None) => again(token)?,
        (None, None) if cache.is_some_and(|cache| !cache.has_answered()) => {
            return Err(Failure::Unfit { problem: NO_ANSWER.into(), attempts: 0 });
        }
        (None, None) => return Err(Failure::Usage(NONE_KEPT.into())),
    };
    let manager = Given { token, server: server.clone() };
    let session = Session::builder(manager).config(config).spawn()?;
    let token = session.get_token().await;
    let answer = match &token {
        Ok(_) => session.revoke().await,
        Err(error) => Err(error.clone()),
    };
    let attempts = session.status().counters().revocations_started;
    session.shutdown().await;
    answer.map_err(|error| Failure::Session { error, attempts })?;
    // Only now: a cache that forgot a token which the server still honours would leave nobody to revoke it.
    if let Some((session, _)) = kept {
        session.revoke().await.map_err(|error| Failure::Session { error, attempts })?;
        session.shutdown().await;
    }
    if let Some(cache) = &cache {
        cache.settle().await;
    }
    let is_told = |cache: &Cache| if is_kept { cache.has_buried() } else { cache.has_answered() };
    if !cache.as_ref().is_none_or(is_told) {
        return Err(Failure::Unfit { problem: STILL_KEPT.into(), attempts });
    }
    // An assertion that a platform writes may be good for one request only.
    let Some(token) = token.ok().filter(|_| settings.auth != Some(Auth::Assertion)) else {
        return Ok(());
    };
    // A server may keep it to itself; then what it has confirmed is all there is to know.
    match timeout(time, server.is_active(token.secret())).await {
        Ok(Ok(true)) => Err(Failure::Unfit { problem: STILL_ACTIVE.into(), attempts }),
        _ => Ok(()),
    }
}

/// A session with the cache's token, and that, if it is the one that was given, or if none was.
async fn kept(
    given: Option<&Grant>,
    cache: &Cache,
    server: &HttpTokenManager,
    config: &SessionConfig,
) -> Result<Option<(SessionHandle, AccessToken)>, Failure> {
    let mut config = config.clone();
    // Also one that is too near its end for anybody to be given.
    config.expired_buffer = Duration::ZERO;
    let session = cache.session(Unasked(server.clone()), config)?;
    let token = session.get_token().await.ok();
    let is_meant =
        |token: &AccessToken| given.is_none_or(|given| given.text().expose() == token.secret());
    if let Some(token) = token.filter(is_meant) {
        return Ok(Some((session, token)));
    }
    session.shutdown().await;
    cache.settle().await;
    Ok(None)
}

fn again(token: &AccessToken) -> Result<Grant, Failure> {
    let token = Grant::bearer(token.secret())
        .map_err(|_| Failure::Usage("the cache's token cannot go into a header".into()))?;
    Ok(token.expires_in(LONG_ENOUGH))
}

const NONE_KEPT: &str = "--cache has no token for these settings, so nothing was revoked: give the same flags, \
    such as --scope, that `token` was given, or else the token on stdin and no --cache";

const NO_ANSWER: &str =
    "--cache does not answer, so nothing was revoked: `check` with the same flags says why";

const STILL_KEPT: &str = "the server has confirmed the revocation, but the cache could not be told, so others may \
    still use the token: `check` with the same flags says what is wrong there; then run this again";

const STILL_ACTIVE: &str = "the server has confirmed the revocation, but says that the token is still \
    active: do not rely on it, and ask what the server revokes";

/// A session forgets a token that has expired, so this one must not before the revoke is over.
const LONG_ENOUGH: Duration = Duration::from_secs(24 * 60 * 60);

/// Gives the token that was given to it, and revokes it at the server.
struct Given {
    token: Grant,
    server: HttpTokenManager,
}

impl TokenManager for Given {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(self.token.clone())
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        self.server.revoke(token, options).await
    }

    fn can_revoke(&self) -> bool {
        self.server.can_revoke()
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.server.check(config)
    }
}
