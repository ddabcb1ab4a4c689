//! How a file is to be read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dim::DType;

/// What a manifest may say of how a file is to be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReadOptions {
    /// Which of the file's outputs are the model's; empty: all of them.
    pub outputs: Vec<String>,
    /// Shape of one request's input, without the batch, where the file leaves sizes open and has one input.
    pub input_shape: Option<Vec<usize>>,
    /// What is said of single inputs, by name.
    pub inputs: BTreeMap<String, InputOptions>,
    /// Outputs of operators for which Graft has no rule, by name, as an engine found them.
    pub tensors: BTreeMap<String, ToldTensor>,
    /// How intermediate tensors may travel in fewer bytes: what `Features::to_bytes` made.
    pub features: Option<Vec<u8>>,
}

/// A tensor of which an engine had to tell what it is. Its first dimension is the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldTensor {
    /// Shape for one request, without the batch.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub dtype: DType,
}

/// What a manifest may say of one input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputOptions {
    /// Shape for one request, without the batch, where the file leaves sizes open.
    pub shape: Option<Vec<usize>>,
    /// Place of the batch among the input's dimensions; `None`: a dimension that the file calls so, else the first.
    pub batch_axis: Option<usize>,
    /// Elements that are the same for every request: the input becomes a constant. One element stands for all.
    pub value: Option<Vec<f64>>,
}

impl InputOptions {
    /// Place of the batch among the input's dimensions, as they are called in the file: as it is said here, else the first
    /// that the file calls a batch, else the first.
    pub fn axis<'s>(&self, mut symbols: impl Iterator<Item = &'s str>) -> usize {
        let called_so = |symbol: &str| symbol.to_ascii_lowercase().contains("batch");
        let axis = self.batch_axis.or_else(|| symbols.position(called_so));
        axis.unwrap_or(0)
    }
}

impl ReadOptions {
    /// Inputs that hold the same for every request, with what they hold.
    pub(crate) fn fixed(&self) -> BTreeMap<String, Vec<f64>> {
        let inputs = self.inputs.iter();
        inputs
            .filter_map(|(name, input)| Some((name.clone(), input.value.clone()?)))
            .collect()
    }

    /// Adds all that it says to a model's identity.
    pub(crate) fn add_to(&self, hash: &mut Sha256) {
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let sizes = |shape: &Option<Vec<usize>>| -> Vec<u8> {
            let sizes = shape.iter().flatten();
            let known = [u8::from(shape.is_some())].into_iter();
            known
                .chain(sizes.flat_map(|&n| (n as u64).to_le_bytes()))
                .collect()
        };
        add(&(self.outputs.len() as u64).to_le_bytes());
        self.outputs.iter().for_each(|name| add(name.as_bytes()));
        add(&sizes(&self.input_shape));
        add(&(self.inputs.len() as u64).to_le_bytes());
        for (name, input) in &self.inputs {
            add(name.as_bytes());
            add(&sizes(&input.shape));
            add(&sizes(&input.batch_axis.map(|axis| vec![axis])));
            let value = input.value.iter().flatten();
            let value = value.flat_map(|v| v.to_le_bytes());
            add(&value.collect::<Vec<u8>>());
            add(&[u8::from(input.value.is_some())]);
        }
        add(&(self.tensors.len() as u64).to_le_bytes());
        for (name, told) in &self.tensors {
            add(name.as_bytes());
            add(&sizes(&Some(told.shape.clone())));
            add(told.dtype.name().as_bytes());
        }
        self.features.iter().for_each(|features| add(features));
    }
}
