//! Logs on standard error, filtered by `GRAFT_LOG` (as `info`, or `graft_router=debug,warn`), and limited for each cause.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::limited::Limited;

/// Starts logging; `default` is the filter when `GRAFT_LOG` is not set. A second call changes nothing.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env("GRAFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let limited = Limited::default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .with_filter(limited.clone());
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    match started {
        Ok(()) => limited.tell(),
        Err(_) => tracing::debug!("logging was started before"),
    }
}
