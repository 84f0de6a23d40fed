//! From settings to a token manager and a session's configuration.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use ccg_session::{
    Credential, HttpTokenManager, HttpTokenManagerBuilder, Provider, RefreshMode, SessionConfig,
    Subject,
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
    if let Some(auth) = settings.auth {
        provider = provider.client_auth(auth.into());
    }
    let client_id = match &settings.client_id {
        Some(id) => id.clone(),
        None => variable(ID_VARIABLE)?.ok_or_else(|| {
            let wanted = format!("no client id: give --client-id ID, or set {ID_VARIABLE}");
            Failure::Usage(wanted)
        })?,
    };
    let credential = match settings.auth {
        Some(Auth::TlsClient | Auth::None) => Credential::none(),
        _ => client_secret(settings)?.into(),
    };
    let mut builder = HttpTokenManager::builder(provider, client_id, credential)
        .allow_insecure_http(settings.allow_insecure_http);
    if let Some(path) = &settings.root_certificate {
        builder = builder.root_certificate(text("the certificates to trust", path)?);
    }
    builder = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => builder.client_certificate(
            text("the client's certificate", certificate)?,
            text("the client's key", key)?,
        ),
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
        Some(base) if box_enterprise.is_some() || box_user.is_some() => Ok(provider.base_url(base)),
        Some(_) => {
            let wanted = "box-base-url goes with --box-enterprise or --box-user only: leave it out";
            Err(Failure::Usage(wanted.into()))
        }
        None => Ok(provider),
    }
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
    Ok(secret.into())
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

/// What is in this file, or on stdin if it is `-`, without a newline at its end.
pub(crate) fn secret_file(path: &Path) -> Result<SecretString, Failure> {
    if path == Path::new("-") {
        return secret_from_stdin("the client's secret");
    }
    Ok(without_newline(text("the client's secret", path)?))
}

fn text(what: &str, path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::Usage(format!("{what} cannot be read from {}: {error}", path.display()))
    })
}

/// All of stdin, without a newline at its end.
pub(crate) fn secret_from_stdin(what: &str) -> Result<SecretString, Failure> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("{what} cannot be read from stdin: {error}")))?;
    Ok(without_newline(text))
}

fn without_newline(mut text: String) -> SecretString {
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    text.into()
}

/// For a command that asks once and ends: it refreshes nothing behind anybody's back.
pub(crate) fn config(settings: &Settings) -> SessionConfig {
    let mut config = settings.session.clone();
    config.refresh_mode = RefreshMode::OnRequest;
    config
}

/// A runtime for a command that does one thing.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Usage(format!("the system gives no event loop: {error}")))
}
