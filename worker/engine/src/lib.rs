//! Engines run layers: [`Engine`] loads models and runs ranges between cut points on partitions.
//!
//! [`CpuEngine`] runs anywhere, on rten; [`EmulatedEngine`] takes the time that a profile says. [`conformance`] holds what every engine must do, with named
//! failures. [`measure`] times an engine's segments and makes a profile of them.
//!
//! An engine knows tensors, layers and partitions. It never knows requests, deadlines, plans or networks.

mod against;
mod cpu;
mod emulated;
mod engine;
mod measure;
mod trial;

pub mod conformance;

pub use against::{Against, against, warnings};
pub use cpu::{CpuEngine, cpu_kind, pin_current_thread, usable_cores};
pub use emulated::EmulatedEngine;
pub use engine::{Engine, EngineError, MemoryUse, PartitionId, Refusal};
pub use measure::{MeasureOptions, Measured, Progress, measure, time_ranges};
pub use trial::try_out;
