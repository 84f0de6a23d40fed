//! From settings to a token manager and a session's configuration.

use ccg_session::{
    AssertionAudience, ClientAuth, Credential, DpopKey, HttpTokenManager, HttpTokenManagerBuilder,
    JwtAuth, Provider, RefreshMode, SessionConfig, Subject,
};
use secrecy::ExposeSecret;
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;
use crate::input;
use crate::settings::{Auth, SessionSettings, Settings, is_stdin};

// The file counts more than both: or a client that the environment is about could be shown to the
// server that the file is about.
const ID_VARIABLE: &str = "CCG_SESSION_CLIENT_ID";
const SECRET_VARIABLE: &str = "CCG_SESSION_CLIENT_SECRET";

/// A manager's builder for these settings.
pub(crate) fn builder(settings: &Settings) -> Result<HttpTokenManagerBuilder, Failure> {
    builder_with(settings, credential(settings)?)
}

/// The same, with a credential that was there already: stdin can be read but once.
pub(crate) fn builder_with(
    settings: &Settings,
    credential: Credential,
) -> Result<HttpTokenManagerBuilder, Failure> {
    // Each by its name: one that is forgotten here does not compile.
    let Settings {
        config: _,
        issuer,
        box_enterprise,
        box_user,
        token_url,
        revocation_url,
        introspection_url,
        auth,
        box_base_url,
        param,
        client_id,
        client_secret_file: _,
        algorithm,
        key_id,
        assertion_audience,
        revocation_audience,
        dpop_key,
        root_certificate,
        client_certificate,
        client_key,
        proxy,
        connect_timeout,
        assumed_lifetime,
        allow_insecure_http,
        cache: _,
        cache_key_file: _,
        scope,
        resource,
        audience,
        session: _,
    } = settings;
    let auth = auth.unwrap_or(Auth::Post);
    let server = [issuer, box_enterprise, box_user, token_url].map(Option::as_deref);
    let jwt = [algorithm, key_id, assertion_audience, revocation_audience].map(Option::as_deref);
    let mut provider = provider(server, box_base_url.as_deref())?
        .client_auth(client_auth(auth, jwt, issuer.is_some())?)
        .scopes(scope);
    for uri in resource {
        provider = provider.resource(uri);
    }
    for name in audience {
        provider = provider.audience(name);
    }
    for (name, value) in param {
        provider = provider.param(name, value.as_str());
    }
    if let Some(url) = revocation_url {
        provider = provider.revocation_url(url);
    }
    if let Some(url) = introspection_url {
        provider = provider.introspection_url(url);
    }
    if let Some(lifetime) = assumed_lifetime {
        provider = provider.assumed_lifetime(*lifetime);
    }
    let client_id = match client_id {
        Some(id) => id.clone(),
        None => id_of_environment()?,
    };
    let mut builder = HttpTokenManager::builder(provider, client_id, credential)
        .allow_insecure_http(*allow_insecure_http);
    if let Some(url) = proxy {
        builder = builder.proxy(url.as_str());
    }
    if let Some(timeout) = connect_timeout {
        builder = builder.connect_timeout(*timeout);
    }
    if let Some(path) = dpop_key {
        let key = DpopKey::parse(input::text("the key for DPoP", path)?)
            .map_err(|error| Failure::from(error).about(path))?;
        builder = builder.dpop(key);
    }
    if let Some(path) = root_certificate {
        builder = builder.root_certificate(input::text("the certificates to trust", path)?);
    }
    match (client_certificate, client_key) {
        (Some(certificate), Some(key)) => Ok(builder.client_certificate(
            input::text("the client's certificate", certificate)?,
            input::text("the client's key", key)?,
        )),
        (None, None) if auth == Auth::TlsClient => Err(Failure::Usage(
            "auth tls-client shows a certificate: give --client-certificate PATH and --client-key PATH"
                .into(),
        )),
        (None, None) => Ok(builder),
        _ => Err(Failure::Usage(
            "a client certificate needs its key: give both --client-certificate PATH and \
             --client-key PATH"
                .into(),
        )),
    }
}

fn provider(server: [Option<&str>; 4], box_base_url: Option<&str>) -> Result<Provider, Failure> {
    let (provider, is_box) = match server {
        [Some(issuer), None, None, None] => {
            no_metadata("--issuer", issuer)?;
            (Provider::discover(issuer), false)
        }
        [None, Some(id), None, None] => (Provider::box_ccg(Subject::enterprise(id)), true),
        [None, None, Some(id), None] => (Provider::box_ccg(Subject::user(id)), true),
        [None, None, None, Some(url)] => {
            no_metadata("--token-url", url)?;
            (Provider::generic(url), false)
        }
        [None, None, None, None] => {
            let wanted = "no provider: give --box-enterprise ID or --box-user ID for Box, or \
                          --issuer URL or --token-url URL for another server";
            return Err(Failure::Usage(wanted.into()));
        }
        _ => {
            let wanted = "more than one provider: the configuration can name only one of issuer, \
                          token-url, box-enterprise and box-user";
            return Err(Failure::Usage(wanted.into()));
        }
    };
    match box_base_url {
        Some(base) if is_box => Ok(provider.base_url(base)),
        Some(_) => {
            let wanted = "box-base-url goes with --box-enterprise or --box-user only: leave it out";
            Err(Failure::Usage(wanted.into()))
        }
        None => Ok(provider),
    }
}

/// Somebody may have copied the address of a server's metadata.
fn no_metadata(flag: &str, url: &str) -> Result<(), Failure> {
    match issuer_in(url) {
        // What is before an @ may be a password: the library says so in its own words.
        Some(issuer) if !issuer.contains('@') => Err(Failure::Usage(format!(
            "{flag} is the address of metadata: give --issuer {issuer}"
        ))),
        _ => Ok(()),
    }
}

/// The issuer whose metadata is at this address (RFC 8414 §3.1, OIDC Discovery §4).
pub(crate) fn issuer_in(url: &str) -> Option<String> {
    let (before, after) = url.split_once("/.well-known/")?;
    let path = after.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    Some(path.split_once('/').map_or(before.into(), |(_, path)| format!("{before}/{path}")))
}

fn client_auth(
    auth: Auth,
    jwt: [Option<&str>; 4],
    has_issuer: bool,
) -> Result<ClientAuth, Failure> {
    let auth = match auth {
        Auth::SecretJwt => return Ok(ClientAuth::SecretJwt(assertions(jwt, has_issuer)?)),
        Auth::PrivateKeyJwt => return Ok(ClientAuth::PrivateKeyJwt(assertions(jwt, has_issuer)?)),
        Auth::Post => ClientAuth::Post,
        Auth::Basic => ClientAuth::Basic,
        Auth::BasicRaw => ClientAuth::BasicRaw,
        Auth::Assertion => ClientAuth::Assertion,
        Auth::TlsClient => ClientAuth::TlsClient,
        Auth::None => ClientAuth::None,
    };
    if jwt.iter().any(Option::is_some) {
        let wanted = "algorithm, key-id, assertion-audience and revocation-audience say how an assertion \
                      is made: give --auth private-key-jwt or secret-jwt, or leave them out";
        return Err(Failure::Usage(wanted.into()));
    }
    Ok(auth)
}

fn assertions(jwt: [Option<&str>; 4], has_issuer: bool) -> Result<JwtAuth, Failure> {
    let [algorithm, key_id, audience, revocation_audience] = jwt;
    let whom = |flag, whom: &str| match whom {
        "endpoint" => Ok(AssertionAudience::Endpoint),
        "issuer" if has_issuer => Ok(AssertionAudience::Issuer),
        "issuer" => Err(Failure::Usage(format!(
            "{flag} is issuer, which is known with --issuer only: write it out"
        ))),
        text => Ok(AssertionAudience::value(text)),
    };
    let mut jwt = JwtAuth::new();
    if let Some(name) = algorithm {
        jwt = jwt.algorithm(name.parse()?);
    }
    if let Some(id) = key_id {
        jwt = jwt.key_id(id);
    }
    if let Some(audience) = audience {
        jwt = jwt.audience(whom("--assertion-audience", audience)?);
    }
    if let Some(audience) = revocation_audience {
        jwt = jwt.revocation_audience(whom("--revocation-audience", audience)?);
    }
    Ok(jwt)
}

fn id_of_environment() -> Result<String, Failure> {
    match std::env::var(ID_VARIABLE) {
        Ok(id) => Ok(id),
        Err(std::env::VarError::NotPresent) => {
            Err(Failure::Usage(format!("no client id: give --client-id ID, or set {ID_VARIABLE}")))
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::Usage(format!("{ID_VARIABLE} is not valid UTF-8")))
        }
    }
}

/// From the file if there is one, else from the environment; never from an argument.
pub(crate) fn credential(settings: &Settings) -> Result<Credential, Failure> {
    let auth = settings.auth.unwrap_or(Auth::Post);
    match (auth, settings.client_secret_file.as_deref()) {
        // That of the environment may be meant for another server.
        (Auth::TlsClient | Auth::None, None) => Ok(Credential::none()),
        (Auth::TlsClient | Auth::None, Some(_)) => {
            let auth = if auth == Auth::None { "none" } else { "tls-client" };
            Err(Failure::Usage(format!(
                "client-secret-file would not be used, since auth is {auth}, which sends no \
                 secret: leave out one of them"
            )))
        }
        (_, Some(path)) if !is_stdin(path) && path.is_file() => Ok(Credential::file(path)),
        // It can be read but once, as what a shell's `<(…)` names, or is not there.
        (_, Some(path)) => Ok(input::secret(SECRET, path)?.into()),
        (_, None) if std::env::var_os(SECRET_VARIABLE).is_none() => Err(Failure::Usage(format!(
            "no client secret: set {SECRET_VARIABLE}, or give --client-secret-file PATH (\"-\" \
             reads it from stdin)"
        ))),
        (_, None) => Ok(Credential::env(SECRET_VARIABLE)),
    }
}

/// Whether the two ways of Basic write this client's id and secret in two ways (RFC 6749 §2.3.1), as far as
/// they can be read again.
pub(crate) fn basic_differs(settings: &Settings) -> bool {
    let secret = match &settings.client_secret_file {
        Some(path) if path.is_file() => input::secret(SECRET, path).ok(),
        Some(_) => None,
        None => std::env::var(SECRET_VARIABLE).ok().map(Into::into),
    };
    let id = settings.client_id.clone().or_else(|| id_of_environment().ok());
    let is_same = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    let differs = |text: &str| !text.bytes().all(is_same);
    secret.is_some_and(|secret| differs(secret.expose_secret()))
        || id.is_some_and(|id| differs(&id))
}

/// As errors call it.
pub(crate) const SECRET: &str = "the client's secret";

/// For a command that asks once and ends: it refreshes nothing behind anybody's back.
pub(crate) fn config(settings: &Settings) -> SessionConfig {
    let SessionSettings { attempts, attempt_timeout, stale_buffer, expired_buffer } =
        settings.session;
    let mut config = SessionConfig::default();
    config.refresh_mode = RefreshMode::OnRequest;
    config.stale_buffer = stale_buffer.unwrap_or(config.stale_buffer);
    config.expired_buffer = expired_buffer.unwrap_or(config.expired_buffer);
    config.retry.attempts = attempts.unwrap_or(config.retry.attempts);
    config.retry.attempt_timeout = attempt_timeout.unwrap_or(config.retry.attempt_timeout);
    config
}

/// A runtime for a command that does one thing.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    runtime_of(&mut Builder::new_current_thread())
}

pub(crate) fn runtime_of(builder: &mut Builder) -> Result<Runtime, Failure> {
    let runtime = files_for_runtime().and_then(|()| builder.enable_all().build());
    runtime.map_err(|error| Failure::Usage(format!("the system gives no event loop: {error}")))
}

/// Whether there are as many files to be had as tokio needs for the loop and for signals. It panics where the last
/// of them are missing.
#[cfg(unix)]
fn files_for_runtime() -> std::io::Result<()> {
    let pairs: Result<Vec<_>, _> = (0..3).map(|_| std::os::unix::net::UnixStream::pair()).collect();
    pairs.map(drop)
}

#[cfg(not(unix))]
fn files_for_runtime() -> std::io::Result<()> {
    Ok(())
}
