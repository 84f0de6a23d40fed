//! What a manager hears of its session's tokens from elsewhere, on its way to the session.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock;
use crate::grant::TokenText;
use crate::instant::Instant;
use crate::machine::News;

/// The most that waits. Whoever keeps the tokens still has what had to leave.
const PLACES: usize = 16;

/// Notifies one session of events that concern its tokens: see
/// [`TokenManager::attach`](crate::TokenManager::attach).
///
/// It does not keep the session alive. Clones notify the same session.
#[derive(Clone)]
pub struct NewsSender(Weak<Queue>);

impl NewsSender {
    /// Reports that another session has revoked this token, which would have expired after `left`. The session
    /// stops handing out the token and those exchanged from it. Callers that already have it are not notified.
    /// Never blocks. Up to 16 reports are queued; beyond that, the oldest is dropped.
    pub fn revoked(&self, token: TokenText, left: Duration) {
        if let Some(queue) = self.0.upgrade() {
            queue.push(token, clock::now() + left);
        }
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl fmt::Debug for NewsSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewsSender").field("is_closed", &self.is_closed()).finish()
    }
}

/// Where the session finds it.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    revoked: VecDeque<(TokenText, Instant)>,
    session: Option<Waker>,
}

impl Queue {
    pub(crate) fn sender(self: &Arc<Self>) -> NewsSender {
        NewsSender(Arc::downgrade(self))
    }

    /// Whether nobody can tell anything any more.
    pub(crate) fn is_deserted(self: &Arc<Self>) -> bool {
        Arc::weak_count(self) == 0
    }

    fn push(&self, token: TokenText, ends_at: Instant) {
        let mut waiting = self.lock();
        let Waiting { revoked, session } = &mut *waiting;
        if let Some((_, known)) = revoked.iter_mut().find(|(known, _)| *known == token) {
            *known = ends_at.max(*known);
            return;
        }
        if revoked.len() == PLACES {
            revoked.pop_front();
        }
        revoked.push_back((token, ends_at));
        let session = session.take();
        drop(waiting);
        if let Some(session) = session {
            session.wake();
        }
    }

    /// The next, or word when it is there.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<News> {
        let mut waiting = self.lock();
        let Some((text, ends_at)) = waiting.revoked.pop_front() else {
            waiting.session = Some(context.waker().clone());
            return Poll::Pending;
        };
        Poll::Ready(News::Revoked { text, left: ends_at.since(clock::now()) })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn text(name: &str) -> TokenText {
        TokenText::new(name).unwrap()
    }

    async fn next(queue: &Queue) -> String {
        let News::Revoked { text, left } = poll_fn(|context| queue.poll_next(context)).await;
        assert!(left <= Duration::from_secs(60));
        text.expose().to_owned()
    }

    #[tokio::test]
    async fn the_last_sixteen_wait_and_none_twice() {
        let queue = Arc::new(Queue::default());
        let sender = queue.sender();
        for number in 0..20 {
            sender.revoked(text(&format!("t{number}")), Duration::from_secs(60));
            sender.revoked(text("t19"), Duration::from_secs(30));
        }
        let mut heard = Vec::new();
        for _ in 0..PLACES {
            heard.push(next(&queue).await);
        }
        assert_eq!(heard.iter().filter(|name| *name == "t19").count(), 1);
        assert_eq!(heard.last().unwrap(), "t18");
        for left in [0, 60, 30] {
            sender.revoked(text("more"), Duration::from_secs(left));
        }
        let News::Revoked { left, .. } = poll_fn(|context| queue.poll_next(context)).await;
        assert!(left > Duration::from_secs(50), "the longest counts, not {left:?}");
    }

    #[test]
    fn a_sender_knows_that_its_session_has_ended() {
        let queue = Arc::new(Queue::default());
        let sender = queue.sender();
        assert!(!sender.is_closed() && !queue.is_deserted());
        drop(queue);
        assert!(sender.is_closed());
        sender.revoked(text("nobody"), Duration::ZERO);
    }
}
