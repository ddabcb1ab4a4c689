//! The running plan as cells again, so that planning can go on from it.

use std::collections::{BTreeMap, HashMap, HashSet};

use graft_model::CutPoint;
use graft_plan::{Order, Partition, Plan, Stage};

use crate::cell::{Cell, Group, Laid};
use crate::costs::{Costs, ModelIndex};
use crate::index::{KindAt, RunningAt, ShareAt, UnitAt};
use crate::merge::{Home, Merged};
use crate::problem::Problem;

/// A cell of the running plan.
#[derive(Debug)]
struct RunningCell<'p> {
    share: ShareAt,
    order: Order,
    quantum_ms: f64,
    /// Number of its copies, those on devices that are gone included.
    copies: usize,
    /// Devices of its copies.
    devices: Vec<&'p str>,
    stages: Vec<&'p Stage>,
    groups: Vec<(ModelIndex, Vec<CutPoint>)>,
}

/// Part of the time that its stage was planned for with which a merged fragment stays where it is.
const STILL: f64 = 0.9;

/// The running plan.
#[derive(Debug, Default)]
pub(crate) struct Running<'p> {
    cells: Vec<RunningCell<'p>>,
    homes: HashMap<&'p str, Home>,
}

/// Key of a group: the shared stage at its end, or a model whose fragments join nowhere.
#[derive(PartialEq, Eq, Hash)]
enum GroupKey<'p> {
    Joined(&'p str),
    /// Stages that join nowhere, by model: the n-th of equal range in the cell belong together.
    Apart(&'p str, usize),
}

impl<'p> Running<'p> {
    /// Reads a plan back. `None`: a route leads through several partitions, as no plan of this planner does, or the
    /// plan names something that is not known any more.
    pub fn of(plan: &'p Plan, problem: &Problem, costs: &Costs<'_>) -> Option<Self> {
        let stages = plan.stages_by_id();
        let mut alike: BTreeMap<&[String], Vec<&Partition>> = BTreeMap::new();
        for partition in &plan.partitions {
            alike.entry(&partition.stages).or_default().push(partition);
        }
        let mut running = Running::default();
        let mut cell_of: HashMap<&str, RunningAt> = HashMap::new();
        let mut gone: HashSet<&str> = HashSet::new();
        for copies in alike.into_values() {
            let first = copies[0];
            let known = |p: &&Partition| problem.usable().any(|(_, d)| d.id == p.device);
            let kind_of = |p: &Partition| {
                let mut devices = problem.usable().filter(|(_, d)| d.id == p.device);
                devices.next().and_then(|(_, d)| costs.kind(&d.kind))
            };
            // Copies on devices that are gone say nothing of the kind: where there are several, a cell that lost all of
            // its devices is forgotten.
            let only = || (costs.kinds().len() == 1).then_some(KindAt::FIRST);
            let Some(kind) = copies.iter().find_map(|p| kind_of(p)).or_else(only) else {
                gone.extend(first.stages.iter().map(String::as_str));
                continue;
            };
            let same = |p: &&Partition| {
                let alike =
                    p.share == first.share && p.order == first.order && p.quantum_ms == first.quantum_ms;
                alike && kind_of(p).is_none_or(|of_it| of_it == kind)
            };
            if !copies.iter().all(same) {
                return None;
            }
            for id in &first.stages {
                if cell_of.insert(id, RunningAt::new(running.cells.len())).is_some() {
                    return None;
                }
            }
            running.cells.push(RunningCell {
                share: costs.share_at(kind, first.share)?,
                order: first.order,
                quantum_ms: first.quantum_ms,
                copies: copies.len(),
                devices: copies
                    .iter()
                    .filter(|p| known(p))
                    .map(|p| p.device.as_str())
                    .collect(),
                stages: first
                    .stages
                    .iter()
                    .map(|id| stages.get(id.as_str()).copied())
                    .collect::<Option<_>>()?,
                groups: vec![],
            });
        }
        let several = plan.routes.iter().filter(|r| r.stages.len() > 1);
        let joined: HashSet<&str> = several
            .filter_map(|r| r.stages.last())
            .map(String::as_str)
            .collect();
        let mut groups: HashMap<(RunningAt, GroupKey<'p>), u32> = HashMap::new();
        for route in &plan.routes {
            let (Some(first), Some(last)) = (route.stages.first(), route.stages.last()) else {
                continue;
            };
            if gone.contains(first.as_str()) {
                continue;
            }
            let cell = *cell_of.get(first.as_str())?;
            if route
                .stages
                .iter()
                .any(|s| cell_of.get(s.as_str()) != Some(&cell))
            {
                return None;
            }
            let of_route: Vec<&Stage> = route
                .stages
                .iter()
                .map(|s| stages.get(s.as_str()).copied())
                .collect::<Option<_>>()?;
            let in_cell = &mut running.cells[cell.get()];
            let ends = stages.get(last.as_str())?;
            let key = if joined.contains(last.as_str()) {
                GroupKey::Joined(last)
            } else {
                let twins = in_cell
                    .stages
                    .iter()
                    .filter(|s| (&s.model, s.from, s.to) == (&ends.model, ends.from, ends.to));
                GroupKey::Apart(&ends.model, twins.take_while(|s| s.id != ends.id).count())
            };
            let model = costs.model(&ends.model)?;
            let group = *groups.entry((cell, key)).or_insert_with(|| {
                in_cell.groups.push((model, vec![]));
                in_cell.groups.len() as u32 - 1
            });
            let joins = &mut in_cell.groups[group as usize].1;
            joins.extend(of_route[1..].iter().map(|s| s.from));
            joins.sort_unstable();
            joins.dedup();
            running.homes.insert(&route.fragment, Home { cell, group });
        }
        Some(running)
    }

    /// Whether there is a running plan.
    pub fn is_any(&self) -> bool {
        !self.cells.is_empty()
    }

    pub fn home(&self, fragment: &str) -> Option<Home> {
        self.homes.get(fragment).copied()
    }

    /// The cells that still serve some fragment. A cell that lost devices has fewer copies.
    pub fn cells(&self, merged: &[Merged]) -> Vec<(RunningAt, Cell)> {
        let mut members: BTreeMap<RunningAt, BTreeMap<u32, Vec<UnitAt>>> = BTreeMap::new();
        for (unit, home) in UnitAt::all(merged.len()).filter_map(|u| Some((u, merged[u].home?))) {
            members
                .entry(home.cell)
                .or_default()
                .entry(home.group)
                .or_default()
                .push(unit);
        }
        let with_groups = members.into_iter().filter_map(|(at, groups)| {
            let cell = &self.cells[at.get()];
            let group = |(g, units): (u32, Vec<UnitAt>)| {
                let (model, joins) = &cell.groups[g as usize];
                Group {
                    model: *model,
                    joins: joins.clone(),
                    units,
                }
            };
            let copies = cell.devices.len();
            (copies > 0).then(|| {
                let groups = groups.into_iter().map(group).collect();
                (
                    at,
                    Cell {
                        share: cell.share,
                        copies,
                        order: cell.order,
                        quantum_ms: cell.quantum_ms,
                        groups,
                    },
                )
            })
        });
        with_groups.collect()
    }

    /// The load of one copy of a cell as it runs, headroom included.
    pub fn load(&self, at: RunningAt, costs: &Costs<'_>, headroom: f64) -> f64 {
        let cell = &self.cells[at.get()];
        let of_stage = |stage: &&Stage| {
            let model = costs.model(&stage.model)?;
            let batch = costs.batch_at(cell.share, stage.batch)?;
            let run = costs.run(model, stage.range()?, batch, cell.share, cell.quantum_ms);
            Some(stage.rate_rps * run.total_ms / f64::from(costs.requests(cell.share, batch)) / 1e3)
        };
        let work: f64 = cell.stages.iter().filter_map(of_stage).sum();
        work * (1.0 + headroom) / cell.copies as f64
    }

    /// Members of a cell that have clearly less time now than their stages were planned for.
    pub fn tighter(&self, at: RunningAt, cell: &Cell, merged: &[Merged], costs: &Costs<'_>) -> Vec<UnitAt> {
        let stages = &self.cells[at.get()].stages;
        let mut tighter = vec![];
        for group in &cell.groups {
            for &unit in &group.units {
                let m = &merged[unit];
                // The least deadline of the stages that begin at its partition point: it may have been in any of them.
                let time = stages
                    .iter()
                    .filter(|s| costs.model(&s.model) == Some(m.model) && s.from == m.point)
                    .map(|s| s.deadline_ms)
                    .fold(f64::INFINITY, f64::min);
                if m.budget_ms < time * STILL {
                    tighter.push(unit);
                }
            }
        }
        tighter
    }

    /// Whether a cell runs the same stages, for the same rates, as it does now.
    pub fn is_as_before(&self, at: RunningAt, laid: &Laid, costs: &Costs<'_>) -> bool {
        let like = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
        let before = &self.cells[at.get()];
        before.stages.len() == laid.stages.len()
            && before.devices.len() == laid.copies
            && laid.stages.iter().all(|now| {
                before.stages.iter().any(|s| {
                    costs.model(&s.model) == Some(now.model)
                        && (s.from, s.to) == (now.range.from(), now.range.to())
                        && s.batch == costs.requests(laid.share, now.batch)
                        && like(s.rate_rps, now.rate_rps)
                        && like(s.deadline_ms, now.deadline_ms)
                })
            })
    }

    /// Devices of a cell's copies.
    pub fn devices(&self, at: RunningAt) -> &[&'p str] {
        &self.cells[at.get()].devices
    }
}
