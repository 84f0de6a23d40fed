//! A replica: a process with one session over the store, and callers that ask it for tokens until it is told
//! to end, or whoever started it has gone.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::stdin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ccg_session::{
    AccessToken, Fleet, Grant, GrantRequest, HttpTokenManager, Provider, Session, SessionError,
    SessionHandle, Store, Subject, TokenError, TokenManager, TokenRequestOptions, TokenText,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::STORE_TIMEOUT;
use super::line::{Assignment, Met, Order, Place, Told, What, now};
use super::store::{NAMESPACE, is_missing};
use crate::failure::Failure;
use crate::{output, provider};

const CALLERS: usize = 8;
/// Between two calls of one of them.
const PAUSE: Duration = Duration::from_millis(10);
const TELL_EACH: Duration = Duration::from_millis(100);

pub(crate) fn run() -> Result<(), Failure> {
    let mut first = String::new();
    let _ = stdin().read_line(&mut first);
    let assignment: Assignment = serde_json::from_str(&first).map_err(|_| {
        Failure::Usage("a replica is started by `demo --replicas`, and of no use by itself".into())
    })?;
    let orders = orders()?;
    provider::runtime()?.block_on(async {
        match &assignment.place {
            #[cfg(target_os = "linux")]
            Place::Directory(path) => {
                live(ccg_session::FileStore::open(path)?, &assignment, orders).await
            }
            #[cfg(feature = "redis")]
            Place::Redis(url) => {
                let store = ccg_session::RedisStore::connect(url.as_str()).build()?;
                live(store, &assignment, orders).await
            }
            #[allow(unreachable_patterns, reason = "with all features on Linux both are there")]
            place => Err(is_missing(place)),
        }
    })
}

/// Ends when stdin does: then who started this has gone.
fn orders() -> Result<UnboundedReceiver<Order>, Failure> {
    let (tell, orders) = unbounded_channel();
    let read = move || {
        for line in stdin().lines().map_while(Result::ok) {
            let told = serde_json::from_str(&line).map(|order| tell.send(order));
            if !matches!(told, Ok(Ok(()))) {
                return;
            }
        }
    };
    thread::Builder::new()
        .spawn(read)
        .map_err(|error| Failure::Usage(format!("the system gives no thread: {error}")))?;
    Ok(orders)
}

async fn live<S: Store>(
    store: S,
    assignment: &Assignment,
    mut orders: UnboundedReceiver<Order>,
) -> Result<(), Failure> {
    let Assignment { number, place: _, key, base_url, enterprise, client_id, client_secret } =
        assignment;
    let provider = Provider::box_ccg(Subject::enterprise(enterprise)).base_url(base_url);
    let manager = HttpTokenManager::builder(provider, client_id, client_secret.as_str()).build()?;
    let fleet = Fleet::builder(store, key.as_str()).namespace(NAMESPACE).timeout(STORE_TIMEOUT);
    let fleet = fleet.build()?;
    let manager = fleet.share(Telling(manager)).slot("demo").build()?;
    let session = Session::builder(manager).spawn()?;
    let replica = Arc::new(Replica { number: *number, fleet, session, notes: Mutex::default() });
    let mut callers = JoinSet::new();
    say(What::Ready);
    while let Some(order) = orders.recv().await {
        match order {
            Order::Go => {
                for _ in 0..CALLERS {
                    callers.spawn(Arc::clone(&replica).call_again_and_again());
                }
                callers.spawn(Arc::clone(&replica).tell_again_and_again());
            }
            Order::Revoke => {
                callers.spawn(Arc::clone(&replica).revoke());
            }
            Order::End => {
                callers.shutdown().await;
                replica.session.shutdown().await;
                replica.tell();
                break;
            }
        }
    }
    Ok(())
}

struct Replica<S: Store> {
    number: usize,
    fleet: Fleet<S>,
    session: SessionHandle,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    met: Met,
    seen: HashSet<u64>,
    /// How many tokens had come from the store when the last new one was seen.
    taken: u64,
}

impl<S: Store> Replica<S> {
    async fn call_again_and_again(self: Arc<Self>) {
        loop {
            let asked = now();
            let answer = self.session.get_token().await;
            self.note(asked, answer);
            sleep(PAUSE).await;
        }
    }

    fn note(&self, asked: u64, answer: Result<AccessToken, SessionError>) {
        let at = now();
        self.with(|notes| {
            notes.met.calls += 1;
            let (began, ended) = notes.met.longest;
            if at.saturating_sub(asked) > ended - began {
                notes.met.longest = (asked, at);
            }
            match answer {
                Ok(given) => {
                    let name = name(&given);
                    notes.met.handed.insert(name, at);
                    if notes.seen.insert(name) {
                        let taken = self.fleet.counts().taken;
                        let from_store = taken > notes.taken;
                        notes.taken = taken;
                        say(What::Token { name, from_store });
                    }
                }
                Err(error) => {
                    notes.met.errors += 1;
                    output::note(&format!("replica {}: a caller was told: {error}", self.number));
                }
            }
        });
    }

    async fn tell_again_and_again(self: Arc<Self>) {
        loop {
            sleep(TELL_EACH).await;
            self.tell();
        }
    }

    fn tell(&self) {
        say(What::Met(self.with(|notes| std::mem::take(&mut notes.met))));
    }

    async fn revoke(self: Arc<Self>) {
        if let Ok(token) = self.session.get_token().await {
            say(What::Revokes { name: name(&token) });
        }
        let is_done = self.session.revoke().await.is_ok();
        say(What::Revoked { is_done });
    }

    /// A thread that panicked while it held them has left them whole enough to count on.
    fn with<T>(&self, act: impl FnOnce(&mut Notes) -> T) -> T {
        act(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells tokens apart, the same in each replica, and says nothing of their text.
fn name(token: &AccessToken) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.secret().hash(&mut hasher);
    hasher.finish()
}

/// If nobody reads it any more, then stdin ends too.
fn say(what: What) {
    let _ = output::json(&Told { at: now(), what });
}

/// The real manager, which tells of each grant that is sent: those that come from the store never get here.
#[derive(Debug)]
struct Telling(HttpTokenManager);

impl TokenManager for Telling {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        say(What::Asks);
        let result = self.0.grant(request).await;
        say(What::Answered { is_granted: result.is_ok() });
        result
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        self.0.revoke(token, options).await
    }

    fn can_revoke(&self) -> bool {
        self.0.can_revoke()
    }
}
