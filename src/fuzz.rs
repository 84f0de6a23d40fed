//! The bodies of the fuzz targets in `fuzz/`. They live here so that ordinary builds compile them, and an
//! ordinary test replays what the fuzzers found.

use std::time::Duration;

use crate::config::SessionConfig;
use crate::error::TokenError;
use crate::grant::Grant;
#[cfg(feature = "http")]
pub use crate::http::fuzz::{revocation_response, token_response};
use crate::instant::Instant;
use crate::judge::History;
pub use crate::machine::tests::model::bytes::fuzz as model;
pub use crate::machine::tests::stories::fuzz as machine;
use crate::machine::{Abilities, Ended, Event, Machine, Moment};
use crate::request::TokenRequestOptions;
#[cfg(feature = "testing")]
use crate::testing::Script;

#[cfg(feature = "testing")]
/// Every configuration that is accepted can be written, and read again as the same; a session can live
/// with it. The same for a script of the authority, and for the addresses of a request.
pub fn config(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<SessionConfig>(data) {
        let written = serde_json::to_vec(&config).expect("a configuration can be written");
        let again: SessionConfig = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(config, again);
        if config.check().is_ok() {
            live(&config, &Err(TokenError::Panicked));
            live(&config, &Grant::bearer("T"));
        }
    }
    if let Ok(script) = serde_json::from_slice::<Script>(data) {
        let written = serde_json::to_vec(&script).expect("a script can be written");
        let again: Script = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(script, again);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(options) = TokenRequestOptions::new().ip(text)
    {
        let sent = options.forwarded_for().expect("what was accepted is sent");
        assert!(http::HeaderValue::from_str(sent).is_ok(), "{sent:?} cannot go into a header");
        assert_eq!(TokenRequestOptions::new().ip(sent).ok().as_ref(), Some(&options));
    }
}

/// A session in which every attempt ends like this: everything holds that must, whoever asks is answered,
/// and no failed server is left alone for longer than the configuration and its `Retry-After` allow.
pub fn live(config: &SessionConfig, answer: &Result<Grant, TokenError>) {
    const CALLS: u64 = 5;
    let abilities = Abilities {
        exchange: false,
        revoke: false,
        assumed_lifetime: Duration::from_secs(300),
        gated: false,
    };
    let mut machine = Machine::new(config.clone(), abilities, 1);
    let mut history = History::new(machine.published(), config, abilities);
    let mut now = Instant::from_nanos(1_000_000_000_000);
    let mut calls = 0;
    // A flight has many attempts, if it is configured so.
    for _ in 0..50 {
        let event = if !history.wire.is_empty() {
            Event::Ended(Ended::Grant(answer.clone()))
        } else if history.callers.is_empty() && calls < CALLS {
            calls += 1;
            Event::GetToken(calls, calls, TokenRequestOptions::new())
        } else {
            let Some(deadline) = machine.next_deadline() else { break };
            now = deadline;
            Event::Timer
        };
        let told = history.tell(&mut machine, Moment { now, random: 0.5, used: true }, event);
        told.unwrap_or_else(|why| panic!("{why}"));
        if let Some(cooling) = &history.published.cooling {
            let longest = config.retry.cooling.max(Duration::from_secs(600));
            assert!(cooling.until.since(now) <= longest, "{cooling:?} at {now:?}");
        }
    }
}

/// Replays what the fuzzers started from and what they found.
#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn replay(target: &str, body: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
            let path = entry.expect("readable").path();
            println!("{}", path.display());
            body(&fs::read(&path).expect("readable"));
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
    }

    macro_rules! replayed {
        ($($(#[$gate:meta])* $target:ident),*) => {$(
            $(#[$gate])*
            #[test]
            fn $target() {
                replay(stringify!($target), super::$target);
            }
        )*};
    }
    replayed!(
        #[cfg(feature = "testing")]
        config,
        #[cfg(feature = "http")]
        token_response,
        #[cfg(feature = "http")]
        revocation_response,
        machine,
        model
    );
}
