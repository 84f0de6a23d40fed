//! Programs that end as soon as they have what they came for.

use ccg_session::testing::Authority;
use ccg_session::{FileStore, Fleet, Session};
use tokio::runtime::{Builder, Runtime};

use crate::replica::KEY;
use crate::{Directory, secs};

#[test]
fn a_program_that_flushes_leaves_its_token_to_the_next_one() {
    let directory = Directory::new();
    let server = Runtime::new().unwrap();
    let authority = server.block_on(Authority::start()).unwrap();
    for _ in 0..5 {
        // All that it has spawned ends with it.
        let program = Builder::new_current_thread().enable_all().build().unwrap();
        program.block_on(async {
            let store = FileStore::open(directory.path()).unwrap();
            let fleet = Fleet::builder(store, KEY).timeout(secs(1)).build().unwrap();
            let manager = fleet.share(authority.manager().unwrap()).build().unwrap();
            let session = Session::builder(manager).spawn().unwrap();
            session.get_token().await.unwrap();
            fleet.flush().await;
        });
    }
    assert_eq!(authority.counts().grants, 1);
}
