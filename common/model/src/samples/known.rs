//! A network whose answers are known without an engine: they are summed up here, in 64-bit floats.

use rten_onnx::onnx::DataType;

use super::Attr::Ints;
use super::{BatchAs, Builder};
use crate::splitmix::SplitMix;

const SIDE: usize = 6;
const CHANNELS: (usize, usize) = (3, 4);
const CLASSES: usize = 5;

/// A convolution of 3 × 3 with bias, Relu, the mean of each channel, and a dense layer: images of 3 × 6 × 6 become 5
/// numbers. Each node ends at a cut point.
#[derive(Debug, Clone)]
pub struct Known {
    kernel: Vec<f32>,
    bias: Vec<f32>,
    dense: Vec<f32>,
    offset: Vec<f32>,
}

impl Known {
    /// With weights of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = SplitMix(seed);
        let mut weights = |count: usize, scale: f32| -> Vec<f32> {
            let one = |_| ((dice.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale;
            (0..count).map(one).collect()
        };
        Known {
            kernel: weights(CHANNELS.1 * CHANNELS.0 * 9, 0.4),
            bias: weights(CHANNELS.1, 0.5),
            dense: weights(CLASSES * CHANNELS.1, 1.0),
            offset: weights(CLASSES, 0.5),
        }
    }

    /// The ONNX file.
    pub fn file(&self) -> Vec<u8> {
        let mut b = Builder::new(13);
        let (from, to) = (CHANNELS.0 as i64, CHANNELS.1 as i64);
        let kernel = b.tensor(&[to, from, 3, 3], self.kernel.clone());
        let bias = b.tensor(&[to], self.bias.clone());
        let dense = b.tensor(&[to, CLASSES as i64], self.dense.clone());
        let offset = b.tensor(&[CLASSES as i64], self.offset.clone());
        let pads = [Ints("pads", &[1, 1, 1, 1])];
        let x = b.op("Conv", &["input", &kernel, &bias], &pads);
        let x = b.op("Relu", &[&x], &[]);
        let x = b.op("GlobalAveragePool", &[&x], &[]);
        let x = b.op("Flatten", &[&x], &[]);
        let x = b.op("Gemm", &[&x, &dense, &offset], &[]);
        let side = SIDE as i64;
        b.finish((DataType::FLOAT, &[from, side, side]), BatchAs::Symbolic, &x)
    }

    /// The tensor at each cut point, for one request's input of 3 × 6 × 6 numbers, in row-major order.
    pub fn tensors(&self, input: &[f32]) -> Vec<Vec<f64>> {
        let input: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
        let convolved = self.convolved(&input);
        let positive: Vec<f64> = convolved.iter().map(|v| v.max(0.0)).collect();
        let area = SIDE * SIDE;
        let means = positive.chunks(area).map(|c| c.iter().sum::<f64>() / area as f64);
        let means: Vec<f64> = means.collect();
        let class = |k: usize| {
            let weighted = means.iter().enumerate();
            let sum: f64 = weighted
                .map(|(c, mean)| mean * f64::from(self.dense[c * CLASSES + k]))
                .sum();
            sum + f64::from(self.offset[k])
        };
        let classes = (0..CLASSES).map(class).collect();
        vec![input, convolved, positive, means.clone(), means, classes]
    }

    fn convolved(&self, input: &[f64]) -> Vec<f64> {
        let at = |channel: usize, y: usize, x: usize| -> f64 {
            // Shifted by one, so that the padding is at 0 and behind the side.
            let inside = (1..=SIDE).contains(&y) && (1..=SIDE).contains(&x);
            if inside {
                input[(channel * SIDE + y - 1) * SIDE + x - 1]
            } else {
                0.0
            }
        };
        let mut output = vec![];
        for to in 0..CHANNELS.1 {
            for place in 0..SIDE * SIDE {
                let (y, x) = (place / SIDE, place % SIDE);
                let mut sum = f64::from(self.bias[to]);
                for from in 0..CHANNELS.0 {
                    for tap in 0..9 {
                        let weight = self.kernel[(to * CHANNELS.0 + from) * 9 + tap];
                        sum += f64::from(weight) * at(from, y + tap / 3, x + tap % 3);
                    }
                }
                output.push(sum);
            }
        }
        output
    }
}
