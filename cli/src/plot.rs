//! Plots as SVG.

use std::fmt::Write;

/// Colours that colour-blind readers can tell apart: Okabe and Ito, "Color universal design", 2008.
const COLOURS: [&str; 8] = [
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999",
];
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 60.0;

/// Named values along an axis; none where nothing was measured.
pub(crate) struct Series {
    pub name: String,
    pub values: Vec<Option<f64>>,
}

/// An axis from a value to another.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// An axis from `low` to a little above the largest value, in even steps.
    fn even(series: &[Series], low: f64) -> Self {
        let values = series.iter().flat_map(|s| s.values.iter().flatten().copied());
        let high = values.fold(low, f64::max);
        Axis {
            low,
            high: if high > low {
                high + 0.05 * (high - low)
            } else {
                low + 1.0
            },
            logarithmic: false,
        }
    }

    fn over(series: &[Series]) -> Self {
        let values = series
            .iter()
            .flat_map(|s| s.values.iter().flatten().copied())
            .filter(|v| *v > 0.0);
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(v), h.max(v)));
        Axis {
            low: 10f64.powf(low.log10().floor()),
            high: (high * 1.3).max(low * 10.0),
            logarithmic: true,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let value = value.max(self.low);
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        let all: Vec<f64> = if self.logarithmic {
            let decades = (0..12).map(|i| self.low * 10f64.powi(i));
            decades.flat_map(|d| [d, 2.0 * d, 5.0 * d]).collect()
        } else {
            let step = round_step((self.high - self.low) / 6.0);
            let first = (self.low / step).ceil();
            // Marks are rounded, so that 0.1 + 0.2 is written 0.3.
            (0..12)
                .map(|i| ((first + f64::from(i)) * step * 1e6).round() / 1e6)
                .collect()
        };
        all.into_iter().filter(|t| *t <= self.high).collect()
    }
}

/// Step of about the given size: 1, 2 or 5 times a power of ten.
fn round_step(about: f64) -> f64 {
    let decade = 10f64.powf(about.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * decade);
    steps.into_iter().find(|s| *s >= about).unwrap_or(decade)
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn frame(title: &str, y_name: &str, series: &[Series], axis: &Axis) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        escaped(title),
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escaped(y_name)
    );
    for tick in axis.ticks() {
        let y = axis.y(tick);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
    }
    let mut x = LEFT;
    for (i, s) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let _infallible = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"46\">{}</text>",
            x + 15.0,
            escaped(&s.name)
        );
        x += 30.0 + 7.0 * s.name.len() as f64;
    }
    svg
}

/// Bars in groups, on a logarithmic axis.
pub(crate) fn bars(title: &str, y_name: &str, groups: &[String], series: &[Series]) -> String {
    let axis = Axis::over(series);
    let mut svg = frame(title, y_name, series, &axis);
    let wide = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    let bar = wide * 0.86 / series.len().max(1) as f64;
    for (g, group) in groups.iter().enumerate() {
        let start = LEFT + wide * g as f64 + wide * 0.07;
        for (i, s) in series.iter().enumerate() {
            let Some(value) = s.values.get(g).copied().flatten() else {
                continue;
            };
            let (x, y) = (start + bar * i as f64, axis.y(value));
            let _infallible = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}: {value}</title></rect>",
                bar * 0.92,
                HEIGHT - BOTTOM - y,
                COLOURS[i % COLOURS.len()],
                escaped(&s.name)
            );
            let _infallible = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" text-anchor=\"middle\">{value}</text>",
                x + bar * 0.46,
                y - 2.0
            );
        }
        let middle = LEFT + wide * (g as f64 + 0.5);
        let _infallible = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 18.0,
            escaped(group)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lines over an axis of named places.
pub(crate) fn lines(title: &str, x_name: &str, y_name: &str, places: &[String], series: &[Series]) -> String {
    let axis = Axis::over(series);
    let mut svg = frame(title, y_name, series, &axis);
    let step = (WIDTH - LEFT - RIGHT) / places.len().max(1) as f64;
    let x = |i: usize| LEFT + step * (i as f64 + 0.5);
    for (i, place) in places.iter().enumerate() {
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(i),
            HEIGHT - BOTTOM + 18.0,
            escaped(place)
        );
    }
    let _infallible = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 18.0,
        escaped(x_name)
    );
    for (i, s) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let at: Vec<(f64, f64)> = s
            .values
            .iter()
            .enumerate()
            .filter_map(|(p, v)| Some((x(p), axis.y((*v)?))))
            .collect();
        let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _infallible = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (x, y) in at {
            let _infallible = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lines over seconds, from `low` up, with marks at some times.
pub(crate) fn over_time(
    title: &str,
    y_name: &str,
    low: f64,
    seconds: usize,
    series: &[Series],
    marks: &[(f64, String)],
) -> String {
    let axis = Axis::even(series, low);
    let mut svg = frame(title, y_name, series, &axis);
    let x = |second: f64| LEFT + (WIDTH - LEFT - RIGHT) * second / seconds.max(1) as f64;
    let step = round_step(seconds as f64 / 10.0).max(1.0);
    let (top, bottom) = (TOP, HEIGHT - BOTTOM);
    let mut at = 0.0;
    while at <= seconds as f64 {
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>",
            x(at),
            bottom + 18.0
        );
        at += step;
    }
    let _infallible = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">seconds</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 18.0
    );
    for (at, what) in marks {
        let _infallible = writeln!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#bbb\" stroke-dasharray=\"3 3\"><title>{1}</title></line>",
            x(*at),
            escaped(what)
        );
    }
    for (i, s) in series.iter().enumerate() {
        // Where nothing was measured, the line is broken.
        for run in s
            .values
            .iter()
            .enumerate()
            .collect::<Vec<_>>()
            .split(|(_, v)| v.is_none())
        {
            let points = run.iter().filter_map(|(second, v)| {
                let y = axis.y((**v)?);
                Some(format!("{:.1},{y:.1}", x(*second as f64 + 0.5)))
            });
            let points: Vec<String> = points.collect();
            if points.is_empty() {
                continue;
            }
            let _infallible = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>",
                points.join(" "),
                COLOURS[i % COLOURS.len()]
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
