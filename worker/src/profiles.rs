//! Measures what models cost on this machine when they are first seen, and keeps it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use graft_engine::{Engine, MeasureOptions, PartitionShape, measure};
use graft_files::{CatalogEntry, ReadFile};
use graft_model::Model;
use graft_plan::{FormatFile, Profile, Share};
use sha2::{Digest, Sha256};

/// Runs of which each figure is the median.
const REPEATS: usize = 5;
/// Name of the way of measuring; profiles that were made in another way are not used.
const MEASURED_AS: &str = "by heads and tails";
/// Time that one (batch, share) may take.
const PATIENCE: Duration = Duration::from_millis(900);
/// Time of a hop, from a stage to the next on one host, in milliseconds: a message and a copy.
pub(crate) const HOP_MS: f64 = 0.2;

/// What a profile on this machine is made with; profiles of different makes are not mixed.
pub(crate) struct Bench<'a> {
    pub engine: &'a dyn Engine,
    /// Kind of the hardware.
    pub hardware: &'a str,
    pub device: &'a PartitionShape,
    /// Ascending.
    pub shares: Vec<Share>,
    pub batches: &'a [u32],
    pub state: &'a Path,
}

impl Bench<'_> {
    fn options(&self) -> MeasureOptions {
        MeasureOptions {
            batches: self.batches.to_vec(),
            shares: self.shares.clone(),
            device: self.device.clone(),
            repeats: REPEATS,
            patience: PATIENCE,
            hop_ms: HOP_MS,
        }
    }

    /// Kept by the model's identity, the hardware, the engine, all of the device and batches.
    fn file(&self, entry: &CatalogEntry, engine: &str) -> PathBuf {
        let make = format!(
            "{engine} {MEASURED_AS} {} {:?} {}",
            self.hardware,
            self.batches,
            self.device.share()
        );
        let digest = Sha256::digest(make.as_bytes());
        let short: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
        self.state
            .join("profiles")
            .join(format!("{}-{short}.json", entry.info.id))
    }

    /// The profile of a model, from the file or by measuring.
    pub fn profile(&self, entry: &CatalogEntry, model: &Model, engine: &str) -> anyhow::Result<Profile> {
        let file = self.file(entry, engine);
        let name = entry.info.id.to_string();
        if file.is_file() {
            match Profile::read(&file) {
                Ok(profile) if profile.models.contains_key(&name) => return Ok(profile),
                Ok(_) => {
                    tracing::warn!(file = %file.display(), "the kept profile is of another model; measuring again")
                }
                Err(error) => tracing::warn!(%error, "the kept profile can't be read; measuring again"),
            }
        }
        tracing::info!(model = %entry.manifest.name, "measuring what its segments cost on this machine");
        let options = self.options();
        let measured = measure(self.engine, model, &options, |p| {
            tracing::info!(model = %entry.manifest.name, done = p.done, of = p.all, "measuring");
        })?;
        let profile = measured.into_profile(&name, self.hardware, &options).verified()?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let draft = file.with_extension("draft");
        std::fs::write(&draft, profile.to_json()?)?;
        std::fs::rename(&draft, &file)?;
        Ok(profile)
    }
}

/// Profiles of single models, of the same make, as one. The largest overhead holds for all.
pub(crate) fn join(profiles: Vec<Profile>) -> Option<Profile> {
    profiles.into_iter().reduce(|mut all, one| {
        all.stage_overhead_ms = all.stage_overhead_ms.max(one.stage_overhead_ms);
        all.models.extend(one.models);
        all
    })
}
