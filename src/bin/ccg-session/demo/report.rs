//! The figures: what they are, and whether they hold.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::day::{EXCHANGES, Outcome, Plan};
use super::load::{Tally, World};
use super::record::{Happened, Purpose, Stage};

/// What `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) callers: u64,
    pub(super) seconds: f64,
    pub(super) get_token: u64,
    pub(super) used: u64,
    pub(super) refused: u64,
    pub(super) grants: u64,
    pub(super) grants_in_flight_max: u64,
    pub(super) held_max: u64,
    pub(super) exchanges: u64,
    pub(super) revocations: u64,
    pub(super) errors_stale_outage: u64,
    pub(super) errors_expired_outage: u64,
    pub(super) errors_other: u64,
    pub(super) latency_ns: Latency,
}

/// Of the answers of `get_token` that needed no grant.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// The figures, and what else is needed to judge them.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) figures: Figures,
    revoked_on_the_way: u64,
    unusable: u64,
    unanswered: u64,
    wrong_scopes: u64,
    alive_after_revoke: u64,
    grants_allowed: u64,
    grants_at_authority: u64,
    stale_outage_failures: u64,
    expired_outage_failures: u64,
    cut_short: Option<String>,
}

/// A line of the table.
pub(super) struct Row {
    name: &'static str,
    value: String,
    /// What it must be, and whether it is.
    must: Option<(String, bool)>,
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["figure", "value", "must be", ""]);
    for row in rows {
        let (must, holds) = match &row.must {
            Some((must, true)) => (must.as_str(), "holds"),
            Some((must, false)) => (must.as_str(), "BROKEN"),
            None => ("", ""),
        };
        table.add_row([row.name, row.value.as_str(), must, holds]);
    }
    if let Some(values) = table.column_mut(1) {
        values.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Which figures do not hold, each as a sentence.
pub(super) fn broken(rows: &[Row]) -> Vec<String> {
    let sentence = |row: &Row| {
        let (must, _) = row.must.as_ref().filter(|(_, holds)| !holds)?;
        Some(format!("{} is {}, but must be {must}", row.name.trim_start(), row.value))
    };
    rows.iter().filter_map(sentence).collect()
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        world: &World,
        tally: &Tally,
        outcome: &Outcome,
        elapsed: Duration,
    ) -> Self {
        let happened = world.record.happened();
        let counted =
            |purpose| happened.marks.iter().filter(|mark| mark.purpose == purpose).count() as u64;
        let held_max = world.session.status().counters().held_max;
        let figures = Figures {
            callers: world.answers.len() as u64,
            seconds: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
            get_token: tally.get_token,
            used: tally.used,
            refused: tally.refused,
            grants: world.record.grants().begun,
            grants_in_flight_max: world.record.grants_in_flight_max(),
            held_max: held_max as u64,
            exchanges: counted(Purpose::Exchange),
            revocations: counted(Purpose::Revoke),
            errors_stale_outage: tally.errors.stale_outage + outcome.errors.stale_outage,
            errors_expired_outage: tally.errors.expired_outage + outcome.errors.expired_outage,
            errors_other: tally.errors.other + outcome.errors.other,
            latency_ns: Latency::of(&tally.latency),
        };
        Self {
            figures,
            revoked_on_the_way: tally.revoked_on_the_way,
            unusable: tally.unusable,
            unanswered: outcome.unanswered,
            wrong_scopes: outcome.wrong_scopes,
            alive_after_revoke: outcome.alive_after_revoke,
            grants_allowed: grants_allowed(plan, elapsed, outages(&happened)),
            grants_at_authority: world.authority.counts().grants,
            stale_outage_failures: failures_in(Stage::StaleOutage, &happened),
            expired_outage_failures: failures_in(Stage::ExpiredOutage, &happened),
            cut_short: outcome.cut_short.clone(),
        }
    }

    pub(super) fn table(&self) -> String {
        table(&self.rows())
    }

    pub(super) fn broken(&self) -> Vec<String> {
        broken(&self.rows())
    }

    fn rows(&self) -> Vec<Row> {
        let figures = &self.figures;
        let Latency { p50, p99, p999, max } = figures.latency_ns;
        vec![
            Row::told("callers", figures.callers.to_string()),
            Row::told("seconds", format!("{:.1}", figures.seconds)),
            Row::told("get_token", figures.get_token.to_string()),
            Row::at_least("used", figures.used, figures.callers),
            Row::exactly("refused", figures.refused, 0),
            Row::told("  revoked on the way", self.revoked_on_the_way.to_string()),
            Row::exactly("  failed otherwise", self.unusable, 0),
            Row::at_most("grants", figures.grants, self.grants_allowed),
            Row::exactly("  as the authority counts", self.grants_at_authority, figures.grants),
            Row::at_least("  failed, token stale", self.stale_outage_failures, 1),
            Row::at_least("  failed, across expiry", self.expired_outage_failures, 1),
            Row::exactly("grants_in_flight_max", figures.grants_in_flight_max, 1),
            Row::at_least("held_max", figures.held_max, 1),
            Row::exactly("  never answered", self.unanswered, 0),
            Row::exactly("exchanges", figures.exchanges, EXCHANGES),
            Row::exactly("  with wrong scopes", self.wrong_scopes, 0),
            Row::at_least("revocations", figures.revocations, 1),
            Row::exactly("  tokens alive after it", self.alive_after_revoke, 0),
            Row::exactly("errors_stale_outage", figures.errors_stale_outage, 0),
            Row::told("errors_expired_outage", figures.errors_expired_outage.to_string()),
            Row::exactly("errors_other", figures.errors_other, 0),
            Row::told("latency p50", nanos(p50)),
            Row::told("latency p99", nanos(p99)),
            Row::told("latency p99.9", nanos(p999)),
            Row::told("latency max", nanos(max)),
            Row::complete("the day", self.cut_short.as_ref()),
        ]
    }
}

impl Row {
    pub(super) fn told(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into(), must: None }
    }

    pub(super) fn exactly(name: &'static str, value: u64, must: u64) -> Self {
        let must = Some((must.to_string(), value == must));
        Self { name, value: value.to_string(), must }
    }

    pub(super) fn at_most(name: &'static str, value: u64, limit: u64) -> Self {
        let must = Some((format!("at most {limit}"), value <= limit));
        Self { name, value: value.to_string(), must }
    }

    pub(super) fn at_least(name: &'static str, value: u64, limit: u64) -> Self {
        let must = Some((format!("at least {limit}"), value >= limit));
        Self { name, value: value.to_string(), must }
    }

    /// In time, if it came at all.
    pub(super) fn within(name: &'static str, value: Option<Duration>, limit: Duration) -> Self {
        let told = value.map_or("never".into(), time);
        let must = format!("at most {}", time(limit));
        Self { name, value: told, must: Some((must, value.is_some_and(|value| value <= limit))) }
    }

    pub(super) fn complete(name: &'static str, cut_short: Option<&String>) -> Self {
        let must = Some(("complete".into(), cut_short.is_none()));
        Self { name, value: cut_short.cloned().unwrap_or_else(|| "complete".into()), must }
    }
}

impl Latency {
    fn of(latency: &Histogram<u32>) -> Self {
        Self {
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
        }
    }
}

pub(super) fn time(time: Duration) -> String {
    nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// In the unit that makes it shortest.
fn nanos(nanos: u64) -> String {
    let duration = Duration::from_nanos(nanos);
    match nanos {
        0 => "0 s".into(),
        1..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} µs", duration.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// How many grants the design (`src/docs/design.md`) lets a session send on such a day.
fn grants_allowed(plan: &Plan, elapsed: Duration, outages: [Duration; 2]) -> u64 {
    // A token is refreshed when it is stale: at the soonest, by chance, after 45 of 100 parts of its
    // life, and never within a second.
    let refreshes = whole(elapsed, plan.life.mul_f64(0.45).max(Duration::from_secs(1)));
    // The first token, and the one after the revoke.
    let others = 2;
    // In an outage three attempts in a row, the one that was under way at its end, and between them
    // probes, which are half a second apart at the least.
    let in_outages: u64 =
        outages.iter().map(|outage| 3 + 1 + whole(*outage, Duration::from_millis(500))).sum();
    refreshes + others + in_outages
}

pub(super) fn whole(length: Duration, step: Duration) -> u64 {
    u64::try_from(length.as_nanos() / step.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// How long the two outages were.
fn outages(happened: &Happened) -> [Duration; 2] {
    [Stage::StaleOutage, Stage::ExpiredOutage].map(|stage| {
        let (begin, end) = happened.span(stage).unwrap_or_default();
        end.saturating_sub(begin)
    })
}

fn failures_in(stage: Stage, happened: &Happened) -> u64 {
    let Some((begin, end)) = happened.span(stage) else { return 0 };
    let failed = happened.marks.iter().filter(|mark| {
        mark.purpose == Purpose::Grant && !mark.succeeded && (begin..end).contains(&mark.began)
    });
    failed.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            figures: Figures {
                callers: 256,
                seconds: 20.0,
                get_token: 400_000,
                used: 399_990,
                refused: 0,
                grants: 20,
                grants_in_flight_max: 1,
                held_max: 256,
                exchanges: EXCHANGES,
                revocations: 4,
                errors_stale_outage: 0,
                errors_expired_outage: 900,
                errors_other: 0,
                latency_ns: Latency { p50: 100, p99: 200, p999: 1_000, max: 100_000 },
            },
            revoked_on_the_way: 10,
            unusable: 0,
            unanswered: 0,
            wrong_scopes: 0,
            alive_after_revoke: 0,
            grants_allowed: 30,
            grants_at_authority: 20,
            stale_outage_failures: 2,
            expired_outage_failures: 3,
            cut_short: None,
        }
    }

    #[test]
    fn a_good_day_breaks_nothing() {
        assert_eq!(good().broken(), Vec::<String>::new());
        assert!(!good().table().contains("BROKEN"));
    }

    #[test]
    fn each_figure_can_break() {
        type Break = fn(&mut Report);
        let breaks: [(Break, &str); 17] = [
            (|day| day.figures.refused = 1, "refused is 1, but must be 0"),
            (|day| day.figures.used = 255, "used is 255, but must be at least 256"),
            (|day| day.unusable = 1, "failed otherwise is 1, but must be 0"),
            (|day| day.grants_allowed = 19, "grants is 20, but must be at most 19"),
            (|day| day.grants_at_authority = 21, "as the authority counts is 21, but must be 20"),
            (|day| day.stale_outage_failures = 0, "token stale is 0, but must be at least 1"),
            (|day| day.expired_outage_failures = 0, "across expiry is 0, but must be at least 1"),
            (
                |day| day.figures.grants_in_flight_max = 2,
                "grants_in_flight_max is 2, but must be 1",
            ),
            (|day| day.figures.held_max = 0, "held_max is 0, but must be at least 1"),
            (|day| day.unanswered = 1, "never answered is 1, but must be 0"),
            (|day| day.figures.exchanges = 17, "exchanges is 17, but must be 3"),
            (|day| day.wrong_scopes = 1, "with wrong scopes is 1, but must be 0"),
            (|day| day.figures.revocations = 0, "revocations is 0, but must be at least 1"),
            (|day| day.alive_after_revoke = 1, "tokens alive after it is 1, but must be 0"),
            (|day| day.figures.errors_stale_outage = 1, "errors_stale_outage is 1, but must be 0"),
            (|day| day.figures.errors_other = 1, "errors_other is 1, but must be 0"),
            (|day| day.cut_short = Some("no token".into()), "the day is no token, but must be"),
        ];
        for (break_it, sentence) in breaks {
            let mut day = good();
            break_it(&mut day);
            let broken = day.broken();
            assert_eq!(broken.len(), 1, "{broken:?}");
            assert!(broken[0].contains(sentence), "{broken:?}");
            assert!(day.table().contains("BROKEN"));
        }
    }

    #[test]
    fn errors_across_expiry_are_allowed() {
        let mut day = good();
        day.figures.errors_expired_outage = u64::MAX;
        assert!(day.broken().is_empty());
    }

    #[test]
    fn the_design_allows_a_refresh_per_stale_token_and_few_attempts_in_an_outage() {
        let plan = Plan::new(Duration::from_secs(20));
        let none = [Duration::ZERO; 2];
        assert_eq!(plan.life, Duration::from_millis(3_400));
        // Every 1.53 s, the first, the one after the revoke, and four in each outage.
        assert_eq!(grants_allowed(&plan, Duration::from_secs(20), none), 13 + 2 + 8);
        let longer = [Duration::ZERO, Duration::from_millis(2_600)];
        assert_eq!(grants_allowed(&plan, Duration::from_secs(20), longer), 13 + 2 + 8 + 5);
    }
}
