//! When two machines are the same: if all that can follow is. How often things were done does not count,
//! nor does the number of a publication, and what was set at the start is the same in all that are compared.

use std::hash::{Hash, Hasher};

use super::super::{Cooling, Machine, Published};
use crate::error::TokenError;
use crate::token::Issued;

impl<R: Hash> Hash for Machine<R> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A field that is added has to be thought of here.
        let Self {
            config: _,
            abilities: _,
            session: _,
            own,
            earliest,
            leave,
            grants_ended,
            refused,
            subject_refresh_from,
            doubts_honoured_from,
            doubts_dismissed,
            warm,
            endpoint,
            exchanges,
            ledger,
            barrier,
            generation,
            used,
            published,
            next_deadline,
            lifetime_assumed,
            closed,
            last_success: _,
            counters,
        } = self;
        (own, earliest, leave, refused, subject_refresh_from).hash(state);
        (doubts_honoured_from, doubts_dismissed).hash(state);
        endpoint.fingerprint(state);
        exchanges.fingerprint(*grants_ended, endpoint, state);
        (warm, ledger, barrier, generation, counters.revokes).hash(state);
        (used, published, next_deadline, lifetime_assumed, closed).hash(state);
    }
}

impl Hash for Published {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { number: _, token, ask_at, cooling, closed } = self;
        (token, ask_at, cooling, closed).hash(state);
    }
}

impl Hash for Cooling {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.until, &*self.last).hash(state);
    }
}

/// As it is written.
impl Hash for TokenError {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_string().hash(state);
    }
}

impl Hash for Issued {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}
