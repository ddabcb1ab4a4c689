//! The planner: turns the observed mix into plans all the time, and rolls them out.
//!
//! [`Planner::start`] listens for workers and routers, and drives the desk of `graft-planner-steer`, which decides: it makes
//! plans with `graft-planner-search`, keeps the last one, and tells workers and routers what the desk says.
//!
//! It is never in a request's way: while it is away, the others go on with the last plan.

mod actor;
mod config;
mod connections;
mod hearing;
mod http;
mod planner;
mod status;
mod store;
mod threads;

pub use config::{Config, Settings};
pub use planner::Planner;
pub use status::{PartitionStatus, PointStatus, Served, Snapshot, Status, WorkerStatus};
pub use store::{Store, StoreError};
pub use threads::Threads;
