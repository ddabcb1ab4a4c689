//! The worker: owns a device and runs stages on its partitions.
//!
//! [`Worker::start`] loads the models, measures what they cost, listens for routers and joins the planner.
//! Each partition is an actor around a scheduler core with a thread that computes. A router in the same
//! process uses the [`Handle`] and hands over in memory.
//!
//! It runs what plans say. It makes none, and never decides where a request goes.

mod cancel;
mod compute;
mod config;
mod device;
mod epochs;
mod fence;
mod handle;
mod held;
mod job;
mod keeper;
mod membership;
mod observed;
mod onward;
mod partition;
mod peers;
mod plan_refused;
mod profiles;
mod reporter;
mod scratch;
mod station;
mod worker;
mod workshop;

pub use config::{Config, EngineName, Settings};
pub use device::{DeviceSettings, Emulated, EngineChoice};
pub use handle::{Handle, WorkAnswer};
pub use worker::Worker;
