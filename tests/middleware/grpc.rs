//! gRPC: tonic's client on the layer, and tonic's server, over HTTP/2.

use std::sync::{Arc, Mutex};

use ccg_session::SessionHandle;
use ccg_session::middleware::Attached;
use http::{Request as HttpRequest, Response as HttpResponse, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream::{self, Stream};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::{Layer as _, ServiceExt as _};

use super::{aged, attach};

/// Takes all tokens but the first. `check` refuses it in headers, `watch` in trailers after a message; both after
/// they have read the request.
#[derive(Clone, Default)]
struct Service {
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn judge(&self, request: &Request<HealthCheckRequest>) -> Result<(), Status> {
        let token =
            request.metadata().get("authorization").map_or("none", |token| token.to_str().unwrap());
        self.tokens.lock().unwrap().push(token.to_owned());
        if token == "Bearer T1" { Err(Status::unauthenticated("refused")) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.judge(&request)?;
        if request.into_inner().service == "forbidden" {
            return Err(Status::permission_denied("not yours"));
        }
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    type WatchStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let end = self.judge(&request).err().map(Err);
        let messages = std::iter::once(Ok(HealthCheckResponse { status: 1 })).chain(end);
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.collect::<Vec<_>>()))))
    }
}

async fn serve() -> (Service, String) {
    let service = Service::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(HealthServer::new(service.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (service, base)
}

fn client(session: &SessionHandle, base: &str) -> HealthClient<Attached<Channel>> {
    let channel = Endpoint::from_shared(base.to_owned()).unwrap().connect_lazy();
    let channel = attach(session, &[base]).layer().layer(channel);
    HealthClient::with_origin(channel, base.parse().unwrap())
}

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn unauthenticated_in_headers_invalidates_and_is_not_repeated() {
    let (service, base) = serve().await;
    let session = aged().await;
    let mut client = client(&session, &base);
    let error = client.check(request("")).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unauthenticated, "refused"));
    assert_eq!(service.tokens.lock().unwrap().len(), 1);
    assert_eq!(client.check(request("")).await.unwrap().into_inner().status, 1);
    assert_eq!(*service.tokens.lock().unwrap(), ["Bearer T1", "Bearer T2"]);

    let error = client.check(request("forbidden")).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(session.get_token().await.unwrap().secret(), "T2");
}

#[tokio::test]
async fn unauthenticated_in_trailers_invalidates_and_is_not_repeated() {
    let (service, base) = serve().await;
    let session = aged().await;
    let mut client = client(&session, &base);
    let mut messages = client.watch(request("")).await.unwrap().into_inner();
    assert!(messages.message().await.unwrap().is_some());
    assert_eq!(session.get_token().await.unwrap().secret(), "T1", "nothing is known yet");
    assert_eq!(messages.message().await.unwrap_err().code(), Code::Unauthenticated);

    let mut messages = client.watch(request("")).await.unwrap().into_inner();
    assert!(messages.message().await.unwrap().is_some());
    assert!(messages.message().await.unwrap().is_none());
    assert_eq!(*service.tokens.lock().unwrap(), ["Bearer T1", "Bearer T2"]);
}

#[tokio::test]
async fn a_client_that_does_not_say_where_it_goes_is_told_how() {
    let (service, base) = serve().await;
    let session = aged().await;
    let channel = Endpoint::from_shared(base.clone()).unwrap().connect_lazy();
    let channel = attach(&session, &[&base]).layer().layer(channel);
    let error = HealthClient::new(channel).check(request("")).await.unwrap_err();
    assert!(error.message().contains("with_origin"), "{error}");
    assert!(service.tokens.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_channel_elsewhere_has_no_token() {
    let (service, base) = serve().await;
    let session = aged().await;
    let channel = Endpoint::from_shared(base.clone()).unwrap().connect_lazy();
    let channel = attach(&session, &["https://api.example.com"]).layer().layer(channel);
    let mut client = HealthClient::with_origin(channel, base.parse().unwrap());
    assert!(client.check(request("")).await.is_ok());
    assert_eq!(*service.tokens.lock().unwrap(), ["none"]);
}

/// The server says that nothing was carried out, by the status of HTTP: that is as with any other request.
#[tokio::test]
async fn a_401_before_grpc_is_a_401() {
    let upstream = super::upstream::Upstream::start(super::upstream::refuses_the_first).await;
    let session = aged().await;
    let channel = Endpoint::from_shared(upstream.base.clone()).unwrap().connect_lazy();
    let channel = attach(&session, &[&upstream.base]).layer().layer(channel);
    let uri: Uri = upstream.url("/grpc.health.v1.Health/Check").parse().unwrap();
    let request = HttpRequest::post(uri).body(tonic::body::Body::empty()).unwrap();
    let answer: HttpResponse<_> = channel.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T2"]);
}

/// Trailers of an answer that is not one of gRPC are none of ours.
#[tokio::test]
async fn other_trailers_say_nothing() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "16".parse().unwrap());
    for (media_type, expected) in [("application/json", "T1"), ("application/grpc", "T2")] {
        let session = aged().await;
        let trailers = trailers.clone();
        let service = tower::service_fn(move |_: HttpRequest<Full<Bytes>>| {
            let trailers = trailers.clone();
            let body =
                Full::new(Bytes::from("x")).with_trailers(std::future::ready(Some(Ok(trailers))));
            let answer = HttpResponse::builder().header("content-type", media_type);
            std::future::ready(answer.body(body))
        });
        let service = attach(&session, &["http://127.0.0.1:1"]).layer().layer(service);
        let request = HttpRequest::get("http://127.0.0.1:1/").body(Full::default()).unwrap();
        let body = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "16", "the caller has them too");
        assert_eq!(session.get_token().await.unwrap().secret(), expected);
    }
}
