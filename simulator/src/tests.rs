//! Whole runs of small sites.

use std::sync::Arc;

use graft_certify::{Alone, simulate};
use graft_plan::{
    Arrivals, Device, Devices, Epoch, Fault, Fragment, FragmentClient, Hardware, Nanos, Plan, Profile,
    Profiles, Scenario, Share, Workload,
};
use graft_planner_search::{Carried, GraftOptions, Lacks, Problem, plan_graft, plan_what_fits};

use crate::{Planner, Planning, Report, Trace, run};

const PROFILE: &str = r#"{"version": 1, "device_kind": "test", "source": "modelled", "share_total": 4,
    "shares": [1, 2, 4], "batches": [1, 2, 4], "stage_overhead_ms": 0.02, "hop_ms": 0.05, "models": {}}"#;

/// A network of six segments; a share of two is twice as fast, a batch of four takes twice as long.
fn profile() -> Profile {
    let mut profile: Profile = serde_json::from_str(PROFILE).unwrap();
    let segment = |ms: f64| {
        let rows = [1.0, 1.3, 2.0].map(|batch| [1.0, 0.5, 0.25].map(|share| ms * batch * share));
        serde_json::json!({"weights_bytes": 1000, "flops": 20_000_000, "ms": rows})
    };
    let model = serde_json::json!({
        "cut_bytes": [60_000, 80_000, 40_000, 20_000, 10_000, 8_000, 2_000],
        "segments": [segment(0.8), segment(0.8), segment(0.8), segment(0.8), segment(0.8), segment(0.8)],
    });
    let model = serde_json::from_value(model).unwrap();
    profile.models.insert("net".to_owned(), model);
    profile
}

fn devices(count: u32) -> Devices {
    let device = |i: u32| Device {
        id: format!("d{i}"),
        kind: "test".to_owned(),
        share_total: Share(4),
        memory_bytes: 1 << 30,
        price: None,
    };
    Devices {
        version: 1,
        devices: (0..count).map(device).collect(),
    }
}

fn on(devices: Devices) -> Hardware {
    Hardware {
        profiles: profile().into(),
        devices,
    }
}

fn scenario(rest: &str) -> Scenario {
    let text = format!(r#"{{"version": 1, "duration_s": 40, "warmup_s": 10, {rest}}}"#);
    graft_plan::FormatFile::parse("test".as_ref(), text.as_bytes()).unwrap()
}

const PHONES: &str = r#""phones": [{"count": 30, "model": "net", "device": {"gflops": [1, 4]}, "slo": {"ms": [60, 110]},
    "rate_rps": [2, 6], "arrivals": {"kind": "periodic", "jitter": 0.5}, "link": {"mbps": [30, 90], "rtt_ms": [5, 15]}}]"#;

struct Graft;

/// Plans as Graft does, and keeps the plans.
struct Made(Vec<Plan>);

impl Planning for Made {
    fn plan(&mut self, problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Carried {
        let carried = Graft.plan(problem, epoch, running);
        self.0.push(carried.plan.clone());
        carried
    }
}

impl Planning for Graft {
    fn plan(&mut self, problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Carried {
        let go_on = &mut |p: graft_planner_search::Progress| !p.sound || p.moves < 3;
        plan_what_fits(problem, epoch, running, GraftOptions::default(), &Alone, go_on)
    }
}

fn living(scenario: &Scenario, devices: &Devices, seed: u64) -> Report {
    let planner = Planner::Living {
        name: "graft".to_owned(),
        planning: &mut Graft,
    };
    run(scenario, &on(devices.clone()), &[], planner, seed, &mut |_| {}).unwrap()
}

#[test]
fn phones_find_their_points_and_a_plan_follows_them() {
    let report = living(&scenario(PHONES), &devices(4), 1);
    assert!(report.inferences > 2000, "{}", report.inferences);
    assert!(report.attainment > 0.99, "{:?}", report.ends);
    assert!(report.server.attainment > 0.99, "{:?}", report.server);
    assert!(report.ends["served"].count > report.inferences / 2);
    assert!(
        report
            .decisions
            .iter()
            .any(|d| d.share > 0 && d.switched_s.is_some())
    );
    // Every inference ends once, every request that arrives is accounted for once.
    let ends: u64 = report.ends.values().map(|e| e.count).sum();
    assert_eq!(ends, report.inferences);
    let s = &report.server;
    let refused: u64 = s.refused.values().sum();
    assert_eq!(s.in_time + s.late + s.given_up + refused, s.arrived);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let scenario = scenario(PHONES);
    let text = |seed| serde_json::to_string(&living(&scenario, &devices(4), seed)).unwrap();
    let first = text(7);
    assert_eq!(first, text(7));
    assert_ne!(first, text(8));
}

fn clients(arrivals: Arrivals) -> Vec<FragmentClient> {
    let client = |i: u16| FragmentClient {
        id: format!("c{i}"),
        model: "net".to_owned(),
        partition_point: graft_model::CutPoint(i % 4),
        budget_ms: 14.0 + f64::from(i) * 2.0,
        rate_rps: 12.0,
        arrivals: arrivals.clone(),
        load: vec![],
    };
    (0..12).map(client).collect()
}

fn planned(clients: &[FragmentClient]) -> (Plan, Workload) {
    let fragment = |c: &FragmentClient| Fragment {
        id: c.id.clone(),
        model: c.model.clone(),
        partition_point: c.partition_point,
        budget_ms: c.budget_ms,
        rate_rps: c.rate_rps,
        burstiness: 1.0,
    };
    let problem = Problem {
        workload: Workload {
            version: 1,
            headroom: 0.1,
            fragments: clients.iter().map(fragment).collect(),
        },
        hardware: on(devices(4)),
        lacks: Lacks::new(),
    };
    let go_on = &mut |p: graft_planner_search::Progress| !p.sound || p.moves < 10;
    let plan = plan_graft(&problem, Epoch(1), None, GraftOptions::default(), &Alone, go_on);
    (plan, problem.workload)
}

/// Clients at fixed points under a fixed plan.
fn fixed(arrivals: Arrivals) -> (Report, Plan, Workload) {
    let clients = clients(arrivals);
    let (plan, workload) = planned(&clients);
    let mut scenario = scenario(PHONES);
    scenario.phones.clear();
    scenario.fragments = clients;
    scenario.duration_s = 120.0;
    scenario.warmup_s = 0.0;
    let report = run(
        &scenario,
        &on(devices(4)),
        &[],
        Planner::Fixed(&plan),
        2,
        &mut |_| {},
    );
    (report.unwrap(), plan, workload)
}

#[test]
fn a_plan_attains_what_the_reference_simulation_says() {
    let (report, plan, workload) = fixed(Arrivals::Poisson);
    let reference = simulate(
        &plan,
        &workload,
        &on(devices(4)).fleet(),
        2,
        Nanos::from_millis(120_000),
    )
    .unwrap();
    // The same generators: the same requests, to the last.
    for (id, requests, in_time) in &report.fragments {
        let (_, tally) = reference.fragments.iter().find(|(other, _)| other == id).unwrap();
        assert_eq!(tally.requests, *requests, "{id}");
        // Requests that can't be in time are refused at the door here, and dropped from the queue there.
        assert!(
            tally.in_time.abs_diff(*in_time) <= 2,
            "{id}: {tally:?}, {in_time}"
        );
    }
    assert!(report.attainment > 0.998);
}

#[test]
fn bursts_make_a_plan_for_poisson_arrivals_late() {
    let (report, ..) = fixed(Arrivals::Bursty {
        size: 12.0,
        gap_ms: 0.0,
    });
    assert!(report.attainment < 0.97, "{}", report.attainment);
    assert!(report.server.refused["late"] > 100);
    assert!(report.batches.mean > 1.3 && report.batches.closed_full + report.batches.closed_deadline > 0);
}

fn with_fault(fault: Fault) -> Report {
    let mut scenario = scenario(PHONES);
    scenario.faults.push(fault);
    living(&scenario, &devices(2), 1)
}

#[test]
fn a_lost_worker_is_planned_around() {
    let report = with_fault(Fault::WorkerLost {
        worker: 0,
        at_s: 20.0,
        for_s: None,
    });
    assert!(report.server.refused["worker_lost"] > 0);
    let second = |s: usize| report.seconds[s].server_in_time as f64 / report.seconds[s].arrived as f64;
    assert!(second(20) < 0.9, "{}", second(20));
    assert!(second(25) > 0.98, "{}", second(25));
    let after = report.decisions.iter().find(|d| d.at_s > 20.0).unwrap();
    assert_eq!(after.cause, "workers came or went");
    assert!(after.switched_s.is_some_and(|at| at < 21.0), "{after:?}");
}

#[test]
fn a_worker_that_is_back_before_it_is_missed_goes_on() {
    let mut scenario = scenario(PHONES);
    scenario.faults.push(Fault::WorkerLost {
        worker: 0,
        at_s: 20.0,
        for_s: Some(0.3),
    });
    let report = living(&scenario, &devices(1), 1);
    let last = &report.seconds[35];
    assert!(last.server_in_time * 100 >= last.arrived * 98, "{last:?}");
    assert!(
        report
            .decisions
            .iter()
            .any(|d| d.at_s > 20.0 && d.switched_s.is_some())
    );
}

#[test]
fn under_a_fixed_plan_a_worker_that_comes_back_serves_again() {
    let clients = clients(Arrivals::Poisson);
    let (plan, _) = planned(&clients);
    let mut scenario = scenario(PHONES);
    scenario.phones.clear();
    scenario.fragments = clients;
    scenario.faults.push(Fault::WorkerLost {
        worker: 0,
        at_s: 15.0,
        for_s: Some(5.0),
    });
    let play = |plan: &Plan| {
        let planner = Planner::Fixed(plan);
        run(&scenario, &on(devices(4)), &[], planner, 1, &mut |_| {})
    };
    let report = play(&plan).unwrap();
    let last = &report.seconds[30];
    assert!(last.server_in_time * 100 >= last.arrived * 95, "{last:?}");
    // A plan for other devices is not played.
    let mut other = plan;
    other.partitions[0].device = "elsewhere".to_owned();
    assert!(play(&other).unwrap_err().to_string().contains("elsewhere"));
}

#[test]
fn a_site_with_two_kinds_of_devices_uses_both() {
    let mut hardware = on(devices(2));
    let mut fast = profile().times(|_, _| 0.5);
    fast.device_kind = "fast".to_owned();
    hardware.profiles = Profiles::new(vec![profile(), fast]).unwrap();
    // Neither kind is enough for all of it.
    hardware.devices.devices[0].share_total = Share(1);
    hardware.devices.devices[1].kind = "fast".to_owned();
    hardware.devices.devices[1].share_total = Share(1);
    let mut made = Made(vec![]);
    let planner = Planner::Living {
        name: "graft".to_owned(),
        planning: &mut made,
    };
    let phones = PHONES.replace("\"count\": 30", "\"count\": 260");
    let report = run(&scenario(&phones), &hardware, &[], planner, 1, &mut |_| {}).unwrap();
    let used = |plan: &Plan, device: &str| plan.partitions.iter().any(|p| p.device == device);
    assert!(
        made.0.iter().any(|plan| used(plan, "d0") && used(plan, "d1")),
        "{:?}",
        made.0
    );
    assert!(
        report.server.in_time * 100 >= report.server.arrived * 90,
        "{:?}",
        report.server
    );
    assert_eq!(report.device_kind, "test, fast");
}

#[test]
fn a_slow_worker_makes_requests_late_only_while_it_is_slow() {
    let report = with_fault(Fault::WorkerSlow {
        worker: 0,
        at_s: 20.0,
        for_s: 5.0,
        times: 40.0,
    });
    let in_time = |from: usize, to: usize| {
        let seconds = &report.seconds[from..to];
        let sum = |f: fn(&crate::Second) -> u64| seconds.iter().map(f).sum::<u64>() as f64;
        sum(|s| s.server_in_time) / sum(|s| s.arrived)
    };
    assert!(in_time(20, 25) < 0.8, "{}", in_time(20, 25));
    assert!(in_time(27, 40) > 0.98, "{}", in_time(27, 40));
}

#[test]
fn while_the_planner_is_away_the_plan_goes_on_and_it_comes_back_to_it() {
    let report = with_fault(Fault::PlannerAway {
        at_s: 15.0,
        for_s: 15.0,
    });
    assert!(report.decisions.iter().all(|d| !(15.0..30.0).contains(&d.at_s)));
    assert!(report.decisions.iter().any(|d| d.at_s >= 30.0));
    assert!(report.server.attainment > 0.99);
}

#[test]
fn late_messages_cost_time_that_phones_had_to_spare() {
    let fault = Fault::MessagesLate {
        at_s: 20.0,
        for_s: 10.0,
        by_ms: 200.0,
    };
    let report = with_fault(fault);
    let (during, after) = (&report.seconds[22], &report.seconds[35]);
    assert!(during.server_in_time < during.arrived / 2, "{during:?}");
    assert!(after.server_in_time * 100 >= after.arrived * 98, "{after:?}");
}

#[test]
fn what_a_scenario_names_must_be_there() {
    let error = |rest: &str| {
        let planner = Planner::Living {
            name: "graft".to_owned(),
            planning: &mut Graft,
        };
        run(&scenario(rest), &on(devices(1)), &[], planner, 1, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    let text = error(
        r#""fragments": [{"id": "a", "model": "nobody", "partition_point": 0, "budget_ms": 5, "rate_rps": 1}]"#,
    );
    assert!(text.contains("fragments[0]") && text.contains("net"), "{text}");
    let text = error(
        r#""fragments": [{"id": "a", "model": "net", "partition_point": 9, "budget_ms": 5, "rate_rps": 1}]"#,
    );
    assert!(text.contains("beyond net's last cut point 6"), "{text}");
}

#[test]
fn phones_that_leave_come_back_and_traces_are_followed() {
    let rest = PHONES.replace(
        r#""link""#,
        r#""stay_s": [3, 8], "away_s": [2, 4], "join_s": [0, 5], "link""#,
    );
    let rest = rest.replace(r#""mbps": [30, 90]"#, r#""trace": "street""#);
    let rows: String = (0..20)
        .map(|s| format!("{s},{}\n", if s < 10 { 60 } else { 1 }))
        .collect();
    let trace = Trace::parse("street", &format!("time_s,bandwidth_mbps\n{rows}")).unwrap();
    let planner = Planner::Living {
        name: "graft".to_owned(),
        planning: &mut Graft,
    };
    let scenario = scenario(&rest);
    let report = run(
        &scenario,
        &on(devices(4)),
        &[Arc::new(trace)],
        planner,
        1,
        &mut |_| {},
    )
    .unwrap();
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let phones: Vec<u64> = report.seconds.iter().map(|s| s.phones).collect();
    assert!(phones[15..].iter().all(|p| (5..30).contains(p)), "{phones:?}");
    // On a megabit a second, phones are on their own, or hand over late in the network.
    assert!(
        report.ends.keys().any(|k| k.starts_with("local")),
        "{:?}",
        report.ends
    );
}

/// A site made by chance: phones and clients of all kinds, one or two devices, faults.
fn by_chance(seed: u64) -> (Scenario, Devices) {
    let mut dice = graft_certify::Generator::new(seed, "by chance");
    let mut scenario = scenario(PHONES);
    scenario.duration_s = 12.0;
    scenario.warmup_s = 2.0;
    scenario.routers = 1 + dice.bits() as u32 % 3;
    let group = &mut scenario.phones[0];
    group.count = 1 + dice.bits() as u32 % 40;
    group.rate_rps = graft_plan::Range::Between([0.5, 1.0 + 30.0 * dice.part()]);
    group.slo = graft_plan::Slo::Ms(graft_plan::Range::Between([5.0, 5.0 + 200.0 * dice.part()]));
    if dice.part() < 0.5 {
        group.link.mbps = None;
        group.link.trace = Some(graft_plan::OneOrMore::One("lte-*".to_owned()));
    }
    if dice.part() < 0.5 {
        group.stay_s = Some(graft_plan::Range::Between([0.5, 4.0]));
        group.away_s = Some(graft_plan::Range::Between([0.1, 2.0]));
    }
    scenario.fragments = clients(Arrivals::Bursty {
        size: 1.0 + 20.0 * dice.part(),
        gap_ms: dice.part(),
    });
    scenario.fragments.truncate(dice.bits() as usize % 12);
    for _ in 0..dice.bits() % 4 {
        let at_s = 11.0 * dice.part();
        let for_s = 0.01 + 3.0 * dice.part();
        let worker = dice.bits() as u32 % 2;
        scenario.faults.push(match dice.bits() % 4 {
            0 => Fault::WorkerLost {
                worker,
                at_s,
                for_s: (dice.part() < 0.7).then_some(for_s),
            },
            1 => Fault::WorkerSlow {
                worker,
                at_s,
                for_s,
                times: 1.0 + 50.0 * dice.part(),
            },
            2 => Fault::PlannerAway { at_s, for_s },
            _ => Fault::MessagesLate {
                at_s,
                for_s,
                by_ms: 300.0 * dice.part(),
            },
        });
    }
    (scenario, devices(1 + dice.bits() as u32 % 2))
}

fn everything_is_accounted_for(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (scenario, devices) = by_chance(seed);
        let report = living(&scenario, &devices, seed);
        let ends: u64 = report.ends.values().map(|e| e.count).sum();
        assert_eq!(ends, report.inferences, "seed {seed}: {:?}", report.ends);
        let s = &report.server;
        let refused: u64 = s.refused.values().sum();
        assert_eq!(
            s.in_time + s.late + s.given_up + refused,
            s.arrived,
            "seed {seed}: {s:?}"
        );
        assert!(
            s.arrived <= s.handed_over && !s.refused.contains_key("internal"),
            "seed {seed}: {s:?}"
        );
        let broken = report
            .decisions
            .iter()
            .find(|d| d.failed.as_ref().is_some_and(|f| f.contains("breaks a rule")));
        assert!(broken.is_none(), "seed {seed}: {broken:?}");
    }
}

#[test]
fn whatever_goes_wrong_every_request_is_accounted_for() {
    everything_is_accounted_for(0..24);
}

/// `cargo test --release -p graft-simulator -- --ignored`
#[test]
#[ignore = "long: half an hour"]
fn whatever_goes_wrong_every_request_is_accounted_for_in_thousands_of_sites() {
    everything_is_accounted_for(24..5_000);
}
