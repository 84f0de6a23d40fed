//! A directory that is not the store's alone, that comes and goes, or that is full.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ccg_session::testing::Authority;
use ccg_session::{FileStore, Found, Id, Record, Slot, Store, Want};

use crate::Directory;
use crate::replica::{Local, Login};

const HEX: &str = "d41d8cd98f00b204e9800998ecf8427e";

fn write_long_ago(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(7_200);
    File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

/// Whatever it is named, and whatever is done: a start, a sweep, a token, a revocation.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_keep_in_the_directory_stays_as_it_is() {
    let directory = Directory::new();
    let others = [
        ("tmp-thesis.tex", &b"a thesis"[..]),
        (&format!("tmp-{HEX}"), b"temporary, and somebody's"),
        ("ccg-session-tmp-notes", b"notes"),
        (HEX, b"a digest's"),
        (&"e".repeat(32), b""),
        (&HEX.to_uppercase(), b"\x01"),
        // Of a later format, and half of one of this.
        (&"a".repeat(32), &[[2].as_slice(), &[0; 48]].concat()),
        (&"b".repeat(32), &[[1].as_slice(), &[0; 20]].concat()),
        ("key", b"a key"),
    ];
    for (name, bytes) in others {
        write_long_ago(&directory.path().join(name), bytes);
    }
    let authority = Authority::start().await.unwrap();
    let place = directory.path().to_str().unwrap();
    let replica = Local::new(place, &Login::at(&authority));
    replica.token().await;
    replica.fleet.flush().await;
    replica.session.revoke().await.unwrap();
    FileStore::open(place).unwrap();
    for (name, bytes) in others {
        assert_eq!(fs::read(directory.path().join(name)).unwrap(), bytes, "{name}");
    }
}

#[test]
fn what_a_killed_process_left_behind_and_what_is_over_is_removed() {
    let directory = Directory::new();
    let of = |name: &str| directory.path().join(name);
    let (old, new, over) = (
        of(&format!("ccg-session-tmp-{HEX}")),
        of(&format!("ccg-session-tmp-{}", "1".repeat(32))),
        of(HEX),
    );
    write_long_ago(&old, b"\x01half");
    fs::write(&new, b"\x01half").unwrap();
    write_long_ago(&over, &[[1].as_slice(), &[0; 48]].concat());
    FileStore::open(directory.path()).unwrap();
    assert_eq!((old.exists(), new.exists(), over.exists()), (false, true, false));
}

#[test]
fn a_directory_whose_lock_or_news_are_somebody_elses_is_refused() {
    for name in ["lock", "news"] {
        let directory = Directory::new();
        let path = directory.path().join(name);
        fs::write(&path, "of today").unwrap();
        let error = FileStore::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("its file {name:?} is somebody else's")), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"of today");
    }
}

#[test]
fn a_lock_or_news_that_is_no_file_is_refused_and_left_alone() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 4] = [
        ("fifo", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
        ("socket", |path| drop(UnixListener::bind(path).unwrap())),
        ("link", |path| std::os::unix::fs::symlink("elsewhere", path).unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
    ];
    for name in ["lock", "news"] {
        for (kind, make) in kinds {
            let directory = Directory::new();
            let path = directory.path().join(name);
            make(&path);
            let before = fs::symlink_metadata(&path).unwrap().file_type();
            let error = FileStore::open(directory.path()).unwrap_err().to_string();
            let expected = format!("its file {name:?} is somebody else's");
            assert!(error.contains(&expected), "{kind}: {error}");
            assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), before, "{kind}");
        }
    }
}

#[test]
fn a_link_is_refused_however_its_name_ends() {
    let directory = Directory::new();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    for end in ["", "/", "/.", "//", "/./"] {
        let path = format!("{}{end}", link.display());
        let error = FileStore::open(&path).unwrap_err().to_string();
        assert!(error.contains("is a link"), "{path}: {error}");
    }
    FileStore::open(format!("{}/", directory.path().display())).unwrap();
}

async fn leased(store: &FileStore, id: u8) -> Result<bool, ccg_session::StoreError> {
    let id = Id([id; 16]);
    let mut want = Want::look();
    want.lease = Some(&id);
    Ok(store.take(&Slot::new("ns", [3; 16]), &want).await?.found == Found::Leased)
}

/// Replicas that have it open meet those that open it later.
#[tokio::test]
async fn a_directory_that_was_removed_or_replaced_is_found_again() {
    let parent = Directory::new();
    let path = parent.path().join("store");
    let store = FileStore::open(&path).unwrap();
    assert!(leased(&store, 1).await.unwrap());
    let away: [&dyn Fn(); 2] = [&|| fs::remove_dir_all(&path).unwrap(), &|| {
        fs::rename(&path, parent.path().join("old")).unwrap();
    }];
    for away in away {
        away();
        assert!(leased(&store, 2).await.unwrap());
        let later = FileStore::open(&path).unwrap();
        assert!(!leased(&later, 3).await.unwrap());
        let heard = tokio::time::timeout(Duration::from_secs(60), async {
            store.heard("ns").await;
            later.bury(&Slot::new("ns", [3; 16]), &Record([5; 40])).await.unwrap();
            store.heard("ns").await;
        });
        heard.await.expect("it hears of what is in the new one");
    }
    fs::remove_file(path.join("lock")).unwrap();
    assert!(leased(&store, 4).await.unwrap());
    assert!(!leased(&FileStore::open(&path).unwrap(), 5).await.unwrap());
    // But not if it is one that others can reach.
    fs::remove_dir_all(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    let error = leased(&store, 9).await.unwrap_err().to_string();
    assert!(error.contains("has the mode 777"), "{error}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

const FULL: &str = "STORE_TEST_FULL";

/// On a file system of its own, of 128 KiB, in a process of its own.
fn on_a_small_file_system(test: &str) {
    let directory = Directory::new();
    let mount = "mount -t tmpfs -o size=128k,mode=700 none \"$0\" && exec \"$@\"";
    let unshared = |command: &[&std::ffi::OsStr]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
        unshare.arg(directory.path()).args(command).env(FULL, directory.path());
        unshare.output()
    };
    if !unshared(&["true".as_ref()]).is_ok_and(|output| output.status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let args = [me.as_os_str(), "--exact".as_ref(), test.as_ref(), "--nocapture".as_ref()];
    let output = unshared(&args).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("@done"), "{said}");
}

fn fill(place: &str) {
    let mut filler = File::create(Path::new(place).join("filler")).unwrap();
    while std::io::Write::write(&mut filler, &[0; 512]).is_ok() {}
}

#[test]
fn a_revocation_reaches_all_who_have_the_token_though_no_space_is_left() {
    on_a_small_file_system("directory::it_revokes_on_a_full_file_system_if_it_is_told_to");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_revokes_on_a_full_file_system_if_it_is_told_to() {
    let Ok(place) = std::env::var(FULL) else { return };
    let authority = Authority::start().await.unwrap();
    let login = Login::at(&authority);
    let (one, other) = (Local::new(&place, &login), Local::new(&place, &login));
    let first = one.token().await;
    one.fleet.flush().await;
    assert_eq!(other.token().await, first);
    fill(&place);
    one.session.revoke().await.unwrap();
    other.lets_go_of(&first).await;
    let later = Local::new(&place, &login);
    assert_ne!(later.token().await, first);
    println!("@done");
}

#[test]
fn a_directory_that_was_full_from_the_first_fails_no_caller_and_is_used_later() {
    on_a_small_file_system("directory::it_starts_on_a_full_file_system_if_it_is_told_to");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_on_a_full_file_system_if_it_is_told_to() {
    let Ok(place) = std::env::var(FULL) else { return };
    fill(&place);
    let authority = Authority::start().await.unwrap();
    let login = Login::at(&authority);
    let (one, other) = (Local::new(&place, &login), Local::new(&place, &login));
    assert_ne!(one.token().await, other.token().await, "each asks the server");
    let error = leased(&FileStore::open(&place).unwrap(), 1).await.unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");

    fs::remove_file(Path::new(&place).join("filler")).unwrap();
    let (one, other) = (Local::new(&place, &login), Local::new(&place, &login));
    let first = one.token().await;
    one.fleet.flush().await;
    assert_eq!(other.token().await, first);
    // A revocation finds what it needs, though it comes when there is no space again.
    fill(&place);
    one.session.revoke().await.unwrap();
    other.lets_go_of(&first).await;
    println!("@done");
}
