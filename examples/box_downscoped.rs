//! A Box app with two clients of reqwest, neither of which can do more than it needs: one downloads, one uploads. What
//! goes out are tokens that the session exchanges its own for, and keeps.
//!
//! Runs against an embedded authority: `cargo run --example box_downscoped --features testing,reqwest-middleware`.
//! For Box, replace the line that makes the session with `Session::box_ccg(…)?.spawn()?`, and the origins with
//! `https://api.box.com` and `https://upload.box.com`. (The signed URLs that downloads are redirected to need no token.)

use std::error::Error;

use ccg_session::middleware::Attach;
use ccg_session::testing::Authority;
use ccg_session::{ExchangeRequest, Session, SessionHandle};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};

fn client(
    session: &SessionHandle,
    origin: &str,
    scope: &str,
) -> Result<ClientWithMiddleware, ccg_session::ConfigError> {
    let narrow = ExchangeRequest::scopes([scope]).resource("https://api.box.com/2.0/folders/123");
    let attach = Attach::new(session.clone()).to(origin)?.exchanging(narrow);
    Ok(ClientBuilder::new(reqwest::Client::new()).with(attach).build())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // This repository builds reqwest without a crypto provider of its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Authority::start().await?;
    let session = Session::builder(authority.manager()?).spawn()?;
    let downloads = client(&session, authority.base_url(), "item_download")?;
    let uploads = client(&session, authority.base_url(), "item_upload")?;

    // The authority's resource wants the scopes that the query names.
    let needs = |scope: &str| format!("{}?scope={scope}", authority.resource_url());
    for _ in 0..3 {
        assert_eq!(downloads.get(needs("item_download")).send().await?.status(), 200);
        assert_eq!(uploads.get(needs("item_upload")).send().await?.status(), 200);
    }
    let counts = authority.counts();
    assert_eq!((counts.grants, counts.exchanges), (1, 2));
    println!("6 requests: {} grant, {} exchanges", counts.grants, counts.exchanges);

    // A bug in the part that downloads deletes nothing. That is no 401: the token is as good as before.
    let answer = downloads.get(needs("item_delete")).send().await?;
    assert_eq!(answer.status(), 403);
    println!("deleting: {}", answer.status());
    assert_eq!(authority.counts().exchanges, 2);
    Ok(())
}
