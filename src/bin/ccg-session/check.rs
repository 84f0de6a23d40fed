//! `check`: tries what a session would do, one step after another, and says in plain words what came of it.
//! Only what the library's errors hold is printed, and they hold no secrets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ccg_session::{
    AccessToken, ConfigError, Credential, Endpoints, ExchangeRequest, ExchangedToken, Grant,
    GrantRequest, HttpTokenManager, Introspection, Session, SessionConfig, SessionError,
    SessionHandle, TokenError, TokenManager, TokenRequestOptions, TokenText,
};

use tokio::time::timeout;

use crate::args::{CheckArgs, Step};
use crate::failure::{Failure, message};
use crate::remedy::{Asked, Known};
use crate::settings::{Auth, Settings};
use crate::{cache, input, output, provider, remedy};

pub(crate) fn run(args: CheckArgs) -> Result<(), Failure> {
    let CheckArgs { settings, grant, exchange_scope, skip } = args;
    input::check_lines("--exchange-scope", &exchange_scope)?;
    let mut settings = settings.complete(grant)?;
    // Somebody may have given several in one flag, as the wire has them.
    if !settings.scope.iter().any(|scope| scope.trim().is_empty()) {
        let scopes = settings.scope.iter().flat_map(|scope| scope.trim().split(' '));
        settings.scope = scopes.filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    }
    let credential = provider::credential(&settings)?;
    let server = provider::builder_with(&settings, credential.clone())?.build()?;
    let life_is_said = Arc::new(AtomicBool::new(false));
    let manager = Watched { server: server.clone(), life_is_said: Arc::clone(&life_is_said) };
    let mut config = provider::config(&settings);
    if is_good_once(&settings) {
        config.retry.attempts = 1;
    }
    provider::runtime()?.block_on(async {
        let session = Session::builder(manager).config(config.clone()).spawn()?;
        let mut check = Check {
            basic_differs: provider::basic_differs(&settings),
            settings,
            credential,
            exchange_scope,
            skip,
            config,
            server,
            session,
            life_is_said,
            endpoints: None,
            steps: 0,
            failed: 0,
        };
        check.run().await?;
        check.session.shutdown().await;
        match check {
            Check { failed: 0, .. } => Ok(()),
            Check { steps, failed, .. } => Err(Failure::Check { steps, failed }),
        }
    })
}

/// An assertion that a platform writes may be good for one request only.
fn is_good_once(settings: &Settings) -> bool {
    settings.auth == Some(Auth::Assertion)
}

struct Check {
    settings: Settings,
    credential: Credential,
    exchange_scope: Vec<String>,
    skip: Vec<Step>,
    config: SessionConfig,
    /// For what a session does not do.
    server: HttpTokenManager,
    session: SessionHandle,
    life_is_said: Arc<AtomicBool>,
    basic_differs: bool,
    /// Once they are known.
    endpoints: Option<Endpoints>,
    steps: usize,
    failed: usize,
}

impl Check {
    async fn run(&mut self) -> Result<(), Failure> {
        let look = cache::look(&self.settings, self.server.clone(), self.config.clone()).await;
        match look {
            Some(Ok(what)) => self.ok("cache", &what)?,
            Some(Err(remedy)) => self.step_failed("cache", &remedy)?,
            None => {}
        }
        if !self.addresses().await? {
            return Ok(());
        }
        let Some(token) = self.grant().await? else { return Ok(()) };
        if is_good_once(&self.settings) {
            for step in ["exchange", "introspection", "revocation"] {
                say(
                    step,
                    "left out",
                    "the assertion may be good for one request only, and was sent",
                )?;
            }
            return Ok(());
        }
        let exchanged = self.exchange(&token).await?;
        let told = self.introspection(&token).await?;
        self.revocation(&token, exchanged.as_ref(), told).await
    }

    async fn addresses(&mut self) -> Result<bool, Failure> {
        let issuer = self.settings.issuer.as_deref();
        let step = if issuer.is_some() { "discovery" } else { "addresses" };
        match self.in_time(issuer, self.server.endpoints()).await {
            Ok(endpoints) => {
                let shown = endpoints.to_string();
                let mut lines = shown.lines();
                self.ok(step, lines.next().unwrap_or_default())?;
                lines.try_for_each(|line| say("", "", line))?;
                self.endpoints = Some(endpoints);
                Ok(true)
            }
            Err(error) => {
                let remedy = match self.issuer_with_the_other_slash().await {
                    Some(issuer) => format!(
                        "the server writes its issuer with{} a slash at the end: give --issuer {issuer}",
                        if issuer.ends_with('/') { "" } else { "out" }
                    ),
                    None => self.remedy(Asked::Metadata, &error).await,
                };
                self.failed(step, &remedy, &error)?;
                Ok(false)
            }
        }
    }

    /// The issuer, if there is one under this name but for the slash at its end.
    async fn issuer_with_the_other_slash(&self) -> Option<String> {
        let issuer = self.settings.issuer.as_deref()?;
        let other = with_the_other_slash(issuer);
        let settings = Settings { issuer: Some(other.clone()), ..self.settings.clone() };
        let server = self.manager(&settings)?;
        self.in_time(None, server.endpoints()).await.ok().map(|_| other)
    }

    /// The token URL, if metadata is published under it as an issuer's, and nothing else is there.
    async fn issuer_in_place_of_the_endpoint(&self, error: &TokenError) -> Option<String> {
        let url = self.settings.token_url.as_deref()?;
        let is_elsewhere = match error {
            TokenError::Denied { status, .. } | TokenError::Server { status, .. } => {
                matches!(status, 300..=399 | 404 | 405 | 410)
            }
            TokenError::Malformed { .. } => true,
            _ => false,
        };
        if !is_elsewhere {
            return None;
        }
        for issuer in [url.to_owned(), with_the_other_slash(url)] {
            let settings =
                Settings { issuer: Some(issuer.clone()), token_url: None, ..self.settings.clone() };
            let server = self.manager(&settings)?;
            if self.in_time(None, server.endpoints()).await.is_ok() {
                return Some(issuer);
            }
        }
        None
    }

    /// Another one for these settings, as the same client.
    fn manager(&self, settings: &Settings) -> Option<HttpTokenManager> {
        provider::builder_with(settings, self.credential.clone()).ok()?.build().ok()
    }

    async fn grant(&mut self) -> Result<Option<AccessToken>, Failure> {
        let token = match self.session.get_token().await {
            Ok(token) => token,
            Err(error) => {
                match error.token_error() {
                    Some(cause) => {
                        let remedy = self.remedy(Asked::Grant, cause).await;
                        self.failed("grant", &remedy, cause)?;
                    }
                    None => self.step_failed("grant", &error.to_string())?,
                }
                return Ok(None);
            }
        };
        let scope = match token.scope() {
            Some(granted) => {
                format!("the scopes granted are {granted:?}{}", self.without(granted))
            }
            None if self.settings.scope.is_empty() => {
                "no scopes were asked for, and none are named".into()
            }
            None => "the server names no scopes, which means those asked for".into(),
        };
        let bound = if self.settings.dpop_key.is_some() { ", bound to the key," } else { "" };
        let life = if self.life_is_said.load(Relaxed) {
            format!("with another {} to live", output::life(token.remaining()))
        } else {
            format!(
                "that is assumed to live for another {}, since the server does not say \
                 (--assumed-lifetime)",
                output::life(token.remaining())
            )
        };
        self.ok("grant", &format!("a token{bound} {life}; {scope}"))?;
        Ok(Some(token))
    }

    /// The scopes that were asked for and are not among these.
    fn without(&self, granted: &str) -> String {
        let has = |scope: &&String| granted.split_whitespace().any(|one| one == **scope);
        let missing: Vec<_> =
            self.settings.scope.iter().filter(|scope| !has(scope)).cloned().collect();
        match &missing[..] {
            [] => String::new(),
            _ => format!(", and not {}, which was asked for", missing.join(" ")),
        }
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
        let error = match self.session.exchange(ExchangeRequest::scopes(scopes)).await {
            Ok(exchanged) => {
                let scope = match exchanged.scope() {
                    Some(scope) => format!("{scope:?}"),
                    None => "as asked for".into(),
                };
                self.ok(step, &format!("the token was exchanged; its scopes: {scope}"))?;
                return Ok(Some(exchanged));
            }
            Err(error) => error,
        };
        let grants = self.endpoints.as_ref().and_then(Endpoints::grant_types);
        let is_published = grants.is_none_or(|grants| grants.iter().any(|it| it == TOKEN_EXCHANGE));
        match error.token_error() {
            Some(TokenError::Denied { error, .. }) if error == "unsupported_grant_type" => {
                say(step, "none", &format!("the server exchanges no tokens ({error})"))?;
            }
            Some(TokenError::Denied { error, .. }) if error == "unauthorized_client" => {
                say(
                    step,
                    "none",
                    &format!("the server lets this client exchange no tokens ({error})"),
                )?;
            }
            Some(
                error @ (TokenError::Denied { .. }
                | TokenError::Server { .. }
                | TokenError::Malformed { .. }),
            ) if !is_published => {
                let why = "the server's metadata names no token exchange, nor does it work";
                say(step, "none", &format!("{why} ({})", message(error)))?;
            }
            _ => self.failed_session(step, Asked::Exchange, &error)?,
        }
        Ok(None)
    }

    /// Whether the server can tell.
    async fn introspection(&mut self, token: &AccessToken) -> Result<bool, Failure> {
        let step = "introspection";
        if self.is_skipped(Step::Introspection, step)? {
            return Ok(false);
        }
        if self.endpoints.as_ref().is_some_and(|endpoints| endpoints.introspection_url().is_none())
        {
            say(step, "none", "the server has no introspection endpoint (--introspection-url)")?;
            return Ok(false);
        }
        let mut answer = self.introspect(token).await;
        // What was signed was dated by a clock that is not the server's, which it knows now.
        if matches!(&answer, Err(TokenError::Denied { credentials_changed: true, .. })) {
            answer = self.introspect(token).await;
        }
        match answer {
            Ok(told) if told.active => {
                let scopes = told.scope.as_deref().map(|scope| self.compared(scope, token.scope()));
                let scopes = scopes.unwrap_or_default();
                self.ok(step, &format!("the server says that the token is active{scopes}"))?;
                Ok(true)
            }
            Ok(_) => {
                let remedy = "the server says that the token which it has just granted is not active: \
                              some tell only the API that a token is for, then --skip introspection";
                self.step_failed(step, remedy)?;
                Ok(false)
            }
            Err(error) => {
                let remedy = match self.audience_that_is_taken(&error, token, Asked::Introspection).await {
                    Some(remedy) => remedy,
                    None if is_of_the_client(&error) => {
                        "the server keeps introspection for others, perhaps for APIs: --skip introspection".into()
                    }
                    None => self.known().remedy(Asked::Introspection, &error),
                };
                self.failed(step, &remedy, &error)?;
                Ok(false)
            }
        }
    }

    /// What the server says of the scopes now, where it is something else than it said with the token.
    fn compared(&self, told: &str, granted: Option<&str>) -> String {
        let sorted = |scopes: &str| {
            let mut scopes: Vec<_> = scopes.split_whitespace().map(str::to_owned).collect();
            scopes.sort_unstable();
            scopes
        };
        match granted {
            Some(granted) if sorted(granted) == sorted(told) => String::new(),
            Some(_) => format!(", but with other scopes than it has granted: {told:?}"),
            None => format!("; its scopes are {told:?}{}", self.without(told)),
        }
    }

    /// Some servers want to be named otherwise where they give no tokens: so it is tried, and said which
    /// name works.
    async fn audience_that_is_taken(
        &self,
        error: &TokenError,
        token: &AccessToken,
        asked: Asked,
    ) -> Option<String> {
        let by_assertion =
            matches!(self.settings.auth, Some(Auth::SecretJwt | Auth::PrivateKeyJwt));
        if !by_assertion || !is_of_the_client(error) {
            return None;
        }
        let token_url = self.endpoints.as_ref()?.token_url().to_owned();
        let issuer = self.settings.issuer.as_ref().map(|_| "issuer".to_owned());
        for audience in issuer.into_iter().chain([token_url]) {
            let revocation_audience = Some(audience.clone());
            let settings = Settings { revocation_audience, ..self.settings.clone() };
            let server = self.manager(&settings)?;
            let is_taken = match asked {
                Asked::Revocation => {
                    let text = Grant::bearer(token.secret()).ok()?.text().clone();
                    let options = TokenRequestOptions::default();
                    self.in_time(None, server.revoke(text, options)).await.is_ok()
                }
                _ => self.in_time(None, server.introspect(token.secret())).await.is_ok(),
            };
            if is_taken {
                return Some(format!(
                    "here the server wants assertions to be for another audience than for a grant: give \
                     --revocation-audience {audience}, which it takes"
                ));
            }
        }
        None
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
            Err(error) => {
                if let Some(cause) = error.token_error()
                    && let Some(remedy) =
                        self.audience_that_is_taken(cause, token, Asked::Revocation).await
                {
                    return self.failed(step, &remedy, cause);
                }
                self.failed_session(step, Asked::Revocation, &error)
            }
        }
    }

    async fn is_gone(&mut self, what: &str, token: &str) -> Result<(), Failure> {
        let step = "introspection";
        match self.in_time(self.introspection_url(), self.server.is_active(token)).await {
            Ok(false) => self.ok(step, &format!("{what} is no longer active")),
            Ok(true) => self.step_failed(
                step,
                &format!(
                    "{what} is still active, though the server has confirmed that it is revoked: do not \
                     rely on it, then --skip revocation"
                ),
            ),
            Err(error) => {
                let remedy = self.known().remedy(Asked::Introspection, &error);
                self.failed(step, &remedy, &error)
            }
        }
    }

    /// What is behind it, with what a request with nothing secret in it shows of the port.
    async fn remedy(&self, asked: Asked, error: &TokenError) -> String {
        let remedy = self.known().remedy(asked, error);
        if let Some(issuer) = self.issuer_in_place_of_the_endpoint(error).await {
            return format!("this is an issuer, not a token endpoint: give --issuer {issuer}");
        }
        if !remedy::may_be_the_scheme(&remedy) {
            return remedy;
        }
        let Some((scheme, other)) = self.with_the_other_scheme() else { return remedy };
        let settings = Settings {
            issuer: Some(other),
            token_url: None,
            box_enterprise: None,
            box_user: None,
            box_base_url: None,
            allow_insecure_http: true,
            ..self.settings.clone()
        };
        let Some(server) = self.manager(&settings) else { return remedy };
        let Ok(found) = timeout(PROBE, server.endpoints()).await else { return remedy };
        match found.map_or_else(|error| remedy::speaks(&error, scheme), |_| Some(true)) {
            Some(is_spoken) => self.known().with_scheme(asked, remedy, scheme, is_spoken),
            None => remedy,
        }
    }

    /// Where the server is said to be, under the other scheme and at the same port.
    fn with_the_other_scheme(&self) -> Option<(&'static str, String)> {
        let Settings { issuer, token_url, box_base_url, .. } = &self.settings;
        let url = issuer.as_ref().or(token_url.as_ref()).or(box_base_url.as_ref())?.trim();
        let (scheme, rest) = url.split_once("://")?;
        let host = rest.split(['/', '?', '#']).next()?;
        let (other, port) = if scheme == "https" { ("http", 443) } else { ("https", 80) };
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let port = if has_port { String::new() } else { format!(":{port}") };
        Some((other, format!("{other}://{host}{port}")))
    }

    fn known(&self) -> Known<'_> {
        let Self { settings, endpoints, basic_differs, .. } = self;
        Known { settings, endpoints: endpoints.as_ref(), basic_differs: *basic_differs }
    }

    fn introspection_url(&self) -> Option<&str> {
        self.endpoints.as_ref().and_then(Endpoints::introspection_url)
    }

    async fn introspect(&self, token: &AccessToken) -> Result<Introspection, TokenError> {
        self.in_time(self.introspection_url(), self.server.introspect(token.secret())).await
    }

    /// As long as an attempt of the session may take.
    async fn in_time<T>(
        &self,
        address: Option<&str>,
        request: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        let after = self.config.retry.attempt_timeout;
        timeout(after, request).await.unwrap_or_else(|_| {
            let late = TokenError::timed_out(after);
            Err(address.map_or(late.clone(), |it| late.with_address(without_query(it))))
        })
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

    /// The cause and the flag first, then what was said.
    fn failed(&mut self, step: &str, remedy: &str, error: &TokenError) -> Result<(), Failure> {
        self.step_failed(step, remedy)?;
        say("", "", &message(error))
    }

    fn step_failed(&mut self, step: &str, remedy: &str) -> Result<(), Failure> {
        self.steps += 1;
        self.failed += 1;
        say(step, "FAILED", remedy)
    }

    fn failed_session(
        &mut self,
        step: &str,
        asked: Asked,
        error: &SessionError,
    ) -> Result<(), Failure> {
        match error.token_error() {
            Some(error) => {
                let remedy = self.known().remedy(asked, error);
                self.failed(step, &remedy, error)
            }
            None => self.step_failed(step, &error.to_string()),
        }
    }
}

/// The server does not take the client for who it is.
fn is_of_the_client(error: &TokenError) -> bool {
    matches!(error, TokenError::Denied { error, status, .. }
        if error == "invalid_client" || matches!(status, 401 | 403))
}

/// How long it may take to find out what a port speaks.
const PROBE: Duration = Duration::from_secs(5);

/// RFC 8693 §2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Remembers whether the server says how long its tokens live.
struct Watched {
    server: HttpTokenManager,
    life_is_said: Arc<AtomicBool>,
}

impl TokenManager for Watched {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let grant = self.server.grant(request).await?;
        self.life_is_said.store(grant.life().is_some(), Relaxed);
        Ok(grant)
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        self.server.exchange(subject, request).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        self.server.revoke(token, options).await
    }

    fn can_exchange(&self) -> bool {
        self.server.can_exchange()
    }

    fn can_revoke(&self) -> bool {
        self.server.can_revoke()
    }

    fn assumed_lifetime(&self) -> Duration {
        self.server.assumed_lifetime()
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.server.check(config)
    }
}

fn say(step: &str, verdict: &str, what: &str) -> Result<(), Failure> {
    output::line(format!("{step:<14} {verdict:<7} {what}").trim_end())
}

fn with_the_other_slash(issuer: &str) -> String {
    issuer.strip_suffix('/').map_or_else(|| format!("{issuer}/"), str::to_owned)
}

/// A query may hold a key.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}
