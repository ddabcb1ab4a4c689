//! Photographs, and squares that are cut out of them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use graft_client::picture;
use graft_model::SplitMix;

/// Photographs at most.
const MOST: usize = 10_000;
/// Folders within folders at most.
const DEEPEST: usize = 16;
/// Longest file that is read, in bytes (64 MiB).
const MOST_BYTES: u64 = 64 << 20;
/// Least side of a photograph, in pixels.
const LEAST_SIDE: u32 = 200;
/// Part of a photograph's shorter side that a square has at least.
const LEAST_PART: f64 = 0.7;
/// Photographs of which half make the codings, and half are held against them, at least.
const FEWEST: usize = 4;

/// Files of photographs.
pub(super) struct Pictures(Vec<PathBuf>);

fn look(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let list = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for item in list {
        let path = item.with_context(|| folder.display().to_string())?.path();
        let kind = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if path.is_dir() && depth < DEEPEST {
            look(&path, depth + 1, found)?;
        } else if matches!(kind.as_deref(), Some("png" | "jpg" | "jpeg")) && found.len() < MOST {
            found.push(path);
        }
    }
    Ok(())
}

impl Pictures {
    /// All photographs of some folders.
    pub fn read(folders: &[PathBuf]) -> anyhow::Result<Self> {
        let mut found = vec![];
        for folder in folders {
            look(folder, 0, &mut found)?;
        }
        found.sort_by(|a, b| a.file_name().cmp(&b.file_name()).then(a.cmp(b)));
        anyhow::ensure!(
            found.len() >= FEWEST,
            "{} photographs in {folders:?}: a few dozen, of what the model is to see, say something",
            found.len()
        );
        Ok(Pictures(found))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Some squares of every second photograph from `first` on, at places and of sizes by chance, half of them mirrored: `each` of a
    /// photograph, but `most` of all, evenly spread. Those that can't be read, or are too small, are named and left out.
    pub fn squares(
        &self,
        first: usize,
        each: usize,
        most: usize,
        mut use_one: impl FnMut(&picture::Pixels) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let files = || self.0.iter().enumerate().skip(first).step_by(2);
        let all = files().count() * each;
        let most = most.min(all);
        let up_to = |square: usize| square as u128 * most as u128 / all.max(1) as u128;
        let wanted = |square: usize| up_to(square) != up_to(square + 1);
        for (place_of, (number, file)) in files().enumerate() {
            let own = place_of * each..(place_of + 1) * each;
            if !own.clone().any(wanted) {
                continue;
            }
            let read = || -> anyhow::Result<picture::Pixels> {
                let length = std::fs::metadata(file)?.len();
                anyhow::ensure!(length <= MOST_BYTES, "it has {length} bytes");
                Ok(picture::decode(&std::fs::read(file)?)?)
            };
            let picture = match read() {
                Ok(picture) => picture,
                Err(error) => {
                    eprintln!("left out: {}: {error:#}", file.display());
                    continue;
                }
            };
            let (width, height) = picture.dimensions();
            if width.min(height) < LEAST_SIDE {
                eprintln!("left out: {}: {width} × {height} pixels", file.display());
                continue;
            }
            for square in own.filter(|square| wanted(*square)).map(|square| square % each) {
                let part = |what: u64| SplitMix((number as u64) << 32 | (square as u64) << 4 | what).part();
                let side = f64::from(width.min(height)) * (LEAST_PART + (1.0 - LEAST_PART) * part(0));
                let place = |length: u32, part: f64| ((f64::from(length) - side) * part) as u32;
                let mut cut = picture::square(
                    &picture,
                    place(width, part(1)),
                    place(height, part(2)),
                    side as u32,
                );
                if square % 2 == 1 {
                    picture::mirror(&mut cut);
                }
                use_one(&cut)?;
            }
        }
        Ok(())
    }
}
