//! A route's stages: where they run, and what deadlines they leave a request.

use std::collections::HashMap;

use graft_plan::{CostError, Fleet, Nanos, Partition, Plan, Route, Stage, ms_to_nanos};
use graft_wire::StageTimes;

use crate::spec::StageIndex;

/// Where a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// The partition's place in the plan.
    pub partition: usize,
    /// Which of the partition's stages.
    pub stage: StageIndex,
}

/// One stage of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStep {
    /// Where it runs, in the plan's order; at least one.
    pub instances: Vec<Instance>,
    /// What a request takes there at least: alone, uncut, on the first instance.
    pub alone: Nanos,
    /// Local deadlines of the stages after it, hops included.
    pub later_deadlines: Nanos,
    /// What a request takes at least in the stages after it, hops included.
    pub later_alone: Nanos,
}

/// A stage of a route before what comes after it is summed up.
#[derive(Debug, Clone)]
pub struct Leg {
    /// Where it runs, in the plan's order; at least one.
    pub instances: Vec<Instance>,
    /// What a request takes there at least: alone, uncut, on the first instance.
    pub alone: Nanos,
    /// Its local deadline.
    pub deadline: Nanos,
}

impl RouteStep {
    /// The steps of a route, from its stages in order. `hop`: what a request takes to a stage.
    pub fn of_route(hop: Nanos, legs: Vec<Leg>) -> Vec<RouteStep> {
        let (mut later_deadlines, mut later_alone) = (Nanos::ZERO, Nanos::ZERO);
        let mut steps: Vec<RouteStep> = vec![];
        for leg in legs.into_iter().rev() {
            steps.push(RouteStep {
                instances: leg.instances,
                alone: leg.alone,
                later_deadlines,
                later_alone,
            });
            later_deadlines += leg.deadline + hop;
            later_alone += leg.alone + hop;
        }
        steps.reverse();
        steps
    }

    /// What a request takes at least from here on: this stage alone and those after it, hops included.
    pub fn least(&self) -> Nanos {
        self.alone + self.later_alone
    }

    /// A request's key at this stage: when it must leave it, so that the later stages have their time.
    pub fn key(&self, final_deadline: Nanos) -> Nanos {
        final_deadline - self.later_deadlines
    }

    /// The latest time at which a request that starts here can still be answered in time.
    pub fn latest_start(&self, final_deadline: Nanos) -> Nanos {
        final_deadline - self.least()
    }
}

/// A route that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It is of a fragment that the workload has not.
    #[error("the plan has a route for fragment {0}, which is not in the workload")]
    UnknownFragment(String),
    /// Its model's name is not an identity, as it has to be on a running site.
    #[error("the route of {fragment} is for model {model:?}: expected its identity, 64 hexadecimal digits")]
    NoIdentity {
        /// The fragment.
        fragment: String,
        /// The model's name there.
        model: String,
    },
    /// It names a stage that is nowhere.
    #[error("the route of {fragment} names stage {stage}, which is in no partition")]
    Nowhere {
        /// The fragment.
        fragment: String,
        /// The stage.
        stage: String,
    },
    /// It names a stage without layers.
    #[error("the route of {fragment} names stage {stage}, which is empty")]
    Empty {
        /// The fragment.
        fragment: String,
        /// The stage.
        stage: String,
    },
    /// The profile does not know what a stage costs.
    #[error("the route of {fragment}, stage {stage}: {cause}")]
    Cost {
        /// The fragment.
        fragment: String,
        /// The stage.
        stage: String,
        /// Why.
        cause: CostError,
    },
}

/// What stages of a plan take a request that is alone there, uncut, by the stage's id; and what a hop takes.
///
/// The planner works it out of all kinds' profiles, and tells workers: these know the times of their own kinds only.
#[derive(Debug, Clone, PartialEq)]
pub struct AloneTimes {
    stages: HashMap<String, Result<Nanos, CostError>>,
    hop: Nanos,
}

impl AloneTimes {
    /// On each stage's first partition, on the costs of that partition's device.
    pub fn of_plan(plan: &Plan, fleet: &Fleet<'_>) -> Self {
        let mut first: HashMap<&str, &Partition> = HashMap::new();
        for partition in &plan.partitions {
            for id in &partition.stages {
                first.entry(id).or_insert(partition);
            }
        }
        let alone = |stage: &Stage| {
            let partition = first.get(stage.id.as_str())?;
            let on = |device: &str| {
                let profile = fleet.profile_of(device)?;
                match stage.range() {
                    Some(range) => profile.latency(&stage.model, range, 1, partition.share, 0.0),
                    None => Ok(Nanos::ZERO),
                }
            };
            Some((stage.id.clone(), on(&partition.device)))
        };
        AloneTimes {
            stages: plan.stages.iter().filter_map(alone).collect(),
            hop: ms_to_nanos(fleet.profiles().hop_ms()),
        }
    }

    /// As the planner tells them.
    pub fn told(told: &StageTimes) -> Self {
        let stages = told.alone.iter();
        AloneTimes {
            stages: stages.map(|(id, time)| (id.clone(), Ok(*time))).collect(),
            hop: told.hop,
        }
    }

    /// For workers; stages whose time is not known are left out.
    pub fn tell(&self) -> StageTimes {
        let known = self
            .stages
            .iter()
            .filter_map(|(id, time)| Some((id, time.as_ref().ok()?)));
        StageTimes {
            alone: known.map(|(id, time)| (id.clone(), *time)).collect(),
            hop: self.hop,
        }
    }
}

/// A plan's stages and where they run, to look up routes in.
#[derive(Debug)]
pub struct RouteIndex<'a> {
    plan: &'a Plan,
    times: AloneTimes,
    stages: HashMap<&'a str, &'a Stage>,
    hosts: HashMap<&'a str, Vec<Instance>>,
}

impl<'a> RouteIndex<'a> {
    /// Of a plan, whose stages take so long.
    pub fn new(plan: &'a Plan, times: AloneTimes) -> Self {
        let mut hosts: HashMap<&str, Vec<Instance>> = HashMap::new();
        for (p, partition) in plan.partitions.iter().enumerate() {
            for (s, id) in partition.stages.iter().enumerate() {
                hosts.entry(id).or_default().push(Instance {
                    partition: p,
                    stage: StageIndex(s as u16),
                });
            }
        }
        RouteIndex {
            plan,
            times,
            stages: plan.stages_by_id(),
            hosts,
        }
    }

    /// A stage of the plan.
    pub fn stage(&self, id: &str) -> Option<&'a Stage> {
        self.stages.get(id).copied()
    }

    /// Where a stage runs, in the plan's order.
    pub fn instances(&self, stage: &str) -> &[Instance] {
        self.hosts.get(stage).map_or(&[], Vec::as_slice)
    }

    /// For each partition the pool that it belongs to: partitions that a route leads through share one. Pools are called
    /// by their first partition.
    pub fn pools(&self) -> Vec<usize> {
        let mut pools: Vec<usize> = (0..self.plan.partitions.len()).collect();
        fn root(pools: &mut [usize], mut i: usize) -> usize {
            while pools[i] != i {
                pools[i] = pools[pools[i]];
                i = pools[i];
            }
            i
        }
        for route in &self.plan.routes {
            let mut all = route.stages.iter().flat_map(|id| self.instances(id));
            let Some(first) = all.next() else { continue };
            for other in all {
                let (a, b) = (
                    root(&mut pools, first.partition),
                    root(&mut pools, other.partition),
                );
                pools[a.max(b)] = a.min(b);
            }
        }
        (0..pools.len()).map(|i| root(&mut pools, i)).collect()
    }

    /// The stages of a route, in order.
    pub fn steps(&self, route: &Route) -> Result<Vec<RouteStep>, RouteError> {
        let mut legs = vec![];
        for id in &route.stages {
            let names = || (route.fragment.clone(), id.clone());
            let nowhere = || {
                let (fragment, stage) = names();
                RouteError::Nowhere { fragment, stage }
            };
            let stage = self.stages.get(id.as_str()).ok_or_else(nowhere)?;
            let instances = self.hosts.get(id.as_str()).ok_or_else(nowhere)?;
            if stage.range().is_none() {
                let (fragment, stage) = names();
                return Err(RouteError::Empty { fragment, stage });
            }
            let alone = self.times.stages.get(id).ok_or_else(nowhere)?;
            let alone = alone.clone().map_err(|cause| {
                let (fragment, stage) = names();
                RouteError::Cost {
                    fragment,
                    stage,
                    cause,
                }
            })?;
            legs.push(Leg {
                instances: instances.clone(),
                alone,
                deadline: ms_to_nanos(stage.deadline_ms),
            });
        }
        Ok(RouteStep::of_route(self.times.hop, legs))
    }
}
