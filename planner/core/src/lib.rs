//! The planner's decisions.
//!
//! [`plan`] turns a [`Problem`] into a plan, [`plan_what_fits`] for as much of the load as there are devices for; [`ObservedMix`] is what has been asked for lately;
//! [`Replanner`] says when the mix has moved far enough for another plan.
//!
//! Plain functions and state machines: time comes in as a value, nothing is sent or stored from here.

mod certified;
mod group;
mod mix;
mod replan;
mod simple;
#[cfg(test)]
mod tests;

pub use certified::plan_accepted;
pub use mix::{Observation, ObservedMix};
pub use replan::{Cause, Replanner};
pub use simple::{Carried, Lacks, Options, Problem, plan, plan_what_fits, share_alone};
