//! The result, and nothing else, on stdout; what is said beside it on stderr.

use std::io::{Write, stderr, stdout};

use crate::failure::Failure;

/// Whether there is a stdout: without one (`>&-`) a result would be lost in silence.
pub(crate) fn open() -> Result<(), Failure> {
    if is_closed() {
        let problem = "stdout is closed, or is /dev/null for reading too";
        return Err(Failure::Output(std::io::Error::other(problem)));
    }
    Ok(())
}

/// Rust's runtime has put /dev/null in its place before `main`, open both ways, which no shell does.
#[cfg(target_os = "linux")]
fn is_closed() -> bool {
    use std::fs::{read_link, read_to_string};
    let is_null = read_link("/proc/self/fd/1").is_ok_and(|path| path.as_os_str() == "/dev/null");
    let told = read_to_string("/proc/self/fdinfo/1").unwrap_or_default();
    let flags = told.lines().find_map(|line| line.strip_prefix("flags:"));
    // In octal: its last digit is how it is open, and 2 is both ways.
    is_null && flags.is_some_and(|flags| flags.ends_with('2'))
}

#[cfg(not(target_os = "linux"))]
fn is_closed() -> bool {
    false
}

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
