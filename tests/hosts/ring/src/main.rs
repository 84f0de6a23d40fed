//! It installs ring for the whole process, as one has to that has no other.

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    drop(rustls::ClientConfig::builder());
    drop(reqwest::Client::new());
    use_the_crate().await;
    println!("ring: all is well");
}

/// A session with nobody there: what counts is that it gets as far as the network.
async fn use_the_crate() {
    use ccg_session::{HttpTokenManager, Provider, Session, TokenError};

    let provider = Provider::generic("https://127.0.0.1:9/token");
    let manager = HttpTokenManager::builder(provider, "id", "secret").build().unwrap();
    let session = Session::builder(manager).spawn().unwrap();
    let error = session.get_token().await.unwrap_err();
    assert!(matches!(error.token_error(), Some(TokenError::Transport { .. })), "{error}");
}
