//! The command: tokens for scripts and shells, an authority for tests in any language, and a
//! demonstration. It decides nothing about tokens: that is the library's.

mod args;
// One rule for what the library and the command read.
#[path = "../../http/as_text.rs"]
mod as_text;
mod authority;
mod cache;
mod check;
mod demo;
mod failure;
mod input;
mod output;
mod provider;
mod remedy;
mod revoke;
mod settings;
mod token;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    // What `demo --replicas` starts: nothing for a user, so neither help nor completions have it.
    if std::env::args_os().skip(1).eq([demo::REPLICA]) {
        return ended(demo::replica(), false);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    log_to_stderr(cli.verbose);
    let as_json = cli.command.reports_errors_as_json();
    ended(run(cli.command), as_json)
}

fn ended(result: Result<(), Failure>, as_json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(as_json);
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Token(args) => token::token(args),
        Command::Exchange(args) => token::exchange(args),
        Command::Revoke(args) => revoke::run(args),
        Command::Check(args) => check::run(args),
        Command::Authority(args) => authority::run(&args),
        Command::Completions { shell } => {
            // Into memory first, since the generator panics when its reader has gone.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ccg-session", &mut script);
            output::bytes(&script)
        }
    }
}

/// Help and version are no errors to clap's caller; anything else is one of usage.
fn not_understood(error: &clap::Error) -> ExitCode {
    let as_json = wants_json();
    let problem = match may_be_secret(error) {
        Some(problem) => Some(problem),
        None => (as_json && error.use_stderr()).then(|| in_one_line(error)),
    };
    if let Some(problem) = problem {
        let failure = Failure::Usage(problem);
        failure.report(as_json);
        return failure.exit_code();
    }
    if error.use_stderr() {
        // Nobody is left to be told if this cannot be printed.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    match output::bytes(error.render().to_string().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(false);
            failure.exit_code()
        }
    }
}

/// Whether an error shall be JSON, though the arguments were not understood.
fn wants_json() -> bool {
    let args: Vec<_> = std::env::args_os().collect();
    args.iter().any(|arg| arg == "--format=json")
        || args.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

/// Without usage and tips.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let problem = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = problem.split_whitespace().skip_while(|word| *word == "error:").collect();
    words.join(" ")
}

/// What to say in place of clap, which would repeat an argument that may be a secret.
fn may_be_secret(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let problem = match (error.kind(), text(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some("--client-secret")) => Some(SECRET_AS_ARGUMENT),
        (ErrorKind::UnknownArgument, Some(argument)) if !is_flag(argument) => Some(LEFT_OVER),
        (ErrorKind::ValueValidation, Some(flag)) if flag.starts_with("--param ") => {
            Some(NO_PARAMETER)
        }
        (ErrorKind::TooManyValues, _) => Some(NO_VALUE),
        (ErrorKind::InvalidValue, Some(flag))
            if text(ContextKind::InvalidValue).is_some_and(|value| !is_word(value)) =>
        {
            let flag = flag.split(' ').next().unwrap_or_default();
            let Some(ContextValue::Strings(values)) = error.get(ContextKind::ValidValue) else {
                return Some(NO_VALUE.into());
            };
            let values = values.join(", ");
            return Some(format!(
                "{flag} takes one of {values}. What was given is not repeated here, since it may be secret"
            ));
        }
        (ErrorKind::InvalidSubcommand, _)
            if error.get(ContextKind::SuggestedSubcommand).is_none() =>
        {
            Some(NO_COMMAND)
        }
        _ => None,
    };
    problem.map(str::to_owned)
}

/// Whether somebody may have meant a flag by it. A token can begin with dashes, but has other letters too.
fn is_flag(argument: &str) -> bool {
    argument.len() <= 2 || argument.strip_prefix("--").is_some_and(is_word)
}

/// As the names of flags and of what they choose from.
fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_".contains(&byte))
}

/// Silent by default, so that an error in JSON is all that there is on stderr.
fn log_to_stderr(verbose: u8) {
    let ours = |level| Targets::new().with_target("ccg_session", level);
    let shown = match verbose {
        0 => return,
        1 => ours(LevelFilter::INFO),
        2 => ours(LevelFilter::DEBUG),
        _ => Targets::new().with_default(LevelFilter::TRACE),
    };
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        // It tells them on stderr, and panics where that is what is broken.
        .log_internal_errors(false)
        .finish()
        .with(shown)
        .init();
}

const SECRET_AS_ARGUMENT: &str = "there is no --client-secret, since other users of this machine \
    can read a command's arguments: put the secret into the environment variable \
    CCG_SESSION_CLIENT_SECRET, or into a file for --client-secret-file (\"-\" reads it from stdin). \
    Treat the one that you have just given as compromised";

const LEFT_OVER: &str = "an argument is left over. It is not repeated here, since it may be secret; \
    if it is, treat it as compromised, since other users of this machine can read a command's arguments. \
    There are only flags (--help), and `revoke` reads its token from stdin";

const NO_PARAMETER: &str = "--param must be a name, =, and a value. What was given is not repeated \
    here, since it may be secret; a secret parameter belongs in the file that --config names";

const NO_VALUE: &str = "a flag has a value that it does not take (--help). What was \
    given is not repeated here, since it may be secret";

const NO_COMMAND: &str = "there is no such command. What was given is not repeated here, since it may \
    be secret: see --help";
