//! A plan's routes, as routers are told them; and what clients are told of the server's times and prices.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use graft_model::{CutPoint, ModelId, StageRange};
use graft_plan::{Fragment, Nanos, Plan, Profile, Route, Workload, nanos_to_ms};
use graft_wire::{LeftOut, RouteTarget, RoutesUpdate, WorkerEndpoint};
use graft_worker_core::{RouteError, RouteIndex, RouteStep};

/// The routes of a plan, for routers.
///
/// `limited`: routes carry no more than their planned rates. `workers`: by the plan's names of devices. A route is
/// listed once for each partition that runs its first stage, with that partition's worker: they share its load evenly.
/// Models are called by their identity.
pub fn routes(
    plan: &Plan,
    limited: bool,
    workload: &Workload,
    profile: &Profile,
    workers: &BTreeMap<String, WorkerEndpoint>,
) -> Result<RoutesUpdate, RouteError> {
    let index = RouteIndex::new(plan, profile);
    let pools = index.pools();
    let fragments: HashMap<&str, &Fragment> = workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect();
    let mut targets = vec![];
    let mut hints = Hints::of_profile(profile);
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
        let (work_ms, price) = work(plan, profile, &index, route, &steps);
        hints.serves(
            model,
            fragment.partition_point,
            nanos_to_ms(least),
            price,
            profile,
        );
        let devices = first
            .instances
            .iter()
            .map(|i| (i, &plan.partitions[i.partition].device));
        targets.extend(
            devices
                .filter(|(_, d)| workers.contains_key(*d))
                .map(|(instance, worker)| RouteTarget {
                    route: u32::try_from(number).unwrap_or(u32::MAX),
                    model,
                    partition_point: fragment.partition_point,
                    budget_ms: fragment.budget_ms,
                    // Headroom is capacity, too: what is observed is an estimate, and what comes by chance is more.
                    rate_rps: fragment.rate_rps * (1.0 + workload.headroom),
                    least_ms: nanos_to_ms(least),
                    worker: worker.clone(),
                    pool: u32::try_from(pools[instance.partition]).unwrap_or(u32::MAX),
                    work_ms,
                }),
        );
    }
    let used = |name: &String| targets.iter().any(|t| t.worker == *name);
    Ok(RoutesUpdate {
        epoch: plan.epoch,
        limited,
        emulated: false,
        routers: 1,
        workers: workers
            .iter()
            .filter(|(name, _)| used(name))
            .map(|(name, place)| (name.clone(), place.clone()))
            .collect(),
        server_ms: hints.server_ms,
        price: hints.price,
        left_out: left_out(plan, profile, &fragments),
        routes: targets,
    })
}

/// What one request of a route takes, in batches as they are planned: milliseconds of partitions, and of one unit of
/// share.
fn work(
    plan: &Plan,
    profile: &Profile,
    index: &RouteIndex<'_>,
    route: &Route,
    steps: &[RouteStep],
) -> (f64, f64) {
    let (mut work_ms, mut price) = (0.0, 0.0);
    for (id, step) in route.stages.iter().zip(steps) {
        let Some((stage, range)) = index.stage(id).and_then(|s| Some((s, s.range()?))) else {
            continue;
        };
        let share = plan.partitions[step.instances[0].partition].share;
        if let Ok(time) = profile.latency(&stage.model, range, stage.batch, share, 0.0) {
            let each = nanos_to_ms(time) / f64::from(stage.batch);
            work_ms += each;
            price += each * f64::from(share.0);
        }
    }
    (work_ms, price)
}

/// Fragments that are not served, by model and partition point.
fn left_out(plan: &Plan, profile: &Profile, fragments: &HashMap<&str, &Fragment>) -> Vec<LeftOut> {
    let unserved = plan.infeasible.iter().filter_map(|id| fragments.get(id.as_str()));
    let of = |f: &&Fragment| {
        let last = CutPoint(u16::try_from(profile.models.get(&f.model)?.segments.len()).ok()?);
        let range = StageRange::new(f.partition_point, last)?;
        let on = |share| {
            profile
                .latency(&f.model, range, 1, share, 0.0)
                .map_or(f64::INFINITY, nanos_to_ms)
        };
        let least = profile
            .shares
            .iter()
            .map(|&share| on(share))
            .fold(f64::INFINITY, f64::min);
        Some(LeftOut {
            model: f.model.parse().ok()?,
            partition_point: f.partition_point,
            budget_ms: f.budget_ms,
            too_tight: least + profile.hop_ms > f.budget_ms,
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
    /// Where no route says more: the layers alone on the smallest share, and two hops.
    fn of_profile(profile: &Profile) -> Self {
        let mut hints = Hints {
            server_ms: BTreeMap::new(),
            price: BTreeMap::new(),
            served: BTreeSet::new(),
        };
        let Some(&share) = profile.shares.first() else {
            return hints;
        };
        for (name, model) in &profile.models {
            let (Ok(id), Ok(last)) = (name.parse(), u16::try_from(model.segments.len())) else {
                continue;
            };
            let alone = (0..=last).map(|k| {
                let range = StageRange::new(CutPoint(k), CutPoint(last));
                let run = range.and_then(|r| profile.latency(name, r, 1, share, 0.0).ok());
                run.map_or(0.0, nanos_to_ms)
            });
            let alone: Vec<f64> = alone.collect();
            let with_hops = |&ms: &f64| if ms > 0.0 { ms + 2.0 * profile.hop_ms } else { 0.0 };
            hints.server_ms.insert(id, alone.iter().map(with_hops).collect());
            let dear = |ms: &f64| ms * f64::from(share.0);
            hints.price.insert(id, alone.iter().map(dear).collect());
        }
        hints
    }

    /// A route serves a point: of several, the slowest and the dearest count.
    fn serves(&mut self, model: ModelId, point: CutPoint, least_ms: f64, price: f64, profile: &Profile) {
        let first = self.served.insert((model, point));
        let set = |list: Option<&mut Vec<f64>>, value: f64| {
            if let Some(known) = list.and_then(|l| l.get_mut(point.index())) {
                *known = if first { value } else { known.max(value) };
            }
        };
        set(self.server_ms.get_mut(&model), least_ms + 2.0 * profile.hop_ms);
        set(self.price.get_mut(&model), price);
    }
}
