//! `revoke_all`: `Ok` means that the server has confirmed all.

use super::*;

/// A revocation takes a second; of the tenants that hang, an hour.
struct Revoker {
    tenant: u64,
    hangs: fn(u64) -> bool,
    seen: Arc<Seen>,
}

impl TokenManager for Revoker {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let token = Grant::bearer(self.tenant.to_string())?;
        Ok(token.expires_in(Duration::from_secs(36_000)))
    }

    async fn revoke(&self, token: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        let out = self.seen.out.fetch_add(1, Relaxed) + 1;
        self.seen.most_out.fetch_max(out, Relaxed);
        let _out = Out(Arc::clone(&self.seen));
        let takes = if (self.hangs)(self.tenant) { 3_600 } else { 1 };
        tokio::time::sleep(Duration::from_secs(takes)).await;
        self.seen.revoked.lock().unwrap().push(token.expose().to_owned());
        Ok(())
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

/// Each tenant has a token, and nobody a handle.
async fn filled(
    tenants: u64,
    hangs: fn(u64) -> bool,
    idle: Duration,
    capacity: usize,
) -> (SessionPool<u64>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let maker = {
        let seen = Arc::clone(&seen);
        move |tenant: &u64| {
            let (tenant, seen) = (*tenant, Arc::clone(&seen));
            Ok(Session::builder(Revoker { tenant, hangs, seen }))
        }
    };
    let pool = SessionPool::builder(maker).idle(idle).capacity(capacity).build().unwrap();
    for tenant in 0..tenants {
        pool.get(&tenant).unwrap().get_token().await.unwrap();
    }
    (pool, seen)
}

#[tokio::test(start_paused = true)]
async fn none_leaves_before_its_turn() {
    let (pool, seen) = filled(300, |_| false, Duration::from_secs(1), 300).await;
    let revoked = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.revoke_all().await })
    };
    tokio::task::yield_now().await;
    assert_eq!(pool.get(&1_000).unwrap_err(), PoolError::Full);
    revoked.await.unwrap().unwrap();
    assert_eq!(seen.revoked.lock().unwrap().len(), 300);
    assert!(seen.most_out.load(Relaxed) <= REVOKES);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pool.status().sessions, 0, "none is held any longer");
}

#[tokio::test(start_paused = true)]
async fn a_slow_revocation_holds_up_one_of_64_places() {
    let hangs = |tenant| tenant % 64 == 0;
    let (pool, seen) = filled(1_280, hangs, Duration::from_secs(600), 10_000).await;
    let began = clock::now();
    assert!(pool.revoke_all().await.is_err());
    assert_eq!(seen.revoked.lock().unwrap().len(), 1_260);
    let took = clock::now().since(began);
    assert!(took < Duration::from_secs(120), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_ended_before_the_server_confirmed_it_is_an_error() {
    let (pool, _) = filled(3, |_| false, Duration::from_secs(600), 10).await;
    let revoke_all = || {
        let pool = pool.clone();
        tokio::spawn(async move { pool.revoke_all().await })
    };
    let revoked = revoke_all();
    tokio::time::sleep(Duration::from_millis(500)).await;
    pool.remove(&1);
    assert!(matches!(revoked.await.unwrap(), Err(SessionError::Closed)));
    pool.get(&1).unwrap().get_token().await.unwrap();
    let revoked = revoke_all();
    tokio::time::sleep(Duration::from_millis(500)).await;
    pool.shutdown().await;
    assert!(matches!(revoked.await.unwrap(), Err(SessionError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn what_ended_before_its_turn_is_an_error_and_what_ended_before_the_call_is_none() {
    let (pool, seen) = filled(200, |_| false, Duration::from_secs(600), 1_000).await;
    pool.get(&0).unwrap().shutdown().await;
    pool.remove(&1);
    let revoked = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.revoke_all().await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(seen.out.load(Relaxed), REVOKES);
    let has_its_token = |tenant: &u64| pool.get(tenant).unwrap().try_token().is_some();
    let waiting: Vec<_> = (2..200).filter(has_its_token).collect();
    assert_eq!(waiting.len(), 198 - REVOKES);
    for tenant in &waiting[..50] {
        pool.remove(tenant);
    }
    assert!(matches!(revoked.await.unwrap(), Err(SessionError::Closed)));
    assert_eq!(seen.revoked.lock().unwrap().len(), 198 - 50, "the others' are revoked");
    pool.revoke_all().await.unwrap();
}
