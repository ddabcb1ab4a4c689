//! A plan's routes, as routers are told them; and what clients are told of the server's times and prices.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use graft_model::{CutPoint, ModelId, StageRange};
use graft_plan::{
    Fleet, Fragment, Nanos, Partition, Plan, Profile, Profiles, Route, Share, Workload, nanos_to_ms,
};
use graft_wire::{LeftOut, RouteTarget, RoutesUpdate, WorkerEndpoint};
use graft_worker_core::{AloneTimes, Instance, RouteError, RouteIndex, RouteStep};

/// The routes of a plan, for routers.
///
/// `limited`: routes carry no more than their planned rates. `hosts`: the workers of devices, by the devices' ids. A route
/// is listed once for each partition that runs its first stage, with that partition's worker: they share its load evenly.
/// Models are called by their identity.
pub fn routes(
    plan: &Plan,
    limited: bool,
    workload: &Workload,
    fleet: &Fleet<'_>,
    hosts: &BTreeMap<String, WorkerEndpoint>,
) -> Result<RoutesUpdate, RouteError> {
    let index = RouteIndex::new(plan, AloneTimes::of_plan(plan, fleet));
    let hop_ms = fleet.profiles().hop_ms();
    let pools = index.pools();
    let fragments: HashMap<&str, &Fragment> = workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect();
    let mut targets = vec![];
    let mut hints = Hints::of_fleet(fleet);
    for (number, route) in plan.routes.iter().enumerate() {
        let unknown = || RouteError::UnknownFragment(route.fragment.clone());
        let fragment = fragments.get(route.fragment.as_str()).ok_or_else(unknown)?;
        let no_identity = |_| RouteError::NoIdentity {
            fragment: route.fragment.clone(),
            model: fragment.model.clone(),
        };
        let model: ModelId = fragment.model.parse().map_err(no_identity)?;
        let steps = index.steps(route)?;
        let Some(first) = steps.first() else {
            continue;
        };
        let least = steps.iter().fold(Nanos::ZERO, |sum, s| sum + s.alone);
        let (work_ms, price) = work(plan, fleet, &index, route, &steps);
        hints.serves(model, fragment.partition_point, nanos_to_ms(least), price, hop_ms);
        let host = |i: &Instance| hosts.get(&plan.partitions[i.partition].device);
        targets.extend(first.instances.iter().filter_map(|i| Some((i, host(i)?))).map(
            |(instance, worker)| RouteTarget {
                route: u32::try_from(number).unwrap_or(u32::MAX),
                model,
                partition_point: fragment.partition_point,
                budget_ms: fragment.budget_ms,
                // Headroom is capacity, too: what is observed is an estimate, and what comes by chance is more.
                rate_rps: fragment.rate_rps * (1.0 + workload.headroom),
                least_ms: nanos_to_ms(least),
                worker: worker.name.clone(),
                pool: u32::try_from(pools[instance.partition]).unwrap_or(u32::MAX),
                work_ms,
            },
        ));
    }
    let used = |host: &&WorkerEndpoint| targets.iter().any(|t| t.worker == host.name);
    Ok(RoutesUpdate {
        epoch: plan.epoch,
        limited,
        emulated: false,
        routers: 1,
        workers: hosts
            .values()
            .filter(used)
            .map(|host| (host.name.clone(), host.clone()))
            .collect(),
        server_ms: hints.server_ms,
        price: hints.price,
        left_out: left_out(plan, fleet.profiles(), &fragments),
        routes: targets,
    })
}

/// The longest chunk that each worker runs in a plan, by the workers' names.
pub fn longest_chunks(
    plan: &Plan,
    fleet: &Fleet<'_>,
    hosts: &BTreeMap<String, WorkerEndpoint>,
) -> BTreeMap<String, Nanos> {
    let stages = plan.stages_by_id();
    let mut longest: BTreeMap<String, Nanos> = BTreeMap::new();
    for partition in &plan.partitions {
        let known = (hosts.get(&partition.device)).zip(fleet.profile_of(&partition.device).ok());
        let Some((host, profile)) = known else { continue };
        let most = longest.entry(host.name.clone()).or_default();
        for stage in partition.stages.iter().filter_map(|id| stages.get(id.as_str())) {
            let chunks = stage.range().and_then(|range| {
                let (share, quantum) = (partition.share, partition.quantum_ms);
                let chunks = profile.chunks(&stage.model, range, stage.batch, share, quantum);
                chunks.ok()
            });
            let own = chunks.into_iter().flatten().map(|chunk| chunk.time).max();
            *most = (*most).max(own.unwrap_or_default());
        }
    }
    longest
}

/// What one request of a route takes, in batches as they are planned: milliseconds of partitions, and of one unit of
/// cost.
fn work(
    plan: &Plan,
    fleet: &Fleet<'_>,
    index: &RouteIndex<'_>,
    route: &Route,
    steps: &[RouteStep],
) -> (f64, f64) {
    let (mut work_ms, mut price) = (0.0, 0.0);
    for (id, step) in route.stages.iter().zip(steps) {
        let Some((stage, range)) = index.stage(id).and_then(|s| Some((s, s.range()?))) else {
            continue;
        };
        let Partition { share, device, .. } = &plan.partitions[step.instances[0].partition];
        let time = fleet
            .profile_of(device)
            .and_then(|profile| profile.latency(&stage.model, range, stage.batch, *share, 0.0));
        if let Ok(time) = time {
            let each = nanos_to_ms(time) / f64::from(stage.batch);
            work_ms += each;
            price += each * f64::from(share.0) * fleet.unit_cost(device);
        }
    }
    (work_ms, price)
}

/// Fragments that are not served, by model and partition point.
fn left_out(plan: &Plan, profiles: &Profiles, fragments: &HashMap<&str, &Fragment>) -> Vec<LeftOut> {
    let unserved = plan.infeasible.iter().filter_map(|id| fragments.get(id.as_str()));
    let of = |f: &&Fragment| {
        let last = profiles.last_cut(&f.model)?;
        let range = StageRange::new(f.partition_point, last)?;
        let on = |(profile, share): (&Profile, Share)| {
            profile
                .latency(&f.model, range, 1, share, 0.0)
                .map_or(f64::INFINITY, nanos_to_ms)
        };
        let kinds = profiles.kinds().iter();
        let all = kinds.flat_map(|p| p.shares.iter().map(move |&share| (p, share)));
        let least = all.map(on).fold(f64::INFINITY, f64::min);
        Some(LeftOut {
            model: f.model.parse().ok()?,
            partition_point: f.partition_point,
            budget_ms: f.budget_ms,
            too_tight: least + profiles.hop_ms() > f.budget_ms,
        })
    };
    let mut list: Vec<LeftOut> = unserved.filter_map(of).collect();
    list.sort_by(|a, b| {
        let key = |l: &LeftOut| (l.model, l.partition_point);
        key(a).cmp(&key(b)).then(a.budget_ms.total_cmp(&b.budget_ms))
    });
    list
}

/// What clients are told, by model and cut point.
struct Hints {
    server_ms: BTreeMap<ModelId, Vec<f64>>,
    price: BTreeMap<ModelId, Vec<f64>>,
    /// Points of which a route has been seen.
    served: BTreeSet<(ModelId, CutPoint)>,
}

impl Hints {
    /// Where no route says more: the layers alone on the smallest share, of several kinds of devices the least, and two
    /// hops.
    fn of_fleet(fleet: &Fleet<'_>) -> Self {
        let mut hints = Hints {
            server_ms: BTreeMap::new(),
            price: BTreeMap::new(),
            served: BTreeSet::new(),
        };
        let profiles = fleet.profiles();
        let hops = 2.0 * profiles.hop_ms();
        for name in profiles.models() {
            let (Ok(id), Some(last)) = (name.parse(), profiles.last_cut(name)) else {
                continue;
            };
            let each = |value: &dyn Fn(&Profile, Share, f64) -> f64| -> Vec<f64> {
                let least = |k: u16| {
                    let Some(range) = StageRange::new(CutPoint(k), last) else {
                        return 0.0;
                    };
                    let on = |profile: &Profile| {
                        let share = *profile.shares.first()?;
                        let run = profile.latency(name, range, 1, share, 0.0).ok()?;
                        Some(value(profile, share, nanos_to_ms(run)))
                    };
                    let all = profiles.kinds().iter().filter_map(on);
                    all.reduce(f64::min).unwrap_or(0.0)
                };
                (0..=last.0).map(least).collect()
            };
            let with_hops = |_: &Profile, _, ms: f64| if ms > 0.0 { ms + hops } else { 0.0 };
            hints.server_ms.insert(id, each(&with_hops));
            let unit = |profile: &Profile| fleet.unit_cost_of_kind(&profile.device_kind);
            let dear = |profile: &Profile, share: Share, ms: f64| ms * f64::from(share.0) * unit(profile);
            hints.price.insert(id, each(&dear));
        }
        hints
    }

    /// A route serves a point: of several, the slowest and the dearest count.
    fn serves(&mut self, model: ModelId, point: CutPoint, least_ms: f64, price: f64, hop_ms: f64) {
        let first = self.served.insert((model, point));
        let set = |list: Option<&mut Vec<f64>>, value: f64| {
            if let Some(known) = list.and_then(|l| l.get_mut(point.index())) {
                *known = if first { value } else { known.max(value) };
            }
        };
        set(self.server_ms.get_mut(&model), least_ms + 2.0 * hop_ms);
        set(self.price.get_mut(&model), price);
    }
}
