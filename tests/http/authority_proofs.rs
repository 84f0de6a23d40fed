//! What the embedded authority checks of what a client signs: so that a program's own configuration of it
//! can be tested, and a mistake in it is named.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ccg_session::testing::{Authority, Kind};
use ccg_session::{
    AssertionAudience, ClientAuth, DpopKey, ExchangeRequest, HttpTokenManager, JwtAuth, Provider,
    Session, SessionHandle,
};
use http::Method;
use ring::hmac;
use serde_json::{Value, json};

use super::client;

const KEYS: [&str; 6] = [
    include_str!("../keys/rsa.pem"),
    include_str!("../keys/rsa.jwk"),
    include_str!("../keys/p256.pem"),
    include_str!("../keys/p384.jwk"),
    include_str!("../keys/ed25519.pem"),
    include_str!("../keys/p256-sec1.pem"),
];

fn session(authority: &Authority, auth: ClientAuth, secret: &str) -> SessionHandle {
    let provider = Provider::discover(authority.base_url()).client_auth(auth);
    let manager = HttpTokenManager::builder(provider, "test-client", secret).build().unwrap();
    Session::builder(manager).spawn().unwrap()
}

#[tokio::test]
async fn a_client_proves_itself_by_its_key() {
    for key in KEYS {
        let authority = Authority::builder().client_key(key).start().await.unwrap();
        let auth = ClientAuth::PrivateKeyJwt(JwtAuth::new());
        let session = session(&authority, auth, key);
        let token = session.get_token().await.unwrap();
        assert!(authority.is_active(token.secret()));
        session.exchange(ExchangeRequest::default()).await.unwrap();
        session.revoke().await.unwrap();
        assert!(!authority.is_active(token.secret()));
    }
}

#[tokio::test]
async fn another_key_or_none_is_refused_with_the_reason() {
    let [key, other] = [KEYS[2], KEYS[4]];
    for (known, reason) in [
        (Some(KEYS[0]), "is not signed by this client"),
        (Some(other), "is not signed by this client"),
        (None, "none of this client is known"),
    ] {
        let builder = Authority::builder();
        let builder = match known {
            Some(known) => builder.client_key(known),
            None => builder,
        };
        let authority = builder.start().await.unwrap();
        let session = session(&authority, ClientAuth::PrivateKeyJwt(JwtAuth::new()), key);
        let error = session.get_token().await.unwrap_err().to_string();
        assert!(error.contains("invalid_client") && error.contains(reason), "{error}");
    }
    let error = Authority::builder().client_key("no key").start().await.unwrap_err();
    assert!(error.to_string().contains("the client's key is no private key"), "{error}");
}

#[tokio::test]
async fn whom_assertions_must_be_for_can_be_set() {
    let audience = |authority: &Authority, audience: AssertionAudience| {
        let auth = ClientAuth::SecretJwt(JwtAuth::new().audience(audience));
        session(authority, auth, "test-secret")
    };
    let authority = Authority::start().await.unwrap();
    for own in [AssertionAudience::Endpoint, AssertionAudience::Issuer] {
        let session = audience(&authority, own);
        session.get_token().await.unwrap();
        session.revoke().await.unwrap();
    }
    let other = audience(&authority, AssertionAudience::value("urn:other"));
    let error = other.get_token().await.unwrap_err().to_string();
    assert!(error.contains("another audience"), "{error}");

    let strict = Authority::builder().assertion_audiences(["urn:other"]).start().await.unwrap();
    audience(&strict, AssertionAudience::value("urn:other")).get_token().await.unwrap();
    let error = audience(&strict, AssertionAudience::Issuer).get_token().await.unwrap_err();
    assert!(error.to_string().contains("another audience"), "{error}");
}

/// Signed with the client's secret, whatever it says.
fn assertion(header: &Value, claims: &Value) -> String {
    let [header, claims] =
        [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"test-secret");
    let input = format!("{header}.{claims}");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, input.as_bytes()));
    format!("{input}.{signature}")
}

/// RFC 7523 §3.
#[tokio::test]
async fn each_claim_of_an_assertion_counts() {
    let authority = Authority::start().await.unwrap();
    let url = authority.token_url();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = json!({ "iss": "test-client", "sub": "test-client", "aud": url, "exp": now + 60,
        "iat": now, "jti": "good" });
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let post = async |assertion: &str, more: &[(&str, &str)]| {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let mut form = vec![("grant_type", "client_credentials"), ("client_assertion", assertion)];
        form.push(("client_assertion_type", kind));
        form.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        form.extend(more);
        let response = client().post(&url).form(&form).send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        (status, body["error_description"].as_str().unwrap_or_default().to_owned())
    };
    for (number, (changes, reason)) in [
        (json!({ "iss": "other" }), "another client's"),
        (json!({ "sub": "other" }), "another client's"),
        (json!({ "iss": null }), "another client's"),
        (json!({ "aud": "https://as.example" }), "another audience"),
        (json!({ "aud": [] }), "another audience"),
        (json!({ "aud": null }), "another audience"),
        (json!({ "exp": now }), "has expired"),
        (json!({ "exp": null }), "has expired"),
        (json!({ "exp": (now + 60) * 1000 }), "more than an hour"),
        (json!({ "iat": now + 300 }), "dated ahead"),
        (json!({ "nbf": now + 300 }), "dated ahead"),
        (json!({ "jti": null }), "no jti"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut claims = good.clone();
        claims["jti"] = json!(number.to_string());
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let (status, description) = post(&assertion(&header, &claims), &[]).await;
        assert_eq!(status, 401, "{changes}: {description}");
        assert!(description.contains(reason), "{changes}: {description}");
    }
    let several = json!({ "iss": "test-client", "sub": "test-client", "exp": now + 60, "jti": "list",
        "aud": ["https://as.example", authority.base_url()] });
    assert_eq!(post(&assertion(&header, &several), &[]).await.0, 200);

    let once = assertion(&header, &good);
    assert_eq!(post(&once, &[("client_id", "other")]).await.0, 401);
    assert_eq!(post(&once, &[("client_secret", "test-secret")]).await.0, 400, "two methods");
    assert_eq!(post(&once, &[("client_assertion_type", "x")]).await.0, 400);
    assert_eq!(post(&once, &[("client_id", "test-client")]).await.0, 200);
    let (status, description) = post(&once, &[]).await;
    assert!(status == 401 && description.contains("used before"), "{description}");

    let unsigned = once.rsplit_once('.').unwrap().0;
    assert_eq!(post(&format!("{unsigned}."), &[]).await.0, 401);
    let none = assertion(&json!({ "alg": "none" }), &good);
    assert_eq!(post(&none, &[]).await.0, 401);
    assert_eq!(post("nonsense", &[]).await.0, 401);
    // RFC 7515 §4.1.11: a header that must be understood is, or the whole is refused.
    for critical in [json!(["exp"]), json!(["b64"]), json!([]), json!(null)] {
        let header = json!({ "alg": "HS256", "crit": critical, "b64": true });
        let (status, description) = post(&assertion(&header, &good), &[]).await;
        assert!(status == 401 && description.contains("critical"), "{critical}: {description}");
    }
    assert_eq!(authority.counts().tokens_issued, 2);
}

/// RFC 9449.
#[tokio::test]
async fn a_bound_token_is_of_use_to_the_holder_of_its_key_alone() {
    let authority = Authority::start().await.unwrap();
    for key in KEYS {
        let dpop = DpopKey::parse(key).unwrap();
        let builder = authority.provider();
        let manager = HttpTokenManager::builder(builder, "test-client", "test-secret");
        let session =
            Session::builder(manager.dpop(dpop.clone()).build().unwrap()).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        let url = authority.resource_url();
        let get = async |scheme: &str, proof: Option<http::HeaderValue>| {
            let mut request = client().get(&url);
            request = request.header("authorization", format!("{scheme} {}", token.secret()));
            if let Some(proof) = proof {
                request = request.header("dpop", proof);
            }
            request.send().await.unwrap().status().as_u16()
        };
        let proof = |method: Method, url: &str| token.proof(&method, url).unwrap();
        let good = proof(Method::GET, &url);
        assert_eq!(get("DPoP", good.clone()).await, 200);
        assert_eq!(get("DPoP", good).await, 401, "a proof is good once");
        assert_eq!(get("DPoP", None).await, 401);
        assert_eq!(get("Bearer", None).await, 401);
        assert_eq!(get("DPoP", proof(Method::POST, &url)).await, 401);
        assert_eq!(get("DPoP", proof(Method::GET, "https://as.example")).await, 401);
    }
    // A token that is bound to none needs no proof, and takes none.
    let session = Session::builder(authority.manager().unwrap()).spawn().unwrap();
    let token = session.get_token().await.unwrap();
    let request = client().get(authority.resource_url());
    let status = request.header("authorization", format!("DPoP {}", token.secret()));
    assert_eq!(status.send().await.unwrap().status().as_u16(), 401);
}

#[tokio::test]
async fn a_proof_that_is_none_is_refused() {
    let authority = Authority::start().await.unwrap();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "test-client"),
        ("client_secret", "test-secret"),
    ];
    let header = json!({ "alg": "HS256", "typ": "dpop+jwt" });
    for proof in ["nonsense", &assertion(&header, &json!({}))] {
        let request = client().post(authority.token_url()).form(&form);
        let response = request.header("dpop", proof).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(body["error"], "invalid_dpop_proof");
    }
    assert_eq!(authority.counts().tokens_issued, 0);
    assert_eq!(authority.counts().of(Kind::Grant), 2);
}
