//! The same in gRPC, on a channel of tonic. A call is a health check, whatever its URL and body.

use ccg_session::middleware::Attached;
use middle::BasicClientCredentialAuthorizer;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer;

use crate::clients::{Answer, Client, Sent, attach, middle_authorizer};
use crate::upstream::Upstream;

async fn channel(upstream: &Upstream) -> Channel {
    Endpoint::from_shared(upstream.grpc.clone()).unwrap().connect().await.unwrap()
}

macro_rules! check {
    ($client:expr) => {
        match $client.clone().check(HealthCheckRequest::default()).await {
            Ok(_) => Ok(200),
            Err(status) if status.code() == Code::Unauthenticated => Ok(401),
            Err(status) => Err(status.to_string()),
        }
    };
}

/// A channel with a constant for a token.
#[derive(Clone)]
pub struct Bare(HealthClient<InterceptedService<Channel, Constant>>);

#[derive(Clone)]
pub struct Constant(MetadataValue<Ascii>);

impl Interceptor for Constant {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Client for Bare {
    const NAME: &'static str = "tonic 0.14";
    const BARE: &'static str = Self::NAME;

    async fn new(upstream: &Upstream) -> Self {
        let constant = format!("Bearer T{:031}", 1).parse().unwrap();
        Self(HealthClient::with_interceptor(channel(upstream).await, Constant(constant)))
    }

    async fn send(&self, _: &str, _: Sent) -> Answer {
        check!(self.0)
    }
}

#[derive(Clone)]
pub struct Ours(HealthClient<Attached<Channel>>);

impl Client for Ours {
    const NAME: &'static str = "**ccg-session**, a tower layer";
    const BARE: &'static str = Bare::NAME;

    async fn new(upstream: &Upstream) -> Self {
        let channel = attach(upstream).layer().layer(channel(upstream).await);
        Self(HealthClient::with_origin(channel, upstream.grpc.parse().unwrap()))
    }

    async fn send(&self, _: &str, _: Sent) -> Answer {
        check!(self.0)
    }
}

#[derive(Clone)]
pub struct Middle(HealthClient<InterceptedService<Channel, BasicClientCredentialAuthorizer>>);

impl Client for Middle {
    const NAME: &'static str = "middle 0.5.0, an interceptor";
    const BARE: &'static str = Bare::NAME;

    async fn new(upstream: &Upstream) -> Self {
        let authorizer = middle_authorizer(upstream).await;
        Self(HealthClient::with_interceptor(channel(upstream).await, authorizer))
    }

    async fn send(&self, _: &str, _: Sent) -> Answer {
        check!(self.0)
    }
}
