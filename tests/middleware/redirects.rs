//! Redirects: below the middleware, as reqwest follows them, and above it, in tower.

use ccg_session::ConfigError;
use ccg_session::middleware::Attach;
use http::header::LOCATION;
use http::{Request, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tower::{Layer as _, Service, ServiceExt as _};

use super::certificates::Ca;
use super::upstream::{Answer, Seen, Upstream, answer, ok, refusal, to};
use super::{aged, attach, hyper_client, install_provider, reqwest_builder, reqwest_client};

/// An API that redirects as the query says.
async fn redirecting() -> Upstream {
    Upstream::start(|seen| match seen.uri.query() {
        Some(target) => to(target),
        None => ok(),
    })
    .await
}

#[tokio::test]
async fn within_the_origin_reqwest_takes_the_token_along() {
    let upstream = redirecting().await;
    let session = aged().await;
    let client = reqwest_client(&attach(&session, &[&upstream.base]));
    for target in ["/there", &upstream.url("/there")] {
        let answer = client.get(upstream.url(&format!("/?{target}"))).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.url().path()), (200, "/there"));
    }
    assert_eq!(upstream.authorizations(), vec!["Bearer T1"; 4]);
}

#[tokio::test]
async fn a_401_after_a_redirect_within_the_origin_is_judged() {
    let upstream = Upstream::start(|seen: &Seen| match (seen.uri.path(), seen.authorization()) {
        ("/there", "Bearer T1") => refusal(),
        ("/there", _) => ok(),
        _ => to("/there"),
    })
    .await;
    let session = aged().await;
    let client = reqwest_client(&attach(&session, &[&upstream.base]));
    assert_eq!(client.get(upstream.url("/")).send().await.unwrap().status(), 200);
    assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T1", "Bearer T2", "Bearer T2"]);
}

#[tokio::test]
async fn at_the_target_of_a_redirect_elsewhere_there_is_no_token_and_its_401_says_nothing() {
    let target = Upstream::start(|_| refusal()).await;
    for is_target_listed in [false, true] {
        let upstream = redirecting().await;
        let session = aged().await;
        let mut attach = attach(&session, &[&upstream.base]);
        if is_target_listed {
            attach = attach.to(&target.base).unwrap();
        }
        let client = reqwest_client(&attach);
        let answer = client.get(upstream.url(&format!("/?{}", target.base))).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(upstream.authorizations(), ["Bearer T1"], "and no second request");
        assert_eq!(session.get_token().await.unwrap().secret(), "T1");
    }
    assert_eq!(target.authorizations(), ["none"; 2]);
}

#[tokio::test]
async fn what_was_carried_out_before_a_redirect_is_not_sent_again() {
    for status in [302, 303, 307, 308] {
        let upstream = Upstream::start(move |seen: &Seen| match seen.uri.path() {
            "/orders" => answer(status, &[("location", "/orders/1")], ""),
            _ => refusal(),
        })
        .await;
        let session = aged().await;
        let client = reqwest_client(&attach(&session, &[&upstream.base]));
        let order = client.post(upstream.url("/orders")).body("one");
        assert_eq!(order.send().await.unwrap().status(), 401, "{status}");
        let paths = upstream.seen(|seen| seen.uri.path().to_owned());
        assert_eq!(paths, ["/orders", "/orders/1"], "{status}");
        assert_eq!(session.get_token().await.unwrap().secret(), "T2", "the session was told");
    }
}

/// reqwest does not put the token on again, so the API may well refuse the last request. That it saw no token, it
/// says by a challenge without an error (RFC 6750 §3.1).
#[tokio::test]
async fn there_and_back_again() {
    let there = redirecting().await;
    let back = there.url("/?http://");
    let upstream =
        Upstream::start(move |seen: &Seen| match (seen.uri.path(), seen.authorization()) {
            ("/", _) => to(&format!("{back}{}/end", seen.header(http::header::HOST).unwrap())),
            (_, "none") => answer(401, &[("www-authenticate", "Bearer realm=\"api\"")], ""),
            _ => ok(),
        })
        .await;
    let session = aged().await;
    let client = reqwest_client(&attach(&session, &[&upstream.base]));
    assert_eq!(client.get(upstream.url("/")).send().await.unwrap().status(), 401);
    assert_eq!(upstream.authorizations(), ["Bearer T1", "none"]);
    assert_eq!(there.authorizations(), ["none"]);
    assert_eq!(session.get_token().await.unwrap().secret(), "T1", "nothing was said of it");
}

fn trusting(ca: &Ca, attach: &Attach) -> ClientWithMiddleware {
    let ca = reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    let client = reqwest_builder().tls_certs_only([ca]).build().unwrap();
    ClientBuilder::new(client).with(attach.clone()).build()
}

#[tokio::test]
async fn from_https_to_http_the_token_is_left_behind() {
    install_provider();
    let ca = Ca::new("a CA");
    let plain = Upstream::start(|_| refusal()).await;
    let target = plain.base.clone();
    let upstream = Upstream::start_tls(&ca.issue("127.0.0.1"), move |_| to(&target)).await;
    let session = aged().await;
    let client = trusting(&ca, &attach(&session, &[&upstream.base, &plain.base]));
    assert_eq!(client.get(upstream.url("/")).send().await.unwrap().status(), 401);
    assert_eq!(
        (upstream.authorizations(), plain.authorizations()),
        (vec!["Bearer T1".into()], vec!["none".into()])
    );
    assert_eq!(session.get_token().await.unwrap().secret(), "T1");
}

/// A redirect layer of the simplest kind, which takes all headers along: it belongs above.
async fn follow<S, A>(client: S, url: &str) -> (u16, Uri)
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<A>> + Clone,
    S::Error: std::fmt::Debug,
{
    let mut uri: Uri = url.parse().unwrap();
    for _ in 0..5 {
        let request = Request::get(uri.clone()).body(Full::default()).unwrap();
        let answer = client.clone().oneshot(request).await.unwrap();
        let Some(target) = answer.headers().get(LOCATION) else {
            return (answer.status().as_u16(), uri);
        };
        let target = target.to_str().unwrap();
        let base = uri.clone();
        uri = if target.starts_with('/') {
            format!("http://{}{target}", base.authority().unwrap()).parse().unwrap()
        } else {
            target.parse().unwrap()
        };
    }
    panic!("it goes round in circles");
}

#[tokio::test]
async fn below_a_redirect_layer_each_request_is_decided_anew() {
    let listed = redirecting().await;
    let other = redirecting().await;
    let refuses = Upstream::start(|_: &Seen| -> Answer { refusal() }).await;
    let session = aged().await;
    let attach = attach(&session, &[&listed.base]);
    let client = attach.layer().layer(hyper_client());

    let (status, uri) = follow(client.clone(), &listed.url("/?/there")).await;
    assert_eq!((status, uri.path()), (200, "/there"));
    assert_eq!(listed.authorizations(), ["Bearer T1"; 2]);

    let (status, _) = follow(client.clone(), &listed.url(&format!("/?{}/there", other.base))).await;
    assert_eq!(status, 200);
    assert_eq!(other.authorizations(), ["none"], "where the layer above would have sent it");

    let there_and_back = format!("/?{}/?{}/there", other.base, listed.base);
    assert_eq!(follow(client.clone(), &listed.url(&there_and_back)).await.0, 200);
    assert_eq!(other.authorizations(), ["none"; 2]);
    assert_eq!(listed.authorizations(), ["Bearer T1"; 5], "back again it is ours again");

    let (status, _) = follow(client, &listed.url(&format!("/?{}", refuses.base))).await;
    assert_eq!((status, refuses.authorizations()), (401, vec!["none".into()]));
    assert_eq!(session.get_token().await.unwrap().secret(), "T1");
}

#[tokio::test]
async fn a_url_that_does_not_say_where_it_goes_is_refused() {
    let upstream = redirecting().await;
    let session = aged().await;
    let client = attach(&session, &[&upstream.base]).layer().layer(hyper_client());
    let request = Request::get("/2.0/users/me?secret").body(Full::<Bytes>::default()).unwrap();
    let error = client.clone().oneshot(request).await.unwrap_err();
    let error: &ConfigError = super::inner(&error);
    let expected = "url is \"/2.0/users/me\", which has no scheme and host: use an absolute URL; for a client \
        generated by tonic, call `with_origin`";
    assert_eq!(error.to_string(), expected);
    assert_eq!(upstream.connections(), 0);

    // One with a token of its own is none of ours.
    let request = Request::get("/").header("authorization", "Bearer mine");
    let error = client.oneshot(request.body(Full::default()).unwrap()).await.unwrap_err();
    assert!(error.is::<hyper_util::client::legacy::Error>(), "{error:?}");
}
