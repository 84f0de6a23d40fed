//! A false clock for another process, which a test can step: by libfaketime.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::Directory;

#[derive(Clone)]
pub(crate) struct Clock {
    /// What to load into the process.
    library: String,
    offset: PathBuf,
    _directory: Arc<Directory>,
}

impl Clock {
    /// `None`, after a word about it, where there is no `faketime`. Where it has to be there, as in CI,
    /// `REQUIRE_REDIS=1` makes that a failure.
    pub(crate) fn new() -> Option<Self> {
        let shown =
            Command::new("faketime").args(["-f", "+0s", "env"]).stderr(Stdio::null()).output();
        let shown = shown.map(|shown| String::from_utf8_lossy(&shown.stdout).into_owned());
        let library = shown.ok().and_then(|shown| {
            let library = shown.lines().find_map(|line| line.strip_prefix("LD_PRELOAD="));
            library.map(str::to_owned)
        });
        assert!(library.is_some() || std::env::var_os("REQUIRE_REDIS").is_none(), "no faketime");
        let Some(library) = library else {
            println!("SKIPPED: there is no faketime on this machine");
            return None;
        };
        let directory = Arc::new(Directory::new());
        let clock = Self { library, offset: directory.path().join("clock"), _directory: directory };
        clock.is_off_by(0);
        Some(clock)
    }

    /// From now on.
    pub(crate) fn is_off_by(&self, secs: i64) {
        // In one step: the process reads it each time that it asks for the time.
        let next = self.offset.with_extension("next");
        std::fs::write(&next, format!("{secs:+}\n")).unwrap();
        std::fs::rename(&next, &self.offset).unwrap();
    }

    /// What a process has it by.
    pub(crate) fn env(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// The same for Redis, whose own allocator asks for the time before the false clock is there: it gets
    /// another.
    pub(crate) fn env_of_redis(&self) -> [(&'static str, String); 4] {
        let mut env = self.env();
        env[0].1.push_str(" libc.so.6");
        env
    }
}
