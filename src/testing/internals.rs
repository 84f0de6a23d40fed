//! What this crate's own tests, fuzz targets and benches look at. Not part of the public surface: it
//! changes without notice.

pub use crate::grant::TokenText;
pub use crate::instant::Instant;
pub use crate::machine::*;
pub use crate::request::ExchangeKey;
pub use crate::snapshot::{Publisher, Reader, Snapshot};

/// What an answer holds, for managers that write it down: the token, and how long it lives if that was
/// said.
pub fn opened(grant: &crate::Grant) -> (&TokenText, Option<std::time::Duration>) {
    (grant.text(), grant.life())
}
