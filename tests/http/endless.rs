//! Answers that never end, from a server that sends as fast as it can: the attempt's time is kept all the same.
//!
//! hyper reads on within one poll as long as something comes, and tokio stops it after 128 reads. Over TLS, which is
//! what a server elsewhere must speak, those are 16 KiB each. In clear they may be 400 KiB each, and digits of a
//! chunk's size or interim answers without an end, which hyper takes byte by byte, can then take it seconds.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use ccg_session::{HttpTokenManager, HttpTokenManagerBuilder, Provider};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::time::timeout;

use super::certificates::{Ca, Pair};
use super::{millis, secs, session_of};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// Sends the head, and then the rest again and again, until its client leaves. Has a thread of its own, since it
/// never waits.
fn endless(head: String, again: &'static str, tls: Option<Pair>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/token", listener.local_addr().unwrap());
    let tls = tls.map(|pair| {
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    });
    let converse = move |mut stream: Box<dyn ReadWrite>| -> std::io::Result<()> {
        let _ = stream.read(&mut [0; 4_096])?;
        stream.write_all(head.as_bytes())?;
        let again = again.repeat(64 * 1_024 / again.len());
        loop {
            stream.write_all(again.as_bytes())?;
        }
    };
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let stream: Box<dyn ReadWrite> = match &tls {
                Some(tls) => {
                    let connection = ServerConnection::new(tls.clone()).unwrap();
                    Box::new(StreamOwned::new(connection, stream))
                }
                None => Box::new(stream),
            };
            // It ends when the client has left.
            let _ = converse(stream);
        }
    });
    url
}

trait ReadWrite: std::io::Read + std::io::Write {}
impl<S: std::io::Read + std::io::Write> ReadWrite for S {}

async fn assert_in_time(what: &str, builder: HttpTokenManagerBuilder) {
    let session = session_of(builder.build().unwrap(), |config| {
        config.retry.attempts = 1;
        config.retry.attempt_timeout = millis(300);
    });
    let answer = timeout(secs(60), session.get_token()).await;
    let error = answer.unwrap_or_else(|_| panic!("{what}: it is waited for")).unwrap_err();
    println!("{what}: {error}");
}

#[tokio::test]
async fn the_attempts_time_is_kept_against_answers_that_never_end() {
    for (what, head, again) in [
        ("a head", "HTTP/1.1 200 OK\r\n".into(), "x: y\r\n"),
        ("a chunk's extension", format!("{CHUNKED}1;"), "x"),
        ("small chunks", CHUNKED.into(), "1\r\nx\r\n"),
        ("trailers", format!("{CHUNKED}0\r\n"), "x: y\r\n"),
        ("a body", "HTTP/1.1 200 OK\r\n\r\n".into(), "x"),
    ] {
        let provider = Provider::generic(endless(head, again, None));
        assert_in_time(what, HttpTokenManager::builder(provider, "id", "s3cr3t")).await;
    }
}

#[tokio::test]
async fn it_is_kept_over_tls_whatever_the_client_reads_within_one_poll() {
    let ca = Ca::new("the server's");
    for (what, head, again) in [
        ("digits of a chunk's size", CHUNKED.into(), "0"),
        ("blanks after a chunk's size", format!("{CHUNKED}1"), " "),
        ("interim answers", String::new(), "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("interim answers to go on", String::new(), "HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let provider = Provider::generic(endless(head, again, Some(ca.issue("127.0.0.1"))));
        let builder = HttpTokenManager::builder(provider, "id", "s3cr3t");
        assert_in_time(what, builder.root_certificate(ca.pem())).await;
    }
}
