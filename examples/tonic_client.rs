//! A gRPC client of tonic, whose calls carry the token.
//!
//! Runs against an embedded authority, and a health service that asks it about tokens:
//! `cargo run --example tonic_client --features testing,tower`.

use std::error::Error;
use std::sync::Arc;

use ccg_session::Session;
use ccg_session::middleware::Attach;
use ccg_session::testing::Authority;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let authority = Arc::new(Authority::start().await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (_reporter, health) = tonic_health::server::health_reporter();
    let asked = Arc::clone(&authority);
    let health = InterceptedService::new(health, move |request: Request<()>| {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        match token.and_then(|token| token.strip_prefix("Bearer ")) {
            Some(token) if asked.is_active(token) => Ok(request),
            _ => Err(Status::unauthenticated("the token is not active")),
        }
    });
    let server = Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    // What you write: the layer around the channel, and the origin, which says where calls go.
    let session = Session::builder(authority.manager()?).spawn()?;
    let attach = Attach::new(session.clone()).to(&url)?;
    let channel = Endpoint::from_shared(url.clone())?.connect().await?;
    let channel = ServiceBuilder::new().layer(attach.layer()).service(channel);
    let mut client = HealthClient::with_origin(channel, url.parse()?);

    let check = HealthCheckRequest { service: String::new() };
    println!("{:?}", client.check(check.clone()).await?.into_inner());

    // Somebody revokes the token behind our back. A call is never repeated for you, but the next has another one.
    authority.revoke_behind(session.get_token().await?.secret());
    assert_eq!(client.check(check.clone()).await.unwrap_err().code(), Code::Unauthenticated);
    println!("{:?}", client.check(check).await?.into_inner());
    assert_eq!(authority.counts().grants, 2);
    Ok(())
}
