//! `graft-router`: see `--help`, and docs/configuration.md.

use std::process::ExitCode;

use clap::Parser;
use graft_router::{Config, Router};
use graft_service::{Arguments, run_program};

/// Ends client connections, admits requests and routes them to workers by the planner's plan.
///
/// The configuration is a TOML file:
///
///   name = "router-1"               unique name of this router
///   models = "/var/lib/graft/models" folder of models, each with a model.toml
///   listen = "0.0.0.0:4433"         UDP address for clients (QUIC)
///   http = "0.0.0.0:8000"           Open Inference Protocol v2, /healthz, /readyz
///   admin = "127.0.0.1:8001"        /metrics and /v1/requests (graft explain); default: at http, where that is this
///                                   machine's alone, else 127.0.0.1 at the port after it
///   admin_token = "admin.txt"       file with a token that has to be shown there; needed where others reach it
///   clients = "anyone"              "token": those alone that show a token of `graft ca token`
///   planner = "10.0.0.2:4800"       the planner
///   max_in_flight = 1024            requests waited for; more are refused as overload
///   http_budget_ms = 1000           deadline of HTTP requests that name none
///   drain_ms = 5000                 longest wait for answers at the end
///
///   [tls]                           as written by `graft ca issue --role router`
///   certificate = "router.pem"
///   key = "router.key"
///   authority = "ca.pem"
#[derive(Debug, Parser)]
#[command(name = "graft-router", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run_program(
        "graft-router",
        cli.arguments,
        |config: Config, mut shutdown| async move {
            let settings = config.check()?;
            let router = Router::start(settings, vec![]).await?;
            let signal = shutdown.wait().await;
            tracing::info!(signal, "shutting down");
            router.stop().await;
            Ok(())
        },
    )
}
