//! The server and the request parameters, as plain data, so that a new provider needs no new code path.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::address::{check_url, without_secrets};
use super::blanks::{check_line, check_some, check_word, trimmed};
use super::client_auth::ClientAuth;
use super::discovery::{Addresses, Discovery, Endpoints};
use super::form::{Form, check_resources, push_extras, scope_text};
use crate::error::ConfigError;
use crate::identity::Identity;

/// Describes an OAuth 2.0 server: its endpoints, the client authentication, and the parameters of a grant.
///
/// It is validated in [`build`](crate::HttpTokenManagerBuilder::build).
///
/// ```
/// use ccg_session::{ClientAuth, Provider, Subject};
///
/// let box_for_all = Provider::box_ccg(Subject::enterprise("12345"));
/// let another = Provider::generic("https://login.example.com/token")
///     .revocation_url("https://login.example.com/revoke")
///     .client_auth(ClientAuth::Basic)
///     .scopes(["read", "write"])
///     .audience("https://api.example.com")
///     .param("organization", "org_123");
/// ```
#[derive(Clone, Debug)]
pub struct Provider {
    place: Place,
    revocation_url: Option<Unchecked>,
    introspection_url: Option<Unchecked>,
    pub(super) client_auth: ClientAuth,
    subject: Option<Subject>,
    scopes: Vec<String>,
    resources: Vec<String>,
    audiences: Vec<String>,
    params: Vec<(String, SecretString)>,
    pub(super) limits: Vec<(String, String)>,
    pub(super) assumed_lifetime: Duration,
    /// Who an actor token is for. Where there is none, Box's additions to RFC 8693 are unknown.
    pub(super) actor_audience: Option<&'static str>,
}

/// What is special about a provider.
pub(super) struct Preset {
    pub(super) layout: Layout,
    pub(super) auth: ClientAuth,
    /// See [`Provider::rate_limited_if`].
    pub(super) limits: &'static [(&'static str, &'static str)],
}

/// Where the endpoints are under a base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) token: &'static str,
    /// Where access tokens can be revoked (RFC 7009).
    pub(super) revocation: Option<&'static str>,
    pub(super) introspection: Option<&'static str>,
}

/// How its addresses are known.
#[derive(Clone, Debug)]
enum Place {
    /// By that of its token endpoint.
    TokenUrl(Unchecked),
    Issuer(Unchecked),
    /// A preset's, by its layout under a base.
    Base(Layout, Unchecked),
    /// A base was given to what is no preset.
    NoLayout(Unchecked),
}

/// An address as it was given.
#[derive(Clone)]
struct Unchecked(String);

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(without_secrets(&self.0), f)
    }
}

impl Provider {
    /// Any server with client credentials (RFC 6749 §4.4) at `token_url`.
    pub fn generic(token_url: impl Into<String>) -> Self {
        Self::at(Place::TokenUrl(Unchecked(token_url.into())))
    }

    /// Any server that publishes metadata (RFC 8414, OIDC Discovery), by its issuer. Spell the issuer exactly
    /// as the server does: `https://login.example.com` and `https://login.example.com/` are different issuers.
    ///
    /// The metadata is fetched in the first attempt and cached. If the server is down, that attempt fails and
    /// is retried like any other. If an endpoint does not respond, the next attempt fetches the metadata again.
    ///
    /// Only the URLs of the token, revocation and introspection endpoints are taken from the metadata. What it
    /// says about authentication methods and grants is ignored; the settings here apply. A URL that you set
    /// here takes precedence.
    ///
    /// ```
    /// use ccg_session::{ClientAuth, Provider};
    ///
    /// let provider = Provider::discover("https://login.example.com").client_auth(ClientAuth::Basic);
    /// ```
    pub fn discover(issuer: impl Into<String>) -> Self {
        Self::at(Place::Issuer(Unchecked(issuer.into())))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            revocation_url: None,
            introspection_url: None,
            client_auth: ClientAuth::default(),
            subject: None,
            scopes: Vec::new(),
            resources: Vec::new(),
            audiences: Vec::new(),
            params: Vec::new(),
            limits: Vec::new(),
            assumed_lifetime: Duration::from_secs(5 * 60),
            actor_audience: None,
        }
    }

    pub(super) fn preset(preset: &Preset, base: &str) -> Self {
        let place = Place::Base(preset.layout, Unchecked(base.into()));
        let provider = Self { client_auth: preset.auth.clone(), ..Self::at(place) };
        preset
            .limits
            .iter()
            .fold(provider, |provider, (error, text)| provider.rate_limited_if(*error, *text))
    }

    /// Box's own: who is acted for, and that it knows of actors.
    pub(super) fn on_behalf_of(mut self, subject: Subject) -> Self {
        self.subject = Some(subject);
        self.actor_audience = Some("https://api.box.com/oauth2/token");
        self
    }

    /// Moves a preset to another base URL, keeping its paths. For example, Box's endpoints are `/oauth2/token`
    /// and `/oauth2/revoke` under `https://api.box.com`. A provider that is not a preset is rejected in
    /// [`build`](crate::HttpTokenManagerBuilder::build).
    #[must_use]
    pub fn base_url(mut self, base: &str) -> Self {
        let base = Unchecked(base.into());
        self.place = match self.place {
            Place::Base(layout, _) => Place::Base(layout, base),
            _ => Place::NoLayout(base),
        };
        self
    }

    /// The revocation endpoint (RFC 7009). Default: the preset's, or the one in the metadata of a
    /// [discovered](Self::discover) provider; otherwise none, and the session cannot revoke.
    #[must_use]
    pub fn revocation_url(mut self, url: impl Into<String>) -> Self {
        self.revocation_url = Some(Unchecked(url.into()));
        self
    }

    /// The introspection endpoint (RFC 7662). Default: determined like
    /// [`revocation_url`](Self::revocation_url). The session itself does not use it; see
    /// [`HttpTokenManager::is_active`](crate::HttpTokenManager::is_active).
    #[must_use]
    pub fn introspection_url(mut self, url: impl Into<String>) -> Self {
        self.introspection_url = Some(Unchecked(url.into()));
        self
    }

    /// How the client authenticates. Default: [`ClientAuth::Post`].
    #[must_use]
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = auth;
        self
    }

    /// Adds a scope to request in each grant (RFC 6749 §3.3). Default: none, so the server decides.
    ///
    /// A server may grant fewer: see [`AccessToken::scope`](crate::AccessToken::scope).
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        self.scopes([scope])
    }

    /// Adds scopes to request in each grant.
    #[must_use]
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a `resource` that tokens are for (RFC 8707 §2): an absolute URI without a fragment. An exchange has
    /// [its own](crate::ExchangeRequest::resource).
    #[must_use]
    pub fn resource(mut self, uri: impl Into<String>) -> Self {
        self.resources.push(uri.into());
        self
    }

    /// Adds an `audience` that tokens are for. Some servers expect it instead of `resource`. An exchange has
    /// [its own](crate::ExchangeRequest::audience).
    #[must_use]
    pub fn audience(mut self, name: impl Into<String>) -> Self {
        self.audiences.push(name.into());
        self
    }

    /// Adds a form parameter to each grant. An exchange has [its own](crate::ExchangeRequest::param).
    ///
    /// A parameter that the protocol itself uses, such as `grant_type`, is rejected in
    /// [`build`](crate::HttpTokenManagerBuilder::build).
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<SecretString>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// Treats a response as "too many requests" although its status is not 429, if it has this `error` and its
    /// `error_description` contains this string, ignoring case. It becomes
    /// [`RateLimited`](crate::TokenError::RateLimited), which is retried, instead of
    /// [`Denied`](crate::TokenError::Denied).
    ///
    /// ```
    /// use ccg_session::Provider;
    ///
    /// // https://developer.vertexinc.com/oseries/docs/os-token-caching: this comes with 400.
    /// let vertex = Provider::generic("https://auth.vertexcloud.com/oauth/token")
    ///     .rate_limited_if("invalid_request", "exceeded the rate limit");
    /// ```
    #[must_use]
    pub fn rate_limited_if(
        mut self,
        error: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.limits.push((error.into(), description.into()));
        self
    }

    /// The lifetime to assume for a token whose answer has no usable `expires_in`. Default: 5 minutes.
    #[must_use]
    pub fn assumed_lifetime(mut self, lifetime: Duration) -> Self {
        self.assumed_lifetime = lifetime;
        self
    }

    /// The scopes as they are sent.
    pub(super) fn scope_text(&self) -> String {
        scope_text(&self.scopes)
    }

    /// Without what is blank around them.
    fn audiences(&self) -> impl Iterator<Item = &str> {
        self.audiences.iter().map(|audience| trimmed(audience))
    }

    pub(super) fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// What a grant for this subject sends, client authentication aside.
    pub(super) fn grant_form<'a>(
        &'a self,
        subject: Option<&'a Subject>,
        scope: &'a str,
    ) -> Result<Form<'a>, ConfigError> {
        let mut form = vec![("grant_type", "client_credentials")];
        if let Some(subject) = subject {
            if self.actor_audience.is_none() {
                // Another server would ignore it, and grant what is nobody's in particular.
                let problem =
                    "is set, but this provider knows of none, which only Box has: leave it out";
                return Err(ConfigError::new("subject", problem));
            }
            form.push(("box_subject_type", subject.kind));
            form.push(("box_subject_id", subject.id()?));
        }
        check_line(scope).map_err(|problem| ConfigError::new("scope", problem))?;
        if !scope.is_empty() {
            form.push(("scope", scope));
        }
        form.extend(self.resources.iter().map(|resource| ("resource", trimmed(resource))));
        form.extend(self.audiences().map(|audience| ("audience", audience)));
        let params = self.params.iter().map(|(name, value)| (&**name, value.expose_secret()));
        push_extras(&mut form, params).map_err(|problem| ConfigError::new("param", problem))?;
        Ok(form)
    }

    /// What a revocation says of its token besides (RFC 7009 §2.1): a server that keeps its kinds apart
    /// need not search. Box's revocations have two parameters of their own, and no other.
    pub(super) fn revocation_hint(&self) -> Option<(&'static str, &'static str)> {
        self.actor_audience.is_none().then_some(("token_type_hint", "access_token"))
    }

    /// What a token depends on, the form of its grant aside: whoever adds a field decides here.
    pub(super) fn identify(&self, identity: Identity) -> Identity {
        let Self {
            place,
            revocation_url: _,
            introspection_url: _,
            client_auth: _, // the client's identity says it
            subject: _,     // so do the grant's form, and the rest that is sent in it
            scopes: _,
            resources: _,
            audiences: _,
            params: _,
            limits: _,
            assumed_lifetime: _,
            actor_audience: _,
        } = self;
        match place {
            Place::TokenUrl(url) => identity.with("token_url", &url.0),
            Place::Issuer(issuer) => identity.with("issuer", &issuer.0),
            Place::Base(Layout { token, revocation: _, introspection: _ }, base) => {
                identity.with("base_url", &base.0).with("token_path", *token)
            }
            Place::NoLayout(base) => identity.with("base_url", &base.0),
        }
    }

    /// What of that is secret.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|(_, value)| value.expose_secret())
    }

    /// Whether its issuer is known before anything is sent.
    pub(super) fn has_issuer(&self) -> bool {
        matches!(self.place, Place::Issuer(_))
    }

    /// The checked addresses, or how to find them; `mtls`: for a client that shows a certificate.
    pub(super) fn check(&self, allow_http: bool, mtls: bool) -> Result<Addresses, ConfigError> {
        if self.assumed_lifetime.is_zero() {
            return Err(ConfigError::new(
                "assumed_lifetime",
                "is 0s, but then no token could be used: leave it out for 5m",
            ));
        }
        self.grant_form(self.subject(), &self.scope_text())?;
        for scope in self.scopes.iter().filter(|scope| trimmed(scope).is_empty()) {
            check_some(scope).map_err(|problem| ConfigError::new("scope", problem))?;
        }
        for audience in self.audiences() {
            check_some(audience).map_err(|problem| ConfigError::new("audience", problem))?;
        }
        check_resources(&self.resources)
            .map_err(|problem| ConfigError::new("resource", problem))?;
        let optional = |setting, url: &Option<Unchecked>| {
            url.as_ref().map(|url| check_url(setting, &url.0, allow_http)).transpose()
        };
        let revocation = optional("revocation_url", &self.revocation_url)?;
        let introspection = optional("introspection_url", &self.introspection_url)?;
        let given = |token, revocation, introspection| {
            Addresses::Given(Arc::new(Endpoints {
                token,
                revocation,
                introspection,
                issuer: None,
                grant_types: None,
                auth_methods: None,
            }))
        };
        Ok(match &self.place {
            Place::TokenUrl(url) => {
                given(check_url("token_url", &url.0, allow_http)?, revocation, introspection)
            }
            Place::Base(layout, base) => {
                if base.0.contains(['?', '#']) {
                    let problem = format!(
                        "has a query or a fragment after {:?}, where the paths of endpoints belong: \
                         leave it out",
                        without_secrets(&base.0)
                    );
                    return Err(ConfigError::new("base_url", problem));
                }
                let base = trimmed(&base.0).trim_end_matches('/');
                let under = |path| check_url("base_url", &format!("{base}{path}"), allow_http);
                given(
                    under(layout.token)?,
                    revocation.or(layout.revocation.map(under).transpose()?),
                    introspection.or(layout.introspection.map(under).transpose()?),
                )
            }
            Place::NoLayout(base) => {
                let problem = format!(
                    "is {:?}, but this provider is no preset, whose endpoints would be known: give \
                     Provider::generic its token endpoint, or Provider::discover its issuer",
                    without_secrets(&base.0)
                );
                return Err(ConfigError::new("base_url", problem));
            }
            Place::Issuer(issuer) => {
                let discovery =
                    Discovery::new(&issuer.0, revocation, introspection, mtls, allow_http)?;
                Addresses::Discovered(Box::new(discovery))
            }
        })
    }
}

/// The subject that tokens of Box's Client Credentials Grant act as: `box_subject_type` and `box_subject_id` in
/// its [guide](https://developer.box.com/guides/authentication/client-credentials/).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    kind: &'static str,
    id: String,
}

impl Subject {
    /// The application's service account in this enterprise.
    pub fn enterprise(id: impl Into<String>) -> Self {
        Self { kind: "enterprise", id: id.into() }
    }

    /// A managed user or app user, by id. The application must be authorized in Box to act as users.
    pub fn user(id: impl Into<String>) -> Self {
        Self { kind: "user", id: id.into() }
    }

    /// As it is sent.
    fn id(&self) -> Result<&str, ConfigError> {
        let id = trimmed(&self.id);
        if id.is_empty() {
            let problem = "has an empty id: give the id of the enterprise or user to act as";
            return Err(ConfigError::new("subject", problem));
        }
        check_word(id).map_err(|problem| ConfigError::new("subject", problem))?;
        Ok(id)
    }
}
