//! Each peer behind its own public API: `get` is what its user writes to have a token to keep.

mod aliri;
mod by_hand;
mod clouds;
mod huskarl;
mod service_account;
mod with_a_fetch;

pub use aliri::Aliri;
pub use by_hand::ByHand;
pub use clouds::{Azure, Google};
pub use huskarl::Huskarl;
pub use service_account::{Gcp, Yup};
pub use with_a_fetch::{Moka, Smithy};
