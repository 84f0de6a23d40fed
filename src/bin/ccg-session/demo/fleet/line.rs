//! What the demo and its replicas say to each other: objects of JSON, a line each. Orders go to a replica's
//! stdin, where no other user of the machine can read them; what happens comes from its stdout.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The first line: all that a replica has to know.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) number: usize,
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) base_url: String,
    pub(super) enterprise: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
}

/// Where the store is.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Place {
    Directory(PathBuf),
    Redis(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Let callers ask for tokens.
    Go,
    Revoke,
    End,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) at: u64,
    pub(super) what: What,
}

#[derive(Serialize, Deserialize)]
pub(super) enum What {
    Ready,
    /// A request to the server begins.
    Asks,
    Answered {
        is_granted: bool,
    },
    /// Its callers get a token that they have not had before.
    Token {
        name: u64,
        from_store: bool,
    },
    Met(Met),
    /// This token is about to be revoked.
    Revokes {
        name: u64,
    },
    Revoked {
        is_done: bool,
    },
}

/// What a replica's callers met since it was last told.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Met {
    pub(super) calls: u64,
    pub(super) errors: u64,
    /// The longest wait: its begin and end.
    pub(super) longest: (u64, u64),
    /// When each token was last given to a caller.
    pub(super) handed: BTreeMap<u64, u64>,
}

/// In microseconds: the processes are on one machine, so it is the same for all.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
