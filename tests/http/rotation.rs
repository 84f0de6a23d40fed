//! The client's secret is changed while a session lives on it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ccg_session::testing::{Authority, Kind};
use ccg_session::{Credential, HttpTokenManager, RefreshMode, SessionHandle, TokenError};

use super::{millis, secs, session_of};

/// A file of its own for each test, gone with it.
struct SecretFile(PathBuf);

impl SecretFile {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("rotation-{name}-{}", std::process::id())))
    }

    /// As a careful rotation does it: nobody ever reads half a secret.
    fn write(&self, secret: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{secret}\n")).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Tokens of 12 seconds, refreshed after half of that: the other half is for a machine that is busy.
async fn authority() -> Authority {
    Authority::builder().client("app", "old").ttl(secs(12)).start().await.unwrap()
}

fn session(authority: &Authority, credential: Credential, cooling: u64) -> SessionHandle {
    let manager = HttpTokenManager::builder(authority.provider(), "app", credential).build();
    session_of(manager.unwrap(), |config| {
        config.refresh_mode = RefreshMode::Always;
        config.retry.cooling = secs(cooling);
    })
}

/// Callers that ask again and again until one has the token of `generation`; none may meet an error.
async fn callers_until(session: &SessionHandle, generation: u64) {
    let callers = (0..50).map(|_| {
        let session = session.clone();
        tokio::spawn(async move {
            loop {
                let token = session.get_token().await.unwrap();
                if token.id().generation() >= generation {
                    return;
                }
                tokio::time::sleep(millis(2)).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn a_secret_changed_before_the_next_grant_costs_nothing() {
    let (authority, file) = (authority().await, SecretFile::new("before"));
    file.write("old");
    let session = session(&authority, Credential::file(&file.0), 30);
    session.get_token().await.unwrap();

    authority.change_secret("new");
    file.write("new");
    callers_until(&session, 2).await;
    let counters = session.status().counters();
    assert_eq!((authority.counts().grants, counters.grants_failed), (2, 0), "the first attempt");
}

#[tokio::test]
async fn a_secret_changed_during_a_grant_is_noticed_and_tried_at_once() {
    let (authority, file) = (authority().await, SecretFile::new("during"));
    file.write("old");
    let session = session(&authority, Credential::file(&file.0), 30);
    session.get_token().await.unwrap();

    authority.change_secret("new");
    let gate = authority.hold(Kind::Grant);
    authority.wait_for(|counts| counts.held == 1).await;
    // The old secret is on the wire, and the server has refused it.
    file.write("new");
    gate.release();
    callers_until(&session, 2).await;
    assert_eq!(authority.counts().grants, 3, "the second attempt");
    // Without that word the server would have been left alone for longer than the token lives.
    assert_eq!(session.status().counters().grants_failed, 1);
}

#[tokio::test]
async fn a_secret_that_comes_late_is_found_by_the_next_probe() {
    let (authority, file) = (authority().await, SecretFile::new("late"));
    let session = session(&authority, Credential::file(&file.0), 1);
    let error = session.get_token().await.unwrap_err().to_string();
    assert!(error.contains(file.0.to_str().unwrap()) && error.contains("No such file"), "{error}");
    assert_eq!(authority.counts().grants, 0, "without a secret nothing is sent");

    file.write("older");
    let began = Instant::now();
    while session.get_token().await.unwrap_err().to_string().contains("No such file") {
        tokio::time::sleep(millis(2)).await;
    }
    file.write("old");
    while session.get_token().await.is_err() {
        tokio::time::sleep(millis(2)).await;
    }
    // One for each second of cooling, and the first.
    let most = began.elapsed().as_secs() + 2;
    assert!(authority.counts().grants <= most, "{:?}", authority.counts());
}

#[tokio::test]
async fn a_closure_is_asked_for_each_attempt() {
    let authority = authority().await;
    let secret = std::sync::Arc::new(std::sync::Mutex::new("old".to_owned()));
    let vault = secret.clone();
    let read = move || {
        let secret = vault.lock().unwrap().clone();
        async move { std::io::Result::Ok(secret) }
    };
    let session = session(&authority, Credential::from_fn(read), 30);
    session.get_token().await.unwrap();
    authority.change_secret("new");
    "new".clone_into(&mut secret.lock().unwrap());
    callers_until(&session, 2).await;
    assert_eq!(session.status().counters().grants_failed, 0);
}

/// What the server said counts more than a vault that hangs.
#[tokio::test]
async fn a_refusal_is_told_though_the_credential_cannot_be_read_again() {
    let authority = authority().await;
    let reads = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = reads.clone();
    let read = move || {
        let first = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move {
            if !first {
                tokio::time::pause(); // From here on time passes only where all wait for it.
                std::future::pending::<()>().await;
            }
            std::io::Result::Ok("wrong")
        }
    };
    let manager =
        HttpTokenManager::builder(authority.provider(), "app", Credential::from_fn(read)).build();
    let session = session_of(manager.unwrap(), |_| {});
    let error = session.get_token().await.unwrap_err();
    let error = error.token_error().unwrap();
    assert!(matches!(error, TokenError::Denied { status: 401, .. }), "{error}");
    assert_eq!(reads.load(std::sync::atomic::Ordering::Relaxed), 2);
}
