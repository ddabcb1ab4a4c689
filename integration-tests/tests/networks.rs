//! Networks of many shapes from phone to server: several inputs, outputs and crossing tensors, integers, a batch that is not
//! the first dimension.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use graft_integration_tests::{Program, free_tcp_port, free_udp_port, graft, http, until};
use graft_model::{Batch, CutPoint, DType, Model, ModelInfo, ReadOptions, samples};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// Difference of answers that is allowed, as a part of the largest element.
const TOLERANCE: f32 = 1e-4;

/// The networks that are served, by name.
fn networks() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("detector", samples::detector()),
        ("unet", samples::unet()),
        ("bert-with-mask", samples::bert_with_mask()),
        ("quantized", samples::quantized()),
        ("crnn", samples::crnn()),
    ]
}

/// A site in one process with these networks.
struct Site {
    folder: TempDir,
    quic: SocketAddr,
    http: SocketAddr,
    _up: Program,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        for (name, bytes) in networks() {
            let place = file("models").join(name);
            std::fs::create_dir_all(&place).expect("a folder for a network");
            std::fs::write(place.join("network.onnx"), bytes).expect("a network");
            let manifest = format!("name = {name:?}\nfile = \"network.onnx\"\nlicense = \"MIT\"\n");
            std::fs::write(place.join("model.toml"), manifest).expect("a manifest");
        }
        let (quic, address) = (free_udp_port(), free_tcp_port());
        let config = format!(
            "models = {:?}\nstate = {:?}\nlisten = \"{quic}\"\nhttp = \"{address}\"\nbatches = [1, 2]\n",
            file("models"),
            file("state")
        );
        std::fs::write(file("up.toml"), config).expect("a configuration");
        let up = Program::start_with("graft", &["up"], &file("up.toml"), &file("up.log"));
        until("the site is ready", PATIENCE, || {
            http::get(address, "/readyz").is_some_and(|r| r.0 == 200)
        });
        Site {
            folder,
            quic,
            http: address,
            _up: up,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("up.log")).unwrap_or_default()
    }

    /// What a phone makes of the input in a file when it hands over at a cut point: the outputs' bytes.
    fn infer(&self, name: &str, point: CutPoint) -> (Value, Vec<u8>) {
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let output = path(self.file("output"));
        let arguments = [
            ("--router", self.quic.to_string()),
            ("--ca", path(self.file("state/ca.pem"))),
            ("--model", path(self.file("models").join(name))),
            ("--tensor", path(self.file("input"))),
            ("--output", output.clone()),
            ("--slo-ms", "20000".to_owned()),
            ("--partition-point", point.to_string()),
        ];
        let arguments = arguments.map(|(flag, value)| [flag.to_owned(), value]);
        let ran = graft(
            ["infer", "--json"]
                .map(str::to_owned)
                .into_iter()
                .chain(arguments.concat()),
        );
        let told = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|e| panic!("{name} at {point}: no JSON ({e}): {ran:?}\n{}", self.log()));
        let bytes = std::fs::read(output).expect("the outputs were written");
        (told, bytes)
    }
}

/// An ordinary request.
fn request(info: &ModelInfo) -> (Batch, Vec<u8>) {
    let input = Batch::pseudo_random(info.inputs(), 1, 9);
    let bytes = input.to_bytes(&info.inputs().types_sent(DType::F32));
    (input, bytes.expect("an input is bytes"))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|&w| f32::from_le_bytes(w)).collect()
}

fn assert_near(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let top = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= TOLERANCE * top,
            "{what}: {got} instead of {want}"
        );
    }
}

/// The same over HTTP: all outputs of the whole model, as numbers. The inputs stand in another order than the model's, and
/// the first of them comes as bytes after the JSON.
fn over_http(site: &Site, name: &str, info: &ModelInfo, input: &Batch) -> Vec<f32> {
    let tensors = info.inputs().tensors.iter().zip(input.tensors());
    let inputs: Vec<Value> = tensors
        .map(|(spec, tensor)| {
            let mut shape = vec![1];
            shape.extend_from_slice(&spec.shape);
            let numbers = tensor.numbers();
            let (datatype, data): (_, Vec<Value>) = match spec.dtype {
                DType::I64 => ("INT64", numbers.map(|v| json!(v as i64)).collect()),
                _ => ("FP32", numbers.map(|v| json!(v as f32)).collect()),
            };
            json!({ "name": spec.name, "shape": shape, "datatype": datatype, "data": data })
        })
        .rev()
        .collect();
    let mut body = json!({ "inputs": inputs, "parameters": { "budget_ms": 20000 } });
    let first = &mut body["inputs"][0];
    let types = [info.inputs().tensors.last().expect("an input").dtype];
    let last: Batch = input.tensors().last().expect("an input").clone().into();
    let bytes = last.to_bytes(&types).expect("an input is bytes");
    first["parameters"] = json!({ "binary_data_size": bytes.len() });
    first.as_object_mut().expect("an input").remove("data");
    let head = body.to_string();
    let length = format!("Inference-Header-Content-Length: {}", head.len());
    let body = [head.as_bytes(), &bytes].concat();
    let path = format!("/v2/models/{name}/infer");
    let (status, reply) = http::post(site.http, &path, &[&length], &body).expect("an answer");
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert_eq!(status, 200, "{name}: {reply}\n{}", site.log());
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    let outputs = reply["outputs"].as_array().expect("outputs");
    let names: Vec<&str> = outputs.iter().filter_map(|o| o["name"].as_str()).collect();
    assert_eq!(names, info.outputs().names().collect::<Vec<_>>());
    let data = outputs.iter().filter_map(|o| o["data"].as_array()).flatten();
    data.filter_map(Value::as_f64).map(|v| v as f32).collect()
}

#[test]
fn networks_of_many_shapes_are_served_from_phone_to_server() {
    let site = Site::new();
    for (name, bytes) in networks() {
        let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default()).expect("a network");
        let info = model.info();
        let (input, bytes) = request(info);
        std::fs::write(site.file("input"), bytes).expect("an input");
        let (told, alone) = site.infer(name, info.last());
        assert!(told["epoch"].is_null(), "{name} ran on the phone: {told}");
        let want = floats(&alone);
        let inner = info.cut_points().filter(|p| *p < info.last());
        let widest = inner.max_by_key(|p| info.cuts[p.index()].tensors.len());
        let middle = CutPoint(info.last().0 / 2);
        for point in [CutPoint(0), middle, widest.expect("a cut point")] {
            let (told, answer) = site.infer(name, point);
            assert!(
                told["local"].is_null(),
                "{name} at {point}: {told}\n{}",
                site.log()
            );
            assert_near(&format!("{name} at {point}"), &floats(&answer), &want);
        }
        assert_near(name, &over_http(&site, name, info, &input), &want);
    }
}
