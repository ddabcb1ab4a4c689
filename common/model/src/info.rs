//! What is known of a model without running it.

use std::path::PathBuf;

use crate::analyze::{Narrow, cut_points};
use crate::cut::{Cut, CutPoint, ModelId, Segment, StageRange};

/// What is known of a model without running it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Its identity.
    pub id: ModelId,
    /// The file it was read from.
    pub file: PathBuf,
    /// Name of the input tensor.
    pub input: String,
    /// Name of the output tensor (after `Identity` nodes are gone).
    pub output: String,
    /// Operator set of the file.
    pub opset: i64,
    /// The cut points: at least two, the first is the input and the last the output.
    pub cuts: Vec<Cut>,
    /// `segments[k]` lies between cut points k and k + 1.
    pub segments: Vec<Segment>,
    /// What 32 bits do for its 64-bit integers.
    pub narrow: Narrow,
    /// The first node that divides integers by what may be 0 or −1, which stops a processor.
    pub divides: Option<String>,
}

impl ModelInfo {
    /// The last cut point: the model's output.
    pub fn last(&self) -> CutPoint {
        CutPoint(u16::try_from(self.cuts.len() - 1).unwrap_or(u16::MAX))
    }

    /// The cut point's tensor. `None`: beyond the last.
    pub fn cut(&self, point: CutPoint) -> Option<&Cut> {
        self.cuts.get(point.index())
    }

    /// All cut points in order.
    pub fn cut_points(&self) -> impl Iterator<Item = CutPoint> + use<> {
        cut_points(self.cuts.len())
    }

    /// The range from a cut point to the output. `None` at the last.
    pub fn tail(&self, from: CutPoint) -> Option<StageRange> {
        StageRange::new(from, self.last())
    }

    /// The whole model as one range.
    pub fn whole(&self) -> Option<StageRange> {
        self.tail(CutPoint(0))
    }

    /// Floating-point operations of one request over a range.
    pub fn flops(&self, range: StageRange) -> u64 {
        self.segments[range.segments()].iter().map(|s| s.flops).sum()
    }

    /// Bytes of all weights.
    pub fn weights_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.weights_bytes).sum()
    }
}
