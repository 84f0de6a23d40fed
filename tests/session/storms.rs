//! What callers do in loops must not reach the endpoint as a storm.

use super::*;

const MINUTES: Duration = secs(300);

/// No two grants nearer than a second: so at most one more than there are seconds.
fn assert_a_second_apart(grants: &[Instant]) {
    for pair in grants.windows(2) {
        assert!(pair[1] - pair[0] >= secs(1), "{:?}", pair[1] - pair[0]);
    }
}

/// A dead endpoint is asked three times, then once for each flight: after at least 0.375, 0.75,
/// 1.5, 3, 6, 12 and then each 15 s, and at most after 30 s (and a caller's pause).
fn assert_left_alone(attempts: &[Instant], extra: usize) {
    let most = 3 + 6 + 300 / 15 + extra;
    assert!((10..=most).contains(&attempts.len()), "{}", attempts.len());
    let least =
        [375, 750, 1_500, 3_000, 6_000, 12_000].into_iter().chain(std::iter::repeat(15_000));
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
    let loops: Vec<_> = (0..10)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                while start.elapsed() < MINUTES {
                    session.revoke().await.unwrap_err();
                    assert_eq!(session.try_token(), None);
                    sleep(millis(50)).await;
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
async fn an_outage_of_5_s_meets_6_requests_at_most_and_one_of_3_s_is_over_in_3_s_more() {
    for (seed, outage) in (0..100).flat_map(|seed| [(seed, secs(3)), (seed, secs(5))]) {
        let (builder, endpoint) = builder(|_| {});
        let session = builder.seed(seed).spawn().unwrap();
        let start = Instant::now();
        let served = endpoint.serve(move |call| {
            if start.elapsed() < outage { dead(call) } else { call.token("healed", HOUR) }
        });
        while session.get_token().await.is_err() {
            sleep(millis(10)).await;
        }
        let healed = start.elapsed().saturating_sub(outage);
        drop(session);
        let requests = served.await.unwrap().grants.len() - 1;
        assert!(requests <= 6, "seed {seed}: {requests} in an outage of {outage:?}");
        // The pause that the end falls into is as long as the outage was, or a little longer.
        let most = if outage == secs(3) { secs(3) } else { secs(6) };
        assert!(healed <= most + millis(10), "seed {seed}: {healed:?} after {outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn invalidate_in_a_loop() {
    let (session, endpoint) = session();
    let served = endpoint.serve(healthy(HOUR));
    let start = Instant::now();
    while start.elapsed() < MINUTES {
        session.invalidate(&session.get_token().await.unwrap());
        sleep(millis(50)).await;
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
        sleep(millis(50)).await;
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
            sleep(millis(23)).await;
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
        sleep(millis(20)).await;
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
        sleep(millis(20)).await;
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
                    sleep(secs(2)).await;
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
async fn a_session_that_is_kept_warm_without_callers_leaves_a_dead_endpoint_alone() {
    let (session, endpoint) = session_with(|config| config.refresh_mode = RefreshMode::Always);
    let served = endpoint.serve(dead);
    sleep(MINUTES).await;
    drop(session);
    assert_left_alone(&served.await.unwrap().grants, 0);
}

#[tokio::test(start_paused = true)]
async fn exchange_in_a_loop_against_a_dead_endpoint() {
    let (session, mut endpoint) = session();
    let asking = ask(&session);
    endpoint.grant().await.token("parent", HOUR);
    text_of(asking).await;
    let served = endpoint.serve(dead);
    let start = Instant::now();
    while start.elapsed() < MINUTES {
        session.exchange(scope("a")).await.unwrap_err();
        sleep(millis(50)).await;
    }
    drop(session);
    let served = served.await.unwrap();
    assert_left_alone(&served.exchanges, 0);
    assert!(served.grants.is_empty());
}

/// Each refusal of a subject is an invalidation: one in ten seconds is honoured.
#[tokio::test(start_paused = true)]
async fn exchanges_whose_subjects_are_all_refused() {
    let (session, endpoint) = session();
    let mut number = 0;
    let served = endpoint.serve(move |call| {
        if let Asked::Exchange(..) = call.asked {
            call.fail(TokenError::denied("invalid_grant", "unknown subject"));
        } else {
            number += 1;
            call.token(&format!("token-{number}"), HOUR);
        }
    });
    let start = Instant::now();
    let mut keys = 0;
    while start.elapsed() < MINUTES {
        keys += 1;
        session.exchange(scope(&format!("scope-{keys}"))).await.unwrap_err();
        sleep(millis(500)).await;
    }
    drop(session);
    let served = served.await.unwrap();
    assert!(served.grants.len() <= 31, "{}", served.grants.len());
    assert!(served.exchanges.len() <= keys + served.grants.len(), "{}", served.exchanges.len());
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_is_probed_once_in_30_seconds() {
    let (session, endpoint) = session();
    let served = endpoint.serve(|call| call.fail(denied()));
    let start = Instant::now();
    while start.elapsed() < MINUTES {
        session.get_token().await.unwrap_err();
        sleep(millis(50)).await;
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
        sleep(secs(1)).await;
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
        call.fail(TokenError::rate_limited(Some(secs(100))));
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
