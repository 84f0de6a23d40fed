//! An API that answers by a rule and remembers what it was asked, over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificates::Pair;

pub type Answer = Response<Full<Bytes>>;

/// A request that arrived whole.
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: impl Into<HeaderName>) -> Option<&str> {
        self.headers.get(name.into()).map(|value| value.to_str().unwrap())
    }

    pub fn authorization(&self) -> &str {
        self.header(AUTHORIZATION).unwrap_or("none")
    }
}

pub struct Upstream {
    /// Scheme, host and port.
    pub base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start(rule: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(None, rule).await
    }

    pub async fn start_tls(
        pair: &Pair,
        rule: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), rule).await
    }

    async fn serve(
        tls: Option<TlsAcceptor>,
        rule: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::default());
        let upstream =
            Self { base, seen: Arc::clone(&seen), connections: Arc::clone(&connections) };
        let rule = Arc::new(rule);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, rule, tls) = (Arc::clone(&seen), Arc::clone(&rule), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, seen, rule).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(stream, seen, rule).await;
                            }
                        }
                    }
                });
            }
        });
        upstream
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The `Authorization` of each request, as it came.
    pub fn authorizations(&self) -> Vec<String> {
        self.seen(|seen| seen.authorization().to_owned())
    }

    pub fn seen<T>(&self, of_each: impl FnMut(&Seen) -> T) -> Vec<T> {
        self.seen.lock().unwrap().iter().map(of_each).collect()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    seen: Arc<Mutex<Vec<Seen>>>,
    rule: Arc<impl Fn(&Seen) -> Answer + Send + Sync + 'static>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (seen, rule) = (Arc::clone(&seen), Arc::clone(&rule));
        async move {
            let (parts, body) = request.into_parts();
            // One that breaks off is not among those that arrived.
            let body =
                body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let request =
                Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body };
            let answer = rule(&request);
            seen.lock().unwrap().push(request);
            Ok::<_, Infallible>(answer)
        }
    });
    // An error is a client that left.
    let _ =
        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

pub fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Full::new(body.into())).unwrap()
}

pub fn ok() -> Answer {
    answer(200, &[], "ok")
}

/// As RFC 6750 §3.1 has it.
pub fn refusal() -> Answer {
    answer(401, &[("www-authenticate", "Bearer error=\"invalid_token\"")], "refused")
}

/// A redirect.
pub fn to(url: &str) -> Answer {
    answer(302, &[("location", url)], "")
}

/// Takes all tokens but the first.
pub fn refuses_the_first(request: &Seen) -> Answer {
    if request.authorization() == "Bearer T1" { refusal() } else { ok() }
}
