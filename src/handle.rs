//! What callers hold: the fast path, and the messages.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::{Mail, Message, ReplySender};
use crate::clock;
use crate::error::{SessionError, TokenError};
use crate::foreign::with_contained_waker;
use crate::grant::Grant;
use crate::instant::Instant;
use crate::machine::{CallerId, Facts, Reply, is_too_young_to_doubt};
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::snapshot::{Copies, Reader, Snapshot};
use crate::status::{Status, StatusSubscription};
use crate::token::{AccessToken, ExchangedToken, Issued, TokenId, next_session};

/// A handle to a session. Cheap to clone, and usable from any thread or task, or in a `static`.
///
/// The session ends when the last handle is dropped. A pending call keeps it alive.
///
/// ```
/// use ccg_session::{SessionError, SessionHandle};
///
/// async fn call_the_api(session: SessionHandle) -> Result<(), SessionError> {
///     let token = session.get_token().await?;
///     let status = send_with(token.header_value()).await;
///     if status == 401 {
///         session.invalidate(&token); // the next get_token returns a different one
///     }
///     Ok(())
/// }
/// # async fn send_with(_: &http::HeaderValue) -> u16 { 200 }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # call_the_api(SessionHandle::fixed("a-token").unwrap()).await.unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct SessionHandle(Backing);

#[derive(Clone)]
enum Backing {
    Live(Arc<Live>),
    Fixed(Arc<Fixed>),
}

/// How many calls may be on their way to the session's task at least; as many as may wait, if that is more.
/// Those that it has taken up are not among them: it counts them itself.
const MOST_CALLS: usize = 131_072;

struct Live {
    /// The number in its tokens' ids.
    session: u64,
    reader: Reader,
    /// Unbounded, but bounded by what is in it: at most `most_calls`, and of other messages one for each
    /// snapshot, token or abandoned wait.
    mailbox: mpsc::UnboundedSender<Mail>,
    status: watch::Receiver<Facts>,
    /// Tells the session's task to come to an end.
    end: CancellationToken,
    /// Knows when it has.
    task: TaskTracker,
    most_calls: usize,
    next_caller: AtomicU64,
}

struct Fixed {
    token: AccessToken,
    copies: Copies,
    refused: AtomicBool,
    status: watch::Sender<Facts>,
}

impl SessionHandle {
    pub(crate) fn new(
        session: u64,
        reader: Reader,
        mailbox: mpsc::UnboundedSender<Mail>,
        status: watch::Receiver<Facts>,
        end: CancellationToken,
        task: TaskTracker,
        max_held: usize,
    ) -> Self {
        let next_caller = AtomicU64::new(0);
        let most_calls = max_held.max(MOST_CALLS);
        let live = Live { session, reader, mailbox, status, end, task, most_calls, next_caller };
        Self(Backing::Live(Arc::new(live)))
    }

    /// A handle that always returns this token, for developer tokens and tests. It needs no server, task or
    /// runtime, and the token never expires. After [`invalidate`](Self::invalidate) it gives
    /// [`Failed`](SessionError::Failed) with [`TokenError::Denied`]; exchange and revoke are
    /// [`Unsupported`](SessionError::Unsupported).
    ///
    /// ```
    /// use ccg_session::SessionHandle;
    ///
    /// let session = SessionHandle::fixed("developer-token")?;
    /// assert_eq!(session.blocking_get_token().unwrap().secret(), "developer-token");
    /// # Ok::<(), ccg_session::TokenError>(())
    /// ```
    ///
    /// # Errors
    /// [`TokenError::Malformed`] if the token is empty or cannot go into a header.
    pub fn fixed(token: &str) -> Result<Self, TokenError> {
        let id = TokenId { session: next_session(), generation: 1 };
        let issued =
            Issued::new(id, Grant::bearer(token)?, Instant::NEVER, std::time::Duration::MAX);
        let token = AccessToken::new(issued);
        let status = watch::Sender::new(Facts::of_fixed_token());
        let refused = AtomicBool::new(false);
        let copies = Copies::default();
        Ok(Self(Backing::Fixed(Arc::new(Fixed { token, copies, refused, status }))))
    }

    /// Returns a usable access token: immediately if the session has one, otherwise when the grant request
    /// shared by all callers completes.
    ///
    /// With the default [`RetryPolicy`](crate::RetryPolicy) the session gives up after about 31 s if the server
    /// never answers. To wait for less, wrap this call in a timeout.
    ///
    /// # Errors
    /// [`Failed`](SessionError::Failed) if the attempts that this call waited for failed,
    /// [`Cooling`](SessionError::Cooling) while a failed server is left alone,
    /// [`Overloaded`](SessionError::Overloaded), [`Closed`](SessionError::Closed). Only `Closed` while
    /// there is an unexpired token.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the call loses nothing and does not cancel the grant for others.
    #[doc(alias = "getAccessToken")]
    #[doc(alias = "access_token")]
    #[inline]
    pub fn get_token(&self) -> GetToken<'_> {
        GetToken { handle: self, waiting: None }
    }

    /// [`get_token`](Self::get_token) with options for this request.
    ///
    /// # Errors
    /// As [`get_token`](Self::get_token).
    ///
    /// # Cancel safety
    /// As [`get_token`](Self::get_token).
    pub async fn get_token_with(
        &self,
        options: TokenRequestOptions,
    ) -> Result<AccessToken, SessionError> {
        match self.read(&options) {
            Ok(answer) => answer,
            Err(live) => {
                live.ask(|caller, reply| Message::GetTokenWith(Box::new((caller, reply, options))))
                    .await
            }
        }
    }

    /// Returns the token if there is a usable one right now. If not, returns `None` without waiting, and the
    /// session fetches one in the background. For synchronous code that is called repeatedly.
    pub fn try_token(&self) -> Option<AccessToken> {
        self.usable_token().or_else(|| self.try_token_with(&TokenRequestOptions::NONE))
    }

    /// [`try_token`](Self::try_token) with options for this call. Also returns `None` if less than
    /// [`min_remaining`](TokenRequestOptions::min_remaining) is left; that alone does not trigger a request.
    pub fn try_token_with(&self, options: &TokenRequestOptions) -> Option<AccessToken> {
        match &self.0 {
            Backing::Live(live) => live.try_token(options),
            Backing::Fixed(fixed) => fixed.get_token().ok(),
        }
    }

    /// [`get_token`](Self::get_token) for threads outside any async runtime. Another thread must drive the
    /// session's runtime, or this blocks forever: see [`spawn_thread`](crate::SessionBuilder::spawn_thread).
    ///
    /// # Errors
    /// As [`get_token`](Self::get_token), and [`WouldBlock`](SessionError::WouldBlock) inside a tokio
    /// runtime (`spawn_blocking` included) if there is no usable token at once.
    pub fn blocking_get_token(&self) -> Result<AccessToken, SessionError> {
        let live = match self.read(&TokenRequestOptions::NONE) {
            Ok(answer) => return answer,
            Err(live) => live,
        };
        if Handle::try_current().is_ok() {
            return Err(SessionError::WouldBlock);
        }
        let (reply, answer) = oneshot::channel();
        let message = Message::GetToken(live.next_caller(), reply);
        live.call(message);
        answer.blocking_recv().ok().and_then(AccessToken::of).unwrap_or_else(|| Err(live.end()))
    }

    /// Returns a token with fewer rights than the session's own, by [RFC 8693] token exchange; Box calls this
    /// [downscoping]. It is cached like the session's own token: returned immediately until
    /// [`expired_buffer`](crate::SessionConfig::expired_buffer) before it expires, from
    /// [`stale_buffer`](crate::SessionConfig::stale_buffer) on with a refresh in the background (triggered by a
    /// call, not by a timer), and until it expires if that fails. Callers that request the same token share one
    /// request. While the server cannot be reached, limits the rate or fails with a 5xx, it gets no more requests
    /// for all of them than for a single one. A refusal concerns only its own request.
    ///
    /// If the session has no token to exchange, it fetches one first.
    ///
    /// ```
    /// use ccg_session::{ExchangeRequest, SessionError, SessionHandle};
    ///
    /// async fn for_the_browser(session: &SessionHandle) -> Result<String, SessionError> {
    ///     let preview = ExchangeRequest::scopes(["item_preview"])
    ///         .resource("https://api.box.com/2.0/files/123");
    ///     Ok(session.exchange(preview).await?.secret().to_owned())
    /// }
    /// ```
    ///
    /// [RFC 8693]: https://www.rfc-editor.org/rfc/rfc8693
    /// [downscoping]: https://developer.box.com/guides/authentication/tokens/downscope
    ///
    /// # Errors
    /// As [`get_token`](Self::get_token), for the subject as for the exchange itself, and
    /// [`Unsupported`](SessionError::Unsupported) if the session's manager has no exchange.
    ///
    /// # Cancel safety
    /// Cancel safe: the exchange continues for other callers, and once it has been sent its result is cached.
    #[doc(alias = "exchangeToken")]
    pub async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangedToken, SessionError> {
        let Backing::Live(live) = &self.0 else {
            return Err(SessionError::Unsupported("token exchange"));
        };
        if let Some(token) = live.exchanged(&request) {
            return Ok(token);
        }
        live.ask(|caller, reply| Message::Exchange(Box::new((caller, reply, request)))).await
    }

    /// Tells the session that a resource server refused this [`AccessToken`] or [`ExchangedToken`] (401, RFC
    /// 6750 §3.1), so that the next call from this task does not get it again. This revokes nothing.
    ///
    /// Returns `true` if the next call from this task cannot return this token: then retry once with the token
    /// that it returns. It is also `true` for a token that has been replaced already, or that belongs to
    /// another session. `false` for a second refusal within 10 seconds, and for an exchanged token younger than
    /// that: then the token is not the problem, and the session keeps handing it out.
    pub fn invalidate(&self, token: &impl AsRef<Issued>) -> bool {
        let issued = token.as_ref();
        match &self.0 {
            Backing::Live(live) => return live.invalidate(issued),
            Backing::Fixed(fixed) if issued == fixed.token.as_ref() => {
                fixed.refused.store(true, Relaxed);
                fixed.status.send_if_modified(|shown| std::mem::take(shown) != Facts::default());
            }
            Backing::Fixed(_) => {}
        }
        true
    }

    /// Revokes every live token that this session has received ([RFC 7009]), exchanged ones included (up to
    /// 4,096). Later calls get new tokens.
    ///
    /// Once the session processes this call, no caller gets an earlier token. Callers that ask in the meantime
    /// wait and get a new one. `Ok` means that the server has confirmed the revocation of every token,
    /// including those whose request was in flight. If there is no live token, nothing is sent.
    ///
    /// [RFC 7009]: https://www.rfc-editor.org/rfc/rfc7009
    ///
    /// # Errors
    /// [`Failed`](SessionError::Failed) or [`Cooling`](SessionError::Cooling) if the server did not confirm
    /// them all. The session still hands out none of them, and the next revoke tries the unconfirmed ones
    /// again. [`Unsupported`](SessionError::Unsupported) if the provider has no revocation, and
    /// [`Overloaded`](SessionError::Overloaded): then nothing has changed. (If the session learns only during
    /// the call that the provider has none, the result is also `Unsupported`, but the tokens have been
    /// dropped.)
    ///
    /// # Time
    /// Up to 8 tokens are revoked concurrently. 4,096 tokens at a server that takes 100 ms per request take
    /// about 50 s, and callers of `get_token` wait that long. To wait for less, wrap this call in a timeout:
    /// the revocation continues in the background.
    ///
    /// # Cancel safety
    /// The revocation continues if the call is dropped, unless that drops the session's last handle.
    #[doc(alias = "revokeTokens")]
    pub async fn revoke(&self) -> Result<(), SessionError> {
        self.revoke_with(TokenRequestOptions::default()).await
    }

    /// [`revoke`](Self::revoke) with options of this request's own.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    ///
    /// # Cancel safety
    /// As [`revoke`](Self::revoke).
    pub async fn revoke_with(&self, options: TokenRequestOptions) -> Result<(), SessionError> {
        let Backing::Live(live) = &self.0 else {
            return Err(SessionError::Unsupported("revocation"));
        };
        live.ask(|caller, reply| Message::Revoke(Box::new((caller, reply, options)))).await
    }

    /// What the session is doing. This neither sends a message nor waits.
    pub fn status(&self) -> Status {
        let facts = match &self.0 {
            Backing::Live(live) => live.status.borrow().clone(),
            Backing::Fixed(fixed) => fixed.status.borrow().clone(),
        };
        Status::new(facts, clock::now())
    }

    /// Notifies you of changes: for dashboards, and for long-lived connections that need each new token. A
    /// subscription does not keep the session alive.
    ///
    /// ```
    /// # async fn example(session: ccg_session::SessionHandle) {
    /// let mut changes = session.subscribe();
    /// let mut known = session.status().generation();
    /// while let Some(status) = changes.changed().await {
    ///     if status.generation() > known {
    ///         known = status.generation(); // a new token: get it with session.try_token()
    ///     }
    /// }
    /// # }
    /// ```
    pub fn subscribe(&self) -> StatusSubscription {
        match &self.0 {
            Backing::Live(live) => StatusSubscription::new(&live.status),
            Backing::Fixed(fixed) => StatusSubscription::new(&fixed.status.subscribe()),
        }
    }

    /// Ends the session, and waits until its task and its requests have ended. Revokes nothing. Waiting callers
    /// and all later calls get [`Closed`](SessionError::Closed). On a [`fixed`](Self::fixed) handle this does
    /// nothing.
    ///
    /// # Cancel safety
    /// The session ends even if this is dropped.
    pub async fn shutdown(&self) {
        if let Backing::Live(live) = &self.0 {
            live.end.cancel();
            // The task ends after its last request.
            with_contained_waker(live.task.wait()).await;
        }
    }

    /// Tells the session to come to an end, and does not wait for it.
    #[cfg(feature = "pool")]
    pub(crate) fn end(&self) {
        if let Backing::Live(live) = &self.0 {
            live.end.cancel();
        }
    }

    #[cfg(feature = "pool")]
    pub(crate) fn has_ended(&self) -> bool {
        matches!(&self.0, Backing::Live(live) if live.mailbox.is_closed())
    }

    /// Whether anybody else has a handle, or a revoke goes on that its caller has left.
    #[cfg(feature = "pool")]
    pub(crate) fn is_in_use(&self) -> bool {
        let Backing::Live(live) = &self.0 else { return true };
        Arc::strong_count(live) > 1 || live.status.borrow().barrier_up
    }

    /// Whether both are handles to one session.
    #[cfg(all(test, feature = "pool"))]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        matches!((&self.0, &other.0), (Backing::Live(one), Backing::Live(other)) if Arc::ptr_eq(one, other))
    }

    /// The fast path, for who asks for nothing special.
    // A call, so that what is around it is small enough to become part of the caller: there the answer need
    // not be put together in memory, and taken apart again.
    #[inline(never)]
    fn usable_token(&self) -> Option<AccessToken> {
        match &self.0 {
            Backing::Live(live) => live.usable_token(),
            Backing::Fixed(fixed) => fixed.get_token().ok(),
        }
    }

    /// What [`GetToken`] does where there is no usable token at once. It is handed over what waits, and gives it
    /// back: a call whose address nobody knows need not be in memory.
    #[cold]
    #[inline(never)]
    fn poll_slowly<'a>(
        &'a self,
        waiting: Waiting<'a>,
        context: &mut Context<'_>,
    ) -> (Waiting<'a>, Poll<Result<AccessToken, SessionError>>) {
        let mut waiting = match waiting {
            Some(waiting) => waiting,
            None => match self.read(&TokenRequestOptions::NONE) {
                Ok(answer) => return (None, Poll::Ready(answer)),
                Err(live) => Box::new(live.ask(Message::GetToken)),
            },
        };
        let answer = Pin::new(&mut *waiting).poll(context);
        (Some(waiting), answer)
    }

    /// All that can be answered at once, errors too; or the session to ask.
    fn read(
        &self,
        options: &TokenRequestOptions,
    ) -> Result<Result<AccessToken, SessionError>, &Live> {
        match &self.0 {
            Backing::Live(live) => live.read(options).ok_or(live),
            Backing::Fixed(fixed) => Ok(fixed.get_token()),
        }
    }
}

impl Live {
    #[inline]
    fn usable_token(&self) -> Option<AccessToken> {
        self.reader.with_time(clock::now, |snapshot, now| {
            let token = snapshot.usable_token(now)?;
            self.note_use(snapshot, now);
            Some(token.clone())
        })
    }

    fn read(&self, options: &TokenRequestOptions) -> Option<Result<AccessToken, SessionError>> {
        self.reader.with_time(clock::now, |snapshot, now| {
            let answer = snapshot.read(now, options)?;
            self.note_use(snapshot, now);
            Some(answer.cloned())
        })
    }

    fn try_token(&self, options: &TokenRequestOptions) -> Option<AccessToken> {
        self.reader.with_time(clock::now, |snapshot, now| {
            self.note_use(snapshot, now);
            snapshot.read(now, options)?.ok().cloned()
        })
    }

    #[inline]
    fn note_use(&self, snapshot: &Snapshot, now: Instant) {
        if snapshot.note_use(now) {
            self.send(Message::Asked(snapshot.number()));
        }
    }

    fn exchanged(&self, request: &ExchangeRequest) -> Option<ExchangedToken> {
        let key = request.key();
        self.reader.with(|snapshot| {
            let (token, now) = self.reader.exchanged(snapshot, &key, clock::now)?;
            self.note_use(snapshot, now);
            Some(token)
        })
    }

    fn invalidate(&self, token: &Issued) -> bool {
        if token.id().session != self.session {
            // Nor may its own session take a word to this one for a word to itself.
            return true;
        }
        let tell = |message| self.send(message);
        let snapshot = self.reader.load();
        let now = clock::now();
        if snapshot.doubt(token.id(), || tell(Message::Invalidate(token.id()))) {
            snapshot.honours_doubts(now)
        } else {
            token.doubt(|| tell(Message::InvalidateOther(token.clone())));
            !is_too_young_to_doubt(token, now)
        }
    }

    /// Sends a call. Beyond those that may be on their way it is answered here, as one is that the machine
    /// turns away.
    fn call(&self, message: Message) {
        if self.reader.lets_in(self.most_calls) {
            self.send(message);
            return;
        }
        let overloaded = SessionError::Overloaded;
        // Whoever waits for it is here.
        let _ = match message {
            Message::GetToken(_, reply) => reply.send(Reply::Token(self.unexpired_token())),
            Message::GetTokenWith(call) => call.1.send(Reply::Token(self.unexpired_token())),
            Message::Exchange(call) => {
                let exchanged = self.unexpired_exchanged(&call.2).ok_or(overloaded);
                call.1.send(Reply::Exchanged(exchanged))
            }
            Message::Revoke(call) => call.1.send(Reply::Revoked(Err(overloaded))),
            Message::Asked(_)
            | Message::Invalidate(_)
            | Message::InvalidateOther(_)
            | Message::Left(_) => Ok(()),
        };
    }

    /// For those for whom there is no room.
    fn unexpired_token(&self) -> Result<AccessToken, SessionError> {
        let snapshot = self.reader.load();
        snapshot.unexpired_token(clock::now()).cloned().ok_or(SessionError::Overloaded)
    }

    fn unexpired_exchanged(&self, request: &ExchangeRequest) -> Option<ExchangedToken> {
        let snapshot = self.reader.load();
        self.reader.unexpired_exchanged(&snapshot, &request.key(), clock::now())
    }

    /// Once the mailbox is closed the message is dropped, and the place for a reply with it.
    fn send(&self, message: Message) {
        let _ = self.mailbox.send(Box::new(message));
    }

    /// What the loss of an answer means.
    fn end(&self) -> SessionError {
        self.reader.load().end()
    }

    fn next_caller(&self) -> CallerId {
        self.next_caller.fetch_add(1, Relaxed)
    }

    /// The slow path.
    fn ask<T>(&self, message: impl FnOnce(CallerId, ReplySender) -> Message) -> Wait<'_, T> {
        let caller = self.next_caller();
        let (reply, answer) = oneshot::channel();
        self.call(message(caller, reply));
        Wait { live: Some(self), caller, answer, kind: PhantomData }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// The future returned by [`get_token`](SessionHandle::get_token). It does nothing until awaited.
// Written out: in an async function's the fast path pays for the state of the slow one.
#[must_use = "nothing happens before this is awaited"]
pub struct GetToken<'a> {
    handle: &'a SessionHandle,
    waiting: Waiting<'a>,
}

/// Boxed: a call that need not wait has one pointer to be dropped.
type Waiting<'a> = Option<Box<Wait<'a, AccessToken>>>;

impl Future for GetToken<'_> {
    type Output = Result<AccessToken, SessionError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.waiting.is_none()
            && let Some(token) = self.handle.usable_token()
        {
            return Poll::Ready(Ok(token));
        }
        let (waiting, answer) = self.handle.poll_slowly(self.waiting.take(), context);
        self.waiting = waiting;
        answer
    }
}

impl fmt::Debug for GetToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetToken")
    }
}

/// What a kind of call is answered with.
trait Answer: Sized {
    fn of(reply: Reply) -> Option<Result<Self, SessionError>>;
}

impl Answer for AccessToken {
    fn of(reply: Reply) -> Option<Result<Self, SessionError>> {
        if let Reply::Token(answer) = reply { Some(answer) } else { None }
    }
}

impl Answer for ExchangedToken {
    fn of(reply: Reply) -> Option<Result<Self, SessionError>> {
        if let Reply::Exchanged(answer) = reply { Some(answer) } else { None }
    }
}

impl Answer for () {
    fn of(reply: Reply) -> Option<Result<Self, SessionError>> {
        if let Reply::Revoked(answer) = reply { Some(answer) } else { None }
    }
}

/// A caller that waits. Dropped before its time, it says that it left.
///
/// Written out, since as an async function it would be twice as large, for each caller that waits.
struct Wait<'a, T> {
    /// `None` once it is over.
    live: Option<&'a Live>,
    caller: CallerId,
    answer: oneshot::Receiver<Reply>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Answer> Future for Wait<'_, T> {
    type Output = Result<T, SessionError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        let live = self.live.take();
        let end = || live.map_or(SessionError::Closed, Live::end);
        Poll::Ready(answer.ok().and_then(T::of).unwrap_or_else(|| Err(end())))
    }
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        if let Some(live) = self.live {
            live.send(Message::Left(self.caller));
        }
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        self.status.send_modify(|shown| *shown = Facts::of_the_end(shown.counters));
    }
}

impl Fixed {
    fn get_token(&self) -> Result<AccessToken, SessionError> {
        if !self.refused.load(Relaxed) {
            return Ok(self.copies.of(&self.token).clone());
        }
        let error = TokenError::denied(
            "invalid_token",
            "this fixed token was invalidated: make a handle with a new one",
        );
        Err(SessionError::Failed { error: Arc::new(error), retry_after: std::time::Duration::MAX })
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle")
            .field("phase", &self.status().phase())
            .finish_non_exhaustive()
    }
}
