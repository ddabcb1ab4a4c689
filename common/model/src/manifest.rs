//! A model's manifest, `model.toml`: how it is read, fed and labelled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dim::DType;
use crate::error::{ModelError, ModelErrorKind};
use crate::options::{InputOptions, ReadOptions, ToldTensor};
use crate::precision::Precision;

/// What `model.toml` says of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name by which people and the HTTP interface call the model: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// The ONNX file, relative to the manifest.
    pub file: PathBuf,
    /// SPDX expression of the weights' licence.
    pub license: String,
    /// Which output is the model's, where the file has several and one is wanted.
    #[serde(default)]
    pub output: Option<String>,
    /// Which outputs are the model's, where the file has several and not all are wanted.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// File with one label a line, in the order of the output's classes.
    #[serde(default)]
    pub labels: Option<PathBuf>,
    /// Element types in which intermediate tensors may travel. The first is the default.
    #[serde(default = "fp32")]
    pub wire: Vec<DType>,
    /// File that says how intermediate tensors may travel in fewer bytes; `graft model features` makes it.
    #[serde(default)]
    pub features: Option<PathBuf>,
    /// Precisions in which devices may compute it. A device takes the first one that it has.
    #[serde(default = "as_the_file_says")]
    pub precision: Vec<Precision>,
    /// How the input is made.
    #[serde(default)]
    pub input: InputSpec,
    /// What is to be known of single inputs, by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, OneInput>,
    /// Outputs of operators for which Graft has no rule, by name: `graft model tell` finds them.
    #[serde(default)]
    pub tensors: BTreeMap<String, ToldTensor>,
    /// A picture to try the model with.
    #[serde(default)]
    pub sample: Option<Sample>,
    /// The model of which this is one of several sizes; `None`: it has one size, or the manifest is of all.
    #[serde(skip)]
    pub size_of: Option<String>,
}

/// `[inputs.NAME]` of a manifest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneInput {
    /// Shape for one request, without the batch, where the file leaves sizes open.
    #[serde(default)]
    pub shape: Option<Vec<usize>>,
    /// Several such shapes, ascending: the model is served in as many sizes. All inputs that have sizes have as many, and
    /// the n-th ones belong together.
    #[serde(default)]
    pub sizes: Vec<Vec<usize>>,
    /// With what smaller inputs are filled up to the next size, at the ends of their dimensions. `None`: inputs have exactly
    /// one of the sizes.
    #[serde(default)]
    pub pad: Option<f64>,
    /// Place of the batch among the input's dimensions, where it is not the first.
    #[serde(default)]
    pub batch_axis: Option<usize>,
    /// A number, or a list of them, that the input holds for every request: nobody has to send it.
    #[serde(default)]
    pub value: Option<InputValue>,
}

/// What an input holds for every request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InputValue {
    /// All elements are equal.
    One(f64),
    /// Each element, in row-major order.
    Each(Vec<f64>),
}

/// `[sample]` of a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The picture, relative to the manifest.
    pub file: PathBuf,
    /// The label that is right for it.
    pub label: String,
}

/// `[input]` of a manifest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Shape of one request, without the batch, where the file leaves sizes open.
    #[serde(default)]
    pub shape: Option<Vec<usize>>,
    /// Several such shapes, ascending: the model is served in as many sizes.
    #[serde(default)]
    pub sizes: Vec<Vec<usize>>,
    /// With what a smaller input is filled up to the next size, at the ends of its dimensions. `None`: an input has exactly
    /// one of the sizes.
    #[serde(default)]
    pub pad: Option<f64>,
    /// How a picture becomes the input; absent for models that don't take pictures.
    #[serde(default)]
    pub image: Option<ImageInput>,
}

/// How a picture becomes a tensor of shape `[3, crop, crop]`: the shorter side is scaled to `resize`, the
/// middle is cropped, and each channel becomes `(value - mean) / std` of values 0 to 255.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInput {
    /// Length of the shorter side after scaling, in pixels.
    pub resize: u32,
    /// Side of the square that is cut out of the middle, in pixels.
    pub crop: u32,
    /// How pixels are interpolated.
    #[serde(default)]
    pub resample: Resample,
    /// Means that are subtracted from red, green and blue (0 to 255).
    pub mean: [f32; 3],
    /// Divisors of red, green and blue, after the subtraction.
    pub std: [f32; 3],
}

/// How pixels are interpolated when a picture is scaled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resample {
    /// Triangle filter.
    #[default]
    Bilinear,
    /// Catmull-Rom filter.
    Bicubic,
}

/// Sizes in which one model is served, at most: each is planned for and measured by itself.
const MOST_SIZES: usize = 16;

fn as_the_file_says() -> Vec<Precision> {
    vec![Precision::F32]
}

fn fp32() -> Vec<DType> {
    vec![DType::F32]
}

impl Manifest {
    /// Reads and checks a manifest's text; `file` is for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ModelError> {
        let wrong =
            |what: String, hint: &str| ModelError::new(ModelErrorKind::Manifest, what, hint).in_file(file);
        let manifest: Manifest =
            toml::from_str(text).map_err(|e| wrong(e.to_string(), "models/README.md lists the keys"))?;
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if manifest.name.is_empty() || manifest.name.len() > 64 || !manifest.name.chars().all(legal) {
            return Err(wrong(
                format!("name {:?} is not allowed", manifest.name),
                "Use up to 64 letters, digits, '-', '_' and '.'",
            ));
        }
        if manifest.wire.is_empty()
            || manifest
                .wire
                .iter()
                .any(|t| !matches!(t, DType::F32 | DType::F16))
        {
            return Err(wrong("wire must list \"f32\", \"f16\" or both".to_owned(), ""));
        }
        let twice = |at: usize| manifest.precision[..at].contains(&manifest.precision[at]);
        if manifest.precision.is_empty() || (0..manifest.precision.len()).any(twice) {
            return Err(wrong(
                "precision must list \"f32\", \"f16\", \"int8\" or some of them, each once".to_owned(),
                "",
            ));
        }
        if manifest.output.is_some() && !manifest.outputs.is_empty() {
            return Err(wrong(
                "it names both an output and outputs".to_owned(),
                "Keep one of the two keys",
            ));
        }
        for (name, input) in &manifest.inputs {
            if input.value.is_some() && (input.batch_axis.is_some() || input.shape.is_some()) {
                return Err(wrong(
                    format!(
                        "input {name} has a value, which is the same for every request, and the shape or batch axis of one"
                    ),
                    "Keep the value, or the others",
                ));
            }
            if input.value.as_ref().is_some_and(|v| !v.is_finite()) {
                return Err(wrong(format!("input {name} has a value that is no number"), ""));
            }
        }
        if manifest.features.is_some() && manifest.sized().any(|(_, sizes, ..)| !sizes.is_empty()) {
            return Err(wrong(
                "it names features, and the model has several sizes".to_owned(),
                "Features are those of one size: keep one of them, or the sizes",
            ));
        }
        manifest.check_sizes().map_err(|what| wrong(what, ""))?;
        if let Some(image) = &manifest.input.image {
            let numbers = image.mean.iter().chain(&image.std);
            if image.crop == 0
                || image.crop > image.resize
                || image.resize > 8192
                || numbers.clone().any(|v| !v.is_finite())
                || image.std.contains(&0.0)
            {
                return Err(wrong(
                    "[input.image] needs 0 < crop <= resize <= 8192, finite mean and std, std not 0"
                        .to_owned(),
                    "",
                ));
            }
        }
        Ok(manifest)
    }

    /// A manifest for an ONNX file that has none: named after the file, fed with tensors.
    pub fn for_file(file: &Path) -> Self {
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned());
        Manifest {
            name: stem.unwrap_or_else(|| "model".to_owned()),
            file: file.to_owned(),
            license: "unknown".to_owned(),
            output: None,
            outputs: vec![],
            labels: None,
            precision: as_the_file_says(),
            wire: fp32(),
            features: None,
            input: InputSpec::default(),
            inputs: BTreeMap::new(),
            tensors: BTreeMap::new(),
            sample: None,
            size_of: None,
        }
    }

    /// What is said of the sizes of each input; the one input of most models has no name here.
    fn sized(&self) -> impl Iterator<Item = (&str, &[Vec<usize>], Option<f64>, bool)> {
        let only = ("", &*self.input.sizes, self.input.pad, self.input.shape.is_some());
        let named = self.inputs.iter();
        let named = named.map(|(name, i)| {
            (
                name.as_str(),
                &*i.sizes,
                i.pad,
                i.shape.is_some() || i.value.is_some(),
            )
        });
        std::iter::once(only).chain(named)
    }

    fn check_sizes(&self) -> Result<(), String> {
        let mut count = None;
        for (name, sizes, pad, fixed) in self.sized() {
            let input = if name.is_empty() {
                "the input".to_owned()
            } else {
                format!("input {name}")
            };
            if pad.is_some_and(|pad| !pad.is_finite()) {
                return Err(format!("{input} is filled up with what is no number"));
            }
            if sizes.is_empty() {
                if pad.is_some() {
                    return Err(format!("{input} is to be filled up, and has no sizes"));
                }
                continue;
            }
            if fixed || self.input.image.is_some() {
                return Err(format!(
                    "{input} has sizes, and a shape, a value or a picture that says what they are"
                ));
            }
            let elements = |size: &[usize]| size.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            let ascending = |pair: &[Vec<usize>]| {
                pair[0].len() == pair[1].len() && elements(&pair[0]) < elements(&pair[1])
            };
            let sound =
                sizes.iter().all(|s| elements(s).is_some_and(|n| n > 0)) && sizes.windows(2).all(ascending);
            if !sound || !(2..=MOST_SIZES).contains(&sizes.len()) {
                return Err(format!(
                    "{input} has sizes {sizes:?}; expected 2 to {MOST_SIZES} shapes of as many dimensions, each with more elements than the one before"
                ));
            }
            if *count.get_or_insert(sizes.len()) != sizes.len() {
                return Err(
                    "inputs have different numbers of sizes; the n-th ones belong together".to_owned(),
                );
            }
        }
        Ok(())
    }

    /// A manifest for each size in which the model is served, ascending; this one alone, if it names no sizes. They are
    /// called by the model's name, `@` and the first input's size, such as `reader@1x32x160`.
    pub fn in_sizes(&self) -> Vec<Manifest> {
        let Some(count) = self.sized().map(|(_, sizes, ..)| sizes.len()).find(|&n| n > 0) else {
            return vec![self.clone()];
        };
        let one = |at: usize| {
            let mut one = self.clone();
            let mut label = None;
            let mut fix = |shape: &mut Option<Vec<usize>>, sizes: &mut Vec<Vec<usize>>| {
                if let Some(size) = std::mem::take(sizes).into_iter().nth(at) {
                    label.get_or_insert_with(|| {
                        size.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
                    });
                    *shape = Some(size);
                }
            };
            fix(&mut one.input.shape, &mut one.input.sizes);
            for input in one.inputs.values_mut() {
                fix(&mut input.shape, &mut input.sizes);
            }
            one.name = format!("{}@{}", self.name, label.unwrap_or_default());
            one.size_of = Some(self.name.clone());
            one
        };
        (0..count).map(one).collect()
    }

    /// With what an input that is smaller than the model's is filled up. `None`: it may not be smaller.
    pub fn pad(&self, input: &str) -> Option<f64> {
        self.size_of.as_ref()?;
        let named = self.inputs.get(input).and_then(|i| i.pad);
        named.or(self.input.pad)
    }

    /// How the manifest wants its file read. `features`: what is in the file that it names so, if it does.
    pub fn read_options(&self, features: Option<Vec<u8>>) -> ReadOptions {
        let inputs = self.inputs.iter().map(|(name, input)| {
            let options = InputOptions {
                shape: input.shape.clone(),
                batch_axis: input.batch_axis,
                value: input.value.clone().map(InputValue::into_elements),
            };
            (name.clone(), options)
        });
        ReadOptions {
            outputs: self.output.iter().chain(&self.outputs).cloned().collect(),
            input_shape: self.input.shape.clone(),
            inputs: inputs.collect(),
            tensors: self.tensors.clone(),
            features,
        }
    }
}

impl InputValue {
    fn is_finite(&self) -> bool {
        match self {
            InputValue::One(v) => v.is_finite(),
            InputValue::Each(all) => all.iter().all(|v| v.is_finite()),
        }
    }

    fn into_elements(self) -> Vec<f64> {
        match self {
            InputValue::One(v) => vec![v],
            InputValue::Each(all) => all,
        }
    }
}
