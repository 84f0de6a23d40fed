//! Which answers are a refusal, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ccg_session::middleware::Attach;
use ccg_session::{
    ConfigError, ExchangeRequest, Grant, GrantRequest, Session, SessionError, SessionHandle,
    TokenError, TokenManager,
};
use http::{Method, Request};
use hyper::body::Bytes;
use tokio::sync::Notify;

use super::upstream::{Upstream, answer, ok, refusal, refuses_the_first};
use super::{Client, LIFE, Tokens, age, aged, attach, inner, session, tokens};

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_request_sent_once_more_whatever_its_method() {
    for client in Client::SIDES {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let upstream = Upstream::start(refuses_the_first).await;
            let session = aged().await;
            let client = client(&attach(&session, &[&upstream.base]));
            let request = Request::builder().method(&method).uri(upstream.url("/a?b=c"));
            let request = request.header("x-mine", "kept").body(Bytes::from("the body")).unwrap();
            let answer = client.send(request).await.unwrap();
            assert_eq!((answer.status().as_u16(), &**answer.body()), (200, &b"ok"[..]));
            assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T2"]);
            let both = upstream.seen(|seen| {
                let mine = seen.header(http::HeaderName::from_static("x-mine")).unwrap().to_owned();
                (
                    seen.method.clone(),
                    seen.uri.path_and_query().unwrap().to_string(),
                    mine,
                    seen.body.clone(),
                )
            });
            assert_eq!(
                both[0],
                (method.clone(), "/a?b=c".into(), "kept".into(), "the body".into())
            );
            assert_eq!(both[0], both[1]);
            assert_eq!(session.status().counters().grants_started, 2);
        }
    }
}

#[tokio::test]
async fn a_second_401_is_given_to_the_caller_and_told_to_the_session() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|seen| match seen.authorization() {
            "Bearer T3" => ok(),
            "Bearer T2" => {
                age(); // Else the session would take it for one refusal too many.
                refusal()
            }
            _ => refusal(),
        })
        .await;
        let session = aged().await;
        let client = client(&attach(&session, &[&upstream.base]));
        assert_eq!(client.status(&upstream.url("/")).await, 401);
        assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T2"]);
        assert_eq!(client.status(&upstream.url("/")).await, 200);
        assert_eq!(upstream.authorizations()[2..], ["Bearer T3"]);
        assert_eq!(session.status().counters().invalidations, 2);
    }
}

#[tokio::test]
async fn a_server_that_refuses_all_tokens_has_each_request_once() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| refusal()).await;
        let session = aged().await;
        let client = client(&attach(&session, &[&upstream.base]));
        for _ in 0..3 {
            assert_eq!(client.status(&upstream.url("/")).await, 401);
        }
        let expected = ["Bearer T1", "Bearer T2", "Bearer T2", "Bearer T2"];
        assert_eq!(upstream.authorizations(), expected, "only the first was worth it");
        assert_eq!(session.status().counters().grants_started, 2);
    }
}

#[tokio::test]
async fn what_is_no_refusal_of_the_token_passes() {
    const CASES: [(u16, &[(&str, &str)]); 8] = [
        (403, &[("www-authenticate", "Bearer error=\"insufficient_scope\"")]),
        (401, &[("www-authenticate", "Bearer error=\"insufficient_scope\"")]),
        (401, &[]),
        (401, &[("www-authenticate", "Basic realm=\"Bearer\"")]),
        (401, &[("proxy-authenticate", "Bearer error=\"invalid_token\"")]),
        (407, &[("proxy-authenticate", "Bearer error=\"invalid_token\"")]),
        (400, &[("www-authenticate", "Bearer error=\"invalid_token\"")]),
        (500, &[("www-authenticate", "Bearer error=\"invalid_token\"")]),
    ];
    for client in Client::SIDES {
        let upstream = Upstream::start(|seen| {
            let (status, headers) = CASES[seen.uri.query().unwrap().parse::<usize>().unwrap()];
            answer(status, headers, "its own words")
        })
        .await;
        let session = aged().await;
        let client = client(&attach(&session, &[&upstream.base]));
        for (case, (status, _)) in CASES.iter().enumerate() {
            let answer = client.get(&upstream.url(&format!("/?{case}"))).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &**answer.body()),
                (*status, &b"its own words"[..])
            );
        }
        assert_eq!(upstream.authorizations(), vec!["Bearer T1"; CASES.len()]);
        assert_eq!(session.get_token().await.unwrap().secret(), "T1");
    }
}

#[tokio::test]
async fn of_several_challenges_the_tokens_own_counts() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|seen| match seen.authorization() {
            "Bearer T1" => answer(
                401,
                &[
                    ("www-authenticate", "Basic realm=\"a, Bearer\", Negotiate YII="),
                    (
                        "www-authenticate",
                        "DPoP algs=\"ES256\", Bearer realm=\"x\", error=\"invalid_token\"",
                    ),
                ],
                "",
            ),
            _ => ok(),
        })
        .await;
        let session = aged().await;
        let client = client(&attach(&session, &[&upstream.base]));
        assert_eq!(client.status(&upstream.url("/")).await, 200);
    }
}

#[tokio::test]
async fn an_authorization_that_is_there_is_left_alone() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| refusal()).await;
        let session = aged().await;
        let client = client(&attach(&session, &[&upstream.base]));
        let request = Request::get(upstream.url("/")).header("authorization", "Bearer mine");
        let answer = client.send(request.body(Bytes::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(upstream.authorizations(), ["Bearer mine"]);
        assert_eq!(session.get_token().await.unwrap().secret(), "T1", "it was not ours");
    }
}

#[tokio::test]
async fn another_origin_has_no_token_and_its_401_says_nothing() {
    for client in Client::SIDES {
        let (listed, other) =
            (Upstream::start(|_| ok()).await, Upstream::start(|_| refusal()).await);
        let (tokens, session) = tokens();
        let client = client(&attach(&session, &[&listed.base]));
        assert_eq!(client.status(&other.url("/")).await, 401);
        assert_eq!(other.authorizations(), ["none"]);
        assert_eq!(tokens.grants.load(Ordering::SeqCst), 0, "nor is one asked for");
        // The same server by another name of its own is another origin.
        let by_name = listed.url("/").replace("127.0.0.1", "localhost");
        assert_eq!(client.status(&by_name).await, 200);
        assert_eq!(client.status(&listed.url("/")).await, 200);
        assert_eq!(listed.authorizations(), ["none", "Bearer T1"]);
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| ok()).await;
        let session = session();
        let client = client(&attach(&session, &[&upstream.base]));
        session.shutdown().await;
        let error = client.get(&upstream.url("/")).await.unwrap_err();
        assert!(matches!(inner::<SessionError>(&error), SessionError::Closed), "{error:?}");
        assert_eq!(upstream.connections(), 0);
    }
}

#[tokio::test]
async fn without_an_origin_nothing_is_sent() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| ok()).await;
        let error = client(&Attach::new(session())).get(&upstream.url("/")).await.unwrap_err();
        let error = inner::<ConfigError>(&error).to_string();
        assert!(error.starts_with("to was never called on this Attach: list"), "{error}");
        assert_eq!(upstream.connections(), 0);
    }
}

#[tokio::test]
async fn without_another_token_the_call_has_the_sessions_error() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| refusal()).await;
        let session = SessionHandle::fixed("T1").unwrap();
        let client = client(&attach(&session, &[&upstream.base]));
        let error = client.get(&upstream.url("/")).await.unwrap_err();
        let SessionError::Failed { error, .. } = inner(&error) else { panic!("{error:?}") };
        assert!(error.to_string().contains("this fixed token was invalidated"), "{error}");
        assert_eq!(upstream.authorizations(), ["Bearer T1"]);
    }
}

#[tokio::test]
async fn what_goes_out_may_be_an_exchanged_token() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|seen| match seen.authorization() {
            "Bearer N1" if seen.uri.path() == "/refuse" => refusal(),
            _ => ok(),
        })
        .await;
        let (tokens, session) = tokens();
        let preview = ExchangeRequest::scopes(["item_preview"]);
        let client = client(&attach(&session, &[&upstream.base]).exchanging(preview));
        assert_eq!(client.status(&upstream.url("/")).await, 200);
        assert_eq!(client.status(&upstream.url("/refuse")).await, 401, "it is too young to doubt");
        assert_eq!(client.status(&upstream.url("/")).await, 200, "and goes on");
        age();
        assert_eq!(client.status(&upstream.url("/refuse")).await, 200);
        let expected = ["Bearer N1", "Bearer N1", "Bearer N1", "Bearer N1", "Bearer N2"];
        assert_eq!(upstream.authorizations(), expected);
        assert_eq!(
            tokens.grants.load(Ordering::SeqCst),
            1,
            "the session's own is as good as before"
        );
        assert_eq!(session.status().counters().invalidations, 1);
    }
}

/// Grants the same token again and again.
struct TheSame;

impl TokenManager for TheSame {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        Ok(Grant::bearer("T")?.expires_in(LIFE))
    }
}

#[tokio::test]
async fn a_token_that_is_granted_again_word_for_word_is_not_sent_again() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| refusal()).await;
        let session = Session::builder(TheSame).spawn().unwrap();
        session.get_token().await.unwrap();
        age();
        let client = client(&attach(&session, &[&upstream.base]));
        let answer = client.get(&upstream.url("/")).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (401, &b"refused"[..]));
        assert_eq!(upstream.authorizations(), ["Bearer T"]);
        assert_eq!(session.status().counters().grants_started, 2);
    }
}

#[tokio::test]
async fn an_exchange_that_gives_no_access_token_is_an_error() {
    for client in Client::SIDES {
        let upstream = Upstream::start(|_| ok()).await;
        let manager = Tokens { gives_no_access_token: true, ..Tokens::default() };
        let session = Session::builder(manager).spawn().unwrap();
        let attach = attach(&session, &[&upstream.base]).exchanging(ExchangeRequest::default());
        let error = client(&attach).get(&upstream.url("/")).await.unwrap_err();
        assert_eq!(inner::<ConfigError>(&error).setting(), "exchanging");
        assert_eq!(upstream.connections(), 0);
    }
}

/// Two layers, one for each API: each leaves the other's requests alone.
#[tokio::test]
async fn two_of_them_get_along() {
    let (one, other) = (Upstream::start(|_| ok()).await, Upstream::start(|_| ok()).await);
    let narrow = Attach::new(session()).exchanging(ExchangeRequest::default());
    let client = super::reqwest_builder().build().unwrap();
    let client = reqwest_middleware::ClientBuilder::new(client)
        .with(attach(&session(), &[&one.base]))
        .with(narrow.to(&one.base).unwrap().to(&other.base).unwrap())
        .build();
    for upstream in [&one, &other] {
        assert_eq!(client.get(upstream.url("/")).send().await.unwrap().status(), 200);
    }
    assert_eq!(
        (one.authorizations(), other.authorizations()),
        (vec!["Bearer T1".into()], vec!["Bearer N1".into()])
    );
}

/// The second grant waits until it is let go.
struct Gated {
    tokens: Tokens,
    asked: Arc<Notify>,
    go: Arc<Notify>,
    is_second: AtomicBool,
}

impl TokenManager for Gated {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        if self.is_second.swap(true, Ordering::SeqCst) {
            self.asked.notify_one();
            self.go.notified().await;
        }
        self.tokens.grant(request).await
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_between_its_two_requests_takes_nothing_with_it() {
    for client in Client::SIDES {
        let upstream = Upstream::start(refuses_the_first).await;
        let (asked, go) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let manager = Gated {
            tokens: Tokens::default(),
            asked: Arc::clone(&asked),
            go: Arc::clone(&go),
            is_second: AtomicBool::new(false),
        };
        let session = Session::builder(manager).spawn().unwrap();
        session.get_token().await.unwrap();
        age();
        let client = client(&attach(&session, &[&upstream.base]));
        let url = upstream.url("/");
        tokio::select! {
            answer = client.get(&url) => panic!("{answer:?}"),
            () = asked.notified() => {}
        }
        assert_eq!(upstream.authorizations(), ["Bearer T1"]);
        go.notify_one();
        assert_eq!(client.status(&url).await, 200, "the grant went on");
        assert_eq!(upstream.authorizations(), ["Bearer T1", "Bearer T2"]);
        assert_eq!(session.status().held(), 0);
    }
}
