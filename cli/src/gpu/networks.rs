//! The networks that a GPU is checked with.

use std::path::{Path, PathBuf};

use anyhow::Context;
use graft_client::picture;
use graft_files::CatalogEntry;
use graft_model::{Batch, Model, ReadOptions, samples};

/// A network to be checked, with an input.
pub(super) struct Network {
    pub name: String,
    /// Its name, which others may have, too.
    called: String,
    pub file: PathBuf,
    pub model: Model,
    pub input: Batch,
}

/// Seed of inputs that are made up.
const INPUT_SEED: u64 = 7;

/// The networks of files.
pub(super) fn given(files: &[PathBuf]) -> anyhow::Result<Vec<Network>> {
    let mut networks = vec![];
    for file in files {
        let (entry, model) = crate::model::open(file)?;
        let sample = sample(&entry)?;
        let made_up = || Batch::pseudo_random(model.info().inputs(), 1, INPUT_SEED);
        // A file is called by its name, a folder by its manifest's; files of one name in several folders are numbered.
        let stem = file.extension().filter(|e| *e == "onnx").and(file.file_stem());
        let own = stem.map_or_else(
            || entry.manifest.name.clone(),
            |s| s.to_string_lossy().into_owned(),
        );
        let before = networks.iter().filter(|n: &&Network| n.called == own).count();
        let name = if before == 0 {
            own.clone()
        } else {
            format!("{own}-{}", before + 1)
        };
        networks.push(Network {
            name,
            called: own,
            file: file.clone(),
            input: sample.unwrap_or_else(made_up),
            model,
        });
    }
    Ok(networks)
}

/// A network's sample picture, where it has one.
fn sample(entry: &CatalogEntry) -> anyhow::Result<Option<Batch>> {
    let (Some(sample), Some(spec)) = (&entry.manifest.sample, &entry.manifest.input.image) else {
        return Ok(None);
    };
    let file = entry.folder.join(&sample.file);
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    Ok(Some(picture::tensor(&picture::decode(&bytes)?, spec)?.into()))
}

/// Networks that are built in, but for those with layers that only engines on the processor run.
pub(super) fn built_in() -> anyhow::Result<Vec<Network>> {
    let small = [
        ("residual-cnn", samples::residual_cnn()),
        ("dense-cnn", samples::dense_cnn()),
        ("detector", samples::detector()),
        ("unet", samples::unet()),
        ("vit", samples::vit(samples::BatchAs::Symbolic)),
        ("bert-with-mask", samples::bert_with_mask()),
    ];
    small
        .into_iter()
        .map(|(name, bytes)| {
            let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default())?;
            Ok(Network {
                name: name.to_owned(),
                called: name.to_owned(),
                file: PathBuf::from(name),
                input: Batch::pseudo_random(model.info().inputs(), 2, INPUT_SEED),
                model,
            })
        })
        .collect()
}
