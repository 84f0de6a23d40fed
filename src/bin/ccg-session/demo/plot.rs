//! The day as a picture: what was asked of the server, who waited, and how long the token had to live,
//! one above the other on one time axis.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::Cartesian2d;
use plotters::series::AreaSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontTransform, IntoFont, RGBColor, ShapeStyle, TRANSPARENT, TextStyle, WHITE,
};

use super::record::{Happened, Mark, Purpose, Sample, Stage};
use super::report::Report;
use crate::failure::Failure;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
pub(super) type Drawn = Result<(), Box<dyn Error>>;
pub(super) type Point = (i32, i32);

pub(super) fn open(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        Failure::Usage(format!("the timeline cannot be written to {}: {error}", path.display()))
    })
}

pub(super) fn write(file: File, happened: &Happened, report: &Report) -> Result<(), Failure> {
    save(file, |svg| draw(svg, happened, report))
}

pub(super) fn save(mut file: File, draw: impl FnOnce(&mut String) -> Drawn) -> Result<(), Failure> {
    let mut svg = String::new();
    draw(&mut svg)
        .map_err(|error| Failure::Usage(format!("the timeline cannot be drawn: {error}")))?;
    file.write_all(in_the_dark_too(&svg).as_bytes()).map_err(Failure::Output)
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

fn draw(svg: &mut String, happened: &Happened, report: &Report) -> Drawn {
    let picture = SVGBackend::with_string(svg, (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs()));
    let picture = picture.into_drawing_area();
    picture.fill(&WHITE)?;
    let scale = Scale::new(happened.end());
    draw_head(&picture, report)?;
    draw_bands(&picture, &bands(happened), &scale, HEIGHT)?;
    draw_requests(&picture, happened, &scale)?;
    let (_, rest) = picture.split_vertically(HELD_TOP);
    let (held, life) = rest.split_vertically(LIFE_TOP - HELD_TOP);
    draw_held(&held, happened, &scale)?;
    draw_life(&life, happened, &scale)?;
    picture.present()?;
    Ok(())
}

/// The time axis that all parts share.
pub(super) struct Scale {
    /// In seconds.
    pub(super) end: f64,
}

impl Scale {
    pub(super) fn new(end: Duration) -> Self {
        Self { end: end.as_secs_f64().max(1.0) }
    }

    pub(super) fn x(&self, at: Duration) -> i32 {
        let share = (at.as_secs_f64() / self.end).min(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "it is within the picture")]
        let offset = (f64::from(WIDTH - LEFT - RIGHT) * share).round() as i32;
        LEFT + offset
    }
}

/// Title, what the day came to, and what the colors and numbers mean.
fn draw_head(picture: &Area<'_>, report: &Report) -> Drawn {
    let figures = &report.figures;
    let title = format!("One session and {} callers on a bad day", figures.callers);
    let told = [
        format!("get_token answered {} times;", thousands(figures.get_token)),
        format!(
            "{} requests accepted with its tokens, {} refused;",
            thousands(figures.used),
            figures.refused
        ),
        format!(
            "grants sent: {}, never more than {} at once",
            figures.grants, figures.grants_in_flight_max
        ),
    ];
    draw_told(picture, title, told)?;
    let mut x = MARGIN;
    for sign in [Sign::Fresh, Sign::Stale, Sign::Held] {
        sign.draw(picture, (x + 8, LEGEND))?;
        picture.draw(&Text::new(sign.name(), (x + 22, LEGEND), label(19, HPos::Left)))?;
        x += 52 + width(sign.name(), 19);
    }
    draw_names(picture, Stage::ALL.map(Stage::name))
}

/// The title, and what it came to.
pub(super) fn draw_told(picture: &Area<'_>, title: String, told: [String; 3]) -> Drawn {
    picture.draw(&Text::new(title, (MARGIN, 16), text(28, INK)))?;
    for (told, y) in told.into_iter().zip((54..).step_by(LINE)) {
        picture.draw(&Text::new(told, (MARGIN, y), text(19, FAINT_INK)))?;
    }
    Ok(())
}

/// What the numbers of the bands mean.
pub(super) fn draw_names<const N: usize>(picture: &Area<'_>, names: [&str; N]) -> Drawn {
    let (mut x, mut y) = (MARGIN, STAGES);
    for (number, name) in (1..).zip(names) {
        let name = format!("{number} {name}");
        if x + width(&name, 19) > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + 24);
        }
        picture.draw(&Text::new(name.clone(), (x, y), label(19, HPos::Left)))?;
        x += width(&name, 19) + 20;
    }
    Ok(())
}

/// A stage as it is drawn.
pub(super) struct Band {
    pub(super) number: usize,
    pub(super) begin: Duration,
    pub(super) end: Duration,
    pub(super) color: RGBColor,
}

fn bands(happened: &Happened) -> Vec<Band> {
    let ends = happened.stages.iter().skip(1).map(|(_, begin)| *begin).chain([happened.end()]);
    let bands = happened.stages.iter().zip(ends).map(|((stage, begin), end)| {
        let number = Stage::ALL.iter().position(|other| other == stage).unwrap_or_default() + 1;
        Band { number, begin: *begin, end, color: color_of(*stage) }
    });
    bands.collect()
}

/// Behind everything else, with their numbers above.
pub(super) fn draw_bands(picture: &Area<'_>, bands: &[Band], scale: &Scale, height: i32) -> Drawn {
    for Band { number, begin, end, color } in bands {
        let (left, right) = (scale.x(*begin), scale.x(*end));
        let band = [(left, BANDS_TOP), (right, height - BOTTOM)];
        picture.draw(&Rectangle::new(band, color.filled()))?;
        let number = number.to_string();
        // In a band that is narrower it would be in the next one too.
        if width(&number, 18) <= right - left {
            let style = label(18, HPos::Center);
            picture.draw(&Text::new(number, (i32::midpoint(left, right), NUMBERS), style))?;
        }
    }
    Ok(())
}

/// Each request to the server in the lane of its kind.
fn draw_requests(picture: &Area<'_>, happened: &Happened, scale: &Scale) -> Drawn {
    for (sign, y) in Sign::LANES.iter().zip(LANES) {
        picture.draw(&Text::new(sign.name(), (LEFT - 10, y), label(19, HPos::Right)))?;
        let line = vec![(LEFT, y), (WIDTH - RIGHT, y)];
        picture.draw(&PathElement::new(line, FAINT_INK.mix(0.25)))?;
    }
    for mark in &happened.marks {
        let sign = Sign::of(mark);
        let lane = Sign::LANES.iter().position(|other| *other == sign).unwrap_or_default();
        let y = LANES[lane];
        let way = vec![(scale.x(mark.began), y), (scale.x(mark.ended), y)];
        picture.draw(&PathElement::new(way, sign.color().stroke_width(3)))?;
        sign.draw(picture, (scale.x(mark.ended), y))?;
    }
    Ok(())
}

/// How many callers wait, as a curve.
fn draw_held(area: &Area<'_>, happened: &Happened, scale: &Scale) -> Drawn {
    let curve = steps(&happened.samples);
    let most = curve.iter().map(|(_, held)| *held).fold(4.0, f64::max);
    draw_y_name(area, "callers held", GAP)?;
    let mut panel = ChartBuilder::on(area)
        .margin_right(RIGHT)
        .margin_bottom(GAP)
        .set_label_area_size(plotters::chart::LabelAreaPosition::Left, LEFT)
        .build_cartesian_2d(0.0..scale.end, 0.0..most * 1.1)?;
    draw_axes(&mut panel, None, &|held| format!("{held:.0}"))?;
    panel.draw_series(
        AreaSeries::new(curve, 0.0, HELD.mix(0.35)).border_style(HELD.stroke_width(2)),
    )?;
    Ok(())
}

/// How much life the token has left: a saw, whose teeth are tokens.
fn draw_life(area: &Area<'_>, happened: &Happened, scale: &Scale) -> Drawn {
    let tokens = tokens(&happened.samples);
    let longest = tokens.iter().flatten().map(|point| point.left).fold(0.1, f64::max);
    draw_y_name(area, "seconds to live", BOTTOM)?;
    let mut panel = ChartBuilder::on(area)
        .margin_right(RIGHT)
        .set_label_area_size(plotters::chart::LabelAreaPosition::Left, LEFT)
        .set_label_area_size(plotters::chart::LabelAreaPosition::Bottom, BOTTOM)
        .build_cartesian_2d(0.0..scale.end, 0.0..longest * 1.1)?;
    let seconds = "seconds since the start";
    draw_axes(&mut panel, Some(seconds), &|left| format!("{left:.1}"))?;
    for token in tokens {
        for (part, color) in fresh_and_stale(&token).into_iter().zip([FRESH, STALE]) {
            panel.draw_series(
                AreaSeries::new(part, 0.0, color.mix(0.3)).border_style(color.stroke_width(2)),
            )?;
        }
    }
    Ok(())
}

/// The backend, which knows no font, would put it too far to the left.
fn draw_y_name(area: &Area<'_>, name: &'static str, beneath: i32) -> Drawn {
    let (_, height) = area.dim_in_pixel();
    let middle = (i32::try_from(height)? - beneath) / 2;
    let style = label(19, HPos::Center).transform(FontTransform::Rotate270);
    area.draw(&Text::new(name, (LEFT - 90, middle), style))?;
    Ok(())
}

fn draw_axes(
    panel: &mut Panel<'_, '_>,
    x_name: Option<&str>,
    y_label: &dyn Fn(&f64) -> String,
) -> Drawn {
    let mut axes = panel.configure_mesh();
    axes.disable_x_mesh()
        .y_labels(5)
        .y_label_formatter(y_label)
        .label_style(text(19, INK))
        .axis_desc_style(text(19, INK))
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT_INK.mix(0.25))
        .axis_style(FAINT_INK);
    match x_name {
        Some(name) => axes.x_desc(name).x_labels(11).x_label_formatter(&|x| format!("{x:.0}")),
        None => axes.x_labels(0),
    };
    axes.draw()?;
    Ok(())
}

/// The curve of a number that stays as it is until it is another.
fn steps(samples: &[Sample]) -> Vec<(f64, f64)> {
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "far fewer callers wait than that")]
        let (at, held) = (sample.at.as_secs_f64(), sample.held as f64);
        match curve.last() {
            Some(&(_, before)) if before.total_cmp(&held).is_ne() => {
                curve.extend([(at, before), (at, held)]);
            }
            Some(_) if index + 1 < samples.len() => {}
            _ => curve.push((at, held)),
        }
    }
    curve
}

/// A moment in a token's life.
#[derive(Clone, Copy)]
struct Life {
    at: f64,
    left: f64,
    is_stale: bool,
}

/// The moments of each token. What is left of a life never grows, so more of it is another token.
fn tokens(samples: &[Sample]) -> Vec<Vec<Life>> {
    let mut tokens: Vec<Vec<Life>> = Vec::new();
    let mut before = None;
    for sample in samples {
        let remaining = sample.remaining.filter(|remaining| !remaining.is_zero());
        if let Some(remaining) = remaining {
            if before.is_none_or(|before| remaining > before) {
                tokens.push(Vec::new());
            }
            if let Some(token) = tokens.last_mut() {
                let (at, left) = (sample.at.as_secs_f64(), remaining.as_secs_f64());
                token.push(Life { at, left, is_stale: sample.is_stale });
            }
        }
        before = remaining;
    }
    tokens
}

/// A life is a straight line, so the first and the last moment of each part are all of it.
fn fresh_and_stale(token: &[Life]) -> [Vec<(f64, f64)>; 2] {
    let turn = token.iter().position(|moment| moment.is_stale).unwrap_or(token.len());
    let ends = |part: &[Life]| {
        let ends = part.first().into_iter().chain(part.last());
        ends.map(|moment| (moment.at, moment.left)).collect()
    };
    // The parts share a moment, so that there is no gap between them.
    [ends(&token[..token.len().min(turn + 1)]), ends(&token[turn..])]
}

/// What is drawn, and has a name in the picture.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Grant,
    FailedGrant,
    Exchange,
    Revocation,
    Held,
    Fresh,
    Stale,
}

impl Sign {
    /// Those of requests, from top to bottom.
    const LANES: [Self; 4] = [Self::Grant, Self::FailedGrant, Self::Exchange, Self::Revocation];

    /// An exchange or a revocation that fails is a failed figure, and has no sign of its own.
    fn of(mark: &Mark) -> Self {
        match (mark.purpose, mark.succeeded) {
            (Purpose::Grant, true) => Self::Grant,
            (Purpose::Grant, false) => Self::FailedGrant,
            (Purpose::Exchange, _) => Self::Exchange,
            (Purpose::Revoke, _) => Self::Revocation,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::FailedGrant => "failed",
            Self::Exchange => "exchange",
            Self::Revocation => "revocation",
            Self::Held => "callers held",
            Self::Fresh => "token fresh",
            Self::Stale => "token stale",
        }
    }

    fn color(self) -> RGBColor {
        match self {
            Self::Grant => GRANTED,
            Self::FailedGrant => FAILED,
            Self::Exchange => EXCHANGED,
            Self::Revocation => REVOKED,
            Self::Held => HELD,
            Self::Fresh => FRESH,
            Self::Stale => STALE,
        }
    }

    fn draw(self, picture: &Area<'_>, (x, y): Point) -> Drawn {
        let color = self.color();
        match self {
            Self::Grant => triangle(picture, (x, y), color),
            Self::FailedGrant => cross(picture, (x, y), color),
            Self::Exchange => dot(picture, (x, y), color),
            Self::Revocation => diamond(picture, (x, y), color),
            Self::Held | Self::Fresh | Self::Stale => {
                let swatch = [(x - 8, y - 6), (x + 8, y + 6)];
                picture.draw(&Rectangle::new(swatch, color.mix(0.35).filled()))?;
                let edge = vec![(x - 8, y - 6), (x + 8, y - 6)];
                picture.draw(&PathElement::new(edge, ShapeStyle::from(color).stroke_width(2)))?;
                Ok(())
            }
        }
    }
}

pub(super) fn triangle(picture: &Area<'_>, (x, y): Point, color: RGBColor) -> Drawn {
    let triangle = vec![(x, y - 7), (x + 7, y + 6), (x - 7, y + 6)];
    picture.draw(&Polygon::new(triangle, color.filled()))?;
    Ok(())
}

pub(super) fn cross(picture: &Area<'_>, (x, y): Point, color: RGBColor) -> Drawn {
    for (up, down) in [(y - 6, y + 6), (y + 6, y - 6)] {
        let stroke = vec![(x - 6, up), (x + 6, down)];
        picture.draw(&PathElement::new(stroke, color.stroke_width(3)))?;
    }
    Ok(())
}

pub(super) fn dot(picture: &Area<'_>, place: Point, color: RGBColor) -> Drawn {
    picture.draw(&Circle::new(place, 6, color.filled()))?;
    Ok(())
}

pub(super) fn diamond(picture: &Area<'_>, (x, y): Point, color: RGBColor) -> Drawn {
    let diamond = vec![(x, y - 8), (x + 7, y), (x, y + 8), (x - 7, y)];
    picture.draw(&Polygon::new(diamond, color.filled()))?;
    Ok(())
}

/// Pale, since everything else is drawn on top; warm where something is wrong.
pub(super) const fn color_of(stage: Stage) -> RGBColor {
    match stage {
        Stage::ColdStart => RGBColor(222, 235, 247),
        Stage::Refreshes => RGBColor(236, 246, 236),
        Stage::StaleOutage => RGBColor(254, 232, 200),
        Stage::Exchange => RGBColor(218, 232, 252),
        Stage::ExpiredOutage => RGBColor(252, 214, 208),
        Stage::Recovery => RGBColor(255, 246, 204),
        Stage::Steady => RGBColor(243, 245, 243),
        Stage::Revoke => RGBColor(236, 218, 240),
    }
}

pub(super) fn text(size: u32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
}

/// Vertically around its place.
pub(super) fn label(size: u32, from: HPos) -> TextStyle<'static> {
    text(size, INK).pos(Pos::new(from, VPos::Center))
}

/// A guess: which font the reader has is not known here.
pub(super) fn width(text: &str, size: i32) -> i32 {
    i32::try_from(text.len()).unwrap_or(i32::MAX).saturating_mul(size) / 2
}

/// 1234567 as "1,234,567".
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

// Narrow, and its letters large, so that it can be read on a phone.
pub(super) const WIDTH: i32 = 720;
const HEIGHT: i32 = 840;
pub(super) const MARGIN: i32 = 16;
/// What lies beside the time axis.
pub(super) const LEFT: i32 = 110;
pub(super) const RIGHT: i32 = 24;
/// What lies beneath it: its labels and its name.
pub(super) const BOTTOM: i32 = 60;
const GAP: i32 = 16;
const LINE: usize = 22;
pub(super) const LEGEND: i32 = 140;
const STAGES: i32 = 170;
pub(super) const BANDS_TOP: i32 = 214;
const NUMBERS: i32 = 230;
const LANES: [i32; 4] = [264, 292, 320, 348];
const HELD_TOP: i32 = 372;
const LIFE_TOP: i32 = 580;
pub(super) const INK: RGBColor = RGBColor(34, 40, 49);
pub(super) const FAINT_INK: RGBColor = RGBColor(96, 104, 114);
pub(super) const GRANTED: RGBColor = RGBColor(27, 120, 55);
pub(super) const FAILED: RGBColor = RGBColor(200, 30, 30);
pub(super) const EXCHANGED: RGBColor = RGBColor(33, 102, 172);
pub(super) const REVOKED: RGBColor = RGBColor(118, 42, 131);
pub(super) const HELD: RGBColor = RGBColor(214, 96, 20);
pub(super) const FRESH: RGBColor = RGBColor(67, 147, 90);
const STALE: RGBColor = RGBColor(214, 158, 30);
/// A color, and what is in its place where the page is dark.
const IN_THE_DARK: [(RGBColor, RGBColor); 14] = [
    (WHITE, RGBColor(13, 17, 23)),
    (INK, RGBColor(230, 237, 243)),
    (FAINT_INK, RGBColor(160, 170, 181)),
    (GRANTED, RGBColor(87, 190, 115)),
    (EXCHANGED, RGBColor(110, 168, 234)),
    (REVOKED, RGBColor(200, 130, 214)),
    (color_of(Stage::ColdStart), RGBColor(22, 38, 58)),
    (color_of(Stage::Refreshes), RGBColor(18, 34, 24)),
    (color_of(Stage::StaleOutage), RGBColor(62, 42, 14)),
    (color_of(Stage::Exchange), RGBColor(20, 34, 64)),
    (color_of(Stage::ExpiredOutage), RGBColor(66, 26, 22)),
    (color_of(Stage::Recovery), RGBColor(60, 54, 14)),
    (color_of(Stage::Steady), RGBColor(24, 29, 35)),
    (color_of(Stage::Revoke), RGBColor(50, 28, 56)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, held: usize, remaining_ms: Option<u64>) -> Sample {
        Sample {
            at: Duration::from_millis(at_ms),
            held,
            remaining: remaining_ms.map(Duration::from_millis),
            is_stale: remaining_ms.is_some_and(|left| left < 1_000),
        }
    }

    #[test]
    fn a_curve_has_a_point_for_each_end_of_each_step() {
        let samples: Vec<_> = [0, 0, 5, 5, 5, 0, 0].into_iter().zip(0_u64..).collect();
        let samples: Vec<_> =
            samples.into_iter().map(|(held, second)| sample(second * 1_000, held, None)).collect();
        let expected = [(0.0, 0.0), (2.0, 0.0), (2.0, 5.0), (5.0, 5.0), (5.0, 0.0), (6.0, 0.0)];
        assert_eq!(steps(&samples), expected);
        assert!(steps(&[]).is_empty());
    }

    #[test]
    fn a_life_that_grows_is_another_token() {
        let samples = [
            sample(0, 0, None),
            sample(1_000, 0, Some(2_000)),
            sample(2_000, 0, Some(1_000)),
            sample(2_500, 0, Some(500)),
            sample(3_000, 0, Some(2_000)),
            sample(5_000, 0, Some(0)),
            sample(6_000, 0, Some(1_500)),
        ];
        let tokens = tokens(&samples);
        assert_eq!(tokens.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1]);
        let [fresh, stale] = fresh_and_stale(&tokens[0]);
        assert_eq!(fresh, [(1.0, 2.0), (2.5, 0.5)]);
        assert_eq!(stale, [(2.5, 0.5), (2.5, 0.5)]);
    }

    #[test]
    fn large_numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
