//! Bytes by cut point, drawn.

use super::table::Report;
use crate::plot::{Series, escaped, lines};

pub(super) fn html(report: &Report<'_>) -> String {
    let places: Vec<String> = report.found.iter().map(|f| f.point.to_string()).collect();
    let series = |name: &str, of: &dyn Fn(&super::Found) -> f64| Series {
        name: name.to_owned(),
        values: report.found.iter().map(|f| Some(of(f))).collect(),
    };
    let jpeg = report.jpeg;
    let bytes = lines(
        "Bytes of a request",
        "cut point",
        "bytes",
        &places,
        &[
            series("32-bit floats", &|f| f.plain_bytes as f64),
            series("coded", &|f| f64::from(f.coding.mean_bytes)),
            series(&format!("the picture as JPEG {}", jpeg.quality), &|_| {
                jpeg.bytes as f64
            }),
        ],
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Graft</title><style>body{{font:15px sans-serif;max-width:900px;margin:2em auto}}</style></head><body>\n\
         <h1>{} in fewer bytes</h1>\n<p>The last cut point, {}, is the output. With the codings, at each cut point at most {:.2}% of the accuracy is lost, if the network is right as often as it says, and {:.1}% of {} first labels are others than without; with JPEG it is {:.2}% and {:.1}%.</p>\n{bytes}</body></html>\n",
        escaped(&report.model),
        report.last,
        100.0 * report.found.iter().map(|f| f.answers.loss()).fold(0.0, f64::max),
        100.0
            * report
                .found
                .iter()
                .map(|f| f.answers.others())
                .fold(0.0, f64::max),
        report.held,
        100.0 * jpeg.answers.loss(),
        100.0 * jpeg.answers.others(),
    )
}
