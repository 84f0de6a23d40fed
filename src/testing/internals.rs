//! What this crate's own tests, fuzz targets and benches look at. Not part of the public surface: it
//! changes without notice.

pub use crate::grant::TokenText;
pub use crate::instant::Instant;
pub use crate::machine::*;
pub use crate::request::ExchangeKey;
pub use crate::snapshot::{Publisher, Reader, Snapshot};
