//! `graft model features`: how intermediate tensors may travel in fewer bytes.

mod page;
mod pictures;
mod search;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use graft_features::Features;
use graft_files::{CatalogEntry, read_manifest};
use graft_model::{CutPoint, DType, Manifest};

use self::pictures::Pictures;
use self::search::{Asked, Found, Search};
use super::try_engines;
use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::{can_be_written, line};

/// Name of the file, beside the manifest.
const FILE: &str = "features.bin";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model.toml, or a folder with one, of a model that takes pictures
    model: PathBuf,
    /// A folder of photographs, PNG or JPEG, whose folders are looked through too; the codings are made from half of them and held against the others
    #[arg(long, required = true, value_name = "FOLDER")]
    pictures: Vec<PathBuf>,
    /// Squares that are cut out of each photograph
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=256))]
    squares: u16,
    /// Part of the accuracy that may be lost, at most, if the network is right as often as it says: a first label that is another loses
    /// as much as it is less likely
    #[arg(long, default_value_t = 0.005)]
    most_loss: f64,
    /// Part of the answers, at most, whose first label may be another than without coding; where no step keeps to that, the one with the
    /// fewest is taken, up to four times as many
    #[arg(long, default_value_t = 0.01)]
    most_others: f64,
    /// Only this cut point; may be given several times
    #[arg(long = "partition-point", value_name = "CUT POINT")]
    points: Vec<u16>,
    /// Where to write it; default: features.bin beside the manifest
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Name it in the manifest, too: from then on it is part of the model's identity, and clients, routers and workers need the same
    #[arg(long, conflicts_with = "out")]
    write: bool,
    /// Draw bytes by cut point
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArguments,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Adds the key to a manifest: before its tables, or where that does not make it a manifest that names the file, at its beginning.
fn name_it(manifest: &Path) -> anyhow::Result<()> {
    let context = || manifest.display().to_string();
    let text = std::fs::read_to_string(manifest).with_context(context)?;
    let key = format!("features = \"{FILE}\"\n");
    let mut at = 0;
    let table = text.split_inclusive('\n').find_map(|line| {
        let start = at;
        at += line.len();
        line.trim_start().starts_with('[').then_some(start)
    });
    let (keys, tables) = text.split_at(table.unwrap_or(text.len()));
    let drafts = [
        format!("{}\n{key}\n{tables}", keys.trim_end()),
        format!("{key}{text}"),
    ];
    let names_it = |draft: &String| {
        Manifest::parse(manifest, draft).is_ok_and(|read| read.features.as_deref() == Some(Path::new(FILE)))
    };
    let with = drafts
        .iter()
        .find(|draft| names_it(draft))
        .with_context(|| format!("{}: add this line to it: {}", manifest.display(), key.trim_end()))?;
    let draft = manifest.with_extension("toml.draft");
    std::fs::write(&draft, with).with_context(|| draft.display().to_string())?;
    std::fs::rename(&draft, manifest).with_context(context)
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    for (name, part) in [
        ("most-loss", arguments.most_loss),
        ("most-others", arguments.most_others),
    ] {
        anyhow::ensure!((0.0..1.0).contains(&part), "--{name} {part}: a part, from 0 to 1");
    }
    let manifest = match arguments.model.is_dir() {
        true => arguments.model.join("model.toml"),
        false => arguments.model.clone(),
    };
    let read = read_manifest(&manifest)?;
    anyhow::ensure!(
        read.in_sizes().len() == 1,
        "{}: the model has several sizes, and features are those of one",
        manifest.display()
    );
    let named = read.features;
    // Those that are there may be of another file: they are made anew.
    let (entry, model) = CatalogEntry::open_without_features(&manifest)?;
    let here = try_engines(&manifest, entry, model, &arguments.engine, arguments.json)?;
    let entry = &here.entry;
    let info = &entry.info;
    let image = entry.manifest.input.image.clone().with_context(|| {
        format!(
            "{}: it takes no pictures ([input.image] in its manifest)",
            arguments.model.display()
        )
    })?;
    let out = arguments.out.clone().unwrap_or_else(|| entry.folder.join(FILE));
    can_be_written(&out)?;
    if let Some(html) = &arguments.html {
        can_be_written(html)?;
    }
    let names_it = named
        .as_ref()
        .is_some_and(|named| entry.folder.join(named) == out);
    anyhow::ensure!(
        !arguments.write || named.is_none() || names_it,
        "--write: {} names another file of features",
        manifest.display()
    );
    anyhow::ensure!(
        arguments.write || !names_it,
        "{} names {}, which is part of the model's identity: --write makes it anew, --out writes elsewhere",
        manifest.display(),
        out.display()
    );
    if arguments.write {
        can_be_written(&manifest)?;
    }
    let wanted = |point: CutPoint| {
        let float = info
            .cut(point)
            .is_some_and(|cut| cut.tensors.iter().all(|t| t.dtype == DType::F32));
        point < info.last() && float && (arguments.points.is_empty() || arguments.points.contains(&point.0))
    };
    let points: Vec<CutPoint> = info.cut_points().filter(|point| wanted(*point)).collect();
    anyhow::ensure!(
        !points.is_empty(),
        "no cut point is left at which 32-bit floats alone are sent"
    );

    let pictures = Pictures::read(&arguments.pictures)?;
    eprintln!(
        "{} photographs, {} cut points of {}",
        pictures.len(),
        points.len(),
        entry.manifest.name
    );
    let asked = Asked {
        squares: usize::from(arguments.squares),
        most_loss: arguments.most_loss,
        most_others: arguments.most_others,
    };
    let search = Search::new(&here, &image, &pictures, asked)?;
    let found = search.run_all(&points)?;
    anyhow::ensure!(
        !found.is_empty(),
        "no coding keeps the answers at any cut point: nothing is written"
    );
    let plain = search.as_jpeg()?;

    let codings: BTreeMap<u16, _> = found.iter().map(|f| (f.point.0, f.coding.clone())).collect();
    let bytes = Features(codings).to_bytes()?;
    std::fs::write(&out, &bytes).with_context(|| out.display().to_string())?;
    if arguments.write && named.is_none() {
        name_it(&manifest)?;
    }
    let report = table::Report {
        model: entry.manifest.name.clone(),
        last: info.last(),
        found: &found,
        jpeg: plain,
        held: search.held(),
        file: out.display().to_string(),
        file_bytes: bytes.len(),
    };
    if let Some(html) = &arguments.html {
        std::fs::write(html, page::html(&report)).with_context(|| html.display().to_string())?;
    }
    match arguments.json {
        true => line(report.json())?,
        false => report.print()?,
    }
    Ok(Verdict::Yes)
}
