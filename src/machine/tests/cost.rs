//! What an event touches does not grow with what merely waits, or is merely kept: of the exchange keys, and
//! of the ledger's tokens.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::driver::{ASSUMED_LIFETIME, START, scope, secs};
use crate::config::SessionConfig;
use crate::error::TokenError;
use crate::grant::{Grant, TokenText};
use crate::instant::Instant;
use crate::machine::{Abilities, CallerId, Effects, Ended, Event, Machine, Moment, Request};
use crate::request::{ExchangeKey, TokenRequestOptions};

const FEW: usize = 200;
/// More than the ledger keeps.
const MANY: usize = 5_000;

thread_local! {
    static TOUCHED: Cell<usize> = const { Cell::new(0) };
}

/// The machine looks at so many keys, or tokens of the ledger.
pub(crate) fn touched(count: usize) {
    TOUCHED.set(TOUCHED.get() + count);
}

/// What machines of this thread have looked at so far.
pub(crate) fn touched_so_far() -> usize {
    TOUCHED.get()
}

/// A machine, and what is on its wire.
struct Loaded {
    machine: Machine<CallerId>,
    now: Instant,
    callers: CallerId,
    exchanges: Vec<Arc<ExchangeKey>>,
    revocations: Vec<TokenText>,
    tokens: usize,
}

impl Loaded {
    fn new(change: impl FnOnce(&mut SessionConfig)) -> Self {
        let mut config = SessionConfig {
            max_held: 2 * MANY,
            exchange_capacity: 2 * MANY,
            ..SessionConfig::default()
        };
        change(&mut config);
        let abilities = Abilities {
            exchange: true,
            revoke: true,
            assumed_lifetime: ASSUMED_LIFETIME,
            gated: false,
        };
        let machine = Machine::new(config, abilities, 7);
        Self {
            machine,
            now: START,
            callers: 0,
            exchanges: Vec::new(),
            revocations: Vec::new(),
            tokens: 0,
        }
    }

    /// That has so many exchanged tokens, and keeps so many of them.
    fn with_tokens(tokens: usize, kept: usize) -> Self {
        let mut loaded = Self::new(|config| config.exchange_capacity = kept);
        loaded.ask();
        loaded.granted();
        for name in 0..tokens {
            loaded.exchange(name);
            loaded.exchanged();
        }
        loaded
    }

    fn tell(&mut self, event: Event<CallerId>) {
        let mut fx = Effects::default();
        let moment = Moment { now: self.now, random: 0.5, used: false };
        self.machine.handle(moment, event, &mut fx);
        for start in &fx.start {
            match &start.request {
                Request::Exchange(key, ..) => self.exchanges.push(key.clone()),
                Request::Revocation(text, _) => self.revocations.push(text.clone()),
                Request::Grant(_) => {}
            }
        }
    }

    fn ask(&mut self) -> CallerId {
        self.callers += 1;
        self.tell(Event::GetToken(self.callers, self.callers, TokenRequestOptions::new()));
        self.callers
    }

    fn exchange_with(&mut self, name: usize, min_remaining: Duration) -> CallerId {
        self.callers += 1;
        let options = TokenRequestOptions::new().min_remaining(min_remaining);
        let request = Box::new(scope(&format!("scope-{name}")).options(options));
        self.tell(Event::Exchange(self.callers, self.callers, request));
        self.callers
    }

    fn exchange(&mut self, name: usize) -> CallerId {
        self.exchange_with(name, Duration::ZERO)
    }

    fn token(&mut self, life: Duration) -> Grant {
        self.tokens += 1;
        Grant::bearer(format!("token-{}", self.tokens)).expect("a token").expires_in(life)
    }

    fn granted(&mut self) {
        let grant = self.token(secs(36_000));
        self.tell(Event::Ended(Ended::Grant(Ok(grant))));
    }

    fn exchanged(&mut self) {
        let key = self.exchanges.remove(0);
        let life = secs(7_200) + Duration::from_millis(self.tokens as u64);
        let grant = self.token(life);
        self.tell(Event::Ended(Ended::Exchange(key, Ok(grant))));
    }

    fn exchange_fails(&mut self) {
        let key = self.exchanges.remove(0);
        let error = TokenError::RateLimited { retry_after: None };
        self.tell(Event::Ended(Ended::Exchange(key, Err(error))));
    }
}

/// What some events touch on average, and so what is tidied up once in a while counts too.
fn check(what: &str, build: impl Fn(usize) -> Loaded, events: impl Fn(&mut Loaded, usize)) {
    const TIMES: usize = 100;
    let [few, many] = [FEW, MANY].map(|load| {
        let mut loaded = build(load);
        TOUCHED.set(0);
        for nth in 0..TIMES {
            events(&mut loaded, MANY + nth);
        }
        touched_so_far()
    });
    // Where the ledger is full, another one leaves for each that comes.
    assert!(0 < few && many <= 2 * few, "{what}: {few} with {FEW}, {many} with {MANY}");
}

#[test]
fn an_event_costs_the_same_however_many_exchanges_wait_behind_the_barrier() {
    let build = |waiting| {
        let mut loaded = Loaded::new(|_| ());
        loaded.ask();
        loaded.granted();
        loaded.callers += 1;
        let options = TokenRequestOptions::new();
        loaded.tell(Event::Revoke(loaded.callers, loaded.callers, options));
        for name in 0..waiting {
            loaded.exchange(name);
        }
        loaded
    };
    check("behind the barrier", build, |loaded, name| {
        loaded.tell(Event::Timer);
        let caller = loaded.ask();
        loaded.tell(Event::Left(caller));
        let caller = loaded.exchange(name);
        loaded.tell(Event::Left(caller));
    });
}

#[test]
fn an_event_costs_the_same_however_many_exchanges_wait_for_their_turn() {
    let build = |waiting| {
        let mut loaded = Loaded::new(|config| config.exchanges_at_once = 1);
        loaded.ask();
        loaded.granted();
        for name in 0..waiting {
            loaded.exchange(name);
        }
        loaded
    };
    check("for their turn", build, |loaded, name| {
        loaded.exchange(name);
        loaded.exchanged();
        loaded.tell(Event::Timer);
    });
    let build = |waiting| {
        let mut loaded = build(waiting);
        loaded.exchange_fails();
        loaded
    };
    check("for a probe", build, |loaded, name| {
        let caller = loaded.exchange(name);
        loaded.tell(Event::Timer);
        loaded.tell(Event::Left(caller));
    });
}

#[test]
fn an_event_costs_the_same_however_many_exchanges_wait_for_more_life() {
    let build = |waiting| {
        let mut loaded = Loaded::new(|_| ());
        loaded.ask();
        loaded.granted();
        loaded.now = loaded.now + secs(10_000);
        for name in 0..waiting {
            loaded.exchange_with(name, secs(32_000));
        }
        loaded
    };
    check("for more life", build, |loaded, name| {
        let caller = loaded.exchange_with(name, secs(32_000));
        loaded.tell(Event::Left(caller));
        loaded.tell(Event::Timer);
    });
}

#[test]
fn an_event_costs_the_same_however_many_exchanged_tokens_are_kept() {
    let build = |kept| Loaded::with_tokens(kept, kept);
    check("kept", build, |loaded, name| {
        // One is pushed out.
        loaded.exchange(name);
        loaded.exchanged();
        loaded.exchange(name);
        loaded.ask();
    });
}

#[test]
fn an_event_costs_the_same_however_many_tokens_a_revoke_has_to_reach() {
    let build = |known| Loaded::with_tokens(known, 0);
    check("in the ledger", build, |loaded, name| {
        loaded.exchange(name);
        loaded.exchanged();
        loaded.tell(Event::Timer);
    });
}

#[test]
fn a_confirmation_costs_the_same_however_many_tokens_a_revoke_has_yet_to_reach() {
    let build = |known| {
        let mut loaded = Loaded::with_tokens(known, 0);
        loaded.callers += 1;
        let options = TokenRequestOptions::new();
        loaded.tell(Event::Revoke(loaded.callers, loaded.callers, options));
        loaded
    };
    check("confirmed", build, |loaded, _| {
        let text = loaded.revocations.pop().expect("there is another");
        loaded.tell(Event::Ended(Ended::Revocation(text, Ok(()))));
    });
}
