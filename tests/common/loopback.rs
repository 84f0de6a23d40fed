//! Requests and answers as they are on the wire, for servers that a test writes itself.

use tokio::io::{AsyncRead, AsyncReadExt as _};
use url::form_urlencoded;

/// A request that has arrived whole.
pub struct Request {
    head: String,
    pub body: String,
}

impl Request {
    /// `None` if the stream ends before it.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
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
    #[allow(dead_code)] // Not each test that uses this file uses all of it.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap().trim_end_matches(" HTTP/1.1")
    }

    #[allow(dead_code)]
    pub fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }
}

/// The bytes of an answer, after which the connection ends. `headers` are whole lines.
pub fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}
