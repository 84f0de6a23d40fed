//! Tokens bound to a key (RFC 9449), against a server that checks each proof as the RFC wants it (§4.3)
//! and has a new nonce for each answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ccg_session::{
    ClientAuth, Credential, DpopKey, ExchangeRequest, GrantRequest, HttpTokenManager, JwtAuth,
    Provider, SessionHandle, TokenError, TokenManager,
};
use http::Method;
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};

use super::loopback::{self, Request, answer};
use super::{client, session_of};

/// What the server does, and what it has seen.
#[derive(Default)]
struct State {
    /// Whether proofs must repeat the nonce of the last answer.
    wants_nonce: bool,
    /// Asks for another nonce, whatever it gets.
    never_content: bool,
    /// Its answer to every request for a token.
    answers: Option<&'static str>,
    /// What its clock shows, if it is wrong.
    date: Option<&'static str>,
    nonces: u64,
    tokens: u64,
    requests: Vec<String>,
    /// No two requests may have the same proof or assertion.
    seen: HashSet<String>,
    /// Of the key that tokens are bound to.
    thumbprint: Option<String>,
}

struct Server {
    base: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    async fn start(state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let answer = move |request: &Request| shared.lock().unwrap().answer(request);
        Self { base: loopback::Server::start(answer).await.base, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn manager(&self, key: &DpopKey) -> HttpTokenManager {
        let provider = Provider::generic(format!("{}/token?tenant=1", self.base))
            .revocation_url(format!("{}/revoke", self.base))
            .client_auth(ClientAuth::PrivateKeyJwt(JwtAuth::new()));
        let credential = Credential::from(include_str!("../keys/ed25519.pem"));
        let builder = HttpTokenManager::builder(provider, "the-client", credential);
        builder.dpop(key.clone()).build().unwrap()
    }

    fn session(&self, key: &DpopKey) -> SessionHandle {
        session_of(self.manager(key), |config| config.retry.attempts = 1)
    }

    /// Uses a token; gives the status and the nonce that the resource wants to see.
    async fn get(&self, authorization: &str, proof: Option<&str>) -> (u16, String) {
        let mut request =
            client().get(format!("{}/api?q=1", self.base)).header("authorization", authorization);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let response = request.send().await.unwrap();
        let nonce = response.headers().get("dpop-nonce").unwrap().to_str().unwrap().to_owned();
        (response.status().as_u16(), nonce)
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> String {
        let base = format!("http://{}", request.header("host").unwrap());
        self.requests.push(request.line().to_owned());
        let form = request.form();
        let param = |name| form.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
        let (status, body) = match request.line() {
            "POST /token?tenant=1" => {
                let assertion = param("client_assertion").unwrap().to_owned();
                assert!(self.seen.insert(assertion), "an assertion was sent twice");
                match (self.proof(request, "POST", &format!("{base}/token"), None), self.answers) {
                    (_, Some(other)) => (200, serde_json::from_str(other).unwrap()),
                    (Err(error), _) => (400, json!({ "error": error })),
                    (Ok(thumbprint), _) => {
                        self.thumbprint = Some(thumbprint);
                        self.tokens += 1;
                        let token = format!("token-{}", self.tokens);
                        let body = json!({ "access_token": token, "token_type": "dpop", "expires_in": 60 });
                        (200, body)
                    }
                }
            }
            "POST /revoke" => (200, json!({})),
            "GET /api?q=1" => {
                let token = request.header("authorization").unwrap().strip_prefix("DPoP token-");
                let ath = token.map(|number| sha256(&format!("token-{number}")));
                let proof = self.proof(request, "GET", &format!("{base}/api"), ath.as_deref());
                let known = proof.is_ok_and(|thumbprint| Some(thumbprint) == self.thumbprint);
                (if ath.is_some() && known { 200 } else { 401 }, json!({}))
            }
            other => panic!("{other}"),
        };
        self.nonces += 1;
        let date = self.date.map(|date| format!("Date: {date}\r\n")).unwrap_or_default();
        let headers = format!("DPoP-Nonce: {}\r\n{date}", self.nonce());
        answer(status, &headers, &body.to_string())
    }

    fn nonce(&self) -> String {
        format!("nonce-{}", self.nonces)
    }

    /// RFC 9449 §4.3, in its order. Gives the thumbprint of the key.
    fn proof(
        &mut self,
        request: &Request,
        method: &str,
        url: &str,
        ath: Option<&str>,
    ) -> Result<String, &'static str> {
        let proof = request.header("dpop").ok_or("invalid_dpop_proof")?;
        let (message, signature) = proof.rsplit_once('.').unwrap();
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let [header, claims]: [Value; 2] =
            [header, claims].map(|part| serde_json::from_slice(&decode(part)).unwrap());
        assert_eq!((&header["typ"], &header["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
        let (jwk, part) = (&header["jwk"], |name: &str| header["jwk"][name].as_str().unwrap());
        assert!(jwk.get("d").is_none(), "the private key was sent");
        let point = [&[4], &*decode(part("x")), &decode(part("y"))].concat();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(message.as_bytes(), &decode(signature)).unwrap();
        assert_eq!((&claims["htm"], &claims["htu"]), (&json!(method), &json!(url)));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let theirs = self.date.map(|date| httpdate::parse_http_date(date).unwrap());
        let theirs =
            theirs.map(|date| date.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        let issued = claims["iat"].as_u64().unwrap();
        let mut clocks = [Some(now), theirs].into_iter().flatten();
        assert!(clocks.any(|now| now.abs_diff(issued) < 10), "{issued}");
        assert!(self.seen.insert(claims["jti"].as_str().unwrap().into()), "a proof was sent twice");
        if self.wants_nonce && claims["nonce"] != self.nonce() || self.never_content {
            return Err("use_dpop_nonce");
        }
        if claims.get("ath").and_then(Value::as_str) != ath {
            return Err("invalid_dpop_proof");
        }
        Ok(sha256(&format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            part("x"),
            part("y")
        )))
    }
}

fn sha256(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[tokio::test]
async fn a_bound_token_is_of_use_with_a_proof_of_its_key_only() {
    let server = Server::start(State::default()).await;
    let key = DpopKey::generate().unwrap();
    let session = server.session(&key);
    let token = session.get_token().await.unwrap();
    assert_eq!(server.state().thumbprint, Some(key.thumbprint()));
    let header = token.header_value().to_str().unwrap();
    assert_eq!((header, token.secret()), ("DPoP token-1", "token-1"));

    let url = format!("{}/api?q=1", server.base);
    let proof = || token.proof(&Method::GET, &url).unwrap().unwrap();
    let used = proof();
    assert_eq!(server.get(header, Some(used.to_str().unwrap())).await.0, 200);
    assert_eq!(server.get(header, Some(proof().to_str().unwrap())).await.0, 200, "a new one");
    assert_eq!(server.get(header, None).await.0, 401);
    let bearer = format!("Bearer {}", token.secret());
    assert_eq!(server.get(&bearer, Some(proof().to_str().unwrap())).await.0, 401);

    // An exchange and its token are bound just so; a revocation needs no proof.
    let narrow = session.exchange(ExchangeRequest::scopes(["a"])).await.unwrap();
    assert_eq!(narrow.header_value().unwrap(), "DPoP token-2");
    let proof = narrow.proof(&Method::GET, &url).unwrap().unwrap();
    assert_eq!(server.get("DPoP token-2", Some(proof.to_str().unwrap())).await.0, 200);
    session.revoke().await.unwrap();
}

#[tokio::test]
async fn a_nonce_is_repeated_within_the_attempt_and_kept_for_the_next() {
    let server = Server::start(State { wants_nonce: true, ..State::default() }).await;
    let session = server.session(&DpopKey::generate().unwrap());
    let token = session.get_token().await.unwrap();
    assert_eq!(session.status().counters().grants_failed, 0, "it was one attempt");
    let posts = |server: &Server| server.state().requests.len();
    assert_eq!(posts(&server), 2, "of two requests");

    // The last answer's nonce is known, so the exchange needs one request.
    session.exchange(ExchangeRequest::scopes(["a"])).await.unwrap();
    assert_eq!(posts(&server), 3);

    // A resource may want one of its own (§9).
    let url = format!("{}/api?q=1", server.base);
    let header = token.header_value().to_str().unwrap();
    let proof = token.proof(&Method::GET, &url).unwrap().unwrap();
    let (status, nonce) = server.get(header, Some(proof.to_str().unwrap())).await;
    assert_eq!(status, 401);
    let proof = token.proof_with_nonce(&Method::GET, &url, &nonce).unwrap().unwrap();
    assert_eq!(server.get(header, Some(proof.to_str().unwrap())).await.0, 200);
}

#[tokio::test]
async fn managers_that_are_made_from_one_share_the_servers_nonce() {
    let server = Server::start(State { wants_nonce: true, ..State::default() }).await;
    let base = server.manager(&DpopKey::generate().unwrap());
    for (manager, posts) in [(base.with_scopes(["a"]), 2), (base.with_scopes(["b"]), 3), (base, 4)]
    {
        manager.grant(GrantRequest::default()).await.unwrap();
        assert_eq!(server.state().requests.len(), posts);
    }
}

#[tokio::test]
async fn a_server_that_is_never_content_is_asked_twice() {
    let server = Server::start(State { never_content: true, ..State::default() }).await;
    let session = server.session(&DpopKey::generate().unwrap());
    let error = session.get_token().await.unwrap_err();
    let Some(TokenError::Denied { error, .. }) = error.token_error() else { panic!("{error:?}") };
    assert_eq!(error, "use_dpop_nonce");
    assert_eq!(server.state().requests.len(), 2);
}

/// RFC 9449 §5.
#[tokio::test]
async fn an_answer_that_is_not_bound_is_an_error() {
    for (answer, expected) in [
        (
            r#"{"access_token":"T","token_type":"Bearer"}"#,
            "its token_type is \"Bearer\", and it was",
        ),
        (r#"{"access_token":"T"}"#, "its token_type is missing, and it was to be DPoP"),
        (r#"{"access_token":"T","token_type":null}"#, "its token_type is no text"),
        (r#"{"access_token":"T","token_type":"mac"}"#, "its token_type is \"mac\""),
    ] {
        let server = Server::start(State { answers: Some(answer), ..State::default() }).await;
        let session = server.session(&DpopKey::generate().unwrap());
        let error = session.get_token().await.unwrap_err();
        let Some(TokenError::Denied { description: Some(reason), .. }) = error.token_error() else {
            panic!("{error:?}")
        };
        assert!(reason.starts_with(expected), "{reason}");
    }
}

/// Whose clock is wrong cannot be known; but that they differ can, and is what helps.
#[tokio::test]
async fn a_refusal_says_that_the_clocks_differ() {
    let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
    let server = Server::start(State { date, never_content: true, ..State::default() }).await;
    let error = server.session(&DpopKey::generate().unwrap()).get_token().await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("this machine's clock is ") && words.contains("years"), "{words}");
    assert!(words.contains(" ahead of the server's"), "{words}");
}

#[tokio::test]
async fn without_a_key_nothing_is_bound() {
    let bearer = r#"{"access_token":"T","token_type":"Bearer","expires_in":60}"#;
    let server = Server::start(State { answers: Some(bearer), ..State::default() }).await;
    let provider = Provider::generic(format!("{}/token?tenant=1", server.base))
        .client_auth(ClientAuth::SecretJwt(JwtAuth::new()));
    let manager = HttpTokenManager::builder(provider, "the-client", "s3cr3t").build().unwrap();
    let session = session_of(manager, |_| {});
    let token = session.get_token().await.unwrap();
    assert_eq!(token.header_value(), "Bearer T");
    assert!(token.proof(&Method::GET, &server.base).unwrap().is_none());
    assert!(server.state().seen.len() == 1, "no proof, only an assertion");
}

#[cfg(feature = "cli")]
#[tokio::test(flavor = "multi_thread")]
async fn the_command_binds_tokens_too() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    let run = |server: &Server, args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ccg-session"));
        command.args(args).args(["--client-id", "the-client", "--auth", "private-key-jwt"]);
        command.args(["--token-url", &format!("{}/token?tenant=1", server.base)]);
        command.args(["--revocation-url", &format!("{}/revoke", server.base)]);
        command.args(["--client-secret-file", &format!("{keys}/ed25519.pem")]);
        let output = command.args(["--dpop-key", &format!("{keys}/p256.pem")]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let server = Server::start(State { wants_nonce: true, ..State::default() }).await;
    let token = run(&server, &["token", "--format", "header"]);
    assert_eq!(token, ("Authorization: DPoP token-1\n".into(), Some(0)));
    let key = DpopKey::parse(include_str!("../keys/p256.pem")).unwrap();
    assert_eq!(server.state().thumbprint, Some(key.thumbprint()));
    let (token, code) = run(&server, &["exchange", "--format", "json"]);
    let token: Value = serde_json::from_str(&token).unwrap();
    assert_eq!((&token["token_type"], code), (&json!("DPoP"), Some(0)));
    let (said, code) = run(&server, &["check"]);
    let lives = ["1m", "5"].map(|life| format!("a token, bound to the key, with another {life}"));
    assert!(lives.iter().any(|life| said.contains(life)), "{said}");
    assert_eq!(code, Some(0), "{said}");

    server.state().answers = Some(r#"{"access_token":"T","token_type":"Bearer"}"#);
    let (said, code) = run(&server, &["check", "--attempts", "1"]);
    assert!(said.contains("does not support DPoP: remove --dpop-key"), "{said}");
    assert_eq!(code, Some(1), "{said}");
    server.state().never_content = true;
    server.state().answers = None;
    let (said, _) = run(&server, &["check"]);
    assert!(said.contains("use_dpop_nonce") && said.contains("the proof of --dpop-key"), "{said}");
}
