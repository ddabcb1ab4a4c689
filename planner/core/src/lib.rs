//! The planner's decisions.
//!
//! [`plan`] turns a [`Problem`] into a plan, [`plan_what_fits`] for as much of the load as there are devices for; [`ObservedMix`] is what has been asked for lately;
//! [`Replanner`] says when the mix has moved far enough for another plan.
//!
//! Plain functions and state machines: time comes in as a value, nothing is sent or stored from here.

mod baseline;
mod bound;
mod cell;
mod certified;
mod costs;
mod demand;
mod dice;
mod draft;
mod fill;
mod graft;
mod group;
mod judge;
mod merge;
mod mix;
mod problem;
mod replan;
mod search;
mod simple;
#[cfg(test)]
mod tests;

pub use baseline::{Baseline, plan_baseline};
pub use bound::lower_bound;
pub use certified::plan_accepted;
pub use graft::{GraftOptions, Progress, Test, plan_graft};
pub use mix::{Observation, ObservedMix};
pub use problem::{Lacks, Problem};
pub use replan::{Cause, Replanner};
pub use simple::{Carried, Options, plan, plan_what_fits, share_alone};
