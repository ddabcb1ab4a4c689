//! Constants that must grow with the batch.

use rten_onnx::onnx::NodeProto;

use super::writer::operator;
use crate::analyze::Walk;
use crate::dim::{DType, Dim};
use crate::error::ModelError;
use crate::fact::{Fact, Num, Small};

impl Walk<'_> {
    /// Constants that are joined to data grow with the batch: a class token, say.
    pub(in crate::analyze) fn repeat_constants(
        &mut self,
        node: &mut NodeProto,
        index: usize,
    ) -> Result<(), ModelError> {
        let like = node
            .input
            .iter()
            .find(|n| {
                self.facts
                    .get(*n)
                    .is_some_and(|f| f.is_data() && f.dims.first() == Some(&Dim::BATCH))
            })
            .cloned();
        let Some(like) = like else { return Ok(()) };
        for (i, name) in node.input.iter_mut().enumerate() {
            let Some(fact) = self.facts.get(name.as_str()).cloned() else {
                continue;
            };
            if fact.is_data() || fact.dims.first() != Some(&Dim::ONE) {
                continue;
            }
            self.provide(name)?;
            let names = ["batch", "target", "repeated", "rest", "shape", "first"];
            let names = names.map(|part| format!("graft:{part}:{index}:{i}"));
            let [batch, target, repeated, rest, shape, first] = &names;
            let others = fact.dims[1..].iter().map(|&d| d.into()).collect();
            let others = Fact::from_small(Small::list(others), DType::I64);
            self.facts.insert(rest.clone(), others);
            self.provide(rest)?;
            let place = Small::list(vec![Num::fixed(0.0)]);
            self.facts
                .insert(first.clone(), Fact::from_small(place, DType::I64));
            self.provide(first)?;
            // Only a part of the shape is asked for: rten 0.27 would take a whole shape's symbolic batch
            // from the model's input, which a run from an inner cut point has not.
            let part = [operator("Shape", &[&like], batch, &[("start", 0), ("end", 1)])];
            // Operator sets before 15 know a whole shape alone.
            let whole = [
                operator("Shape", &[&like], shape, &[]),
                operator("Gather", &[shape, first], batch, &[("axis", 0)]),
            ];
            let repeat = [
                operator("Concat", &[batch, rest], target, &[("axis", 0)]),
                operator("Expand", &[name.as_str(), target], repeated, &[]),
            ];
            self.runs.extend(part.into_iter().chain(repeat.clone()));
            self.standard.extend(whole.into_iter().chain(repeat));
            *name = repeated.clone();
        }
        Ok(())
    }
}
