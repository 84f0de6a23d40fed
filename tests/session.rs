//! The session on tokio's paused clock, with a manager whose answers the test decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ccg_session::{Grant, GrantRequest, Session, TokenError, TokenManager};

struct Counting(Arc<AtomicU64>);

impl TokenManager for Counting {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(Duration::from_secs(3600)))
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_share_one_grant() {
    let grants = Arc::new(AtomicU64::new(0));
    let session = Session::builder(Counting(grants.clone())).spawn().unwrap();
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.get_token().await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().secret(), "token-0");
    }
    assert_eq!(grants.load(Ordering::SeqCst), 1);
    let token = session.get_token().await.unwrap();
    session.invalidate(&token);
    assert_eq!(session.get_token().await.unwrap().secret(), "token-1");
}
