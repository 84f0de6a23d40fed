//! Discover, grant, use, a refresh behind everybody's back, exchange, introspect, revoke, introspect again:
//! with each method of client authentication, with bearer tokens and with bound ones (`DPoP`).

use std::sync::Arc;
use std::time::Duration;

use ccg_session::{
    AssertionAudience, ClientAuth, Credential, DpopKey, ExchangeRequest, HttpTokenManagerBuilder,
    JwtAlgorithm, JwtAuth, Session,
};
use http::{HeaderValue, Method};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::*;

const FILE: &str = "https://api.example/files/1";

/// What uses the tokens.
struct Api {
    url: String,
    client: reqwest::Client,
}

impl Api {
    fn new(server: &Server, roots: RootCertStore) -> Self {
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls);
        Self { url: format!("{}/api", server.issuer), client: client.build().unwrap() }
    }

    async fn get(&self, token: &HeaderValue, proof: Option<HeaderValue>) -> (u16, Value) {
        let mut request = self.client.get(&self.url).header("authorization", token);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

/// Both lives of a client at once, as two sessions.
async fn lives(id: &str, auth: ClientAuth, credential: impl Into<Credential>) {
    let server = Server::start(&[("TTL", "3")]);
    let api = Api::new(&server, RootCertStore::empty());
    both(&server, &api, id, server.client(id, auth, credential)).await;
}

async fn both(server: &Server, api: &Api, id: &str, client: HttpTokenManagerBuilder) {
    let bound = client.clone().dpop(DpopKey::generate().unwrap());
    let lives = async {
        let bearer = life(server, api, id, client, "Bearer");
        tokio::join!(bearer, life(server, api, id, bound, "DPoP"))
    };
    tokio::time::timeout(Duration::from_secs(30), lives).await.expect("it hangs");
}

async fn life(server: &Server, api: &Api, id: &str, client: HttpTokenManagerBuilder, kind: &str) {
    let (diagnosis, manager) = (client.clone().build().unwrap(), client.build().unwrap());
    let session = Session::builder(manager).spawn().unwrap();
    let mut news = session.subscribe();

    let first = session.get_token().await.unwrap();
    assert_eq!(first.scope(), Some("read write"));
    assert!(first.remaining() <= Duration::from_secs(3));
    let found = diagnosis.endpoints().await.unwrap();
    assert_eq!(found.token_url(), format!("{}/token", server.issuer));

    let proof = || first.proof(&Method::GET, &api.url).unwrap();
    assert!(first.header_value().to_str().unwrap().starts_with(kind));
    assert_eq!(proof().is_some(), kind == "DPoP");
    let (status, said) = api.get(first.header_value(), proof()).await;
    assert_eq!((status, said), (200, json!({ "client": id, "scope": "read write" })));
    if kind == "DPoP" {
        let (status, said) = api.get(first.header_value(), None).await;
        assert_eq!((status, &said["error"]), (401, &json!("invalid_dpop_proof")));
    }

    // It is in use, so there will be another one, though nobody asks for that.
    assert_eq!(session.get_token().await.unwrap(), first);
    while session.status().generation() < Some(2) {
        news.changed().await.unwrap();
    }
    let token = session.get_token().await.unwrap();
    assert_ne!(token.secret(), first.secret());
    let counters = session.status().counters();
    assert_eq!((counters.grants_started, counters.grants_failed), (2, 0));

    let request = ExchangeRequest::scopes(["read"]).resource(FILE);
    let narrow = session.exchange(request).await.unwrap();
    assert_eq!(narrow.scope(), Some("read"));
    let bearer_or_bound = narrow.header_value().unwrap();
    assert!(bearer_or_bound.to_str().unwrap().starts_with(kind));
    let proof = || narrow.proof(&Method::GET, &api.url).unwrap();
    let (status, said) = api.get(bearer_or_bound, proof()).await;
    assert_eq!((status, said), (200, json!({ "client": id, "aud": FILE, "scope": "read" })));

    for secret in [token.secret(), narrow.secret()] {
        assert!(diagnosis.is_active(secret).await.unwrap());
    }
    session.revoke().await.unwrap();
    for secret in [token.secret(), narrow.secret()] {
        assert!(!diagnosis.is_active(secret).await.unwrap());
    }
    let (status, said) = api.get(bearer_or_bound, proof()).await;
    assert_eq!((status, &said["error"]), (401, &json!("invalid_token")));
    assert!(!token.remaining().is_zero(), "too slow: it may be expiry that ended it");

    let next = session.get_token().await.unwrap();
    assert_eq!(
        api.get(next.header_value(), next.proof(&Method::GET, &api.url).unwrap()).await.0,
        200
    );
    session.shutdown().await;
}

#[tokio::test]
async fn basic() {
    lives("basic-client", ClientAuth::Basic, SECRET).await;
}

#[tokio::test]
async fn post() {
    lives("post-client", ClientAuth::Post, SECRET).await;
}

#[tokio::test]
async fn secret_jwt() {
    lives("jwt-secret-client", ClientAuth::SecretJwt(JwtAuth::new()), LONG_SECRET).await;
}

async fn private_key_jwt(id: &str, file: &str, jwt: JwtAuth) {
    lives(id, ClientAuth::PrivateKeyJwt(jwt), key(file)).await;
}

#[tokio::test]
async fn private_key_jwt_rs256() {
    private_key_jwt("rs256-client", "rsa-pkcs1.pem", JwtAuth::new()).await;
}

#[tokio::test]
async fn private_key_jwt_rs384() {
    let jwt = JwtAuth::new().algorithm(JwtAlgorithm::Rs384).audience(AssertionAudience::Issuer);
    private_key_jwt("rs384-client", "rsa.jwk", jwt).await;
}

#[tokio::test]
async fn private_key_jwt_rs512() {
    let jwt = JwtAuth::new()
        .algorithm(JwtAlgorithm::Rs512)
        .revocation_audience(AssertionAudience::Issuer);
    private_key_jwt("rs512-client", "rsa.pem", jwt).await;
}

#[tokio::test]
async fn private_key_jwt_ps256() {
    let jwt = JwtAuth::new().algorithm(JwtAlgorithm::Ps256);
    private_key_jwt("ps256-client", "rsa.pem", jwt).await;
}

#[tokio::test]
async fn private_key_jwt_es256() {
    private_key_jwt("es256-client", "p256-sec1.pem", JwtAuth::new()).await;
}

#[tokio::test]
async fn private_key_jwt_es384() {
    private_key_jwt("es384-client", "p384.jwk", JwtAuth::new()).await;
}

#[tokio::test]
async fn private_key_jwt_eddsa() {
    private_key_jwt("eddsa-client", "ed25519.pem", JwtAuth::new()).await;
}

#[tokio::test]
async fn none() {
    lives("public-client", ClientAuth::None, Credential::none()).await;
}

#[tokio::test]
async fn tls_client() {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a CA of its own");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let [own, client] = ["127.0.0.1", "client.example"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &ca);
        (certificate.unwrap().pem(), key.serialize_pem())
    });
    let tls = json!({ "cert": own.0, "key": own.1, "ca": ca.pem() }).to_string();
    let server = Server::start(&[("TTL", "3"), ("TLS", &tls)]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let api = Api::new(&server, roots);
    let manager = server
        .client("tls-client", ClientAuth::TlsClient, Credential::none())
        .root_certificate(ca.pem())
        .client_certificate(client.0, client.1);
    both(&server, &api, "tls-client", manager).await;
}
