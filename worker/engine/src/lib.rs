//! Engines run layers: [`Engine`] loads models and runs ranges between cut points on partitions.
//!
//! [`RtenEngine`] runs anywhere, on rten; [`EmulatedEngine`] takes the time that a profile says. [`conformance`] checks
//! what every engine must do, with named failures. [`measure`] times an engine's segments and makes a profile of them.
//!
//! An engine knows tensors, layers and partitions. It never knows requests, deadlines, plans or networks.

mod against;
mod checks;
mod cores;
mod emulated;
mod engine;
mod engines;
mod error;
mod held;
mod measure;
mod onnxruntime;
mod rten;
mod shape;
mod trial;

pub mod conformance;

pub use against::{Against, Difference, against, first_difference, warnings};
pub use checks::{check_input, guarded};
pub use cores::{CoresError, cpu_kind, pin_current_thread, usable_cores};
pub use emulated::EmulatedEngine;
pub use engine::{Engine, MemoryUse, RunEnd, Submitted};
pub use engines::{Choice, EngineKind, EngineOptions, Engines};
pub use error::{Cause, EngineError, Panicked, PartitionId, Refusal};
pub use held::{DeviceBatch, Held};
pub use measure::{MeasureOptions, Measured, Progress, measure, time_ranges};
pub use onnxruntime::{Gives, Missing, OnnxRuntimeEngine, Reference, start_without_telemetry};
pub use rten::RtenEngine;
pub use shape::PartitionShape;
pub use trial::try_out;
