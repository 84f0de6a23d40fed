//! Programs in other languages get their tokens from the command, and test against its authority.

use super::*;

/// Runs it against `ccg-session authority`, which is a process of its own.
fn runs(program: &str, script: &str) {
    let authority = Listening::start(command().arg("authority"));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/command").join(script);
    let mut program = Command::new(program);
    program
        .arg(path)
        .env("CCG_SESSION", env!("CARGO_BIN_EXE_ccg-session"))
        .env("CCG_SESSION_CLIENT_ID", authority.get("client_id"))
        .env("CCG_SESSION_CLIENT_SECRET", authority.get("client_secret"))
        .env("ISSUER", authority.get("issuer"))
        .env("RESOURCE_URL", authority.get("resource_url"))
        .stdin(Stdio::null());
    let output = run(&mut program);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(stdout(&output), "done\n");
}

#[cfg(unix)]
#[test]
fn a_shell_script_gets_its_tokens_from_the_command() {
    runs("sh", "use_token.sh");
}

#[test]
fn a_python_program_gets_its_tokens_from_the_command() {
    runs("python3", "use_token.py");
}
