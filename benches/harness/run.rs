//! Runs the scenarios: rounds on the outside, subjects on the inside, so that a bad minute of the
//! machine hits all alike.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::runtime::Handle;

use super::endpoint::{self, Endpoint, Plan};
use super::results::{Results, Scenario, Who};
use super::{Figures, Setting, Subject, picture, report, runtime};
use crate::scenarios::{self, hot::Hammer};

/// A subject, its type forgotten.
pub struct Entry {
    name: &'static str,
    plays: fn(&str, usize) -> bool,
    play: fn(&str, usize) -> Figures,
    hammer: fn(&Handle, &Setting) -> Hammer,
}

impl Entry {
    pub fn of<S: Subject>() -> Self {
        Self {
            name: S::NAME,
            plays: S::plays,
            play: scenarios::play::<S>,
            hammer: |runtime, setting| runtime.block_on(scenarios::hot::hammer::<S>(setting)),
        }
    }

    fn takes_part(&self, scenario: &Scenario, case: usize) -> bool {
        let is_asked = scenario.who == Who::All || self.name == OURS;
        is_asked && (self.plays)(scenario.name, case)
    }
}

pub const OURS: &str = "ccg-session";

const USAGE: &str = "\
options:
  --only WORD     only scenarios or subjects whose name begins with this word; may be repeated
  --rounds N      rounds, of which the median is taken (default 5; the hot path: 7 at least)
  --json          all rounds as JSON, not a table
  --svg FILE      also writes a picture";

struct Options {
    only: Vec<String>,
    rounds: usize,
    json: bool,
    svg: Option<PathBuf>,
}

/// The program: the table, or a process that the table started.
pub fn main(entries: &[Entry]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["endpoint"] => endpoint::serve(),
        ["play", scenario, case, subject] => {
            let entry = entries.iter().find(|entry| entry.name == *subject).expect("a subject");
            let figures = (entry.play)(scenario, case.parse().expect("a number"));
            println!("{}", serde_json::to_string(&figures).unwrap());
            // What is left of the subject need not be taken apart.
            std::process::exit(0);
        }
        options => {
            let Some(options) = parse(options) else {
                eprintln!("{USAGE}");
                std::process::exit(2);
            };
            table(entries, &options);
        }
    }
}

fn parse(arguments: &[&str]) -> Option<Options> {
    let mut options = Options { only: Vec::new(), rounds: 5, json: false, svg: None };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--only" => options.only.push((*arguments.next()?).to_owned()),
            "--rounds" => options.rounds = arguments.next()?.parse().ok()?,
            "--svg" => options.svg = Some(arguments.next()?.into()),
            "--json" => options.json = true,
            "--bench" => {} // from cargo
            _ => return None,
        }
    }
    Some(options)
}

impl Options {
    /// If words name scenarios, only those; if words name subjects, only those.
    fn wants(&self, name: &str, of: &[&str]) -> bool {
        let is_named = |name: &str| self.only.iter().any(|word| name.starts_with(word));
        is_named(name) || !of.iter().any(|name| is_named(name))
    }
}

fn table(entries: &[Entry], options: &Options) {
    let subjects: Vec<_> = entries.iter().map(|entry| entry.name).collect();
    let names: Vec<_> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
    let entries: Vec<_> =
        entries.iter().filter(|entry| options.wants(entry.name, &subjects)).collect();
    let mut results = Results::default();
    for scenario in scenarios::ALL.iter().filter(|scenario| options.wants(scenario.name, &names)) {
        match scenario.name {
            "hot" => hot(scenario, &entries, options.rounds.max(7), &mut results),
            "hang" => together(scenario, &entries, &mut results),
            _ => {
                for round in 0..scenario.rounds.unwrap_or(options.rounds) {
                    eprintln!("{}: round {}", scenario.name, round + 1);
                    in_turn(scenario, &entries, &mut results);
                }
            }
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&results).unwrap());
    } else {
        print!("{}", report::markdown(&results));
    }
    if let Some(file) = &options.svg {
        picture::write(file, &results).expect("the picture can be drawn and written");
    }
}

/// All subjects in this process, so that a round is short.
fn hot(scenario: &Scenario, entries: &[&Entry], rounds: usize, results: &mut Results) {
    let endpoint = Endpoint::start(Plan::Grant { after_ms: 0, life: 3_600 });
    let setting = Setting { token_url: endpoint.token_url.clone(), refreshes: false };
    let runtime = runtime();
    let hammers: Vec<_> = entries
        .iter()
        .filter(|entry| entry.takes_part(scenario, 1))
        .map(|entry| (entry.name, (entry.hammer)(runtime.handle(), &setting)))
        .collect();
    for round in 0..rounds {
        eprintln!("{}: round {}", scenario.name, round + 1);
        for (name, hammer) in &hammers {
            for &threads in scenario.cases {
                let figures = hammer(runtime.handle(), threads, Duration::from_millis(100));
                results.add(scenario.name, threads, name, figures);
            }
        }
    }
}

fn in_turn(scenario: &'static Scenario, entries: &[&Entry], results: &mut Results) {
    for &case in scenario.cases {
        for entry in entries.iter().filter(|entry| entry.takes_part(scenario, case)) {
            finish(start(scenario, case, entry.name), scenario, case, entry.name, results);
        }
    }
}

/// For waiting only: nothing here is bound by the processor.
fn together(scenario: &'static Scenario, entries: &[&Entry], results: &mut Results) {
    eprintln!("{}: all at once", scenario.name);
    for &case in scenario.cases {
        let players = entries.iter().filter(|entry| entry.takes_part(scenario, case));
        let runs: Vec<_> =
            players.map(|entry| (entry.name, start(scenario, case, entry.name))).collect();
        for (name, run) in runs {
            finish(run, scenario, case, name, results);
        }
    }
}

fn start(scenario: &Scenario, case: usize, subject: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["play", scenario.name, &case.to_string(), subject])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A run that fails is told, and has no figures.
fn finish(
    run: Child,
    scenario: &Scenario,
    case: usize,
    subject: &'static str,
    results: &mut Results,
) {
    let output = run.wait_with_output().unwrap();
    let figures = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        eprintln!("{}, {case}, {subject}: failed ({})", scenario.name, output.status);
        Figures::new()
    });
    results.add(scenario.name, case, subject, figures);
}
