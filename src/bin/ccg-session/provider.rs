//! From flags to a token manager and a session's configuration.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use ccg_session::{ClientAuth, HttpTokenManager, Provider, RefreshMode, SessionConfig, Subject};
use secrecy::SecretString;
use tokio::runtime::{Builder, Runtime};

use crate::args::{Auth, ProviderArgs, SessionArgs};
use crate::failure::Failure;

const SECRET_VARIABLE: &str = "CCG_SESSION_CLIENT_SECRET";

/// A manager for these flags, and the scopes that its grants ask for.
pub(crate) fn manager(args: &ProviderArgs, scopes: &[String]) -> Result<HttpTokenManager, Failure> {
    let mut provider = provider(args)?.scopes(scopes);
    for (name, value) in &args.params {
        provider = provider.param(name, value.as_str());
    }
    let client_id = args.client_id.as_deref().ok_or_else(|| {
        let wanted = "no client id: give --client-id ID, or set CCG_SESSION_CLIENT_ID";
        Failure::Usage(wanted.into())
    })?;
    let mut builder = HttpTokenManager::builder(provider, client_id, client_secret(args)?)
        .allow_insecure_http(args.allow_insecure_http);
    if let Some(timeout) = args.connect_timeout {
        builder = builder.connect_timeout(timeout);
    }
    Ok(builder.build()?)
}

fn provider(args: &ProviderArgs) -> Result<Provider, Failure> {
    let subject = match (&args.box_enterprise, &args.box_user, &args.token_url) {
        (Some(id), ..) => Subject::enterprise(id),
        (_, Some(id), _) => Subject::user(id),
        (.., Some(url)) => return Ok(generic(args, url)),
        _ => {
            let wanted = "no provider: give --box-enterprise ID or --box-user ID for Box, or \
                          --token-url URL for another server";
            return Err(Failure::Usage(wanted.into()));
        }
    };
    let provider = Provider::box_ccg(subject);
    Ok(match &args.box_base_url {
        Some(base) => provider.base_url(base),
        None => provider,
    })
}

fn generic(args: &ProviderArgs, token_url: &str) -> Provider {
    let provider = Provider::generic(token_url).client_auth(match args.auth {
        Some(Auth::Basic) => ClientAuth::Basic,
        Some(Auth::Post) | None => ClientAuth::Post,
    });
    match &args.revocation_url {
        Some(url) => provider.revocation_url(url),
        None => provider,
    }
}

/// From the file if there is one, else from the environment; never from an argument.
fn client_secret(args: &ProviderArgs) -> Result<SecretString, Failure> {
    if let Some(path) = &args.client_secret_file {
        return secret_file(path);
    }
    match std::env::var(SECRET_VARIABLE) {
        Ok(secret) => Ok(secret.into()),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::Usage(format!("{SECRET_VARIABLE} is not valid UTF-8")))
        }
        Err(std::env::VarError::NotPresent) => Err(Failure::Usage(format!(
            "no client secret: set {SECRET_VARIABLE}, or give --client-secret-file PATH (\"-\" \
             reads it from stdin)"
        ))),
    }
}

/// What is in this file, or on stdin if it is `-`, without a newline at its end.
pub(crate) fn secret_file(path: &Path) -> Result<SecretString, Failure> {
    if path == Path::new("-") {
        return secret_from_stdin("the client's secret");
    }
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::Usage(format!(
            "the client's secret cannot be read from {}: {error}",
            path.display()
        ))
    })?;
    Ok(without_newline(text))
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
pub(crate) fn config(args: &SessionArgs) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.refresh_mode = RefreshMode::OnRequest;
    config.stale_buffer = args.stale_buffer.unwrap_or(config.stale_buffer);
    config.expired_buffer = args.expired_buffer.unwrap_or(config.expired_buffer);
    config.retry.attempts = args.attempts.unwrap_or(config.retry.attempts);
    config.retry.attempt_timeout = args.attempt_timeout.unwrap_or(config.retry.attempt_timeout);
    config
}

/// A runtime for a command that does one thing.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Usage(format!("the system gives no event loop: {error}")))
}
