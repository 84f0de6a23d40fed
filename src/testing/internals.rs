//! What this crate's own tests, fuzz targets and benches look at. Not part of the public surface: it
//! changes without notice.

pub use crate::machine::*;
pub use crate::manager::ExchangeKey;
pub use crate::snapshot::{Publisher, Reader, Snapshot};
pub use crate::token::TokenText;

/// What an answer holds, for managers that write it down: the token, and how long it lives if that was
/// said.
pub fn opened(grant: &crate::Grant) -> (&TokenText, Option<std::time::Duration>) {
    (grant.text(), grant.life())
}
