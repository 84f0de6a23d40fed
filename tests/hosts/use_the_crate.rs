//! What each of these programs does with this crate.

use ccg_session::{HttpTokenManager, Provider, Session, TokenError};

/// A session with nobody there: what counts is that it gets as far as the network.
pub async fn use_the_crate() {
    let provider = Provider::generic("https://127.0.0.1:9/token");
    let manager = HttpTokenManager::builder(provider, "id", "secret").build().unwrap();
    let session = Session::builder(manager).spawn().unwrap();
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Transport { .. })), "{error}");
}
