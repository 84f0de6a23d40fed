//! What is seen of the day while it goes on: bars on a terminal, else a line per stage. On stderr,
//! since stdout is for the figures.

use std::io::IsTerminal;
use std::time::Duration;

use ccg_session::{Phase, Status};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::record::{Sample, Stage};
use crate::output;

pub(super) enum View {
    Bars(Bars),
    Lines,
}

pub(super) struct Bars {
    day: ProgressBar,
    held: ProgressBar,
    life: ProgressBar,
}

impl View {
    pub(super) fn new(length: Duration, callers: u64) -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars(Bars::new(length, callers))
        } else {
            Self::Lines
        }
    }

    pub(super) fn stage(&self, stage: Stage, at: Duration) {
        match self {
            Self::Bars(bars) => bars.day.set_message(stage.name()),
            Self::Lines => line(at, stage.name()),
        }
    }

    pub(super) fn show(&self, sample: &Sample, status: &Status) {
        if let Self::Bars(bars) = self {
            bars.show(sample, status);
        }
    }

    pub(super) fn finish(&self) {
        if let Self::Bars(bars) = self {
            // What is left of them would only be in the table's way.
            for bar in [&bars.day, &bars.held, &bars.life] {
                bar.finish_and_clear();
            }
        }
    }
}

pub(super) fn line(at: Duration, stage: &str) {
    output::note(&format!("{:6.2} s  {stage}", at.as_secs_f64()));
}

impl Bars {
    fn new(length: Duration, callers: u64) -> Self {
        let together = MultiProgress::new();
        let bar = |length, prefix, template: &str| {
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("█▉▊▋▌▍▎▏ ");
            let bar = ProgressBar::new(length).with_style(style).with_prefix(prefix);
            together.add(bar)
        };
        Self {
            day: bar(millis(length), "day", "{prefix:>12} {bar:40.blue} {elapsed:>4} {msg}"),
            held: bar(callers, "held callers", "{prefix:>12} {bar:40.yellow} {pos} of {len}"),
            life: bar(1, "token's life", "{prefix:>12} {bar:40.green} {msg}"),
        }
    }

    fn show(&self, sample: &Sample, status: &Status) {
        self.day.set_position(millis(sample.at));
        self.held.set_position(sample.held as u64);
        let remaining = sample.remaining.unwrap_or_default();
        // A new token has the most that is ever seen of it.
        if millis(remaining) > self.life.length().unwrap_or_default() {
            self.life.set_length(millis(remaining));
        }
        self.life.set_position(millis(remaining));
        let counters = status.counters();
        self.life.set_message(format!(
            "{}; grants: {}, failed: {}",
            phase(status.phase()),
            counters.grants_started,
            counters.grants_failed
        ));
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "no token",
        Phase::Fresh => "fresh",
        Phase::Stale => "stale",
        Phase::Refreshing => "refreshing",
        Phase::Holding => "callers wait",
        Phase::Cooling => "server left alone",
        Phase::Revoking => "revoking",
        _ => "closed",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
