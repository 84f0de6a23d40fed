//! How long, how much, how far apart.

use std::time::Duration;

/// Connecting, TLS included. Half of an attempt's default time, so that one that cannot be connected
/// leaves time for a server that answers slowly.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a credential may take to be read again after a refusal. The caller has its answer by then and
/// only waits to be told whether another attempt follows.
pub(super) const REREAD: Duration = Duration::from_secs(1);

/// From where on a server's clock is said to be another. `Date` has whole seconds and the answer was on
/// its way: less proves nothing, and servers allow for as much.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(60);

/// How far, in seconds, what is signed is dated back: servers refuse what comes from the future, and their
/// clocks are seldom a few seconds behind, but often one.
pub(super) const DATED_BACK: u64 = 5;

/// How far, in seconds, a refusal's `Date` may lie outside of the time between request and answer and still
/// be by the same clock: as far as what is signed is dated back.
pub(super) const CLOCK_LEEWAY: i64 = 5;

/// How long an assertion is good for, in seconds: long enough for clocks that differ a little, and
/// less than the five minutes that some servers allow.
pub(super) const ASSERTION_LIFE: u64 = 120;

/// How long an actor token is good for, in seconds: as long as Box's own client makes it.
pub(super) const ACTOR_LIFE: u64 = 60;

/// The longest answer that is read, in bytes. A token's answer has a few KiB.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// How much of a server's words is kept, in characters: a correlation id, by which its operators find the
/// request, stands at the end of some.
pub(super) const MAX_WORDS: usize = 1_024;

/// How much of a name is shown, in characters, where anything could stand in its place.
pub(super) const MAX_NAME: usize = 256;

/// How much of the scopes is kept, in characters. They are data, not words, and some servers have hundreds
/// of them.
pub(super) const MAX_SCOPE: usize = 16 * 1024;

/// The longest wait that a server can ask for: a hundred years, which errors can still show in one word.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(100 * 31_557_600);

/// How deep the values of an answer may be nested that are read: `serde_json` gives up at 128.
pub(super) const MAX_DEPTH: usize = 100;

/// How many tokens of an answer are looked for in its words: servers give one, or two besides. Words of one that
/// has more are not shown.
pub(super) const MAX_TOKENS: usize = 16;

/// How long the body of an answer may take whose head says enough already. It only gives words.
pub(super) const WORDS_TIME: Duration = Duration::from_secs(1);

/// How many characters a secret must have to be looked for inside of other words: a shorter one would be
/// found in many that have nothing to do with it.
pub(super) const SHORT_SECRET: usize = 8;

/// The longest address that metadata may give, in bytes: what servers and proxies take at the least.
pub(super) const MAX_ADDRESS: usize = 2_048;

/// The longest credential's file that is read, in bytes: no credential is longer, and a wrong path may
/// name anything.
pub(super) const MAX_FILE: u64 = 1024 * 1024;

/// How many threads may read a credential's file at once: more than one, since it may be far away; and not
/// many, since each of them hangs if the file's mount is dead.
pub(super) const MAX_READS: usize = 4;
