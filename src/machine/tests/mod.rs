//! What the machine is believed for.

#[cfg(test)]
mod broken;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod fingerprint;
pub(crate) mod model;
mod small_world;
pub(crate) mod stories;
