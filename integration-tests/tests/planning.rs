//! `graft plan`, `graft profile`, `graft evaluate` and `graft simulate` on files of their own.

use std::path::{Path, PathBuf};

use graft_integration_tests::{graft, models};
use serde_json::{Value, json};

/// A folder with a profile of two networks, devices, and a workload of fourteen phones.
struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = Data { folder };
        let segment = |ms: f64| {
            let rows = [1.0, 1.3, 2.0, 3.5].map(|b| [1.0, 2.0, 4.0].map(|share| ms * b / share));
            json!({"weights_bytes": 1000, "ms": rows})
        };
        let model = |count: usize, ms: f64| json!({"cut_bytes": vec![100; count + 1], "segments": vec![segment(ms); count]});
        data.write(
            "profiles",
            &json!({
                "version": 1, "device_kind": "test", "source": "modelled", "share_total": 8, "shares": [1, 2, 4],
                "batches": [1, 2, 4, 8], "stage_overhead_ms": 0.02, "hop_ms": 0.05,
                "models": {"a": model(8, 0.5), "b": model(4, 2.0)},
            }),
        );
        let device = |i: usize| json!({"id": format!("d{i}"), "kind": "test", "share_total": 8, "memory_bytes": 1 << 30});
        data.write(
            "devices",
            &json!({"version": 1, "devices": (0..8).map(device).collect::<Vec<_>>()}),
        );
        data.write("workloads", &data.workload(14));
        data
    }

    fn workload(&self, phones: usize) -> Value {
        let fragment = |i: usize| {
            let (model, points) = [("a", 5), ("b", 3)][i % 2];
            json!({
                "id": format!("c{i}"), "model": model, "partition_point": i % points,
                "budget_ms": 15.0 + 12.0 * i as f64, "rate_rps": 8.0 + i as f64,
            })
        };
        json!({"version": 1, "headroom": 0.1, "fragments": (0..phones).map(fragment).collect::<Vec<_>>()})
    }

    fn write(&self, kind: &str, value: &Value) {
        let file = self.file(kind);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(file, value.to_string()).expect("written");
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.path().join(kind).join("small.json")
    }

    /// A second kind of device, which takes half the time and lacks network b: its profile, and devices of both kinds.
    fn second_kind(&self, prices: Option<[f64; 2]>) -> [String; 2] {
        let read = |kind: &str| -> Value {
            let text = std::fs::read(self.file(kind)).expect("a file");
            serde_json::from_slice(&text).expect("JSON")
        };
        let mut profile = read("profiles");
        profile["device_kind"] = json!("fast");
        profile["models"].as_object_mut().expect("models").remove("b");
        for segment in profile["models"]["a"]["segments"]
            .as_array_mut()
            .expect("segments")
        {
            let rows = segment["ms"].as_array_mut().expect("rows").iter_mut();
            for ms in rows.flat_map(|row| row.as_array_mut().expect("a row")) {
                *ms = json!(ms.as_f64().expect("a number") / 2.0);
            }
        }
        let mut devices = read("devices");
        let list = devices["devices"].as_array_mut().expect("devices");
        for i in 0..4 {
            list.push(
                json!({"id": format!("f{i}"), "kind": "fast", "share_total": 8, "memory_bytes": 1 << 30}),
            );
        }
        if let Some([slow, fast]) = prices {
            for device in list.iter_mut() {
                device["price"] = json!(if device["kind"] == "fast" { fast } else { slow });
            }
        }
        let write = |name: &str, value: &Value| {
            let file = self.folder.path().join(name);
            std::fs::write(&file, value.to_string()).expect("written");
            path(&file)
        };
        [write("fast.json", &profile), write("both.json", &devices)]
    }

    /// Runs `graft plan` on the files; exit code, standard output, standard error.
    fn plan(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let files =
            ["workloads", "profiles", "devices"].map(|kind| self.file(kind).to_string_lossy().into_owned());
        let [workload, profiles, devices] = &files;
        let check = more.first() == Some(&"check");
        let mut arguments = vec!["plan"];
        if check {
            arguments.push("check");
        }
        arguments.extend([
            "--workload",
            workload,
            "--profiles",
            profiles,
            "--devices",
            devices,
        ]);
        arguments.extend(&more[usize::from(check)..]);
        let output = graft(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

fn path(file: &Path) -> String {
    file.to_string_lossy().into_owned()
}

#[test]
fn plans_over_two_kinds_of_devices_are_checked_and_certified() {
    let data = Data::new();
    // More than the smallest share of a device carries.
    let mut workload = data.workload(14);
    for fragment in workload["fragments"].as_array_mut().expect("fragments") {
        fragment["rate_rps"] = json!(fragment["rate_rps"].as_f64().expect("a rate") * 40.0);
    }
    data.write("workloads", &workload);
    let made = |prices: Option<[f64; 2]>| -> (Value, Value) {
        let [fast, devices] = data.second_kind(prices);
        let plan = path(&data.folder.path().join("both.plan.json"));
        let workload = path(&data.file("workloads"));
        let slow = path(&data.file("profiles"));
        let files = [
            "--workload",
            &workload,
            "--profiles",
            &slow,
            "--profiles",
            &fast,
            "--devices",
            &devices,
        ];
        let made = graft([&["plan"][..], &files, &["--moves", "20", "--out", &plan]].concat());
        assert!(made.status.success(), "{made:?}");
        let check = graft(
            [
                &["plan", "check"][..],
                &files,
                &["--plan", &plan, "--simulate", "--json"],
            ]
            .concat(),
        );
        assert_eq!(check.status.code(), Some(0), "{check:?}");
        // Without the profile of a kind that it uses a plan is not valid.
        let alone = [
            "--workload",
            &workload,
            "--profiles",
            &slow,
            "--devices",
            &devices,
        ];
        let refused = graft([&["plan", "check"][..], &alone, &["--plan", &plan]].concat());
        let on_fast = std::fs::read_to_string(&plan).expect("a plan").contains("\"f0\"");
        assert_eq!(refused.status.code(), Some(i32::from(on_fast)), "{refused:?}");
        let plan = std::fs::read(&plan).expect("a plan");
        let [plan, check] = [&plan, &check.stdout].map(|text| serde_json::from_slice(text).expect("JSON"));
        (plan, check)
    };
    let share = |plan: &Value, kind: &str| -> u64 {
        let partitions = plan["partitions"].as_array().expect("partitions").iter();
        let of_kind = partitions.filter(|p| p["device"].as_str().is_some_and(|d| d.starts_with(kind)));
        of_kind.map(|p| p["share"].as_u64().expect("a share")).sum()
    };
    let (plan, check) = made(None);
    assert_eq!(
        (&check["valid"], &check["certified"]),
        (&json!(true), &json!(true)),
        "{check}"
    );
    assert_eq!(check["cost"], plan["total_share"]);
    // Network a is cheaper on the fast kind, network b runs on the other alone.
    assert!(share(&plan, "f") > 0 && share(&plan, "d") > 0, "{plan}");
    let alone = path(&data.folder.path().join("alone.plan.json"));
    let (code, text, errors) = data.plan(&["--moves", "20", "--out", &alone]);
    assert_eq!(code, Some(0), "{text}{errors}");
    let alone: Value = serde_json::from_slice(&std::fs::read(&alone).expect("a plan")).expect("JSON");
    assert!(
        plan["total_share"].as_u64() <= alone["total_share"].as_u64(),
        "{plan}"
    );

    // A price that the speed is not worth.
    let (plan, check) = made(Some([4.0, 80.0]));
    assert_eq!(
        (&check["certified"], share(&plan, "f")),
        (&json!(true), 0),
        "{plan}"
    );
    let cost = check["cost"].as_f64().expect("a cost");
    assert!(
        (cost - 4.0 / 8.0 * share(&plan, "d") as f64).abs() < 1e-6,
        "{check}"
    );
}

#[test]
fn every_algorithm_makes_a_certified_plan_and_none_is_cheaper_than_grafts() {
    let data = Data::new();
    let mut graft_costs = None;
    for algorithm in [
        "graft",
        "paper",
        "nexus",
        "gslice",
        "gslice+",
        "static",
        "graft-no-realign",
        "graft-no-cuts",
        "graft-no-edf",
    ] {
        let plan = path(&data.folder.path().join(format!("{algorithm}.plan.json")));
        let (code, text, errors) = data.plan(&["--algorithm", algorithm, "--moves", "20", "--out", &plan]);
        assert_eq!(code, Some(0), "{algorithm}: {text}{errors}");
        let (code, text, errors) = data.plan(&["check", "--plan", &plan, "--simulate", "--json"]);
        assert_eq!(code, Some(0), "{algorithm}: {text}{errors}");
        let check: Value = serde_json::from_str(&text).expect("JSON");
        let cost = check["cost"].as_u64().expect("a cost");
        assert_eq!(
            (&check["valid"], &check["certified"]),
            (&Value::Bool(true), &Value::Bool(true)),
            "{check}"
        );
        assert!(
            cost >= *graft_costs.get_or_insert(cost),
            "{algorithm} costs {cost}"
        );
    }
}

#[test]
fn the_same_number_of_moves_gives_the_same_bytes_and_the_order_of_fragments_does_not_matter() {
    let data = Data::new();
    let arguments = ["--moves", "12", "--json", "--no-certify"];
    let (_, first, _) = data.plan(&arguments);
    let (_, again, _) = data.plan(&arguments);
    assert!(first == again && first.contains("\"routes\""));
    let mut turned = data.workload(14);
    turned["fragments"].as_array_mut().expect("a list").reverse();
    data.write("workloads", &turned);
    let (_, other, _) = data.plan(&arguments);
    assert_eq!(first, other);
}

#[test]
fn a_running_plan_is_gone_on_from_and_explained() {
    let data = Data::new();
    let running = path(&data.folder.path().join("running.json"));
    data.plan(&["--moves", "5", "--out", &running]);
    let (code, text, _) = data.plan(&["--moves", "0", "--running", &running, "--explain"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("0 moved, 0 new, 0 gone"), "{text}");
    let other = path(&data.folder.path().join("other.json"));
    data.plan(&["--algorithm", "gslice+", "--out", &other]);
    let output = graft(["plan", "diff", &running, &other]);
    let diff = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{diff}");
    assert!(
        diff.contains("(graft, cost") && diff.contains("\n+ ") && diff.contains("\n- "),
        "{diff}"
    );
    for word in [
        "requests/s",
        "re-partition point",
        "on partitions of their own",
        "tightest",
        "in time",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn input_that_cannot_be_used_is_named_and_what_cannot_be_served_is_infeasible() {
    let data = Data::new();
    let with = |key: &str, value: Value| {
        let mut workload = data.workload(4);
        workload["fragments"][1][key] = value;
        data.write("workloads", &workload);
        data.plan(&["--moves", "0", "--json"])
    };
    for (key, value) in [
        ("rate_rps", json!(0)),
        ("budget_ms", json!(-3)),
        ("rate_rps", json!(null)),
    ] {
        let (code, text, errors) = with(key, value);
        assert!(
            code == Some(2) && errors.contains("fragments") && errors.contains(key),
            "{text}{errors}"
        );
    }
    for (key, value) in [
        ("model", json!("nobody")),
        ("partition_point", json!(99)),
        ("budget_ms", json!(0.01)),
    ] {
        let (code, text, errors) = with(key, value);
        assert_eq!(code, Some(0), "{errors}");
        let plan: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(plan["infeasible"], json!(["c1"]), "{key}");
    }
    data.write("workloads", &data.workload(4));
    for devices in [
        json!([]),
        json!([{"id": "x", "kind": "other", "share_total": 8, "memory_bytes": 1 << 30}]),
    ] {
        data.write("devices", &json!({"version": 1, "devices": devices}));
        let (code, text, errors) = data.plan(&["--moves", "0", "--json"]);
        let plan: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {errors}"));
        assert_eq!((code, &plan["capacity_exhausted"]), (Some(0), &Value::Bool(true)));
    }
}

#[test]
fn the_exact_planner_refuses_what_is_too_large() {
    let data = Data::new();
    let (code, _, errors) = data.plan(&["--algorithm", "exact"]);
    assert!(
        code == Some(2) && errors.contains("at most 10 merged fragments"),
        "{errors}"
    );
    data.write("workloads", &data.workload(6));
    let (code, text, errors) = data.plan(&["--algorithm", "exact", "--no-certify"]);
    assert_eq!(code, Some(0), "{text}{errors}");
}

#[test]
fn an_evaluation_is_written_with_tables_and_plots() {
    let data = Data::new();
    let out = data.folder.path().join("evaluation");
    let (folder, to) = (path(data.folder.path()), path(&out));
    let output = graft([
        "evaluate", "--data", &folder, "--out", &to, "--effort", "200", "--small", "4",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = std::fs::read_to_string(out.join("report.md")).expect("a report");
    for word in [
        "| small | 14 |",
        "less than nexus",
        "Gap to the optimum",
        "What can't be concluded",
    ] {
        assert!(report.contains(word), "{word}: {report}");
    }
    let plot = std::fs::read_to_string(out.join("share-small.svg")).expect("a plot");
    assert!(plot.starts_with("<svg") && plot.contains("graft"));
}

#[test]
fn a_gpu_is_modelled_and_does_not_replace_what_was_measured() {
    let data = Data::new();
    let model = path(&models().join("efficientnet-lite0"));
    let out = path(&data.folder.path().join("t4.json"));
    let modelled = |out: &str| graft(["profile", "model", "--gpu", "t4", "--model", &model, "--out", out]);
    assert_eq!(modelled(&out).status.code(), Some(0));
    let read = || -> Value { serde_json::from_slice(&std::fs::read(&out).expect("a file")).expect("JSON") };
    let mut profile = read();
    assert_eq!(profile["source"], "modelled");
    // More SMs are never slower.
    for segment in profile["models"]["efficientnet-lite0"]["segments"]
        .as_array()
        .expect("segments")
    {
        for row in segment["ms"].as_array().expect("rows") {
            let row: Vec<f64> = row
                .as_array()
                .expect("a row")
                .iter()
                .filter_map(Value::as_f64)
                .collect();
            assert!(row.first() >= row.last(), "{row:?}");
        }
    }
    profile["source"] = json!("measured");
    std::fs::write(&out, profile.to_string()).expect("written");
    let refused = modelled(&out);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(read()["source"], "measured");
}

#[test]
fn a_network_is_measured_on_the_engine_that_was_asked_for() {
    let data = Data::new();
    let model = path(&models().join("efficientnet-lite0"));
    let out = path(&data.folder.path().join("measured.json"));
    let quickly = [
        "--cores",
        "1",
        "--batches",
        "1,2",
        "--repeats",
        "1",
        "--patience",
        "1",
    ];
    let asked = ["profile", "--model", &model, "--engine", "rten", "--out", &out];
    let measured = graft(asked.into_iter().chain(quickly).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&measured.stderr).into_owned();
    assert_eq!(measured.status.code(), Some(0), "{said}");
    assert!(said.contains("on rten"), "{said}");
    let profile: Value = serde_json::from_slice(&std::fs::read(&out).expect("a file")).expect("JSON");
    assert_eq!(profile["source"], "measured");
    let segments = &profile["models"]["efficientnet-lite0"]["segments"];
    let segments = segments.as_array().expect("segments");
    let all = |batch: usize| -> f64 { segments.iter().filter_map(|s| s["ms"][batch][0].as_f64()).sum() };
    assert!(
        segments.len() == 49 && 0.0 < all(0) && all(0) < all(1),
        "{profile}"
    );

    let nowhere = graft([
        "profile",
        "--model",
        &model,
        "--engine",
        "onnxruntime",
        "--onnxruntime",
        "/nowhere",
        "--out",
        &out,
    ]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nowhere"));
}

fn examples() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scenarios"))
}

#[test]
fn the_example_scenarios_can_be_played_and_give_the_same_report_each_time() {
    let play = |name: &str| -> Value {
        let file = path(&examples().join(name));
        let run = || graft(["simulate", "--scenario", &file, "--json", "--moves", "1"]);
        let (first, again) = (run(), run());
        assert_eq!(first.status.code(), Some(0), "{first:?}");
        assert!(first.stdout == again.stdout, "{name} is not the same each time");
        serde_json::from_slice(&first.stdout).expect("JSON")
    };
    let part = |report: &Value| report["server"]["attainment"].as_f64().expect("a number");
    let city = play("city.json");
    assert!(part(&city) > 0.99 && city["clients"] == 100, "{}", city["server"]);
    let rush = play("rush.json");
    assert!(part(&rush) > 0.999, "{}", rush["server"]);
    let faults = play("faults.json");
    assert!(faults["server"]["refused"]["worker_lost"].as_u64() > Some(0));
    assert!((0.9..0.99).contains(&part(&faults)), "{}", faults["server"]);
}

#[test]
fn a_scenario_is_drawn_and_a_wrong_one_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = path(&folder.path().join("page.html"));
    let rush = examples().join("rush.json");
    let output = graft([
        "simulate",
        "--scenario",
        &path(&rush),
        "--algorithm",
        "gslice",
        "--html",
        &page,
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("planned by gslice") && text.contains("requests in the time it had"),
        "{text}"
    );
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.matches("<svg").count() >= 6 && page.contains("Why batches closed"));

    let original = std::fs::read_to_string(rush).expect("a scenario");
    let wrong = |from: &str, to: &str, words: &[&str]| {
        let file = folder.path().join("wrong.json");
        std::fs::write(&file, original.replacen(from, to, 1)).expect("written");
        let output = graft(["simulate", "--scenario", &path(&file)]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(words.iter().all(|w| errors.contains(w)), "{words:?}: {errors}");
    };
    wrong(
        "\"rate_rps\": 60",
        "\"rate_rps\": -1",
        &["wrong.json", "fragments[0].rate_rps"],
    );
    wrong("\"load\"", "\"laod\"", &["wrong.json", "laod"]);
    wrong("efficientnet-lite0-t4.json", "nowhere.json", &["nowhere.json"]);
    wrong("\"duration_s\": 90", "\"duration_s\": 1e99", &["duration_s"]);
    wrong(
        "\"rate_rps\": 60",
        "\"rate_rps\": 1e300",
        &["rate_rps", "at most"],
    );
    wrong("[[30, 3], [60, 1]]", "[[30, 1e300]]", &["load[0][1]", "at most"]);
}
