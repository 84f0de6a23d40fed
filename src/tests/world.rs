//! A session on the real actor, and all around it: tasks that hold handles of it, the endpoint that it
//! asks, and the time. A test says what happens step by step; here it is done, written down, and judged:
//! after each pause by what must be true whenever everything is idle, and at the end as a history.
//!
//! The tasks' futures are polled by hand and belong to no runtime, so that one can be dropped at any
//! await, and so that they are still there when the session's runtime is gone.

use std::future::poll_fn;
use std::ops::AddAssign;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::scripted::{Asked, Call, Endpoint, scripted};
use crate::judge::intervals::{Attempt, Call as Seen, History, Outcome, Point, Revocation};
use crate::judge::intervals::{Revoke as Revoked, What};
use crate::judge::{Overheard, Purpose, Verdict};
use crate::test_util::suspend;
use crate::{
    AccessToken, ExchangeRequest, Phase, RefreshMode, RetryPolicy, Session, SessionConfig,
    SessionError, SessionHandle, TokenError, TokenRequestOptions,
};

/// Each does one thing after the other.
pub(super) const TASKS: usize = 6;
/// Rounds in which everything settles that can without the time passing.
const ROUNDS: usize = 12;
/// Timers tick in milliseconds.
const TICK: Duration = millis(2);

#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) mode: RefreshMode,
    pub(super) attempts: u32,
    pub(super) max_held: usize,
    /// Whether the endpoint answers properly in the end, and everybody must get a token.
    pub(super) heals: bool,
    pub(super) end: End,
    pub(super) seed: u64,
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Shutdown,
    /// With all who wait.
    LastHandle,
    /// Those who wait are answered first.
    LastCaller,
    RuntimeDropped,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Get(usize),
    /// With so many seconds left at least.
    GetWith(usize, u64),
    Try(usize),
    Exchange(usize, u8),
    Revoke(usize),
    /// Drops the call that it waits for.
    Leave(usize),
    /// Of the last token that this task got.
    Invalidate(usize),
    InvalidateExchanged(usize),
    /// To the nth attempt on the wire.
    Answer(usize, Said),
    /// The actor goes on for so many polls, and nobody looks at the answers.
    Yield(usize),
    /// Milliseconds.
    Pass(u64),
    /// Seconds, of which timers know nothing.
    Suspend(u64),
    CloneHandle,
    DropHandle,
}

/// An answer of the endpoint. A revocation that would be answered with a token is confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// A new one, with its life in seconds.
    Token(u64),
    /// The text that came last, if its life is not over.
    Again(u64),
    Unavailable,
    RateLimited(u64),
    Denied,
    CredentialsChanged,
    /// Of the subject, or of the token to be revoked.
    InvalidToken,
    Panic,
}

impl Said {
    fn error(self) -> Option<TokenError> {
        Some(match self {
            Self::Token(_) | Self::Again(_) | Self::Panic => return None,
            Self::Unavailable => TokenError::server(503, None),
            Self::RateLimited(after) => TokenError::RateLimited { retry_after: Some(secs(after)) },
            Self::Denied => TokenError::denied("invalid_client", "no such client"),
            Self::CredentialsChanged => TokenError::denied("invalid_client", "")
                .with_status(401)
                .with_credentials_changed(true),
            Self::InvalidToken => TokenError::denied("invalid_token", "not valid"),
        })
    }
}

/// How much has been played.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Played {
    /// Of the actor's machine.
    pub(super) events: usize,
    /// Tokens given.
    pub(super) given: usize,
    pub(super) attempts: usize,
}

impl AddAssign for Played {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.given += other.given;
        self.attempts += other.attempts;
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Does all of it; says what was wrong.
pub(super) fn play(setup: &Setup, steps: &[Step]) -> Result<Played, String> {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let mut world = runtime.block_on(async { World::new(setup) });
    runtime.block_on(world.live(setup, steps))?;
    match setup.end {
        End::RuntimeDropped => {
            let handle = runtime.handle().clone();
            drop(runtime);
            world.everybody_is_told(handle.metrics().num_alive_tasks())?;
        }
        end => runtime.block_on(world.end(end))?,
    }
    world.judge()
}

/// Gives a token of whichever kind, or none where it was to revoke.
type Told = Result<Option<AccessToken>, SessionError>;

/// A call that waits.
struct Waiting {
    began: Point,
    what: Called,
    call: Pin<Box<dyn Future<Output = Told>>>,
}

#[derive(Clone, Copy)]
enum Called {
    Token(Purpose),
    /// Its number among the revokes.
    Revoke(usize),
}

#[derive(Default)]
struct Task {
    waiting: Option<Waiting>,
    own: Option<AccessToken>,
    exchanged: Option<AccessToken>,
}

impl Task {
    fn of(&mut self, purpose: Purpose) -> &mut Option<AccessToken> {
        if purpose == Purpose::Grant { &mut self.own } else { &mut self.exchanged }
    }
}

/// An attempt that the endpoint has not answered.
struct OnWire {
    call: Call,
    /// Its number among the attempts, or among the revocations.
    number: usize,
}

struct World {
    handles: Vec<SessionHandle>,
    endpoint: Endpoint,
    tasks: Vec<Task>,
    wire: Vec<OnWire>,
    /// Everything is answered properly.
    healed: bool,
    /// Nothing has happened since everything was idle.
    idle: bool,
    start: Instant,
    suspended: Duration,
    suspends: u32,
    count: u64,
    texts: u64,
    last_text: Option<(String, Duration)>,
    /// In the order begun; none where the session refused to take it.
    revokes: Vec<Option<Revoked>>,
    history: History,
    attempt_timeout: Duration,
    /// What the actor's machine is told.
    overheard: Overheard,
}

impl World {
    fn new(setup: &Setup) -> Self {
        let Setup { mode: refresh_mode, attempts, max_held, .. } = *setup;
        let retry = RetryPolicy { attempts, ..RetryPolicy::default() };
        let config = SessionConfig { refresh_mode, retry, max_held, ..SessionConfig::default() };
        let (manager, endpoint) = scripted();
        let (history, attempt_timeout) = (History::new(&config), config.retry.attempt_timeout);
        let overheard = Overheard::of(&config, &manager);
        let session = Session::builder(manager).config(config).seed(setup.seed).spawn().unwrap();
        Self {
            handles: vec![session],
            endpoint,
            tasks: (0..TASKS).map(|_| Task::default()).collect(),
            wire: Vec::new(),
            healed: false,
            idle: false,
            start: Instant::now(),
            suspended: Duration::ZERO,
            suspends: 0,
            count: 0,
            texts: 0,
            last_text: None,
            revokes: Vec::new(),
            history,
            attempt_timeout,
            overheard,
        }
    }

    fn now(&mut self) -> Point {
        self.point(Instant::now())
    }

    fn point(&mut self, at: Instant) -> Point {
        self.count += 1;
        Point { at: at - self.start + self.suspended, count: self.count }
    }

    async fn live(&mut self, setup: &Setup, steps: &[Step]) -> Verdict {
        for step in steps {
            self.step(*step).await?;
        }
        if setup.heals {
            self.heal().await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Verdict {
        match step {
            Step::Try(task) | Step::Invalidate(task) | Step::InvalidateExchanged(task)
                if self.tasks[task].waiting.is_some() => {}
            Step::Get(task) => self.get(task, TokenRequestOptions::new())?,
            Step::GetWith(task, left) => {
                self.get(task, TokenRequestOptions::new().min_remaining(secs(left)))?;
            }
            Step::Try(task) => self.try_token(task)?,
            Step::Exchange(task, key) => {
                let session = self.handle(task);
                let request = ExchangeRequest::scopes([key.to_string()]);
                let what = Called::Token(Purpose::of(&request.key()));
                self.begin(task, what, async move {
                    let token = session.exchange(request).await?;
                    Ok(Some(AccessToken::new(token.as_ref().clone())))
                });
            }
            Step::Revoke(task) => {
                if self.tasks[task].waiting.is_none() {
                    let (began, number) = (self.now(), self.revokes.len());
                    self.revokes.push(Some(Revoked { began, taken: None, ended: None, ok: false }));
                    let session = self.handle(task);
                    let call = async move { session.revoke().await.map(|()| None) };
                    self.begin(task, Called::Revoke(number), call);
                }
            }
            Step::Leave(task) => drop(self.tasks[task].waiting.take()),
            Step::Invalidate(task) | Step::InvalidateExchanged(task) => {
                let Task { own, exchanged, .. } = &mut self.tasks[task];
                let token = if matches!(step, Step::Invalidate(_)) { own } else { exchanged };
                if let Some(token) = token.take() {
                    let began = self.now();
                    self.handle(task).invalidate(&token);
                    self.saw(task, What::Invalidate(token.id().generation()), began, None);
                }
            }
            Step::Answer(nth, said) => {
                self.land_dropped();
                if !self.wire.is_empty() {
                    let on_wire = self.wire.swap_remove(nth % self.wire.len());
                    self.answer(on_wire, said);
                }
            }
            Step::Yield(times) => {
                for _ in 0..times {
                    yield_now().await;
                }
                self.take_calls(&mut Context::from_waker(Waker::noop()));
            }
            Step::Pass(time) => self.pass(millis(time)).await?,
            Step::Suspend(time) => {
                // What has been said arrives before.
                self.settle().await?;
                suspend(secs(time));
                self.suspended += secs(time);
                self.suspends += 1;
            }
            Step::CloneHandle => self.handles.push(self.handles[0].clone()),
            Step::DropHandle if self.handles.len() > 1 => drop(self.handles.pop()),
            Step::DropHandle => {}
        }
        self.idle &= matches!(step, Step::Pass(_));
        Ok(())
    }

    // Tasks

    fn handle(&self, task: usize) -> SessionHandle {
        self.handles[task % self.handles.len()].clone()
    }

    /// A task that waits goes on waiting.
    fn begin(&mut self, task: usize, what: Called, call: impl Future<Output = Told> + 'static) {
        if self.tasks[task].waiting.is_none() {
            let began = self.now();
            self.tasks[task].waiting = Some(Waiting { began, what, call: Box::pin(call) });
            self.poll_task(task, &mut Context::from_waker(Waker::noop()));
        }
    }

    fn get(&mut self, task: usize, options: TokenRequestOptions) -> Verdict {
        let at_once = self.is_usable() && options == TokenRequestOptions::new();
        let session = self.handle(task);
        let was_free = self.tasks[task].waiting.is_none();
        self.begin(task, Called::Token(Purpose::Grant), async move {
            session.get_token_with(options).await.map(Some)
        });
        match self.history.calls.last() {
            Some(Seen { given: Some(_), .. }) => Ok(()),
            _ if at_once && was_free => Err(format!("task {task} waits beside a usable token")),
            _ => Ok(()),
        }
    }

    fn try_token(&mut self, task: usize) -> Verdict {
        let (at_once, began) = (self.is_usable(), self.now());
        let token = self.handle(task).try_token();
        if at_once && token.is_none() {
            return Err(format!("task {task} is not given a usable token"));
        }
        self.saw(task, What::Token(Purpose::Grant), began, token);
        Ok(())
    }

    /// Whether everything is idle, and a token is usable.
    fn is_usable(&self) -> bool {
        let phase = self.handles[0].status().phase();
        self.idle && matches!(phase, Phase::Fresh | Phase::Stale | Phase::Refreshing)
    }

    fn saw(&mut self, task: usize, what: What, began: Point, token: Option<AccessToken>) {
        let (ended, given) = (self.now(), token.as_ref().map(|token| token.id().generation()));
        self.history.calls.push(Seen { task, what, began, ended, given });
        if let (What::Token(purpose), Some(token)) = (what, token) {
            self.history.texts.insert(token.id().generation(), token.secret().into());
            *self.tasks[task].of(purpose) = Some(token);
        }
    }

    fn poll_task(&mut self, task: usize, context: &mut Context<'_>) {
        let Some(Waiting { began, what, call }) = &mut self.tasks[task].waiting else { return };
        let Poll::Ready(told) = call.as_mut().poll(context) else { return };
        let (began, what) = (*began, *what);
        self.tasks[task].waiting = None;
        let number = match what {
            Called::Token(purpose) => {
                return self.saw(task, What::Token(purpose), began, told.ok().flatten());
            }
            Called::Revoke(number) => number,
        };
        let ended = self.now();
        match (&mut self.revokes[number], told) {
            (_, Err(SessionError::Closed)) | (None, _) => {}
            (revoke, Err(SessionError::Overloaded)) => *revoke = None,
            (Some(revoke), told) => (revoke.ended, revoke.ok) = (Some(ended), told.is_ok()),
        }
    }

    fn waiting(&self) -> usize {
        self.tasks.iter().filter(|task| task.waiting.is_some()).count()
    }

    // The endpoint

    fn take_calls(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(call)) = self.endpoint.poll_next(context) {
            let sent = self.point(call.at);
            let (purpose, subject) = match &call.asked {
                Asked::Grant(_) => (Some(Purpose::Grant), None),
                Asked::Exchange(subject, request) => {
                    (Some(Purpose::of(&request.key())), Some(subject.id().generation()))
                }
                Asked::Revocation(..) => (None, None),
            };
            let History { attempts, revocations, .. } = &mut self.history;
            let (ended, outcome) = (sent, Outcome::Dropped);
            let number = if let Some(purpose) = purpose {
                attempts.push(Attempt { purpose, subject, sent, ended, outcome });
                attempts.len() - 1
            } else {
                let text = call.about().into();
                revocations.push(Revocation { text, sent, ended, confirmed: false });
                revocations.len() - 1
            };
            let on_wire = OnWire { call, number };
            if self.healed {
                self.answer(on_wire, Said::Token(3600));
            } else {
                self.wire.push(on_wire);
            }
        }
    }

    /// Those that the session has given up: by their time-out, as long as it goes on.
    fn land_dropped(&mut self) {
        let now = self.now();
        for OnWire { call, number } in self.wire.extract_if(.., |it| it.call.is_dropped()) {
            if !matches!(call.asked, Asked::Revocation(..)) {
                let attempt = &mut self.history.attempts[number];
                attempt.ended =
                    Point { at: attempt.sent.at + self.attempt_timeout, count: 0 }.min(now);
            }
        }
    }

    fn answer(&mut self, OnWire { call, number }: OnWire, said: Said) {
        let now = self.now();
        if let Asked::Revocation(text, _) = &call.asked {
            let is_gone = matches!(said, Said::Token(_) | Said::Again(_) | Said::InvalidToken);
            let revocation = &mut self.history.revocations[number];
            (revocation.ended, revocation.confirmed) = (now, is_gone);
            if is_gone {
                self.history.revoked_at.entry(text.expose().to_owned()).or_insert(now);
            }
            return match said.error() {
                _ if matches!(said, Said::Panic) => call.panic(),
                Some(error) => call.fail(error),
                None => call.revoked(),
            };
        }
        let outcome = match said {
            Said::Token(seconds) | Said::Again(seconds) => {
                let known = self.last_text.take();
                let known =
                    known.filter(|(_, until)| matches!(said, Said::Again(_)) && now.at < *until);
                let (text, until) = known.unwrap_or_else(|| (self.new_text(), Duration::ZERO));
                self.last_text = Some((text.clone(), until.max(now.at + secs(seconds))));
                call.token(&text, secs(seconds));
                Outcome::Token(text, secs(seconds))
            }
            Said::Panic => {
                call.panic();
                Outcome::Dropped
            }
            _ => {
                let error = said.error().unwrap_or(TokenError::Panicked);
                call.fail(error.clone());
                Outcome::Failed(error)
            }
        };
        let attempt = &mut self.history.attempts[number];
        (attempt.ended, attempt.outcome) = (now, outcome);
    }

    fn answer_all(&mut self) {
        self.healed = true;
        for on_wire in std::mem::take(&mut self.wire) {
            if !on_wire.call.is_dropped() {
                self.answer(on_wire, Said::Token(3600));
            }
        }
    }

    fn new_text(&mut self) -> String {
        self.texts += 1;
        format!("token-{}", self.texts)
    }

    // Time

    async fn pass(&mut self, time: Duration) -> Verdict {
        let mut over = pin!(sleep(time));
        poll_fn(|context| {
            self.look(context);
            over.as_mut().poll(context)
        })
        .await;
        self.settle().await
    }

    /// Everybody sees what there is to see.
    fn look(&mut self, context: &mut Context<'_>) {
        self.take_calls(context);
        for task in 0..TASKS {
            self.poll_task(task, context);
        }
    }

    /// All that can happen now has happened: it must fit together.
    async fn settle(&mut self) -> Verdict {
        for _ in 0..ROUNDS {
            self.look(&mut Context::from_waker(Waker::noop()));
            yield_now().await;
        }
        self.look(&mut Context::from_waker(Waker::noop()));
        self.land_dropped();
        let now = self.now();
        let status = self.handles[0].status();
        let taken = self.revokes.iter().flatten().count() as u64;
        if status.counters().revokes == taken {
            for revoke in self.revokes.iter_mut().flatten() {
                revoke.taken.get_or_insert(now);
            }
        }
        if status.held() != self.waiting() {
            return Err(format!("{} wait, and the session holds {status:?}", self.waiting()));
        }
        let tasks = Handle::current().metrics().num_alive_tasks();
        if tasks != 1 + self.wire.len() {
            return Err(format!("{tasks} tasks, but {} attempts on the wire", self.wire.len()));
        }
        if self.endpoint.grants_on_wire_max() > 1 {
            return Err("a second grant on the wire".into());
        }
        self.idle = true;
        Ok(())
    }

    /// From now on all goes well. Nobody waits for long, and everybody gets a token.
    async fn heal(&mut self) -> Verdict {
        self.answer_all();
        self.pass(secs(60)).await?;
        if self.waiting() > 0 {
            return Err(format!("{} still wait when all goes well", self.waiting()));
        }
        for task in 0..TASKS {
            let mut tries = 0;
            while {
                self.step(Step::Get(task)).await?;
                self.pass(secs(3)).await?;
                self.history.calls.last().is_none_or(|call| call.given.is_none())
            } {
                tries += 1;
                let status = self.handles[0].status();
                let Some(after) = status.retry_after().filter(|_| tries < 3) else {
                    return Err(format!(
                        "task {task} gets no token when all goes well: {status:?}"
                    ));
                };
                self.pass(after + TICK).await?;
            }
        }
        Ok(())
    }

    // The end

    async fn end(&mut self, end: End) -> Verdict {
        match end {
            End::Shutdown => {
                let session = self.handles[0].clone();
                session.shutdown().await;
                // It waits until its requests have ended; its task may have a step to go.
                yield_now().await;
                return self.everybody_is_told(Handle::current().metrics().num_alive_tasks());
            }
            End::LastCaller if self.waiting() > 0 => {
                self.handles.clear();
                self.answer_all();
                let mut over = pin!(sleep(secs(900)));
                poll_fn(|context| {
                    self.look(context);
                    if self.waiting() == 0 { Poll::Ready(()) } else { over.as_mut().poll(context) }
                })
                .await;
                if self.waiting() > 0 {
                    return Err("without a handle, those who wait are left alone".into());
                }
            }
            _ => {
                for task in &mut self.tasks {
                    task.waiting = None;
                }
                self.handles.clear();
            }
        }
        for _ in 0..ROUNDS {
            yield_now().await;
        }
        self.nothing_is_left(Handle::current().metrics().num_alive_tasks())
    }

    /// The session has been closed under them.
    fn everybody_is_told(&mut self, alive: usize) -> Verdict {
        for task in 0..TASKS {
            let Some(Waiting { mut call, .. }) = self.tasks[task].waiting.take() else { continue };
            let told = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if told.is_pending() {
                return Err(format!("task {task} waits for a session that is closed"));
            }
        }
        {
            let late = pin!(self.handles[0].get_token());
            let told = late.poll(&mut Context::from_waker(Waker::noop()));
            if !matches!(told, Poll::Ready(Err(SessionError::Closed))) {
                return Err(format!("who comes late is told {told:?}"));
            }
        }
        if let Some(token) = self.handles[0].try_token() {
            return Err(format!("a closed session gives {token:?}"));
        }
        self.nothing_is_left(alive)
    }

    fn nothing_is_left(&mut self, alive: usize) -> Verdict {
        let context = &mut Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(call)) = self.endpoint.poll_next(context) {
            if !call.is_dropped() {
                return Err(format!("it was over, and this is on the wire: {call:?}"));
            }
        }
        if let Some(on_wire) = self.wire.iter().find(|on_wire| !on_wire.call.is_dropped()) {
            return Err(format!("it was over, and this is on the wire: {:?}", on_wire.call));
        }
        let is_gone = matches!(self.endpoint.poll_next(context), Poll::Ready(None));
        if alive > 0 || !is_gone {
            return Err(format!("it was over, and {alive} tasks are left"));
        }
        Ok(())
    }

    fn judge(mut self) -> Result<Played, String> {
        self.history.revokes = self.revokes.into_iter().flatten().collect();
        // Between attempts lie 5 s at the most; one may be forgiven; and the grant waits for `earliest`.
        let attempts = self.history.policy.attempts;
        let flight = (self.attempt_timeout + TICK) * (attempts + 1) + secs(5) * attempts + secs(1);
        // After a suspend it may take 30 s until a deadline is noticed.
        let noticed = self.suspended + secs(30) * self.suspends;
        self.history.longest_flight = Some(flight + noticed);
        self.history.judge()?;
        Ok(Played {
            events: self.overheard.verdict()?,
            given: self.history.calls.iter().filter(|call| call.given.is_some()).count(),
            attempts: self.history.attempts.len(),
        })
    }
}
