//! Samples with several inputs, outputs or crossing tensors, on integers, and with the batch as the second dimension.

use rten_onnx::onnx::{DataType, TensorProto};

use super::Attr::{Int, Ints, Text};
use super::{BatchAs, Builder, OPEN};

impl Builder {
    /// Convolution, normalisation, and x times sigmoid of x.
    fn swished(&mut self, x: &str, channels: (i64, i64), kernel: i64, stride: i64) -> String {
        let x = self.conv(x, channels, kernel, stride, 1);
        let x = self.norm(&x, channels.1);
        let gate = self.op("Sigmoid", &[&x], &[]);
        self.op("Mul", &[&x, &gate], &[])
    }

    /// Twice as high and as wide, as PyTorch exports it.
    fn doubled(&mut self, x: &str, mode: &str) -> String {
        let roi = self.tensor(&[0], vec![]);
        let scales = self.tensor(&[4], vec![1.0, 1.0, 2.0, 2.0]);
        let coordinates = if mode == "nearest" {
            "asymmetric"
        } else {
            "half_pixel"
        };
        let attributes = [
            Text("mode", mode),
            Text("coordinate_transformation_mode", coordinates),
            Text("nearest_mode", "floor"),
        ];
        self.op("Resize", &[x, &roi, &scales], &attributes)
    }

    /// Two convolutions with normalisation and Relu.
    fn double_conv(&mut self, x: &str, from: i64, to: i64) -> String {
        let mut x = x.to_owned();
        for (from, to) in [(from, to), (to, to)] {
            let y = self.conv(&x, (from, to), 3, 1, 1);
            let y = self.norm(&y, to);
            x = self.op("Relu", &[&y], &[]);
        }
        x
    }

    fn bytes(&mut self, dims: &[i64], kind: DataType, values: &[i32]) -> String {
        let name = format!("q{}", self.tensors.len());
        self.tensors.push(TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(kind),
            int32_data: values.to_vec(),
            ..TensorProto::default()
        });
        name
    }

    /// To 8-bit integers and back, as quantisers mark it.
    fn rounded(&mut self, x: &str, scale: f32, zero: i32) -> String {
        let scale = self.tensor(&[], vec![scale]);
        let zero = self.bytes(&[], DataType::UINT8, &[zero]);
        let small = self.op("QuantizeLinear", &[x, &scale, &zero], &[]);
        self.op("DequantizeLinear", &[&small, &scale, &zero], &[])
    }

    /// A convolution with 8-bit weights, a scale for each channel. Of the 8 bits 7 are used, as quantisers do where sums of two
    /// products must fit into 16 bits: kernels for processors without VNNI cut off what does not.
    fn quantized_conv(&mut self, x: &str, (from, to): (i64, i64), stride: i64) -> String {
        let count = to * from * 9;
        let values: Vec<i32> = (0..count).map(|_| self.numbers.below(127) as i32 - 63).collect();
        let weights = self.bytes(&[to, from, 3, 3], DataType::INT8, &values);
        let size = (3.0 / (from * 9) as f32).sqrt() / 63.0;
        let scales = self.tensor(
            &[to],
            (0..to).map(|c| size * (1.0 + c as f32 / to as f32)).collect(),
        );
        let zeros = self.bytes(&[to], DataType::INT8, &vec![0; to as usize]);
        let weights = self.op(
            "DequantizeLinear",
            &[&weights, &scales, &zeros],
            &[Int("axis", 0)],
        );
        let bias = self.weights(&[to], 100);
        let attributes = [
            Ints("kernel_shape", &[3, 3]),
            Ints("strides", &[stride, stride]),
            Ints("pads", &[1, 1, 1, 1]),
        ];
        let y = self.op("Conv", &[x, &weights, &bias], &attributes);
        let y = self.op("Relu", &[&y], &[]);
        self.rounded(&y, 2.0 / 255.0, 0)
    }
}

/// A detector with a feature pyramid and three heads, one for each size of things; opset 11, symbolic batch.
pub fn detector() -> Vec<u8> {
    let mut b = Builder::new(11);
    let x = b.swished("images", (3, 8), 3, 2);
    let fine = b.swished(&x, (8, 16), 3, 2);
    let middle = b.swished(&fine, (16, 24), 3, 2);
    let coarse = b.swished(&middle, (24, 32), 3, 2);
    let up = b.swished(&coarse, (32, 24), 1, 1);
    let up = b.doubled(&up, "nearest");
    let joined = b.op("Concat", &[&up, &middle], &[Int("axis", 1)]);
    let middle = b.swished(&joined, (48, 24), 3, 1);
    let up = b.swished(&middle, (24, 16), 1, 1);
    let up = b.doubled(&up, "nearest");
    let joined = b.op("Concat", &[&up, &fine], &[Int("axis", 1)]);
    let fine = b.swished(&joined, (32, 16), 3, 1);
    let mut heads = vec![];
    for (x, channels, side, name) in [
        (fine, 16, 16, "small"),
        (middle, 24, 8, "medium"),
        (coarse, 32, 4, "large"),
    ] {
        let x = b.swished(&x, (channels, channels), 3, 1);
        let x = b.conv(&x, (channels, 6), 1, 1, 1);
        let x = b.reshape(&x, BatchAs::Symbolic, &[6, side * side]);
        heads.push(b.op_named("Transpose", &[&x], &[Ints("perm", &[0, 2, 1])], Some(name)));
    }
    let outputs: Vec<&str> = heads.iter().map(String::as_str).collect();
    b.finish_with(
        &[("images", DataType::FLOAT, &[3, 64, 64])],
        BatchAs::Symbolic,
        &outputs,
    )
}

/// A U-Net of three levels: what one side makes crosses to the other; opset 13, baked batch.
pub fn unet() -> Vec<u8> {
    let mut b = Builder::new(13);
    let widths = [8, 16, 24, 32];
    let mut x = "image".to_owned();
    let mut from = 3;
    let mut skips = vec![];
    for width in &widths[..3] {
        x = b.double_conv(&x, from, *width);
        skips.push((x.clone(), *width));
        x = b.op(
            "MaxPool",
            &[&x],
            &[Ints("kernel_shape", &[2, 2]), Ints("strides", &[2, 2])],
        );
        from = *width;
    }
    x = b.double_conv(&x, from, widths[3]);
    from = widths[3];
    for (skip, width) in skips.into_iter().rev() {
        let up = b.doubled(&x, "linear");
        let joined = b.op("Concat", &[&skip, &up], &[Int("axis", 1)]);
        x = b.double_conv(&joined, from + width, width);
        from = width;
    }
    let x = b.conv(&x, (from, 2), 1, 1, 1);
    let x = b.op_named("Softmax", &[&x], &[Int("axis", 1)], Some("segments"));
    b.finish_with(&[("image", DataType::FLOAT, &[3, 32, 32])], BatchAs::Baked, &[&x])
}

/// A BERT with a mask of the tokens that count, which every layer reads; opset 14, symbolic batch.
pub fn bert_with_mask() -> Vec<u8> {
    let (width, tokens, vocabulary) = (32, 12, 50);
    let mut b = Builder::new(14);
    // Masked scores become so small that nothing is left of them.
    let axes = b.ints(&[1, 2]);
    let mask = b.op("Unsqueeze", &["attention_mask", &axes], &[]);
    let mask = b.op("Cast", &[&mask], &[Int("to", 1)]);
    let (one, far) = (b.tensor(&[], vec![1.0]), b.tensor(&[], vec![-10_000.0]));
    let mask = b.op("Sub", &[&one, &mask], &[]);
    let mask = b.op("Mul", &[&mask, &far], &[]);
    let words = b.weights(&[vocabulary, width], 1);
    let kinds = b.weights(&[2, width], 1);
    let x = b.op("Gather", &[&words, "input_ids"], &[Int("axis", 0)]);
    let kind = b.op("Gather", &[&kinds, "token_type_ids"], &[Int("axis", 0)]);
    let x = b.op("Add", &[&x, &kind], &[]);
    let mut x = b.layer_norm(&x, width);
    for _ in 0..2 {
        x = b.encoder_block(&x, BatchAs::Symbolic, tokens, width, Some(&mask));
    }
    let (first, along) = (b.ints(&[0]), b.ints(&[1]));
    let first = b.op("Gather", &[&x, &first], &[Int("axis", 1)]);
    let first = b.op("Squeeze", &[&first, &along], &[]);
    let pooled = b.linear(&first, width, width);
    let pooled = b.op_named("Tanh", &[&pooled], &[], Some("pooled"));
    let hidden = b.op_named("Relu", &[&x], &[], Some("hidden"));
    let ids = [
        ("input_ids", DataType::INT64, &[tokens][..]),
        ("attention_mask", DataType::INT64, &[tokens]),
        ("token_type_ids", DataType::INT64, &[tokens]),
    ];
    b.finish_with(&ids, BatchAs::Symbolic, &[&hidden, &pooled])
}

/// Convolutions on 8-bit integers, marked by QuantizeLinear and DequantizeLinear, with a residual sum; opset 13, baked batch.
pub fn quantized() -> Vec<u8> {
    let mut b = Builder::new(13);
    let x = b.rounded("input", 2.0 / 255.0, 128);
    let x = b.quantized_conv(&x, (3, 8), 2);
    let y = b.quantized_conv(&x, (8, 8), 1);
    let y = b.quantized_conv(&y, (8, 8), 1);
    let sum = b.op("Add", &[&x, &y], &[]);
    let x = b.rounded(&sum, 4.0 / 255.0, 0);
    let x = b.quantized_conv(&x, (8, 16), 2);
    let x = b.op("GlobalAveragePool", &[&x], &[]);
    let x = b.rounded(&x, 1.0 / 255.0, 0);
    let x = b.op("Flatten", &[&x], &[Int("axis", 1)]);
    let w = b.weights(&[10, 16], 16);
    let x = b.op("Gemm", &[&x, &w], &[Int("transB", 1)]);
    b.finish((DataType::FLOAT, &[3, 32, 32]), BatchAs::Baked, &x)
}

/// A reader of text lines: convolutions, then an LSTM both ways along the width, whose output has the time as its first
/// dimension and the batch as its second; opset 14, symbolic batch.
pub fn crnn() -> Vec<u8> {
    let (height, width, hidden) = (16, 24, 16);
    let mut b = Builder::new(14);
    let x = b.swished("line", (1, 8), 3, 2);
    let x = b.swished(&x, (8, 8), 3, 1);
    let x = b.reshape(&x, BatchAs::Symbolic, &[8 * height / 2, width / 2]);
    let x = b.op("Transpose", &[&x], &[Ints("perm", &[2, 0, 1])]);
    let from = 8 * height / 2;
    let weights = b.weights(&[2, 4 * hidden, from], from);
    let again = b.weights(&[2, 4 * hidden, hidden], hidden);
    let bias = b.weights(&[2, 8 * hidden], 100);
    // Initial states of zeros, as large as the batch.
    let n = b.batch_of("line");
    let (two, size) = (b.ints(&[2]), b.ints(&[hidden]));
    let shape = b.op("Concat", &[&two, &n, &size], &[Int("axis", 0)]);
    let state = b.op("ConstantOfShape", &[&shape], &[]);
    let x = b.op(
        "LSTM",
        &[&x, &weights, &again, &bias, "", &state, &state],
        &[Int("hidden_size", hidden), Text("direction", "bidirectional")],
    );
    let x = b.op("Transpose", &[&x], &[Ints("perm", &[0, 2, 1, 3])]);
    let target = b.ints(&[0, 0, -1]);
    let x = b.op("Reshape", &[&x, &target], &[]);
    let x = b.linear(&x, 2 * hidden, 20);
    let x = b.op_named("LogSoftmax", &[&x], &[Int("axis", 2)], Some("letters"));
    b.finish_with(
        &[("line", DataType::FLOAT, &[1, height, width])],
        BatchAs::Symbolic,
        &[&x],
    )
}

/// A reader of text lines of any width: convolutions, then the mean of each column for each of 12 letters; opset 13, symbolic
/// batch. A manifest has to say how wide lines are.
pub fn line() -> Vec<u8> {
    let mut b = Builder::new(13);
    let x = b.swished("line", (1, 8), 3, 1);
    let x = b.conv(&x, (8, 12), 3, 1, 1);
    let x = b.op("ReduceMean", &[&x], &[Ints("axes", &[2]), Int("keepdims", 0)]);
    let x = b.op_named("Softmax", &[&x], &[Int("axis", 1)], Some("letters"));
    b.finish_with(
        &[("line", DataType::FLOAT, &[1, 8, OPEN])],
        BatchAs::Symbolic,
        &[&x],
    )
}
