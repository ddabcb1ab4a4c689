//! One partition's scheduler: which stage runs next, with which requests, up to which cut point.
//!
//! [`Scheduler`] is a plain state machine: requests come in with [`Scheduler::submit`], the caller asks
//! [`Scheduler::next`] what to run when the partition is free and says [`Scheduler::finished`] when it has.
//! Batches form when the partition is free; a running batch gives way at cut points to a more urgent one and
//! is set aside. [`PartitionSpec::of_plan`] makes a scheduler's description from a plan and a profile, [`RouteIndex`] says
//! where a route's stages run and what deadlines they leave.
//!
//! It knows no clock, thread, socket, tensor or engine: time comes in as [`Nanos`](graft_plan::Nanos) and
//! requests are numbers, so that workers, simulator and tests drive the same code.

mod queue;
mod route;
mod scheduler;
mod spec;
mod stage_set;
#[cfg(test)]
mod tests;

pub use queue::{Request, RequestId};
pub use route::{Instance, RouteError, RouteIndex, RouteStep};
pub use scheduler::{BatchId, Cancelled, Closed, Finished, Refusal, Run, Scheduler};
pub use spec::{Admission, Limits, PartitionSpec, SpecError, StageIndex, StageSpec};
