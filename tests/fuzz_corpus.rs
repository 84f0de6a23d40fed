//! Replays what the fuzzers started from and what they found, in an ordinary build.

mod invariants;
#[path = "model/mod.rs"]
mod reference;
mod small_world;

use std::fs;
use std::path::Path;

use ccg_session::testing::fuzz;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("readable").path();
        println!("{}", path.display());
        body(&fs::read(&path).expect("readable"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

#[test]
fn config() {
    replay("config", fuzz::config);
}

#[test]
fn token_response() {
    replay("token_response", fuzz::token_response);
}

#[test]
fn revocation_response() {
    replay("revocation_response", fuzz::revocation_response);
}

#[test]
fn machine() {
    replay("machine", small_world::stories::fuzz);
}

#[test]
fn model() {
    replay("model", reference::bytes::fuzz);
}
