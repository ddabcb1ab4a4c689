//! A simulation's report as a page with plots.

use std::fmt::Write;

use graft_simulator::{Report, Second};

use crate::plot::{Series, bars, escaped, over_time};

/// The page, in one file without others, with the report in words at its top.
pub(crate) fn html(report: &Report, words: &str) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Graft</title><style>\
        body{font-family:sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
        pre{background:#f6f6f6;padding:1em;overflow-x:auto}svg{width:100%;height:auto}\
        table{border-collapse:collapse;font-size:13px}td,th{padding:3px 8px;border-bottom:1px solid #ddd;text-align:left}\
        </style></head><body>\n",
    );
    let _infallible = writeln!(
        page,
        "<h1>{}</h1>\n<pre>{}</pre>",
        escaped(&report.scenario),
        escaped(words.trim_end())
    );
    for svg in plots(report) {
        page.push_str(&svg);
    }
    if !report.decisions.is_empty() {
        decisions(&mut page, report);
    }
    page.push_str("</body></html>\n");
    page
}

fn series(name: &str, seconds: &[Second], value: impl Fn(&Second) -> Option<f64>) -> Series {
    Series {
        name: name.to_owned(),
        values: seconds.iter().map(value).collect(),
    }
}

fn part(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64 * 100.0)
}

fn plots(report: &Report) -> Vec<String> {
    let seconds = &report.seconds;
    let marks: Vec<(f64, String)> = report
        .decisions
        .iter()
        .filter_map(|d| Some((d.switched_s?, format!("plan {}: {}", d.epoch, d.cause))))
        .collect();
    let over = |title: &str, y: &str, low: f64, series: &[Series]| {
        over_time(title, y, low, seconds.len(), series, &marks)
    };
    let in_time = [
        series("all inferences", seconds, |s| part(s.in_time, s.inferences)),
        series("at the server, of what it received", seconds, |s| {
            part(s.server_in_time, s.arrived)
        }),
    ];
    let lowest = in_time
        .iter()
        .flat_map(|s| s.values.iter().flatten().copied())
        .fold(99.0, f64::min);
    let share = |of: fn(&Second) -> f64| seconds.iter().any(|s| of(s) > 0.0);
    let mut plots = vec![];
    // A load test does not see the plan.
    if share(|s| s.share as f64) {
        plots.push(over(
            "Share over time (dashed: switches of plans)",
            "share",
            0.0,
            &[
                series("plan in use", seconds, |s| Some(s.share as f64)),
                series("held, with plans that overlap", seconds, |s| Some(s.held as f64)),
                series("busy", seconds, |s| Some(s.busy)),
            ],
        ));
    }
    plots.extend([
        over(
            "In time, of what began in each second",
            "% in time",
            lowest.floor(),
            &in_time,
        ),
        over(
            "Inferences that began in each second",
            "a second",
            0.0,
            &[
                series("all", seconds, |s| Some(s.inferences as f64)),
                series("received by routers", seconds, |s| Some(s.arrived as f64)),
                series("on the phone", seconds, |s| Some(s.local as f64)),
                series("refused", seconds, |s| Some(s.refused as f64)),
                series("left out", seconds, |s| Some(s.skipped as f64)),
            ],
        ),
        over(
            "Phones, and partition points in use",
            "number",
            0.0,
            &[
                series("phones", seconds, |s| Some(s.phones as f64)),
                series("partition points", seconds, |s| Some(s.points as f64)),
            ],
        ),
    ]);
    let b = &report.batches;
    if b.count > 0 {
        plots.push(over(
            "Requests of a batch, in the mean",
            "requests",
            0.0,
            &[series("batch", seconds, |s| {
                (s.batches > 0).then(|| s.batched as f64 / s.batches as f64)
            })],
        ));
        let names: Vec<String> = b.sizes.keys().map(u32::to_string).collect();
        let counts = b.sizes.values().map(|n| Some(*n as f64)).collect();
        let one = |name: &str, values| Series {
            name: name.to_owned(),
            values,
        };
        plots.push(bars(
            "Batches by size",
            "batches",
            &names,
            &[one("batches", counts)],
        ));
        let why = ["none waiting", "full", "deadline"].map(str::to_owned);
        let counts = [b.closed_none_waiting, b.closed_full, b.closed_deadline];
        let counts = counts.map(|n| (n > 0).then_some(n as f64)).to_vec();
        plots.push(bars(
            "Why batches closed",
            "batches",
            &why,
            &[one("batches", counts)],
        ));
    }
    plots
}

fn decisions(page: &mut String, report: &Report) {
    page.push_str("<h2>Plans</h2>\n<table><tr><th>plan</th><th>decided, s</th><th>why</th><th>share</th><th>kept</th><th>moved</th><th>new</th><th>gone</th><th>in use, s</th></tr>\n");
    for d in &report.decisions {
        let end = match (&d.failed, d.switched_s) {
            (Some(why), _) => escaped(why),
            (None, Some(at)) => format!("{at:.2}"),
            (None, None) => "never".to_owned(),
        };
        let _infallible = writeln!(
            page,
            "<tr><td>{}</td><td>{:.2}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{end}</td></tr>",
            d.epoch,
            d.at_s,
            escaped(&d.cause),
            d.share,
            d.kept,
            d.moved,
            d.new,
            d.gone
        );
    }
    page.push_str("</table>\n");
}
