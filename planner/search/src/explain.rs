//! Why a plan is as it is, in words and numbers.

use std::collections::BTreeMap;
use std::fmt;

use graft_certify::Tally;
use graft_model::CutPoint;
use graft_plan::{Fleet, Fragment, Hardware, Order, Partition, Plan, Workload};
use serde::Serialize;

use crate::alone::of_all;
use crate::cell::{BatchRule, Cell, Group, lay};
use crate::costs::Costs;
use crate::index::UnitAt;
use crate::merge::{MergeOptions, merge};

/// A group: fragments of one model that the same partitions serve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupExplanation {
    /// The model.
    pub model: String,
    /// Ids of its fragments.
    pub fragments: Vec<String>,
    /// Partition points of its fragments.
    pub partition_points: Vec<CutPoint>,
    /// Tightest and loosest time budget, in milliseconds.
    pub budgets_ms: (f64, f64),
    /// Requests per second of all its fragments.
    pub rate_rps: f64,
    /// Re-partition points, at which its fragments join; empty: they join nowhere.
    pub re_partition_points: Vec<CutPoint>,
    /// Part of the partitions' time that the group takes in full batches, as planned.
    pub load: f64,
    /// The same part if no fragment joined others. `None`: some fragment could not be in time.
    pub load_apart: Option<f64>,
    /// The same part if all fragments joined at the latest partition point. `None`: they have only one partition point,
    /// or some fragment could not be in time.
    pub load_joined: Option<f64>,
    /// Cost of its fragments on partitions of their own, one set for each partition point: in share, or in the devices'
    /// prices.
    pub cost_alone: f64,
    /// Id of the fragment with the tightest budget.
    pub tightest: String,
    /// Part of that fragment's requests that the simulation answered in time.
    pub tightest_attainment: Option<f64>,
}

/// A cell: equal partitions with the groups that they serve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellExplanation {
    /// Ids of the partitions.
    pub partitions: Vec<String>,
    /// Share of each partition.
    pub share: u32,
    /// Kind of device.
    pub device_kind: String,
    /// Share of a whole device.
    pub share_total: u32,
    /// Order in which stages run: by earliest deadline, or in turns.
    pub order: Order,
    /// Longest chunk, in milliseconds; 0: runs are not cut.
    pub quantum_ms: f64,
    /// Groups that the partitions serve.
    pub groups: Vec<GroupExplanation>,
}

/// Explains each group of a plan. `attained`: what a simulation gave, by fragment.
pub fn explain(
    plan: &Plan,
    workload: &Workload,
    hardware: &Hardware,
    attained: &[(String, Tally)],
) -> Vec<CellExplanation> {
    let (costs, fleet) = (Costs::new(hardware), hardware.fleet());
    let fragments: BTreeMap<&str, &Fragment> =
        workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect();
    let attained: BTreeMap<&str, Tally> = attained.iter().map(|(id, t)| (id.as_str(), *t)).collect();
    let mut alike: Vec<(&[String], Vec<&Partition>)> = vec![];
    for partition in &plan.partitions {
        match alike
            .iter_mut()
            .find(|(stages, _)| *stages == partition.stages.as_slice())
        {
            Some((_, list)) => list.push(partition),
            None => alike.push((&partition.stages, vec![partition])),
        }
    }
    let stages = plan.stages_by_id();
    let cell = |(ids, partitions): (&[String], Vec<&Partition>)| {
        let first = partitions[0];
        // A fragment belongs to the cell where its route ends. Groups are told apart by model, and by the shared stage
        // if fragments join there.
        let mut groups: BTreeMap<(&str, Option<&str>), Together<'_>> = BTreeMap::new();
        for route in &plan.routes {
            let (Some(last), Some(fragment)) = (route.stages.last(), fragments.get(route.fragment.as_str()))
            else {
                continue;
            };
            if !ids.contains(last) {
                continue;
            }
            let joined = plan
                .routes
                .iter()
                .any(|r| r.stages.len() > 1 && r.stages.last() == Some(last));
            let group = groups
                .entry((&fragment.model, joined.then_some(last.as_str())))
                .or_default();
            group.0.push(fragment);
            let later = route.stages.iter().skip(1).filter_map(|s| stages.get(s.as_str()));
            group.1.extend(later.map(|s| s.from));
        }
        let context = Context {
            workload,
            costs: &costs,
            fleet: &fleet,
            first,
            copies: partitions.len(),
            attained: &attained,
        };
        let kind = fleet.profile(&first.device);
        CellExplanation {
            partitions: partitions.iter().map(|p| p.id.clone()).collect(),
            share: first.share.0,
            device_kind: kind.map(|p| p.device_kind.clone()).unwrap_or_default(),
            share_total: kind.map_or(0, |p| p.share_total.0),
            order: first.order,
            quantum_ms: first.quantum_ms,
            groups: groups
                .into_iter()
                .map(|((model, _), (list, joins))| context.group(model, &list, joins))
                .collect(),
        }
    };
    alike.into_iter().map(cell).collect()
}

/// Fragments of a group, and the re-partition points at which they join.
type Together<'a> = (Vec<&'a Fragment>, Vec<CutPoint>);

struct Context<'a> {
    workload: &'a Workload,
    costs: &'a Costs<'a>,
    fleet: &'a Fleet<'a>,
    first: &'a Partition,
    copies: usize,
    attained: &'a BTreeMap<&'a str, Tally>,
}

impl Context<'_> {
    fn group(&self, model: &str, list: &[&Fragment], mut joins: Vec<CutPoint>) -> GroupExplanation {
        joins.sort_unstable();
        joins.dedup();
        let own = Workload {
            fragments: list.iter().map(|f| (*f).clone()).collect(),
            ..self.workload.clone()
        };
        let mut points: Vec<CutPoint> = list.iter().map(|f| f.partition_point).collect();
        points.sort_unstable();
        points.dedup();
        let load = |joins: &[CutPoint]| self.load(&own, joins);
        let tightest = list.iter().min_by(|a, b| a.budget_ms.total_cmp(&b.budget_ms));
        let id = tightest.map(|f| f.id.clone()).unwrap_or_default();
        let budgets = list.iter().map(|f| f.budget_ms);
        GroupExplanation {
            model: model.to_owned(),
            fragments: list.iter().map(|f| f.id.clone()).collect(),
            budgets_ms: (
                budgets.clone().fold(f64::INFINITY, f64::min),
                budgets.fold(0.0, f64::max),
            ),
            rate_rps: list.iter().map(|f| f.rate_rps).sum(),
            load: load(&joins).unwrap_or(1.0),
            load_apart: load(&[]),
            load_joined: points
                .last()
                .filter(|_| points.len() > 1)
                .and_then(|q| load(&[*q])),
            cost_alone: of_all(&own, self.costs),
            tightest_attainment: self.attained.get(id.as_str()).map(|t| t.attainment()),
            tightest: id,
            partition_points: points,
            re_partition_points: joins,
        }
    }

    /// Part of the partitions' time that fragments of one model take.
    fn load(&self, own: &Workload, joins: &[CutPoint]) -> Option<f64> {
        let all = MergeOptions {
            budget_ratio: f64::INFINITY,
            most_work: f64::INFINITY,
            most_part: 0.0,
        };
        let merged = merge(own, self.costs, all, &|_| None).merged;
        let kind = self
            .costs
            .kind(&self.fleet.profile(&self.first.device)?.device_kind)?;
        let group = Group {
            model: merged.first()?.model,
            joins: joins.to_vec(),
            units: UnitAt::all(merged.len()).collect(),
        };
        let cell = Cell {
            share: self.costs.share_at(kind, self.first.share)?,
            copies: self.copies,
            order: self.first.order,
            quantum_ms: self.first.quantum_ms,
            groups: vec![group],
        };
        lay(&cell, &merged, self.costs, own.headroom, BatchRule::default()).map(|l| l.load)
    }
}

fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

fn points(list: &[CutPoint]) -> String {
    let list: Vec<String> = list.iter().map(ToString::to_string).collect();
    list.join(", ")
}

impl fmt::Display for CellExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match self.partitions.as_slice() {
            [one] => one.clone(),
            [first, .., last] => format!("{first} to {last} ({} equal partitions)", self.partitions.len()),
            [] => String::new(),
        };
        let turns = match (self.order, self.quantum_ms > 0.0) {
            (Order::Cycle, _) => "in turns".to_owned(),
            (Order::Edf, true) => format!(
                "by earliest deadline, in chunks of at most {:.2} ms",
                self.quantum_ms
            ),
            (Order::Edf, false) => "by earliest deadline, uncut".to_owned(),
        };
        writeln!(
            f,
            "{names}: share {} of the {} of a {}, {turns}",
            self.share, self.share_total, self.device_kind
        )?;
        for group in &self.groups {
            write!(f, "{group}")?;
        }
        Ok(())
    }
}

impl fmt::Display for GroupExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {}: {} fragments at cut points {}, {:.0} requests/s, budgets of {:.1} to {:.1} ms: together because they fill {} of the time here, with what the others leave",
            self.model,
            self.fragments.len(),
            points(&self.partition_points),
            self.rate_rps,
            self.budgets_ms.0,
            self.budgets_ms.1,
            percent(self.load)
        )?;
        match (
            self.re_partition_points.as_slice(),
            self.load_apart,
            self.load_joined,
        ) {
            ([], _, Some(joined)) => writeln!(
                f,
                "    no re-partition point: joined at {} they would fill {}",
                points(&self.partition_points[self.partition_points.len() - 1..]),
                percent(joined)
            )?,
            ([], _, None) if self.partition_points.len() > 1 => {
                writeln!(f, "    no re-partition point: joined, some would be late")?
            }
            ([], ..) => writeln!(
                f,
                "    no re-partition point: they hand over at the same cut point"
            )?,
            (joins, Some(apart), _) => writeln!(
                f,
                "    joined at {}: apart they would fill {}",
                points(joins),
                percent(apart)
            )?,
            (joins, None, _) => writeln!(
                f,
                "    joined at {}: apart they would be too much, or late",
                points(joins)
            )?,
        }
        writeln!(
            f,
            "    on partitions of their own, one for each cut point, they would cost {}",
            self.cost_alone
        )?;
        match self.tightest_attainment {
            Some(a) => writeln!(
                f,
                "    tightest: {}, with {:.2} ms; {:.2}% in time",
                self.tightest,
                self.budgets_ms.0,
                a * 100.0
            ),
            None => writeln!(
                f,
                "    tightest: {}, with {:.2} ms",
                self.tightest, self.budgets_ms.0
            ),
        }
    }
}
