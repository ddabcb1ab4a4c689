use std::path::Path;

use graft_model::{CutPoint, StageRange};
use proptest::prelude::*;

use crate::{CostError, Devices, FormatFile, Nanos, Order, Plan, Profile, Share, Workload};

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
        &parse(PROFILE).unwrap(),
        &parse(DEVICES).unwrap(),
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
            plan.check(&workload, &profile, &devices);
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
