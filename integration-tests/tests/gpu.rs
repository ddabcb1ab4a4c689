//! Networks on the software GPU, from phone to server; commands that need a GPU; a machine that has none.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use graft_integration_tests::{Program, free_tcp_port, free_udp_port, graft, http, programs, until};
use graft_model::{Batch, CutPoint, DType, Model, ReadOptions, samples};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// Difference of answers that is allowed where they are computed in 16-bit floats, as a part of the norm.
const WITHIN: f64 = 1e-2;

fn library() -> PathBuf {
    programs().join("libgraft_softgpu.so")
}

/// The networks that are served, by name.
fn networks() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("residual-cnn", samples::residual_cnn()),
        ("dense-cnn", samples::dense_cnn()),
        ("vit", samples::vit(samples::BatchAs::Symbolic)),
        ("bert", samples::bert()),
    ]
}

/// A site in one process whose layers run on a GPU.
struct Site {
    folder: TempDir,
    quic: SocketAddr,
    _up: Program,
}

impl Site {
    fn new(environment: &[(&str, &OsStr)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        for (name, bytes) in networks() {
            let place = file("models").join(name);
            std::fs::create_dir_all(&place).expect("a folder for a network");
            std::fs::write(place.join("network.onnx"), bytes).expect("a network");
            let manifest = format!(
                "name = {name:?}\nfile = \"network.onnx\"\nlicense = \"MIT\"\nprecision = [\"f32\", \"f16\"]\n"
            );
            std::fs::write(place.join("model.toml"), manifest).expect("a manifest");
        }
        let (quic, address) = (free_udp_port(), free_tcp_port());
        let config = format!(
            "models = {:?}\nstate = {:?}\nlisten = \"{quic}\"\nhttp = \"{address}\"\nbatches = [1, 2]\nengine = \"cuda\"\n\
             standing_budget_ms = 20000\nstanding_rps = 0.2\n",
            file("models"),
            file("state")
        );
        std::fs::write(file("up.toml"), config).expect("a configuration");
        let up = Program::start_in("graft", &["up"], &file("up.toml"), &file("up.log"), environment);
        until("the site is ready", PATIENCE, || {
            http::get(address, "/readyz").is_some_and(|r| r.0 == 200)
        });
        Site {
            folder,
            quic,
            _up: up,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("up.log")).unwrap_or_default()
    }

    /// What a phone makes of the input in a file when it hands over at a cut point.
    fn infer(&self, name: &str, point: CutPoint) -> (Value, Vec<f64>) {
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let output = path(self.file("output"));
        let arguments = [
            "infer".to_owned(),
            "--json".to_owned(),
            "--router".to_owned(),
            self.quic.to_string(),
            "--ca".to_owned(),
            path(self.file("state/ca.pem")),
            "--model".to_owned(),
            path(self.file("models").join(name)),
            "--tensor".to_owned(),
            path(self.file("input")),
            "--output".to_owned(),
            output.clone(),
            "--slo-ms".to_owned(),
            "30000".to_owned(),
            "--partition-point".to_owned(),
            point.to_string(),
        ];
        let ran = graft(arguments);
        let told = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|e| panic!("{name} at {point}: no JSON ({e}): {ran:?}\n{}", self.log()));
        let bytes = std::fs::read(output).expect("the outputs were written");
        let words = bytes.as_chunks::<4>().0.iter();
        (told, words.map(|&w| f64::from(f32::from_le_bytes(w))).collect())
    }
}

fn apart(got: &[f64], wanted: &[f64]) -> f64 {
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(wanted).map(|(a, b)| a - b)) / norm(&mut wanted.iter().copied())
}

fn place_of_largest(all: &[f64]) -> Option<usize> {
    all.iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map(|(place, _)| place)
}

#[test]
fn phones_get_the_same_answers_from_a_gpu_as_they_compute_themselves() {
    let library = library();
    let site = Site::new(&[
        ("GRAFT_CUDA_LIBRARY", library.as_os_str()),
        ("GRAFT_SOFTGPU", OsStr::new("sms=4")),
    ]);
    for (name, bytes) in networks() {
        let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default()).expect("a network");
        let info = model.info();
        let input = Batch::pseudo_random(info.inputs(), 1, 9);
        let sent = input
            .to_bytes(&info.inputs().types_sent(DType::F32))
            .expect("an input is bytes");
        std::fs::write(site.file("input"), sent).expect("an input");
        let (told, wanted) = site.infer(name, info.last());
        assert!(told["epoch"].is_null(), "{name} ran on the phone: {told}");
        for point in [CutPoint(0), CutPoint(info.last().0 / 2)] {
            let (told, got) = site.infer(name, point);
            assert!(
                told["local"].is_null(),
                "{name} at {point}: {told}\n{}",
                site.log()
            );
            assert!(
                apart(&got, &wanted) <= WITHIN,
                "{name} at {point}: {} apart",
                apart(&got, &wanted)
            );
            assert!(
                got != wanted,
                "{name} at {point}: what is computed in 16 bits has rounding of its own"
            );
            assert_eq!(
                place_of_largest(&got),
                place_of_largest(&wanted),
                "{name} at {point}"
            );
        }
    }
    let log = site.log();
    assert!(log.contains("software GPU"), "who serves says what it is: {log}");
}

#[test]
fn a_machine_without_a_driver_says_so_and_serves_on_its_cores() {
    let nowhere = OsStr::new("/nowhere/libcuda.so.1");
    let site = Site::new(&[("GRAFT_CUDA_LIBRARY", nowhere)]);
    let log = site.log();
    assert!(
        log.contains("the GPU can't be used") && log.contains("/nowhere/libcuda.so.1"),
        "{log}"
    );
    let output = Command::new(programs().join("graft"))
        .arg("devices")
        .env("GRAFT_CUDA_LIBRARY", nowhere)
        .output()
        .expect("graft runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("no GPU") && told.contains("used    cpu"),
        "{told}"
    );
}

/// An answer to a pseudo-random input over HTTP, which has 20 s.
fn over_http(address: SocketAddr, name: &str, model: &Model) -> (u16, String) {
    let spec = &model.info().inputs().tensors[0];
    let numbers: Vec<f32> = (0..spec.shape.iter().product())
        .map(|i: usize| (i % 7) as f32 / 7.0)
        .collect();
    let mut shape = vec![1];
    shape.extend(&spec.shape);
    let body = serde_json::json!({
        "inputs": [{ "name": spec.name, "shape": shape, "datatype": "FP32", "data": numbers }],
        "parameters": { "budget_ms": 20000 },
    });
    let path = format!("/v2/models/{name}/infer");
    let (status, reply) = http::post(address, &path, &[], body.to_string().as_bytes()).expect("an answer");
    (status, String::from_utf8_lossy(&reply).into_owned())
}

#[test]
fn a_lost_gpu_costs_no_request_that_the_cores_can_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let bytes = samples::mlp(3, 24);
    let model = Model::parse(Path::new("mlp"), &bytes, &ReadOptions::default()).expect("a network");
    std::fs::create_dir_all(file("models/mlp")).expect("a folder for a network");
    std::fs::write(file("models/mlp/network.onnx"), &bytes).expect("a network");
    let manifest =
        "name = \"mlp\"\nfile = \"network.onnx\"\nlicense = \"MIT\"\nprecision = [\"f32\", \"f16\"]\n";
    std::fs::write(file("models/mlp/model.toml"), manifest).expect("a manifest");
    let (quic, address) = (free_udp_port(), free_tcp_port());
    let config = format!(
        "models = {:?}\nstate = {:?}\nlisten = \"{quic}\"\nhttp = \"{address}\"\nbatches = [1]\n",
        file("models"),
        file("state")
    );
    std::fs::write(file("up.toml"), config).expect("a configuration");
    let library = library();
    let start = |plan: &str, log: &str| {
        let environment = [
            ("GRAFT_CUDA_LIBRARY", library.as_os_str()),
            ("GRAFT_SOFTGPU", OsStr::new(plan)),
        ];
        let up = Program::start_in("graft", &["up"], &file("up.toml"), &file(log), &environment);
        until("the site is ready", PATIENCE, || {
            http::get(address, "/readyz").is_some_and(|r| r.0 == 200)
        });
        up
    };
    // What layers take is measured at the first start, and kept.
    drop(start("sms=4", "first.log"));
    let _up = start("sms=4,lose_after=300", "second.log");
    let log = || std::fs::read_to_string(file("second.log")).unwrap_or_default();
    let mut asked = 0;
    while !log().contains("the device failed") {
        let (status, reply) = over_http(address, "mlp", &model);
        assert_eq!(status, 200, "request {asked}: {reply}\n{}", log());
        asked += 1;
        assert!(
            asked < 2000,
            "the device is lost by now, or nothing runs on it\n{}",
            log()
        );
    }
    for _ in 0..20 {
        let (status, reply) = over_http(address, "mlp", &model);
        assert_eq!(status, 200, "{reply}\n{}", log());
    }
}

fn on_softgpu(arguments: &[&str], plan: &str) -> (Option<i32>, String) {
    let output = Command::new(programs().join("graft"))
        .args(arguments)
        .env("GRAFT_CUDA_LIBRARY", library())
        .env("GRAFT_SOFTGPU", plan)
        .output()
        .expect("graft runs");
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&both).into_owned())
}

#[test]
fn an_old_driver_and_one_that_does_not_divide_its_device_are_named() {
    let (code, told) = on_softgpu(&["devices"], "driver=12040");
    assert!(
        code == Some(0) && told.contains("CUDA 12.4; Graft needs 13.0"),
        "{told}"
    );
    let (code, told) = on_softgpu(&["devices"], "sms=132");
    assert!(
        code == Some(0) && told.contains("partitions of 2 SMs, 132 in all"),
        "{told}"
    );
}

#[test]
fn a_gpu_is_checked_by_one_command_which_tells_all_in_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, outputs) = (folder.path().join("mlp.onnx"), folder.path().join("outputs"));
    std::fs::write(&file, samples::mlp(3, 40)).expect("a network");
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let arguments = [
        "gpu-check",
        "--softgpu",
        "--json",
        "--rounds",
        "6",
        "--model",
        &text(&file),
        "--outputs",
        &text(&outputs),
    ];
    let output = Command::new(programs().join("graft"))
        .args(arguments)
        .env("GRAFT_CUDA_LIBRARY", library())
        .output()
        .expect("graft runs");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert!(output.status.success() && told["ok"] == true, "{told:#}");
    let kernels = told["kernels"].as_array().expect("kernels");
    assert!(kernels.len() >= 12);
    for kernel in kernels {
        assert!(
            kernel["cases"].as_u64() > Some(0) && kernel["worst"].as_f64() <= Some(2e-3),
            "{kernel}"
        );
    }
    let network = &told["models"][0];
    assert!(
        network["top1_equal"] == true && network["worst"].as_f64() <= Some(1e-2),
        "{network}"
    );
    assert_eq!(told["faults"].as_array().map(Vec::len), Some(3), "{told:#}");
    for name in ["mlp.input.npy", "mlp.output.npy"] {
        assert!(outputs.join(name).is_file(), "{name} is there");
    }
}
