//! No libraries: the least that could do the job on this machine, and what shows whether the machine
//! was there at all.

use std::cell::RefCell;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};

use arc_swap::{ArcSwap, ArcSwapOption};
use ccg_session::{Grant, GrantRequest, HttpTokenManager, TokenError, TokenManager};
use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};

use super::ours;
use crate::harness::{Setting, Subject, boottime};

/// What the primitives hand out.
pub struct Token {
    header: HeaderValue,
    expires_at: u64,
}

impl Token {
    fn new() -> Arc<Self> {
        Arc::new(Self { header: header("x".repeat(1_024).as_bytes()), expires_at: u64::MAX })
    }

    /// The same with counts of its own.
    fn copy(&self) -> Arc<Self> {
        Arc::new(Self { header: header(self.header.as_bytes()), expires_at: self.expires_at })
    }
}

/// A clone, since the first of a `HeaderValue` is slower to clone than its clones are.
fn header(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).expect("letters").clone()
}

/// The harness itself.
pub struct EmptyLoop;

impl Subject for EmptyLoop {
    const NAME: &'static str = "control: empty loop";
    type Token = ();
    type Error = Infallible;

    async fn new(_setting: &Setting) -> Self {
        Self
    }

    async fn get(&self) -> Result<(), Infallible> {
        Ok(())
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// The clock, which shares nothing between threads.
pub struct ClockRead;

impl Subject for ClockRead {
    const NAME: &'static str = "control: CLOCK_BOOTTIME";
    type Token = u64;
    type Error = Infallible;

    async fn new(_setting: &Setting) -> Self {
        Self
    }

    async fn get(&self) -> Result<u64, Infallible> {
        Ok(boottime())
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// All threads read one number; each has its own copy of the token, so that even the count of those who
/// hold it is private.
pub struct ThreadLocal {
    generation: AtomicU64,
    current: ArcSwap<Token>,
}

thread_local! {
    static COPY: RefCell<(u64, Option<Arc<Token>>)> = const { RefCell::new((0, None)) };
}

impl Subject for ThreadLocal {
    const NAME: &'static str = "floor: thread-local + CLOCK_BOOTTIME + Arc clone";
    type Token = Arc<Token>;
    type Error = &'static str;

    async fn new(_setting: &Setting) -> Self {
        Self { generation: AtomicU64::new(1), current: ArcSwap::new(Token::new()) }
    }

    async fn get(&self) -> Result<Arc<Token>, &'static str> {
        COPY.with_borrow_mut(|(generation, copy)| {
            let current = self.generation.load(Acquire);
            if *generation != current || copy.is_none() {
                (*generation, *copy) = (current, Some(self.current.load().copy()));
            }
            let usable = copy.as_ref().filter(|token| boottime() < token.expires_at);
            usable.cloned().ok_or("expired")
        })
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// The same, and then what a request takes along: the header's value, which counts for itself.
pub struct ThreadLocalHeader(ThreadLocal);

impl Subject for ThreadLocalHeader {
    const NAME: &'static str = "floor, header value cloned";
    type Token = HeaderValue;
    type Error = &'static str;

    async fn new(setting: &Setting) -> Self {
        Self(ThreadLocal::new(setting).await)
    }

    async fn get(&self) -> Result<HeaderValue, &'static str> {
        Ok(self.0.get().await?.header.clone())
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// The natural way: one `Arc` behind an `ArcSwap`, cloned for each caller.
pub struct SharedArc(ArcSwap<Token>);

impl Subject for SharedArc {
    const NAME: &'static str = "ArcSwap + CLOCK_BOOTTIME + Arc clone";
    type Token = Arc<Token>;
    type Error = &'static str;

    async fn new(_setting: &Setting) -> Self {
        Self(ArcSwap::new(Token::new()))
    }

    async fn get(&self) -> Result<Arc<Token>, &'static str> {
        let token = self.0.load();
        if boottime() < token.expires_at { Ok(Arc::clone(&token)) } else { Err("expired") }
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        scenario == "hot"
    }
}

/// A mailbox, a queue of one-shot senders, a snapshot and one real request: the shape of this crate's
/// slow path with no rule in it.
pub struct Actor {
    mailbox: mpsc::UnboundedSender<oneshot::Sender<Answer>>,
    snapshot: Arc<ArcSwapOption<(Arc<Grant>, u64)>>,
}

type Answer = Result<Arc<Grant>, TokenError>;

impl Subject for Actor {
    const NAME: &'static str = "floor-actor";
    type Token = Arc<Grant>;
    type Error = TokenError;

    async fn new(setting: &Setting) -> Self {
        let (mailbox, waiting) = mpsc::unbounded_channel();
        let snapshot = Arc::new(ArcSwapOption::empty());
        tokio::spawn(act(ours::manager(&setting.token_url), waiting, Arc::clone(&snapshot)));
        Self { mailbox, snapshot }
    }

    async fn get(&self) -> Answer {
        if let Some(token) = &*self.snapshot.load()
            && boottime() < token.1
        {
            return Ok(Arc::clone(&token.0));
        }
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(reply).expect("the actor lives as long as this");
        answer.await.expect("the actor answers everybody")
    }

    fn plays(scenario: &str, _case: usize) -> bool {
        matches!(scenario, "hot" | "stampede" | "leave")
    }
}

async fn act(
    manager: HttpTokenManager,
    mut mailbox: mpsc::UnboundedReceiver<oneshot::Sender<Answer>>,
    snapshot: Arc<ArcSwapOption<(Arc<Grant>, u64)>>,
) {
    let manager = Arc::new(manager);
    let mut held = Vec::new();
    let (ended, mut results) = mpsc::channel(1);
    loop {
        tokio::select! {
            message = mailbox.recv() => {
                let Some(reply) = message else { return };
                if held.is_empty() {
                    let (manager, ended) = (Arc::clone(&manager), ended.clone());
                    tokio::spawn(async move {
                        let _ = ended.send(manager.grant(GrantRequest::default()).await).await;
                    });
                }
                held.push(reply);
            }
            Some(result) = results.recv() => {
                let answer = result.map(Arc::new);
                if let Ok(token) = &answer {
                    let expires_at = boottime() + 3_600 * 1_000_000_000;
                    snapshot.store(Some(Arc::new((Arc::clone(token), expires_at))));
                }
                for reply in std::mem::take(&mut held) {
                    let _ = reply.send(black_box(answer.clone()));
                }
            }
        }
    }
}
