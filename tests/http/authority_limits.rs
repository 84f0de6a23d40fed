//! What the embedded authority does not do to whoever runs it: no request makes it slow or big, none that
//! is for another machine is answered, and no time that it is given breaks it.

use std::time::{Duration, Instant};

use ccg_session::testing::{Answer, Authority, Kind, Rule, Script};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The status of the answer to a form that is posted to the token endpoint, with this `Host`.
async fn post(authority: &Authority, host: &str, form: &str) -> u16 {
    post_to(authority, "/oauth2/token", host, form).await
}

/// The same for this request target.
async fn post_to(authority: &Authority, target: &str, host: &str, form: &str) -> u16 {
    let address = authority.base_url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = form.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\n{host}Content-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // One that is refused early may be cut off.
    let _ = stream.write_all(form.as_bytes()).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

const LOCAL: &str = "Host: localhost\r\n";
const GRANT: &str = "grant_type=client_credentials&client_id=test-client&client_secret=test-secret";

#[tokio::test]
async fn a_form_of_many_names_is_refused_at_once() {
    let authority = Authority::start().await.unwrap();
    let many = (0..130_000).map(|number| format!("{number:x}=&")).collect::<Vec<_>>().concat();
    let begun = Instant::now();
    assert_eq!(post(&authority, LOCAL, &many).await, 413);
    // It took minutes, and under the lock.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let as_many = (0..253).map(|number| format!("&p{number}=x")).collect::<Vec<_>>().concat();
    assert_eq!(post(&authority, LOCAL, &format!("{GRANT}{as_many}")).await, 200);
    assert_eq!(post(&authority, LOCAL, &format!("{GRANT}{as_many}&q=x")).await, 413);
    assert_eq!(post(&authority, LOCAL, &format!("{GRANT}&a=1&a=2")).await, 400);
}

#[tokio::test]
async fn the_log_is_bounded_by_bytes() {
    let authority = Authority::start().await.unwrap();
    let big = format!("{GRANT}&p={}", "x".repeat(900_000));
    for _ in 0..40 {
        assert_eq!(post(&authority, LOCAL, &big).await, 200);
    }
    let kept = authority.requests();
    let bytes: usize = kept.iter().map(|request| request.param("p").unwrap().len()).sum();
    assert!((8 << 20..=16 << 20).contains(&bytes), "{bytes} in {}", kept.len());
    assert_eq!(authority.counts().grants, 40, "each is counted all the same");
    assert_eq!(post(&authority, LOCAL, GRANT).await, 200);
    assert_eq!(authority.requests().last().unwrap().param("p"), None, "the last one is there");
}

/// A web page can have its own name lead to this machine, and then read what it is answered.
#[tokio::test]
async fn only_this_machines_own_names_are_answered() {
    let authority = Authority::start().await.unwrap();
    for host in [
        "Host: 127.0.0.1\r\n",
        "Host: 127.0.0.1:80\r\n",
        "Host: [::1]:8080\r\n",
        "Host: localhost\r\n",
        "Host: LOCALHOST:1\r\n",
    ] {
        assert_eq!(post(&authority, host, GRANT).await, 200, "{host}");
    }
    let before = authority.counts();
    for host in [
        "",
        "Host:\r\n",
        "Host: evil.example\r\n",
        "Host: 127.0.0.1.evil.example\r\n",
        "Host: localhost.evil.example:80\r\n",
        "Host: evil.example:127\r\n",
        "Host: 127.0.0.2\r\n",
        "Host: 192.0.2.1\r\n",
        "Host: localhost@evil.example\r\n",
        "Host: evil.example@localhost\r\n",
        "Host: me:secret@localhost:80\r\n",
        "Host: localhost:abc\r\n",
        "Host: localhost:80:80\r\n",
        "Host: localhost:+80\r\n",
        "Host: localhost:65536\r\n",
        "Host: localhost.\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
    ] {
        let status = post(&authority, host, GRANT).await;
        assert!([400, 421].contains(&status), "{host}: {status}");
    }
    for name in ["evil.example", "evil.example@localhost", "localhost:abc"] {
        let target = format!("http://{name}/oauth2/token");
        let status = post_to(&authority, &target, LOCAL, GRANT).await;
        assert!([400, 421].contains(&status), "{target}: {status}");
    }
    assert_eq!(authority.counts(), before, "and nothing was done");
    let whole = "http://localhost:80/oauth2/token";
    assert_eq!(post_to(&authority, whole, LOCAL, GRANT).await, 200);
}

#[tokio::test]
async fn a_time_that_no_clock_can_count_to_is_refused_when_it_is_set_up() {
    let long = Duration::from_secs(101 * 366 * 24 * 60 * 60);
    for times in [long, Duration::MAX] {
        let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE);
        for rule in [
            Rule::new(Kind::Any).from(times),
            Rule::new(Kind::Any).until(times),
            Rule::new(Kind::Any).delay(times),
            Rule::new(Kind::Any).fault(answer.clone().retry_after(times)),
            Rule::new(Kind::Any).fault(answer.retry_after_date(times)),
        ] {
            let started = Authority::builder().script(Script::new().rule(rule)).start().await;
            let error = started.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("a hundred years"), "{error}");
        }
        assert!(Authority::builder().ttl(times).start().await.is_err());
    }
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let later = Answer::new(StatusCode::SERVICE_UNAVAILABLE).retry_after_date(century);
    let script = Script::new().rule(Rule::new(Kind::Grant).requests(1..=1).fault(later));
    let authority = Authority::builder().ttl(century).script(script).start().await.unwrap();
    assert_eq!(post(&authority, LOCAL, GRANT).await, 503);
    assert_eq!(post(&authority, LOCAL, GRANT).await, 200);
}

#[tokio::test]
#[should_panic(expected = "a hundred years")]
async fn nor_is_a_script_that_comes_later() {
    let authority = Authority::start().await.unwrap();
    authority.set_script(Script::new().rule(Rule::new(Kind::Any).delay(Duration::MAX)));
}
