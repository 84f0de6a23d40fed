//! `check`: tries what a session would do, one step after another, and says in plain words what came of it.
//! Only what the library's errors hold is printed, and they hold no secrets.

use std::time::Duration;

use ccg_session::{
    AccessToken, ExchangeRequest, ExchangedToken, HttpTokenManager, Session, SessionConfig,
    SessionError, SessionHandle, TokenError,
};

use crate::args::{CheckArgs, Step};
use crate::failure::Failure;
use crate::settings::{Auth, Settings};
use crate::{output, provider};

pub(crate) fn run(args: CheckArgs) -> Result<(), Failure> {
    let CheckArgs { settings, grant, exchange_scope, skip } = args;
    let settings = settings.complete(grant)?;
    let builder = provider::builder(&settings)?;
    let (server, manager) = (builder.clone().build()?, builder.build()?);
    let config = provider::config(&settings);
    provider::runtime()?.block_on(async {
        let session = Session::builder(manager).config(config.clone()).spawn()?;
        let (steps, failed) = (0, 0);
        let mut check =
            Check { settings, exchange_scope, skip, config, server, session, steps, failed };
        check.run().await?;
        check.session.shutdown().await;
        match check {
            Check { failed: 0, .. } => Ok(()),
            Check { steps, failed, .. } => Err(Failure::Check { steps, failed }),
        }
    })
}

struct Check {
    settings: Settings,
    exchange_scope: Vec<String>,
    skip: Vec<Step>,
    config: SessionConfig,
    /// For what a session does not do.
    server: HttpTokenManager,
    session: SessionHandle,
    steps: usize,
    failed: usize,
}

impl Check {
    async fn run(&mut self) -> Result<(), Failure> {
        if !self.addresses().await? {
            return Ok(());
        }
        let Some(token) = self.grant().await? else { return Ok(()) };
        let exchanged = self.exchange(&token).await?;
        let told = self.introspection(&token).await?;
        self.revocation(&token, exchanged.as_ref(), told).await
    }

    async fn addresses(&mut self) -> Result<bool, Failure> {
        let step = if self.settings.issuer.is_some() { "discovery" } else { "addresses" };
        match self.in_time(self.server.endpoints()).await {
            Ok(endpoints) => {
                self.ok(step, &format!("tokens        {}", without_query(endpoints.token_url())))?;
                for (what, url) in [
                    ("revocation", endpoints.revocation_url()),
                    ("introspection", endpoints.introspection_url()),
                ] {
                    let url = url.map_or("none", without_query);
                    say("", "", &format!("{what:<13} {url}"))?;
                }
                Ok(true)
            }
            Err(error) => {
                let advice = match error {
                    TokenError::Malformed { .. } | TokenError::Denied { .. } => {
                        "write the issuer exactly as the server does, or give --token-url in its place"
                    }
                    _ => self.advice(&error),
                };
                self.failed(step, &error.to_string(), advice)?;
                Ok(false)
            }
        }
    }

    async fn grant(&mut self) -> Result<Option<AccessToken>, Failure> {
        let token = match self.session.get_token().await {
            Ok(token) => token,
            Err(error) => {
                self.failed_session("grant", &error, None)?;
                return Ok(None);
            }
        };
        let asked = &self.settings.scope;
        let scope = match token.scope() {
            Some(granted) => {
                let has = |scope: &&String| granted.split(' ').any(|one| one == **scope);
                let missing: Vec<_> = asked.iter().filter(|scope| !has(scope)).cloned().collect();
                let without = match &missing[..] {
                    [] => String::new(),
                    _ => format!(", and not {}, which was asked for", missing.join(" ")),
                };
                format!("the scopes granted are {granted:?}{without}")
            }
            None if asked.is_empty() => "no scopes were asked for, and none are named".into(),
            None => "the server names no scopes, which means those asked for".into(),
        };
        let bound = if self.settings.dpop_key.is_some() { ", bound to the key," } else { "" };
        self.ok(
            "grant",
            &format!("a token{bound} with another {} to live; {scope}", life(&token)),
        )?;
        Ok(Some(token))
    }

    async fn exchange(&mut self, token: &AccessToken) -> Result<Option<ExchangedToken>, Failure> {
        let step = "exchange";
        if self.is_skipped(Step::Exchange, step)? {
            return Ok(None);
        }
        let scopes = match (&self.exchange_scope[..], token.scope()) {
            ([], Some(granted)) => granted.split_whitespace().map(str::to_owned).collect(),
            ([], None) => self.settings.scope.clone(),
            (chosen, _) => chosen.to_vec(),
        };
        match self.session.exchange(ExchangeRequest::scopes(scopes)).await {
            Ok(exchanged) => {
                let scope = match exchanged.scope() {
                    Some(scope) => format!("{scope:?}"),
                    None => "as asked for".into(),
                };
                self.ok(step, &format!("the token was exchanged; its scopes: {scope}"))?;
                Ok(Some(exchanged))
            }
            Err(error) => {
                match error.token_error() {
                    Some(TokenError::Denied { error, .. })
                        if matches!(&**error, "unsupported_grant_type" | "unauthorized_client") =>
                    {
                        let which = match &**error {
                            "unauthorized_client" => {
                                "the server lets this client exchange no tokens"
                            }
                            _ => "the server exchanges no tokens",
                        };
                        say(step, "none", &format!("{which} ({error})"))?;
                    }
                    _ => self.failed_session(step, &error, Some("--skip exchange"))?,
                }
                Ok(None)
            }
        }
    }

    /// Whether the server can tell.
    async fn introspection(&mut self, token: &AccessToken) -> Result<bool, Failure> {
        let step = "introspection";
        if self.is_skipped(Step::Introspection, step)? {
            return Ok(false);
        }
        // They are known by now.
        let endpoints = self.in_time(self.server.endpoints()).await;
        if endpoints.is_ok_and(|endpoints| endpoints.introspection_url().is_none()) {
            say(step, "none", "the server has no introspection endpoint (--introspection-url)")?;
            return Ok(false);
        }
        match self.in_time(self.server.is_active(token.secret())).await {
            Ok(true) => {
                self.ok(step, "the server says that the token is active")?;
                Ok(true)
            }
            Ok(false) => {
                self.failed(
                    step,
                    "the server says that the token which it has just granted is not active",
                    "some servers tell only the API that a token is for: then --skip introspection",
                )?;
                Ok(false)
            }
            Err(error) => {
                let advice = "servers may keep introspection for APIs: if you do not need it, then \
                              --skip introspection";
                self.failed(step, &error.to_string(), advice)?;
                Ok(false)
            }
        }
    }

    async fn revocation(
        &mut self,
        token: &AccessToken,
        exchanged: Option<&ExchangedToken>,
        told: bool,
    ) -> Result<(), Failure> {
        let step = "revocation";
        if self.is_skipped(Step::Revocation, step)? {
            return Ok(());
        }
        match self.session.revoke().await {
            Ok(()) if !told => self.ok(
                step,
                "the server has confirmed it; without introspection that is all there is to know",
            ),
            Ok(()) => {
                self.ok(step, "the server has confirmed it")?;
                self.is_gone("the revoked token", token.secret()).await?;
                if let Some(exchanged) = exchanged {
                    let what = "the exchanged token, which was revoked with it,";
                    self.is_gone(what, exchanged.secret()).await?;
                }
                Ok(())
            }
            Err(SessionError::Unsupported(_)) => {
                say(step, "none", "the server has no revocation endpoint (--revocation-url)")
            }
            Err(error) => self.failed_session(step, &error, Some("--skip revocation")),
        }
    }

    async fn is_gone(&mut self, what: &str, token: &str) -> Result<(), Failure> {
        let step = "introspection";
        match self.in_time(self.server.is_active(token)).await {
            Ok(false) => self.ok(step, &format!("{what} is no longer active")),
            Ok(true) => {
                let advice = "do not rely on revoking: the server has confirmed it, and may revoke no \
                              access tokens at all";
                self.failed(step, &format!("{what} is still active"), advice)
            }
            Err(error) => self.failed(step, &error.to_string(), self.advice(&error)),
        }
    }

    fn advice(&self, error: &TokenError) -> &'static str {
        match error {
            TokenError::Denied { error, .. } if error == "invalid_client" => {
                refused_client(self.settings.auth)
            }
            TokenError::Denied { error, .. }
                if matches!(&**error, "invalid_dpop_proof" | "use_dpop_nonce") =>
            {
                "check this machine's clock, and that the server takes keys of this kind: many want one \
                 on the curve P-256 (--dpop-key)"
            }
            TokenError::Denied { error, .. }
                if error == "unusable_token_type" && self.settings.dpop_key.is_some() =>
            {
                "if the server binds no tokens to keys, leave out --dpop-key; else check the address: \
                 does what answers there speak OAuth 2.0?"
            }
            _ => advice(error),
        }
    }

    /// As long as an attempt of the session may take.
    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        let after = self.config.retry.attempt_timeout;
        tokio::time::timeout(after, request).await.unwrap_or(Err(TokenError::timed_out(after)))
    }

    fn is_skipped(&mut self, step: Step, name: &str) -> Result<bool, Failure> {
        let skipped = self.skip.contains(&step);
        if skipped {
            say(name, "skipped", "")?;
        }
        Ok(skipped)
    }

    fn ok(&mut self, step: &str, what: &str) -> Result<(), Failure> {
        self.steps += 1;
        say(step, "ok", what)
    }

    fn failed(&mut self, step: &str, what: &str, advice: &str) -> Result<(), Failure> {
        self.steps += 1;
        self.failed += 1;
        say(step, "FAILED", what)?;
        say("", "", &format!("-> {advice}"))
    }

    fn failed_session(
        &mut self,
        step: &str,
        error: &SessionError,
        skip: Option<&str>,
    ) -> Result<(), Failure> {
        let (what, advice) = match error.token_error() {
            Some(error) => (error.to_string(), self.advice(error)),
            None => (error.to_string(), "see `ccg-session help check`"),
        };
        let skip =
            skip.map_or(String::new(), |skip| format!("; or, if you do not need it, {skip}"));
        self.failed(step, &what, &format!("{advice}{skip}"))
    }
}

fn say(step: &str, verdict: &str, what: &str) -> Result<(), Failure> {
    output::line(format!("{step:<14} {verdict:<7} {what}").trim_end())
}

fn life(token: &AccessToken) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(token.remaining().as_secs()))
}

/// A query may hold a key.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// What to do about a client that the server does not take for who it is.
fn refused_client(auth: Option<Auth>) -> &'static str {
    match auth {
        Some(Auth::PrivateKeyJwt) => {
            "check the client's id, this machine's clock, that the server knows this key's public half, \
             and what it wants an assertion to say (--key-id, --algorithm, --assertion-audience)"
        }
        Some(Auth::SecretJwt) => {
            "check the client's id and secret, this machine's clock, and whom the server wants an \
             assertion to be for (--assertion-audience)"
        }
        Some(Auth::Assertion) => {
            "check the client's id, and that the assertion is for this server and has not expired"
        }
        Some(Auth::TlsClient) => {
            "check the client's id, and that the server knows this certificate, or its subject and CA"
        }
        _ => {
            "check the client's id and secret, and try the other methods of --auth: servers refuse a \
             right secret that comes in the wrong way"
        }
    }
}

/// What to do about it.
fn advice(error: &TokenError) -> &'static str {
    match error {
        TokenError::Denied { error, status, .. } => match (&**error, status) {
            (_, 300..=399 | 404 | 405 | 410) => {
                "check the address: the server has nothing there (a slash at the end counts)"
            }
            ("unauthorized_client", _) => {
                "allow this client the grant type (client_credentials, or token exchange) at the server"
            }
            ("unsupported_grant_type", _) => {
                "this may not be the token endpoint, or the server has no such grant type"
            }
            ("invalid_scope", _) => "ask for other scopes (--scope), or allow them at the server",
            ("invalid_target", _) => {
                "check --resource and --audience: the server does not know them"
            }
            ("invalid_grant", _) => {
                "check whom the token shall act for, and that the server knows them"
            }
            ("invalid_request", _) => {
                "a parameter is missing or wrong: some servers want --scope, --audience, --resource or a \
                 --param of their own"
            }
            (_, 401 | 403) => {
                "check the client's id and secret, and --auth; a firewall may answer so too"
            }
            _ => "see the server's documentation of this error",
        },
        TokenError::Credential { .. } => {
            "give --auth the kind of secret, key or assertion that it needs"
        }
        TokenError::RateLimited { .. } => "wait, and ask less often: share one session",
        TokenError::Server { .. } => "try again later: the server itself has failed",
        TokenError::Malformed { .. } => {
            "check the address: what answers there does not speak OAuth 2.0 (a proxy, a login page?)"
        }
        TokenError::Expired { .. } => "check the server's clock, and how long its tokens live",
        TokenError::Transport { .. } => {
            "check the address, the network and its proxy (HTTPS_PROXY), and that this machine trusts \
             the server's certificate"
        }
        TokenError::TimedOut { .. } => {
            "check the address and the network, or give the server longer (--attempt-timeout)"
        }
        _ => "see the server's documentation of this error",
    }
}
