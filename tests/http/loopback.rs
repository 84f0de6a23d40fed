//! Requests and answers as they are on the wire, for servers that a test writes itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::form_urlencoded;

/// A server that answers by a rule, and would keep its connections.
pub struct Server {
    pub base: String,
    pub connections: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(rule: impl FnMut(&Request) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::<AtomicUsize>::default();
        let (count, rule) = (connections.clone(), Arc::new(Mutex::new(rule)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let rule = rule.clone();
                let rule = move |request: &Request| rule.lock().unwrap()(request);
                tokio::spawn(converse(stream, rule));
            }
        });
        Self { base, connections }
    }
}

/// Answers until the client leaves.
pub async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut rule: impl FnMut(&Request) -> String,
) {
    while let Some(request) = Request::read(&mut stream).await {
        let answer = rule(&request);
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

/// A request that has arrived whole.
pub struct Request {
    head: String,
    pub body: String,
}

impl Request {
    /// `None` if the stream ends before it.
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            let text = std::str::from_utf8(&bytes).ok()?;
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let request = Self { head: head.into(), body: body.into() };
                let length =
                    request.header("content-length").map_or(0, |text| text.parse().unwrap());
                if body.len() == length {
                    return Some(request);
                }
            }
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|header| header.0.eq_ignore_ascii_case(name)).map(|header| header.1)
    }

    /// Its method and its target.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap().trim_end_matches(" HTTP/1.1")
    }

    pub fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }
}

/// The bytes of an answer. `headers` are whole lines.
pub fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}
