//! How the exchange endpoint has shown itself. All keys share it: when it fails them all, it is asked as
//! often as one key alone would ask it.

use std::sync::Arc;
use std::time::Duration;

use super::event::{Cooling, Moment};
use super::flight::{Flight, Sent};
use crate::config::RetryPolicy;
use crate::error::TokenError;
use crate::instant::Instant;
use crate::request::TokenRequestOptions;

#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint {
    /// Untouched while all is well. After a failure that speaks of the endpoint its attempts are probes,
    /// one at a time, whichever key sends them.
    probes: Flight,
    known: Known,
    /// A key that has not failed was turned away since the last probe left. Such keys go first: of those that
    /// failed, one that comes back the moment the rest is over would else be the probe for ever.
    others_first: bool,
}

/// So long, after a rest, those that failed wait for others.
const YIELD: Duration = Duration::from_secs(5);

/// What was known when an attempt was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// How many failures had been counted.
    failures: u64,
    successes: u64,
}

impl Endpoint {
    /// What tells situations apart: the counts themselves do not.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self, state: &mut impl std::hash::Hasher) {
        use std::hash::Hash;

        (&self.probes, self.others_first).hash(state);
    }

    /// A probe may be sent at once.
    #[cfg(test)]
    pub(crate) fn forget_the_pause(&mut self) {
        if self.probes.next_attempt_at().is_some() {
            self.probes.renew(Instant::ZERO);
        }
    }

    #[cfg(test)]
    pub(crate) fn has_changed_since(&self, known: Known) -> (bool, bool) {
        let Known { failures, successes } = self.known;
        (failures > known.failures, successes > known.successes)
    }

    fn is_failing(&self) -> bool {
        self.probes.is_open() || self.probes.last_failure().is_some()
    }

    /// Whether an attempt may be sent, while so many are on the wire, and others wait for leave.
    pub(crate) fn may_depart(
        &self,
        now: Instant,
        on_wire: usize,
        at_gate: usize,
        at_once: usize,
    ) -> bool {
        if self.is_failing() {
            at_gate == 0 && (self.probes.is_due(now) || self.probes.may_open(now))
        } else {
            on_wire + at_gate < at_once
        }
    }

    /// When a probe may be sent to it; `None` while all is well, or one is on the wire.
    pub(crate) fn next_probe_at(&self) -> Option<Instant> {
        if self.probes.is_open() {
            self.probes.next_attempt_at()
        } else {
            self.probes.last_failure().map(|failure| failure.until)
        }
    }

    /// What it failed with, while nothing is sent to it of a key that has failed itself, or has not.
    pub(crate) fn cooling(&self, now: Instant, has_failed: bool) -> Option<Cooling> {
        let Cooling { until, last } = self.probes.last_failure()?;
        let yields = has_failed && self.others_first;
        let until = if yields { *until + YIELD } else { *until };
        let is_cooling = !self.probes.is_open() && now < until;
        is_cooling.then(|| Cooling { until, last: Arc::clone(last) })
    }

    /// Somebody who wants this key is told that it cools.
    pub(crate) fn turned_away(&mut self, has_failed: bool) {
        self.others_first |= !has_failed;
    }

    pub(crate) fn depart(&mut self, sent: Sent) -> Known {
        if self.is_failing() {
            self.probe(sent);
        }
        self.known
    }

    fn probe(&mut self, sent: Sent) {
        if !self.probes.is_open() {
            self.probes.open(TokenRequestOptions::default());
        }
        self.probes.depart(sent);
        self.others_first = false;
    }

    /// It has answered as it should. What was sent before it failed says nothing about now.
    pub(crate) fn answered(&mut self, known: Known) {
        self.known.successes += 1;
        self.works(known);
    }

    /// It has refused: that is about one key alone, but it works.
    pub(crate) fn refused(&mut self, known: Known) {
        self.works(known);
    }

    fn works(&mut self, known: Known) {
        if known.failures == self.known.failures {
            self.probes.succeed();
        }
    }

    /// An attempt failed in a way that may pass. Whether that is the end of the probes: then everybody
    /// who waits is told.
    pub(crate) fn failed(
        &mut self,
        known: Known,
        error: &TokenError,
        policy: &RetryPolicy,
        moment: Moment,
    ) -> bool {
        if known.failures != self.known.failures {
            // Sent before a failure that was counted: of the same outage.
            return false;
        }
        let is_about_all =
            matches!(error, TokenError::RateLimited { .. } | TokenError::Transport { .. });
        let others_succeed = self.known.successes > known.successes;
        if !self.is_failing() && !is_about_all && others_succeed {
            return false;
        }
        self.known.failures += 1;
        if self.probes.land().is_none() {
            // The first to fail was not sent as a probe.
            self.probe(Sent { at: moment.now, revokes: 0 });
            self.probes.land();
        }
        self.probes.fail(error.clone(), policy, moment);
        !self.probes.is_open()
    }
}
