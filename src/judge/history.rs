//! What has been seen of a session, as far as it still matters.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::pace::{Pace, Policy};
use super::{PROPERTIES, Session, Verdict, refuses_subject};
use crate::config::SessionConfig;
use crate::error::{SessionError, TokenError};
use crate::grant::Grant;
use crate::instant::Instant;
use crate::machine::{
    self, Abilities, CallerId, Effects, Ended, Event, Moment, News, Published, PublishedExchange,
    Reply, Request, Start, Wait, Warning,
};
use crate::request::{ExchangeKey, ExchangeRequest};
use crate::token::TokenId;

/// Nobody who says longer means it.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// So long a token of unknown life may be alive, and a revoked text is not taken again.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a flight is for: its attempts are spaced by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Purpose {
    /// The session's own token.
    Grant,
    /// The exchanged token of the key with this number.
    Exchange(u32),
}

impl Purpose {
    /// A key's number is one of its own, whoever asks, and says nothing of the key.
    pub(crate) fn of(key: &ExchangeKey) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Self::Exchange((hasher.finish() >> 32) as u32)
    }

    fn of_wait(purpose: &machine::Purpose) -> Self {
        match purpose {
            machine::Purpose::Grant => Self::Grant,
            machine::Purpose::Exchange(key) => Self::of(key),
        }
    }
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    Token(Purpose),
    /// That every token is gone.
    Revoked,
}

/// An attempt on the wire.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Attempt {
    pub(crate) sent_at: Instant,
    /// When it ends at the latest.
    pub(crate) ends_by: Instant,
    /// How many revokes had been taken by then.
    pub(crate) revokes: u64,
    /// What it exchanges.
    pub(crate) subject: Option<TokenId>,
}

/// Somebody who waits, and what may be told to them.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Caller {
    pub(crate) want: Want,
    /// How many revokes had been taken when the call began; a revoke counts itself.
    pub(crate) revokes: u64,
    /// The texts that another session has revoked since.
    pub(crate) began_before_news_of: BTreeSet<String>,
}

/// A token that the session received.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Token {
    /// Counted by the history, with every token that arrives.
    pub(crate) generation: u64,
    pub(crate) text: String,
    pub(crate) purpose: Purpose,
    /// How many revokes had been taken when it was asked for.
    pub(crate) revokes: u64,
    /// The text of what it was exchanged from.
    pub(crate) subject: Option<String>,
    /// Counted from when it was asked for.
    pub(crate) expires_at: Instant,
    pub(crate) life: Duration,
}

/// A token as the server knows it: by its text.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Issued {
    /// The longest that the server can have meant; a day after it was last heard of, if that is not known.
    pub(crate) expires_at: Instant,
    is_life_known: bool,
    /// The first revoke that came since.
    pub(crate) marked_by: Option<u64>,
    /// So long it is not taken again.
    marked_until: Instant,
    /// The server has confirmed that it is gone.
    pub(crate) revoked: bool,
    /// The session has said that a revoke cannot reach it any more.
    pub(crate) lost: bool,
    /// Another session has revoked it, as this one was told.
    pub(crate) revoked_elsewhere: bool,
}

impl Default for Issued {
    fn default() -> Self {
        Self {
            expires_at: Instant::ZERO,
            is_life_known: false,
            marked_by: None,
            marked_until: Instant::ZERO,
            revoked: false,
            lost: false,
            revoked_elsewhere: false,
        }
    }
}

impl Issued {
    pub(crate) fn is_marked(&self, now: Instant) -> bool {
        self.marked_by.is_some() && now < self.marked_until
    }

    fn mark(&mut self, revoke: u64, now: Instant) {
        if !self.is_marked(now) {
            (self.marked_by, self.marked_until) = (Some(revoke), now + DAY);
            self.revoked = false;
        }
    }

    /// Its revocation was sent, or confirmed.
    fn heard_of(&mut self, now: Instant) {
        self.marked_until = now + DAY;
        if !self.is_life_known {
            self.expires_at = now + DAY;
        }
    }
}

/// How the endpoint that all exchanges share has shown itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint {
    pub(crate) is_failing: bool,
    /// Of the probes.
    pub(crate) pace: Pace,
    pub(crate) counted: Counted,
    /// What had been counted when each attempt on the wire was sent.
    pub(crate) known: BTreeMap<Purpose, Counted>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) failures: u64,
    successes: u64,
}

/// Of counts only how they compare.
#[cfg(test)]
impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.is_failing, self.pace).hash(state);
        for (purpose, known) in &self.known {
            let Counted { failures, successes } = self.counted;
            (purpose, known.failures < failures, known.successes < successes).hash(state);
        }
    }
}

/// What a session does, as the outside sees it: this is what is judged.
pub(crate) enum Seen<'a> {
    /// Readers see something else.
    Published(&'a Published),
    /// A wait for leave to send a grant or an exchange.
    WaitBegan(Purpose),
    /// An attempt of a grant or an exchange.
    Started(Purpose),
    /// A revocation of this token.
    RevocationStarted(&'a str),
    Answered(CallerId, &'a Reply),
    /// An event has been handled, and all that it led to has been seen.
    Handled(&'a Handled<'a>),
    /// The session may be asked what it would do if a timer came.
    Idle(&'a dyn Session, Moment),
    /// The same, of a reader and of the end.
    Situation(&'a dyn Session, Moment),
}

/// An event as a whole.
pub(crate) struct Handled<'a> {
    pub(crate) session: &'a dyn Session,
    pub(crate) event: &'a Event<CallerId>,
    pub(crate) fx: &'a Effects<CallerId>,
    /// What readers saw before it.
    pub(crate) before: &'a Published,
}

#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) now: Instant,
    /// What the session was told to keep to.
    pub(crate) policy: Policy,
    /// How long a token lives whose server does not say.
    assumed_lifetime: Duration,
    can_revoke: bool,
    /// The last draw.
    random: f64,
    /// Does not ask what a timer would do: that copies the session with each event.
    pub(crate) is_crowded: bool,
    /// What readers see.
    pub(crate) published: Published,
    /// Exchanged tokens that readers see besides.
    pub(crate) exchanged: BTreeMap<Arc<ExchangeKey>, PublishedExchange>,
    /// A request for each key that somebody asked for.
    pub(crate) requests: BTreeMap<Arc<ExchangeKey>, Box<ExchangeRequest>>,
    /// Revokes taken.
    pub(crate) revokes: u64,
    /// Tokens that arrived.
    pub(crate) generation: u64,
    /// The highest generation of the session's own that readers could see, or that a caller was given.
    pub(crate) highest: u64,
    /// The highest generation whose invalidation was honoured.
    pub(crate) invalidated: u64,
    pub(crate) invalidated_at: Option<Instant>,
    pub(crate) callers: BTreeMap<CallerId, Caller>,
    /// Grants and exchanges on the wire.
    pub(crate) wire: BTreeMap<Purpose, Attempt>,
    /// Each grant and exchange needs leave to be sent.
    pub(crate) gated: bool,
    /// Those that wait for leave.
    pub(crate) waits: BTreeSet<Purpose>,
    /// What this event has brought leave for.
    pub(crate) leave: Option<Purpose>,
    /// Revocations on the wire, by the token's text.
    pub(crate) revocations: BTreeMap<String, Attempt>,
    /// Tokens that can still be alive, in the order of their generations.
    pub(crate) tokens: Vec<Token>,
    /// The same, as the server knows them.
    pub(crate) texts: BTreeMap<String, Issued>,
    pub(crate) paces: BTreeMap<Purpose, Pace>,
    pub(crate) revocation_pace: Pace,
    pub(crate) exchanges_at_once: usize,
    pub(crate) endpoint: Endpoint,
    batch_confirmed: bool,
    batch_failure: Option<TokenError>,
    /// When the last grant that succeeded was sent.
    pub(crate) last_sent: Option<Instant>,
    pub(crate) barrier_may_be_up: bool,
    pub(crate) closed: bool,
}

impl History {
    pub(crate) fn new(published: &Published, config: &SessionConfig, abilities: Abilities) -> Self {
        Self {
            now: Instant::ZERO,
            policy: Policy::of(config),
            assumed_lifetime: abilities.assumed_lifetime,
            can_revoke: abilities.revoke,
            random: 0.0,
            is_crowded: false,
            published: published.clone(),
            exchanged: BTreeMap::new(),
            requests: BTreeMap::new(),
            revokes: 0,
            generation: 0,
            highest: 0,
            invalidated: 0,
            invalidated_at: None,
            callers: BTreeMap::new(),
            wire: BTreeMap::new(),
            gated: abilities.gated,
            waits: BTreeSet::new(),
            leave: None,
            revocations: BTreeMap::new(),
            tokens: Vec::new(),
            texts: BTreeMap::new(),
            paces: BTreeMap::new(),
            revocation_pace: Pace::default(),
            exchanges_at_once: config.exchanges_at_once,
            endpoint: Endpoint::default(),
            batch_confirmed: false,
            batch_failure: None,
            last_sent: None,
            barrier_may_be_up: false,
            closed: false,
        }
    }

    /// Tells the session what happened, and judges what it does about it.
    pub(crate) fn tell(
        &mut self,
        session: &mut dyn Session,
        moment: Moment,
        event: Event<CallerId>,
    ) -> Result<Effects<CallerId>, String> {
        let (mut fx, told) = (Effects::default(), event.clone());
        session.handle(moment, event, &mut fx);
        self.see(session, moment, &told, &fx)?;
        Ok(fx)
    }

    /// Asks what costs more: what the session would do if a reader came now, or later; or the end.
    pub(crate) fn judge(&self, session: &dyn Session, moment: Moment) -> Verdict {
        self.ask(&Seen::Situation(session, moment))
    }

    /// Time passes. What the server no longer knows is forgotten, so that equal situations look equal.
    pub(crate) fn pass(&mut self, now: Instant) {
        self.now = now;
        if self.texts.values().all(|text| now < text.expires_at) {
            return;
        }
        self.texts.retain(|_, text| now < text.expires_at);
        let texts = &self.texts;
        self.tokens.retain(|token| now < token.expires_at || texts.contains_key(&token.text));
    }

    /// The event, and then what the session wants done, in the order of the contract: publish, start
    /// attempts, reply.
    fn see(
        &mut self,
        session: &dyn Session,
        moment: Moment,
        event: &Event<CallerId>,
        fx: &Effects<CallerId>,
    ) -> Verdict {
        self.pass(moment.now);
        self.random = moment.random;
        self.leave = None;
        let before = self.published.clone();
        self.happened(event, fx);
        for (key, published) in &fx.exchanged {
            match published {
                Some(published) => drop(self.exchanged.insert(key.clone(), published.clone())),
                None => drop(self.exchanged.remove(key)),
            }
        }
        if let Some(published) = &fx.publish {
            self.ask(&Seen::Published(published))?;
            self.published = published.clone();
            if published.closed {
                self.exchanged.clear();
            }
            let generation = published.token.as_ref().map(|it| it.token.id().generation());
            self.highest = self.highest.max(generation.unwrap_or(0));
        }
        for wait in &fx.waits {
            match wait {
                Wait::Begin(purpose, ..) => {
                    let purpose = Purpose::of_wait(purpose);
                    self.ask(&Seen::WaitBegan(purpose))?;
                    self.waits.insert(purpose);
                }
                Wait::GiveUp(purpose) => drop(self.waits.remove(&Purpose::of_wait(purpose))),
            }
        }
        for start in &fx.start {
            self.started(start)?;
        }
        for (caller, answer) in &fx.replies {
            self.ask(&Seen::Answered(*caller, answer))?;
            self.barrier_may_be_up &= !matches!(answer, Reply::Revoked(_)) || is_refusal(answer);
            self.callers.remove(caller);
            if let Reply::Token(Ok(token)) = answer {
                self.highest = self.highest.max(token.id().generation());
            }
        }
        self.ask(&Seen::Handled(&Handled { session, event, fx, before: &before }))?;
        self.closed |= matches!(event, Event::Shutdown);
        if let Some(dropped) = self.dropped(event, &before) {
            self.invalidated = self.invalidated.max(dropped);
            self.invalidated_at = Some(self.now);
        }
        if self.is_crowded {
            return Ok(());
        }
        // If the snapshot is new, nobody has used it.
        let used = moment.used && fx.publish.is_none();
        self.ask(&Seen::Idle(session, Moment { used, ..moment }))
    }

    fn ask(&self, seen: &Seen<'_>) -> Verdict {
        PROPERTIES
            .iter()
            .try_for_each(|(name, holds)| holds(self, seen).map_err(|why| format!("{name}: {why}")))
    }

    fn happened(&mut self, event: &Event<CallerId>, fx: &Effects<CallerId>) {
        match event {
            Event::GetToken(caller, ..) => self.began(*caller, Want::Token(Purpose::Grant)),
            Event::Exchange(caller, _, request) => {
                let key = request.key();
                self.began(*caller, Want::Token(Purpose::of(&key)));
                self.requests.entry(Arc::new(key)).or_insert_with(|| request.clone());
            }
            Event::Revoke(caller, ..) => {
                if is_taken(*caller, fx) {
                    self.revokes += 1;
                    self.barrier_may_be_up = true;
                    for text in self.texts.values_mut() {
                        text.mark(self.revokes, self.now);
                    }
                }
                self.began(*caller, Want::Revoked);
            }
            Event::Left(caller) => drop(self.callers.remove(caller)),
            Event::Ended(Ended::Grant(result)) => self.ended(Purpose::Grant, result, fx),
            Event::Ended(Ended::Exchange(key, result)) => self.ended(Purpose::of(key), result, fx),
            Event::Ended(Ended::Revocation(text, result)) => {
                self.revocation_ended(text.expose(), result);
            }
            Event::Abilities(abilities) => {
                self.gated = abilities.gated;
                self.assumed_lifetime = abilities.assumed_lifetime;
                self.can_revoke = abilities.revoke;
            }
            Event::News(News::Revoked { text, left }) => {
                self.revoked_elsewhere(text.expose(), *left);
            }
            Event::Permitted(purpose, result) => {
                let purpose = Purpose::of_wait(purpose);
                self.leave = self.waits.remove(&purpose).then_some(purpose);
                if let (Some(purpose), Err(error)) = (self.leave, result) {
                    let error = no_leave(error);
                    self.paces.entry(purpose).or_default().turned_away(&error, self.now);
                }
            }
            Event::Asked(_) | Event::Invalidate(_) | Event::Timer | Event::Shutdown => {}
        }
        self.refusals_stand(event, fx);
        for warning in &fx.warnings {
            if let Warning::LedgerOverflow(id) = warning
                && let Some(text) = self.token(id.generation()).map(|token| token.text.clone())
                && let Some(text) = self.texts.get_mut(&text)
            {
                text.lost = true;
            }
        }
    }

    /// No other subject came: then the answer that they had is the end of it.
    fn refusals_stand(&mut self, event: &Event<CallerId>, fx: &Effects<CallerId>) {
        match event {
            Event::Ended(Ended::Grant(Err(error))) if !refuses_subject(error) => {}
            // Else the answer may be another's.
            _ => return,
        }
        let refusals = fx.replies.iter().filter_map(|(caller, answer)| {
            let Reply::Exchanged(Err(SessionError::Failed { error, .. })) = answer else {
                return None;
            };
            let Want::Token(purpose) = self.callers.get(caller)?.want else { return None };
            let was_refused = self.paces.get(&purpose).is_some_and(Pace::is_rerun);
            (was_refused && refuses_subject(error)).then_some((purpose, error))
        });
        for (purpose, error) in refusals.collect::<BTreeMap<_, _>>() {
            let pace = self.paces.entry(purpose).or_default();
            pace.failed(error, self.now, self.policy, Some(self.random));
        }
    }

    fn began(&mut self, caller: CallerId, want: Want) {
        // An exchange that nobody waits for may be over.
        let (callers, wire) = (&self.callers, &self.wire);
        for (purpose, pace) in &mut self.paces {
            let is_wanted = || callers.values().any(|it| it.want == Want::Token(*purpose));
            if pace.is_rerun() && !wire.contains_key(purpose) && !is_wanted() {
                pace.may_be_over();
            }
        }
        let (revokes, began_before_news_of) = (self.revokes, BTreeSet::new());
        self.callers.insert(caller, Caller { want, revokes, began_before_news_of });
    }

    fn started(&mut self, Start { request, timeout, .. }: &Start) -> Verdict {
        let (sent_at, ends_by, revokes) = (self.now, self.now + *timeout, self.revokes);
        let mut attempt = Attempt { sent_at, ends_by, revokes, subject: None };
        let purpose = match request {
            Request::Revocation(text, _) => {
                self.ask(&Seen::RevocationStarted(text.expose()))?;
                self.revocations.insert(text.expose().into(), attempt);
                if let Some(known) = self.texts.get_mut(text.expose()) {
                    known.heard_of(self.now);
                }
                return Ok(());
            }
            Request::Grant(_) => Purpose::Grant,
            Request::Exchange(key, subject, _) => {
                attempt.subject = Some(subject.id());
                Purpose::of(key)
            }
        };
        self.ask(&Seen::Started(purpose))?;
        if attempt.subject.is_some() {
            self.endpoint.known.insert(purpose, self.endpoint.counted);
        }
        self.wire.insert(purpose, attempt);
        self.barrier_may_be_up = false;
        Ok(())
    }

    fn ended(
        &mut self,
        purpose: Purpose,
        result: &Result<Grant, TokenError>,
        fx: &Effects<CallerId>,
    ) {
        let Some(attempt) = self.wire.remove(&purpose) else { return };
        self.endpoint_answered(purpose, attempt, result);
        let error = match result {
            Ok(grant) => return self.arrived(purpose, attempt, grant),
            Err(error) => error,
        };
        let held = &fx.publish.as_ref().unwrap_or(&self.published).token;
        let is_held = held.as_ref().map(|it| it.token.id()) == attempt.subject;
        let is_one = |(_, it): &(&CallerId, &Caller)| it.want == Want::Token(purpose);
        let is_told = |(caller, _)| fx.replies.iter().any(|(whom, _)| whom == caller);
        let mut callers = self.callers.iter().filter(is_one).peekable();
        // Whoever waits for the next subject is told nothing yet.
        let goes_on = !is_held || (callers.peek().is_some() && !callers.any(is_told));
        let pace = self.paces.entry(purpose).or_default();
        if attempt.subject.is_some() && refuses_subject(error) && goes_on {
            pace.subject_replaced(error, self.now, self.policy, self.random);
        } else {
            pace.failed(error, self.now, self.policy, Some(self.random));
        }
    }

    fn endpoint_answered(
        &mut self,
        purpose: Purpose,
        attempt: Attempt,
        result: &Result<Grant, TokenError>,
    ) {
        let Some(known) = self.endpoint.known.remove(&purpose) else { return };
        let dead = TokenError::expired("dead on arrival");
        let error = match result {
            Ok(grant) => {
                let life = grant.life().unwrap_or(self.assumed_lifetime).min(LONGEST_LIFE);
                let came_too_late = attempt.revokes < self.revokes;
                let is_dead =
                    attempt.sent_at + life <= self.now || self.is_marked(grant.text().expose());
                (is_dead && !came_too_late).then_some(&dead)
            }
            Err(error) => Some(error),
        };
        let endpoint = &mut self.endpoint;
        let Counted { failures, successes } = endpoint.counted;
        if error.is_none() {
            endpoint.counted.successes += 1;
        }
        if known.failures < failures {
            return;
        }
        match error.filter(|error| error.is_retryable()) {
            None => (endpoint.is_failing, endpoint.pace) = (false, Pace::default()),
            Some(error) => {
                let is_about_all =
                    matches!(error, TokenError::RateLimited { .. } | TokenError::Transport { .. });
                if is_about_all || endpoint.is_failing || known.successes == successes {
                    endpoint.counted.failures += 1;
                    endpoint.is_failing = true;
                    endpoint.pace.failed(error, self.now, self.policy, Some(self.random));
                }
            }
        }
    }

    /// The token that was the session's, and by this word against it is not any more.
    fn dropped(&self, event: &Event<CallerId>, before: &Published) -> Option<u64> {
        let held = |it: &Published| it.token.as_ref().map(|token| token.token.id());
        let dropped = held(before).filter(|before| held(&self.published) != Some(*before))?;
        let is_doubt = match event {
            Event::Invalidate(id) => *id == dropped,
            _ => false,
        };
        is_doubt.then_some(dropped.generation())
    }

    /// When the first of the attempts on the wire is over at the latest.
    pub(crate) fn wire_ends_by(&self) -> Option<Instant> {
        self.wire.values().chain(self.revocations.values()).map(|attempt| attempt.ends_by).min()
    }

    pub(crate) fn token(&self, generation: u64) -> Option<&Token> {
        let at = self.tokens.binary_search_by_key(&generation, |token| token.generation);
        at.ok().map(|at| &self.tokens[at])
    }

    /// Whether a revoke has reached this text.
    pub(crate) fn is_marked(&self, text: &str) -> bool {
        self.texts.get(text).is_some_and(|text| text.is_marked(self.now))
    }

    /// Whether a revoke is under way, as far as the outside can know whether or not anybody waits for it:
    /// a revocation is on the wire, or something that was sent before it.
    pub(crate) fn barrier_must_be_up(&self) -> bool {
        !self.revocations.is_empty()
            || self.wire.values().any(|attempt| attempt.revokes < self.revokes)
    }

    fn arrived(&mut self, purpose: Purpose, attempt: Attempt, grant: &Grant) {
        let life = grant.life().unwrap_or(self.assumed_lifetime).min(LONGEST_LIFE);
        let text = grant.text().expose();
        self.generation += 1;
        let came_too_late = attempt.revokes < self.revokes;
        let known = self.texts.entry(text.into()).or_default();
        let is_new = known.lost || known.expires_at == Instant::ZERO;
        if is_new || !known.is_marked(self.now) {
            let (expires_at, is_life_known) = (known.expires_at, known.is_life_known);
            *known = Issued { expires_at, is_life_known, ..Issued::default() };
        }
        let was_marked = known.is_marked(self.now);
        // A revoked text that is repeated says nothing of its life by that.
        let until = self.now + grant.life().unwrap_or(DAY);
        if is_new || (until >= known.expires_at && (grant.life().is_some() || !was_marked)) {
            (known.expires_at, known.is_life_known) = (until, grant.life().is_some());
        }
        if came_too_late {
            known.mark(attempt.revokes + 1, self.now);
        }
        // Nobody keeps one for a day that cannot be revoked then.
        known.lost = is_new && grant.life().is_none() && !self.can_revoke;
        let subject = attempt.subject.and_then(|id| self.token(id.generation()));
        let subject = subject.map(|token| token.text.clone());
        self.tokens.push(Token {
            subject,
            generation: self.generation,
            text: text.into(),
            purpose,
            revokes: attempt.revokes,
            expires_at: attempt.sent_at + life,
            life,
        });
        let dead = attempt.sent_at + life <= self.now || was_marked;
        let pace = self.paces.entry(purpose).or_default();
        if dead && !came_too_late {
            let error = TokenError::expired("dead on arrival");
            pace.failed(&error, self.now, self.policy, Some(self.random));
        } else {
            *pace = Pace::default();
            if purpose == Purpose::Grant {
                self.last_sent = Some(attempt.sent_at);
            }
        }
    }

    fn revoked_elsewhere(&mut self, text: &str, left: Duration) {
        let (now, revokes) = (self.now, self.revokes);
        if left.is_zero() && !self.texts.contains_key(text) {
            return;
        }
        let known = self.texts.entry(text.into()).or_default();
        if known.is_marked(now) {
            return;
        }
        // One that a revoke could not reach is known again.
        if known.expires_at <= now || std::mem::take(&mut known.lost) {
            (known.expires_at, known.is_life_known) = (now + left.min(LONGEST_LIFE), true);
        }
        known.mark(revokes, now);
        known.revoked_elsewhere = true;
        for caller in self.callers.values_mut() {
            caller.began_before_news_of.insert(text.into());
        }
    }

    fn revocation_ended(&mut self, text: &str, result: &Result<(), TokenError>) {
        self.revocations.remove(text);
        match result {
            // RFC 7009 §2.2: of a token that is not valid there is nothing to revoke.
            Err(error) if !is_denied(error, "invalid_token") => {
                self.batch_failure.get_or_insert_with(|| error.clone());
            }
            _ => {
                self.batch_confirmed = true;
                if let Some(known) = self.texts.get_mut(text) {
                    known.heard_of(self.now);
                    known.revoked = true;
                }
            }
        }
        if !self.revocations.is_empty() {
            return;
        }
        // Each success renews the attempts: one that failed in part is not counted.
        let Policy { mut attempts, cooling } = self.policy;
        let confirmed = std::mem::take(&mut self.batch_confirmed);
        if confirmed {
            let is_left = |known: &Issued| {
                known.marked_by.is_some() && !known.revoked && self.now < known.expires_at
            };
            // With some left it is the same flight, in which credentials change once.
            let goes_on = self.texts.values().any(is_left);
            self.revocation_pace.succeeded(goes_on);
            attempts = attempts.saturating_add(1);
        }
        if let Some(error) = self.batch_failure.take()
            && (error.is_retryable() || !confirmed)
        {
            let policy = Policy { attempts, cooling };
            self.revocation_pace.failed(&error, self.now, policy, Some(self.random));
            if confirmed {
                self.revocation_pace.attempts = 0;
            }
        }
    }
}

/// Neither impossible, nor one too many, nor too late.
pub(crate) fn is_taken(caller: CallerId, fx: &Effects<CallerId>) -> bool {
    !fx.replies.iter().any(|(whom, answer)| *whom == caller && is_refusal(answer))
}

fn is_refusal(answer: &Reply) -> bool {
    use SessionError::{Closed, Overloaded, Unsupported};
    matches!(answer, Reply::Revoked(Err(Unsupported(_) | Overloaded | Closed)))
}

/// Nothing was sent that could have timed out.
fn no_leave(error: &TokenError) -> TokenError {
    match error {
        TokenError::TimedOut { .. } => TokenError::rate_limited(Some(Duration::from_secs(1))),
        other => other.clone(),
    }
}

fn is_denied(error: &TokenError, code: &str) -> bool {
    matches!(error, TokenError::Denied { error, .. } if error == code)
}

/// The draw and the policy are the same in all that are compared; the clock is what instants count from.
#[cfg(test)]
impl Hash for History {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            now: _,
            policy: _,
            assumed_lifetime: _,
            can_revoke: _,
            random: _,
            is_crowded: _,
            published,
            exchanged,
            requests: _,
            revokes,
            generation,
            highest,
            invalidated,
            invalidated_at,
            callers,
            wire,
            gated: _,
            waits,
            leave: _,
            revocations,
            tokens,
            texts,
            paces,
            revocation_pace,
            exchanges_at_once: _,
            endpoint,
            batch_confirmed,
            batch_failure,
            last_sent,
            barrier_may_be_up,
            closed,
        } = self;
        (published, exchanged, revokes, generation, highest, invalidated, invalidated_at)
            .hash(state);
        (callers, wire, waits, revocations, tokens, texts, paces, revocation_pace).hash(state);
        (endpoint, batch_confirmed, batch_failure, last_sent, barrier_may_be_up, closed)
            .hash(state);
    }
}
