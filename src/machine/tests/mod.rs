//! What the machine is believed for.

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod event_table;
#[cfg(test)]
mod exchanges;
#[cfg(test)]
mod flights;
#[cfg(test)]
mod lifetimes;
#[cfg(test)]
mod published;
#[cfg(test)]
mod revoke_barrier;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod storms;
#[cfg(test)]
mod story;
#[cfg(test)]
mod traces;
