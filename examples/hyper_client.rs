//! A hyper-util client in a stack of tower layers, one of which adds the token and handles 401s.
//!
//! Runs against an embedded authority: `cargo run --example hyper_client --features testing,tower`.

use std::error::Error;

use ccg_session::Session;
use ccg_session::middleware::Attach;
use ccg_session::testing::Authority;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let authority = Authority::start().await?;
    let session = Session::builder(authority.manager()?).spawn()?;
    let attach = Attach::new(session.clone()).to(authority.base_url())?;

    // From the outside in: at most 100 calls at once; a token on each; one kind of client.
    let api = ServiceBuilder::new()
        .concurrency_limit(100)
        // An empty body is sent again after a 401 anyway; this one can be, whatever is in it.
        .layer(attach.layer().repeating(|body: &Full<Bytes>| Some(body.clone())))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let get = || Request::get(authority.resource_url()).body(Full::<Bytes>::default());
    let answer = api.clone().oneshot(get()?).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));

    // The token is revoked elsewhere: a hundred calls get a 401, and all of them succeed on the second try.
    authority.revoke_behind(session.get_token().await?.secret());
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        calls.spawn(api.clone().oneshot(get()?));
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer??.status(), StatusCode::OK);
    }
    assert_eq!(authority.counts().grants, 2);
    println!("100 calls after a revocation elsewhere: 1 token request");
    Ok(())
}
