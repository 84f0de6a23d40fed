//! A server that is known by its issuer alone (RFC 8414), on real HTTP: the embedded authority publishes
//! its metadata, and only where RFC 8414 puts it, so each discovery here tries another place first.

use std::time::Duration;

use ccg_session::testing::{Answer, Authority, Fault, Kind, Rule, Script};
use ccg_session::{
    ClientAuth, ExchangeRequest, GrantRequest, HttpTokenManager, Provider, SessionError,
    SessionHandle, TokenError, TokenManager,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{secs, session_of};

fn discovered(issuer: &str) -> HttpTokenManager {
    let provider = Provider::discover(issuer).client_auth(ClientAuth::Basic);
    HttpTokenManager::builder(provider, "test-client", "test-secret").build().unwrap()
}

fn manager(authority: &Authority) -> HttpTokenManager {
    discovered(authority.base_url())
}

fn session(authority: &Authority, attempts: u32) -> SessionHandle {
    session_of(manager(authority), |config| {
        config.retry.attempts = attempts;
        // Of an attempt that hangs, and more than one that does not needs.
        config.retry.attempt_timeout = Duration::from_secs(3);
    })
}

/// What the authority publishes, with these changes.
fn metadata(authority: &Authority, changes: &Value) -> Answer {
    let mut metadata = json!({
        "issuer": authority.base_url(),
        "token_endpoint": authority.token_url(),
        "revocation_endpoint": authority.revocation_url(),
        "introspection_endpoint": authority.introspection_url(),
    });
    metadata.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Answer::new(StatusCode::OK).body(metadata.to_string())
}

async fn grant(manager: &HttpTokenManager) -> Result<(), TokenError> {
    manager.grant(GrantRequest::default()).await.map(drop)
}

#[tokio::test]
async fn one_discovery_serves_a_sessions_whole_life() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority, 3);
    let asking = manager(&authority);
    let token = session.get_token().await.unwrap();
    let narrow = session.exchange(ExchangeRequest::scopes(["item_preview"])).await.unwrap();
    assert!(asking.is_active(token.secret()).await.unwrap());
    assert!(asking.is_active(narrow.secret()).await.unwrap());
    session.revoke().await.unwrap();
    assert!(!asking.is_active(token.secret()).await.unwrap());
    assert!(!asking.is_active(narrow.secret()).await.unwrap());
    session.get_token().await.unwrap();
    assert_eq!(authority.counts().discoveries, 2, "the session's, and that of who asks");
}

#[tokio::test]
async fn attempts_at_the_same_time_share_a_discovery() {
    let authority = Authority::start().await.unwrap();
    let manager = manager(&authority);
    let gate = authority.hold(Kind::Discovery);
    let attempts = async { tokio::join!(grant(&manager), grant(&manager), grant(&manager)) };
    let release = async {
        authority.wait_for(|counts| counts.held == 1).await;
        gate.release();
    };
    let ((first, second, third), ()) = tokio::join!(attempts, release);
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    let counts = authority.counts();
    assert_eq!((counts.discoveries, counts.grants), (1, 3));
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_fails_attempts_as_any_other_and_poisons_nothing() {
    let authority = Authority::start().await.unwrap();
    for fault in [Fault::Drop, Fault::Hang, Answer::new(StatusCode::SERVICE_UNAVAILABLE).into()] {
        let session = session(&authority, 1);
        authority.fail(Kind::Discovery, fault.clone());
        let error = session.get_token().await.unwrap_err();
        let cause = error.token_error().unwrap();
        assert!(cause.is_retryable(), "{cause}");
        let expected = match fault {
            Fault::Drop => matches!(cause, TokenError::Transport { .. }),
            Fault::Hang => matches!(cause, TokenError::TimedOut { .. }),
            _ => matches!(cause, TokenError::Server { status: 503, .. }),
        };
        assert!(expected, "{fault:?}: {cause}");
        authority.heal();
        let wait = error.retry_after().unwrap();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        tokio::time::sleep(wait).await;
        session.get_token().await.unwrap();
    }
    assert_eq!(authority.counts().grants, 3, "without an address nothing is sent");
}

#[tokio::test]
async fn the_sessions_own_policy_repeats_a_discovery_that_failed() {
    let authority = Authority::start().await.unwrap();
    let unavailable = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
    let rule = Rule::new(Kind::Discovery).requests(1..=2).fault(unavailable);
    authority.set_script(Script::new().rule(rule));
    let session = session(&authority, 3);
    session.get_token().await.unwrap();
    assert_eq!(session.status().counters().grants_started, 3);
    assert_eq!((authority.counts().discoveries, authority.counts().grants), (3, 1));

    let limited = Answer::new(StatusCode::TOO_MANY_REQUESTS).retry_after(Duration::from_secs(9));
    authority.fail(Kind::Discovery, limited);
    let error = grant(&manager(&authority)).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)), "{error}");
}

#[tokio::test]
async fn a_server_without_a_revocation_endpoint_is_unsupported_once_that_is_known() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Discovery, metadata(&authority, &json!({ "revocation_endpoint": null })));
    let session = session(&authority, 1);
    session.revoke().await.unwrap(); // There is no token yet.
    let token = session.get_token().await.unwrap();
    let error = session.revoke().await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported(_)), "{error}");
    assert_eq!(session.get_token().await.unwrap(), token, "nothing has changed");

    // Nor can a token be revoked whose request was under way when nobody knew.
    let gate = authority.hold(Kind::Discovery);
    let session = self::session(&authority, 1);
    let asking = session.get_token();
    let revoking = async {
        authority.wait_for(|counts| counts.held == 1).await;
        let revoking = session.revoke();
        let release = async { gate.release() };
        tokio::join!(biased; revoking, release).0
    };
    let (asked, revoked) = tokio::join!(asking, revoking);
    let error = revoked.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported(_)), "{error}");
    assert!(asked.is_ok(), "a later one");
    assert_eq!(authority.counts().revocations, 0);
}

#[tokio::test]
async fn metadata_of_another_issuer_or_with_unsafe_addresses_is_not_used() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let error = grant(&discovered(&format!("{base}/"))).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("for the issuer \"{base}/\"")), "{text}");
    assert!(text.contains(&format!("its issuer is {base:?}")), "{text}");
    assert!(text.contains("openid-configuration: ") && text.contains("404"), "{text}");
    assert!(error.is_retryable());
    for (changes, expected) in [
        (json!({ "issuer": "https://evil.example" }), "its issuer is \"https://evil.example\""),
        (json!({ "token_endpoint": "http://192.0.2.1/token" }), "without TLS"),
        (json!({ "revocation_endpoint": "http://192.0.2.1/" }), "revocation_endpoint"),
        (json!({ "token_endpoint": 7 }), "it names no token_endpoint"),
    ] {
        authority.fail(Kind::Discovery, metadata(&authority, &changes));
        let text = grant(&manager(&authority)).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    for (answer, expected) in [
        (Answer::new(StatusCode::OK).body("<html>"), "looks like a web page"),
        (Answer::new(StatusCode::OK).body("[]"), "not an object"),
        (Answer::new(StatusCode::FORBIDDEN), "Forbidden"),
    ] {
        authority.fail(Kind::Discovery, answer);
        let text = grant(&manager(&authority)).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(authority.counts().grants, 0);
}

#[tokio::test]
async fn a_wait_that_is_asked_for_where_nothing_is_counts_too() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Discovery, Answer::new(StatusCode::NOT_FOUND).retry_after(secs(70)));
    let error = grant(&manager(&authority)).await.unwrap_err();
    assert!(matches!(error, TokenError::Denied { .. }), "{error}");
    assert_eq!(error.retry_after(), Some(secs(70)));
}

/// They are tried in one attempt, so its time is theirs too.
#[tokio::test]
async fn an_error_names_each_place_that_was_tried() {
    let authority = Authority::start().await.unwrap();
    let base = authority.base_url();
    let error = grant(&discovered(&format!("{base}/tenant"))).await.unwrap_err().to_string();
    for place in [
        "/tenant/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server/tenant",
        "/tenant/.well-known/oauth-authorization-server",
    ] {
        assert!(error.contains(&format!("{base}{place}: the server refused (404)")), "{error}");
    }
}

#[tokio::test]
async fn addresses_at_which_nobody_is_met_are_looked_up_again() {
    let authority = Authority::start().await.unwrap();
    let moved = [json!("http://127.0.0.1:1/t"), json!(format!("{}/gone", authority.base_url()))];
    for (rediscovered, moved) in moved.into_iter().enumerate() {
        let before = authority.counts();
        let old = metadata(&authority, &json!({ "token_endpoint": moved }));
        let rule = Rule::new(Kind::Discovery).requests(1..=1).fault(old);
        authority.set_script(Script::new().rule(rule));
        let manager = manager(&authority);
        let error = grant(&manager).await.unwrap_err();
        let met = if rediscovered == 0 { "refused" } else { "404" };
        assert!(error.to_string().contains(met), "{error}");
        grant(&manager).await.unwrap();
        grant(&manager).await.unwrap();
        let after = authority.counts();
        assert_eq!((after.discoveries, after.grants), (before.discoveries + 2, before.grants + 2));
    }
}

#[tokio::test]
async fn the_old_addresses_serve_on_while_metadata_is_not_to_be_had() {
    let authority = Authority::start().await.unwrap();
    let manager = manager(&authority);
    grant(&manager).await.unwrap();
    authority.set_script(
        Script::new()
            .rule(Rule::new(Kind::Grant).requests(1..=1).fault(Fault::Drop))
            .rule(Rule::new(Kind::Discovery).fault(Fault::Drop)),
    );
    assert!(grant(&manager).await.is_err());
    grant(&manager).await.unwrap();
    grant(&manager).await.unwrap();
    assert_eq!(authority.counts().discoveries, 2, "asked once for each doubt");
}

#[tokio::test]
async fn an_address_that_was_set_counts_more() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Discovery, metadata(&authority, &json!({ "revocation_endpoint": null })));
    let provider =
        Provider::discover(authority.base_url()).revocation_url(authority.revocation_url());
    let manager =
        HttpTokenManager::builder(provider, "test-client", "test-secret").build().unwrap();
    let session = session_of(manager, |_| {});
    let token = session.get_token().await.unwrap();
    session.revoke().await.unwrap();
    assert!(authority.revoked_at(token.secret()).is_some());
}

/// RFC 8705 §5: also where it proves itself by a secret, since a token can be bound to a certificate too.
#[tokio::test]
async fn whoever_has_a_certificate_goes_where_one_is_asked_for() {
    let authority = Authority::start().await.unwrap();
    let alias = format!("{}/mtls", authority.base_url());
    let aliases = json!({ "mtls_endpoint_aliases": { "token_endpoint": alias } });
    authority.fail(Kind::Discovery, metadata(&authority, &aliases));
    let provider = Provider::discover(authority.base_url());
    let builder = HttpTokenManager::builder(provider, "test-client", "test-secret");
    let own = rcgen::generate_simple_self_signed(["the-client".to_owned()]).unwrap();
    let shows = builder.clone().client_certificate(own.cert.pem(), own.signing_key.serialize_pem());
    for (builder, expected) in [(builder, authority.token_url()), (shows, alias)] {
        let endpoints = builder.build().unwrap().endpoints().await.unwrap();
        assert_eq!(endpoints.token_url(), expected);
    }
}
