//! Networks on the software GPU, from phone to server; commands that need a GPU; a machine that has none.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use graft_files::CatalogEntry;
use graft_integration_tests::{Network, OneHost, alone, http, models, programs};
use graft_model::{Batch, CutPoint, DType, Model, ReadOptions, samples};
use serde_json::{Value, json};

/// Difference of answers that is allowed where they are computed in 16-bit floats, as a part of the norm.
const WITHIN: f64 = 1e-2;
/// Time that answers have whose device is as slow as its software, in milliseconds.
const SLO_MS: u32 = 30_000;
/// Part of a manifest that lets a network be computed in 16-bit floats.
const HALVES: &str = "precision = [\"f32\", \"f16\"]\n";

fn library() -> PathBuf {
    programs().join("libgraft_softgpu.so")
}

/// The small networks that are served, by name: with residuals and an inception block, densely connected, transformers.
fn networks() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("residual-cnn", samples::residual_cnn()),
        ("dense-cnn", samples::dense_cnn()),
        ("vit", samples::vit(samples::BatchAs::Symbolic)),
        ("bert", samples::bert()),
    ]
}

fn served<'a>(networks: &[(&'a str, Vec<u8>)]) -> Vec<Network<'a>> {
    let network = |(name, bytes): &(&'a str, Vec<u8>)| Network {
        name,
        bytes: bytes.clone(),
        manifest: HALVES,
    };
    networks.iter().map(network).collect()
}

/// Of a worker on the first GPU that answers whenever it is ready.
const ON_GPU: &str = "batches = [1, 2]\nengine = \"cuda\"\nstanding_budget_ms = 20000\nstanding_rps = 0.2\n";

/// Floats of 32 bits.
fn floats(bytes: &[u8]) -> Vec<f64> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|&w| f64::from(f32::from_le_bytes(w))).collect()
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

/// Hands a network over at some of its cut points, and compares with what the phone computes alone.
fn assert_same_from_phone_to_server(
    site: &OneHost,
    name: &str,
    input: &Batch,
    model: &Model,
    points: &[CutPoint],
) {
    let info = model.info();
    let sent = input
        .to_bytes(&info.inputs().types_sent(DType::F32))
        .expect("an input is bytes");
    let (told, wanted) = site.infer(name, &sent, info.last(), SLO_MS);
    assert!(told["epoch"].is_null(), "{name} ran on the phone: {told}");
    let wanted = floats(&wanted);
    for point in points {
        let (told, got) = site.infer(name, &sent, point, SLO_MS);
        assert!(
            told["local"].is_null(),
            "{name} at {point}: {told}\n{}",
            site.log()
        );
        let got = floats(&got);
        let difference = apart(&got, &wanted);
        assert!(difference <= WITHIN, "{name} at {point}: {difference} apart");
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

#[test]
fn phones_get_the_same_answers_from_a_gpu_as_they_compute_themselves_at_every_cut_point() {
    let library = library();
    let environment = [
        ("GRAFT_CUDA_LIBRARY", library.as_os_str()),
        ("GRAFT_SOFTGPU", OsStr::new("sms=4")),
    ];
    let networks = networks();
    let site = OneHost::start(&served(&networks), ON_GPU, &environment);
    for (name, bytes) in &networks {
        let model = Model::parse(Path::new(name), bytes, &ReadOptions::default()).expect("a network");
        let input = Batch::pseudo_random(model.info().inputs(), 1, 9);
        let points: Vec<CutPoint> = model
            .info()
            .cut_points()
            .filter(|p| *p != model.info().last())
            .collect();
        assert_same_from_phone_to_server(&site, name, &input, &model, &points);
    }
    let log = site.log();
    assert!(log.contains("software GPU"), "who serves says what it is: {log}");
}

#[test]
fn a_picture_s_class_is_the_same_wherever_its_layers_run() {
    let library = library();
    let environment = [
        ("GRAFT_CUDA_LIBRARY", library.as_os_str()),
        ("GRAFT_SOFTGPU", OsStr::new("sms=4")),
    ];
    let config = ON_GPU.replace("[1, 2]", "[1]");
    let site = OneHost::with_models(&models(), &config, &environment);
    let (_, model) = CatalogEntry::open(&models().join("efficientnet-lite0/model.toml"))
        .expect("the model that comes with Graft");
    let input = Batch::pseudo_random(model.info().inputs(), 1, 9);
    let last = model.info().last().0;
    let points = [0, last / 3, 2 * last / 3, last - 2].map(CutPoint);
    assert_same_from_phone_to_server(&site, "efficientnet-lite0", &input, &model, &points);
}

#[test]
fn a_machine_without_a_driver_says_so_and_serves_on_its_cores() {
    let nowhere = OsStr::new("/nowhere/libcuda.so.1");
    let networks = networks();
    let site = OneHost::start(
        &served(&networks[..1]),
        ON_GPU,
        &[("GRAFT_CUDA_LIBRARY", nowhere)],
    );
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
    let body = json!({
        "inputs": [{ "name": spec.name, "shape": shape, "datatype": "FP32", "data": numbers }],
        "parameters": { "budget_ms": 20000 },
    });
    let path = format!("/v2/models/{name}/infer");
    let (status, reply) = http::post(address, &path, &[], body.to_string().as_bytes()).expect("an answer");
    (status, String::from_utf8_lossy(&reply).into_owned())
}

#[test]
fn a_lost_gpu_costs_no_request_that_the_cores_can_serve() {
    let networks = [("mlp", samples::mlp(3, 24))];
    let model = Model::parse(Path::new("mlp"), &networks[0].1, &ReadOptions::default()).expect("a network");
    let library = library();
    let with = |plan: &'static str| {
        [
            ("GRAFT_CUDA_LIBRARY", library.as_os_str()),
            ("GRAFT_SOFTGPU", OsStr::new(plan)),
        ]
    };
    // What layers take is measured at the first start, and kept.
    let mut site = OneHost::start(&served(&networks), "batches = [1]\n", &with("sms=4"));
    site.start_again(&with("sms=4,lose_after=300"));
    let mut asked = 0;
    while !site.log().contains("the device failed") {
        let (status, reply) = over_http(site.http, "mlp", &model);
        assert_eq!(status, 200, "request {asked}: {reply}\n{}", site.log());
        asked += 1;
        assert!(
            asked < 2000,
            "the device is lost by now, or nothing runs on it\n{}",
            site.log()
        );
    }
    for _ in 0..20 {
        let (status, reply) = over_http(site.http, "mlp", &model);
        assert_eq!(status, 200, "{reply}\n{}", site.log());
    }
}

/// What the software GPU models takes so many times as long on these devices: more than it takes to work it out.
const STRETCH: u32 = 2000;

/// Phones of many kinds for `residual-cnn`, on links on which they hand over some of its layers.
fn phones_of(site: &OneHost, count: u32, seconds: f64) -> Value {
    let folder = site.file("state/worker/profiles");
    let file = std::fs::read_dir(&folder)
        .expect("profiles are kept")
        .flatten()
        .next();
    let text = std::fs::read_to_string(file.expect("a profile").path()).expect("a profile");
    let mut profile: Value = serde_json::from_str(&text).expect("a profile is JSON");
    assert_eq!(
        profile["source"], "modelled",
        "a software GPU's times are not measured"
    );
    let models = profile["models"].as_object().expect("models");
    let known = models.values().next().expect("a model").clone();
    profile["models"] = json!({ "residual-cnn": known });
    let profiles = site.file("profile.json");
    std::fs::write(&profiles, profile.to_string()).expect("a profile can be written");
    json!({
        "version": 1, "name": "phones", "devices": 1, "duration_s": seconds, "warmup_s": 3, "headroom": 0.2, "profiles": profiles,
        "phones": [{
            "count": count, "model": "residual-cnn", "device": {"gflops": [0.002, 0.02]}, "slo": {"ms": [600, 900]},
            "rate_rps": [0.8, 1.2], "link": {"mbps": [4, 15], "rtt_ms": [5, 30]}, "element_bytes": 1,
        }],
    })
}

#[test]
fn a_gpu_s_plans_hold_under_load_and_requests_of_many_fragments_share_batches() {
    let _alone = alone();
    let library = library();
    let plan = format!("sms=8,stretch={STRETCH}");
    let environment = [
        ("GRAFT_CUDA_LIBRARY", library.as_os_str()),
        ("GRAFT_SOFTGPU", OsStr::new(&plan)),
    ];
    let config = "batches = [1, 2, 4]\nengine = \"cuda\"\n";
    let site = OneHost::start(&served(&networks()[..1]), config, &environment);
    let report = site.load(&phones_of(&site, 40, 11.0));
    let server = &report["server"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    assert_eq!(number(&server["lost"]), 0.0, "{server}\n{}", site.log());
    assert!(number(&server["arrived"]) > 100.0, "{server}");
    assert!(number(&server["attainment"]) >= 0.97, "{server}\n{}", site.log());
    let metrics = http::get(site.http, "/metrics").expect("metrics").1;
    let metric = |name: &str| {
        let line = metrics
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|v| v.parse::<f64>().ok()).unwrap_or_default()
    };
    let (requests, batches) = (
        metric("graft_worker_batch_requests_sum"),
        metric("graft_worker_batch_requests_count"),
    );
    assert!(
        batches > 0.0 && requests / batches > 1.2,
        "{requests} requests in {batches} batches"
    );
    let points = report["seconds"]
        .as_array()
        .expect("seconds")
        .iter()
        .map(|s| number(&s["points"]));
    assert!(
        points.fold(0.0, f64::max) >= 2.0,
        "phones cut in several places: {report}"
    );
}

#[test]
fn faults_of_one_gpu_under_load_cost_no_request_that_another_can_serve() {
    let _alone = alone();
    let library = library();
    let config = "batches = [1, 2]\nengine = \"cuda\"\n";
    // A launch that fails once, and a device that is lost, each in the middle of the load.
    let size = format!("devices=2,sms=4,stretch={STRETCH}");
    let plain = size.clone();
    let with = |plan: &str| {
        [
            ("GRAFT_CUDA_LIBRARY", library.as_os_str().to_owned()),
            ("GRAFT_SOFTGPU", plan.into()),
        ]
    };
    let start = with(&plain);
    let borrowed: Vec<(&str, &OsStr)> = start.iter().map(|(k, v)| (*k, v.as_os_str())).collect();
    let mut site = OneHost::start(&served(&networks()[..1]), config, &borrowed);
    for (fault, said) in [
        ("fail_after=600", "unspecified launch failure"),
        ("lose_after=600", "the device failed"),
    ] {
        let environment = with(&format!("{size},{fault}"));
        let borrowed: Vec<(&str, &OsStr)> = environment.iter().map(|(k, v)| (*k, v.as_os_str())).collect();
        site.start_again(&borrowed);
        let report = site.load(&phones_of(&site, 24, 11.0));
        let server = &report["server"];
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        assert!(site.log().contains(said), "{fault} came: {}", site.log());
        assert_eq!(number(&server["lost"]), 0.0, "{fault}: {server}\n{}", site.log());
        assert!(number(&server["arrived"]) > 60.0, "{fault}: {server}");
        assert!(
            number(&server["attainment"]) >= 0.95,
            "{fault}: {server}\n{}",
            site.log()
        );
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
