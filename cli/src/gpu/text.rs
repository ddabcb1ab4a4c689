//! A report as text.

use super::check::{Report, STRETCH};
use crate::output::line;

fn mark(ok: bool) -> &'static str {
    if ok { "ok   " } else { "WRONG" }
}

/// Prints it.
pub(super) fn text(report: &Report) -> anyhow::Result<()> {
    let kind = if report.softgpu { ", a software GPU" } else { "" };
    line(format_args!(
        "{} ({} SMs{kind})",
        report.device.name, report.device.sms
    ))?;
    line("kernels: max|out - ref| / max|ref|, to stay within 2e-3")?;
    for kernel in &report.kernels {
        line(format_args!(
            "  {} {:18} {:4} cases  {:.1e}",
            mark(kernel.ok),
            kernel.name,
            kernel.cases,
            kernel.worst
        ))?;
        for wrong in &kernel.wrong {
            line(format_args!("        {wrong}"))?;
        }
    }
    line("networks: |out - ref| / |ref|, to stay within 1e-2, whole and cut in two")?;
    for model in &report.models {
        line(format_args!(
            "  {} {}: {} cut point(s), {:.1e}",
            mark(model.ok),
            model.file,
            model.cuts,
            model.worst
        ))?;
        for wrong in &model.wrong {
            line(format_args!("        {wrong}"))?;
        }
    }
    for figure in &report.latency {
        let kind = if figure.modelled { "modelled" } else { "measured" };
        line(format_args!(
            "  {}: batch {:2} on {:3} SMs: {:.3} ms, {kind}",
            figure.network, figure.batch, figure.sms, figure.ms
        ))?;
    }
    if report.softgpu && !report.together.is_empty() {
        line(format_args!(
            "  chunks and partitions together, modelled and stretched {STRETCH} times:"
        ))?;
    }
    for found in &report.together {
        line(format_args!(
            "  {}: {} chunks, {:.3} ms idle between two, {:.3} ms where the next is put in ahead; a run {:.2} ms alone, {:.2} ms beside another \
             partition; {:.1} ms to open a partition and run there first, which delays others by {:.1} ms",
            found.file,
            found.chunks,
            found.gap_ms,
            found.gap_ahead_ms,
            found.alone_ms,
            found.beside_ms,
            found.resize_ms,
            found.resize_pause_ms,
        ))?;
    }
    for figure in report.torch.iter().flat_map(|t| &t.figures) {
        line(format_args!(
            "  torch {}: batch {:2}, {}: {:.3} ms",
            figure.network, figure.batch, figure.mode, figure.ms
        ))?;
    }
    for missing in report.torch.iter().flat_map(|t| &t.missing) {
        line(format_args!(
            "  torch {}, {}: not timed: {}",
            missing.network, missing.mode, missing.why
        ))?;
    }
    if let Some(replay) = &report.replay {
        line(format_args!(
            "  {} the same launches on a software GPU: {} of {} cases equal in every bit, {:.1e} apart at most",
            mark(replay.ok),
            replay.bits_equal,
            replay.cases,
            replay.worst
        ))?;
        for wrong in &replay.wrong {
            line(format_args!("        {wrong}"))?;
        }
    }
    if let Some(sanitizer) = &report.sanitizer {
        line(format_args!("  {} compute-sanitizer", mark(sanitizer.ok)))?;
        if !sanitizer.ok {
            line(&sanitizer.told)?;
        }
    }
    for what in &report.left_out {
        line(format_args!("  left out: {what}"))?;
    }
    for fault in &report.faults {
        line(format_args!(
            "  {} planned: {}; told: {}",
            mark(fault.ok),
            fault.name,
            fault.told
        ))?;
    }
    line(if report.ok {
        "all is well"
    } else {
        "NOT all is well"
    })
}
