//! No client secret and no token in anything that is shown: not in a tracing event or span at any level,
//! not in any `Debug` or `Display`, whatever the server answers.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ccg_session::testing::{Answer, Authority, Fault, Kind, Script};
use ccg_session::{
    AccessToken, Actor, ClientAuth, Credential, DpopKey, ExchangeRequest, Grant, GrantRequest,
    HttpTokenManager, JwtAuth, Provider, RefreshMode, Session, SessionError, SessionHandle,
    TokenError, TokenManager, TokenRequestOptions, TokenText,
};
use http::StatusCode;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::loopback::{Request, Server, answer};
use super::recording::record;
use super::{client, millis, secs, session_of};

/// Not to be found in anything; its other forms are `%2B` for `+`, and base64.
const SECRET: &str = "pl4nted+s3cret";
const ENCODED: &str = "pl4nted%2Bs3cret";

/// Everything that was shown, by whatever way.
#[derive(Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<String>>);

impl Shown {
    /// Records every event and span of this thread, at every level.
    pub(crate) fn recording() -> (Self, DefaultGuard) {
        let shown = Self::default();
        let recorder = record(Registry::default().with(shown.clone()));
        (shown, recorder)
    }

    fn line(&self, line: &str) {
        let mut text = self.0.lock().unwrap();
        text.push_str(line);
        text.push('\n');
    }

    fn debug(&self, value: &impl Debug) {
        self.line(&format!("{value:?}\n{value:#?}"));
    }

    fn error(&self, error: &impl std::error::Error) {
        self.debug(error);
        self.line(&error.to_string());
        let mut source = error.source();
        while let Some(error) = source {
            self.line(&format!("{error} {error:?} {error:#?}"));
            source = error.source();
        }
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn assert_holds_none_of<'a>(&self, secrets: impl IntoIterator<Item = &'a str>) {
        let text = self.text();
        for secret in secrets {
            assert!(secret.len() > 5, "{secret:?} would be found anywhere");
            for line in text.lines() {
                assert!(!line.contains(secret), "{secret:?} is in: {line}");
            }
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Shown {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut line = format!("span {}", attributes.metadata().name());
        attributes.record(&mut Fields(&mut line));
        self.line(&line);
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut line = "record".to_owned();
        values.record(&mut Fields(&mut line));
        self.line(&line);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = format!("event {}", event.metadata().name());
        event.record(&mut Fields(&mut line));
        self.line(&line);
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

/// The control: what is planted is found, wherever it is.
#[test]
fn the_recorder_sees_a_planted_secret() {
    let plants: [fn(); 5] = [
        || tracing::trace!("{SECRET}"),
        || tracing::error!(field = SECRET, "a message"),
        || tracing::debug!(field = ?Some(SECRET), "a message"),
        || drop(tracing::trace_span!("span", field = SECRET)),
        || {
            let span = tracing::trace_span!("span", field = tracing::field::Empty);
            span.record("field", tracing::field::display(SECRET));
        },
    ];
    for (index, plant) in plants.iter().enumerate() {
        let (shown, _recorder) = Shown::recording();
        plant();
        assert!(shown.text().contains(SECRET), "plant {index}");
        let caught = std::panic::catch_unwind(|| shown.assert_holds_none_of([SECRET]));
        assert!(caught.is_err(), "plant {index}");
    }
    let shown = Shown::default();
    shown.error(&TokenError::denied("invalid_client", SECRET));
    assert!(shown.text().contains(SECRET));
}

async fn authority() -> Authority {
    Authority::builder().client("the-client", SECRET).start().await.unwrap()
}

fn manager(authority: &Authority, auth: ClientAuth) -> HttpTokenManager {
    let provider = authority.provider().client_auth(auth);
    let builder = HttpTokenManager::builder(provider, "the-client", SECRET);
    builder.http_client(client()).build().unwrap()
}

fn session(authority: &Authority, auth: ClientAuth, timeout: Duration) -> SessionHandle {
    session_of(manager(authority, auth), |config| {
        config.retry.attempts = 1;
        config.retry.attempt_timeout = timeout;
    })
}

fn narrow() -> ExchangeRequest {
    ExchangeRequest::scopes(["item_preview"]).actor(Actor::new("annotator-7", "Ada"))
}

/// The client's secret in each form in which it is sent.
fn forms_of_the_secret() -> Vec<String> {
    let basic = BASE64_STANDARD.encode(format!("the-client:{ENCODED}"));
    vec![SECRET.into(), ENCODED.into(), basic]
}

#[tokio::test]
async fn a_life_without_failures_shows_no_secret() {
    let (shown, _recorder) = Shown::recording();
    let authority = authority().await;
    let mut secrets = forms_of_the_secret();
    for auth in [ClientAuth::Post, ClientAuth::Basic] {
        shown.debug(&authority.provider().param("assertion", SECRET));
        let builder = HttpTokenManager::builder(authority.provider(), "the-client", SECRET);
        shown.debug(&builder);
        shown.debug(&manager(&authority, auth.clone()));
        shown.debug(&Session::builder(manager(&authority, auth.clone())));
        let session = session(&authority, auth.clone(), secs(10));

        let token = session.get_token().await.unwrap();
        let exchanged = session.exchange(narrow()).await.unwrap();
        secrets.extend([token.secret().to_owned(), exchanged.secret().to_owned()]);
        shown.debug(&token);
        shown.debug(&token.as_ref());
        shown.debug(&token.header_value());
        shown.debug(&token.id());
        shown.debug(&exchanged);
        shown.debug(&exchanged.header_value());
        shown.debug(&session);
        shown.debug(&session.status());
        shown.debug(&session.subscribe());
        shown.debug(&narrow());

        session.invalidate(&token);
        let second = session.get_token().await.unwrap();
        secrets.push(second.secret().to_owned());
        session.revoke().await.unwrap();
        shown.debug(&session);
        session.shutdown().await;
        shown.debug(&session);
    }
    shown.debug(&authority);
    shown.debug(&authority.requests());
    let text = shown.text();
    for name in ["span ccg_session.attempt", "event token.published", "event session.phase"] {
        assert!(text.contains(name), "{name} is missing, so nothing was recorded: {text}");
    }
    for kind in ["kind=\"grant\"", "kind=\"exchange\"", "kind=\"revocation\"", "outcome=\"ok\""] {
        assert!(text.contains(kind), "{kind} is missing: {text}");
    }
    shown.assert_holds_none_of(secrets.iter().map(String::as_str));
}

#[tokio::test]
async fn a_grant_that_fails_shows_no_secret_even_if_the_server_repeats_it() {
    failures_show_no_secret(Kind::Grant).await;
}

#[tokio::test]
async fn an_exchange_that_fails_shows_no_secret_even_if_the_server_repeats_it() {
    failures_show_no_secret(Kind::Exchange).await;
}

#[tokio::test]
async fn a_revocation_that_fails_shows_no_secret_even_if_the_server_repeats_it() {
    failures_show_no_secret(Kind::Revoke).await;
}

/// Errors of every kind, from servers that repeat whatever they were sent.
async fn failures_show_no_secret(kind: Kind) {
    let (shown, _recorder) = Shown::recording();
    let authority = authority().await;
    let mut secrets = forms_of_the_secret();
    for auth in [ClientAuth::Post, ClientAuth::Basic] {
        for fault in failures() {
            authority.heal();
            let hangs = matches!(fault, Failure::Fault(Fault::Hang));
            let session = session(&authority, auth.clone(), secs(if hangs { 1 } else { 10 }));
            if kind != Kind::Grant {
                secrets.push(session.get_token().await.unwrap().secret().to_owned());
            }
            authority.fail(kind, repeating(fault, &session));
            let error = match kind {
                Kind::Grant => session.get_token().await.map(drop),
                Kind::Exchange => session.exchange(narrow()).await.map(drop),
                _ => session.revoke().await,
            };
            let Err(error) = error else { continue };
            shown.error(&error);
            if let Some(met) = error.token_error() {
                shown.error(met);
            }
            shown.debug(&session);
            if kind == Kind::Grant {
                shown.error(&session.get_token().await.unwrap_err()); // it cools
            }
        }
    }
    let text = shown.text();
    for word in ["invalid_client", "TimedOut", "Transport", "Malformed", "[redacted]"] {
        // What confirms a revocation is not read.
        let met = text.contains(word) || (kind == Kind::Revoke && word == "Malformed");
        assert!(met, "{word} is missing, so that failure was not met");
    }
    shown.assert_holds_none_of(secrets.iter().map(String::as_str));
}

/// A server that refuses everybody, and repeats all that it was sent of a secret.
async fn echo() -> (String, Arc<Mutex<Vec<String>>>) {
    const SECRET: [&str; 2] = ["client_secret", "client_assertion"];
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = sent.clone();
    let server = Server::start(move |request: &Request| {
        let form = request.form().into_iter().filter(|(name, _)| SECRET.contains(&&**name));
        let mut secrets: Vec<_> = form.map(|(_, value)| value).collect();
        let header = request.header("authorization");
        secrets.extend(header.map(|header| header.split_once(' ').unwrap().1.to_owned()));
        secrets.extend(request.header("dpop").map(str::to_owned));
        // An assertion's signature, and a secret as it stands in the form.
        let signatures = secrets.iter().filter_map(|secret| secret.rsplit_once('.'));
        let signatures: Vec<_> = signatures.map(|(_, signature)| signature.into()).collect();
        let encoded = request.body.split('&').filter_map(|pair| pair.split_once('='));
        let encoded = encoded.filter(|(name, _)| SECRET.contains(name));
        secrets.extend(encoded.map(|(_, value)| value.to_owned()));
        secrets.extend(signatures);
        let body = serde_json::json!({
            "error": "invalid_client", "error_description": secrets.join(" "),
        });
        seen.lock().unwrap().append(&mut secrets);
        answer(401, "", &body.to_string())
    });
    (format!("{}/token", server.await.base), sent)
}

/// Each way of authenticating, with each kind of credential, against a server that repeats it.
#[tokio::test]
async fn what_each_method_sends_is_not_shown() {
    const KEY: &str = include_str!("../keys/p256.pem");
    const JWK: &str = include_str!("../keys/rsa.jwk");
    const ASSERTION: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.pl4nted-s1gnature";
    let (shown, _recorder) = Shown::recording();
    let (url, sent) = echo().await;
    let file = std::env::temp_dir().join(format!("secrets-{}", std::process::id()));
    std::fs::write(&file, ASSERTION).unwrap();
    let jwt = JwtAuth::new;
    let closure = || async { Ok::<_, std::io::Error>(SECRET) };
    let methods: [(ClientAuth, Credential); 9] = [
        (ClientAuth::Post, SECRET.into()),
        (ClientAuth::Post, Credential::from_fn(closure)),
        (ClientAuth::Basic, SECRET.into()),
        (ClientAuth::BasicRaw, SECRET.into()),
        (ClientAuth::SecretJwt(jwt()), SECRET.into()),
        (ClientAuth::PrivateKeyJwt(jwt()), KEY.into()),
        (ClientAuth::PrivateKeyJwt(jwt()), JWK.into()),
        (ClientAuth::Assertion, ASSERTION.into()),
        (ClientAuth::Assertion, Credential::file(&file)),
    ];
    let number = methods.len();
    for (auth, credential) in methods {
        let provider = Provider::generic(&url).client_auth(auth);
        shown.debug(&provider);
        let builder = HttpTokenManager::builder(provider, "the-client", credential);
        shown.debug(&builder);
        let builder = builder.dpop(DpopKey::parse(JWK).unwrap());
        shown.debug(&builder);
        let manager = builder.http_client(client()).build().unwrap();
        shown.debug(&manager);
        let session = Session::builder(manager).spawn().unwrap();
        shown.error(&session.get_token().await.unwrap_err());
        shown.debug(&session);
    }
    std::fs::remove_file(&file).unwrap();
    let sent = sent.lock().unwrap().clone();
    assert!(sent.len() >= number, "each sent something: {sent:?}");
    assert!(shown.text().contains("[redacted]"), "{}", shown.text());
    shown.assert_holds_none_of(sent.iter().map(String::as_str));
    // A line of the PEM, and the JWK's private numbers.
    let jwk: serde_json::Value = serde_json::from_str(JWK).unwrap();
    let private = ["d", "p", "q"].map(|name| jwk[name].as_str().unwrap());
    shown.assert_holds_none_of(private.into_iter().chain([KEY.lines().nth(1).unwrap(), SECRET]));
}

/// What is configured may hold more secrets than those that are asked for: a key in the certificate's file,
/// a password or a key in an address.
#[tokio::test]
async fn the_configuration_shows_no_secret() {
    const KEY: &str = include_str!("../keys/p256.pem");
    let shown = Shown::default();
    let url = |path: &str| format!("https://the-client:{SECRET}@as.example/{path}?key={SECRET}");
    let provider = Provider::generic(url("token"))
        .revocation_url(url("revoke"))
        .introspection_url(url("introspect"));
    shown.debug(&provider);
    shown.debug(&Provider::discover(url("")));
    let builder = HttpTokenManager::builder(provider, "the-client", SECRET)
        .root_certificate(KEY)
        .client_certificate(KEY, KEY);
    shown.debug(&builder);
    let provider = Provider::generic(format!("https://as.example/token?key={SECRET}"));
    let builder = HttpTokenManager::builder(provider, "the-client", SECRET);
    let manager = builder.http_client(client()).build().unwrap();
    shown.debug(&manager);
    shown.debug(&manager.endpoints().await.unwrap());
    assert!(shown.text().contains("https://as.example/token"), "{}", shown.text());
    shown.assert_holds_none_of([SECRET, KEY.lines().nth(1).unwrap()]);
}

/// A fault, or an answer in which `TOKEN` stands for the token that the session holds.
enum Failure {
    Fault(Fault),
    Body(u16, String),
    Header(u16, String),
}

fn failures() -> Vec<Failure> {
    let all = format!("{} TOKEN", forms_of_the_secret().join(" "));
    let mut failures: Vec<_> =
        [Fault::Hang, Fault::Drop, Fault::Cut, Fault::Malformed, Fault::Html]
            .map(Failure::Fault)
            .into();
    for status in [200, 400, 401, 403, 429, 500] {
        for body in [
            serde_json::json!({ "error": "invalid_client", "error_description": all }).to_string(),
            serde_json::json!({ "error": all, "error_uri": all }).to_string(),
            serde_json::json!({ "access_token": "TOKEN", "token_type": all }).to_string(),
            serde_json::json!({ "access_token": all }).to_string(),
            format!("<html>{all}</html>"),
            all.clone(),
        ] {
            failures.push(Failure::Body(status, body));
        }
    }
    failures.push(Failure::Header(
        302,
        format!("https://{SECRET}@login.example.com/{ENCODED}?t=TOKEN"),
    ));
    failures
}

fn repeating(failure: Failure, session: &SessionHandle) -> Fault {
    let token = session.try_token().map(|token| token.secret().to_owned()).unwrap_or_default();
    let status = |status| StatusCode::from_u16(status).unwrap();
    match failure {
        Failure::Fault(fault) => fault,
        Failure::Body(code, body) => {
            Answer::new(status(code)).body(body.replace("TOKEN", &token)).into()
        }
        Failure::Header(code, location) => {
            let location = location.replace("TOKEN", &token).parse().unwrap();
            Answer::new(status(code)).header(http::header::LOCATION, location).into()
        }
    }
}

/// Whatever a manager's panic says stays out of what the session shows.
#[tokio::test]
async fn a_panic_shows_no_secret() {
    struct Panicking;

    impl TokenManager for Panicking {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            panic!("{SECRET}")
        }
    }

    let (shown, _recorder) = Shown::recording();
    let session = Session::builder(Panicking).spawn().unwrap();
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Panicked)), "{error:?}");
    shown.error(&error);
    assert!(shown.text().contains("the token manager panicked"));
    shown.assert_holds_none_of([SECRET]);
}

/// What a manager of somebody's own is handed.
#[tokio::test]
async fn what_a_manager_is_handed_shows_no_secret() {
    #[derive(Clone)]
    struct Showing(Shown);

    impl TokenManager for Showing {
        async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
            self.0.debug(&request);
            let grant = Grant::bearer(format!("t0ken-{}", fastrand::u32(..)))?;
            self.0.debug(&grant);
            Ok(grant)
        }

        async fn exchange(
            &self,
            subject: AccessToken,
            request: ExchangeRequest,
        ) -> Result<Grant, TokenError> {
            self.0.debug(&subject);
            self.0.debug(&request);
            Grant::bearer("t0ken-narrow")
        }

        async fn revoke(
            &self,
            token: TokenText,
            options: TokenRequestOptions,
        ) -> Result<(), TokenError> {
            self.0.debug(&token);
            self.0.debug(&options);
            Ok(())
        }

        fn can_exchange(&self) -> bool {
            true
        }

        fn can_revoke(&self) -> bool {
            true
        }
    }

    let (shown, _recorder) = Shown::recording();
    let session = Session::builder(Showing(shown.clone())).spawn().unwrap();
    session.get_token().await.unwrap();
    let request =
        narrow().param("actor_token", SECRET).shared_link(format!("https://x/s/{SECRET}"));
    session.exchange(request).await.unwrap();
    session.revoke().await.unwrap();
    session.get_token().await.unwrap();
    assert!(shown.text().contains("item_preview"));
    shown.assert_holds_none_of([SECRET, "t0ken-"]);
}

#[test]
fn a_fixed_session_shows_no_secret() {
    let shown = Shown::default();
    let session = SessionHandle::fixed(SECRET).unwrap();
    let token = session.try_token().unwrap();
    shown.debug(&session);
    shown.debug(&token);
    session.invalidate(&token);
    shown.error(&session.blocking_get_token().unwrap_err());
    shown.error(&SessionHandle::fixed(&format!("{SECRET} ")).unwrap_err());
    shown.assert_holds_none_of([SECRET]);
}

#[test]
fn configuration_errors_show_no_secret() {
    let shown = Shown::default();
    let url = |url: &str| HttpTokenManager::builder(Provider::generic(url), "id", SECRET).build();
    for result in [
        url(&format!("https://id:{SECRET}@login.example.com/token")),
        url(&format!("http://login.example.com/token?key={SECRET}")),
        url(&format!("no-url?key={SECRET}")),
        url(&format!("https://login.example.com/#{SECRET}")),
        HttpTokenManager::builder(
            Provider::generic("http://127.0.0.1/").param("grant_type", SECRET),
            "id",
            SECRET,
        )
        .build(),
        HttpTokenManager::builder(Provider::generic("http://127.0.0.1/"), "", SECRET).build(),
    ] {
        shown.error(&result.map(drop).unwrap_err());
    }
    shown.assert_holds_none_of([SECRET]);
}

/// A session that is kept warm, fails, heals: what the timer does is shown as well.
#[tokio::test]
async fn a_refresh_behind_the_scenes_shows_no_secret() {
    let (shown, _recorder) = Shown::recording();
    let authority =
        Authority::builder().client("the-client", SECRET).ttl(millis(2_500)).start().await.unwrap();
    let session = session_of(manager(&authority, ClientAuth::Post), |config| {
        config.refresh_mode = RefreshMode::Always;
    });
    let first = session.get_token().await.unwrap();
    authority.fail(
        Kind::Grant,
        Answer::new(StatusCode::INTERNAL_SERVER_ERROR).body(format!("{SECRET} {}", first.secret())),
    );
    let mut changes = session.subscribe();
    while changes.changed().await.unwrap().counters().grants_failed == 0 {}
    authority.set_script(Script::new());
    while changes.changed().await.unwrap().generation() == Some(1) {}
    let second: Result<AccessToken, SessionError> = session.get_token().await;
    shown.debug(&second);
    let second = second.unwrap();
    assert!(shown.text().contains("outcome=the server failed"), "{}", shown.text());
    shown.assert_holds_none_of([SECRET, first.secret(), second.secret()]);
}
