//! The core by itself: tables of URLs and of challenges.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body::{Body, Frame};
use proptest::prelude::*;
use tokio_util::bytes::Bytes;
use url::Url;

use super::decide::{Verdict, verdict};
use super::{Attach, DRAIN_BYTES, drain};
use crate::handle::SessionHandle;

fn attach(origins: &[&str]) -> Attach {
    let attach = Attach::new(SessionHandle::fixed("T").unwrap());
    origins.iter().fold(attach, |attach, origin| attach.to(origin).unwrap())
}

/// What each shell makes of a URL; `None` where its kind of URL cannot be that.
fn destinations(attach: &Attach, url: &str) -> [Option<bool>; 2] {
    let none = HeaderMap::new();
    let reqwest = Url::parse(url).ok();
    let tower = url.parse::<Uri>().ok();
    let tower = tower.filter(|uri| uri.authority().is_some());
    [
        reqwest
            .map(|url| attach.destination(url.scheme(), url.authority(), &none).unwrap().is_some()),
        tower.map(|uri| {
            let authority = uri.authority().unwrap().as_str();
            attach
                .destination(uri.scheme_str().unwrap_or_default(), authority, &none)
                .unwrap()
                .is_some()
        }),
    ]
}

const LISTED: [&str; 5] = [
    "https://api.example.com",
    "https://api.example.com:8443",
    "https://bücher.example",
    "http://127.0.0.1:8080",
    "http://[::1]:8080",
];

#[test]
fn a_listed_origin_has_a_token() {
    let attach = attach(&LISTED);
    for url in [
        "https://api.example.com",
        "https://api.example.com/",
        "https://api.example.com/2.0/files?limit=1",
        "https://api.example.com:443/",
        "https://api.example.com:8443/",
        "HTTPS://API.Example.COM/",
        "https://api.example.com/@evil.example/",
        "https://api.example.com/?url=https://evil.example",
        "https://xn--bcher-kva.example/",
        "http://127.0.0.1:8080/",
        "http://[::1]:8080/",
    ] {
        let [reqwest, tower] = destinations(&attach, url);
        assert_eq!((reqwest, tower.unwrap_or(true)), (Some(true), true), "{url}");
    }
    // These are written in another way. reqwest's kind of URL has one way only, and connects by that.
    for url in ["https://bücher.example/", "https://BÜCHER.example/", "http://127.1:8080/"] {
        assert_eq!(destinations(&attach, url)[0], Some(true), "{url}");
        assert_ne!(destinations(&attach, url)[1], Some(true), "{url}");
    }
}

#[test]
fn a_host_header_that_names_another_is_another() {
    let attach = attach(&LISTED);
    let has_token = |host: &'static str| {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        attach.destination("https", "api.example.com", &headers).unwrap().is_some()
    };
    for host in ["api.example.com", "API.example.com:443"] {
        assert!(has_token(host), "{host}");
    }
    for host in ["evil.example", "api.example.com.", "api.example.com:8443", "", "*"] {
        assert!(!has_token(host), "{host}");
    }
    for two in [["api.example.com", "evil.example"], ["evil.example", "api.example.com"]] {
        let mut headers = HeaderMap::new();
        for host in two {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        assert!(attach.destination("https", "api.example.com", &headers).unwrap().is_none());
    }
}

#[test]
fn no_other_origin_has_one() {
    let attach = attach(&LISTED);
    let urls = [
        // Another host.
        "https://evil.example/",
        "https://example.com/",
        "https://www.api.example.com/",
        "https://api.example.com.evil.example/",
        "https://api.example.com.",
        "https://api.example.com./",
        "https://api.example.com.:443/",
        "https://api.example.co/",
        "https://api.example.comm/",
        "https://apixexample.com/",
        "https://api-example.com/",
        "https://evil.example/api.example.com",
        "https://evil.example/https://api.example.com/",
        "https://evil.example?https://api.example.com/",
        "https://evil.example#https://api.example.com/",
        "https://evil.example?@api.example.com/",
        "https://evil.example#@api.example.com/",
        "https://evil.example\\@api.example.com/",
        "https://evil.example/\\api.example.com/",
        "https://xapi.example.com/",
        "https://api.example.com%2eevil.example/",
        "https://api.example.com%00.evil.example/",
        "https://api.example.com%2f.evil.example/",
        // A user name, whatever host it looks like.
        "https://api.example.com@evil.example/",
        "https://api.example.com:443@evil.example/",
        "https://api.example.com%2f@evil.example/",
        "https://api.example.com:8443@evil.example:8443/",
        "https://user@evil.example/",
        "https://user:password@evil.example/",
        "https://user@api.example.com/",
        "https://user:password@api.example.com/",
        "https://api.example.com@api.example.com/",
        "https://:password@api.example.com/",
        "https://evil.example@api.example.com/",
        "http://127.0.0.1:8080@evil.example/",
        "http://[::1]:8080@evil.example/",
        // Another port.
        "https://api.example.com:80/",
        "https://api.example.com:444/",
        "https://api.example.com:4430/",
        "https://api.example.com:44/",
        "https://api.example.com:18443/",
        "https://bücher.example:8443/",
        "http://127.0.0.1/",
        "http://127.0.0.1:80/",
        "http://127.0.0.1:8081/",
        "http://[::1]/",
        "http://[::1]:443/",
        // Another scheme.
        "http://api.example.com/",
        "http://api.example.com:443/",
        "http://api.example.com:8443/",
        "https://127.0.0.1:8080/",
        "https://[::1]:8080/",
        "ws://api.example.com/",
        "wss://api.example.com/",
        "ftp://api.example.com/",
        "httpss://api.example.com/",
        "https+unix://api.example.com/",
        // Letters that look alike, and other names in Punycode.
        "https://аpi.example.com/",
        "https://xn--pi-7kc.example.com/",
        "https://api.exаmple.com/",
        "https://api.example.ⅽom.evil.example/",
        "https://bucher.example/",
        "https://xn--bcher-kva.evil.example/",
        "https://bücher.example.evil.example/",
        // Other addresses of this machine, and addresses that look like it.
        "http://localhost:8080/",
        "http://127.0.0.2:8080/",
        "http://127.0.0.1.:8081/",
        "http://127.0.0.1.evil.example:8080/",
        "http://0.0.0.0:8080/",
        "http://[::]:8080/",
        "http://[::2]:8080/",
        "http://[::ffff:127.0.0.1]:8080/",
        "http://[::1]x:8080/",
        "http://[fe80::1]:8080/",
        "http://169.254.169.254/",
    ];
    assert!(urls.len() >= 60);
    let mut seen = [0; 2];
    for url in urls {
        for (shell, has_one) in destinations(&attach, url).into_iter().enumerate() {
            assert_ne!(has_one, Some(true), "{url} ({shell})");
            seen[shell] += usize::from(has_one.is_some());
        }
    }
    assert!(seen[0] >= 60 && seen[1] >= 50, "few of them are URLs at all: {seen:?}");
}

#[test]
fn what_is_no_origin_is_refused() {
    let attach = Attach::new(SessionHandle::fixed("T").unwrap());
    for (origin, expected) in [
        ("", "to is \"\", which is not a URL"),
        ("api.example.com", "to is \"api.example.com\", which is not a URL"),
        ("api.example.com:443", "to is \"api.example.com:443\", but must begin with https://"),
        ("ftp://api.example.com", "to is \"ftp://api.example.com\", but must begin with https://"),
        ("http://api.example.com", "to is \"http://api.example.com\", and without TLS anybody"),
        ("http://10.0.0.1", "to is \"http://10.0.0.1\", and without TLS anybody"),
        (
            "https://api.example.com/2.0",
            "to is \"https://api.example.com/2.0\", but must be an origin",
        ),
        ("https://api.example.com?a", "to is \"https://api.example.com?a\", but must be an origin"),
        (
            "https://api.example.com/#a",
            "to is \"https://api.example.com/#a\", but must be an origin",
        ),
        ("https://me:s3cr3t@api.example.com", "to is \"api.example.com\", but must be an origin"),
        ("https://*.example.com", "to is \"https://*.example.com\", but must name one host"),
    ] {
        let error = attach.clone().to(origin).unwrap_err();
        assert_eq!(error.setting(), "to");
        let error = error.to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(error.ends_with(", such as \"https://api.example.com\""), "{error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
    for origin in ["http://localhost", "http://127.8.9.10:81", "http://[::1]", "https://10.0.0.1/"]
    {
        assert!(attach.clone().to(origin).is_ok(), "{origin}");
    }
}

#[test]
fn it_shows_where_tokens_go_and_no_token() {
    let attach = attach(&["https://api.example.com:443/", "http://127.0.0.1:8080"]);
    let shown = format!("{attach:?}");
    assert!(shown.contains(r#"["https://api.example.com", "http://127.0.0.1:8080"]"#), "{shown}");
    assert!(!shown.contains("\"T\""), "{shown}");
}

fn judged(scheme: &str, status: u16, headers: &[(&'static str, &str)]) -> Verdict {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let sent = HeaderValue::try_from(format!("{scheme} T")).unwrap();
    verdict(StatusCode::from_u16(status).unwrap(), &map, &sent)
}

#[test]
fn a_401_is_a_refusal_if_the_challenge_says_so() {
    use Verdict::{Challenged, Pass, Refused};
    let cases: &[(&[&str], Verdict)] = &[
        (&["Bearer"], Challenged),
        (&["bearer"], Challenged),
        (&["Bearer realm=\"api\""], Challenged),
        (&["Bearer error=\"invalid_token\""], Refused),
        (&["Bearer error=invalid_token"], Refused),
        (&["Bearer ERROR = \"invalid_token\""], Refused),
        (&["Bearer realm=\"a\", error=\"invalid_token\", error_description=\"expired\""], Refused),
        (
            &["Bearer error_description=\"error=\\\"insufficient_scope\\\", or\", realm=x"],
            Challenged,
        ),
        (&["Bearer realm=\"a\\\"\", error=\"invalid\\_token\""], Refused),
        (&["Bearer error=\"invalid_token"], Refused),
        (&[" , ,Bearer ,, error=\"invalid_token\" ,"], Refused),
        (&["Bearer\terror=\"invalid_token\""], Refused),
        // Several in a line, in any order, and in several lines.
        (&["Basic realm=\"a, Bearer error=x\", Bearer error=\"invalid_token\""], Refused),
        (&["Bearer error=\"invalid_token\", Basic realm=\"a\""], Refused),
        (&["Negotiate YII=, Bearer, DPoP algs=\"ES256\""], Challenged),
        (&["Basic realm=\"a\"", "Bearer realm=\"b\""], Challenged),
        (&["Bearer realm=\"b\"", "Basic error=\"insufficient_scope\""], Challenged),
        (&["Bearer realm=\"a\", Bearer error=\"invalid_token\""], Refused),
        (&["Bearer error=\"insufficient_scope\", Bearer error=\"invalid_token\""], Refused),
        // With what does not belong between parameters.
        (&["Bearer realm=\"a\" error=\"invalid_token\""], Refused),
        (&["Bearer realm=a; error=invalid_token; x=y"], Refused),
        (&["Bearer realm=\"a;b\";error = \"invalid_token\" scope=\"x\""], Refused),
        (&["Bearer scope=\"a\" error=\"insufficient_scope\""], Pass),
        (&["Bearer realm=x; error=insufficient_scope"], Pass),
        (&["Bearer realm=\"x error=insufficient_scope\""], Challenged),
        (&["Bearer realm=x;;= = error"], Challenged),
        // Something else is wrong, or somebody else says so.
        (&["Bearer error=\"insufficient_scope\", scope=\"a\""], Pass),
        (&["Bearer error=\"invalid_request\""], Pass),
        (&["Bearer error=\"Invalid_Token\""], Pass),
        (&["Bearer realm=\"a\", Bearer error=\"insufficient_scope\""], Pass),
        (&["Bearer error=\"use_dpop_nonce\""], Pass),
        (&["Basic realm=\"Bearer\""], Pass),
        (&["Basic error=\"invalid_token\""], Pass),
        (&["DPoP error=\"invalid_token\""], Pass),
        (&["Bearerx error=\"invalid_token\""], Pass),
        (&["X realm=\"a\", error=\"invalid_token\""], Pass),
        (&["X realm=\"Bearer error=invalid_token, Bearer\""], Pass),
        (&["error=\"invalid_token\""], Pass),
        (&["=", "\"Bearer\"", "", ","], Pass),
        (&[], Pass),
    ];
    for (lines, expected) in cases {
        let headers: Vec<_> = lines.iter().map(|line| ("www-authenticate", *line)).collect();
        assert_eq!(judged("Bearer", 401, &headers), *expected, "{lines:?}");
        for status in [200, 302, 400, 403, 404, 407, 500] {
            assert_eq!(judged("Bearer", status, &headers), Pass, "{status} {lines:?}");
        }
    }
    let proxys = [("proxy-authenticate", "Bearer error=\"invalid_token\"")];
    assert_eq!(judged("Bearer", 401, &proxys), Pass);
    assert_eq!(judged("Bearer", 407, &proxys), Pass);
}

#[test]
fn a_bound_token_has_challenges_of_its_own() {
    use Verdict::{Challenged, Nonce, Pass, Refused};
    let nonce = ("dpop-nonce", "n");
    let judged = |challenge: &str, with_nonce: bool| {
        let headers = [("www-authenticate", challenge), nonce];
        judged("DPoP", 401, &headers[..=usize::from(with_nonce)])
    };
    for (challenge, expected) in [
        ("DPoP error=\"use_dpop_nonce\"", Nonce),
        ("Bearer, DPoP error=\"use_dpop_nonce\", algs=\"ES256\"", Nonce),
        ("DPoP error=\"invalid_token\"", Refused),
        ("DPoP algs=\"ES256\"", Challenged),
        ("DPoP error=\"invalid_dpop_proof\"", Pass),
        ("Bearer error=\"invalid_token\"", Pass),
    ] {
        assert_eq!(judged(challenge, true), expected, "{challenge}");
    }
    assert_eq!(judged("DPoP error=\"use_dpop_nonce\"", false), Pass, "there is nothing to say");
}

#[test]
fn a_grpc_answer_says_it_in_its_status() {
    let grpc = |status: &'static str, media_type: &'static str| {
        judged("Bearer", 200, &[("grpc-status", status), ("content-type", media_type)])
    };
    for media_type in ["application/grpc", "application/grpc+proto", "Application/GRPC"] {
        assert_eq!(grpc("16", media_type), Verdict::RefusedCall);
        assert_eq!(grpc("7", media_type), Verdict::Pass, "PERMISSION_DENIED");
        assert_eq!(grpc("0", media_type), Verdict::Pass);
    }
    assert_eq!(grpc("16", "application/json"), Verdict::Pass);
}

proptest! {
    /// Whatever a server writes, a challenge that stands alone in a line of its own is understood.
    #[test]
    fn no_line_hides_another_or_panics(
        line in proptest::collection::vec(any::<u8>().prop_filter("no header", |byte| {
            *byte == b'\t' || *byte >= b' ' && *byte != 127
        }), 0..60),
        words in "[-A-Za-z=,\" \\\\]{0,40}",
    ) {
        let sent = HeaderValue::from_static("Bearer T");
        let mut headers = HeaderMap::new();
        headers.append("www-authenticate", HeaderValue::from_bytes(&line).unwrap());
        headers.append("www-authenticate", HeaderValue::from_str(&words).unwrap());
        headers.append("www-authenticate", HeaderValue::from_static("Bearer error=invalid_token"));
        prop_assert_eq!(verdict(StatusCode::UNAUTHORIZED, &headers, &sent), Verdict::Refused);
    }

    #[test]
    fn a_quoted_text_hides_nothing_after_it(text in "[ -~]{0,40}") {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let sent = HeaderValue::from_static("Bearer T");
        let mut headers = HeaderMap::new();
        let line = format!("Basic realm=\"{quoted}\", Bearer realm=\"{quoted}\", error=\"invalid_token\"");
        headers.append("www-authenticate", HeaderValue::from_str(&line).unwrap());
        prop_assert_eq!(verdict(StatusCode::UNAUTHORIZED, &headers, &sent), Verdict::Refused);
    }
}

/// A body of frames that hold nothing, without an end.
struct Endless(usize);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
    }
}

#[tokio::test]
async fn a_frame_without_data_counts_as_read() {
    let mut body = Endless(0);
    drain(&mut body).await;
    assert_eq!(body.0 as u64, DRAIN_BYTES);
}
