//! A server with a CA of its own that asks for a client certificate (RFC 8705): a real TLS server, and
//! certificates that are made here.

use std::sync::{Arc, Mutex};

use ccg_session::{
    ClientAuth, ConfigError, Credential, GrantRequest, HttpTokenManager, HttpTokenManagerBuilder,
    Provider, TokenError, TokenManager,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::certificates::Ca;
use super::client;
use super::loopback::{answer, converse};

/// Grants a token to whoever shows a certificate of this CA; keeps what came as the body.
struct Server {
    ca: Ca,
    url: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        Self::start_as(["127.0.0.1".to_owned()]).await
    }

    async fn start_as(names: impl Into<Vec<String>>) -> Self {
        let ca = Ca::new("the server's");
        let own = ca.issue_for(names);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}/token", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = bodies.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever is not let in sees why.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let granting = converse(stream, |request| {
                    seen.lock().unwrap().push(request.body.clone());
                    let body = r#"{"access_token":"T","token_type":"Bearer","expires_in":60}"#;
                    answer(200, "", body)
                });
                granting.await;
            }
        });
        Self { ca, url, bodies }
    }

    fn manager(&self, auth: ClientAuth) -> HttpTokenManagerBuilder {
        let provider = Provider::generic(&self.url).client_auth(auth);
        HttpTokenManager::builder(provider, "the-client", Credential::none())
    }
}

async fn grant(builder: HttpTokenManagerBuilder) -> Result<(), TokenError> {
    builder.build().unwrap().grant(GrantRequest::default()).await.map(drop)
}

#[tokio::test]
async fn a_client_certificate_and_a_private_ca_get_a_token() {
    let server = Server::start().await;
    let client = server.ca.issue("the-client");
    let manager = server
        .manager(ClientAuth::TlsClient)
        .root_certificate(server.ca.pem())
        .client_certificate(client.certificate, client.key);
    grant(manager).await.unwrap();
    let bodies = server.bodies.lock().unwrap();
    assert_eq!(*bodies, ["grant_type=client_credentials&client_id=the-client"], "and no secret");
}

#[tokio::test]
async fn whoever_is_not_known_to_the_other_side_is_told_so() {
    let server = Server::start().await;
    let stranger = Ca::new("another").issue("the-client");
    let client = server.ca.issue("the-client");
    let trusting = |auth| server.manager(auth).root_certificate(server.ca.pem());
    let tls = || ClientAuth::TlsClient;
    for (manager, expected) in [
        // We do not know its CA.
        (
            server.manager(tls()).client_certificate(&*client.certificate, &*client.key),
            "UnknownIssuer",
        ),
        // It wants a certificate, and one of its own CA.
        (trusting(ClientAuth::None), "CertificateRequired"),
        (trusting(tls()).client_certificate(stranger.certificate, stranger.key), "UnknownCA"),
    ] {
        let error = grant(manager).await.unwrap_err();
        assert!(matches!(error, TokenError::Transport { .. }), "{error:?}");
        assert!(format!("{error} {error:?}").contains(expected), "{expected}: {error} {error:?}");
    }
    assert!(server.bodies.lock().unwrap().is_empty(), "nothing was sent to a stranger");
}

/// They are another's words, and a terminal obeys some of them.
#[tokio::test]
async fn a_certificates_names_are_shown_as_far_as_they_are_visible_and_not_too_long() {
    let odd = ["evil\u{1b}[2J\u{7}.example".to_owned()];
    let many: Vec<_> = (0..500).map(|number| format!("name-{number}.example")).collect();
    for names in [odd.to_vec(), many] {
        let server = Server::start_as(names).await;
        let builder = server.manager(ClientAuth::None).root_certificate(server.ca.pem());
        let error = grant(builder).await.unwrap_err();
        let mut shown = vec![error.to_string(), format!("{error:?}")];
        let mut next = std::error::Error::source(&error);
        while let Some(error) = next {
            shown.extend([error.to_string(), format!("{error:?}")]);
            next = error.source();
        }
        assert!(shown.iter().any(|text| text.contains(".example")), "{shown:?}");
        for text in shown {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.len() < 10_000, "{} bytes", text.len());
        }
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_before_anything_is_sent() {
    let server = Server::start().await;
    let [one, two] = ["one", "two"].map(|name| server.ca.issue(name));
    let tls = || server.manager(ClientAuth::TlsClient);
    let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let cut = &one.key[..one.key.len() / 2];
    for (builder, setting, expected) in [
        (tls(), "client_certificate", "is not set"),
        (tls().client_certificate("", &*one.key), "client_certificate", "no certificate in it"),
        (
            tls().client_certificate(&one.certificate[..99], &*one.key),
            "client_certificate",
            "broken",
        ),
        (
            tls().client_certificate(&*one.certificate, public),
            "client_certificate",
            "has a key that is a public key or a certificate",
        ),
        (tls().client_certificate(&*one.certificate, cut), "client_certificate", "is broken PEM"),
        (
            tls().client_certificate(&*one.certificate, include_str!("../keys/p256-encrypted.pem")),
            "client_certificate",
            "has a key that is encrypted: decrypt it with `openssl pkey -in KEY -out DECRYPTED`",
        ),
        (
            tls().client_certificate(&*one.certificate, include_str!("../keys/p256.jwk")),
            "client_certificate",
            "has a key that is not in PEM",
        ),
        (
            tls().client_certificate(&*one.certificate, &*two.key),
            "client_certificate",
            "KeyMismatch",
        ),
        (
            server.manager(ClientAuth::None).root_certificate("?"),
            "root_certificate",
            "no certificate",
        ),
        (
            tls().http_client(client()).root_certificate(server.ca.pem()),
            "http_client",
            "root_certificate and client_certificate have no effect",
        ),
    ] {
        let error: ConfigError = builder.build().map(drop).unwrap_err();
        assert_eq!(error.setting(), setting, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        let secret = one.key.lines().nth(1).unwrap();
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
    // One of the user's own may have a certificate; nobody can tell.
    assert!(tls().http_client(client()).build().is_ok());
}
