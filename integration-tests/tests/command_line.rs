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
