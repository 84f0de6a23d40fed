//! What each request leaves in a log.

use std::time::Instant;

use reqwest::RequestBuilder;

use super::address::without_secrets;
use super::response::transport;
use crate::asked;
use crate::error::TokenError;

/// Sends it, and tells how it went: a line for each request, whatever it was for. A query may hold a key.
pub(super) async fn send(request: RequestBuilder) -> Result<reqwest::Response, TokenError> {
    let (client, request) = request.build_split();
    // Its parts are checked by now.
    let request = request.map_err(|error| transport(error, ""))?;
    let (method, url) = (request.method().clone(), request.url().clone());
    let url = without_secrets(url.as_str());
    asked::note(url);
    let begun = Instant::now();
    let response = client.execute(request).await.map_err(|error| transport(error, url));
    let elapsed = begun.elapsed();
    match &response {
        Ok(response) => {
            let status = response.status().as_u16();
            tracing::debug!(name: "http.request", %method, url, status, ?elapsed, "http.request");
        }
        Err(error) => {
            tracing::debug!(name: "http.request", %method, url, %error, ?elapsed, "http.request");
        }
    }
    response
}
