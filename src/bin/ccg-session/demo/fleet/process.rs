//! A replica as the demo sees it: a process of its own, which ends with it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use tokio::sync::mpsc::UnboundedSender;

use super::REPLICA;
use super::line::{Assignment, Order, Told};
use crate::failure::Failure;

/// Killed when it is dropped.
pub(super) struct Process {
    child: Child,
    orders: ChildStdin,
}

/// What comes of a replica, by its number.
pub(super) type Heard = (usize, Option<Told>);

impl Process {
    /// What it says goes to `tell`, and at its end nothing.
    pub(super) fn start(
        assignment: &Assignment,
        tell: UnboundedSender<Heard>,
    ) -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::Usage(format!("a replica cannot be started: {error}"));
        let first = serde_json::to_string(assignment).map_err(|error| failed(error.into()))?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // Ctrl-C on a terminal goes to a whole group, but what ends when is for the demo to say.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let command = command.arg(REPLICA).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, told) = pipes.ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        // From here on it is killed if anything fails.
        let mut process = Self { child, orders };
        let number = assignment.number;
        let read = move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                let Ok(told) = serde_json::from_str(&line) else { break };
                let _ = tell.send((number, Some(told)));
            }
            let _ = tell.send((number, None));
        };
        thread::Builder::new().spawn(read).map_err(failed)?;
        process.write(&first);
        Ok(process)
    }

    pub(super) fn order(&mut self, order: Order) {
        if let Ok(line) = serde_json::to_string(&order) {
            self.write(&line);
        }
    }

    /// One that has ended reads no more, and that is heard in another way.
    fn write(&mut self, line: &str) {
        let _ = writeln!(self.orders, "{line}");
    }

    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
