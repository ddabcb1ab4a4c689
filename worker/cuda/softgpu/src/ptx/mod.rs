//! PTX as text, and as instructions that the machine executes.

mod decode;
mod instruction;
mod parse;
mod place;
mod text;

pub use instruction::*;
pub use parse::parse;
pub use place::reconvergence;

/// A module's kernels.
#[derive(Debug, Default)]
pub struct Module {
    /// The kernels, in the text's order.
    pub kernels: Vec<std::sync::Arc<Kernel>>,
    /// Source files, by the numbers that lines name.
    pub files: Vec<(u32, String)>,
}

/// Why a text is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the PTX: {what}: {text}")]
pub struct PtxError {
    /// Line in the text, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// The statement.
    pub text: String,
}
