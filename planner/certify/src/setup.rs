//! A plan laid out for simulation: parts that have nothing to do with one another, stages and routes by number.

use std::collections::{BTreeMap, HashMap};

use graft_plan::{Nanos, Plan, Profile, Workload, ms_to_nanos};
use graft_worker_core::{Admission, Limits, PartitionSpec, SpecError, StageIndex};

use crate::part::{Journey, Part, Place, Step};

/// A plan that can't be simulated. [`Plan::check`] says more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A partition can't be run.
    #[error(transparent)]
    Partition(#[from] SpecError),
    /// A route names what there is not.
    #[error("the route of {fragment}: {what}")]
    Route {
        /// The fragment.
        fragment: String,
        /// What is wrong.
        what: String,
    },
}

/// A plan laid out.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Each with the places of its journeys' fragments in `fragments`.
    pub parts: Vec<(Part, Vec<usize>)>,
    pub hop: Nanos,
    /// Ids of the routed fragments that owe something, in order.
    pub fragments: Vec<String>,
    /// Fragments at the last cut point: answered as they come.
    pub nothing_owed: Vec<(String, f64)>,
}

/// Union-find over partitions.
struct Groups(Vec<usize>);

impl Groups {
    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

impl Setup {
    pub fn new(plan: &Plan, workload: &Workload, profile: &Profile) -> Result<Self, SetupError> {
        let stages = plan.stages_by_id();
        let fragments: HashMap<&str, _> = workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect();
        let mut hosts: HashMap<&str, Vec<(usize, StageIndex)>> = HashMap::new();
        for (p, partition) in plan.partitions.iter().enumerate() {
            for (s, id) in partition.stages.iter().enumerate() {
                hosts.entry(id).or_default().push((p, StageIndex(s as u16)));
            }
        }
        let mut groups = Groups((0..plan.partitions.len()).collect());
        for route in &plan.routes {
            let mut all = route
                .stages
                .iter()
                .filter_map(|id| hosts.get(id.as_str()))
                .flatten();
            if let Some(&(first, _)) = all.next() {
                all.for_each(|&(p, _)| groups.join(first, p));
            }
        }

        let hop = ms_to_nanos(profile.hop_ms);
        let mut parts: BTreeMap<usize, (Part, Vec<usize>)> = BTreeMap::new();
        let mut numbers = vec![0u32; plan.partitions.len()];
        for (p, partition) in plan.partitions.iter().enumerate() {
            let spec = PartitionSpec::of_plan(plan, partition, profile, Limits::default(), Admission::Off)?;
            let (part, _) = parts.entry(groups.root(p)).or_default();
            numbers[p] = u32::try_from(part.partitions.len()).unwrap_or(u32::MAX);
            part.partitions.push(spec);
        }
        // The order of fragments must not matter, not even for ties: they are taken by id.
        let mut routes: Vec<_> = plan.routes.iter().collect();
        routes.sort_by(|a, b| a.fragment.cmp(&b.fragment));
        let (mut ids, mut nothing_owed) = (vec![], vec![]);
        for route in routes {
            let wrong = |what: String| SetupError::Route {
                fragment: route.fragment.clone(),
                what,
            };
            let fragment = fragments
                .get(route.fragment.as_str())
                .ok_or_else(|| wrong("there is no such fragment".to_owned()))?;
            let mut steps: Vec<Step> = vec![];
            let (mut later_deadlines, mut later_least) = (Nanos::ZERO, Nanos::ZERO);
            let mut group = None;
            for id in route.stages.iter().rev() {
                let missing = || wrong(format!("stage {id} is in no partition"));
                let stage = stages.get(id.as_str()).ok_or_else(missing)?;
                let at = hosts.get(id.as_str()).ok_or_else(missing)?;
                let range = stage
                    .range()
                    .ok_or_else(|| wrong(format!("stage {id} is empty")))?;
                let first = &plan.partitions[at[0].0];
                let alone = profile
                    .latency(&stage.model, range, 1, first.share, 0.0)
                    .map_err(|e| wrong(e.to_string()))?;
                group = Some(groups.root(at[0].0));
                let least = alone + later_least;
                let place = |&(p, stage): &(usize, StageIndex)| Place {
                    partition: numbers[p],
                    stage,
                };
                steps.push(Step {
                    places: at.iter().map(place).collect(),
                    later_deadlines,
                    least,
                });
                later_deadlines += ms_to_nanos(stage.deadline_ms) + hop;
                later_least = least + hop;
            }
            steps.reverse();
            let Some((part, fragments)) = group.and_then(|g| parts.get_mut(&g)) else {
                nothing_owed.push((route.fragment.clone(), fragment.rate_rps));
                continue;
            };
            fragments.push(ids.len());
            part.journeys.push(Journey {
                id: route.fragment.clone(),
                rate_rps: fragment.rate_rps,
                budget: ms_to_nanos(fragment.budget_ms),
                steps,
            });
            ids.push(route.fragment.clone());
        }
        Ok(Setup {
            parts: parts.into_values().collect(),
            hop,
            fragments: ids,
            nothing_owed,
        })
    }
}
