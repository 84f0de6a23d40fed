//! Fleets over real stores: `redis-server` processes and directories, replicas that are processes of their
//! own, and all that goes wrong with them.

mod clock;
mod contract;
mod directory;
mod faults;
mod fleets;
mod foreign;
mod forgers;
mod identity;
mod over_redis;
mod place;
mod programs;
mod replica;
mod revoked;
mod server;
mod topologies;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// All the rights that a user of Redis needs: the line of the documentation of `RedisStore`.
const ACL: &str = "on >its-password resetkeys resetchannels -@all ~{payments:* &payments:news \
    +evalsha +script|load +time +getrange +get +set +del +pttl +pexpire +publish +subscribe \
    +unsubscribe +ping";

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// For how long a test that takes as long as it is given shall run: `STORE_SECONDS=60`.
fn long() -> Option<Duration> {
    std::env::var("STORE_SECONDS").ok().and_then(|text| text.parse().ok()).map(secs)
}

/// Removed with all that is in it when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let name = format!("ccg-store-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
