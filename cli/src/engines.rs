//! Which engines a command uses.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use graft_engine::{EngineKind, Engines};
use graft_worker::{EngineChoice, OnCpu};

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
    /// The engines.
    pub fn open(&self) -> anyhow::Result<Engines> {
        Ok(Engines::open(self.kind(), self.onnxruntime.as_deref())?)
    }

    pub fn kind(&self) -> EngineKind {
        match self.engine {
            Name::Fastest => EngineKind::Fastest,
            Name::Rten => EngineKind::Rten,
            Name::Onnxruntime => EngineKind::OnnxRuntime,
        }
    }

    pub fn library(&self) -> Option<&std::path::Path> {
        self.onnxruntime.as_deref()
    }

    /// For a worker.
    pub fn choice(&self) -> EngineChoice {
        EngineChoice::Cpu(OnCpu {
            kind: self.kind(),
            library: self.onnxruntime.clone(),
        })
    }
}
