//! What a client of a certain profile sends: FAPI 2.0, and what goes with a revocation.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ccg_session::testing::{Authority, Kind};
use ccg_session::{
    AssertionAudience, ClientAuth, DpopKey, HttpTokenManager, JwtAlgorithm, JwtAuth, Provider,
    Session, Subject,
};
use serde_json::Value;

const KEY: &str = include_str!("../keys/rsa.pem");

/// The recipe in the documentation of `HttpTokenManager`, against an authority that checks it.
#[tokio::test]
async fn fapi_2_has_a_recipe_that_works() {
    let authority = Authority::builder().client_key(KEY).start().await.unwrap();
    let auth = JwtAuth::new().algorithm(JwtAlgorithm::Ps256).audience(AssertionAudience::Issuer);
    let provider =
        Provider::discover(authority.base_url()).client_auth(ClientAuth::PrivateKeyJwt(auth));
    let key = DpopKey::generate().unwrap();
    let builder = HttpTokenManager::builder(provider, authority.client_id(), KEY);
    let session = Session::builder(builder.dpop(key).build().unwrap()).spawn().unwrap();
    let token = session.get_token().await.unwrap();
    assert!(token.header_value().to_str().unwrap().starts_with("DPoP "), "bound to the key");
    session.revoke().await.unwrap();
    assert!(!authority.is_active(token.secret()));

    let requests = authority.requests();
    let sent = requests.iter().filter(|request| request.kind != Kind::Discovery);
    let mut number = 0;
    for request in sent {
        number += 1;
        assert_eq!(request.param("client_secret"), None);
        let jwt = request.param("client_assertion").unwrap();
        let part = |at| {
            let part = BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').nth(at).unwrap()).unwrap();
            serde_json::from_slice::<Value>(&part).unwrap()
        };
        assert_eq!(part(0)["alg"], "PS256");
        assert_eq!(part(1)["aud"], authority.base_url(), "one text, not a list");
    }
    assert_eq!(number, 2);
}

#[tokio::test]
async fn a_revocation_says_what_kind_of_token_it_is_except_to_box() {
    let authority = Authority::builder().enterprise("12345").start().await.unwrap();
    let secret = authority.client_secret();
    let generic =
        Provider::generic(authority.token_url()).revocation_url(authority.revocation_url());
    let to_box = Provider::box_ccg(Subject::enterprise("12345")).base_url(authority.base_url());
    for provider in [generic, to_box] {
        let builder = HttpTokenManager::builder(provider, authority.client_id(), secret.clone());
        let session = Session::builder(builder.build().unwrap()).spawn().unwrap();
        session.get_token().await.unwrap();
        session.revoke().await.unwrap();
    }
    let requests = authority.requests();
    let hints: Vec<_> = requests
        .iter()
        .filter(|request| request.kind == Kind::Revoke)
        .map(|request| request.param("token_type_hint"))
        .collect();
    assert_eq!(hints, [Some("access_token"), None]);
}
