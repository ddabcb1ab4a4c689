//! Inputs that exporters compute from the batch, and that need not depend on it.

use rten_onnx::onnx::NodeProto;

use super::operator;
use crate::analyze::Walk;
use crate::dim::{DType, Dim};
use crate::error::ModelError;
use crate::fact::{Fact, Num, Small};
use crate::rules::{Op, Resizing, is_whole, is_zero};

impl Walk<'_> {
    fn op<'s>(&'s self, node: &'s NodeProto, kind: &'s str) -> Op<'s> {
        Op {
            node,
            kind,
            opset: self.opset,
            inputs: node.input.iter().map(|name| self.facts.get(name)).collect(),
        }
    }

    /// Initial states that are zero, and lengths of sequences that are the whole time, are left out: that is what engines
    /// take where none are given, whatever the batch is.
    pub(in crate::analyze) fn drop_what_is_default(&self, node: &mut NodeProto) {
        let kind = node.op_type.clone().unwrap_or_default();
        for i in 4..=6 {
            // The third weights of an LSTM come after the states.
            let op = self.op(node, &kind);
            let is_default = match i {
                4 => is_whole(&op),
                5 => is_zero(&op, i),
                _ => kind == "LSTM" && is_zero(&op, i),
            };
            if is_default {
                node.input[i].clear();
            }
        }
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
    }

    /// Gives a Resize constant scales for all dimensions, or sizes that hold for every batch.
    pub(in crate::analyze) fn resize_to(
        &mut self,
        node: &mut NodeProto,
        kind: &str,
        index: usize,
    ) -> Result<(), ModelError> {
        let resizing = Resizing::of(&self.op(node, kind))?;
        node.attribute.retain(|a| {
            !matches!(
                a.name.as_deref(),
                Some("scales" | "axes" | "keep_aspect_ratio_policy")
            )
        });
        node.input.truncate(1);
        if kind == "Resize" && self.opset >= 11 {
            // No region of interest: operator sets before 13 want an empty one.
            let roi = self.empty_before_13(&format!("graft:roi:{index}"));
            node.input.push(roi);
        }
        if !resizing.by_sizes {
            let scales = resizing.scales.into_iter();
            let nums = scales.map(|s| Num::fixed(f64::from(s))).collect();
            let name = format!("graft:scales:{index}");
            let fact = Fact::from_small(Small::list(nums), DType::F32);
            self.facts.insert(name.clone(), fact);
            node.input.push(name);
            return Ok(());
        }
        let scales = self.empty_before_13(&format!("graft:scales:{index}"));
        node.input.push(scales);
        let sizes = self.sizes_of(&node.input[0].clone(), &resizing.dims, index)?;
        node.input.push(sizes);
        Ok(())
    }

    /// An input that is not given: operator sets before 13 want an empty list in its place.
    fn empty_before_13(&mut self, name: &str) -> String {
        if self.opset >= 13 {
            return String::new();
        }
        let none = Fact::from_small(Small::list(vec![]), DType::F32);
        self.facts.insert(name.to_owned(), none);
        name.to_owned()
    }

    /// Sizes as a list of integers, of which the batch is taken from `like` while the model runs.
    fn sizes_of(&mut self, like: &str, dims: &[Dim], index: usize) -> Result<String, ModelError> {
        let named = |part: &str| format!("graft:{part}:{index}");
        let mut constant = |part: &str, dims: Vec<i64>| -> Result<String, ModelError> {
            let name = named(part);
            let nums = dims.into_iter().map(|d| Num::fixed(d as f64)).collect();
            let fact = Fact::from_small(Small::list(nums), DType::I64);
            self.facts.insert(name.clone(), fact);
            self.provide(&name)?;
            Ok(name)
        };
        let known = |dims: &[Dim]| dims.iter().map(|d| d.coef as i64).collect::<Vec<i64>>();
        let Some(at) = dims.iter().position(|d| d.batch) else {
            return constant("sizes", known(dims));
        };
        let before = constant("before", known(&dims[..at]))?;
        let after = constant("after", known(&dims[at + 1..]))?;
        let place = constant("place", vec![at as i64])?;
        let [shape, batch, sizes] = ["shape", "batch", "sizes"].map(named);
        let range = [("start", at as i64), ("end", at as i64 + 1)];
        // As in `repeat_constants`: rten is asked for a part of the shape, operator sets before 15 know a whole one alone.
        let part = [operator("Shape", &[like], &batch, &range)];
        let whole = [
            operator("Shape", &[like], &shape, &[]),
            operator("Gather", &[&shape, &place], &batch, &[("axis", 0)]),
        ];
        let lists: Vec<&str> = match (at, dims.len() - at - 1) {
            (0, 0) => vec![&batch],
            (0, _) => vec![&batch, &after],
            (_, 0) => vec![&before, &batch],
            _ => vec![&before, &batch, &after],
        };
        let joined = operator("Concat", &lists, &sizes, &[("axis", 0)]);
        self.runs.extend(part.into_iter().chain([joined.clone()]));
        self.standard.extend(whole.into_iter().chain([joined]));
        Ok(sizes)
    }
}
