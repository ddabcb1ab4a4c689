use std::collections::BTreeMap;
use std::sync::LazyLock;

use graft_model::CutPoint;
use graft_plan::{
    Devices, Epoch, Fleet, Fragment, ModelProfile, Nanos, Order, Partition, Plan, Profile, Profiles, Route,
    SegmentProfile, Share, Source, Stage, Workload,
};
use proptest::prelude::*;

use crate::{Alone, Outcome, certify, simulate};

/// Devices are of the one kind that there is, listed or not.
fn fleet() -> Fleet<'static> {
    static OF: LazyLock<(Profiles, Devices)> = LazyLock::new(|| {
        let devices = vec![];
        (profile().into(), Devices { version: 1, devices })
    });
    Fleet::new(&OF.0, &OF.1)
}

/// One model of four segments of 1 ms at any batch.
fn profile() -> Profile {
    let segment = SegmentProfile {
        weights_bytes: 0,
        flops: None,
        ms: vec![vec![1.0]; 4],
    };
    let model = ModelProfile {
        cut_bytes: vec![1; 5],
        segments: vec![segment; 4],
    };
    Profile {
        version: 1,
        device_kind: "test".to_owned(),
        source: Source::Modelled,
        share_total: Share(1),
        shares: vec![Share(1)],
        batches: vec![1, 2, 4, 8],
        stage_overhead_ms: 0.0,
        hop_ms: 0.5,
        models: BTreeMap::from([("m".to_owned(), model)]),
    }
}

fn fragment(id: &str, point: u16, budget_ms: f64, rate_rps: f64) -> Fragment {
    Fragment {
        id: id.to_owned(),
        model: "m".to_owned(),
        partition_point: CutPoint(point),
        budget_ms,
        rate_rps,
        burstiness: 1.0,
    }
}

fn workload(fragments: Vec<Fragment>) -> Workload {
    Workload {
        version: 1,
        headroom: 0.0,
        fragments,
    }
}

/// Fragments at 0 align to 2; those at 2 join there. One partition for the alignment, one for the shared stage.
fn aligned(workload: &Workload, batch: u32) -> Plan {
    let mut plan = Plan::empty("test", Epoch(1));
    let stage = |id: &str, from, to, deadline_ms| Stage {
        id: id.to_owned(),
        model: "m".to_owned(),
        from: CutPoint(from),
        to: CutPoint(to),
        batch,
        rate_rps: 1.0,
        deadline_ms,
    };
    plan.stages = vec![stage("a", 0, 2, 10.0), stage("s", 2, 4, 20.0)];
    plan.partitions = ["a", "s"]
        .map(|id| Partition {
            id: format!("p{id}"),
            device: "d".to_owned(),
            share: Share(1),
            order: Order::Edf,
            quantum_ms: 1.0,
            stages: vec![id.to_owned()],
        })
        .to_vec();
    plan.routes = workload
        .fragments
        .iter()
        .map(|f| Route {
            fragment: f.id.clone(),
            stages: match f.partition_point.0 {
                0 => vec!["a".to_owned(), "s".to_owned()],
                2 => vec!["s".to_owned()],
                _ => vec![],
            },
        })
        .collect();
    plan
}

fn run(plan: &Plan, workload: &Workload, seed: u64) -> Outcome {
    simulate(plan, workload, &fleet(), seed, Nanos::from_millis(20_000)).unwrap()
}

#[test]
fn a_lone_request_takes_its_layers_and_its_hops() {
    // Two hops of 0.5 ms and four layers of 1 ms: 5 ms are just enough, a microsecond less is not.
    let of_budget = |budget| {
        let workload = workload(vec![fragment("f", 0, budget, 0.5)]);
        run(&aligned(&workload, 1), &workload, 1).total()
    };
    let (enough, short) = (of_budget(5.0), of_budget(4.999));
    assert!(enough.requests > 0);
    assert_eq!(enough.in_time, enough.requests);
    assert_eq!(short.in_time, 0);
}

#[test]
fn arrivals_come_at_their_rate() {
    let workload = workload(vec![fragment("f", 2, 1000.0, 50.0)]);
    let total = run(&aligned(&workload, 8), &workload, 3).total();
    assert!((900..1100).contains(&total.requests), "{total:?}");
    assert_eq!(total.in_time, total.requests);
}

#[test]
fn nothing_is_owed_at_the_last_cut_point() {
    let workload = workload(vec![fragment("done", 4, 0.001, 10.0)]);
    let total = run(&aligned(&workload, 1), &workload, 1).total();
    assert!(total.requests > 0);
    assert_eq!(total.in_time, total.requests);
}

#[test]
fn a_plan_with_room_is_certified_and_an_overloaded_one_is_not() {
    let light = workload(vec![fragment("x", 0, 60.0, 20.0), fragment("y", 2, 60.0, 20.0)]);
    let good = certify(&aligned(&light, 8), &light, &fleet(), &Alone).unwrap();
    assert!(good.certified && good.requests > 10_000, "{good:?}");
    let heavy = workload(vec![fragment("x", 0, 8.0, 900.0)]);
    let bad = certify(&aligned(&heavy, 1), &heavy, &fleet(), &Alone).unwrap();
    assert!(!bad.certified && bad.attainment < 0.9 && bad.late > 0, "{bad:?}");
}

#[test]
fn a_route_to_nowhere_is_an_error() {
    let workload = workload(vec![fragment("x", 0, 60.0, 20.0)]);
    let mut plan = aligned(&workload, 1);
    plan.partitions.pop();
    let error = simulate(&plan, &workload, &fleet(), 1, Nanos::from_millis(10)).unwrap_err();
    assert!(
        error.to_string().contains("x") && error.to_string().contains("partition"),
        "{error}"
    );
}

/// Attainment falls from a light to a heavy load of a shared stage in which requests batch.
#[test]
fn more_load_never_helps() {
    let attained = |rate| {
        let workload = workload(vec![fragment("x", 2, 12.0, rate)]);
        run(&aligned(&workload, 2), &workload, 5).total().attainment()
    };
    let (light, heavy) = (attained(100.0), attained(950.0));
    assert!(light > 0.99 && heavy < light, "{light} {heavy}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_same_seed_gives_the_same_outcome_in_any_order(
        list in proptest::collection::vec((prop::sample::select(vec![0u16, 2, 4]), 5.0f64..80.0, 1.0f64..60.0), 1..8),
        seed: u64,
    ) {
        let fragments: Vec<Fragment> = list
            .iter()
            .enumerate()
            .map(|(i, &(point, budget, rate))| fragment(&format!("f{i}"), point, budget, rate))
            .collect();
        let forward = workload(fragments.clone());
        let backward = workload(fragments.into_iter().rev().collect());
        let once = run(&aligned(&forward, 4), &forward, seed);
        prop_assert_eq!(&once, &run(&aligned(&forward, 4), &forward, seed));
        prop_assert_eq!(&once, &run(&aligned(&backward, 4), &backward, seed));
    }
}
