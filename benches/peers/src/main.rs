//! The table of `../table.rs` with comparable token caches beside this crate, in one run:
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` prints Markdown, `-- --json` JSON;
//! `-- --help` tells the other options. The program `openssl` has to be there: it makes the throw-away
//! key that two of the peers sign with.

#[path = "../../harness/mod.rs"]
mod harness;
mod peers;
#[path = "../../scenarios/mod.rs"]
mod scenarios;
#[path = "../../subjects/mod.rs"]
mod subjects;

use harness::run::Entry;

fn main() {
    // Two TLS back ends are linked in; the peers that do not choose get this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut entries = subjects::entries();
    entries.extend([
        Entry::of::<peers::Google>(),
        Entry::of::<peers::Azure>(),
        Entry::of::<peers::Smithy>(),
        Entry::of::<peers::Aliri>(),
        Entry::of::<peers::Huskarl>(),
        Entry::of::<peers::Yup>(),
        Entry::of::<peers::Gcp>(),
        Entry::of::<peers::Moka>(),
        Entry::of::<peers::ByHand>(),
    ]);
    harness::run::main(&entries);
}
