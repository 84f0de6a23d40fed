//! The session on tokio's paused clock, with a manager whose answers the test decides. Time moves only
//! when every task is idle, so a wait for simulated time is a wait for everything that can happen.

#[path = "common/scripted.rs"]
mod scripted;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ccg_session::testing::suspend;
use ccg_session::{
    ConfigError, ExchangeRequest, ExchangedToken, Grant, GrantRequest, Phase, RefreshMode, Session,
    SessionBuilder, SessionConfig, SessionError, SessionHandle, TokenError, TokenManager,
    TokenRequestOptions,
};
use scripted::{Asked, Call, Endpoint, Scripted, scripted};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const HOUR: Duration = Duration::from_secs(3600);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(change: impl FnOnce(&mut SessionConfig)) -> SessionConfig {
    let mut config = SessionConfig::default();
    change(&mut config);
    config
}

fn builder(change: impl FnOnce(&mut SessionConfig)) -> (SessionBuilder<Scripted>, Endpoint) {
    let (manager, endpoint) = scripted();
    (Session::builder(manager).config(config(change)).seed(1), endpoint)
}

fn session_with(change: impl FnOnce(&mut SessionConfig)) -> (SessionHandle, Endpoint) {
    let (builder, endpoint) = builder(change);
    (builder.spawn().unwrap(), endpoint)
}

fn session() -> (SessionHandle, Endpoint) {
    session_with(|_| {})
}

/// A session that holds this token.
async fn session_holding(text: &str, life: Duration) -> (SessionHandle, Endpoint) {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.token(text, life);
    assert_eq!(text_of(asking).await, text);
    (session, endpoint)
}

type Asking = JoinHandle<Result<String, SessionError>>;

/// A caller, in a task of its own.
fn ask(session: &SessionHandle) -> Asking {
    let session = session.clone();
    tokio::spawn(async move { Ok(session.get_token().await?.secret().to_owned()) })
}

async fn text_of(asking: Asking) -> String {
    asking.await.unwrap().unwrap()
}

fn revoke(session: &SessionHandle) -> JoinHandle<Result<(), SessionError>> {
    let session = session.clone();
    tokio::spawn(async move { session.revoke().await })
}

fn exchange(
    session: &SessionHandle,
    request: ExchangeRequest,
) -> JoinHandle<Result<ExchangedToken, SessionError>> {
    let session = session.clone();
    tokio::spawn(async move { session.exchange(request).await })
}

fn scope(name: &str) -> ExchangeRequest {
    ExchangeRequest::scopes([name])
}

/// Lets everything happen that can.
async fn settle() {
    sleep(millis(1)).await;
}

fn unavailable() -> TokenError {
    TokenError::Server { status: 503, retry_after: None }
}

fn denied() -> TokenError {
    TokenError::denied("invalid_client", "no such client")
}

fn fast(session: &SessionHandle) -> Option<String> {
    session.try_token().map(|token| token.secret().to_owned())
}

mod callers {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_callers_on_an_empty_session_share_one_grant() {
        let (session, mut endpoint) = session();
        let callers: Vec<_> = (0..10_000).map(|_| ask(&session)).collect();
        let grant = endpoint.grant().await;
        sleep(millis(50)).await;
        grant.token("one", HOUR);
        for caller in callers {
            assert_eq!(text_of(caller).await, "one");
        }
        endpoint.is_quiet().await;
        assert_eq!(session.status().counters().grants_started, 1);
        assert_eq!(session.status().counters().held_max, 10_000);
        assert_eq!(session.status().held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_caller_of_ten_thousand_leaves_and_takes_nothing_with_it() {
        let (session, mut endpoint) = session();
        let first = ask(&session);
        let grant = endpoint.grant().await;
        let others: Vec<_> = (1..10_000).map(|_| ask(&session)).collect();
        sleep(millis(25)).await;
        first.abort();
        sleep(millis(25)).await;
        assert_eq!(session.status().held(), 9_999);
        assert!(!grant.is_dropped());
        grant.token("one", HOUR);
        for caller in others {
            assert_eq!(text_of(caller).await, "one");
        }
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_error_answers_all_who_waited_and_says_when_to_come_again() {
        let (session, mut endpoint) = session();
        let callers: Vec<_> = (0..100).map(|_| ask(&session)).collect();
        endpoint.grant().await.fail(denied());
        for caller in callers {
            let error = caller.await.unwrap().unwrap_err();
            assert!(matches!(&error, SessionError::Failed { .. }), "{error:?}");
            assert_eq!(error.retry_after(), Some(secs(30)));
        }
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(&error, SessionError::Cooling { .. }), "{error:?}");
        assert_eq!(session.status().phase(), Phase::Cooling);
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_was_denied_recovers_by_itself() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        endpoint.grant().await.fail(denied());
        asking.await.unwrap().unwrap_err();
        sleep(secs(30)).await;
        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one");
    }

    #[tokio::test(start_paused = true)]
    async fn more_callers_than_max_held_are_turned_away() {
        let (session, mut endpoint) = session_with(|config| config.max_held = 2);
        let held = [ask(&session), ask(&session)];
        settle().await;
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(error, SessionError::Overloaded), "{error:?}");
        let error = session.revoke().await.unwrap_err();
        assert!(matches!(error, SessionError::Overloaded), "{error:?}");
        let error = session.exchange(scope("a")).await.unwrap_err();
        assert!(matches!(error, SessionError::Overloaded), "{error:?}");
        assert_eq!(session.status().counters().overloaded, 3);
        endpoint.grant().await.token("one", HOUR);
        for caller in held {
            assert_eq!(text_of(caller).await, "one");
        }
        assert_eq!(session.get_token().await.unwrap().secret(), "one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_left_makes_room() {
        let (session, mut endpoint) = session_with(|config| config.max_held = 1);
        let left = ask(&session);
        settle().await;
        left.abort();
        settle().await;
        let stays = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(stays).await, "one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unexpired_token_is_given_rather_than_overloaded() {
        let (session, mut endpoint) = session_with(|config| {
            config.max_held = 1;
            config.refresh_mode = RefreshMode::OnRequest;
        });
        let asking = ask(&session);
        endpoint.grant().await.token("old", secs(100));
        assert_eq!(text_of(asking).await, "old");
        sleep(secs(95)).await; // hold_at is at 90 s
        let waits = ask(&session);
        settle().await;
        assert_eq!(session.status().phase(), Phase::Holding);
        assert_eq!(session.get_token().await.unwrap().secret(), "old");
        endpoint.grant().await.token("new", HOUR);
        assert_eq!(text_of(waits).await, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn try_token_on_an_empty_session_starts_one_grant_and_does_not_wait() {
        let (session, mut endpoint) = session();
        for _ in 0..1_000 {
            assert_eq!(fast(&session), None);
        }
        let grant = endpoint.grant().await;
        for _ in 0..1_000 {
            assert_eq!(fast(&session), None);
        }
        endpoint.is_quiet().await;
        grant.token("one", HOUR);
        settle().await;
        assert_eq!(fast(&session).as_deref(), Some("one"));
        assert_eq!(session.status().counters().grants_started, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_more_life_than_is_left_waits_for_one_attempt_and_takes_what_there_is() {
        let (session, mut endpoint) = session_holding("old", HOUR).await;
        sleep(secs(600)).await;
        let wants = TokenRequestOptions::new().min_remaining(secs(3_100));
        let asking = {
            let session = session.clone();
            tokio::spawn(async move { session.get_token_with(wants).await })
        };
        let grant = endpoint.grant().await;
        assert_eq!(fast(&session).as_deref(), Some("old"), "others go on");
        grant.fail(unavailable());
        assert_eq!(asking.await.unwrap().unwrap().secret(), "old");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_sends_the_options_of_the_caller_that_opened_it() {
        let (session, mut endpoint) = session();
        let with_ip = |ip| TokenRequestOptions::new().ip(ip).unwrap();
        let asking = |options| {
            let session = session.clone();
            tokio::spawn(async move { session.get_token_with(options).await })
        };
        let first = asking(with_ip("192.0.2.1"));
        settle().await;
        let second = asking(with_ip("192.0.2.2"));
        let grant = endpoint.grant().await;
        assert_eq!(grant.options().unwrap().forwarded_for(), Some("192.0.2.1"));
        grant.token("one", HOUR);
        assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());

        let revoking = {
            let session = session.clone();
            tokio::spawn(async move { session.revoke_with(with_ip("192.0.2.3")).await })
        };
        let revocation = endpoint.revocation().await;
        assert_eq!(revocation.options().unwrap().forwarded_for(), Some("192.0.2.3"));
        revocation.revoked();
        revoking.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn status_and_subscription_tell_what_the_session_does() {
        let (session, mut endpoint) = session();
        let mut changes = session.subscribe();
        assert_eq!(session.status().phase(), Phase::Empty);
        assert_eq!(session.status().generation(), None);
        let asking = ask(&session);
        let holding = changes.changed().await.unwrap();
        assert_eq!((holding.phase(), holding.held()), (Phase::Holding, 1));
        endpoint.grant().await.token("one", HOUR);
        let fresh = changes.changed().await.unwrap();
        assert_eq!((fresh.phase(), fresh.generation()), (Phase::Fresh, Some(1)));
        assert_eq!(fresh.remaining(), Some(HOUR));
        assert!(fresh.stale_in().unwrap() <= secs(50 * 60));
        text_of(asking).await;

        sleep(secs(52 * 60)).await;
        assert_eq!(session.status().phase(), Phase::Stale);
        assert_eq!(session.status().stale_in(), Some(Duration::ZERO));
        assert_eq!(fast(&session).as_deref(), Some("one"));
        assert_eq!(changes.changed().await.unwrap().phase(), Phase::Refreshing);
        endpoint.grant().await.token("two", HOUR);
        let fresh = changes.changed().await.unwrap();
        assert_eq!((fresh.phase(), fresh.generation()), (Phase::Fresh, Some(2)));

        session.invalidate(&session.get_token().await.unwrap());
        let empty = changes.changed().await.unwrap();
        assert_eq!((empty.phase(), empty.remaining()), (Phase::Empty, None));
        assert_eq!(empty.counters().invalidations, 1);

        drop(session);
        assert_eq!(changes.changed().await.unwrap().phase(), Phase::Closed, "the last is told");
        assert!(changes.changed().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_does_not_keep_the_session_alive() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        let mut grant = endpoint.grant().await;
        let mut changes = session.subscribe();
        asking.abort();
        drop(session);
        grant.dropped().await;
        while let Some(status) = changes.changed().await {
            assert!(matches!(status.phase(), Phase::Holding | Phase::Closed));
        }
    }

    /// The seed decides every draw: when refreshes come, and when retries.
    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_run() {
        async fn run(seed: u64) -> Vec<Duration> {
            let (manager, endpoint) = scripted();
            let mut config = config(|config| config.refresh_mode = RefreshMode::Always);
            config.retry.attempts = 4;
            let session = Session::builder(manager).config(config).seed(seed).spawn().unwrap();
            let start = Instant::now();
            let mut number = 0;
            let served = endpoint.serve(move |call| {
                number += 1;
                if number % 3 == 0 { call.token("t", secs(60)) } else { call.fail(unavailable()) }
            });
            sleep(secs(600)).await;
            drop(session);
            served.await.unwrap().grants.into_iter().map(|at| at - start).collect()
        }
        let first = run(7).await;
        assert!(first.len() > 20, "{first:?}");
        assert_eq!(first, run(7).await);
        assert_ne!(first, run(8).await);
    }
}

mod invalidation {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn invalidate_then_get_token_in_one_task_never_gives_the_refused_token() {
        let (session, mut endpoint) = session();
        let mut refused = None;
        for number in 0..20 {
            let text = format!("token-{number}");
            let (asking, endpoint_text) = (session.get_token(), text.clone());
            let answering = async {
                let grant = endpoint.grant().await;
                assert_eq!(grant.refused().map(str::to_owned), refused);
                grant.token(&endpoint_text, HOUR);
            };
            let token = tokio::join!(asking, answering).0.unwrap();
            assert_eq!(token.secret(), text);
            sleep(secs(10)).await;
            session.invalidate(&token);
            assert_eq!(fast(&session), None, "not even before the actor has heard of it");
            refused = Some(text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_refusal_within_ten_seconds_gives_the_token_again() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        session.invalidate(&session.get_token().await.unwrap());
        let asking = ask(&session);
        endpoint.grant().await.token("two", HOUR);
        text_of(asking).await;

        let two = session.get_token().await.unwrap();
        session.invalidate(&two);
        assert_eq!(fast(&session), None, "in doubt");
        assert_eq!(session.get_token().await.unwrap(), two);
        assert_eq!(fast(&session).as_deref(), Some("two"), "the doubt is dismissed");
        endpoint.is_quiet().await;

        sleep(secs(10)).await;
        session.invalidate(&two);
        let asking = ask(&session);
        endpoint.grant().await.token("three", HOUR);
        assert_eq!(text_of(asking).await, "three");
    }

    #[tokio::test(start_paused = true)]
    async fn older_tokens_and_those_of_other_sessions_are_ignored() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let old = session.get_token().await.unwrap();
        session.invalidate(&old);
        let asking = ask(&session);
        endpoint.grant().await.token("two", HOUR);
        text_of(asking).await;
        sleep(secs(60)).await;

        let (other, _other_endpoint) = session_holding("one", HOUR).await;
        let foreign = other.get_token().await.unwrap();
        for token in [&old, &foreign] {
            session.invalidate(token);
            assert_eq!(fast(&session).as_deref(), Some("two"));
            assert_eq!(session.get_token().await.unwrap().secret(), "two");
        }
        endpoint.is_quiet().await;
        assert_eq!(session.status().counters().invalidations, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_outlives_a_refresh_that_fails() {
        let (session, mut endpoint) = session_with(|config| {
            config.refresh_mode = RefreshMode::OnRequest;
            config.retry.attempts = 1;
        });
        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        text_of(asking).await;
        sleep(secs(55 * 60)).await;
        let one = session.get_token().await.unwrap();
        let grant = endpoint.grant().await;
        session.invalidate(&one);
        grant.fail(unavailable());
        let error = session.get_token().await.unwrap_err();
        assert!(matches!(error, SessionError::Failed { .. } | SessionError::Cooling { .. }));
    }
}

mod refresh {
    use super::*;

    const STALE: Duration = secs(52 * 60);

    /// A session in this mode with a token of an hour, got by one caller.
    async fn in_mode(mode: RefreshMode) -> (SessionHandle, Endpoint) {
        let (session, mut endpoint) = session_with(|config| config.refresh_mode = mode);
        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one");
        (session, endpoint)
    }

    async fn refreshed(session: &SessionHandle, endpoint: &mut Endpoint, text: &str) {
        let grant = endpoint.grant().await;
        assert!(fast(session).is_some_and(|held| held != text), "a stale token is given meanwhile");
        grant.token(text, HOUR);
        settle().await;
        assert_eq!(fast(session).as_deref(), Some(text));
    }

    #[tokio::test(start_paused = true)]
    async fn while_used_refreshes_a_token_that_only_the_fast_path_used() {
        let (session, mut endpoint) = in_mode(RefreshMode::WhileUsed).await;
        let start = Instant::now();
        sleep(secs(60)).await;
        assert_eq!(fast(&session).as_deref(), Some("one"));
        let grant = endpoint.grant().await;
        let after = grant.at - start;
        assert!((secs(49 * 60)..=secs(50 * 60)).contains(&after), "{after:?}");
        grant.token("two", HOUR);
        settle().await;
        // Nobody uses the second one.
        sleep(10 * HOUR).await;
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn while_used_leaves_an_idle_session_alone() {
        let (session, mut endpoint) = in_mode(RefreshMode::WhileUsed).await;
        sleep(10 * HOUR).await;
        endpoint.is_quiet().await;
        assert_eq!(session.status().phase(), Phase::Empty);
    }

    #[tokio::test(start_paused = true)]
    async fn while_used_refreshes_when_first_used_in_the_stale_stretch() {
        let (session, mut endpoint) = in_mode(RefreshMode::WhileUsed).await;
        sleep(STALE).await;
        endpoint.is_quiet().await;
        assert_eq!(fast(&session).as_deref(), Some("one"));
        refreshed(&session, &mut endpoint, "two").await;
    }

    #[tokio::test(start_paused = true)]
    async fn on_request_refreshes_only_at_a_request_inside_the_stale_stretch() {
        let (session, mut endpoint) = in_mode(RefreshMode::OnRequest).await;
        sleep(secs(60)).await;
        assert_eq!(fast(&session).as_deref(), Some("one"));
        sleep(STALE).await;
        endpoint.is_quiet().await;
        assert_eq!(session.get_token().await.unwrap().secret(), "one", "and it does not wait");
        refreshed(&session, &mut endpoint, "two").await;
    }

    #[tokio::test(start_paused = true)]
    async fn always_keeps_a_token_without_any_caller() {
        let (session, mut endpoint) = session_with(|config| {
            config.refresh_mode = RefreshMode::Always;
        });
        for number in 0..5 {
            endpoint.grant().await.token(&format!("token-{number}"), HOUR);
        }
        settle().await;
        assert_eq!(session.get_token().await.unwrap().secret(), "token-4");
    }

    #[tokio::test(start_paused = true)]
    async fn always_ends_with_a_revoke_until_somebody_asks_again() {
        let (session, mut endpoint) = in_mode(RefreshMode::Always).await;
        let revoking = revoke(&session);
        endpoint.revocation().await.revoked();
        revoking.await.unwrap().unwrap();
        sleep(10 * HOUR).await;
        endpoint.is_quiet().await;
        assert_eq!(fast(&session), None);
        endpoint.grant().await.token("two", HOUR);
        endpoint.grant().await.token("three", HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn one_message_asks_for_a_stale_token_however_many_read_it() {
        let (session, mut endpoint) = in_mode(RefreshMode::OnRequest).await;
        sleep(STALE).await;
        for _ in 0..10_000 {
            assert_eq!(session.get_token().await.unwrap().secret(), "one");
        }
        refreshed(&session, &mut endpoint, "two").await;
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_refresh_preserves_a_good_token_to_its_end() {
        let (session, endpoint) = in_mode(RefreshMode::WhileUsed).await;
        let got = Instant::now();
        let served = endpoint.serve(|call| call.fail(unavailable()));
        sleep(STALE).await;
        while got.elapsed() + secs(1) < HOUR {
            assert_eq!(session.get_token().await.unwrap().secret(), "one");
            sleep(secs(1)).await;
        }
        sleep(secs(1)).await;
        session.get_token().await.unwrap_err();
        drop(session);
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn near_its_end_callers_wait_for_the_attempt_and_get_the_old_token_if_it_fails() {
        let (session, mut endpoint) = in_mode(RefreshMode::OnRequest).await;
        sleep(HOUR - secs(20)).await; // hold_at is 30 s before the end
        assert_eq!(fast(&session), None);
        let asking = ask(&session);
        let grant = endpoint.grant().await;
        settle().await;
        assert!(!asking.is_finished());
        grant.fail(unavailable());
        assert_eq!(text_of(asking).await, "one");
        assert_eq!(fast(&session).as_deref(), Some("one"), "once per outage");
    }
}

mod revocation {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_revoke_while_a_grant_is_on_the_wire_revokes_that_token_too() {
        let (session, mut endpoint) = session();
        let before = ask(&session);
        let grant = endpoint.grant().await;
        let revoking = revoke(&session);
        settle().await;
        assert_eq!(session.status().phase(), Phase::Revoking);
        let after = ask(&session);
        endpoint.is_quiet().await;

        grant.token("revoked", HOUR);
        let revocation = endpoint.revocation().await;
        assert_eq!(revocation.about(), "revoked");
        endpoint.is_quiet().await;
        assert_eq!(fast(&session), None);
        assert!(!revoking.is_finished());
        revocation.revoked();
        revoking.await.unwrap().unwrap();

        let grant = endpoint.grant().await;
        assert_eq!(grant.refused(), Some("revoked"));
        grant.token("later", HOUR);
        assert_eq!(text_of(before).await, "later");
        assert_eq!(text_of(after).await, "later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_with_nothing_to_revoke_sends_nothing() {
        let (session, mut endpoint) = session();
        session.revoke().await.unwrap();
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_revoke_joins_the_first() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let first = revoke(&session);
        let revocation = endpoint.revocation().await;
        let second = revoke(&session);
        endpoint.is_quiet().await;
        revocation.revoked();
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_goes_on_though_its_caller_left() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let revoking = revoke(&session);
        let revocation = endpoint.revocation().await;
        revoking.abort();
        settle().await;
        assert!(!revocation.is_dropped());
        revocation.fail(unavailable());
        endpoint.revocation().await.revoked();
        let asking = ask(&session);
        endpoint.grant().await.token("two", HOUR);
        assert_eq!(text_of(asking).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_whose_endpoint_hangs_ends_after_its_attempts_and_the_next_tries_again() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let start = Instant::now();
        let revoking = revoke(&session);
        let mut hung = Vec::new();
        for _ in 0..3 {
            hung.push(endpoint.revocation().await);
        }
        let asking = ask(&session);
        let error = revoking.await.unwrap().unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::TimedOut { .. })), "{error:?}");
        assert!(start.elapsed() <= secs(31), "{:?}", start.elapsed());
        assert!(hung.iter().all(Call::is_dropped));
        endpoint.grant().await.token("two", HOUR);
        assert_eq!(text_of(asking).await, "two", "nobody is held for ever");

        sleep(error.retry_after().unwrap()).await;
        let revoking = revoke(&session);
        let mut texts = Vec::new();
        for _ in 0..2 {
            let revocation = endpoint.revocation().await;
            texts.push(revocation.about().to_owned());
            revocation.revoked();
        }
        texts.sort();
        assert_eq!(texts, ["one", "two"]);
        revoking.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_whose_endpoint_fails_says_so_and_gives_the_token_to_nobody() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let revoking = revoke(&session);
        endpoint.revocation().await.fail(denied());
        let error = revoking.await.unwrap().unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error:?}");
        assert_eq!(fast(&session), None);
        // Before `not_before` another revoke sends nothing, but still drops and marks.
        endpoint.grant().await.token("two", HOUR);
        settle().await;
        assert_eq!(fast(&session).as_deref(), Some("two"));
        let error = session.revoke().await.unwrap_err();
        assert!(matches!(error, SessionError::Cooling { .. }), "{error:?}");
        assert_eq!(fast(&session), None);
        endpoint.grant().await.token("three", HOUR);
        sleep(secs(30)).await;
        let revoking = revoke(&session);
        for _ in 0..3 {
            endpoint.revocation().await.revoked();
        }
        revoking.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_invalid_already_counts_as_revoked() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let revoking = revoke(&session);
        endpoint.revocation().await.fail(TokenError::denied("invalid_token", "unknown"));
        revoking.await.unwrap().unwrap();
        session.revoke().await.unwrap();
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_reaches_a_thousand_exchanged_tokens_eight_at_a_time() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let exchanging: Vec<_> = (0..1_000)
            .map(|number| exchange(&session, scope(&format!("scope-{number}"))))
            .collect();
        for number in 0..1_000 {
            endpoint.exchange().await.token(&format!("child-{number}"), HOUR);
        }
        for exchanging in exchanging {
            exchanging.await.unwrap().unwrap();
        }
        let revoking = revoke(&session);
        let mut revoked = Vec::new();
        while revoked.len() < 1_001 {
            let mut batch = vec![endpoint.revocation().await];
            while batch.len() < 8.min(1_001 - revoked.len()) {
                batch.push(endpoint.revocation().await);
            }
            endpoint.is_quiet().await;
            for call in batch {
                revoked.push(call.about().to_owned());
                call.revoked();
            }
        }
        revoking.await.unwrap().unwrap();
        endpoint.is_quiet().await;
        revoked.sort();
        revoked.dedup();
        assert_eq!(revoked.len(), 1_001);

        let again = exchange(&session, scope("scope-0"));
        endpoint.grant().await.token("parent-2", HOUR);
        let call = endpoint.exchange().await;
        assert_eq!(call.about(), "parent-2", "the cache is gone as well");
        call.token("child", HOUR);
        assert_eq!(again.await.unwrap().unwrap().secret(), "child");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_tokens_text_is_never_handed_out_again() {
        let (session, endpoint) = session_holding("revoked", HOUR).await;
        let served = endpoint.serve(|call| match call.asked {
            Asked::Revocation(..) => call.revoked(),
            _ => call.token("revoked", HOUR),
        });
        session.revoke().await.unwrap();
        let start = Instant::now();
        while start.elapsed() < secs(600) {
            let error = session.get_token().await.unwrap_err();
            assert!(matches!(error.token_error(), Some(TokenError::Expired { .. })), "{error:?}");
            assert_eq!(fast(&session), None);
            sleep(millis(100)).await;
        }
        drop(session);
        let served = served.await.unwrap();
        assert_eq!(served.revocations.len(), 1, "a confirmed one is not sent again");
        assert!(served.grants.len() < 60, "{}", served.grants.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_text_is_refused_from_an_exchange_too() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let revoking = revoke(&session);
        endpoint.revocation().await.revoked();
        revoking.await.unwrap().unwrap();
        let exchanging = exchange(&session, scope("a"));
        endpoint.grant().await.token("parent-2", HOUR);
        for _ in 0..3 {
            endpoint.exchange().await.token("parent", HOUR);
        }
        let error = exchanging.await.unwrap().unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Expired { .. })), "{error:?}");
    }

    /// A manager that has only grants.
    struct GrantsOnly;

    impl TokenManager for GrantsOnly {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            Grant::bearer("one")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_manager_cannot_do_is_unsupported_and_changes_nothing() {
        let session = Session::builder(GrantsOnly).spawn().unwrap();
        let token = session.get_token().await.unwrap();
        let error = session.revoke().await.unwrap_err();
        assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
        let error = session.exchange(scope("a")).await.unwrap_err();
        assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
        assert_eq!(session.try_token(), Some(token));
        assert_eq!(session.status().counters().revokes, 0);
    }
}

mod exchanging {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_with_the_same_key_share_one_exchange_and_its_token_is_cached() {
        let (session, mut endpoint) = session();
        let with_ip = scope("a").options(TokenRequestOptions::new().ip("192.0.2.1").unwrap());
        let asking: Vec<_> = (0..100)
            .map(|number| {
                exchange(&session, if number % 2 == 0 { scope("a") } else { with_ip.clone() })
            })
            .collect();
        endpoint.grant().await.token("parent", HOUR);
        let call = endpoint.exchange().await;
        assert_eq!(call.about(), "parent");
        endpoint.is_quiet().await;
        call.token("child", HOUR);
        for asking in asking {
            assert_eq!(asking.await.unwrap().unwrap().secret(), "child");
        }
        assert_eq!(session.exchange(with_ip).await.unwrap().secret(), "child");
        endpoint.is_quiet().await;
        assert_eq!(session.get_token().await.unwrap().secret(), "parent", "its own is untouched");
    }

    #[tokio::test(start_paused = true)]
    async fn other_keys_have_exchanges_of_their_own_at_the_same_time() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let requests =
            [scope("a"), scope("b"), scope("a").resource("urn:r"), scope("a").audience("x")];
        let asking: Vec<_> =
            requests.into_iter().map(|request| exchange(&session, request)).collect();
        let mut calls = Vec::new();
        for _ in 0..4 {
            calls.push(endpoint.exchange().await);
        }
        for (number, call) in calls.into_iter().enumerate().rev() {
            call.token(&format!("child-{number}"), HOUR);
        }
        let mut texts = Vec::new();
        for asking in asking {
            texts.push(asking.await.unwrap().unwrap().secret().to_owned());
        }
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchanged_token_outlives_its_parents_refresh() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let asking = exchange(&session, scope("a"));
        endpoint.exchange().await.token("child", 2 * HOUR);
        asking.await.unwrap().unwrap();
        endpoint.grant().await.token("parent-2", HOUR);
        settle().await;
        assert_eq!(fast(&session).as_deref(), Some("parent-2"));
        assert_eq!(session.exchange(scope("a")).await.unwrap().secret(), "child");
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalidated_exchanged_token_is_exchanged_anew() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let asking = exchange(&session, scope("a"));
        endpoint.exchange().await.token("child", HOUR);
        let child = asking.await.unwrap().unwrap();
        session.invalidate(&child);
        assert_eq!(session.exchange(scope("a")).await.unwrap(), child, "younger than 10 s");
        sleep(secs(10)).await;
        session.invalidate(&child);
        let asking = exchange(&session, scope("a"));
        let call = endpoint.exchange().await;
        assert_eq!(call.about(), "parent", "the session's own token stays");
        call.token("child-2", HOUR);
        let second = asking.await.unwrap().unwrap();
        assert_eq!(second.secret(), "child-2");
        assert!(second.id() > child.id());
    }

    #[tokio::test(start_paused = true)]
    async fn an_honoured_invalidate_of_the_parent_drops_its_children() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let asking = exchange(&session, scope("a"));
        endpoint.exchange().await.token("child", HOUR);
        asking.await.unwrap().unwrap();
        session.invalidate(&session.get_token().await.unwrap());
        let asking = exchange(&session, scope("a"));
        endpoint.grant().await.token("parent-2", HOUR);
        let call = endpoint.exchange().await;
        assert_eq!(call.about(), "parent-2");
        call.token("child-2", HOUR);
        assert_eq!(asking.await.unwrap().unwrap().secret(), "child-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_does_not_stop_the_exchange_and_its_token_is_kept() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let asking = exchange(&session, scope("a"));
        let call = endpoint.exchange().await;
        asking.abort();
        settle().await;
        assert!(!call.is_dropped());
        call.token("child", HOUR);
        settle().await;
        assert_eq!(session.exchange(scope("a")).await.unwrap().secret(), "child");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_subject_is_replaced_and_the_exchange_runs_once_more() {
        let (session, mut endpoint) = session_holding("refused", HOUR).await;
        let asking = exchange(&session, scope("a"));
        endpoint.exchange().await.fail(TokenError::denied("invalid_grant", "unknown subject"));
        endpoint.grant().await.token("parent", HOUR);
        let call = endpoint.exchange().await;
        assert_eq!(call.about(), "parent");
        call.fail(TokenError::denied("invalid_grant", "unknown subject"));
        let error = asking.await.unwrap().unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error:?}");
        assert_eq!(fast(&session).as_deref(), Some("parent"), "the second one is not honoured");
        endpoint.is_quiet().await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_subject_an_exchange_fails_as_the_grant_did() {
        let (session, mut endpoint) = session();
        let asking = exchange(&session, scope("a"));
        endpoint.grant().await.fail(denied());
        let error = asking.await.unwrap().unwrap_err();
        assert!(matches!(error, SessionError::Failed { .. }), "{error:?}");
        assert_eq!(error.retry_after(), Some(secs(30)));
    }
}

mod attempts {
    use super::*;

    fn assert_panicked<T: Debug>(result: Result<T, SessionError>) {
        let error = result.unwrap_err();
        assert!(matches!(error.token_error(), Some(TokenError::Panicked)), "{error:?}");
    }

    /// One attempt per flight, so that each panic is what its caller sees.
    fn one_attempt() -> (SessionHandle, Endpoint) {
        session_with(|config| config.retry.attempts = 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_grant_is_an_error_of_that_attempt() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        endpoint.grant().await.panic();
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one", "it is retried");

        let (session, mut endpoint) = one_attempt();
        let asking = ask(&session);
        endpoint.grant().await.panic();
        assert_panicked(asking.await.unwrap());
        sleep(secs(1)).await;
        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one", "the session goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_an_exchange_is_an_error_of_that_attempt() {
        let (session, mut endpoint) = one_attempt();
        let asking = [exchange(&session, scope("a")), exchange(&session, scope("b"))];
        endpoint.grant().await.token("parent", HOUR);
        endpoint.exchange().await.panic();
        endpoint.exchange().await.panic();
        for asking in asking {
            assert_panicked(asking.await.unwrap());
        }
        assert_eq!(fast(&session).as_deref(), Some("parent"));
        sleep(secs(1)).await;
        let asking = exchange(&session, scope("a"));
        endpoint.exchange().await.token("child", HOUR);
        assert_eq!(asking.await.unwrap().unwrap().secret(), "child");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_revocation_is_an_error_of_that_attempt() {
        let (session, mut endpoint) = one_attempt();
        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        text_of(asking).await;
        let revoking = revoke(&session);
        endpoint.revocation().await.panic();
        assert_panicked(revoking.await.unwrap());
        sleep(secs(1)).await;
        let revoking = revoke(&session);
        endpoint.revocation().await.revoked();
        revoking.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_takes_too_long_is_dropped_before_it_is_reported() {
        let (session, mut endpoint) = one_attempt();
        let start = Instant::now();
        let asking = ask(&session);
        let grant = endpoint.grant().await;
        let error = asking.await.unwrap().unwrap_err();
        assert!(grant.is_dropped());
        assert!(
            matches!(error.token_error(), Some(TokenError::TimedOut { after }) if *after == secs(10)),
            "{error:?}"
        );
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_at_the_last_moment_still_counts() {
        let (session, mut endpoint) = one_attempt();
        let asking = ask(&session);
        let grant = endpoint.grant().await;
        sleep(millis(9_999)).await;
        grant.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_endpoint_delays_no_reply_but_those_that_need_it() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let hung = exchange(&session, scope("hung"));
        let _hung_call = endpoint.exchange().await;
        let start = Instant::now();
        let other = exchange(&session, scope("other"));
        endpoint.exchange().await.token("child", HOUR);
        assert_eq!(other.await.unwrap().unwrap().secret(), "child");
        assert_eq!(fast(&session).as_deref(), Some("parent"));
        assert!(start.elapsed() < secs(1));
        hung.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_makes_its_attempts_and_ends_within_31_seconds() {
        let (session, mut endpoint) = session();
        let start = Instant::now();
        let asking = ask(&session);
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(endpoint.grant().await);
        }
        asking.await.unwrap().unwrap_err();
        assert!(start.elapsed() <= secs(31), "{:?}", start.elapsed());
        assert!(calls.iter().all(Call::is_dropped));
        assert_eq!(endpoint.grants_on_wire_max(), 1);
        endpoint.is_quiet().await;
    }
}

mod closing {
    use super::*;

    fn is_closed<T>(result: &Result<T, SessionError>) -> bool {
        matches!(result, Err(SessionError::Closed))
    }

    async fn assert_all_closed(session: &SessionHandle) {
        assert!(is_closed(&session.get_token().await));
        assert!(is_closed(&session.exchange(scope("a")).await));
        assert!(is_closed(&session.revoke().await));
        assert!(is_closed(&session.blocking_get_token()));
        assert_eq!(session.try_token(), None);
        assert_eq!(session.status().phase(), Phase::Closed);
        session.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_answers_everybody_closed_whatever_is_on_the_wire() {
        // Empty.
        let (session, _endpoint) = session();
        session.shutdown().await;
        assert_all_closed(&session).await;

        // A grant is on the wire, and the shutdown does not wait for it.
        let (session, mut endpoint) = super::session();
        let callers = [ask(&session), ask(&session)];
        let exchanging = exchange(&session, scope("a"));
        let grant = endpoint.grant().await;
        let start = Instant::now();
        session.shutdown().await;
        assert!(grant.is_dropped(), "shutdown waits until the requests have ended");
        assert_eq!(start.elapsed(), Duration::ZERO);
        for caller in callers {
            assert!(is_closed(&caller.await.unwrap()));
        }
        assert!(is_closed(&exchanging.await.unwrap()));
        assert_all_closed(&session).await;

        // A token is held; an exchange is on the wire.
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let exchanging = exchange(&session, scope("a"));
        let call = endpoint.exchange().await;
        session.shutdown().await;
        assert!(call.is_dropped());
        assert!(is_closed(&exchanging.await.unwrap()));
        assert_all_closed(&session).await;

        // A revoke is, and callers wait behind it.
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        let revoking = revoke(&session);
        let call = endpoint.revocation().await;
        let waiting = ask(&session);
        settle().await;
        session.shutdown().await;
        assert!(call.is_dropped());
        assert!(is_closed(&revoking.await.unwrap()));
        assert!(is_closed(&waiting.await.unwrap()));
        assert_all_closed(&session).await;

        // The flight waits between attempts.
        let (session, mut endpoint) = super::session();
        let waiting = ask(&session);
        endpoint.grant().await.fail(TokenError::RateLimited { retry_after: Some(secs(4)) });
        settle().await;
        session.shutdown().await;
        assert!(is_closed(&waiting.await.unwrap()));
        endpoint.calls_are_over().await;
    }

    /// Each step of a session's life is cut short once, by a shutdown and by the runtime's end of the
    /// actor: somebody always answers.
    #[tokio::test(start_paused = true)]
    async fn a_shutdown_after_any_number_of_steps_leaves_nobody_waiting() {
        for steps in 0..40 {
            let (session, endpoint) = session();
            let served = endpoint.serve(|call| match call.asked {
                Asked::Revocation(..) => call.revoked(),
                _ => call.token("text", secs(5)),
            });
            let callers: Vec<_> = (0..4).map(|_| ask(&session)).collect();
            let exchanging = exchange(&session, scope("a"));
            let revoking = revoke(&session);
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            session.shutdown().await;
            for caller in callers {
                let result = caller.await.unwrap();
                assert!(result.is_ok() || is_closed(&result), "{steps}: {result:?}");
            }
            let result = exchanging.await.unwrap();
            assert!(result.is_ok() || is_closed(&result), "{steps}: {result:?}");
            let result = revoking.await.unwrap();
            assert!(result.is_ok() || is_closed(&result), "{steps}: {result:?}");
            assert_all_closed(&session).await;
            drop(session);
            served.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_that_is_dropped_ends_the_session_all_the_same() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        let mut grant = endpoint.grant().await;
        let shutdown = session.shutdown();
        drop(tokio::time::timeout(Duration::ZERO, shutdown).await);
        grant.dropped().await;
        assert!(is_closed(&asking.await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_handles_drop_ends_the_actor_and_its_attempts() {
        let (session, mut endpoint) = session();
        assert_eq!(fast(&session), None);
        let mut grant = endpoint.grant().await;
        let clone = session.clone();
        drop(session);
        settle().await;
        assert!(!grant.is_dropped());
        let start = Instant::now();
        drop(clone);
        grant.dropped().await;
        endpoint.calls_are_over().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_keeps_the_session_alive() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        drop(session);
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one");
        endpoint.calls_are_over().await;
    }

    #[test]
    fn a_handle_kept_past_its_runtime_says_closed() {
        let runtime = Runtime::new().unwrap();
        let (session, mut endpoint) =
            runtime.block_on(async { session_holding("one", HOUR).await });
        let idle = runtime.block_on(async { session_with(|_| {}) }).0;
        let exchanging = runtime.block_on(async {
            let exchanging = exchange(&session, scope("a"));
            endpoint.exchange().await;
            exchanging
        });
        drop(runtime);
        assert_eq!(session.try_token(), None);
        assert!(is_closed(&session.blocking_get_token()));
        Runtime::new().unwrap().block_on(async {
            assert!(exchanging.await.unwrap_err().is_cancelled());
            assert_all_closed(&session).await;
            assert_all_closed(&idle).await;
        });
    }

    /// The caller lives in another runtime than the session, whose runtime ends under it.
    #[test]
    fn who_waits_when_the_sessions_runtime_ends_gets_closed() {
        let theirs = Runtime::new().unwrap();
        let (builder, mut endpoint) = builder(|_| {});
        let session = builder.spawn_on(theirs.handle()).unwrap();
        let ours = Runtime::new().unwrap();
        ours.block_on(async {
            let waiting = [ask(&session), ask(&session)];
            let _grant = endpoint.grant().await;
            let mut changes = session.subscribe();
            tokio::task::spawn_blocking(move || drop(theirs)).await.unwrap();
            for waiting in waiting {
                assert!(is_closed(&waiting.await.unwrap()));
            }
            while changes.changed().await.is_some() {}
            assert_all_closed(&session).await;
        });
    }
}

mod runtimes {
    use std::sync::LazyLock;

    use super::*;

    /// Gives `token-0`, `token-1`, …, each for an hour.
    struct Counting(AtomicU64);

    impl TokenManager for Counting {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            let number = self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Grant::bearer(format!("token-{number}"))?.expires_in(HOUR))
        }
    }

    fn counting() -> SessionBuilder<Counting> {
        Session::builder(Counting(AtomicU64::new(0)))
    }

    #[test]
    fn spawn_outside_a_runtime_is_a_config_error() {
        let error: ConfigError = counting().spawn().unwrap_err();
        assert_eq!(error.setting(), "spawn");
        assert!(error.to_string().contains("spawn_thread"), "{error}");
    }

    #[test]
    fn spawn_on_starts_from_anywhere() {
        let runtime = Runtime::new().unwrap();
        let session = counting().spawn_on(runtime.handle()).unwrap();
        assert_eq!(session.blocking_get_token().unwrap().secret(), "token-0");
    }

    #[test]
    fn spawn_checks_the_configuration_wherever_it_runs() {
        let runtime = Runtime::new().unwrap();
        let bad = || counting().config(config(|config| config.retry.attempts = 0));
        assert_eq!(bad().spawn_on(runtime.handle()).unwrap_err().setting(), "attempts");
        assert_eq!(bad().spawn_thread().unwrap_err().setting(), "attempts");
        let _guard = runtime.enter();
        assert_eq!(bad().spawn().unwrap_err().setting(), "attempts");
    }

    static SHARED: LazyLock<SessionHandle> = LazyLock::new(|| counting().spawn_thread().unwrap());

    #[test]
    fn a_session_in_a_static_works_from_threads_and_from_any_runtime() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| SHARED.blocking_get_token().unwrap().secret().to_owned())
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), "token-0");
        }
        for _ in 0..2 {
            // One runtime for each test, as people have it.
            let token = Runtime::new().unwrap().block_on(SHARED.get_token()).unwrap();
            assert_eq!(token.secret(), "token-0");
        }
        SHARED.invalidate(&SHARED.blocking_get_token().unwrap());
        assert_eq!(SHARED.blocking_get_token().unwrap().secret(), "token-1");
    }

    #[test]
    fn the_thread_of_a_session_ends_with_it() {
        let (manager, mut endpoint) = scripted();
        let session = Session::builder(manager).spawn_thread().unwrap();
        let asking = {
            let session = session.clone();
            std::thread::spawn(move || session.blocking_get_token())
        };
        Runtime::new().unwrap().block_on(async {
            endpoint.grant().await.token("one", HOUR);
            assert_eq!(asking.join().unwrap().unwrap().secret(), "one");
            drop(session);
            endpoint.calls_are_over().await;
        });
    }

    #[test]
    fn a_blocked_thread_is_answered_closed_at_shutdown() {
        let (manager, mut endpoint) = scripted();
        let session = Session::builder(manager).spawn_thread().unwrap();
        let asking = {
            let session = session.clone();
            std::thread::spawn(move || session.blocking_get_token())
        };
        Runtime::new().unwrap().block_on(async {
            let grant = endpoint.grant().await;
            session.shutdown().await;
            assert!(grant.is_dropped());
        });
        assert!(matches!(asking.join().unwrap(), Err(SessionError::Closed)));
    }

    #[tokio::test(start_paused = true)]
    async fn blocking_inside_a_runtime_would_block_unless_there_is_a_token() {
        let (session, mut endpoint) = session();
        let error = session.blocking_get_token().unwrap_err();
        assert!(matches!(error, SessionError::WouldBlock), "{error:?}");
        let on_another_thread = session.clone();
        let result = tokio::task::spawn_blocking(move || on_another_thread.blocking_get_token());
        assert!(matches!(result.await.unwrap(), Err(SessionError::WouldBlock)));
        endpoint.is_quiet().await;

        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        text_of(asking).await;
        assert_eq!(session.blocking_get_token().unwrap().secret(), "one");
    }

    #[tokio::test]
    async fn a_session_can_be_spawned_on_a_thread_from_inside_a_runtime() {
        let session = counting().spawn_thread().unwrap();
        assert_eq!(session.get_token().await.unwrap().secret(), "token-0");
        session.shutdown().await;
    }

    #[test]
    fn what_callers_hold_fits_anywhere() {
        fn is<T: Clone + Send + Sync + Debug + 'static>() {}
        is::<SessionHandle>();
        is::<ccg_session::AccessToken>();
        is::<ExchangedToken>();
        is::<ccg_session::StatusSubscription>();
        is::<SessionError>();
        fn sends<T: Send>(_: T) {}
        let session = SessionHandle::fixed("text").unwrap();
        sends(session.get_token());
        sends(session.exchange(ExchangeRequest::default()));
        sends(session.revoke());
        sends(session.shutdown());
    }
}

mod fixed {
    use super::*;

    #[test]
    fn it_gives_its_token_without_a_runtime_and_for_ever() {
        let session = SessionHandle::fixed("developer").unwrap();
        let token = session.blocking_get_token().unwrap();
        assert_eq!(token.secret(), "developer");
        assert_eq!(token.header_value(), "Bearer developer");
        assert_eq!(token.remaining(), Duration::MAX);
        assert_eq!(session.try_token(), Some(token));
        assert_eq!(session.status().phase(), Phase::Fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn after_invalidate_it_is_denied() {
        let session = SessionHandle::fixed("developer").unwrap();
        let clone = session.clone();
        let long_lived = TokenRequestOptions::new().min_remaining(secs(u64::MAX));
        let token = session.get_token_with(long_lived).await.unwrap();
        sleep(1_000 * HOUR).await;
        assert_eq!(session.get_token().await.unwrap(), token);
        session.invalidate(&token);
        for result in [clone.get_token().await, clone.blocking_get_token()] {
            let error = result.unwrap_err();
            assert!(matches!(error.token_error(), Some(TokenError::Denied { .. })), "{error:?}");
        }
        assert_eq!(clone.try_token(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ignores_the_tokens_of_other_sessions() {
        let session = SessionHandle::fixed("developer").unwrap();
        let other = SessionHandle::fixed("other").unwrap();
        session.invalidate(&other.try_token().unwrap());
        let (live, _endpoint) = session_holding("live", HOUR).await;
        session.invalidate(&live.get_token().await.unwrap());
        assert_eq!(session.get_token().await.unwrap().secret(), "developer");
        assert_ne!(session.try_token(), other.try_token());
    }

    #[tokio::test]
    async fn exchange_and_revoke_are_unsupported() {
        let session = SessionHandle::fixed("developer").unwrap();
        let error = session.exchange(scope("a")).await.unwrap_err();
        assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
        let error = session.revoke().await.unwrap_err();
        assert!(matches!(error, SessionError::Unsupported(_)), "{error:?}");
        session.shutdown().await;
        assert_eq!(session.get_token().await.unwrap().secret(), "developer");
    }

    #[test]
    fn what_cannot_go_into_a_header_is_no_token() {
        for text in ["", "two words", "new\nline", "gr\u{fc}n"] {
            let error = SessionHandle::fixed(text).unwrap_err();
            assert!(matches!(error, TokenError::Malformed { .. }), "{error:?}");
        }
    }
}

mod suspended {
    use super::*;

    /// What a session must notice within this time of waking.
    const NOTICE: Duration = secs(30);

    #[tokio::test(start_paused = true)]
    async fn no_dead_token_is_handed_out_after_waking() {
        let (session, mut endpoint) = session_holding("dead", HOUR).await;
        assert_eq!(fast(&session).as_deref(), Some("dead"));
        suspend(3 * HOUR);
        assert_eq!(fast(&session), None);
        let asking = ask(&session);
        endpoint.grant().await.token("new", HOUR);
        assert_eq!(text_of(asking).await, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn no_dead_exchanged_token_is_handed_out_after_waking() {
        let (session, mut endpoint) = session_holding("parent", HOUR).await;
        let asking = exchange(&session, scope("a"));
        endpoint.exchange().await.token("dead", HOUR);
        asking.await.unwrap().unwrap();
        suspend(3 * HOUR);
        let asking = exchange(&session, scope("a"));
        endpoint.grant().await.token("parent-2", HOUR);
        endpoint.exchange().await.token("child", HOUR);
        assert_eq!(asking.await.unwrap().unwrap().secret(), "child");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_was_on_the_wire_ends() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        let mut grant = endpoint.grant().await;
        let woke = Instant::now();
        suspend(3 * HOUR);
        grant.dropped().await;
        assert!(woke.elapsed() <= NOTICE, "{:?}", woke.elapsed());
        endpoint.grant().await.token("new", HOUR);
        assert_eq!(text_of(asking).await, "new");
        assert!(woke.elapsed() <= NOTICE + secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_died_on_the_way_is_not_handed_out() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        let grant = endpoint.grant().await;
        suspend(3 * HOUR);
        grant.token("dead", HOUR);
        settle().await;
        assert_eq!(fast(&session), None);
        endpoint.grant().await.token("new", HOUR);
        assert_eq!(text_of(asking).await, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn the_refresh_of_a_session_that_is_kept_warm_follows_within_30_seconds_of_waking() {
        for asleep in [secs(52 * 60), 3 * HOUR] {
            let (session, mut endpoint) =
                session_with(|config| config.refresh_mode = RefreshMode::Always);
            endpoint.grant().await.token("one", HOUR);
            settle().await;
            let woke = Instant::now();
            suspend(asleep);
            let grant = endpoint.grant().await;
            assert!(woke.elapsed() <= NOTICE, "{:?}", woke.elapsed());
            grant.token("two", HOUR);
            settle().await;
            assert_eq!(fast(&session).as_deref(), Some("two"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_refresh_of_a_token_in_use_follows_within_30_seconds_of_waking() {
        let (session, mut endpoint) = session_holding("one", HOUR).await;
        assert_eq!(fast(&session).as_deref(), Some("one"));
        sleep(secs(45)).await;
        let woke = Instant::now();
        suspend(secs(52 * 60)); // stale, and not yet held
        let grant = endpoint.grant().await;
        assert!(woke.elapsed() <= NOTICE, "{:?}", woke.elapsed());
        assert_eq!(fast(&session).as_deref(), Some("one"));
        grant.token("two", HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_left_alone_has_been_left_alone_in_suspend() {
        let (session, mut endpoint) = session();
        let asking = ask(&session);
        endpoint.grant().await.fail(denied());
        asking.await.unwrap().unwrap_err();
        suspend(secs(30));
        let asking = ask(&session);
        endpoint.grant().await.token("one", HOUR);
        assert_eq!(text_of(asking).await, "one");
    }
}

/// What callers do in loops must not reach the endpoint as a storm.
mod storms {
    use super::*;

    const MINUTES: Duration = secs(300);

    /// No two grants nearer than a second: so at most one more than there are seconds.
    fn assert_a_second_apart(grants: &[Instant]) {
        for pair in grants.windows(2) {
            assert!(pair[1] - pair[0] >= secs(1), "{:?}", pair[1] - pair[0]);
        }
    }

    /// A dead endpoint is asked three times, then once for each flight: after at least 0.5, 1, 2, 4, 8
    /// and then each 15 s, and at most after 30 s (and a caller's pause).
    fn assert_left_alone(attempts: &[Instant], extra: usize) {
        let most = 3 + 5 + 300 / 15 + extra;
        assert!((10..=most).contains(&attempts.len()), "{}", attempts.len());
        let least = [500, 1_000, 2_000, 4_000, 8_000].into_iter().chain(std::iter::repeat(15_000));
        for (pair, least) in attempts.windows(2).skip(2 + extra).zip(least) {
            let pause = pair[1] - pair[0];
            assert!(pause >= millis(least), "{pause:?} < {least} ms");
            assert!(pause <= secs(31), "{pause:?}");
        }
    }

    /// Each token a new text, each request answered after 20 ms.
    fn healthy(life: Duration) -> impl FnMut(Call) + Send + 'static {
        let mut number = 0;
        move |call| {
            number += 1;
            let text = format!("token-{number}");
            tokio::spawn(async move {
                sleep(millis(20)).await;
                match call.asked {
                    Asked::Revocation(..) => call.revoked(),
                    _ => call.token(&text, life),
                }
            });
        }
    }

    fn dead(call: Call) {
        call.fail(unavailable());
    }

    #[tokio::test(start_paused = true)]
    async fn revoke_in_a_loop() {
        let (session, endpoint) = session();
        let served = endpoint.serve(healthy(HOUR));
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            session.get_token().await.unwrap();
            session.revoke().await.unwrap();
        }
        drop(session);
        let served = served.await.unwrap();
        assert_a_second_apart(&served.grants);
        assert!(served.grants.len() > 250, "{}", served.grants.len());
        assert!(served.revocations.len() <= served.grants.len());
        assert_eq!(served.grants_on_wire_max, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn revoke_in_a_loop_by_many_against_a_dead_endpoint() {
        let (session, endpoint) = session_holding("one", HOUR).await;
        let served = endpoint.serve(dead);
        let start = Instant::now();
        let loops: Vec<_> = (0..20)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move {
                    while start.elapsed() < MINUTES {
                        session.revoke().await.unwrap_err();
                        assert_eq!(session.try_token(), None);
                        sleep(millis(10)).await;
                    }
                })
            })
            .collect();
        for task in loops {
            task.await.unwrap();
        }
        drop(session);
        let served = served.await.unwrap();
        let revocations: Vec<_> = served.revocations.iter().map(|(at, _)| *at).collect();
        assert_left_alone(&revocations, 0);
        // A grant flight that waits between attempts ends when the barrier goes up and nobody waits for
        // it; the one that follows has its three attempts again, no sooner.
        assert_left_alone(&served.grants, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn invalidate_in_a_loop() {
        let (session, endpoint) = session();
        let served = endpoint.serve(healthy(HOUR));
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            session.invalidate(&session.get_token().await.unwrap());
            sleep(millis(10)).await;
        }
        drop(session);
        let grants = served.await.unwrap().grants;
        assert!((25..=31).contains(&grants.len()), "one in 10 s is honoured: {}", grants.len());
    }

    #[tokio::test(start_paused = true)]
    async fn invalidate_in_a_loop_against_a_dead_endpoint() {
        let (session, endpoint) = session_holding("one", HOUR).await;
        let one = session.get_token().await.unwrap();
        let served = endpoint.serve(dead);
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            session.invalidate(&one);
            session.get_token().await.unwrap_err();
            sleep(millis(10)).await;
        }
        drop(session);
        assert_left_alone(&served.await.unwrap().grants, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_live_one_second() {
        for mode in [RefreshMode::WhileUsed, RefreshMode::OnRequest, RefreshMode::Always] {
            let (session, endpoint) = session_with(|config| config.refresh_mode = mode);
            let served = endpoint.serve(healthy(secs(1)));
            let start = Instant::now();
            let mut generation = 0;
            while start.elapsed() < MINUTES {
                let token = session.get_token().await.unwrap();
                assert!(token.remaining() > Duration::ZERO);
                assert!(token.id().generation() >= generation);
                generation = token.id().generation();
                sleep(millis(7)).await;
            }
            drop(session);
            let served = served.await.unwrap();
            assert_a_second_apart(&served.grants);
            assert_eq!(served.grants_on_wire_max, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn try_token_in_a_loop_against_a_healthy_endpoint() {
        let (session, endpoint) = session();
        let served = endpoint.serve(healthy(secs(60)));
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            session.try_token();
            sleep(millis(5)).await;
        }
        drop(session);
        let grants = served.await.unwrap().grants;
        // Stale at 27 to 30 s of each 60.
        assert!((10..=12).contains(&grants.len()), "{}", grants.len());
    }

    #[tokio::test(start_paused = true)]
    async fn try_token_in_a_loop_against_a_dead_endpoint() {
        let (session, endpoint) = session();
        let served = endpoint.serve(dead);
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            assert_eq!(session.try_token(), None);
            sleep(millis(5)).await;
        }
        drop(session);
        assert_left_alone(&served.await.unwrap().grants, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_callers_in_a_retry_loop_cost_a_dead_endpoint_what_one_does() {
        let (session, endpoint) = session();
        let served = endpoint.serve(dead);
        let start = Instant::now();
        let loops: Vec<_> = (0..1_000)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move {
                    while start.elapsed() < MINUTES {
                        session.get_token().await.unwrap_err();
                        sleep(millis(500)).await;
                    }
                })
            })
            .collect();
        for task in loops {
            task.await.unwrap();
        }
        drop(session);
        let served = served.await.unwrap();
        assert_left_alone(&served.grants, 0);
        assert_eq!(served.grants_on_wire_max, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_client_is_probed_once_in_30_seconds() {
        let (session, endpoint) = session();
        let served = endpoint.serve(|call| call.fail(denied()));
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            session.get_token().await.unwrap_err();
            sleep(millis(10)).await;
        }
        drop(session);
        let grants = served.await.unwrap().grants;
        assert!((9..=11).contains(&grants.len()), "{}", grants.len());
        for pair in grants.windows(2) {
            assert!(pair[1] - pair[0] >= secs(30));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_repeats_a_dying_token_costs_a_few_requests_not_a_loop() {
        let (session, endpoint) = session();
        let born = Instant::now();
        let served = endpoint.serve(move |call| {
            // The same token for its whole life, then another one.
            let age = born.elapsed().as_secs();
            let left = secs(3600 - age % 3600);
            call.token(&format!("token-{}", age / 3600), left);
        });
        let start = Instant::now();
        while start.elapsed() < 3 * HOUR {
            session.get_token().await.unwrap();
            sleep(millis(100)).await;
        }
        drop(session);
        let grants = served.await.unwrap().grants;
        assert_a_second_apart(&grants);
        assert!(grants.len() < 3 * 20, "{}", grants.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is() {
        let (session, endpoint) = session();
        let served = endpoint.serve(|call| {
            call.fail(TokenError::RateLimited { retry_after: Some(secs(100)) });
        });
        let start = Instant::now();
        while start.elapsed() < MINUTES {
            let error = session.get_token().await.unwrap_err();
            assert!(error.retry_after().unwrap() <= secs(100));
            sleep(millis(100)).await;
        }
        drop(session);
        assert_eq!(served.await.unwrap().grants.len(), 3);
    }
}

/// The same endpoint, asked from many threads: what is on the wire is still one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generations_never_go_back_in_any_task() {
    let (session, endpoint) = session_with(|config| config.refresh_mode = RefreshMode::WhileUsed);
    let mut number = 0;
    let served = endpoint.serve(move |call| {
        number += 1;
        match call.asked {
            Asked::Revocation(..) => call.revoked(),
            _ => call.token(&format!("token-{number}"), HOUR),
        }
    });
    let revoked_from = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (session, revoked_from) = (session.clone(), Arc::clone(&revoked_from));
            tokio::spawn(async move {
                let mut generation = 0;
                for _ in 0..20_000 {
                    let gone = revoked_from.load(Ordering::SeqCst);
                    let token = session.get_token().await.unwrap();
                    let next = token.id().generation();
                    assert!(next >= generation, "{next} after {generation}");
                    assert!(next > gone, "{next} was revoked before it was asked for");
                    generation = next;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..2 {
        let held = session.get_token().await.unwrap().id().generation();
        session.revoke().await.unwrap();
        revoked_from.store(held, Ordering::SeqCst);
    }
    for reader in readers {
        reader.await.unwrap();
    }
    drop(session);
    assert_eq!(served.await.unwrap().grants_on_wire_max, 1);
}
