//! The frame of a server program: arguments, logs, runtime, exit code.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde::de::DeserializeOwned;

use crate::config::read_config;
use crate::shutdown::Shutdown;

/// Arguments of every server program.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs a future on an actix system. Actors live on the calling thread; sockets and requests run on two
/// threads of their own and don't wait for actors.
pub fn run_system<T>(future: impl Future<Output = T>) -> T {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("graft-io")
            .enable_all()
            .build()
            .unwrap_or_else(|e| panic!("the system gives no threads: {e}"))
    });
    system.block_on(future)
}

/// The `main` of a server program. `start` checks the configuration and serves until the shutdown resolves.
///
/// Exit codes: 0 after a clean end, 2 when the configuration or the start fails.
pub fn run_program<C, F>(
    name: &'static str,
    arguments: Arguments,
    start: impl FnOnce(C, Shutdown) -> F,
) -> ExitCode
where
    C: DeserializeOwned,
    F: Future<Output = anyhow::Result<()>>,
{
    graft_telemetry::logs::start("info");
    graft_telemetry::metrics::start();
    let config: C = match read_config(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = run_system(async {
        let shutdown = Shutdown::listen()?;
        start(config, shutdown).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::from(2)
        }
    }
}
