//! What a session publishes: it comes from the machine, so that no test makes up a state that never is.

#![allow(dead_code, reason = "each test that includes this module uses its own part of it")]

use std::time::Duration;

use ccg_session::testing::internals::{
    Abilities, Effects, Ended, Event, Instant, Machine, Moment, Published, Snapshot,
};
use ccg_session::{
    AccessToken, Grant, RefreshMode, SessionConfig, TokenError, TokenRequestOptions,
};

/// A token of this life is stale from 3000 s on, held from 3570 s on, and over at 3600 s.
pub const LIFE: Duration = secs(3600);

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Counted from when the token's request was sent.
pub fn at(seconds: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000) + secs(seconds)
}

pub fn plain() -> TokenRequestOptions {
    TokenRequestOptions::new()
}

pub fn wants(seconds: u64) -> TokenRequestOptions {
    TokenRequestOptions::new().min_remaining(secs(seconds))
}

/// A machine, and what it last published.
#[derive(Clone)]
pub struct Session {
    pub machine: Machine<()>,
    pub published: Published,
}

impl Session {
    pub fn new() -> Self {
        let mut config = SessionConfig::default();
        config.refresh_mode = RefreshMode::OnRequest;
        config.retry.attempts = 1;
        let abilities = Abilities { exchange: true, revoke: true, assumed_lifetime: LIFE };
        let machine = Machine::new(config, abilities, 1);
        let published = machine.published().clone();
        Self { machine, published }
    }

    pub fn handle(&mut self, now: Instant, event: Event<()>) -> Effects<()> {
        let mut effects = Effects::default();
        self.machine.handle(Moment { now, random: 0.0, used: false }, event, &mut effects);
        if let Some(published) = effects.publish.take() {
            self.published = published;
        }
        effects
    }

    pub fn ask(&mut self, now: Instant, options: TokenRequestOptions) -> Effects<()> {
        self.handle(now, Event::GetToken(1, (), options))
    }

    pub fn grant(&mut self, now: Instant, result: Result<Grant, TokenError>) -> Effects<()> {
        self.handle(now, Event::Ended(Ended::Grant(result)))
    }

    pub fn fail(&mut self, now: Instant) -> Effects<()> {
        self.grant(now, Err(TokenError::server(503, None)))
    }

    /// Its token was asked for at `at(0)`.
    pub fn holding() -> Self {
        let mut session = Self::new();
        session.ask(at(0), plain());
        session.grant(at(0), Ok(Grant::bearer("t0ken").unwrap().expires_in(LIFE)));
        session
    }

    /// The refresh of its token has failed.
    pub fn holding_after_failure() -> Self {
        let mut session = Self::holding();
        session.ask(at(3_100), plain());
        session.fail(at(3_100));
        session
    }

    /// Its first grant was denied at `at(0)`.
    pub fn cooling() -> Self {
        let mut session = Self::new();
        session.ask(at(0), plain());
        session.grant(at(0), Err(TokenError::denied("invalid_client", "no such client")));
        session
    }

    pub fn closed() -> Self {
        let mut session = Self::holding();
        session.handle(at(1), Event::Shutdown);
        session
    }

    pub fn token(&self) -> AccessToken {
        self.published.token.as_ref().unwrap().token.clone()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.published.clone())
    }
}
