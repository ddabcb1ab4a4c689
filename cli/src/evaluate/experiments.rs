//! The experiments of the evaluation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graft_certify::certify;
use graft_model::{CutPoint, SplitMix};
use graft_plan::{Device, Devices, Epoch, Fragment, Hardware, Plan, Share, Workload};
use graft_planner::Threads;
use graft_planner_search::{GraftOptions, Problem, lower_bound};
use serde::{Deserialize, Serialize};

use super::Bench;
use super::scenarios::{Burst, Lived, bursts};
use crate::plan::Algorithm;

/// Everything that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Results {
    /// How long Graft searched for a hundred phones, by profile, in milliseconds.
    #[serde(default)]
    pub efforts: BTreeMap<String, u64>,
    /// Plans at full attainment, whose shares are compared.
    pub shares: Vec<Row>,
    /// Plans with the share that Graft needs, whose attainments are compared.
    pub equal_share: Vec<Row>,
    /// Plans of workloads in which one thing changes, whose shares are compared.
    pub sensitivity: Vec<Varied>,
    /// Plans for requests in bursts, whose shares are compared.
    pub bursts: Vec<Burst>,
    /// Sites whose plans follow the phones.
    pub lived: Vec<Lived>,
    /// Gaps to the optimum, under the analytic test, of random small workloads.
    pub gaps: Vec<Gap>,
}

impl Results {
    /// These results after earlier ones, of which those of the same profiles and scenarios are left out.
    pub fn beside(self, before: Results, profiles: &[String]) -> Results {
        let other = |profile: &String| !profiles.contains(profile);
        let again: Vec<&String> = self.lived.iter().map(|l| &l.scenario).collect();
        let lived = before.lived.into_iter().filter(|l| !again.contains(&&l.scenario));
        let lived = lived.chain(self.lived.clone()).collect();
        fn joined<T>(before: Vec<T>, now: Vec<T>, keep: impl Fn(&T) -> bool) -> Vec<T> {
            before.into_iter().filter(|t| keep(t)).chain(now).collect()
        }
        let mut efforts = before.efforts;
        efforts.extend(self.efforts);
        Results {
            efforts,
            shares: joined(before.shares, self.shares, |r| other(&r.profile)),
            equal_share: joined(before.equal_share, self.equal_share, |r| other(&r.profile)),
            sensitivity: joined(before.sensitivity, self.sensitivity, |v| other(&v.profile)),
            bursts: joined(before.bursts, self.bursts, |b| other(&b.profile)),
            gaps: joined(before.gaps, self.gaps, |g| other(&g.profile)),
            lived,
        }
    }
}

/// Figures of one plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub profile: String,
    pub workload: String,
    pub phones: usize,
    pub algorithm: String,
    pub share: u64,
    pub bound: u64,
    pub certified: bool,
    pub infeasible: usize,
    /// Attainment of all requests, those of fragments that are not served included.
    pub attainment: f64,
    pub seconds: f64,
}

/// Figures of one plan of a workload in which one thing was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Varied {
    pub profile: String,
    pub what: String,
    pub value: f64,
    pub algorithm: String,
    pub share: u64,
    pub infeasible: usize,
    pub certified: bool,
}

/// Shares of the optimum and of Graft's plan for one small workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Gap {
    pub profile: String,
    pub exact: u64,
    pub graft: u64,
}

/// Fragments above which a workload is planned by few algorithms.
const LARGE: usize = 2_000;
const ALL: [Algorithm; 9] = [
    Algorithm::Graft,
    Algorithm::GraftNoRealign,
    Algorithm::GraftNoCuts,
    Algorithm::GraftNoEdf,
    Algorithm::Nexus,
    Algorithm::Paper,
    Algorithm::GslicePlus,
    Algorithm::Gslice,
    Algorithm::Static,
];
const OF_LARGE: [Algorithm; 2] = [Algorithm::Graft, Algorithm::GslicePlus];
pub(super) const VARIED: [Algorithm; 4] = [
    Algorithm::Graft,
    Algorithm::Nexus,
    Algorithm::Paper,
    Algorithm::GslicePlus,
];
/// Phones of the workloads that are varied, about.
const VARIED_PHONES: usize = 100;

pub(super) fn all(sites: &[Bench], effort: Duration, small: usize) -> anyhow::Result<Results> {
    let mut results = Results::default();
    for site in sites {
        let searched = u64::try_from(effort.as_millis()).unwrap_or(u64::MAX);
        results.efforts.insert(site.name.clone(), searched);
        for (workload_name, workload) in &site.workloads {
            let problem = site.problem(workload);
            // A larger workload takes longer to search.
            let effort = effort.mul_f64(
                (workload.fragments.len() as f64 / VARIED_PHONES as f64)
                    .sqrt()
                    .max(1.0),
            );
            let algorithms = if workload.fragments.len() > LARGE {
                OF_LARGE.to_vec()
            } else {
                ALL.to_vec()
            };
            let mut needed = None;
            for algorithm in algorithms {
                let row = planned(site, workload_name, &problem, algorithm, effort)?;
                eprintln!(
                    "{} {} {}: {} in {:.1} s",
                    row.profile, row.workload, row.algorithm, row.share, row.seconds
                );
                if algorithm == Algorithm::Graft {
                    needed = Some(row.share);
                }
                results.shares.push(row);
            }
            if let Some(share) = needed.filter(|_| workload.fragments.len() == VARIED_PHONES) {
                let problem = Problem {
                    hardware: Hardware {
                        devices: devices_of(share, &problem),
                        ..problem.hardware.clone()
                    },
                    ..problem
                };
                for algorithm in VARIED {
                    results
                        .equal_share
                        .push(planned(site, workload_name, &problem, algorithm, effort)?);
                }
            }
        }
        if let Some((_, workload)) = site
            .workloads
            .iter()
            .find(|(_, w)| w.fragments.len() == VARIED_PHONES)
        {
            varied(site, workload, effort, &mut results)?;
            results.bursts.extend(bursts(site, workload, effort / 2)?);
        }
        if let Some((_, workload)) = site.workloads.last() {
            gaps(site, workload, small / sites.len().max(1), effort, &mut results)?;
        }
    }
    Ok(results)
}

/// Devices with a share in all: as many whole ones as there is room for, and a part of one.
fn devices_of(share: u64, problem: &Problem) -> Devices {
    let mut left = share;
    let cut = |device: &Device| {
        let part = left.min(u64::from(device.share_total.0));
        left -= part;
        (part > 0).then(|| Device {
            share_total: Share(part as u32),
            ..device.clone()
        })
    };
    Devices {
        devices: problem.hardware.devices.devices.iter().filter_map(cut).collect(),
        ..problem.hardware.devices.clone()
    }
}

pub(super) fn made(problem: &Problem, algorithm: Algorithm, effort: Duration) -> anyhow::Result<(Plan, f64)> {
    let start = Instant::now();
    let go_on = &mut |_| start.elapsed() < effort;
    let plan = algorithm.plan(problem, Epoch(1), None, GraftOptions::default(), go_on)?;
    let broken = plan.check(&problem.workload, &problem.hardware.fleet());
    anyhow::ensure!(
        broken.is_empty(),
        "{algorithm:?} made a plan that breaks a rule, which is a bug: {}",
        broken[0]
    );
    Ok((plan, start.elapsed().as_secs_f64()))
}

fn planned(
    site: &Bench,
    workload: &str,
    problem: &Problem,
    algorithm: Algorithm,
    effort: Duration,
) -> anyhow::Result<Row> {
    let (plan, seconds) = made(problem, algorithm, effort)?;
    let certificate = certify(
        &plan,
        &problem.workload,
        &problem.hardware.fleet(),
        &Threads::of_machine(),
    )?;
    let rate = |unserved: bool| -> f64 {
        let fragments = problem.workload.fragments.iter();
        fragments
            .filter(|f| !unserved || plan.infeasible.contains(&f.id))
            .map(|f| f.rate_rps)
            .sum()
    };
    Ok(Row {
        profile: site.name.clone(),
        workload: workload.to_owned(),
        phones: problem.workload.fragments.len(),
        algorithm: algorithm.name(),
        share: plan.total_share,
        bound: lower_bound(problem) as u64,
        certified: certificate.certified,
        infeasible: plan.infeasible.len(),
        attainment: certificate.attainment * (1.0 - rate(true) / rate(false)),
        seconds,
    })
}

/// One thing of a workload changes at a time.
fn varied(site: &Bench, workload: &Workload, effort: Duration, results: &mut Results) -> anyhow::Result<()> {
    let each = |change: &dyn Fn(&Fragment) -> Fragment| Workload {
        fragments: workload.fragments.iter().map(change).collect(),
        ..workload.clone()
    };
    let mut cases: Vec<(&str, f64, Workload)> = vec![];
    for factor in [0.6, 0.8, 1.0, 1.5, 2.5] {
        cases.push((
            "budgets, times",
            factor,
            each(&|f| Fragment {
                budget_ms: f.budget_ms * factor,
                ..f.clone()
            }),
        ));
    }
    for factor in [0.25, 0.5, 1.0, 2.0, 4.0] {
        cases.push((
            "rates, times",
            factor,
            each(&|f| Fragment {
                rate_rps: f.rate_rps * factor,
                ..f.clone()
            }),
        ));
    }
    for points in [1, 2, 4, 8] {
        cases.push((
            "partition points a network",
            f64::from(points),
            each(&|f| nearest(f, points, site)),
        ));
    }
    for (what, value, workload) in cases {
        let problem = site.problem(&workload);
        for algorithm in VARIED {
            let row = planned(site, what, &problem, algorithm, effort / 2)?;
            eprintln!("{} {what} {value} {}: {}", site.name, row.algorithm, row.share);
            results.sensitivity.push(Varied {
                profile: site.name.clone(),
                what: what.to_owned(),
                value,
                algorithm: row.algorithm,
                share: row.share,
                infeasible: row.infeasible,
                certified: row.certified,
            });
        }
    }
    Ok(())
}

/// The fragment at the nearest of so many evenly spaced partition points in the first half of its network.
fn nearest(f: &Fragment, points: u16, site: &Bench) -> Fragment {
    let last = site.hardware.profiles.last_cut(&f.model);
    let half = last.map_or(0, |last| last.0 / 2);
    let step = (half / points).max(1);
    let at = (f.partition_point.0 / step).min(points - 1) * step;
    Fragment {
        partition_point: CutPoint(at),
        ..f.clone()
    }
}

/// Random handfuls of a workload's fragments, with rates up to ten times theirs.
fn gaps(
    site: &Bench,
    workload: &Workload,
    count: usize,
    effort: Duration,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut numbers = SplitMix(1);
    let mut roll = |sides: usize| numbers.below(sides);
    let effort = effort.min(Duration::from_millis(200));
    for _ in 0..count {
        let mut fragments: Vec<Fragment> = vec![];
        for _ in 0..2 + roll(7) {
            let f = &workload.fragments[roll(workload.fragments.len())];
            let times = [1.0, 1.0, 3.0, 10.0][roll(4)];
            if fragments.iter().all(|g| g.id != f.id) {
                fragments.push(Fragment {
                    rate_rps: f.rate_rps * times,
                    ..f.clone()
                });
            }
        }
        let problem = site.problem(&Workload {
            fragments,
            ..workload.clone()
        });
        // A workload with too many merged fragments for the optimum is left out.
        let Ok((exact, _)) = made(&problem, Algorithm::Exact, effort) else {
            continue;
        };
        let (graft, _) = made(&problem, Algorithm::GraftAnalytic, effort)?;
        results.gaps.push(Gap {
            profile: site.name.clone(),
            exact: exact.total_share,
            graft: graft.total_share,
        });
    }
    Ok(())
}
