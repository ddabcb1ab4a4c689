//! `graft plan diff`: what a plan changes about another.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use graft_files::ReadFile;
use graft_plan::{Partition, Plan};
use graft_planner_search::{Changes, changes};
use serde_json::json;

use crate::Verdict;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The plan before (plan.json)
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The plan after (plan.json)
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// A partition in words: its device, its share, and what it runs.
fn words(plan: &Plan, id: &str) -> String {
    let stages = plan.stages_by_id();
    let Some(partition) = plan.partitions.iter().find(|p| p.id == id) else {
        return id.to_owned();
    };
    let Partition {
        device,
        share,
        quantum_ms,
        ..
    } = partition;
    let mut runs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for stage in partition.stages.iter().filter_map(|s| stages.get(s.as_str())) {
        let layers = format!("[{}, {}) at {:.1}/s", stage.from, stage.to, stage.rate_rps);
        runs.entry(&stage.model).or_default().push(layers);
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(model, layers)| format!("{} {}", model.get(..24).unwrap_or(model), layers.join(", ")))
        .collect();
    format!(
        "{id} on {device}, share {share}, quantum {quantum_ms:.2} ms: {}",
        runs.join("; ")
    )
}

pub(super) fn diff(arguments: &Diff) -> anyhow::Result<Verdict> {
    let before = Plan::read(&arguments.before)?;
    let after = Plan::read(&arguments.after)?;
    let changed = changes(&before, &after);
    let served = |plan: &Plan| -> Vec<String> { plan.routes.iter().map(|r| r.fragment.clone()).collect() };
    let (old, new) = (served(&before), served(&after));
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let b: std::collections::HashSet<&String> = b.iter().collect();
        a.iter().filter(|f| !b.contains(f)).cloned().collect()
    };
    let (joined, left) = (only(&new, &old), only(&old, &new));
    let same = changed.moved.is_empty() && changed.new.is_empty() && changed.gone.is_empty();
    if arguments.json {
        line(json!({
            "before": {"epoch": before.epoch, "cost": before.total_share},
            "after": {"epoch": after.epoch, "cost": after.total_share},
            "partitions": changed, "served_now": joined, "served_no_more": left, "same": same,
        }))?;
        return Ok(Verdict::Yes);
    }
    line(format_args!(
        "plan {} ({}, cost {}) to plan {} ({}, cost {})",
        before.epoch, before.algorithm, before.total_share, after.epoch, after.algorithm, after.total_share
    ))?;
    let Changes {
        kept,
        moved,
        new,
        gone,
    } = &changed;
    line(format_args!(
        "partitions: {} kept, {} moved, {} new, {} gone; fragments: {} served now, {} served no more",
        kept.len(),
        moved.len(),
        new.len(),
        gone.len(),
        joined.len(),
        left.len()
    ))?;
    for (sign, plan, list) in [("~", &after, moved), ("+", &after, new), ("-", &before, gone)] {
        for id in list {
            line(format_args!("{sign} {}", words(plan, id)))?;
        }
    }
    Ok(Verdict::Yes)
}
