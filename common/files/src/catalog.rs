//! A folder of models: `FOLDER/*/model.toml`, or one manifest in the folder itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graft_features::MOST_FILE_BYTES;
use graft_model::{Manifest, Model, ModelError, ModelErrorKind, ModelId, ModelInfo};

use crate::bounded;
use crate::manifest::read_manifest;
use crate::model::read_model;

/// Longest file of labels that is read, in bytes (16 MiB).
const MOST_LABEL_BYTES: u64 = 16 << 20;
/// Most models that one folder may hold.
const MAX_MODELS: usize = 256;

/// One model of a catalog.
#[derive(Debug, Clone)]
pub struct CatalogEntry {
    /// Its manifest.
    pub manifest: Manifest,
    /// Folder of the manifest.
    pub folder: PathBuf,
    /// What is known of the model.
    pub info: Arc<ModelInfo>,
    /// Labels in the order of the output's classes; empty if the model has none.
    pub labels: Arc<Vec<String>>,
}

impl CatalogEntry {
    /// Opens the model that a manifest describes; of several sizes the largest.
    pub fn open(manifest_path: &Path) -> Result<(Self, Model), ModelError> {
        let (last, _) = sizes(manifest_path)?;
        Self::of(last, manifest_path)
    }

    /// The same as if the manifest named no features.
    pub fn open_without_features(manifest_path: &Path) -> Result<(Self, Model), ModelError> {
        let (mut last, _) = sizes(manifest_path)?;
        last.features = None;
        Self::of(last, manifest_path)
    }

    /// Opens what is at a path: an ONNX file, a manifest, or a folder with one.
    pub fn at(path: &Path) -> Result<(Self, Model), ModelError> {
        let file = if path.is_dir() {
            path.join("model.toml")
        } else {
            path.to_owned()
        };
        if file.extension().is_some_and(|e| e == "toml") {
            return Self::open(&file);
        }
        let manifest = Manifest::for_file(path);
        let model = read_model(path, &manifest.read_options(None))?;
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        Ok((Self::beside(manifest, folder, &model, vec![]), model))
    }

    /// Opens a model that is in memory: its manifest's text, if it has one, its ONNX file's bytes, its labels, one a line, and what is
    /// in its file of features.
    pub fn of_bytes(
        manifest: Option<&str>,
        network: &[u8],
        labels: Option<&str>,
        features: Option<&[u8]>,
    ) -> Result<(Self, Model), ModelError> {
        let manifest = match manifest {
            None => Manifest::for_file(Path::new("model.onnx")),
            Some(text) => {
                let manifest = Manifest::parse(Path::new("model.toml"), text)?;
                manifest.in_sizes().pop().unwrap_or(manifest)
            }
        };
        if let Some(named) = &manifest.features
            && features.is_none()
        {
            let what = format!("names features, {}, and there are none", named.display());
            let hint = "Give the bytes of that file too: they are part of the model";
            return Err(
                ModelError::new(ModelErrorKind::Manifest, what, hint).in_file(Path::new("model.toml"))
            );
        }
        let features = features
            .filter(|_| manifest.features.is_some())
            .map(<[u8]>::to_vec);
        let model = Model::parse(&manifest.file, network, &manifest.read_options(features))?;
        let labels = match labels {
            None => vec![],
            Some(text) => labels_of(text, &model, Path::new("labels"))?,
        };
        Ok((Self::beside(manifest, ".".into(), &model, labels), model))
    }

    fn beside(manifest: Manifest, folder: PathBuf, model: &Model, labels: Vec<String>) -> Self {
        CatalogEntry {
            manifest,
            folder,
            info: Arc::clone(model.info()),
            labels: Arc::new(labels),
        }
    }

    /// Opens the model that a manifest describes in all its sizes, ascending; most have one.
    pub fn open_sizes(manifest_path: &Path) -> Result<Vec<(Self, Model)>, ModelError> {
        let (last, others) = sizes(manifest_path)?;
        let all = others.into_iter().chain([last]);
        all.map(|manifest| Self::of(manifest, manifest_path)).collect()
    }

    fn of(manifest: Manifest, manifest_path: &Path) -> Result<(Self, Model), ModelError> {
        let folder = manifest_path.parent().unwrap_or(Path::new(".")).to_owned();
        let options = manifest.read_options(features(&manifest, &folder)?);
        let model = read_model(&folder.join(&manifest.file), &options)?;
        let labels = match &manifest.labels {
            None => vec![],
            Some(file) => labels(&folder.join(file), &model)?,
        };
        Ok((Self::beside(manifest, folder, &model, labels), model))
    }

    /// Whether it takes an input of a shape: of its own, or of one that may be filled up to that.
    pub fn takes(&self, input: &str, shape: &[usize]) -> bool {
        let inputs = self.info.inputs();
        let Some(spec) = inputs.position(input).map(|at| &inputs.tensors[at]) else {
            return false;
        };
        let smaller = || {
            let ranks = shape.len() == spec.shape.len();
            ranks
                && shape
                    .iter()
                    .zip(&spec.shape)
                    .all(|(given, own)| (1..=*own).contains(given))
        };
        shape == spec.shape || (self.manifest.pad(input).is_some() && smaller())
    }

    /// Reads the model's file again, for an engine.
    pub fn load(&self) -> Result<Model, ModelError> {
        let options = self
            .manifest
            .read_options(features(&self.manifest, &self.folder)?);
        read_model(&self.info.file, &options)
    }
}

/// The manifest of a model's largest size, and those of the others, ascending.
fn sizes(manifest_path: &Path) -> Result<(Manifest, Vec<Manifest>), ModelError> {
    let manifest = read_manifest(manifest_path)?;
    let mut sizes = manifest.in_sizes();
    let last = sizes.pop().unwrap_or(manifest);
    Ok((last, sizes))
}

/// What is in the file that a manifest names as features.
fn features(manifest: &Manifest, folder: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    let Some(named) = &manifest.features else {
        return Ok(None);
    };
    let file = folder.join(named);
    let bytes = bounded::read(&file, MOST_FILE_BYTES).map_err(|e| {
        let hint = "graft model features makes it; without the key, tensors travel as they are";
        ModelError::new(ModelErrorKind::Manifest, format!("can't be read: {e}"), hint).in_file(&file)
    })?;
    Ok(Some(bytes))
}

fn labels(file: &Path, model: &Model) -> Result<Vec<String>, ModelError> {
    let text = bounded::read_text(file, MOST_LABEL_BYTES);
    let text = text.map_err(|e| unfit_labels(format!("can't be read: {e}"), file))?;
    labels_of(&text, model, file)
}

fn unfit_labels(what: String, file: &Path) -> ModelError {
    ModelError::new(
        ModelErrorKind::Manifest,
        what,
        "One label a line, in the order of the classes",
    )
    .in_file(file)
}

fn labels_of(text: &str, model: &Model, file: &Path) -> Result<Vec<String>, ModelError> {
    let labels: Vec<String> = text.lines().map(str::to_owned).collect();
    // Classes are those of the first output.
    let classes = model.info().outputs().tensors.first().map_or(0, |t| t.elements);
    if labels.len() != classes {
        let what = format!("has {} labels, the model has {classes} classes", labels.len());
        return Err(unfit_labels(what, file));
    }
    Ok(labels)
}

/// The models of a folder, in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: Vec<CatalogEntry>,
    /// Models that can't be served, and why.
    left_out: Vec<ModelError>,
}

impl Catalog {
    /// Reads every manifest of a folder. A model that can't be served is left out ([`Catalog::left_out`]) and all
    /// others are there; it is an error if none is.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let wrong = |what: String| {
            ModelError::new(
                ModelErrorKind::Manifest,
                what,
                "A folder of models holds one folder for each, with a model.toml in it",
            )
            .in_file(folder)
        };
        let mut manifests = vec![];
        let own = folder.join("model.toml");
        if own.is_file() {
            manifests.push(own);
        } else {
            let list = std::fs::read_dir(folder).map_err(|e| wrong(format!("can't be read: {e}")))?;
            for item in list {
                let item = item.map_err(|e| wrong(format!("can't be read: {e}")))?;
                let manifest = item.path().join("model.toml");
                if manifest.is_file() {
                    manifests.push(manifest);
                }
            }
        }
        if manifests.is_empty() {
            return Err(wrong("holds no model.toml".to_owned()));
        }
        if manifests.len() > MAX_MODELS {
            return Err(wrong(format!("holds more than {MAX_MODELS} models")));
        }
        manifests.sort();
        let mut entries: Vec<CatalogEntry> = vec![];
        let mut left_out = vec![];
        for manifest in manifests {
            let opened = match CatalogEntry::open_sizes(&manifest) {
                Ok(opened) => opened,
                Err(error) => {
                    left_out.push(error);
                    continue;
                }
            };
            for (entry, _) in opened {
                if let Some(twin) = entries
                    .iter()
                    .find(|e| e.manifest.name == entry.manifest.name || e.info.id == entry.info.id)
                {
                    return Err(wrong(format!(
                        "holds {} twice (in {} and {})",
                        entry.manifest.name,
                        twin.folder.display(),
                        entry.folder.display()
                    )));
                }
                entries.push(entry);
            }
        }
        let called = |e: &CatalogEntry| e.manifest.size_of.clone().unwrap_or(e.manifest.name.clone());
        entries.sort_by_cached_key(|e| (called(e), e.info.inputs().elements()));
        match left_out.pop() {
            Some(error) if entries.is_empty() => return Err(error),
            other => left_out.extend(other),
        }
        Ok(Catalog { entries, left_out })
    }

    /// Models of the folder that can't be served, and why.
    pub fn left_out(&self) -> &[ModelError] {
        &self.left_out
    }

    /// The models.
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// The model of an identity.
    pub fn get(&self, id: &ModelId) -> Option<&CatalogEntry> {
        self.entries.iter().find(|e| e.info.id == *id)
    }

    /// The model of a name, or of an identity written out; of a model with several sizes the largest.
    pub fn find(&self, name: &str) -> Option<&CatalogEntry> {
        self.entries
            .iter()
            .find(|e| e.manifest.name == name)
            .or_else(|| self.sizes(name).pop())
            .or_else(|| self.get(&name.parse().ok()?))
    }

    /// The sizes of a model, ascending; empty, if it has one size.
    pub fn sizes(&self, name: &str) -> Vec<&CatalogEntry> {
        let of = |e: &&CatalogEntry| e.manifest.size_of.as_deref() == Some(name);
        self.entries.iter().filter(of).collect()
    }
}
