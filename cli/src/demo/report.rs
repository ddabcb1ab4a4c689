//! What the demonstration showed, as text and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;

use graft_files::CatalogEntry;
use graft_model::{Batch, Discrepancy};
use graft_plan::Epoch;
use graft_planner::Snapshot;
use serde_json::{Value, json};

use super::phones::{Phone, Record, Sample};
use super::picture_of_plan;
use crate::infer::top;

/// Difference of an output from the whole model's that is allowed.
const MAX_DIFFERENCE: f64 = 1e-3;

/// One phone's line.
struct Line {
    id: String,
    /// Partition point that it took most often.
    partition_point: u16,
    budget_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    slo_ms: f64,
    requests: usize,
    in_time: usize,
    local: usize,
    failed: usize,
    points: BTreeSet<u16>,
    /// Reason why it ran locally, the last time.
    why: Option<String>,
}

/// What the demonstration showed.
pub(crate) struct Report<'a> {
    entry: &'a CatalogEntry,
    lines: Vec<Line>,
    requests: usize,
    answered: usize,
    in_time: usize,
    failed: usize,
    served: usize,
    largest_batch: u32,
    max_abs_diff: f64,
    /// Largest outputs for the photograph by the server's answers: class, label and value.
    top: Vec<(usize, String, f32)>,
    /// Class and label of the photograph by the whole model here.
    expected: (usize, String),
    known_label: Option<String>,
    wrong_labels: usize,
    epochs: BTreeSet<Epoch>,
    view: Snapshot,
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    let index = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(0.0)
}

/// The largest classes of a picture's first output.
fn classes(outputs: &Batch, entry: &CatalogEntry, count: usize) -> Vec<(usize, String, f32)> {
    let first = outputs.tensors().first();
    first.map_or(vec![], |output| top(output, &entry.labels, count))
}

impl<'a> Report<'a> {
    pub fn new(
        entry: &'a CatalogEntry,
        samples: &[Sample],
        phones: &[Phone],
        records: Vec<Record>,
        view: Snapshot,
    ) -> Self {
        let expected: Vec<usize> = samples
            .iter()
            .map(|s| classes(&s.outputs, entry, 1).first().map_or(0, |t| t.0))
            .collect();
        let first = classes(&samples[0].outputs, entry, 1);
        let mut report = Report {
            entry,
            lines: phones
                .iter()
                .enumerate()
                .map(|(i, p)| line(i, p, &records))
                .collect(),
            requests: records.len(),
            answered: 0,
            in_time: records.iter().filter(|r| r.in_time).count(),
            failed: 0,
            served: 0,
            largest_batch: 0,
            max_abs_diff: 0.0,
            top: vec![],
            expected: first.first().map_or((0, String::new()), |t| (t.0, t.1.clone())),
            known_label: samples[0].label.clone(),
            wrong_labels: 0,
            epochs: BTreeSet::new(),
            view,
        };
        for record in &records {
            let Ok(answer) = &record.outcome else {
                report.failed += 1;
                continue;
            };
            report.answered += 1;
            let sample = &samples[record.sample];
            let difference = sample.outputs.difference(&answer.outputs);
            let difference = difference.unwrap_or(Discrepancy::INCOMPARABLE);
            report.max_abs_diff = report.max_abs_diff.max(difference.most);
            let label = classes(&answer.outputs, entry, 5);
            report.wrong_labels += usize::from(label.first().map(|t| t.0) != Some(expected[record.sample]));
            if answer.local.is_none() {
                report.served += 1;
                report.epochs.extend(answer.epoch);
                report.largest_batch = report.largest_batch.max(answer.server.map_or(0, |t| t.batch));
                if record.sample == 0 && report.top.is_empty() {
                    report.top = label;
                }
            }
        }
        report
    }

    /// What went wrong; empty: nothing.
    pub fn failures(&self) -> Vec<String> {
        let mut list = vec![];
        let mut demand = |holds: bool, what: String| {
            if !holds {
                list.push(what);
            }
        };
        demand(self.served > 0, "no request was served by a plan".to_owned());
        demand(
            self.max_abs_diff < MAX_DIFFERENCE,
            format!(
                "an output differs from the whole model's by {:.3e}, {MAX_DIFFERENCE:.0e} is allowed",
                self.max_abs_diff
            ),
        );
        demand(
            self.wrong_labels == 0,
            format!(
                "{} answers have another label than the whole model's",
                self.wrong_labels
            ),
        );
        demand(
            self.failed == 0,
            format!("{} requests got no answer", self.failed),
        );
        if let Some(known) = &self.known_label {
            let served = self.top.first().map_or("", |t| &t.1);
            demand(
                served == known,
                format!("the photograph shows {known}, the server says {served:?}"),
            );
        }
        list
    }

    fn share(&self) -> u64 {
        self.view.plan.as_ref().map_or(0, |p| p.total_share)
    }

    pub fn json(&self) -> Value {
        let phones: Vec<Value> = self
            .lines
            .iter()
            .map(|l| {
                json!({
                    "id": l.id, "partition_point": l.partition_point, "budget_ms": l.budget_ms,
                    "p50_ms": l.p50_ms, "p99_ms": l.p99_ms, "slo_ms": l.slo_ms, "requests": l.requests,
                    "in_time": l.in_time, "local": l.local, "failed": l.failed,
                    "partition_points": l.points, "why_local": l.why,
                })
            })
            .collect();
        let top5: Vec<Value> = self
            .top
            .iter()
            .map(|(c, l, v)| json!({ "class": c, "label": l, "value": v }))
            .collect();
        json!({
            "model": self.entry.manifest.name,
            "model_id": self.entry.info.id,
            "phones": phones,
            "requests": self.requests,
            "answered": self.answered,
            "served": self.served,
            "in_time": self.in_time,
            "late": self.answered - self.in_time,
            "failed": self.failed,
            "max_abs_diff": self.max_abs_diff,
            "top1": self.top.first().map(|t| t.1.clone()),
            "top1_whole": self.expected.1,
            "top1_known": self.known_label,
            "top5": top5,
            "epochs": self.epochs.len(),
            "plan_epochs": self.epochs,
            "largest_batch": self.largest_batch,
            "total_share": self.share(),
            "total_share_alone": self.view.cost_alone.round() as u64,
            "plan": self.view.plan,
            "failures": self.failures(),
        })
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out)
            .unwrap_or_else(|_| out.push_str("(the report could not be written)"));
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "The photograph, by the server's answers (whole model here: {}):",
            self.expected.1
        )?;
        for (class, label, value) in &self.top {
            writeln!(out, "  {value:>9.4}  {label} ({class})")?;
        }
        writeln!(
            out,
            "\nPhones (latency from the time at which a request was to be sent):"
        )?;
        writeln!(
            out,
            "  {:<14} {:>10} {:>9} {:>8} {:>8} {:>8} {:>9} {:>8} {:>6}",
            "phone",
            "cut points",
            "budget ms",
            "p50 ms",
            "p99 ms",
            "asked ms",
            "requests",
            "in time",
            "local"
        )?;
        for l in &self.lines {
            let points: Vec<String> = l.points.iter().map(u16::to_string).collect();
            writeln!(
                out,
                "  {:<14} {:>10} {:>9.1} {:>8.1} {:>8.1} {:>8.0} {:>9} {:>8} {:>6}",
                l.id,
                points.join(","),
                l.budget_ms,
                l.p50_ms,
                l.p99_ms,
                l.slo_ms,
                l.requests,
                l.in_time,
                l.local
            )?;
        }
        for l in self.lines.iter().filter(|l| l.why.is_some()) {
            writeln!(
                out,
                "  {} ran locally, the last time because {}",
                l.id,
                l.why.as_deref().unwrap_or("")
            )?;
        }
        let epochs: Vec<String> = self.epochs.iter().map(Epoch::to_string).collect();
        writeln!(
            out,
            "\n{} requests: {} answered, {} of them by the server, {} in time, {} late, {} failed; plans used: {}",
            self.requests,
            self.answered,
            self.served,
            self.in_time,
            self.answered - self.in_time,
            self.failed,
            epochs.join(", ")
        )?;
        writeln!(
            out,
            "Largest difference from the whole model's output: {:.1e}",
            self.max_abs_diff
        )?;
        if let Some(plan) = &self.view.plan {
            writeln!(out, "\nPlan {} ({}):", plan.epoch, plan.algorithm)?;
        }
        out.push_str(&picture_of_plan::draw(&self.view));
        writeln!(
            out,
            "Share: {} as planned; {} if every fragment had a partition of its own (computed, not run)",
            self.share(),
            self.view.cost_alone
        )?;
        for failure in self.failures() {
            writeln!(out, "FAILED: {failure}")?;
        }
        Ok(())
    }
}

fn line(number: usize, phone: &Phone, records: &[Record]) -> Line {
    let own: Vec<&Record> = records.iter().filter(|r| r.phone == number).collect();
    let answers: Vec<_> = own.iter().filter_map(|r| r.outcome.as_ref().ok()).collect();
    let mut latencies: Vec<f64> = own
        .iter()
        .filter(|r| r.outcome.is_ok())
        .map(|r| r.latency_ms)
        .collect();
    latencies.sort_by(f64::total_cmp);
    let points: BTreeSet<u16> = answers.iter().map(|a| a.partition_point.0).collect();
    let often = |p: u16| answers.iter().filter(|a| a.partition_point.0 == p).count();
    let mut budgets: Vec<f64> = answers.iter().map(|a| a.budget_ms).collect();
    budgets.sort_by(f64::total_cmp);
    Line {
        id: phone.id.clone(),
        partition_point: points.iter().copied().max_by_key(|&p| often(p)).unwrap_or(0),
        budget_ms: percentile(&budgets, 0.5),
        p50_ms: percentile(&latencies, 0.5),
        p99_ms: percentile(&latencies, 0.99),
        slo_ms: phone.slo.as_secs_f64() * 1e3,
        requests: own.len(),
        in_time: own.iter().filter(|r| r.in_time).count(),
        local: answers.iter().filter(|a| a.local.is_some()).count(),
        failed: own.iter().filter(|r| r.outcome.is_err()).count(),
        points,
        why: answers
            .iter()
            .rev()
            .find_map(|a| a.local.as_ref().map(ToString::to_string)),
    }
}
