//! Makes a plan's partitions, after a look at whether it can be run here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use actix::prelude::*;
use graft_engine::{Engine, PartitionId};
use graft_model::{Cut, ModelId, StageRange};
use graft_plan::{Partition, Plan, Profile, Route};
use graft_service::{Clock, resolve};
use graft_transport::Link;
use graft_wire::WorkerPlan;
use graft_worker_core::{Admission, CostCorrections, PartitionSpec, RouteIndex, RouteStep};

use crate::epochs::PreparedPlan;
use crate::job::{Hop, Instance, RoutePlan};
use crate::observed::{Observed, PartitionCounts};
use crate::partition::{PartitionActor, PartitionParts};
use crate::peers::{Peer, Peers};
use crate::plan_refused::PlanRefused;

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
    /// For weights.
    pub memory_bytes: u64,
    pub clock: Clock,
    /// Fenced-off sets of cores: weights and threads are shared by all plans.
    pub shares: BTreeMap<Vec<usize>, PartitionId>,
    pub peers: Peers,
    pub observed: Arc<Observed>,
}

/// A partition of a plan that runs here, checked.
struct Part<'p> {
    /// Its place in the plan.
    place: usize,
    partition: &'p Partition,
    spec: PartitionSpec,
    /// By stage.
    models: Vec<ModelId>,
    cores: Vec<usize>,
}

/// What a plan's partitions run, for the engine to make ready.
pub(crate) type Ranges = Vec<(PartitionId, ModelId, Vec<StageRange>)>;

/// Has an engine make ready what a plan runs. Blocks for `patience` at most, and a range more; what is left then, and what
/// could not be made ready, is tried again when it is run. It ends early when the plan is `overtaken`.
pub(crate) fn make_ready(
    engine: &dyn Engine,
    ranges: &Ranges,
    patience: Duration,
    overtaken: impl Fn() -> bool,
) {
    let start = Instant::now();
    for (partition, model, list) in ranges {
        for range in list {
            if overtaken() {
                return;
            }
            if start.elapsed() > patience {
                tracing::warn!("a plan takes long to prepare; it is used as it is");
                return;
            }
            if let Err(error) = engine.prepare(*partition, *model, std::slice::from_ref(range)) {
                tracing::warn!(%model, %error, "layers of a plan could not be made ready");
                break;
            }
        }
    }
}

impl Workshop {
    /// The ranges of all chunks that a plan has run here, after a look at whether it can be run.
    pub fn ranges(&mut self, work: &WorkerPlan) -> Result<Ranges, PlanRefused> {
        let profile = CostCorrections::new(&work.corrections).apply(&self.profile);
        let mut found = vec![];
        for part in self.parts(&work.plan, &profile)? {
            let share = self.share(&part.cores)?;
            let stages = part.models.iter().zip(&part.spec.stages);
            found.extend(stages.map(|(model, stage)| (share, *model, stage.ranges())));
        }
        Ok(found)
    }

    /// The partitions of a plan that run here. `Err`: why one can't.
    fn parts<'p>(&self, plan: &'p Plan, profile: &Profile) -> Result<Vec<Part<'p>>, PlanRefused> {
        let stages = plan.stages_by_id();
        let mut free = self.cores.as_slice();
        let mut parts = vec![];
        let own = plan.partitions.iter().enumerate();
        for (place, partition) in own.filter(|(_, p)| p.device == self.name) {
            let spec = PartitionSpec::of_plan(plan, partition, profile, Admission::On)?;
            let models = partition
                .stages
                .iter()
                .map(|id| stage_model(&stages, id))
                .collect::<Result<Vec<ModelId>, PlanRefused>>()?;
            for (model, stage) in models.iter().zip(&partition.stages) {
                let info = self.engine.info(*model).map_err(|error| PlanRefused::NotLoaded {
                    stage: stage.clone(),
                    error: Box::new(error),
                })?;
                let to = stages[stage.as_str()].to;
                if to > info.last() {
                    return Err(PlanRefused::BeyondLastCut {
                        stage: stage.clone(),
                        last: info.last(),
                    });
                }
            }
            let share = partition.share.0 as usize;
            let (cores, rest) = free
                .split_at_checked(share)
                .ok_or(PlanRefused::Cores(self.cores.len()))?;
            free = rest;
            parts.push(Part {
                place,
                partition,
                spec,
                models,
                cores: cores.to_vec(),
            });
        }
        Ok(parts)
    }

    /// Makes a plan's partitions. What it says is checked first; a plan that can't be run leaves nothing behind.
    pub fn prepare(&mut self, work: &WorkerPlan) -> Result<PreparedPlan, PlanRefused> {
        let plan = &work.plan;
        let corrections = Arc::new(CostCorrections::new(&work.corrections));
        let profile = corrections.apply(&self.profile);
        let parts = self.parts(plan, &profile)?;
        let (mut partitions, mut counted) = (vec![], vec![]);
        let mut here: BTreeMap<usize, Hosted> = BTreeMap::new();
        self.fits_memory(work)?;
        // All that can fail comes before anything is started.
        let shares = parts.iter().map(|part| self.share(&part.cores));
        let shares: Vec<PartitionId> = shares.collect::<Result<_, _>>()?;
        let links = self.links(work)?;
        for (part, share) in parts.into_iter().zip(shares) {
            let Part {
                place,
                partition,
                spec,
                models,
                ..
            } = part;
            let counts: Arc<PartitionCounts> = Arc::default();
            counted.push((partition.id.clone(), Arc::clone(&counts)));
            let (actor, present) = PartitionActor::new(PartitionParts {
                name: format!("{}/{}", plan.epoch, partition.id),
                worker: self.name.clone(),
                id: partition.id.clone(),
                spec,
                models,
                engine: Arc::clone(&self.engine),
                device_partition: share,
                clock: self.clock,
                corrections: Arc::clone(&corrections),
                observed: Arc::clone(&self.observed),
                counts,
            });
            let partition = actor.start();
            partitions.push(partition.clone());
            here.insert(place, Hosted { partition, present });
        }
        let under_way: Arc<AtomicUsize> = Arc::default();
        let index = RouteIndex::new(plan, &profile);
        let mut routes = vec![];
        for (number, route) in (0..).zip(&plan.routes) {
            let made = self.route(&index, route, work, &here, &links);
            routes.push(made.map(|(hops, output)| {
                Arc::new(RoutePlan {
                    epoch: plan.epoch,
                    number,
                    output,
                    under_way: Arc::clone(&under_way),
                    hops,
                })
            }));
        }
        Ok(PreparedPlan {
            routes,
            partitions,
            counts: counted,
            under_way,
        })
    }

    fn share(&mut self, cores: &[usize]) -> Result<PartitionId, PlanRefused> {
        if let Some(share) = self.shares.get(cores) {
            return Ok(*share);
        }
        let share = self
            .engine
            .open_partition(cores)
            .map_err(|error| PlanRefused::Partition(Box::new(error)))?;
        self.shares.insert(cores.to_vec(), share);
        Ok(share)
    }

    /// Whether the weights of all that runs here have room: each segment's count once.
    fn fits_memory(&self, work: &WorkerPlan) -> Result<(), PlanRefused> {
        let stages = work.plan.stages_by_id();
        let own = work.plan.partitions.iter().filter(|p| p.device == self.name);
        let mut segments = BTreeSet::new();
        for stage in own
            .flat_map(|p| &p.stages)
            .filter_map(|id| stages.get(id.as_str()))
        {
            let range = usize::from(stage.from.0)..usize::from(stage.to.0);
            segments.extend(range.map(|k| (stage.model.as_str(), k)));
        }
        let weights = |(model, k): &(&str, usize)| {
            let segment = self.profile.models.get(*model).and_then(|m| m.segments.get(*k));
            segment.map_or(0, |s| s.weights_bytes)
        };
        let bytes: u64 = segments.iter().map(weights).sum();
        if bytes > self.memory_bytes {
            let have = self.memory_bytes;
            return Err(PlanRefused::Memory { bytes, have });
        }
        Ok(())
    }

    /// Connections to the plan's other workers that run stages which routes of this one go on to.
    fn links(&mut self, work: &WorkerPlan) -> Result<BTreeMap<String, Arc<Link>>, PlanRefused> {
        let index = RouteIndex::new(&work.plan, &self.profile);
        let device = |partition: usize| work.plan.partitions[partition].device.as_str();
        let mut links = BTreeMap::new();
        for route in &work.plan.routes {
            let runs_here = |id: &String| {
                index
                    .instances(id)
                    .iter()
                    .any(|i| device(i.partition) == self.name)
            };
            if !route.stages.iter().any(runs_here) {
                continue;
            }
            for id in route.stages.iter().skip(1).filter(|id| !runs_here(id)) {
                for name in index.instances(id).iter().map(|i| device(i.partition)) {
                    if links.contains_key(name) {
                        continue;
                    }
                    let place = work.workers.get(name);
                    let place = place.ok_or_else(|| PlanRefused::NoAddress(name.to_owned()))?;
                    let address = resolve("address", &place.address);
                    let address = address.map_err(|error| PlanRefused::Address {
                        worker: name.to_owned(),
                        error: Box::new(error),
                    })?;
                    links.insert(name.to_owned(), self.peers.link(name, address));
                }
            }
        }
        Ok(links)
    }

    /// A route's stages and its output, if any of them runs here. `here`: the partitions that do, by their places in
    /// the plan; `links`: connections to the workers that run others, by name.
    fn route(
        &self,
        index: &RouteIndex<'_>,
        route: &Route,
        work: &WorkerPlan,
        here: &BTreeMap<usize, Hosted>,
        links: &BTreeMap<String, Arc<Link>>,
    ) -> Option<(Vec<Hop>, Cut)> {
        let first = index.stage(route.stages.first()?)?;
        let info = self.engine.info(first.model.parse().ok()?).ok()?;
        let steps = index.steps(route).ok()?;
        let is_here = |step: &RouteStep| step.instances.iter().any(|i| here.contains_key(&i.partition));
        if !steps.iter().any(is_here) {
            return None;
        }
        let mut hops = vec![];
        for (id, step) in route.stages.iter().zip(steps) {
            let range = index.stage(id)?.range()?;
            let mut elsewhere: BTreeMap<&str, usize> = BTreeMap::new();
            let mut instances = vec![];
            for i in &step.instances {
                match here.get(&i.partition) {
                    Some(hosted) => instances.push(Instance {
                        entrance: hosted.partition.clone().recipient(),
                        cancelling: hosted.partition.clone().recipient(),
                        stage: i.stage,
                        present: Arc::clone(hosted.present.get(i.stage.index())?),
                    }),
                    None => {
                        *elsewhere
                            .entry(&work.plan.partitions[i.partition].device)
                            .or_default() += 1
                    }
                }
            }
            let mut peers = vec![];
            for (name, partitions) in elsewhere {
                // Routers choose the worker of the first stage; one that runs here stays in memory.
                if hops.is_empty() || !instances.is_empty() {
                    continue;
                }
                let Some(link) = links.get(name).map(Arc::clone) else {
                    continue;
                };
                peers.push(Peer::new(link, name.to_owned(), partitions));
            }
            hops.push(Hop {
                range,
                input: info.cut(range.from())?.clone(),
                instances,
                peers,
                step,
            });
        }
        Some((hops, info.cut(info.last())?.clone()))
    }
}

fn stage_model(
    stages: &std::collections::HashMap<&str, &graft_plan::Stage>,
    id: &str,
) -> Result<ModelId, PlanRefused> {
    let stage = stages
        .get(id)
        .ok_or_else(|| PlanRefused::NoStage(id.to_owned()))?;
    stage.model.parse().map_err(|error| PlanRefused::NoModel {
        stage: id.to_owned(),
        model: stage.model.clone(),
        error,
    })
}
