use std::path::Path;

use proptest::prelude::*;

use crate::samples::{self, BatchAs};
use crate::{CutPoint, Elements, LEAST_FLOAT, Model, ModelErrorKind, ModelId, ReadOptions, Tensor};

fn parse(bytes: &[u8]) -> Result<Model, crate::ModelError> {
    Model::parse(Path::new("sample.onnx"), bytes, &ReadOptions::default())
}

#[test]
fn what_is_all_but_zero_becomes_zero_and_nothing_else_changes() {
    let (least, tiny) = (LEAST_FLOAT, LEAST_FLOAT * 0.99);
    let given = vec![
        1e-45,
        -1e-39,
        tiny,
        -tiny,
        least,
        -least,
        1.0,
        f32::INFINITY,
        f32::NAN,
        0.0,
    ];
    let mut tensor = Tensor::new(1, vec![given.len()], Elements::F32(given.clone())).unwrap();
    tensor.flush_tiny();
    let flushed = tensor.floats().unwrap();
    assert_eq!(&flushed[..4], &[0.0; 4]);
    for (now, before) in flushed[4..].iter().zip(&given[4..]) {
        assert_eq!(now.to_bits(), before.to_bits());
    }
    let mut integers = Tensor::new(1, vec![2], Elements::I32(vec![1, -1])).unwrap();
    integers.flush_tiny();
    assert_eq!(integers.elements(), &Elements::I32(vec![1, -1]));
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
        ("detector", 10),
        ("unet", 17),
        ("bert-with-mask", 7),
        ("quantized", 8),
        ("crnn", 9),
    ];
    let found: Vec<(&str, usize)> = samples::all()
        .iter()
        .map(|(name, bytes)| (*name, parse(bytes).unwrap().info().cuts.len()))
        .collect();
    assert_eq!(found, expected);
}

/// Names of what crosses at each cut point.
fn crossing(model: &Model) -> Vec<Vec<&str>> {
    let cuts = model.info().cuts.iter();
    cuts.map(|c| c.names().collect()).collect()
}

#[test]
fn inputs_and_outputs_are_cut_points_in_the_file_s_order() {
    let model = parse(&samples::bert_with_mask()).unwrap();
    let all = crossing(&model);
    assert_eq!(all[0], ["input_ids", "attention_mask", "token_type_ids"]);
    assert_eq!(all[all.len() - 1], ["hidden", "pooled"]);
    let model = parse(&samples::detector()).unwrap();
    assert_eq!(model.info().outputs().tensors[1].shape, [64, 6]);
    assert_eq!(
        model.info().outputs().names().collect::<Vec<_>>(),
        ["small", "medium", "large"]
    );
}

#[test]
fn what_every_layer_reads_crosses_beside_what_they_hand_on() {
    for (bytes, most) in [
        (samples::bert_with_mask(), 2),
        (samples::unet(), 4),
        (samples::detector(), 3),
    ] {
        let model = parse(&bytes).unwrap();
        let info = model.info();
        let all = crossing(&model);
        let inner = &all[1..all.len() - 1];
        assert!(inner.iter().any(|names| names.len() > 1), "{inner:?}");
        assert!(inner.iter().all(|names| names.len() <= most), "{inner:?}");
        // No stretch is longer than 32 nodes.
        assert!(info.segments.iter().all(|s| s.nodes.len() <= 32), "{inner:?}");
    }
}

#[test]
fn a_tensor_that_crosses_at_both_ends_of_a_range_passes() {
    let model = parse(&samples::bert_with_mask()).unwrap();
    let info = model.info();
    let places: Vec<CutPoint> = info.cut_points().collect();
    let passing = places[1..places.len() - 2].windows(2).any(|pair| {
        let range = crate::StageRange::new(pair[0], pair[1]).unwrap();
        info.passing(range).iter().any(Option::is_some)
    });
    assert!(passing, "{:?}", crossing(&model));
}

#[test]
fn a_network_of_integers_is_cut_where_integers_cross() {
    let model = parse(&samples::quantized()).unwrap();
    let cuts = &model.info().cuts;
    let of_integers = cuts.iter().filter(|c| c.tensors[0].dtype == crate::DType::U8);
    assert!(of_integers.count() >= 5, "{:?}", crossing(&model));
    let last_float = cuts[1..]
        .iter()
        .position(|c| c.tensors[0].dtype == crate::DType::F32);
    let rest = &cuts[1 + last_float.unwrap()..];
    assert!(rest.iter().all(|c| c.tensors[0].dtype == crate::DType::F32));
}

#[test]
fn an_output_whose_batch_is_not_its_first_dimension_is_turned() {
    let model = parse(&samples::crnn()).unwrap();
    let output = model.info().outputs().only().unwrap();
    assert_eq!((output.name.as_str(), output.batch_axis), ("letters", 1));
    assert_eq!(output.shape, [12, 20]);
}

/// `input`, of shape `[4, batch]`, times `times`, of shape `[batch]`.
fn turned_and_scaled() -> Vec<u8> {
    use rten_onnx::onnx::{DataType, ModelProto};
    let mut b = samples::Builder::new(13);
    let y = b.op("Mul", &["input", "times"], &[]);
    let inputs = [
        ("input", DataType::FLOAT, &[4][..]),
        ("times", DataType::FLOAT, &[]),
    ];
    let bytes = b.finish_with(&inputs, BatchAs::Symbolic, &[&y]);
    let mut proto = ModelProto::parse_buf(&bytes).unwrap();
    let shapes = proto.graph.as_mut().unwrap().input.iter_mut().map(|v| {
        let tensor = v.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        &mut tensor.shape.as_mut().unwrap().dim
    });
    for dims in shapes {
        dims.reverse();
    }
    proto.write_buf().unwrap()
}

#[test]
fn an_input_that_is_the_same_for_all_becomes_a_constant_and_a_batch_is_put_first() {
    let bytes = turned_and_scaled();
    let mut options = ReadOptions::default();
    let times = crate::InputOptions {
        value: Some(vec![2.0]),
        ..crate::InputOptions::default()
    };
    options.inputs.insert("times".to_owned(), times);
    let model = Model::parse(Path::new("m.onnx"), &bytes, &options).unwrap();
    let info = model.info();
    let input = info.inputs().only().unwrap();
    assert_eq!((input.name.as_str(), input.batch_axis), ("input", 1));
    assert_eq!(input.shape, [4]);
    assert_eq!(info.outputs().only().unwrap().batch_axis, 1);
    assert_eq!(info.fixed["times"], [2.0]);
    // Another value is another model.
    let other = crate::InputOptions {
        value: Some(vec![3.0]),
        ..crate::InputOptions::default()
    };
    options.inputs.insert("times".to_owned(), other);
    let second = Model::parse(Path::new("m.onnx"), &bytes, &options).unwrap();
    assert_ne!(second.info().id, info.id);
}

/// The outcome for one input of shape `[batch, 14]`, of floats.
fn wide_model(build: impl FnOnce(&mut samples::Builder) -> String) -> Result<Model, crate::ModelError> {
    let mut builder = samples::Builder::new(13);
    let output = build(&mut builder);
    parse(&builder.finish(
        (rten_onnx::onnx::DataType::FLOAT, &[14]),
        BatchAs::Symbolic,
        &output,
    ))
}

#[test]
fn what_would_take_elements_of_other_requests_is_refused() {
    use samples::Attr::Int;
    let along_batch = wide_model(|b| {
        let k = b.ints(&[1]);
        b.op("TopK", &["input", &k], &[Int("axis", 0)])
    });
    // Two rows of each request, and places for one.
    let merged = wide_model(|b| {
        let two = b.ints(&[-1, 7]);
        let rows = b.op("Reshape", &["input", &two], &[]);
        let places = b.op("Cast", &["input"], &[Int("to", 7)]);
        b.op("GatherElements", &[&rows, &places], &[Int("axis", 1)])
    });
    let by_the_largest_of_all = wide_model(|b| b.op("DynamicQuantizeLinear", &["input"], &[]));
    let resized = wide_model(|b| {
        let sizes = b.ints(&[2, 14]);
        b.op("Resize", &["input", "", "", &sizes], &[])
    });
    for refused in [along_batch, merged, by_the_largest_of_all, resized] {
        assert_eq!(refused.unwrap_err().kind(), ModelErrorKind::Batch);
    }
}

#[test]
fn a_resize_for_which_rten_takes_other_pixels_is_kept_from_it() {
    use samples::Attr::Text;
    let graph_of = |size: i64| {
        let model = wide_model(|b| {
            let sizes = b.ints(&[1, size]);
            let asymmetric = Text("coordinate_transformation_mode", "asymmetric");
            b.op(
                "Resize",
                &["input", "", "", &sizes],
                &[asymmetric, Text("nearest_mode", "floor")],
            )
        });
        let model = model.unwrap();
        assert_eq!(model.info().outputs().tensors[0].shape, [size as usize]);
        String::from_utf8_lossy(&model.engine_graph().unwrap()).into_owned()
    };
    // In 32-bit floats 2 / (4 / 14) and 2 * (14 / 4) lie on two sides of pixel 7.
    assert!(graph_of(4).contains("ResizeNearest"));
    assert!(!graph_of(28).contains("ResizeNearest"));
}

#[test]
fn inputs_that_there_are_not_are_told() {
    let mut options = ReadOptions::default();
    options
        .inputs
        .insert("nothing".to_owned(), crate::InputOptions::default());
    let error = Model::parse(Path::new("m.onnx"), &samples::mlp(1, 4), &options).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Manifest);
    assert!(error.to_string().contains("input"), "{error}");
}

#[test]
fn baked_and_symbolic_batches_give_the_same_cut_points() {
    let (baked, symbolic) = (
        parse(&samples::vit(BatchAs::Baked)).unwrap(),
        parse(&samples::vit(BatchAs::Symbolic)).unwrap(),
    );
    let shapes =
        |m: &Model| -> Vec<Vec<usize>> { m.info().cuts.iter().map(|c| c.tensors[0].shape.clone()).collect() };
    assert_eq!(shapes(&baked), shapes(&symbolic));
}

#[test]
fn a_class_token_and_its_patches_cross_as_one_tensor() {
    let model = parse(&samples::vit(BatchAs::Baked)).unwrap();
    assert!(model.info().cuts.iter().any(|c| c.tensors[0].shape == [17, 32]));
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
            outputs: model.info().outputs().names().map(str::to_owned).collect(),
            ..ReadOptions::default()
        };
        let again = Model::parse(Path::new("again.onnx"), &written, &options).unwrap();
        let names = |m: &Model| -> Vec<Vec<String>> {
            let cuts = m.info().cuts.iter();
            cuts.map(|c| c.names().map(str::to_owned).collect()).collect()
        };
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
fn a_list_of_numbers_that_ends_within_one_is_an_error() {
    // A graph with a tensor whose `int32_data` is cut off within a number: the parser behind would go in circles.
    let bytes = [0x3a, 0x05, 0x2a, 0x03, 0x2a, 0x01, 0x80];
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
    parse(&builder.finish(
        (rten_onnx::onnx::DataType::FLOAT, &[4]),
        BatchAs::Symbolic,
        &output,
    ))
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
    assert_eq!(outcome.unwrap().info().outputs().elements(), 0);
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
    assert_eq!(model.info().cuts[1].tensors[0].shape, [7]);
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
        input_shape: Some(vec![8]),
        ..ReadOptions::default()
    };
    let fixed = Model::parse(Path::new("m.onnx"), &model, &options).unwrap();
    assert_eq!(fixed.info().cuts[0].tensors[0].shape, [8]);
}

#[test]
fn an_output_that_there_is_not_is_refused() {
    let options = ReadOptions {
        outputs: vec!["nothing".to_owned()],
        ..ReadOptions::default()
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
        which in 0usize..12,
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

/// Nearest pixels before operator set 11, by a scale of both sides.
#[test]
fn an_old_resize_that_shrinks_is_not_given_to_an_engine_that_takes_lower_pixels() {
    use crate::samples::{Attr, BatchAs, Builder};
    for (scale, kept) in [(2.0, true), (0.6, false)] {
        let mut b = Builder::new(10);
        let scales = b.tensor(&[4], vec![1.0, 1.0, scale, scale]);
        let y = b.op("Resize", &["input", &scales], &[Attr::Text("mode", "nearest")]);
        let y = b.op("Relu", &[&y], &[]);
        let bytes = b.finish(
            (rten_onnx::onnx::DataType::FLOAT, &[1, 6, 6]),
            BatchAs::Symbolic,
            &y,
        );
        let model = Model::parse(Path::new("old.onnx"), &bytes, &ReadOptions::default()).unwrap();
        let mut written = vec![];
        model.write_careful_graph(&mut written).unwrap();
        let has = |name: &[u8]| written.windows(name.len()).any(|w| w == name);
        assert_eq!(
            (has(b"Upsample"), has(b"ResizeNearest")),
            (kept, !kept),
            "{scale}"
        );
    }
}
