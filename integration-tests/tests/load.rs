//! `graft load` against real routers, planners and workers, on emulated devices.

use std::time::Duration;

use graft_integration_tests::{Site, emulated_profile, graft, phones, until, worker_part};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// Time is stretched so many times: what this machine takes for itself counts for little then.
const STRETCH: f64 = 20.0;

/// A site, and the scenario that is played on it.
struct Trial {
    site: Site,
    scenario: Value,
}

impl Trial {
    fn new(workers: usize, scenario: Value) -> Self {
        let site = Site::emulated(workers, &emulated_profile(), STRETCH);
        Trial { site, scenario }
    }

    fn until_ready(&self) {
        until("the router is ready", PATIENCE, || {
            self.site.is_ready(self.site.http)
        });
    }

    fn load(&self) -> Value {
        let report = self.site.load(&self.scenario, STRETCH);
        println!("{}", figures(&report));
        report
    }

    /// The same, simulated: observed for as long in all, and with a planner that is as quick before stretched time.
    fn simulate(&self) -> Value {
        let mut scenario = self.scenario.clone();
        let warm_up = scenario["warmup_s"].as_f64().expect("a number");
        let counted = scenario["duration_s"].as_f64().expect("a number") - warm_up;
        scenario["warmup_s"] = json!(warm_up * STRETCH);
        scenario["duration_s"] = json!(warm_up * STRETCH + counted);
        scenario["control"] = json!({
            "planning_ms": 150.0 / STRETCH, "prepare_ms": 50.0 / STRETCH, "message_ms": 1.0 / STRETCH,
            "retire_after_ms": 3000.0 / STRETCH, "notice_ms": 1500.0 / STRETCH,
        });
        let file = self.site.file("simulated.json");
        std::fs::write(&file, scenario.to_string()).expect("a scenario can be written");
        let output = graft(["simulate", "--json", "--scenario", &file.to_string_lossy()]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

fn figures(report: &Value) -> String {
    let server = &report["server"];
    format!(
        "{} of {} inferences in time; server: {} of {} ({:.3}%), lost {}, refused {}, plans {}, lag {}",
        report["in_time"],
        report["inferences"],
        server["in_time"],
        server["arrived"],
        attainment(report) * 100.0,
        server["lost"],
        server["refused"],
        server["epochs"],
        report["load"]["lag"]
    )
}

fn attainment(report: &Value) -> f64 {
    report["server"]["attainment"].as_f64().expect("a number")
}

fn count(report: &Value, what: &str) -> u64 {
    report["server"][what].as_u64().unwrap_or(0)
}

#[test]
fn a_site_on_emulated_devices_does_what_the_simulator_says() {
    let trial = Trial::new(1, phones(100, 1.6, 0.6));
    let _programs = ["planner", "worker", "router"].map(|part| trial.site.start(part));
    trial.until_ready();
    let measured = trial.load();
    assert_eq!(measured["load"]["emulated"], true);
    assert_eq!(count(&measured, "lost"), 0, "{}", trial.site.logs());
    assert!(count(&measured, "arrived") > 200, "{measured}");
    assert!(attainment(&measured) >= 0.97, "{}", figures(&measured));
    let predicted = trial.simulate();
    println!("predicted: {:.3}%", attainment(&predicted) * 100.0);
    let difference = (attainment(&measured) - attainment(&predicted)).abs();
    assert!(difference < 0.02, "{}; predicted {predicted}", figures(&measured));
}

#[test]
#[ignore = "long: three minutes, on a quiet machine"]
fn a_thousand_phones_are_served_as_the_simulator_says() {
    let mut scenario = phones(1000, 4.5, 1.5);
    // About five hundred requests a second, with time stretched.
    scenario["phones"][0]["rate_rps"] = json!([8, 12]);
    scenario["phones"][0]["slo"] = json!({"ms": [200, 400]});
    let trial = Trial::new(1, scenario);
    let _programs = ["planner", "worker", "router"].map(|part| trial.site.start(part));
    trial.until_ready();
    let measured = trial.load();
    assert_eq!(count(&measured, "lost"), 0, "{}", trial.site.logs());
    assert!(attainment(&measured) >= 0.999, "{}", figures(&measured));
    let predicted = trial.simulate();
    println!("predicted: {:.3}%", attainment(&predicted) * 100.0);
    let difference = (attainment(&measured) - attainment(&predicted)).abs();
    assert!(
        difference < 0.005,
        "{}; predicted {predicted}",
        figures(&measured)
    );
}

#[test]
fn the_death_of_the_planner_changes_nothing_for_those_who_are_served() {
    let trial = Trial::new(1, phones(60, 1.6, 0.8));
    let planner = trial.site.start("planner");
    let _programs = ["worker", "router"].map(|part| trial.site.start(part));
    trial.until_ready();
    let killing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(18));
        planner.kill();
    });
    let measured = trial.load();
    killing.join().expect("the planner was killed");
    assert_eq!(count(&measured, "lost"), 0, "{}", trial.site.logs());
    assert!(attainment(&measured) >= 0.97, "{}", figures(&measured));
}

#[test]
fn the_death_of_a_worker_of_two_loses_nothing() {
    let trial = Trial::new(2, phones(60, 1.8, 0.6));
    let workers: Vec<_> = (0..2).map(|w| trial.site.start(&worker_part(w))).collect();
    let _programs = ["planner", "router"].map(|part| trial.site.start(part));
    trial.until_ready();
    let mut workers = workers.into_iter();
    let first = workers.next().expect("two workers");
    let killing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(20));
        first.kill();
    });
    let measured = trial.load();
    killing.join().expect("the worker was killed");
    assert_eq!(count(&measured, "lost"), 0, "{}", trial.site.logs());
    assert!(attainment(&measured) >= 0.9, "{}", figures(&measured));
}
