//! One thing wrong at a time, and the whole of what its user is told.

use ccg_session::{
    AssertionAudience, ClientAuth, DpopKey, ExchangeRequest, JwtAlgorithm, JwtAuth, Session,
    SessionError, SessionHandle, TokenManager,
};

use super::*;

/// What a caller of this client's session is told. A refusal is told after one attempt.
async fn told(client: HttpTokenManagerBuilder) -> String {
    let session = spawn(client);
    let error = session.get_token().await.expect_err("there is something wrong");
    assert_eq!(session.status().counters().grants_started, 1, "{error}");
    let SessionError::Failed { error, .. } = error else { panic!("{error:?}") };
    error.to_string()
}

fn spawn(client: HttpTokenManagerBuilder) -> SessionHandle {
    Session::builder(client.build().unwrap()).spawn().unwrap()
}

#[tokio::test]
async fn a_grant_says_what_was_wrong_with_it() {
    let server = Server::start(&[]);
    let not_this_client = "the server refused (401): invalid_client: client authentication failed";
    let private = |jwt| ClientAuth::PrivateKeyJwt(jwt);
    let asking = |change: fn(Provider) -> Provider| change(server.provider(ClientAuth::Post));
    let post = |provider| HttpTokenManager::builder(provider, "post-client", SECRET);
    for (what, client, expected) in [
        (
            "secret",
            server.client("basic-client", ClientAuth::Basic, "not-the-secret"),
            not_this_client,
        ),
        (
            "secret",
            server.client("post-client", ClientAuth::Post, "not-the-secret"),
            not_this_client,
        ),
        (
            "secret",
            server.client("jwt-secret-client", ClientAuth::SecretJwt(JwtAuth::new()), SECRET),
            not_this_client,
        ),
        ("client", server.client("nobody", ClientAuth::Post, SECRET), not_this_client),
        ("method", server.client("es256-client", ClientAuth::Post, SECRET), not_this_client),
        (
            "method",
            server.client("basic-client", ClientAuth::BasicRaw, SECRET),
            "the server refused (400): invalid_request: client_id and client_secret in the \
             authorization header are not properly encoded",
        ),
        (
            "key",
            server.client("es256-client", private(JwtAuth::new()), key("p384.pem")),
            not_this_client,
        ),
        (
            "algorithm",
            server.client(
                "rs256-client",
                private(JwtAuth::new().algorithm(JwtAlgorithm::Rs512)),
                key("rsa.pem"),
            ),
            not_this_client,
        ),
        (
            "name of the key",
            server.client(
                "es256-client",
                private(JwtAuth::new().key_id("another")),
                key("p256.pem"),
            ),
            not_this_client,
        ),
        (
            "audience",
            server.client(
                "es256-client",
                private(
                    JwtAuth::new().audience(AssertionAudience::value("https://elsewhere.example")),
                ),
                key("p256.pem"),
            ),
            not_this_client,
        ),
        (
            "scope",
            post(asking(|provider| provider.scope("openid"))),
            "the server refused (400): invalid_scope: requested scope is not allowed",
        ),
        (
            "scope",
            post(asking(|provider| provider.scope("\"root\""))),
            "the server refused (400): invalid_scope: scope contains invalid characters",
        ),
        (
            "resource",
            post(asking(|provider| provider.resource("https://elsewhere.example/"))),
            "the server refused (400): invalid_target: resource indicator is missing, or unknown",
        ),
        (
            "number of resources",
            post(asking(|provider| {
                provider.resource("https://api.example/").resource("https://api.example/files/1")
            })),
            "the server refused (400): invalid_target: only a single resource indicator value is \
             supported for this grant type",
        ),
    ] {
        assert_eq!(told(client).await, expected, "{what}");
    }
}

/// What a resource does not know of is left out, and the token says so.
#[tokio::test]
async fn a_scope_that_was_not_granted_is_seen() {
    let server = Server::start(&[]);
    let provider = server.provider(ClientAuth::Post).scope("root").resource("https://api.example/");
    let session = spawn(HttpTokenManager::builder(provider, "post-client", SECRET));
    assert_eq!(session.get_token().await.unwrap().scope(), Some("read write"));
}

#[tokio::test]
async fn an_exchange_says_what_was_wrong_with_it() {
    let server = Server::start(&[]);
    let client = server.client("post-client", ClientAuth::Post, SECRET);
    let session = spawn(client.clone());
    let read = || ExchangeRequest::scopes(["read"]);
    for (request, expected) in [
        (
            ExchangeRequest::scopes(["delete"]),
            "the server refused (400): invalid_scope: scope exceeds the subject token",
        ),
        (
            read().resource("https://elsewhere.example/"),
            "the server refused (400): invalid_target: resource indicator is missing, or unknown",
        ),
    ] {
        let error = session.exchange(request).await.unwrap_err();
        assert_eq!(error.token_error().unwrap().to_string(), expected);
    }

    // A session has only tokens of its own: so not by way of one.
    let other = spawn(server.client("basic-client", ClientAuth::Basic, SECRET));
    let foreign = other.get_token().await.unwrap();
    let revoked = session.get_token().await.unwrap();
    session.revoke().await.unwrap();
    let manager = client.build().unwrap();
    for (what, subject) in [("foreign", foreign), ("revoked", revoked)] {
        let error = manager.exchange(subject, read()).await.unwrap_err().to_string();
        let expected = "the server refused (400): invalid_grant: grant request is invalid";
        assert_eq!(error, expected, "{what}");
    }
}

#[tokio::test]
async fn a_session_whose_token_somebody_else_revoked_exchanges_another_one() {
    let server = Server::start(&[]);
    let session = spawn(server.client("post-client", ClientAuth::Post, SECRET));
    let subject = session.get_token().await.unwrap();
    command::revoke(&server, "post-client", "post", SECRET, subject.secret());
    let narrow = session.exchange(ExchangeRequest::scopes(["read"])).await.unwrap();
    assert_eq!(narrow.scope(), Some("read"));
    assert_ne!(session.get_token().await.unwrap(), subject);
    let counters = session.status().counters();
    assert_eq!((counters.exchanges_failed, counters.grants_started), (1, 2));
}

/// RFC 9449 §5.
#[tokio::test]
async fn a_server_without_dpop_is_found_out() {
    let server = Server::start(&[("DPOP", "off")]);
    let client = server.client("post-client", ClientAuth::Post, SECRET);
    let error = spawn(client.dpop(DpopKey::generate().unwrap())).get_token().await.unwrap_err();
    assert_eq!(
        error.token_error().unwrap().to_string(),
        "the server refused (200): unusable_token_type: its token_type is \"Bearer\", and it was to be DPoP: \
         whoever steals such a token can use it (RFC 9449 §5). If the server does not know DPoP, \
         leave it out"
    );
}

#[tokio::test]
async fn an_issuer_that_is_not_quite_the_servers_is_told_as_it_is() {
    let server = Server::start(&[]);
    let provider = Provider::discover(format!("{}/", server.issuer)).client_auth(ClientAuth::Post);
    let client = HttpTokenManager::builder(provider, "post-client", SECRET);
    let error = spawn(client).get_token().await.unwrap_err();
    let words = error.token_error().unwrap().to_string();
    let expected = format!(
        "its issuer is {:?}: if that is who is meant, configure it exactly so",
        server.issuer
    );
    assert!(words.contains(&expected), "{words}");
}

/// 5 minutes and 10 seconds, since some allow 5 minutes.
#[tokio::test]
async fn what_is_signed_is_dated_by_the_servers_clock_where_clocks_differ() {
    let start = |clock| Server::start(&[("CLOCK", clock), ("DPOP", "no-nonces")]);
    let (ahead, behind) = (start("310"), start("-310"));
    let dpop = || DpopKey::generate().unwrap();
    let secret_jwt = || ClientAuth::SecretJwt(JwtAuth::new());
    let es256 = || ClientAuth::PrivateKeyJwt(JwtAuth::new());
    let post = |server: &Server| server.client("post-client", ClientAuth::Post, SECRET);
    for client in [
        ahead.client("jwt-secret-client", secret_jwt(), LONG_SECRET),
        ahead.client("es256-client", es256(), key("p256.pem")),
        post(&ahead).dpop(dpop()),
        post(&behind).dpop(dpop()),
    ] {
        let session = spawn(client);
        session.get_token().await.unwrap();
        // The first is refused, and tells the server's time.
        let counters = session.status().counters();
        assert_eq!((counters.grants_started, counters.grants_failed), (2, 1));
    }

    // Else a clock does not matter: a life is counted from when it was asked for, and what a nonce dates
    // needs no clock (RFC 9449 §11.1).
    let nonces = Server::start(&[("CLOCK", "310")]);
    for client in [
        ahead.client("basic-client", ClientAuth::Basic, SECRET),
        behind.client("basic-client", ClientAuth::Basic, SECRET),
        post(&nonces).dpop(dpop()),
    ] {
        let life = spawn(client).get_token().await.unwrap().remaining().as_secs();
        assert!((50..=60).contains(&life), "{life}");
    }
}
