//! Layers of random shapes with random elements, and what they should give.

mod conv;
mod spelled;

use std::collections::HashMap;
use std::sync::Arc;

use graft_model::SplitMix;
use half::f16;

use self::conv::{conv, conv_large, conv_odd, depthwise, fitting, lists, window};
use crate::graph::{Graph, HostTensor, Node, Numbers};
use crate::lower::{Between, Rule, between};
use crate::params::{Activation, Element};
use crate::reference::{self as exact, Dense};

/// An input, with its elements as they are stored.
pub(super) struct Input {
    pub element: Element,
    pub tensor: Dense,
}

/// Layers, their inputs, and what should come out.
pub(super) struct Case {
    pub label: String,
    pub graph: Graph,
    pub inputs: Vec<Input>,
    pub expected: Dense,
    /// The kernel that is to be blamed where nothing can be launched.
    pub kernel: Option<&'static str>,
}

/// Makes the so-manieth case of a family.
type Family = fn(&mut SplitMix, usize) -> Case;

/// All families: together they run every kernel.
pub(super) fn families() -> Vec<Family> {
    vec![
        conv,
        conv_large,
        conv_odd,
        depthwise,
        pool,
        matmul,
        by_weights,
        normalised,
        attention,
        attention_odd,
        softmax,
        layer_norm,
        group_norm,
        reduce,
        gather,
        resize,
        elementwise,
        flat,
        broadcast,
        spelled::gelu,
        spelled::norm,
    ]
}

/// Builds a case.
struct Making {
    nodes: Vec<Node>,
    constants: HashMap<String, HostTensor>,
    inputs: Vec<(String, Input)>,
}

fn pick<T: Copy>(random: &mut SplitMix, all: &[T]) -> T {
    all[random.below(all.len())]
}

/// An even number between -1 and 1, as a half holds it.
fn number(random: &mut SplitMix) -> f64 {
    f16::from_f64(random.part() * 2.0 - 1.0).to_f64()
}

fn tensor(random: &mut SplitMix, dims: &[usize]) -> Dense {
    let count = dims.iter().product();
    Dense {
        dims: dims.to_vec(),
        values: (0..count).map(|_| number(random)).collect(),
    }
}

/// A tensor of random sizes.
fn tensor_of(random: &mut SplitMix, dims: impl FnOnce(&mut SplitMix) -> Vec<usize>) -> Dense {
    let dims = dims(random);
    tensor(random, &dims)
}

impl Making {
    fn new() -> Self {
        Making {
            nodes: vec![],
            constants: HashMap::new(),
            inputs: vec![],
        }
    }

    fn input(&mut self, name: &str, element: Element, tensor: &Dense) {
        let input = Input {
            element,
            tensor: tensor.clone(),
        };
        self.inputs.push((name.to_owned(), input));
    }

    fn constant(&mut self, name: &str, tensor: &Dense) {
        let floats: Vec<f32> = tensor.values.iter().map(|&x| x as f32).collect();
        let constant = HostTensor {
            dims: tensor.dims.clone(),
            element: Element::F32,
            numbers: Numbers::Floats(Arc::new(floats)),
        };
        self.constants.insert(name.to_owned(), constant);
    }

    fn integers(&mut self, name: &str, numbers: &[i64]) {
        self.constants
            .insert(name.to_owned(), HostTensor::integers(numbers.to_vec()));
    }

    fn node(&mut self, kind: &str, inputs: &[&str], output: &str, ints: &[(&str, &[i64])]) {
        self.nodes.push(Node::made(kind, inputs, output, ints));
    }

    /// The last node's output is the case's.
    fn done(self, label: String, expected: Dense, kernel: &'static str) -> Case {
        let output = self.nodes.last().map_or("", Node::output).to_owned();
        let (names, inputs) = self.inputs.into_iter().unzip();
        Case {
            label,
            graph: Graph::made(self.nodes, self.constants, vec![names, vec![output]]),
            inputs,
            expected,
            kernel: Some(kernel),
        }
    }
}

/// Activations as nodes: their kinds, and what they compute.
const ACTIVATIONS: [(&str, Activation); 7] = [
    ("Relu", Activation::Relu),
    ("Sigmoid", Activation::Sigmoid),
    ("Tanh", Activation::Tanh),
    ("HardSwish", Activation::HardSwish),
    ("Gelu", Activation::Gelu),
    ("LeakyRelu", Activation::LeakyRelu(0.01)),
    ("Elu", Activation::Elu(1.0)),
];

fn pool(random: &mut SplitMix, round: usize) -> Case {
    let mut window = window(random, 3);
    // The standard wants pads smaller than the window.
    for side in 0..4 {
        window.pad[side] = window.pad[side].min(window.size[side % 2] - 1);
    }
    let mean = random.below(2) == 0;
    if mean {
        window.dilation = [1, 1];
    }
    let counts = mean && random.below(2) == 0;
    let height = fitting(&window, 0, random, 9);
    let width = fitting(&window, 1, random, 9);
    let x = tensor(random, &[2, [8, 24, 3, 10][round % 4], height, width]);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    let [size, strides, dilations, pads] = lists(&window);
    let counted = [i64::from(counts)];
    let mut attributes: Vec<(&str, &[i64])> = vec![
        ("kernel_shape", &size),
        ("strides", &strides),
        ("dilations", &dilations),
        ("pads", &pads),
    ];
    if mean {
        attributes.push(("count_include_pad", &counted));
    }
    making.node(
        if mean { "AveragePool" } else { "MaxPool" },
        &["x"],
        "out",
        &attributes,
    );
    let label = format!("pool {:?}, mean {mean}, {window:?}", x.dims);
    making.done(label, exact::pool(&x, &window, mean, counts), "pool_v8")
}

fn matmul(random: &mut SplitMix, _: usize) -> Case {
    let (b, m, k, n) = (
        1 + random.below(3),
        1 + random.below(80),
        1 + random.below(70),
        1 + random.below(80),
    );
    let x = tensor(random, &[b, m, k]);
    let y = tensor(random, &[b, k, n]);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.input("y", Element::F16, &y);
    making.node("MatMul", &["x", "y"], "out", &[]);
    making.done(
        format!("matmul {b} of {m}x{k} by {k}x{n}"),
        exact::matmul(&x, &y),
        "matmul_64x64",
    )
}

fn by_weights(random: &mut SplitMix, round: usize) -> Case {
    let (rows, k, n) = (
        1 + random.below(90),
        [64, 33, 12, 130][round % 4],
        1 + random.below(150),
    );
    let x = tensor(random, &[2, rows, k]);
    let weights = tensor(random, &[k, n]);
    let bias = tensor(random, &[n]);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.constant("w", &weights);
    making.constant("b", &bias);
    making.node("MatMul", &["x", "w"], "product", &[]);
    making.node("Add", &["product", "b"], "added", &[]);
    let (kind, activation) = pick(random, &ACTIVATIONS);
    making.node(kind, &["added"], "out", &[]);
    let product = exact::matmul(&x, &weights);
    let expected = exact::map(&product.dims, &[&product, &bias], |v| activation.of(v[0] + v[1]));
    making.done(
        format!("2x{rows}x{k} by weights to {n}, {kind}"),
        expected,
        "conv_64x64_v8",
    )
}

/// A product whose outputs are normalised.
fn normalised(random: &mut SplitMix, round: usize) -> Case {
    let (rows, k, n) = (1 + random.below(40), [64, 20][round % 2], 1 + random.below(100));
    let x = tensor(random, &[rows, k]);
    let weights = tensor(random, &[n, k]);
    let [bias, gain, offset, mean] = std::array::from_fn(|_| tensor(random, &[n]));
    let variance = Dense {
        values: mean.values.iter().map(|m| m * m + 0.5).collect(),
        ..mean.clone()
    };
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    let constants = [
        ("w", &weights),
        ("b", &bias),
        ("gain", &gain),
        ("offset", &offset),
        ("mean", &mean),
        ("variance", &variance),
    ];
    for (name, constant) in constants {
        making.constant(name, constant);
    }
    making.node("Gemm", &["x", "w", "b"], "product", &[("transB", &[1])]);
    let inputs = ["product", "gain", "offset", "mean", "variance"];
    making.node("BatchNormalization", &inputs, "normal", &[]);
    making.node("Relu", &["normal"], "out", &[]);
    let expected = Dense::of(&[rows, n], |at| {
        let o = at[1];
        let sum: f64 = (0..k).map(|i| x.at(&[at[0], i]) * weights.at(&[o, i])).sum();
        let scale = gain.values[o] / (variance.values[o] + f64::from(1e-5f32)).sqrt();
        ((sum + bias.values[o] - mean.values[o]) * scale + offset.values[o]).max(0.0)
    });
    making.done(
        format!("{rows}x{k} to {n}, normalised"),
        expected,
        "conv_64x64_v8",
    )
}

fn attention_case(random: &mut SplitMix, depth: usize, kernel: &'static str) -> Case {
    let (b, h) = (1 + random.below(2), 1 + random.below(3));
    let (queries, keys) = (1 + random.below(100), 1 + random.below(150));
    let q = tensor(random, &[b, h, queries, depth]);
    let k = tensor(random, &[b, h, keys, depth]);
    let v = tensor(random, &[b, h, keys, depth]);
    let scale = 1.0 / (depth as f64).sqrt();
    let mut making = Making::new();
    // As they come out of products: heads side by side.
    for (name, tensor) in [("q", &q), ("k", &k), ("v", &v)] {
        let turned = Dense::of(&[b, tensor.dims[2], h, depth], |at| {
            tensor.at(&[at[0], at[2], at[1], at[3]])
        });
        let flat = Dense {
            dims: vec![b, tensor.dims[2], h * depth],
            values: turned.values,
        };
        making.input(&format!("{name} flat"), Element::F16, &flat);
        let (flat, split, sizes) = (
            format!("{name} flat"),
            format!("{name} split"),
            format!("{name} sizes"),
        );
        making.integers(&sizes, &[0, 0, h as i64, depth as i64]);
        making.node("Reshape", &[&flat, &sizes], &split, &[]);
        let perm: &[i64] = if name == "k" { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] };
        making.node("Transpose", &[&split], name, &[("perm", perm)]);
    }
    making.constant(
        "scale",
        &Dense {
            dims: vec![],
            values: vec![scale],
        },
    );
    making.node("MatMul", &["q", "k"], "scores", &[]);
    making.node("Mul", &["scores", "scale"], "scaled", &[]);
    let mask = (random.below(2) == 0).then(|| {
        let kept = Dense::of(&[b, 1, 1, keys], |_| 0.0);
        Dense {
            values: kept
                .values
                .iter()
                .map(|_| if random.below(4) == 0 { -1e9 } else { 0.0 })
                .collect(),
            ..kept
        }
    });
    let mut last = "scaled";
    if let Some(mask) = &mask {
        making.input("mask", Element::F32, mask);
        making.node("Add", &[last, "mask"], "masked", &[]);
        last = "masked";
    }
    making.node("Softmax", &[last], "weights", &[("axis", &[-1])]);
    making.node("MatMul", &["weights", "v"], "out", &[]);
    let expected = exact::attention(&q, &k, &v, mask.as_ref(), f64::from(scale as f32));
    let label = format!(
        "attention {b}x{h}, {queries} by {keys} of {depth}, mask {}",
        mask.is_some()
    );
    making.done(label, expected, kernel)
}

fn attention(random: &mut SplitMix, round: usize) -> Case {
    let depth = [32, 64, 96, 128, 24, 80][round % 6];
    let kernels = [
        "attention_32_v8",
        "attention_64_v8",
        "attention_96_v8",
        "attention_128_v8",
        "attention_32_v8",
        "attention_96_v8",
    ];
    attention_case(random, depth, kernels[round % 6])
}

fn attention_odd(random: &mut SplitMix, round: usize) -> Case {
    let depth = [12, 50][round % 2];
    attention_case(random, depth, ["attention_32_v1", "attention_128_v1"][round % 2])
}

fn softmax(random: &mut SplitMix, round: usize) -> Case {
    let x = tensor_of(random, |random| {
        vec![1 + random.below(4), 1 + random.below(20), 1 + random.below(300)]
    });
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    let kind = ["Softmax", "LogSoftmax"][round % 2];
    making.node(kind, &["x"], "out", &[("axis", &[-1])]);
    let mut expected = exact::softmax(&x);
    if kind == "LogSoftmax" {
        expected.values.iter_mut().for_each(|v| *v = v.ln());
    }
    making.done(format!("{kind} {:?}", x.dims), expected, "softmax")
}

fn layer_norm(random: &mut SplitMix, _: usize) -> Case {
    let length = 2 + random.below(300);
    let x = tensor_of(random, |random| {
        vec![1 + random.below(3), 1 + random.below(20), length]
    });
    let (gain, offset) = (tensor(random, &[length]), tensor(random, &[length]));
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.constant("gain", &gain);
    making.constant("offset", &offset);
    making.node(
        "LayerNormalization",
        &["x", "gain", "offset"],
        "out",
        &[("axis", &[-1])],
    );
    let expected = exact::layer_norm(&x, &gain, &offset, f64::from(1e-5f32));
    making.done(format!("layer norm {:?}", x.dims), expected, "layer_norm")
}

fn group_norm(random: &mut SplitMix, _: usize) -> Case {
    let (groups, each) = (1 + random.below(4), 1 + random.below(5));
    let channels = groups * each;
    let x = tensor_of(random, |random| {
        vec![2, channels, 2 + random.below(8), 2 + random.below(8)]
    });
    let (gain, offset) = (tensor(random, &[channels]), tensor(random, &[channels]));
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.constant("gain", &gain);
    making.constant("offset", &offset);
    let attributes: [(&str, &[i64]); 1] = [("num_groups", &[groups as i64])];
    making.node("GroupNormalization", &["x", "gain", "offset"], "out", &attributes);
    let expected = exact::group_norm(&x, &gain, &offset, groups, f64::from(1e-5f32));
    making.done(
        format!("group norm {:?} in {groups}", x.dims),
        expected,
        "group_norm",
    )
}

fn reduce(random: &mut SplitMix, round: usize) -> Case {
    let dims = [
        1 + random.below(4),
        1 + random.below(10),
        [40, 1][round % 2] + random.below(60),
    ];
    let x = tensor(random, &dims);
    let axis = [2, 1][round % 2];
    type Sum = fn(&mut dyn Iterator<Item = f64>) -> f64;
    let kinds: [(&str, Sum); 5] = [
        ("ReduceSum", |all| all.sum()),
        ("ReduceMean", |all| {
            let all: Vec<f64> = all.collect();
            all.iter().sum::<f64>() / all.len() as f64
        }),
        ("ReduceMax", |all| all.fold(f64::NEG_INFINITY, f64::max)),
        ("ReduceL2", |all| all.map(|v| v * v).sum::<f64>().sqrt()),
        ("ReduceL1", |all| all.map(f64::abs).sum()),
    ];
    let (kind, f) = pick(random, &kinds);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.node(
        kind,
        &["x"],
        "out",
        &[("axes", &[axis as i64]), ("keepdims", &[1])],
    );
    let expected = exact::reduce(&x, &[axis], f);
    making.done(
        format!("{kind} {dims:?} along {axis}"),
        expected,
        ["reduce_rows", "reduce_columns"][round % 2],
    )
}

fn gather(random: &mut SplitMix, _: usize) -> Case {
    let x = tensor_of(random, |random| {
        vec![1, 2 + random.below(30), 1 + random.below(40)]
    });
    let rows: Vec<usize> = (0..1 + random.below(20))
        .map(|_| random.below(x.dims[1]))
        .collect();
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    let index = Dense {
        dims: vec![rows.len()],
        values: rows.iter().map(|&r| r as f64).collect(),
    };
    making.input("index", Element::I64, &index);
    making.node("Gather", &["x", "index"], "out", &[("axis", &[1])]);
    let expected = exact::gather(&x, &rows);
    making.done(
        format!("gather {} of {:?}", rows.len(), x.dims),
        expected,
        "gather",
    )
}

fn resize(random: &mut SplitMix, _: usize) -> Case {
    let x = tensor_of(random, |random| {
        vec![
            1 + random.below(2),
            1 + random.below(12),
            2 + random.below(6),
            2 + random.below(6),
        ]
    });
    let to = [1 + random.below(14), 1 + random.below(14)];
    let linear = random.below(2) == 0;
    let coordinates = pick(
        random,
        &["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"],
    );
    let rule = Rule {
        coordinates,
        nearest: Some("floor").filter(|_| !linear),
    };
    let lies = |axis: usize| -> Vec<(usize, usize, f64)> {
        let from = x.dims[axis + 2];
        let scale = to[axis] as f64 / from as f64;
        let all: Vec<Between> = between(rule, from, to[axis], scale).unwrap_or_default();
        all.into_iter()
            .map(|b| (b.low, b.high, f64::from(b.weight)))
            .collect()
    };
    let expected = exact::resize(&x, &lies(0), &lies(1));
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.integers(
        "sizes",
        &[x.dims[0] as i64, x.dims[1] as i64, to[0] as i64, to[1] as i64],
    );
    let node = Node::made("Resize", &["x", "", "", "sizes"], "out", &[])
        .with_text("coordinate_transformation_mode", coordinates)
        .with_text("mode", if linear { "linear" } else { "nearest" })
        .with_text("nearest_mode", "floor");
    making.nodes.push(node);
    making.done(
        format!("resize {:?} to {to:?}, {coordinates}, linear {linear}", x.dims),
        expected,
        "resize",
    )
}

/// Functions of one element.
fn elementwise(random: &mut SplitMix, _: usize) -> Case {
    type Function = fn(f64) -> f64;
    let kinds: [(&str, Function); 9] = [
        ("Exp", f64::exp),
        ("Erf", exact::erf),
        ("Abs", f64::abs),
        ("Neg", |x| -x),
        ("Floor", f64::floor),
        ("Softplus", |x| x.exp().ln_1p()),
        ("Ceil", f64::ceil),
        ("Round", |x| x.round_ties_even()),
        ("Sqrt", |x| x.abs().sqrt()),
    ];
    let (kind, f) = pick(random, &kinds);
    let mut x = tensor_of(random, |random| {
        vec![2, 1 + random.below(30), 1 + random.below(30)]
    });
    if kind == "Sqrt" {
        x.values.iter_mut().for_each(|v| *v = v.abs());
    }
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.node(kind, &["x"], "out", &[]);
    let expected = exact::map(&x.dims, &[&x], |v| f(v[0]));
    making.done(format!("{kind} {:?}", x.dims), expected, "map_any")
}

/// What lies side by side, eight at a time.
fn flat(random: &mut SplitMix, _: usize) -> Case {
    let dims = [2, 8 * (1 + random.below(20)), 1 + random.below(5)];
    let (x, y) = (tensor(random, &dims), tensor(random, &dims));
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.input("y", Element::F16, &y);
    type Function = fn(f64, f64) -> f64;
    let kinds: [(&str, Function); 3] = [
        ("Add", |a, b| a + b),
        ("Sub", |a, b| a - b),
        ("Mul", |a, b| a * b),
    ];
    let (kind, f) = pick(random, &kinds);
    making.node(kind, &["x", "y"], "out", &[]);
    let expected = exact::map(&dims, &[&x, &y], |v| f(v[0], v[1]));
    making.done(format!("{kind} {dims:?}"), expected, "map_flat")
}

/// Operands that are repeated, and layouts that don't match.
fn broadcast(random: &mut SplitMix, _: usize) -> Case {
    let dims = [
        1 + random.below(3),
        1 + random.below(7),
        1 + random.below(9),
        1 + random.below(9),
    ];
    let x = tensor(random, &dims);
    let mut other = dims;
    for size in &mut other {
        if random.below(2) == 0 {
            *size = 1;
        }
    }
    let y = tensor(random, &other);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.input("y", Element::F32, &y);
    type Function = fn(f64, f64) -> f64;
    let kinds: [(&str, Function); 4] = [
        ("Add", |a, b| a + b),
        ("Mul", |a, b| a * b),
        ("Max", f64::max),
        ("Min", f64::min),
    ];
    let (kind, f) = pick(random, &kinds);
    making.node(kind, &["x", "y"], "out", &[]);
    let expected = exact::map(&dims, &[&x, &y], |v| f(v[0], v[1]));
    making.done(format!("{kind} {dims:?} and {other:?}"), expected, "map_any")
}
