//! Three processes that make a site.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http;
use crate::program::{Program, graft};

/// The folder of the models that come with Graft.
pub fn models() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models"))
}

/// A TCP port that was free just now.
pub fn free_tcp_port() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("a bound socket has an address")
}

/// A UDP port that was free just now.
pub fn free_udp_port() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("a bound socket has an address")
}

/// A lock for tests that measure, so that those of one file do so one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits until something holds; panics with `what` when it never does.
pub fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Three processes that make a site, their files and addresses.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    /// The router's QUIC address.
    pub quic: SocketAddr,
    /// The router's HTTP address.
    pub http: SocketAddr,
    /// Health of the worker.
    pub worker_http: SocketAddr,
    /// Health of the planner.
    pub planner_http: SocketAddr,
}

impl Site {
    /// Makes certificates and configuration files, for a worker on this machine's cores.
    pub fn new() -> Self {
        Self::with(&["batches = [1, 2]\n".to_owned()])
    }

    /// Makes certificates and configuration files, for so many workers (`worker`, `worker-2`, …) whose devices are
    /// emulated by a profile, with time stretched.
    pub fn emulated(workers: usize, profile: &Path, stretch: f64) -> Self {
        let profile = profile.display();
        let own =
            format!("engine = \"emulated\"\n[emulated]\nprofiles = \"{profile}\"\nstretch = {stretch:?}\n");
        Self::with(&vec![own; workers])
    }

    /// Makes certificates and configuration files for one worker with several devices, each emulated by a profile, with
    /// time stretched: names and profiles.
    pub fn with_devices(devices: &[(&str, &Path)], stretch: f64) -> Self {
        let table = |(name, profile): &(&str, &Path)| {
            let profile = profile.display();
            format!(
                "[[devices]]\nname = \"{name}\"\nengine = \"emulated\"\n[devices.emulated]\nprofiles = \"{profile}\"\n\
                 stretch = {stretch:?}\n"
            )
        };
        Self::with(&[devices.iter().map(table).collect()])
    }

    /// `workers`: what each one's configuration says besides what all have.
    fn with(workers: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let dir = folder.path().to_string_lossy().into_owned();
        let init = graft(["ca", "init", "--dir", &dir]);
        assert!(init.status.success(), "{init:?}");
        for role in ["router", "planner", "worker"] {
            let issued = graft(["ca", "issue", "--role", role, "--dir", &dir]);
            assert!(issued.status.success(), "{issued:?}");
        }
        let (quic, planner) = (free_udp_port(), free_udp_port());
        let (http, worker_http, planner_http) = (free_tcp_port(), free_tcp_port(), free_tcp_port());
        let tls = |role: &str| {
            format!(
                "[tls]\ncertificate = \"{dir}/{role}.pem\"\nkey = \"{dir}/{role}.key\"\nauthority = \"{dir}/ca.pem\"\n"
            )
        };
        let models = models();
        let models = models.display();
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).expect("a configuration can be written");
        };
        write(
            "planner.toml",
            format!(
                "listen = \"{planner}\"\nhttp = \"{planner_http}\"\nstate = \"{dir}/planner-state\"\n{}",
                tls("planner")
            ),
        );
        for (i, own) in workers.iter().enumerate() {
            let (part, worker) = (worker_part(i), free_udp_port());
            let health = if i == 0 { worker_http } else { free_tcp_port() };
            write(
                &format!("{part}.toml"),
                format!(
                    "name = \"worker-{}\"\nmodels = \"{models}\"\nlisten = \"{worker}\"\nplanner = \"{planner}\"\n\
                     http = \"{health}\"\nstate = \"{dir}/{part}-state\"\n{own}{}",
                    i + 1,
                    tls("worker")
                ),
            );
        }
        write(
            "router.toml",
            format!(
                "name = \"router-1\"\nmodels = \"{models}\"\nlisten = \"{quic}\"\nhttp = \"{http}\"\n\
                 planner = \"{planner}\"\nhttp_budget_ms = 2000\n{}",
                tls("router")
            ),
        );
        Site {
            folder,
            quic,
            http,
            worker_http,
            planner_http,
        }
    }

    /// A file of the site.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts planner, worker and router, and waits until the router is ready.
    pub fn start_all(&self, patience: Duration) -> Vec<Program> {
        let programs = ["planner", "worker", "router"].map(|part| self.start(part));
        until("the router is ready", patience, || self.is_ready(self.http));
        programs.into()
    }

    /// Starts `graft-PART`; its log goes to `PART.log`. Several workers are `worker`, `worker-2`, …
    pub fn start(&self, part: &str) -> Program {
        let name = match part {
            part if part.starts_with("router") => "graft-router",
            "planner" => "graft-planner",
            part if part.starts_with("worker") => "graft-worker",
            other => panic!("there is no part {other}"),
        };
        Program::start(
            name,
            &self.file(&format!("{part}.toml")),
            &self.file(&format!("{part}.log")),
        )
    }

    /// All logs, for failures.
    pub fn logs(&self) -> String {
        ["planner", "worker", "worker-2", "router", "router-2"]
            .map(|part| {
                let text = std::fs::read_to_string(self.file(&format!("{part}.log"))).unwrap_or_default();
                format!("--- {part}\n{text}")
            })
            .join("\n")
    }

    /// `/readyz` says ready.
    pub fn is_ready(&self, at: SocketAddr) -> bool {
        http::get(at, "/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// One picture through the router, as `graft infer --json` prints it.
    pub fn infer(&self, extra: &[&str]) -> Value {
        let model = models().join("efficientnet-lite0");
        let image = model.join("espresso.png");
        let path = |p: &Path| p.to_string_lossy().into_owned();
        let mut arguments = vec![
            "infer".to_owned(),
            "--json".to_owned(),
            "--router".to_owned(),
            self.quic.to_string(),
            "--ca".to_owned(),
            path(&self.file("ca.pem")),
            "--model".to_owned(),
            path(&model),
            "--image".to_owned(),
            path(&image),
        ];
        arguments.extend(extra.iter().map(|&e| e.to_owned()));
        let output = graft(arguments);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("graft infer printed no JSON ({e}): {output:?}\n{}", self.logs()))
    }

    /// Configures one more router, `router-2`, like the first: its QUIC address.
    pub fn second_router(&self) -> SocketAddr {
        let (quic, http) = (free_udp_port(), free_tcp_port());
        let first =
            std::fs::read_to_string(self.file("router.toml")).expect("the first router's configuration");
        let second = first
            .replace("\"router-1\"", "\"router-2\"")
            .replace(&self.quic.to_string(), &quic.to_string())
            .replace(&self.http.to_string(), &http.to_string());
        std::fs::write(self.file("router-2.toml"), second).expect("a configuration can be written");
        quic
    }

    /// Lets the clients of a scenario ask the router, open-loop: what `graft load --json` prints.
    pub fn load(&self, scenario: &Value, stretch: f64) -> Value {
        self.load_at(&[self.quic], scenario, stretch)
    }

    /// The same, with several routers that all clients know.
    pub fn load_at(&self, routers: &[SocketAddr], scenario: &Value, stretch: f64) -> Value {
        let file = self.file("load.json");
        std::fs::write(&file, scenario.to_string()).expect("a scenario can be written");
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let mut arguments = vec!["load".to_owned(), "--json".to_owned()];
        for router in routers {
            arguments.extend(["--router".to_owned(), router.to_string()]);
        }
        arguments.extend([
            "--ca".to_owned(),
            path(self.file("ca.pem")),
            "--models".to_owned(),
            path(models()),
            "--scenario".to_owned(),
            path(file),
            "--stretch".to_owned(),
            stretch.to_string(),
        ]);
        let output = graft(arguments);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("graft load printed no JSON ({e}): {output:?}\n{}", self.logs()))
    }

    /// JSON of a program's HTTP address.
    pub fn ask(&self, at: SocketAddr, path: &str) -> Value {
        let (status, body) = http::get(at, path).unwrap_or_else(|| panic!("nobody answers at {at}"));
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path} gave no JSON ({e}): {body}"))
    }

    /// Sends pictures, handed over at cut point 0, until one is served.
    pub fn until_served(&self, patience: Duration) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.infer(&["--partition-point", "0", "--slo-ms", "3000"]);
            if answer["local"].is_null() {
                return answer;
            }
            assert!(
                start.elapsed() < patience,
                "not served: {answer}\n{}",
                self.logs()
            );
        }
    }
}

/// The profile of a modelled GPU for the model that comes with Graft: for workers whose devices are emulated.
pub fn emulated_profile() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/scenarios/efficientnet-lite0-t4.json"
    ))
}

/// A scenario of phones on links on which they hand over small tensors.
pub fn phones(count: usize, seconds: f64, warm_up: f64) -> Value {
    json!({
        "version": 1, "name": "phones", "devices": 1, "duration_s": seconds, "warmup_s": warm_up, "headroom": 0.2,
        "profiles": emulated_profile(),
        "phones": [{
            "count": count, "model": "efficientnet-lite0", "device": {"gflops": [4, 12]}, "slo": {"ms": [250, 400]},
            "rate_rps": [4, 6], "link": {"mbps": [4, 15], "rtt_ms": [5, 30]}, "element_bytes": 1,
        }],
    })
}

/// The n-th worker's part, from 0.
pub fn worker_part(number: usize) -> String {
    match number {
        0 => "worker".to_owned(),
        n => format!("worker-{}", n + 1),
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}
