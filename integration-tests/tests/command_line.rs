//! `graft` as a new user runs it, and configurations that don't do.

use std::time::Duration;

use graft_integration_tests::{Program, Site, graft, models, programs};
use serde_json::Value;

#[test]
fn the_demo_shows_phones_and_a_server_sharing_a_trained_network() {
    let output = graft(["demo", "--json", "--seconds", "5"]);
    let shown = format!("{output:?}");
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let number = |key: &str| {
        report[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key} in {report}"))
    };
    let phones = report["phones"].as_array().expect("phones");
    assert!(phones.len() >= 6, "{report}");
    for phone in phones {
        for key in [
            "partition_point",
            "budget_ms",
            "p50_ms",
            "p99_ms",
            "requests",
            "in_time",
            "local",
        ] {
            assert!(phone[key].is_number(), "{key} in {phone}");
        }
        assert!(phone["id"].is_string());
    }
    assert_eq!(report["top1"], "espresso");
    assert!(number("max_abs_diff") < 1e-3);
    assert!(number("requests") >= 6.0 && number("answered") == number("requests") && number("failed") == 0.0);
    assert_eq!(number("in_time") + number("late"), number("answered"));
    assert!(number("epochs") >= 1.0);
    assert!(number("total_share") < number("total_share_alone"), "{report}");
}

#[test]
fn a_model_is_inspected_and_proved() {
    let file = models().join("efficientnet-lite0/efficientnet-lite0.onnx");
    let file = file.to_string_lossy();
    let inspected = graft(["model", "inspect", &file, "--json"]);
    let model: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert_eq!(model["cut_points"].as_array().map(Vec::len), Some(50));
    assert_eq!(model["segments"].as_array().map(Vec::len), Some(49));
    let checked = graft(["model", "check", &file, "--json"]);
    let check: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(
        (checked.status.code(), &check["holds"]),
        (Some(0), &Value::Bool(true))
    );
}

#[test]
fn features_are_found_written_and_named_in_the_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, pictures) = (folder.path().join("model"), folder.path().join("pictures"));
    let given = models().join("efficientnet-lite0");
    std::fs::create_dir_all(&model).expect("a folder");
    std::fs::create_dir_all(&pictures).expect("a folder");
    for name in ["efficientnet-lite0.onnx", "labels.txt", "espresso.png"] {
        std::fs::copy(given.join(name), model.join(name)).expect("a copy");
    }
    let manifest = std::fs::read_to_string(given.join("model.toml")).expect("the manifest");
    let plain = manifest.replace("features = \"features.bin\"\n", "");
    assert_ne!(manifest, plain, "the model that comes with Graft has features");
    std::fs::write(model.join("model.toml"), plain).expect("a manifest");
    for number in 0..4 {
        let picture = pictures.join(format!("{number}.png"));
        std::fs::copy(given.join("espresso.png"), picture).expect("a copy");
    }
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let find = |more: &[&str]| {
        let some = "--squares 2 --partition-point 38 --partition-point 46 --json";
        let mut arguments = ["model", "features", &path(&model), "--pictures", &path(&pictures)]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(some.split(' ').chain(more.iter().copied()).map(str::to_owned));
        graft(arguments)
    };
    let found = find(&["--write"]);
    let report: Value = serde_json::from_slice(&found.stdout).unwrap_or_else(|e| panic!("{e}: {found:?}"));
    assert_eq!(report["held_against"], 4, "{report}");
    assert_eq!(report["cuts"].as_array().map(Vec::len), Some(2), "{report}");
    assert!(
        report["mean_part"].as_f64().is_some_and(|part| part < 0.25),
        "{report}"
    );
    assert!(
        report["jpeg"]["bytes"].as_u64().is_some_and(|bytes| bytes > 1000),
        "{report}"
    );
    // It is part of the model from now on, and is not made anew unless that is asked for.
    let inspected = graft(["model", "inspect", &path(&model), "--json"]);
    assert_eq!(inspected.status.code(), Some(0), "{inspected:?}");
    let again = find(&[]);
    let why = String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.code() == Some(2) && why.contains("--write makes it anew"),
        "{again:?}"
    );
}

#[test]
fn phones_choose_about_as_well_as_an_oracle() {
    let replayed = graft(["replay", "models/efficientnet-lite0", "--json"]);
    let report: Value =
        serde_json::from_slice(&replayed.stdout).unwrap_or_else(|e| panic!("{e}: {replayed:?}"));
    let all = |key: &str| {
        report["all"][key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key} in {report}"))
    };
    assert!(all("inferences") > 20_000.0, "{report}");
    assert!(
        all("in_time_of_oracle") >= 0.95 && all("in_time_of_oracle") <= 1.0,
        "{report}"
    );
    assert!((1.0..1.15).contains(&all("latency_of_oracle")), "{report}");
}

#[test]
fn a_wrong_model_is_named_with_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cut.onnx");
    let whole =
        std::fs::read(models().join("efficientnet-lite0/efficientnet-lite0.onnx")).expect("the model");
    std::fs::write(&file, &whole[..whole.len() / 3]).expect("written");
    let output = graft(["model".as_ref(), "inspect".as_ref(), file.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cut.onnx") && text.contains("cut off"), "{text}");
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_before_a_port_is_bound() {
    let site = Site::new();
    for part in ["router", "planner", "worker"] {
        let file = site.file(&format!("{part}.toml"));
        let text = std::fs::read_to_string(&file).expect("a configuration");
        let wrong = site.file("wrong.toml");
        std::fs::write(&wrong, format!("sped = 3\n{text}")).expect("written");
        let log = site.file("wrong.log");
        let name = match part {
            "router" => "graft-router",
            "planner" => "graft-planner",
            _ => "graft-worker",
        };
        let mut program = Program::start(name, &wrong, &log);
        let status = program.wait(Duration::from_secs(10)).expect("it ends at once");
        let text = std::fs::read_to_string(&log).expect("a log");
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(text.contains("sped"), "{text}");
        std::fs::remove_file(&log).expect("removed");
    }
}

#[test]
fn every_program_explains_its_configuration() {
    for (name, key) in [
        ("graft-router", "http_budget_ms"),
        ("graft-planner", "headroom"),
        ("graft-worker", "queue_bytes"),
    ] {
        let output = std::process::Command::new(programs().join(name))
            .arg("--help")
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(key), "{text}");
    }
}
