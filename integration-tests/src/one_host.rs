//! A site in one process, which serves networks that a test brings.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Program, free_tcp_port, free_udp_port, graft, http};

/// Time for a site to measure its models and be ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// A network that is served.
pub struct Network<'a> {
    /// Its name.
    pub name: &'a str,
    /// The ONNX file.
    pub bytes: Vec<u8>,
    /// What its manifest says beside name, file and licence; TOML.
    pub manifest: &'a str,
}

/// `graft up` with a folder of its own.
pub struct OneHost {
    folder: TempDir,
    /// For phones.
    pub quic: SocketAddr,
    /// For standard clients.
    pub http: SocketAddr,
    up: Option<Program>,
}

impl OneHost {
    /// Starts a site, and waits until it is ready. `config`: what its configuration says beside addresses and folders; TOML.
    pub fn start(networks: &[Network<'_>], config: &str, environment: &[(&str, &OsStr)]) -> Self {
        let host = Self::empty();
        for Network {
            name,
            bytes,
            manifest,
        } in networks
        {
            let place = host.file("models").join(name);
            std::fs::create_dir_all(&place).expect("a folder for a network");
            std::fs::write(place.join("network.onnx"), bytes).expect("a network");
            let head = format!("name = {name:?}\nfile = \"network.onnx\"\nlicense = \"MIT\"\n");
            std::fs::write(place.join("model.toml"), head + manifest).expect("a manifest");
        }
        host.started(config, environment)
    }

    /// The same, with a folder of models.
    pub fn with_models(models: &Path, config: &str, environment: &[(&str, &OsStr)]) -> Self {
        let host = Self::empty();
        std::os::unix::fs::symlink(models, host.file("models")).expect("a link to the models");
        host.started(config, environment)
    }

    fn empty() -> Self {
        OneHost {
            folder: tempfile::tempdir().expect("a folder"),
            quic: free_udp_port(),
            http: free_tcp_port(),
            up: None,
        }
    }

    fn started(mut self, config: &str, environment: &[(&str, &OsStr)]) -> Self {
        let head = format!(
            "models = {:?}\nstate = {:?}\nlisten = \"{}\"\nhttp = \"{}\"\n",
            self.file("models"),
            self.file("state"),
            self.quic,
            self.http
        );
        std::fs::write(self.file("up.toml"), head + config).expect("a configuration");
        self.start_again(environment);
        self
    }

    /// Ends it, if it runs, and starts it in another environment; its state stays.
    pub fn start_again(&mut self, environment: &[(&str, &OsStr)]) {
        self.up = None;
        let (config, log) = (self.file("up.toml"), self.file("up.log"));
        self.up = Some(Program::start_in("graft", &["up"], &config, &log, environment));
        let start = Instant::now();
        while http::get(self.http, "/readyz").is_none_or(|r| r.0 != 200) {
            assert!(
                start.elapsed() < PATIENCE,
                "the site is not ready\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A file of the site.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("up.log")).unwrap_or_default()
    }

    /// What a phone makes of an input (bytes of its tensors) when it hands over at a cut point: what it tells, and the outputs' bytes.
    pub fn infer(&self, name: &str, input: &[u8], point: impl ToString, slo_ms: u32) -> (Value, Vec<u8>) {
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let output = self.file("output");
        std::fs::write(self.file("input"), input).expect("an input");
        let arguments = [
            ("--router", self.quic.to_string()),
            ("--ca", path(self.file("state/ca.pem"))),
            ("--model", path(self.file("models").join(name))),
            ("--tensor", path(self.file("input"))),
            ("--output", path(output.clone())),
            ("--slo-ms", slo_ms.to_string()),
            ("--partition-point", point.to_string()),
            ("--wire", "f32".to_owned()),
        ];
        let arguments = arguments.map(|(flag, value)| [flag.to_owned(), value]).concat();
        let all = ["infer", "--json"]
            .map(str::to_owned)
            .into_iter()
            .chain(arguments);
        let ran = graft(all);
        let told = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|e| panic!("{name}: no JSON ({e}): {ran:?}\n{}", self.log()));
        (told, std::fs::read(output).expect("the outputs were written"))
    }

    /// Lets the phones of a scenario ask, open-loop: what `graft load --json` prints.
    pub fn load(&self, scenario: &Value) -> Value {
        let file = self.file("load.json");
        std::fs::write(&file, scenario.to_string()).expect("a scenario can be written");
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let ran = graft([
            "load".to_owned(),
            "--json".to_owned(),
            "--router".to_owned(),
            self.quic.to_string(),
            "--ca".to_owned(),
            path(self.file("state/ca.pem")),
            "--models".to_owned(),
            path(self.file("models")),
            "--scenario".to_owned(),
            path(file),
        ]);
        serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|e| panic!("graft load printed no JSON ({e}): {ran:?}\n{}", self.log()))
    }
}
