//! What can go wrong.

use super::*;

impl World {
    pub(super) fn fault(
        &self,
        scope: &Scope,
        out: &mut Next,
        kind: Kind,
        label: Label,
        change: impl FnOnce(&mut World),
    ) -> Judged {
        if !self.may_yet(scope, kind) {
            return Ok(());
        }
        self.then(out, label, |it| {
            it.faults -= 1;
            change(it);
            Ok(())
        })
    }

    /// Nor is the lease given back that it may have taken.
    pub(super) fn late_take(&self, nth: usize, scope: &Scope, out: &mut Next) -> Judged {
        let Some(Doing::Take(wanted)) = self.replicas[nth].doing() else {
            return Ok(());
        };
        if !self.may_yet(scope, Kind::Late) || !self.is_up {
            return Ok(());
        }
        self.then(out, (Some(nth), "FAULT: looks, and has no answer in time"), |it| {
            it.faults -= 1;
            it.write(|store, now| store.take(now, &wanted.want()));
            it.go_on(nth, scope, Input::Took(Err(StoreError::TimedOut)))
        })
    }

    pub(super) fn faults_of_a_replica(&self, nth: usize, scope: &Scope, out: &mut Next) -> Judged {
        let (me, replica) = (Some(nth), &self.replicas[nth]);
        if replica.held.is_some() || replica.attempt.is_some() || replica.ledger != 0 {
            self.fault(scope, out, Kind::Kill, (me, "FAULT: killed, and started anew"), |it| {
                it.replicas[nth] = Arc::new(Replica::new());
                it.tokens().iter_mut().flatten().for_each(|token| token.after &= !bit(nth));
                for other in 0..it.replicas.len() {
                    if let Some(attempt) = &mut it.replica(other).attempt
                        && let Doing::Ask { after, .. } = &mut attempt.doing
                    {
                        *after &= !bit(nth);
                    }
                }
            })?;
        }
        if !replica.notices.is_empty() {
            self.fault(scope, out, Kind::Notice, (me, "FAULT: notices are lost"), |it| {
                it.replica(nth).notices.clear();
                it.replica(nth).is_linked = false;
            })?;
        }
        let revokes = matches!(replica.revoke, Revoke::Bury | Revoke::Send);
        if scope.prompt && (replica.attempt.is_some() || replica.put.is_some() || revokes) {
            self.fault(scope, out, Kind::Stop, (me, "FAULT: stopped"), |it| {
                it.replica(nth).is_stopped = true;
            })?;
        }
        if replica.has_route {
            self.fault(scope, out, Kind::Route, (me, "FAULT: its route breaks"), |it| {
                it.replica(nth).has_route = false;
            })?;
        }
        Ok(())
    }

    pub(super) fn faults_of_the_store(&self, scope: &Scope, out: &mut Next) -> Judged {
        if *self.store != Content::default() {
            self.fault(scope, out, Kind::Empty, (None, "FAULT: the store restarts empty"), |it| {
                it.write(|store, _| *store = Content::default());
            })?;
        }
        if self.before != self.store {
            let label = (None, "FAULT: a failover loses the last write");
            self.fault(scope, out, Kind::Rollback, label, |it| it.store = Arc::clone(&it.before))?;
        }
        if self.is_up {
            self.fault(scope, out, Kind::Down, (None, "FAULT: the store is down"), |it| {
                it.is_up = false;
            })?;
        }
        let step = scope.step;
        self.fault(
            scope,
            out,
            Kind::Clock,
            (None, "FAULT: the store's clock steps ahead"),
            |it| {
                it.clock += step;
            },
        )?;
        self.fault(scope, out, Kind::Clock, (None, "FAULT: the store's clock steps back"), |it| {
            it.clock -= step;
            it.stepped += step;
        })?;
        if !self.may_yet(scope, Kind::Forge) {
            return Ok(());
        }
        let now = self.store_now();
        for token in self.tokens.iter().flatten() {
            if let Some((asked, id)) =
                token.put.filter(|(asked, _)| *asked + micros(scope.life()) > now)
            {
                let value = entry(asked, micros(scope.life()), token.serial, id, OPENS);
                self.forge(scope, out, "FORGED: an earlier entry", true, |store| {
                    store.entry = Some(Key { value, ends: None });
                })?;
            }
        }
        for nth in 0..self.store.revoked.as_ref().map_or(0, |key| key.value.len() / 40) {
            self.forge(scope, out, "FORGED: a record is taken out", false, |store| {
                if let Some(list) = &mut store.revoked {
                    list.value.drain(40 * nth..40 * (nth + 1));
                }
                store.revoked.take_if(|list| list.value.is_empty());
            })?;
        }
        let value = entry(now, micros(scope.life()), 0, FORGER, 0);
        self.forge(scope, out, "FORGED: an entry that does not open", true, |store| {
            store.entry = Some(Key { value, ends: None });
        })?;
        for (name, ends) in [
            ("FORGED: a lease without an end", None),
            ("FORGED: a lease", Some(now + micros(LEASE))),
        ] {
            self.forge(scope, out, name, true, |store| {
                store.lease = Some(Key { value: FORGER.0.to_vec(), ends });
            })?;
        }
        Ok(())
    }

    pub(super) fn forge(
        &self,
        scope: &Scope,
        out: &mut Next,
        name: &'static str,
        counts: bool,
        change: impl FnOnce(&mut Content),
    ) -> Judged {
        self.fault(scope, out, Kind::Forge, (None, name), |it| {
            it.is_forged |= counts;
            it.write(|store, _| change(store));
        })
    }
}
