//! Owns the charts: plain SVG, coloured by the page's style sheet, with the browser's own tooltips.

use std::fmt::Write as _;

use super::html::escape;

const WIDTH: f64 = 1040.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
/// Width of a letter of the charts' text, about.
const LETTER: f64 = 6.6;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 26.0;

/// How values are laid out along the vertical axis.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By factors, from this smallest value.
    Logarithmic(f64),
}

/// A chart over time, drawn piece by piece, back to front.
pub struct Chart {
    svg: String,
    height: f64,
    from_ms: f64,
    to_ms: f64,
    scale: Scale,
    top_value: f64,
}

impl Chart {
    /// An empty chart of a stretch of time, for values up to `largest`.
    pub fn new(label: &str, height: f64, (from_ms, to_ms): (f64, f64), scale: Scale, largest: f64) -> Chart {
        let top_value = match scale {
            Scale::Linear => nice_above(largest),
            Scale::Logarithmic(smallest) => nice_above((largest * 1.6).max(smallest * 10.0)),
        };
        let to_ms = to_ms.max(from_ms + 1.0);
        let mut chart = Chart { svg: String::new(), height, from_ms, to_ms, scale, top_value };
        let _ = write!(
            chart.svg,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
            escape(label)
        );
        chart
    }

    fn x(&self, at_ms: f64) -> f64 {
        LEFT + (at_ms - self.from_ms) / (self.to_ms - self.from_ms) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / self.top_value,
            Scale::Logarithmic(smallest) => {
                (value.max(smallest) / smallest).ln() / (self.top_value / smallest).ln()
            }
        };
        self.height - BOTTOM - share.clamp(0.0, 1.0) * (self.height - TOP - BOTTOM)
    }

    /// Tinted stretches with their names on top.
    pub fn band(&mut self, name: &str, (from_ms, to_ms): (f64, f64), class: &str) {
        let (left, right) = (self.x(from_ms.max(self.from_ms)), self.x(to_ms.min(self.to_ms)));
        if right <= left {
            return;
        }
        let _ = write!(
            self.svg,
            "<rect class=\"band {class}\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            right - left,
            self.height - TOP - BOTTOM,
        );
        // A name that does not fit would run into the next one's.
        if right - left > name.chars().count() as f64 * LETTER + 6.0 {
            let (x, y, name) = (left + 5.0, TOP + 13.0, escape(name));
            let _ = write!(self.svg, "<text class=\"phase\" x=\"{x:.1}\" y=\"{y:.1}\">{name}</text>");
        }
    }

    /// Grid lines and the labels of both axes.
    pub fn axes(&mut self) {
        for value in self.value_ticks() {
            let y = self.y(value);
            let _ = write!(
                self.svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick value\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                tick_label(value)
            );
        }
        let span = self.to_ms - self.from_ms;
        let step = nice_above(span / 12.0);
        let mut at = (self.from_ms / step).ceil() * step;
        while at <= self.to_ms {
            let _ = write!(
                self.svg,
                "<text class=\"tick time\" x=\"{:.1}\" y=\"{:.1}\">{} s</text>",
                self.x(at),
                self.height - 8.0,
                tick_label(at / 1000.0)
            );
            at += step;
        }
    }

    fn value_ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => (0..=4).map(|quarter| self.top_value * f64::from(quarter) / 4.0).collect(),
            Scale::Logarithmic(smallest) => {
                let decades = (self.top_value / smallest).log10();
                let factors: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let first = smallest.log10().floor() as i32;
                let last = self.top_value.log10().ceil() as i32;
                let all = (first..=last)
                    .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
                all.filter(|value| (smallest * 0.999..=self.top_value * 1.001).contains(value)).collect()
            }
        }
    }

    /// The surface below a line of points.
    pub fn area(&mut self, points: &[(f64, f64)], class: &str) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let floor = self.height - BOTTOM;
        let line = self.line_path(points);
        let _ = write!(
            self.svg,
            "<path class=\"area {class}\" d=\"M{:.1} {floor:.1}L{}L{:.1} {floor:.1}Z\"/>\
             <path class=\"line {class}\" d=\"M{line}\"/>",
            self.x(first.0),
            line,
            self.x(last.0)
        );
    }

    /// Lines through points; `None` interrupts them.
    pub fn line(&mut self, points: &[(f64, Option<f64>)], class: &str) {
        let present = |part: &[(f64, Option<f64>)]| -> Vec<(f64, f64)> {
            part.iter().filter_map(|(at, value)| value.map(|value| (*at, value))).collect()
        };
        let parts = points.split(|(_, value)| value.is_none()).map(present).filter(|part| !part.is_empty());
        let path: String = parts.map(|part| format!("M{}", self.line_path(&part))).collect();
        let _ = write!(self.svg, "<path class=\"line {class}\" d=\"{path}\"/>");
    }

    fn line_path(&self, points: &[(f64, f64)]) -> String {
        let coordinates: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1} {:.1}", self.x(*at), self.y(*value))).collect();
        // A line of one point would be invisible.
        if coordinates.len() == 1 { format!("{}h0.1", coordinates[0]) } else { coordinates.join("L") }
    }

    /// A bar for each `(beginning, width, value)`: one path.
    pub fn bars(&mut self, bars: impl Iterator<Item = (f64, f64, f64)>, class: &str) {
        let floor = self.height - BOTTOM;
        let path: String = bars
            .filter(|(_, _, value)| *value > 0.0)
            .map(|(at, width, value)| {
                let (left, right) = (self.x(at), self.x(at + width) - 1.0);
                format!("M{left:.1} {floor:.1}V{:.1}H{right:.1}V{floor:.1}Z", self.y(value))
            })
            .collect();
        let _ = write!(self.svg, "<path class=\"bars {class}\" d=\"{path}\"/>");
    }

    /// A dot for each point: one path, however many there are.
    pub fn dots(&mut self, points: impl Iterator<Item = (f64, f64)>, class: &str) {
        let path: String =
            points.map(|(at, value)| format!("M{:.1} {:.1}h0", self.x(at), self.y(value))).collect();
        let _ = write!(self.svg, "<path class=\"dots {class}\" d=\"{path}\"/>");
    }

    /// Invisible columns that show a text when pointed at.
    pub fn tips(&mut self, columns: impl Iterator<Item = (f64, f64, String)>) {
        for (from_ms, to_ms, text) in columns {
            let (left, right) = (self.x(from_ms), self.x(to_ms));
            let _ = write!(
                self.svg,
                "<rect class=\"tip\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                right - left,
                self.height - TOP - BOTTOM,
                escape(&text)
            );
        }
    }

    /// A vertical line with its name above the chart.
    pub fn mark(&mut self, name: &str, at_ms: f64, class: &str) {
        let x = self.x(at_ms);
        let _ = write!(
            self.svg,
            "<line class=\"mark {class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text class=\"markname {class}\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            TOP - 6.0,
            self.height - BOTTOM,
            TOP - 10.0,
            escape(name)
        );
    }

    /// The finished SVG.
    pub fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `value`.
fn nice_above(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let nice = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= value * 0.999_999);
    nice.unwrap_or(10.0) * power
}

/// At most three digits after the point, none that say nothing; thousands as `k`.
fn tick_label(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{}k", tick_label(value / 1000.0));
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let rounded = [0.0, 0.3, 1.0, 1.01, 2.3, 30.0, 999.0].map(nice_above);
        assert_eq!(rounded, [1.0, 0.5, 1.0, 2.0, 2.5, 50.0, 1000.0]);
        assert_eq!([0.05, 2.5, 9000.0, 25_000.0].map(tick_label), ["0.05", "2.5", "9000", "25k"]);
    }

    #[test]
    fn points_lie_inside_whatever_their_value() {
        for scale in [Scale::Linear, Scale::Logarithmic(0.1)] {
            let chart = Chart::new("x", 200.0, (0.0, 100.0), scale, 50.0);
            for value in [0.0, 0.01, 50.0, 1e9] {
                assert!((TOP..=200.0 - BOTTOM).contains(&chart.y(value)), "{value} on {scale:?}");
            }
            assert!(chart.y(40.0) < chart.y(4.0), "more is higher");
        }
    }

    #[test]
    fn a_line_is_interrupted_where_nothing_was_measured() {
        let mut chart = Chart::new("x", 200.0, (0.0, 3.0), Scale::Linear, 1.0);
        chart.line(&[(0.0, Some(1.0)), (1.0, None), (2.0, Some(1.0)), (3.0, Some(0.5))], "a");
        let svg = chart.finish();
        let path = svg.split(" d=\"").nth(1).expect("a path");
        assert_eq!(path.matches('M').count(), 2, "{path}");
    }
}
