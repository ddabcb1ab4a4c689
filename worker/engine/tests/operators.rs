//! Engines against answers that others gave: the ONNX standard's node tests, and onnxruntime's outputs.
//!
//! `operators.zip` is the small form of what `models/tools/operators.sh` makes. Each of its cases is a network of one
//! operator with an input and the right output: it is answered rightly, or refused with a true reason.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use graft_engine::{Engine, EngineError, PartitionShape, RtenEngine, against, try_out, usable_cores};
use graft_model::{DataSet, Model, ReadOptions};

/// Cases that were answered rightly when the file was made; fewer is a step back.
const RIGHT_BY_RTEN: usize = 260;
const RIGHT_BY_ONNXRUNTIME: usize = 328;

mod library;

type Files = BTreeMap<String, Vec<u8>>;

/// The files of each case.
fn cases() -> BTreeMap<String, Files> {
    let bytes = include_bytes!("operators.zip");
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes[..])).unwrap();
    let mut cases: BTreeMap<String, Files> = BTreeMap::new();
    for i in 0..archive.len() {
        let mut file = archive.by_index(i).unwrap();
        let mut content = vec![];
        file.read_to_end(&mut content).unwrap();
        let path = file.name().unwrap().into_owned();
        let (case, name) = path.split_once('/').unwrap();
        cases
            .entry(case.to_owned())
            .or_default()
            .insert(name.to_owned(), content);
    }
    cases
}

#[derive(Debug)]
enum Verdict {
    Right,
    Refused(String),
    Wrong(String),
}

/// `spoil`: what is added to every element of the right output.
fn verdict(engine: &dyn Engine, case: &Files, spoil: f64) -> Verdict {
    let model = match Model::parse(
        Path::new("model.onnx"),
        &case["model.onnx"],
        &ReadOptions::default(),
    ) {
        Ok(model) => model,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    let partition = engine
        .open_partition(&PartitionShape::cores(&usable_cores()[..1]))
        .unwrap();
    if let Err(refusal) = try_out(engine, partition, &model) {
        return Verdict::Refused(refusal.to_string());
    }
    let files = |kind: &str| -> Vec<&Vec<u8>> {
        let numbered = (0..).map(|i| case.get(&format!("{kind}_{i}.pb")));
        numbered.map_while(|file| file).collect()
    };
    let mut set = match DataSet::parse(&files("input"), &files("output"), model.info()) {
        Ok(set) => set,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    let all = set.outputs.iter_mut().flat_map(|o| &mut o.values);
    all.for_each(|v| *v += spoil);
    match against(engine, partition, &model, set) {
        Ok(found) if found.holds() => Verdict::Right,
        Ok(found) => Verdict::Wrong(format!("{found:?}")),
        Err(EngineError::Run { cause, .. }) => Verdict::Refused(cause.to_string()),
        Err(error) => Verdict::Wrong(error.to_string()),
    }
}

/// Counts the right answers; a wrong one is a failure.
fn right(engine: &dyn Engine) -> usize {
    let mut right = 0;
    for (name, case) in cases() {
        match verdict(engine, &case, 0.0) {
            Verdict::Right => right += 1,
            Verdict::Wrong(how) => panic!("{name}: {how}"),
            // Every file passes onnx.checker.
            Verdict::Refused(why) => assert!(
                !why.contains("damaged") && !why.contains("contradicts"),
                "{name}: an untrue refusal: {why}"
            ),
        }
    }
    right
}

#[test]
fn every_operator_is_right_or_truly_refused() {
    let right = right(&RtenEngine::new());
    assert!(right >= RIGHT_BY_RTEN, "{right} right");
}

#[test]
fn every_operator_is_right_or_truly_refused_by_onnxruntime() {
    let Some(engine) = library::onnxruntime() else {
        return;
    };
    let right = right(&engine);
    assert!(right >= RIGHT_BY_ONNXRUNTIME, "{right} right");
}

#[test]
fn an_answer_that_is_off_by_one_is_found_wrong() {
    let relu = cases()
        .into_iter()
        .find(|(name, _)| name.starts_with("Relu_"))
        .unwrap();
    let engine = RtenEngine::new();
    assert!(
        matches!(verdict(&engine, &relu.1, 0.0), Verdict::Right),
        "{}",
        relu.0
    );
    assert!(
        matches!(verdict(&engine, &relu.1, 1.0), Verdict::Wrong(_)),
        "{}",
        relu.0
    );
}
