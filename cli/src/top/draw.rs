//! Drawing of a site's status.

use graft_planner::{PointStatus, Served, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};

use crate::plan::outcome;

/// Part in time below which a figure is red.
const GOOD: f64 = 0.99;
/// Number of the latest decisions that are shown.
const DECISIONS: usize = 5;

pub(super) fn frame(frame: &mut Frame<'_>, status: &Status, trouble: Option<&str>) {
    let partitions: usize = status.workers.iter().map(|w| w.partitions.len().max(1)).sum();
    let rows = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let area = frame.area();
    let [head, points, workers, decisions] = Layout::vertical([
        Constraint::Length(4 + u16::from(trouble.is_some())),
        Constraint::Length(rows(status.points.len() + 2).min(area.height / 3)),
        Constraint::Length(rows(partitions + 2).min(area.height / 3)),
        Constraint::Min(3),
    ])
    .areas(area);
    overview(frame, head, status, trouble);
    asked(frame, points, status);
    busy(frame, workers, status);
    decided(frame, decisions, status);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |p| format!("{:.2}%", p * 100.0))
}

fn ms(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
}

fn judged(served: &Served) -> Style {
    match served.attainment {
        Some(part) if part < GOOD => Style::new().fg(Color::Red),
        Some(_) => Style::new().fg(Color::Green),
        None => Style::new(),
    }
}

fn overview(frame: &mut Frame<'_>, area: Rect, status: &Status, trouble: Option<&str>) {
    let total = &status.total;
    let rolling = status
        .rolling_out
        .map_or(String::new(), |epoch| format!(", plan {epoch} rolls out"));
    let left_out = if status.infeasible > 0 {
        format!(", {} fragments left out", status.infeasible)
    } else {
        String::new()
    };
    let emulated = if status.workers.iter().flat_map(|w| &w.devices).any(|d| d.emulated) {
        "  devices are EMULATED"
    } else {
        ""
    };
    let mut lines = vec![
        Line::from(vec![
            Span::styled(format!("graft  plan {}", status.epoch), bold()),
            Span::raw(format!(
                "{rolling}: share {} of {}{left_out}; {} workers, {} routers{emulated}",
                status.share,
                status.share_total,
                status.workers.len(),
                status.routers.len()
            )),
        ]),
        Line::from(vec![
            Span::raw(format!("last 10 s: {:.1} requests/s, ", total.rate_rps)),
            Span::styled(format!("{} in time", percent(total.attainment)), judged(total)),
            Span::raw(format!(
                ", {} late, {} refused; p50 {} ms, p99 {} ms",
                total.late,
                total.refused,
                ms(total.p50_ms),
                ms(total.p99_ms)
            )),
        ]),
    ];
    let corrections: Vec<String> = status
        .corrections
        .iter()
        .map(|(kind, model, batch, times)| format!("{model} batch {batch} {times:.2}x on {kind}"))
        .collect();
    lines.push(if corrections.is_empty() {
        Line::from("runs take what was measured at first")
    } else {
        Line::from(format!(
            "runs take, of what was measured at first: {}",
            corrections.join(", ")
        ))
    });
    for trouble in trouble.into_iter().chain(status.store_trouble.as_deref()) {
        lines.push(Line::styled(trouble.to_owned(), Style::new().fg(Color::Red)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn asked(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let row = |p: &PointStatus| {
        Row::new(vec![
            p.model.clone(),
            p.partition_point.to_string(),
            format!("{:.1}", p.tightest_ms),
            format!("{:.1}", p.rate_rps),
            format!("{:.1}", p.planned_rps),
            format!("{:.1}", p.burstiness),
            percent(p.served.attainment),
            ms(p.served.p50_ms),
            ms(p.served.p99_ms),
            p.served.refused.to_string(),
        ])
        .style(judged(&p.served))
    };
    let mut points: Vec<&PointStatus> = status.points.iter().collect();
    points.sort_by(|a, b| b.rate_rps.total_cmp(&a.rate_rps));
    let header = [
        "model",
        "point",
        "budget",
        "asked/s",
        "planned/s",
        "bursts",
        "in time",
        "p50",
        "p99",
        "refused",
    ];
    let widths = [22, 5, 8, 8, 9, 6, 8, 8, 8, 7].map(Constraint::Length);
    let table = Table::new(points.into_iter().map(row), widths).header(Row::new(header).style(bold()));
    frame.render_widget(table, area);
}

fn busy(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let mut rows = vec![];
    for worker in &status.workers {
        for device in &worker.devices {
            if worker.partitions.iter().all(|p| p.device != device.id) {
                rows.push(Row::new(vec![
                    format!("{} ({})", device.id, device.kind),
                    "-".to_owned(),
                ]));
            }
        }
        for p in &worker.partitions {
            let device = worker.devices.iter().find(|d| d.id == p.device);
            let kind = device.map_or("?", |d| &d.kind);
            let total = device.map_or(0, |d| d.share_total);
            let r = &p.report;
            let filled = (r.busy.clamp(0.0, 1.0) * 20.0).round() as usize;
            let batch = r.requests as f64 / r.batches.max(1) as f64;
            rows.push(Row::new(vec![
                format!("{} ({kind})", p.device),
                r.id.clone(),
                format!("{} of {total}", p.share),
                format!(
                    "{}{} {:>3.0}%",
                    "#".repeat(filled),
                    ".".repeat(20 - filled.min(20)),
                    r.busy * 100.0
                ),
                r.queued.to_string(),
                r.requests.to_string(),
                format!("{batch:.1}"),
            ]));
        }
    }
    let header = [
        "device",
        "partition",
        "share",
        "busy",
        "queued",
        "served/s",
        "batch",
    ];
    let widths = [34, 12, 10, 26, 7, 8, 6].map(Constraint::Length);
    frame.render_widget(
        Table::new(rows, widths).header(Row::new(header).style(bold())),
        area,
    );
}

fn decided(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let mut lines = vec![Line::styled("decisions", bold())];
    for decision in status.decisions.iter().rev().take(DECISIONS) {
        let expected = percent(decision.predicted.attainment);
        let measured = decision.measured.as_ref().and_then(|m| m.attainment);
        lines.push(Line::from(format!(
            "plan {} ({}): {}; share {}, in time: expected {expected}, measured {}",
            decision.epoch,
            outcome(decision),
            decision.cause,
            decision.predicted.share,
            percent(measured)
        )));
    }
    frame.render_widget(Paragraph::new(lines), area);
}
