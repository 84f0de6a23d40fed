//! Bodies: those that cannot be sent again, those still under way when the answer comes, and those of answers.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::tokio_stream;
use tower::{Layer as _, ServiceExt as _};

use super::upstream::{Upstream, answer, refusal, refuses_the_first};
use super::{Client, aged, attach, hyper_client, reqwest_client};

fn stream(parts: usize) -> impl http_body::Body<Data = Bytes, Error = io::Error> + Unpin {
    let part = || Ok(Frame::data(Bytes::from(vec![b'x'; 16 * 1024])));
    StreamBody::new(tokio_stream::iter((0..parts).map(move |_| part())))
}

#[tokio::test]
async fn a_stream_is_sent_once_and_the_next_request_has_another_token() {
    let upstream = Upstream::start(refuses_the_first).await;
    let session = aged().await;
    let client = reqwest_client(&attach(&session, &[&upstream.base]));
    let request = || client.post(upstream.url("/")).body(reqwest::Body::wrap(stream(3)));
    assert_eq!(request().send().await.unwrap().status(), 401);
    assert_eq!(request().send().await.unwrap().status(), 200);
    assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T2"]);
    assert_eq!(upstream.seen(|seen| seen.body.len()), [3 * 16 * 1024; 2]);

    let upstream = Upstream::start(refuses_the_first).await;
    let session = aged().await;
    let client = attach(&session, &[&upstream.base]).layer().repeating(|_| None);
    let client = client.layer(Hyper::builder(TokioExecutor::new()).build_http());
    for expected in [401, 200] {
        let request = Request::post(upstream.url("/")).body(stream(3)).unwrap();
        assert_eq!(client.clone().oneshot(request).await.unwrap().status(), expected);
    }
    assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T2"]);
}

#[tokio::test]
async fn in_tower_an_empty_body_is_sent_again_and_any_other_if_you_say_how() {
    let bodies = [("", 200), ("a body", 401)];
    for (body, expected) in bodies {
        let upstream = Upstream::start(refuses_the_first).await;
        let session = aged().await;
        let client = attach(&session, &[&upstream.base]).layer().layer(hyper_client());
        let request = Request::post(upstream.url("/")).body(Full::from(body)).unwrap();
        assert_eq!(client.oneshot(request).await.unwrap().status(), expected);
        assert_eq!(session.get_token().await.unwrap().secret(), "T2");
    }
    // The body of a type that is always empty.
    let upstream = Upstream::start(refuses_the_first).await;
    let session = aged().await;
    let client = attach(&session, &[&upstream.base]).layer();
    let client = client.layer(Hyper::builder(TokioExecutor::new()).build_http());
    let request = Request::get(upstream.url("/")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(client.oneshot(request).await.unwrap().status(), 200);
}

/// Reads a request's head, and of its body what came along.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&bytes).to_lowercase())
}

/// A server of one request for each connection, which it closes, or keeps open and says no more.
async fn raw_server(refusal: &'static [u8], keeps_open: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(head) = read_head(&mut stream).await else { continue };
            count.fetch_add(1, Ordering::SeqCst);
            if head.contains("bearer t1") {
                let _ = stream.write_all(refusal).await;
                if keeps_open {
                    open.push(stream);
                }
            } else {
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 -\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                    )
                    .await;
                // All of the body, or the answer would be lost in a reset.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        }
    });
    (base, requests)
}

const EARLY: &[u8] =
    b"HTTP/1.1 401 -\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The server answers as soon as it has read the head, and closes: hyper may see that as an answer or as a reset.
#[tokio::test]
async fn a_401_while_the_body_is_being_sent_on_http_1() {
    const BIG: usize = 16 << 20;
    for client in Client::SIDES {
        let (base, requests) = raw_server(EARLY, false).await;
        let session = aged().await;
        let client = client(&attach(&session, &[&base]));
        let request = || Request::post(&base).body(Bytes::from(vec![b'x'; BIG])).unwrap();
        match client.send(request()).await {
            Ok(answer) => {
                assert_eq!((answer.status().as_u16(), requests.load(Ordering::SeqCst)), (200, 2));
            }
            // Nothing was heard, so nothing is known, and nothing sent again.
            Err(error) => {
                assert_eq!(requests.load(Ordering::SeqCst), 1, "{error:?}");
                assert_eq!(session.get_token().await.unwrap().secret(), "T1");
            }
        }
    }
}

#[tokio::test]
async fn a_401_while_the_body_is_being_sent_on_http_2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let count = Arc::clone(&count);
                async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(request.version(), Version::HTTP_2);
                    if request.headers()["authorization"] == "Bearer T1" {
                        return Ok(refusal()); // Without a look at the body.
                    }
                    let body = request.into_body().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(answer(200, &[], body.len().to_string()))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    let session = aged().await;
    let attach = attach(&session, &[&base]);

    let big = Bytes::from(vec![b'x'; 4 << 20]);
    let hyper = Hyper::builder(TokioExecutor::new()).http2_only(true).build_http();
    let repeating = attach.layer().repeating(|body: &Full<Bytes>| Some(body.clone()));
    let request = Request::post(&base).body(Full::new(big)).unwrap();
    let answer = repeating.layer(hyper).oneshot(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((&*body, seen.load(Ordering::SeqCst)), (&b"4194304"[..], 2));

    // A stream that goes on and on ends with the answer, and is not sent again.
    let session = aged().await;
    let attach = super::attach(&session, &[&base]);
    let hyper = Hyper::builder(TokioExecutor::new()).http2_only(true).build_http();
    let client = attach.layer().repeating(|_| None).layer(hyper);
    let request = Request::post(&base).body(stream(1_000_000)).unwrap();
    assert_eq!(client.oneshot(request).await.unwrap().status(), 401);
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    assert_eq!(session.get_token().await.unwrap().secret(), "T2");
}

/// The body is promised, and does not come.
#[tokio::test]
async fn a_401_whose_body_does_not_come_is_not_waited_for() {
    const DRIBBLE: &[u8] =
        b"HTTP/1.1 401 -\r\nwww-authenticate: Bearer\r\ncontent-length: 1000\r\n\r\n...";
    for client in Client::SIDES {
        let (base, requests) = raw_server(DRIBBLE, true).await;
        let session = aged().await;
        let client = client(&attach(&session, &[&base]));
        let began = Instant::now();
        let call = pin!(client.get(&base));
        let answer = tokio::time::timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
        assert_eq!((answer.status().as_u16(), requests.load(Ordering::SeqCst)), (200, 2));
        assert!(began.elapsed() >= Duration::from_millis(100), "it was given its time");
    }
}

#[tokio::test]
async fn the_connection_of_a_401_is_used_again_if_its_body_is_short() {
    for client in Client::SIDES {
        for (size, connections) in [(0, 1), (60 << 10, 1), (10 << 20, 2)] {
            let mut met = 0;
            // A machine that is busy may not get through a body in its time, but hardly each time.
            for _ in 0..10 {
                let upstream = Upstream::start(move |seen| match seen.authorization() {
                    "Bearer T1" => answer(401, &[("www-authenticate", "Bearer")], vec![b'x'; size]),
                    _ => answer(200, &[], "ok"),
                })
                .await;
                let session = aged().await;
                let client = client(&attach(&session, &[&upstream.base]));
                assert_eq!(client.status(&upstream.url("/")).await, 200);
                met = upstream.connections();
                if met == connections {
                    break;
                }
            }
            assert_eq!(met, connections, "{size} bytes");
        }
    }
}

/// An answer's body is the server's, whatever is around it.
#[tokio::test]
async fn an_answer_arrives_whole() {
    let upstream = Upstream::start(|_| answer(200, &[], vec![b'x'; 300_000])).await;
    let session = aged().await;
    let client = attach(&session, &[&upstream.base]).layer().layer(hyper_client());
    let request = Request::get(upstream.url("/")).body(Full::<Bytes>::default()).unwrap();
    let answer: Response<_> = client.oneshot(request).await.unwrap();
    let body = answer.into_body();
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(300_000));
    assert!(!http_body::Body::is_end_stream(&body));
    assert_eq!(format!("{body:?}"), "AttachedBody { .. }");
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 300_000);
}
