//! The loop around the machine: it carries messages, attempts and the time to it, and carries out what
//! it says. It holds no rule of its own.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, AbortHandle, JoinSet, yield_now};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::asked::Asked;
use crate::clock;
use crate::error::{SessionError, TokenError};
use crate::foreign::{contained, guarded};
use crate::instant::Instant;
use crate::machine::{
    Abilities, CallerId, Effects, Ended, Event, Facts, Machine, Moment, News, Published, Purpose,
    Reply, Request, Start, Wait,
};
use crate::manager::TokenManager;
#[cfg(feature = "metrics")]
use crate::metrics::{Measured, Metrics};
use crate::news::Queue;
use crate::permit::Permit;
use crate::request::{ExchangeRequest, PermitRequest, TokenRequestOptions};
use crate::snapshot::Publisher;
use crate::token::{Issued, TokenId};

/// Where a caller waits for its answer.
pub(crate) type ReplySender = oneshot::Sender<Reply>;

/// What handles send. Small, since a crowd of callers has as many of them on their way: what few callers send is
/// boxed.
#[derive(Debug)]
pub(crate) enum Message {
    GetToken(CallerId, ReplySender),
    GetTokenWith(Box<(CallerId, ReplySender, TokenRequestOptions)>),
    Exchange(Box<(CallerId, ReplySender, ExchangeRequest)>),
    Revoke(Box<(CallerId, ReplySender, TokenRequestOptions)>),
    Asked(u32),
    Invalidate(TokenId),
    InvalidateOther(Issued),
    Left(CallerId),
}

impl Message {
    /// Whether somebody waits for an answer to it.
    fn is_call(&self) -> bool {
        match self {
            Self::GetToken(..) | Self::GetTokenWith(_) | Self::Exchange(_) | Self::Revoke(_) => {
                true
            }
            Self::Asked(_) | Self::Invalidate(_) | Self::InvalidateOther(_) | Self::Left(_) => {
                false
            }
        }
    }

    /// The token whose doubts under way this is one of.
    fn doubted(&self) -> Option<Issued> {
        if let Self::InvalidateOther(token) = self { Some(token.clone()) } else { None }
    }
}

/// A message in the mailbox: a pointer, since tokio's channel keeps room for 32 of them at all times.
pub(crate) type Mail = Box<Message>;

impl From<Message> for Event<ReplySender> {
    fn from(message: Message) -> Self {
        match message {
            Message::GetToken(caller, reply) => {
                Self::GetToken(caller, reply, TokenRequestOptions::NONE)
            }
            Message::GetTokenWith(call) => {
                let (caller, reply, options) = *call;
                Self::GetToken(caller, reply, options)
            }
            Message::Exchange(call) => {
                let (caller, reply, request) = *call;
                Self::Exchange(caller, reply, Box::new(request))
            }
            Message::Revoke(call) => {
                let (caller, reply, options) = *call;
                Self::Revoke(caller, reply, options)
            }
            Message::Asked(snapshot) => Self::Asked(snapshot),
            Message::Invalidate(id) => Self::Invalidate(id),
            Message::InvalidateOther(token) => Self::Invalidate(token.id()),
            Message::Left(caller) => Self::Left(caller),
        }
    }
}

/// What the manager can do, as far as it knows now.
pub(crate) fn abilities_of(manager: &impl TokenManager) -> Abilities {
    Abilities {
        exchange: manager.can_exchange(),
        revoke: manager.can_revoke(),
        assumed_lifetime: manager.assumed_lifetime(),
        gated: manager.is_gated(),
    }
}

/// How many messages are handled before the end, attempts and the clock are looked at again.
const BATCH: usize = 128;

/// For so long the session's task may run on before other tasks of its thread get their turn.
const TURN: Duration = Duration::from_millis(1);

/// Why the actor woke.
enum Woken {
    End,
    /// It began then.
    Attempt(Ended, Instant),
    Permit(Purpose, Result<Permit, TokenError>),
    Deadline,
    Mail,
    News(News),
}

#[derive(Debug)]
pub(crate) struct SessionActor<M> {
    pub(crate) machine: Machine<ReplySender>,
    pub(crate) manager: Arc<M>,
    pub(crate) mailbox: mpsc::UnboundedReceiver<Mail>,
    /// Taken from the mailbox and not handled yet, the next one last. Here, so that it outlives the loop:
    /// who waits must not be told of its end before everybody can see it.
    pub(crate) inbox: Vec<Mail>,
    pub(crate) publisher: Publisher,
    pub(crate) status: watch::Sender<Facts>,
    pub(crate) end: CancellationToken,
    pub(crate) random: fastrand::Rng,
    pub(crate) attempts: Attempts,
    /// `None` where the manager has nothing to tell.
    pub(crate) news: Option<Arc<Queue>>,
    /// No callers since the last news.
    pub(crate) has_heard: bool,
    /// Why it ends, if nobody told it to.
    pub(crate) time_paused: bool,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Metrics,
}

impl<M: TokenManager> SessionActor<M> {
    /// Ends when it is told to, as by the drop of the last handle.
    ///
    /// In a box, or its task would be twice as large: room for what was passed in, and for what it became.
    pub(crate) async fn run(mut self: Box<Self>) {
        let mut turn_began = clock::now();
        loop {
            let woken = self.woken().await;
            if !self.meet(woken) {
                break;
            }
            if clock::now().since(turn_began) >= TURN {
                yield_now().await;
                turn_began = clock::now();
            }
        }
        if self.time_paused {
            guarded(|| tracing::error!("{}", SessionError::TimePaused));
        }
        self.close();
        self.attempts.stop().await;
    }

    /// Does what is to be done now; `false` at the end.
    ///
    /// Not within `run`: its future would keep room for the effects, in each idle session.
    fn meet(&mut self, woken: Woken) -> bool {
        let mut effects = Effects::default();
        match woken {
            Woken::End => return false,
            Woken::Attempt(ended, began) => {
                // The attempt may have taught the manager what its server can do.
                if let Some(abilities) = guarded(|| abilities_of(&*self.manager)) {
                    self.handle(Event::Abilities(abilities), &mut effects);
                }
                #[cfg(feature = "metrics")]
                let measured = Measured::new(&ended, began, &self.machine.facts().counters);
                #[cfg(not(feature = "metrics"))]
                let _ = began;
                self.tell(Event::Ended(ended), &mut effects);
                #[cfg(feature = "metrics")]
                self.metrics.ended(&measured, &self.machine.facts().counters);
                self.carry_out(&mut effects);
            }
            Woken::Permit(purpose, result) => {
                let result = result.map(|permit| self.attempts.permitted(permit));
                self.handle(Event::Permitted(purpose, result), &mut effects);
                self.attempts.drop_permit();
            }
            Woken::Deadline => self.handle(Event::Timer, &mut effects),
            Woken::News(news) => {
                self.has_heard = true;
                self.handle(Event::News(news), &mut effects);
            }
            Woken::Mail => {
                self.has_heard = false;
                self.inbox.reverse();
                while let Some(message) = self.inbox.pop() {
                    if message.is_call() {
                        self.publisher.taken_up();
                    }
                    let doubted = message.doubted();
                    self.handle((*message).into(), &mut effects);
                    // Not before: until readers see what comes of it, the doubt is what keeps them from the token.
                    if let Some(token) = doubted {
                        token.doubt_arrived();
                    }
                }
                self.inbox = Vec::new();
            }
        }
        self.show(None);
        true
    }

    /// Waits for what comes next.
    async fn woken(&mut self) -> Woken {
        // While attempts are on the wire there is something to sleep for, if only to see time pass.
        let deadline =
            self.machine.next_deadline().or(self.attempts.any().then_some(Instant::NEVER));
        tokio::select! {
            // The end, results, the clock, then callers and news in turn: a flood of one delays none of those
            // before it.
            biased;
            () = self.end.cancelled() => Woken::End,
            Some(woken) = self.attempts.next() => woken,
            slept = clock::sleep_until(deadline.unwrap_or(Instant::NEVER)), if deadline.is_some() => {
                self.time_paused = slept.is_err();
                if self.time_paused { Woken::End } else { Woken::Deadline }
            }
            woken = poll_fn(|context| {
                let hear = |context: &mut _| match &self.news {
                    Some(news) => news.poll_next(context).map(Woken::News),
                    None => Poll::Pending,
                };
                if !self.has_heard && let Poll::Ready(news) = hear(context) {
                    return Poll::Ready(news);
                }
                match self.mailbox.poll_recv_many(context, &mut self.inbox, BATCH) {
                    Poll::Ready(0) => Poll::Ready(Woken::End),
                    Poll::Ready(_) => Poll::Ready(Woken::Mail),
                    Poll::Pending => hear(context),
                }
            }) => woken,
        }
    }

    fn handle(&mut self, event: Event<ReplySender>, effects: &mut Effects<ReplySender>) {
        self.tell(event, effects);
        self.carry_out(effects);
    }

    fn tell(&mut self, event: Event<ReplySender>, effects: &mut Effects<ReplySender>) {
        let moment = self.moment();
        #[cfg(all(test, feature = "test-util"))]
        crate::judge::overhear(moment, &event);
        self.machine.handle(moment, event, effects);
    }

    fn carry_out(&mut self, effects: &mut Effects<ReplySender>) {
        self.publisher.publish_exchanged(effects.exchanged.drain(..));
        // Who is answered finds in the status what the answer rests on.
        if effects.publish.is_some() || !effects.replies.is_empty() {
            self.show(effects.publish.take());
        }
        for wait in effects.waits.drain(..) {
            self.attempts.wait(&self.manager, wait);
        }
        for start in effects.start.drain(..) {
            self.attempts.start(&self.manager, start);
        }
        reply(effects);
        for warning in effects.warnings.drain(..) {
            guarded(|| tracing::warn!("{warning}"));
        }
    }
}

impl<M> SessionActor<M> {
    fn moment(&mut self) -> Moment {
        Moment { now: clock::now(), random: self.random.f64(), used: self.publisher.is_used() }
    }

    /// Shows what has become of the session, to those who read its token and to those who watch it, at
    /// once: whoever sees one sees the other.
    fn show(&self, published: Option<Published>) {
        self.show_facts(&self.machine.facts(), || {
            if let Some(published) = published {
                self.publisher.publish(published);
            }
        });
    }

    fn show_facts(&self, facts: &Facts, publish: impl FnOnce()) {
        let mut before = None;
        guarded(|| {
            self.status.send_if_modified(|shown| {
                publish();
                let has_changed = *shown != *facts;
                before = has_changed.then(|| std::mem::replace(shown, facts.clone()));
                has_changed
            })
        });
        if let Some(before) = before {
            guarded(|| trace_change(&before, facts));
            #[cfg(feature = "metrics")]
            self.metrics.changed(&before, facts);
        }
    }

    /// However the actor ends (shutdown, panic, the end of its runtime): first everybody can see that it
    /// is over, then those who wait are told, in the mailbox by the loss of their replies.
    fn close(&mut self) {
        let counters = self.machine.facts().counters;
        self.show_facts(&Facts::of_the_end(counters), || self.publisher.close(self.time_paused));
        self.mailbox.close();
        loop {
            match self.mailbox.try_recv() {
                Ok(message) => self.inbox.push(message),
                // A sender that came in before the door was closed has not put its message down yet.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        for message in self.inbox.drain(..) {
            guarded(|| drop(message));
        }
        let mut effects = Effects::default();
        let moment = self.moment();
        guarded(|| self.machine.handle(moment, Event::Shutdown, &mut effects));
        if self.time_paused {
            // These too are told by the loss of their replies.
            for (reply, _) in effects.replies.drain(..) {
                guarded(|| drop(reply));
            }
        }
        reply(&mut effects);
    }
}

impl<M> Drop for SessionActor<M> {
    fn drop(&mut self) {
        self.close();
    }
}

fn reply(effects: &mut Effects<ReplySender>) {
    for (reply, answer) in effects.replies.drain(..) {
        // The caller may have left.
        guarded(|| drop(reply.send(answer)));
    }
}

fn trace_change(before: &Facts, after: &Facts) {
    let generation = |facts: &Facts| facts.token.map(|token| token.generation);
    if let Some(generation) = generation(after).filter(|_| generation(before) != generation(after))
    {
        tracing::debug!(name: "token.published", generation, "token.published");
    }
    let now = clock::now();
    // Once for each series of attempts that failed; without a usable token its callers get the error.
    if let (Some(error), Some(token)) = (&after.last_error, after.token)
        && after.last_error != before.last_error
        && now < token.usable_until
    {
        let remaining = humantime::format_duration(whole_seconds(token.expires_at.since(now)));
        let error = &error.0;
        tracing::warn!(
            name: "refresh.failed",
            "the token could not be refreshed and is valid for another {remaining}: {error}"
        );
    }
    let phase = after.phase(now);
    if phase != before.phase(now) {
        tracing::debug!(name: "session.phase", ?phase, "session.phase");
    }
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// The attempts on the wire, and waits for leave to send one, each in a task of its own that ends exactly once.
/// `None` while there are none: an idle session keeps no room for them.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    out: Option<Box<Out>>,
}

#[derive(Debug, Default)]
struct Out {
    tasks: JoinSet<Done>,
    /// How each attempt has ended if its task is lost, as by a subscriber of events that panics; and when it
    /// began.
    if_lost: Vec<(task::Id, (Ended, Instant))>,
    waits: Vec<(task::Id, (Purpose, AbortHandle))>,
    /// What has just been given, for the attempt that starts now.
    permit: Option<Permit>,
}

/// What a task has come to.
#[derive(Debug)]
enum Done {
    Ended(Ended),
    Permitted(Result<Permit, TokenError>),
}

impl Attempts {
    fn any(&self) -> bool {
        self.out.as_deref().is_some_and(|out| !out.tasks.is_empty())
    }

    /// For what is started next.
    fn permitted(&mut self, permit: Permit) {
        self.out.get_or_insert_default().permit = Some(permit);
    }

    /// Nothing was started with it.
    fn drop_permit(&mut self) {
        if let Some(out) = &mut self.out {
            guarded(|| out.permit = None);
        }
    }

    fn start<M: TokenManager>(&mut self, manager: &Arc<M>, start: Start) {
        let Start { number, timeout, request } = start;
        let span = guarded(|| {
            tracing::debug_span!(
                "ccg_session.attempt",
                kind = kind(&request),
                attempt = number,
                outcome = tracing::field::Empty,
            )
        });
        let lost = lost(&request);
        let out = self.out.get_or_insert_default();
        let permit = out.permit.take().unwrap_or_default();
        let attempt = attempt(Arc::clone(manager), request, timeout, permit);
        // In a box: what an allocator gives to a task it has to align, and seldom finds a use for again. A
        // process with many sessions would grow by an attempt's memory for each.
        let task = out.tasks.spawn(Box::pin(attempt.instrument(span.unwrap_or_else(Span::none))));
        out.if_lost.push((task.id(), (lost, clock::now())));
    }

    fn wait<M: TokenManager>(&mut self, manager: &Arc<M>, wait: Wait) {
        match wait {
            Wait::Begin(purpose, request, longest) => {
                let manager = Arc::clone(manager);
                let permitted = async move {
                    let ready = async {
                        match &request {
                            PermitRequest::Grant(grant) if !manager.needs_permit(grant).await => {
                                Ok(Permit::free())
                            }
                            request => manager.ready(request).await,
                        }
                    };
                    Done::Permitted(within(longest, ready).await)
                };
                let out = self.out.get_or_insert_default();
                let task = out.tasks.spawn(Box::pin(permitted));
                out.waits.push((task.id(), (purpose, task)));
            }
            Wait::GiveUp(purpose) => {
                let Some(out) = &mut self.out else { return };
                let wait = out.waits.extract_if(.., |(_, (other, _))| *other == purpose).next();
                if let Some((_, (_, task))) = wait {
                    task.abort();
                }
            }
        }
    }

    /// `None` while there are none.
    async fn next(&mut self) -> Option<Woken> {
        let Out { tasks, if_lost, waits, permit: _ } = self.out.as_deref_mut()?;
        while let Some(joined) = tasks.join_next_with_id().await {
            match joined {
                Ok((id, Done::Ended(ended))) => {
                    let began = take(if_lost, id).map(|(_, began)| began);
                    return Some(Woken::Attempt(ended, began.unwrap_or_else(clock::now)));
                }
                Ok((id, Done::Permitted(result))) => match take(waits, id) {
                    Some((purpose, _)) => return Some(Woken::Permit(purpose, result)),
                    // It came too late.
                    None => drop(guarded(|| drop(result))),
                },
                Err(error) => {
                    if error.is_panic() {
                        guarded(|| tracing::error!("an attempt's task panicked"));
                    }
                    if let Some((ended, began)) = take(if_lost, error.id()) {
                        return Some(Woken::Attempt(ended, began));
                    }
                    if let Some((purpose, _)) = take(waits, error.id()) {
                        return Some(Woken::Permit(purpose, Err(TokenError::Panicked)));
                    }
                }
            }
        }
        self.out = None;
        None
    }

    async fn stop(&mut self) {
        if let Some(out) = &mut self.out {
            out.tasks.shutdown().await;
        }
    }
}

/// What is known of this task, which has ended. They are few.
fn take<T>(tasks: &mut Vec<(task::Id, T)>, id: task::Id) -> Option<T> {
    let at = tasks.iter().position(|(other, _)| *other == id)?;
    Some(tasks.swap_remove(at).1)
}

fn lost(request: &Request) -> Ended {
    match request {
        Request::Grant(_) => Ended::Grant(Err(TokenError::Panicked)),
        Request::Exchange(key, ..) => Ended::Exchange(key.clone(), Err(TokenError::Panicked)),
        Request::Revocation(text, _) => Ended::Revocation(text.clone(), Err(TokenError::Panicked)),
    }
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Grant(_) => "grant",
        Request::Exchange(..) => "exchange",
        Request::Revocation(..) => "revocation",
    }
}

async fn attempt<M: TokenManager>(
    manager: Arc<M>,
    request: Request,
    timeout: Duration,
    permit: Permit,
) -> Done {
    Done::Ended(match request {
        Request::Grant(request) => {
            let sent = async { manager.grant(request).await };
            Ended::Grant(permitted(permit, within(timeout, sent).await))
        }
        Request::Exchange(key, subject, request) => {
            let sent = async { manager.exchange(subject, *request).await };
            Ended::Exchange(key, permitted(permit, within(timeout, sent).await))
        }
        Request::Revocation(text, options) => {
            let sent = async { manager.revoke(text.clone(), options).await };
            let result = within(timeout, sent).await;
            Ended::Revocation(text, result)
        }
    })
}

/// Whoever gave the leave hears how the attempt has ended.
fn permitted<T>(permit: Permit, result: Result<T, TokenError>) -> Result<T, TokenError> {
    guarded(|| permit.end(result.as_ref().map(drop)));
    result
}

/// The result, or `TimedOut` by the session's clock, or `Panicked`; the request has been dropped by then.
async fn within<T>(
    timeout: Duration,
    request: impl Future<Output = Result<T, TokenError>>,
) -> Result<T, TokenError> {
    let until = clock::now() + timeout;
    let asked = Asked::default();
    let result = caught(async {
        tokio::select! {
            biased;
            result = asked.within(request) => result,
            // On paused time it is not this attempt that ends, but, after a sleep of its own, the session.
            Ok(()) = clock::sleep_until(until) => Err(timed_out(timeout, asked.address())),
        }
    });
    let result = result.await.map_err(contained);
    guarded(|| {
        match &result {
            Ok(_) => Span::current().record("outcome", "ok"),
            Err(error) => Span::current().record("outcome", tracing::field::display(error)),
        };
    });
    result
}

fn timed_out(after: Duration, address: Option<String>) -> TokenError {
    let error = TokenError::timed_out(after);
    match address {
        Some(address) => error.with_address(address),
        None => error,
    }
}

/// The message of a panic may hold anything, so it is not kept.
async fn caught<T>(attempt: impl Future<Output = Result<T, TokenError>>) -> Result<T, TokenError> {
    let mut attempt = pin!(attempt);
    poll_fn(|context| {
        guarded(|| attempt.as_mut().poll(context)).unwrap_or_else(|| {
            guarded(|| tracing::error!("the token manager panicked"));
            Poll::Ready(Err(TokenError::Panicked))
        })
    })
    .await
}
