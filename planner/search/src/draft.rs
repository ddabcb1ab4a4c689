//! A plan before its partitions have devices.

use std::collections::BTreeMap;

use graft_model::CutPoint;
use graft_plan::{Epoch, Order, Partition, Plan, Route, Stage};

use crate::cell::{Laid, StageDraft};
use crate::costs::{Costs, ModelIndex};
use crate::index::{FragmentAt, KindAt, ShareAt, StageAt, UnitAt};
use crate::merge::{Merged, Sorted};
use crate::problem::Problem;

/// A partition, or equal copies of it, before they have devices.
#[derive(Debug, Clone)]
pub(crate) struct PartitionDraft {
    pub share: ShareAt,
    pub copies: usize,
    pub order: Order,
    pub quantum_ms: f64,
    /// Its stages in the draft.
    pub stages: Vec<StageAt>,
    /// Devices on which its copies run in the running plan.
    pub homes: Vec<String>,
}

/// Stages, partitions and routes by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    pub stages: Vec<StageDraft>,
    pub partitions: Vec<PartitionDraft>,
    /// Merged fragments, each with its stages.
    pub routes: Vec<(UnitAt, Vec<StageAt>)>,
}

/// Devices for the copies of each partition, as indexes, and which partitions are left out for lack of room.
struct Seats {
    places: Vec<Vec<usize>>,
    left_out: Vec<bool>,
}

impl Draft {
    /// A draft of the stages, partitions and routes of some cells.
    pub fn of_cells<'a>(cells: impl IntoIterator<Item = &'a Laid>) -> Self {
        let mut draft = Draft::default();
        for laid in cells {
            let first = draft.stages.len();
            draft.stages.extend(laid.stages.iter().cloned());
            draft.partitions.push(PartitionDraft {
                share: laid.share,
                copies: laid.copies,
                order: laid.order,
                quantum_ms: laid.quantum_ms,
                stages: StageAt::range(first, draft.stages.len()).collect(),
                homes: vec![],
            });
            for (unit, stages) in &laid.routes {
                draft
                    .routes
                    .push((*unit, stages.iter().map(|s| s.after(first)).collect()));
            }
        }
        draft
    }

    pub fn cost(&self, costs: &Costs<'_>) -> u64 {
        let each = self.partitions.iter();
        each.map(|p| costs.cost(p.share) * p.copies as u64).sum()
    }

    /// Gives partitions devices and writes the plan. What there is no room for is infeasible, with
    /// `capacity_exhausted` set: partitions that serve the least rate for their cost go first.
    pub fn placed(
        &self,
        algorithm: &str,
        epoch: Epoch,
        problem: &Problem,
        costs: &Costs<'_>,
        sorted: &Sorted,
    ) -> Plan {
        let mut left_out: Vec<bool> = vec![false; self.partitions.len()];
        let places = loop {
            match self.places(problem, costs, &left_out) {
                Ok(places) => break places,
                Err(unplaced) => {
                    // A route needs all its stages: partitions that only serve routes through the one left out go too.
                    left_out[unplaced] = true;
                    let lost = self.lost(&left_out);
                    for (p, out) in self.partitions.iter().zip(&mut left_out) {
                        *out |= p.stages.iter().all(|s| !self.serves(*s, &lost));
                    }
                }
            }
        };
        let seats = Seats { places, left_out };
        self.written(Plan::empty(algorithm, epoch), problem, costs, sorted, &seats)
    }

    /// Merged fragments whose routes lead through partitions that are left out, by place in `routes`.
    fn lost(&self, left_out: &[bool]) -> Vec<bool> {
        let gone: Vec<StageAt> = self
            .partitions
            .iter()
            .zip(left_out)
            .filter(|(_, out)| **out)
            .flat_map(|(p, _)| p.stages.iter().copied())
            .collect();
        self.routes
            .iter()
            .map(|(_, stages)| stages.iter().any(|s| gone.contains(s)))
            .collect()
    }

    fn serves(&self, stage: StageAt, lost: &[bool]) -> bool {
        self.routes
            .iter()
            .zip(lost)
            .any(|((_, stages), lost)| !lost && stages.contains(&stage))
    }

    /// For each partition the devices of its copies. `Err`: there is no room for all; the index of the partition to
    /// leave out.
    fn places(
        &self,
        problem: &Problem,
        costs: &Costs<'_>,
        left_out: &[bool],
    ) -> Result<Vec<Vec<usize>>, usize> {
        struct Room {
            device: usize,
            free: u32,
            /// Bytes of the weights that are there already, by model and segment.
            held: BTreeMap<(ModelIndex, usize), u64>,
            bytes: u64,
        }
        let mut rooms: Vec<Room> = problem
            .usable()
            .map(|(device, d)| Room {
                device,
                free: d.share_total.0,
                held: BTreeMap::new(),
                bytes: 0,
            })
            .collect();
        let mut order: Vec<usize> = (0..self.partitions.len()).filter(|&p| !left_out[p]).collect();
        // Those that are somewhere already keep their places; then the largest first.
        order.sort_by_key(|&p| {
            let partition = &self.partitions[p];
            (partition.homes.is_empty(), std::cmp::Reverse(partition.share))
        });
        let mut places = vec![vec![]; self.partitions.len()];
        for p in order {
            let partition = &self.partitions[p];
            let share = costs.share(partition.share).0;
            let kind = &costs.profile(costs.kind_of(partition.share)).device_kind;
            let weights = self.weights(partition, costs);
            let models: Vec<&str> = weights.keys().map(|(m, _)| costs.name(*m)).collect();
            for copy in 0..partition.copies {
                let fits = |room: &&mut Room| {
                    let device = &problem.hardware.devices.devices[room.device];
                    let missing = weights.iter().filter(|(k, _)| !room.held.contains_key(k));
                    let more: u64 = missing.map(|(_, b)| b).sum();
                    device.kind == *kind
                        && room.free >= share
                        && room.bytes.saturating_add(more) <= device.memory_bytes
                        && models.iter().all(|m| problem.has(&device.id, m))
                };
                // The device on which the copy runs already, if it has room.
                let home = partition.homes.get(copy).map(String::as_str);
                let at_home = |room: &&mut Room| {
                    home == Some(problem.hardware.devices.devices[room.device].id.as_str())
                };
                let found = match rooms.iter_mut().filter(at_home).find(fits) {
                    Some(room) => Some(room.device),
                    None => rooms.iter_mut().find(fits).map(|room| room.device),
                };
                let Some(room) = rooms.iter_mut().find(|r| Some(r.device) == found) else {
                    let of_kind = costs.kind_of(partition.share);
                    return Err(self.least_worth(left_out, of_kind, costs).unwrap_or(p));
                };
                room.free -= share;
                for (key, bytes) in &weights {
                    if room.held.insert(*key, *bytes).is_none() {
                        room.bytes = room.bytes.saturating_add(*bytes);
                    }
                }
                places[p].push(room.device);
            }
        }
        Ok(places)
    }

    /// The partition of a kind that serves the least rate for its cost.
    fn least_worth(&self, left_out: &[bool], kind: KindAt, costs: &Costs<'_>) -> Option<usize> {
        let worth = |p: &PartitionDraft| {
            let rate: f64 = p.stages.iter().map(|&s| self.stages[s].rate_rps).sum();
            rate / (costs.size(p.share) * p.copies as f64)
        };
        (0..self.partitions.len())
            .filter(|&p| !left_out[p] && costs.kind_of(self.partitions[p].share) == kind)
            .min_by(|&a, &b| worth(&self.partitions[a]).total_cmp(&worth(&self.partitions[b])))
    }

    /// Bytes of a partition's weights, by model and segment.
    fn weights(&self, partition: &PartitionDraft, costs: &Costs<'_>) -> BTreeMap<(ModelIndex, usize), u64> {
        let kind = costs.kind_of(partition.share);
        let stages = partition.stages.iter().map(|&s| &self.stages[s]);
        stages
            .flat_map(|s| {
                s.range
                    .segments()
                    .map(|k| ((s.model, k), costs.weights(kind, s.model, k)))
            })
            .collect()
    }

    fn written(
        &self,
        mut plan: Plan,
        problem: &Problem,
        costs: &Costs<'_>,
        sorted: &Sorted,
        seats: &Seats,
    ) -> Plan {
        let lost = self.lost(&seats.left_out);
        let fragments = &problem.workload.fragments;
        let id = |i: &FragmentAt| fragments[*i].id.clone();
        plan.infeasible = sorted.infeasible.iter().map(id).collect();
        plan.capacity_exhausted = seats.left_out.iter().any(|o| *o);
        let used: Vec<bool> = StageAt::all(self.stages.len())
            .map(|s| self.serves(s, &lost))
            .collect();
        let rate = |s: StageAt| -> f64 {
            let through = self
                .routes
                .iter()
                .zip(&lost)
                .filter(|((_, stages), lost)| !**lost && stages.contains(&s));
            through.map(|((u, _), _)| sorted.merged[*u].rate_rps).sum()
        };
        let share_of = |s: StageAt| {
            let mut hosts = self.partitions.iter().filter(|p| p.stages.contains(&s));
            hosts.next().map_or(costs.least_of(KindAt::FIRST), |p| p.share)
        };
        for s in StageAt::all(self.stages.len()).filter(|s| used[s.get()]) {
            let stage = &self.stages[s];
            plan.stages.push(Stage {
                id: s.id(),
                model: costs.name(stage.model).to_owned(),
                from: stage.range.from(),
                to: stage.range.to(),
                batch: costs.requests(share_of(s), stage.batch),
                rate_rps: rate(s),
                deadline_ms: stage.deadline_ms,
            });
        }
        for (partition, devices) in self.partitions.iter().zip(&seats.places) {
            for &device in devices {
                let share = costs.share(partition.share);
                plan.total_share += u64::from(share.0);
                plan.partitions.push(Partition {
                    id: format!("p{}", plan.partitions.len()),
                    device: problem.hardware.devices.devices[device].id.clone(),
                    share,
                    order: partition.order,
                    quantum_ms: partition.quantum_ms,
                    stages: partition
                        .stages
                        .iter()
                        .filter(|s| used[s.get()])
                        .map(|s| s.id())
                        .collect(),
                });
            }
        }
        for ((unit, stages), lost) in self.routes.iter().zip(&lost) {
            for i in &sorted.merged[*unit].fragments {
                if *lost {
                    plan.infeasible.push(id(i));
                } else {
                    plan.routes.push(Route {
                        fragment: id(i),
                        stages: stages.iter().map(|s| s.id()).collect(),
                    });
                }
            }
        }
        plan.routes.extend(sorted.nothing_owed.iter().map(|i| Route {
            fragment: id(i),
            stages: vec![],
        }));
        plan.routes.sort_by(|a, b| a.fragment.cmp(&b.fragment));
        plan.infeasible.sort();
        plan
    }
}

/// Weights of what merged fragments of a cell need on a kind of device: everything behind the first partition point of
/// each model.
pub(crate) fn bytes_of(
    units: impl Iterator<Item = UnitAt>,
    kind: KindAt,
    merged: &[Merged],
    costs: &Costs<'_>,
) -> u64 {
    let mut first: BTreeMap<ModelIndex, CutPoint> = BTreeMap::new();
    for u in units {
        let at = first.entry(merged[u].model).or_insert(merged[u].point);
        *at = (*at).min(merged[u].point);
    }
    let of = |(model, from): (&ModelIndex, &CutPoint)| {
        (from.index()..costs.last(*model).index())
            .map(|k| costs.weights(kind, *model, k))
            .sum::<u64>()
    };
    first.iter().map(of).sum()
}
