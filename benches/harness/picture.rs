//! The results as a picture: a panel for each question, one above the other, in it a row for each subject, on a
//! logarithmic axis.

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

const PANELS: [Panel; 3] = [
    Panel {
        title: "A fresh token",
        beneath: "ns per call; 1, 2 and 8 threads",
        scenario: "hot",
        cases: &[1, 2, 8],
        figure: "ns",
        otherwise: "",
    },
    Panel {
        title: "100,000 callers without a token",
        beneath: "ms from the grant to the last answer",
        scenario: "stampede",
        cases: &[100_000],
        figure: "after_ms",
        otherwise: "not all answered",
    },
    Panel {
        title: "1,000 callers ask again and again, the endpoint fails",
        beneath: "requests in 5 s",
        scenario: "storm",
        cases: &[1_000],
        figure: "requests",
        otherwise: "",
    },
];

pub fn write(file: &Path, results: &Results) -> Drawn {
    let mut svg = String::new();
    draw(&mut svg, results)?;
    std::fs::write(file, in_the_dark_too(&svg))?;
    Ok(())
}

/// With colors for readers whose pages are dark.
fn in_the_dark_too(svg: &str) -> String {
    let hex = |RGBColor(red, green, blue)| format!("#{red:02X}{green:02X}{blue:02X}");
    let rules = IN_THE_DARK.into_iter().flat_map(|(light, dark)| {
        let (light, dark) = (hex(light), hex(dark));
        ["fill", "stroke"].map(|property| format!("[{property}=\"{light}\"]{{{property}:{dark}}}"))
    });
    let rules = rules.collect::<Vec<_>>().join("\n");
    let style = format!("<style>@media (prefers-color-scheme:dark){{\n{rules}\n}}</style>\n");
    let head = svg.find('>').map_or(0, |end| end + 1);
    [&svg[..head], "\n", &style, svg[head..].trim_start()].concat()
}

fn draw(svg: &mut String, results: &Results) -> Drawn {
    let panels: Vec<_> = PANELS
        .iter()
        .map(|panel| (panel, subjects(panel, results)))
        .filter(|(_, subjects)| !subjects.is_empty())
        .collect();
    let total: i32 = panels.iter().map(|(_, subjects)| height(subjects)).sum();
    let size = (WIDTH.unsigned_abs(), total.unsigned_abs());
    let picture = SVGBackend::with_string(svg, size).into_drawing_area();
    picture.fill(&WHITE)?;
    let mut top = 0;
    for (panel, subjects) in panels {
        draw_panel(&picture, panel, top, &subjects, results)?;
        top += height(&subjects);
    }
    picture.present()?;
    Ok(())
}

/// Those that took part, but no control, one floor, and only one row of ours.
fn subjects(panel: &Panel, results: &Results) -> Vec<&'static str> {
    let mut subjects = Vec::new();
    for row in &results.rows {
        let is_extra = ["control", "ccg-session,", "ArcSwap +"]
            .iter()
            .any(|extra| row.subject.starts_with(extra))
            || panel.scenario == "hot" && row.subject == "floor-actor";
        let was_there = row.scenario == panel.scenario && panel.cases.contains(&row.case);
        if was_there && !is_extra && !subjects.contains(&row.subject) {
            subjects.push(row.subject);
        }
    }
    subjects
}

fn height(subjects: &[&str]) -> i32 {
    TOP + ROW * i32::try_from(subjects.len()).unwrap_or(i32::MAX / ROW / 2) + BOTTOM
}

fn draw_panel(
    picture: &Area<'_>,
    panel: &Panel,
    top: i32,
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
        LABELS + (share * f64::from(WIDTH - LABELS - RIGHT)).round() as i32
    };
    let bottom = top + height(subjects) - BOTTOM;
    picture.draw(&Text::new(panel.title, (MARGIN, top + 22), text(24, HPos::Left, INK)))?;
    picture.draw(&Text::new(panel.beneath, (MARGIN, top + 46), text(19, HPos::Left, FAINT_INK)))?;
    for power in from as i32..=to as i32 {
        let x = x_of(10_f64.powi(power));
        let line = vec![(x, top + TOP), (x, bottom + 4)];
        picture.draw(&PathElement::new(line, FAINT_INK.mix(0.3)))?;
        let label = short(10_f64.powi(power));
        picture.draw(&Text::new(label, (x, bottom + 16), text(19, HPos::Center, FAINT_INK)))?;
    }
    for (row, subject) in subjects.iter().enumerate() {
        let y = top + TOP + ROW * i32::try_from(row)? + ROW / 2;
        if *subject == OURS {
            let band = [(0, y - ROW / 2), (WIDTH, y + ROW / 2)];
            picture.draw(&Rectangle::new(band, OURS_INK.mix(0.1).filled()))?;
        }
        // What a floor is made of is in the table.
        let name = subject.split(':').next().unwrap_or(subject);
        let style = text(20, HPos::Right, ink(subject));
        picture.draw(&Text::new(name.to_owned(), (LABELS - 14, y), style))?;
        let values: Vec<f64> =
            panel.cases.iter().filter_map(|case| figure(*subject, *case)).collect();
        let dots: Vec<_> = values.iter().map(|value| (x_of(*value), y)).collect();
        if dots.is_empty() {
            let style = text(19, HPos::Left, FAINT_INK);
            picture.draw(&Text::new(panel.otherwise, (LABELS + 10, y), style))?;
        }
        picture.draw(&PathElement::new(dots.clone(), ink(subject).mix(0.6).stroke_width(2)))?;
        for (dot, radius) in dots.iter().zip([4, 5, 6]) {
            picture.draw(&Circle::new(*dot, radius, ShapeStyle::from(ink(subject)).filled()))?;
        }
        if let (Some(last), Some(dot)) = (values.last(), dots.iter().map(|dot| dot.0).max()) {
            let is_far = dot > WIDTH - RIGHT - 50;
            let (x, side) = if is_far {
                (dots.iter().map(|dot| dot.0).min().unwrap_or(dot) - 10, HPos::Right)
            } else {
                (dot + 10, HPos::Left)
            };
            picture.draw(&Text::new(number(*last), (x, y), text(19, side, ink(subject))))?;
        }
    }
    Ok(())
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

// Narrow, and its letters large, so that it can be read on a phone.
const WIDTH: i32 = 720;
const MARGIN: i32 = 16;
const LABELS: i32 = 260;
const RIGHT: i32 = 40;
const TOP: i32 = 64;
const ROW: i32 = 26;
const BOTTOM: i32 = 40;

const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT_INK: RGBColor = RGBColor(110, 110, 110);
const OURS_INK: RGBColor = RGBColor(178, 24, 43);
/// A color, and what is in its place where the page is dark.
const IN_THE_DARK: [(RGBColor, RGBColor); 4] = [
    (WHITE, RGBColor(13, 17, 23)),
    (INK, RGBColor(230, 237, 243)),
    (FAINT_INK, RGBColor(160, 170, 181)),
    (OURS_INK, RGBColor(255, 123, 132)),
];
