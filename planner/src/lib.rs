//! The planner: turns the observed mix into plans all the time, and rolls them out.
//!
//! [`Planner::start`] listens for workers and routers, makes plans with `graft-planner-core`, keeps the last
//! one ([`store`]) and rolls it out ([`rollout`]): prepare on workers, switch routers, retire what is old.
//!
//! It is never in a request's way: while it is away, the others go on with the last plan.

mod actor;
mod config;
mod http;
mod observe;
mod planner;
mod rollout;
mod status;
mod store;
mod threads;

pub use actor::{Snapshot, View};
pub use config::{Config, Settings};
pub use planner::Planner;
pub use status::{PartitionStatus, PointStatus, Served, Status, WorkerStatus};
pub use store::{Kept, Store, StoreError};
pub use threads::Threads;
