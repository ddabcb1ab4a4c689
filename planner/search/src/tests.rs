use std::collections::{BTreeMap, BTreeSet};

use graft_model::CutPoint;
use graft_plan::{
    Device, Devices, Epoch, Fragment, Hardware, ModelProfile, Profile, Profiles, SegmentProfile, Share,
    Source, Workload,
};
use proptest::prelude::*;

use graft_certify::Alone;

use crate::{
    Baseline, GraftOptions, Problem, Test, changes, cost_alone, lower_bound, plan_baseline, plan_exact,
    plan_graft, plan_what_fits,
};

fn analytic() -> GraftOptions {
    GraftOptions {
        test: Test::Analytic,
        ..GraftOptions::default()
    }
}

/// A plan after a few moves, and by the analytic test alone: quick.
fn plan(problem: &Problem) -> graft_plan::Plan {
    plan_with(problem, None, 4)
}

fn plan_with(problem: &Problem, running: Option<&graft_plan::Plan>, moves: u64) -> graft_plan::Plan {
    plan_graft(problem, Epoch(1), running, analytic(), &Alone, &mut |p| {
        p.moves < moves
    })
}

/// A model of `segments` segments of `ms` each on one core; more cores divide the time, batches cost half a request
/// more.
fn profile(models: &[(&str, usize, f64)]) -> Profile {
    let shares = [1, 2, 4];
    let batches = [1, 2, 4, 8];
    Profile {
        version: 1,
        device_kind: "cpu".to_owned(),
        source: Source::Modelled,
        share_total: Share(4),
        shares: shares.map(Share).to_vec(),
        batches: batches.to_vec(),
        stage_overhead_ms: 0.02,
        hop_ms: 0.05,
        models: models
            .iter()
            .map(|&(name, count, ms)| {
                let row = |b: u32| {
                    shares
                        .iter()
                        .map(|&s| ms * (0.5 + 0.5 * f64::from(b)) / f64::from(s))
                        .collect()
                };
                let segment = SegmentProfile {
                    weights_bytes: 1000,
                    flops: None,
                    ms: batches.iter().map(|&b| row(b)).collect(),
                };
                let model = ModelProfile {
                    cut_bytes: vec![100; count + 1],
                    segments: vec![segment; count],
                };
                (name.to_owned(), model)
            })
            .collect::<BTreeMap<_, _>>(),
    }
}

fn devices(count: usize) -> Devices {
    Devices {
        version: 1,
        devices: (0..count)
            .map(|i| Device {
                id: format!("w{i}"),
                kind: "cpu".to_owned(),
                share_total: Share(4),
                memory_bytes: 1 << 30,
                price: None,
            })
            .collect(),
    }
}

fn fragment(id: usize, model: &str, point: u16, budget_ms: f64, rate_rps: f64) -> Fragment {
    Fragment {
        id: format!("f{id}"),
        model: model.to_owned(),
        partition_point: CutPoint(point),
        budget_ms,
        rate_rps,
        burstiness: 1.0,
    }
}

fn problem(fragments: Vec<Fragment>, count: usize) -> Problem {
    Problem {
        workload: Workload {
            version: 1,
            headroom: 0.1,
            fragments,
        },
        hardware: Hardware {
            profiles: profile(&[("a", 10, 1.0), ("b", 4, 3.0)]).into(),
            devices: devices(count),
        },
        lacks: BTreeSet::new(),
    }
}

fn broken(problem: &Problem, plan: &graft_plan::Plan) -> Vec<String> {
    let list = plan.check(&problem.workload, &problem.hardware.fleet());
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn fragments_share_a_partition() {
    let problem = problem(
        vec![
            fragment(0, "a", 0, 100.0, 5.0),
            fragment(1, "a", 4, 100.0, 5.0),
            fragment(2, "a", 7, 100.0, 5.0),
        ],
        1,
    );
    let plan = plan(&problem);
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    assert_eq!(plan.total_share, 1);
    assert_eq!(cost_alone(&problem.workload, &problem.hardware), 3.0);
}

#[test]
fn a_budget_too_tight_for_two_stages_keeps_fragments_apart() {
    let problem = problem(
        vec![fragment(0, "a", 0, 10.2, 5.0), fragment(1, "a", 7, 100.0, 5.0)],
        1,
    );
    let plan = plan(&problem);
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    assert!(plan.infeasible.is_empty());
}

#[test]
fn what_cannot_be_in_time_is_infeasible_and_holds_up_nobody() {
    let problem = problem(
        vec![fragment(0, "a", 0, 0.5, 5.0), fragment(1, "a", 7, 100.0, 5.0)],
        1,
    );
    let plan = plan(&problem);
    assert_eq!(plan.infeasible, ["f0"]);
    assert_eq!(plan.routes.len(), 1);
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
}

#[test]
fn without_room_what_carries_least_for_its_share_is_left_out() {
    let problem = problem(
        vec![
            fragment(0, "a", 0, 50.0, 300.0),
            fragment(1, "b", 0, 500.0, 900.0),
        ],
        1,
    );
    let plan = plan(&problem);
    assert!(plan.capacity_exhausted);
    assert_eq!(plan.infeasible.len(), 1);
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
}

#[test]
fn overload_is_planned_for_at_smaller_rates_of_everybody() {
    let problem = problem(
        vec![fragment(0, "a", 0, 50.0, 300.0), fragment(1, "a", 4, 80.0, 900.0)],
        1,
    );
    let carried = plan_what_fits(&problem, Epoch(1), None, analytic(), &Alone, &mut |p| !p.sound);
    assert!(
        carried.part < 1.0 && carried.plan.infeasible.is_empty(),
        "{carried:?}"
    );
    let broken = carried.plan.check(&carried.workload, &problem.hardware.fleet());
    assert!(broken.is_empty(), "{broken:?}");
    let ratio = |i: usize| carried.workload.fragments[i].rate_rps / problem.workload.fragments[i].rate_rps;
    assert!((ratio(0) - ratio(1)).abs() < 1e-9);
}

#[test]
fn a_device_that_lacks_a_model_is_not_planned_for_it() {
    let mut problem = problem(
        vec![fragment(0, "a", 0, 100.0, 5.0), fragment(1, "b", 0, 100.0, 5.0)],
        2,
    );
    problem.lacks = BTreeSet::from([
        ("w0".to_owned(), "b".to_owned()),
        ("w1".to_owned(), "a".to_owned()),
    ]);
    let plan = plan(&problem);
    assert!(plan.infeasible.is_empty());
    let host = |model: &str| {
        let stage = plan.stages.iter().find(|s| s.model == model).unwrap();
        plan.partitions
            .iter()
            .find(|p| p.stages.contains(&stage.id))
            .unwrap()
            .device
            .clone()
    };
    assert_eq!((host("a"), host("b")), ("w0".to_owned(), "w1".to_owned()));
}

#[test]
fn no_devices_serve_nothing_and_say_so() {
    let problem = problem(vec![fragment(0, "a", 0, 50.0, 3.0)], 0);
    let plan = plan(&problem);
    assert!(plan.capacity_exhausted && plan.routes.is_empty());
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
}

#[test]
fn a_broken_plan_is_found_out() {
    let problem = problem(vec![fragment(0, "a", 0, 100.0, 5.0)], 1);
    let good = plan(&problem);
    let rules = |plan: &graft_plan::Plan| -> Vec<u8> {
        plan.check(&problem.workload, &problem.hardware.fleet())
            .iter()
            .map(|b| b.rule.0)
            .collect()
    };
    let mut lost = good.clone();
    lost.routes.clear();
    assert!(rules(&lost).contains(&1));
    let mut short = good.clone();
    short.stages[0].to = CutPoint(9);
    assert!(rules(&short).contains(&2));
    let mut overloaded = good.clone();
    overloaded.stages[0].rate_rps = 50_000.0;
    assert!(rules(&overloaded).contains(&3));
    let mut slow = good.clone();
    slow.stages[0].deadline_ms = 200.0;
    assert!(rules(&slow).contains(&4));
    let mut dear = good;
    dear.total_share += 1;
    assert!(rules(&dear).contains(&5));
}

#[test]
fn the_search_comes_near_to_the_optimum() {
    let mut dice = crate::dice::Dice::new(11);
    let (mut sum, mut worst, count) = (0.0, 0.0f64, 24);
    for _ in 0..count {
        let fragments = (0..2 + dice.roll(5)).map(|i| {
            let (model, last) = [("a", 10), ("b", 4)][dice.roll(2)];
            let budget = 8.0 * 1.5f64.powi(dice.roll(8) as i32);
            fragment(
                i,
                model,
                dice.roll(last) as u16,
                budget,
                5.0 + dice.roll(60) as f64,
            )
        });
        let problem = problem(fragments.collect(), 60);
        let exact = plan_exact(&problem, Epoch(1), &Alone).unwrap();
        assert_eq!(broken(&problem, &exact), Vec::<String>::new());
        let found = plan_with(&problem, None, 60);
        let gap = found.total_share as f64 / exact.total_share.max(1) as f64 - 1.0;
        assert!(
            found.infeasible == exact.infeasible && gap >= 0.0,
            "{gap}: {problem:?}"
        );
        (sum, worst) = (sum + gap, worst.max(gap));
    }
    let mean = sum / f64::from(count);
    assert!(mean <= 0.02, "mean {mean}, worst {worst}");
}

#[test]
fn the_exact_planner_takes_few_fragments() {
    let many = (0..11)
        .map(|i| fragment(i, "a", 0, 20.0 * 1.3f64.powi(i as i32), 20.0))
        .collect();
    assert_eq!(
        plan_exact(&problem(many, 60), Epoch(1), &Alone),
        Err(crate::TooMany(11))
    );
}

#[test]
fn a_simulated_plan_is_certified_and_costs_no_more_than_a_baseline() {
    let fragments: Vec<Fragment> = (0..8)
        .map(|i| fragment(i, ["a", "b"][i % 2], (i % 4) as u16, 25.0 + 10.0 * i as f64, 12.0))
        .collect();
    let problem = problem(fragments, 60);
    let plan = plan_graft(
        &problem,
        Epoch(1),
        None,
        GraftOptions::default(),
        &Alone,
        &mut |p| p.moves < 10,
    );
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    let certified = |plan: &graft_plan::Plan| {
        graft_certify::certify(plan, &problem.workload, &problem.hardware.fleet(), &Alone)
            .unwrap()
            .certified
    };
    assert!(certified(&plan));
    for baseline in [
        Baseline::Nexus,
        Baseline::Paper,
        Baseline::GslicePlus,
        Baseline::Gslice,
        Baseline::Static,
    ] {
        let other = plan_baseline(&problem, Epoch(1), baseline, &Alone);
        assert!(certified(&other), "{}", baseline.name());
        assert!(plan.total_share <= other.total_share, "{}", baseline.name());
    }
}

#[test]
fn a_plan_that_needs_deadlines_is_not_certified_without_them() {
    // Tight, short ones and loose, long ones that fill a core.
    let mut fragments = vec![fragment(0, "a", 7, 9.0, 30.0)];
    fragments.extend((1..4).map(|i| fragment(i, "b", 0, 150.0 + i as f64, 16.0)));
    let problem = problem(fragments, 60);
    let plan = plan_graft(
        &problem,
        Epoch(1),
        None,
        GraftOptions::default(),
        &Alone,
        &mut |p| p.moves < 30,
    );
    let certified = |plan: &graft_plan::Plan| {
        graft_certify::certify(plan, &problem.workload, &problem.hardware.fleet(), &Alone)
            .unwrap()
            .certified
    };
    assert!(certified(&plan));
    // The planted fault: deadlines are ignored, stages take turns.
    let mut faulty = plan;
    for partition in &mut faulty.partitions {
        partition.order = graft_plan::Order::Cycle;
    }
    assert!(!certified(&faulty), "{faulty:?}");
}

#[test]
fn a_small_change_leaves_most_of_a_plan_as_it_is_at_once() {
    let fragments: Vec<Fragment> = (0..60)
        .map(|i| fragment(i, ["a", "b"][i % 2], (i % 4) as u16, 25.0 + 4.0 * i as f64, 6.0))
        .collect();
    let mut problem = problem(fragments, 60);
    let planned = |problem: &Problem, running: Option<&graft_plan::Plan>, go_on: bool| {
        let options = GraftOptions::default();
        let plan = plan_graft(problem, Epoch(1), running, options, &Alone, &mut |p| {
            go_on && p.moves < 6
        });
        assert_eq!(broken(problem, &plan), Vec::<String>::new());
        plan
    };
    let running = planned(&problem, None, true);
    // One fragment asks a little less often, another has half the time: the first stays, the second has to move.
    problem.workload.fragments[7].rate_rps *= 0.9;
    problem.workload.fragments[58].budget_ms *= 0.5;
    let next = planned(&problem, Some(&running), false);
    let smallest = u64::from(problem.hardware.profiles.kinds()[0].shares[0].0);
    assert!(next.total_share <= running.total_share + smallest, "{next:?}");
    let changed = changes(&running, &next);
    assert!(changed.kept.len() * 2 >= running.partitions.len(), "{changed:?}");
}

fn fragments() -> impl Strategy<Value = Vec<Fragment>> {
    let one = (any::<bool>(), 0u16..11, 0.2f64..300.0, 0.1f64..80.0);
    proptest::collection::vec(one, 0..25).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(i, (a, point, budget, rate))| {
                let (model, last) = if a { ("a", 10) } else { ("b", 4) };
                fragment(i, model, point.min(last), budget, rate)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_plan_is_valid(fragments in fragments(), count in 0usize..6) {
        let problem = problem(fragments, count);
        let plan = plan(&problem);
        prop_assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    }

    #[test]
    fn the_order_of_fragments_does_not_matter(fragments in fragments()) {
        let forward = problem(fragments.clone(), 8);
        let backward = problem(fragments.into_iter().rev().collect(), 8);
        prop_assert_eq!(plan(&forward).total_share, plan(&backward).total_share);
    }

    #[test]
    fn more_devices_do_not_change_the_cost(fragments in fragments()) {
        let (some, more) = (problem(fragments.clone(), 60), problem(fragments, 90));
        prop_assert_eq!(plan(&some).total_share, plan(&more).total_share);
    }

    #[test]
    fn no_plan_goes_below_the_bound(fragments in fragments()) {
        let problem = problem(fragments, 200);
        let bound = lower_bound(&problem);
        let plan = plan(&problem);
        prop_assert!(plan.total_share as f64 >= bound, "{} is below {bound}", plan.total_share);
    }

    #[test]
    fn looser_budgets_never_raise_the_bound(fragments in fragments(), looser in 1.0f64..5.0) {
        let alone = |f: &Fragment| lower_bound(&problem(vec![f.clone()], 1));
        let tight: Vec<Fragment> = fragments.into_iter().filter(|f| alone(f) > 0.0).collect();
        let loose = tight.iter().map(|f| Fragment { budget_ms: f.budget_ms * looser, ..f.clone() }).collect();
        prop_assert!(lower_bound(&problem(loose, 1)) <= lower_bound(&problem(tight, 1)));
    }

    #[test]
    fn the_same_input_gives_the_same_plan(fragments in fragments()) {
        let problem = problem(fragments, 60);
        prop_assert_eq!(plan(&problem), plan(&problem));
    }

    #[test]
    fn a_plan_goes_on_from_the_running_one(fragments in fragments(), more in fragments()) {
        let first = problem(fragments.clone(), 60);
        let running = plan(&first);
        // The problem did not change, so the plan does not.
        let again = plan_with(&first, Some(&running), 0);
        let same = changes(&running, &again);
        prop_assert!(same.new.is_empty() && same.gone.is_empty() && same.moved.is_empty(), "{:?}", same);
        let mut all = fragments;
        all.extend(more.into_iter().enumerate().map(|(i, f)| Fragment { id: format!("g{i}"), ..f }));
        let second = problem(all, 60);
        let next = plan_with(&second, Some(&running), 2);
        prop_assert_eq!(broken(&second, &next), Vec::<String>::new());
    }
}

/// `slow` devices of the kind of other tests, and `fast` ones of a kind that takes a third of the time, has other shares
/// and batches, and lacks model b.
fn two_kinds(fragments: Vec<Fragment>, slow: usize, fast: usize) -> Problem {
    let mut problem = problem(fragments, slow + fast);
    let slow_kind = problem.hardware.profiles.kinds()[0].clone();
    let mut fast_kind = profile(&[("a", 10, 1.0 / 3.0)]);
    fast_kind.device_kind = "gpu".to_owned();
    fast_kind.shares = vec![Share(2), Share(3), Share(5)];
    fast_kind.share_total = Share(5);
    fast_kind.batches = vec![1, 3, 6, 12];
    problem.hardware.profiles = Profiles::new(vec![slow_kind, fast_kind]).unwrap();
    for device in problem.hardware.devices.devices.iter_mut().skip(slow) {
        device.kind = "gpu".to_owned();
        device.share_total = Share(5);
    }
    problem
}

fn share_on(plan: &graft_plan::Plan, problem: &Problem, kind: &str) -> u64 {
    let fleet = problem.hardware.fleet();
    let of_kind = |p: &&graft_plan::Partition| fleet.device(&p.device).is_some_and(|d| d.kind == kind);
    let partitions = plan.partitions.iter().filter(of_kind);
    partitions.map(|p| u64::from(p.share.0)).sum()
}

#[test]
fn prices_decide_which_kind_of_device_is_used() {
    let fragments = || {
        (0..12)
            .map(|i| fragment(i, "a", 0, 60.0 + i as f64, 40.0))
            .collect()
    };
    let with = |slow: Option<f64>, fast: Option<f64>| {
        let mut problem = two_kinds(fragments(), 20, 20);
        for device in &mut problem.hardware.devices.devices {
            device.price = if device.kind == "cpu" { slow } else { fast };
        }
        let plan = plan_with(&problem, None, 30);
        assert_eq!(broken(&problem, &plan), Vec::<String>::new());
        assert!(plan.infeasible.is_empty());
        let cost = problem.hardware.fleet().cost(&plan);
        assert!(cost >= lower_bound(&problem) - 1e-9, "{cost}");
        (share_on(&plan, &problem, "cpu"), share_on(&plan, &problem, "gpu"))
    };
    // A share of the fast kind does three times as much.
    assert_eq!(with(None, None).0, 0);
    assert_eq!(with(Some(4.0), Some(5.0)).0, 0);
    assert_eq!(with(Some(4.0), Some(50.0)).1, 0);
}

#[test]
fn what_one_kind_has_no_room_for_goes_to_the_other() {
    let fragments = (0..12)
        .map(|i| fragment(i, "a", 0, 60.0 + i as f64, 300.0))
        .collect();
    let problem = two_kinds(fragments, 20, 1);
    let plan = plan_with(&problem, None, 20);
    assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    assert!(plan.infeasible.is_empty() && !plan.capacity_exhausted);
    let (slow, fast) = (share_on(&plan, &problem, "cpu"), share_on(&plan, &problem, "gpu"));
    assert!(slow > 0 && fast > 2, "{slow} {fast}");
    // A running plan over both kinds is gone on from, and not changed without a reason.
    let again = plan_with(&problem, Some(&plan), 0);
    let same = changes(&plan, &again);
    assert!(
        same.new.is_empty() && same.gone.is_empty() && same.moved.is_empty(),
        "{same:?}"
    );
}

#[test]
fn a_plan_over_two_kinds_is_certified_and_costs_no_more_than_over_one() {
    let fragments: Vec<Fragment> = (0..10)
        .map(|i| fragment(i, ["a", "b"][i % 2], (i % 4) as u16, 25.0 + 10.0 * i as f64, 80.0))
        .collect();
    let planned = |problem: &Problem| {
        let options = GraftOptions::default();
        let plan = plan_graft(problem, Epoch(1), None, options, &Alone, &mut |p| p.moves < 12);
        assert_eq!(broken(problem, &plan), Vec::<String>::new());
        assert!(plan.infeasible.is_empty());
        let certificate =
            graft_certify::certify(&plan, &problem.workload, &problem.hardware.fleet(), &Alone).unwrap();
        assert!(certificate.certified, "{certificate:?}");
        plan
    };
    let both = two_kinds(fragments.clone(), 20, 20);
    let plan = planned(&both);
    // Model b runs on one kind only, and model a is cheaper on the other.
    assert!(share_on(&plan, &both, "cpu") > 0 && share_on(&plan, &both, "gpu") > 0);
    assert!(plan.total_share < planned(&problem(fragments, 20)).total_share);
}

proptest! {
    #[test]
    fn plans_over_two_kinds_are_valid(fragments in fragments(), slow in 0usize..4, fast in 0usize..3, priced in any::<bool>()) {
        let mut problem = two_kinds(fragments, slow, fast);
        for device in problem.hardware.devices.devices.iter_mut().filter(|_| priced) {
            device.price = Some(if device.kind == "cpu" { 0.3 } else { 1.7 });
        }
        let plan = plan(&problem);
        prop_assert_eq!(broken(&problem, &plan), Vec::<String>::new());
        if !plan.capacity_exhausted {
            let cost = problem.hardware.fleet().cost(&plan);
            prop_assert!(cost >= lower_bound(&problem) * (1.0 - 1e-3), "{} is below the bound", cost);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn baselines_over_two_kinds_are_valid(fragments in fragments(), which in 0usize..5) {
        let list = [Baseline::Static, Baseline::Gslice, Baseline::GslicePlus, Baseline::Paper, Baseline::Nexus];
        let slow = fragments.into_iter().take(4).map(|f| Fragment { rate_rps: f.rate_rps.min(5.0), ..f });
        let problem = two_kinds(slow.collect(), 40, 40);
        let plan = plan_baseline(&problem, Epoch(1), list[which], &Alone);
        prop_assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    }

    #[test]
    fn baselines_are_valid(fragments in fragments(), which in 0usize..5) {
        let list = [Baseline::Static, Baseline::Gslice, Baseline::GslicePlus, Baseline::Paper, Baseline::Nexus];
        let slow = fragments.into_iter().take(5).map(|f| Fragment { rate_rps: f.rate_rps.min(5.0), ..f });
        let problem = problem(slow.collect(), 60);
        let plan = plan_baseline(&problem, Epoch(1), list[which], &Alone);
        prop_assert_eq!(broken(&problem, &plan), Vec::<String>::new());
    }
}

#[test]
fn bursts_cost_share_and_are_served_all_the_same() {
    let plan_for = |burstiness: f64, budget_ms: f64| {
        let fragments = (0..6).map(|i| Fragment {
            burstiness,
            ..fragment(i, "a", 0, budget_ms, 20.0)
        });
        let problem = problem(fragments.collect(), 8);
        let options = GraftOptions::default();
        let carried = plan_what_fits(&problem, Epoch(1), None, options, &Alone, &mut |p| p.moves < 4);
        let broken = carried.plan.check(&problem.workload, &problem.hardware.fleet());
        assert!(broken.is_empty(), "{broken:?}");
        assert_eq!(carried.part, 1.0);
        carried.plan
    };
    let (smooth, bursty) = (plan_for(1.0, 60.0), plan_for(8.0, 60.0));
    assert!(
        bursty.total_share > smooth.total_share,
        "{} {}",
        bursty.total_share,
        smooth.total_share
    );
    // Bursts that no share absorbs in so little time do not leave the fragments unserved.
    let tight = plan_for(16.0, 12.0);
    assert!(tight.infeasible.is_empty(), "{:?}", tight.infeasible);
}
