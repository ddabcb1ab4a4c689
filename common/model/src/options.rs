//! How a file is to be read.

/// What a manifest may say of how a file is to be read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Which output is the model's, where the file has several.
    pub output: Option<String>,
    /// Shape of one request's input, without the batch, where the file leaves sizes open.
    pub input_shape: Option<Vec<usize>>,
}
