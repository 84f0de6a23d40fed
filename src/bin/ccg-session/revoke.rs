//! `revoke`: a session whose only token is the one from stdin, so that its revoke, with all its rules,
//! is that token's.

use std::time::Duration;

use ccg_session::{
    ConfigError, Grant, GrantRequest, HttpTokenManager, Session, SessionConfig, TokenError,
    TokenManager, TokenRequestOptions, TokenText,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::args::RevokeArgs;
use crate::failure::Failure;
use crate::settings::{Auth, is_stdin};
use crate::{input, provider};

pub(crate) fn run(args: RevokeArgs) -> Result<(), Failure> {
    let settings = args.settings.complete(args.grant)?;
    if settings.client_secret_file.as_deref().is_some_and(is_stdin) {
        let problem = "the token to revoke is read from stdin, so the client's secret cannot be: \
                       give --client-secret-file another file, or set CCG_SESSION_CLIENT_SECRET";
        return Err(Failure::Usage(problem.into()));
    }
    let server = provider::builder(&settings)?.build()?;
    // An assertion that a platform writes may be good for one request only.
    let asked = (settings.auth != Some(Auth::Assertion)).then(|| server.clone());
    if !server.can_revoke() {
        let problem = "this provider has no revocation endpoint: give --revocation-url URL";
        return Err(Failure::Usage(problem.into()));
    }
    let text = input::secret_from_stdin("the token to revoke")?;
    if text.expose_secret().trim_start().starts_with(['{', '[', '"']) {
        let problem = "stdin has JSON, not a token: give the value of access_token alone, as \
                       `ccg-session token` prints it without --format";
        return Err(Failure::Usage(problem.into()));
    }
    let token = Grant::bearer(text)
        .map_err(|_| Failure::Usage("what stdin has is not a token: no header takes it".into()))?;
    let manager = Given { token: token.expires_in(LONG_ENOUGH), server };
    provider::runtime()?.block_on(revoke(manager, asked, provider::config(&settings)))
}

async fn revoke(
    manager: Given,
    asked: Option<HttpTokenManager>,
    config: SessionConfig,
) -> Result<(), Failure> {
    let (token, time) = (manager.token.text().clone(), config.retry.attempt_timeout);
    let session = Session::builder(manager).config(config).spawn()?;
    let answer = match session.get_token().await {
        Ok(_) => session.revoke().await,
        Err(error) => Err(error),
    };
    let attempts = session.status().counters().revocations_started;
    session.shutdown().await;
    answer.map_err(|error| Failure::Session { error, attempts })?;
    // A server may keep it to itself; then what it has confirmed is all there is to know.
    let still = match asked {
        Some(server) => timeout(time, server.is_active(token.expose())).await,
        None => return Ok(()),
    };
    match still {
        Ok(Ok(true)) => Err(Failure::Unfit { problem: STILL_ACTIVE.into(), attempts }),
        _ => Ok(()),
    }
}

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
