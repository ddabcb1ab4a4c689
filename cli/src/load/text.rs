//! A load's report as text.

use std::fmt::Write;

use graft_simulator::Report;

use super::Measured;
use crate::simulate::text::{clients, server};

/// The report as text, for people.
pub(super) fn text(report: &Report, measured: &Measured) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _infallible = write(&mut out, report, measured);
    out
}

fn write(out: &mut String, r: &Report, m: &Measured) -> std::fmt::Result {
    writeln!(
        out,
        "{}: {} clients for {} s (the first {} not counted){}, seed {}, against {}{}",
        r.scenario,
        r.clients,
        r.duration_s,
        r.warmup_s,
        if m.stretch == 1.0 {
            String::new()
        } else {
            format!(" stretched {} times", m.stretch)
        },
        r.seed,
        m.routers.join(", "),
        if m.emulated {
            ", on EMULATED devices: no layer was run"
        } else {
            ""
        },
    )?;
    clients(out, r)?;
    server(out, r)?;
    let epochs: Vec<String> = r.server.epochs.iter().map(|(e, n)| format!("{e}: {n}")).collect();
    writeln!(out, "answers by plan: {}", epochs.join(", "))?;
    writeln!(
        out,
        "open loop: sent {:.2} / {:.2} / {:.2} ms after they were due (median, 99%, most), which the server's time includes; {} in flight at most",
        m.lag.p50_ms, m.lag.p99_ms, m.lag.max_ms, m.most_in_flight
    )?;
    for note in &r.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
