//! Two managers share a token if, and only if, the token of one may stand for the other's.

use ccg_session::{
    AssertionAudience, ClientAuth, Credential, DpopKey, HttpTokenManager, Identity, JwtAuth,
    Provider, Subject, TokenManager,
};

const KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#;

fn provider() -> Provider {
    Provider::generic("https://one.example.com/token").client_auth(ClientAuth::Post)
}

fn identity(provider: Provider, id: &str, secret: &str) -> Option<Identity> {
    HttpTokenManager::builder(provider, id, secret).build().unwrap().identity()
}

fn of(provider: Provider) -> Identity {
    identity(provider, "id", "a secret").expect("it is known")
}

fn signed(jwt: JwtAuth) -> Identity {
    identity(provider().client_auth(ClientAuth::PrivateKeyJwt(jwt)), "id", KEY)
        .expect("it is known")
}

#[test]
fn whatever_changes_the_token_is_another_identity() {
    let box_for = |subject| Provider::box_ccg(subject);
    let bound = HttpTokenManager::builder(provider(), "id", "a secret")
        .dpop(DpopKey::generate().unwrap())
        .build()
        .unwrap();
    let all = [
        of(provider()),
        identity(provider(), "another", "a secret").unwrap(),
        of(Provider::generic("https://two.example.com/token")),
        of(provider().client_auth(ClientAuth::Basic)),
        of(provider().client_auth(ClientAuth::BasicRaw)),
        of(provider().client_auth(ClientAuth::SecretJwt(JwtAuth::new()))),
        signed(JwtAuth::new()),
        signed(JwtAuth::new().audience(AssertionAudience::value("https://one.example.com"))),
        signed(JwtAuth::new().audience(AssertionAudience::value("endpoint"))),
        of(provider().scopes(["read"])),
        of(provider().scopes(["read", "write"])),
        of(provider().resource("https://api.example.com")),
        of(provider().resource("https://api.example.com").resource("https://b.example.com")),
        of(provider().audience("https://api.example.com")),
        of(provider().param("organization", "one")),
        of(provider().param("organization", "two")),
        of(provider().param("organisation", "one")),
        of(box_for(Subject::enterprise("1"))),
        of(box_for(Subject::enterprise("2"))),
        of(box_for(Subject::user("1"))),
        of(box_for(Subject::enterprise("1")).base_url("https://box.example.com")),
        bound.identity().unwrap(),
    ];
    for (nth, one) in all.iter().enumerate() {
        for (other, two) in all[..nth].iter().enumerate() {
            assert_ne!(one, two, "{nth} and {other}");
        }
    }
    // As made from one, so built by itself.
    let base = HttpTokenManager::builder(box_for(Subject::enterprise("1")), "id", "a secret");
    let base = base.build().unwrap();
    let other = base.for_subject(Subject::user("1"));
    assert_eq!(other.identity().unwrap(), of(box_for(Subject::user("1"))));
    assert_ne!(base.with_scopes(["read"]).identity(), base.identity());
}

#[test]
fn what_does_not_change_the_token_does_not_change_the_identity() {
    let scoped = of(provider().scopes(["read", "write"]));
    assert_eq!(of(provider().scopes(["write", "read", "write"])), scoped);
    let rotated = identity(provider().scopes(["read", "write"]), "id", "another secret").unwrap();
    assert_eq!(rotated, scoped);
    let elsewhere = provider().revocation_url("https://one.example.com/revoke");
    assert_eq!(of(elsewhere), of(provider()));
    assert_eq!(signed(JwtAuth::new().key_id("2")), signed(JwtAuth::new()));
}

#[test]
fn nobody_knows_whose_token_an_assertion_gets() {
    let assertion = provider().client_auth(ClientAuth::Assertion);
    assert_eq!(identity(assertion, "id", "an.assertion.of-somebody"), None);
    let certified = provider().client_auth(ClientAuth::TlsClient);
    let manager = HttpTokenManager::builder(certified, "id", Credential::none());
    let manager = manager.http_client(ccg_session_reqwest()).build().unwrap();
    assert_eq!(manager.identity(), None);
}

fn ccg_session_reqwest() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

#[test]
fn no_secret_is_in_an_identity() {
    let identity = of(provider().param("organization", "s3cret-parameter"));
    for (name, value) in identity.pairs() {
        assert!(!value.contains("s3cret") && value != "a secret", "{name}");
    }
    assert!(!format!("{identity:?}").contains("example.com"));
}
