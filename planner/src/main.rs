//! `graft-planner`: see `--help`, and docs/configuration.md.

use std::process::ExitCode;

use clap::Parser;
use graft_planner::{Config, Planner};
use graft_service::{Arguments, run_program};

/// Turns the observed mix of requests into plans and rolls them out to workers and routers.
///
/// The configuration is a TOML file:
///
///   listen = "0.0.0.0:4800"          UDP address for workers and routers
///   http = "127.0.0.1:9800"          /healthz, /readyz
///   admin = "127.0.0.1:9700"         /metrics, /v1/status (graft top), /v1/plan, /v1/decisions (graft plan log);
///                                    default: at http, where that is this machine's alone, else 127.0.0.1 at the port
///                                    after it
///   admin_token = "admin.txt"        file with a token that has to be shown there; needed where others reach it
///   state = "/var/lib/graft/planner" the last plan is kept here
///   headroom = 0.2                   capacity exceeds the rate by this part
///   standing_budget_ms = 1000        whole models are always served within this; 0: only what is asked for
///   standing_rps = 1.0               and at this rate
///   retire_after_ms = 3000           the plan before goes on so long after a switch
///
///   [tls]                            as written by `graft ca issue --role planner`
///   certificate = "planner.pem"
///   key = "planner.key"
///   authority = "ca.pem"
#[derive(Debug, Parser)]
#[command(name = "graft-planner", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run_program(
        "graft-planner",
        cli.arguments,
        |config: Config, mut shutdown| async move {
            let planner = Planner::start(config.check()?).await?;
            let signal = shutdown.wait().await;
            tracing::info!(signal, "shutting down");
            planner.stop().await;
            Ok(())
        },
    )
}
