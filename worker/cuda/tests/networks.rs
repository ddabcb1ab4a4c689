//! Sample networks on the software GPU: against an engine on the processor, and by what every engine must do.

mod common;

use std::path::{Path, PathBuf};

use graft_cuda::check::{Networks, model};
use graft_engine::{Engine, PartitionShape, RtenEngine, conformance};
use graft_model::{Batch, Elements, Model, ReadOptions, Tensor, samples};

/// Networks with layers that only engines on the processor run, and the operators that are named.
const REFUSED: [(&str, &str); 3] = [
    ("quantized", "QuantizeLinear"),
    ("crnn", "LSTM"),
    ("lrn-cnn", "mean of squares"),
];

fn parsed(name: &str, bytes: &[u8]) -> Model {
    Model::parse(Path::new(name), bytes, &ReadOptions::default()).unwrap()
}

#[test]
fn networks_equal_what_the_processor_computes_whole_and_at_every_cut_point() {
    let cuda = common::softgpu();
    let cpu = RtenEngine::new();
    let on = Networks {
        gpu: (&cuda, cuda.open_partition(&PartitionShape::units(4)).unwrap()),
        reference: (&cpu, cpu.open_partition(&PartitionShape::cores(&[0])).unwrap()),
        most_cuts: 64,
    };
    for (name, bytes) in samples::all() {
        let network = parsed(name, &bytes);
        if let Some((_, operator)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            let error = cuda.load(&network).unwrap_err().to_string();
            assert!(error.contains(operator), "{name}: {error}");
            continue;
        }
        let input = Batch::pseudo_random(network.info().inputs(), 2, 7);
        let (report, _) = model(&on, PathBuf::from(name), &network, &input);
        assert!(report.ok, "{report:?}; {:?}", cuda.softgpu_messages());
        assert_eq!(report.cuts, network.info().cuts.len() - 2);
    }
}

#[test]
fn the_engine_does_what_every_engine_must() {
    let cuda = common::softgpu();
    let (_, sms) = cuda.granularity();
    // The kit runs a network some hundred times; these have all kinds of layers between them.
    let networks = [
        ("mlp", samples::mlp(3, 24)),
        ("residual-cnn", samples::residual_cnn()),
        ("bert", samples::bert()),
    ];
    for (name, bytes) in networks {
        let failures = conformance::check(&cuda, &parsed(name, &bytes), &PartitionShape::units(sms)).unwrap();
        assert!(
            failures.is_empty(),
            "{name}: {failures:?}; {:?}",
            cuda.softgpu_messages()
        );
    }
}

#[test]
fn numbers_beyond_the_range_of_16_bits_are_refused_and_not_answered_wrong() {
    let cuda = common::softgpu();
    let part = cuda.open_partition(&PartitionShape::units(2)).unwrap();
    let network = parsed("mlp", &samples::mlp(3, 24));
    cuda.load(&network).unwrap();
    let info = network.info();
    let ordinary = Batch::pseudo_random(info.inputs(), 1, 7);
    cuda.stays_in_range(part, info.id, &ordinary).unwrap();
    let spec = &info.inputs().tensors[0];
    let large = vec![1e6; spec.shape.iter().product()];
    let large: Batch = Tensor::new(1, spec.shape.clone(), Elements::F32(large))
        .unwrap()
        .into();
    let error = cuda
        .stays_in_range(part, info.id, &large)
        .unwrap_err()
        .to_string();
    assert!(error.contains("leaves the range of 16-bit floats"), "{error}");
}
