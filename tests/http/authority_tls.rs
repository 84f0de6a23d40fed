//! The embedded authority with TLS and client certificates (RFC 8705).

use ccg_session::testing::Authority;
use ccg_session::{
    ClientAuth, Credential, HttpTokenManager, HttpTokenManagerBuilder, Provider, Session,
    SessionError, SessionHandle,
};

use super::certificates::{Ca, Pair};

struct World {
    ca: Ca,
    clients: Ca,
    authority: Authority,
}

impl World {
    async fn new() -> Self {
        let (ca, clients) = (Ca::new("the server's"), Ca::new("the clients'"));
        let Pair { certificate, key } = ca.issue("127.0.0.1");
        let builder = Authority::builder().tls(certificate, key).client_ca(clients.pem());
        let authority = builder.start().await.unwrap();
        Self { ca, clients, authority }
    }

    fn client(&self, auth: ClientAuth, credential: Credential) -> HttpTokenManagerBuilder {
        let provider = Provider::discover(self.authority.base_url()).client_auth(auth);
        let builder = HttpTokenManager::builder(provider, "test-client", credential);
        builder.root_certificate(self.ca.pem())
    }
}

fn session(builder: HttpTokenManagerBuilder) -> SessionHandle {
    Session::builder(builder.build().unwrap()).spawn().unwrap()
}

fn code(error: &SessionError) -> String {
    error.token_error().unwrap().to_string()
}

#[tokio::test]
async fn a_client_proves_itself_by_its_certificate() {
    let world = World::new().await;
    assert!(world.authority.base_url().starts_with("https://127.0.0.1:"));
    let Pair { certificate, key } = world.clients.issue("test-client");
    let client = world.client(ClientAuth::TlsClient, Credential::none());
    let session = session(client.client_certificate(certificate, key));
    let token = session.get_token().await.unwrap();
    assert!(world.authority.is_active(token.secret()));
    session.revoke().await.unwrap();
    assert!(!world.authority.is_active(token.secret()));
    let request = world.authority.requests().pop().unwrap();
    assert_eq!(request.param("client_id"), Some("test-client"));
    assert_eq!(request.param("client_secret"), None);
}

#[tokio::test]
async fn without_a_certificate_of_its_ca_it_must_prove_itself_otherwise() {
    let world = World::new().await;
    let secret = session(world.client(ClientAuth::Post, "test-secret".into()));
    secret.get_token().await.unwrap();
    let none = session(world.client(ClientAuth::None, Credential::none()));
    let error = code(&none.get_token().await.unwrap_err());
    assert!(error.contains("invalid_client"), "{error}");

    let Pair { certificate, key } = Ca::new("another").issue("test-client");
    let client = world.client(ClientAuth::TlsClient, Credential::none());
    let strange = session(client.client_certificate(certificate, key));
    let error = code(&strange.get_token().await.unwrap_err());
    assert!(error.contains("could not be reached"), "{error}");

    // A certificate does not make a wrong secret right.
    let Pair { certificate, key } = world.clients.issue("test-client");
    let client = world.client(ClientAuth::Post, "wrong".into());
    let wrong = session(client.client_certificate(certificate, key));
    let error = code(&wrong.get_token().await.unwrap_err());
    assert!(error.contains("invalid_client"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_when_it_starts() {
    let Pair { certificate, key } = Ca::new("a CA").issue("127.0.0.1");
    let pair = |certificate: &str, key: &str| Authority::builder().tls(certificate, key);
    for builder in [
        pair("nonsense", &key),
        pair(&certificate, "nonsense"),
        pair(&certificate, &Ca::new("a CA").issue("127.0.0.1").key),
        pair(&certificate, &key).client_ca("nonsense"),
    ] {
        let error = builder.start().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
        assert!(!error.to_string().contains("nonsense"), "{error}");
    }
}
