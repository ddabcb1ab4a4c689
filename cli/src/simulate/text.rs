//! A simulation's report as text.

use std::fmt::Write;

use graft_simulator::{Decision, Report};

/// Most decisions that are listed; the page and the JSON have all.
const MOST_DECISIONS: usize = 12;

fn percent(part: f64) -> String {
    format!("{:.3}%", part * 100.0)
}

/// The report as text, for people.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _infallible = write(&mut out, report);
    out
}

fn write(out: &mut String, r: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "{}: {} clients for {} s (the first {} not counted) on {}{}, planned by {}, seed {}",
        r.scenario,
        r.clients,
        r.duration_s,
        r.warmup_s,
        r.device_kind,
        if r.modelled { " (modelled)" } else { "" },
        r.algorithm,
        r.seed
    )?;
    clients(out, r)?;
    server(out, r)?;
    writeln!(
        out,
        "\nshare: {:.1} in the mean, {} at most, {} held while plans overlapped; busy {:.0}% of it",
        r.share.mean,
        r.share.peak,
        r.share.peak_held,
        r.share.busy * 100.0
    )?;
    let b = &r.batches;
    writeln!(
        out,
        "batches: {} of {:.2} requests in the mean; closed since none waited {}, full {}, deadline {}; {} chunks, {} times one gave way",
        b.count, b.mean, b.closed_none_waiting, b.closed_full, b.closed_deadline, b.chunks, b.gave_way
    )?;
    let sizes: Vec<String> = b.sizes.iter().map(|(size, n)| format!("{size}: {n}")).collect();
    writeln!(out, "  by size: {}", sizes.join(", "))?;
    let switches = r.decisions.iter().filter(|d| d.switched_s.is_some()).count();
    writeln!(out, "\n{} plans made, {switches} switched to", r.decisions.len())?;
    let left_out = r.decisions.len().saturating_sub(MOST_DECISIONS);
    for decision in r.decisions.iter().take(MOST_DECISIONS) {
        writeln!(out, "  {}", decided(decision))?;
    }
    if left_out > 0 {
        writeln!(out, "  and {left_out} more (--json, --html)")?;
    }
    for note in &r.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

/// Writes what became of the clients' inferences.
pub(crate) fn clients(out: &mut String, r: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "\n{} of {} inferences in time: {}; {} left out by busy phones",
        r.in_time,
        r.inferences,
        percent(r.attainment),
        r.skipped
    )?;
    for (how, ended) in &r.ends {
        writeln!(out, "  {:>10} {how}, {} in time", ended.count, ended.in_time)?;
    }
    Ok(())
}

/// Writes what the server did with the requests that it received.
pub(crate) fn server(out: &mut String, r: &Report) -> std::fmt::Result {
    let s = &r.server;
    writeln!(
        out,
        "\nserver: {} of {} requests in the time it had: {}; {} late, {} given up by phones; {} more did not arrive whole",
        s.in_time,
        s.arrived,
        percent(s.attainment),
        s.late,
        s.given_up,
        s.handed_over - s.arrived
    )?;
    if s.lost > 0 {
        writeln!(out, "  {:>10} LOST: neither answered nor refused", s.lost)?;
    }
    for (why, count) in &s.refused {
        writeln!(out, "  {count:>10} refused: {why}")?;
    }
    writeln!(
        out,
        "  {:.2} / {:.2} / {:.2} / {:.2} ms at the server (median, 90%, 99%, 99.9%); {:.1} MB sent by phones",
        s.ms.p50,
        s.ms.p90,
        s.ms.p99,
        s.ms.p999,
        s.bytes as f64 / 1e6
    )?;
    Ok(())
}

/// One decision in words.
pub(super) fn decided(d: &Decision) -> String {
    let mut text = format!(
        "{:>7.2} s plan {}: {}; {} classes, {:.1} requests/s, share {}",
        d.at_s, d.epoch, d.cause, d.fragments, d.rate_rps, d.share
    );
    if d.part < 1.0 {
        text.push_str(&format!(", for {:.0}% of the load", d.part * 100.0));
    }
    if d.infeasible > 0 {
        text.push_str(&format!(", {} not served", d.infeasible));
    }
    text.push_str(&format!(
        "; {} kept, {} moved, {} new, {} gone",
        d.kept, d.moved, d.new, d.gone
    ));
    match (&d.failed, d.switched_s) {
        (Some(why), _) => text.push_str(&format!("; failed: {why}")),
        (None, Some(at)) => text.push_str(&format!("; in use after {:.2} s", at - d.at_s)),
        (None, None) => text.push_str("; never in use"),
    }
    text
}
