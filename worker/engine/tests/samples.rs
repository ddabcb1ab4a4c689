//! The CPU engine on every sample network.

use std::path::Path;

use graft_engine::{Engine, EngineError, PartitionShape, RtenEngine, conformance, try_out, usable_cores};
use graft_files::read_model;
use graft_model::{Batch, Elements, Model, ReadOptions, Tensor, samples};

fn parse(name: &str, bytes: &[u8]) -> Model {
    Model::parse(Path::new(name), bytes, &ReadOptions::default()).expect("samples are well-formed")
}

#[test]
fn the_cpu_engine_conforms_on_every_sample() {
    for (name, bytes) in samples::all() {
        let engine = RtenEngine::new();
        let cores = usable_cores();
        let failures =
            conformance::check(&engine, &parse(name, &bytes), &PartitionShape::cores(&cores[..1])).unwrap();
        assert!(failures.is_empty(), "{name}: {failures:#?}");
    }
}

#[test]
fn the_cpu_engine_conforms_on_the_trained_model() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/efficientnet-lite0/efficientnet-lite0.onnx");
    let model = read_model(&file, &ReadOptions::default()).unwrap();
    let engine = RtenEngine::new();
    let failures = conformance::check(&engine, &model, &PartitionShape::cores(&usable_cores())).unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn cores_that_are_not_there_are_refused() {
    let engine = RtenEngine::new();
    assert!(matches!(
        engine.open_partition(&PartitionShape::cores(&[])),
        Err(EngineError::Partition { .. })
    ));
    if cfg!(target_os = "linux") {
        assert!(matches!(
            engine.open_partition(&PartitionShape::cores(&[1000])),
            Err(EngineError::Partition { .. })
        ));
    }
}

#[test]
fn local_response_normalisation_is_what_onnx_says() {
    let (channels, area) = (7i64, 6usize);
    for size in [1i64, 2, 3, 4, 5, 9] {
        let model = parse("lrn", &samples::lrn(size));
        let engine = RtenEngine::new();
        engine.load(&model).unwrap();
        let partition = engine
            .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
            .unwrap();
        let info = model.info();
        let input = Batch::pseudo_random(info.inputs(), 1, 5);
        let x = input.only().unwrap().floats().unwrap().to_vec();
        let output = engine
            .run(partition, info.id, info.whole().unwrap(), input)
            .unwrap();
        for c in 0..channels {
            for i in 0..area {
                let (from, to) = ((c - (size - 1) / 2).max(0), (c + size / 2).min(channels - 1));
                let squares: f32 = (from..=to).map(|k| x[k as usize * area + i].powi(2)).sum();
                let at = c as usize * area + i;
                let want = x[at] / (1.5 + 0.3 / size as f32 * squares).powf(0.6);
                let got = output.only().unwrap().floats().unwrap()[at];
                assert!(
                    (got - want).abs() < 1e-5,
                    "size {size}, channel {c}: {got} instead of {want}"
                );
            }
        }
    }
}

/// What the whole of a sample makes of one request.
fn answer(name: &str, bytes: &[u8], input: &[f32]) -> Result<Vec<f32>, EngineError> {
    let model = parse(name, bytes);
    let engine = RtenEngine::new();
    engine.load(&model)?;
    let partition = engine.open_partition(&PartitionShape::cores(&usable_cores()[..1]))?;
    let info = model.info();
    let shape = info.inputs().only().unwrap().shape.clone();
    let input = Tensor::new(1, shape, Elements::F32(input.to_vec())).unwrap();
    let output = engine.run(partition, info.id, info.whole().unwrap(), input.into())?;
    Ok(output.only().unwrap().floats().unwrap().to_vec())
}

#[test]
fn a_softmax_of_an_old_operator_set_runs_over_all_axes_from_its_own_on() {
    // By hand: e^x of 0, ln 2, ln 3, ln 4 is 1, 2, 3, 4.
    let input = [1.0f32, 2.0, 3.0, 4.0].map(f32::ln);
    let output = answer("softmax", &samples::softmax_of_old(), &input).unwrap();
    for (got, want) in output.iter().zip([0.1, 0.2, 0.3, 0.4]) {
        assert!((got - want).abs() < 1e-6, "{output:?}");
    }
}

#[test]
fn a_pool_whose_strides_are_left_out_moves_by_one() {
    let input: Vec<f32> = (1..=9u8).map(f32::from).collect();
    let output = answer("pool", &samples::bare_pool(), &input).unwrap();
    assert_eq!(output, [3.0, 4.0, 6.0, 7.0]);
}

#[test]
fn what_is_no_number_stays_none() {
    let input = [f32::NAN, -1.0, f32::INFINITY, f32::NEG_INFINITY];
    let output = answer("relu", &samples::relu(), &input).unwrap();
    assert!(output[0].is_nan(), "{output:?}");
    assert_eq!(output[1..], [0.0, f32::INFINITY, 0.0]);
}

#[test]
fn integers_beyond_32_bits_are_refused_before_or_when_they_come() {
    let model = parse("far", &samples::integers_times(1_000_000));
    let engine = RtenEngine::new();
    let partition = engine
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .unwrap();
    let refusal = try_out(&engine, partition, &model).unwrap_err();
    assert!(
        refusal.node.as_deref().is_some_and(|n| n.contains("Mul")),
        "{refusal}"
    );
    assert_eq!(engine.memory().models, 0);

    let near = samples::integers_times(3);
    assert_eq!(answer("near", &near, &[7.9, -2.0]).unwrap(), [21.0, -6.0]);
    assert!(matches!(
        answer("near", &near, &[2e9, 0.0]),
        Err(EngineError::Run { .. })
    ));
}
