//! The engine on onnxruntime, where its library is installed.

use std::path::{Path, PathBuf};

use graft_engine::{
    Engine, EngineOptions, Engines, Gives, PartitionShape, RtenEngine, conformance, first_difference,
    try_out, usable_cores,
};
use graft_files::read_model;
use graft_model::{CutPoint, Elements, Model, ReadOptions, StageRange, Tensor, samples};

mod library;

fn parse(name: &str, bytes: &[u8]) -> Model {
    Model::parse(Path::new(name), bytes, &ReadOptions::default()).expect("samples are well-formed")
}

fn trained() -> Model {
    let file = "../../models/efficientnet-lite0/efficientnet-lite0.onnx";
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    read_model(&file, &ReadOptions::default()).unwrap()
}

#[test]
fn it_conforms_on_every_sample_and_on_the_trained_model() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    for (name, bytes) in samples::all() {
        let failures = conformance::check(
            &engine,
            &parse(name, &bytes),
            &PartitionShape::cores(&usable_cores()[..1]),
        )
        .unwrap();
        assert!(failures.is_empty(), "{name}: {failures:#?}");
    }
    let failures = conformance::check(&engine, &trained(), &PartitionShape::cores(&usable_cores())).unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_tensor_is_what_the_untouched_file_gives() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    let model = trained();
    for other in [&RtenEngine::new() as &dyn Engine, &engine] {
        let partition = other
            .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
            .unwrap();
        other.load(&model).unwrap();
        let mut reference = engine.reference(&model, 1, Gives::EveryCut).unwrap();
        let (output, first) = first_difference(other, partition, &model, &mut reference).unwrap();
        assert!(output.holds(), "{}: {output:?}", other.name());
        assert_eq!(first, None, "{}", other.name());
    }
}

#[test]
fn every_sample_equals_the_untouched_file_at_every_cut_point() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in samples::all() {
        let file = folder.path().join(name).with_extension("onnx");
        std::fs::write(&file, &bytes).unwrap();
        let model = Model::parse(&file, &bytes, &ReadOptions::default()).unwrap();
        let mut reference = engine.reference(&model, 1, Gives::EveryCut).unwrap();
        for other in [&RtenEngine::new() as &dyn Engine, &engine] {
            let partition = other
                .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
                .unwrap();
            other.load(&model).unwrap();
            let (output, first) = first_difference(other, partition, &model, &mut reference).unwrap();
            assert!(output.holds(), "{name} on {}: {output:?}", other.name());
            assert_eq!(first, None, "{name} on {}", other.name());
        }
    }
}

#[test]
fn integers_keep_their_64_bits() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    let model = parse("far", &samples::integers_times(1_000_000));
    let partition = engine
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .unwrap();
    try_out(&engine, partition, &model).unwrap();
    let info = model.info();
    let input = Tensor::new(1, vec![2], Elements::F32(vec![2e9, -3.0])).unwrap();
    let output = engine
        .run(partition, info.id, info.whole().unwrap(), input.into())
        .unwrap();
    // The output is 32-bit floats.
    for (got, want) in output.only().unwrap().numbers().zip([2e15, -3e6]) {
        assert!((got / want - 1.0).abs() < 1e-6, "{got} instead of {want}");
    }
}

#[test]
fn a_division_that_could_stop_the_processor_is_refused() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    let partition = engine
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .unwrap();
    for divisor in [None, Some(0), Some(-1)] {
        let model = parse("divided", &samples::integers_over(divisor));
        let refusal = try_out(&engine, partition, &model).unwrap_err();
        assert!(
            refusal.node.as_deref().is_some_and(|n| n.contains("Div")),
            "{refusal}"
        );
        assert_eq!(engine.memory().models, 0);
    }
    let model = parse("halved", &samples::integers_over(Some(2)));
    try_out(&engine, partition, &model).unwrap();
}

#[test]
fn weights_are_shared_by_ranges_and_freed_with_the_model() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    let model = trained();
    let info = model.info();
    engine.load(&model).unwrap();
    let partition = engine
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .unwrap();
    let whole = info.whole().unwrap();
    engine.prepare(partition, info.id, &[whole]).unwrap();
    let once = engine.memory().weights_bytes;
    let middle = CutPoint(info.last().0 / 2);
    let ranges = [
        StageRange::new(CutPoint(0), middle),
        info.tail(middle),
        info.tail(CutPoint(1)),
        info.tail(CutPoint(2)),
    ];
    let ranges: Vec<StageRange> = ranges.into_iter().flatten().collect();
    engine.prepare(partition, info.id, &ranges).unwrap();
    let ten_times = engine.memory().weights_bytes;
    assert!(once as f64 > 0.9 * info.weights_bytes() as f64, "{once}");
    assert!(
        (ten_times as f64) < 1.2 * once as f64,
        "{once} became {ten_times}"
    );
    engine.unload(info.id).unwrap();
    assert_eq!(engine.memory().weights_bytes, 0);
}

#[test]
fn a_model_runs_on_the_engine_that_is_fastest_or_the_only_one() {
    if library::onnxruntime().is_none() {
        return;
    }
    let engines = Engines::open(&EngineOptions::default()).unwrap();
    assert_eq!(engines.names().collect::<Vec<_>>(), ["onnxruntime", "rten"]);
    let partition = engines
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .unwrap();
    let choice = engines.choose(partition, &trained()).unwrap();
    let ms: Vec<f64> = choice
        .tried
        .iter()
        .filter_map(|(_, o)| o.clone().ok().flatten())
        .collect();
    assert_eq!(ms.len(), 2, "{choice}");
    let fastest = if ms[0] <= ms[1] { "onnxruntime" } else { "rten" };
    assert_eq!(choice.engine, fastest, "{choice}");
    assert_eq!(engines.memory().models, 1);

    // rten does not compute 64-bit integers of this size.
    let far = parse("far", &samples::integers_times(1_000_000));
    let choice = engines.choose(partition, &far).unwrap();
    assert_eq!(choice.engine, "onnxruntime", "{choice}");
    assert!(choice.to_string().contains("rten does not run it"), "{choice}");
    let failures = conformance::check(
        &engines,
        &parse("relu", &samples::relu()),
        &PartitionShape::cores(&usable_cores()[..1]),
    )
    .unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}
