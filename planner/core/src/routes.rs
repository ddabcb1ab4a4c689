//! A plan's routes, as routers are told them.

use std::collections::{BTreeMap, HashMap};

use graft_model::{CutPoint, ModelId, StageRange};
use graft_plan::{Fragment, Nanos, Plan, Profile, Workload, nanos_to_ms};
use graft_wire::{RouteTarget, RoutesUpdate, WorkerEndpoint};
use graft_worker_core::RouteIndex;

/// The routes of a plan, for routers.
///
/// `limited`: routes carry no more than their planned rates. `workers`: by the plan's names of devices. A route is
/// listed once for each of a worker's partitions that runs all of it: they share its load evenly. Models are called by
/// their identity; fragments whose model is not are left out.
pub fn routes(
    plan: &Plan,
    limited: bool,
    workload: &Workload,
    profile: &Profile,
    workers: &BTreeMap<String, WorkerEndpoint>,
) -> RoutesUpdate {
    let index = RouteIndex::new(plan, profile);
    let fragments: HashMap<&str, &Fragment> = workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect();
    let mut targets = vec![];
    for (number, route) in plan.routes.iter().enumerate() {
        let Some(fragment) = fragments.get(route.fragment.as_str()) else {
            continue;
        };
        let (Ok(model), Ok(steps)) = (fragment.model.parse::<ModelId>(), index.steps(route)) else {
            continue;
        };
        let Some((first, later)) = steps.split_first() else {
            continue;
        };
        let least = steps.iter().fold(Nanos::ZERO, |sum, s| sum + s.alone);
        let runs_all = |at: usize| {
            later
                .iter()
                .all(|s| s.instances.iter().any(|i| i.partition == at))
        };
        let hosting = first.instances.iter().filter(|i| runs_all(i.partition));
        let devices = hosting.map(|i| &plan.partitions[i.partition].device);
        targets.extend(
            devices
                .filter(|d| workers.contains_key(*d))
                .map(|worker| RouteTarget {
                    route: u32::try_from(number).unwrap_or(u32::MAX),
                    model,
                    partition_point: fragment.partition_point,
                    budget_ms: fragment.budget_ms,
                    rate_rps: fragment.rate_rps,
                    least_ms: nanos_to_ms(least),
                    worker: worker.clone(),
                }),
        );
    }
    let used = |name: &String| targets.iter().any(|t| t.worker == *name);
    RoutesUpdate {
        epoch: plan.epoch,
        limited,
        emulated: false,
        workers: workers
            .iter()
            .filter(|(name, _)| used(name))
            .map(|(name, place)| (name.clone(), place.clone()))
            .collect(),
        server_ms: server_ms(profile),
        routes: targets,
    }
}

/// Milliseconds that the server needs from each cut point on: the layers alone on the smallest share, and two hops.
fn server_ms(profile: &Profile) -> BTreeMap<ModelId, Vec<f64>> {
    let Some(&share) = profile.shares.first() else {
        return BTreeMap::new();
    };
    profile
        .models
        .iter()
        .filter_map(|(name, model)| {
            let last = CutPoint(u16::try_from(model.segments.len()).ok()?);
            let times = (0..=last.0)
                .map(|k| {
                    let range = StageRange::new(CutPoint(k), last);
                    let run = range.and_then(|r| profile.latency(name, r, 1, share, 0.0).ok());
                    run.map_or(0.0, |t| nanos_to_ms(t) + 2.0 * profile.hop_ms)
                })
                .collect();
            Some((name.parse().ok()?, times))
        })
        .collect()
}
