//! plot
use super::{record::Happened, report::Report};
pub(super) fn write(
    _: &std::path::Path,
    _: &Happened,
    _: &Report,
) -> Result<(), crate::failure::Failure> {
    Ok(())
}
