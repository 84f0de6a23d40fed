//! The whole table, as Markdown: `cargo bench --bench table`; `-- --help` tells the options.
//!
//! Linux only: it reads the clock that counts suspended time, and `/proc`. Without the feature `test-util`,
//! whose clock is slower: that is what users have.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures, rounded anyway"
)]

#[cfg(target_os = "linux")]
mod harness;
#[cfg(target_os = "linux")]
mod scenarios;
#[cfg(target_os = "linux")]
mod subjects;

#[cfg(target_os = "linux")]
fn main() {
    harness::run::main(&subjects::entries());
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the table can be made on Linux only");
}
