//! Runs each example as a user would; each ends with assertions of its own.

use std::path::Path;
use std::process::Command;

/// cargo builds examples together with the tests, two folders beside this binary.
fn runs(name: &str) {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    let example =
        folder.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let output = Command::new(example).output().expect("built beside the tests");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed: {stderr}");
    assert!(!output.stdout.is_empty(), "{name} shows nothing");
}

#[test]
fn an_axum_service_that_calls_an_api() {
    runs("axum_service");
}

#[test]
fn a_client_of_hyper_util_in_a_stack_of_layers() {
    runs("hyper_client");
}

#[test]
fn a_grpc_client_of_tonic() {
    runs("tonic_client");
}

#[test]
fn a_box_app_whose_clients_can_do_no_more_than_they_need() {
    runs("box_downscoped");
}
