//! Managers that are made from one: what they share, what each has of its own, and what they cost.

use allocation_counter::measure;
use ccg_session::testing::{Authority, Kind};
use ccg_session::{
    ClientAuth, GrantRequest, HttpTokenManager, Provider, Session, Subject, TokenError,
    TokenManager,
};

fn of(provider: Provider) -> HttpTokenManager {
    HttpTokenManager::builder(provider, "test-client", "test-secret").build().unwrap()
}

async fn grant(manager: &HttpTokenManager) -> String {
    let grant = manager.grant(GrantRequest::default()).await.unwrap();
    grant.text().expose().to_owned()
}

#[tokio::test]
async fn each_manager_asks_for_its_own_subject_and_scopes() {
    let authority = Authority::builder().user("1").user("2").start().await.unwrap();
    let base = authority.manager().unwrap();
    let (one, two) = (base.for_subject(Subject::user("1")), base.for_subject(Subject::user("2")));
    let narrow = one.with_scopes(["item_preview", " item_upload\n"]);
    let managers = [&one, &two, &base, &narrow];
    let (a, b, c, d) = tokio::join!(grant(&one), grant(&two), grant(&base), grant(&narrow));
    assert!(a != b && b != c && c != d);
    let requests = authority.requests();
    for (manager, kind, id, scope) in [
        (0, "user", "1", None),
        (1, "user", "2", None),
        (2, "enterprise", authority.enterprise(), None),
        (3, "user", "1", Some("item_preview item_upload")),
    ] {
        let is_alike = |request: &&ccg_session::testing::ReceivedRequest| {
            let params =
                ["box_subject_type", "box_subject_id", "scope"].map(|name| request.param(name));
            params == [Some(kind), Some(id), scope]
        };
        assert_eq!(requests.iter().filter(is_alike).count(), 1, "{:?}", managers[manager]);
    }
    // One that has asked goes on asking for the same.
    grant(&one).await;
    assert_eq!(authority.requests().last().unwrap().param("box_subject_id"), Some("1"));
}

#[tokio::test]
async fn what_is_no_subject_or_no_scope_is_refused_before_anything_is_sent() {
    let authority = Authority::start().await.unwrap();
    let boxed = authority.manager().unwrap();
    let generic = of(Provider::generic(authority.token_url()));
    for (manager, setting, expected) in [
        (boxed.for_subject(Subject::user(" ")), "subject", "has an empty id"),
        (boxed.for_subject(Subject::enterprise("1\n2")), "subject", "has a blank, a line break"),
        (generic.for_subject(Subject::user("1")), "subject", "which only Box has"),
        (generic.with_scopes(["a", "b\nc"]), "scope", "has a blank, a line break"),
        (generic.with_scopes(["a\u{200b}b"]), "scope", "has a blank, a line break"),
    ] {
        let error = manager.grant(GrantRequest::default()).await.unwrap_err();
        let is_unsent = matches!(error, TokenError::Denied { status: 0, .. });
        assert!(is_unsent && error.to_string().contains(expected), "{error}");
        let error = Session::builder(manager).spawn().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.setting(), setting);
    }
    assert_eq!(authority.counts().of(Kind::Grant), 0);
}

#[tokio::test]
async fn managers_that_are_made_from_one_share_its_discovery() {
    let authority = Authority::start().await.unwrap();
    let base = of(Provider::discover(authority.base_url()).client_auth(ClientAuth::Basic));
    let others =
        ["item_preview", "item_upload", "item_download"].map(|scope| base.with_scopes([scope]));
    let [one, two, three] = &others;
    tokio::join!(grant(one), grant(two), grant(three));
    grant(&base).await;
    let counts = authority.counts();
    assert_eq!((counts.discoveries, counts.grants), (1, 4));
}

/// What a pool of them costs while nothing is asked.
#[tokio::test]
async fn five_thousand_sessions_share_one_client() {
    let base = of(Provider::box_ccg(Subject::enterprise("12345")));
    let mut sessions = Vec::with_capacity(5_000);
    let counted = measure(|| {
        sessions.extend((0..5_000).map(|id| {
            let manager = base.for_subject(Subject::user(format!("user-{id}")));
            Session::builder(manager).spawn().unwrap()
        }));
    });
    println!("5,000 sessions: {counted:?}");
    assert!(counted.bytes_current <= 5_000 * 5_632, "{counted:?}");
    assert!(counted.count_total <= 5_000 * 64, "{counted:?}");
}

/// Each with a client of its own took 40 ms and 142 KiB.
#[test]
fn five_thousand_subjects_cost_little_more_than_one() {
    let base = of(Provider::box_ccg(Subject::enterprise("12345")));
    let mut managers = Vec::with_capacity(5_000);
    let counted = measure(|| {
        managers.extend((0..5_000).map(|id| base.for_subject(Subject::user(format!("user-{id}")))));
    });
    assert_eq!(managers.len(), 5_000);
    println!("5,000 managers: {counted:?}");
    // An id each, and the two texts that are formatted and cloned on the way.
    assert!(counted.bytes_current <= 5_000 * 64, "{counted:?}");
    assert!(size_of::<HttpTokenManager>() <= 80, "{}", size_of::<HttpTokenManager>());
    assert!(counted.count_total <= 5_000 * 8, "{counted:?}");
}
