//! `graft infer`: one picture or tensor through a router.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use graft_client::{Device, Inference, LocalReason, Routers, Session, SessionOptions, picture};
use graft_files::CatalogEntry;
use graft_model::{Batch, CutPoint, DType, Sent, Tensor};
use graft_service::{resolve_all, run_system};
use graft_transport::{Endpoint, EndpointOptions, Role};
use graft_wire::Status;
use serde_json::json;

use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::line;

/// Most tries while no plan serves the partition point yet.
const TRIES: usize = 10;
/// Time between two such tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Send one picture or tensor through a router.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A router's QUIC address, host:port (repeatable; a name may have several addresses): one of them is asked
    #[arg(long, required = true, value_name = "HOST:PORT")]
    router: Vec<String>,
    /// Certificate of the authority that issued the router's (PEM)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Name that the router's certificate must carry
    #[arg(long, default_value = Role::Router.server_name())]
    server_name: String,
    /// File with the token that says who asks, where routers want to know (`graft ca token`)
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Exit with 1, and say why, where no router can be reached or the server gives no answer; else all layers run here then
    #[arg(long)]
    require_server: bool,
    /// The model: an ONNX file, a model.toml, or a folder with one
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A picture (PNG or JPEG)
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "tensor",
        required_unless_present = "tensor"
    )]
    image: Option<PathBuf>,
    /// The model's inputs as raw little-endian elements, one after the other
    #[arg(long, value_name = "FILE")]
    tensor: Option<PathBuf>,
    /// Write the outputs there as raw little-endian elements, one after the other; floats as 32-bit ones
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Time from the input to the answer, in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    slo_ms: u64,
    /// Hand over at this cut point; default: where it is fastest
    #[arg(long)]
    partition_point: Option<u16>,
    /// How intermediate tensors travel: coded as the model's features say, where it has some, else as 32-bit floats; as 32-bit floats; as
    /// 16-bit floats
    #[arg(long, value_enum, default_value_t = Wire::Coded)]
    wire: Wire,
    #[command(flatten)]
    engine: EngineArguments,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wire {
    Coded,
    F32,
    F16,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    graft_telemetry::logs::start("warn");
    run_system(send(arguments))
}

async fn send(arguments: Arguments) -> anyhow::Result<Verdict> {
    let (entry, model) = crate::model::open(&arguments.model)?;
    let input = input(&arguments, &entry)?;
    let wire = match arguments.wire {
        Wire::Coded => None,
        Wire::F32 => Some(DType::F32),
        Wire::F16 => Some(DType::F16),
    };
    anyhow::ensure!(
        wire != Some(DType::F16) || entry.manifest.wire.contains(&DType::F16),
        "--wire f16: the manifest of {} allows {:?}",
        entry.manifest.name,
        entry.manifest.wire
    );
    let device = Arc::new(Device::with_engines(None, &arguments.engine.options())?);
    let here = Arc::new(device.load(entry.clone(), &model)?);
    let token = read_token(arguments.token.as_deref())?;
    let mut addresses = vec![];
    for router in &arguments.router {
        addresses.extend(resolve_all("--router", router)?);
    }
    let endpoint = Endpoint::anonymous(&arguments.ca, EndpointOptions::for_phones())?;
    let routers = Routers::new(endpoint, arguments.server_name.clone(), addresses, token);
    let options = SessionOptions {
        slo: Duration::from_millis(arguments.slo_ms),
        partition_point: arguments.partition_point.map(CutPoint),
        wire,
        ..SessionOptions::default()
    };
    let session = Session::new(here, routers, options)?;
    let reachable = session.prepare().await;
    if !reachable {
        let why = session.why_unreachable();
        let why = why.unwrap_or_else(|| "it does not say what it serves".to_owned());
        eprintln!("graft: no router can be reached: {why}");
        if arguments.require_server {
            return Ok(Verdict::No);
        }
    }
    let answer = served(&session, &input).await?;
    if let (true, Some(why)) = (arguments.require_server, &answer.local) {
        eprintln!("graft: the server gave no answer: {why}");
        return Ok(Verdict::No);
    }
    if let Some(file) = &arguments.output {
        let bytes = answer
            .outputs
            .to_bytes(&entry.info.outputs().types_sent(DType::F32))?;
        std::fs::write(file, bytes).with_context(|| file.display().to_string())?;
    }
    if arguments.json {
        line(format_args!("{}", as_json(&answer, &entry, reachable)))?;
    } else {
        print_text(&answer, &entry)?;
    }
    Ok(if answer.in_time { Verdict::Yes } else { Verdict::No })
}

/// The token in a file.
pub(crate) fn read_token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(Some(text.trim().to_owned()))
}

fn input(arguments: &Arguments, entry: &CatalogEntry) -> anyhow::Result<Batch> {
    let read = |file: &PathBuf| std::fs::read(file).with_context(|| file.display().to_string());
    if let Some(file) = &arguments.image {
        let spec = entry.manifest.input.image.as_ref().context(
            "the model's manifest has no [input.image]: it takes tensors (--tensor), or needs a manifest",
        )?;
        let picture = picture::decode(&read(file)?).with_context(|| file.display().to_string())?;
        return Ok(picture::tensor(&picture, spec)
            .with_context(|| file.display().to_string())?
            .into());
    }
    let file = arguments.tensor.as_ref().context("give --image or --tensor")?;
    let inputs = entry.info.inputs();
    let types: Vec<DType> = inputs.tensors.iter().map(|t| t.dtype).collect();
    let sent = Sent {
        types: &types,
        bytes: &read(file)?,
    };
    Batch::from_requests(inputs, &[sent]).with_context(|| file.display().to_string())
}

/// The largest numbers of an output with their labels: class, label, value.
pub(crate) fn top(output: &Tensor, labels: &[String], count: usize) -> Vec<(usize, String, f32)> {
    let mut classes: Vec<(usize, f32)> = output
        .floats()
        .unwrap_or_default()
        .iter()
        .copied()
        .enumerate()
        .collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes
        .into_iter()
        .take(count)
        .map(|(i, v)| {
            (
                i,
                labels.get(i).cloned().unwrap_or_else(|| format!("class {i}")),
                v,
            )
        })
        .collect()
}

/// Tries again for a while where no plan serves this yet: the first request is what makes the planner plan for it.
async fn served(session: &Session, input: &Batch) -> anyhow::Result<Inference> {
    for _ in 0..TRIES {
        let answer = session.infer(input.clone()).await?;
        let planless =
            |why: &LocalReason| matches!(why, LocalReason::Refused(r) if r.status == Status::NotReady);
        if !answer.local.as_ref().is_some_and(planless) {
            return Ok(answer);
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    Ok(session.infer(input.clone()).await?)
}

fn print_text(answer: &Inference, entry: &CatalogEntry) -> anyhow::Result<()> {
    let several = answer.outputs.tensors().len() > 1;
    for (spec, output) in entry.info.outputs().tensors.iter().zip(answer.outputs.tensors()) {
        if several {
            line(format_args!("output {spec}"))?;
        }
        for (class, label, value) in top(output, &entry.labels, 5) {
            line(format_args!("{value:>9.4}  {label} ({class})"))?;
        }
    }
    let last = entry.info.last();
    match &answer.local {
        Some(why) => line(format_args!("all {last} segments ran here: {why}"))?,
        None => line(format_args!(
            "handed over at cut point {} of {last}, served by plan {}",
            answer.partition_point,
            answer.epoch.unwrap_or_default()
        ))?,
    }
    let t = answer.times;
    line(format_args!(
        "{:.1} ms in all: {:.1} here, {:.1} on the way, {:.1} at the server; {}",
        t.total_ms,
        t.device_ms,
        t.network_ms,
        t.server_ms,
        if answer.in_time { "in time" } else { "LATE" }
    ))
}

fn as_json(answer: &Inference, entry: &CatalogEntry, reachable: bool) -> serde_json::Value {
    let largest = |output: &Tensor| -> Vec<_> {
        let top = top(output, &entry.labels, 5).into_iter();
        top.map(|(class, label, value)| json!({ "class": class, "label": label, "value": value }))
            .collect()
    };
    let tensors = answer.outputs.tensors();
    let outputs = entry.info.outputs().names().zip(tensors);
    let outputs = outputs.map(|(name, output)| json!({ "name": name, "top": largest(output) }));
    json!({
        "top": tensors.first().map(largest),
        "outputs": outputs.collect::<Vec<_>>(),
        "partition_point": answer.partition_point,
        "budget_ms": answer.budget_ms,
        "local": answer.local.as_ref().map(ToString::to_string),
        "reachable": reachable,
        "epoch": answer.epoch,
        "in_time": answer.in_time,
        "device_ms": answer.times.device_ms,
        "network_ms": answer.times.network_ms,
        "server_ms": answer.times.server_ms,
        "total_ms": answer.times.total_ms,
    })
}
