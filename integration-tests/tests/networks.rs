//! Networks of many shapes from phone to server: several inputs, outputs and crossing tensors, integers, a batch that is not
//! the first dimension.

use std::path::Path;

use graft_engine::{Engine, PartitionShape, RtenEngine, usable_cores};
use graft_files::CatalogEntry;
use graft_integration_tests::{Network, OneHost, http};
use graft_model::{Batch, CutPoint, DType, Elements, Model, ModelInfo, ReadOptions, Tensor, samples};
use serde_json::{Value, json};

/// Time that answers have, in milliseconds.
const SLO_MS: u32 = 20_000;
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

/// Part of the manifest of a network that is served in two sizes.
const LINE: &str = "[input]\nsizes = [[1, 8, 16], [1, 8, 32]]\npad = 0.25\n";

/// A site with these networks.
fn site() -> OneHost {
    let mut all: Vec<Network<'_>> = networks()
        .into_iter()
        .map(|(name, bytes)| Network {
            name,
            bytes,
            manifest: "",
        })
        .collect();
    all.push(Network {
        name: "line",
        bytes: samples::line(),
        manifest: LINE,
    });
    OneHost::start(&all, "batches = [1, 2]\n", &[])
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
fn over_http(site: &OneHost, name: &str, info: &ModelInfo, input: &Batch) -> Vec<f32> {
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
    let site = site();
    for (name, bytes) in networks() {
        let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default()).expect("a network");
        let info = model.info();
        let (input, bytes) = request(info);
        let (told, alone) = site.infer(name, &bytes, info.last(), SLO_MS);
        assert!(told["epoch"].is_null(), "{name} ran on the phone: {told}");
        let want = floats(&alone);
        let inner = info.cut_points().filter(|p| *p < info.last());
        let widest = inner.max_by_key(|p| info.cuts[p.index()].tensors.len());
        let middle = CutPoint(info.last().0 / 2);
        for point in [CutPoint(0), middle, widest.expect("a cut point")] {
            let (told, answer) = site.infer(name, &bytes, point, SLO_MS);
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

/// The numbers of an answer, and the model that gave it. `Err`: the status and what it says.
fn line_over_http(site: &OneHost, rows: usize, width: usize) -> Result<(String, Vec<f32>), (u16, String)> {
    let numbers: Vec<f32> = (0..rows * 8 * width).map(|i| (i as f32 * 0.37).sin()).collect();
    let input = json!({ "name": "line", "shape": [rows, 1, 8, width], "datatype": "FP32", "data": numbers });
    let body = json!({ "inputs": [input], "parameters": { "budget_ms": 20000 } }).to_string();
    let reply = http::post(site.http, "/v2/models/line/infer", &[], body.as_bytes()).expect("an answer");
    let text = String::from_utf8_lossy(&reply.1).into_owned();
    if reply.0 != 200 {
        return Err((reply.0, text));
    }
    let reply: Value = serde_json::from_str(&text).expect("JSON");
    let name = reply["model_name"].as_str().expect("a name").to_owned();
    let data = reply["outputs"][0]["data"].as_array().expect("data").iter();
    Ok((name, data.filter_map(Value::as_f64).map(|v| v as f32).collect()))
}

#[test]
fn a_network_is_served_in_the_smallest_size_that_takes_a_request() {
    let site = site();
    let metadata = http::get(site.http, "/v2/models/line").expect("an answer").1;
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    assert_eq!(
        metadata["inputs"][0]["shape"],
        json!([-1, 1, 8, -1]),
        "{metadata}"
    );
    assert_eq!(
        metadata["parameters"]["sizes"],
        json!(["line@1x8x16", "line@1x8x32"])
    );

    let place = site.file("models").join("line").join("model.toml");
    let sizes = CatalogEntry::open_sizes(&place).expect("sizes");
    let engine = RtenEngine::new();
    let partition = engine
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .expect("a partition");
    for (rows, width, size) in [(1, 16, 0), (2, 11, 0), (3, 20, 1), (1, 32, 1)] {
        let (name, got) = line_over_http(&site, rows, width).expect("it is served");
        let (entry, model) = &sizes[size];
        assert_eq!(name, entry.manifest.name);
        engine.load(model).expect("it loads");
        let numbers = (0..rows * 8 * width).map(|i| (i as f32 * 0.37).sin()).collect();
        let given: Batch = Tensor::new(rows, vec![1, 8, width], Elements::F32(numbers))
            .expect("a tensor")
            .into();
        let filled = given.padded_to(model.info().inputs(), |_| Some(0.25));
        let filled = filled.expect("a tensor").expect("it fits");
        let whole = model.info().whole().expect("layers");
        let want = engine
            .run(partition, model.info().id, whole, filled)
            .expect("it runs");
        let want: Vec<f32> = want.tensors()[0].numbers().map(|v| v as f32).collect();
        assert_near(&format!("{rows} lines {width} wide"), &got, &want);
    }
    let (status, why) = line_over_http(&site, 1, 33).expect_err("no size takes it");
    assert!(
        status == 400 && why.contains("[1, 8, 16]") && why.contains("[1, 8, 32]"),
        "{status} {why}"
    );

    // A phone hands over in the largest size, which is the model's where none is named.
    let (input, bytes) = request(sizes[1].1.info());
    let (told, answer) = site.infer("line", &bytes, CutPoint(2), SLO_MS);
    assert!(told["local"].is_null(), "{told}\n{}", site.log());
    let whole = sizes[1].1.info().whole().expect("layers");
    let want = engine
        .run(partition, sizes[1].1.info().id, whole, input)
        .expect("it runs");
    let want: Vec<f32> = want.tensors()[0].numbers().map(|v| v as f32).collect();
    assert_near("a phone's line", &floats(&answer), &want);
}
