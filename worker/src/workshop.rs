//! Makes a plan's partitions, after a look at whether it can be run here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use actix::prelude::*;
use graft_model::{Cut, ModelId, StageRange};
use graft_plan::Route;
use graft_service::Clock;
use graft_transport::Link;
use graft_wire::WorkerPlan;
use graft_worker_core::{AloneTimes, RouteIndex, RouteStep};

use crate::compute::Place;
use crate::epochs::PreparedPlan;
use crate::fence::Fence;
use crate::job::{Hop, Instance, RoutePlan};
use crate::observed::PartitionCounts;
use crate::partition::{PartitionActor, PartitionParts};
use crate::peers::{Peer, Peers};
use crate::plan_refused::PlanRefused;
use crate::station::{Part, Station};

/// A partition that runs here.
struct Hosted {
    partition: Addr<PartitionActor>,
    /// By stage: requests that are there.
    present: Vec<Arc<AtomicUsize>>,
    /// Its device's place in the worker.
    device: usize,
}

/// What preparing needs.
pub(crate) struct Workshop {
    pub name: String,
    /// One for each of the worker's devices.
    pub stations: Vec<Station>,
    pub clock: Clock,
    pub peers: Peers,
}

/// What a partition of a plan runs, for its engine to make ready.
pub(crate) struct Readying {
    fence: Arc<Fence>,
    model: ModelId,
    ranges: Vec<StageRange>,
}

/// Has engines make ready what a plan runs. Blocks for `patience` at most, and a range more; what is left then, and what
/// could not be made ready, is tried again when it is run. It ends early when the plan is `overtaken`.
pub(crate) fn make_ready(list: &[Readying], patience: Duration, overtaken: impl Fn() -> bool) {
    let start = Instant::now();
    for Readying { fence, model, ranges } in list {
        for range in ranges {
            if overtaken() {
                return;
            }
            if start.elapsed() > patience {
                tracing::warn!("a plan takes long to prepare; it is used as it is");
                return;
            }
            let made = fence
                .engine()
                .prepare(fence.id(), *model, std::slice::from_ref(range));
            if let Err(error) = made {
                tracing::warn!(%model, %error, "layers of a plan could not be made ready");
                break;
            }
        }
    }
}

impl Workshop {
    /// All chunks that a plan has run here, after a look at whether it can be run.
    pub fn what_it_runs(&mut self, work: &WorkerPlan) -> Result<Vec<Readying>, PlanRefused> {
        let mut list = vec![];
        for station in &mut self.stations {
            let corrections = station.corrections(work);
            for part in station.parts(&work.plan, &corrections)? {
                let fence = station.open(&part.shape)?;
                let stages = part.models.iter().zip(&part.spec.stages);
                list.extend(stages.map(|(model, stage)| Readying {
                    fence: Arc::clone(&fence),
                    model: *model,
                    ranges: stage.ranges(),
                }));
            }
        }
        Ok(list)
    }

    /// Makes a plan's partitions. What it says is checked first; a plan that can't be run leaves nothing behind.
    pub fn prepare(&mut self, work: &WorkerPlan) -> Result<PreparedPlan, PlanRefused> {
        let plan = &work.plan;
        let (mut partitions, mut counted) = (vec![], vec![]);
        let mut here: BTreeMap<usize, Hosted> = BTreeMap::new();
        // All that can fail comes before anything is started.
        let mut made = vec![];
        for (device, station) in self.stations.iter_mut().enumerate() {
            let corrections = Arc::new(station.corrections(work));
            station.fits_memory(plan)?;
            for part in station.parts(plan, &corrections)? {
                let Part {
                    place,
                    partition,
                    spec,
                    models,
                    shape,
                } = part;
                let counts: Arc<PartitionCounts> = Arc::default();
                counted.push((partition.id.clone(), Arc::clone(&counts)));
                let parts = PartitionParts {
                    name: format!("{}/{}", plan.epoch, partition.id),
                    worker: self.name.clone(),
                    id: partition.id.clone(),
                    spec,
                    models,
                    place: Place {
                        fence: station.open(&shape)?,
                        device,
                    },
                    clock: self.clock,
                    corrections: Arc::clone(&corrections),
                    observed: Arc::clone(&station.observed),
                    counts,
                };
                made.push((place, parts));
            }
        }
        let links = self.links(work)?;
        for (place, parts) in made {
            let device = parts.place.device;
            let (actor, present) = PartitionActor::new(parts);
            let partition = actor.start();
            partitions.push(partition.clone());
            here.insert(
                place,
                Hosted {
                    partition,
                    present,
                    device,
                },
            );
        }
        let under_way: Arc<AtomicUsize> = Arc::default();
        let index = RouteIndex::new(plan, AloneTimes::told(&work.times));
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

    /// Whether a device is of this worker.
    fn has(&self, device: &str) -> bool {
        self.stations.iter().any(|s| s.id == device)
    }

    /// Connections to the plan's other workers that run stages which routes of this one go on to.
    fn links(&mut self, work: &WorkerPlan) -> Result<BTreeMap<String, Arc<Link>>, PlanRefused> {
        let mut devices: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for partition in &work.plan.partitions {
            for id in &partition.stages {
                devices.entry(id).or_default().insert(&partition.device);
            }
        }
        let of = |id: &String| devices.get(id.as_str()).into_iter().flatten().copied();
        let mut links = BTreeMap::new();
        for route in &work.plan.routes {
            let runs_here = |id: &&String| of(id).any(|device| self.has(device));
            if !route.stages.iter().any(|id| runs_here(&id)) {
                continue;
            }
            let onward: Vec<&String> = route.stages.iter().skip(1).filter(|id| !runs_here(id)).collect();
            for device in onward.into_iter().flat_map(of) {
                let host = work.hosts.get(device);
                let host = host.ok_or_else(|| PlanRefused::NoAddress(device.to_owned()))?;
                if links.contains_key(&host.name) {
                    continue;
                }
                links.insert(host.name.clone(), self.peers.link(host));
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
        let model = first.model.parse().ok()?;
        let info = self.stations.iter().find_map(|s| s.engine.info(model).ok())?;
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
                        device: hosted.device,
                        present: Arc::clone(hosted.present.get(i.stage.index())?),
                    }),
                    None => {
                        let device = &work.plan.partitions[i.partition].device;
                        if let Some(host) = work.hosts.get(device) {
                            *elsewhere.entry(&host.name).or_default() += 1;
                        }
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
                model: Arc::clone(&info),
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
