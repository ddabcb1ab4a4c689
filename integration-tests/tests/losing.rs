//! Parts that are killed, stand still or are drained under load, where another can carry what they had.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use graft_integration_tests::{Program, Site, alone, emulated_profile, until, worker_part};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// Length of a load in seconds.
const SECONDS: f64 = 20.0;
/// Time after which something happens to a part.
const AFTER: Duration = Duration::from_secs(9);
/// Part of the requests that may be lost where a part dies or stands still.
const LOST: f64 = 0.01;

/// Two workers, one planner, two routers.
struct Parts {
    site: Site,
    routers: [SocketAddr; 2],
}

/// The programs of a site by their parts' names.
type Programs = BTreeMap<String, Program>;

impl Parts {
    fn start() -> (Self, Programs) {
        let site = Site::emulated(2, &emulated_profile(), 1.0);
        let routers = [site.quic, site.second_router()];
        let names = ["worker", "worker-2", "planner", "router", "router-2"];
        let programs = names.map(|name| (name.to_owned(), site.start(name)));
        until("the router is ready", PATIENCE, || site.is_ready(site.http));
        // One of the workers has nothing to do, and is ready for it.
        let second = std::fs::read_to_string(site.file("worker-2.toml")).expect("a configuration");
        let health = second.lines().find_map(|l| l.strip_prefix("http = "));
        let health = health
            .expect("an address")
            .trim_matches('"')
            .parse()
            .expect("an address");
        for at in [site.worker_http, health] {
            until("each worker is ready", PATIENCE, || site.is_ready(at));
        }
        (Parts { site, routers }, programs.into())
    }

    /// The worker that the plan in use has most partitions on.
    fn busiest_worker(&self) -> String {
        let told = self.site.ask(self.site.planner_http, "/v1/plan");
        let partitions = told["plan"]["partitions"].as_array().expect("partitions");
        let on = |device: &str| partitions.iter().filter(|p| p["device"] == device).count();
        worker_part(usize::from(on("worker-2") > on("worker-1")))
    }

    /// Loads the routers, and has something happen after a while. What became of requests.
    fn loaded(&self, what: &str, happens: impl FnOnce()) -> Value {
        // Requests that nobody could do anything for come open-loop, and never fall back.
        let clients = |id: &str, point: u16, rate_rps: f64| {
            json!({"id": id, "model": "efficientnet-lite0", "partition_point": point, "budget_ms": 500,
                "rate_rps": rate_rps, "arrivals": {"kind": "poisson"}})
        };
        let scenario = json!({
            "version": 1, "name": "losing", "devices": 1, "duration_s": SECONDS, "warmup_s": 4.0, "headroom": 0.2,
            "profiles": emulated_profile(),
            "fragments": [clients("early", 30, 40.0), clients("late", 40, 60.0)],
        });
        let report = std::thread::scope(|scope| {
            let loading = scope.spawn(|| self.site.load_at(&self.routers, &scenario, 1.0));
            std::thread::sleep(AFTER);
            happens();
            loading.join().expect("the load ends")
        });
        let server = &report["server"];
        println!(
            "{what}: {} of {} in time, lost {}, refused {}",
            server["in_time"], server["arrived"], server["lost"], server["refused"]
        );
        report
    }
}

/// Part of the requests that were not answered in time.
fn missed(report: &Value) -> f64 {
    let count = |what: &str| report["server"][what].as_f64().expect("a count");
    1.0 - count("in_time") / count("arrived")
}

#[test]
fn a_worker_that_dies_costs_no_more_than_one_in_a_hundred() {
    let _alone = alone();
    let (parts, mut programs) = Parts::start();
    let report = parts.loaded("a worker is killed", || {
        let worker = programs.remove(&parts.busiest_worker());
        worker.expect("a worker").kill();
    });
    assert!(missed(&report) <= LOST, "{report}\n{}", parts.site.logs());
}

#[test]
fn a_worker_that_stands_still_costs_no_more_than_one_in_a_hundred() {
    let _alone = alone();
    let (parts, programs) = Parts::start();
    let report = parts.loaded("a worker stands still", || {
        programs[&parts.busiest_worker()].stop()
    });
    assert!(missed(&report) <= LOST, "{report}\n{}", parts.site.logs());
}

#[test]
fn a_router_that_dies_or_stands_still_costs_no_more_than_one_in_a_hundred() {
    let _alone = alone();
    let (parts, mut programs) = Parts::start();
    let report = parts.loaded("a router is killed", || {
        programs.remove("router").expect("a router").kill()
    });
    assert!(missed(&report) <= LOST, "{report}\n{}", parts.site.logs());
    programs.insert("router".to_owned(), parts.site.start("router"));
    until("the router is ready", PATIENCE, || {
        parts.site.is_ready(parts.site.http)
    });
    let report = parts.loaded("a router stands still", || programs["router-2"].stop());
    assert!(missed(&report) <= LOST, "{report}\n{}", parts.site.logs());
}

#[test]
fn draining_a_router_or_a_worker_loses_nothing() {
    let _alone = alone();
    let (parts, mut programs) = Parts::start();
    let mut drained = |part: &str| {
        let mut program = programs.remove(part).expect("a part");
        let report = parts.loaded(&format!("{part} is drained"), || program.terminate());
        let ended = program.wait(PATIENCE).expect("it ends");
        assert!(ended.success(), "{part}: {ended}");
        assert!(missed(&report) == 0.0, "{part}: {report}\n{}", parts.site.logs());
    };
    drained("router");
    let _again = parts.site.start("router");
    until("the router is ready", PATIENCE, || {
        parts.site.is_ready(parts.site.http)
    });
    drained(&parts.busiest_worker());
}
