//! The reference for answers and times: a file as onnxruntime runs it whole, untouched by Graft's reader.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use graft_model::edit::with_outputs;
use graft_model::{Batch, Cut, Model, StageRange, Tensor, TensorSpec};
use ort::session::builder::SessionBuilder;
use ort::session::{Session, SessionInputValue};
use ort::value::ValueType;

use super::OnnxRuntimeEngine;
use super::sessions::WEIGHTS_FOLDER;
use super::values::{elements_of, filled, input_of, spec_of};
use crate::error::Cause;

/// A model's file in one session with onnxruntime's own defaults.
pub struct Reference {
    session: Session,
    from: Cut,
    /// Cut points whose tensors a run gives.
    cuts: Vec<Cut>,
    /// Inputs of the file that requests don't bring: constants by the manifest, or read by no node.
    others: Vec<(TensorSpec, Tensor)>,
}

/// Choice of the tensors that a reference gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// The model's outputs.
    Output,
    /// The tensors of all cut points but the inputs.
    EveryCut,
}

impl OnnxRuntimeEngine {
    /// Opens a model's file as it is.
    pub fn reference(&self, model: &Model, threads: usize, gives: Gives) -> Result<Reference, Cause> {
        let info = model.info();
        let skipped = match gives {
            Gives::Output => info.cuts.len() - 1,
            Gives::EveryCut => 1,
        };
        let cuts = info.cuts[skipped..].to_vec();
        let mut builder = self.plain(threads)?;
        let mut session = builder.commit_from_file(&info.file)?;
        let known: BTreeSet<&str> = session.outputs().iter().map(|o| o.name()).collect();
        let wanted: BTreeSet<&str> = cuts.iter().flat_map(Cut::names).collect();
        let inputs: BTreeSet<&str> = info.inputs().names().collect();
        if !wanted
            .iter()
            .all(|name| known.contains(name) || inputs.contains(name))
        {
            let bytes = std::fs::read(&info.file).map_err(|error| Cause::File {
                what: info.file.display().to_string(),
                error,
            })?;
            let bytes = with_outputs(&bytes, wanted.difference(&inputs).copied())?;
            let folder = info.file.parent().unwrap_or(Path::new("."));
            session = builder
                .with_config_entry(WEIGHTS_FOLDER, folder.to_string_lossy())?
                .commit_from_memory(&bytes)?;
        }
        let mut others = vec![];
        for input in session.inputs().iter().filter(|i| !inputs.contains(i.name())) {
            others.push(constant(
                input.name(),
                input.dtype(),
                info.fixed.get(input.name()),
            )?);
        }
        Ok(Reference {
            session,
            from: info.inputs().clone(),
            cuts,
            others,
        })
    }

    /// Opens the layers of a range as a file of their own, if it reads all that crosses at its beginning and makes all that
    /// crosses at its end.
    pub fn reference_of(&self, model: &Model, range: StageRange, threads: usize) -> Result<Reference, Cause> {
        let info = model.info();
        let ends = info.cut(range.from()).zip(info.cut(range.to()));
        let (from, to) = ends.ok_or(Cause::BeyondLastCut)?;
        let part = model.parts().part(range, None).map_err(Box::new)?;
        Ok(Reference {
            session: self.plain(threads)?.commit_from_memory(&part.bytes)?,
            from: from.clone(),
            cuts: vec![to.clone()],
            others: vec![],
        })
    }

    fn plain(&self, threads: usize) -> Result<SessionBuilder, Cause> {
        let builder = Session::builder(&self.library.environment)?;
        builder.with_intra_threads(threads).map_err(Cause::from)
    }
}

/// An input that holds the same for every request: `values`, or zeros where it has none.
fn constant(name: &str, kind: &ValueType, values: Option<&Vec<f64>>) -> Result<(TensorSpec, Tensor), Cause> {
    let ValueType::Tensor { ty, shape, .. } = kind else {
        return Err(Cause::Library(format!("input {name} is no tensor")));
    };
    let dims: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(1)).collect();
    let spec = spec_of(name, ty, dims)?;
    let tensor = filled(&spec, values)?;
    Ok((spec, tensor))
}

/// Rows of a tensor whose batch is not its first dimension would have to be woven into one another.
fn woven(spec: &TensorSpec) -> Cause {
    let name = &spec.name;
    Cause::Library(format!(
        "the batch of {name} is not its first dimension: only one request at a time is compared"
    ))
}

impl Reference {
    /// Runs the file on a batch that fits its inputs; what crosses, in the order of the cut points.
    pub fn run(&mut self, batch: Batch) -> Result<Vec<Batch>, Cause> {
        let requests = batch.requests();
        let given: HashMap<&str, &Tensor> = self.from.names().zip(batch.tensors()).collect();
        let mut inputs = vec![];
        for (spec, tensor) in self.from.tensors.iter().zip(batch.tensors()) {
            let mut shape = vec![];
            shape.extend_from_slice(tensor.shape());
            shape.insert(spec.batch_axis.min(shape.len()), requests);
            if spec.batch_axis != 0 && requests != 1 {
                return Err(woven(spec));
            }
            inputs.push((
                spec.name.as_str(),
                SessionInputValue::from(input_of(spec, tensor.clone(), &shape)?),
            ));
        }
        for (spec, tensor) in &self.others {
            let input = input_of(spec, tensor.clone(), &spec.shape)?;
            inputs.push((spec.name.as_str(), SessionInputValue::from(input)));
        }
        let outputs = self.session.run(inputs)?;
        let tensor = |spec: &TensorSpec| {
            if let Some(&given) = given.get(spec.name.as_str()) {
                return Ok(given.clone());
            }
            if spec.batch_axis != 0 && requests != 1 {
                return Err(woven(spec));
            }
            let value = outputs.get(&spec.name);
            let value = value.ok_or_else(|| Cause::NoTensor(spec.name.clone()))?;
            let elements = elements_of(spec.dtype, value)?;
            Tensor::new(requests, spec.shape.clone(), elements).map_err(|error| Cause::Output {
                tensor: spec.name.clone(),
                error: Box::new(error),
            })
        };
        let cut = |cut: &Cut| {
            let tensors = cut.tensors.iter().map(tensor).collect::<Result<_, _>>()?;
            Ok(Batch::new(tensors)?)
        };
        self.cuts.iter().map(cut).collect()
    }
}
