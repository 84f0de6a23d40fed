//! Requests through a proxy: which do, and what is said when it fails.

use std::sync::{Arc, Mutex};

use ccg_session::{GrantRequest, HttpTokenManager, Provider, TokenError, TokenManager};

use crate::loopback::{Server, answer};

fn through(proxy: &str, token_url: &str) -> HttpTokenManager {
    let builder = HttpTokenManager::builder(Provider::generic(token_url), "id", "test-secret");
    builder.allow_insecure_http(true).proxy(proxy).build().unwrap()
}

async fn grant(manager: &HttpTokenManager) -> Result<(), TokenError> {
    manager.grant(GrantRequest::default()).await.map(drop)
}

#[tokio::test]
async fn a_proxy_that_is_set_gets_all_but_what_is_for_this_machine() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let token = r#"{"access_token":"T"}"#;
    let proxy = Server::start(move |request| {
        seen.lock().unwrap().push(request.line().to_owned());
        answer(200, "", token)
    });
    let (proxy, server) = (proxy.await, Server::start(|_| answer(200, "", token)).await);
    grant(&through(&proxy.base, "http://as.example/token")).await.unwrap();
    grant(&through(&proxy.base, &format!("{}/token", server.base))).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["POST http://as.example/token"]);
}

/// A discovered address is decided for as any other is.
#[tokio::test]
async fn a_discovered_address_on_this_machine_gets_no_proxy() {
    let published = Arc::new(Mutex::new(String::new()));
    let metadata = published.clone();
    let server = Server::start(|_| answer(200, "", r#"{"access_token":"T"}"#)).await;
    let base = &server.base;
    // The issuer is elsewhere, and its metadata comes through the proxy.
    *published.lock().unwrap() =
        format!(r#"{{"issuer":"http://as.example","token_endpoint":"{base}/token"}}"#);
    let proxy = Server::start(move |_| answer(200, "", &metadata.lock().unwrap())).await;
    let provider = Provider::discover("http://as.example");
    let builder = HttpTokenManager::builder(provider, "id", "test-secret");
    let manager = builder.allow_insecure_http(true).proxy(&*proxy.base).build().unwrap();
    grant(&manager).await.unwrap();
    let connections =
        |server: &Server| server.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((connections(&proxy), connections(&server)), (1, 1));
}

#[tokio::test]
async fn an_error_that_went_through_a_proxy_names_it() {
    let proxy = Server::start(|_| answer(503, "", "")).await;
    let address = proxy.base.strip_prefix("http://").unwrap();
    let with_password = format!("http://me:s3cr3t@{address}");
    let error = grant(&through(&with_password, "http://as.example/token")).await.unwrap_err();
    let named = format!("at http://as.example/token through the proxy {}", proxy.base);
    assert!(error.to_string().contains(&named), "{error}");
    // A tunnel that is not made.
    let error = grant(&through(&with_password, "https://as.example/token")).await.unwrap_err();
    let named = format!("at https://as.example/token through the proxy {}: ", proxy.base);
    assert!(matches!(error, TokenError::Transport { .. }), "{error:?}");
    assert!(error.to_string().contains(&named), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
}
