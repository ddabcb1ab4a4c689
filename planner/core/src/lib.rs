//! The planner's decisions.
//!
//! [`plan_graft`] turns a [`Problem`] into a plan and makes it cheaper for as long as it is let; [`plan_baseline`]
//! makes the plans that it is compared with, [`lower_bound`] says how far down any plan could go, [`changes`] what a
//! plan changes about a running one. [`plan_what_fits`] plans for as much of the load as there are devices for.
//! [`ObservedMix`] is what has been asked for lately; [`Replanner`] says when it has moved far enough for another plan;
//! [`Rollouts`] how that comes to workers and routers.
//!
//! Plain functions and state machines: time comes in as a value, nothing is sent or stored from here.

mod alone;
mod baseline;
mod bound;
mod carried;
mod cell;
mod changes;
mod correction;
mod costs;
mod decisions;
mod demand;
mod dice;
mod draft;
mod exact;
mod explain;
mod fill;
mod graft;
mod judge;
mod mend;
mod merge;
mod mix;
mod problem;
mod recent;
mod replan;
mod rollout;
#[cfg(test)]
mod rollout_model;
mod roofline;
mod routes;
mod running;
mod search;
mod space;
#[cfg(test)]
mod tests;

pub use alone::share_alone;
pub use baseline::{Baseline, plan_baseline};
pub use bound::lower_bound;
pub use carried::{Carried, plan_what_fits};
pub use changes::{Changes, changes};
pub use correction::Corrections;
pub use decisions::{Decision, DecisionLog, MOST_DECISIONS, Measured, Outcome, Predicted};
pub use exact::{EXACT_MOST, TooMany, plan_exact};
pub use explain::{CellExplanation, GroupExplanation, explain};
pub use graft::{GraftOptions, Progress, Test, plan_graft};
pub use mix::{Observation, ObservedMix};
pub use problem::{Lacks, Problem};
pub use recent::Recent;
pub use replan::{Cause, LOOK_EVERY, Replanner, SETTLE};
pub use rollout::{Notice, Order, Rollouts};
pub use roofline::{GPUS, Gpu};
pub use routes::routes;
