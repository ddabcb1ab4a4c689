//! A report as a page.

use super::check::Report;

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
                escaped(&l.file),
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
    let kind = if report.softgpu {
        " (a software GPU: nothing here is a real one's)"
    } else {
        ""
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
<h2>Launches of networks</h2><table>{latency}</table>
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
