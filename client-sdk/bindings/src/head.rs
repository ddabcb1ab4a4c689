//! Layers that the app runs itself.

use std::sync::Arc;

use graft_client::{Batch, CutPoint, DeviceError, Head, ModelInfo, StageRange, Tensor};

use crate::model::{TensorValue, values};

/// Layers that can't be run, in words.
#[derive(Debug, Clone, PartialEq, thiserror::Error, uniffi::Error)]
pub enum LayerError {
    /// They can't be.
    #[error("{why}")]
    Failed {
        /// What happened.
        why: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for LayerError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        LayerError::Failed { why: error.reason }
    }
}

/// Layers that an app has: all between two cut points, of which the first is 0 (the model's inputs) or the second the last (its outputs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct Layers {
    /// The cut point at which they begin.
    pub start: u16,
    /// The cut point at which they end.
    pub end: u16,
}

/// Runs layers of one model as the app likes: on LiteRT, Core ML, ONNX Runtime, of the files that `graft model split` writes.
#[uniffi::export(with_foreign)]
pub trait LayerRunner: Send + Sync {
    /// What it runs on; part of the name under which it is kept what layers take.
    fn name(&self) -> String;

    /// The layers that it has. Without any to the end, there is no falling back from a server that does not answer; those from the input to
    /// the end do for all.
    fn layers(&self) -> Vec<Layers>;

    /// Runs layers that it has on one request: the tensors of their first cut point in, those of their last out, in order. It is called on
    /// threads of the library's.
    fn run(&self, layers: Layers, tensors: Vec<TensorValue>) -> Result<Vec<TensorValue>, LayerError>;
}

/// What an app brought, as the client knows it.
pub(crate) struct AppHead {
    runner: Arc<dyn LayerRunner>,
    name: String,
    ranges: Vec<StageRange>,
}

impl AppHead {
    pub(crate) fn new(runner: Arc<dyn LayerRunner>) -> Arc<Self> {
        let ranges = runner.layers();
        let range = |layers: Layers| StageRange::new(CutPoint(layers.start), CutPoint(layers.end));
        Arc::new(AppHead {
            name: runner.name(),
            ranges: ranges.into_iter().filter_map(range).collect(),
            runner,
        })
    }
}

impl Head for AppHead {
    fn name(&self) -> &str {
        &self.name
    }

    fn has(&self, range: StageRange) -> bool {
        self.ranges.contains(&range)
    }

    fn run(&self, model: &ModelInfo, range: StageRange, input: Batch) -> Result<Batch, DeviceError> {
        let wrong = |what: String| DeviceError::Head(format!("{}: {what}", self.name));
        let (Some(from), Some(to)) = (model.cut(range.from()), model.cut(range.to())) else {
            return Err(wrong(format!("there are no layers {range}")));
        };
        let tensors = values(&from.tensors, &input).map_err(|error| wrong(error.to_string()))?;
        let layers = Layers {
            start: range.from().0,
            end: range.to().0,
        };
        let given = self
            .runner
            .run(layers, tensors)
            .map_err(|error| wrong(error.to_string()))?;
        if given.len() != to.tensors.len() {
            return Err(wrong(format!("{} tensors for {to}", given.len())));
        }
        let tensors = to.tensors.iter().zip(&given).map(|(spec, value)| {
            Tensor::from_requests(spec, &[(spec.dtype, &value.data)])
                .map_err(|error| wrong(format!("{}: {error}", spec.name)))
        });
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        Batch::new(tensors).map_err(|error| wrong(error.to_string()))
    }
}
