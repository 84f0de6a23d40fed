//! `token` and `exchange`: one session, one question, one answer.

use std::time::Duration;

use ccg_session::{
    Actor, ExchangeRequest, HttpTokenManager, Session, SessionConfig, SessionError, SessionHandle,
};
use http::HeaderValue;
use serde::Serialize;

use crate::args::{ExchangeArgs, Format, GrantArgs, TokenArgs};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::{output, provider};

pub(crate) fn token(args: &TokenArgs) -> Result<(), Failure> {
    let settings = Settings::new(&args.provider, &args.session)?.asking_for(&args.grant);
    let manager = provider::builder(&settings)?.build()?;
    let asked = ask(manager, provider::config(&settings), async |session| {
        let token = session.get_token().await?;
        Ok(Received {
            text: token.secret().to_owned(),
            scheme: Some(scheme(token.header_value())),
            remaining: token.remaining(),
            scope: token.scope().map(str::to_owned),
        })
    });
    let (received, attempts) = provider::runtime()?.block_on(asked)?;
    received.print(args.format, attempts)
}

pub(crate) fn exchange(args: &ExchangeArgs) -> Result<(), Failure> {
    let grant = GrantArgs {
        scope: args.grant_scope.clone(),
        resource: args.grant_resource.clone(),
        audience: args.grant_audience.clone(),
    };
    let settings = Settings::new(&args.provider, &args.session)?.asking_for(&grant);
    // The library would say so too, but only once there is a token to exchange.
    if !settings.is_box() && (args.actor_id.is_some() || args.shared_link.is_some()) {
        let problem = "--actor-id and --shared-link are Box's own, and this is another server: leave \
                       them out";
        return Err(Failure::Usage(problem.into()));
    }
    let manager = provider::builder(&settings)?.build()?;
    let request = request(args);
    let asked = ask(manager, provider::config(&settings), async |session| {
        let token = session.exchange(request).await?;
        Ok(Received {
            text: token.secret().to_owned(),
            scheme: token.header_value().map(scheme),
            remaining: token.remaining(),
            scope: token.scope().map(str::to_owned),
        })
    });
    let (received, attempts) = provider::runtime()?.block_on(asked)?;
    received.print(args.format, attempts)
}

fn request(args: &ExchangeArgs) -> ExchangeRequest {
    let mut request = ExchangeRequest::scopes(&args.scopes);
    request.resources.clone_from(&args.resources);
    request.audiences.clone_from(&args.audiences);
    request.shared_link.clone_from(&args.shared_link);
    request.requested_token_type.clone_from(&args.requested_token_type);
    if let (Some(id), Some(name)) = (&args.actor_id, &args.actor_name) {
        request.actor = Some(Actor::new(id, name));
    }
    request
}

/// Asks a session of its own, and says how many requests it took.
async fn ask<T>(
    manager: HttpTokenManager,
    config: SessionConfig,
    question: impl AsyncFnOnce(SessionHandle) -> Result<T, SessionError>,
) -> Result<(T, u64), Failure> {
    let session = Session::builder(manager).config(config).spawn()?;
    let answer = question(session.clone()).await;
    let counters = session.status().counters();
    let attempts = counters.grants_started + counters.exchanges_started;
    session.shutdown().await;
    match answer {
        Ok(answer) => Ok((answer, attempts)),
        Err(error) => Err(Failure::Session { error, attempts }),
    }
}

/// How a request says that it uses this token.
fn scheme(header: &HeaderValue) -> &'static str {
    if header.as_bytes().starts_with(b"DPoP ") { "DPoP" } else { "Bearer" }
}

/// A token of either kind.
struct Received {
    text: String,
    /// `None` if it goes into no header.
    scheme: Option<&'static str>,
    remaining: Duration,
    scope: Option<String>,
}

/// With `--format json`.
#[derive(Serialize)]
struct Printed<'a> {
    access_token: &'a str,
    token_type: &'a str,
    expires_in: Option<u64>,
    scope: Option<&'a str>,
    attempts: u64,
}

impl Received {
    fn print(&self, format: Format, attempts: u64) -> Result<(), Failure> {
        match format {
            Format::Raw => output::line(&self.text),
            Format::Header => match self.scheme {
                Some(scheme) => output::line(&format!("Authorization: {scheme} {}", self.text)),
                None => Err(Failure::Unfit {
                    problem:
                        "the server says that this is not an access token, so it goes into no \
                              header: use --format raw"
                            .into(),
                    attempts,
                }),
            },
            Format::Json => output::json(&Printed {
                access_token: &self.text,
                token_type: match self.scheme {
                    Some("Bearer") => "bearer",
                    Some(scheme) => scheme,
                    None => "N_A",
                },
                // Whole seconds, rounded down, so that nobody takes it for longer than it is.
                expires_in: (self.remaining != Duration::MAX).then_some(self.remaining.as_secs()),
                scope: self.scope.as_deref(),
                attempts,
            }),
        }
    }
}
