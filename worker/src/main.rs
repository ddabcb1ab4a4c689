//! `graft-worker`: see `--help`, and docs/configuration.md.

use std::process::ExitCode;

use clap::Parser;
use graft_service::{Arguments, run_program};
use graft_worker::{Config, Worker};

/// Runs stages of DNNs on the partitions of this machine's device, by the planner's plan.
///
/// The configuration is a TOML file:
///
///   name = "worker-1"               unique name of this worker
///   models = "/var/lib/graft/models" folder of models, each with a model.toml
///   listen = "0.0.0.0:4801"         UDP address for routers
///   advertise = "10.0.0.5:4801"     where routers reach it; default: listen
///   planner = "10.0.0.2:4800"       the planner
///   http = "127.0.0.1:9801"         /healthz, /readyz
///   admin = "127.0.0.1:9701"        /metrics; default: at http, where that is this machine's alone, else 127.0.0.1 at
///                                   the port after it
///   admin_token = "admin.txt"       file with a token that has to be shown there; needed where others reach it
///   state = "/var/lib/graft/worker" measured profiles are kept here
///   cores = [2, 3]                  cores to run on; default: all but the first
///   batches = [1, 2, 4, 8]          batches that are measured
///   queue_bytes = 1073741824        tensors held for requests; more are refused
///   drain_ms = 5000                 longest wait for running requests at the end
///
///   engine = "cpu"                  each model on the fastest engine of this machine; or one engine: "rten", "onnxruntime";
///                                   or "cuda": a GPU, or the cores, with a warning, where there is none that can be used;
///                                   or "emulated": layers take the time that a profile says, and answers mean nothing
///   onnxruntime = "/opt/onnxruntime" its library, or the library's folder; default: ORT_DYLIB_PATH, else it is looked for
///
///   gpu = 0                         number of the GPU, with engine = "cuda" alone
///   [emulated]                      with engine = "emulated" alone, for load tests
///   profiles = "h200.json"          what stages cost there, models by their names
///   stretch = 1.0                   everything takes so many times as long
///   memory_bytes = 80000000000      for weights
///
///   price = 2.5                     of the device, in a unit that is the same for all workers; default: none, share counts
///
///   [[devices]]                     several devices, instead of cores, engine, onnxruntime, gpu, [emulated] and price:
///   name = "left"                   unique on this worker; in plans it is called worker-1/left
///   cores = [2, 3]                  and any of the keys that it has instead, [devices.emulated] among them
///
///   [tls]                           as written by `graft ca issue --role worker`
///   certificate = "worker.pem"
///   key = "worker.key"
///   authority = "ca.pem"
#[derive(Debug, Parser)]
#[command(name = "graft-worker", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    graft_cuda::ask_for_connections();
    graft_engine::start_without_telemetry();
    let cli = Cli::parse();
    run_program(
        "graft-worker",
        cli.arguments,
        |config: Config, mut shutdown| async move {
            let settings = config.check()?;
            let mut worker = Worker::start(settings).await?;
            tokio::select! {
                signal = shutdown.wait() => tracing::info!(signal, "shutting down"),
                reason = worker.failed() => anyhow::bail!("{reason}"),
            }
            worker.stop().await;
            Ok(())
        },
    )
}
