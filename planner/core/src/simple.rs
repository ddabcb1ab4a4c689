//! The first planner: merge equal fragments, one shared stage a model, first fit on devices.
//!
//! For each model it joins all fragments at the latest of their partition points; where that makes one late
//! they stay apart. Models share a partition as long as its load allows, by earliest deadline.

use std::collections::BTreeMap;

use graft_model::{CutPoint, StageRange};
use graft_plan::{
    Device, Epoch, Fragment, Order, Partition, Plan, Profile, Route, Share, Stage, Workload, nanos_to_ms,
};

use crate::group::{Class, Ground, GroupDraft, classes, draft, quantum_ms};
use crate::problem::Problem;

/// A plan, and the load that it carries.
#[derive(Debug, Clone)]
pub struct Carried {
    /// The plan; valid for `workload`.
    pub plan: Plan,
    /// The problem's workload, with the rates that are carried.
    pub workload: Workload,
    /// Part of the rates that are carried: 1 unless devices ran out.
    pub part: f64,
}

/// Each step to a smaller load takes this part of the one before.
const STEP: f64 = 0.85;
/// Steps before fragments are left out altogether.
const STEPS: usize = 20;

/// Plans for as much of the load as the devices carry: when they run out, for smaller rates of everybody rather
/// than for some fragments at their full rates. What comes beyond the carried rates is for routers to refuse.
pub fn plan_what_fits(problem: &Problem, epoch: Epoch, options: Options) -> Carried {
    let full = plan(problem, epoch, options);
    let mut best = Carried {
        plan: full,
        workload: problem.workload.clone(),
        part: 1.0,
    };
    if !best.plan.capacity_exhausted {
        return best;
    }
    let mut scaled = problem.clone();
    let mut part = 1.0;
    for _ in 0..STEPS {
        part *= STEP;
        for (fragment, original) in scaled
            .workload
            .fragments
            .iter_mut()
            .zip(&problem.workload.fragments)
        {
            fragment.rate_rps = original.rate_rps * part;
        }
        let plan = plan(&scaled, epoch, options);
        if plan.infeasible.len() < best.plan.infeasible.len() {
            best = Carried {
                plan,
                workload: scaled.workload.clone(),
                part,
            };
        }
        if !best.plan.capacity_exhausted {
            break;
        }
    }
    best
}

/// How to plan.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Fragments may join at re-partition points.
    pub realign: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { realign: true }
    }
}

/// A partition while plans are laid out.
struct Bin<'a> {
    share: Share,
    load: f64,
    groups: Vec<GroupDraft<'a>>,
    /// Equal partitions that split the load.
    copies: usize,
}

/// Makes a plan. It is valid by [`Plan::check`]: what can't be served in time is infeasible, and what the
/// devices have no room for is left out, loosest budgets first, with `capacity_exhausted` set.
pub fn plan(problem: &Problem, epoch: Epoch, options: Options) -> Plan {
    let Problem {
        workload, profile, ..
    } = problem;
    let mut served: Vec<&Fragment> = vec![];
    let mut infeasible: Vec<&Fragment> = vec![];
    for fragment in &workload.fragments {
        if is_feasible(fragment, profile) {
            served.push(fragment);
        } else {
            infeasible.push(fragment);
        }
    }
    // Loosest first at the end, so that they are the first to be left out.
    served.sort_by(|a, b| a.budget_ms.total_cmp(&b.budget_ms).then_with(|| a.id.cmp(&b.id)));
    let mut exhausted = false;
    loop {
        let ground = Ground {
            profile,
            headroom: workload.headroom,
            quantum_ms: quantum_ms(served.iter().copied()),
        };
        let (bins, late) = lay_out(&served, problem, ground, options);
        if !late.is_empty() {
            // On every share the quantum or its neighbours make somebody late: the tightest is left out.
            exhausted = true;
            served.retain(|f| !late.contains(&f.id.as_str()));
            infeasible.extend(
                workload
                    .fragments
                    .iter()
                    .filter(|f| late.contains(&f.id.as_str())),
            );
            continue;
        }
        match place(&bins, problem) {
            Some(places) => {
                let mut plan = write(&served, &bins, &places, problem, ground.quantum_ms, epoch);
                plan.infeasible = infeasible.iter().map(|f| f.id.clone()).collect();
                plan.infeasible.sort();
                plan.capacity_exhausted = exhausted;
                return plan;
            }
            None => {
                exhausted = true;
                // What is at the last cut point takes nothing, and is always served.
                let last = served
                    .iter()
                    .rposition(|f| last_cut(&f.model, profile) != Some(f.partition_point));
                let Some(loosest) = last.map(|i| served.remove(i)) else {
                    let mut plan = Plan::empty("simple", epoch);
                    plan.infeasible = workload.fragments.iter().map(|f| f.id.clone()).collect();
                    plan.capacity_exhausted = true;
                    return plan;
                };
                infeasible.push(loosest);
            }
        }
    }
}

/// The share that it would take to serve each class of equal fragments on partitions of its own, with no
/// re-alignment and no sharing: as many devices as that needs. Infeasible fragments count nothing.
pub fn share_alone(workload: &Workload, profile: &Profile) -> u64 {
    let feasible = || workload.fragments.iter().filter(|f| is_feasible(f, profile));
    let ground = Ground {
        profile,
        headroom: workload.headroom,
        quantum_ms: quantum_ms(feasible()),
    };
    by_model(feasible())
        .into_iter()
        .flat_map(|(model, fragments)| {
            classes(fragments)
                .into_iter()
                .filter_map(|class| cheapest(model, &[class], None, ground))
                .map(|(group, copies)| u64::from(group.share.0) * copies as u64)
                .collect::<Vec<u64>>()
        })
        .sum()
}

/// Some device can take all of these models.
fn some_device_has<'a>(problem: &Problem, models: impl Iterator<Item = &'a str> + Clone) -> bool {
    problem
        .devices
        .devices
        .iter()
        .any(|d| models.clone().all(|m| problem.has(&d.id, m)))
}

fn last_cut(model: &str, profile: &Profile) -> Option<CutPoint> {
    let segments = profile.models.get(model)?.segments.len();
    Some(CutPoint(u16::try_from(segments).ok()?))
}

fn is_feasible(fragment: &Fragment, profile: &Profile) -> bool {
    least_alone_ms(fragment, profile).is_some_and(|ms| ms <= fragment.budget_ms)
}

/// What a fragment takes at least, alone and uncut, with its hop, in milliseconds; 0 at the last cut point.
/// `None`: the profile knows nothing of it.
pub(crate) fn least_alone_ms(fragment: &Fragment, profile: &Profile) -> Option<f64> {
    let last = last_cut(&fragment.model, profile)?;
    if fragment.partition_point == last {
        return Some(0.0);
    }
    let range = StageRange::new(fragment.partition_point, last)?;
    let times = profile.shares.iter().filter_map(|&share| {
        let time = profile.latency(&fragment.model, range, 1, share, 0.0).ok()?;
        Some(nanos_to_ms(time) + profile.hop_ms)
    });
    times.min_by(f64::total_cmp)
}

fn by_model<'a>(fragments: impl IntoIterator<Item = &'a Fragment>) -> BTreeMap<&'a str, Vec<&'a Fragment>> {
    let mut models: BTreeMap<&str, Vec<&Fragment>> = BTreeMap::new();
    for fragment in fragments {
        models.entry(&fragment.model).or_default().push(fragment);
    }
    models
}

/// The layout of a group that takes the least share, and its number of equal partitions.
fn cheapest<'a>(
    model: &'a str,
    classes: &[Class<'a>],
    re_partition: Option<CutPoint>,
    ground: Ground<'_>,
) -> Option<(GroupDraft<'a>, usize)> {
    ground
        .profile
        .shares
        .iter()
        .filter_map(|&share| draft(model, classes, re_partition, share, ground))
        .map(|group| {
            let copies = (group.load - 1e-9).ceil().max(1.0) as usize;
            (group, copies)
        })
        .min_by_key(|(group, copies)| (group.share.0 as usize * copies, *copies))
}

/// Partitions for all fragments, and those that no layout serves in time.
fn lay_out<'a>(
    served: &[&'a Fragment],
    problem: &Problem,
    ground: Ground<'_>,
    options: Options,
) -> (Vec<Bin<'a>>, Vec<&'a str>) {
    let mut groups: Vec<(GroupDraft<'a>, usize)> = vec![];
    let mut late = vec![];
    for (model, fragments) in by_model(served.iter().copied()) {
        let last = last_cut(model, ground.profile);
        let unserved = fragments.into_iter().filter(|f| Some(f.partition_point) != last);
        let classes = classes(unserved);
        let Some(latest) = classes.iter().map(|c| c.point).max() else {
            continue;
        };
        let joint = (options.realign && classes.len() > 1)
            .then(|| cheapest(model, &classes, Some(latest), ground))
            .flatten();
        let apart = cheapest(model, &classes, None, ground);
        let cost = |g: &Option<(GroupDraft<'_>, usize)>| {
            g.as_ref().map_or((usize::MAX, f64::INFINITY), |(g, n)| {
                (g.share.0 as usize * n, g.load)
            })
        };
        // At the same share the re-aligned layout is taken: its batches grow when the load does.
        let best = if cost(&joint).0 <= cost(&apart).0 {
            joint.or(apart)
        } else {
            apart
        };
        match best {
            Some(group) => groups.push(group),
            None => late.extend(tightest(&classes)),
        }
    }
    groups.sort_by(|(a, n), (b, m)| {
        m.cmp(n)
            .then(b.load.total_cmp(&a.load))
            .then(a.model.cmp(b.model))
    });
    let mut bins: Vec<Bin<'a>> = vec![];
    for (group, copies) in groups {
        let joinable = |bin: &&mut Bin<'_>| {
            let models = bin.groups.iter().map(|g| g.model).chain([group.model]);
            copies == 1
                && bin.copies == 1
                && bin.share == group.share
                && bin.load + group.load <= 1.0
                && some_device_has(problem, models)
        };
        match bins.iter_mut().find(joinable) {
            Some(bin) => {
                bin.load += group.load;
                bin.groups.push(group);
            }
            None => bins.push(Bin {
                share: group.share,
                load: group.load,
                groups: vec![group],
                copies,
            }),
        }
    }
    (bins, late)
}

/// Of classes that can't be laid out, the fragment with the least budget.
fn tightest<'a>(classes: &[Class<'a>]) -> Option<&'a str> {
    let fragments = classes.iter().flat_map(|c| &c.fragments);
    fragments
        .min_by(|a, b| a.budget_ms.total_cmp(&b.budget_ms))
        .map(|f| f.id.as_str())
}

/// Devices for all partitions, first fit; `None`: there is no room.
fn place(bins: &[Bin<'_>], problem: &Problem) -> Option<Vec<Vec<usize>>> {
    let Problem { profile, devices, .. } = problem;
    let usable: Vec<&Device> = devices.devices.iter().collect();
    let mut free: Vec<u32> = usable
        .iter()
        .map(|d| {
            if d.kind == profile.device_kind {
                d.share_total.0
            } else {
                0
            }
        })
        .collect();
    let mut held: Vec<BTreeMap<(&str, usize), u64>> = usable.iter().map(|_| BTreeMap::new()).collect();
    let mut places = vec![];
    for bin in bins {
        let mut at = vec![];
        for _ in 0..bin.copies {
            let found = (0..usable.len()).find(|&d| {
                let has_models = bin.groups.iter().all(|g| problem.has(&usable[d].id, g.model));
                free[d] >= bin.share.0 && has_models && {
                    let mut with = held[d].clone();
                    with.extend(weights(bin, profile));
                    with.values().sum::<u64>() <= usable[d].memory_bytes
                }
            })?;
            free[found] -= bin.share.0;
            held[found].extend(weights(bin, profile));
            at.push(found);
        }
        // A route's stages share a partition, so they stay on one device; copies elsewhere are equals.
        places.push(at);
    }
    Some(places)
}

fn weights<'a>(bin: &Bin<'a>, profile: &Profile) -> Vec<((&'a str, usize), u64)> {
    bin.groups
        .iter()
        .flat_map(|g| {
            let segments = profile
                .models
                .get(g.model)
                .map(|m| m.segments.as_slice())
                .unwrap_or_default();
            let ranges = g.stages.iter().flat_map(|s| s.range.segments());
            ranges
                .filter_map(|k| Some(((g.model, k), segments.get(k)?.weights_bytes)))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn write(
    served: &[&Fragment],
    bins: &[Bin<'_>],
    places: &[Vec<usize>],
    problem: &Problem,
    quantum_ms: f64,
    epoch: Epoch,
) -> Plan {
    let mut plan = Plan::empty("simple", epoch);
    for (bin, at) in bins.iter().zip(places) {
        let mut ids = vec![];
        for group in &bin.groups {
            let first = plan.stages.len();
            for stage in &group.stages {
                let id = format!("s{}", plan.stages.len());
                ids.push(id.clone());
                plan.stages.push(Stage {
                    id,
                    model: group.model.to_owned(),
                    from: stage.range.from(),
                    to: stage.range.to(),
                    batch: stage.batch,
                    rate_rps: stage.rate_rps,
                    deadline_ms: stage.deadline_ms,
                });
            }
            for (fragment, stages) in &group.routes {
                plan.routes.push(Route {
                    fragment: fragment.id.clone(),
                    stages: stages.iter().map(|i| format!("s{}", first + i)).collect(),
                });
            }
        }
        for &device in at {
            plan.total_share += u64::from(bin.share.0);
            plan.partitions.push(Partition {
                id: format!("p{}", plan.partitions.len()),
                device: problem.devices.devices[device].id.clone(),
                share: bin.share,
                order: Order::Edf,
                quantum_ms,
                stages: ids.clone(),
            });
        }
    }
    for fragment in served {
        if last_cut(&fragment.model, &problem.profile) == Some(fragment.partition_point) {
            plan.routes.push(Route {
                fragment: fragment.id.clone(),
                stages: vec![],
            });
        }
    }
    plan.routes.sort_by(|a, b| a.fragment.cmp(&b.fragment));
    plan
}
