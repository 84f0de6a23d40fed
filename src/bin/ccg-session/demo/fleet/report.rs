//! The figures: what they are, and whether they hold.

use std::time::Duration;

use ccg_session::LEASE;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::super::report::{self, Row, time, whole};
use super::GRANT_TAKES;
use super::happened::{Happened, Lane, Stage};

/// All that is needed to tell of a run and to judge it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) is_redis: bool,
    pub(super) life: Duration,
    pub(super) grants: u64,
    pub(super) grants_at_cold_start: u64,
    pub(super) grants_of_singles: u64,
    pub(super) happened: Happened,
    pub(super) cut_short: Option<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    replicas: Vec<Replica>,
    seconds: f64,
    calls: u64,
    errors: u64,
    grants: u64,
    grants_at_cold_start: u64,
    grants_of_single_sessions: u64,
    seconds_waited_after_kill: Option<f64>,
    seconds_to_token_after_kill: Option<f64>,
    grants_of_restarted: Option<u64>,
    seconds_to_stop_after_revoke: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Replica {
    calls: u64,
    errors: u64,
    asked: u64,
    taken: u64,
    seconds_waited_max: f64,
}

impl Report {
    pub(super) fn figures(&self) -> Figures {
        let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
        let replica = |lane: &Lane| Replica {
            calls: lane.calls,
            errors: lane.errors,
            asked: lane.asks.len() as u64,
            taken: lane.taken(),
            seconds_waited_max: seconds(lane.longest),
        };
        Figures {
            replicas: self.happened.lanes.iter().map(replica).collect(),
            seconds: seconds(self.happened.end),
            calls: self.calls(),
            errors: self.errors(),
            grants: self.grants,
            grants_at_cold_start: self.grants_at_cold_start,
            grants_of_single_sessions: self.grants_of_singles,
            seconds_waited_after_kill: self.waited_after_kill().map(seconds),
            seconds_to_token_after_kill: self.token_after_kill().map(seconds),
            grants_of_restarted: self.grants_of_restarted(),
            seconds_to_stop_after_revoke: self.stopped_after_revoke().map(seconds),
        }
    }

    /// The figures, and a line for each replica.
    pub(super) fn tables(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let head = [
            "replica",
            "calls",
            "errors",
            "asked the server",
            "from the store",
            "longest wait",
            "",
        ];
        table.set_header(head);
        for (number, lane) in self.happened.lanes.iter().enumerate() {
            table.add_row([
                (number + 1).to_string(),
                lane.calls.to_string(),
                lane.errors.to_string(),
                lane.asks.len().to_string(),
                lane.taken().to_string(),
                time(lane.longest),
                self.told_of(number),
            ]);
        }
        for column in 0..head.len() - 1 {
            if let Some(values) = table.column_mut(column) {
                values.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{table}\n{}", report::table(&self.rows()))
    }

    pub(super) fn broken(&self) -> Vec<String> {
        report::broken(&self.rows())
    }

    fn rows(&self) -> Vec<Row> {
        let replicas = self.happened.lanes.len() as u64;
        vec![
            Row::told("seconds", format!("{:.1}", self.happened.end.as_secs_f64())),
            Row::at_least("calls", self.calls(), replicas),
            Row::exactly("errors", self.errors(), 0),
            Row::at_most("grants", self.grants, self.grants_allowed()),
            Row::told("  of single sessions", self.grants_of_singles.to_string()),
            Row::exactly("  at the cold start", self.grants_at_cold_start, 1),
            Row::within("waited after the kill", self.waited_after_kill(), after_kill()),
            Row::within("  until a new token", self.token_after_kill(), after_kill()),
            Row::exactly("  sent by the new one", self.grants_of_restarted().unwrap_or(1), 0),
            Row::within("handed out once revoked", self.stopped_after_revoke(), self.notice()),
            Row::at_least("  others that had it", self.others_had_it(), 1),
            Row::complete("the run", self.cut_short.as_ref()),
        ]
    }

    fn calls(&self) -> u64 {
        self.happened.lanes.iter().map(|lane| lane.calls).sum()
    }

    /// A revocation that fails is one too.
    pub(super) fn errors(&self) -> u64 {
        let errors = |lane: &Lane| lane.errors + u64::from(lane.revocation_failed);
        self.happened.lanes.iter().map(errors).sum()
    }

    /// The longest of the other replicas' callers.
    pub(super) fn waited_after_kill(&self) -> Option<Duration> {
        let replica = self.happened.killed?.replica;
        let (begin, end) = self.happened.span(Stage::Killed)?;
        let meanwhile = |(from, to): &&(Duration, Duration)| *from < end && *to > begin;
        let waits = self.happened.others(replica).flat_map(|lane| &lane.waits).filter(meanwhile);
        Some(waits.map(|(from, to)| to.saturating_sub(*from)).max().unwrap_or_default())
    }

    /// Of the other replica that had to do without one for longest.
    fn token_after_kill(&self) -> Option<Duration> {
        let killed = self.happened.killed?;
        let next = |lane: &Lane| {
            let token = lane.tokens.iter().find(|token| token.at > killed.at)?;
            Some(token.at.saturating_sub(killed.at))
        };
        let others: Option<Vec<_>> = self.happened.others(killed.replica).map(next).collect();
        others?.into_iter().max()
    }

    /// How many requests the killed replica sent when it had started again, for its first token.
    fn grants_of_restarted(&self) -> Option<u64> {
        let again = self.happened.started_again?;
        let lane = &self.happened.lanes[again.replica];
        let first = lane.tokens.iter().find(|token| token.at > again.at)?;
        let sent = lane.asks.iter().filter(|ask| (again.at..first.at).contains(&ask.began));
        Some(sent.count() as u64)
    }

    /// How long the others went on handing out what one revokes.
    pub(super) fn stopped_after_revoke(&self) -> Option<Duration> {
        let (revoked, name) = self.happened.revoked?;
        let last = |lane: &Lane| {
            let last = lane.handed.get(&name).copied().unwrap_or_default();
            last.saturating_sub(revoked.at)
        };
        self.happened.others(revoked.replica).map(last).max()
    }

    /// Or nobody could have handed it out.
    fn others_had_it(&self) -> u64 {
        let Some((revoked, name)) = self.happened.revoked else { return 0 };
        let others = self.happened.others(revoked.replica);
        others.filter(|lane| lane.handed.contains_key(&name)).count() as u64
    }

    /// How long that may be: Redis tells at once, and files are looked at each second. A token that
    /// nobody revokes is handed out for longer.
    fn notice(&self) -> Duration {
        Duration::from_millis(if self.is_redis { 500 } else { 1_500 })
    }

    /// How many the fleet may send.
    fn grants_allowed(&self) -> u64 {
        // A token is refreshed at the soonest, by chance, after 45 of 100 parts of its life.
        let refreshes = whole(self.happened.end, self.life.mul_f64(0.45));
        // The first.
        let cold_start = 1;
        // Whoever waits for longer than a lease lasts asks by itself.
        let kill = self.happened.lanes.len() as u64 - 1;
        // One more, and one that was under way and is now for nobody else.
        let revoke = 2;
        refreshes + cold_start + kill + revoke
    }

    fn told_of(&self, number: usize) -> String {
        let mut told = Vec::new();
        if let Some(killed) = self.happened.killed.filter(|killed| killed.replica == number) {
            told.push(format!("killed at {:.1} s in a grant", killed.at.as_secs_f64()));
        }
        if let Some(again) = self.happened.started_again.filter(|again| again.replica == number) {
            told.push(format!("started again at {:.1} s", again.at.as_secs_f64()));
        }
        if let Some((revoked, _)) = self.happened.revoked.filter(|(by, _)| by.replica == number) {
            told.push(format!("revoked at {:.1} s", revoked.at.as_secs_f64()));
        }
        told.join(", ")
    }
}

/// Until a lease of a killed process ends, the grant itself, and what a busy machine adds.
fn after_kill() -> Duration {
    LEASE + GRANT_TAKES + Duration::from_millis(500)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::happened::{Ask, Moment, Token};
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Two replicas: the first is killed at 3 s, starts again at 6 s; the other revokes at 8 s.
    fn good() -> Report {
        let token = |at, name, from_store| Token { at: secs(at), name, from_store };
        let ask = |at: u64| Ask { began: secs(at), ended: secs(at), is_granted: true };
        let killed = Lane {
            calls: 1_000,
            tokens: vec![token(1, 1, false), token(7, 2, true), token(9, 3, true)],
            asks: vec![ask(1), Ask { is_granted: false, ..ask(3) }],
            handed: HashMap::from([(1, secs(3)), (2, Duration::from_millis(9_100)), (3, secs(10))]),
            ..Lane::default()
        };
        let other = Lane {
            calls: 1_000,
            tokens: vec![token(1, 1, true), token(5, 2, false), token(9, 3, false)],
            asks: vec![ask(5), ask(9)],
            waits: vec![(secs(0), secs(1)), (secs(4), secs(5))],
            handed: HashMap::from([(1, secs(4)), (2, secs(8)), (3, secs(10))]),
            ..Lane::default()
        };
        let moment = |replica, at| Moment { replica, at: secs(at) };
        let stages =
            [Stage::ColdStart, Stage::Refresh, Stage::Killed, Stage::StartedAgain, Stage::Revoked];
        let mut happened = Happened::new(0);
        happened.lanes = vec![killed, other];
        happened.stages = stages.into_iter().zip([0, 1, 3, 6, 8].map(secs)).collect();
        happened.killed = Some(moment(0, 3));
        happened.started_again = Some(moment(0, 6));
        happened.revoked = Some((moment(1, 8), 2));
        happened.end = secs(10);
        Report {
            is_redis: false,
            life: secs(6),
            grants: 4,
            grants_at_cold_start: 1,
            grants_of_singles: 9,
            happened,
            cut_short: None,
        }
    }

    #[test]
    fn a_good_run_breaks_nothing() {
        let run = good();
        assert_eq!(run.broken(), Vec::<String>::new());
        assert_eq!(run.waited_after_kill(), Some(secs(1)), "not that of the cold start");
        assert_eq!(run.token_after_kill(), Some(secs(2)));
        assert_eq!(run.stopped_after_revoke(), Some(Duration::from_millis(1_100)));
        let table = run.tables();
        assert!(table.contains("killed at 3.0 s in a grant, started again at 6.0 s"), "{table}");
        assert!(table.contains("revoked at 8.0 s"), "{table}");
    }

    #[test]
    fn each_figure_can_break() {
        type Break = fn(&mut Report);
        let breaks: [(Break, &str); 12] = [
            (
                |run| run.happened.lanes.iter_mut().for_each(|lane| lane.calls = 0),
                "calls is 0, but must be at least 2",
            ),
            (|run| run.happened.lanes[1].errors = 1, "errors is 1, but must be 0"),
            (|run| run.happened.lanes[1].revocation_failed = true, "errors is 1, but must be 0"),
            // Three periods of 2.7 s, the first, one for the kill, two for the revoke.
            (|run| run.grants = 8, "grants is 8, but must be at most 7"),
            (|run| run.grants_at_cold_start = 2, "at the cold start is 2, but must be 1"),
            (
                |run| run.happened.lanes[1].waits.push((secs(2), secs(6))),
                "waited after the kill is 4.0 s, but must be at most 3.6 s",
            ),
            (
                |run| run.happened.lanes[1].tokens[1].at = secs(7),
                "until a new token is 4.0 s, but must be at most 3.6 s",
            ),
            (
                |run| run.happened.lanes[1].tokens.truncate(1),
                "until a new token is never, but must be at most 3.6 s",
            ),
            (
                |run| run.happened.lanes[0].asks[1].began = secs(6),
                "sent by the new one is 1, but must be 0",
            ),
            (
                |run| run.is_redis = true,
                "handed out once revoked is 1.1 s, but must be at most 500.0 ms",
            ),
            (
                |run| run.happened.lanes[0].handed.retain(|name, _| *name != 2),
                "others that had it is 0, but must be at least 1",
            ),
            (|run| run.cut_short = Some("no end".into()), "the run is no end, but must be"),
        ];
        for (break_it, sentence) in breaks {
            let mut run = good();
            break_it(&mut run);
            let broken = run.broken();
            assert_eq!(broken.len(), 1, "{broken:?}");
            assert!(broken[0].contains(sentence), "{broken:?}");
            assert!(run.tables().contains("BROKEN"));
        }
    }

    #[test]
    fn a_run_that_came_to_nothing_is_told_of_too() {
        let run = Report {
            happened: Happened::new(2),
            cut_short: Some("there never came a token".into()),
            ..good()
        };
        assert!(run.broken().len() > 5, "{:?}", run.broken());
        assert!(run.figures().seconds_to_stop_after_revoke.is_none());
    }
}
