//! Sample networks on the software GPU, against an engine on the processor.

use std::path::Path;

use graft_cuda::{CudaEngine, Gpu, use_library};
use graft_engine::{Engine, PartitionShape, RtenEngine};
use graft_model::{Batch, Model, ReadOptions, samples};

/// The part of ‖reference‖ that the norm of a difference may have, where 16-bit floats are computed with.
const WITHIN: f64 = 1e-2;

fn softgpu() -> CudaEngine {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libgraft_softgpu.so");
    assert!(library.exists(), "{} is not built", library.display());
    use_library(&library).unwrap();
    let gpu = Gpu::find(0).unwrap();
    assert!(gpu.is_softgpu());
    CudaEngine::open(&gpu).unwrap()
}

fn relative(got: &Batch, wanted: &Batch) -> f64 {
    let numbers = |b: &Batch| -> Vec<f64> { b.tensors().iter().flat_map(|t| t.numbers().collect::<Vec<_>>()).collect() };
    let (got, wanted) = (numbers(got), numbers(wanted));
    assert_eq!(got.len(), wanted.len());
    let apart: f64 = got.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = wanted.iter().map(|b| b * b).sum();
    (apart / norm.max(1e-12)).sqrt()
}

#[test]
fn samples_equal_what_the_processor_computes() {
    let cuda = softgpu();
    let cpu = RtenEngine::new();
    let cores = cpu.open_partition(&PartitionShape::cores(&[0])).unwrap();
    let part = cuda.open_partition(&PartitionShape::units(4)).unwrap();
    let mut failed = vec![];
    for (name, bytes) in samples::all() {
        let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default()).unwrap();
        if let Err(error) = cuda.load(&model) {
            println!("{name}: {error}");
            continue;
        }
        cpu.load(&model).unwrap();
        let info = model.info();
        let input = Batch::pseudo_random(info.inputs(), 2, 7);
        let whole = info.whole().unwrap();
        let wanted = cpu.run(cores, info.id, whole, input.clone()).unwrap();
        let start = std::time::Instant::now();
        match cuda.run(part, info.id, whole, input) {
            Ok(got) => {
                let apart = relative(&got, &wanted);
                println!("{name}: {apart:.2e} in {:?}", start.elapsed());
                if apart > WITHIN { failed.push(name) }
            }
            Err(error) => {
                println!("{name}: {error}; {}", cuda.softgpu_report().unwrap().split("\"messages\"").nth(1).unwrap().chars().take(600).collect::<String>());
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_trained_network_answers_the_same() {
    let cuda = softgpu();
    let cpu = RtenEngine::new();
    let cores = cpu.open_partition(&PartitionShape::cores(&[0])).unwrap();
    let part = cuda.open_partition(&PartitionShape::units(4)).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/efficientnet-lite0/efficientnet-lite0.onnx");
    let bytes = std::fs::read(&file).unwrap();
    let model = Model::parse(&file, &bytes, &ReadOptions::default()).unwrap();
    cuda.load(&model).unwrap();
    cpu.load(&model).unwrap();
    let info = model.info();
    let input = Batch::pseudo_random(info.inputs(), 1, 7);
    let whole = info.whole().unwrap();
    let wanted = cpu.run(cores, info.id, whole, input.clone()).unwrap();
    let start = std::time::Instant::now();
    let got = cuda.run(part, info.id, whole, input).unwrap();
    println!("{:.2e} {:?}", relative(&got, &wanted), start.elapsed());
    assert!(relative(&got, &wanted) <= WITHIN);
}
