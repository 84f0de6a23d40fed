//! The interface between a fleet and its store.

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

/// Where the replicas of a fleet meet: five calls on one slot, each a single atomic step.
///
/// A store that is wrong can cost requests and a 401, and nothing else: what is in it is sealed, and whatever it
/// answers, or if it panics, a session gets a token. [`RedisStore`](crate::RedisStore) and [`FileStore`](crate::FileStore) are two; a
/// [`Fleet`](crate::Fleet) puts a time-out and a breaker around the calls of any.
///
/// Its methods run on the runtime of the session that calls them, and must not block the thread: no time-out can
/// end a call that does, so the session waits for as long as it blocks. Use
/// [`spawn_blocking`](tokio::task::spawn_blocking) for blocking work.
///
/// A slot holds at most three things: an *entry* (a sealed token), a *lease* (the [`Id`] of the replica that is
/// currently asking the authorization server, for at most [`LEASE`]) and the last 16 *records* of revoked
/// tokens. Anything missing, malformed or too large is treated as absent, not as an error, and is replaced by
/// the next write. All times are on the store's own clock.
///
/// # Cancel safety
/// The future of a call may be dropped. The call may or may not have taken effect.
pub trait Store: Send + Sync + 'static {
    /// Looks at the slot: its entry, if that will do; else, with [`Want::lease`], its lease, if nobody
    /// holds it.
    ///
    /// An entry will do if its format is 1, its life at most 30 days, it was asked for in the past, it has
    /// the life left that is wanted, and neither its tag nor its id is in [`Want::not`]. A lease is held if
    /// it is an [`Id`] that ends within [`LEASE`] and is not [`Want::seen`].
    fn take(
        &self,
        slot: &Slot,
        want: &Want<'_>,
    ) -> impl Future<Output = Result<Taken, StoreError>> + Send;

    /// Releases the lease with this id. If the entry has the same id and has not expired, writes it, to expire
    /// with the token. `false` if the lease was held by another or by nobody, or the entry was unusable.
    fn put(
        &self,
        slot: &Slot,
        id: &Id,
        entry: &Sealed,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Extends the lease with this id by another [`LEASE`]. `false` if it is held by another or by nobody.
    fn renew(&self, slot: &Slot, id: &Id) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Releases the lease with this id. `false` if it is held by another or by nobody.
    fn leave(&self, slot: &Slot, id: &Id) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// A token is revoked: removes whatever entry and lease there are, adds the record, and then tells
    /// everybody who [listens](Self::heard).
    fn bury(
        &self,
        slot: &Slot,
        record: &Record,
    ) -> impl Future<Output = Result<Buried, StoreError>> + Send;

    /// Waits for the next notification in this namespace. One task calls it in a loop, but for 500 notices in 50
    /// ms at most. Default: there are no notifications, and replicas learn of revocations at their next look.
    fn heard(&self, namespace: &str) -> impl Future<Output = Heard> + Send {
        let _ = namespace;
        pending()
    }
}

/// Many managers may share a store. Two fleets of one namespace may not, since each would hear what the other has
/// not: give each a store of its own.
impl<S: Store> Store for Arc<S> {
    fn take(
        &self,
        slot: &Slot,
        want: &Want<'_>,
    ) -> impl Future<Output = Result<Taken, StoreError>> + Send {
        S::take(self, slot, want)
    }

    fn put(
        &self,
        slot: &Slot,
        id: &Id,
        entry: &Sealed,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        S::put(self, slot, id, entry)
    }

    fn renew(&self, slot: &Slot, id: &Id) -> impl Future<Output = Result<bool, StoreError>> + Send {
        S::renew(self, slot, id)
    }

    fn leave(&self, slot: &Slot, id: &Id) -> impl Future<Output = Result<bool, StoreError>> + Send {
        S::leave(self, slot, id)
    }

    fn bury(
        &self,
        slot: &Slot,
        record: &Record,
    ) -> impl Future<Output = Result<Buried, StoreError>> + Send {
        S::bury(self, slot, record)
    }

    fn heard(&self, namespace: &str) -> impl Future<Output = Heard> + Send {
        S::heard(self, namespace)
    }
}

/// For how long a lease is given, and renewed.
pub const LEASE: Duration = Duration::from_secs(3);

/// The longest life of a token that counts.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The largest entry.
pub(crate) const MAX_ENTRY: usize = 64 * 1024;

/// How many records a slot keeps.
pub(crate) const MAX_RECORDS: usize = 16;

/// Sixteen bytes that name a lease, and then the entry that comes of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

/// A token's name in the store. Without the fleet's key it reveals nothing about the token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag(pub(crate) [u8; 16]);

/// A place in the store: replicas with the same key, namespace and identity use the same slot.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    namespace: Arc<str>,
    id: [u8; 16],
}

impl Slot {
    /// Of what was [heard](Store::heard) in a namespace.
    pub fn new(namespace: &str, id: [u8; 16]) -> Self {
        Self { namespace: namespace.into(), id }
    }

    pub(crate) fn of(namespace: &Arc<str>, id: [u8; 16]) -> Self {
        Self { namespace: Arc::clone(namespace), id }
    }

    /// Whose slots these are, of characters `A-Za-z0-9._-`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Unique beyond its namespace.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// The id as 32 hexadecimal digits, for keys and file names.
    pub fn name(&self) -> String {
        hex(&self.id)
    }
}

/// What [`Store::take`] is asked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Want<'a> {
    /// The id under which to take the lease; without one, it is only a look.
    pub lease: Option<&'a Id>,
    /// How much lifetime an entry should have left, capped at nine tenths of its lifetime.
    pub least_life: Duration,
    /// The same, but capped at a tenth.
    pub buffer: Duration,
    /// A lease that has been waited for long enough, and is to be taken over.
    pub seen: Option<&'a Id>,
    /// Tags and ids of entries that will not do.
    pub not: &'a [[u8; 16]],
}

impl Want<'_> {
    /// Only a look, at any entry that has life left. The rest can be set.
    pub fn look() -> Self {
        Self::LOOK
    }

    pub(crate) const LOOK: Self = Self {
        lease: None,
        least_life: Duration::ZERO,
        buffer: Duration::ZERO,
        seen: None,
        not: &[],
    };
}

/// Microseconds on the store's own clock, since 1970 if it is right. Compared with nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(pub u64);

/// What [`Store::take`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// When that was.
    pub now: StoreTime,
    /// The slot's records, at most 640 bytes.
    pub revoked: Vec<u8>,
    /// What there was.
    pub found: Found,
}

/// What there was in the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry that will do.
    Entry(Sealed),
    /// The lease is now the caller's.
    Leased,
    /// Somebody else holds the lease.
    Busy(Id),
    /// No entry, and no lease was wanted.
    None,
}

/// A sealed token, with a header that the store reads: format 1, when it was asked for and for how many
/// microseconds it lives (both 8 bytes, big-endian), its tag and its id (16 bytes each).
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl Sealed {
    /// What its header says, which may be anything.
    pub(crate) fn tag(&self) -> Tag {
        Tag(self.0.get(17..33).and_then(|tag| tag.try_into().ok()).unwrap_or_default())
    }
}

/// That a token is revoked: its tag, when it ends (8 bytes, big-endian), and 16 bytes that prove that a
/// replica wrote this.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record(pub [u8; 40]);

/// The ids of what [`Store::bury`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buried {
    /// Of the entry.
    pub entry: Option<Id>,
    /// Of the lease.
    pub lease: Option<Id>,
}

/// What is told to those who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A token of this slot has been revoked.
    Notice(Slot, Record),
    /// Notifications may have been missed: look at every slot.
    Look,
}

/// Why a call to a store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, so other calls will fail too.
    #[error("the store cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// It did not answer in time.
    #[error("the store did not answer in time")]
    TimedOut,
    /// It answered with an error that affects only this call.
    #[error("the store refused: {0}")]
    Refused(Arc<str>),
}

impl StoreError {
    /// Says what the connection met.
    pub fn unreachable(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Unreachable(error.into().to_string().into())
    }

    /// Says what the store answered.
    pub fn refused(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Refused(error.into().to_string().into())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('?'));
        }
        text
    })
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name())
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({})", hex(&self.0[..16]))
    }
}
