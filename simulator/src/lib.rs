//! A whole site in virtual time.
//!
//! [`run`] plays a [`Scenario`](graft_plan::Scenario): phones move through bandwidth [`Trace`]s and choose their
//! partition points, routers admit and observe, a planner plans and rolls out, workers run batches by deadline, things
//! go wrong; the [`Report`] says what came of it. Decisions are made by the code that the programs run: phones by
//! `graft-client-core`, routers by `graft-router-core`, the planner by `graft-planner-steer` and whatever algorithm a
//! [`Planning`] brings, partitions by `graft-worker-core`. What is modelled is what lies between: links, messages,
//! chunks that take what the profile says. A [`Crowd`] is a scenario's clients before a real server.
//!
//! Discrete events in integer nanoseconds. It knows no clock, file or thread; the same input and seed give the same
//! report.

#![deny(clippy::disallowed_methods)]

mod arrivals;
mod cast;
mod context;
mod control;
mod crowd;
mod events;
mod fleet;
mod names;
mod phone;
mod replay;
mod report;
mod requests;
mod routers;
mod run;
#[cfg(test)]
mod tests;
mod trace;
mod workers;

pub use cast::CastError;
pub use control::Planning;
pub use crowd::{Crowd, Dispatch, Doing};
pub use replay::{Walk, Walked};
pub use report::{BatchReport, Decision, Ended, Percentiles, Report, Second, ServerReport, ShareReport};
pub use run::{Planner, RunError, run};
pub use trace::{Trace, TraceError};
pub use workers::PlanError;
