//! What Graft's server programs have in common: [`read_config`], [`TlsConfig`], [`Clock`], [`Shutdown`] and
//! [`run_program`], which wires them.
//!
//! It knows nothing of what a program serves.

mod clock;
mod config;
mod models;
mod program;
mod renewal;
mod shutdown;

pub use clock::Clock;
pub use config::{ConfigError, TlsConfig, administered, read_config, resolve, resolve_all};
pub use models::read_catalog;
pub use program::{Arguments, run_program, run_system};
pub use renewal::Renewal;
pub use shutdown::Shutdown;
