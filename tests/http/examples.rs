//! Runs each example as a user would; each ends with assertions of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// cargo builds examples together with the tests, two folders beside this binary.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    folder.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION)
}

fn runs(name: &str) {
    let output = Command::new(example(name)).output().expect("built beside the tests");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed: {stderr}");
    assert!(!output.stdout.is_empty(), "{name} shows nothing");
}

#[test]
fn a_service_whose_tasks_share_a_session() {
    runs("service");
}

#[test]
fn a_token_downscoped_for_a_browser() {
    runs("downscope");
}

#[test]
fn a_test_of_ones_own_code_against_the_authority() {
    runs("test_your_code");
}

#[cfg(feature = "metrics")]
#[test]
fn a_scrape_through_an_outage() {
    runs("metrics");
}

#[test]
fn instruments_for_opentelemetry() {
    runs("opentelemetry");
}
