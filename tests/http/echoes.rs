//! A server that repeats every secret that it was sent, in every form, at every place where it can put
//! words: none is found in what an attempt gives or says.

use std::error::Error;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use ccg_session::{
    AccessToken, ClientAuth, Credential, DpopKey, ExchangeRequest, Grant, GrantRequest,
    HttpTokenManager, JwtAuth, Provider, SessionHandle, TokenError, TokenManager,
    TokenRequestOptions,
};

use serde_json::{Value, json};

use crate::certificates::Ca;
use crate::loopback::{Request, Server, answer};
use crate::secrets::Shown;

const SECRET: &str = "AbC/dEf+gHi \"012345\"&é==";
const ASSERTION: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.pl4nted-s1gnature";
const PARAM: &str = "a parameter <of> 100%";
const SUBJECT: &str = "subject-t0ken~/+==";
const RECEIVED: &str = "received-t0ken~/+==";
const KEY: &str = include_str!("../keys/p256.pem");

/// A way to write a string.
type Form = fn(&str) -> String;

const FORMS: [Form; 11] = [
    str::to_owned,
    |text| percent(text, "%02X"),
    |text| percent(text, "%02x"),
    |text| url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
    |text| inside(&Value::from(text).to_string()),
    |text| inside(&Value::from(text).to_string()).replace('/', "\\/"),
    |text| text.encode_utf16().fold(String::new(), |all, unit| format!("{all}\\u{unit:04x}")),
    html,
    |text| html(&percent(text, "%02X")),
    |text| BASE64_STANDARD.encode(text),
    |text| BASE64_URL_SAFE_NO_PAD.encode(format!("id:{text}")),
];

fn inside(quoted: &str) -> String {
    quoted[1..quoted.len() - 1].to_owned()
}

fn percent(text: &str, case: &str) -> String {
    text.bytes().fold(String::new(), |all, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => all + &char::from(byte).to_string(),
        _ if case == "%02x" => format!("{all}%{byte:02x}"),
        _ => format!("{all}%{byte:02X}"),
    })
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Status, headers and body of an answer that has these words in it, at one place or another.
type Place = fn(&str) -> (u16, String, String);

const PLACES: [Place; 13] = [
    |words| refusal(400, json!({ "error": "invalid_client", "error_description": words })),
    |words| refusal(401, json!({ "error": words })),
    |words| refusal(403, json!({ "error": "x", "error_uri": words })),
    |words| refusal(400, json!({ "error": { "message": words }, "message": words })),
    |words| refusal(400, json!({ "errorSummary": words, "detail": words, "reason": words })),
    |words| refusal(400, json!({ "title": words })),
    |words| refusal(500, json!({ "error": words, "error_description": words })),
    |words| refusal(200, json!({ "access_token": RECEIVED, "token_type": words })),
    |words| refusal(200, json!({ "access_token": RECEIVED, "scope": words })),
    |words| refusal(200, json!({ "access_token": RECEIVED, "issued_token_type": words })),
    |words| {
        (
            302,
            format!("location: https://x.example/{}\r\n", words.replace(' ', "%20")),
            json!({ "access_token": RECEIVED }).to_string(),
        )
    },
    |words| {
        (
            400,
            String::new(),
            format!(
                "error=invalid_request&access_token={}&error_description={words}",
                percent(RECEIVED, "%02X")
            ),
        )
    },
    |words| (403, String::new(), format!("<html>{words}</html>")),
];

/// There is a token in each, as if by mistake.
fn refusal(status: u16, mut body: Value) -> (u16, String, String) {
    if status != 200 {
        body["data"] = json!([{ "access_token": RECEIVED }]);
    }
    (status, String::new(), body.to_string())
}

/// What it is to say, and what it has said.
#[derive(Default)]
struct Plan {
    form: usize,
    place: usize,
    said: Vec<String>,
}

async fn server() -> (Server, Arc<Mutex<Plan>>) {
    let plan = Arc::<Mutex<Plan>>::default();
    let shared = plan.clone();
    let server = Server::start(move |request| echo(request, &mut shared.lock().unwrap())).await;
    (server, plan)
}

fn echo(request: &Request, plan: &mut Plan) -> String {
    const SECRET: [&str; 6] =
        ["client_secret", "client_assertion", "subject_token", "token", "own", "actor_token"];
    let form = request.form().into_iter().filter(|(name, _)| SECRET.contains(&&**name));
    let mut secrets: Vec<_> = form.map(|(_, value)| value).collect();
    if let Some(header) = request.header("authorization") {
        let base64 = header.split_once(' ').unwrap().1.to_owned();
        let decoded = String::from_utf8(BASE64_STANDARD.decode(&base64).unwrap()).unwrap();
        let encoded = decoded.split_once(':').unwrap().1;
        let own = percent_encoding(encoded).unwrap_or(encoded.to_owned());
        secrets.extend([own, encoded.to_owned(), base64]);
    }
    secrets.extend(request.header("dpop").map(str::to_owned));
    secrets.push(RECEIVED.into());
    let signatures: Vec<_> = secrets
        .iter()
        .filter(|secret| secret.matches('.').count() == 2)
        .filter_map(|secret| Some(secret.rsplit_once('.')?.1.to_owned()))
        .collect();
    secrets.extend(signatures);
    let shown: Vec<_> = secrets.iter().map(|secret| FORMS[plan.form](secret)).collect();
    let (status, headers, body) = PLACES[plan.place](&format!("x {}", shown.join(" , ")));
    plan.said = shown;
    answer(status, &headers, &body)
}

/// What was encoded as in a form, if it was.
fn percent_encoding(text: &str) -> Option<String> {
    text.find('%')?;
    let pair = format!("x={text}");
    let decoded = url::form_urlencoded::parse(pair.as_bytes()).next()?.1.into_owned();
    (decoded != text).then_some(decoded)
}

fn shown(value: &impl Debug, error: Option<&TokenError>) -> String {
    let mut shown = format!("{value:?} {value:#?}");
    let mut next = error.map(|error| error as &dyn Error);
    while let Some(error) = next {
        let _ = write!(shown, " {error} {error:?} {error:#?}");
        next = error.source();
    }
    shown
}

fn of_grant(result: &Result<Grant, TokenError>) -> String {
    let words = result.as_ref().ok().map(|grant| {
        let parts = [grant.get_scope(), grant.get_issued_token_type()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    shown(&result.as_ref().map(|grant| (grant, words)), result.as_ref().err())
}

fn subject() -> AccessToken {
    SessionHandle::fixed(SUBJECT).unwrap().try_token().unwrap()
}

/// All that each call gives or says.
async fn calls(manager: &HttpTokenManager) -> [String; 4] {
    let exchange = ExchangeRequest::scopes(["a"]).param("own", PARAM).param("actor_token", PARAM);
    let revoked = Grant::bearer(SUBJECT).unwrap().text().clone();
    let revocation = manager.revoke(revoked, TokenRequestOptions::new()).await;
    let introspection = manager.is_active(SUBJECT).await;
    [
        of_grant(&manager.grant(GrantRequest::default()).await),
        of_grant(&manager.exchange(subject(), exchange).await),
        shown(&revocation, revocation.as_ref().err()),
        shown(&introspection, introspection.as_ref().err()),
    ]
}

#[tokio::test]
async fn no_echo_of_a_secret_is_shown() {
    let (server, plan) = server().await;
    let url = &server.base;
    let jwt = JwtAuth::new;
    let methods: [(ClientAuth, Credential); 6] = [
        (ClientAuth::Post, SECRET.into()),
        (ClientAuth::Basic, SECRET.into()),
        (ClientAuth::BasicRaw, SECRET.into()),
        (ClientAuth::SecretJwt(jwt()), SECRET.into()),
        (ClientAuth::PrivateKeyJwt(jwt()), KEY.into()),
        (ClientAuth::Assertion, ASSERTION.into()),
    ];
    let mut redacted = 0;
    for (method, (auth, credential)) in methods.into_iter().enumerate() {
        let provider = Provider::generic(format!("{url}/token"))
            .revocation_url(format!("{url}/revoke"))
            .introspection_url(format!("{url}/introspect"))
            .client_auth(auth.clone())
            .param("own", PARAM);
        let builder = HttpTokenManager::builder(provider, "the-client", credential);
        let manager = builder.dpop(DpopKey::parse(KEY).unwrap()).build().unwrap();
        for form in 0..FORMS.len() {
            // One method at all places, the others at some: what is sent differs, not how it is read.
            for place in
                (0..PLACES.len()).filter(|place| method == 0 || (place + form) % 6 == method)
            {
                *plan.lock().unwrap() = Plan { form, place, said: Vec::new() };
                for text in calls(&manager).await {
                    redacted += usize::from(text.contains("[redacted]"));
                    let said = plan.lock().unwrap().said.clone();
                    assert!(said.len() >= 2, "{said:?}");
                    for secret in
                        said.iter().map(|secret| &**secret).chain([SECRET, SUBJECT, PARAM])
                    {
                        // A debugger's quotes escape them once more.
                        for secret in [secret.to_owned(), inside(&format!("{secret:?}"))] {
                            assert!(
                                !text.contains(&secret),
                                "{auth:?} {form} {place}: {secret}: {text}"
                            );
                        }
                    }
                }
            }
        }
    }
    // Most places show the server's words: or nothing would have been seen here.
    assert!(redacted > 300, "{redacted}");
}

/// What metadata can have these words in, besides what any answer can: whole, in a path, or as a host.
const METADATA: [fn(&str, &str) -> Value; 8] = [
    |base, words| json!({ "issuer": words, "token_endpoint": format!("{base}/token") }),
    |base, words| json!({ "issuer": format!("{base}/{words}") }),
    |base, words| json!({ "issuer": base, "token_endpoint": words }),
    |base, words| json!({ "issuer": base, "token_endpoint": format!("{base}/{words}/token") }),
    |base, words| json!({ "issuer": base, "token_endpoint": format!("https://{words}/token") }),
    |base, words| json!({ "issuer": base, "token_endpoint": format!("http://{words}.example/t") }),
    |base, words| {
        json!({
            "issuer": base,
            "token_endpoint": format!("{base}/{words}"),
            "revocation_endpoint": format!("{base}/revoke/{words}"),
            "introspection_endpoint": format!("{base}/introspect/{words}"),
        })
    },
    |base, words| {
        json!({
            "issuer": base,
            "token_endpoint": format!("{base}/token"),
            "token_endpoint_auth_methods_supported": [words],
            "grant_types_supported": [words],
        })
    },
];

/// Knows no name, and needs no time to say so.
struct NoNames;

impl reqwest::dns::Resolve for NoNames {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async { Err("there is no such name".into()) })
    }
}

/// A server may know a secret from before, and say it where it has been sent nothing yet: in metadata, or where
/// that leads.
#[tokio::test]
async fn what_is_said_before_the_credential_was_sent_shows_no_secret_either() {
    const SECRET: &str = "AbCdEf-gHi.012345_xyz+/ &\"";
    let said = Arc::new(Mutex::new((0_u16, String::new(), String::new())));
    let shared = said.clone();
    let server = Server::start(move |request: &Request| {
        let (status, headers, body) = if request.line().starts_with("GET") {
            shared.lock().unwrap().clone()
        } else {
            (404, String::new(), String::new())
        };
        answer(status, &headers, &body)
    });
    let base = server.await.base;
    let client = crate::client_with(|client| client.dns_resolver(Arc::new(NoNames)));
    let mut redacted = 0;
    for form in FORMS {
        for secret in [SECRET, PARAM] {
            let words = form(secret);
            let answers = PLACES.iter().map(|place| place(&words)).chain(
                METADATA
                    .iter()
                    .map(|metadata| (200, String::new(), metadata(&base, &words).to_string())),
            );
            let location = format!("location: https://{words}/{words}\r\n");
            for answer in answers.chain([(302, location, String::new())]) {
                (*said.lock().unwrap()).clone_from(&answer);
                let (recorded, _recorder) = Shown::recording();
                let provider = Provider::discover(&base).param("own", PARAM);
                let builder = HttpTokenManager::builder(provider, "the-client", SECRET);
                let manager = builder.http_client(client.clone()).build().unwrap();
                let endpoints = manager.endpoints().await;
                let lists = endpoints.as_ref().ok().map(|found| {
                    format!("{found} {:?} {:?}", found.auth_methods(), found.grant_types())
                });
                let mut text = shown(&endpoints, endpoints.as_ref().err());
                text += &lists.unwrap_or_default();
                text += &calls(&manager).await.concat();
                text += &shown(&manager, None);
                // Those of the libraries below show each address that they connect to.
                let events = recorded.text();
                let own = events.lines().filter(|line| line.starts_with("event http.request"));
                text += &own.collect::<String>();
                redacted += usize::from(text.contains("[redacted]"));
                let lower = text.to_lowercase();
                for secret in [&*words, secret] {
                    for secret in [secret.to_owned(), inside(&format!("{secret:?}"))] {
                        let is_shown = lower.contains(&secret.to_lowercase());
                        assert!(!is_shown, "{secret}: {answer:?}: {text}");
                    }
                }
            }
        }
    }
    assert!(redacted > 250, "{redacted}");
}

/// A certificate is shown before anything is sent.
#[tokio::test]
async fn the_names_of_a_certificate_show_no_secret() {
    const NAME: &str = "s3cr3tValue0123456789.example";
    let ca = Ca::new("a CA");
    let pair = ca.issue(NAME);
    let authority = ccg_session::testing::Authority::builder().tls(&pair.certificate, &*pair.key);
    let authority = authority.start().await.unwrap();
    for discovered in [false, true] {
        let (recorded, _recorder) = Shown::recording();
        let provider = if discovered {
            Provider::discover(authority.base_url())
        } else {
            Provider::generic(authority.token_url())
        };
        let builder = HttpTokenManager::builder(provider, "the-client", NAME);
        let manager = builder.root_certificate(ca.pem()).build().unwrap();
        let text = of_grant(&manager.grant(GrantRequest::default()).await) + &recorded.text();
        assert!(text.contains("only valid for") && text.contains("[redacted]"), "{text}");
        assert!(!text.to_lowercase().contains("s3cr3tvalue"), "{text}");
    }
}

/// What is decided by a code does not depend on what the secret is called.
#[tokio::test]
async fn a_secret_named_as_a_code_changes_no_behaviour() {
    for (secret, error, expected) in [
        ("invalid", "invalid_client", "invalid_client"),
        ("invalid_grant", "invalid_grant", "invalid_grant"),
        ("slow_down", "slow_down", "limited"),
        ("server_error", "server_error", "server"),
    ] {
        let body = json!({ "error": error }).to_string();
        let server = Server::start(move |_| answer(400, "", &body)).await;
        let provider = Provider::generic(format!("{}/token", server.base));
        let manager = HttpTokenManager::builder(provider, "the-client", secret).build().unwrap();
        let outcome = match manager.grant(GrantRequest::default()).await.unwrap_err() {
            TokenError::Denied { error, .. } => error,
            TokenError::RateLimited { .. } => "limited".into(),
            TokenError::Server { .. } => "server".into(),
            other => panic!("{other}"),
        };
        assert_eq!(outcome, expected, "{secret}");
    }
}
