use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::request::{GrantRequest, TokenRequestOptions};
use crate::session::Session;

/// What the server of a tenant does: how long it takes, and what comes of it.
type Server = Arc<dyn Fn(u64) -> (Duration, Result<(), TokenError>) + Send + Sync>;

struct Manager {
    tenant: u64,
    server: Server,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    sent: AtomicUsize,
    out: AtomicUsize,
    most_out: AtomicUsize,
    revoked: Mutex<Vec<String>>,
}

struct Out(Arc<Seen>);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Relaxed);
    }
}

impl TokenManager for Manager {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let (takes, result) = (self.server)(self.tenant);
        let number = self.seen.sent.fetch_add(1, Relaxed);
        let out = self.seen.out.fetch_add(1, Relaxed) + 1;
        self.seen.most_out.fetch_max(out, Relaxed);
        let _out = Out(Arc::clone(&self.seen));
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        result?;
        let token = Grant::bearer(format!("{}.{number}", self.tenant))?;
        Ok(token.expires_in(Duration::from_secs(3_600)))
    }

    async fn revoke(&self, token: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        self.seen.revoked.lock().unwrap().push(token.expose().to_owned());
        Ok(())
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

fn healthy() -> Server {
    Arc::new(|_| (Duration::ZERO, Ok(())))
}

fn pool(
    server: Server,
    set: impl FnOnce(SessionPoolBuilder<u64, Manager>) -> SessionPoolBuilder<u64, Manager>,
) -> (SessionPool<u64>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let maker = {
        let seen = Arc::clone(&seen);
        move |tenant: &u64| {
            let (tenant, server, seen) = (*tenant, Arc::clone(&server), Arc::clone(&seen));
            Ok(Session::builder(Manager { tenant, server, seen }))
        }
    };
    (set(SessionPool::builder(maker)).build().unwrap(), seen)
}

async fn token(pool: &SessionPool<u64>, tenant: u64) -> String {
    pool.get(&tenant).unwrap().get_token().await.unwrap().secret().to_owned()
}

#[tokio::test]
async fn a_tenant_has_one_session_and_its_own_token() {
    let (pool, seen) = pool(healthy(), |pool| pool);
    assert_eq!(token(&pool, 7).await, "7.0");
    assert_eq!(token(&pool.clone(), 7).await, "7.0");
    assert_eq!(token(&pool, 8).await, "8.1");
    assert_eq!(seen.sent.load(Relaxed), 2);
    let status = pool.status();
    assert_eq!((status.sessions, status.made, status.capacity), (2, 2, 10_000));
    assert_eq!((status.attempts_out, status.attempts_waiting, status.rests), (0, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_asks_for_leaves_and_one_in_use_stays() {
    let (pool, _) = pool(healthy(), |pool| pool.idle(Duration::from_secs(100)));
    let kept = pool.get(&1).unwrap();
    for tenant in [1, 2, 3] {
        token(&pool, tenant).await;
    }
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(24)).await;
        token(&pool, 3).await;
    }
    assert_eq!(pool.status().sessions, 3, "after 96 s");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(pool.status().sessions, 2, "one has been idle for 125 s");
    assert_eq!(token(&pool, 3).await, "3.2");
    assert_eq!(token(&pool, 1).await, "1.0");
    assert_eq!(token(&pool, 2).await, "2.3", "another session");
    drop(kept);
    tokio::time::sleep(Duration::from_secs(126)).await;
    assert_eq!((pool.status().sessions, pool.status().evicted_idle), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_gives_up_what_nobody_holds_and_nothing_else() {
    let (pool, _) = pool(healthy(), |pool| pool.capacity(4));
    let held: Vec<_> = (0..3).map(|tenant| pool.get(&tenant).unwrap()).collect();
    for tenant in 3..20 {
        pool.get(&tenant).unwrap();
        assert_eq!(pool.status().sessions, tenant.min(3) as usize + 1);
    }
    assert_eq!(pool.status().evicted_full, 16);
    for (tenant, handle) in (0..).zip(&held) {
        assert!(!handle.has_ended() && pool.get(&tenant).is_ok());
    }
    assert_eq!(pool.status().made, 20, "none of those held was made again");
    let last = pool.get(&19).unwrap();
    assert_eq!(pool.get(&20).unwrap_err(), PoolError::Full);
    assert_eq!(pool.get(&21).unwrap_err(), PoolError::Full);
    assert_eq!((pool.status().sessions, pool.status().refused_full), (4, 2));
    drop(last);
    tokio::time::advance(FULL_FOR * 4).await;
    pool.get(&20).unwrap();
    assert!(held.iter().all(|handle| !handle.has_ended()));
}

#[tokio::test]
async fn a_maker_that_fails_or_panics_is_an_error_of_that_call() {
    let pool = SessionPool::builder(|tenant: &u64| match tenant {
        1 => Err(ConfigError::new("tenant", "is 1")),
        2 => panic!("it is 2"),
        _ => Ok(Session::builder(Manager {
            tenant: *tenant,
            server: healthy(),
            seen: Arc::default(),
        })),
    });
    let pool = pool.capacity(1).build().unwrap();
    for _ in 0..2 {
        assert!(pool.get(&1).unwrap_err().to_string().ends_with("tenant is 1"));
        assert!(pool.get(&2).unwrap_err().to_string().contains("maker panicked"));
    }
    assert_eq!(pool.status().sessions, 0);
    pool.get(&3).unwrap();
}

#[tokio::test]
async fn what_is_removed_has_ended_and_is_made_again() {
    let (pool, _) = pool(healthy(), |pool| pool);
    let before = pool.get(&1).unwrap();
    pool.remove(&1);
    pool.remove(&1);
    assert!(matches!(before.get_token().await, Err(SessionError::Closed)));
    assert_eq!(token(&pool, 1).await, "1.0");
    // As does one that somebody else has ended.
    pool.get(&1).unwrap().shutdown().await;
    assert_eq!(token(&pool, 1).await, "1.1");
    assert_eq!((pool.status().sessions, pool.status().made), (1, 3));
}

#[tokio::test]
async fn revoke_all_revokes_every_token_in_the_pool() {
    let (pool, seen) = pool(healthy(), |pool| pool);
    let mut tokens = Vec::new();
    for tenant in 0..200 {
        tokens.push(token(&pool, tenant).await);
    }
    pool.revoke_all().await.unwrap();
    let mut revoked = std::mem::take(&mut *seen.revoked.lock().unwrap());
    tokens.sort();
    revoked.sort();
    assert_eq!(revoked, tokens);
    assert_ne!(token(&pool, 7).await, "7.7");
}

#[tokio::test]
async fn shutdown_ends_all_and_the_last_clone_ends_those_that_nobody_holds() {
    let (first, _) = pool(healthy(), |pool| pool);
    let held = first.get(&1).unwrap();
    first.shutdown().await;
    assert!(matches!(held.get_token().await, Err(SessionError::Closed)));
    assert_eq!(first.get(&1).unwrap_err(), PoolError::Closed);
    assert_eq!(first.status().sessions, 0);

    let (second, _) = pool(healthy(), |pool| pool);
    let held = second.get(&1).unwrap();
    let mut other = second.get(&2).unwrap().subscribe();
    drop(second);
    assert!(held.get_token().await.is_ok(), "its gate is still driven");
    while other.changed().await.is_some() {}
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    type Set = fn(SessionPoolBuilder<u64, Manager>) -> SessionPoolBuilder<u64, Manager>;
    let build = |set: Set| {
        let maker = |_: &u64| Err(ConfigError::new("never", "called"));
        set(SessionPool::builder(maker)).build().unwrap_err().setting()
    };
    assert_eq!(build(|pool| pool.capacity(0)), "capacity");
    assert_eq!(build(|pool| pool.idle(Duration::from_millis(999))), "idle");
    assert_eq!(build(|pool| pool.attempts_at_once(0)), "attempts_at_once");
    assert_eq!(build(|pool| pool), "build");
}

/// For each of them two threads race.
const KEYS: u64 = 20_000;

#[test]
fn threads_that_race_for_a_key_get_one_session() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let (pool, _) = pool(healthy(), |pool| pool.capacity(1_000_000));
    let race = || {
        let pool = pool.clone();
        std::thread::spawn(move || (0..KEYS).map(|key| pool.get(&key).unwrap()).collect::<Vec<_>>())
    };
    let threads = [race(), race()];
    let handles = threads.map(|thread| thread.join().unwrap());
    assert!(handles[0].iter().zip(&handles[1]).all(|(one, other)| one.is_same(other)));
    assert_eq!(pool.status().made, KEYS);
}

mod foreign;
mod neighbours;
mod revokes;

mod crowds {
    use super::*;

    /// All ask at once, and again until they have a token or `tries` errors. When each had it.
    async fn all_ask(
        pool: &SessionPool<u64>,
        tenants: u64,
        tries: usize,
    ) -> BTreeMap<u64, Duration> {
        let began = clock::now();
        let mut tasks = JoinSet::new();
        for tenant in 0..tenants {
            let pool = pool.clone();
            tasks.spawn(async move {
                for _ in 0..tries {
                    let session = pool.get(&tenant).unwrap();
                    match session.get_token().await {
                        Ok(_) => return (tenant, Some(clock::now().since(began))),
                        Err(error) => {
                            let wait = error.retry_after().expect("it says when to come again");
                            tokio::time::sleep(wait + Duration::from_millis(1)).await;
                        }
                    }
                }
                (tenant, None)
            });
        }
        let all = tasks.join_all().await;
        all.into_iter().filter_map(|(tenant, at)| Some((tenant, at?))).collect()
    }

    fn down_until(up_at: Instant, takes: Duration, error: fn() -> TokenError) -> Server {
        Arc::new(move |_| {
            if clock::now() < up_at {
                (takes, Err(error()))
            } else {
                (Duration::from_millis(300), Ok(()))
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_tenants_of_a_healthy_server() {
        let server: Server = Arc::new(|_| (Duration::from_millis(300), Ok(())));
        let (pool, seen) = pool(server, |pool| pool);
        let waits = all_ask(&pool, 10_000, 1).await;
        assert_eq!(waits.len(), 10_000, "no flight failed");
        assert_eq!(seen.sent.load(Relaxed), 10_000);
        assert_eq!(seen.most_out.load(Relaxed), 64);
        let longest = *waits.values().max().unwrap();
        let mean = waits.values().sum::<Duration>() / 10_000;
        assert!(longest < Duration::from_millis(300) * 10_000 / 64 * 3 / 2, "{longest:?}");
        assert!(longest < mean * 2, "{longest:?} {mean:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_of_a_dead_route_do_not_stop_the_others() {
        let server: Server = Arc::new(|tenant| {
            let takes = if tenant < 300 { 3_600_000 } else { 300 };
            (Duration::from_millis(takes), Ok(()))
        });
        let (pool, seen) = pool(server, |pool| pool);
        let waits = all_ask(&pool, 10_000, 2).await;
        assert_eq!(waits.len(), 9_700);
        assert!(seen.most_out.load(Relaxed) <= 128);
        let longest = *waits.values().max().unwrap();
        assert!(longest < Duration::from_millis(300) * 10_000 / 64 * 3 / 2, "{longest:?}");
    }

    /// What a single session would send while the server is down for a minute.
    async fn sent_by_one(server: Server, up_at: Instant) -> usize {
        let seen = Arc::new(Seen::default());
        let manager = Manager { tenant: 0, server, seen: Arc::clone(&seen) };
        let session = Session::builder(manager).spawn().unwrap();
        while clock::now() < up_at {
            if let Err(error) = session.get_token().await {
                tokio::time::sleep(error.retry_after().unwrap()).await;
            }
        }
        seen.sent.load(Relaxed)
    }

    async fn outage(takes: Duration, error: fn() -> TokenError) {
        let minute = Duration::from_secs(60);
        let up_at = clock::now() + minute;
        let one = sent_by_one(down_until(up_at, takes, error), up_at).await;
        let up_at = clock::now() + minute;
        let (pool, seen) = pool(down_until(up_at, takes, error), |pool| pool);
        let watched = Arc::clone(&seen);
        let at_the_end = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(59_999)).await;
            watched.sent.load(Relaxed)
        });
        let waits = all_ask(&pool, 10_000, usize::MAX).await;
        assert_eq!(waits.len(), 10_000, "everybody is answered");
        let sent = at_the_end.await.unwrap();
        assert!(sent <= 64 + 2 * one, "{sent}, where one alone sends {one}");
        assert!(sent > 64, "it was tried again: {sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_connections_for_a_minute() {
        outage(Duration::from_millis(5), || TokenError::transport("connection refused")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_for_a_minute() {
        // It times out before that.
        let never = Duration::from_secs(3_600);
        outage(never, || TokenError::malformed("nobody waited for it")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_tenant_rests_nobody_else() {
        let server: Server = Arc::new(|tenant| {
            let refused = || TokenError::denied("invalid_grant", "gone").with_status(400);
            let result = if tenant % 10 == 0 { Err(refused()) } else { Ok(()) };
            (Duration::from_millis(300), result)
        });
        let (pool, _) = pool(server, |pool| pool);
        let waits = all_ask(&pool, 1_000, 1).await;
        assert_eq!(waits.len(), 900);
        assert!(*waits.values().max().unwrap() <= Duration::from_millis(300) * 16);
    }

    /// A revoke ends the wait, and the last handle's end does.
    #[tokio::test(start_paused = true)]
    async fn a_wait_that_nobody_needs_leaves_the_gate() {
        let server: Server = Arc::new(|_| (Duration::from_secs(1), Ok(())));
        let (pool, seen) = pool(server, |pool| pool.attempts_at_once(1));
        let ask = |tenant| {
            let session = pool.get(&tenant).unwrap();
            tokio::spawn(async move { session.get_token().await.map(drop) })
        };
        let (first, second, third) = (ask(1), ask(2), ask(3));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((pool.status().attempts_out, pool.status().attempts_waiting), (1, 2));
        pool.remove(&2);
        assert!(matches!(second.await.unwrap(), Err(SessionError::Closed)));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((pool.status().attempts_out, pool.status().attempts_waiting), (1, 1));
        pool.remove(&1);
        assert!(matches!(first.await.unwrap(), Err(SessionError::Closed)));
        third.await.unwrap().unwrap();
        assert_eq!((pool.status().attempts_out, pool.status().attempts_waiting), (0, 0));
        assert_eq!(seen.sent.load(Relaxed), 2);
    }
}

mod any_sequence {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Token(u64),
        Hold(u64),
        Release,
        Invalidate(u64),
        Revoke(u64),
        RevokeAll,
        Remove(u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let tenant = || 0..6_u64;
        prop_oneof![
            6 => tenant().prop_map(Step::Token),
            3 => tenant().prop_map(Step::Hold),
            2 => Just(Step::Release),
            1 => tenant().prop_map(Step::Invalidate),
            1 => tenant().prop_map(Step::Revoke),
            1 => Just(Step::RevokeAll),
            1 => tenant().prop_map(Step::Remove),
            3 => (0..4_000_u64).prop_map(Step::Pass),
        ]
    }

    /// Handles that somebody holds, and their tenants.
    type Held = Vec<(u64, SessionHandle)>;

    async fn take(pool: &SessionPool<u64>, held: &mut Held, step: Step) {
        match step {
            Step::Token(tenant) => {
                if let Ok(session) = pool.get(&tenant) {
                    let token = session.get_token().await.unwrap();
                    assert!(token.secret().starts_with(&format!("{tenant}.")), "{token:?}");
                }
            }
            Step::Hold(tenant) => {
                if let Ok(session) = pool.get(&tenant) {
                    for (other, session_held) in &*held {
                        assert_eq!(*other == tenant, session_held.is_same(&session));
                    }
                    held.push((tenant, session));
                }
            }
            Step::Release => drop(held.pop()),
            Step::Invalidate(tenant) => {
                if let Some(session) = pool.get(&tenant).ok().filter(|_| tenant % 2 == 0)
                    && let Some(token) = session.try_token()
                {
                    session.invalidate(&token);
                }
            }
            Step::Revoke(tenant) => {
                if let Ok(session) = pool.get(&tenant) {
                    session.revoke().await.unwrap();
                }
            }
            Step::RevokeAll => pool.revoke_all().await.unwrap(),
            Step::Remove(tenant) => {
                pool.remove(&tenant);
                held.retain(|(other, _)| *other != tenant);
            }
            Step::Pass(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        }
        assert!(pool.status().sessions <= 3, "{:?}", pool.status());
        let ended = held.iter().any(|(_, session)| session.has_ended());
        assert!(!ended, "nobody's session ends while it is held");
        for (tenant, session) in &*held {
            if let Some(token) = session.try_token() {
                assert!(token.secret().starts_with(&format!("{tenant}.")));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn a_tenant_gets_its_own_tokens_from_one_session(steps in vec(step(), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let idle = Duration::from_secs(600);
                let (pool, _) = pool(healthy(), |pool| pool.capacity(3).idle(idle));
                let mut held = Held::new();
                for step in steps {
                    take(&pool, &mut held, step).await;
                }
            });
        }
    }
}
