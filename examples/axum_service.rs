//! An axum service that calls an API for its own callers. The client adds the token and handles 401s; the
//! service only has to answer 503 when there is no token.
//!
//! Runs against an embedded authority:
//! `cargo run --example axum_service --features testing,reqwest-middleware`.

use axum::extract::State;
use axum::http::{StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use ccg_session::middleware::Attach;
use ccg_session::testing::{Answer, Authority, Kind};
use ccg_session::{Session, SessionError};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};

async fn me(State((api, url)): State<(ClientWithMiddleware, String)>) -> Response {
    let answer = match api.get(url).send().await {
        Ok(answer) => answer,
        Err(Error::Middleware(error)) if error.is::<SessionError>() => {
            let wait = error.downcast_ref().and_then(SessionError::retry_after).unwrap_or_default();
            let wait = [(RETRY_AFTER, (wait.as_secs() + 1).to_string())];
            return (StatusCode::SERVICE_UNAVAILABLE, wait).into_response();
        }
        Err(_) => return StatusCode::BAD_GATEWAY.into_response(),
    };
    (answer.status(), answer.text().await.unwrap_or_default()).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // This repository builds reqwest without a crypto provider of its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Authority::start().await?;
    let session = Session::builder(authority.manager()?).spawn()?;
    let attach = Attach::new(session.clone()).to(authority.base_url())?;
    let api = ClientBuilder::new(reqwest::Client::new()).with(attach).build();

    let service = Router::new().route("/me", get(me)).with_state((api, authority.resource_url()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/me", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, service).into_future());

    println!("{}", reqwest::get(&url).await?.error_for_status()?.text().await?);
    // The token is revoked elsewhere. Our caller does not notice.
    authority.revoke_behind(session.get_token().await?.secret());
    assert_eq!(reqwest::get(&url).await?.status(), StatusCode::OK);
    assert_eq!(authority.counts().grants, 2);

    // From here on the authority refuses us too.
    authority.fail(Kind::Grant, Answer::new(StatusCode::UNAUTHORIZED).error("invalid_client"));
    authority.revoke_behind(session.get_token().await?.secret());
    session.revoke().await?;
    let answer = reqwest::get(&url).await?;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    println!(
        "without a token: {}, {} s",
        answer.status(),
        answer.headers()["retry-after"].to_str()?
    );
    Ok(())
}
