//! One partition's scheduler: which stage runs next, with which requests, up to which cut point.
//!
//! [`Scheduler`] is a plain state machine: requests come in with [`Scheduler::submit`], the caller asks
//! [`Scheduler::next`] what to run when the partition is free and says [`Scheduler::finished`] when it has.
//! Batches form when the partition is free; a running batch gives way at cut points to a more urgent one and
//! is set aside. [`PartitionSpec`] is a scheduler's description, made from a plan and a profile; [`RouteIndex`] says where a
//! route's stages run and what deadlines they leave. How a request enters a worker, [`Due`] and [`next`], is written here
//! once for workers, simulator, certificate and planner.
//!
//! It knows no clock, thread, socket, tensor or engine: time comes in as [`Nanos`](graft_plan::Nanos) and
//! requests are numbers, so that workers, simulator and tests drive the same code.

#![deny(clippy::disallowed_methods)]

mod costs;
mod entry;
mod queue;
mod route;
mod scheduler;
mod spec;
mod stage_set;
#[cfg(test)]
mod tests;

pub use costs::{CostCorrections, REPORT_EVERY, RunTimes};
pub use entry::{Due, Next, fewest, next};
pub use queue::{Request, RequestId};
pub use route::{AloneTimes, Instance, Leg, RouteError, RouteIndex, RouteStep};
pub use scheduler::{BatchId, Cancelled, Closed, Finished, Refusal, Run, Scheduler};
pub use spec::{Admission, Limits, Manner, PartitionSpec, SpecError, StageIndex, StageSpec, Work};
