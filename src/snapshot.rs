//! What the actor last published, and how callers read it: without a message, a lock or an allocation.
//!
//! Callers write three bits. `used` and `asked` belong to the snapshot; `doubted` belongs to the token,
//! so that publishing the same token again does not clear it (dismissing a doubt does).
//!
//! Each bit is written once, and handing a token out counts on a [copy](Copies) that is the thread's: so
//! readers write nothing that other threads read, and do not slow each other down.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, LazyLock, OnceLock};

use arc_swap::ArcSwap;

use crate::error::SessionError;
use crate::instant::Instant;
use crate::machine::{Published, PublishedToken, has_left};
use crate::request::TokenRequestOptions;
use crate::token::{AccessToken, TokenId};

/// One publication. The bits are relaxed: each is a word of its own, and whoever needs to see one set
/// either set it or was told by somebody who did. For one that doubts it is more (see [`Self::doubt`]).
#[derive(Debug)]
pub struct Snapshot {
    published: Published,
    used: AtomicBool,
    asked: AtomicBool,
    of_token: Arc<OfToken>,
}

/// What comes of a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The token is given to nobody who asks after this.
    Honoured,
    /// It is not the token that is wrong: it goes on.
    Dismissed,
}

/// What snapshots of the same token share.
#[derive(Debug, Default)]
struct OfToken {
    doubted: AtomicBool,
    copies: Copies,
}

impl Snapshot {
    /// The first of a session.
    pub fn new(published: Published) -> Self {
        Self {
            published,
            used: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            of_token: Arc::default(),
        }
    }

    /// The one that follows this.
    #[must_use]
    pub fn followed_by(&self, published: Published) -> Self {
        let subject = |token: &PublishedToken| (token.token.id(), token.doubts_dismissed);
        let same =
            published.token.as_ref().map(subject) == self.published.token.as_ref().map(subject);
        let of_token = if same { Arc::clone(&self.of_token) } else { Arc::default() };
        Self { of_token, ..Self::new(published) }
    }

    /// What the machine would answer at `now`, which was read after this was loaded; `None` if only
    /// the actor can tell. The token is this thread's copy.
    #[inline]
    pub fn read(
        &self,
        now: Instant,
        options: &TokenRequestOptions,
    ) -> Option<Result<&AccessToken, SessionError>> {
        if self.published.closed {
            return Some(Err(SessionError::Closed));
        }
        if self.of_token.doubted.load(Relaxed) {
            return None;
        }
        let usable = self.published.token.as_ref().filter(|token| now < token.usable_until);
        if let Some(PublishedToken { token, .. }) = usable {
            let enough = has_left(token.issued(), options.get_min_remaining(), now);
            return enough.then(|| Ok(self.of_token.copies.of(token)));
        }
        let cooling = self.published.cooling.as_ref().filter(|cooling| now < cooling.until)?;
        Some(Err(cooling.cooling(now)))
    }

    /// Notes that a caller used this; whether the actor wants to hear of it, from this caller.
    #[inline]
    pub fn note_use(&self, now: Instant) -> bool {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
        self.published.ask_at <= now && !self.asked.load(Relaxed) && !self.asked.swap(true, Relaxed)
    }

    /// The resource server refused this token, at `now`. What comes of it, if it is the one published; the
    /// actor is told of it then, if nobody has told it.
    ///
    /// First it is told, then the bit is set. So whoever finds the bit set has that word before it in
    /// the mailbox, and what it asks next comes behind it. Two at once may both tell, which does no harm.
    pub fn doubt(&self, now: Instant, token: TokenId, tell: impl FnOnce()) -> Option<Doubt> {
        let published = self.published.token.as_ref().filter(|held| held.token.id() == token)?;
        if !self.of_token.doubted.load(Acquire) {
            tell();
            self.of_token.doubted.store(true, Release);
        }
        let is_honoured = published.doubts_honoured_from <= now;
        Some(if is_honoured { Doubt::Honoured } else { Doubt::Dismissed })
    }

    /// Its number, which goes with an `Asked`.
    pub fn number(&self) -> u64 {
        self.published.number
    }

    /// Whether any caller has used it.
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }
}

/// Copies of one token, to clone from: a thread always takes the same one, and hardly ever one that
/// another thread takes too. Each is made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Copies(OnceLock<Box<[OnceLock<AccessToken>]>>);

impl Copies {
    #[inline]
    pub(crate) fn of(&self, token: &AccessToken) -> &AccessToken {
        /// Four for each processor: threads take numbers in the order in which they first read, and
        /// those that run at once seldom differ by a multiple of this. Not more than 1 KiB, in each
        /// session.
        static COUNT: LazyLock<usize> = LazyLock::new(|| {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            (4 * processors).next_power_of_two().min(64)
        });
        let copies = self.0.get_or_init(|| (0..*COUNT).map(|_| OnceLock::new()).collect());
        copies[thread_number() & (copies.len() - 1)].get_or_init(|| token.copy())
    }
}

/// Numbers the threads that read, from zero.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Relaxed);
    }
    NUMBER.with(|number| *number)
}

/// The writing end, which the actor owns. However the actor ends, it [closes](Self::close) this.
#[derive(Debug)]
pub struct Publisher(Arc<ArcSwap<Snapshot>>);

impl Publisher {
    /// Has published this.
    pub fn new(first: Published) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Snapshot::new(first))))
    }

    /// What handles read from.
    pub fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.0))
    }

    /// Readers see this from now on.
    pub fn publish(&self, published: Published) {
        let next = self.0.load().followed_by(published);
        self.0.store(Arc::new(next));
    }

    /// Whether any caller has used what is published.
    pub fn is_used(&self) -> bool {
        self.0.load().is_used()
    }

    /// Nothing will come any more.
    pub fn close(&self) {
        self.publish(Published {
            // The last one.
            number: u64::MAX,
            token: None,
            ask_at: Instant::NEVER,
            cooling: None,
            closed: true,
        });
    }
}

/// The reading end, which the handles share.
#[derive(Debug)]
pub struct Reader(Arc<ArcSwap<Snapshot>>);

impl Reader {
    /// What is published.
    #[inline]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }
}
