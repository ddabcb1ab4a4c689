//! Bounds on how large 64-bit integers can get, for engines that compute them in 32 bits.
//!
//! What comes from outside (an input, a float that is cast) is assumed to stay within a limit, which the engine
//! checks while it runs ([`Guard`]). Interval arithmetic says what follows from it. The largest of a few limits
//! under which nothing leaves 32 bits is taken; if there is none, the network needs an engine with 64 bits.

use rten_onnx::onnx::{NodeProto, TensorProto};

use super::{Walk, label};
use crate::cut::StageRange;
use crate::dim::{DType, Dim, elements};
use crate::error::ModelError;
use crate::fact::{Bound, Fact, LIMITS};

/// The largest magnitude that 32 bits hold.
const MOST: f64 = 2_147_483_647.0;

/// A tensor whose elements must stay within a limit, or 32 bits do not do.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    /// Its name in the engines' graph.
    pub tensor: String,
    /// The segment whose layers rely on it.
    pub segment: usize,
    /// Largest magnitude that its elements may have.
    pub limit: f64,
    /// Index in the file of the node that reads it; `None`: it is the model's input.
    pub(crate) node: Option<usize>,
}

/// Whether 32 bits are enough for the 64-bit numbers of a network.
#[derive(Debug, Clone, PartialEq)]
pub enum Narrow {
    /// They are, as long as these guards hold.
    Within(Vec<Guard>),
    /// They are not, because of this node.
    TooNarrow(String),
}

impl Narrow {
    /// Whether layers of a range rely on the size of numbers that is only known while they run.
    pub fn watches(&self, range: StageRange) -> bool {
        match self {
            Narrow::Within(guards) => guards.iter().any(|g| range.segments().contains(&g.segment)),
            // Engines that compute them may still stumble over one request's numbers: an index that is out of bounds.
            Narrow::TooNarrow(_) => true,
        }
    }
}

/// Bound of a tensor by what is known of it: infinite where nothing is.
pub(crate) fn of_fact(fact: &Fact) -> Bound {
    if let Some(bound) = fact.bound {
        return bound;
    }
    if let Some(small) = &fact.small {
        let most = small.nums.iter().map(|n| n.coef.abs()).fold(0.0, f64::max);
        return [most; LIMITS.len()];
    }
    match fact.dtype {
        DType::Bool => [1.0; LIMITS.len()],
        DType::U8 | DType::I8 => [255.0; LIMITS.len()],
        DType::I32 => [MOST; LIMITS.len()],
        _ => [f64::INFINITY; LIMITS.len()],
    }
}

/// Bound of a tensor of 64-bit integers in the file.
pub(super) fn of_integers(tensor: &TensorProto) -> Bound {
    let magnitude = |v: i64| v.unsigned_abs() as f64;
    let most = match &tensor.raw_data {
        Some(raw) => {
            let raw = raw.borrow();
            let words = raw.as_chunks::<8>().0.iter();
            words
                .map(|&w| magnitude(i64::from_le_bytes(w)))
                .fold(0.0, f64::max)
        }
        None => tensor
            .int64_data
            .iter()
            .map(|&v| magnitude(v))
            .fold(0.0, f64::max),
    };
    [most; LIMITS.len()]
}

/// Bound of values from outside: the limits themselves.
pub(crate) const OUTSIDE: Bound = LIMITS;

impl Walk<'_> {
    /// The bound of a node's output, where it is of 64-bit integers; notes a node for which 32 bits are not enough.
    pub(super) fn bound(
        &mut self,
        node: &NodeProto,
        kind: &str,
        index: usize,
        (dims, dtype): &(Vec<Dim>, DType),
    ) -> Result<Option<Bound>, ModelError> {
        let inputs: Vec<&Fact> = node.input.iter().filter_map(|n| self.facts.get(n)).collect();
        if inputs.iter().any(|f| f.is_data() && f.dtype == DType::F64)
            || *dtype == DType::F64 && inputs.iter().any(|f| f.is_data())
        {
            self.double.get_or_insert_with(|| label(node, index));
        }
        let compares = matches!(
            kind,
            "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "Cast"
        );
        let wide_input = compares && inputs.iter().any(|f| f.dtype == DType::I64);
        if *dtype != DType::I64 && !wide_input {
            return Ok(None);
        }
        let of: Vec<Bound> = inputs.iter().map(|f| of_fact(f)).collect();
        let at = |i: usize, h: usize| of.get(i).map_or(0.0, |b| b[h]);
        let most = |h: usize| of.iter().map(|b| b[h]).fold(0.0, f64::max);
        let all = |h: usize| of.iter().map(|b| b[h]).sum::<f64>();
        let from = inputs.first().map_or(DType::I64, |f| f.dtype);
        let outside = kind == "Cast" && matches!(from, DType::F32 | DType::F16 | DType::F64);
        let terms = match inputs.first() {
            Some(x) => elements(&x.dims)? as f64 / elements(dims)?.max(1) as f64,
            None => 1.0,
        };
        let along: f64 = inputs
            .first()
            .map_or(1.0, |x| x.dims.iter().map(|d| d.coef as f64).fold(1.0, f64::max));
        let reduction = node
            .attribute
            .iter()
            .find(|a| a.name.as_deref() == Some("reduction"));
        let reduces = reduction.is_some_and(|a| a.s.as_deref() != Some("none"));
        let bound: Bound = std::array::from_fn(|h| match kind {
            "Cast" if outside => OUTSIDE[h],
            "Add" | "Sub" | "Sum" => all(h),
            "Mul" => of.iter().map(|b| b[h].max(1.0)).product(),
            "Pow" => at(0, h).max(1.0).powf(at(1, h)),
            "Mod" => at(1, h),
            "ArgMax" | "ArgMin" => along,
            // What is put where something is may be added to it again and again.
            "ScatterElements" | "Scatter" if reduces => f64::INFINITY,
            "ReduceSum" | "ReduceL1" => at(0, h) * terms,
            "ReduceSumSquare" => at(0, h).powi(2) * terms,
            "ReduceProd" => at(0, h).max(1.0).powf(terms),
            "CumSum" => at(0, h) * along,
            "MatMul" | "Gemm" => at(0, h).max(1.0) * at(1, h).max(1.0) * along + at(2, h),
            "Gather" | "Reshape" | "Expand" | "Slice" | "Transpose" | "Tile" | "Split" | "Squeeze"
            | "Unsqueeze" | "Flatten" | "ReduceMax" | "ReduceMin" | "Div" | "Neg" | "Abs" | "Cast"
            | "ReduceMean" | "TopK" | "GatherElements" | "GatherND" => at(0, h),
            "Pad" => at(0, h).max(at(2, h)),
            _ => most(h),
        });
        if outside && *dtype == DType::I64 {
            self.guards.push(Guard {
                tensor: node.input.first().cloned().unwrap_or_default(),
                segment: 0,
                limit: 0.0,
                node: Some(index),
            });
        }
        for (h, slot) in self.wide.iter_mut().enumerate() {
            let needs = if wide_input {
                most(h).max(if *dtype == DType::I64 { bound[h] } else { 0.0 })
            } else {
                bound[h]
            };
            if needs > MOST && !outside {
                slot.get_or_insert_with(|| label(node, index));
            }
        }
        Ok((*dtype == DType::I64).then_some(bound))
    }

    /// Adds a guard for the model's input, which is of 64-bit integers and comes from outside.
    pub(super) fn watch_input(&mut self, input: &str) {
        self.guards.push(Guard {
            tensor: input.to_owned(),
            segment: 0,
            limit: 0.0,
            node: None,
        });
    }

    /// Whether 32 bits are enough for the network. `segment_of`: the segment of a node, by its index in the file.
    pub(super) fn narrow(&self, segment_of: impl Fn(usize) -> Option<usize>) -> Narrow {
        if let Some(node) = &self.double {
            return Narrow::TooNarrow(node.clone());
        }
        match self.wide.iter().position(Option::is_none) {
            Some(h) => Narrow::Within(
                self.guards
                    .iter()
                    .filter_map(|g| {
                        Some(Guard {
                            segment: g.node.map_or(Some(0), &segment_of)?,
                            limit: LIMITS[h],
                            ..g.clone()
                        })
                    })
                    .collect(),
            ),
            None => Narrow::TooNarrow(self.wide[LIMITS.len() - 1].clone().unwrap_or_default()),
        }
    }
}
