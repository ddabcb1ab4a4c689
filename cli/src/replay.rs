//! `graft replay`: how phones choose where to hand over, beside an oracle that knows the future.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use graft_client_core::Layers;
use graft_files::CatalogEntry;
use graft_model::{CutPoint, DType};
use graft_plan::Nanos;
use graft_simulator::{Trace, Walk, Walked};
use serde_json::{Value, json};

use crate::Verdict;
use crate::output::{can_be_written, line};
use crate::plot::{Series, escaped, lines};
use crate::scenario::read_traces;

/// Phones: what they are called, what all layers take on them, and what is asked for, in milliseconds.
const PHONES: [(&str, f64, u64); 3] = [
    ("fast", 60.0, 120),
    ("middling", 150.0, 250),
    ("slow", 400.0, 350),
];
/// What all layers take at the server, and what a request takes there at least, in milliseconds.
const SERVER_MS: (f64, f64) = (5.0, 1.0);
/// What coding takes on a phone: milliseconds for a megabyte of 32-bit floats.
const CODING_MS_PER_MB: f64 = 2.0;
/// Length of the traces that are made up, in seconds.
const MADE_UP_S: u32 = 300;
/// Of made-up traces that wander, how many of each kind.
const WANDERING: u64 = 3;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An ONNX file, a model.toml, or a folder with one: its bytes at each cut point, and its layers' operations
    #[arg(default_value = "models/efficientnet-lite0")]
    model: PathBuf,
    /// A folder of traces (CSV: time_s,bandwidth_mbps[,rtt_ms]); some that are made up are replayed in any case
    #[arg(long, value_name = "FOLDER")]
    traces: Option<PathBuf>,
    /// Round trip where a trace does not know it, in milliseconds
    #[arg(long, default_value_t = 40.0)]
    rtt_ms: f64,
    /// From one inference to the next, in milliseconds
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    every_ms: u64,
    /// Tensors travel as 32-bit floats, even if the model has features
    #[arg(long)]
    exact: bool,
    /// Seed of all that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// One trace, and what came of it with each phone.
struct Row {
    trace: String,
    walked: Vec<Walked>,
}

impl Row {
    fn all(&self) -> Walked {
        self.walked
            .iter()
            .fold(Walked::default(), |sum, one| sum.with(one))
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    anyhow::ensure!(
        (0.0..1e5).contains(&arguments.rtt_ms),
        "--rtt-ms {}: from 0 to 100000",
        arguments.rtt_ms
    );
    if let Some(html) = &arguments.html {
        can_be_written(html)?;
    }
    let (entry, _) = crate::model::open(&arguments.model)?;
    let mut traces = made_up()?;
    if let Some(folder) = &arguments.traces {
        traces.splice(0..0, read_traces(folder)?);
    }
    let mut rows = vec![];
    for (number, trace) in traces.iter().enumerate() {
        eprint!("\r{} of {} traces", number + 1, traces.len());
        let walked = PHONES.iter().map(|phone| {
            let walk = Walk {
                trace: Arc::clone(trace),
                rtt_ms: arguments.rtt_ms,
                layers: layers(&entry, phone.1, arguments.exact),
                server_ms: server_ms(&entry),
                slo: Nanos::from_millis(phone.2),
                every: Nanos::from_millis(arguments.every_ms),
                duration: Nanos((trace.length_s() * 1e9) as u64),
                seed: arguments.seed,
            };
            walk.play()
        });
        rows.push(Row {
            trace: trace.name.clone(),
            walked: walked.collect(),
        });
    }
    eprintln!();
    if let Some(html) = &arguments.html {
        std::fs::write(html, page(&entry, &rows)).with_context(|| html.display().to_string())?;
    }
    match arguments.json {
        true => line(json(&rows))?,
        false => print(&rows)?,
    }
    Ok(Verdict::Yes)
}

/// What layers are on a phone that takes so long for all of them.
fn layers(entry: &CatalogEntry, alone_ms: f64, exact: bool) -> Layers {
    let info = &entry.info;
    let coding = |point: CutPoint| info.coding(point).filter(|_| !exact);
    let all = info.whole().map_or(0, |whole| info.flops(whole)).max(1);
    let mut gone = 0;
    let mut head_ms = vec![0.0];
    for segment in &info.segments {
        gone += segment.flops;
        head_ms.push(alone_ms * gone as f64 / all as f64);
    }
    let plain = |point: CutPoint| info.cut(point).map_or(0, |cut| cut.bytes_sent(DType::F32));
    let points = || info.cut_points();
    Layers {
        allowed: [].into(),
        head_ms: head_ms.into(),
        rest_ms: [].into(),
        coding_ms: points()
            .map(|point| coding(point).map_or(0.0, |_| plain(point) as f64 / 1e6 * CODING_MS_PER_MB))
            .collect(),
        bytes: points()
            .map(|point| coding(point).map_or(plain(point) as u64, |coding| u64::from(coding.mean_bytes)))
            .collect(),
        answer_bytes: info.outputs().bytes_sent(DType::F32) as u64,
    }
}

fn server_ms(entry: &CatalogEntry) -> Vec<f64> {
    let info = &entry.info;
    let all = info.whole().map_or(0, |whole| info.flops(whole)).max(1) as f64;
    let from = |point| {
        info.tail(point)
            .map_or(0.0, |range| info.flops(range) as f64 / all)
    };
    let points = info.cut_points();
    points
        .map(|point| SERVER_MS.0 * from(point) + SERVER_MS.1)
        .collect()
}

/// Traces that show one thing each, and some that wander.
fn made_up() -> anyhow::Result<Vec<Arc<Trace>>> {
    let mbps = |name: &str, at: &dyn Fn(u32) -> f64| -> anyhow::Result<Arc<Trace>> {
        let rows: String = (0..MADE_UP_S).map(|s| format!("{s},{}\n", at(s))).collect();
        let text = format!("time_s,bandwidth_mbps\n{rows}");
        Ok(Arc::new(Trace::parse(name, &text)?))
    };
    let mut all = vec![
        mbps("steady 1", &|_| 1.0)?,
        mbps("steady 8", &|_| 8.0)?,
        mbps("steady 100", &|_| 100.0)?,
        mbps("50 and 2, 10 s each", &|s| {
            if s / 10 % 2 == 0 { 50.0 } else { 2.0 }
        })?,
        mbps("20 and 1, 2 s each", &|s| if s / 2 % 2 == 0 { 20.0 } else { 1.0 })?,
        mbps("30, nothing for 5 s of 30", &|s| {
            if s % 30 < 25 { 30.0 } else { 0.0 }
        })?,
        mbps("30, nothing for 1 s of 10", &|s| {
            if s % 10 < 9 { 30.0 } else { 0.0 }
        })?,
        mbps("40 falling to 0.4", &|s| {
            40.0 * 0.01f64.powf(f64::from(s) / f64::from(MADE_UP_S))
        })?,
        mbps("0.4 rising to 40", &|s| {
            0.4 * 100f64.powf(f64::from(s) / f64::from(MADE_UP_S))
        })?,
    ];
    for kind in ["5g", "lte", "wifi"] {
        all.extend(
            (1..=WANDERING).map(|seed| Arc::new(Trace::made_up(&format!("{kind} made up {seed}"), seed))),
        );
    }
    Ok(all)
}

fn total(rows: &[Row]) -> Walked {
    rows.iter()
        .fold(Walked::default(), |sum, row| sum.with(&row.all()))
}

fn print(rows: &[Row]) -> anyhow::Result<()> {
    let phones = PHONES.map(|(name, alone, slo)| format!("{name}, {alone:.0} ms alone, {slo} ms asked for"));
    line(format_args!(
        "in time, and mean latency, as parts of the oracle's: {}",
        phones.join("; ")
    ))?;
    let show = |name: &str, walked: &[Walked], all: &Walked| {
        let each = walked
            .iter()
            .chain([all])
            .map(|w| format!("{:>8.3} {:>6.3}", w.in_time_of_oracle(), w.latency_of_oracle()));
        line(format_args!("{name:<34}{}", each.collect::<Vec<_>>().join(" ")))
    };
    let heads = PHONES.iter().map(|p| p.0).chain(["all"]);
    line(format_args!(
        "{:<34}{}",
        "trace",
        heads
            .map(|name| format!("{name:>15}"))
            .collect::<Vec<_>>()
            .join(" ")
    ))?;
    for row in rows {
        show(&row.trace, &row.walked, &row.all())?;
    }
    let of_phone = |at: usize| {
        rows.iter()
            .fold(Walked::default(), |sum, row| sum.with(&row.walked[at]))
    };
    let phones: Vec<Walked> = (0..PHONES.len()).map(of_phone).collect();
    let all = total(rows);
    show("all", &phones, &all)?;
    let ends = all.ends.iter().map(|(end, count)| format!("{end} {count}"));
    line(format_args!(
        "{} inferences, {} in time, the oracle's {}; {} left out; {}",
        all.inferences,
        all.in_time,
        all.oracle_in_time,
        all.skipped,
        ends.collect::<Vec<_>>().join(", ")
    ))
}

fn json(rows: &[Row]) -> Value {
    let one = |w: &Walked| {
        json!({
            "inferences": w.inferences, "skipped": w.skipped, "in_time": w.in_time, "oracle_in_time": w.oracle_in_time,
            "mean_ms": w.sum_ms / w.inferences.max(1) as f64, "oracle_mean_ms": w.oracle_sum_ms / w.inferences.max(1) as f64,
            "in_time_of_oracle": w.in_time_of_oracle(), "latency_of_oracle": w.latency_of_oracle(), "ends": w.ends,
        })
    };
    let each = rows.iter().map(|row| {
        let phones: serde_json::Map<String, Value> = PHONES
            .iter()
            .zip(&row.walked)
            .map(|(phone, walked)| (phone.0.to_owned(), one(walked)))
            .collect();
        json!({ "trace": row.trace, "phones": phones, "all": one(&row.all()) })
    });
    json!({ "traces": each.collect::<Vec<_>>(), "all": one(&total(rows)) })
}

fn page(entry: &CatalogEntry, rows: &[Row]) -> String {
    let places: Vec<String> = (1..=rows.len()).map(|n| n.to_string()).collect();
    let series = |of: &dyn Fn(&Walked) -> f64| -> Vec<Series> {
        let one = |at: usize| Series {
            name: PHONES[at].0.to_owned(),
            values: rows.iter().map(|row| Some(of(&row.walked[at]))).collect(),
        };
        (0..PHONES.len()).map(one).collect()
    };
    let in_time = lines(
        "Inferences in time, as a part of the oracle's",
        "trace",
        "part",
        &places,
        &series(&Walked::in_time_of_oracle),
    );
    let latency = lines(
        "Mean latency, as a multiple of the oracle's",
        "trace",
        "times",
        &places,
        &series(&Walked::latency_of_oracle),
    );
    let names: String = rows
        .iter()
        .map(|row| format!("<li>{}</li>", escaped(&row.trace)))
        .collect();
    let all = total(rows);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Graft</title><style>body{{font:15px sans-serif;max-width:900px;margin:2em auto}}</style></head><body>\n\
         <h1>Where phones hand over</h1>\n<p>{}, modelled; {} inferences; {:.1}% of the oracle's in time, {:.3} of its mean latency.</p>\n{in_time}{latency}<ol>{names}</ol></body></html>\n",
        escaped(&entry.manifest.name),
        all.inferences,
        100.0 * all.in_time_of_oracle(),
        all.latency_of_oracle(),
    )
}
