//! `authority`: the embedded one, for tests in any language.

use std::io;
use std::path::Path;

use ccg_session::testing::{Authority, AuthorityBuilder, Script};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::args::AuthorityArgs;
use crate::failure::Failure;
use crate::{input, output, provider};

pub(crate) fn run(args: &AuthorityArgs) -> Result<(), Failure> {
    let builder = builder(args)?;
    provider::runtime()?.block_on(async {
        let authority = builder.start().await.map_err(|error| {
            Failure::Usage(match error.kind() {
                io::ErrorKind::InvalidInput => error.to_string(),
                _ => format!("port {} of 127.0.0.1 cannot be had: {error}", args.port),
            })
        })?;
        // Before the line is out, or who reads it could interrupt too early.
        let interrupted = interrupted()?;
        output::json(&Listening::new(&authority))?;
        interrupted.await;
        Ok(())
    })
}

fn builder(args: &AuthorityArgs) -> Result<AuthorityBuilder, Failure> {
    let secret = match &args.client_secret_file {
        Some(path) => input::secret(provider::SECRET, path)?,
        None => SecretString::from("test-secret"),
    };
    let mut builder = Authority::builder()
        .port(args.port)
        .client(&args.client_id, secret.expose_secret())
        .require_subject(args.require_subject);
    if let Some(ttl) = args.ttl {
        builder = builder.ttl(ttl);
    }
    if let Some(path) = &args.client_key {
        builder = builder.client_key(input::secret("the client's key", path)?);
    }
    if let (Some(certificate), Some(key)) = (&args.tls_certificate, &args.tls_key) {
        builder = builder.tls(
            input::text("the certificate", certificate)?,
            input::text("the certificate's key", key)?,
        );
    }
    if let Some(path) = &args.client_ca {
        builder = builder.client_ca(input::text("the CA of clients", path)?);
    }
    if !args.assertion_audience.is_empty() {
        builder = builder.assertion_audiences(&args.assertion_audience);
    }
    if let Some(enterprise) = &args.enterprise {
        builder = builder.enterprise(enterprise);
    }
    for user in &args.users {
        builder = builder.user(user);
    }
    if !args.scopes.is_empty() {
        builder = builder.scopes(&args.scopes);
    }
    Ok(match &args.script {
        Some(path) => builder.script(script(path)?),
        None => builder,
    })
}

fn script(path: &Path) -> Result<Script, Failure> {
    serde_json::from_str(&input::text("the fault script", path)?).map_err(|error| {
        Failure::Usage(format!("the fault script {} cannot be used: {error}", path.display()))
    })
}

/// What whoever started this has to know.
#[derive(Serialize)]
struct Listening {
    base_url: String,
    issuer: String,
    token_url: String,
    revocation_url: String,
    introspection_url: String,
    resource_url: String,
    client_id: String,
    client_secret: String,
    enterprise: String,
}

impl Listening {
    fn new(authority: &Authority) -> Self {
        Self {
            base_url: authority.base_url().into(),
            issuer: authority.base_url().into(),
            token_url: authority.token_url(),
            revocation_url: authority.revocation_url(),
            introspection_url: authority.introspection_url(),
            resource_url: authority.resource_url(),
            client_id: authority.client_id().into(),
            client_secret: authority.client_secret(),
            enterprise: authority.enterprise().into(),
        }
    }
}

/// Waits for Ctrl-C, or for what else asks a program to end.
#[cfg(unix)]
pub(crate) fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::Usage(format!("cannot install a signal handler: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it is the same function elsewhere")]
pub(crate) fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    Ok(async {
        // If it cannot be waited for, then this ends at once rather than never.
        let _ = tokio::signal::ctrl_c().await;
    })
}
