//! `--cache`: what many calls of the command, each a process, make of one directory.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Instant, SystemTime};

use ccg_session::{Credential, FileStore, Fleet, HttpTokenManager, Provider, Session, Subject};

use super::*;

/// A path under which nothing is yet; removed with all that is there.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("ccg-session-{}-cache-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// There already.
    fn made(name: &str, mode: u32) -> Self {
        let directory = Self::new(name);
        fs::create_dir(&directory.0).unwrap();
        fs::set_permissions(&directory.0, Permissions::from_mode(mode)).unwrap();
        directory
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// The file of the one slot that has a token.
    fn entry(&self) -> PathBuf {
        let is_entry = |path: &PathBuf| {
            path.file_name().unwrap().len() == 32 && fs::metadata(path).unwrap().len() > 150
        };
        let entries: Vec<_> = self.files().into_iter().filter(is_entry).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].clone()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file with this mode.
fn file(name: &str, content: &str, mode: u32) -> TempFile {
    let file = TempFile::new(name, content);
    fs::set_permissions(&file.0, Permissions::from_mode(mode)).unwrap();
    file
}

/// A subcommand over this cache.
fn over(directory: &Path, authority: &Authority, subcommand: &str) -> Command {
    let mut command = at(authority, subcommand);
    command.arg("--cache").arg(directory);
    command
}

fn token(directory: &Path, authority: &Authority) -> String {
    result(&run(&mut over(directory, authority, "token")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_at_once_send_one_grant_and_a_later_one_sends_nothing() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("hundred");
    let mut calls: Vec<_> = (0..100).map(|_| over(&directory.0, &authority, "token")).collect();
    let calls: Vec<_> = calls
        .iter_mut()
        .map(|call| call.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let tokens: Vec<_> =
        calls.into_iter().map(|call| result(&call.wait_with_output().unwrap())).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(authority.counts().of(Kind::Any), 1);

    let json = result(&run(over(&directory.0, &authority, "token").args(["--format", "json"])));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["access_token"], tokens[0].trim_end());
    assert_eq!(json["attempts"], 0);
    assert!(json["scope"].as_str().unwrap().contains("root_readwrite"), "{json}");
    assert!((3400..=3600).contains(&json["expires_in"].as_u64().unwrap()), "{json}");
    assert_eq!(authority.counts().of(Kind::Any), 1);

    let mut exchange = over(&directory.0, &authority, "exchange");
    exchange.args(["--scope", "item_preview", "--format", "json"]);
    let json: Value = serde_json::from_str(&result(&run(&mut exchange))).unwrap();
    assert_eq!(json["attempts"], 1);
    let counts = authority.counts();
    assert_eq!((counts.grants, counts.exchanges), (1, 1));
    let requests = authority.requests();
    assert_eq!(requests[1].param("subject_token"), Some(tokens[0].trim_end()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_the_directory_or_beside_it_tells_a_token_or_the_key() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("secret");
    let gate = authority.hold(Kind::Grant);
    let mut call = over(&directory.0, &authority, "token");
    let call = call.arg("-vvv").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    authority.wait_for(|counts| counts.held == 1).await;
    let args = fs::read(format!("/proc/{}/cmdline", call.id())).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", call.id())).unwrap();
    gate.release();
    let output = call.wait_with_output().unwrap();
    let (token, log) = (stdout(&output), stderr(&output));
    let token = token.trim_end();
    assert!(authority.is_active(token));

    let key = fs::read_to_string(directory.join("key")).unwrap();
    let has = |bytes: &[u8], text: &str| {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    assert!(key.len() == 44 && !has(&args, key.trim_end()) && !has(&environment, key.trim_end()));
    assert!(
        log.contains("TRACE") && !log.contains(key.trim_end()) && !log.contains(token),
        "{log}"
    );

    assert_eq!(fs::metadata(&directory.0).unwrap().permissions().mode() & 0o777, 0o700);
    directory.entry();
    for path in directory.files() {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        let bytes = fs::read(&path).unwrap();
        assert!(!has(&bytes, token) && !has(&bytes, SECRET), "{path:?}");
        assert!(!path.to_str().unwrap().contains("-tmp-"), "{path:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_scope_or_key_has_another_token() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("whose");
    let first = token(&directory.0, &authority);
    let with = |more: &[&str]| run(over(&directory.0, &authority, "token").args(more));
    let narrow = result(&with(&["--scope", "item_preview"]));
    let key = file("whose-key", &"k".repeat(32), 0o600);
    let sealed = result(&with(&["--cache-key-file", key.0.to_str().unwrap()]));
    assert!(first != narrow && first != sealed && narrow != sealed);
    assert_eq!(authority.counts().grants, 3);
    assert_eq!(result(&with(&["--scope", "item_preview"])), narrow);
    assert_eq!(result(&with(&["--cache-key-file", key.0.to_str().unwrap()])), sealed);
    assert_eq!(token(&directory.0, &authority), first);
    assert_eq!(authority.counts().grants, 3);
    // The server does not know this one, and would give it nothing.
    let text = problem(&with(&["--client-id", "another"]), 3);
    assert!(text.contains("invalid_client"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_killed_while_it_asks_keeps_nobody_waiting_for_long() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("killed");
    let gate = authority.hold(Kind::Grant);
    let mut killed = over(&directory.0, &authority, "token").stdout(Stdio::null()).spawn().unwrap();
    authority.wait_for(|counts| counts.held == 1).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    gate.release();
    let began = Instant::now();
    let after = token(&directory.0, &authority);
    // The lease is one of three seconds; starting a process takes its time as well.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(authority.is_active(after.trim_end()));
    assert_eq!(token(&directory.0, &authority), after);
    assert_eq!(authority.counts().grants, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_too_little_life_left_is_not_given() {
    let authority = Authority::builder().ttl(Duration::from_secs(40)).start().await.unwrap();
    let directory = Directory::new("aged");
    while authority.counts().grants < 2 {
        let mut call = over(&directory.0, &authority, "token");
        let json = result(&run(call.args(["--min-remaining", "60s", "--format", "json"])));
        let json: Value = serde_json::from_str(&json).unwrap();
        // Nine tenths of it, and some seconds for a machine that is busy.
        assert!(json["expires_in"].as_u64().unwrap() >= 30, "{json}");
    }
}

/// A service in this process, and the command beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_shares_its_token_with_the_command() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("service");
    let first = token(&directory.0, &authority);
    let store = FileStore::open(&directory.0).unwrap();
    let fleet = Fleet::builder(store, Credential::file(directory.join("key")));
    let fleet = fleet.timeout(Duration::from_secs(1)).build().unwrap();
    let provider = Provider::box_ccg(Subject::enterprise("12345")).base_url(authority.base_url());
    let manager = HttpTokenManager::builder(provider, ID, SECRET).build().unwrap();
    let session = Session::builder(fleet.share(manager).build().unwrap()).spawn().unwrap();
    assert_eq!(session.get_token().await.unwrap().secret(), first.trim_end());
    assert_eq!(authority.counts().grants, 1);

    let mut changes = session.subscribe();
    result(&run(&mut over(&directory.0, &authority, "revoke")));
    let dropped = async { while changes.changed().await.unwrap().remaining().is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), dropped).await.expect("the service is told");
    let second = session.get_token().await.unwrap();
    assert!(authority.is_active(second.secret()));
    // A lease given back, and its token put, is what the next call finds.
    assert_eq!(token(&directory.0, &authority).trim_end(), second.secret());
    assert_eq!(authority.counts().grants, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_kept() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("refused");
    let mut wrong = over(&directory.0, &authority, "token");
    let refused = run(wrong.env("CCG_SESSION_CLIENT_SECRET", "wrong").args(["--format", "json"]));
    assert_eq!(json_problem(&refused, 3)["attempts"], 1);
    // Nor is its lease, for which others would wait.
    let (said, _) = check(&directory.0, &authority, &[]);
    assert_eq!(said, "ok      it can be used; there is no token yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_can_name_the_cache_beside_itself() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::made("file", 0o700);
    let (config, key) = (directory.join("config.toml"), directory.join("the-key"));
    fs::write(&key, "k".repeat(40)).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "issuer = \"{}\"\ncache = \"tokens\"\ncache-key-file = \"the-key\"\n",
        authority.base_url()
    );
    fs::write(&config, text).unwrap();
    let call = |subcommand: &str| {
        let mut command = as_client();
        command.arg(subcommand).arg("--config").arg(&config);
        command
    };
    let first = result(&run(&mut call("token")));
    assert_eq!(result(&run(&mut call("token"))), first);
    assert_eq!(authority.counts().grants, 1);
    assert!(directory.join("tokens").is_dir() && !directory.join("tokens/key").exists());

    // Then `revoke` takes what it is given, and tells the others if it is theirs.
    let other = result(&run(as_client().args(["token", "--issuer", authority.base_url()])));
    assert_eq!(result(&run_with_stdin(&mut call("revoke"), &other)), "");
    assert!(!authority.is_active(other.trim_end()) && authority.is_active(first.trim_end()));
    assert_eq!(result(&run(&mut call("token"))), first);
    assert_eq!(result(&run_with_stdin(&mut call("revoke"), &first)), "");
    assert!(!authority.is_active(first.trim_end()));
    let second = result(&run(&mut call("token")));
    assert!(second != first && authority.is_active(second.trim_end()));
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_ends_the_token_that_is_kept() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("revoke");
    let revoke = |more: &[&str]| run(over(&directory.0, &authority, "revoke").args(more));
    let text = problem(&revoke(&[]), 2);
    assert!(
        text.contains("--cache has no token for these settings, so nothing was revoked"),
        "{text}"
    );
    assert_eq!(authority.counts().of(Kind::Any), 0);

    let first = token(&directory.0, &authority);
    problem(&revoke(&["--scope", "item_preview"]), 2);
    assert!(authority.is_active(first.trim_end()));
    assert_eq!(result(&revoke(&[])), "");
    assert!(!authority.is_active(first.trim_end()));
    let second = token(&directory.0, &authority);
    assert!(authority.is_active(second.trim_end()));

    // The server fails: a token that it still honours stays, or nobody could revoke it.
    authority.fail(Kind::Revoke, Answer::new(StatusCode::SERVICE_UNAVAILABLE));
    problem(&revoke(&["--attempts", "1"]), 4);
    authority.heal();
    assert!(authority.is_active(second.trim_end()));
    assert_eq!(result(&revoke(&[])), "");
    assert!(!authority.is_active(second.trim_end()));
    assert_ne!(token(&directory.0, &authority), second);
}

/// As a cache that is full, or may no longer be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_costs_requests_and_says_so_in_a_check() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("full");
    let without_writing = |subcommand: &str, more: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
        shell.args([env!("CARGO_BIN_EXE_ccg-session"), subcommand]);
        shell.args(["--issuer", authority.base_url()]).args(more).arg("--cache").arg(&directory.0);
        shell.env("CCG_SESSION_CLIENT_ID", ID).env("CCG_SESSION_CLIENT_SECRET", SECRET);
        run(shell.stdin(Stdio::null()))
    };
    let issuer = ["--issuer", authority.base_url()];
    let mut first = as_client();
    let kept = result(&run(first.args(["token"]).args(issuer).arg("--cache").arg(&directory.0)));
    let grants = authority.counts().grants;
    // What is there is used, and what is not is asked for.
    assert_eq!(result(&without_writing("token", &[])), kept);
    assert_eq!(authority.counts().grants, grants);
    result(&without_writing("token", &["--scope", "item_preview"]));
    assert_eq!(authority.counts().grants, grants + 1);

    let output = without_writing("check", &["--skip", "exchange"]);
    let (said, path) = (stdout(&output), directory.0.display().to_string());
    let expected =
        format!("cache          FAILED  {path} cannot be written: see to it, or give another");
    assert!(said.starts_with(&expected) && said.contains("File too large"), "{said}");
    assert_eq!(output.status.code(), Some(1));

    // The server's answer is not all: others would still be given it.
    let output = without_writing("revoke", &[]);
    let text = problem(&output, 4);
    assert!(text.contains("but the cache could not be told"), "{text}");
    assert!(!authority.is_active(kept.trim_end()));
}

/// Each subcommand says so with exit code 2.
fn refused(authority: &Authority, args: &[&str], sentence: &str) {
    for subcommand in ["token", "exchange", "revoke"] {
        let mut command = as_client();
        command.args([subcommand, "--token-url", &authority.token_url()]);
        command.args(["--revocation-url", &authority.revocation_url()]).args(args);
        let text = problem(&run(&mut command), 2);
        assert!(text.starts_with(&format!("ccg-session: {sentence}")), "{args:?}: {text}");
    }
    assert_eq!(authority.counts().of(Kind::Any), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_directory_of_ones_own_is_refused_before_anything_is_sent() {
    let authority = Authority::start().await.unwrap();
    let good = Directory::made("good", 0o700);
    let open = Directory::made("open", 0o755);
    let link = Directory::new("link");
    std::os::unix::fs::symlink(&good.0, &link.0).unwrap();
    let no_directory = file("no-directory", "", 0o600);
    let nowhere = good.join("a/b");
    let is_a_link = "is a link, or no directory: name the directory itself";
    let elsewhere = "lies on a file system of type 0x9fa0, but must be on one of ext4";
    for (path, problem) in [
        (&*open.0, "has the mode 755, so others can reach it: chmod 700 it"),
        (&*link.0, is_a_link),
        (&*no_directory.0, is_a_link),
        (&*nowhere, "cannot be made: No such file"),
        (Path::new("/proc/self/fd"), elsewhere),
    ] {
        let path = path.to_str().unwrap();
        refused(&authority, &["--cache", path], &format!("--cache {path} {problem}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_have_or_that_is_none_is_refused_before_anything_is_sent() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::made("keys", 0o700);
    let cache = directory.0.to_str().unwrap();
    for (content, mode, problem) in [
        ("0123456789", 0o600, "is not whole: delete it, and the next call makes another"),
        ("", 0o600, "is empty"),
        (&*"a".repeat(43), 0o644, "has the mode 644, so others can reach it: chmod 600 it"),
    ] {
        let key = directory.join("key");
        fs::write(&key, content).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        refused(&authority, &["--cache", cache], &format!("the key of the cache {problem}"));
    }
    for (content, mode, problem) in [
        ("k", 0o600, "is shorter than 32 bytes, and could be guessed: openssl rand -hex 32 makes"),
        ("", 0o600, "is empty"),
        (&*"k".repeat(64), 0o604, "has the mode 604, so others can reach it: chmod 600 it"),
        (&*"k".repeat(64), 0o620, "has the mode 620"),
    ] {
        let key = file("bad-key", content, mode);
        let args = ["--cache", cache, "--cache-key-file", key.0.to_str().unwrap()];
        refused(&authority, &args, &format!("--cache-key-file {problem}"));
    }
    let args = ["--cache", cache, "--cache-key-file", "/nonexistent/key"];
    refused(&authority, &args, "--cache-key-file cannot be read: No such file");
    let alone = "--cache-key-file is the key of a cache: give --cache too, or leave it out";
    refused(&authority, &args[2..], alone);
    let in_redis = if cfg!(feature = "redis") {
        "--cache in Redis needs a key that all who use it have: give --cache-key-file PATH"
    } else {
        "--cache is an address of Redis, and this command was built without the feature redis"
    };
    refused(&authority, &["--cache", "redis://:pa55word@127.0.0.1:1/"], in_redis);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_shared_is_refused_a_cache() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("unshared");
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pem");
    let bound = "--cache keeps no token that is bound to a key: leave out --cache or --dpop-key";
    let cache = directory.0.to_str().unwrap();
    refused(&authority, &["--cache", cache, "--dpop-key", key], bound);
    let whose = "--cache does not know whose token it would keep";
    refused(&authority, &["--cache", cache, "--auth", "assertion"], whose);
    let pair = certificates::Ca::new("a CA").issue(ID);
    let certificate = TempFile::new("unshared.crt", &pair.certificate);
    let key = TempFile::new("unshared.key", &pair.key);
    let [certificate, key] = [&certificate, &key].map(|file| file.0.to_str().unwrap());
    let pair = ["--client-certificate", certificate, "--client-key", key];
    let args = ["--cache", cache, "--auth", "tls-client"];
    refused(&authority, &[&args[..], &pair].concat(), whose);
    assert!(!directory.0.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_no_secret_has_a_cache_too() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("none");
    // The authority knows no such client; what matters is that it is asked, and by no secret.
    let mut none = as_client();
    none.args(["token", "--token-url", &authority.token_url(), "--auth", "none"]);
    let text = problem(&run(none.arg("--cache").arg(&directory.0)), 3);
    assert!(text.contains("invalid_client"), "{text}");
    assert_eq!(authority.requests()[0].param("client_secret"), None);
}

/// The row about the cache, and the exit code.
fn check(directory: &Path, authority: &Authority, more: &[&str]) -> (String, Option<i32>) {
    let mut command = over(directory, authority, "check");
    let output = run(command.args(["--skip", "exchange"]).args(more));
    let said = stdout(&output);
    let row = said.lines().next().unwrap();
    (
        row.strip_prefix("cache").unwrap_or_else(|| panic!("{said}")).trim().into(),
        output.status.code(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_is_there_and_leaves_it_there() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("checked");
    let row = |more: &[&str]| check(&directory.0, &authority, more);
    assert_eq!(row(&[]), ("ok      it can be used; there is no token yet".into(), Some(0)));
    let first = token(&directory.0, &authority);
    let (said, code) = row(&[]);
    assert!(
        said.starts_with("ok      there is a token for these settings with another 1h to live"),
        "{said}"
    );
    assert_eq!(code, Some(0));
    let expected = "ok      it can be used; there is no token for these settings and this key yet, but others: 1";
    let key = file("checked-key", &"k".repeat(32), 0o600);
    for other in [["--scope", "item_preview"], ["--cache-key-file", key.0.to_str().unwrap()]] {
        assert_eq!(row(&other), (expected.into(), Some(0)));
    }
    let grants = authority.counts().grants;
    assert_eq!(token(&directory.0, &authority), first);
    assert!(authority.is_active(first.trim_end()));
    assert_eq!(authority.counts().grants, grants);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_is_wrong_with_a_cache_and_goes_on() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("wrong");
    let row = |more: &[&str]| {
        let (said, code) = check(&directory.0, &authority, more);
        assert_eq!(code, Some(1), "{said}");
        said
    };
    let kept = token(&directory.0, &authority);

    // One byte of the sealed token.
    let entry = directory.entry();
    let mut bytes = fs::read(&entry).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&entry, bytes).unwrap();
    let said = row(&[]);
    assert!(
        said.starts_with(
            "FAILED  the token there does not open: it was damaged, or written without"
        ),
        "{said}"
    );
    // A call asks for another, and mends it.
    assert_ne!(token(&directory.0, &authority), kept);
    assert_eq!(check(&directory.0, &authority, &[]).1, Some(0));

    let hour = Duration::from_secs(3_600);
    let later = SystemTime::now() + hour + Duration::from_millis(500);
    fs::File::open(&directory.0).unwrap().set_modified(later).unwrap();
    let said = row(&[]);
    assert!(
        said.starts_with("FAILED  this machine's clock is 59m 5")
            || said.starts_with("FAILED  this machine's clock is 1h behind"),
        "{said}"
    );
    fs::File::open(&directory.0).unwrap().set_modified(SystemTime::now()).unwrap();

    // Until its stdin ends.
    let mut holder = Command::new("flock");
    holder.arg(directory.join("lock")).args(["sh", "-c", "echo held; read _"]);
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let said = row(&[]);
    let path = directory.0.display();
    let expected =
        format!("FAILED  another process holds the lock of {path}, perhaps one that was");
    assert!(said.starts_with(&expected), "{said}");
    // It costs a request.
    let grants = authority.counts().grants;
    token(&directory.0, &authority);
    assert_eq!(authority.counts().grants, grants + 1);
    drop(holder.stdin.take());
    holder.wait().unwrap();

    let missing = row(&["--cache-key-file", "/nonexistent/key"]);
    assert!(
        missing.starts_with("FAILED  --cache-key-file cannot be read: No such file"),
        "{missing}"
    );
    fs::set_permissions(&directory.0, Permissions::from_mode(0o770)).unwrap();
    let said = row(&[]);
    assert!(
        said.starts_with("FAILED  --cache ")
            && said.ends_with("has the mode 770, so others can reach it: chmod 700 it"),
        "{said}"
    );
    // The other steps are tried all the same.
    assert!(authority.counts().revocations > 0);
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_in_redis_is_one_for_all_who_have_its_key() {
    use crate::server::{Server, is_absent};

    if is_absent() {
        return;
    }
    let redis = Server::start(&["--requirepass", "pa55word"]);
    let authority = Authority::start().await.unwrap();
    let key = file("redis-key", &"k".repeat(64), 0o600);
    let call = |subcommand: &str, user: &str| {
        let address = format!("redis://{user}127.0.0.1:{}", redis.port);
        let mut command = over(Path::new(&address), &authority, subcommand);
        run(command.arg("--cache-key-file").arg(&key.0))
    };
    let first = result(&call("token", ":pa55word@"));
    assert_eq!(result(&call("token", ":pa55word@")), first);
    assert_eq!(authority.counts().grants, 1);
    let said = stdout(&call("check", ":pa55word@"));
    assert!(said.starts_with("cache          ok      there is a token"), "{said}");
    assert_eq!(result(&call("revoke", ":pa55word@")), "");
    assert_ne!(result(&call("token", ":pa55word@")), first);

    // Without it, callers get theirs, and `check` says why each costs a request.
    let grants = authority.counts().grants;
    result(&call("token", ":wrong@"));
    assert_eq!(authority.counts().grants, grants + 1);
    let said = stdout(&call("check", ":wrong@"));
    assert!(
        said.starts_with("cache          FAILED  Redis does not take the user and password"),
        "{said}"
    );
    assert!(!said.contains("wrong@"), "{said}");
    let text = problem(&call("revoke", ":wrong@"), 4);
    assert!(text.contains("--cache does not answer, so nothing was revoked"), "{text}");
    // What is given is revoked all the same.
    let given = result(&run(&mut at(&authority, "token")));
    let config = format!("cache = \"redis://:wrong@127.0.0.1:{}\"\n", redis.port);
    let config = TempFile::new("redis.toml", &config);
    let mut revoke = at(&authority, "revoke");
    revoke.arg("--config").arg(&config.0).arg("--cache-key-file").arg(&key.0);
    let text = problem(&run_with_stdin(&mut revoke, &given), 4);
    assert!(text.contains("but the cache could not be told"), "{text}");
    assert!(!authority.is_active(given.trim_end()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_for_kubectl_has_its_time() {
    let authority = Authority::start().await.unwrap();
    let directory = Directory::new("kubectl");
    let call = || {
        let mut command = over(&directory.0, &authority, "token");
        result(&run(command.args(["--format", "exec-credential"])))
    };
    let (first, second): (Value, Value) =
        (serde_json::from_str(&call()).unwrap(), serde_json::from_str(&call()).unwrap());
    assert_eq!(keys(&first), ["apiVersion", "kind", "status"]);
    assert_eq!(first["apiVersion"], "client.authentication.k8s.io/v1");
    assert_eq!(first["kind"], "ExecCredential");
    assert_eq!(keys(&first["status"]), ["expirationTimestamp", "token"]);
    assert!(authority.is_active(first["status"]["token"].as_str().unwrap()));
    let ends = humantime::parse_rfc3339(first["status"]["expirationTimestamp"].as_str().unwrap());
    let left = ends.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!((3_500..=3_600).contains(&left.as_secs()), "{left:?}");
    assert_eq!(second["status"]["token"], first["status"]["token"]);
    assert_eq!(authority.counts().grants, 1);

    let p256 = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.pem");
    let mut bound = at(&authority, "token");
    let text = problem(&run(bound.args(["--format", "exec-credential", "--dpop-key", p256])), 4);
    assert!(text.contains("kubectl makes no proofs"), "{text}");
}
