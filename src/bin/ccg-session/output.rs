//! The result, and nothing else, on stdout; what is said beside it on stderr.

use std::io::{Write, stderr, stdout};

use crate::failure::Failure;

/// One line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// As they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// One object on one line.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?;
    line(&text)
}

/// One line beside the result. If it cannot be written, nobody is left to be told; `eprintln` would
/// panic, and with that hide the exit code.
pub(crate) fn note(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}
