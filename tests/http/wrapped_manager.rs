//! A manager that wraps another one: it keeps what that got, and hands it on.

use std::sync::Mutex;
use std::time::Duration;

use ccg_session::{Grant, GrantRequest, Session, TokenError, TokenManager};

struct Server;

impl TokenManager for Server {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("a-token")?
            .expires_in(Duration::from_secs(60))
            .refresh_in(Duration::from_secs(30))
            .scope("read write")
            .issued_token_type("urn:kind"))
    }
}

/// Writes down what it got, as a store would, and makes a grant of that.
struct Keeping<M> {
    inner: M,
    kept: Mutex<Vec<String>>,
}

impl<M: TokenManager> TokenManager for Keeping<M> {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let got = self.inner.grant(request).await?;
        assert!(got.is_access_token() && !got.clone().not_an_access_token().is_access_token());
        let parts =
            [got.text().expose(), got.get_scope().unwrap(), got.get_issued_token_type().unwrap()];
        self.kept.lock().unwrap().extend(parts.map(str::to_owned));
        Ok(Grant::bearer(got.text().expose())?
            .expires_in(got.life().unwrap() / 2)
            .refresh_in(got.get_refresh_in().unwrap() / 2)
            .scope(got.get_scope().unwrap())
            .issued_token_type(got.get_issued_token_type().unwrap()))
    }
}

#[tokio::test]
async fn a_manager_that_wraps_another_can_keep_what_it_got() {
    let manager = Keeping { inner: Server, kept: Mutex::default() };
    let grant = manager.grant(GrantRequest::default()).await.unwrap();
    assert_eq!(*manager.kept.lock().unwrap(), ["a-token", "read write", "urn:kind"]);
    assert_eq!(grant.life(), Some(Duration::from_secs(30)));
    assert_eq!(grant.get_refresh_in(), Some(Duration::from_secs(15)));
    let silent = Grant::bearer("T").unwrap();
    assert_eq!((silent.life(), silent.get_refresh_in()), (None, None));
    assert_eq!((silent.get_scope(), silent.get_issued_token_type()), (None, None));

    let session = Session::builder(manager).spawn().unwrap();
    let token = session.get_token().await.unwrap();
    assert_eq!((token.secret(), token.scope()), ("a-token", Some("read write")));
}
