//! A roofline model of a GPU: what segments would take, from what they compute and move.
//!
//! After: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
//! architectures", 2009. A segment takes its kernels' launches and the longer of computing and moving:
//! - computing: operations / (peak · efficiency · part of the device · how far the work fills that part's SMs);
//! - moving: weights, once a batch, and the tensors at both ends, with 2 bytes an element, at the bandwidth that the
//!   part reaches.
//!
//! A modelled profile is for planning ahead of a measurement, and says so; a measured one is always better.

use std::collections::BTreeMap;

use graft_model::{DType, ModelInfo, Segment};
use graft_plan::{ModelProfile, Profile, SegmentProfile, Share, Source};

/// A GPU as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Name on the command line, and of the device kind, which adds `-modelled`.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// SMs by which its partitions grow: green contexts of compute capability 9 come in steps of 8, others of 2.
    pub step: u32,
    /// Dense half precision on tensor cores, in TFLOP/s.
    pub tflops: f64,
    /// Memory bandwidth in TB/s.
    pub terabytes: f64,
}

/// Figures of NVIDIA's data sheets ("H200 Tensor Core GPU", 2024; "H100", 2023; "A100 80GB", 2021; "L4", 2023;
/// "T4", 2019): half precision without sparsity.
pub const GPUS: [Gpu; 5] = [
    Gpu {
        name: "h200",
        sms: 132,
        step: 8,
        tflops: 989.0,
        terabytes: 4.8,
    },
    Gpu {
        name: "h100",
        sms: 132,
        step: 8,
        tflops: 989.0,
        terabytes: 3.35,
    },
    Gpu {
        name: "a100",
        sms: 108,
        step: 2,
        tflops: 312.0,
        terabytes: 2.04,
    },
    Gpu {
        name: "l4",
        sms: 58,
        step: 2,
        tflops: 121.0,
        terabytes: 0.3,
    },
    Gpu {
        name: "t4",
        sms: 40,
        step: 2,
        tflops: 65.0,
        terabytes: 0.32,
    },
];

/// Part of the peak that well-made kernels of convolutional networks reach. An assumption.
const EFFICIENCY: f64 = 0.5;
/// A kernel's launch, in milliseconds, when launches follow one another in a stream. An assumption.
const LAUNCH_MS: f64 = 0.0025;
/// Part of the SMs that is enough for the whole bandwidth. An assumption.
const SMS_FOR_BANDWIDTH: f64 = 0.3;
/// Output elements that one SM works on at a time: a tile of 128 x 64. An assumption.
const TILE: f64 = 8192.0;
/// A chunk's overhead, in milliseconds. An assumption.
const STAGE_OVERHEAD_MS: f64 = 0.02;
/// Time from a stage to the next, in milliseconds. An assumption.
const HOP_MS: f64 = 0.05;
/// Batches of the profile.
const BATCHES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Operators that are fused into the kernel before them, and so launch none of their own.
const FUSED: [&str; 9] = [
    "Relu",
    "Clip",
    "BatchNormalization",
    "Add",
    "Mul",
    "Sigmoid",
    "HardSwish",
    "Flatten",
    "Reshape",
];

impl Gpu {
    /// The GPU of a name; `None`: it is not listed.
    pub fn named(name: &str) -> Option<Self> {
        GPUS.into_iter().find(|g| g.name == name)
    }

    /// A profile of some models by their names.
    pub fn profile<'m>(&self, models: impl IntoIterator<Item = (String, &'m ModelInfo)>) -> Profile {
        let steps = (1..).map(|i| i * self.step).take_while(|s| *s < self.sms);
        let shares: Vec<Share> = steps.chain([self.sms]).map(Share).collect();
        let models: BTreeMap<String, ModelProfile> = models
            .into_iter()
            .map(|(name, info)| (name, self.model(info, &shares)))
            .collect();
        Profile {
            version: 1,
            device_kind: format!("{}-modelled", self.name),
            source: Source::Modelled,
            share_total: Share(self.sms),
            shares,
            batches: BATCHES.to_vec(),
            stage_overhead_ms: STAGE_OVERHEAD_MS,
            hop_ms: HOP_MS,
            models,
        }
    }

    fn model(&self, info: &ModelInfo, shares: &[Share]) -> ModelProfile {
        let bytes: Vec<u64> = info
            .cuts
            .iter()
            .map(|c| c.bytes_sent(DType::F16) as u64)
            .collect();
        let segment = |(k, segment): (usize, &Segment)| SegmentProfile {
            weights_bytes: segment.weights_bytes / 2,
            flops: Some(segment.flops),
            ms: BATCHES
                .iter()
                .map(|&batch| {
                    let each = shares.iter();
                    each.map(|s| self.segment_ms(segment, (bytes[k], bytes[k + 1]), batch, *s))
                        .collect()
                })
                .collect(),
        };
        ModelProfile {
            segments: info.segments.iter().enumerate().map(segment).collect(),
            cut_bytes: bytes,
        }
    }

    /// Milliseconds that a segment takes; `ends`: bytes of one request's tensor at both ends.
    fn segment_ms(&self, segment: &Segment, ends: (u64, u64), batch: u32, share: Share) -> f64 {
        let kernels = segment
            .nodes
            .iter()
            .filter(|n| !FUSED.contains(&n.as_str()))
            .count();
        if kernels == 0 {
            return 0.0;
        }
        let batch = f64::from(batch);
        let part = f64::from(share.0) / f64::from(self.sms);
        // Half precision: two bytes an element.
        let tiles = (ends.1 as f64 / 2.0 * batch / TILE).ceil();
        let waves = (tiles / f64::from(share.0)).ceil().max(1.0);
        let fill = tiles / (waves * f64::from(share.0));
        let compute = segment.flops as f64 * batch / (self.tflops * 1e9 * EFFICIENCY * part * fill);
        let moved = segment.weights_bytes as f64 / 2.0 + (ends.0 + ends.1) as f64 * batch;
        let reach = (part / SMS_FOR_BANDWIDTH).min(1.0);
        let moving = moved / (self.terabytes * 1e9 * reach);
        kernels as f64 * LAUNCH_MS + compute.max(moving)
    }
}
