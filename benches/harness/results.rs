//! Scenarios as data, and what their runs gave.

use std::cell::OnceCell;

use serde::Serialize;

use super::{Figures, median};

/// A scenario as the report tells it.
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub told: &'static str,
    /// What the number of a case counts.
    pub case: &'static str,
    pub cases: &'static [usize],
    pub columns: &'static [Column],
    pub who: Who,
    /// If it takes too long for as many rounds as the others.
    pub rounds: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    All,
    /// The peers have no such thing, or it is not what they are compared by.
    Ours,
}

#[derive(Clone, Copy)]
pub struct Column {
    pub figure: &'static str,
    pub title: &'static str,
    /// As a ratio to this subject's figure in the same round.
    pub over: Option<&'static str>,
}

impl Column {
    pub const fn plain(figure: &'static str, title: &'static str) -> Self {
        Self { figure, title, over: None }
    }
}

/// What one subject did in one case of a scenario, round by round.
#[derive(Serialize)]
pub struct Row {
    pub scenario: &'static str,
    pub case: usize,
    pub subject: &'static str,
    pub rounds: Vec<Figures>,
}

/// A figure's place.
pub type Place = (&'static str, usize, &'static str, &'static str);

/// Everything that was measured.
#[derive(Default, Serialize)]
pub struct Results {
    pub rows: Vec<Row>,
    #[serde(skip)]
    counting: OnceCell<Vec<usize>>,
}

/// The median of a figure and its range.
#[derive(Clone, Copy)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Results {
    /// A further round.
    pub fn add(
        &mut self,
        scenario: &'static str,
        case: usize,
        subject: &'static str,
        figures: Figures,
    ) {
        let is_it =
            |row: &&mut Row| (row.scenario, row.case, row.subject) == (scenario, case, subject);
        match self.rows.iter_mut().find(is_it) {
            Some(row) => row.rounds.push(figures),
            None => self.rows.push(Row { scenario, case, subject, rounds: vec![figures] }),
        }
    }

    pub fn spread(&self, place: Place) -> Option<Spread> {
        spread(self.rounds(place))
    }

    /// One figure as a multiple of another, round by round.
    pub fn ratio(&self, place: Place, over: Place) -> Option<Spread> {
        let pairs = self.rounds(place).into_iter().zip(self.rounds(over));
        spread(pairs.map(|(figure, over)| Some(figure? / over?)).collect())
    }

    pub fn median(&self, place: Place) -> Option<f64> {
        self.spread(place).map(|spread| spread.median)
    }

    /// Those of the hot path's rounds in which two processors were there: what shares nothing took, on
    /// one thread and on two, the time that it costs.
    pub fn rounds_that_count(&self) -> &[usize] {
        self.counting.get_or_init(|| {
            let is_there = |round: usize| {
                [("control: empty loop", 1.15), ("control: CLOCK_BOOTTIME", 1.1)].iter().all(
                    |&(subject, bound)| {
                        let of = |threads, figure| {
                            *self.all_rounds(("hot", threads, subject, figure)).get(round)?
                        };
                        let took = of(1, "ns").zip(of(2, "ns"));
                        let cost = of(1, "cpu_ns").map(|cost| cost * bound);
                        took.zip(cost).is_some_and(|((one, two), most)| one.max(two) <= most)
                    },
                )
            };
            let all = self.all_rounds(("hot", 1, "control: empty loop", "ns")).len();
            (0..all).filter(|round| is_there(*round)).collect()
        })
    }

    /// All rounds, if none of the hot path's counts: the report says so.
    fn rounds(&self, place: Place) -> Vec<Option<f64>> {
        let all = self.all_rounds(place);
        let counting = self.rounds_that_count();
        if place.0 != "hot" || counting.is_empty() {
            return all;
        }
        counting.iter().filter_map(|round| all.get(*round).copied()).collect()
    }

    fn all_rounds(&self, (scenario, case, subject, figure): Place) -> Vec<Option<f64>> {
        let is_it = |row: &&Row| (row.scenario, row.case, row.subject) == (scenario, case, subject);
        let row = self.rows.iter().find(is_it);
        row.into_iter()
            .flat_map(|row| &row.rounds)
            .map(|round| round.get(figure).copied())
            .collect()
    }
}

/// None if it did not happen in most of the rounds.
fn spread(rounds: Vec<Option<f64>>) -> Option<Spread> {
    let count = rounds.len();
    let mut known: Vec<f64> = rounds.into_iter().flatten().collect();
    let median = median(&mut known);
    (known.len() * 2 > count).then(|| Spread {
        least: known[0],
        median,
        most: known[known.len() - 1],
    })
}
