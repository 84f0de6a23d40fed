//! What must be true of a session, whatever happens: one history of what was seen of it, and one list of
//! named properties. Whatever drives a machine (tables, the model, the exploration, fuzzers, the real
//! actor) hands each event to [`History::tell`], and is told which property does not hold.
//!
//! The history is told by what crosses the machine's border alone, so it cannot be wrong in the same way
//! as the machine.

mod history;
#[cfg(all(test, any(feature = "test-util", all(feature = "http", feature = "testing"))))]
pub(crate) mod intervals;
#[cfg(all(test, feature = "test-util"))]
mod overheard;
mod pace;
mod properties;
#[cfg(test)]
pub(crate) mod search;

pub(crate) use history::*;
#[cfg(all(test, feature = "test-util"))]
pub(crate) use overheard::{Overheard, overhear};
pub(crate) use properties::PROPERTIES;

use crate::error::TokenError;
use crate::instant::Instant;
use crate::machine::{CallerId, Effects, Event, Machine, Moment, Published};

/// Why a history is not one that a session may have.
pub(crate) type Verdict = Result<(), String>;

/// Something that behaves like the machine: the machine, or a broken one.
pub(crate) trait Session {
    fn handle(&mut self, moment: Moment, event: Event<CallerId>, fx: &mut Effects<CallerId>);
    fn next_deadline(&self) -> Option<Instant>;
    /// What readers see.
    fn published(&self) -> &Published;
    /// How many callers it knows.
    fn held_callers(&self) -> usize;
    /// One like it, to try things on.
    fn fork(&self) -> Box<dyn Session>;
}

impl Session for Machine<CallerId> {
    fn handle(&mut self, moment: Moment, event: Event<CallerId>, fx: &mut Effects<CallerId>) {
        self.handle(moment, event, fx);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }
    fn published(&self) -> &Published {
        self.published()
    }
    fn held_callers(&self) -> usize {
        self.held_callers()
    }
    fn fork(&self) -> Box<dyn Session> {
        Box::new(self.clone())
    }
}

/// Each function of the list with its name.
macro_rules! named {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}
pub(crate) use named;

/// Whether the server did not like the subject of an exchange (RFC 8693 §2.2.2).
pub(crate) fn refuses_subject(error: &TokenError) -> bool {
    let TokenError::Denied { error, description, .. } = error else { return false };
    let names_it = |text: &String| text.contains("subject_token") || text.contains("subject token");
    matches!(error.as_str(), "invalid_grant" | "invalid_token")
        || (error == "invalid_request" && description.as_ref().is_some_and(names_it))
}
