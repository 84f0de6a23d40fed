//! What the machine is believed for.

#[cfg(test)]
mod broken;
#[cfg(test)]
pub(crate) mod cost;
#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod endpoint;
#[cfg(test)]
mod event_table;
#[cfg(test)]
mod exchanges;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod fingerprint;
#[cfg(test)]
mod flights;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod lifetimes;
#[cfg(test)]
pub(crate) mod limit;
pub(crate) mod model;
#[cfg(test)]
mod published;
#[cfg(test)]
mod revoke_barrier;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod script;
mod small_world;
pub(crate) mod stories;
#[cfg(test)]
mod storms;
#[cfg(test)]
mod traces;
