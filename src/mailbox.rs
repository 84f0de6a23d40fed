//! Where handles leave messages for their actor.
//!
//! Not tokio's mpsc channel, which keeps room for 32 messages at all times: that was half the weight of an
//! idle session, and a process may have a hundred thousand of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::coop;

use crate::actor::Message;

/// Unbounded, but bounded by what is in it: callers that wait are counted by the machine, and of the
/// others there is one for each snapshot, token or abandoned wait.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    inside: Mutex<Inside>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    messages: VecDeque<Message>,
    stopped: bool,
    closed: bool,
}

impl Mailbox {
    /// Once the mailbox is closed the message is dropped, and the place for a reply with it.
    pub(crate) fn send(&self, message: Message) {
        let mut inside = self.lock();
        if !inside.closed {
            inside.messages.push_back(message);
            drop(inside);
            self.bell.notify_one();
        }
    }

    /// Tells the actor to come to an end.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.bell.notify_one();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits until there are messages in `inbox`: takes all that were sent, if it is empty. `false` once
    /// the actor is told to stop.
    ///
    /// Cancel safe, and for one task alone.
    pub(crate) async fn fill(&self, inbox: &mut VecDeque<Message>) -> bool {
        // Or a flood of messages would keep the other tasks from running.
        coop::consume_budget().await;
        loop {
            {
                let mut inside = self.lock();
                if inside.stopped {
                    return false;
                }
                if inbox.is_empty() {
                    *inbox = std::mem::take(&mut inside.messages);
                }
            }
            if !inbox.is_empty() {
                return true;
            }
            self.bell.notified().await;
        }
    }

    /// Nobody reads any more: drops what is in it and what comes.
    pub(crate) fn close(&self) {
        let mut inside = self.lock();
        inside.closed = true;
        let dropped = std::mem::take(&mut inside.messages);
        drop(inside);
        // Not under the lock: who waits for a reply is told by its loss, and may call at once.
        drop(dropped);
    }

    /// Nothing in here panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
