use std::path::Path;

use graft_model::{CutPoint, StageRange};
use proptest::prelude::*;

use crate::{
    CostError, Device, Devices, Fleet, FormatFile, Nanos, Order, Partition, Plan, Profile, Profiles,
    ProfilesError, Share, Stage, Workload,
};

const PROFILE: &str = r#"{"version": 1, "device_kind": "h200", "source": "modelled",
 "share_total": 132, "shares": [8, 16], "batches": [1, 2], "stage_overhead_ms": 0.02, "hop_ms": 0.05,
 "models": {"m": {"cut_bytes": [10, 20, 30, 40], "segments": [
   {"weights_bytes": 1, "flops": 5, "ms": [[1.0, 0.5], [1.5, 0.75]]},
   {"weights_bytes": 2, "ms": [[0.3, 0.2], [0.4, 0.3]]},
   {"weights_bytes": 3, "ms": [[0.3, 0.2], [0.4, 0.3]]}]}}}"#;

const WORKLOAD: &str = r#"{"version": 1, "headroom": 0.1,
 "fragments": [{"id": "c17", "model": "m", "partition_point": 1, "budget_ms": 38.5, "rate_rps": 30.0}]}"#;

const PLAN: &str = r#"{"version": 1, "algorithm": "graft", "epoch": 7, "total_share": 8, "infeasible": [],
 "stages": [{"id": "s1", "model": "m", "from": 1, "to": 3, "batch": 2, "rate_rps": 30.0, "deadline_ms": 9.5}],
 "partitions": [{"id": "p1", "device": "host1/gpu0", "share": 8, "stages": ["s1"]}],
 "routes": [{"fragment": "c17", "stages": ["s1"]}], "a_field_of_tomorrow": 1}"#;

const DEVICES: &str = r#"{"version": 1, "devices": [{"id": "host1/gpu0", "kind": "h200", "share_total": 132,
 "memory_bytes": 150000000000}]}"#;

fn parse<T: FormatFile>(text: &str) -> Result<T, String> {
    T::parse(Path::new("file.json"), text.as_bytes()).map_err(|e| e.to_string())
}

fn range(from: u16, to: u16) -> StageRange {
    StageRange::new(CutPoint(from), CutPoint(to)).unwrap()
}

#[test]
fn the_documented_files_are_read_and_written_the_same() {
    let plan: Plan = parse(PLAN).unwrap();
    assert_eq!(plan.partitions[0].order, Order::Edf);
    assert_eq!(parse::<Plan>(&plan.to_json().unwrap()).unwrap(), plan);
    let profile: Profile = parse(PROFILE).unwrap();
    assert_eq!(parse::<Profile>(&profile.to_json().unwrap()).unwrap(), profile);
    let workload: Workload = parse(WORKLOAD).unwrap();
    assert_eq!(parse::<Workload>(&workload.to_json().unwrap()).unwrap(), workload);
}

#[test]
fn a_valid_plan_breaks_no_rule() {
    let plan: Plan = parse(PLAN).unwrap();
    let broken = plan.check(
        &parse(WORKLOAD).unwrap(),
        &Fleet::new(
            &Profiles::from(parse::<Profile>(PROFILE).unwrap()),
            &parse(DEVICES).unwrap(),
        ),
    );
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let wrong = |text: &str, from: &str, to: &str| text.replacen(from, to, 1);
    for (error, places) in [
        (
            parse::<Profile>(&wrong(PROFILE, "\"version\": 1", "\"version\": 2")).map(drop),
            ["version", "reads version 1"],
        ),
        (
            parse::<Profile>(&wrong(PROFILE, "[0.3, 0.2]", "[0.3]")).map(drop),
            ["segments[1].ms[0]", "one for each share"],
        ),
        (
            parse::<Profile>(&wrong(PROFILE, "0.75", "-0.75")).map(drop),
            ["segments[0].ms[1][1]", "0 or more"],
        ),
        (
            parse::<Profile>(&wrong(PROFILE, "[8, 16]", "[16, 8]")).map(drop),
            ["shares", "ascending"],
        ),
        (
            parse::<Profile>(&wrong(
                PROFILE,
                "\"share_total\": 132",
                "\"share_total\": \"all\"",
            ))
            .map(drop),
            ["share_total", "string"],
        ),
        (
            parse::<Workload>(&wrong(WORKLOAD, "30.0", "0")).map(drop),
            ["fragments[0].rate_rps", "above 0"],
        ),
        (
            parse::<Workload>(&wrong(WORKLOAD, "38.5", "NaN")).map(drop),
            ["budget_ms", "expected"],
        ),
        (
            parse::<Workload>(&wrong(
                WORKLOAD,
                "\"partition_point\": 1",
                "\"partition_point\": -1",
            ))
            .map(drop),
            ["fragments[0].partition_point", "expected"],
        ),
        (
            parse::<Plan>(&wrong(PLAN, "\"to\": 3", "\"to\": 1")).map(drop),
            ["stages[0]", "from < to"],
        ),
        (
            parse::<Devices>(&wrong(DEVICES, "\"share_total\": 132", "\"share_total\": 0")).map(drop),
            ["devices[0].share_total", "1 or more"],
        ),
    ] {
        let text = error.unwrap_err();
        assert!(
            text.starts_with("file.json: ") && places.iter().all(|p| text.contains(p)),
            "{text} lacks {places:?}"
        );
    }
}

#[test]
fn a_run_is_cut_where_the_quantum_says() {
    let profile: Profile = parse(PROFILE).unwrap();
    let cut = |quantum| -> Vec<(u16, u64)> {
        let chunks = profile.chunks("m", range(0, 3), 2, Share(8), quantum).unwrap();
        chunks.iter().map(|c| (c.range.to().0, c.time.0)).collect()
    };
    assert_eq!(cut(0.0), [(3, 2_320_000)]);
    // The first segment is longer than the quantum, and is a chunk all the same; the others fit together.
    assert_eq!(cut(0.8), [(1, 1_520_000), (3, 820_000)]);
    assert_eq!(cut(0.5), [(1, 1_520_000), (2, 420_000), (3, 420_000)]);
    let whole = profile.latency("m", range(0, 3), 1, Share(16), 0.0).unwrap();
    assert_eq!(whole, Nanos(920_000));
}

#[test]
fn costs_that_the_profile_does_not_know_are_errors() {
    let profile: Profile = parse(PROFILE).unwrap();
    let of =
        |model: &str, to, requests, share| profile.latency(model, range(0, to), requests, Share(share), 0.0);
    assert!(matches!(of("x", 3, 1, 8), Err(CostError::UnknownModel(_))));
    assert!(matches!(of("m", 4, 1, 8), Err(CostError::BeyondLastCut { .. })));
    assert!(matches!(of("m", 3, 3, 8), Err(CostError::BatchTooLarge(3))));
    assert!(matches!(
        of("m", 3, 1, 9),
        Err(CostError::UnlistedShare(Share(9)))
    ));
}

/// The plan of the documentation, with a second stage on a device of another kind, which runs layers in half the time.
fn of_two_kinds() -> (Plan, Workload, Profiles, Devices) {
    let mut plan: Plan = parse(PLAN).unwrap();
    plan.stages[0].to = CutPoint(2);
    plan.stages.push(Stage {
        id: "s2".to_owned(),
        from: CutPoint(2),
        to: CutPoint(3),
        batch: 4,
        ..plan.stages[0].clone()
    });
    plan.partitions.push(Partition {
        id: "p2".to_owned(),
        device: "host2/gpu0".to_owned(),
        share: Share(5),
        stages: vec!["s2".to_owned()],
        ..plan.partitions[0].clone()
    });
    plan.routes[0].stages.push("s2".to_owned());
    plan.total_share = 13;
    let slow: Profile = parse(PROFILE).unwrap();
    let mut fast = slow.times(|_, _| 0.5);
    fast.device_kind = "b300".to_owned();
    fast.shares = vec![Share(4), Share(5)];
    fast.batches = vec![1, 4];
    let mut devices: Devices = parse(DEVICES).unwrap();
    devices.devices.push(Device {
        id: "host2/gpu0".to_owned(),
        kind: "b300".to_owned(),
        ..devices.devices[0].clone()
    });
    let profiles = Profiles::new(vec![slow, fast]).unwrap();
    (plan, parse(WORKLOAD).unwrap(), profiles, devices)
}

#[test]
fn each_partition_is_checked_by_its_own_device_s_kind() {
    let (plan, workload, profiles, devices) = of_two_kinds();
    let broken = |plan: &Plan, devices: &Devices| -> Vec<String> {
        let broken = plan.check(&workload, &Fleet::new(&profiles, devices));
        broken.iter().map(ToString::to_string).collect()
    };
    assert_eq!(broken(&plan, &devices), Vec::<String>::new());
    // A share and a batch that only the other kind has.
    let mut elsewhere = plan.clone();
    elsewhere.partitions[1].device = "host1/gpu0".to_owned();
    let found = broken(&elsewhere, &devices);
    assert!(
        found.len() == 2 && found[0].contains("batch of 4") && found[1].contains("share 5"),
        "{found:?}"
    );
    // Time alone in the layers of the second stage is 0.17 ms on the faster kind, and 0.32 on the slower.
    let mut tight = plan.clone();
    tight.stages[1].deadline_ms = 0.2;
    assert_eq!(broken(&tight, &devices), Vec::<String>::new());
    tight.partitions[1] = Partition {
        device: "host1/gpu0".to_owned(),
        share: Share(8),
        ..tight.partitions[1].clone()
    };
    tight.stages[1].batch = 2;
    tight.total_share = 16;
    let found = broken(&tight, &devices);
    assert!(
        found.len() == 1 && found[0].contains("stage s2 takes"),
        "{found:?}"
    );
    // A device of a third kind, and a device that there is not.
    let mut others = devices.clone();
    others.devices[1].kind = "t4".to_owned();
    assert!(broken(&plan, &others)[0].contains("device host2/gpu0 is a t4, the profile is of h200, b300"));
    others.devices.truncate(1);
    assert!(broken(&plan, &others)[0].contains("there is no device host2/gpu0"));
}

#[test]
fn a_plan_costs_its_share_or_its_part_of_the_devices_prices() {
    let (plan, _, profiles, mut devices) = of_two_kinds();
    assert_eq!(Fleet::new(&profiles, &devices).cost(&plan), 13.0);
    devices.devices[0].price = Some(13.2);
    devices.devices[1].price = Some(26.4);
    let devices = devices.verified().unwrap();
    let cost = Fleet::new(&profiles, &devices).cost(&plan);
    assert!((cost - (8.0 * 0.1 + 5.0 * 0.2)).abs() < 1e-12, "{cost}");
    let mut unequal = devices.clone();
    unequal.devices[1].kind = "h200".to_owned();
    let mut partly = devices.clone();
    partly.devices[1].price = None;
    for wrong in [unequal, partly] {
        let error = wrong.verified().unwrap_err().to_string();
        assert!(error.contains("devices[1].price"), "{error}");
    }
}

#[test]
fn profiles_that_disagree_are_told_apart() {
    let one: Profile = parse(PROFILE).unwrap();
    let of = |kind: &str, segments: usize| {
        let mut profile = one.clone();
        profile.device_kind = kind.to_owned();
        let model = profile.models.get_mut("m").unwrap();
        model.segments.truncate(segments);
        profile
    };
    assert_eq!(Profiles::new(vec![]), Err(ProfilesError::None));
    let same = Profiles::new(vec![of("a", 3), of("a", 3)]);
    assert_eq!(same, Err(ProfilesError::SameKind("a".to_owned())));
    let error = Profiles::new(vec![of("a", 3), of("b", 2)]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("3 segments in the profile of \"a\" and 2 in that of \"b\"")
    );
}

proptest! {
    #[test]
    fn arbitrary_and_damaged_files_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let name = Path::new("x");
        let mut texts = [PROFILE, WORKLOAD, PLAN, DEVICES].map(|t| t.as_bytes().to_vec());
        for (at, value) in damage {
            for text in &mut texts {
                let at = at.index(text.len());
                text[at] = value;
            }
        }
        let [profile, workload, plan, devices] = &texts;
        let _outcome = (Profile::parse(name, &bytes), Workload::parse(name, &bytes), Plan::parse(name, &bytes), Devices::parse(name, &bytes));
        let read = (Profile::parse(name, profile), Workload::parse(name, workload), Plan::parse(name, plan), Devices::parse(name, devices));
        if let (Ok(profile), Ok(workload), Ok(plan), Ok(devices)) = read {
            plan.check(&workload, &Fleet::new(&Profiles::from(profile), &devices));
        }
    }

    #[test]
    fn chunks_cover_the_range_and_add_up(quantum in 0.01f64..3.0, requests in 1u32..3) {
        let profile: Profile = parse(PROFILE).unwrap();
        let chunks = profile.chunks("m", range(0, 3), requests, Share(8), quantum).unwrap();
        prop_assert_eq!(chunks.last().unwrap().range.to(), CutPoint(3));
        prop_assert!(chunks.windows(2).all(|w| w[0].range.to() == w[1].range.from()));
        let uncut = profile.latency("m", range(0, 3), requests, Share(8), 0.0).unwrap();
        let sum: u64 = chunks.iter().map(|c| c.time.0).sum();
        let overheads = 20_000 * (chunks.len() as u64 - 1);
        prop_assert!(sum.abs_diff(uncut.0 + overheads) <= chunks.len() as u64);
    }
}
