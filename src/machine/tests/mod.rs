//! What the machine is believed for.

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod event_table;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod traces;
