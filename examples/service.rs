//! A service whose tasks share one session, and ask for another token when the API refuses one.
//!
//! Runs against an embedded authority: `cargo run --example service --features testing`. For Box,
//! replace the two lines that make the session with `Session::box_ccg(…)?.spawn()?`.

use std::error::Error;

use ccg_session::testing::Authority;
use ccg_session::{Session, SessionHandle};
use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Response, StatusCode};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // For the API client below: this repository builds reqwest without a crypto provider of its own.
    // (The session needs no such line.)
    let _ = rustls::crypto::ring::default_provider().install_default();

    let authority = Authority::start().await?;
    let session = Session::builder(authority.manager()?).spawn()?;
    let (api, url) = (Client::new(), authority.resource_url());

    let workers: Vec<_> =
        (0..20).map(|_| tokio::spawn(worker(api.clone(), url.clone(), session.clone()))).collect();
    for worker in workers {
        worker.await??;
    }
    println!("20 workers, {} token request", authority.counts().grants);
    assert_eq!(authority.counts().grants, 1);

    // Somebody revokes the token behind our back: the next call notices, and gets a new one.
    authority.revoke_behind(session.get_token().await?.secret());
    let response = call(&api, &url, &session).await?;
    println!("after a revocation elsewhere: {}", response.status());
    assert_eq!(response.status(), StatusCode::OK);
    Ok(())
}

async fn worker(api: Client, url: String, session: SessionHandle) -> Result<(), Failure> {
    for _ in 0..10 {
        call(&api, &url, &session).await?.error_for_status()?;
    }
    Ok(())
}

/// One call of the API, repeated once if the token was refused. Only calls that can be repeated
/// safely are made like this.
async fn call(api: &Client, url: &str, session: &SessionHandle) -> Result<Response, Failure> {
    let token = session.get_token().await?;
    let response = api.get(url).header(AUTHORIZATION, token.header_value()).send().await?;
    if response.status() != StatusCode::UNAUTHORIZED {
        return Ok(response);
    }
    session.invalidate(&token);
    let token = session.get_token().await?;
    Ok(api.get(url).header(AUTHORIZATION, token.header_value()).send().await?)
}
