//! What the actor last published, and how callers read it: without a message, a lock or an allocation.
//!
//! Callers write three bits. `used` and `asked` belong to the snapshot; `doubted` belongs to the token,
//! so that publishing the same token again does not clear it (dismissing a doubt does).
//!
//! Each bit is written once, and handing a token out counts on a [copy](Copies) that is the thread's: so
//! readers write nothing that other threads read, and do not slow each other down.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwap;

use crate::error::SessionError;
use crate::instant::Instant;
use crate::machine::{Published, PublishedExchange, PublishedToken, has_left};
use crate::request::{ExchangeKey, TokenRequestOptions};
use crate::token::{AccessToken, ExchangedToken, TokenId};

/// One publication. The bits are relaxed: each is a word of its own, and whoever needs to see one set
/// either set it or was told by somebody who did. For one that doubts it is more (see [`Self::doubt`]).
#[derive(Debug)]
pub struct Snapshot {
    published: Published,
    /// A number of its own among all snapshots of the process.
    stamp: u64,
    used: AtomicBool,
    asked: AtomicBool,
    of_token: Arc<OfToken>,
    /// Why it is closed, if nobody wanted that.
    time_paused: bool,
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
        static STAMPS: AtomicU64 = AtomicU64::new(0);
        Self {
            published,
            stamp: STAMPS.fetch_add(1, Relaxed),
            used: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            of_token: Arc::default(),
            time_paused: false,
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
    /// the actor can tell. The token is this thread's [copy](Copies).
    #[inline]
    pub fn read(
        &self,
        now: Instant,
        options: &TokenRequestOptions,
    ) -> Option<Result<&AccessToken, SessionError>> {
        if self.published.closed {
            return Some(Err(self.end()));
        }
        if self.of_token.doubted.load(Relaxed) {
            return None;
        }
        if let Some(token) = self.usable_token(now) {
            return has_left(token.issued(), options.get_min_remaining(), now).then_some(Ok(token));
        }
        let cooling = self.published.cooling.as_ref().filter(|cooling| now < cooling.until)?;
        Some(Err(cooling.cooling(now)))
    }

    /// What [`read`](Self::read) gives to who asks for nothing special, if it is a token.
    #[inline]
    pub fn usable_token(&self, now: Instant) -> Option<&AccessToken> {
        let PublishedToken { token, usable_until, .. } = self.published.token.as_ref()?;
        let is_usable = now < *usable_until && !self.of_token.doubted.load(Relaxed);
        is_usable.then(|| self.of_token.copies.of(token))
    }

    /// For times of need: a token that is near its end, but not past it.
    pub fn unexpired_token(&self, now: Instant) -> Option<&AccessToken> {
        let token = &self.published.token.as_ref()?.token;
        let is_good =
            !token.issued().remaining(now).is_zero() && !self.of_token.doubted.load(Relaxed);
        is_good.then_some(token)
    }

    /// Notes that a caller used this; whether the actor wants to hear of it, from this caller.
    #[inline]
    pub fn note_use(&self, now: Instant) -> bool {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
        self.published.ask_at <= now && !self.asked.load(Relaxed) && !self.asked.swap(true, Relaxed)
    }

    /// The resource server refused this token. Whether it is the one published: then the actor is told,
    /// if nobody has told it.
    ///
    /// First it is told, then the bit is set. So whoever finds the bit set has that word before it in
    /// the mailbox, and what it asks next comes behind it. Two at once may both tell, which does no harm.
    pub fn doubt(&self, token: TokenId, tell: impl FnOnce()) -> bool {
        let is_published =
            self.published.token.as_ref().is_some_and(|published| published.token.id() == token);
        if is_published && !self.of_token.doubted.load(Acquire) {
            tell();
            self.of_token.doubted.store(true, Release);
        }
        is_published
    }

    /// Whether a doubt of the token published takes it from those who ask after it.
    pub fn honours_doubts(&self, now: Instant) -> bool {
        let published = self.published.token.as_ref();
        published.is_none_or(|published| published.doubts_honoured_from <= now)
    }

    /// What callers are told once the session has ended.
    pub fn end(&self) -> SessionError {
        if self.time_paused { SessionError::TimePaused } else { SessionError::Closed }
    }

    /// Its number, which goes with an `Asked`.
    pub fn number(&self) -> u32 {
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
pub(crate) struct Copies {
    /// The thread that read first takes the token itself, on which else only the actor counts, and those
    /// who waited for it. So an idle session which one thread has read keeps no copies.
    first: OnceLock<u32>,
    others: OnceLock<Box<[OnceLock<AccessToken>]>>,
}

impl Copies {
    #[inline]
    pub(crate) fn of<'a>(&'a self, token: &'a AccessToken) -> &'a AccessToken {
        /// Four for each processor: threads take numbers in the order in which they first read, and
        /// those that run at once seldom differ by a multiple of this. Not more than 1 KiB, in each
        /// session.
        static COUNT: LazyLock<usize> = LazyLock::new(|| {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            (4 * processors).next_power_of_two().min(64)
        });
        let thread = thread_number();
        if *self.first.get_or_init(|| thread) == thread {
            return token;
        }
        let copies = self.others.get_or_init(|| (0..*COUNT).map(|_| OnceLock::new()).collect());
        copies[thread as usize & (copies.len() - 1)].get_or_init(|| token.copy())
    }
}

/// Numbers the threads that read, from zero.
fn thread_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static NUMBER: u32 = NEXT.fetch_add(1, Relaxed);
    }
    NUMBER.with(|number| *number)
}

/// The writing end, which the actor owns. However the actor ends, it [closes](Self::close) this.
#[derive(Debug)]
pub struct Publisher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// That of the last snapshot. It is written before the snapshot is stored: so who has seen a newer one,
    /// by itself or by word of another thread, never takes an older one for the last.
    stamp: AtomicU64,
    /// Made when the first is published: most sessions exchange nothing.
    exchanged: OnceLock<Box<ExchangedTokens>>,
    /// Calls that are on their way to the actor: those that it has taken up the machine counts.
    calls: AtomicUsize,
}

type ExchangedTokens = RwLock<HashMap<Arc<ExchangeKey>, Exchanged>>;

/// An exchanged token that may be read.
#[derive(Debug)]
struct Exchanged {
    published: PublishedExchange,
    asked: AtomicBool,
}

impl Publisher {
    /// Has published this.
    pub fn new(first: Published) -> Self {
        let first = Snapshot::new(first);
        let stamp = AtomicU64::new(first.stamp);
        let (exchanged, calls) = (OnceLock::new(), AtomicUsize::new(0));
        Self(Arc::new(Shared { snapshot: ArcSwap::from_pointee(first), stamp, exchanged, calls }))
    }

    fn store(&self, next: Snapshot) {
        self.0.stamp.store(next.stamp, Release);
        self.0.snapshot.store(Arc::new(next));
    }

    /// What handles read from.
    pub fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.0))
    }

    /// Readers see this from now on.
    pub fn publish(&self, published: Published) {
        let next = self.0.snapshot.load().followed_by(published);
        self.store(next);
    }

    /// Readers see these, or see them no more, from now on.
    pub fn publish_exchanged(
        &self,
        changes: impl ExactSizeIterator<Item = (Arc<ExchangeKey>, Option<PublishedExchange>)>,
    ) {
        if changes.len() == 0 {
            return;
        }
        // Nothing in here panics while it holds the lock.
        let exchanged = self.0.exchanged.get_or_init(Box::default);
        let mut exchanged = exchanged.write().unwrap_or_else(PoisonError::into_inner);
        for (key, published) in changes {
            match published {
                Some(published) => {
                    let asked = AtomicBool::new(false);
                    exchanged.insert(key, Exchanged { published, asked });
                }
                None => drop(exchanged.remove(&key)),
            }
        }
        if exchanged.is_empty() {
            *exchanged = HashMap::new();
        }
    }

    /// The actor has taken up a call that [was let in](Reader::lets_in).
    pub fn taken_up(&self) {
        self.0.calls.fetch_sub(1, Relaxed);
    }

    /// Whether any caller has used what is published.
    pub fn is_used(&self) -> bool {
        self.0.snapshot.load().is_used()
    }

    /// Nothing will come any more.
    pub fn close(&self, time_paused: bool) {
        let last = Published {
            number: u32::MAX,
            token: None,
            ask_at: Instant::NEVER,
            cooling: None,
            closed: true,
        };
        self.store(Snapshot { time_paused, ..Snapshot::new(last) });
    }
}

/// The reading end, which the handles share.
#[derive(Debug)]
pub struct Reader(Arc<Shared>);

impl Reader {
    /// What is published.
    #[inline]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.snapshot.load()
    }

    /// Reads what is published. A thread keeps the snapshot that it read last, of whichever session: as long
    /// as nothing newer is published, getting at it costs no atomic write. (So a token's text may stay in memory
    /// after its session has ended.)
    #[inline]
    pub fn with<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        thread_local! {
            static KEPT: Cell<Option<Arc<Snapshot>>> = const { Cell::new(None) };
        }
        let stamp = self.0.stamp.load(Acquire);
        // Nothing is there at the thread's end, nor where what is read runs this again.
        let kept = KEPT.try_with(Cell::take).ok().flatten();
        let snapshot = match kept.filter(|kept| kept.stamp == stamp) {
            Some(kept) => kept,
            None => self.0.snapshot.load_full(),
        };
        let answer = read(&snapshot);
        let _ = KEPT.try_with(|kept| kept.set(Some(snapshot)));
        answer
    }

    /// [`with`](Self::with) the time, which is read after what is published: the other way round, a reader that
    /// was held up between the two could judge a new snapshot by an old time.
    #[inline]
    pub fn with_time<T>(
        &self,
        now: impl FnOnce() -> Instant,
        read: impl FnOnce(&Snapshot, Instant) -> T,
    ) -> T {
        self.with(|snapshot| read(snapshot, now()))
    }

    /// Whether another call may be sent to the actor: no more than `most` may be on their way. Or calls that
    /// are given up as fast as they are made would fill the memory.
    pub fn lets_in(&self, most: usize) -> bool {
        let is_room = self.0.calls.fetch_add(1, Relaxed) < most;
        if !is_room {
            self.0.calls.fetch_sub(1, Relaxed);
        }
        is_room
    }

    /// The exchanged token for this key, if the machine would give it at once. `snapshot` was loaded
    /// before; with it goes the session's own token that the actor is asked about: a doubt of that one
    /// may take this one too. The first who finds it due for a refresh is to ask the actor.
    pub fn exchanged(
        &self,
        snapshot: &Snapshot,
        key: &ExchangeKey,
        now: impl FnOnce() -> Instant,
    ) -> Option<(ExchangedToken, Instant)> {
        if snapshot.published.closed || snapshot.of_token.doubted.load(Relaxed) {
            return None;
        }
        let exchanged = self.0.exchanged.get()?.read().unwrap_or_else(PoisonError::into_inner);
        let Exchanged { published, asked } = exchanged.get(key)?;
        let now = now();
        let is_usable = now < published.usable_until && !published.token.as_ref().is_doubted();
        let asks = is_usable
            && published.ask_at <= now
            && !asked.load(Relaxed)
            && !asked.swap(true, Relaxed);
        (is_usable && !asks).then(|| (published.token.clone(), now))
    }

    /// For times of need: a token that is near its end, but not past it. Who asks for it could not ask the
    /// actor, so another shall.
    pub fn unexpired_exchanged(
        &self,
        snapshot: &Snapshot,
        key: &ExchangeKey,
        now: Instant,
    ) -> Option<ExchangedToken> {
        if snapshot.published.closed || snapshot.of_token.doubted.load(Relaxed) {
            return None;
        }
        let exchanged = self.0.exchanged.get()?.read().unwrap_or_else(PoisonError::into_inner);
        let Exchanged { published, asked } = exchanged.get(key)?;
        asked.store(false, Relaxed);
        let token = published.token.as_ref();
        let is_good = !token.remaining(now).is_zero() && !token.is_doubted();
        is_good.then(|| published.token.clone())
    }
}

#[cfg(test)]
mod tests;
