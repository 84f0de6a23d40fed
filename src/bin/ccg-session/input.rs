//! What the command reads: files, and stdin.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use secrecy::SecretString;

use crate::as_text::as_text;
use crate::failure::Failure;
use crate::settings::is_stdin;

/// Nothing that it reads is longer, and a wrong path may name anything.
const MAX: u64 = 1024 * 1024;

/// How long a file may take: a pipe that nobody writes to would never end.
const TIME: Duration = Duration::from_secs(10);

/// The text of this file.
pub(crate) fn text(what: &str, path: &Path) -> Result<String, Failure> {
    within(TIME, path).map_err(|error| unread(what, &place(path), &error))
}

/// The secret in this file, or on stdin if it is `-`.
pub(crate) fn secret(what: &str, path: &Path) -> Result<SecretString, Failure> {
    if is_stdin(path) {
        return secret_from_stdin(what);
    }
    without_newline(what, &place(path), text(what, path)?)
}

/// All of stdin. It has no time-out: somebody may be typing.
pub(crate) fn secret_from_stdin(what: &str) -> Result<SecretString, Failure> {
    let text = bounded(io::stdin()).map_err(|error| unread(what, "stdin", &error))?;
    without_newline(what, "stdin", text)
}

/// On a thread of its own, since neither opening a pipe nor reading it can be given up.
fn within(time: Duration, path: &Path) -> io::Result<String> {
    let (done, result) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new().spawn(move || {
        // Nobody waits for it any more if it took too long.
        let _ = done.send(File::open(path).and_then(bounded));
    })?;
    let late = |_| Err(io::Error::other(format!("it took longer than {}s", time.as_secs())));
    result.recv_timeout(time).unwrap_or_else(late)
}

fn bounded(source: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let length = source.take(MAX + 1).read_to_end(&mut bytes)? as u64;
    if length > MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    as_text(bytes).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// Refuses what would break over lines: nobody can tell what was meant. Those around it do not count.
pub(crate) fn check_lines(flag: &str, texts: &[String]) -> Result<(), Failure> {
    if !texts.iter().any(|text| text.trim().contains(char::is_control)) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{flag} has a line break or another control character in it: leave it out, or give {flag} once for each"
    )))
}

/// The same of what may have no blanks either.
pub(crate) fn check_words(flag: &str, texts: &[String]) -> Result<(), Failure> {
    if !texts.iter().any(|text| text.trim().contains(char::is_whitespace)) {
        return check_lines(flag, texts);
    }
    Err(Failure::Usage(format!("{flag} has a blank or a line break in it: leave it out")))
}

/// The path, unless somebody has given what belongs in the file.
fn place(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown.contains(['\n', '{']) || shown.starts_with("-----") {
        return "what was given, which is no path".into();
    }
    shown
}

fn unread(what: &str, place: &str, error: &io::Error) -> Failure {
    Failure::Usage(format!("{what} cannot be read from {place}: {error}"))
}

/// Editors and `echo` leave one at the end.
fn without_newline(what: &str, place: &str, mut text: String) -> Result<SecretString, Failure> {
    let length = text.trim_end_matches(['\r', '\n']).len();
    if length == 0 {
        return Err(Failure::Usage(format!("{what} is empty ({place})")));
    }
    text.truncate(length);
    Ok(text.into())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let pipe = std::env::temp_dir().join(format!("ccg-session-pipe-{}", std::process::id()));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = within(Duration::ZERO, &pipe).unwrap_err().to_string();
        assert_eq!(error, "it took longer than 0s");
        std::fs::remove_file(&pipe).unwrap();
    }
}
