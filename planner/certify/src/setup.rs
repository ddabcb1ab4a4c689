//! A plan laid out for simulation: parts that have nothing to do with one another, stages and routes by number.

use std::collections::{BTreeMap, HashMap};

use graft_plan::{Fleet, Nanos, Plan, Workload, ms_to_nanos};
use graft_worker_core::{Admission, AloneTimes, PartitionSpec, RouteError, RouteIndex, RouteStep, SpecError};

use crate::part::{Journey, Part};

/// A plan that can't be simulated. [`Plan::check`] says more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A partition can't be run.
    #[error(transparent)]
    Partition(#[from] SpecError),
    /// A route can't be run.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// A plan laid out.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Parts, each with the indexes of its journeys' fragments in `fragments`.
    pub parts: Vec<(Part, Vec<usize>)>,
    pub hop: Nanos,
    /// Ids, in order, of the routed fragments that still need layers run.
    pub fragments: Vec<String>,
    /// Fragments at the last cut point, with their rates: they are answered on arrival.
    pub nothing_owed: Vec<(String, f64)>,
}

impl Setup {
    pub fn new(plan: &Plan, workload: &Workload, fleet: &Fleet<'_>) -> Result<Self, SetupError> {
        let fragments: HashMap<&str, _> = workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect();
        let index = RouteIndex::new(plan, AloneTimes::of_plan(plan, fleet));
        let pools = index.pools();

        let hop = ms_to_nanos(fleet.profiles().hop_ms());
        let mut parts: BTreeMap<usize, (Part, Vec<usize>)> = BTreeMap::new();
        let mut numbers = vec![0; plan.partitions.len()];
        for (p, partition) in plan.partitions.iter().enumerate() {
            let unknown = |cause| SpecError::Cost {
                partition: partition.id.clone(),
                cause,
            };
            let profile = fleet.profile_of(&partition.device).map_err(unknown)?;
            let spec = PartitionSpec::of_plan(plan, partition, profile, Admission::Off)?;
            let (part, _) = parts.entry(pools[p]).or_default();
            numbers[p] = part.partitions.len();
            part.partitions.push(spec);
        }
        // The order of fragments must not matter, not even for ties: they are taken by id.
        let mut routes: Vec<_> = plan.routes.iter().collect();
        routes.sort_by(|a, b| a.fragment.cmp(&b.fragment));
        let (mut ids, mut nothing_owed) = (vec![], vec![]);
        for route in routes {
            let unknown = || RouteError::UnknownFragment(route.fragment.clone());
            let fragment = fragments.get(route.fragment.as_str()).ok_or_else(unknown)?;
            let steps = index.steps(route)?;
            let group = steps.first().map(|s| pools[s.instances[0].partition]);
            let renumbered = |mut step: RouteStep| {
                for instance in &mut step.instances {
                    instance.partition = numbers[instance.partition];
                }
                step
            };
            let steps = steps.into_iter().map(renumbered).collect();
            let Some((part, fragments)) = group.and_then(|g| parts.get_mut(&g)) else {
                nothing_owed.push((route.fragment.clone(), fragment.rate_rps));
                continue;
            };
            fragments.push(ids.len());
            part.journeys.push(Journey {
                id: route.fragment.clone(),
                rate_rps: fragment.rate_rps,
                burstiness: fragment.burstiness,
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
