//! How-to guides, one task each. They assume that you have read the [tutorial](super::tutorial).

#[doc = include_str!("servers.md")]
pub mod servers {}

#[doc = include_str!("tenants.md")]
pub mod tenants {}

#[doc = include_str!("fleet.md")]
pub mod fleet {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("synchronous.md")]
pub mod synchronous {}

#[doc = include_str!("without_macros.md")]
pub mod without_macros {}

#[doc = include_str!("coming_from.md")]
pub mod coming_from {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("upgrading.md")]
pub mod upgrading {}
