//! What is known of a model without running it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use graft_features::Features;

use crate::analyze::{Narrow, cut_points};
use crate::cut::{Cut, CutPoint, ModelId, Segment, StageRange};

/// Names of a file's inputs and outputs, by which test data sets number them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Inputs that are no initializers.
    pub inputs: Vec<String>,
    /// Outputs.
    pub outputs: Vec<String>,
}

/// What is known of a model without running it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Its identity.
    pub id: ModelId,
    /// The file it was read from.
    pub file: PathBuf,
    /// Operator set of the file.
    pub opset: i64,
    /// The cut points: at least two, the first are the inputs and the last the outputs.
    pub cuts: Vec<Cut>,
    /// `segments[k]` lies between cut points k and k + 1.
    pub segments: Vec<Segment>,
    /// What 32 bits do for its 64-bit integers.
    pub narrow: Narrow,
    /// The file's inputs that are no initializers, and its outputs, by name and in its order.
    pub listed: Listed,
    /// Inputs of the file that hold the same for every request, as the manifest says.
    pub fixed: BTreeMap<String, Vec<f64>>,
    /// Nodes for whose operators Graft has no rule: the manifest tells what they give. That they don't mix requests has to be
    /// seen by running them.
    pub opaque: Vec<String>,
    /// How tensors may travel in fewer bytes, at the cut points where they may.
    pub features: Features,
    /// The first node that divides integers by what may be 0 or −1, which stops a processor.
    pub divides: Option<String>,
}

impl ModelInfo {
    /// The tensors that go in.
    pub fn inputs(&self) -> &Cut {
        &self.cuts[0]
    }

    /// The tensors that come out (named as they are after `Identity` nodes are gone).
    pub fn outputs(&self) -> &Cut {
        &self.cuts[self.cuts.len() - 1]
    }

    /// The last cut point: the model's outputs.
    pub fn last(&self) -> CutPoint {
        CutPoint(u16::try_from(self.cuts.len() - 1).unwrap_or(u16::MAX))
    }

    /// The cut point's tensors. `None`: beyond the last.
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

    /// For each tensor at the end of a range: its place at the range's beginning, where it crosses there, too, and so
    /// passes the range's layers unchanged.
    pub fn passing(&self, range: StageRange) -> Vec<Option<usize>> {
        let ends = self.cut(range.from()).zip(self.cut(range.to()));
        ends.map_or(vec![], |(from, to)| {
            to.names().map(|name| from.position(name)).collect()
        })
    }

    /// Whether layers round to 8-bit integers.
    pub fn is_quantized(&self) -> bool {
        let mut nodes = self.segments.iter().flat_map(|s| &s.nodes);
        nodes.any(|kind| kind.starts_with("Quantize") || kind.starts_with("QLinear"))
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
