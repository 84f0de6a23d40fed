use std::sync::atomic::AtomicU64;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::*;
use crate::error::SessionError;
use crate::grant::{Grant, TokenText};
use crate::manager::TokenManager;
use crate::request::{ExchangeRequest, GrantRequest, TokenRequestOptions};
use crate::session::Session;
use crate::token::AccessToken;

/// What the exporter shows of what is recorded on this thread until the guard is dropped.
struct Scraped<'a> {
    exporter: PrometheusHandle,
    _guard: metrics::LocalRecorderGuard<'a>,
}

impl Scraped<'_> {
    fn new() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let exporter = recorder.handle();
        Scraped { exporter, _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// `what` is a name, and labels in the order that they are given here.
    fn value(&self, what: &str) -> Option<f64> {
        let scrape = self.exporter.render();
        let line = scrape.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    fn expect(&self, what: &str, value: f64) {
        let shown = self.value(what);
        let is_so = shown.is_some_and(|shown| (shown - value).abs() < 1e-6);
        assert!(is_so, "{what}: {shown:?}, not {value}, in\n{}", self.exporter.render());
    }
}

/// Gives what it is told to, one after the other, and after that good tokens.
#[derive(Default)]
struct Manager(Mutex<Vec<Result<Duration, TokenError>>>);

const HOUR: Duration = Duration::from_secs(3_600);

impl Manager {
    fn new(answers: impl IntoIterator<Item = Result<Duration, TokenError>>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        Self(Mutex::new(answers))
    }
}

impl TokenManager for Manager {
    async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let life = locked(&self.0).pop().unwrap_or(Ok(HOUR))?;
        let number = fastrand::u64(..);
        Ok(Grant::bearer(format!("token-{number}"))?.expires_in(life))
    }

    async fn exchange(&self, _: AccessToken, _: ExchangeRequest) -> Result<Grant, TokenError> {
        Err(TokenError::malformed("not JSON"))
    }

    async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
        Ok(())
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

/// A new counter does not compile before it is here.
#[test]
fn every_counter_of_the_status_is_in_a_scrape() {
    let scraped = Scraped::new();
    let counters = Counters {
        grants_started: 1,
        grants_failed: 2,
        exchanges_started: 3,
        exchanges_failed: 4,
        revocations_started: 5,
        revocations_failed: 6,
        revokes: 7,
        invalidations: 8,
        overloaded: 9,
        ledger_evicted: 10,
        held_max: 11,
    };
    let shown = Metrics::new(&"every".into(), 1);
    let after = Facts { counters, ..Facts::default() };
    for kind in 0..3 {
        for _ in 0..failed(&counters, kind) {
            let (outcome, took) = ("server", Duration::ZERO);
            shown.ended(&Measured { kind, outcome, failed: 0, took }, &counters);
        }
    }
    shown.changed(&Facts::default(), &after);
    shown.changed(&after, &after);
    let started = |kind| format!("{STARTED}{{session=\"every\",kind=\"{kind}\"}}");
    let failed =
        |kind| format!("{ATTEMPTS}{{session=\"every\",kind=\"{kind}\",outcome=\"server\"}}");
    let other = |name| format!("{name}{{session=\"every\"}}");
    let Counters {
        grants_started,
        grants_failed,
        exchanges_started,
        exchanges_failed,
        revocations_started,
        revocations_failed,
        revokes,
        invalidations,
        overloaded,
        ledger_evicted,
        held_max,
    } = counters;
    for (what, value) in [
        (started("grant"), grants_started),
        (failed("grant"), grants_failed),
        (started("exchange"), exchanges_started),
        (failed("exchange"), exchanges_failed),
        (started("revocation"), revocations_started),
        (failed("revocation"), revocations_failed),
        (other("ccg_session_revokes_total"), revokes),
        (other("ccg_session_invalidations_total"), invalidations),
        (other("ccg_session_overloaded_total"), overloaded),
        (other("ccg_session_ledger_evicted_total"), ledger_evicted),
        (other("ccg_session_held_callers_max"), held_max as u64),
    ] {
        scraped.expect(&what, exactly(usize::try_from(value).unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_by_how_they_end() {
    let scraped = Scraped::new();
    let answers = [
        Err(TokenError::server(503, None)),
        // Dead when it arrived, which the session knows and the manager does not.
        Ok(Duration::ZERO),
        Ok(HOUR),
    ];
    let session = Session::builder(Manager::new(answers)).name("box").spawn().unwrap();
    let token = session.get_token().await.unwrap();
    let _ = session.exchange(ExchangeRequest::scopes(["narrow"])).await.unwrap_err();
    assert!(session.invalidate(&token));
    session.get_token().await.unwrap();
    session.revoke().await.unwrap();
    for (kind, outcome, times) in [
        ("grant", "server", 1.0),
        ("grant", "expired", 1.0),
        ("grant", "ok", 2.0),
        ("exchange", "malformed", 3.0),
        ("revocation", "ok", 2.0),
    ] {
        let labels = format!("session=\"box\",kind=\"{kind}\",outcome=\"{outcome}\"");
        scraped.expect(&format!("{ATTEMPTS}{{{labels}}}"), times);
    }
    let duration = |what| format!("{DURATION}_{what}{{session=\"box\",kind=\"grant\"}}");
    scraped.expect(&duration("count"), 4.0);
    scraped.expect(&duration("sum"), 0.4);
    scraped.expect("ccg_session_invalidations_total{session=\"box\"}", 1.0);
    scraped.expect("ccg_session_revokes_total{session=\"box\"}", 1.0);
}

#[tokio::test(start_paused = true)]
async fn gauges_of_one_name_are_sums_and_end_with_their_sessions() {
    let scraped = Scraped::new();
    let spawn = |life| {
        let manager = Manager::new([Ok(life)]);
        Session::builder(manager).name("sums").spawn().unwrap()
    };
    let sessions = [spawn(HOUR), spawn(HOUR * 2)];
    let calls: Vec<_> = sessions
        .iter()
        .flat_map(|session| [session.clone(), session.clone()])
        .map(|session| tokio::spawn(async move { session.get_token().await.map(drop) }))
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let phase = |phase| format!("{PHASE}{{session=\"sums\",phase=\"{phase}\"}}");
    let (held, expiry) =
        (format!("{HELD}{{session=\"sums\"}}"), format!("{EXPIRY}{{session=\"sums\"}}"));
    scraped.expect(&held, 4.0);
    scraped.expect(&phase("holding"), 2.0);
    assert_eq!(scraped.value(&expiry), None);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    scraped.expect(&held, 0.0);
    scraped.expect(&phase("holding"), 0.0);
    scraped.expect(&phase("fresh"), 2.0);
    let left = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        scraped.value(&expiry).unwrap() - now.as_secs_f64()
    };
    assert!((3_590.0..=3_600.0).contains(&left()), "the first of the two: {}", left());
    sessions[0].shutdown().await;
    scraped.expect(&phase("fresh"), 1.0);
    assert!((7_190.0..=7_200.0).contains(&left()), "the other: {}", left());
    sessions[1].shutdown().await;
    scraped.expect(&phase("fresh"), 0.0);
    scraped.expect(&expiry, 0.0);
}

#[test]
fn an_expiry_in_the_past_does_not_hide_one_to_come() {
    let named = Named::of(&"past".into());
    let now = 1_000_000;
    let first = |session, before, expiry| {
        named.expires(session, before, expiry);
        named.first_expiry(now)
    };
    assert_eq!(first(1, None, Some(now - 5)), Some(now - 5), "there is no other");
    assert_eq!(first(2, None, Some(now - 3)), Some(now - 3));
    assert_eq!(first(3, None, Some(now + 60_000)), Some(now + 60_000));
    assert_eq!(first(4, None, Some(now + 50_000)), Some(now + 50_000));
    assert_eq!(first(1, Some(now - 5), Some(now + 40_000)), Some(now + 40_000));
    assert_eq!(first(1, Some(now + 40_000), None), Some(now + 50_000));
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_is_installed_late_shows_gauges_as_they_are() {
    let session = Session::builder(Manager::default()).name("late").spawn().unwrap();
    session.get_token().await.unwrap();
    let scraped = Scraped::new();
    let other = Session::builder(Manager::default()).name("late").spawn().unwrap();
    other.get_token().await.unwrap();
    let phase = |phase| format!("{PHASE}{{session=\"late\",phase=\"{phase}\"}}");
    scraped.expect(&phase("fresh"), 2.0);
    session.shutdown().await;
    scraped.expect(&phase("fresh"), 1.0);
    scraped.expect(&format!("{HELD}{{session=\"late\"}}"), 0.0);
    other.shutdown().await;
    scraped.expect(&phase("fresh"), 0.0);
}

#[test]
fn sums_are_right_whoever_shows_them_last() {
    let (sum, gauge) = (Sum::default(), Arc::new(AtomicU64::new(0)));
    let shown = Gauge::from_arc(Arc::clone(&gauge));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    sum.change(0, 1);
                    show(|| shown.clone(), || sum.get());
                }
            });
        }
    });
    assert!((f64::from_bits(gauge.load(Relaxed)) - 80_000.0).abs() < 1e-6);
}

#[test]
fn names_that_nobody_uses_are_forgotten() {
    let kept = Named::of(&"kept".into());
    let mut last = None;
    for number in 0..1_000 {
        last = Some(Named::of(&format!("name-{number}").into()));
    }
    assert!(Arc::ptr_eq(&kept, &Named::of(&"kept".into())));
    // Two, those of tests beside this one, and up to 64 that are to be looked at.
    assert!(Arc::weak_count(&last.unwrap()) == 1);
    assert!(locked(&NAMES).all.len() < 200);
}

#[cfg(feature = "pool")]
#[tokio::test(start_paused = true)]
async fn a_pool_shows_its_sessions_and_why_they_left() {
    let scraped = Scraped::new();
    let pool = crate::SessionPool::builder(|_: &u8| Ok(Session::builder(Manager::default())))
        .capacity(2)
        .idle(Duration::from_secs(10))
        .name("pooled")
        .build()
        .unwrap();
    for tenant in 0..3 {
        pool.get(&tenant).unwrap().get_token().await.unwrap();
    }
    let evicted = |why| format!("{EVICTED}{{session=\"pooled\",why=\"{why}\"}}");
    let sessions = format!("{SESSIONS}{{session=\"pooled\"}}");
    scraped.expect(&sessions, 2.0);
    scraped.expect(&evicted("full"), 1.0);
    let fresh = format!("{PHASE}{{session=\"pooled\",phase=\"fresh\"}}");
    tokio::time::sleep(Duration::from_secs(13)).await;
    scraped.expect(&sessions, 0.0);
    scraped.expect(&evicted("idle"), 2.0);
    scraped.expect(&fresh, 0.0);
    pool.get(&4).unwrap();
    scraped.expect(&sessions, 1.0);
    drop(pool);
    scraped.expect(&sessions, 0.0);
    let default = format!("{SESSIONS}{{session=\"default\"}}");
    assert_eq!(scraped.value(&default), None, "of a pool that there is not");
}

/// A new one of its counts does not compile before it is here.
#[cfg(feature = "pool")]
#[tokio::test(start_paused = true)]
async fn every_count_of_a_pools_status_is_in_a_scrape() {
    let scraped = Scraped::new();
    let maker = |_: &u8| {
        let down = || Err(TokenError::server(503, None));
        Ok(Session::builder(Manager::new(std::iter::repeat_with(down).take(9))))
    };
    let pool = crate::SessionPool::builder(maker).capacity(7).attempts_at_once(2);
    let pool = pool.name("status").build().unwrap();
    let held: Vec<_> = (0..7).map(|tenant| pool.get(&tenant).unwrap()).collect();
    pool.get(&9).unwrap_err();
    let calls: Vec<_> = held
        .iter()
        .cloned()
        .map(|session| tokio::spawn(async move { session.get_token().await.map(drop) }))
        .collect();
    let counted = |number: u64| exactly(usize::try_from(number).unwrap());
    let compare = || {
        let crate::PoolStatus {
            sessions,
            capacity: _,
            made,
            evicted_full: _,
            evicted_idle: _,
            refused_full,
            attempts_waiting,
            attempts_out,
            attempts_refused,
            rests,
        } = pool.status();
        let label = "session=\"status\"";
        scraped.expect(&format!("{SESSIONS}{{{label}}}"), exactly(sessions));
        scraped.expect(&format!("{MADE}{{{label}}}"), counted(made));
        scraped.expect(&format!("{REFUSED}{{{label}}}"), counted(refused_full));
        let gate = |state| format!("{AT_THE_GATE}{{{label},state=\"{state}\"}}");
        scraped.expect(&gate("waiting"), exactly(attempts_waiting));
        scraped.expect(&gate("out"), exactly(attempts_out));
        scraped.expect(&format!("{RESTING}{{{label}}}"), exactly(usize::from(rests.is_some())));
        if attempts_refused > 0 {
            scraped.expect(&format!("{REFUSED_ATTEMPTS}{{{label}}}"), counted(attempts_refused));
        }
        (attempts_waiting > 0, attempts_refused > 0, rests.is_some())
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(compare(), (true, false, false));
    tokio::time::sleep(Duration::from_millis(1_950)).await;
    let (_, refused, rests) = compare();
    assert!(refused && rests, "{:?}", pool.status());
    drop(held);
    pool.shutdown().await;
    for call in calls {
        let _ = call.await.unwrap();
    }
    compare();
    drop(pool);
    tokio::task::yield_now().await;
    scraped.expect(&format!("{RESTING}{{session=\"status\"}}"), 0.0);
}

macro_rules! describes_nothing {
    () => {
        describes_nothing!(describe_counter, describe_gauge, describe_histogram);
    };
    ($($method:ident),*) => {$(
        fn $method(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
        }
    )*};
}

/// A recorder of somebody's that asks the pool for something.
#[cfg(feature = "pool")]
struct Asks(std::sync::OnceLock<crate::SessionPool<u8>>, AtomicUsize);

#[cfg(feature = "pool")]
impl Asks {
    fn ask(&self) {
        // Not when it asks itself.
        if let Some(pool) = self.0.get()
            && self.1.fetch_add(1, Relaxed) == 0
        {
            pool.status();
            pool.get(&0).unwrap();
            pool.remove(&200);
            self.1.store(0, Relaxed);
        }
    }
}

#[cfg(feature = "pool")]
impl metrics::Recorder for Asks {
    describes_nothing!();

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        self.ask();
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> Gauge {
        self.ask();
        Gauge::noop()
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[cfg(feature = "pool")]
#[tokio::test(start_paused = true)]
async fn a_recorder_runs_under_no_lock_of_the_pool() {
    let recorder = Asks(std::sync::OnceLock::new(), AtomicUsize::new(0));
    let _guard = metrics::set_default_local_recorder(&recorder);
    let pool = crate::SessionPool::builder(|_: &u8| Ok(Session::builder(Manager::default())))
        .capacity(4)
        .build()
        .unwrap();
    recorder.0.set(pool.clone()).unwrap_or_else(|_| panic!("it is set once"));
    let _held = pool.get(&0).unwrap();
    for tenant in 1..20 {
        pool.get(&tenant).unwrap().get_token().await.unwrap();
    }
    pool.shutdown().await;
}

/// A recorder of somebody's that has a bug, if not for gauges.
struct Panics<R>(Option<R>);

impl<R: metrics::Recorder> metrics::Recorder for Panics<R> {
    describes_nothing!();

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        panic!("no counter")
    }

    fn register_gauge(&self, key: &metrics::Key, metadata: &metrics::Metadata<'_>) -> Gauge {
        self.0.as_ref().expect("no gauge").register_gauge(key, metadata)
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        panic!("no histogram")
    }
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_panics_ends_no_session() {
    let _guard = metrics::set_default_local_recorder(&Panics::<PrometheusRecorder>(None));
    let session = Session::builder(Manager::new([Err(TokenError::server(500, None))]));
    let session = session.spawn().unwrap();
    session.get_token().await.unwrap();
    session.revoke().await.unwrap();
    session.get_token().await.unwrap();
    session.shutdown().await;
    assert!(matches!(session.get_token().await, Err(SessionError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn what_panics_in_a_recorder_is_missing_alone() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    let recorder = Panics(Some(recorder));
    let _guard = metrics::set_default_local_recorder(&recorder);
    let session = Session::builder(Manager::new([])).name("gauges").spawn().unwrap();
    session.get_token().await.unwrap();
    let scrape = exporter.render();
    let held = |held| format!("{HELD}{{session=\"gauges\"}} {held}\n");
    assert!(scrape.contains(&held(0)), "{scrape}");
    let fresh = format!("{PHASE}{{session=\"gauges\",phase=\"fresh\"}} 1\n");
    assert!(scrape.contains(&fresh), "{scrape}");
}

/// The names in the table of the module's docs.
fn documented() -> BTreeSet<&'static str> {
    let docs =
        include_str!("../metrics.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
    docs.filter_map(|row| row.split('`').next()).collect()
}

/// The names in `text`, without what a histogram adds to its.
fn named_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let names = words.filter(|word| word.starts_with("ccg_session_"));
    let bare = |name: &'_ str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end).map(str::len))
    };
    names.map(|name| bare(name).map_or(name, |length| &name[..length])).collect()
}

#[test]
fn what_is_recorded_is_what_is_documented() {
    let tests_aside = include_str!("../metrics.rs").lines().filter(|line| !line.starts_with("//!"));
    let code: String = tests_aside.collect::<Vec<_>>().join("\n");
    assert_eq!(named_in(&code), documented());
    assert_eq!(documented().len(), 18);
}

#[test]
fn the_dashboard_and_the_alerts_show_what_there_is() {
    let dashboard = include_str!("../../examples/dashboard.json");
    let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = parsed["panels"].as_array().unwrap();
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(
            targets.iter().all(|target| !named_in(target["expr"].as_str().unwrap()).is_empty())
        );
    }
    let shown = named_in(dashboard);
    assert_eq!(shown, documented(), "the dashboard shows each, and nothing else");
    let alerts = named_in(include_str!("../../examples/alerts.yaml"));
    assert!(!alerts.is_empty() && alerts.is_subset(&documented()), "{alerts:?}");
}
