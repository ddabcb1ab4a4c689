//! What a new plan changes about a running one.

use std::collections::BTreeMap;

use graft_plan::{Partition, Plan};
use serde::{Deserialize, Serialize};

/// What becomes of the partitions of a running plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Ids (in the new plan) of partitions that go on as they are, on the same device.
    pub kept: Vec<String>,
    /// Ids (in the new plan) of partitions that go on as they are, on another device.
    pub moved: Vec<String>,
    /// Ids (in the new plan) of partitions that the running plan has none like.
    pub new: Vec<String>,
    /// Ids (in the running plan) of partitions that are not needed any more.
    pub gone: Vec<String>,
}

/// Numbers of partitions in each list of [`Changes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Partitions that go on as they are, on the same device.
    pub kept: usize,
    /// Partitions that go on as they are, on another device.
    pub moved: usize,
    /// Partitions that the running plan has none like.
    pub new: usize,
    /// Partitions that are not needed any more.
    pub gone: usize,
}

impl Changes {
    /// Length of each list.
    pub fn counts(&self) -> ChangeCounts {
        ChangeCounts {
            kept: self.kept.len(),
            moved: self.moved.len(),
            new: self.new.len(),
            gone: self.gone.len(),
        }
    }
}

/// What `next` changes about `running`. Partitions are the same if they have the same share, order and quantum, and
/// run the same layers with the same batch limits and deadlines; their names, and the rates, may differ.
pub fn changes(running: &Plan, next: &Plan) -> Changes {
    let mut left: BTreeMap<String, Vec<&Partition>> = BTreeMap::new();
    for partition in &running.partitions {
        left.entry(content(running, partition))
            .or_default()
            .push(partition);
    }
    let mut changes = Changes::default();
    let mut elsewhere = vec![];
    for partition in &next.partitions {
        let same = left.entry(content(next, partition)).or_default();
        match same.iter().position(|p| p.device == partition.device) {
            Some(at) => {
                same.swap_remove(at);
                changes.kept.push(partition.id.clone());
            }
            None => elsewhere.push(partition),
        }
    }
    for partition in elsewhere {
        let moved = left.get_mut(&content(next, partition)).and_then(Vec::pop);
        let list = if moved.is_some() {
            &mut changes.moved
        } else {
            &mut changes.new
        };
        list.push(partition.id.clone());
    }
    changes.gone = left.into_values().flatten().map(|p| p.id.clone()).collect();
    changes
}

fn content(plan: &Plan, partition: &Partition) -> String {
    let stages = plan.stages_by_id();
    let of = partition.stages.iter().filter_map(|id| stages.get(id.as_str()));
    let mut list: Vec<String> = of
        .map(|s| format!("{} {} {} {} {}", s.model, s.from, s.to, s.batch, s.deadline_ms))
        .collect();
    list.sort();
    format!(
        "{} {:?} {} {list:?}",
        partition.share, partition.order, partition.quantum_ms
    )
}
