//! What the real actor tells its machine, judged: a second machine, which is told the same, does the same.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::{History, Verdict};
use crate::config::SessionConfig;
use crate::machine::{CallerId, Event, Machine, Moment};
use crate::manager::TokenManager;
use crate::token::TokenId;

thread_local! {
    static LISTENER: RefCell<Weak<RefCell<Listener>>> = const { RefCell::new(Weak::new()) };
}

struct Listener {
    machine: Machine<CallerId>,
    history: History,
    events: usize,
    verdict: Verdict,
}

/// Listens to the session of this thread (there must be only one) for as long as it lives.
pub(crate) struct Overheard(Rc<RefCell<Listener>>);

impl Overheard {
    /// A session with this configuration, from its first event on.
    pub(crate) fn of(config: &SessionConfig, manager: &impl TokenManager) -> Self {
        let abilities = crate::actor::abilities_of(manager);
        let machine = Machine::new(config.clone(), abilities, 1);
        let history = History::new(machine.published(), config, abilities);
        let listener = Listener { machine, history, events: 0, verdict: Ok(()) };
        let this = Self(Rc::new(RefCell::new(listener)));
        LISTENER.set(Rc::downgrade(&this.0));
        this
    }

    /// What there was to say of it, or how many events were heard.
    pub(crate) fn verdict(&self) -> Result<usize, String> {
        let Listener { events, verdict, .. } = &*self.0.borrow();
        verdict.clone().map(|()| *events)
    }
}

/// The actor of this thread tells its machine this.
pub(crate) fn overhear<R>(moment: Moment, event: &Event<R>) {
    let Some(listener) = LISTENER.with_borrow(Weak::upgrade) else { return };
    let Listener { machine, history, events, verdict } = &mut *listener.borrow_mut();
    *events += 1;
    if verdict.is_ok() {
        let told = history.tell(machine, moment, without_replies(event));
        *verdict = told.and_then(|_| history.judge(machine, moment));
    }
}

fn without_replies<R>(event: &Event<R>) -> Event<CallerId> {
    match event {
        Event::GetToken(caller, _, options) => Event::GetToken(*caller, *caller, options.clone()),
        Event::Exchange(caller, _, request) => Event::Exchange(*caller, *caller, request.clone()),
        Event::Revoke(caller, _, options) => Event::Revoke(*caller, *caller, options.clone()),
        Event::Asked(snapshot) => Event::Asked(*snapshot),
        // The second machine has a number of its own.
        Event::Invalidate(id) => Event::Invalidate(TokenId { session: 1, ..*id }),
        Event::Left(caller) => Event::Left(*caller),
        Event::Ended(ended) => Event::Ended(ended.clone()),
        Event::Abilities(abilities) => Event::Abilities(*abilities),
        Event::Permitted(purpose, result) => Event::Permitted(purpose.clone(), result.clone()),
        Event::News(news) => Event::News(news.clone()),
        Event::Timer => Event::Timer,
        Event::Shutdown => Event::Shutdown,
    }
}
