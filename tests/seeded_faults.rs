//! Does `tests/model.rs` find what it is there to find? Twelve faults are put into a copy of the machine,
//! one at a time, and the model test has to find each in under 256 cases.
//!
//! `cargo test --features testing --test seeded_faults -- --nocapture` prints the table.

#![cfg(feature = "testing")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is wrong, where, and the text that is replaced to make it so.
struct Fault {
    name: &'static str,
    file: &'static str,
    text: &'static str,
    by: &'static str,
}

const MACHINE: &str = "src/machine/mod.rs";
const BARRIER: &str = "src/machine/barrier.rs";
const INVALIDATED: &str = "self.exchanges.drop_children(id);";

const FAULTS: [Fault; 12] = [
    Fault {
        name: "an invalidation forgets the ledger",
        file: MACHINE,
        text: INVALIDATED,
        by: "self.exchanges.drop_children(id); self.ledger = Ledger::default();",
    },
    Fault {
        name: "who asked last is answered first",
        file: MACHINE,
        text: "let callers = std::mem::take(&mut self.callers).into_values();",
        by: "let callers = std::mem::take(&mut self.callers).into_values().rev();",
    },
    Fault {
        name: "an invalidation starts a second grant",
        file: MACHINE,
        text: INVALIDATED,
        by: "self.exchanges.drop_children(id); self.flight.land();",
    },
    Fault {
        name: "stale_at is taken for hold_at",
        file: MACHINE,
        text: "self.lifetime.expires_at } else { self.lifetime.hold_at }",
        by: "self.lifetime.expires_at } else { self.lifetime.stale_at }",
    },
    Fault {
        name: "a departed caller is kept",
        file: MACHINE,
        text: "if self.callers.remove(&caller).is_none() &&",
        by: "if !self.callers.contains_key(&caller) &&",
    },
    Fault {
        name: "an Asked of an old snapshot counts",
        file: MACHINE,
        text: "if snapshot == self.published.number {",
        by: "if snapshot <= self.published.number {",
    },
    Fault {
        name: "a republished token loses its doubt",
        file: MACHINE,
        text: "held.attempt_failed = true;",
        by: "held.attempt_failed = true; held.doubts_dismissed += 1;",
    },
    Fault {
        name: "a revoke lifts earliest",
        file: MACHINE,
        text: "self.ledger.mark_all();",
        by: "self.ledger.mark_all(); self.earliest = Instant::ZERO;",
    },
    Fault {
        name: "the barrier does not wait for exchanges",
        file: MACHINE,
        text: "let on_wire = self.flight.is_on_wire() || self.exchanges.is_any_on_wire();",
        by: "let on_wire = self.flight.is_on_wire();",
    },
    Fault {
        name: "an invalidation lifts not_before",
        file: MACHINE,
        text: INVALIDATED,
        by: "self.exchanges.drop_children(id); if !self.flight.is_open() { self.flight.succeed(); }",
    },
    Fault {
        name: "a revoke answers before its ledger is done",
        file: BARRIER,
        text: "if anything_on_wire || self.flight.is_open() {",
        by: "if anything_on_wire {",
    },
    Fault {
        name: "a marked token is forgotten once confirmed",
        file: "src/machine/ledger.rs",
        text: "mark.confirmed = true;",
        by: "mark.confirmed = true; self.entries.retain(|entry| entry.text != *text);",
    },
];

/// How a fault was found.
struct Finding {
    cases: u32,
    steps: u32,
    problem: String,
}

#[test]
fn the_model_finds_every_seeded_fault() {
    let tree = copy_of_the_crate();
    let mut table = String::new();
    let mut missed = Vec::new();
    for fault in &FAULTS {
        let original = fs::read_to_string(fault.file).unwrap();
        assert_eq!(original.matches(fault.text).count(), 1, "{}: {:?}", fault.file, fault.text);
        fs::write(tree.join(fault.file), original.replace(fault.text, fault.by)).unwrap();
        let finding = run_the_model_test(&tree);
        fs::write(tree.join(fault.file), original).unwrap();
        match finding {
            Some(Finding { cases, steps, problem }) => {
                writeln!(table, "| {} | {problem} | {cases} | {steps} |", fault.name).unwrap();
            }
            None => missed.push(fault.name),
        }
    }
    println!("| fault | found by | after cases | shrunk to events |\n|---|---|---|---|\n{table}");
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Beside the build's other files, and always in the same place, so that what the crate depends on is
/// compiled once.
fn copy_of_the_crate() -> PathBuf {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seeded-faults");
    let _ = fs::remove_dir_all(tree.join("src"));
    let _ = fs::remove_dir_all(tree.join("tests"));
    copy(Path::new("src"), &tree.join("src"));
    // The command needs more features than the model test.
    let _ = fs::remove_dir_all(tree.join("src/bin"));
    copy(Path::new("tests/model"), &tree.join("tests/model"));
    fs::copy("tests/model.rs", tree.join("tests/model.rs")).unwrap();
    fs::copy("Cargo.lock", tree.join("Cargo.lock")).unwrap();
    fs::write(tree.join("Cargo.toml"), manifest()).unwrap();
    tree
}

/// The crate's own, without targets and dependencies that the model test has no use for, and in a
/// workspace of its own.
fn manifest() -> String {
    let whole = fs::read_to_string("Cargo.toml").unwrap();
    let mut kept = String::from("[workspace]\n\n");
    let mut section = "";
    for line in whole.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let unused = match section {
            "[[test]]" | "[[example]]" | "[[bench]]" | "[[bin]]" | "[workspace]" => true,
            "[dev-dependencies]" => !line.starts_with('[') && !line.starts_with("proptest"),
            _ => false,
        };
        if !unused {
            kept += line;
            kept += "\n";
        }
    }
    kept
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// `None` if it found nothing.
fn run_the_model_test(tree: &Path) -> Option<Finding> {
    // A seed that is remembered would find the next fault at once.
    let _ = fs::remove_file(tree.join("tests/model.proptest-regressions"));
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--no-default-features", "--features", "testing"])
        .args(["--test", "model", "the_machine_does_what_the_model_does"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", tree.join("target"))
        .env("PROPTEST_CASES", "255")
        // The table is the same each time, as long as nothing changes.
        .env("PROPTEST_RNG_SEED", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return None;
    }
    let number = |before: &str, after: &str| {
        let rest = said.split(before).nth(1)?;
        rest.split(after).next()?.trim().parse().ok()
    };
    let found = number("\nafter ", " cases").zip(number("; shrunk to ", " steps"));
    let Some((cases, steps)) = found else { panic!("the model test did not run:\n{said}") };
    Some(Finding { cases, steps, problem: what_differs(&said) })
}

/// In a word or two: which kind of effect the two disagreed on, or what did not hold.
fn what_differs(said: &str) -> String {
    let problem = said.split("\nstep ").nth(1).unwrap_or_default();
    let line = problem.lines().next().unwrap_or_default();
    let line = line.rsplit("}: ").next().unwrap_or(line);
    let line = line.split_once("): ").map_or(line, |(_, rest)| rest);
    if !line.contains("the machine says") {
        return line.split(" of the machine").next().unwrap_or(line).to_string();
    }
    let (did, should) = problem.split_once("the model says").unwrap_or_default();
    let part = |text: &str, from: &str, to: &str| {
        let text = text.split_once(from).map_or("", |(_, rest)| rest);
        text.split_once(to).map_or("", |(part, _)| part).to_string()
    };
    let kinds =
        [("publish", "    starts:"), ("starts", "    replies:"), ("replies", "    warnings:")];
    let differing = kinds.iter().filter(|(from, to)| {
        let from = format!("    {from}:");
        part(did, &from, to) != part(should, &from, to)
    });
    differing.map(|(kind, _)| *kind).collect::<Vec<_>>().join(", ")
}
