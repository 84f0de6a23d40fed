//! For tests.

#[doc(hidden)]
pub mod internals;
