//! Exchanges the service's token for one that a browser may have: it can only preview one file, for at most an
//! hour.
//!
//! Runs against an embedded authority: `cargo run --example downscope --features testing`.

use std::error::Error;

use ccg_session::testing::Authority;
use ccg_session::{ExchangeRequest, Session};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let authority = Authority::start().await?;
    let session = Session::builder(authority.manager()?).spawn()?;

    // Each browser that opens this page asks for the same thing, so they share one token.
    for _page_view in 0..3 {
        let preview =
            ExchangeRequest::scopes(["item_preview"]).resource("https://api.box.com/2.0/files/123");
        let token = session.exchange(preview).await?;
        println!("for the browser: {:?}, {:?} left", token.scope(), token.remaining());
    }
    assert_eq!(authority.counts().exchanges, 1);

    // Logging out: revokes the browser's token together with the service's own.
    session.revoke().await?;
    assert_eq!(authority.counts().revocations, 2);
    println!("revoked both");
    Ok(())
}
