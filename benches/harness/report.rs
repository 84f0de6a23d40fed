//! The results as Markdown.

use std::fmt::Write;

use super::goals::GOALS;
use super::results::{Column, Results, Row, Scenario, Spread};
use crate::scenarios;

pub fn markdown(results: &Results) -> String {
    let mut text = head(results);
    for scenario in scenarios::ALL {
        let rows: Vec<_> =
            results.rows.iter().filter(|row| row.scenario == scenario.name).collect();
        if !rows.is_empty() {
            write_scenario(&mut text, scenario, &rows, results);
        }
    }
    write_goals(&mut text, results);
    text
}

fn head(results: &Results) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "# What it costs\n\n{cores} cores; load at the end (1, 5, 15 min): {load}. Medians of the \
         rounds, with their range in brackets. Only ratios carry over from one run to another.\n"
    );
    if results.rows.iter().any(|row| row.scenario == "hot") {
        let all =
            results.rows.iter().find(|row| row.scenario == "hot").map_or(0, |row| row.rounds.len());
        let counting = results.rounds_that_count().len();
        let _ = write!(text, "\nRounds of the hot path that count: {counting} of {all}");
        let remark =
            if counting == 0 { ", so all are shown, and two threads prove nothing" } else { "" };
        let _ = writeln!(text, "{remark}.");
    }
    text
}

fn write_scenario(text: &mut String, scenario: &Scenario, rows: &[&Row], results: &Results) {
    let _ = writeln!(text, "\n## {}\n\n{}\n", scenario.title, scenario.told);
    let titles: Vec<_> = scenario.columns.iter().map(|column| column.title).collect();
    let _ = writeln!(text, "| {} | | {} |", scenario.case, titles.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(titles.len()));
    for &case in scenario.cases {
        for row in rows.iter().filter(|row| row.case == case) {
            let cells: Vec<_> =
                scenario.columns.iter().map(|column| cell(results, row, column)).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                whole(case as f64),
                row.subject,
                cells.join(" | ")
            );
        }
    }
}

fn cell(results: &Results, row: &Row, column: &Column) -> String {
    let place = (row.scenario, row.case, row.subject, column.figure);
    let spread = match column.over {
        None => results.spread(place),
        Some(over) => results.ratio(place, (row.scenario, row.case, over, column.figure)),
    };
    spread.map_or("–".to_owned(), shown)
}

fn shown(spread: Spread) -> String {
    let [least, median, most] = [spread.least, spread.median, spread.most].map(number);
    if least == most { median } else { format!("{median} [{least}–{most}]") }
}

/// Three digits or so.
pub fn number(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 || figure.fract() == 0.0 => whole(figure),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 0.1 => format!("{figure:.2}"),
        _ => format!("{figure:.4}"),
    }
}

fn whole(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn write_goals(text: &mut String, results: &Results) {
    let measured: Vec<_> =
        GOALS.iter().filter_map(|goal| Some((goal, (goal.measured)(results)?))).collect();
    if measured.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## Goals\n\n| goal | bound | measured | |\n|---|---|---|---|");
    for (goal, figure) in measured {
        let (sign, bound) = goal.bound.shown();
        let verdict = if goal.bound.holds(figure) { "met" } else { "**missed**" };
        let _ = writeln!(
            text,
            "| {} | {sign} {} | {} | {verdict} |",
            goal.what,
            number(bound),
            number(figure)
        );
    }
}
