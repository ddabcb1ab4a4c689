//! The reference for answers and times: a file as onnxruntime runs it whole, untouched by Graft's reader.

use std::path::Path;

use graft_model::edit::with_outputs;
use graft_model::{Cut, Model, StageRange, Tensor};
use ort::session::builder::SessionBuilder;
use ort::session::{Session, SessionInputValue};

use super::OnnxRuntimeEngine;
use super::sessions::{WEIGHTS_FOLDER, elements_of, input_of};
use crate::engine::Cause;

/// A model's file in one session with onnxruntime's own defaults.
pub struct Reference {
    session: Session,
    from: Cut,
    /// Cut points whose tensors a run gives.
    cuts: Vec<Cut>,
}

/// Choice of the tensors that a reference gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// The model's output.
    Output,
    /// The tensors of all cut points but the input.
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
        let known = session.outputs().iter().map(|o| o.name().to_owned());
        let known: Vec<String> = known.collect();
        if !cuts.iter().all(|c| known.contains(&c.tensor)) {
            let bytes = std::fs::read(&info.file).map_err(|error| Cause::File {
                what: info.file.display().to_string(),
                error,
            })?;
            let bytes = with_outputs(&bytes, cuts.iter().map(|c| c.tensor.as_str()))?;
            let folder = info.file.parent().unwrap_or(Path::new("."));
            session = builder
                .with_config_entry(WEIGHTS_FOLDER, folder.to_string_lossy())?
                .commit_from_memory(&bytes)?;
        }
        Ok(Reference {
            session,
            from: info.cuts[0].clone(),
            cuts,
        })
    }

    /// Opens the layers of a range as a file of their own.
    pub fn reference_of(&self, model: &Model, range: StageRange, threads: usize) -> Result<Reference, Cause> {
        let info = model.info();
        let ends = info.cut(range.from()).zip(info.cut(range.to()));
        let (from, to) = ends.ok_or(Cause::BeyondLastCut)?;
        let part = model.parts().part(range, None).map_err(Box::new)?;
        Ok(Reference {
            session: self.plain(threads)?.commit_from_memory(&part)?,
            from: from.clone(),
            cuts: vec![to.clone()],
        })
    }

    fn plain(&self, threads: usize) -> Result<SessionBuilder, Cause> {
        let builder = Session::builder(&self.library.environment)?;
        builder.with_intra_threads(threads).map_err(Cause::from)
    }
}

impl Reference {
    /// Runs the file on a batch that fits its input; the tensors in the order of their cut points.
    pub fn run(&mut self, batch: Tensor) -> Result<Vec<Tensor>, Cause> {
        let requests = batch.requests();
        let input = input_of(&self.from, batch)?;
        let name = self.from.tensor.as_str();
        let input = vec![(name, SessionInputValue::from(input))];
        let outputs = self.session.run(input)?;
        let tensor = |cut: &Cut| {
            let value = outputs.get(&cut.tensor);
            let value = value.ok_or_else(|| Cause::NoTensor(cut.tensor.clone()))?;
            let elements = elements_of(cut.dtype, value)?;
            Tensor::new(requests, cut.shape.clone(), elements).map_err(|error| Cause::Output {
                tensor: cut.tensor.clone(),
                error: Box::new(error),
            })
        };
        self.cuts.iter().map(tensor).collect()
    }
}
