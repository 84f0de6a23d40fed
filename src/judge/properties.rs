//! The properties, each a function with a name of its own.

use std::fmt;
use std::time::Duration;

use super::history::{Counted, Handled, History, Purpose, Seen, Token, Want, is_taken};
use super::{Verdict, named};
use crate::error::SessionError;
use crate::instant::Instant;
use crate::machine::{CallerId, Effects, Ended, Event, Moment, News, Published, Reply, Request};
use crate::request::TokenRequestOptions;
use crate::snapshot::Snapshot;

type Property = fn(&History, &Seen<'_>) -> Verdict;

/// All that must be true. What a property says against a session begins with its name.
pub(crate) const PROPERTIES: &[(&str, Property)] = named![
    // Of each thing that is seen, by what was seen before.
    nothing_happens_after_the_end,
    one_attempt_of_a_purpose_on_the_wire,
    nothing_but_revocations_starts_behind_the_barrier,
    each_attempt_of_a_gated_session_has_leave,
    nobody_waits_for_leave_behind_the_barrier,
    grants_keep_their_distance,
    attempts_keep_to_the_flight_policy,
    only_marked_tokens_are_revoked_and_once_confirmed_no_more,
    exactly_one_answer_to_each_caller,
    no_earlier_token_after_a_revoke,
    no_earlier_token_after_an_honoured_invalidate,
    no_token_at_or_after_its_expiry,
    generations_never_go_back,
    a_token_is_given_only_to_those_who_asked_for_it,
    a_revoke_that_is_ok_left_nothing_alive,
    snapshots_are_numbered_in_their_order,
    at_most_so_many_exchanges_are_on_the_wire,
    a_failing_endpoint_sees_one_probe_at_a_time,
    // Of an event as a whole.
    nothing_but_revocations_starts_while_a_revoke_waits,
    a_revoke_takes_the_token_from_readers,
    no_revoked_exchanged_token_is_shown,
    no_token_exchanged_from_one_revoked_elsewhere_is_shown,
    only_a_doubt_or_a_revoke_takes_a_usable_token,
    a_usable_token_is_an_answer_at_once,
    nobody_waits_after_an_attempt_beside_a_usable_token,
    a_doubt_is_settled,
    whoever_waits_is_known_and_waits_for_something,
    the_next_deadline_is_ahead,
    // Of what the session would do.
    a_timer_that_is_not_due_does_nothing,
    a_read_gives_what_the_session_would_give,
    a_read_of_an_exchanged_token_gives_what_the_session_would_give,
    shutdown_answers_everybody,
];

/// How long the server is left alone after the request for a token that came.
pub(crate) const GRANT_GAP: Duration = Duration::from_secs(1);
/// For so long after an honoured invalidation another is dismissed.
pub(crate) const INVALIDATE_GAP: Duration = Duration::from_secs(10);

const NANO: Duration = Duration::from_nanos(1);
/// A caller that no driver has.
const NOBODY: CallerId = CallerId::MAX;

/// One grant attempt on the wire, ever; and one exchange of each key.
fn one_attempt_of_a_purpose_on_the_wire(history: &History, seen: &Seen<'_>) -> Verdict {
    match seen {
        Seen::Started(purpose) if history.wire.contains_key(purpose) => {
            Err(format!("a second attempt on the wire: {purpose:?}"))
        }
        Seen::RevocationStarted(text) if history.revocations.contains_key(*text) => {
            Err(format!("a second revocation of {text} on the wire"))
        }
        _ => Ok(()),
    }
}

/// Where leave is needed, an attempt starts when its leave comes, and there is one wait at a time for it.
fn each_attempt_of_a_gated_session_has_leave(history: &History, seen: &Seen<'_>) -> Verdict {
    match seen {
        Seen::Started(purpose) if history.gated && history.leave != Some(*purpose) => {
            Err(format!("{purpose:?} started without leave"))
        }
        Seen::WaitBegan(purpose)
            if history.waits.contains(purpose) || history.wire.contains_key(purpose) =>
        {
            Err(format!("a second wait for leave, or beside an attempt: {purpose:?}"))
        }
        _ => Ok(()),
    }
}

/// A revoke ends all waits for leave, and none begins behind the barrier.
fn nobody_waits_for_leave_behind_the_barrier(history: &History, seen: &Seen<'_>) -> Verdict {
    match seen {
        Seen::Handled(_) if history.barrier_must_be_up() && !history.waits.is_empty() => {
            Err(format!("{:?} wait for leave while a revoke is under way", history.waits))
        }
        _ => Ok(()),
    }
}

/// Nothing but revocations starts while the barrier is up.
fn nothing_but_revocations_starts_behind_the_barrier(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    match seen {
        Seen::Started(purpose) if history.barrier_must_be_up() => {
            Err(format!("{purpose:?} started while a revoke is under way"))
        }
        _ => Ok(()),
    }
}

/// The same, told by those who wait for a revoke: that the barrier ends and what starts because of it
/// come as one, with the replies last, so this is asked when all of it has been seen.
fn nothing_but_revocations_starts_while_a_revoke_waits(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Seen::Handled(Handled { fx, .. }) = seen else { return Ok(()) };
    let is_other = |request: &Request| !matches!(request, Request::Revocation(..));
    let other = fx.start.iter().find(|start| is_other(&start.request));
    match other {
        Some(start) if history.callers.values().any(|it| it.want == Want::Revoked) => {
            Err(format!("started while somebody waits for a revoke: {start:?}"))
        }
        _ => Ok(()),
    }
}

/// No grant is asked for within a second of the request for the last token that came.
fn grants_keep_their_distance(history: &History, seen: &Seen<'_>) -> Verdict {
    match (seen, history.last_sent) {
        (Seen::Started(Purpose::Grant), Some(sent)) if history.now < sent + GRANT_GAP => {
            Err(format!("a grant {:?} after the last that succeeded", history.now.since(sent)))
        }
        _ => Ok(()),
    }
}

/// After a failure no attempt comes before the pause, the cooling and the server's `Retry-After` are
/// over, whatever else happened in between.
fn attempts_keep_to_the_flight_policy(history: &History, seen: &Seen<'_>) -> Verdict {
    let (what, pace): (&dyn fmt::Debug, _) = match seen {
        Seen::Started(purpose) => (purpose, history.paces.get(purpose)),
        Seen::RevocationStarted(text) => (text, Some(&history.revocation_pace)),
        _ => return Ok(()),
    };
    match pace {
        Some(pace) if history.now < pace.not_before => {
            Err(format!("an attempt {:?} too early: {what:?}", pace.not_before.since(history.now)))
        }
        _ => Ok(()),
    }
}

/// A revoke takes what was there, and nothing that the server has confirmed already.
fn only_marked_tokens_are_revoked_and_once_confirmed_no_more(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Seen::RevocationStarted(text) = seen else { return Ok(()) };
    match history.texts.get(*text) {
        None => Err(format!("{text} is revoked, but nobody knows it any more")),
        Some(known) if known.marked_by.is_none() => {
            Err(format!("{text} is revoked, but came after the last revoke"))
        }
        Some(known) if known.revoked => Err(format!("{text} is revoked again")),
        Some(_) => Ok(()),
    }
}

/// Whoever waits gets one answer, and of the kind that was asked for; whoever left gets none.
fn exactly_one_answer_to_each_caller(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Answered(caller, answer) = seen else { return Ok(()) };
    let Some(waiting) = history.callers.get(caller) else {
        return Err(format!("caller {caller} does not wait, and is told {answer:?}"));
    };
    let fits = matches!(
        (waiting.want, answer),
        (Want::Token(Purpose::Grant), Reply::Token(_))
            | (Want::Token(Purpose::Exchange(_)), Reply::Exchanged(_))
            | (Want::Revoked, Reply::Revoked(_))
    );
    if fits { Ok(()) } else { Err(format!("caller {caller} is told {answer:?}")) }
}

/// The generation and the text that an answer gives away.
fn given<'a>(seen: &Seen<'a>) -> Option<(CallerId, u64, &'a str)> {
    match *seen {
        Seen::Answered(caller, Reply::Token(Ok(token))) => {
            Some((caller, token.id().generation(), token.secret()))
        }
        Seen::Answered(caller, Reply::Exchanged(Ok(token))) => {
            Some((caller, token.id().generation(), token.secret()))
        }
        _ => None,
    }
}

/// A call that began after a revoke was published gives no token from before it, exchanged or not;
/// and a token that a revoke has reached is given to nobody any more.
fn no_earlier_token_after_a_revoke(history: &History, seen: &Seen<'_>) -> Verdict {
    if let Seen::Published(Published { token: Some(published), .. }) = seen
        && history.is_marked(published.token.secret())
    {
        return Err(format!("a revoked token is published: {:?}", published.token));
    }
    let Some((caller, generation, text)) = given(seen) else { return Ok(()) };
    if history.is_marked(text) {
        return Err(format!("generation {generation} ({text}) was revoked, and is given"));
    }
    match (history.callers.get(&caller), history.token(generation)) {
        (Some(caller), Some(token)) if token.revokes < caller.revokes => Err(format!(
            "generation {generation} was asked for before a revoke, and is given after"
        )),
        _ => Ok(()),
    }
}

/// Once an invalidate has been honoured nobody gets that token, nor an earlier one, whenever they asked.
fn no_earlier_token_after_an_honoured_invalidate(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Answered(_, Reply::Token(Ok(token))) = seen else { return Ok(()) };
    let generation = token.id().generation();
    if generation <= history.invalidated {
        return Err(format!("generation {generation} was invalidated, and is given"));
    }
    Ok(())
}

/// No token is handed out at or after its expiry, and none is published as usable beyond it.
fn no_token_at_or_after_its_expiry(history: &History, seen: &Seen<'_>) -> Verdict {
    if let Seen::Published(Published { token: Some(published), .. }) = seen {
        let known = history.token(published.token.id().generation());
        if known.is_some_and(|known| known.expires_at < published.usable_until) {
            return Err("readers would be given an expired token".into());
        }
    }
    let Some((_, generation, _)) = given(seen) else { return Ok(()) };
    match history.token(generation) {
        Some(token) if history.now < token.expires_at => Ok(()),
        _ => Err(format!("generation {generation} is given at or after its expiry")),
    }
}

/// Generations never go back: neither what readers see, nor, beside that, what those get who ask.
fn generations_never_go_back(history: &History, seen: &Seen<'_>) -> Verdict {
    let token = match seen {
        Seen::Published(Published { token: Some(published), .. }) => &published.token,
        Seen::Answered(_, Reply::Token(Ok(token))) => token,
        _ => return Ok(()),
    };
    let (generation, highest) = (token.id().generation(), history.highest);
    if generation < highest {
        return Err(format!("generation {generation} after {highest}"));
    }
    Ok(())
}

/// The session's own token for those who want a token, and each exchanged one for its own request.
fn a_token_is_given_only_to_those_who_asked_for_it(history: &History, seen: &Seen<'_>) -> Verdict {
    let Some((caller, generation, text)) = given(seen) else { return Ok(()) };
    let Some(token) = history.token(generation) else {
        return Err(format!("generation {generation} never came, or is long gone"));
    };
    if token.text != text {
        return Err(format!("generation {generation} is {}, not {text}", token.text));
    }
    match history.callers.get(&caller).map(|caller| caller.want) {
        Some(Want::Token(wanted)) if wanted != token.purpose => {
            Err(format!("a token for {:?} is given for {wanted:?}", token.purpose))
        }
        _ => Ok(()),
    }
}

/// A revoke that returned Ok left no token alive at the server that the session had received, or that
/// arrived from an attempt on the wire, when the revoke was taken; and no such attempt is still out.
fn a_revoke_that_is_ok_left_nothing_alive(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Answered(caller, Reply::Revoked(Ok(()))) = seen else { return Ok(()) };
    let Some(caller) = history.callers.get(caller) else { return Ok(()) };
    if history.wire.values().any(|attempt| attempt.revokes < caller.revokes) {
        return Err("revoked, but an attempt from before is still on the wire".into());
    }
    let alive = history.texts.iter().find(|(_, text)| {
        !text.revoked
            && !text.lost
            && history.now < text.expires_at
            && text.marked_by.is_some_and(|revoke| revoke <= caller.revokes)
    });
    alive.map_or(Ok(()), |(text, _)| Err(format!("revoked, but {text} is alive at the server")))
}

/// Each publication has the number after that of the last.
fn snapshots_are_numbered_in_their_order(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Published(published) = seen else { return Ok(()) };
    let before = history.published.number;
    if published.number != before + 1 {
        return Err(format!("snapshot {} after {before}", published.number));
    }
    Ok(())
}

/// After the end nothing is published and nothing starts, and whoever asks is told at once.
fn nothing_happens_after_the_end(history: &History, seen: &Seen<'_>) -> Verdict {
    if !history.closed {
        return Ok(());
    }
    match seen {
        Seen::Published(published) => Err(format!("after the end it publishes {published:?}")),
        Seen::WaitBegan(purpose) => Err(format!("after the end {purpose:?} waits for leave")),
        Seen::Started(purpose) => Err(format!("after the end it starts {purpose:?}")),
        Seen::RevocationStarted(text) => Err(format!("after the end it revokes {text}")),
        Seen::Answered(_, answer) if !is_closed(answer) => {
            Err(format!("after the end a caller is told {answer:?}"))
        }
        Seen::Handled(_) if !history.callers.is_empty() => {
            Err(format!("after the end {:?} wait", history.callers.keys()))
        }
        _ => Ok(()),
    }
}

/// At most `exchanges_at_once`.
fn at_most_so_many_exchanges_are_on_the_wire(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Started(Purpose::Exchange(_)) = seen else { return Ok(()) };
    match history.endpoint.known.len() {
        on_wire if on_wire >= history.exchanges_at_once => {
            Err(format!("an exchange is sent beside {on_wire} others"))
        }
        _ => Ok(()),
    }
}

/// An endpoint that fails them all is asked as often as one key alone would ask it.
fn a_failing_endpoint_sees_one_probe_at_a_time(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Started(Purpose::Exchange(_)) = seen else { return Ok(()) };
    let endpoint = &history.endpoint;
    let is_probe = |known: &Counted| known.failures == endpoint.counted.failures;
    if !endpoint.is_failing {
        return Ok(());
    }
    if history.now < endpoint.pace.not_before {
        let early = endpoint.pace.not_before.since(history.now);
        return Err(format!("the failing endpoint is asked {early:?} too early"));
    }
    if endpoint.known.values().any(is_probe) {
        return Err("the failing endpoint is asked twice at once".into());
    }
    Ok(())
}

/// Readers are shown no exchanged token that a revoke has reached, and after it none at all.
fn no_revoked_exchanged_token_is_shown(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { event, fx, .. }) = seen else { return Ok(()) };
    if let Event::Revoke(caller, ..) = event
        && is_taken(*caller, fx)
        && let Some(shown) = history.exchanged.values().next()
    {
        return Err(format!("{:?} is shown after the revoke", shown.token));
    }
    for (_, shown) in &fx.exchanged {
        let Some(shown) = shown.as_ref().filter(|it| history.now < it.usable_until) else {
            continue;
        };
        let token = &shown.token;
        let is_early = |known: &Token| known.revokes < history.revokes;
        if history.is_marked(token.secret())
            || history.token(token.id().generation()).is_none_or(is_early)
        {
            return Err(format!("{token:?} is shown, and a revoke has reached it"));
        }
    }
    Ok(())
}

/// What was exchanged from a token that another session has revoked is shown to nobody from then on, nor given
/// to those who ask from then on.
fn no_token_exchanged_from_one_revoked_elsewhere_is_shown(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let revoked = |generation| {
        let subject = history.token(generation).and_then(|it| it.subject.as_ref())?;
        let known = history.texts.get(subject)?;
        (known.revoked_elsewhere && known.is_marked(history.now)).then_some(subject)
    };
    if let Some((caller, generation, text)) = given(seen)
        && let Some(subject) = revoked(generation)
        && let Some(caller) = history.callers.get(&caller)
        && !caller.began_before_news_of.contains(subject)
    {
        return Err(format!(
            "{text} is given, and its subject was revoked before it was asked for"
        ));
    }
    let Seen::Handled(Handled { event: Event::News(_), .. }) = seen else { return Ok(()) };
    for shown in history.exchanged.values().filter(|it| history.now < it.usable_until) {
        if revoked(shown.token.id().generation()).is_some() {
            return Err(format!("{:?} is shown, and its subject is revoked", shown.token));
        }
    }
    Ok(())
}

/// Whatever else happens, a usable token stays.
fn only_a_doubt_or_a_revoke_takes_a_usable_token(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { event, before, .. }) = seen else { return Ok(()) };
    let takes = match event {
        Event::Invalidate(_) | Event::Revoke(..) | Event::Shutdown => true,
        Event::News(News::Revoked { text, .. }) => {
            before.token.as_ref().is_some_and(|token| token.token.secret() == text.expose())
        }
        _ => false,
    };
    if !takes && is_usable(before, history.now) && history.published.token.is_none() {
        return Err(format!("{:?} is gone", before.token));
    }
    Ok(())
}

/// From the revoke on, readers are shown no token.
fn a_revoke_takes_the_token_from_readers(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { event: Event::Revoke(caller, ..), fx, .. }) = seen else {
        return Ok(());
    };
    match &history.published.token {
        Some(published) if is_taken(*caller, fx) => {
            Err(format!("{:?} is published after the revoke", published.token))
        }
        _ => Ok(()),
    }
}

fn is_usable(published: &Published, now: Instant) -> bool {
    published.token.as_ref().is_some_and(|token| now < token.usable_until)
}

/// A usable token means an answer without waiting, unless more life is asked for than is left; the
/// answer is the token.
fn a_usable_token_is_an_answer_at_once(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { event: Event::GetToken(caller, _, options), fx, before, .. }) =
        seen
    else {
        return Ok(());
    };
    if !is_usable(before, history.now) || !options.get_min_remaining().is_zero() {
        return Ok(());
    }
    let answered = |(whom, answer): &(CallerId, Reply)| {
        whom == caller && matches!(answer, Reply::Token(Ok(_)))
    };
    if fx.replies.iter().any(answered) {
        return Ok(());
    }
    Err(format!("a usable token, and caller {caller} has it not"))
}

/// Once an attempt has ended nobody waits beside a usable token.
fn nobody_waits_after_an_attempt_beside_a_usable_token(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Seen::Handled(Handled { event: Event::Ended(Ended::Grant(_)), .. }) = seen else {
        return Ok(());
    };
    let mut waiting =
        history.callers.iter().filter(|(_, it)| it.want == Want::Token(Purpose::Grant));
    match waiting.next() {
        Some((caller, _)) if is_usable(&history.published, history.now) => {
            Err(format!("caller {caller} still waits beside a usable token"))
        }
        _ => Ok(()),
    }
}

/// An invalidation of the token held is settled: the token is dropped if none was dropped within the
/// last ten seconds, else the doubt is dismissed. Any other leaves the session's own token alone.
fn a_doubt_is_settled(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { event: Event::Invalidate(id), before, .. }) = seen else {
        return Ok(());
    };
    let held = |it: &Published| it.token.as_ref().map(|token| token.token.id());
    let dismissed = |it: &Published| it.token.as_ref().map(|token| token.doubts_dismissed);
    let (after, generation) = (&history.published, id.generation());
    let kept = held(before) == held(after);
    if held(before) != Some(*id) {
        return if kept { Ok(()) } else { Err("another's doubt dropped the token".into()) };
    }
    let gap_over = history.invalidated_at.is_none_or(|at| history.now.since(at) >= INVALIDATE_GAP);
    match (gap_over, kept) {
        (true, true) => Err(format!("the doubt of generation {generation} was not honoured")),
        (false, false) => Err(format!("a second doubt within 10 s dropped {generation}")),
        (false, true) if dismissed(before) == dismissed(after) => {
            Err(format!("the doubt of generation {generation} stays"))
        }
        _ => Ok(()),
    }
}

/// Callers that left leave nothing behind, nobody is forgotten, and for whoever waits something is on
/// its way: an attempt, or an instant.
fn whoever_waits_is_known_and_waits_for_something(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { session, .. }) = seen else { return Ok(()) };
    let (knows, wait) = (session.held_callers(), history.callers.len());
    if knows != wait {
        return Err(format!("it knows {knows} callers, and {wait} wait"));
    }
    let is_nothing_out = history.wire_ends_by().is_none() && history.waits.is_empty();
    if wait > 0 && is_nothing_out && session.next_deadline().is_none() {
        return Err(format!("{:?} wait for ever", history.callers.keys()));
    }
    Ok(())
}

/// The next deadline is later than now, and it comes.
fn the_next_deadline_is_ahead(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Handled(Handled { session, .. }) = seen else { return Ok(()) };
    match session.next_deadline() {
        Some(at) if at <= history.now => {
            Err(format!("the next deadline is {:?} ago", history.now.since(at)))
        }
        Some(Instant::NEVER) => Err("the next deadline never comes".into()),
        _ => Ok(()),
    }
}

/// Handling a timer once more at the same instant, or before the next deadline, does nothing, and moves no
/// deadline: whatever could start has started. (A barrier may end early: when the last token that it
/// waits for expires.)
fn a_timer_that_is_not_due_does_nothing(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Idle(session, moment) = seen else { return Ok(()) };
    let (mut fork, deadline) = (session.fork(), session.next_deadline());
    let early = deadline.filter(|_| !history.barrier_may_be_up).map(|at| at - NANO);
    for now in [Some(moment.now), early].into_iter().flatten() {
        let mut fx = Effects::default();
        fork.handle(Moment { now: now.max(moment.now), ..*moment }, Event::Timer, &mut fx);
        if fx.publish.is_some() || !fx.start.is_empty() || !fx.replies.is_empty() {
            return Err(format!("a timer that is not due, at {now:?}, does {fx:?}"));
        }
        if fork.next_deadline() != deadline {
            return Err(format!("a timer that is not due, at {now:?}, moves the deadline"));
        }
    }
    Ok(())
}

/// A read of what was published gives only what the session would have given at that instant: now, and at
/// each later instant at which the answer changes.
fn a_read_gives_what_the_session_would_give(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Situation(session, moment) = seen else { return Ok(()) };
    let published = &history.published;
    let snapshot = Snapshot::new(published.clone());
    let token = published.token.as_ref().map(|token| token.usable_until);
    let cooling = published.cooling.as_ref().map(|cooling| cooling.until);
    let later = [token, cooling].into_iter().flatten().filter(|at| moment.now < *at);
    let instants = later.flat_map(|at| [at - NANO, at]).chain([moment.now]);
    let plain = TokenRequestOptions::new();
    let with_more = plain.clone().min_remaining(Duration::from_secs(45));
    for (now, options) in instants.flat_map(|now| [(now, &plain), (now, &with_more)]) {
        let Some(read) = snapshot.read(now, options) else { continue };
        let mut fx = Effects::default();
        let event = Event::GetToken(NOBODY, NOBODY, options.clone());
        session.fork().handle(Moment { now, ..*moment }, event, &mut fx);
        let asked = fx.replies.iter().find(|(caller, _)| *caller == NOBODY);
        let (read, asked) = (Reply::Token(read.cloned()), asked.map(|(_, answer)| answer));
        if format!("{asked:?}") != format!("Some({read:?})") {
            return Err(format!("at {now:?} a read gives {read:?}, and the session {asked:?}"));
        }
    }
    Ok(())
}

/// The same of each exchanged token that is shown.
fn a_read_of_an_exchanged_token_gives_what_the_session_would_give(
    history: &History,
    seen: &Seen<'_>,
) -> Verdict {
    let Seen::Situation(session, moment) = seen else { return Ok(()) };
    for (key, shown) in &history.exchanged {
        let Some(request) = history.requests.get(key) else {
            return Err(format!("nobody asked for {:?}", shown.token));
        };
        for now in [moment.now, shown.usable_until - NANO] {
            if now < moment.now || shown.usable_until <= now {
                continue;
            }
            let mut fx = Effects::default();
            let event = Event::Exchange(NOBODY, NOBODY, request.clone());
            session.fork().handle(Moment { now, ..*moment }, event, &mut fx);
            let asked = fx.replies.iter().find(|(caller, _)| *caller == NOBODY);
            match asked.map(|(_, answer)| answer) {
                Some(Reply::Exchanged(Ok(token))) if *token == shown.token => {}
                other => {
                    let shown = &shown.token;
                    return Err(format!(
                        "at {now:?} a read gives {shown:?}, the session {other:?}"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn is_closed(answer: &Reply) -> bool {
    matches!(
        answer,
        Reply::Token(Err(SessionError::Closed))
            | Reply::Exchanged(Err(SessionError::Closed))
            | Reply::Revoked(Err(SessionError::Closed))
    )
}

/// Shutdown at any time answers everybody with `Closed`, publishes it, and starts nothing; whoever asks
/// later is told the same.
fn shutdown_answers_everybody(history: &History, seen: &Seen<'_>) -> Verdict {
    let Seen::Situation(session, moment) = seen else { return Ok(()) };
    if history.closed {
        return Ok(());
    }
    let mut session = session.fork();
    let mut fx = Effects::default();
    session.handle(*moment, Event::Shutdown, &mut fx);
    let told = fx.replies.iter().filter(|(_, answer)| is_closed(answer));
    let mut told: Vec<_> = told.map(|(caller, _)| *caller).collect();
    told.sort_unstable();
    if !told.iter().eq(history.callers.keys()) || fx.replies.len() != told.len() {
        let wait = history.callers.keys();
        return Err(format!("{wait:?} wait, and at the end are told {:?}", fx.replies));
    }
    let published =
        fx.publish.is_some_and(|published| published.closed && published.token.is_none());
    if !published || !fx.start.is_empty() || session.next_deadline().is_some() {
        return Err("the end is not the end".into());
    }
    let mut fx = Effects::default();
    session.handle(*moment, Event::GetToken(NOBODY, NOBODY, TokenRequestOptions::new()), &mut fx);
    match fx.replies.as_slice() {
        [(NOBODY, answer)] if is_closed(answer) => Ok(()),
        other => Err(format!("after the end a caller is told {other:?}")),
    }
}
