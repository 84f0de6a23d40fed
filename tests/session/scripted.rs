//! A token manager whose answers the test gives: by hand and in any order, or by a rule. What it was
//! asked is what the endpoint saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ccg_session::{
    AccessToken, ExchangeRequest, Grant, GrantRequest, TokenError, TokenManager,
    TokenRequestOptions, TokenText,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The manager, and the other end of it.
pub fn scripted() -> (Scripted, Endpoint) {
    let (sender, calls) = mpsc::unbounded_channel();
    let grants = Arc::<Gauge>::default();
    let manager = Scripted { calls: sender, grants: Arc::clone(&grants) };
    (manager, Endpoint { calls, grants })
}

/// For sessions that can exchange and revoke.
#[derive(Debug)]
pub struct Scripted {
    calls: mpsc::UnboundedSender<Call>,
    grants: Arc<Gauge>,
}

/// What an attempt asks for.
#[derive(Debug)]
pub enum Asked {
    Grant(GrantRequest),
    Exchange(AccessToken, ExchangeRequest),
    Revocation(TokenText, TokenRequestOptions),
}

/// An attempt on the wire.
#[derive(Debug)]
pub struct Call {
    pub asked: Asked,
    /// When it came.
    pub at: Instant,
    /// Its other end lives in the manager's future, and is dropped with it.
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
enum Answer {
    Token(Grant),
    Revoked,
    Error(TokenError),
    Panic,
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Counts one for as long as it lives.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        let now = gauge.now.fetch_add(1, Ordering::SeqCst) + 1;
        gauge.most.fetch_max(now, Ordering::SeqCst);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    /// An endpoint that has gone away never answers.
    async fn call(&self, asked: Asked) -> Answer {
        let (answer, answered) = oneshot::channel();
        let _ = self.calls.send(Call { asked, at: Instant::now(), answer });
        match answered.await {
            // A panic, without the words that it would print.
            Ok(Answer::Panic) => std::panic::resume_unwind(Box::new("as the script wants it")),
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    async fn token(&self, asked: Asked) -> Result<Grant, TokenError> {
        match self.call(asked).await {
            Answer::Token(grant) => Ok(grant),
            Answer::Error(error) => Err(error),
            other => unreachable!("{other:?} is no answer to this"),
        }
    }
}

impl TokenManager for Scripted {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let _counted = Counted::new(&self.grants);
        self.token(Asked::Grant(request)).await
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        self.token(Asked::Exchange(subject, request)).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        match self.call(Asked::Revocation(token, options)).await {
            Answer::Revoked => Ok(()),
            Answer::Error(error) => Err(error),
            other => unreachable!("{other:?} is no answer to this"),
        }
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        true
    }
}

/// The test's end: what a server would see.
#[derive(Debug)]
pub struct Endpoint {
    calls: mpsc::UnboundedReceiver<Call>,
    grants: Arc<Gauge>,
}

impl Endpoint {
    /// The next attempt; on a paused clock, an hour without one is a failure.
    pub async fn next(&mut self) -> Call {
        let call = tokio::time::timeout(Duration::from_secs(3600), self.calls.recv()).await;
        call.expect("no attempt within an hour").expect("the session has ended")
    }

    pub async fn grant(&mut self) -> Call {
        let call = self.next().await;
        assert!(matches!(call.asked, Asked::Grant(_)), "{call:?}");
        call
    }

    pub async fn exchange(&mut self) -> Call {
        let call = self.next().await;
        assert!(matches!(call.asked, Asked::Exchange(..)), "{call:?}");
        call
    }

    pub async fn revocation(&mut self) -> Call {
        let call = self.next().await;
        assert!(matches!(call.asked, Asked::Revocation(..)), "{call:?}");
        call
    }

    /// The next attempt, for a test that polls.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Call>> {
        self.calls.poll_recv(context)
    }

    /// Waits until every task is idle, and says that nothing was sent meanwhile.
    pub async fn is_quiet(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Ok(call) = self.calls.try_recv() {
            panic!("nothing should be sent, but {call:?}");
        }
    }

    /// Waits until the session has ended, and says that it sent nothing more.
    pub async fn calls_are_over(&mut self) {
        if let Some(call) = self.calls.recv().await {
            panic!("nothing should be sent, but {call:?}");
        }
    }

    /// The most grants that were ever on the wire at once.
    pub fn grants_on_wire_max(&self) -> usize {
        self.grants.most.load(Ordering::SeqCst)
    }

    /// Answers everything by this rule from now on; gives what came once the session has ended.
    pub fn serve(mut self, mut rule: impl FnMut(Call) + Send + 'static) -> JoinHandle<Served> {
        tokio::spawn(async move {
            let mut served = Served::default();
            while let Some(call) = self.calls.recv().await {
                match &call.asked {
                    Asked::Grant(_) => served.grants.push(call.at),
                    Asked::Exchange(..) => served.exchanges.push(call.at),
                    Asked::Revocation(token, _) => {
                        served.revocations.push((call.at, token.expose().to_owned()));
                    }
                }
                rule(call);
            }
            served.grants_on_wire_max = self.grants_on_wire_max();
            served
        })
    }
}

/// What an endpoint has seen.
#[derive(Debug, Default)]
pub struct Served {
    pub grants: Vec<Instant>,
    pub exchanges: Vec<Instant>,
    pub revocations: Vec<(Instant, String)>,
    pub grants_on_wire_max: usize,
}

impl Call {
    /// A token that lives so long.
    pub fn token(self, text: &str, life: Duration) {
        let grant = Grant::bearer(text).unwrap().expires_in(life);
        self.give(Answer::Token(grant));
    }

    pub fn revoked(self) {
        self.give(Answer::Revoked);
    }

    pub fn fail(self, error: TokenError) {
        self.give(Answer::Error(error));
    }

    /// The manager panics.
    pub fn panic(self) {
        self.give(Answer::Panic);
    }

    /// The session no longer waits for it, which is fine.
    fn give(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }

    /// The text of the token to be revoked, or to be exchanged.
    pub fn about(&self) -> &str {
        match &self.asked {
            Asked::Revocation(token, _) => token.expose(),
            Asked::Exchange(subject, _) => subject.secret(),
            Asked::Grant(_) => panic!("a grant is about no token"),
        }
    }

    pub fn options(&self) -> Option<&TokenRequestOptions> {
        match &self.asked {
            Asked::Grant(request) => Some(&request.options),
            Asked::Revocation(_, options) => Some(options),
            Asked::Exchange(..) => None,
        }
    }

    /// The token that the endpoint must not answer with.
    pub fn refused(&self) -> Option<&str> {
        match &self.asked {
            Asked::Grant(request) => request.refused.as_ref().map(TokenText::expose),
            _ => None,
        }
    }

    /// Whether the session has dropped the request.
    pub fn is_dropped(&self) -> bool {
        self.answer.is_closed()
    }

    /// Waits until the session drops the request.
    pub async fn dropped(&mut self) {
        self.answer.closed().await;
    }
}
