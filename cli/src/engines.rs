//! Arguments that say which engines a command uses.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use graft_engine::{EngineKind, EngineOptions, Engines};
use graft_worker::EngineChoice;

#[derive(Debug, Clone, Args)]
pub(crate) struct EngineArguments {
    /// Which engine runs layers: one of them, or whichever is fastest for a model here
    #[arg(long, value_enum, default_value_t = Name::Fastest)]
    engine: Name,
    /// onnxruntime's library, or the library's folder; default: ORT_DYLIB_PATH, else it is looked for
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Fastest,
    Rten,
    Onnxruntime,
}

impl EngineArguments {
    /// Opens the engines.
    pub fn open(&self) -> anyhow::Result<Engines> {
        Ok(Engines::open(&self.options())?)
    }

    pub fn options(&self) -> EngineOptions {
        EngineOptions {
            kind: match self.engine {
                Name::Fastest => EngineKind::Fastest,
                Name::Rten => EngineKind::Rten,
                Name::Onnxruntime => EngineKind::OnnxRuntime,
            },
            library: self.onnxruntime.clone(),
            scratch: None,
        }
    }

    pub fn library(&self) -> Option<&Path> {
        self.onnxruntime.as_deref()
    }

    /// The choice of engines for a worker.
    pub fn choice(&self) -> EngineChoice {
        EngineChoice::Cpu(self.options())
    }
}
