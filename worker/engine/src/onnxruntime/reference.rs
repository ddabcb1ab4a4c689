//! The reference for answers and times: a file as onnxruntime runs it whole, untouched by Graft's reader.

use std::path::Path;

use graft_model::edit::with_outputs;
use graft_model::{Cut, Model, StageRange, Tensor};
use ort::session::builder::SessionBuilder;
use ort::session::{Session, SessionInputValue};

use super::OnnxRuntimeEngine;
use super::sessions::{WEIGHTS_FOLDER, elements_of, input_of, text};

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
    pub fn reference(&self, model: &Model, threads: usize, gives: Gives) -> Result<Reference, String> {
        let info = model.info();
        let skipped = match gives {
            Gives::Output => info.cuts.len() - 1,
            Gives::EveryCut => 1,
        };
        let cuts = info.cuts[skipped..].to_vec();
        let mut builder = self.plain(threads)?;
        let mut session = builder.commit_from_file(&info.file).map_err(text)?;
        let known = session.outputs().iter().map(|o| o.name().to_owned());
        let known: Vec<String> = known.collect();
        if !cuts.iter().all(|c| known.contains(&c.tensor)) {
            let bytes = std::fs::read(&info.file).map_err(|e| format!("{}: {e}", info.file.display()))?;
            let bytes = with_outputs(&bytes, cuts.iter().map(|c| c.tensor.as_str()))?;
            let folder = info.file.parent().unwrap_or(Path::new("."));
            session = builder
                .with_config_entry(WEIGHTS_FOLDER, folder.to_string_lossy())
                .map_err(text)?
                .commit_from_memory(&bytes)
                .map_err(text)?;
        }
        Ok(Reference {
            session,
            from: info.cuts[0].clone(),
            cuts,
        })
    }

    /// Opens the layers of a range as a file of their own.
    pub fn reference_of(
        &self,
        model: &Model,
        range: StageRange,
        threads: usize,
    ) -> Result<Reference, String> {
        let info = model.info();
        let ends = info.cut(range.from()).zip(info.cut(range.to()));
        let (from, to) = ends.ok_or("a range beyond the last cut point")?;
        let part = model.parts().part(range, None).map_err(|e| e.to_string())?;
        Ok(Reference {
            session: self.plain(threads)?.commit_from_memory(&part).map_err(text)?,
            from: from.clone(),
            cuts: vec![to.clone()],
        })
    }

    fn plain(&self, threads: usize) -> Result<SessionBuilder, String> {
        let builder = Session::builder(&self.library.environment).map_err(text)?;
        builder.with_intra_threads(threads).map_err(text)
    }
}

impl Reference {
    /// Runs the file on a batch that fits its input; the tensors in the order of their cut points.
    pub fn run(&mut self, batch: Tensor) -> Result<Vec<Tensor>, String> {
        let requests = batch.requests();
        let input = input_of(&self.from, batch).map_err(text)?;
        let name = self.from.tensor.as_str();
        let input = vec![(name, SessionInputValue::from(input))];
        let outputs = self.session.run(input).map_err(text)?;
        let tensor = |cut: &Cut| {
            let value = outputs.get(&cut.tensor);
            let value = value.ok_or_else(|| format!("the session has no output {}", cut.tensor))?;
            let elements = elements_of(cut.dtype, value).map_err(text)?;
            Tensor::new(requests, cut.shape.clone(), elements)
                .map_err(|e| format!("tensor {}: {e}", cut.tensor))
        };
        self.cuts.iter().map(tensor).collect()
    }
}
