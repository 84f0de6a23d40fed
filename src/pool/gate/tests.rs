use std::collections::BTreeMap;

use super::*;

const GRANT: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(10);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn server_error() -> TokenError {
    TokenError::server(503, None)
}

/// What a tenant's attempt meets that leaves now: how long it takes, and how it ends.
type Server = Box<dyn Fn(Tenant, Instant) -> (Duration, Result<(), TokenError>)>;

/// Tenants that ask, and a server, in a time of their own.
struct World {
    gate: Gate<Tenant>,
    server: Server,
    now: Instant,
    tickets: BTreeMap<Tenant, Ticket>,
    slow: BTreeMap<Tenant, bool>,
    landing: BTreeMap<(Instant, Ticket), (Tenant, Result<(), TokenError>)>,
    sent: Vec<(Tenant, Instant)>,
    ended: Vec<(Tenant, Instant, Result<(), TokenError>)>,
    most_out: usize,
}

impl World {
    fn new(
        server: impl Fn(Tenant, Instant) -> (Duration, Result<(), TokenError>) + 'static,
    ) -> Self {
        Self {
            gate: Gate::new(64),
            server: Box::new(server),
            now: Instant::from_nanos(1_000_000_000),
            tickets: BTreeMap::new(),
            slow: BTreeMap::new(),
            landing: BTreeMap::new(),
            sent: Vec::new(),
            ended: Vec::new(),
            most_out: 0,
        }
    }

    fn ask(&mut self, tenant: Tenant) {
        self.settle();
        let is_slow = self.slow.get(&tenant).copied().unwrap_or_default();
        let ticket = self.gate.ask(tenant, is_slow, tenant);
        self.tickets.insert(tenant, ticket);
        self.settle();
    }

    fn settle(&mut self) {
        for (tenant, answer) in self.gate.answers(self.now) {
            if let Err(error) = answer {
                self.ended.push((tenant, self.now, Err(error)));
                continue;
            }
            self.sent.push((tenant, self.now));
            let (takes, result) = (self.server)(tenant, self.now);
            let ticket = self.tickets[&tenant];
            self.landing.insert((self.now + takes, ticket), (tenant, result));
        }
        self.most_out = self.most_out.max(self.gate.out());
        let looks_at = self.gate.next_look(self.now);
        assert!(looks_at.is_none_or(|at| self.now < at), "{looks_at:?} at {:?}", self.now);
    }

    /// To the next thing that happens, at `until` at the latest; `false` if that has come.
    fn step(&mut self, until: Instant) -> bool {
        let lands = self.landing.first_key_value().map(|((at, _), _)| *at);
        let next = lands.into_iter().chain(self.gate.next_look(self.now)).min();
        let Some(next) = next.filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = next;
        while let Some(entry) = self.landing.first_entry().filter(|entry| entry.key().0 <= next) {
            let ((_, ticket), (tenant, result)) = entry.remove_entry();
            let how = How::of(Some(result.as_ref().map(|&()| ())));
            let was_slow = self.gate.end(self.now, ticket, how);
            self.slow.insert(tenant, was_slow.unwrap());
            self.ended.push((tenant, self.now, result));
            self.settle();
        }
        self.settle();
        true
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    fn tokens(&self) -> Vec<Instant> {
        let good = self.ended.iter().filter(|(_, _, result)| result.is_ok());
        good.map(|(_, at, _)| *at).collect()
    }
}

/// All ask at once; when the last of those who get a token has it, and the mean.
fn crowd(world: &mut World, tenants: impl Iterator<Item = Tenant>) -> (Duration, Duration) {
    let began = world.now;
    tenants.for_each(|tenant| world.ask(tenant));
    world.run(Duration::from_secs(300));
    let waits: Vec<_> = world.tokens().iter().map(|at| at.since(began)).collect();
    let mean = waits.iter().sum::<Duration>() / u32::try_from(waits.len()).unwrap();
    (waits.into_iter().max().unwrap(), mean)
}

/// They ask at once, and meet a failure in 10 ms.
fn fail(world: &mut World, tenants: std::ops::Range<Tenant>) {
    tenants.for_each(|tenant| world.ask(tenant));
    world.run(ms(100));
}

/// Odd tenants meet a 503, or what `wanted` has as `Retry-After` in a 429, others none.
fn fails_odd_ones(wanted: Option<Duration>) -> World {
    let failure = move || match wanted {
        None => server_error(),
        Some(_) => TokenError::rate_limited(wanted),
    };
    World::new(move |tenant, _| (ms(10), if tenant % 2 == 1 { Err(failure()) } else { Ok(()) }))
}

#[test]
fn first_come_first_served_64_at_once() {
    let mut world = World::new(move |_, _| (GRANT, Ok(())));
    let (last, mean) = crowd(&mut world, 0..10_000);
    assert_eq!(world.ended.len(), 10_000);
    assert!(world.ended.iter().all(|(_, _, result)| result.is_ok()));
    assert!(world.sent.is_sorted());
    assert_eq!(world.most_out, 64);
    assert_eq!(last, GRANT * 157, "10,000 are 156 times 64, and some");
    assert!(last < mean * 2, "{last:?} {mean:?}");
}

#[test]
fn a_server_slower_than_slow_is_no_outage() {
    let mut world = World::new(move |_, _| (ms(2_500), Ok(())));
    let (last, _) = crowd(&mut world, 0..1_000);
    assert!(world.ended.iter().all(|(_, _, result)| result.is_ok()));
    assert_eq!(world.ended.len(), 1_000);
    assert!(world.most_out <= 128);
    assert!(last < ms(2_500) * 16, "{last:?}");
}

/// Of 10,000 tenants 300 have a route on which nothing comes back.
fn dead_route(is_dead: fn(Tenant) -> bool) {
    let server = move |tenant, _| {
        if is_dead(tenant) {
            (TIMEOUT, Err(TokenError::timed_out(TIMEOUT)))
        } else {
            (GRANT, Ok(()))
        }
    };
    let mut world = World::new(server);
    let (last, _) = crowd(&mut world, 0..10_000);
    assert_eq!((0..10_000).filter(|tenant| is_dead(*tenant)).count(), 300);
    let failed = world.ended.iter().filter(|(_, _, result)| result.is_err());
    assert!(failed.clone().all(|(tenant, ..)| is_dead(*tenant)));
    assert_eq!(failed.count(), 300);
    assert_eq!(world.tokens().len(), 9_700);
    assert!(world.most_out <= 128, "{}", world.most_out);
    assert!(last < GRANT * 10_000 / 64 * 3 / 2, "{last:?}");
}

#[test]
fn a_dead_route_of_some_does_not_stop_the_others() {
    dead_route(|tenant| tenant % 33 == 0 && tenant < 9_900);
}

#[test]
fn nor_if_those_came_first() {
    dead_route(|tenant| tenant < 300);
}

#[test]
fn nor_if_they_came_in_the_middle() {
    dead_route(|tenant| (5_000..5_300).contains(&tenant));
}

#[test]
fn an_outage_is_probed_and_ramps_up() {
    let down_until = Instant::from_nanos(1_000_000_000) + Duration::from_secs(60);
    let mut world =
        World::new(
            move |_, now| {
                if now < down_until { (ms(10), Err(server_error())) } else { (GRANT, Ok(())) }
            },
        );
    let began = world.now;
    // Others come while it lasts, a hundred a second.
    for tenant in 0..10_000 {
        world.ask(tenant);
    }
    for tenant in 10_000..20_000 {
        world.run(ms(10));
        world.ask(tenant);
    }
    world.run(TIMEOUT);
    assert_eq!(world.ended.len(), 20_000, "everybody is answered");
    let during: Vec<_> = world.sent.iter().filter(|(_, at)| *at < down_until).collect();
    // 64, one for the place of the first that failed, and probes at once and after 2, 4, 8, 16 and 30 s.
    assert_eq!(during.len(), 64 + 1 + 1 + 4, "{:?}", &during[64..]);
    let probes: Vec<_> = during[65..].iter().map(|(_, at)| at.since(began).as_secs()).collect();
    assert_eq!(probes, [0, 2, 6, 14, 30]);
    assert!(world.ended.iter().all(|(tenant, at, result)| match result {
        Err(error) => *at < down_until + ms(2_000) && matches!(error, TokenError::Server { .. }),
        Ok(()) => *tenant >= 10_000 && *at >= down_until,
    }));
    let after = world.sent.iter().filter(|(_, at)| *at >= down_until).map(|(_, at)| *at);
    let first = after.clone().next().unwrap();
    assert_eq!(first.since(began), ms(60_000 + 6 * 10), "the sixth probe, 30 s after the fifth");
    let at_once = |at: Instant| after.clone().filter(|sent| *sent == at).count();
    assert!(at_once(first) == 1 && world.most_out == 64);
}

#[test]
fn a_probe_that_succeeds_lets_two_in_and_each_answer_one_more() {
    let up_at = Instant::from_nanos(1_000_000_000) + ms(500);
    let mut world =
        World::new(
            move |_, now| {
                if now < up_at { (ms(10), Err(server_error())) } else { (GRANT, Ok(())) }
            },
        );
    fail(&mut world, 0..16);
    assert!(matches!(world.gate.rests(world.now), Some((TokenError::Server { .. }, _))));
    world.ask(20);
    world.ask(21); // is the probe in its place
    assert!(matches!(world.ended.last(), Some((20, _, Err(TokenError::Server { .. })))));
    world.run(ms(1_100));
    assert_eq!(world.sent.last().unwrap().0, 21);
    for tenant in 100..400 {
        // Not before the probe's answer: else they would be told of the outage.
        if tenant == 100 {
            world.run(ms(300));
        }
        world.ask(tenant);
    }
    world.run(ms(10_000));
    let sent: Vec<_> = world.sent.iter().filter(|(tenant, _)| *tenant >= 100).collect();
    let mut rounds: BTreeMap<Instant, usize> = BTreeMap::new();
    for (_, at) in sent {
        *rounds.entry(*at).or_default() += 1;
    }
    assert_eq!(rounds.into_values().collect::<Vec<_>>(), [2, 4, 8, 16, 32, 64, 64, 64, 46]);
}

#[test]
fn a_hanging_server_meets_few_more_than_the_first_64() {
    let down_until = Instant::from_nanos(1_000_000_000) + Duration::from_secs(60);
    let mut world = World::new(move |_, now| {
        if now < down_until {
            (TIMEOUT, Err(TokenError::timed_out(TIMEOUT)))
        } else {
            (GRANT, Ok(()))
        }
    });
    for tenant in 0..10_000 {
        world.ask(tenant);
    }
    for tenant in 10_000..17_000 {
        world.run(ms(10));
        world.ask(tenant);
    }
    let during = world.sent.iter().filter(|(_, at)| *at < down_until).count();
    // One session would send five or six: each takes 10 s.
    assert!(during <= 64 + 2 * 5, "{during}");
    world.run(Duration::from_secs(60));
    assert_eq!(world.ended.len(), 17_000, "everybody is answered");
}

#[test]
fn too_many_requests_of_one_are_its_own_matter_and_of_all_rest_all() {
    let limited = || TokenError::rate_limited(Some(Duration::from_secs(20)));
    let mut world =
        World::new(move |tenant, _| (GRANT, if tenant == 7 { Err(limited()) } else { Ok(()) }));
    crowd(&mut world, 0..1_000);
    assert_eq!(world.tokens().len(), 999);

    let until = Instant::from_nanos(1_000_000_000) + ms(5_000);
    let mut world =
        World::new(move |_, now| (GRANT, if now < until { Err(limited()) } else { Ok(()) }));
    for tenant in 0..1_000 {
        world.ask(tenant);
    }
    world.run(ms(1_000));
    assert!(world.sent.len() <= 64 + 2, "{}", world.sent.len());
    let (error, rest) = world.gate.rests(world.now).unwrap();
    assert!(matches!(error, TokenError::RateLimited { .. }) && rest > ms(19_000));
    world.ask(1_000);
    world.ask(1_001);
    assert_eq!(world.ended.last().unwrap().0, 1_000);
    let (_, _, told) = world.ended.last().unwrap();
    assert_eq!(told.as_ref().unwrap_err().retry_after(), Some(rest));
    world.run(rest);
    assert_eq!(world.sent.last().unwrap().0, 1_001, "who came last is the probe");
    world.run(GRANT);
    assert!(world.gate.rests(world.now).is_none() && world.tokens().len() == 1);
}

#[test]
fn a_refusal_rests_nobody() {
    let refused = || TokenError::denied("invalid_client", "no").with_status(401);
    let mut world =
        World::new(move |tenant, _| (GRANT, if tenant % 2 == 0 { Err(refused()) } else { Ok(()) }));
    let (last, _) = crowd(&mut world, 0..1_000);
    assert_eq!(world.tokens().len(), 500);
    assert_eq!(last, GRANT * 16);
}

#[test]
fn failures_of_some_that_others_do_not_have_rest_nobody() {
    let mut world = World::new(move |tenant, _| {
        if tenant % 20 == 0 {
            (ms(10), Err(server_error()))
        } else {
            (ms(250 + tenant % 100), Ok(()))
        }
    });
    crowd(&mut world, 0..1_000);
    assert_eq!(world.tokens().len(), 950, "nobody was told of an error that was not its own");
}

#[test]
fn that_a_failing_tenant_fails_again_is_no_news() {
    let mut world = fails_odd_ones(None);
    world.ask(2);
    world.run(ms(100));
    for tenant in [1, 3, 5, 7] {
        world.ask(tenant);
        world.run(ms(100));
        if tenant == 1 {
            assert!(world.gate.shut.is_none(), "one alone");
        }
    }
    assert!(world.gate.rests(world.now).is_some());
    world.ask(2);
    world.run(ms(100));
    assert!(world.gate.shut.is_none());
    for tenant in [1, 3, 5, 7, 1, 3, 5, 7, 1] {
        world.ask(tenant);
        world.run(ms(100));
        assert!(world.gate.shut.is_none(), "they failed before");
    }
    world.ask(9);
    world.run(ms(100));
    assert!(world.gate.shut.is_none(), "one alone");
    world.ask(11);
    world.run(ms(100));
    assert!(world.gate.shut.is_some());
}

#[test]
fn who_is_not_failing_does_not_wait_for_those_who_are() {
    let mut world = fails_odd_ones(Some(Duration::from_secs(3_600)));
    for tenant in [1, 3, 5] {
        world.ask(tenant);
        world.run(ms(100));
    }
    world.ask(1);
    world.ask(3);
    let (told, _, error) = world.ended.last().unwrap();
    assert_eq!((*told, error.as_ref().unwrap_err().retry_after()), (1, Some(ms(59_910))));
    world.ask(2);
    assert_eq!(world.sent.last().unwrap().0, 2);
    world.run(ms(10));
    assert!(world.ended.last().unwrap().2.is_ok());
    assert_eq!(world.sent.last().unwrap().0, 3, "an answer ends the rest of all");
}

#[test]
fn who_was_answered_before_does_not_rest_since_new_ones_fail() {
    let mut world = fails_odd_ones(Some(Duration::from_secs(3_600)));
    for tenant in [2, 4, 6] {
        world.ask(tenant);
    }
    world.run(ms(100));
    (0..20).for_each(|tenant| world.ask(tenant * 2 + 1));
    world.run(ms(100));
    world.ask(8);
    world.ask(10);
    let (told, _, error) = world.ended.last().unwrap();
    assert!(*told == 8 && error.is_err(), "a new one cannot know better: {error:?}");
    world.ask(2);
    assert_eq!(world.sent.last().unwrap().0, 2);
    world.run(ms(100));
    assert!(world.gate.shut.is_none());
    assert_eq!(world.sent.last().unwrap().0, 10);
}

#[test]
fn all_rest_when_some_that_were_answered_before_fail() {
    let mut world = World::new(|_, now| {
        let is_up = now < Instant::from_nanos(2_000_000_000);
        (ms(10), if is_up { Ok(()) } else { Err(server_error()) })
    });
    (0..40).for_each(|tenant| world.ask(tenant));
    world.run(ms(1_500));
    let sent = world.sent.len();
    for tenant in 0..40 {
        world.ask(tenant);
        world.run(ms(11));
    }
    assert_eq!(world.sent.len() - sent, PROOF);
    assert_eq!(world.ended.len(), 40 + 39, "all but the next probe");
}

#[test]
fn three_prove_it_if_nobody_is_answered_for_long() {
    let mut world = World::new(|_, _| (ms(1_900), Err(server_error())));
    (0..3).for_each(|tenant| world.ask(tenant));
    world.run(ms(5_000));
    world.ask(3);
    world.ask(4);
    assert_eq!(world.sent.len(), 4, "another is the probe, and others wait");
    world.run(ms(5_000));
    world.ask(5);
    world.run(ms(2_500));
    world.ask(6);
    world.ask(7);
    assert_eq!(world.ended.last().unwrap().0, 6);
}

#[test]
fn what_a_session_was_is_forgotten_with_it() {
    let mut world = fails_odd_ones(None);
    fail(&mut world, 0..20);
    assert_eq!(world.gate.standings.len(), 20);
    (0..20).for_each(|tenant| world.gate.forget(tenant));
    assert!(world.gate.standings.is_empty());
}

#[test]
fn who_leaves_gives_back_what_it_had() {
    let mut gate = Gate::new(1);
    let now = Instant::from_nanos(1);
    let first = gate.ask(1, false, 1);
    let second = gate.ask(2, false, 2);
    let third = gate.ask(3, false, 3);
    assert!(matches!(gate.answers(now)[..], [(1, Ok(()))]));
    gate.end(now, second, How::of(None));
    assert!(gate.answers(now).is_empty());
    gate.end(now, first, How::of(None));
    assert!(matches!(gate.answers(now)[..], [(3, Ok(()))]));
    gate.end(now, third, How::of(None));
    gate.end(now, third, How::of(None));
    assert_eq!((gate.waiting(), gate.out(), gate.next_look(now)), (0, 0, None));
}

#[test]
fn a_probe_that_is_cancelled_is_followed_by_another() {
    let mut gate = Gate::new(4);
    let mut now = Instant::from_nanos(1);
    let failing: Vec<_> = (0..2).map(|tenant| gate.ask(tenant, false, tenant)).collect();
    assert_eq!(gate.answers(now).len(), 2);
    for ticket in failing {
        gate.end(now, ticket, How::Failed(server_error()));
    }
    let probe = gate.ask(3, false, 3);
    assert!(matches!(gate.answers(now)[..], [(3, Ok(()))]));
    gate.end(now, probe, How::of(None));
    gate.ask(4, false, 4);
    assert!(gate.answers(now).is_empty());
    now = gate.next_look(now).unwrap();
    assert!(matches!(gate.answers(now)[..], [(4, Ok(()))]));
}
