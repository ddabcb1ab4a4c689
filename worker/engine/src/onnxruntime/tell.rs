//! Asks onnxruntime what operators give for which Graft has no rule.

use std::collections::BTreeMap;
use std::path::Path;

use graft_model::edit::with_outputs;
use graft_model::{ReadOptions, Tensor, TensorSpec, ToldTensor};
use ort::session::{Session, SessionInputValue};
use ort::value::ValueType;

use super::OnnxRuntimeEngine;
use super::sessions::WEIGHTS_FOLDER;
use super::values::{dtype_of, filled, input_of, spec_of};
use crate::error::Cause;

/// Sizes of the batches that are run to see which dimension is the batch.
const BATCHES: [usize; 2] = [2, 3];

impl OnnxRuntimeEngine {
    /// Runs a file, and tells shape and type of some of its tensors. `Err`: one does not have the batch as its first
    /// dimension, or the file can't be run.
    pub fn tell(
        &self,
        file: &Path,
        options: &ReadOptions,
        names: &[String],
    ) -> Result<BTreeMap<String, ToldTensor>, Cause> {
        let bytes = std::fs::read(file).map_err(|error| Cause::File {
            what: file.display().to_string(),
            error,
        })?;
        let bytes = with_outputs(&bytes, names.iter().map(String::as_str))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut session = Session::builder(&self.library.environment)?
            .with_config_entry(WEIGHTS_FOLDER, folder.to_string_lossy())?
            .commit_from_memory(&bytes)?;
        let known = session.inputs().iter();
        let known: Vec<(String, ValueType)> = known
            .map(|input| (input.name().to_owned(), input.dtype().clone()))
            .collect();
        let open = known
            .iter()
            .any(|(name, kind)| batch_axis(name, kind, options).is_some_and(|(_, open)| open));
        let batches = if open { &BATCHES[..] } else { &[1] };
        let mut told: BTreeMap<String, ToldTensor> = BTreeMap::new();
        for &batch in batches {
            let mut inputs = vec![];
            for (name, kind) in &known {
                let (spec, tensor) = example(name, kind, options, batch)?;
                let input = input_of(&spec, tensor, &spec.shape)?;
                inputs.push((name.as_str(), SessionInputValue::from(input)));
            }
            let outputs = session.run(inputs)?;
            for name in names {
                let value = outputs.get(name).ok_or_else(|| Cause::NoTensor(name.clone()))?;
                let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
                    return Err(Cause::Library(format!("{name} is no tensor")));
                };
                let sizes: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
                let found = match sizes.split_first() {
                    Some((&first, rest)) if first == batch => ToldTensor {
                        shape: rest.to_vec(),
                        dtype: dtype_of(name, ty)?,
                    },
                    _ => {
                        return Err(Cause::Library(format!(
                            "{name} has the shape {sizes:?} for a batch of {batch}: its first dimension is not the batch"
                        )));
                    }
                };
                if told.get(name).is_some_and(|before| *before != found) {
                    return Err(Cause::Library(format!(
                        "the shape of {name} depends on the batch in more than its first dimension"
                    )));
                }
                told.insert(name.clone(), found);
            }
        }
        Ok(told)
    }
}

/// Place of an input's batch, and whether the file leaves its size open. `None`: the same for every request.
fn batch_axis(name: &str, kind: &ValueType, options: &ReadOptions) -> Option<(usize, bool)> {
    let said = options.inputs.get(name);
    if said.is_some_and(|o| o.value.is_some()) {
        return None;
    }
    let ValueType::Tensor {
        shape,
        dimension_symbols,
        ..
    } = kind
    else {
        return None;
    };
    let symbols = dimension_symbols.iter().map(String::as_str);
    let axis = said.cloned().unwrap_or_default().axis(symbols);
    Some((axis, shape.get(axis).is_none_or(|&d| d < 0)))
}

/// An ordinary input for so many requests.
fn example(
    name: &str,
    kind: &ValueType,
    options: &ReadOptions,
    batch: usize,
) -> Result<(TensorSpec, Tensor), Cause> {
    let ValueType::Tensor { ty, shape, .. } = kind else {
        return Err(Cause::Library(format!("input {name} is no tensor")));
    };
    let said = options.inputs.get(name);
    let given = said
        .and_then(|o| o.shape.as_ref())
        .or(options.input_shape.as_ref());
    let axis = batch_axis(name, kind, options).map(|(axis, _)| axis);
    let rank = given.map_or(shape.len(), |s| s.len() + 1).max(shape.len());
    let dims = (0..rank).map(|i| {
        let own = shape.get(i).and_then(|&d| usize::try_from(d).ok());
        match axis {
            Some(axis) if axis == i => own.unwrap_or(batch),
            Some(axis) => {
                let chosen = given.and_then(|s| s.get(if i < axis { i } else { i - 1 }));
                own.or(chosen.copied()).unwrap_or(1)
            }
            None => own.unwrap_or(1),
        }
    });
    let spec = spec_of(name, ty, dims.collect())?;
    let tensor = match said.and_then(|o| o.value.as_ref()) {
        Some(values) => filled(&spec, Some(values))?,
        None => Tensor::pseudo_random(&spec, 1, 7),
    };
    Ok((spec, tensor))
}
