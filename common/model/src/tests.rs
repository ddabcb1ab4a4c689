use std::path::Path;

use proptest::prelude::*;

use crate::samples::{self, Batch};
use crate::{CutPoint, Model, ModelErrorKind, ModelId, ReadOptions};

fn parse(bytes: &[u8]) -> Result<Model, crate::ModelError> {
    Model::parse(Path::new("sample.onnx"), bytes, &ReadOptions::default())
}

#[test]
fn every_sample_has_its_cut_points() {
    let expected = [
        ("residual-cnn", 14),
        ("dense-cnn", 8),
        ("vit-baked", 16),
        ("vit-symbolic", 16),
        ("lrn-cnn", 8),
        ("bert", 13),
        ("mlp", 9),
    ];
    let found: Vec<(&str, usize)> = samples::all()
        .iter()
        .map(|(name, bytes)| (*name, parse(bytes).unwrap().info().cuts.len()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn baked_and_symbolic_batches_give_the_same_cut_points() {
    let (baked, symbolic) = (
        parse(&samples::vit(Batch::Baked)).unwrap(),
        parse(&samples::vit(Batch::Symbolic)).unwrap(),
    );
    let shapes = |m: &Model| -> Vec<Vec<usize>> { m.info().cuts.iter().map(|c| c.shape.clone()).collect() };
    assert_eq!(shapes(&baked), shapes(&symbolic));
}

#[test]
fn a_class_token_and_its_patches_cross_as_one_tensor() {
    let model = parse(&samples::vit(Batch::Baked)).unwrap();
    assert!(model.info().cuts.iter().any(|c| c.shape == [17, 32]));
}

#[test]
fn flops_and_weights_of_a_dense_chain_add_up() {
    let model = parse(&samples::mlp(3, 8)).unwrap();
    let info = model.info();
    assert_eq!(info.weights_bytes(), 3 * (64 + 8) * 4);
    assert_eq!(info.flops(info.whole().unwrap()), 3 * (2 * 64 + 8));
    assert_eq!(info.last(), CutPoint(6));
}

#[test]
fn identity_is_a_hash_of_the_content() {
    let (a, b) = (samples::mlp(2, 8), samples::mlp(2, 9));
    let id = |bytes: &[u8]| parse(bytes).unwrap().info().id;
    assert_eq!(id(&a), id(&a));
    assert_ne!(id(&a), id(&b));
    let text = id(&a).to_string();
    assert_eq!(text.parse::<ModelId>().unwrap(), id(&a));
    assert!("xyz".parse::<ModelId>().is_err());
    assert!(format!("é{}", &text[2..]).parse::<ModelId>().is_err());
}

#[test]
fn the_written_graph_has_the_same_cut_points() {
    for (name, bytes) in samples::all() {
        let model = parse(&bytes).unwrap();
        let written = model.engine_graph().unwrap();
        let options = ReadOptions {
            output: Some(model.info().output.clone()),
            input_shape: None,
        };
        let again = Model::parse(Path::new("again.onnx"), &written, &options).unwrap();
        let names = |m: &Model| -> Vec<String> { m.info().cuts.iter().map(|c| c.tensor.clone()).collect() };
        assert_eq!(names(&model), names(&again), "{name}");
    }
}

#[test]
fn a_truncated_file_is_an_error_that_names_it() {
    let bytes = samples::residual_cnn();
    let error = parse(&bytes[..bytes.len() / 2]).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::NotOnnx);
    assert!(error.to_string().starts_with("sample.onnx: "), "{error}");
}

#[test]
fn a_length_that_points_outside_its_message_is_an_error() {
    // Field 2 of the model, with a length of u64::MAX: the parser behind would go in circles.
    let bytes = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(parse(&bytes).unwrap_err().kind(), ModelErrorKind::NotOnnx);
}

#[test]
fn a_text_file_is_not_a_model() {
    assert_eq!(parse(b"hello").unwrap_err().kind(), ModelErrorKind::NotOnnx);
    assert_eq!(parse(b"").unwrap_err().kind(), ModelErrorKind::NotOnnx);
}

/// One input of shape `[batch, 4]` through what `build` adds.
fn small_model(build: impl FnOnce(&mut samples::Builder) -> String) -> Result<Model, crate::ModelError> {
    let mut builder = samples::Builder::new(13);
    let output = build(&mut builder);
    parse(&builder.finish((rten_onnx::onnx::DataType::FLOAT, &[4]), Batch::Symbolic, &output))
}

#[test]
fn operators_that_run_along_the_batch_are_refused() {
    use samples::Attr::{Int, Ints};
    let softmax = small_model(|b| b.op("Softmax", &["input"], &[Int("axis", 0)]));
    let gram = small_model(|b| {
        let turned = b.op("Transpose", &["input"], &[Ints("perm", &[1, 0])]);
        let product = b.op("MatMul", &[&turned, "input"], &[]);
        b.op("MatMul", &["input", &product], &[])
    });
    for refused in [softmax, gram] {
        assert_eq!(refused.unwrap_err().kind(), ModelErrorKind::Batch);
    }
}

#[test]
fn an_empty_slice_read_backwards_is_no_panic() {
    let outcome = small_model(|b| {
        let (zero, one, minus) = (b.ints(&[0]), b.ints(&[1]), b.ints(&[-1]));
        let empty = b.op("Slice", &["input", &zero, &zero, &one, &one], &[]);
        b.op("Slice", &[&empty, &minus, &zero, &one, &minus], &[])
    });
    // An empty output is what the file asks for.
    assert_eq!(outcome.unwrap().info().cuts.last().unwrap().elements, 0);
}

#[test]
fn a_reshaped_constant_keeps_the_rank_that_was_asked_for() {
    let model = small_model(|b| {
        let (one, target) = (b.ints(&[1]), b.ints(&[1, 1]));
        let square = b.op("Reshape", &[&one, &target], &[]);
        let float = b.op("Cast", &[&square], &[samples::Attr::Int("to", 1)]);
        b.op("Add", &["input", &float], &[])
    })
    .unwrap();
    assert_eq!(model.info().cuts.len(), 2);
}

#[test]
fn padding_as_torch_computes_it_is_followed() {
    // F.pad(x, (1, 2)): pairs from the last dimension on, turned around step by step.
    let model = small_model(|b| {
        let (pads, filler) = (b.ints(&[1, 2]), b.ints(&[2]));
        let zeros = b.op("ConstantOfShape", &[&filler], &[]);
        let zeros = b.op("Cast", &[&zeros], &[samples::Attr::Int("to", 7)]);
        let all = b.op("Concat", &[&pads, &zeros], &[samples::Attr::Int("axis", 0)]);
        let (pairs, minus, least, first) = (b.ints(&[-1, 2]), b.ints(&[-1]), b.ints(&[-100]), b.ints(&[0]));
        let table = b.op("Reshape", &[&all, &pairs], &[]);
        let backwards = b.op("Slice", &[&table, &minus, &least, &first, &minus], &[]);
        let turned = b.op(
            "Transpose",
            &[&backwards],
            &[samples::Attr::Ints("perm", &[1, 0])],
        );
        let flat = b.op("Reshape", &[&turned, &minus], &[]);
        b.op("Pad", &["input", &flat], &[])
    })
    .unwrap();
    assert_eq!(model.info().cuts[1].shape, [7]);
}

#[test]
fn nan_and_infinities_are_found_among_many_numbers() {
    use crate::{Elements, Tensor};
    let of = |v: Vec<f32>| Tensor::new(1, vec![v.len()], Elements::F32(v)).unwrap();
    let ordinary = vec![
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        -0.0,
        1e-45,
        3.0,
        4.0,
        5.0,
        6.0,
    ];
    assert!(of(ordinary.clone()).is_finite());
    assert!(of(vec![]).is_finite());
    for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in 0..ordinary.len() {
            let mut numbers = ordinary.clone();
            numbers[at] = odd;
            assert!(!of(numbers).is_finite(), "{odd} at {at}");
        }
    }
}

#[test]
fn an_unknown_operator_is_named_with_its_node() {
    let bytes = replaced(&samples::mlp(2, 8), b"Relu", b"Ruin");
    let error = parse(&bytes).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::UnknownOperator);
    assert!(error.to_string().contains("Ruin"), "{error}");
    assert!(error.node().unwrap().contains("relu_1"), "{error}");
}

#[test]
fn an_operator_set_that_is_too_new_is_refused() {
    let mut bytes = samples::mlp(1, 4);
    // opset_import is the last field: its version is the last byte.
    *bytes.last_mut().unwrap() = 99;
    assert_eq!(parse(&bytes).unwrap_err().kind(), ModelErrorKind::Opset);
}

#[test]
fn a_symbolic_height_is_refused_until_the_manifest_fixes_it() {
    let model = open_sized_model();
    assert_eq!(parse(&model).unwrap_err().kind(), ModelErrorKind::DynamicShape);
    let options = ReadOptions {
        output: None,
        input_shape: Some(vec![8]),
    };
    let fixed = Model::parse(Path::new("m.onnx"), &model, &options).unwrap();
    assert_eq!(fixed.info().cuts[0].shape, [8]);
}

#[test]
fn an_output_that_there_is_not_is_refused() {
    let options = ReadOptions {
        output: Some("nothing".to_owned()),
        input_shape: None,
    };
    let error = Model::parse(Path::new("m.onnx"), &samples::mlp(1, 4), &options).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Manifest);
}

/// The dense chain with its input's width left open.
fn open_sized_model() -> Vec<u8> {
    use rten_onnx::onnx::ModelProto;
    let mut proto = ModelProto::parse_buf(&samples::mlp(1, 8)).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    let tensor = graph.input[0]
        .r#type
        .as_mut()
        .unwrap()
        .tensor_type
        .as_mut()
        .unwrap();
    let dim = &mut tensor.shape.as_mut().unwrap().dim[1];
    dim.dim_value = None;
    dim.dim_param = Some("width".to_owned());
    proto.write_buf().unwrap()
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for i in 0..out.len().saturating_sub(from.len()) {
        if &out[i..i + from.len()] == from {
            out[i..i + from.len()].copy_from_slice(to);
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _outcome = parse(&bytes);
    }

    #[test]
    fn damaged_models_never_panic(
        which in 0usize..7,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = samples::all().swap_remove(which).1;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(model) = parse(&bytes) {
            prop_assert!(model.info().cuts.len() >= 2);
        }
    }
}
