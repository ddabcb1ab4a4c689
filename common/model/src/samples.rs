//! Samples: small networks with seeded weights, as exporters write them, for tests and benchmarks.
//!
//! Each is a complete ONNX file in memory. They cover what real exports differ in: batch of one baked into
//! shapes or computed from them, attributes or inputs, folded or spelled-out layers.

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

use crate::splitmix::SplitMix;

mod known;
mod several;

pub use known::Known;

pub use several::{bert_with_mask, crnn, detector, line, quantized, unet};

/// How an exporter wrote the batch dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchAs {
    /// A batch of one is baked into every shape.
    Baked,
    /// The batch is symbolic; shapes are computed from the input's.
    Symbolic,
}

/// All samples by name.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("residual-cnn", residual_cnn()),
        ("dense-cnn", dense_cnn()),
        ("vit-baked", vit(BatchAs::Baked)),
        ("vit-symbolic", vit(BatchAs::Symbolic)),
        ("lrn-cnn", lrn_cnn()),
        ("bert", bert()),
        ("mlp", mlp(4, 32)),
        ("detector", detector()),
        ("unet", unet()),
        ("bert-with-mask", bert_with_mask()),
        ("quantized", quantized()),
        ("crnn", crnn()),
    ]
}

pub(crate) struct Builder {
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    numbers: SplitMix,
    opset: i64,
}

/// A dimension of an input whose size the file leaves open.
pub(crate) const OPEN: i64 = -1;

pub(crate) enum Attr<'a> {
    Int(&'a str, i64),
    Ints(&'a str, &'a [i64]),
    Float(&'a str, f32),
    Text(&'a str, &'a str),
}

use Attr::{Float, Int, Ints, Text};

impl Builder {
    pub(crate) fn new(opset: i64) -> Self {
        Builder {
            nodes: vec![],
            tensors: vec![],
            numbers: SplitMix(42),
            opset,
        }
    }

    pub(crate) fn op(&mut self, kind: &str, inputs: &[&str], attributes: &[Attr<'_>]) -> String {
        self.op_named(kind, inputs, attributes, None)
    }

    fn op_named(
        &mut self,
        kind: &str,
        inputs: &[&str],
        attributes: &[Attr<'_>],
        output: Option<&str>,
    ) -> String {
        let output = output.map_or_else(
            || format!("{}_{}", kind.to_lowercase(), self.nodes.len()),
            str::to_owned,
        );
        let attribute = attributes.iter().map(|a| match a {
            Int(name, i) => AttributeProto {
                name: Some((*name).to_owned()),
                i: Some(*i),
                r#type: Some(AttributeType::INT),
                ..AttributeProto::default()
            },
            Ints(name, ints) => AttributeProto {
                name: Some((*name).to_owned()),
                ints: ints.to_vec(),
                r#type: Some(AttributeType::INTS),
                ..AttributeProto::default()
            },
            Float(name, f) => AttributeProto {
                name: Some((*name).to_owned()),
                f: Some(*f),
                r#type: Some(AttributeType::FLOAT),
                ..AttributeProto::default()
            },
            Text(name, text) => AttributeProto {
                name: Some((*name).to_owned()),
                s: Some((*text).to_owned()),
                r#type: Some(AttributeType::STRING),
                ..AttributeProto::default()
            },
        });
        self.nodes.push(NodeProto {
            name: Some(format!("node_{output}")),
            op_type: Some(kind.to_owned()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.clone()],
            attribute: attribute.collect(),
            domain: None,
        });
        output
    }

    pub(crate) fn tensor(&mut self, dims: &[i64], data: Vec<f32>) -> String {
        let name = format!("w{}", self.tensors.len());
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push(TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(DataType::FLOAT),
            raw_data: Some(bytes.into()),
            ..TensorProto::default()
        });
        name
    }

    /// Seeded weights, scaled so that activations keep their size.
    fn weights(&mut self, dims: &[i64], fan_in: i64) -> String {
        let count: i64 = dims.iter().product();
        let scale = (3.0 / fan_in as f32).sqrt();
        let data = (0..count)
            .map(|_| ((self.numbers.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale)
            .collect();
        self.tensor(dims, data)
    }

    pub(crate) fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("i{}", self.tensors.len());
        self.tensors.push(TensorProto {
            name: Some(name.clone()),
            dims: vec![values.len() as i64],
            data_type: Some(DataType::INT64),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        name
    }

    fn conv(&mut self, x: &str, channels: (i64, i64), kernel: i64, stride: i64, groups: i64) -> String {
        let fan_in = channels.0 / groups * kernel * kernel;
        let w = self.weights(&[channels.1, channels.0 / groups, kernel, kernel], fan_in);
        let b = self.weights(&[channels.1], 100);
        let pad = kernel / 2;
        self.op(
            "Conv",
            &[x, &w, &b],
            &[
                Ints("kernel_shape", &[kernel, kernel]),
                Ints("strides", &[stride, stride]),
                Ints("pads", &[pad, pad, pad, pad]),
                Int("group", groups),
            ],
        )
    }

    fn norm(&mut self, x: &str, channels: i64) -> String {
        let ones = vec![1.0; channels as usize];
        let scale = self.tensor(&[channels], ones.clone());
        let bias = self.weights(&[channels], 100);
        let mean = self.weights(&[channels], 100);
        let var = self.tensor(&[channels], ones);
        self.op("BatchNormalization", &[x, &scale, &bias, &mean, &var], &[])
    }

    fn linear(&mut self, x: &str, from: i64, to: i64) -> String {
        let w = self.weights(&[from, to], from);
        let b = self.weights(&[to], 100);
        let product = self.op("MatMul", &[x, &w], &[]);
        self.op("Add", &[&product, &b], &[])
    }

    /// Layer normalisation spelled out, as exporters before opset 17 write it.
    fn layer_norm(&mut self, x: &str, width: i64) -> String {
        let two = self.tensor(&[], vec![2.0]);
        let eps = self.tensor(&[], vec![1e-5]);
        let scale = self.tensor(&[width], vec![1.0; width as usize]);
        let bias = self.weights(&[width], 100);
        let mean = self.op("ReduceMean", &[x], &[Ints("axes", &[-1])]);
        let centred = self.op("Sub", &[x, &mean], &[]);
        let squared = self.op("Pow", &[&centred, &two], &[]);
        let var = self.op("ReduceMean", &[&squared], &[Ints("axes", &[-1])]);
        let var = self.op("Add", &[&var, &eps], &[]);
        let deviation = self.op("Sqrt", &[&var], &[]);
        let normal = self.op("Div", &[&centred, &deviation], &[]);
        let scaled = self.op("Mul", &[&normal, &scale], &[]);
        self.op("Add", &[&scaled, &bias], &[])
    }

    /// The batch of `x` as a list of one number, computed while the model runs.
    fn batch_of(&mut self, x: &str) -> String {
        let zero = self.ints(&[0]);
        let shape = self.op("Shape", &[x], &[]);
        self.op("Gather", &[&shape, &zero], &[Int("axis", 0)])
    }

    /// A Reshape to `[batch, dims...]`.
    fn reshape(&mut self, x: &str, batch: BatchAs, dims: &[i64]) -> String {
        let target = match batch {
            BatchAs::Baked => {
                let mut all = vec![1];
                all.extend_from_slice(dims);
                self.ints(&all)
            }
            BatchAs::Symbolic => {
                let n = self.batch_of(x);
                let rest = self.ints(dims);
                self.op("Concat", &[&n, &rest], &[Int("axis", 0)])
            }
        };
        self.op("Reshape", &[x, &target], &[])
    }

    /// Multi-head self-attention of `[batch, tokens, width]`; `mask` is added to the scores.
    fn attention(
        &mut self,
        x: &str,
        batch: BatchAs,
        [tokens, width, heads]: [i64; 3],
        mask: Option<&str>,
    ) -> String {
        let size = width / heads;
        let mut parts = vec![];
        for _ in 0..3 {
            let y = self.linear(x, width, width);
            let y = self.reshape(&y, batch, &[tokens, heads, size]);
            parts.push(self.op("Transpose", &[&y], &[Ints("perm", &[0, 2, 1, 3])]));
        }
        let keys = self.op("Transpose", &[&parts[1]], &[Ints("perm", &[0, 1, 3, 2])]);
        let scores = self.op("MatMul", &[&parts[0], &keys], &[]);
        let scale = self.tensor(&[], vec![1.0 / (size as f32).sqrt()]);
        let mut scores = self.op("Mul", &[&scores, &scale], &[]);
        if let Some(mask) = mask {
            scores = self.op("Add", &[&scores, mask], &[]);
        }
        let weights = self.op("Softmax", &[&scores], &[Int("axis", -1)]);
        let mixed = self.op("MatMul", &[&weights, &parts[2]], &[]);
        let mixed = self.op("Transpose", &[&mixed], &[Ints("perm", &[0, 2, 1, 3])]);
        let flat = self.reshape(&mixed, batch, &[tokens, width]);
        self.linear(&flat, width, width)
    }

    fn gelu(&mut self, x: &str) -> String {
        let root = self.tensor(&[], vec![std::f32::consts::SQRT_2]);
        let one = self.tensor(&[], vec![1.0]);
        let half = self.tensor(&[], vec![0.5]);
        let y = self.op("Div", &[x, &root], &[]);
        let y = self.op("Erf", &[&y], &[]);
        let y = self.op("Add", &[&y, &one], &[]);
        let y = self.op("Mul", &[x, &y], &[]);
        self.op("Mul", &[&y, &half], &[])
    }

    fn encoder_block(
        &mut self,
        x: &str,
        batch: BatchAs,
        tokens: i64,
        width: i64,
        mask: Option<&str>,
    ) -> String {
        let y = self.layer_norm(x, width);
        let y = self.attention(&y, batch, [tokens, width, 4], mask);
        let x = self.op("Add", &[x, &y], &[]);
        let y = self.layer_norm(&x, width);
        let y = self.linear(&y, width, 2 * width);
        let y = self.gelu(&y);
        let y = self.linear(&y, 2 * width, width);
        self.op("Add", &[&x, &y], &[])
    }

    pub(crate) fn finish(self, (kind, shape): (DataType, &[i64]), batch: BatchAs, output: &str) -> Vec<u8> {
        self.finish_with(&[("input", kind, shape)], batch, &[output])
    }

    /// `inputs`: names, element types and shapes without the batch.
    pub(crate) fn finish_with(
        self,
        inputs: &[(&str, DataType, &[i64])],
        batch: BatchAs,
        outputs: &[&str],
    ) -> Vec<u8> {
        let value = |name: &str, dtype: DataType, shape: Option<&[i64]>| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                tensor_type: Some(TypeProtoTensor {
                    elem_type: Some(dtype),
                    shape: shape.map(|dims| TensorShapeProto {
                        dim: std::iter::once(Dimension {
                            dim_value: (batch == BatchAs::Baked).then_some(1),
                            dim_param: (batch == BatchAs::Symbolic).then(|| "batch".to_owned()),
                        })
                        .chain(dims.iter().map(|&d| Dimension {
                            dim_value: (d != OPEN).then_some(d),
                            dim_param: (d == OPEN).then(|| "size".to_owned()),
                        }))
                        .collect(),
                    }),
                }),
                sequence: None,
            }),
        };
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto {
                domain: None,
                version: Some(self.opset),
            }],
            graph: Some(GraphProto {
                input: inputs
                    .iter()
                    .map(|&(name, kind, shape)| value(name, kind, Some(shape)))
                    .collect(),
                output: outputs
                    .iter()
                    .map(|name| value(name, DataType::FLOAT, None))
                    .collect(),
                node: self.nodes,
                initializer: self.tensors,
                value_info: vec![],
            }),
            ..ModelProto::default()
        };
        model.write_buf().expect("writing to memory does not fail")
    }
}

/// Convolutions with batch normalisation, two residual blocks, an inception block; opset 13, baked batch.
pub fn residual_cnn() -> Vec<u8> {
    let mut b = Builder::new(13);
    let x = b.conv("input", (3, 16), 3, 2, 1);
    let x = b.norm(&x, 16);
    let x = b.op("Relu", &[&x], &[]);
    let mut x = b.op(
        "MaxPool",
        &[&x],
        &[
            Ints("kernel_shape", &[3, 3]),
            Ints("strides", &[2, 2]),
            Ints("pads", &[1, 1, 1, 1]),
        ],
    );
    for _ in 0..2 {
        let y = b.conv(&x, (16, 16), 3, 1, 1);
        let y = b.norm(&y, 16);
        let y = b.op("Relu", &[&y], &[]);
        let y = b.conv(&y, (16, 16), 3, 1, 16);
        let sum = b.op("Add", &[&x, &y], &[]);
        x = b.op("Relu", &[&sum], &[]);
    }
    let one = b.conv(&x, (16, 8), 1, 1, 1);
    let three = b.conv(&x, (16, 8), 3, 1, 1);
    let x = b.op("Concat", &[&one, &three], &[Int("axis", 1)]);
    let x = b.op("Dropout", &[&x], &[]);
    let x = b.op("GlobalAveragePool", &[&x], &[]);
    let x = b.reshape(&x, BatchAs::Baked, &[16]);
    let w = b.weights(&[10, 16], 16);
    let c = b.weights(&[10], 100);
    let x = b.op("Gemm", &[&x, &w, &c], &[Int("transB", 1)]);
    let x = b.op_named("Softmax", &[&x], &[Int("axis", 1)], Some("probabilities"));
    b.finish((DataType::FLOAT, &[3, 32, 32]), BatchAs::Baked, &x)
}

/// Densely connected convolutions; opset 9, where parameters are attributes.
pub fn dense_cnn() -> Vec<u8> {
    let mut b = Builder::new(9);
    let mut x = b.conv("input", (3, 8), 3, 1, 1);
    let mut channels = 8;
    for _ in 0..3 {
        let y = b.norm(&x, channels);
        let y = b.op("Clip", &[&y], &[Float("min", 0.0), Float("max", 6.0)]);
        let y = b.conv(&y, (channels, 8), 3, 1, 1);
        x = b.op("Concat", &[&x, &y], &[Int("axis", 1)]);
        channels += 8;
    }
    let x = b.op(
        "AveragePool",
        &[&x],
        &[Ints("kernel_shape", &[2, 2]), Ints("strides", &[2, 2])],
    );
    let x = b.op("ReduceMean", &[&x], &[Ints("axes", &[2, 3]), Int("keepdims", 0)]);
    let w = b.weights(&[10, channels], channels);
    let c = b.weights(&[10], 100);
    let x = b.op_named("Gemm", &[&x, &w, &c], &[Int("transB", 1)], Some("logits"));
    b.finish((DataType::FLOAT, &[3, 16, 16]), BatchAs::Symbolic, &x)
}

/// An early classifier: local response normalisation, weights that are filled in by `ConstantOfShape`; opset 9.
pub fn lrn_cnn() -> Vec<u8> {
    let mut b = Builder::new(9);
    let x = b.conv("input", (3, 12), 3, 2, 1);
    let x = b.op("Relu", &[&x], &[]);
    let x = b.op(
        "LRN",
        &[&x],
        &[
            Int("size", 5),
            Float("alpha", 0.01),
            Float("beta", 0.75),
            Float("bias", 1.0),
        ],
    );
    let x = b.conv(&x, (12, 8), 3, 2, 1);
    let x = b.reshape(&x, BatchAs::Baked, &[8 * 8 * 8]);
    let shape = b.ints(&[200, 512]);
    let w = b.op("ConstantOfShape", &[&shape], &[]);
    let noise = b.weights(&[200, 512], 512);
    let w = b.op("Add", &[&w, &noise], &[]);
    let c = b.weights(&[200], 100);
    let x = b.op("Gemm", &[&x, &w, &c], &[Int("transB", 1)]);
    let x = b.op_named("Softmax", &[&x], &[], Some("probabilities"));
    b.finish((DataType::FLOAT, &[3, 32, 32]), BatchAs::Baked, &x)
}

/// One local response normalisation (alpha 0.3, beta 0.6, bias 1.5) over 7 channels of 2 × 3.
pub fn lrn(size: i64) -> Vec<u8> {
    let mut b = Builder::new(13);
    let parameters = [
        Int("size", size),
        Float("alpha", 0.3),
        Float("beta", 0.6),
        Float("bias", 1.5),
    ];
    let x = b.op("LRN", &["input"], &parameters);
    b.finish((DataType::FLOAT, &[7, 2, 3]), BatchAs::Symbolic, &x)
}

/// A Softmax as operator sets before 13 define it, over `[N, 2, 2, 1]` from axis 1 on; opset 9.
pub fn softmax_of_old() -> Vec<u8> {
    let mut b = Builder::new(9);
    let x = b.op("Softmax", &["input"], &[]);
    b.finish((DataType::FLOAT, &[2, 2, 1]), BatchAs::Symbolic, &x)
}

/// A pool of 2 by 2 without padding of its own on 3 by 3 elements, strides left to their default; opset 13.
pub fn bare_pool() -> Vec<u8> {
    let mut b = Builder::new(13);
    let x = b.op("AveragePool", &["input"], &[Ints("kernel_shape", &[2, 2])]);
    b.finish((DataType::FLOAT, &[1, 3, 3]), BatchAs::Symbolic, &x)
}

/// ReLU, and nothing else; opset 14.
pub fn relu() -> Vec<u8> {
    let mut b = Builder::new(14);
    let x = b.op("Relu", &["input"], &[]);
    b.finish((DataType::FLOAT, &[4]), BatchAs::Symbolic, &x)
}

/// Floats become 64-bit integers, are multiplied by a constant, and become floats again; opset 13.
pub fn integers_times(factor: i64) -> Vec<u8> {
    let mut b = Builder::new(13);
    let factor = b.ints(&[factor]);
    let x = b.op("Cast", &["input"], &[Int("to", 7)]);
    let x = b.op("Mul", &[&x, &factor], &[]);
    let x = b.op("Cast", &[&x], &[Int("to", 1)]);
    b.finish((DataType::FLOAT, &[2]), BatchAs::Symbolic, &x)
}

/// Floats become 64-bit integers, are divided by a constant or by themselves, and become floats again; opset 13.
pub fn integers_over(divisor: Option<i64>) -> Vec<u8> {
    let mut b = Builder::new(13);
    let x = b.op("Cast", &["input"], &[Int("to", 7)]);
    let divisor = divisor.map_or_else(|| x.clone(), |d| b.ints(&[d]));
    let x = b.op("Div", &[&x, &divisor], &[]);
    let x = b.op("Cast", &[&x], &[Int("to", 1)]);
    b.finish((DataType::FLOAT, &[2]), BatchAs::Symbolic, &x)
}

/// A vision transformer with a class token and position embeddings; opset 13.
pub fn vit(batch: BatchAs) -> Vec<u8> {
    let (width, patches, tokens) = (32, 16, 17);
    let mut b = Builder::new(13);
    let w = b.weights(&[width, 3, 8, 8], 192);
    let x = b.op(
        "Conv",
        &["input", &w],
        &[Ints("kernel_shape", &[8, 8]), Ints("strides", &[8, 8])],
    );
    let x = b.reshape(&x, batch, &[width, patches]);
    let x = b.op("Transpose", &[&x], &[Ints("perm", &[0, 2, 1])]);
    let mut class = b.weights(&[1, 1, width], 1);
    if batch == BatchAs::Symbolic {
        let n = b.batch_of(&x);
        let rest = b.ints(&[-1, -1]);
        let minus = b.ints(&[-1, -1, -1]);
        let asked = b.op("Concat", &[&n, &rest], &[Int("axis", 0)]);
        // torch's expand(-1) becomes: where(asked == -1, 1, asked).
        let same = b.op("Equal", &[&asked, &minus], &[]);
        let ones = b.ints(&[1, 1, 1]);
        let target = b.op("Where", &[&same, &ones, &asked], &[]);
        class = b.op("Expand", &[&class, &target], &[]);
    }
    let x = b.op("Concat", &[&class, &x], &[Int("axis", 1)]);
    let positions = b.weights(&[1, tokens, width], 1);
    let mut x = b.op("Add", &[&x, &positions], &[]);
    for _ in 0..2 {
        x = b.encoder_block(&x, batch, tokens, width, None);
    }
    let x = b.layer_norm(&x, width);
    let zero = b.tensors.len();
    b.tensors.push(TensorProto {
        name: Some(format!("i{zero}")),
        data_type: Some(DataType::INT64),
        int64_data: vec![0],
        ..TensorProto::default()
    });
    let x = b.op("Gather", &[&x, &format!("i{zero}")], &[Int("axis", 1)]);
    let w = b.weights(&[10, width], width);
    let c = b.weights(&[10], 100);
    let x = b.op_named("Gemm", &[&x, &w, &c], &[Int("transB", 1)], Some("logits"));
    b.finish((DataType::FLOAT, &[3, 32, 32]), batch, &x)
}

/// A text encoder over token numbers; opset 17.
pub fn bert() -> Vec<u8> {
    let (width, tokens, vocabulary) = (32, 12, 50);
    let mut b = Builder::new(17);
    let words = b.weights(&[vocabulary, width], 1);
    let x = b.op("Gather", &[&words, "input"], &[Int("axis", 0)]);
    // Position numbers: range(shape(input)[1]), looked up and added.
    let one = b.ints(&[1]);
    let shape = b.op("Shape", &["input"], &[]);
    let length = b.op("Gather", &[&shape, &one], &[Int("axis", 0)]);
    let axes = b.ints(&[0]);
    let length = b.op("Squeeze", &[&length, &axes], &[]);
    let scalar = |b: &mut Builder, v: i64| {
        let name = b.ints(&[v]);
        if let Some(t) = b.tensors.last_mut() {
            t.dims.clear();
        }
        name
    };
    let (start, step) = (scalar(&mut b, 0), scalar(&mut b, 1));
    let numbers = b.op("Range", &[&start, &length, &step], &[]);
    let table = b.weights(&[64, width], 1);
    let positions = b.op("Gather", &[&table, &numbers], &[Int("axis", 0)]);
    let x = b.op("Add", &[&x, &positions], &[]);
    let scale = b.tensor(&[width], vec![1.0; width as usize]);
    let bias = b.weights(&[width], 100);
    let mut x = b.op("LayerNormalization", &[&x, &scale, &bias], &[Int("axis", -1)]);
    for _ in 0..2 {
        x = b.encoder_block(&x, BatchAs::Symbolic, tokens, width, None);
    }
    let (first, last, along) = (b.ints(&[0]), b.ints(&[1]), b.ints(&[1]));
    let x = b.op("Slice", &[&x, &first, &last, &along], &[]);
    let x = b.op("Squeeze", &[&x, &along], &[]);
    let x = b.linear(&x, width, width);
    let x = b.op_named("Tanh", &[&x], &[], Some("pooled"));
    b.finish((DataType::INT64, &[tokens]), BatchAs::Symbolic, &x)
}

/// A chain of `layers` dense layers of `width`: two cut points a layer.
pub fn mlp(layers: usize, width: i64) -> Vec<u8> {
    let mut b = Builder::new(13);
    let mut x = "input".to_owned();
    for _ in 0..layers {
        let w = b.weights(&[width, width], width);
        let c = b.weights(&[width], 100);
        let y = b.op("Gemm", &[&x, &w, &c], &[]);
        x = b.op("Relu", &[&y], &[]);
    }
    b.finish((DataType::FLOAT, &[width]), BatchAs::Symbolic, &x)
}
