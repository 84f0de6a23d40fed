//! The loop around the machine: it carries messages, attempts and the time to it, and carries out what
//! it says. It holds no rule of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use crate::clock;
use crate::error::{SessionError, TokenError};
use crate::instant::Instant;
use crate::machine::{
    Abilities, CallerId, Effects, Ended, Event, Machine, Moment, Published, Reply, Request, Start,
};
use crate::mailbox::Mailbox;
use crate::manager::TokenManager;
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::snapshot::Publisher;
use crate::status::Board;
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

/// How many messages are handled before stop, attempts and the clock are looked at again.
const BATCH: usize = 128;

/// Why the actor woke.
enum Woken {
    Attempt(Ended),
    Deadline,
    Mail,
}

#[derive(Debug)]
pub(crate) struct SessionActor<M> {
    pub(crate) machine: Machine<ReplySender>,
    pub(crate) manager: Arc<M>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Taken from the mailbox, and not handled yet. Here, so that it outlives the loop: who waits must
    /// not be told of its end before everybody can see it.
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) publisher: Publisher,
    pub(crate) board: Arc<Board>,
    pub(crate) random: fastrand::Rng,
    pub(crate) attempts: Attempts,
    /// Why it ends, if nobody told it to.
    pub(crate) time_paused: bool,
}

impl<M: TokenManager> SessionActor<M> {
    /// Ends when it is told to [stop](Mailbox::stop), as by the drop of the last handle.
    ///
    /// In a box, or its task would be twice as large: room for what was passed in, and for what it became.
    pub(crate) async fn run(mut self: Box<Self>) {
        while let Some(woken) = self.woken().await {
            // Anew each time: an idle session keeps no room for what it did when it was busy.
            let mut effects = Effects::default();
            match woken {
                Woken::Attempt(ended) => {
                    // The attempt may have taught the manager what its server can do.
                    let abilities = Abilities::of(&*self.manager);
                    self.handle(Event::Abilities(abilities), &mut effects);
                    self.handle(Event::Ended(ended), &mut effects);
                }
                Woken::Deadline => self.handle(Event::Timer, &mut effects),
                Woken::Mail => {
                    for _ in 0..BATCH {
                        let Some(message) = self.inbox.pop_front() else { break };
                        self.handle(message.into(), &mut effects);
                    }
                }
            }
            self.report();
        }
        if self.time_paused {
            // Who waits is told so too, by the loss of its reply.
            tracing::error!("{}", SessionError::TimePaused);
        } else {
            self.handle(Event::Shutdown, &mut Effects::default());
            self.report();
        }
        self.attempts.stop().await;
    }

    /// Waits for what comes next; `None` once the session is to stop, or cannot go on.
    async fn woken(&mut self) -> Option<Woken> {
        if self.mailbox.is_stopped() {
            return None;
        }
        // While attempts are on the wire there is something to sleep for, if only to see time pass.
        let deadline =
            self.machine.next_deadline().or(self.attempts.any().then_some(Instant::NEVER));
        tokio::select! {
            // After a stop: results, then the clock, then callers: a flood of messages delays none.
            biased;
            Some(ended) = self.attempts.next() => Some(Woken::Attempt(ended)),
            slept = clock::sleep_until(deadline.unwrap_or(Instant::NEVER)), if deadline.is_some() => {
                self.time_paused = slept.is_err();
                slept.ok().map(|()| Woken::Deadline)
            }
            filled = self.mailbox.fill(&mut self.inbox) => filled.then_some(Woken::Mail),
        }
    }

    fn handle(&mut self, event: Event<ReplySender>, effects: &mut Effects<ReplySender>) {
        let moment =
            Moment { now: clock::now(), random: self.random.f64(), used: self.publisher.is_used() };
        self.machine.handle(moment, event, effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: &mut Effects<ReplySender>) {
        if let Some(published) = effects.publish.take() {
            self.publish(published);
        }
        for start in effects.start.drain(..) {
            self.attempts.start(&self.manager, start);
        }
        for (reply, answer) in effects.replies.drain(..) {
            // The caller may have left.
            let _ = reply.send(answer);
        }
        for warning in effects.warnings.drain(..) {
            tracing::warn!("{warning}");
        }
    }

    fn publish(&self, published: Published) {
        let before = self.board.facts().token.map(|token| token.generation);
        let after = published.token.as_ref().map(|token| token.token.id().generation());
        self.publisher.publish(published);
        if let Some(generation) = after.filter(|_| before != after) {
            tracing::debug!(name: "token.published", generation, "token.published");
        }
    }

    /// Tells whoever watches what has become of the session.
    fn report(&self) {
        let (facts, now) = (self.machine.facts(), clock::now());
        let before = self.board.show(facts).phase(now);
        let phase = facts.phase(now);
        if phase != before {
            tracing::debug!(name: "session.phase", ?phase, "session.phase");
        }
    }
}

/// However the actor ends (shutdown, panic, the end of its runtime): first everybody can see that it is
/// over, then those who wait are told, by the loss of their replies in the mailbox, and in the machine and
/// the inbox, which are dropped after this.
impl<M> Drop for SessionActor<M> {
    fn drop(&mut self) {
        self.publisher.close(self.time_paused);
        self.board.end();
        self.mailbox.close();
    }
}

/// The attempts on the wire, each in a task of its own that ends exactly once. `None` while there are none:
/// an idle session keeps no room for them.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Option<JoinSet<Ended>>);

impl Attempts {
    fn any(&self) -> bool {
        self.0.is_some()
    }

    fn start<M: TokenManager>(&mut self, manager: &Arc<M>, start: Start) {
        let Start { number, timeout, request } = start;
        let span = tracing::debug_span!(
            "ccg_session.attempt",
            kind = kind(&request),
            attempt = number,
            outcome = tracing::field::Empty,
        );
        let attempt = attempt(Arc::clone(manager), request, timeout).instrument(span);
        self.0.get_or_insert_default().spawn(attempt);
    }

    /// `None` while nothing is on the wire.
    async fn next(&mut self) -> Option<Ended> {
        let tasks = self.0.as_mut()?;
        while let Some(joined) = tasks.join_next().await {
            if let Ok(ended) = joined {
                return Some(ended);
            }
        }
        self.0 = None;
        None
    }

    async fn stop(&mut self) {
        if let Some(tasks) = &mut self.0 {
            tasks.shutdown().await;
        }
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
    let result = caught(async {
        tokio::select! {
            biased;
            result = request => result,
            // On paused time it is not this attempt that ends, but, after a sleep of its own, the session.
            Ok(()) = clock::sleep_until(until) => Err(TokenError::TimedOut { after: timeout }),
        }
    });
    let result = result.await;
    match &result {
        Ok(_) => Span::current().record("outcome", "ok"),
        Err(error) => Span::current().record("outcome", tracing::field::display(error)),
    };
    result
}

/// The message of a panic may hold anything, so it is not kept.
async fn caught<T>(attempt: impl Future<Output = Result<T, TokenError>>) -> Result<T, TokenError> {
    let mut attempt = pin!(attempt);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| attempt.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            tracing::error!("the token manager panicked");
            Poll::Ready(Err(TokenError::Panicked))
        })
    })
    .await
}
