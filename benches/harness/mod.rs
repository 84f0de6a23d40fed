//! What every measurement shares: the systems measured, the clock, and what the process has used.

pub mod endpoint;
pub mod goals;
pub mod picture;
pub mod report;
pub mod results;
pub mod run;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

/// A system that gives out tokens, driven as its users drive it. What `get` gives may be kept.
pub trait Subject: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// The `expires_in`, in seconds, that puts the first refresh about two seconds after the first
    /// token.
    const REFRESHED_SOON: u64 = 3_600;

    type Token: Send;
    type Error: Debug + Send;

    fn new(setting: &Setting) -> impl Future<Output = Self> + Send;

    fn get(&self) -> impl Future<Output = Result<Self::Token, Self::Error>> + Send;

    /// Whether it takes part in this case of a scenario.
    fn plays(_scenario: &str, _case: usize) -> bool {
        true
    }
}

/// What a subject is made from.
pub struct Setting {
    pub token_url: String,
    /// Whether the scenario waits for a refresh: then a subject whose refresh is set by its user, not
    /// by the token, makes it come about two seconds after the first token.
    #[allow(dead_code, reason = "read by some of the peers")]
    pub refreshes: bool,
}

/// What one run of a scenario measured, by name. What never happened is not there.
pub type Figures = BTreeMap<String, f64>;

pub fn figures<const N: usize>(known: [(&str, f64); N]) -> Figures {
    known.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect()
}

/// The machine's clock, in nanoseconds: the same for all processes, so that what the endpoint saw can
/// be told from what the callers saw.
pub fn now() -> u64 {
    read(ClockId::Monotonic)
}

/// The processor time that this process has used, in nanoseconds.
pub fn cpu() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// That of this thread.
pub fn thread_cpu() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// A clock that counts the time that the machine was suspended: what a session must read.
pub fn boottime() -> u64 {
    read(ClockId::Boottime)
}

fn read(clock: ClockId) -> u64 {
    let read = clock_gettime(clock);
    read.tv_sec as u64 * 1_000_000_000 + read.tv_nsec as u64
}

pub fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The process's memory, in bytes: what is resident now (`VmRSS`), or was at most (`VmHWM`).
pub fn memory(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("Linux tells it in KiB") * 1024
}

/// The runtime of every scenario.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Sleeps until this many milliseconds after `start`, which [`now`] gave.
pub async fn sleep_until(start: u64, ms: u64) {
    let left = (start + ms * 1_000_000).saturating_sub(now());
    tokio::time::sleep(Duration::from_nanos(left)).await;
}

/// The figure that a share of all figures does not exceed.
pub fn percentile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1) as f64;
    figures.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}

pub fn median(figures: &mut [f64]) -> f64 {
    percentile(figures, 0.5)
}
