//! Those who wait in the gate, in the order in which they came.

use std::collections::BTreeMap;

use super::{Standing, Tenant, Ticket};

pub(super) struct Waiting<W> {
    pub(super) ticket: Ticket,
    pub(super) tenant: Tenant,
    pub(super) standing: Standing,
    pub(super) reply: W,
}

/// Of each standing, in this order, those whose last attempt was not slow, and those whose was.
#[derive(Debug)]
pub(super) struct Queue<W>([[Line<W>; 2]; 3]);

type Line<W> = BTreeMap<Ticket, (Tenant, W)>;

impl<W> Queue<W> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| [Line::new(), Line::new()]))
    }

    pub(super) fn push(&mut self, waiting: Waiting<W>, is_slow: bool) {
        let Waiting { ticket, tenant, standing, reply } = waiting;
        self.0[standing as usize][usize::from(is_slow)].insert(ticket, (tenant, reply));
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        self.0.as_flattened_mut().iter_mut().for_each(|line| drop(line.remove(&ticket)));
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_flattened().iter().map(BTreeMap::len).sum()
    }

    pub(super) fn has(&self, standing: Standing) -> bool {
        self.0[standing as usize].iter().any(|line| !line.is_empty())
    }

    /// Who came first; those who are failing after the others.
    pub(super) fn pop_first(&mut self, is_slow: bool) -> Option<Waiting<W>> {
        let head = |(standing, line): &(Standing, &Line<W>)| {
            (*standing == Standing::Failing, line.first_key_value().map(|(ticket, _)| *ticket))
        };
        let (standing, _) = self.lines(is_slow).min_by_key(head)?;
        let first = self.0[standing as usize][usize::from(is_slow)].pop_first()?;
        Some(Waiting::new(standing, first))
    }

    /// Who came last, with the same exception.
    pub(super) fn pop_last(&mut self, is_slow: bool) -> Option<Waiting<W>> {
        let tail = |(standing, line): &(Standing, &Line<W>)| {
            (*standing != Standing::Failing, line.last_key_value().map(|(ticket, _)| *ticket))
        };
        let (standing, _) = self.lines(is_slow).max_by_key(tail)?;
        let last = self.0[standing as usize][usize::from(is_slow)].pop_last()?;
        Some(Waiting::new(standing, last))
    }

    /// Who came last of this standing, those who were slow after the others.
    pub(super) fn pop_last_of(&mut self, standing: Standing) -> Option<Waiting<W>> {
        let lines = &mut self.0[standing as usize];
        let last = lines.iter_mut().find_map(BTreeMap::pop_last)?;
        Some(Waiting::new(standing, last))
    }

    /// All of this standing; if `but_one`, without the one that [`pop_last_of`](Self::pop_last_of) gives.
    pub(super) fn take(&mut self, standing: Standing, but_one: bool) -> impl Iterator<Item = W> {
        let kept = if but_one { self.pop_last_of(standing) } else { None };
        let lines = &mut self.0[standing as usize];
        let taken = std::mem::take(lines);
        if let Some(Waiting { ticket, tenant, reply, .. }) = kept {
            lines[0].insert(ticket, (tenant, reply));
        }
        taken.into_iter().flat_map(BTreeMap::into_values).map(|(_, reply)| reply)
    }

    fn lines(&self, is_slow: bool) -> impl Iterator<Item = (Standing, &Line<W>)> {
        let lines = Standing::ALL.into_iter().zip(&self.0);
        let lines = lines.map(move |(standing, lines)| (standing, &lines[usize::from(is_slow)]));
        lines.filter(|(_, line)| !line.is_empty())
    }
}

impl<W> Waiting<W> {
    fn new(standing: Standing, (ticket, (tenant, reply)): (Ticket, (Tenant, W))) -> Self {
        Self { ticket, tenant, standing, reply }
    }
}
