//! `graft model features`: how intermediate tensors may travel in fewer bytes.

mod page;
mod pictures;
mod search;
mod table;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use graft_features::Features;
use graft_model::{CutPoint, DType};

use self::pictures::Pictures;
use self::search::{Asked, Found, Search};
use super::open_and_try;
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
    /// Part of the answers, at most, whose first label may be another than without coding
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

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    for (name, part) in [
        ("most-loss", arguments.most_loss),
        ("most-others", arguments.most_others),
    ] {
        anyhow::ensure!((0.0..1.0).contains(&part), "--{name} {part}: a part, from 0 to 1");
    }
    let here = open_and_try(&arguments.model, &arguments.engine, arguments.json)?;
    let entry = &here.entry;
    let info = &entry.info;
    let manifest = entry.folder.join("model.toml");
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
    let names_another = entry
        .manifest
        .features
        .as_ref()
        .is_some_and(|named| entry.folder.join(named) != out);
    anyhow::ensure!(
        !(arguments.write && names_another),
        "--write: {} names another file of features",
        manifest.display()
    );
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
    let plain = search.as_jpeg()?;

    let codings: BTreeMap<u16, _> = found.iter().map(|f| (f.point.0, f.coding.clone())).collect();
    let bytes = Features(codings).to_bytes()?;
    std::fs::write(&out, &bytes).with_context(|| out.display().to_string())?;
    if arguments.write && entry.manifest.features.is_none() {
        let text = std::fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        // Keys of the manifest itself stand before its tables.
        let tables = text.find("\n[").map_or(text.len(), |at| at + 1);
        let with = format!(
            "{}features = \"{FILE}\"\n\n{}",
            text[..tables].trim_end().to_owned() + "\n",
            &text[tables..]
        );
        let file = OpenOptions::new().write(true).truncate(true).open(&manifest);
        file.and_then(|mut file| file.write_all(with.as_bytes()))
            .with_context(|| manifest.display().to_string())?;
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
