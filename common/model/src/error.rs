//! Errors of model files, in words with which a file's owner can mend it.

use std::fmt;
use std::path::Path;

/// Kind of what is wrong with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelErrorKind {
    /// The file can't be read.
    Io,
    /// The file is no ONNX model, or is cut off.
    NotOnnx,
    /// The operator set is older or newer than what Graft reads.
    Opset,
    /// An operator that Graft has no shape rule for.
    UnknownOperator,
    /// A shape that isn't known before the model runs.
    DynamicShape,
    /// The batch dimension can't be made symbolic.
    Batch,
    /// No place where a single tensor crosses the graph, or more than one input or output.
    NoCutPoint,
    /// The graph contradicts itself.
    Malformed,
    /// The manifest is wrong.
    Manifest,
    /// A test data set is wrong, or can't be used.
    Data,
}

/// An error that names the file, the node and what to do.
#[derive(Debug, Clone)]
pub struct ModelError {
    kind: ModelErrorKind,
    file: Box<Path>,
    node: Option<Box<str>>,
    what: String,
    hint: String,
    opset: Option<i64>,
    without_rule: Box<[String]>,
}

impl ModelError {
    /// An error of a kind: what is wrong, and what the file's owner can do about it.
    pub fn new(kind: ModelErrorKind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            file: Path::new("").into(),
            node: None,
            what: what.into(),
            hint: hint.into(),
            opset: None,
            without_rule: Box::default(),
        }
    }

    /// A test data set that can't be used.
    pub fn data(file: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ModelErrorKind::Data, what, hint).in_file(file)
    }

    /// The error, in a file.
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file = file.into();
        self
    }

    pub(crate) fn at_node(mut self, node: impl Into<String>) -> Self {
        if self.node.is_none() {
            self.node = Some(node.into().into_boxed_str());
        }
        self
    }

    /// The node's operator has no rule; these are its outputs.
    pub(crate) fn without_rule(mut self, outputs: Vec<String>) -> Self {
        self.without_rule = outputs.into_boxed_slice();
        self
    }

    /// Outputs of the node, where all that is wrong is that Graft has no rule for its operator.
    pub fn outputs_without_rule(&self) -> &[String] {
        &self.without_rule
    }

    /// Kind of what is wrong.
    pub fn kind(&self) -> ModelErrorKind {
        self.kind
    }

    pub(crate) fn of_opset(mut self, opset: i64) -> Self {
        self.opset = Some(opset);
        self
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What its owner can do about it; empty: nothing is known.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Operator set of the file, where that much was read.
    pub fn opset(&self) -> Option<i64> {
        self.opset
    }

    /// The operator at which it was found, where it was found at a node.
    pub fn operator(&self) -> Option<&str> {
        operator_of(self.node()?)
    }

    /// The node at which it was found, where it was found at one.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }
}

/// The operator in a node's name as messages call it: `conv1 (Conv)`, `#3 (Relu, output y)`.
pub fn operator_of(node: &str) -> Option<&str> {
    let (_, rest) = node.rsplit_once(" (")?;
    rest.split([',', ')']).next()
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}: ", self.file.display())?;
        }
        if let Some(node) = &self.node {
            write!(f, "node {node}: ")?;
        }
        write!(f, "{}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, ". {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ModelError {}
