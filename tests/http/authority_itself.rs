//! The embedded authority, asked by a plain HTTP client: every endpoint, every refusal, every fault.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use ccg_session::testing::{Answer, Authority, Fault, Kind, Rule, Script};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::client;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const GRANT: &[(&str, &str)] = &[
    ("grant_type", "client_credentials"),
    ("client_id", "test-client"),
    ("client_secret", "test-secret"),
];

/// Changes to a form, and the status and error that they lead to.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

/// What came back: status, headers, and the body if it is JSON.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    json: Value,
}

impl Got {
    fn text(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    fn token(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.text("access_token").to_owned()
    }

    fn header(&self, name: impl reqwest::header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn send(request: RequestBuilder) -> reqwest::Result<Got> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await?;
    Ok(Got { status, headers, json: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

async fn post(url: &str, form: &[(&str, &str)]) -> Got {
    send(client().post(url).form(form)).await.unwrap()
}

async fn grant(authority: &Authority) -> Got {
    post(&authority.token_url(), GRANT).await
}

/// The grant's form with these pairs instead of those of the same name, or besides; an empty value leaves
/// a pair out.
fn with<'a>(
    form: &[(&'a str, &'a str)],
    changes: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let kept = form.iter().filter(|(name, _)| !changes.iter().any(|(change, _)| change == name));
    kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect()
}

async fn exchange(authority: &Authority, subject: &str, changes: &[(&str, &str)]) -> Got {
    let form = with(
        GRANT,
        &[
            ("grant_type", EXCHANGE),
            ("subject_token", subject),
            ("subject_token_type", ACCESS_TOKEN),
        ],
    );
    post(&authority.token_url(), &with(&form, changes)).await
}

async fn resource(authority: &Authority, token: &str, query: &str) -> Got {
    let url = format!("{}{query}", authority.resource_url());
    send(client().get(url).bearer_auth(token)).await.unwrap()
}

fn assert_error(got: &Got, status: u16, error: &str) {
    assert_eq!((got.status, got.text("error")), (status, error), "{got:?}");
}

#[tokio::test]
async fn a_grant_gives_a_token_that_the_resource_accepts() {
    let authority = Authority::start().await.unwrap();
    let got = grant(&authority).await;
    assert_eq!(got.json["expires_in"], json!(3600));
    assert_eq!(got.text("token_type"), "bearer");
    assert_eq!(got.header("cache-control"), "no-store");
    assert!(got.text("scope").contains("item_preview"));

    let (first, second) = (got.token(), grant(&authority).await.token());
    assert!(first.len() >= 32 && first.is_ascii() && first != second);
    assert!(authority.is_active(&first) && !authority.is_active("other"));
    assert_eq!(resource(&authority, &first, "").await.status, 200);
    assert_eq!(resource(&authority, &second, "?scope=item_preview").await.status, 200);
}

#[tokio::test]
async fn a_grant_is_refused_as_the_rfc_says() {
    let authority = Authority::builder().user("4711").start().await.unwrap();
    let cases: &[Case] = &[
        (&[("client_id", "")], 401, "invalid_client"),
        (&[("client_secret", "")], 401, "invalid_client"),
        (&[("client_id", "other")], 401, "invalid_client"),
        (&[("client_secret", "wrong")], 401, "invalid_client"),
        (&[("grant_type", "")], 400, "invalid_request"),
        (&[("grant_type", "password")], 400, "unsupported_grant_type"),
        (&[("scope", "item_preview")], 200, ""),
        (&[("scope", "item_preview item_unknown")], 400, "invalid_scope"),
        (&[("scope", "item_preview  item_upload")], 400, "invalid_scope"),
        (&[("scope", "item\"preview")], 400, "invalid_scope"),
        (&[("box_subject_type", "enterprise"), ("box_subject_id", "12345")], 200, ""),
        (&[("box_subject_type", "enterprise"), ("box_subject_id", "4711")], 400, "invalid_grant"),
        (&[("box_subject_type", "user"), ("box_subject_id", "4711")], 200, ""),
        (&[("box_subject_type", "user"), ("box_subject_id", "67890")], 200, ""),
        (&[("box_subject_type", "user"), ("box_subject_id", "12345")], 400, "invalid_grant"),
        (&[("box_subject_type", "group"), ("box_subject_id", "1")], 400, "invalid_request"),
        (&[("box_subject_type", "user")], 400, "invalid_request"),
        (&[("box_subject_id", "12345")], 400, "invalid_request"),
        (&[("colour", "red"), ("colour", "blue")], 400, "invalid_request"),
        (&[("resource", "https://a.example"), ("resource", "https://b.example")], 200, ""),
    ];
    for (changes, status, error) in cases {
        let got = post(&authority.token_url(), &with(GRANT, changes)).await;
        assert_eq!((got.status, got.text("error")), (*status, *error), "{changes:?}: {got:?}");
        if *status == 401 {
            assert!(got.header(WWW_AUTHENTICATE).starts_with("Basic "), "{got:?}");
        }
    }
    let repeated = [GRANT, &[("client_id", "test-client")]].concat();
    let repeated = post(&authority.token_url(), &repeated).await;
    assert_error(&repeated, 400, "invalid_request");
    assert!(repeated.text("error_description").contains("client_id"));

    let json =
        client().post(authority.token_url()).json(&json!({"grant_type": "client_credentials"}));
    assert_error(&send(json).await.unwrap(), 400, "invalid_request");
}

#[tokio::test]
async fn a_subject_can_be_required() {
    let authority =
        Authority::builder().require_subject(true).enterprise("7").start().await.unwrap();
    assert_error(&grant(&authority).await, 400, "invalid_request");
    let subject = [("box_subject_type", "enterprise"), ("box_subject_id", authority.enterprise())];
    let token = post(&authority.token_url(), &with(GRANT, &subject)).await.token();
    assert_eq!(resource(&authority, &token, "").await.text("id"), "7");
}

#[tokio::test]
async fn a_client_may_use_basic_with_both_parts_form_encoded() {
    let secret = "s:p a+c&e=%";
    let authority = Authority::builder().client("my app", secret).start().await.unwrap();
    let url = authority.token_url();
    let basic = |credentials: &str, more: &[(&str, &str)]| {
        let encoded = base64::prelude::BASE64_STANDARD.encode(credentials);
        let form = [&[("grant_type", "client_credentials")], more].concat();
        send(client().post(&url).header(AUTHORIZATION, format!("Basic {encoded}")).form(&form))
    };
    let encoded = "my%20app:s%3Ap%20a%2Bc%26e%3D%25";
    assert_eq!(basic(encoded, &[]).await.unwrap().status, 200);
    assert_eq!(basic("my+app:s%3ap+a%2bc%26e=%25", &[]).await.unwrap().status, 200);
    // What need not have been encoded to be told apart is taken as it is.
    assert_eq!(basic("my+app:s:p+a%2bc&e=%25", &[]).await.unwrap().status, 200);
    assert_eq!(basic(encoded, &[("client_id", "my app")]).await.unwrap().status, 200);
    // Not encoded, its plus sign is a space.
    assert_error(&basic(&format!("my app:{secret}"), &[]).await.unwrap(), 401, "invalid_client");
    assert_error(&basic("no colon", &[]).await.unwrap(), 401, "invalid_client");
    let twice = basic(encoded, &[("client_secret", secret)]).await.unwrap();
    assert_error(&twice, 400, "invalid_request");
    let other = basic(encoded, &[("client_id", "other")]).await.unwrap();
    assert_error(&other, 400, "invalid_request");
    let bearer = client().post(&url).bearer_auth("x").form(&[("grant_type", "client_credentials")]);
    assert_error(&send(bearer).await.unwrap(), 401, "invalid_client");
}

#[tokio::test]
async fn the_secret_can_be_changed() {
    let authority = Authority::start().await.unwrap();
    assert_eq!(grant(&authority).await.status, 200);
    authority.change_secret("newer");
    assert_error(&grant(&authority).await, 401, "invalid_client");
    assert_eq!(authority.client_secret(), "newer");
    let form = with(GRANT, &[("client_secret", "newer")]);
    assert_eq!(post(&authority.token_url(), &form).await.status, 200);
}

#[tokio::test]
async fn an_exchange_gives_a_narrower_token() {
    let authority = Authority::start().await.unwrap();
    let subject = grant(&authority).await.token();
    let got = exchange(
        &authority,
        &subject,
        &[
            ("scope", "item_preview"),
            ("resource", "https://api.box.com/2.0/files/1"),
            ("resource", "https://api.box.com/2.0/files/2"),
            ("audience", "a"),
            ("audience", "b"),
        ],
    )
    .await;
    assert_eq!(got.text("issued_token_type"), ACCESS_TOKEN);
    assert_eq!(got.text("scope"), "item_preview");
    let narrow = got.token();
    assert_eq!(resource(&authority, &narrow, "?scope=item_preview").await.status, 200);
    let refused = resource(&authority, &narrow, "?scope=item_upload").await;
    assert_error(&refused, 403, "insufficient_scope");
    let challenge = refused.header(WWW_AUTHENTICATE);
    assert!(
        challenge.contains(r#"error="insufficient_scope", scope="item_upload""#),
        "{challenge}"
    );

    // A narrow token gives no wide one, and without a scope one as narrow as itself.
    let wider = exchange(&authority, &narrow, &[("scope", "item_upload")]).await;
    assert_error(&wider, 400, "invalid_scope");
    assert_eq!(exchange(&authority, &narrow, &[]).await.text("scope"), "item_preview");
    // It is not revoked with its subject.
    authority.revoke_behind(&subject);
    assert!(authority.is_active(&narrow));
}

#[tokio::test]
async fn an_exchange_is_refused_as_the_rfc_says() {
    let authority = Authority::start().await.unwrap();
    let (subject, revoked) = (grant(&authority).await.token(), grant(&authority).await.token());
    assert!(authority.revoke_behind(&revoked) && !authority.revoke_behind("unknown"));
    let encode = |json: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(json);
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(r#"{"sub":"7"}"#));
    let two_parts = unsigned.trim_end_matches('.').to_owned();
    let actor_type = ("actor_token_type", "urn:ietf:params:oauth:token-type:id_token");
    let cases: &[Case] = &[
        (&[("subject_token", "")], 400, "invalid_request"),
        (&[("subject_token", "unknown")], 400, "invalid_grant"),
        (&[("subject_token", &revoked)], 400, "invalid_grant"),
        (&[("subject_token_type", "")], 400, "invalid_request"),
        (&[("subject_token_type", "urn:x")], 400, "invalid_request"),
        (&[("requested_token_type", "urn:x")], 400, "invalid_request"),
        (&[("requested_token_type", ACCESS_TOKEN)], 200, ""),
        (&[("scope", "item_unknown")], 400, "invalid_scope"),
        (&[("resource", "files/1")], 400, "invalid_target"),
        (&[("resource", "https://a.example/#part")], 400, "invalid_target"),
        (&[("resource", "https://a.example"), ("resource", "/b")], 400, "invalid_target"),
        (&[("actor_token", &unsigned), actor_type], 200, ""),
        (&[("actor_token", &unsigned)], 400, "invalid_request"),
        (&[actor_type], 400, "invalid_request"),
        (&[("actor_token", &two_parts), actor_type], 400, "invalid_request"),
        (&[("actor_token", "a.b.c"), actor_type], 400, "invalid_request"),
        (&[("client_secret", "wrong")], 401, "invalid_client"),
    ];
    for (changes, status, error) in cases {
        let got = exchange(&authority, &subject, changes).await;
        assert_eq!((got.status, got.text("error")), (*status, *error), "{changes:?}: {got:?}");
    }
    assert_eq!(authority.counts().exchanges, cases.len() as u64);
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_the_refusal_says_when_it_was_revoked() {
    let authority = Authority::start().await.unwrap();
    let token = grant(&authority).await.token();
    let form = |token| with(&GRANT[1..], &[("token", token)]);
    let before = authority.elapsed();
    assert_eq!(authority.revoked_at(&token), None);
    assert_eq!(post(&authority.revocation_url(), &form(&token)).await.status, 200);
    let at = authority.revoked_at(&token).unwrap();
    assert!(before <= at && at <= authority.elapsed());
    // Again, and one that never was: 200 as well, and the first revocation counts.
    assert_eq!(post(&authority.revocation_url(), &form(&token)).await.status, 200);
    assert_eq!(post(&authority.revocation_url(), &form("unknown")).await.status, 200);
    assert_eq!(authority.revoked_at(&token), Some(at));

    let refused = resource(&authority, &token, "").await;
    assert_error(&refused, 401, "invalid_token");
    assert_eq!(refused.text("refused"), "revoked");
    assert_eq!(u128::from(refused.json["revoked_at_ns"].as_u64().unwrap()), at.as_nanos());
    assert!(refused.json["received_at_ns"].as_u64() >= refused.json["revoked_at_ns"].as_u64());

    assert_error(&post(&authority.revocation_url(), &GRANT[1..]).await, 400, "invalid_request");
    let wrong = with(&form(&token), &[("client_secret", "wrong")]);
    assert_error(&post(&authority.revocation_url(), &wrong).await, 401, "invalid_client");
}

#[tokio::test]
async fn the_resource_challenges_whoever_has_no_good_token() {
    let authority = Authority::builder().ttl(Duration::ZERO).start().await.unwrap();
    let expired = grant(&authority).await.token();
    for (token, refused) in [(expired.as_str(), "expired"), ("unknown", "unknown")] {
        let got = resource(&authority, token, "").await;
        assert_error(&got, 401, "invalid_token");
        assert_eq!(got.text("refused"), refused);
        assert_eq!(got.json.get("revoked_at_ns"), None);
        let challenge = got.header(WWW_AUTHENTICATE);
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    let none = send(client().get(authority.resource_url())).await.unwrap();
    assert_eq!((none.status, none.header(WWW_AUTHENTICATE)), (401, "Bearer realm=\"ccg-session\""));
}

#[tokio::test]
async fn a_token_expires_after_its_life_on_tokios_clock() {
    let authority = Authority::builder().ttl(Duration::from_millis(1_500)).start().await.unwrap();
    let got = grant(&authority).await;
    assert_eq!(got.json["expires_in"], json!(1.5));
    let token = got.token();
    assert!(authority.is_active(&token));
    // Between requests, no socket is waited for.
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1_500)).await;
    tokio::time::resume();
    assert!(!authority.is_active(&token));
    assert_eq!(resource(&authority, &token, "").await.text("refused"), "expired");
}

#[tokio::test]
async fn introspection_tells_the_living_from_the_dead() {
    let authority = Authority::start().await.unwrap();
    let token = grant(&authority).await.token();
    let form = |token| with(&GRANT[1..], &[("token", token)]);
    let url = authority.introspection_url();
    let got = post(&url, &form(&token)).await;
    assert_eq!(got.json["active"], json!(true));
    assert_eq!(got.text("client_id"), "test-client");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(got.json["exp"].as_u64().unwrap().abs_diff(now + 3600) <= 60);
    authority.revoke_behind(&token);
    assert_eq!(post(&url, &form(&token)).await.json, json!({ "active": false }));
    assert_eq!(post(&url, &form("unknown")).await.json, json!({ "active": false }));
    let wrong = with(&form(&token), &[("client_secret", "wrong")]);
    assert_error(&post(&url, &wrong).await, 401, "invalid_client");
    assert_error(&post(&url, &GRANT[1..]).await, 400, "invalid_request");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_and_not_counted() {
    let authority = Authority::start().await.unwrap();
    let got = send(client().get(authority.token_url())).await.unwrap();
    assert_eq!((got.status, got.header("allow")), (405, "POST"));
    assert_eq!(post(&format!("{}/oauth2/other", authority.base_url()), GRANT).await.status, 404);
    let endless = client().post(authority.token_url()).body(vec![b'a'; 3 << 20]);
    // The server may close before it has read all: then there is no answer to be had.
    if let Ok(got) = send(endless).await {
        assert_eq!(got.status, 413);
    }
    assert_eq!(authority.counts().of(Kind::Any), 0);
}

#[tokio::test]
async fn requests_are_counted_by_kind_and_kept_with_their_secrets_hidden_from_debug() {
    let authority = Authority::start().await.unwrap();
    let token = grant(&authority).await.token();
    exchange(&authority, &token, &[("scope", "item_preview")]).await.token();
    exchange(&authority, "unknown", &[]).await;
    let form = with(&GRANT[1..], &[("token", &token)]);
    post(&authority.introspection_url(), &form).await;
    post(&authority.revocation_url(), &form).await;
    for _ in 0..3 {
        resource(&authority, &token, "").await;
    }
    let counts = authority.counts();
    assert_eq!((counts.grants, counts.exchanges, counts.revocations), (1, 2, 1));
    assert_eq!((counts.introspections, counts.resource, counts.tokens_issued), (1, 3, 2));
    assert_eq!((counts.grants_in_flight, counts.grants_in_flight_max), (0, 1));
    assert_eq!(counts.of(Kind::Any), 8);

    let requests = authority.requests();
    let kinds: Vec<Kind> = requests.iter().map(|request| request.kind).collect();
    let expected = [Kind::Grant, Kind::Exchange, Kind::Exchange, Kind::Introspect, Kind::Revoke];
    assert_eq!(kinds, expected);
    assert_eq!(requests[1].param("scope"), Some("item_preview"));
    assert_eq!(requests[1].param("subject_token"), Some(token.as_str()));
    assert!(requests[0].at <= requests[1].at && requests[4].at <= authority.elapsed());
    let shown = format!("{requests:?} {authority:?} {:?}", Authority::builder());
    assert!(!shown.contains("test-secret") && !shown.contains(&token), "{shown}");
}

#[tokio::test]
async fn a_gate_holds_answers_until_it_is_released() {
    let authority = Authority::start().await.unwrap();
    let gate = authority.hold(Kind::Grant);
    let url = authority.token_url();
    let ask = || {
        let url = url.clone();
        tokio::spawn(async move { post(&url, GRANT).await })
    };
    let asking = [ask(), ask()];
    let counts = authority.wait_for(|counts| counts.held == 2).await;
    assert_eq!((counts.grants_in_flight, counts.grants_in_flight_max), (2, 2));
    assert_eq!(counts.tokens_issued, 2, "what is asked for is done on arrival");
    assert_eq!(resource(&authority, "unknown", "").await.status, 401, "other kinds pass");
    assert!(asking.iter().all(|task| !task.is_finished()));
    gate.release();
    for task in asking {
        let token = task.await.unwrap().token();
        assert!(authority.is_active(&token));
    }
    assert_eq!(authority.counts().held, 0);
    assert_eq!(grant(&authority).await.status, 200, "an open gate holds nothing");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let authority = Authority::start().await.unwrap();
    let _gate = authority.hold(Kind::Any);
    let url = authority.token_url();
    let asking = tokio::spawn(async move { post(&url, GRANT).await });
    authority.wait_for(|counts| counts.held == 1).await;
    asking.abort();
    let counts = authority.wait_for(|counts| counts.held == 0).await;
    assert_eq!(
        authority.wait_for(|counts| counts.grants_in_flight == 0).await.grants,
        counts.grants
    );
}

#[tokio::test]
async fn dropping_the_authority_closes_its_port_and_its_connections() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Grant, Fault::Hang);
    let url = authority.token_url();
    let hanging = tokio::spawn(send(client().post(&url).form(GRANT)));
    authority.wait_for(|counts| counts.grants == 1).await;
    drop(authority);
    assert!(hanging.await.unwrap().is_err());
    assert!(send(client().post(&url).form(GRANT)).await.unwrap_err().is_connect());
}

#[tokio::test]
async fn a_chosen_port_is_used_and_no_other() {
    let authority = Authority::start().await.unwrap();
    let port = authority.base_url().rsplit(':').next().unwrap().parse().unwrap();
    let taken = Authority::builder().port(port).start().await.unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn faults_that_come_instead_of_an_answer_leave_the_request_undone() {
    let authority = Authority::start().await.unwrap();
    let ask = || async { client().post(authority.token_url()).form(GRANT).send().await };

    authority.fail(Kind::Grant, Fault::Drop);
    assert!(ask().await.unwrap_err().is_request());

    authority.fail(Kind::Grant, Fault::Malformed);
    let malformed = ask().await.unwrap();
    assert_eq!(malformed.status(), 200);
    let body = malformed.text().await.unwrap();
    assert!(body.starts_with('{') && serde_json::from_str::<Value>(&body).is_err());

    authority.fail(Kind::Grant, Fault::Html);
    let html = ask().await.unwrap();
    assert!(html.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(html.text().await.unwrap().contains("<html>"));

    authority.fail(Kind::Grant, Fault::Hang);
    let hang = client().post(authority.token_url()).form(GRANT).timeout(Duration::from_millis(50));
    assert!(hang.send().await.unwrap_err().is_timeout());
    let counts = authority.wait_for(|counts| counts.grants_in_flight == 0).await;
    assert_eq!((counts.grants, counts.tokens_issued), (4, 0));

    authority.heal();
    assert_eq!(grant(&authority).await.status, 200);
}

#[tokio::test]
async fn a_made_up_answer_has_the_status_the_body_and_the_headers_of_the_script() {
    let authority = Authority::start().await.unwrap();
    let wait = Duration::from_millis(1_500);
    let busy = Answer::new(StatusCode::TOO_MANY_REQUESTS).error("slow_down").retry_after(wait);
    authority.fail(Kind::Any, busy);
    let got = grant(&authority).await;
    assert_error(&got, 429, "slow_down");
    assert_eq!(got.header(RETRY_AFTER), "2");
    assert_eq!(resource(&authority, "unknown", "").await.status, 429, "any kind is every kind");

    let dated = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
    authority.fail(Kind::Grant, dated.retry_after_date(Duration::from_secs(100)));
    let got = grant(&authority).await;
    let date = httpdate::parse_http_date(got.header(RETRY_AFTER)).unwrap();
    let ahead = date.duration_since(SystemTime::now()).unwrap();
    assert!(ahead > Duration::from_secs(60) && ahead <= Duration::from_secs(100), "{ahead:?}");
    assert_eq!(resource(&authority, "unknown", "").await.status, 401, "other kinds are healthy");

    let answer = r#"{ "status": 404, "body": "[1]", "headers": { "content-type": "text/plain", "x-a": "b" } }"#;
    authority.fail(Kind::Grant, serde_json::from_str::<Answer>(answer).unwrap());
    let got = grant(&authority).await;
    assert_eq!((got.status, got.json.clone(), got.header("x-a")), (404, json!([1]), "b"));
    assert_eq!(got.header("content-type"), "text/plain");
}

#[tokio::test]
async fn a_body_that_is_cut_short_comes_by_half_and_was_carried_out() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Any, Fault::Cut);
    let mut cut = client().post(authority.token_url()).form(GRANT).send().await.unwrap();
    let promised = usize::try_from(cut.content_length().unwrap()).unwrap();
    let mut came = 0;
    let broken = loop {
        match cut.chunk().await {
            Ok(chunk) => came += chunk.expect("the body must not end well").len(),
            Err(error) => break error,
        }
    };
    assert!(came == promised / 2, "{came} of {promised}: {broken}");
    assert_eq!(authority.counts().tokens_issued, 1);

    // A revocation has no body to cut; it breaks off all the same.
    let form = with(&GRANT[1..], &[("token", "unknown")]);
    let cut = client().post(authority.revocation_url()).form(&form).send().await.unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.bytes().await.is_err());
}

#[tokio::test]
async fn expires_in_can_be_anything() {
    let authority = Authority::start().await.unwrap();
    for value in
        [json!("3600"), json!(-1), json!(0), json!(1.5), Value::Null, json!([]), json!(1e300)]
    {
        authority.fail(Kind::Any, Fault::ExpiresIn(value.clone()));
        let got = grant(&authority).await;
        assert_eq!(got.json["expires_in"], value);
        assert!(got.json.as_object().unwrap().contains_key("expires_in"));
        let token = got.token();
        assert!(authority.is_active(&token), "the token lives as long as ever");
        assert_eq!(exchange(&authority, &token, &[]).await.json["expires_in"], value);
    }
    authority.fail(Kind::Grant, Fault::NoExpiresIn);
    let got = grant(&authority).await;
    assert!(!got.json.as_object().unwrap().contains_key("expires_in"));
    assert!(authority.is_active(&got.token()));
}

#[tokio::test]
async fn the_same_token_can_be_given_again_even_a_revoked_one() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Any, Fault::SameToken);
    let first = grant(&authority).await.token();
    authority.revoke_behind(&first);
    let again = grant(&authority).await;
    assert!(again.json["expires_in"].as_u64().unwrap() < 3600);
    assert_eq!(again.token(), first);
    assert!(!authority.is_active(&first));
    assert_eq!(authority.counts().tokens_issued, 1);

    authority.heal();
    let subject = grant(&authority).await.token();
    assert_ne!(subject, first);
    authority.fail(Kind::Any, Fault::SameToken);
    let narrow = exchange(&authority, &subject, &[("scope", "item_preview")]).await.token();
    let again = exchange(&authority, &subject, &[("scope", "item_upload")]).await;
    assert_eq!(again.text("scope"), "item_preview");
    assert_eq!(again.token(), narrow);
}

#[tokio::test]
async fn a_delay_holds_the_answer_back() {
    let authority = Authority::start().await.unwrap();
    let delay = Duration::from_millis(80);
    authority.set_script(Script::new().rule(Rule::new(Kind::Grant).delay(delay)));
    let began = std::time::Instant::now();
    assert_eq!(grant(&authority).await.status, 200);
    assert!(began.elapsed() >= delay);
}

#[tokio::test]
async fn a_rule_names_requests_by_number_counted_from_when_the_script_was_set() {
    let down = || Answer::new(StatusCode::SERVICE_UNAVAILABLE);
    let script = Script::new()
        .rule(Rule::new(Kind::Grant).requests(2..=3).fault(down()))
        .rule(Rule::new(Kind::Grant).requests(3..=4).fault(Answer::new(StatusCode::BAD_GATEWAY)));
    let authority = Authority::builder().script(script.clone()).start().await.unwrap();
    for round in 0..2 {
        let mut statuses = Vec::new();
        for _ in 0..5 {
            // Another kind in between does not count.
            resource(&authority, "unknown", "").await;
            statuses.push(grant(&authority).await.status);
        }
        assert_eq!(
            statuses,
            [200, 503, 503, 502, 200],
            "round {round}: the first rule that matches wins"
        );
        authority.set_script(script.clone());
    }
    authority.set_script(Script::new().rule(Rule::new(Kind::Any).requests(2..=2).fault(down())));
    assert_eq!(resource(&authority, "unknown", "").await.status, 401);
    assert_eq!(grant(&authority).await.status, 503, "the second of all");
}

#[tokio::test]
async fn a_rule_names_requests_by_time() {
    let hour = Duration::from_secs(3600);
    let down = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
    let rule = Rule::new(Kind::Any).from(hour).until(2 * hour).fault(down);
    let authority = Authority::builder().script(Script::new().rule(rule)).start().await.unwrap();
    for expected in [401, 503, 401] {
        assert_eq!(resource(&authority, "unknown", "").await.status, expected);
        tokio::time::pause();
        tokio::time::advance(hour).await;
        tokio::time::resume();
    }
}

/// All but one of them were once lost.
#[test]
fn a_header_that_comes_twice_is_written_and_read_twice() {
    let value = HeaderValue::from_static;
    let answer = Answer::new(StatusCode::UNAUTHORIZED)
        .header(WWW_AUTHENTICATE, value("Basic"))
        .header(WWW_AUTHENTICATE, value("Bearer"));
    let written = serde_json::to_value(&answer).unwrap();
    let json = json!({ "status": 401, "headers": { "www-authenticate": ["Basic", "Bearer"] } });
    assert_eq!(written, json);
    assert_eq!(serde_json::from_value::<Answer>(written).unwrap(), answer);
}

#[test]
fn a_script_is_read_from_json_and_written_back() {
    let text = r#"{ "rules": [
        { "on": "grant", "requests": [2, 3], "delay": "10ms", "fault": { "answer": {
            "status": 429, "error": "slow_down", "body": "x", "headers": { "x-a": "b" },
            "retry_after": "2s", "retry_after_date": "3s" } } },
        { "on": "resource", "from": "1s", "until": "1m", "fault": "drop" },
        { "fault": "hang" }, { "fault": "malformed" }, { "fault": "html" }, { "fault": "cut" },
        { "fault": "no_expires_in" }, { "fault": "same_token" },
        { "fault": { "expires_in": null } }, { "fault": { "expires_in": "3600" } }
    ] }"#;
    let script: Script = serde_json::from_str(text).unwrap();
    let written = serde_json::to_string(&script).unwrap();
    assert_eq!(serde_json::from_str::<Script>(&written).unwrap(), script);
    assert!(
        written.contains(r#""requests":[2,3]"#) && written.contains(r#""until":"1m""#),
        "{written}"
    );
    let null = Rule::new(Kind::Any).fault(Fault::ExpiresIn(Value::Null));
    assert!(written.contains(&serde_json::to_string(&null).unwrap()));
    assert_eq!(serde_json::from_str::<Script>("{}").unwrap(), Script::new());
}

#[test]
fn a_script_that_makes_no_sense_is_refused_and_the_error_names_what_is_wrong() {
    let rule = |rule: &str| format!(r#"{{ "rules": [{rule}] }}"#);
    for (text, named) in [
        (r#"{ "rulez": [] }"#.to_owned(), "rulez"),
        (rule(r#"{ "onn": "grant" }"#), "onn"),
        (rule(r#"{ "on": "grants" }"#), "grants"),
        (rule(r#"{ "fault": "explode" }"#), "explode"),
        (rule(r#"{ "fault": { "answer": { "status": 503, "retry": "1s" } } }"#), "retry"),
        (rule(r#"{ "fault": { "answer": { "error": "x" } } }"#), "status"),
        (rule(r#"{ "fault": { "answer": { "status": 99 } } }"#), "\"status\" is 99"),
        (rule(r#"{ "fault": { "answer": { "status": 100 } } }"#), "\"status\" is 100"),
        (
            rule(r#"{ "fault": { "answer": { "status": 200, "headers": { "a b": "" } } } }"#),
            "headers",
        ),
        (rule(r#"{ "requests": [0, 3] }"#), "[0, 3]"),
        (rule(r#"{ "requests": [3, 2] }"#), "[3, 2]"),
        (rule(r#"{ "delay": "soon" }"#), "soon"),
        (rule(r#"{ "until": 5 }"#), "5"),
    ] {
        let error = serde_json::from_str::<Script>(&text).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}
