//! A report as a page.

use super::beside::{Torch, torch_name};
use super::check::{Report, STRETCH};

/// Text for a page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A row with a bar: how much of what is allowed was used, on a scale of powers of ten.
fn row(name: &str, note: &str, worst: f64, within: f64, ok: bool) -> String {
    let decades = 4.0;
    let used = (1.0 + (worst.max(1e-12) / within).log10() / decades).clamp(0.0, 1.0) * 100.0;
    let class = if ok { "ok" } else { "wrong" };
    format!(
        "<tr class={class}><td>{}<td>{}<td><div class=bar><div style=\"width:{used:.0}%\"></div></div><td class=n>{worst:.1e}</tr>",
        escaped(name),
        escaped(note)
    )
}

/// Rows of torch's best way with each network and batch, and how often its speed ours is, on the whole device.
fn against_torch(report: &Report, torch: &Torch) -> String {
    let whole = report.latency.iter().map(|l| l.sms).max();
    let on_whole = report.latency.iter().filter(|l| Some(l.sms) == whole);
    on_whole
        .filter_map(|ours| {
            let name = torch_name(&ours.network);
            let best = torch.best(&name, ours.batch)?;
            Some(format!(
                "<tr><td>torch {} {}<td>batch {}, {}<td class=n>{:.3} ms<td>ours is {:.2} times as fast</tr>",
                escaped(&torch.torch),
                escaped(&name),
                ours.batch,
                escaped(&best.mode),
                best.ms,
                best.ms / f64::from(ours.ms).max(1e-9)
            ))
        })
        .collect()
}

/// The page.
pub(super) fn of(report: &Report) -> String {
    let kernels: String = report
        .kernels
        .iter()
        .map(|k| {
            row(
                &k.name,
                &format!("{} cases {}", k.cases, k.wrong.join("; ")),
                k.worst,
                2e-3,
                k.ok,
            )
        })
        .collect();
    let models: String = report
        .models
        .iter()
        .map(|m| {
            row(
                &m.file,
                &format!("{} cut points {}", m.cuts, m.wrong.join("; ")),
                m.worst,
                1e-2,
                m.ok,
            )
        })
        .collect();
    let latency: String = report
        .latency
        .iter()
        .map(|l| {
            let kind = if l.modelled { "modelled" } else { "measured" };
            format!(
                "<tr><td>{}<td>batch {} on {} SMs<td class=n>{:.3} ms, {kind}</tr>",
                escaped(&l.network),
                l.batch,
                l.sms,
                l.ms
            )
        })
        .collect();
    let faults: String = report
        .faults
        .iter()
        .map(|f| {
            let class = if f.ok { "ok" } else { "wrong" };
            format!(
                "<tr class={class}><td>{}<td colspan=3>{}</tr>",
                escaped(f.name),
                escaped(&f.told)
            )
        })
        .collect();
    let together: String = report
        .together
        .iter()
        .map(|t| {
            format!(
                "<tr><td>{}<td>idle between two of {} chunks: {:.3} ms; put in ahead: {:.3} ms<td>alone {:.2} ms, beside another partition {:.2} ms<td>\
                 opened and run first in {:.1} ms, others delayed by {:.1} ms</tr>",
                escaped(&t.file),
                t.chunks,
                t.gap_ms,
                t.gap_ahead_ms,
                t.alone_ms,
                t.beside_ms,
                t.resize_ms,
                t.resize_pause_ms
            )
        })
        .collect();
    let torch: String = report.torch.iter().map(|t| against_torch(report, t)).collect();
    let elsewhere: String = [
        report.replay.as_ref().map(|r| {
            let told = format!("{} of {} cases equal in every bit", r.bits_equal, r.cases);
            row("on a software GPU", &told, r.worst, 2e-3, r.ok)
        }),
        report.sanitizer.as_ref().map(|s| {
            let class = if s.ok { "ok" } else { "wrong" };
            let told = if s.ok { "" } else { &s.told };
            format!(
                "<tr class={class}><td>compute-sanitizer<td colspan=3>{}</tr>",
                escaped(told)
            )
        }),
    ]
    .into_iter()
    .flatten()
    .chain(
        report
            .left_out
            .iter()
            .map(|what| format!("<tr><td>left out<td colspan=3>{}</tr>", escaped(what))),
    )
    .collect();
    let kind = if report.softgpu {
        " (a software GPU: nothing here is a real one's)"
    } else {
        ""
    };
    let stretched = match report.softgpu {
        true => format!(": modelled, and stretched {STRETCH} times"),
        false => String::new(),
    };
    format!(
        "<!doctype html><meta charset=utf-8><title>graft gpu-check</title>
<style>
body {{ font: 15px system-ui, sans-serif; max-width: 60em; margin: 2em auto; color: #222 }}
table {{ border-collapse: collapse; width: 100% }}
td {{ padding: .25em .6em; border-bottom: 1px solid #eee; vertical-align: top }}
td:first-child {{ white-space: nowrap }}
.n {{ text-align: right; font-variant-numeric: tabular-nums }}
.bar {{ background: #eee; width: 10em; height: .7em; margin-top: .35em }}
.ok .bar div {{ background: #2a7; height: 100% }}
.wrong .bar div {{ background: #c33; height: 100% }}
.wrong td:first-child {{ color: #c33; font-weight: bold }}
</style>
<h1>{} {}</h1>
<p>{} SMs, compute {}.{}, CUDA {}.{}{kind}. Bars: how much of what is allowed was used; each quarter is a power of ten.
<h2>Kernels, max|out − ref| / max|ref| within 2e-3</h2><table>{kernels}</table>
<h2>Networks, ‖out − ref‖ / ‖ref‖ within 1e-2</h2><table>{models}</table>
<h2>The same launches elsewhere</h2><table>{elsewhere}</table>
<h2>Launches of networks</h2><table>{latency}{torch}</table>
<h2>Chunks and partitions together{stretched}</h2><table>{together}</table>
<h2>Planned faults</h2><table>{faults}</table>
",
        escaped(&report.device.name),
        if report.ok { "computes what it should" } else { "does NOT compute what it should" },
        report.device.sms,
        report.device.capability / 10,
        report.device.capability % 10,
        report.device.driver / 1000,
        report.device.driver % 1000 / 10,
    )
}
