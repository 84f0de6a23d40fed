//! Tenants for whom a healthy server fails, beside others for whom it does not.

use proptest::prelude::*;

use super::*;

const RUN: Duration = Duration::from_secs(120);
/// Of this the first 10 s are not judged.
const FIRST: Duration = Duration::from_secs(10);
/// Between two calls for a good tenant.
const EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Fails {
    Server,
    RateLimited,
    RateLimitedFor(u64),
    Slowly,
    Hangs,
}

impl Fails {
    fn now(self) -> (Duration, TokenError) {
        let ms = Duration::from_millis;
        match self {
            Self::Server => (ms(50), TokenError::server(500, None)),
            Self::RateLimited => (ms(50), TokenError::rate_limited(None)),
            Self::RateLimitedFor(seconds) => {
                (ms(50), TokenError::rate_limited(Some(Duration::from_secs(seconds))))
            }
            Self::Slowly => (ms(1_900), TokenError::transport("reset")),
            Self::Hangs => (Duration::from_secs(3_600), TokenError::transport("never")),
        }
    }
}

/// A tenant of the server; odd ones are bad. A good one's token lives for a minute.
struct Neighbour {
    fails: Option<Fails>,
    sent_to_bad: Arc<AtomicUsize>,
}

impl TokenManager for Neighbour {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let Some(fails) = self.fails else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Ok(Grant::bearer("good")?.expires_in(Duration::from_secs(60)));
        };
        self.sent_to_bad.fetch_add(1, Relaxed);
        let (takes, error) = fails.now();
        tokio::time::sleep(takes).await;
        Err(error)
    }
}

#[derive(Debug, Default)]
struct Outcome {
    good: usize,
    failed: usize,
    sent_to_bad: usize,
}

/// Bad ones come again the moment they may. Each begins within the first 5 s of its own start.
async fn live(bads: u64, goods: u64, fails: Fails, warm: bool, seed: u64) -> Outcome {
    let sent_to_bad = Arc::new(AtomicUsize::new(0));
    let maker = {
        let sent_to_bad = Arc::clone(&sent_to_bad);
        move |tenant: &u64| {
            let fails = (tenant % 2 == 1).then_some(fails);
            Ok(Session::builder(Neighbour { fails, sent_to_bad: Arc::clone(&sent_to_bad) }))
        }
    };
    let pool = SessionPool::builder(maker).build().unwrap();
    let began = clock::now();
    let end = began + RUN;
    let offset = move |tenant: u64| {
        let mixed = (tenant + 1 + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11;
        Duration::from_millis(mixed % 5_000)
    };
    let mut tasks = JoinSet::new();
    for tenant in (0..bads).map(|tenant| tenant * 2 + 1) {
        let pool = pool.clone();
        let first = offset(tenant) + if warm { FIRST } else { Duration::ZERO };
        tasks.spawn(async move {
            tokio::time::sleep(first).await;
            while clock::now() < end {
                let error = pool.get(&tenant).unwrap().get_token().await.unwrap_err();
                let wait = error.retry_after().unwrap_or(Duration::from_millis(100));
                tokio::time::sleep(wait).await;
            }
            (0, 0)
        });
    }
    for tenant in (0..goods).map(|tenant| tenant * 2) {
        let pool = pool.clone();
        tasks.spawn(async move {
            tokio::time::sleep(offset(tenant)).await;
            let (mut good, mut failed) = (0, 0);
            while clock::now() < end {
                let result = pool.get(&tenant).unwrap().get_token().await;
                if clock::now() >= began + FIRST {
                    *if result.is_ok() { &mut good } else { &mut failed } += 1;
                }
                tokio::time::sleep(EVERY).await;
            }
            (good, failed)
        });
    }
    let mut outcome = Outcome::default();
    while let Some(ended) = tasks.join_next().await {
        let (good, failed) = ended.unwrap();
        outcome.good += good;
        outcome.failed += failed;
    }
    outcome.sent_to_bad = sent_to_bad.load(Relaxed);
    outcome
}

const ALL: [Fails; 6] = [
    Fails::Server,
    Fails::RateLimited,
    Fails::RateLimitedFor(2),
    Fails::RateLimitedFor(3_600),
    Fails::Slowly,
    Fails::Hangs,
];

/// Less than one in a hundred calls for good ones fails, and no bad one sends more than it would alone.
async fn check(bads: u64, goods: u64, fails: Fails, warm: bool, seed: u64) {
    let alone = live(1, 0, fails, false, seed).await.sent_to_bad;
    let outcome = live(bads, goods, fails, warm, seed).await;
    let told = format!("{bads} bad, {goods} good, {fails:?}, {seed}: {outcome:?}");
    assert!(outcome.failed * 100 <= outcome.good, "{told}");
    assert!(outcome.good as u64 >= goods * 20, "{told}");
    assert!(outcome.sent_to_bad <= usize::try_from(bads).unwrap() * (alone + 2), "{told} {alone}");
}

#[tokio::test(start_paused = true)]
async fn tenants_that_begin_to_fail_do_not_stop_those_that_are_served() {
    for fails in ALL {
        for (bads, goods) in [(1, 1), (3, 1), (5, 1), (50, 1), (300, 1), (5, 10), (300, 10)] {
            check(bads, goods, fails, true, 1).await;
        }
    }
    check(300, 1_000, Fails::RateLimitedFor(3_600), true, 1).await;
}

/// Here nobody can know whether the server fails all, before one of the good ones was tried.
#[tokio::test(start_paused = true)]
async fn tenants_that_fail_from_the_first_do_not_stop_the_others() {
    for seed in 0..2 {
        for fails in [Fails::Server, Fails::RateLimited, Fails::RateLimitedFor(3_600)] {
            for (bads, goods) in [(2, 1), (5, 1), (15, 1), (5, 10), (20, 100)] {
                check(bads, goods, fails, false, seed).await;
            }
        }
    }
    check(100, 500, Fails::Server, false, 1).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_them(
        bads in 1..=300_u64,
        goods in 1..=100_u64,
        fails in proptest::sample::select(&ALL),
        seed in 0..1_000_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check(bads, goods, fails, true, seed));
    }
}
