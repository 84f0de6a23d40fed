//! Scripts: events line by line, set apart by commas, and behind an arrow what the machine did about the
//! last one, in words.
//!
//! ```text
//! ask, ask         -> publish nothing; grant #1
//! +5s, granted 60s -> publish t1; 1: t1; 2: t1      // this is a comment
//! suspend 54s, ask, grant_fails 503
//! waiting          -> nobody
//! ```
//!
//! Callers are numbered from 1 in the order in which they come, tokens are called t1, t2, …, exchanged
//! ones x1, x2, …; a line may begin with one of the [`SITUATIONS`]. All words are in [`Session::does`]
//! and [`Session::shows`], how an attempt ends in [`outcome`].

use std::time::Duration;

use super::driver::{Issue, Kind, Outcome, Session, joined, scope};
use crate::error::TokenError;
use crate::machine::{Event, Request};
use crate::request::TokenRequestOptions;

/// Where a script may begin. A token of 60 s is stale after 28.5 s, held after 54 s, over after 60 s.
const SITUATIONS: [(&str, &str); 10] = [
    ("holding", "ask -> publish nothing; grant #1"),
    ("cooling", "holding, grant_fails denied -> publish nothing; 1: failed"),
    ("fresh", "holding, granted 60s -> publish t1; 1: t1"),
    ("fresh_for_1h", "holding, granted 1h -> publish t1; 1: t1"),
    // Past its `stale_at`, and nobody has noticed.
    ("stale", "fresh, suspend 28.5s"),
    ("refreshing", "stale, ask -> publish t1; grant #1; 2: t1"),
    ("stale_and_cooling", "refreshing, grant_fails denied -> publish t1"),
    // Past its `hold_at`, and nobody has noticed.
    ("unusable", "fresh, suspend 54s"),
    ("revoking", "fresh, revoke -> publish nothing; revoke t1"),
    // An exchange is on the wire, so the barrier stays up.
    (
        "revoking_and_cooling",
        "fresh, exchange a, suspend 28.5s, ask, grant_fails denied -> publish t1
         revoke -> publish nothing; revoke t1",
    ),
];

/// Scripts, a test each, named after what they show; in one mode or in several.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident $(in $modes:expr)? => $($script:expr),+;)+) => { $(
        $(#[$doc])*
        #[test]
        fn $name() {
            for mode in scripts!(@ $($modes)?) {
                $($crate::machine::tests::driver::Session::of(mode).play($script);)+
            }
        }
    )+ };
    (@) => { [$crate::RefreshMode::WhileUsed] };
    (@ $modes:expr) => { $modes };
}
pub(crate) use scripts;

impl Session {
    /// Plays a script, and checks what it says of the machine. What the last event led to.
    pub(crate) fn play(&mut self, script: &str) -> String {
        let mut said = String::new();
        for line in script.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (events, expected) = match line.split_once("->") {
                Some((events, expected)) => (events, Some(expected.trim())),
                None => (line, None),
            };
            for event in events.split(',') {
                said = self.does(event.trim());
            }
            if let Some(expected) = expected {
                assert_eq!(said, expected, "{line}");
            }
        }
        said
    }

    fn does(&mut self, event: &str) -> String {
        if let Some((_, script)) = SITUATIONS.iter().find(|(name, _)| *name == event) {
            return self.play(script);
        }
        if let Some(time) = event.strip_prefix('+') {
            return self.pass(duration(time));
        }
        let words: Vec<_> = event.split_whitespace().collect();
        match *words {
            // Before anything else.
            ["attempts", n] => self.configure(|config| config.retry.attempts = number(n)),
            ["capacity", n] => self.configure(|config| config.exchange_capacity = number(n)),
            ["at_once", n] => self.configure(|config| config.exchanges_at_once = number(n)),
            ["max_held", n] => self.configure(|config| config.max_held = number(n)),
            ["gated"] => self.gate(true),
            ["ungated"] => self.gate(false),
            // Leave comes, or does not.
            ["permit"] => self.permit(None, Ok(())),
            ["permit", key] => self.permit(Some(key), Ok(())),
            ["no_permit", "timed_out"] => {
                self.permit(None, Err(TokenError::timed_out(Duration::from_secs(60))))
            }
            ["no_permit", ref how @ ..] if matches!(how[0], "429" | "503") => {
                self.permit(None, outcome(how).map(drop))
            }
            ["no_permit", key, ref how @ ..] => self.permit(Some(key), outcome(how).map(drop)),
            // Callers, and readers of what is published.
            ["ask", ref with @ ..] => self.ask_with(options(with)),
            ["exchange", name, ref with @ ..] => self.exchange(scope(name).options(options(with))),
            ["revoke", ref with @ ..] => self.revoke(options(with)),
            ["leave", caller] => self.send(Event::Left(number(caller))),
            ["leave_all"] => {
                let waiting = self.history.callers.clone().into_keys();
                joined(waiting.map(|caller| self.send(Event::Left(caller))))
            }
            ["read"] => self.read(),
            ["try_token"] => self.try_token(),
            ["asked"] => self.send(Event::Asked(self.snapshot.number())),
            ["asked", "of", snapshot] => self.send(Event::Asked(number(snapshot))),
            ["invalidate", "held"] => match self.held() {
                Some(name) => self.invalidate(&name),
                None => "nothing".into(),
            },
            ["invalidate", name] => self.invalidate(name),
            ["hear", name] => self.hear(name, "60s"),
            ["hear", name, left] => self.hear(name, left),
            ["can", "exchange", "and", "revoke"] => self.can(true, true),
            ["can", "exchange"] => self.can(true, false),
            ["can", "revoke"] => self.can(false, true),
            ["timer"] => self.send(Event::Timer),
            ["shutdown"] => self.send(Event::Shutdown),
            // Attempts end.
            ["granted" | "grant_fails", ref how @ ..] => self.grant_ends(outcome(how)),
            ["exchanged" | "exchange_fails", ref how @ ..] => {
                let attempt = self.take(Kind::Exchange);
                self.ends(attempt, outcome(how))
            }
            ["confirmed"] => self.revocations_end(|_| Ok(Issue::default())),
            ["revocations_fail", ref how @ ..] => self.revocations_end(|_| outcome(how)),
            ["all_succeed" | "all_fail", ref how @ ..] => self.all_end(|_| Some(outcome(how))),
            ["all_end", grant, exchange, revocation] => {
                let how = [grant, exchange, revocation];
                self.all_end(|kind| {
                    let how = how[kind as usize];
                    (how != "hangs").then(|| outcome(&[how]))
                })
            }
            ["suspend", time] => {
                self.now = self.now + duration(time);
                "nothing".into()
            }
            _ => self.shows(&words),
        }
    }

    /// What there is to see.
    fn shows(&self, words: &[&str]) -> String {
        match *words {
            ["waiting"] if self.history.callers.is_empty() => "nobody".into(),
            ["waiting"] => {
                let waiting: Vec<_> = self.history.callers.keys().map(u64::to_string).collect();
                waiting.join(" ")
            }
            ["held"] => self.held().unwrap_or_else(|| "nothing".into()),
            // How far ahead these are.
            ["usable"] => format!("{:?}", self.usable_for()),
            ["ask_at"] => self.ask_at().map_or_else(|| "never".into(), |at| format!("{at:?}")),
            ["ask_at", "of", name] => {
                let key = scope(name).key();
                let published = &self.history.exchanged[&key];
                format!("{:?}", published.ask_at.since(self.now))
            }
            ["deadline"] => self.deadline().map_or_else(|| "never".into(), |at| format!("{at:?}")),
            ["cools"] => match &self.history.published.cooling {
                Some(cooling) => format!("{:?}: {}", cooling.until.since(self.now), cooling.last),
                None => "nothing".into(),
            },
            ["doubts_dismissed"] => match &self.history.published.token {
                Some(token) => token.doubts_dismissed.to_string(),
                None => "no token".into(),
            },
            // The error that a caller got.
            ["retry_after", caller] => {
                format!("{:?}", self.error_of(number(caller)).retry_after().expect("one"))
            }
            ["error", caller] => {
                let error = self.error_of(number(caller)).token_error().expect("one").to_string();
                error.trim_end().into()
            }
            // How many requests have been sent.
            ["grants"] => self.sent(Kind::Grant).len().to_string(),
            ["revocations"] => self.sent(Kind::Revocation).len().to_string(),
            // Of the attempt that was started last.
            ["options"] => {
                let options = match &self.last().request {
                    Request::Grant(grant) => &grant.options,
                    Request::Exchange(_, _, request) => &request.options,
                    Request::Revocation(_, options) => options,
                };
                let ip = options.forwarded_for().unwrap_or("no ip");
                format!("{ip}; {:?}", options.get_min_remaining())
            }
            ["timeout"] => format!("{:?}", self.last().timeout),
            ["refused"] => match &self.last().request {
                Request::Grant(grant) => {
                    let refused = grant.refused.as_ref();
                    refused.map_or("nothing", |text| text.expose()).to_owned()
                }
                request => panic!("not a grant: {request:?}"),
            },
            _ => panic!("no such event: {words:?}"),
        }
    }
}

/// How an attempt ends: `60s` (the token's life), `60s as same`, `60s refresh_in 30s`, `untold`, or an
/// error: `503`, `429 4s` (with `Retry-After`), `denied`, `changed` (the credentials), or an OAuth error
/// and its description.
pub(crate) fn outcome(words: &[&str]) -> Outcome {
    let retry_after = |after: &[&str]| after.first().map(|after| duration(after));
    match *words {
        ["untold"] => Ok(Issue::default()),
        ["untold", "as", name] => Ok(Issue { name: Some(name.into()), ..Issue::default() }),
        ["503", ref after @ ..] => Err(TokenError::server(503, retry_after(after))),
        ["429", ref after @ ..] => Err(TokenError::rate_limited(retry_after(after))),
        ["transport"] => Err(TokenError::transport(std::io::Error::other("the cable is cut"))),
        ["denied"] => Err(TokenError::denied("invalid_client", "")),
        ["changed", ref after @ ..] => Err(TokenError::denied("invalid_client", "")
            .with_status(401)
            .with_retry_after(retry_after(after))
            .with_credentials_changed(true)),
        [life, ref rest @ ..] if life.starts_with(char::is_numeric) => {
            let issue = Issue { life: Some(duration(life)), ..Issue::default() };
            Ok(match *rest {
                [] => issue,
                ["as", name] => Issue { name: Some(name.into()), ..issue },
                ["refresh_in", wait] => Issue { refresh_in: Some(duration(wait)), ..issue },
                _ => panic!("no outcome: {words:?}"),
            })
        }
        [error, ref description @ ..] => Err(TokenError::denied(error, description.join(" "))),
        [] => panic!("no outcome"),
    }
}

pub(super) fn duration(word: &str) -> Duration {
    let units = [("ms", 0.001), ("s", 1.0), ("h", 3_600.0), ("d", 86_400.0)];
    let number = |(unit, factor): (&str, f64)| {
        Some(Duration::from_secs_f64(word.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
    };
    units.into_iter().find_map(number).unwrap_or_else(|| panic!("no duration: {word:?}"))
}

/// `54s` is the life that a token should have left, `ip4` an address.
fn options(words: &[&str]) -> TokenRequestOptions {
    words.iter().fold(TokenRequestOptions::new(), |options, word| match word.strip_prefix("ip") {
        Some(last) => options.ip(&format!("192.0.2.{last}")).expect("an address"),
        None => options.min_remaining(duration(word)),
    })
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("no number: {word:?}"))
}
