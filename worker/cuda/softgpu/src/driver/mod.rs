//! The driver API: handles, contexts, streams, graphs, and the functions that programs call.

mod device;
mod exports;
mod objects;
mod plan;
mod stream;

pub use plan::{Plan, PlanError};
