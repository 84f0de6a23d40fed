//! What must be true of a session, whatever happens: one history of what was seen of it, and one list of
//! named properties. Whatever drives a machine (tables, the model, the exploration, fuzzers, the real
//! actor) hands each event to [`History::tell`], and is told which property does not hold.
//!
//! The history is told by what crosses the machine's border alone, so it cannot be wrong in the same way
//! as the machine.

mod history;
#[cfg(all(test, feature = "test-util"))]
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
#[cfg(all(test, feature = "test-util"))]
pub(crate) use pace::{Pace, Policy};

use properties::*;

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
#[cfg(all(test, feature = "test-util"))]
pub(crate) use named;

type Property = fn(&History, &Seen<'_>) -> Verdict;

/// All that must be true. What a property says against a session begins with its name.
pub(crate) const PROPERTIES: &[(&str, Property)] = named![
    // Of each thing that is seen, by what was seen before.
    nothing_happens_after_the_end,
    one_attempt_of_a_purpose_on_the_wire,
    nothing_but_revocations_starts_behind_the_barrier,
    grants_keep_their_distance,
    attempts_keep_to_the_flight_policy,
    only_marked_tokens_are_revoked_and_once_confirmed_no_more,
    exactly_one_answer_to_each_caller,
    no_earlier_token_after_a_revoke,
    no_earlier_token_after_an_honoured_invalidate,
    no_token_at_or_after_its_expiry,
    generations_never_go_back,
    a_token_is_given_only_to_those_who_asked_for_it,
    a_revoke_that_is_ok_left_nothing_alive,
    snapshots_are_numbered_in_their_order,
    at_most_so_many_exchanges_are_on_the_wire,
    a_failing_endpoint_sees_one_probe_at_a_time,
    // Of an event as a whole.
    nothing_but_revocations_starts_while_a_revoke_waits,
    a_revoke_takes_the_token_from_readers,
    no_revoked_exchanged_token_is_shown,
    only_a_doubt_or_a_revoke_takes_a_usable_token,
    a_usable_token_is_an_answer_at_once,
    nobody_waits_after_an_attempt_beside_a_usable_token,
    a_doubt_is_settled,
    whoever_waits_is_known_and_waits_for_something,
    the_next_deadline_is_ahead,
    // Of what the session would do.
    a_timer_that_is_not_due_does_nothing,
    a_read_gives_what_the_session_would_give,
    a_read_of_an_exchanged_token_gives_what_the_session_would_give,
    shutdown_answers_everybody,
];

/// Whether the server did not like the subject of an exchange (RFC 8693 §2.2.2).
pub(crate) fn refuses_subject(error: &TokenError) -> bool {
    let TokenError::Denied { error, description, .. } = error else { return false };
    let names_it = |text: &String| text.contains("subject_token") || text.contains("subject token");
    matches!(error.as_str(), "invalid_grant" | "invalid_token")
        || (error == "invalid_request" && description.as_ref().is_some_and(names_it))
}
