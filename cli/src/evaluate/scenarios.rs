//! The experiments with scenarios: bursts, and sites whose plans follow the phones.

use std::time::Duration;

use graft_plan::{Arrivals, FragmentClient, Plan, Scenario, Workload};
use graft_simulator::{Planner, Report, run as play};
use serde::{Deserialize, Serialize};

use super::Bench;
use super::experiments::{VARIED, made};
use crate::plan::Algorithm;
use crate::scenario::Setting;
use crate::simulate::Living;

/// Figures of one algorithm's plans for a workload whose requests come in bursts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Burst {
    pub profile: String,
    pub algorithm: String,
    /// Mean number of requests of a burst.
    pub size: f64,
    /// Share of the first plan that keeps the attainment; `None`: no plan that was tried does.
    pub share: Option<u64>,
    /// Factor on the real rates for which that plan was made.
    pub planned_for: Option<f64>,
    /// Attainment of the plan for Poisson arrivals at the real rates.
    pub unprepared: f64,
}

/// Figures of a scenario under one algorithm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Lived {
    pub scenario: String,
    pub algorithm: String,
    pub mean_share: f64,
    pub peak_share: u64,
    /// Attainment of the requests that routers received, by the server's deadline.
    pub server_attainment: f64,
    /// Attainment of all inferences.
    pub attainment: f64,
    pub plans: usize,
    pub kept: usize,
    pub changed: usize,
}

/// Time from one request of a burst to the next, in milliseconds.
const GAP_MS: f64 = 2.0;
/// Mean numbers of requests of a burst that are tried; 1: a Poisson process.
const SIZES: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// Factors on the real rates for which plans are made, one after the other, until one keeps the attainment.
const PLANNED_FOR: [f64; 6] = [1.0, 1.25, 1.6, 2.0, 3.0, 5.0];
/// Attainment that plans must keep.
const ATTAINMENT: f64 = 0.999;
/// Part of each fragment's requests that plans must keep in time.
const EACH: f64 = 0.99;
/// Length of a run, in seconds, as long as a certificate's.
const LENGTH_S: f64 = 120.0;
/// Requests in a run below which a fragment is not judged by itself: fewer say too little.
const ENOUGH: u64 = 300;

fn bursty(site: &Bench, workload: &Workload, size: f64) -> Scenario {
    // At the last cut point nothing is asked for.
    let owes = |f: &&graft_plan::Fragment| {
        let last = site.hardware.profiles.last_cut(&f.model);
        last.is_some_and(|last| f.partition_point < last)
    };
    let client = |f: &graft_plan::Fragment| FragmentClient {
        id: f.id.clone(),
        model: f.model.clone(),
        partition_point: f.partition_point,
        budget_ms: f.budget_ms,
        rate_rps: f.rate_rps,
        arrivals: Arrivals::Bursty { size, gap_ms: GAP_MS },
        load: vec![],
    };
    Scenario {
        version: 1,
        name: format!("bursts of {size}"),
        profiles: None,
        devices: None,
        duration_s: LENGTH_S,
        warmup_s: 0.0,
        headroom: workload.headroom,
        routers: 1,
        phones: vec![],
        fragments: workload.fragments.iter().filter(owes).map(client).collect(),
        faults: vec![],
        control: graft_plan::ControlTimes::default(),
    }
}

fn played(site: &Bench, plan: &Plan, scenario: &Scenario) -> anyhow::Result<Report> {
    let planner = Planner::Fixed(plan);
    Ok(play(scenario, &site.hardware, &[], planner, 1, &mut |_| {})?)
}

/// Whether all fragments that are served at all are served in time often enough.
fn keeps(report: &Report, plan: &Plan) -> bool {
    let served = report
        .fragments
        .iter()
        .filter(|(id, ..)| !plan.infeasible.contains(id));
    let (mut all, mut all_in_time) = (0, 0);
    for (_, requests, in_time) in served {
        all += requests;
        all_in_time += in_time;
        if *requests >= ENOUGH && (*in_time as f64) < EACH * *requests as f64 {
            return false;
        }
    }
    all_in_time as f64 >= ATTAINMENT * all as f64
}

/// Share against the size of bursts.
pub(super) fn bursts(site: &Bench, workload: &Workload, effort: Duration) -> anyhow::Result<Vec<Burst>> {
    let mut bursts = vec![];
    for algorithm in VARIED {
        let mut plans: Vec<(f64, Plan)> = vec![];
        for size in SIZES {
            let scenario = bursty(site, workload, size);
            let (mut found, mut unprepared) = (None, 1.0);
            for (i, &times) in PLANNED_FOR.iter().enumerate() {
                if plans.len() <= i {
                    let mut larger = workload.clone();
                    larger.fragments.iter_mut().for_each(|f| f.rate_rps *= times);
                    let (plan, _) = made(&site.problem(&larger), algorithm, effort)?;
                    plans.push((times, plan));
                }
                let (times, plan) = &plans[i];
                let report = played(site, plan, &scenario)?;
                if i == 0 {
                    unprepared = report.attainment;
                }
                if keeps(&report, plan) {
                    found = Some((plan.total_share, *times));
                    break;
                }
            }
            eprintln!("{} bursts of {size} {}: {found:?}", site.name, algorithm.name());
            bursts.push(Burst {
                profile: site.name.clone(),
                algorithm: algorithm.name(),
                size,
                share: found.map(|f| f.0),
                planned_for: found.map(|f| f.1),
                unprepared,
            });
        }
    }
    Ok(bursts)
}

/// Moves of Graft's search in each planning of a scenario.
const MOVES: u64 = 20;
const LIVING: [Algorithm; 5] = [
    Algorithm::Graft,
    Algorithm::Nexus,
    Algorithm::Paper,
    Algorithm::GslicePlus,
    Algorithm::Static,
];

/// A scenario under each algorithm.
pub(super) fn lived(stage: &Setting) -> anyhow::Result<Vec<Lived>> {
    let mut list = vec![];
    for algorithm in LIVING {
        let mut living = Living {
            algorithm,
            moves: MOVES,
        };
        let planner = Planner::Living {
            name: algorithm.name(),
            planning: &mut living,
        };
        let report = play(
            &stage.scenario,
            &stage.hardware,
            &stage.traces,
            planner,
            1,
            &mut |_| {},
        )?;
        let sum = |of: fn(&graft_simulator::Decision) -> usize| report.decisions.iter().map(of).sum();
        eprintln!(
            "{} {}: {:.1}",
            report.scenario, report.algorithm, report.share.mean
        );
        list.push(Lived {
            scenario: report.scenario.clone(),
            algorithm: report.algorithm.clone(),
            mean_share: report.share.mean,
            peak_share: report.share.peak,
            server_attainment: report.server.attainment,
            attainment: report.attainment,
            plans: report.decisions.len(),
            kept: sum(|d| d.kept),
            changed: sum(|d| d.moved + d.new),
        });
    }
    Ok(list)
}
