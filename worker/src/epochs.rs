//! The plans that a worker has prepared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use actix::prelude::*;
use graft_engine::{Engine, PartitionId};
use graft_model::ModelId;
use graft_plan::{Epoch, Plan, Profile, Route};
use graft_service::Clock;
use graft_worker_core::{Admission, Limits, PartitionSpec, RouteIndex, RouteStep};

use crate::job::{Hop, Instance, RoutePlan};
use crate::partition::{Drain, PartitionActor, PartitionParts};

/// One prepared plan.
pub(crate) struct PreparedPlan {
    /// By place in the plan; `None`: another worker's.
    pub routes: Vec<Option<Arc<RoutePlan>>>,
    pub partitions: Vec<Addr<PartitionActor>>,
    /// Its requests that are under way.
    pub under_way: Arc<AtomicUsize>,
}

/// Prepared plans by epoch.
pub(crate) type Epochs = BTreeMap<Epoch, Arc<PreparedPlan>>;

/// A partition that runs here.
struct Hosted {
    partition: Addr<PartitionActor>,
    /// By stage: requests that are there.
    present: Vec<Arc<AtomicUsize>>,
}

/// What preparing needs.
pub(crate) struct Workshop {
    pub name: String,
    pub engine: Arc<dyn Engine>,
    pub profile: Profile,
    pub cores: Vec<usize>,
    pub clock: Clock,
    /// Fenced-off sets of cores: weights and threads are shared by all plans.
    pub shares: BTreeMap<Vec<usize>, PartitionId>,
}

impl Workshop {
    /// Makes a plan's partitions. What it says is checked first; a plan that can't be run leaves nothing behind.
    pub fn prepare(&mut self, plan: &Plan) -> Result<PreparedPlan, String> {
        let stages = plan.stages_by_id();
        let mut free = self.cores.as_slice();
        let mut parts = vec![];
        let own = plan.partitions.iter().enumerate();
        for (place, partition) in own.filter(|(_, p)| p.device == self.name) {
            let spec =
                PartitionSpec::of_plan(plan, partition, &self.profile, Limits::default(), Admission::On)
                    .map_err(|e| e.to_string())?;
            let models = partition
                .stages
                .iter()
                .map(|id| stage_model(&stages, id))
                .collect::<Result<Vec<ModelId>, String>>()?;
            for (model, stage) in models.iter().zip(&partition.stages) {
                let info = self
                    .engine
                    .info(*model)
                    .map_err(|e| format!("stage {stage}: {e}"))?;
                let to = stages[stage.as_str()].to;
                if to > info.last() {
                    return Err(format!(
                        "stage {stage} goes beyond the last cut point {}",
                        info.last()
                    ));
                }
            }
            let share = partition.share.0 as usize;
            let (cores, rest) = free
                .split_at_checked(share)
                .ok_or_else(|| format!("the plan takes more cores than the {} here", self.cores.len()))?;
            free = rest;
            parts.push((place, partition, spec, models, cores.to_vec()));
        }
        let mut partitions = vec![];
        let mut here: BTreeMap<usize, Hosted> = BTreeMap::new();
        for (place, partition, spec, models, cores) in parts {
            let share = self.share(&cores)?;
            let (actor, present) = PartitionActor::new(PartitionParts {
                name: format!("{}/{}", plan.epoch, partition.id),
                spec,
                models,
                engine: Arc::clone(&self.engine),
                share,
                clock: self.clock,
            });
            let partition = actor.start();
            partitions.push(partition.clone());
            here.insert(place, Hosted { partition, present });
        }
        let under_way: Arc<AtomicUsize> = Arc::default();
        let index = RouteIndex::new(plan, &self.profile);
        let routes = plan
            .routes
            .iter()
            .map(|route| self.route(&index, route, &here, &under_way).map(Arc::new))
            .collect();
        Ok(PreparedPlan {
            routes,
            partitions,
            under_way,
        })
    }

    fn share(&mut self, cores: &[usize]) -> Result<PartitionId, String> {
        if let Some(share) = self.shares.get(cores) {
            return Ok(*share);
        }
        let share = self.engine.open_partition(cores).map_err(|e| e.to_string())?;
        self.shares.insert(cores.to_vec(), share);
        Ok(share)
    }

    /// A route, if all its stages run here. `here`: the partitions that do, by their places in the plan.
    fn route(
        &self,
        index: &RouteIndex<'_>,
        route: &Route,
        here: &BTreeMap<usize, Hosted>,
        under_way: &Arc<AtomicUsize>,
    ) -> Option<RoutePlan> {
        let first = index.stage(route.stages.first()?)?;
        let info = self.engine.info(first.model.parse().ok()?).ok()?;
        let hop = |step: RouteStep| {
            let own = step.instances.iter().filter_map(|i| {
                let hosted = here.get(&i.partition)?;
                Some(Instance {
                    partition: hosted.partition.clone(),
                    stage: i.stage,
                    present: Arc::clone(hosted.present.get(i.stage.index())?),
                })
            });
            let instances: Vec<Instance> = own.collect();
            (!instances.is_empty()).then_some(Hop { instances, step })
        };
        let steps = index.steps(route).ok()?;
        Some(RoutePlan {
            input: info.cut(first.from)?.clone(),
            output: info.cut(info.last())?.clone(),
            under_way: Arc::clone(under_way),
            hops: steps.into_iter().map(hop).collect::<Option<_>>()?,
        })
    }
}

fn stage_model(
    stages: &std::collections::HashMap<&str, &graft_plan::Stage>,
    id: &str,
) -> Result<ModelId, String> {
    let stage = stages
        .get(id)
        .ok_or_else(|| format!("the plan has no stage {id}"))?;
    stage
        .model
        .parse()
        .map_err(|e| format!("stage {id} is of model {:?}: {e}", stage.model))
}

impl PreparedPlan {
    /// Ends its partitions when they are idle, or after `patience`.
    pub fn drain(&self, patience: std::time::Duration) {
        for partition in &self.partitions {
            partition.do_send(Drain {
                patience,
                under_way: Arc::clone(&self.under_way),
            });
        }
    }
}
