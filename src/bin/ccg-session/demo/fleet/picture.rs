//! The run as a picture: a lane for each replica, on one time axis. Of the same style as the plain demo's.

use std::time::Duration;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::drawing::IntoDrawingArea;
use plotters::element::{PathElement, Text};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, RGBColor, WHITE};

use super::super::plot::{
    Area, BANDS_TOP, BOTTOM, Band, Drawn, EXCHANGED, FAILED, FAINT_INK, FRESH, GRANTED, HELD, INK,
    LEFT, LEGEND, MARGIN, Point, REVOKED, RIGHT, Scale, WIDTH, color_of, cross, diamond, dot,
    draw_bands, draw_names, draw_told, label, text, triangle, width,
};
use super::super::record::Stage as Day;
use super::super::report::time;
use super::happened::{Happened, Moment, Stage};
use super::report::Report;

pub(super) fn draw(svg: &mut String, report: &Report) -> Drawn {
    let happened = &report.happened;
    let lanes = i32::try_from(happened.lanes.len())?;
    let height = LANES_TOP + lanes * LANE + BOTTOM;
    let picture = SVGBackend::with_string(svg, (WIDTH.unsigned_abs(), height.unsigned_abs()));
    let picture = picture.into_drawing_area();
    picture.fill(&WHITE)?;
    let scale = Scale::new(happened.end);
    draw_head(&picture, report)?;
    draw_bands(&picture, &bands(happened), &scale, height)?;
    for (replica, nth) in (0..happened.lanes.len()).zip(0..) {
        let y = LANES_TOP + nth * LANE + LANE / 2;
        let name = format!("replica {}", replica + 1);
        picture.draw(&Text::new(name, (LEFT - 10, y), label(19, HPos::Right)))?;
        draw_lane(&picture, happened, replica, y, &scale)?;
    }
    let (_, axis) = picture.split_vertically(height - BOTTOM - 1);
    draw_axis(&axis, &scale)?;
    picture.present()?;
    Ok(())
}

fn draw_head(picture: &Area<'_>, report: &Report) -> Drawn {
    let count = report.happened.lanes.len();
    let store = if report.is_redis { "Redis" } else { "a directory" };
    let told = [
        format!(
            "over {store}, tokens of {:.1} s; callers' errors: {};",
            report.life.as_secs_f64(),
            report.errors()
        ),
        format!(
            "grants sent: {}; as many sessions by themselves sent {};",
            report.grants, report.grants_of_singles
        ),
        format!(
            "longest wait after the kill {}; once revoked, gone after {}",
            report.waited_after_kill().map_or("unknown".into(), time),
            report.stopped_after_revoke().map_or("unknown".into(), time),
        ),
    ];
    draw_told(picture, format!("{count} processes share one token"), told)?;
    let mut x = MARGIN;
    for sign in Sign::ALL {
        sign.draw(picture, (x + 8, LEGEND))?;
        picture.draw(&Text::new(sign.name(), (x + 22, LEGEND), label(19, HPos::Left)))?;
        x += 36 + width(sign.name(), 19);
    }
    draw_names(picture, Stage::ALL.map(Stage::name))
}

fn bands(happened: &Happened) -> Vec<Band> {
    let band = |(number, stage)| {
        let (begin, end) = happened.span(stage)?;
        Some(Band { number, begin, end, color: color(stage) })
    };
    (1..).zip(Stage::ALL).filter_map(band).collect()
}

fn color(stage: Stage) -> RGBColor {
    color_of(match stage {
        Stage::ColdStart => Day::ColdStart,
        Stage::Refresh => Day::Refreshes,
        Stage::Killed => Day::ExpiredOutage,
        Stage::StartedAgain => Day::Recovery,
        Stage::Revoked => Day::Revoke,
        Stage::Steady => Day::Steady,
    })
}

/// A line while the process lives, thick where callers wait, and what happened on top of it.
fn draw_lane(
    picture: &Area<'_>,
    happened: &Happened,
    replica: usize,
    y: i32,
    scale: &Scale,
) -> Drawn {
    let lane = &happened.lanes[replica];
    let is_of = |moment: &Moment| moment.replica == replica;
    let killed = happened.killed.filter(is_of).map(|moment| moment.at);
    let again = happened.started_again.filter(is_of).map(|moment| moment.at);
    let stretch = |from, to, color: RGBColor, width| {
        let way = vec![(scale.x(from), y), (scale.x(to), y)];
        picture.draw(&PathElement::new(way, color.stroke_width(width)))
    };
    stretch(Duration::ZERO, killed.unwrap_or(happened.end), FRESH, 2)?;
    if let Some(again) = again {
        stretch(again, happened.end, FRESH, 2)?;
    }
    for (from, to) in &lane.waits {
        stretch(*from, *to, HELD, 6)?;
    }
    for token in lane.tokens.iter().filter(|token| token.from_store) {
        Sign::Taken.draw(picture, (scale.x(token.at), y))?;
    }
    for ask in lane.asks.iter().filter(|ask| ask.is_granted) {
        Sign::Asked.draw(picture, (scale.x(ask.ended), y))?;
    }
    if let Some(killed) = killed {
        Sign::Killed.draw(picture, (scale.x(killed), y))?;
    }
    if let Some((revoked, _)) = happened.revoked.filter(|(moment, _)| is_of(moment)) {
        Sign::Revoked.draw(picture, (scale.x(revoked.at), y))?;
    }
    Ok(())
}

fn draw_axis(area: &Area<'_>, scale: &Scale) -> Drawn {
    let mut axis = ChartBuilder::on(area)
        .margin_right(RIGHT)
        .margin_left(LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, BOTTOM)
        .build_cartesian_2d(0.0..scale.end, 0.0..1.0)?;
    axis.configure_mesh()
        .disable_mesh()
        .y_labels(0)
        .x_labels(11)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc("seconds since the start")
        .label_style(text(19, INK))
        .axis_desc_style(text(19, INK))
        .axis_style(FAINT_INK)
        .draw()?;
    Ok(())
}

/// What is drawn, and has a name in the picture.
#[derive(Clone, Copy)]
enum Sign {
    Asked,
    Taken,
    Waited,
    Killed,
    Revoked,
}

impl Sign {
    const ALL: [Self; 5] = [Self::Asked, Self::Taken, Self::Waited, Self::Killed, Self::Revoked];

    fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked the server",
            Self::Taken => "from the store",
            Self::Waited => "waited",
            Self::Killed => "killed",
            Self::Revoked => "revoked",
        }
    }

    fn draw(self, picture: &Area<'_>, (x, y): Point) -> Drawn {
        match self {
            Self::Asked => triangle(picture, (x, y), GRANTED),
            Self::Taken => dot(picture, (x, y), EXCHANGED),
            Self::Waited => {
                let line = vec![(x - 8, y), (x + 8, y)];
                picture.draw(&PathElement::new(line, HELD.stroke_width(6)))?;
                Ok(())
            }
            Self::Killed => cross(picture, (x, y), FAILED),
            Self::Revoked => diamond(picture, (x, y), REVOKED),
        }
    }
}

const LANE: i32 = 40;
/// Beneath the bands' numbers.
const LANES_TOP: i32 = BANDS_TOP + 30;
