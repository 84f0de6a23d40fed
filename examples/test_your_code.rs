//! How to test your own code that uses tokens: what does it do when the authority fails?
//!
//! `cargo run --example test_your_code --features testing`; in your project this is a `#[tokio::test]`.

use std::error::Error;

use ccg_session::testing::{Answer, Authority, Kind};
use ccg_session::{Session, SessionError, SessionHandle};
use http::StatusCode;

/// The code under test: a health check that must tell "the token server is down" from "we are refused".
async fn health(session: &SessionHandle) -> &'static str {
    match session.get_token().await {
        Ok(_) => "healthy",
        Err(SessionError::Cooling { .. } | SessionError::Failed { .. }) => "no token, will retry",
        Err(_) => "broken",
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Code that only passes a handle on needs no authority at all.
    assert_eq!(health(&SessionHandle::fixed("any-token")?).await, "healthy");

    let authority = Authority::start().await?;
    authority.fail(Kind::Grant, Answer::new(StatusCode::UNAUTHORIZED).error("invalid_client"));
    let session = Session::builder(authority.manager()?).spawn()?;
    assert_eq!(health(&session).await, "no token, will retry");
    assert_eq!(health(&session).await, "no token, will retry");
    assert_eq!(authority.counts().grants, 1, "a refused client does not hammer the server");

    session.shutdown().await;
    assert_eq!(health(&session).await, "broken");
    println!("the health check does what it should");
    Ok(())
}
