//! A plan as a picture in text.

use std::collections::BTreeMap;
use std::fmt::Write;

use graft_model::CutPoint;
use graft_plan::{Plan, Stage, Workload};
use graft_planner::Snapshot;

/// Groups, stages, re-partition points, batches, shares.
pub(crate) fn draw(view: &Snapshot) -> String {
    let mut out = String::new();
    let Some(plan) = &view.plan else {
        return "no plan\n".to_owned();
    };
    let stages = plan.stages_by_id();
    for partition in &plan.partitions {
        let share = partition.share;
        let _infallible = writeln!(
            out,
            "partition {} on {}: share {share} ({}), quantum {:.1} ms",
            partition.id,
            partition.device,
            if share.0 == 1 { "one core" } else { "cores" },
            partition.quantum_ms
        );
        let mut models: BTreeMap<&str, Vec<&Stage>> = BTreeMap::new();
        for stage in partition.stages.iter().filter_map(|id| stages.get(id.as_str())) {
            models.entry(&stage.model).or_default().push(stage);
        }
        for (model, mut group) in models {
            let last = last_cut(view, model);
            group.sort_by_key(|s| (s.from, s.to));
            let name = view.models.get(model).map_or(model, String::as_str);
            let joins: Vec<String> = re_partition_points(plan, &group)
                .iter()
                .map(CutPoint::to_string)
                .collect();
            let joins = if joins.is_empty() {
                "none".to_owned()
            } else {
                joins.join(", ")
            };
            let _infallible = writeln!(
                out,
                "  {name}, cut points 0 to {last}, re-partition point: {joins}"
            );
            for stage in group {
                let _infallible = writeln!(out, "    {}", bar(stage, last, plan, &view.workload));
            }
        }
    }
    if !plan.infeasible.is_empty() {
        let _infallible = writeln!(out, "not served: {}", plan.infeasible.join(", "));
    }
    out
}

fn last_cut(view: &Snapshot, model: &str) -> usize {
    let hardware = view.hardware.as_ref();
    let last = hardware.and_then(|h| h.profiles.last_cut(model));
    last.map_or(1, CutPoint::index).max(1)
}

/// Where routes go from one stage to the next.
fn re_partition_points(plan: &Plan, group: &[&Stage]) -> Vec<CutPoint> {
    let mut points: Vec<CutPoint> = plan
        .routes
        .iter()
        .flat_map(|r| r.stages.iter().skip(1))
        .filter_map(|id| group.iter().find(|s| s.id == *id))
        .map(|s| s.from)
        .collect();
    points.sort();
    points.dedup();
    points
}

/// `[12, 20) ......======....  batch 4, 12.0 requests/s, within 30.1 ms: 3 fragments`
fn bar(stage: &Stage, last: usize, plan: &Plan, workload: &Workload) -> String {
    const WIDTH: usize = 50;
    let place = |cut: CutPoint| cut.index() * WIDTH / last;
    let (from, to) = (place(stage.from), place(stage.to).max(place(stage.from) + 1));
    let shared = plan
        .routes
        .iter()
        .any(|r| r.stages.iter().skip(1).any(|id| *id == stage.id));
    let mark = if shared { '#' } else { '=' };
    let line: String = (0..WIDTH.max(to))
        .map(|i| if (from..to).contains(&i) { mark } else { '.' })
        .collect();
    let fragments = plan
        .routes
        .iter()
        .filter(|r| r.stages.contains(&stage.id))
        .count();
    let handing_over = plan
        .routes
        .iter()
        .filter(|r| r.stages.first() == Some(&stage.id))
        .filter_map(|r| workload.fragments.iter().find(|f| f.id == r.fragment))
        .count();
    let kind = if shared { "shared" } else { "alignment or alone" };
    format!(
        "{:>9} {line} batch {}, {:.1} requests/s within {:.0} ms; {fragments} fragment(s), {handing_over} enter here ({kind})",
        format!("[{}, {})", stage.from, stage.to),
        stage.batch,
        stage.rate_rps,
        stage.deadline_ms
    )
}
