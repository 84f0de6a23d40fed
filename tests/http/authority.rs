//! The whole session on real HTTP and in real time, against the embedded authority: nothing here sleeps
//! to wait for something, and no clock is paused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccg_session::testing::{Answer, Authority, Fault, Kind, Rule, Script};
use ccg_session::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, HttpTokenManager, Phase, RefreshMode,
    SessionConfig, SessionError, SessionHandle, Status, TokenError, TokenId, TokenManager,
    TokenRequestOptions, TokenText,
};
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{client, millis, secs, session_of};

/// A session with this authority.
fn session_with(authority: &Authority, change: impl FnOnce(&mut SessionConfig)) -> SessionHandle {
    session_of(authority.manager().unwrap(), change)
}

fn session(authority: &Authority) -> SessionHandle {
    session_with(authority, |_| {})
}

/// One attempt in a flight, so that a caller sees what it met.
fn one_attempt(authority: &Authority) -> SessionHandle {
    session_with(authority, |config| config.retry.attempts = 1)
}

/// Uses a token, as a service does.
async fn resource(authority: &Authority, token: &AccessToken) -> (u16, Value) {
    use_header(authority, token.header_value()).await
}

async fn use_header(authority: &Authority, header: &HeaderValue) -> (u16, Value) {
    let request = client().get(authority.resource_url()).header(AUTHORIZATION, header);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// Waits until the session is as wanted.
async fn until(session: &SessionHandle, mut wanted: impl FnMut(&Status) -> bool) -> Status {
    let mut changes = session.subscribe();
    let mut seen = session.status();
    while !wanted(&seen) {
        let next = timeout(secs(60), changes.changed()).await;
        seen = next.expect("nothing happened").expect("the session ended");
    }
    seen
}

/// Waits as long as the error says, and no longer.
async fn come_again(error: &SessionError) {
    tokio::time::sleep(error.retry_after().expect("a failure")).await;
}

fn unavailable() -> Answer {
    Answer::new(StatusCode::SERVICE_UNAVAILABLE)
}

fn preview() -> ExchangeRequest {
    ExchangeRequest::scopes(["item_preview"])
}

async fn is_active_by_introspection(authority: &Authority, token: &str) -> bool {
    let form = [("client_id", "test-client"), ("client_secret", "test-secret"), ("token", token)];
    let response = client().post(authority.introspection_url()).form(&form).send().await.unwrap();
    response.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
}

#[tokio::test]
async fn a_whole_life_grant_use_refresh_exchange_introspect_revoke() {
    let authority = Authority::builder().ttl(secs(12)).start().await.unwrap();
    let session = session_with(&authority, |config| config.refresh_mode = RefreshMode::Always);

    let first = session.get_token().await.unwrap();
    assert_eq!(resource(&authority, &first).await.0, 200);
    assert!(first.scope().unwrap().contains("item_preview"));

    // Refreshed in the background: nobody waits, and nothing is refused.
    let mut changes = session.subscribe();
    while session.status().generation() == Some(first.id().generation()) {
        let token = session.try_token().expect("given out while it is refreshed");
        assert_eq!(resource(&authority, &token).await.0, 200);
        timeout(secs(60), changes.changed()).await.unwrap().unwrap();
    }
    assert_eq!(session.status().counters().held_max, 1, "the first caller alone has waited");

    let narrow = session.exchange(preview()).await.unwrap();
    assert_eq!(narrow.scope(), Some("item_preview"));
    assert!(narrow.header_value().is_some());
    assert!(is_active_by_introspection(&authority, narrow.secret()).await);

    let second = session.get_token().await.unwrap();
    session.revoke().await.unwrap();
    for text in [second.secret(), narrow.secret()] {
        assert!(!authority.is_active(text));
        assert!(!is_active_by_introspection(&authority, text).await);
    }
    assert_eq!(resource(&authority, &second).await.0, 401);
    let third = session.get_token().await.unwrap();
    assert_eq!(resource(&authority, &third).await.0, 200);
    assert_eq!(authority.counts().grants_in_flight_max, 1);

    session.shutdown().await;
    assert!(authority.is_active(third.secret()), "shutdown revokes nothing");
}

#[tokio::test]
async fn callers_on_an_empty_session_share_one_request() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let gate = authority.hold(Kind::Grant);
    let callers: Vec<_> = (0..1_000)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.get_token().await })
        })
        .collect();
    authority.wait_for(|counts| counts.held == 1).await;
    until(&session, |status| status.held() == 1_000).await;
    gate.release();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(authority.counts().grants, 1);
}

/// What a caller sees, whose flight has one attempt.
#[tokio::test]
async fn each_fault_of_the_script_is_what_its_caller_sees() {
    type Fits = fn(&TokenError) -> bool;
    let answer = |status: u16| Answer::new(StatusCode::from_u16(status).unwrap());
    let cases: Vec<(Fault, Fits)> = vec![
        (unavailable().into(), |e| {
            matches!(e, TokenError::Server { status: 503, retry_after: None, .. })
        }),
        (
            unavailable().retry_after(secs(2)).into(),
            |e| matches!(e, TokenError::Server { retry_after: Some(after), .. } if *after == secs(2)),
        ),
        (
            answer(429).retry_after_date(secs(60)).into(),
            |e| matches!(e, TokenError::RateLimited { retry_after: Some(after), .. } if *after >= secs(58)),
        ),
        (
            answer(400).error("unauthorized_client").into(),
            |e| matches!(e, TokenError::Denied { error, status: 400, .. } if error == "unauthorized_client"),
        ),
        (answer(403).into(), |e| matches!(e, TokenError::Denied { status: 403, .. })),
        (answer(301).header(LOCATION, "/oauth2/token/".parse().unwrap()).into(), |e| {
            matches!(e, TokenError::Denied { .. }) && e.to_string().contains("/oauth2/token/")
        }),
        (Fault::Drop, |e| matches!(e, TokenError::Transport { .. })),
        (Fault::Cut, |e| matches!(e, TokenError::Transport { .. })),
        (Fault::Hang, |e| matches!(e, TokenError::TimedOut { after, .. } if *after == millis(300))),
        (
            answer(200).body(" ".repeat(2 << 20)).into(),
            |e| matches!(e, TokenError::Malformed { reason, .. } if reason.contains("1 MiB")),
        ),
        (Fault::Malformed, |e| matches!(e, TokenError::Malformed { .. })),
        (Fault::Html, |e| matches!(e, TokenError::Malformed { .. })),
        (Fault::ExpiresIn((-1).into()), |e| matches!(e, TokenError::Expired { .. })),
        (Fault::ExpiresIn(0.into()), |e| matches!(e, TokenError::Expired { .. })),
        (Fault::ExpiresIn("NaN".into()), |e| matches!(e, TokenError::Expired { .. })),
    ];
    let authority = Authority::start().await.unwrap();
    for (fault, fits) in cases {
        let session = session_with(&authority, |config| {
            config.retry.attempts = 1;
            let hangs = matches!(fault, Fault::Hang);
            config.retry.attempt_timeout = if hangs { millis(300) } else { secs(60) };
        });
        authority.fail(Kind::Grant, fault.clone());
        let error = session.get_token().await.unwrap_err();
        let met = error.token_error().expect("it names what was met");
        assert!(fits(met), "{fault:?} gives {error:?}");
        assert!(error.retry_after().unwrap() > Duration::ZERO);
        assert!(
            matches!(session.get_token().await, Err(SessionError::Cooling { .. })),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_lifetime_in_any_form_is_taken() {
    let authority = Authority::start().await.unwrap();
    for (fault, least, most) in [
        (Fault::ExpiresIn("3600".into()), 3_590, 3_600),
        (Fault::ExpiresIn(3600.5.into()), 3_590, 3_601),
        (Fault::ExpiresIn(1e18.into()), 2_591_990, 2_592_000), // capped at 30 days
        (Fault::ExpiresIn(Value::Null), 290, 300),             // assumed
        (Fault::ExpiresIn("soon".into()), 290, 300),
        (Fault::NoExpiresIn, 290, 300),
    ] {
        authority.fail(Kind::Grant, fault.clone());
        let left = session(&authority).get_token().await.unwrap().remaining();
        assert!((secs(least)..=secs(most)).contains(&left), "{fault:?}: {left:?}");
    }
}

#[tokio::test]
async fn a_transient_fault_costs_another_attempt_and_no_caller_sees_it() {
    let authority = Authority::start().await.unwrap();
    for fault in [Fault::Drop, Fault::Cut, Fault::Malformed, Fault::Html, unavailable().into()] {
        let before = authority.counts().grants;
        authority.set_script(
            Script::new().rule(Rule::new(Kind::Grant).requests(1..=2).fault(fault.clone())),
        );
        session(&authority).get_token().await.unwrap();
        assert_eq!(authority.counts().grants - before, 3, "{fault:?}");
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let authority =
        Authority::builder()
            .script(Script::new().rule(
                Rule::new(Kind::Grant).requests(1..=1).fault(unavailable().retry_after(secs(1))),
            ))
            .start()
            .await
            .unwrap();
    session(&authority).get_token().await.unwrap();
    let grants = authority.requests();
    let waited = grants[1].at.saturating_sub(grants[0].at);
    assert!(waited >= secs(1), "{waited:?}");
}

#[tokio::test]
async fn an_outage_inside_the_stale_stretch_is_seen_by_nobody() {
    let authority = Authority::builder().ttl(secs(16)).start().await.unwrap();
    let session = session_with(&authority, |config| config.refresh_mode = RefreshMode::Always);
    session.get_token().await.unwrap();
    authority.fail(Kind::Grant, unavailable());
    let outage = until(&session, |status| status.counters().grants_failed > 0).await;
    assert!(matches!(outage.phase(), Phase::Refreshing | Phase::Stale), "{outage:?}");
    let token = session.get_token().await.unwrap();
    assert_eq!(resource(&authority, &token).await.0, 200);
    authority.heal();
    until(&session, |status| status.generation() > Some(token.id().generation())).await;
    let token = session.get_token().await.unwrap();
    assert_eq!(resource(&authority, &token).await.0, 200);
}

#[tokio::test]
async fn a_401_is_invalidated_and_retried_once() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let mut token = session.get_token().await.unwrap();
    assert!(authority.revoke_behind(token.secret()));
    let (status, body) = resource(&authority, &token).await;
    assert_eq!((status, body["refused"].as_str()), (401, Some("revoked")));
    session.invalidate(&token);
    let refused = std::mem::replace(&mut token, session.get_token().await.unwrap());
    assert_ne!(token, refused);
    assert_eq!(resource(&authority, &token).await.0, 200);
    assert_eq!(authority.counts().grants, 2);
}

#[tokio::test]
async fn a_secret_that_was_rotated_at_the_server_is_denied_and_then_left_alone() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    session.get_token().await.unwrap();
    authority.change_secret("rotated");
    session.invalidate(&session.get_token().await.unwrap());
    let error = session.get_token().await.unwrap_err();
    assert!(
        matches!(error.token_error(), Some(TokenError::Denied { error, status: 401, .. }) if error == "invalid_client"),
        "{error:?}"
    );
    assert!(error.retry_after().unwrap() > secs(20), "{error:?}");
    for _ in 0..100 {
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(error, SessionError::Cooling { .. }), "{error:?}");
    }
    assert_eq!(session.status().phase(), Phase::Cooling);
    assert_eq!(authority.counts().grants, 2, "one attempt told enough");
}

#[tokio::test]
async fn a_revoke_in_the_middle_of_a_grant_reaches_its_token() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let gate = authority.hold(Kind::Grant);
    let ask = || {
        let session = session.clone();
        tokio::spawn(async move { session.get_token().await.unwrap() })
    };
    let before = ask();
    authority.wait_for(|counts| counts.held == 1).await; // the token has been issued
    let revoking = {
        let session = session.clone();
        tokio::spawn(async move { session.revoke().await })
    };
    until(&session, |status| status.phase() == Phase::Revoking).await;
    let after = ask();
    gate.release();
    revoking.await.unwrap().unwrap();
    let (before, after) = (before.await.unwrap(), after.await.unwrap());
    assert_eq!(before, after);
    assert!(authority.is_active(after.secret()));
    let requests = authority.requests();
    let kinds: Vec<_> = requests.iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [Kind::Grant, Kind::Revoke, Kind::Grant]);
    let revoked = requests[1].param("token").unwrap();
    assert!(authority.revoked_at(revoked).is_some());
    assert_ne!(revoked, after.secret());
}

#[tokio::test]
async fn a_server_that_gives_a_revoked_token_again_gives_it_to_nobody() {
    let authority = Authority::start().await.unwrap();
    let session = session_with(&authority, |config| config.retry.attempts = 2);
    let revoked = session.get_token().await.unwrap();
    session.revoke().await.unwrap();
    authority.set_script(
        Script::new().rule(Rule::new(Kind::Grant).requests(1..=1).fault(Fault::SameToken)),
    );
    let token = session.get_token().await.unwrap();
    assert_ne!(token.secret(), revoked.secret());
    assert_eq!(authority.counts().grants, 3);
}

#[tokio::test]
async fn a_token_given_again_is_a_new_generation() {
    let authority = Authority::builder().ttl(secs(12)).start().await.unwrap();
    let session = session_with(&authority, |config| config.refresh_mode = RefreshMode::Always);
    let token = session.get_token().await.unwrap();
    authority.fail(Kind::Grant, Fault::SameToken);
    let later = until(&session, |status| status.generation() > Some(1)).await;
    let again = session.get_token().await.unwrap();
    assert_eq!(again.secret(), token.secret());
    assert!(again.id() > token.id() && later.remaining().unwrap() < secs(9));
}

#[tokio::test]
async fn a_revocation_endpoint_that_fails_is_told_and_the_next_revoke_goes_on() {
    let authority = Authority::start().await.unwrap();
    let session = one_attempt(&authority);
    let token = session.get_token().await.unwrap();
    authority.fail(Kind::Revoke, unavailable());
    let error = session.revoke().await.unwrap_err();
    assert!(
        matches!(error.token_error(), Some(TokenError::Server { status: 503, .. })),
        "{error:?}"
    );
    assert!(authority.is_active(token.secret()));
    assert_eq!(session.try_token(), None, "it is given to nobody all the same");
    authority.heal();
    come_again(&error).await;
    session.revoke().await.unwrap();
    assert!(!authority.is_active(token.secret()));
}

#[tokio::test]
async fn a_revocation_that_hangs_times_out() {
    let authority = Authority::start().await.unwrap();
    let session = session_with(&authority, |config| {
        config.retry.attempts = 1;
        config.retry.attempt_timeout = secs(3);
    });
    session.get_token().await.unwrap();
    authority.fail(Kind::Revoke, Fault::Hang);
    let error = session.revoke().await.unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::TimedOut { .. })), "{error:?}");
    assert_eq!(authority.counts().revocations, 1);
    session.get_token().await.expect("callers are held no longer");
}

#[tokio::test]
async fn exchanges_are_narrow_cached_and_revoked_with_the_session() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let with_ip = preview().options(TokenRequestOptions::new().ip("192.0.2.7").unwrap());
    let (first, second) = tokio::join!(session.exchange(preview()), session.exchange(with_ip));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first, second);
    let other = session.exchange(preview().resource("https://api.box.com/2.0/files/1")).await;
    assert_ne!(other.unwrap(), first);
    assert_eq!(authority.counts().exchanges, 2);
    session.revoke().await.unwrap();
    assert_eq!(authority.counts().revocations, 3);
    assert!(!authority.is_active(first.secret()));
}

/// In the original one of the two requests lost it.
#[tokio::test]
async fn the_ip_of_an_exchange_goes_with_the_exchange_and_with_the_grant_that_it_opens() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let ip = |ip| TokenRequestOptions::new().ip(ip).unwrap();
    session.exchange(preview().options(ip("192.0.2.7"))).await.unwrap();
    session.revoke_with(ip("192.0.2.8")).await.unwrap();
    session.get_token().await.unwrap();
    let sent: Vec<_> = authority
        .requests()
        .iter()
        .map(|request| (request.kind, request.headers.get("x-forwarded-for").cloned()))
        .collect();
    let from = |ip| Some(HeaderValue::from_static(ip));
    assert_eq!(sent[..2], [(Kind::Grant, from("192.0.2.7")), (Kind::Exchange, from("192.0.2.7"))]);
    assert_eq!(sent[2], (Kind::Revoke, from("192.0.2.8")));
    assert_eq!(sent[4], (Kind::Grant, None), "options belong to their request");
}

#[tokio::test]
async fn an_exchange_whose_subject_was_revoked_behind_fetches_another() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let token = session.get_token().await.unwrap();
    authority.revoke_behind(token.secret());
    let narrow = session.exchange(preview()).await.unwrap();
    assert!(authority.is_active(narrow.secret()));
    assert_ne!(session.get_token().await.unwrap(), token);
    assert_eq!((authority.counts().grants, authority.counts().exchanges), (2, 2));
}

#[tokio::test]
async fn an_exchange_for_scopes_that_are_not_allowed_is_denied_and_cools_alone() {
    let authority = Authority::start().await.unwrap();
    let session = session(&authority);
    let error = session.exchange(ExchangeRequest::scopes(["admin"])).await.unwrap_err();
    assert!(
        matches!(error.token_error(), Some(TokenError::Denied { error, .. }) if error == "invalid_scope"),
        "{error:?}"
    );
    let again = session.exchange(ExchangeRequest::scopes(["admin"])).await.unwrap_err();
    assert!(matches!(again, SessionError::Cooling { .. }), "{again:?}");
    session.exchange(preview()).await.unwrap();
    session.get_token().await.unwrap();
    assert_eq!(authority.counts().exchanges, 2);
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_poisons_nothing() {
    let authority = Authority::start().await.unwrap();
    authority.fail(Kind::Grant, Fault::Drop);
    let session = one_attempt(&authority);
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Transport { .. })), "{error:?}");
    assert!(!error.to_string().contains("error sending request"), "it says why: {error}");
    authority.heal();
    come_again(&error).await;
    session.get_token().await.unwrap();
}

/// Chance that can be repeated: the threads' order cannot be, but what they do is.
fn chance() -> fastrand::Rng {
    let seed = std::env::var("SEED").map(|seed| seed.parse().expect("SEED is a number"));
    let seed = seed.unwrap_or_else(|_| fastrand::u64(..));
    println!("to repeat: SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Everything that can fail does, by chance, while a few hundred tasks on several threads use the
/// session; then it heals, and everybody must get a token that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hundreds_of_tasks_get_through_random_faults_and_all_heal() {
    let mut random = chance();
    let authority = Arc::new(Authority::builder().ttl(secs(2)).start().await.unwrap());
    let manager = Watched { manager: authority.manager().unwrap(), grants: Arc::default() };
    let grants_on_wire = manager.grants.clone();
    let session = session_of(manager, |config| {
        config.retry.attempt_timeout = secs(1);
        config.retry.cooling = secs(1);
    });
    let healed = Arc::new(AtomicBool::new(false));
    let deaths = Arc::<Deaths>::default();
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let (session, authority) = (session.clone(), authority.clone());
            let (healed, deaths) = (healed.clone(), deaths.clone());
            tokio::spawn(async move {
                let (mut used, mut used_after_healing) = (0, 0);
                while used_after_healing < 2 {
                    let is_healed = healed.load(Ordering::SeqCst);
                    let asked_at = authority.elapsed();
                    match obtain(&session, number % 4 == 0).await {
                        Ok(token) => {
                            deaths.note(&token, authority.elapsed());
                            let (status, body) = use_header(&authority, &token.header).await;
                            if status != 200 {
                                deaths.excuse(&token, asked_at, &body);
                            }
                            used += 1;
                            used_after_healing += u64::from(is_healed);
                        }
                        Err(error) => come_again(&error).await,
                    }
                }
                used
            })
        })
        .collect();

    let start = Instant::now();
    let mut revokes = 0;
    while start.elapsed() < secs(3) {
        let fault = match random.u8(..8) {
            0 => Some(Fault::Drop),
            1 => Some(Fault::Hang),
            2 => Some(Fault::Cut),
            3 => Some(Fault::Html),
            4 => Some(unavailable().into()),
            5 => Some(Answer::new(StatusCode::TOO_MANY_REQUESTS).into()),
            _ => None,
        };
        let mut script = Script::new();
        for kind in [Kind::Grant, Kind::Exchange, Kind::Revoke] {
            if let Some(fault) = fault.clone().filter(|_| random.bool()) {
                script = script.rule(Rule::new(kind).fault(fault));
            }
        }
        authority.set_script(script);
        if random.u8(..4) == 0 {
            // It may fail, as its endpoint does.
            revokes += u64::from(session.revoke().await.is_ok());
        }
        tokio::time::sleep(millis(random.u64(50..200))).await;
    }
    authority.heal();
    healed.store(true, Ordering::SeqCst);
    let mut used = 0;
    for task in tasks {
        used += timeout(secs(120), task).await.expect("everybody gets a token").unwrap();
    }
    let counts = authority.counts();
    println!("{used} uses, {revokes} revokes, {counts:?}");
    assert!(used >= 400);
    assert_eq!(grants_on_wire.most.load(Ordering::SeqCst), 1);
    // Whatever fails, and however long it takes: the policy's pace.
    let most = 20 * (start.elapsed().as_secs() + 1);
    assert!(counts.grants <= most, "{most} at most: {counts:?}");
}

/// A token of either kind.
struct Obtained {
    id: TokenId,
    header: HeaderValue,
    remaining: Duration,
}

async fn obtain(session: &SessionHandle, narrow: bool) -> Result<Obtained, SessionError> {
    if narrow {
        let token = session.exchange(preview()).await?;
        let header = token.header_value().unwrap().clone();
        return Ok(Obtained { id: token.id(), header, remaining: token.remaining() });
    }
    let token = session.get_token().await?;
    let header = token.header_value().clone();
    Ok(Obtained { id: token.id(), header, remaining: token.remaining() })
}

/// When tokens die, on the authority's clock.
#[derive(Default)]
struct Deaths(Mutex<HashMap<TokenId, Duration>>);

impl Deaths {
    /// This token, seen at `now`, dies when its life is over.
    fn note(&self, token: &Obtained, now: Duration) {
        if token.remaining > Duration::ZERO {
            self.0.lock().unwrap().insert(token.id, now + token.remaining);
        }
    }

    /// A token that was refused must have been alive when it was asked for.
    fn excuse(&self, token: &Obtained, asked_at: Duration, body: &Value) {
        let died_at = match body["refused"].as_str() {
            Some("revoked") => Duration::from_nanos(body["revoked_at_ns"].as_u64().unwrap()),
            Some("expired") => self.0.lock().unwrap()[&token.id],
            _ => panic!("{body}"),
        };
        assert!(asked_at < died_at, "asked for at {asked_at:?}, died at {died_at:?}: {body}");
    }
}

/// Counts the grants on the wire where the client sees them: a server may be busy with one that the
/// client has given up.
struct Watched {
    manager: HttpTokenManager,
    grants: Arc<OnWire>,
}

#[derive(Default)]
struct OnWire {
    now: AtomicU64,
    most: AtomicU64,
}

struct Landing<'a>(&'a OnWire);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TokenManager for Watched {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let now = self.grants.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.grants.most.fetch_max(now, Ordering::SeqCst);
        let _landing = Landing(&self.grants);
        self.manager.grant(request).await
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        self.manager.exchange(subject, request).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        self.manager.revoke(token, options).await
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }
}
