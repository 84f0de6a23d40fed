//! `token` and `exchange`: one session, one question, one answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ccg_session::{
    Actor, ExchangeRequest, HttpTokenManager, Session, SessionConfig, SessionError, SessionHandle,
    TokenRequestOptions,
};
use http::HeaderValue;
use serde::Serialize;

use crate::args::{ExchangeArgs, Format, GrantArgs, TokenArgs};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::{input, output, provider};

pub(crate) fn token(args: TokenArgs) -> Result<(), Failure> {
    let settings = args.settings.complete(args.grant)?;
    let manager = provider::builder(&settings)?.build()?;
    let cache = Cache::open(&settings)?;
    let options = TokenRequestOptions::new().min_remaining(args.min_remaining.unwrap_or_default());
    let asked = ask(manager, cache, provider::config(&settings), async |session| {
        let token = session.get_token_with(options).await?;
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

pub(crate) fn exchange(args: ExchangeArgs) -> Result<(), Failure> {
    let ExchangeArgs {
        scopes,
        grant_scope: scope,
        grant_resource: resource,
        grant_audience: audience,
        resources,
        audiences,
        actor_id,
        actor_name,
        shared_link,
        requested_token_type,
        format,
        settings,
    } = args;
    // The library would say so too, but of the exchange only once there is a token, and of both by one name.
    for (flag, texts) in [
        ("--scope", &scopes),
        ("--audience", &audiences),
        ("--grant-scope", &scope),
        ("--grant-audience", &audience),
    ] {
        input::check_lines(flag, texts)?;
    }
    for (flag, texts) in [
        ("--resource", &*resources),
        ("--grant-resource", &*resource),
        ("--shared-link", shared_link.as_slice()),
        ("--requested-token-type", requested_token_type.as_slice()),
    ] {
        input::check_words(flag, texts)?;
    }
    let settings = settings.complete(GrantArgs { scope, resource, audience })?;
    let mut request = ExchangeRequest::scopes(scopes);
    request.resources = resources;
    request.audiences = audiences;
    request.actor = actor_id.zip(actor_name).map(|(id, name)| Actor::new(id, name));
    request.shared_link = shared_link;
    request.requested_token_type = requested_token_type;
    // As above.
    if !settings.is_box() && (request.actor.is_some() || request.shared_link.is_some()) {
        let problem = "--actor-id and --shared-link are Box's own, and this is another server: leave \
                       them out";
        return Err(Failure::Usage(problem.into()));
    }
    let manager = provider::builder(&settings)?.build()?;
    let cache = Cache::open(&settings)?;
    let asked = ask(manager, cache, provider::config(&settings), async |session| {
        let token = session.exchange(request).await?;
        Ok(Received {
            text: token.secret().to_owned(),
            scheme: token.header_value().map(scheme),
            remaining: token.remaining(),
            scope: token.scope().map(str::to_owned),
        })
    });
    let (received, attempts) = provider::runtime()?.block_on(asked)?;
    received.print(format, attempts)
}

/// Asks a session of its own, and says how many requests it took.
async fn ask<T>(
    manager: HttpTokenManager,
    cache: Option<Cache>,
    config: SessionConfig,
    question: impl AsyncFnOnce(SessionHandle) -> Result<T, SessionError>,
) -> Result<(T, u64), Failure> {
    let session = match &cache {
        Some(cache) => cache.session(manager, config)?,
        None => Session::builder(manager).config(config).spawn()?,
    };
    let answer = question(session.clone()).await;
    let counters = session.status().counters();
    session.shutdown().await;
    let grants = match &cache {
        Some(cache) => {
            cache.settle().await;
            cache.grants()
        }
        None => counters.grants_started,
    };
    let attempts = grants + counters.exchanges_started;
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

/// With `--format exec-credential`, in the version that is stable.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential<'a> {
    api_version: &'static str,
    kind: &'static str,
    status: ExecStatus<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus<'a> {
    token: &'a str,
    /// Until then it is not asked for another, unless it meets a 401.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_timestamp: Option<String>,
}

impl<'a> ExecCredential<'a> {
    fn new(received: &'a Received) -> Self {
        let timestamp = end(received.remaining);
        Self {
            api_version: "client.authentication.k8s.io/v1",
            kind: "ExecCredential",
            status: ExecStatus { token: &received.text, expiration_timestamp: timestamp },
        }
    }
}

/// In whole seconds, rounded down. `None` of a token that does not end, as far as calendars go.
fn end(remaining: Duration) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let end = now.checked_add(remaining).filter(|end| end.as_secs() < YEAR_10_000)?;
    Some(humantime::format_rfc3339_seconds(UNIX_EPOCH + end).to_string())
}

/// RFC 3339 has four digits for it.
const YEAR_10_000: u64 = 253_402_300_800;

const NO_HEADER: &str = "the server says that this is not an access token, so it goes into no header: use \
    --format raw";

const NO_PROOF: &str =
    "this token is bound to a key, and kubectl makes no proofs: leave out --dpop-key";

impl Received {
    fn print(&self, format: Format, attempts: u64) -> Result<(), Failure> {
        let unfit = |problem: &str| Failure::Unfit { problem: problem.into(), attempts };
        match format {
            Format::Raw => output::line(&self.text),
            Format::Header => match self.scheme {
                Some(scheme) => output::line(&format!("Authorization: {scheme} {}", self.text)),
                None => Err(unfit(NO_HEADER)),
            },
            Format::ExecCredential => match self.scheme {
                Some("Bearer") => output::json(&ExecCredential::new(self)),
                Some(_) => Err(unfit(NO_PROOF)),
                None => Err(unfit(NO_HEADER)),
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
