//! Owns drawing: lines over a logarithmic axis, and bars in groups, as SVG. The same figures give the same bytes, and no font
//! of this machine is asked.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Display;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (860, 460);
const FONT: &str = "sans-serif";
/// Told apart by people who see few colours as well (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// Numbers that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What they are.
    pub name: String,
    /// Place and height; in bars the place is the number of the group.
    pub points: Vec<(f64, f64)>,
}

/// A picture without its numbers.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The axis below, with its unit.
    pub x: &'a str,
    /// The axis at the side, with its unit.
    pub y: &'a str,
}

/// Lines with a mark at each number.
///
/// # Errors
/// If there is nothing to draw.
pub fn lines(frame: Frame<'_>, series: &[Series]) -> Result<String> {
    let places = || series.iter().flat_map(|one| one.points.iter().map(|point| point.0));
    let (from, to) = (places().fold(f64::MAX, f64::min), places().fold(0.0, f64::max));
    let ticks: Vec<f64> = distinct(places());
    anyhow::ensure!(from > 0.0 && from <= to, "nothing to draw in `{}`", frame.title);
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(frame.title, (FONT, 18))
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d((from * 0.8..to * 1.25).log_scale().with_key_points(ticks), 0.0..top(series))
            .map_err(failed)?;
        let mesh = &mut chart.configure_mesh();
        mesh.x_desc(frame.x).y_desc(frame.y).axis_desc_style((FONT, 15)).label_style((FONT, 13));
        mesh.light_line_style(WHITE)
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .draw()
            .map_err(failed)?;
        for (one, colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
            let points = || one.points.iter().copied();
            let line = LineSeries::new(points(), colour.stroke_width(2));
            let key = move |(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], colour.filled());
            chart.draw_series(line).map_err(failed)?.label(one.name.as_str()).legend(key);
            let marks = points().map(|point| Circle::new(point, 4, colour.filled()));
            chart.draw_series(marks).map_err(failed)?;
        }
        legend(&mut chart)
    })
}

/// Bars side by side, a group for each of `groups`.
///
/// # Errors
/// If there is nothing to draw.
pub fn bars(frame: Frame<'_>, groups: &[String], series: &[Series]) -> Result<String> {
    anyhow::ensure!(!groups.is_empty() && top(series) > 0.0, "nothing to draw in `{}`", frame.title);
    let width = 0.84 / series.len() as f64;
    let name = |place: &f64| {
        let at = place.round();
        let whole = (place - at).abs() < 0.01 && at >= 0.0;
        groups.get(at as usize).filter(|_| whole).cloned().unwrap_or_default()
    };
    drawn(|area| {
        let places = -0.5..groups.len() as f64 - 0.5;
        let mut chart = ChartBuilder::on(area)
            .caption(frame.title, (FONT, 18))
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(places, 0.0..top(series))
            .map_err(failed)?;
        let mesh = &mut chart.configure_mesh();
        mesh.x_desc(frame.x).y_desc(frame.y).axis_desc_style((FONT, 15)).label_style((FONT, 12));
        // Halves as well: then the whole ones, which have names, are among them.
        mesh.light_line_style(WHITE)
            .disable_x_mesh()
            .x_labels(2 * groups.len() + 1)
            .x_label_formatter(&name)
            .y_label_formatter(&short);
        mesh.draw().map_err(failed)?;
        for ((at, one), colour) in series.iter().enumerate().zip(COLOURS.into_iter().cycle()) {
            let bar = |&(group, height): &(f64, f64)| {
                let left = group - 0.42 + width * at as f64;
                Rectangle::new([(left, 0.0), (left + width * 0.92, height)], colour.filled())
            };
            let key = move |(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], colour.filled());
            chart
                .draw_series(one.points.iter().map(bar))
                .map_err(failed)?
                .label(one.name.as_str())
                .legend(key);
        }
        legend(&mut chart)
    })
}

fn drawn(draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn legend<'a, X: Ranged<ValueType = f64>>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, RangedCoordf64>>,
) -> Result<()> {
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).margin(12).label_font((FONT, 13));
    labels.background_style(WHITE.mix(0.85)).border_style(RGBColor(180, 180, 180)).draw().map_err(failed)
}

/// A height with room above the highest, where the names of all series stand.
fn top(series: &[Series]) -> f64 {
    let highest = series.iter().flat_map(|one| one.points.iter().map(|point| point.1)).fold(0.0, f64::max);
    highest / (0.92 - 0.055 * series.len() as f64).max(0.4)
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    // Names of ticks that are nearer than this would lie on each other.
    values.dedup_by(|next, last| *next < *last * 1.25);
    values
}

fn short(value: &f64) -> String {
    let digits = match value.abs() {
        size if size == 0.0 || size >= 10.0 => 0,
        size if size >= 1.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("a picture cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame<'_> = Frame { title: "Pause", x: "dirty pages", y: "pause, ms" };

    fn series() -> Vec<Series> {
        let points = vec![(1.0, 1.5), (100.0, 1.75), (10_000.0, 4.0)];
        vec![Series { name: "median".into(), points }]
    }

    #[test]
    fn axes_are_named_marks_are_there_and_the_same_figures_give_the_same_bytes() {
        let text = lines(FRAME, &series()).expect("a picture");
        for wanted in ["dirty pages", "pause, ms", "median", "10000", "<svg"] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert_eq!(text.matches("<circle").count(), 3);
        assert_eq!(text, lines(FRAME, &series()).expect("a picture"));
    }

    #[test]
    fn each_group_has_its_name_and_each_number_its_bar() {
        let groups = ["idle".to_owned(), "busy".to_owned()];
        let two = vec![
            Series { name: "one".into(), points: vec![(0.0, 1.0), (1.0, 2.0)] },
            Series { name: "other".into(), points: vec![(1.0, 3.0)] },
        ];
        let text = bars(FRAME, &groups, &two).expect("a picture");
        assert!(text.contains("idle") && text.contains("busy"), "{text}");
        let bare = bars(FRAME, &groups, &two[..1]).expect("a picture");
        let bars = |text: &str| text.matches("<rect").count();
        // One bar more, and its mark in the legend.
        assert_eq!(bars(&text), bars(&bare) + 2);
    }

    #[test]
    fn nothing_cannot_be_drawn() {
        assert!(lines(FRAME, &[]).is_err());
        assert!(bars(FRAME, &[], &series()).is_err());
    }
}
