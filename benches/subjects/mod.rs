//! What is measured here: this crate, and the least that could do its job.

pub mod floor;
pub mod ours;

use crate::harness::run::Entry;

/// The controls first, the floors, then this crate.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::of::<floor::EmptyLoop>(),
        Entry::of::<floor::ClockRead>(),
        Entry::of::<floor::ThreadLocal>(),
        Entry::of::<floor::ThreadLocalHeader>(),
        Entry::of::<floor::SharedArc>(),
        Entry::of::<floor::Actor>(),
        Entry::of::<ours::Session>(),
        Entry::of::<ours::TryToken>(),
        Entry::of::<ours::Header>(),
    ]
}
