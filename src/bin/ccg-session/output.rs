//! The result, and nothing else, on stdout.

use std::io::{Write, stdout};

use crate::failure::Failure;

/// One line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// As they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::Usage(format!("the result could not be written: {error}")))
}

/// One object on one line.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::Usage(format!("the result could not be made JSON: {error}")))?;
    line(&text)
}
