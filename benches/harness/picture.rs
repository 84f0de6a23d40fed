//! The results as a picture: a row for each subject, a panel for each question, all axes logarithmic.

use std::error::Error;
use std::path::Path;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};

use super::report::number;
use super::results::Results;
use super::run::OURS;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

struct Panel {
    title: &'static str,
    beneath: &'static str,
    scenario: &'static str,
    cases: &'static [usize],
    figure: &'static str,
    /// What to say of a subject that was there, but has no such figure.
    otherwise: &'static str,
}

const PANELS: [Panel; 5] = [
    Panel {
        title: "A fresh token",
        beneath: "ns per call; 1, 2 and 8 threads",
        scenario: "hot",
        cases: &[1, 2, 8],
        figure: "ns",
        otherwise: "",
    },
    Panel {
        title: "100,000 callers, no token",
        beneath: "ms, grant to last answer",
        scenario: "stampede",
        cases: &[100_000],
        figure: "after_ms",
        otherwise: "not all answered",
    },
    Panel {
        title: "1,000 retry, endpoint fails",
        beneath: "requests in 5 s",
        scenario: "storm",
        cases: &[1_000],
        figure: "requests",
        otherwise: "",
    },
    Panel {
        title: "the same",
        beneath: "longest wait for an answer, ms",
        scenario: "storm",
        cases: &[1_000],
        figure: "max_ms",
        otherwise: "none answered",
    },
    Panel {
        title: "… then it heals",
        beneath: "ms until all have a token",
        scenario: "recovery",
        cases: &[1_000],
        figure: "all_ms",
        otherwise: "not all in 20 s",
    },
];

pub fn write(file: &Path, results: &Results) -> Drawn {
    let mut svg = String::new();
    draw(&mut svg, results)?;
    std::fs::write(file, svg)?;
    Ok(())
}

fn draw(svg: &mut String, results: &Results) -> Drawn {
    let subjects = subjects(results);
    let height = TOP + ROW * i32::try_from(subjects.len())? + BOTTOM;
    let has_rows = |panel: &&Panel| results.rows.iter().any(|row| row.scenario == panel.scenario);
    let panels: Vec<_> = PANELS.iter().filter(has_rows).collect();
    let width = LABELS + PANEL * i32::try_from(panels.len())?;
    let size = (width.unsigned_abs(), height.unsigned_abs());
    let picture = SVGBackend::with_string(svg, size).into_drawing_area();
    picture.fill(&WHITE)?;
    for (row, subject) in subjects.iter().enumerate() {
        let y = y_of(row)?;
        if *subject == OURS {
            let band = [(0, y - ROW / 2), (width, y + ROW / 2)];
            picture.draw(&Rectangle::new(band, OURS_INK.mix(0.08).filled()))?;
        }
        picture.draw(&Text::new(
            *subject,
            (LABELS - 12, y),
            text(17, HPos::Right, ink(subject)),
        ))?;
    }
    for (index, panel) in panels.into_iter().enumerate() {
        let left = LABELS + PANEL * i32::try_from(index)?;
        draw_panel(&picture, panel, left, height, &subjects, results)?;
    }
    picture.present()?;
    Ok(())
}

/// Those with a figure in any panel, but no control and only one row of ours.
fn subjects(results: &Results) -> Vec<&'static str> {
    let mut subjects = Vec::new();
    for row in &results.rows {
        let is_extra =
            row.subject.starts_with("control") || row.subject.starts_with("ccg-session,");
        let is_shown = PANELS.iter().any(|panel| panel.scenario == row.scenario);
        if is_shown && !is_extra && !subjects.contains(&row.subject) {
            subjects.push(row.subject);
        }
    }
    subjects
}

fn draw_panel(
    picture: &Area<'_>,
    panel: &Panel,
    left: i32,
    height: i32,
    subjects: &[&'static str],
    results: &Results,
) -> Drawn {
    let figure = |subject, case| results.median((panel.scenario, case, subject, panel.figure));
    let all = subjects.iter().flat_map(|subject| {
        panel.cases.iter().filter_map(|case| figure(*subject, *case)).map(|value| value.max(1.0))
    });
    let (least, most) = all.fold((f64::MAX, 1.0), |(least, most): (f64, f64), value| {
        (least.min(value), most.max(value))
    });
    let from = least.min(most).log10().floor();
    let to = most.log10().ceil().max(from + 1.0);
    let x_of = |value: f64| {
        let share = (value.max(1.0).log10() - from) / (to - from);
        left + GAP + (share * f64::from(PANEL - 2 * GAP)).round() as i32
    };
    picture.draw(&Text::new(panel.title, (left + GAP, 16), text(17, HPos::Left, INK)))?;
    picture.draw(&Text::new(panel.beneath, (left + GAP, 34), text(15, HPos::Left, FAINT_INK)))?;
    for power in from as i32..=to as i32 {
        let value = 10_f64.powi(power);
        let line = vec![(x_of(value), TOP - 8), (x_of(value), height - BOTTOM + 4)];
        picture.draw(&PathElement::new(line, FAINT_INK.mix(0.3)))?;
        let label =
            Text::new(short(value), (x_of(value), height - 12), text(15, HPos::Center, FAINT_INK));
        picture.draw(&label)?;
    }
    for (row, subject) in subjects.iter().enumerate() {
        let y = y_of(row)?;
        let values: Vec<f64> =
            panel.cases.iter().filter_map(|case| figure(*subject, *case)).collect();
        let dots: Vec<_> = values.iter().map(|value| (x_of(*value), y)).collect();
        let was_there = results.rows.iter().any(|row| {
            (row.scenario, row.subject) == (panel.scenario, *subject)
                && panel.cases.contains(&row.case)
        });
        if dots.is_empty() && was_there {
            let told = Text::new(
                panel.otherwise,
                (left + PANEL - GAP, y),
                text(15, HPos::Right, FAINT_INK),
            );
            picture.draw(&told)?;
        }
        picture.draw(&PathElement::new(dots.clone(), ink(subject).mix(0.6).stroke_width(2)))?;
        for (dot, radius) in dots.iter().zip([4, 5, 6]) {
            picture.draw(&Circle::new(*dot, radius, ShapeStyle::from(ink(subject)).filled()))?;
        }
        if let (Some(last), Some(dot)) = (values.last(), dots.iter().map(|dot| dot.0).max()) {
            let is_far = dot > left + PANEL - 60;
            let (x, side) = if is_far {
                (dots.iter().map(|dot| dot.0).min().unwrap_or(dot) - 10, HPos::Right)
            } else {
                (dot + 10, HPos::Left)
            };
            picture.draw(&Text::new(number(*last), (x, y), text(15, side, ink(subject))))?;
        }
    }
    Ok(())
}

fn y_of(row: usize) -> Result<i32, Box<dyn Error>> {
    Ok(TOP + ROW * i32::try_from(row)? + ROW / 2)
}

/// A power of ten.
fn short(value: f64) -> String {
    if value < 1_000.0 { number(value) } else { format!("{} k", number(value / 1_000.0)) }
}

fn ink(subject: &str) -> RGBColor {
    if subject == OURS { OURS_INK } else { INK }
}

fn text(size: u32, anchor: HPos, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color).pos(Pos::new(anchor, VPos::Center))
}

const LABELS: i32 = 400;
const PANEL: i32 = 225;
const GAP: i32 = 20;
const TOP: i32 = 64;
const ROW: i32 = 26;
const BOTTOM: i32 = 32;

const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT_INK: RGBColor = RGBColor(110, 110, 110);
const OURS_INK: RGBColor = RGBColor(178, 24, 43);
