//! `graft load` against real routers, planners and workers, on emulated devices.

use std::time::Duration;

use graft_integration_tests::{
    Program, Site, alone, emulated_profile, graft, http, phones, until, worker_part,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// Time is stretched so many times: what this machine takes for itself counts for little then.
const STRETCH: f64 = 20.0;

/// What the router counts as soon as it is asked.
const ASKED: &str = "graft_router_requests_total";

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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
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

/// Seconds of a scenario: inferences, those in time, and those that reached a router.
fn seconds(report: &Value) -> Vec<(u64, u64, u64)> {
    let seconds = report["seconds"].as_array().expect("seconds").iter();
    let number = |second: &Value, what: &str| second[what].as_u64().expect("a number");
    seconds
        .map(|s| {
            (
                number(s, "inferences"),
                number(s, "in_time"),
                number(s, "arrived"),
            )
        })
        .collect()
}

/// Phones that are well served by themselves, too: they ask the server because it is quicker.
fn patient_phones(seconds: f64) -> Value {
    let mut scenario = phones(12, seconds, 2.0);
    scenario["phones"][0]["device"] = json!({"gflops": [6, 8]});
    scenario["phones"][0]["slo"] = json!({"ms": [500, 600]});
    scenario
}

/// Loads a site with twelve such phones for 18 s, and does something to its router from the sixth second on, for as long as
/// `fault` takes. Gives the seconds.
fn with_fault(fault: impl FnOnce(&Site, Program) -> Program + Send) -> Vec<(u64, u64, u64)> {
    let site = Site::emulated(1, &emulated_profile(), 1.0);
    let _others = ["worker", "planner"].map(|part| site.start(part));
    let router = site.start("router");
    until("the router is ready", PATIENCE, || site.is_ready(site.http));
    let asked = || http::get(site.http, "/metrics").is_some_and(|(_, text)| text.contains(ASKED));
    let report = std::thread::scope(|scope| {
        let meddling = scope.spawn(|| {
            until("the first phone asks", PATIENCE, asked);
            std::thread::sleep(Duration::from_secs(6));
            fault(&site, router)
        });
        let report = site.load(&patient_phones(18.0), 1.0);
        drop(meddling.join().expect("the fault is over"));
        report
    });
    println!("{}", figures(&report));
    let seconds = seconds(&report);
    println!("inferences, in time, at the router, by second: {seconds:?}");
    seconds
}

/// Before the fault the server is asked; two seconds into it, phones go on alone, in time.
fn go_on_alone(seconds: &[(u64, u64, u64)]) {
    assert!(
        seconds[3..5].iter().all(|s| s.2 > 0),
        "nobody asked the server: {seconds:?}"
    );
    let (all, in_time, asked) = seconds[8..10]
        .iter()
        .fold((0, 0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1, sum.2 + s.2));
    assert!(
        all > 0 && in_time * 100 >= all * 95,
        "alone, they were late: {seconds:?}"
    );
    // A phone may ask once more, to find out.
    assert!(
        asked * 10 <= all,
        "they ask a router that is not there: {seconds:?}"
    );
}

fn come_back(seconds: &[(u64, u64, u64)], from: usize) {
    let asked = |range: std::ops::Range<usize>| seconds[range].iter().map(|s| s.2).sum::<u64>();
    assert!(
        asked(from..from + 2) * 2 >= asked(3..5),
        "they did not come back: {seconds:?}"
    );
}

#[test]
fn phones_whose_router_dies_go_on_alone_and_come_back_when_it_is_there_again() {
    let _alone = alone();
    let seconds = with_fault(|site, router| {
        router.kill();
        std::thread::sleep(Duration::from_secs(4));
        site.start("router")
    });
    go_on_alone(&seconds);
    // It starts, joins the planner, and phones that look again every few seconds find it.
    come_back(&seconds, 15);
}

#[test]
fn phones_whose_router_pauses_for_four_seconds_come_back_within_two() {
    let _alone = alone();
    let seconds = with_fault(|_, router| {
        router.stop();
        std::thread::sleep(Duration::from_secs(4));
        router.go_on();
        router
    });
    go_on_alone(&seconds);
    come_back(&seconds, 12);
}
