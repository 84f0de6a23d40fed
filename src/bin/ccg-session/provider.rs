//! From settings to a token manager and a session's configuration.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use ccg_session::{
    AssertionAudience, ClientAuth, Credential, DpopKey, HttpTokenManager, HttpTokenManagerBuilder,
    JwtAuth, Provider, RefreshMode, SessionConfig, Subject,
};
use secrecy::SecretString;
use tokio::runtime::{Builder, Runtime};

use crate::args::Auth;
use crate::failure::Failure;
use crate::settings::Settings;

// The file counts more than both: or a client that the environment is about could be shown to the
// server that the file is about.
const ID_VARIABLE: &str = "CCG_SESSION_CLIENT_ID";
const SECRET_VARIABLE: &str = "CCG_SESSION_CLIENT_SECRET";

/// A manager's builder for these settings.
pub(crate) fn builder(settings: &Settings) -> Result<HttpTokenManagerBuilder, Failure> {
    let mut provider = provider(settings)?.scopes(&settings.scope);
    for resource in &settings.resource {
        provider = provider.resource(resource);
    }
    for audience in &settings.audience {
        provider = provider.audience(audience);
    }
    for (name, value) in &settings.param {
        provider = provider.param(name, value.as_str());
    }
    if let Some(url) = &settings.revocation_url {
        provider = provider.revocation_url(url);
    }
    if let Some(url) = &settings.introspection_url {
        provider = provider.introspection_url(url);
    }
    provider = provider.client_auth(client_auth(settings)?);
    let client_id = match &settings.client_id {
        Some(id) => id.clone(),
        None => variable(ID_VARIABLE)?.ok_or_else(|| {
            let wanted = format!("no client id: give --client-id ID, or set {ID_VARIABLE}");
            Failure::Usage(wanted)
        })?,
    };
    let credential = match settings.auth {
        Some(auth @ (Auth::TlsClient | Auth::None)) => {
            // That of the environment may be meant for another server.
            if settings.client_secret_file.is_some() {
                let auth = if auth == Auth::None { "none" } else { "tls-client" };
                return Err(Failure::Usage(format!(
                    "client-secret-file would not be used, since auth is {auth}, which sends no \
                     secret: leave out one of them"
                )));
            }
            Credential::none()
        }
        _ => client_secret(settings)?.into(),
    };
    let mut builder = HttpTokenManager::builder(provider, client_id, credential)
        .allow_insecure_http(settings.allow_insecure_http);
    if let Some(path) = &settings.dpop_key {
        let key = text("the key for DPoP", path)?;
        let key = DpopKey::parse(key)
            .map_err(|error| Failure::Usage(format!("{error} (the file {})", path.display())))?;
        builder = builder.dpop(key);
    }
    if let Some(path) = &settings.root_certificate {
        builder = builder.root_certificate(text("the certificates to trust", path)?);
    }
    builder = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => builder.client_certificate(
            text("the client's certificate", certificate)?,
            text("the client's key", key)?,
        ),
        (None, None) if settings.auth == Some(Auth::TlsClient) => {
            let wanted = "auth tls-client shows a certificate: give --client-certificate PATH and \
                          --client-key PATH";
            return Err(Failure::Usage(wanted.into()));
        }
        (None, None) => builder,
        _ => {
            let wanted = "a client certificate needs its key: give both --client-certificate PATH and \
                          --client-key PATH";
            return Err(Failure::Usage(wanted.into()));
        }
    };
    Ok(match settings.connect_timeout {
        Some(timeout) => builder.connect_timeout(timeout),
        None => builder,
    })
}

fn provider(settings: &Settings) -> Result<Provider, Failure> {
    let Settings { issuer, box_enterprise, box_user, token_url, .. } = settings;
    let provider = match (issuer, box_enterprise, box_user, token_url) {
        (Some(issuer), None, None, None) => Provider::discover(issuer),
        (None, Some(id), None, None) => Provider::box_ccg(Subject::enterprise(id)),
        (None, None, Some(id), None) => Provider::box_ccg(Subject::user(id)),
        (None, None, None, Some(url)) => Provider::generic(url),
        (None, None, None, None) => {
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
    match &settings.box_base_url {
        Some(base) if settings.is_box() => Ok(provider.base_url(base)),
        Some(_) => {
            let wanted = "box-base-url goes with --box-enterprise or --box-user only: leave it out";
            Err(Failure::Usage(wanted.into()))
        }
        None => Ok(provider),
    }
}

fn client_auth(settings: &Settings) -> Result<ClientAuth, Failure> {
    let Settings { algorithm, key_id, assertion_audience, .. } = settings;
    let jwt = || {
        let mut jwt = JwtAuth::new();
        if let Some(name) = algorithm {
            jwt = jwt.algorithm(name.parse()?);
        }
        if let Some(id) = key_id {
            jwt = jwt.key_id(id);
        }
        if let Some(whom) = assertion_audience {
            jwt = jwt.audience(match &**whom {
                "endpoint" => AssertionAudience::Endpoint,
                "issuer" if settings.issuer.is_none() => {
                    let wanted = "assertion-audience is issuer, which is known with --issuer only: \
                                  write it out";
                    return Err(Failure::Usage(wanted.into()));
                }
                "issuer" => AssertionAudience::Issuer,
                text => AssertionAudience::value(text),
            });
        }
        Ok(jwt)
    };
    let auth = match settings.auth.unwrap_or(Auth::Post) {
        Auth::SecretJwt => return Ok(ClientAuth::SecretJwt(jwt()?)),
        Auth::PrivateKeyJwt => return Ok(ClientAuth::PrivateKeyJwt(jwt()?)),
        Auth::Post => ClientAuth::Post,
        Auth::Basic => ClientAuth::Basic,
        Auth::BasicRaw => ClientAuth::BasicRaw,
        Auth::Assertion => ClientAuth::Assertion,
        Auth::TlsClient => ClientAuth::TlsClient,
        Auth::None => ClientAuth::None,
    };
    if [algorithm, key_id, assertion_audience].into_iter().any(Option::is_some) {
        let wanted = "algorithm, key-id and assertion-audience say how an assertion is made: give \
                      --auth private-key-jwt or secret-jwt, or leave them out";
        return Err(Failure::Usage(wanted.into()));
    }
    Ok(auth)
}

/// From the file if there is one, else from the environment; never from an argument.
fn client_secret(settings: &Settings) -> Result<SecretString, Failure> {
    if let Some(path) = &settings.client_secret_file {
        return secret_file(path);
    }
    let secret = variable(SECRET_VARIABLE)?.ok_or_else(|| {
        Failure::Usage(format!(
            "no client secret: set {SECRET_VARIABLE}, or give --client-secret-file PATH (\"-\" \
             reads it from stdin)"
        ))
    })?;
    without_newline(SECRET, &format!("the variable {SECRET_VARIABLE}"), secret)
}

fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::Usage(format!("{name} is not valid UTF-8")))
        }
    }
}

/// The client's secret, which is in this file, or on stdin if it is `-`.
pub(crate) fn secret_file(path: &Path) -> Result<SecretString, Failure> {
    if path == Path::new("-") {
        return secret_from_stdin(SECRET);
    }
    let place = path.display().to_string();
    without_newline(SECRET, &place, read(SECRET, &place, File::open(path))?)
}

/// All of stdin.
pub(crate) fn secret_from_stdin(what: &str) -> Result<SecretString, Failure> {
    without_newline(what, "stdin", read(what, "stdin", Ok(io::stdin()))?)
}

/// As errors call it.
const SECRET: &str = "the client's secret";

/// No secret is longer, and a wrong path may name anything.
const MAX_SECRET: u64 = 1024 * 1024;

fn read(what: &str, place: &str, source: io::Result<impl Read>) -> Result<String, Failure> {
    let mut text = String::new();
    let problem = match source.and_then(|it| it.take(MAX_SECRET + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 <= MAX_SECRET => {
            // Some editors mark a file as UTF-8 so.
            if text.starts_with('\u{feff}') {
                text.remove(0);
            }
            return Ok(text);
        }
        Ok(_) => "it is longer than 1 MiB".into(),
        Err(error) => error.to_string(),
    };
    Err(Failure::Usage(format!("{what} cannot be read from {place}: {problem}")))
}

/// Editors and `echo` leave one at the end.
fn without_newline(what: &str, place: &str, mut text: String) -> Result<SecretString, Failure> {
    let length = text.trim_end_matches(['\r', '\n']).len();
    if length == 0 {
        return Err(Failure::Usage(format!("{what} is empty ({place})")));
    }
    text.truncate(length);
    Ok(text.into())
}

fn text(what: &str, path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::Usage(format!("{what} cannot be read from {}: {error}", path.display()))
    })
}

/// For a command that asks once and ends: it refreshes nothing behind anybody's back.
pub(crate) fn config(settings: &Settings) -> SessionConfig {
    let (set, mut config) = (&settings.session, SessionConfig::default());
    config.refresh_mode = RefreshMode::OnRequest;
    config.stale_buffer = set.stale_buffer.unwrap_or(config.stale_buffer);
    config.expired_buffer = set.expired_buffer.unwrap_or(config.expired_buffer);
    let retry = &mut config.retry;
    retry.attempts = set.attempts.unwrap_or(retry.attempts);
    retry.attempt_timeout = set.attempt_timeout.unwrap_or(retry.attempt_timeout);
    config
}

/// A runtime for a command that does one thing.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Usage(format!("the system gives no event loop: {error}")))
}
