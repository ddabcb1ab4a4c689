//! Why a device can't run a model.

/// A device that can't run a model.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The model can't be read.
    #[error(transparent)]
    Model(#[from] graft_model::ModelError),
    /// What the app brought to run layers can't.
    #[error("{0}")]
    Head(String),
    /// The engine can't run it.
    #[cfg(feature = "engines")]
    #[error(transparent)]
    Engine(#[from] graft_engine::EngineError),
    /// No engine here runs it.
    #[cfg(feature = "engines")]
    #[error("engine {engine} does not run {file}: {refusal}")]
    Refused {
        /// An engine.
        engine: &'static str,
        /// The model's file.
        file: String,
        /// What it does not run.
        refusal: Box<graft_engine::Refusal>,
    },
    /// The engine that was asked for is not here.
    #[cfg(feature = "engines")]
    #[error(transparent)]
    Missing(#[from] graft_engine::Missing),
}
