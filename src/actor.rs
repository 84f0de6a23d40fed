//! The loop around the machine: it carries messages, attempts and the time to it, and carries out what
//! it says. It holds no rule of its own.

use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinSet, yield_now};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::asked::Asked;
use crate::clock;
use crate::error::{SessionError, TokenError};
use crate::foreign::{contained, guarded};
use crate::instant::Instant;
use crate::machine::{
    Abilities, CallerId, Effects, Ended, Event, Facts, Machine, Moment, News, Published, Reply,
    Request, Start,
};
use crate::manager::TokenManager;
use crate::news::Queue;
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::snapshot::Publisher;
use crate::token::{Issued, TokenId};

/// Where a caller waits for its answer.
pub(crate) type ReplySender = oneshot::Sender<Reply>;

/// What handles send.
#[derive(Debug)]
pub(crate) enum Message {
    GetToken(CallerId, ReplySender, TokenRequestOptions),
    Exchange(CallerId, ReplySender, Box<ExchangeRequest>),
    Revoke(CallerId, ReplySender, TokenRequestOptions),
    Asked(u64),
    Invalidate(TokenId),
    InvalidateOther(Issued),
    Left(CallerId),
}

impl Message {
    /// Whether somebody waits for an answer to it.
    fn is_call(&self) -> bool {
        matches!(self, Self::GetToken(..) | Self::Exchange(..) | Self::Revoke(..))
    }
}

/// A message in the mailbox: a pointer, since tokio's channel keeps room for 32 of them at all times.
pub(crate) type Mail = Box<Message>;

impl From<Message> for Event<ReplySender> {
    fn from(message: Message) -> Self {
        match message {
            Message::GetToken(caller, reply, options) => Self::GetToken(caller, reply, options),
            Message::Exchange(caller, reply, request) => Self::Exchange(caller, reply, request),
            Message::Revoke(caller, reply, options) => Self::Revoke(caller, reply, options),
            Message::Asked(snapshot) => Self::Asked(snapshot),
            Message::Invalidate(id) => Self::Invalidate(id),
            Message::InvalidateOther(token) => Self::Invalidate(token.doubt_arrived()),
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
    }
}

/// How many messages are handled before the end, attempts and the clock are looked at again.
const BATCH: usize = 128;

/// For so long the session's task may run on before other tasks of its thread get their turn.
const TURN: Duration = Duration::from_millis(1);

/// Why the actor woke.
enum Woken {
    End,
    Attempt(Ended),
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
    /// Why it ends, if nobody told it to.
    pub(crate) time_paused: bool,
}

impl<M: TokenManager> SessionActor<M> {
    /// Ends when it is told to, as by the drop of the last handle.
    ///
    /// In a box, or its task would be twice as large: room for what was passed in, and for what it became.
    pub(crate) async fn run(mut self: Box<Self>) {
        let mut turn_began = clock::now();
        loop {
            let woken = self.woken().await;
            // Anew each time, and not before: an idle session keeps no room for what it does when it is busy.
            let mut effects = Effects::default();
            match woken {
                Woken::End => break,
                Woken::Attempt(ended) => {
                    // The attempt may have taught the manager what its server can do.
                    if let Some(abilities) = guarded(|| abilities_of(&*self.manager)) {
                        self.handle(Event::Abilities(abilities), &mut effects);
                    }
                    self.handle(Event::Ended(ended), &mut effects);
                }
                Woken::Deadline => self.handle(Event::Timer, &mut effects),
                Woken::News(news) => self.handle(Event::News(news), &mut effects),
                Woken::Mail => {
                    self.inbox.reverse();
                    while let Some(message) = self.inbox.pop() {
                        if message.is_call() {
                            self.publisher.taken_up();
                        }
                        self.handle((*message).into(), &mut effects);
                    }
                    self.inbox = Vec::new();
                }
            }
            self.show(None);
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

    /// Waits for what comes next.
    async fn woken(&mut self) -> Woken {
        // While attempts are on the wire there is something to sleep for, if only to see time pass.
        let deadline =
            self.machine.next_deadline().or(self.attempts.any().then_some(Instant::NEVER));
        tokio::select! {
            // The end, results, the clock, callers, then news: a flood of one delays none of those before it.
            biased;
            () = self.end.cancelled() => Woken::End,
            Some(ended) = self.attempts.next() => Woken::Attempt(ended),
            slept = clock::sleep_until(deadline.unwrap_or(Instant::NEVER)), if deadline.is_some() => {
                self.time_paused = slept.is_err();
                if self.time_paused { Woken::End } else { Woken::Deadline }
            }
            received = self.mailbox.recv_many(&mut self.inbox, BATCH) => {
                if received == 0 { Woken::End } else { Woken::Mail }
            }
            news = heard(self.news.as_deref()), if self.news.is_some() => Woken::News(news),
        }
    }

    fn handle(&mut self, event: Event<ReplySender>, effects: &mut Effects<ReplySender>) {
        let moment = self.moment();
        #[cfg(all(test, feature = "test-util"))]
        crate::judge::overhear(moment, &event);
        self.machine.handle(moment, event, effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: &mut Effects<ReplySender>) {
        self.publisher.publish_exchanged(effects.exchanged.drain(..));
        // Who is answered finds in the status what the answer rests on.
        if effects.publish.is_some() || !effects.replies.is_empty() {
            self.show(effects.publish.take());
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

async fn heard(queue: Option<&Queue>) -> News {
    match queue {
        Some(queue) => queue.next().await,
        None => pending().await,
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
            "the token could not be refreshed, and is good for another {remaining}: {error}"
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

/// The attempts on the wire, each in a task of its own that ends exactly once. `None` while there are none:
/// an idle session keeps no room for them.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Option<Box<OnWire>>);

#[derive(Debug, Default)]
struct OnWire {
    tasks: JoinSet<Ended>,
    /// How each of them has ended if its task is lost, as by a subscriber of events that panics.
    if_lost: HashMap<task::Id, Ended>,
}

impl Attempts {
    fn any(&self) -> bool {
        self.0.is_some()
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
        let attempt = attempt(Arc::clone(manager), request, timeout);
        let on_wire = self.0.get_or_insert_default();
        let task = on_wire.tasks.spawn(attempt.instrument(span.unwrap_or_else(Span::none)));
        on_wire.if_lost.insert(task.id(), lost);
    }

    /// `None` while nothing is on the wire.
    async fn next(&mut self) -> Option<Ended> {
        let OnWire { tasks, if_lost } = self.0.as_deref_mut()?;
        while let Some(joined) = tasks.join_next_with_id().await {
            match joined {
                Ok((id, ended)) => {
                    if_lost.remove(&id);
                    return Some(ended);
                }
                Err(error) => {
                    guarded(|| tracing::error!("the task of an attempt panicked"));
                    if let Some(ended) = if_lost.remove(&error.id()) {
                        return Some(ended);
                    }
                }
            }
        }
        self.0 = None;
        None
    }

    async fn stop(&mut self) {
        if let Some(on_wire) = &mut self.0 {
            on_wire.tasks.shutdown().await;
        }
    }
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

async fn attempt<M: TokenManager>(manager: Arc<M>, request: Request, timeout: Duration) -> Ended {
    match request {
        Request::Grant(request) => {
            let sent = async { manager.grant(request).await };
            Ended::Grant(within(timeout, sent).await)
        }
        Request::Exchange(key, subject, request) => {
            let sent = async { manager.exchange(subject, *request).await };
            Ended::Exchange(key, within(timeout, sent).await)
        }
        Request::Revocation(text, options) => {
            let sent = async { manager.revoke(text.clone(), options).await };
            let result = within(timeout, sent).await;
            Ended::Revocation(text, result)
        }
    }
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
