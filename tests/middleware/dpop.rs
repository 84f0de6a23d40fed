//! Tokens that are bound to a key: proofs, and the nonces of servers that want them.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ccg_session::testing::Authority;
use ccg_session::{ConfigError, DpopKey, HttpTokenManager, Session, SessionHandle};
use http::HeaderName;
use serde_json::Value;

use super::upstream::{Answer, Seen, Upstream, answer, ok, to};
use super::{Client, age, attach, inner, reqwest_builder};

/// Its tokens are bound, as a real authority binds them.
async fn bound(authority: &Authority) -> SessionHandle {
    let manager = HttpTokenManager::builder(
        authority.provider(),
        authority.client_id(),
        authority.client_secret(),
    );
    let manager = manager.dpop(DpopKey::generate().unwrap()).build().unwrap();
    let session = Session::builder(manager).spawn().unwrap();
    session.get_token().await.unwrap();
    age();
    session
}

const PROOF: HeaderName = HeaderName::from_static("dpop");

/// The claims of a request's proof.
fn proof(seen: &Seen) -> Option<Value> {
    let claims = seen.header(PROOF)?.split('.').nth(1).unwrap();
    Some(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap())
}

fn nonce(seen: &Seen) -> Option<String> {
    Some(proof(seen)?["nonce"].as_str()?.to_owned())
}

fn wants(nonce: &str) -> Answer {
    let challenge = "DPoP error=\"use_dpop_nonce\", algs=\"ES256\"";
    answer(401, &[("www-authenticate", challenge), ("dpop-nonce", nonce)], "")
}

/// The authority checks each as RFC 9449 §4.3 says, and that it was not used before.
#[tokio::test]
async fn each_request_has_a_proof_of_its_own() {
    let authority = Authority::start().await.unwrap();
    for client in Client::SIDES {
        let session = bound(&authority).await;
        let client = client(&attach(&session, &[authority.base_url()]));
        for _ in 0..3 {
            let url = format!("{}?scope=item_preview", authority.resource_url());
            assert_eq!(client.status(&url).await, 200);
        }
    }
}

/// The authority's challenge is of the token's own scheme (RFC 9449 §7.1).
#[tokio::test]
async fn a_bound_token_that_the_authority_has_revoked_is_replaced() {
    let authority = Authority::start().await.unwrap();
    for client in Client::SIDES {
        let session = bound(&authority).await;
        let first = session.get_token().await.unwrap();
        let client = client(&attach(&session, &[authority.base_url()]));
        assert!(authority.revoke_behind(first.secret()));
        let url = format!("{}?scope=item_preview", authority.resource_url());
        assert_eq!(client.status(&url).await, 200);
        assert_ne!(session.get_token().await.unwrap(), first);
    }
}

#[tokio::test]
async fn a_refused_bound_token_is_replaced_and_its_proof_too() {
    let authority = Authority::start().await.unwrap();
    for client in Client::SIDES {
        let session = bound(&authority).await;
        let first = session.get_token().await.unwrap();
        let refused = first.header_value().to_str().unwrap().to_owned();
        let upstream = Upstream::start(move |seen| {
            let challenge = [("www-authenticate", "Bearer, DPoP error=\"invalid_token\"")];
            if seen.authorization() == refused { answer(401, &challenge, "") } else { ok() }
        })
        .await;
        let client = client(&attach(&session, &[&upstream.base]));
        assert_eq!(client.status(&upstream.url("/a?b")).await, 200);
        let second = session.get_token().await.unwrap();
        let sent = [first, second].map(|token| token.header_value().to_str().unwrap().to_owned());
        assert_eq!(upstream.authorizations(), sent);
        let proofs = upstream.seen(|seen| proof(seen).unwrap());
        for proof in &proofs {
            assert_eq!((&proof["htm"], &proof["htu"]), (&"GET".into(), &upstream.url("/a").into()));
        }
        assert!(proofs[0]["ath"] != proofs[1]["ath"] && proofs[0]["jti"] != proofs[1]["jti"]);
    }
}

#[tokio::test]
async fn a_nonce_that_is_asked_for_is_sent_and_kept_and_refuses_no_token() {
    let authority = Authority::start().await.unwrap();
    for client in Client::SIDES {
        let session = bound(&authority).await;
        let token = session.get_token().await.unwrap();
        let upstream =
            Upstream::start(
                |seen| if nonce(seen).as_deref() == Some("n1") { ok() } else { wants("n1") },
            )
            .await;
        let client = client(&attach(&session, &[&upstream.base]));
        assert_eq!(client.status(&upstream.url("/")).await, 200);
        assert_eq!(client.status(&upstream.url("/")).await, 200);
        let expected = [None, Some("n1".into()), Some("n1".into())];
        assert_eq!(upstream.seen(nonce), expected, "it is known from then on");
        assert_eq!(session.get_token().await.unwrap(), token);
    }
}

#[tokio::test]
async fn a_nonce_is_taken_from_any_answer_and_belongs_to_its_origin() {
    let authority = Authority::start().await.unwrap();
    for client in Client::SIDES {
        let session = bound(&authority).await;
        let rule = |seen: &Seen| {
            let status = seen.uri.query().unwrap_or("200").parse().unwrap();
            answer(status, &[("dpop-nonce", &format!("n{status}"))], "")
        };
        let (one, other) = (Upstream::start(rule).await, Upstream::start(rule).await);
        let client = client(&attach(&session, &[&one.base, &other.base]));
        for path in ["/?200", "/?404", "/?401", "/"] {
            client.get(&one.url(path)).await.unwrap();
        }
        assert_eq!(client.status(&other.url("/")).await, 200);
        let kept = [None, Some("n200".into()), Some("n404".into()), Some("n401".into())];
        assert_eq!(one.seen(nonce), kept);
        assert_eq!(other.seen(nonce), [None]);
    }
}

#[tokio::test]
async fn a_nonce_spends_the_one_repeat() {
    let authority = Authority::start().await.unwrap();
    for client in Client::SIDES {
        // A server that is never content.
        let session = bound(&authority).await;
        let never = Upstream::start(|_| wants("n")).await;
        let of_never = client(&attach(&session, &[&never.base]));
        assert_eq!(of_never.status(&never.url("/")).await, 401);
        assert_eq!(never.seen(nonce), [None, Some("n".into())]);

        // One that then refuses the token: the session is told all the same.
        let token = session.get_token().await.unwrap();
        let both = Upstream::start(|seen| match nonce(seen) {
            None => wants("n"),
            Some(_) => answer(401, &[("www-authenticate", "DPoP error=\"invalid_token\"")], ""),
        })
        .await;
        let of_both = client(&attach(&session, &[&both.base]));
        assert_eq!(of_both.status(&both.url("/")).await, 401);
        assert_eq!(both.seen(nonce).len(), 2);
        assert_ne!(session.get_token().await.unwrap(), token);
    }
}

/// reqwest takes the proof along to wherever it is redirected, though not the token.
#[tokio::test]
async fn a_redirect_that_reqwest_has_followed_is_an_error_with_a_bound_token() {
    let authority = Authority::start().await.unwrap();
    let session = bound(&authority).await;
    let other = Upstream::start(|_| ok()).await;
    let elsewhere = other.url("/");
    let upstream = Upstream::start(move |seen| match seen.uri.path() {
        "/elsewhere" => to(&elsewhere),
        "/here" => to("/there"),
        _ => ok(),
    })
    .await;
    let attach = attach(&session, &[&upstream.base]);
    let client = Client::SIDES[0](&attach);
    for path in ["/elsewhere", "/here"] {
        let error = client.get(&upstream.url(path)).await.unwrap_err();
        let error = inner::<ConfigError>(&error).to_string();
        assert!(
            error.starts_with("redirect was followed by the client")
                && error.contains("Policy::none()"),
            "{error}"
        );
    }
    assert_eq!(other.authorizations(), ["none"], "a proof without its token is of no use");
    assert_eq!(client.status(&upstream.url("/a?b#c")).await, 200);

    // As it is to be: the caller gets the redirect, and who follows it through the middleware has another proof.
    let followed_by_hand =
        reqwest_builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let client = reqwest_middleware::ClientBuilder::new(followed_by_hand).with(attach).build();
    for path in ["/elsewhere", "/here"] {
        assert_eq!(client.get(upstream.url(path)).send().await.unwrap().status(), 302);
    }
    assert_eq!(client.get(upstream.url("/there")).send().await.unwrap().status(), 200);
    assert_eq!(other.authorizations().len(), 1);
}
