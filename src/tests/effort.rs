//! How long a thread has worked: what other threads and processes do meanwhile does not count.

use std::time::Duration;

#[cfg(target_os = "linux")]
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(not(target_os = "linux"))]
fn worked() -> Duration {
    static BEGUN: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    BEGUN.elapsed()
}

/// What is done in tenths of a second, and took minutes where it grew with the square of what is read.
pub(crate) fn assert_takes_little(what: &str, act: impl FnOnce()) {
    let before = worked();
    act();
    let took = worked().saturating_sub(before);
    println!("{what}: {took:?}");
    assert!(took < Duration::from_secs(10), "{what}: {took:?}");
}
